"""Actions as differences to the state at the item's step, and back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fogx.errors import FeatureError, FeatureNotFoundError, did_you_mean, listing
from fogx.feature import Feature
from fogx.training.windows import StepWindow, Window

_NO_DIFFERENCE = ("quat", "matrix", "6d")
"""Rotations whose elementwise difference is no rotation, nor near one."""


class Relative:
    """Subtracts a state from each action of an item's chunk: what to do from here, not where to be.

    The leading dimensions that both have are subtracted; further ones of the action (a gripper that the state lacks) stay as they
    are. Padding is moved as any other value. An action without a value is 0, as before; where the state has none, its actions have
    none either, and `<action>_is_valid` says so.

    Args:
        pairs: Action → state, by feature.
        features: What the features of the items are.
        at: For states with a window, the position in it that is the item's own step.

    Raises:
        FeatureNotFoundError: A feature that the items do not have.
        FeatureError: Features without a difference: other dtypes than floats, unlike ranks, more than one axis, rotations given
            as quaternions or matrices, declared spaces that differ.
    """

    def __init__(self, pairs: Mapping[str, str], features: Mapping[str, Feature], at: Mapping[str, int] | None = None) -> None:
        self.pairs = dict(pairs)
        self.at = dict(at or {})
        self._shapes = {action: _shapes(action, state, features) for action, state in self.pairs.items()}

    @classmethod
    def of(cls, pairs: Mapping[str, str], features: Mapping[str, Feature], windows: Mapping[str, Window]) -> Relative:
        """Build it for items with windows.

        Args:
            pairs: As in the class.
            features: As in the class.
            windows: By feature.

        Raises:
            FeatureNotFoundError: As in the class.
            FeatureError: As in the class, or the window of a state does not hold the item's own step.
        """
        at = {}
        for state in pairs.values():
            if state in windows:
                window = windows[state]
                offsets = list(window.offsets) if isinstance(window, StepWindow) else window.offsets_ns.tolist()
                if 0 not in offsets:
                    raise FeatureError(
                        f"relative= subtracts {state!r} at the item's own step, which is not in its window; choose one that holds it, "
                        "such as fox.steps(-1, 1)."
                    )
                at[state] = offsets.index(0)
        return cls(pairs, features, at)

    def __call__(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return a batch with its actions relative.

        Args:
            values: By feature: actions and states `(B, *shape)`, with a window `(B, W, *shape)`; with their masks.
        """
        result = dict(values)
        for action, state in self.pairs.items():
            moved = self._shifted(action, values[action], -self._at_step(state, values[state]))
            masks = [values[f"{action}_is_valid"]] if f"{action}_is_valid" in values else []
            if f"{state}_is_valid" in values:
                masks.append(self._at_step(state, values[f"{state}_is_valid"]))
            if masks:
                lead = moved.shape[: moved.ndim - len(self._shapes[action][0])]
                valid = np.ones(lead, dtype=bool)
                for mask in masks:
                    valid &= mask.reshape(*mask.shape, *[1] * (len(lead) - mask.ndim))
                moved[~valid] = 0
                result[f"{action}_is_valid"] = valid
            result[action] = moved
        return result

    def states(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the states that the actions of a batch of one item are relative to, `shape` each, where it has them."""
        result = {}
        for state in self.pairs.values():
            valid = values.get(f"{state}_is_valid")
            if valid is None or self._at_step(state, valid)[0]:
                result[state] = self._at_step(state, values[state])[0]
        return result

    def absolute(self, values: Mapping[str, np.ndarray], states: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return relative actions as they were, up to rounding; other features stay as they are.

        Args:
            values: Actions by feature: `(*lead, *more, *shape)`.
            states: The states at the items' own steps, by feature: `(*lead, *shape)`.

        Raises:
            FeatureError: A shape that the action does not have, or no state to return from.
        """
        result = dict(values)
        for action, state in self.pairs.items():
            if action in values:
                given, shape = np.asarray(values[action]), self._shapes[action][0]
                if given.shape[given.ndim - len(shape) :] != shape:
                    raise FeatureError(f"{action!r} has shape {given.shape}; wanted is {shape}, axes before it free.")
                if state not in states:
                    raise FeatureError(
                        f"{action!r} is relative to {state!r}, and the last step has none; observe a step that has."
                    )
                result[action] = self._shifted(action, given, np.asarray(states[state]))
        return result

    def _at_step(self, state: str, values: np.ndarray) -> np.ndarray:
        """Return what a state, or its mask, is at the items' own steps: `(B, ...)` without its window."""
        return values[:, self.at[state]] if state in self.at else values

    def _shifted(self, action: str, values: np.ndarray, by: np.ndarray) -> np.ndarray:
        shape, state_shape = self._shapes[action]
        lead = by.shape[: by.ndim - len(state_shape)]
        aligned = by.reshape(*lead, *[1] * (values.ndim - len(shape) - len(lead)), *state_shape)
        moved = values.copy()
        shared = ... if not shape else (..., slice(0, min(shape[0], state_shape[0])))
        moved[shared] += aligned[shared]
        return moved


def _shapes(action: str, state: str, features: Mapping[str, Feature]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    for name in (action, state):
        if name not in features:
            raise FeatureNotFoundError(
                f"relative= names {name!r}, which items do not have; they have: {listing(features)}.{did_you_mean(name, features)}"
            )
    found = f"{action!r} is {features[action].describe()}, {state!r} is {features[state].describe()}"
    shapes = [features[name].shape for name in (action, state)]
    if any(not str(features[name].dtype).startswith("float") for name in (action, state)):
        raise FeatureError(f"relative= subtracts floats: {found}.")
    first, second = ((None,) if shape is None else shape for shape in shapes)
    if len(first) != len(second) or len(first) > 1 or None in first + second:
        raise FeatureError(f"relative= subtracts vectors of fixed length, or scalars from scalars: {found}.")
    for name in (action, state):
        rotation = features[name].rotation or ""
        if any(word in rotation.lower() for word in _NO_DIFFERENCE):
            raise FeatureError(
                f"relative=: {name!r} holds rotations as {rotation!r}, which do not subtract elementwise; make them relative in transform=."
            )
    spaces = [features[name].space for name in (action, state)]
    if None not in spaces and spaces[0] != spaces[1]:
        raise FeatureError(f"relative=: {action!r} is {spaces[0]!r} and {state!r} {spaces[1]!r}; the two do not subtract.")
    return tuple(d or 0 for d in first), tuple(d or 0 for d in second)
