"""Names of the parts of an item, those that LeRobot gives them too."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from fogx.errors import SelectionError
from fogx.feature import Feature, role_of

LANGUAGE = "language_instruction"
"""What `language=` adds."""

GOAL = "goal/"
"""Begins the names that `goals=` adds."""

_OWN = {
    "step_index": "frame_index",
    LANGUAGE: "task",
    "reward": "next.reward",
    "is_terminal": "next.done",
    "timestamp": "timestamp",
    "episode_index": "episode_index",
    "index": "index",
    "episode_id": "episode_id",
}
_SUFFIXES = ("_is_pad", "_is_valid")


def by_name(option: str, given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return an option that has a value by name of a feature, empty for none.

    Raises:
        SelectionError: It is no dict.
    """
    if given is not None and not isinstance(given, Mapping):
        raise SelectionError(f"{option}= is a {type(given).__name__}; give a dict by feature, as in {option}={{name: …}}.")
    return given or {}


def lerobot_names(features: Mapping[str, Feature], names: Collection[str]) -> dict[str, str]:
    """Return name → LeRobot's name for it: `observation/image` → `observation.images.image`, `state` → `observation.state`.

    Args:
        features: The features of items.
        names: All names in items, with `goal/…`, `…_is_pad` and `…_is_valid`.

    Raises:
        SelectionError: Two names that become one.
    """
    result = {name: _spelled(features, name) for name in names}
    taken: dict[str, str] = {}
    for name, new in result.items():
        if new in taken:
            raise SelectionError(f"keys='lerobot' spells both {taken[new]!r} and {name!r} as {new!r}; rename= one of them.")
        taken[new] = name
    return result


def _spelled(features: Mapping[str, Feature], name: str) -> str:
    if name in features:
        return _feature(name, features[name])
    if name.startswith(GOAL):
        return "goal." + _spelled(features, name.removeprefix(GOAL))
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return _spelled(features, name.removesuffix(suffix)) + suffix
    return _OWN.get(name, name.replace("/", "."))


def _feature(name: str, feature: Feature) -> str:
    if name in _OWN:
        return _OWN[name]
    rest = name.removeprefix("observation/")
    if feature.is_image:
        return "observation.images." + rest.removeprefix("images/").replace("/", ".")
    return ("observation." if role_of(name) == "observation" else "") + rest.replace("/", ".")
