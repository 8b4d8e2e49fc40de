"""From what a robot sees, step by step, to the batch that a policy was trained on, and from its answer to actions.

Needs numpy and Pillow: no dataset, nothing that reads one, and not torch. Where torch is loaded, and the processor has AVX2, it resizes
pictures, to the same pixels in a tenth of the time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fogx.errors import FeatureError, FeatureNotFoundError, FeatureTypeError, did_you_mean, listing
from fogx.feature import Feature, fits_shape, role_of
from fogx.protocols import object_array
from fogx.training.documents import parsing, read_document, write_document
from fogx.training.images import channels_first, is_smooth, resized
from fogx.training.names import GOAL, LANGUAGE, lerobot_names
from fogx.training.normalize import Normalizer
from fogx.training.relative import Relative
from fogx.training.values import nothing, wanted_dtype, wanted_shape
from fogx.training.windows import StepWindow, TimeWindow, Window, as_window, step_positions, steps, time_positions

if TYPE_CHECKING:
    from fogx.training.index import TrainingIndex
    from fogx.training.items import ItemSpec

KIND = "online"

_LOOSE = {"f": "iuf", "i": "iu", "u": "iu", "b": "b"}
"""Kind of a dtype → kinds of Python's numbers that may stand for it."""


@dataclass(frozen=True)
class Input:
    """One feature that a robot gives.

    Args:
        feature: Its dtype and shape as recorded.
        stored: Its name as recorded.
        window: Its window; `None` for none.
        nullable: Whether steps may lack it; items then have `<feature>_is_valid`.
    """

    feature: Feature
    stored: str
    window: Window | None = None
    nullable: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain values, which `from_json` reads."""
        window: dict[str, list[Any]] | None = None
        if isinstance(self.window, StepWindow):
            window = {"steps": list(self.window.offsets)}
        elif self.window is not None:
            window = {"seconds": list(self.window.offsets_s)}
        return {"feature": self.feature.to_dict(), "stored": self.stored, "window": window, "nullable": self.nullable}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Input:
        """Build from what `to_json` gave; other values raise what Python raises."""
        given, window = data["window"], None
        if given is not None:
            window = steps(given["steps"]) if "steps" in given else as_window(given["seconds"], data["stored"])
        return cls(Feature.from_dict(data["feature"]), str(data["stored"]), window, bool(data["nullable"]))


@dataclass(frozen=True)
class Form:
    """The form that values have in items.

    Args:
        pad: `"edge"`, `"zero"` or `"drop"`. A robot has no step to drop: its first windows are then padded as with `"edge"`.
        dtype: Of floats.
        image_size: Height and width of images; `None` leaves them as they are.
        keys: `"lerobot"` for its names; `None` for fogx' own.
    """

    pad: str = "edge"
    dtype: str = "float32"
    image_size: tuple[int, int] | None = None
    keys: str | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Form:
        """Build from the fields; other values raise what Python raises."""
        size = data["image_size"]
        if (
            data["pad"] not in ("edge", "zero", "drop")
            or data["keys"] not in (None, "lerobot")
            or np.dtype(data["dtype"]).kind != "f"
        ):
            raise ValueError(f"a form of {str(data)[:100]}")
        return cls(
            data["pad"], np.dtype(data["dtype"]).name, None if size is None else (int(size[0]), int(size[1])), data["keys"]
        )


class Online:
    """Takes one observation a step and gives the batch that a training item of that step has; made by `train.online()`.

    Replaying an episode gives the items to the bit, without what a robot does not have: actions, signals such as rewards, and ids.

    Args:
        inputs: What the robot gives, by the name that items have for it, in their order.
        actions: The actions that a policy answers with.
        form: The form that values have in items.
        relative: What actions are relative to; its states are inputs.
        transform: What training did to each batch before it normalised.
        normalizer: What it normalised with.

    Raises:
        FeatureError: A window that reaches past the item's own step, which a robot has not seen yet.
    """

    def __init__(
        self,
        inputs: Mapping[str, Input],
        actions: Mapping[str, Feature],
        form: Form,
        *,
        relative: Relative | None = None,
        transform: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] | None = None,
        normalizer: Normalizer | None = None,
    ) -> None:
        for name, given in inputs.items():
            if given.window is not None and _end(given.window) > 0:
                raise FeatureError(
                    f"the window of {name!r} reaches past the item's own step, which a robot has not seen yet. Train with a window "
                    "that ends there, such as fox.steps(-1, 1), or without this feature."
                )
        self._inputs, self._actions, self._form = dict(inputs), dict(actions), form
        self._relative, self._transform, self._normalizer = relative, transform, normalizer
        self._known = {name.removeprefix(GOAL): given.feature for name, given in inputs.items()} | self._actions
        self.reset()

    @property
    def features(self) -> list[str]:
        """What an observation has to hold, by the names that items have for it; those of the recording do as well."""
        return list(self._spelled(self._inputs).values())

    def reset(self) -> None:
        """Forget all steps: an episode begins."""
        self._histories = {name: _History(name, given, self._form) for name, given in self._inputs.items()}
        self._time_ns: int | None = None
        self._states: dict[str, np.ndarray] = {}

    def __call__(self, observation: Mapping[str, Any], *, timestamp_ns: int | None = None) -> dict[str, np.ndarray]:
        """Take the observation of the next step.

        Args:
            observation: By name, values of the dtypes and shapes that were recorded; cameras are (H, W, C) or (H, W). `None` stands
                for a value that is missing, where items have `<feature>_is_valid`. What items do not have is not looked at.
            timestamp_ns: The time of the step; needed where windows are in seconds. Never earlier than the one before.

        Returns:
            By name, what a batch of one item holds: numbers `(1, [W,] *shape)`, images `(1, [W,] C, H, W)`, text as object arrays, and
            masks.

        Raises:
            FeatureNotFoundError: A feature is missing.
            FeatureError: Another dtype or shape than recorded, `None` for what every step had, a time that is missing or earlier than
                the last. The step then does not count.
            FeatureTypeError: A timestamp that is no whole number.
        """
        found = {name: self._found(name, observation) for name in self._inputs}
        taken = {name: _checked(name, self._inputs[name], value) for name, value in found.items()}
        time_ns = self._checked_time(timestamp_ns)
        batch: dict[str, np.ndarray] = {}
        for name, value in taken.items():
            self._histories[name].push(value, time_ns)
            batch |= self._histories[name].read()
        self._time_ns = time_ns
        self._states = {} if self._relative is None else self._relative.states(batch)
        if self._transform is not None:
            batch = self._transform(batch)
        if self._normalizer is not None:
            batch = self._normalizer(batch)
        names = self._spelled(batch)
        return {names[name]: values for name, values in batch.items()}

    def unnormalize(self, action: Any) -> Any:
        """Return actions as they were recorded, of what a policy answers to the last observation.

        Args:
            action: `(..., *shape)`: any axes (batch of one, chunk) before those of an action, as an array or a tensor in main memory;
                or a dict of such by name, needed where there is more than one action.

        Returns:
            An array of the same shape, or a dict of such.

        Raises:
            FeatureNotFoundError: A name that is no action.
            FeatureError: Another shape, an array where there is not one action, or relative actions before any observation.
        """
        spelled = self._spelled(self._actions)
        if not isinstance(action, Mapping):
            if len(spelled) != 1:
                raise FeatureError(f"there are {len(spelled)} actions; give a dict of them: {listing(spelled.values())}.")
            ((_, name),) = spelled.items()
            return self.unnormalize({name: action})[name]
        names = {other: name for name, other in spelled.items()}
        for name in action:
            if name not in names:
                raise FeatureNotFoundError(
                    f"{name!r} is no action; actions are: {listing(names)}.{did_you_mean(str(name), names)}"
                )
        values = {names[name]: _shaped(name, self._actions[names[name]], value) for name, value in action.items()}
        if self._normalizer is not None:
            values = self._normalizer.unnormalize(values)
        if self._relative is not None:
            values = self._relative.absolute(values, self._states)
        return {spelled[name]: value for name, value in values.items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a JSON file, which `load` reads. A transform is not in it: a file holds no code."""
        relative = self._relative
        body = {
            "inputs": {name: given.to_json() for name, given in self._inputs.items()},
            "actions": {name: feature.to_dict() for name, feature in self._actions.items()},
            "form": asdict(self._form),
            "relative": None if relative is None else {"pairs": relative.pairs, "at": relative.at},
            "transform": self._transform is not None,
            "normalizer": None if self._normalizer is None else self._normalizer.to_json(),
        }
        write_document(path, KIND, body)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> Online:
        """Read what `save` wrote. Imports numpy and Pillow and nothing else; with a transform torch.

        Without torch a picture of 640×480 is resized to 224×224 in 4 ms, in a program that has imported it in 0.3 where the
        processor has AVX2, to the same pixels.

        Args:
            path: The file.
            transform: The function of an item that training was given, where it was given one.

        Raises:
            DatasetNotFoundError: No such file.
            CorruptDataError: Not written by `save`, or damaged.
            FormatVersionError: Written by a later fogx.
            FeatureError: A transform is given and training had none, or the reverse.
        """
        _, body = read_document(path, (KIND,))
        with parsing(path):
            if bool(body["transform"]) is not (transform is not None):
                had = "had a transform=; give it: Online.load(path, transform=...)" if transform is None else "had no transform="
                raise FeatureError(f"{path}: training {had}.")
            inputs = {name: Input.from_json(given) for name, given in body["inputs"].items()}
            actions = {name: Feature.from_dict(given) for name, given in body["actions"].items()}
            relative, normalizer = body["relative"], body["normalizer"]
            known = {name: given.feature for name, given in inputs.items()} | actions
            return cls(
                inputs,
                actions,
                Form.from_json(body["form"]),
                relative=None if relative is None else Relative(relative["pairs"], known, relative["at"]),
                transform=None if transform is None else _per_item(transform),
                normalizer=None if normalizer is None else Normalizer.from_json(normalizer),
            )

    def __repr__(self) -> str:
        return f"<fogx online: {listing(self.features)} → {listing(self._spelled(self._actions).values())}>"

    def _spelled(self, names: Iterable[str]) -> dict[str, str]:
        """Return name → how items spell it."""
        names = list(names)
        return lerobot_names(self._known, names) if self._form.keys is not None else {name: name for name in names}

    def _found(self, name: str, observation: Mapping[str, Any]) -> Any:
        stored, spelled = self._inputs[name].stored, self._spelled([name])[name]
        for known in (spelled, name, stored):
            if known in observation:
                return observation[known]
        also = "" if stored == spelled else f" (recorded as {stored!r})"
        raise FeatureNotFoundError(
            f"the observation has no {spelled!r}{also}; it has: {listing(observation)}."
            f"{did_you_mean(spelled, map(str, observation))} Needed are: {listing(self.features)}."
        )

    def _checked_time(self, time_ns: Any) -> int:
        timed = [name for name, given in self._inputs.items() if isinstance(given.window, TimeWindow)]
        if not timed:
            return 0
        if time_ns is None:
            raise FeatureError(f"the windows of {listing(timed)} are in seconds; give the time of the step: timestamp_ns=.")
        if isinstance(time_ns, bool) or not isinstance(time_ns, (int, np.integer)):
            raise FeatureTypeError(f"timestamp_ns= is a whole number of ns, found {type(time_ns).__name__}.")
        if self._time_ns is not None and time_ns < self._time_ns:
            raise FeatureError(
                f"timestamp_ns={int(time_ns)} is earlier than the last step's, {self._time_ns}. Call reset() where an episode begins."
            )
        return int(time_ns)


def online_of(
    index: TrainingIndex,
    spec: ItemSpec,
    stages: Sequence[Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]],
    normalizer: Normalizer | None,
) -> Online:
    """Return what makes, of observations, the items of a training set without what a robot does not have.

    Args:
        index: The selection.
        spec: What items are made of.
        stages: What is done to each batch: at most one `Relative`, and at most one other.
        normalizer: What is done last.

    Raises:
        FeatureError: A window of an observation reaches past the item's own step.
    """
    roles = {name: role_of(index.stored[name]) for name in index.shown}
    inputs = {
        name: Input(index.features[name], index.stored[name], spec.windows.get(name), name in index.validated)
        for name, role in roles.items()
        if role in ("observation", "language")
    }
    for name in spec.goals:
        inputs[GOAL + name] = Input(index.features[name], GOAL + index.stored[name], None, name in index.validated)
    if spec.language is not None:
        inputs[LANGUAGE] = Input(Feature("str", ()), LANGUAGE)
    others = [stage for stage in stages if not isinstance(stage, Relative)]
    return Online(
        inputs,
        {name: index.features[name] for name, role in roles.items() if role == "action"},
        Form(spec.pad, spec.dtype, spec.image_size, spec.keys),
        relative=next((stage for stage in stages if isinstance(stage, Relative)), None),
        transform=others[0] if others else None,
        normalizer=normalizer,
    )


class _History:
    """The last values of one feature, as many as its window reaches back.

    Args:
        name: The name that items have for it.
        given: The feature.
        form: The form that values have in items.
    """

    def __init__(self, name: str, given: Input, form: Form) -> None:
        self._name, self._given, self._form = name, given, form
        self._values: list[Any] = []
        self._times_ns: list[int] = []

    def push(self, value: Any, time_ns: int) -> None:
        """Add the value of a step, `None` for none, and forget what no later step will ask for."""
        self._values.append(None if value is None else self._formed(value))
        self._times_ns.append(time_ns)
        oldest = int(self._positions()[0].min())
        del self._values[:oldest], self._times_ns[:oldest]

    def read(self) -> dict[str, np.ndarray]:
        """Return the feature as a batch of one item, with its masks."""
        places, is_pad = self._positions()
        hidden = is_pad if self._form.pad == "zero" else np.zeros_like(is_pad)
        values = [None if gone else self._values[place] for place, gone in zip(places.tolist(), hidden.tolist(), strict=True)]
        lead = (1,) if self._given.window is None else (1, len(values))
        result = {self._name: self._batched(values, lead)}
        if self._given.window is not None:
            result[f"{self._name}_is_pad"] = is_pad.reshape(lead)
        if self._given.nullable:
            result[f"{self._name}_is_valid"] = np.array([value is not None for value in values]).reshape(lead)
        return result

    def _positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Return `(W,)` which of the held steps the window shows now, and where it is padding."""
        last, window = len(self._values) - 1, self._given.window or StepWindow((0,))
        if isinstance(window, TimeWindow):
            return time_positions(window, last, np.array(self._times_ns, np.int64))
        places, is_pad = step_positions(window, np.array([last]), np.array([last + 1]))
        return places[0], is_pad[0]

    def _formed(self, value: Any) -> Any:
        feature, size = self._given.feature, self._form.image_size
        if feature.dtype in ("str", "bytes"):
            return value
        if feature.is_image and size is not None:
            value = resized(value, size, smooth=is_smooth(self._name, feature))
        # A copy: what was given may be the buffer of a camera.
        formed = np.array(value, dtype=wanted_dtype(feature, self._form.dtype))
        return channels_first(formed, has_channels=formed.ndim == 3) if feature.is_image else formed

    def _batched(self, values: Sequence[Any], lead: tuple[int, ...]) -> np.ndarray:
        feature, form = self._given.feature, self._form
        empty = nothing(feature, form.dtype, form.image_size)
        filled = [empty if value is None else value for value in values]
        if not isinstance(empty, np.ndarray) or None in wanted_shape(feature, form.image_size):
            return object_array(filled).reshape(lead)
        return np.stack(filled).reshape(*lead, *empty.shape)


def _end(window: Window) -> int:
    """Return the last of a window's offsets, in steps or ns."""
    return max(window.offsets if isinstance(window, StepWindow) else window.offsets_ns.tolist())


def _checked(name: str, given: Input, value: Any) -> Any:
    """Return a value of exactly the recorded dtype and a recorded shape; `None` for none."""
    feature = given.feature
    if value is None:
        if given.nullable:
            return None
        raise FeatureError(f"{name!r} is None; in training every step had a value, {feature.describe()}.")
    if feature.dtype in ("str", "bytes"):
        kind, words = str if feature.dtype == "str" else bytes, np.array(value, dtype=object)
        if not fits_shape(words.shape, feature.shape or ()) or not all(isinstance(word, kind) for word in words.flat):
            raise FeatureError(f"{name!r} is {_said(value)}; recorded was {feature.describe()}.")
        return words if feature.shape else words.item()
    try:
        array, dtype = np.asarray(value), np.dtype(feature.dtype)
    except ValueError:  # lists of unlike lengths
        raise FeatureError(f"{name!r} is no array; recorded was {feature.describe()}.") from None
    if isinstance(value, (bool, int, float, list, tuple)) and not isinstance(value, np.generic):
        # Numbers of Python's have no dtype of their own to keep.
        cast = array.astype(dtype) if array.dtype.kind in _LOOSE[dtype.kind] else array
        array = cast if dtype.kind == "f" or np.array_equal(cast, array) else array
    if array.dtype != dtype or not fits_shape(array.shape, feature.shape or ()):
        raise FeatureError(f"{name!r} is {_said(array)}; recorded was {feature.describe()}.")
    return array


def _shaped(name: str, feature: Feature, value: Any) -> np.ndarray:
    array, shape = np.asarray(value), feature.shape or ()
    if not fits_shape(array.shape[max(0, array.ndim - len(shape)) :], shape):
        raise FeatureError(f"{name!r} has shape {array.shape}; an action is {feature.describe()}, axes before it free.")
    return array


def _said(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def _per_item(function: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    from fogx.training.transform import PerItem

    return PerItem(function)
