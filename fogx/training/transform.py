"""A user's function on items, applied to whole batches. Importing this module imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fogx.errors import SelectionError, listing, missing_extra
from fogx.protocols import object_array

try:
    import torch
except ImportError as error:
    raise missing_extra("torch", "torch", "transform=") from error


class PerItem:
    """A stage that gives a user's function one item after the other.

    Args:
        function: Is given an item, a dict of tensors and texts, and returns one.
        whole: Whether a batch is one item.
    """

    def __init__(self, function: Callable[[dict[str, Any]], dict[str, Any]], *, whole: bool = False) -> None:
        self.function = function
        self.whole = whole

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the batch of what the function returned.

        Raises:
            SelectionError: What it returned does not fit together; says what.
        """
        tensors = {name: tensor_of(values) for name, values in batch.items()}
        if self.whole:
            return {name: _array(value) for name, value in self._called(tensors).items()}
        count = len(next(iter(batch.values()), ()))
        done = [self._called(item_of(tensors, number)) for number in range(count)]
        unlike = {name for item in done for name in item.keys() ^ done[0].keys()}
        if unlike:
            raise SelectionError(f"transform= returned some items with, and some without {listing(sorted(unlike))}.")
        return {name: _stacked(name, [item[name] for item in done]) for name in done[0]} if done else dict(batch)

    def _called(self, item: dict[str, Any]) -> dict[str, Any]:
        result = self.function(item)
        if not isinstance(result, dict):
            raise SelectionError(f"transform= returned a {type(result).__name__}; it is given a dict, and returns one.")
        return result


def item_of(batch: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return one item of a batch of tensors and lists."""
    found = {name: values[number] for name, values in batch.items()}
    return {**found, "step_index": int(found["step_index"])} if "step_index" in found else found


def tensor_of(values: np.ndarray) -> Any:
    """Return an array as a tensor of the same memory, and one of texts or of arrays of varying shape as (nested) lists."""
    if values.dtype != object:
        return torch.from_numpy(values)
    return [_listed(value) for value in values]


def _listed(value: Any) -> Any:
    return tensor_of(value) if isinstance(value, np.ndarray) else value


def _array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        found: np.ndarray = value.numpy()
        return found
    return object_array([_unlisted(item) for item in value]) if isinstance(value, list) else np.asarray(value)


def _unlisted(value: Any) -> Any:
    return _array(value) if isinstance(value, (torch.Tensor, list)) else value


def _stacked(name: str, values: Sequence[Any]) -> np.ndarray:
    if not isinstance(values[0], (torch.Tensor, np.ndarray, np.generic, int, float)):
        return object_array([_unlisted(value) for value in values])
    try:
        return np.stack([_array(value) for value in values])
    except ValueError:
        shapes = listing(dict.fromkeys(str(tuple(np.shape(value))) for value in values), most=3)
        raise SelectionError(f"transform= returned {name!r} in unlike shapes ({shapes}); items of a batch have one.") from None
