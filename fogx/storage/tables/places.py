"""Where an episode's data lies: the pointers that an `index` row holds."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StepsPlace:
    """Rows of one row group of a `steps` file.

    Args:
        file: Pointer of the file.
        row_group: Row group in the file.
        first_row: First row within the row group.
        num_rows: Rows of the episode from there on.
    """

    file: str
    row_group: int
    first_row: int
    num_rows: int


@dataclass(frozen=True)
class FramesPlace:
    """A run of frames of one feature inside one row group of a `frames` file.

    Args:
        feature: Name of the feature.
        file: Pointer of the file.
        row_group: Row group in the file.
        first_row: First row within the row group.
        first_frame: Number, within episode and feature, of the first frame here.
        offset: Byte in the file of the first frame's data; -1 where offsets are not known and parquet must be read.
        lengths: `(N,)` int32 bytes of each frame; between two frames stand 4 bytes of length.
        crc32c: `(N,)` uint32 CRC32C of each frame.
    """

    feature: str
    file: str
    row_group: int
    first_row: int
    first_frame: int
    offset: int
    lengths: np.ndarray
    crc32c: np.ndarray

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """`(N,)` int64 byte offsets of each frame's data; meaningless where `offset` is -1."""
        sizes = self.lengths.astype(np.int64) + 4
        return self.offset + np.cumsum(sizes) - sizes
