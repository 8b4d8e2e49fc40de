"""The times of many episodes' steps."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pyarrow as pa

from fogx.reading.roots import Root, read_index_files
from fogx.storage.tables.index import SHARED, check_index, read_index
from fogx.storage.tables.places import StepsPlace
from fogx.storage.tables.steps import read_times


def step_times(root: Root, rows: pa.Table) -> list[np.ndarray]:
    """Return the times of the steps of episodes that have times; each row group is read once.

    Args:
        root: Their root.
        rows: Their rows.

    Returns:
        For each row `(T,)` int64 ns.

    Raises:
        CorruptDataError: As `read_index` and `read_times`.
    """
    places: list[list[StepsPlace]] = [[] for _ in range(rows.num_rows)]
    said = rows.select(list(SHARED)).to_pylist()
    for positions, found in read_index_files(root, rows, functools.partial(read_index, root.store, parts=("steps",))):
        for position, index in zip(positions.tolist(), found, strict=True):
            check_index(root.path, said[position], index)
            places[position] = list(index.steps)
    parts = iter(read_times(root.store, list(itertools.chain.from_iterable(places))))
    return [np.concatenate([np.zeros(0, np.int64), *itertools.islice(parts, len(mine))]) for mine in places]
