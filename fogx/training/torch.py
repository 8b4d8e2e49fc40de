"""The map-style PyTorch dataset. Importing this module imports torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from fogx.errors import SelectionError, did_you_mean, listing, missing_extra
from fogx.training.index import TrainingIndex
from fogx.training.items import ItemReader

try:
    import torch
except ImportError as error:
    raise missing_extra("torch", "torch", "as_pytorch_dataset()") from error

LEVELS = ("step", "episode")


class StepDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Steps (or whole episodes) of a selection; see `fogx.Dataset.as_pytorch_dataset`.

    Args:
        index: The selection.
        level: `"step"` or `"episode"`.

    Raises:
        SelectionError: An unknown level.
    """

    def __init__(self, index: TrainingIndex, level: str = "step") -> None:
        if level not in LEVELS:
            raise SelectionError(
                f"level={level!r} is not known; use one of: {listing(LEVELS)}.{did_you_mean(str(level), LEVELS)}"
            )
        self.level = level
        self._reader = ItemReader(index)

    @property
    def features(self) -> list[str]:
        """Names of the features that every item carries."""
        return list(self._reader.index.features)

    def __len__(self) -> int:
        index = self._reader.index
        return index.num_steps if self.level == "step" else len(index.entries)

    def __getitem__(self, item: int) -> dict[str, Any]:
        """Return one item; floats are float32, cameras uint8 (C, H, W), with a leading time axis for whole episodes.

        Raises:
            IndexError: Past the ends.
            CorruptDataError: Stored data fails a checksum.
        """
        count = len(self)
        if not -count <= item < count:
            raise IndexError(f"item {item} of {count}.")
        item = int(item) % count
        values = self._reader.step(item) if self.level == "step" else self._reader.episode(item)
        return {name: _tensor(value) for name, value in values.items()}

    def __repr__(self) -> str:
        return f"<fogx {self.level}s: {len(self)} items of {len(self._reader.index.entries)} episodes; {listing(self.features)}>"


def _tensor(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype != object:
        wanted = np.float32 if value.dtype.kind == "f" else value.dtype
        return torch.from_numpy(np.array(value, dtype=wanted, order="C"))
    if isinstance(value, np.generic):
        return torch.tensor(value.item(), dtype=torch.float32) if value.dtype.kind == "f" else torch.from_numpy(np.array(value))
    if isinstance(value, np.ndarray):
        return [_tensor(v) for v in value]
    return value
