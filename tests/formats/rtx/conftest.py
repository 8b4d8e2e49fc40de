"""Small RLDS datasets, written by TFDS's own serializer, and a comparison that takes no difference for equal."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from fogx import registry
from fogx.formats.rtx.tfrecord import RecordWriter
from fogx.protocols import EpisodeData


def write_dataset(
    folder: Path,
    features: Mapping[str, Any],
    episodes: Sequence[Any],
    *,
    name: str = "toy",
    splits: Mapping[str, Sequence[int]] | None = None,
    info: Mapping[str, Any] | None = None,
) -> Path:
    """Write a TFDS folder.

    Args:
        folder: Folder to create.
        features: Features of an episode, `steps` included.
        episodes: Dicts for TFDS to serialise, or records as they are.
        name: Name of the dataset.
        splits: Shard lengths of each split; their sum is the number of episodes.
        info: Changes to `dataset_info.json`.
    """
    folder.mkdir(parents=True)
    declared = tfds.features.FeaturesDict(dict(features))
    declared.save_config(folder)
    splits = splits or {"train": [len(episodes)]}
    records = iter(e if isinstance(e, bytes) else declared.serialize_example(e) for e in episodes)
    for split, lengths in splits.items():
        for index, length in enumerate(lengths):
            writer = RecordWriter(str(folder / f"{name}-{split}.tfrecord-{index:05d}-of-{len(lengths):05d}"))
            for _ in range(length):
                writer.write(next(records))
            writer.close()
    body = {
        "name": name,
        "version": "1.0.0",
        "fileFormat": "tfrecord",
        "splits": [{"name": s, "shardLengths": [str(n) for n in lengths], "numBytes": "1"} for s, lengths in splits.items()],
    }
    (folder / "dataset_info.json").write_text(json.dumps({**body, **(info or {})}))
    return folder


def load_all(name: str | Path, *, split: str = "all", data_dir: str | Path | None = None) -> list[EpisodeData]:
    """Load every episode of a split."""
    loader = registry.get("loaders", "rtx")
    tasks = loader.plan(str(name), split=split, data_dir=None if data_dir is None else str(data_dir))
    return [episode for task in tasks for episode in loader.read(task, lambda key: True)]


def assert_same_values(got: Any, expected: Any, where: str = "") -> None:
    """Compare values bit by bit, but all nans as one: a signalling nan comes out of any conversion as a quiet one."""
    if isinstance(expected, np.ndarray) and expected.dtype == object:
        assert isinstance(got, np.ndarray), where
        assert got.shape == expected.shape, where
        for a, b in zip(got.flat, expected.flat, strict=True):
            assert_same_values(a, b, where)
    elif isinstance(expected, (np.ndarray, np.generic)):
        got, expected = np.asarray(got), np.asarray(expected)
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape), where
        if expected.dtype.kind == "f":
            nan = np.isnan(expected)
            assert np.array_equal(np.isnan(got), nan), where
            got, expected = got[~nan], expected[~nan]
        assert got.tobytes() == expected.tobytes(), where
    else:
        assert type(got) is type(expected), where
        assert got == expected, where


@pytest.fixture(scope="session")
def rlds_folder() -> Callable[..., Path]:
    """`write_dataset`."""
    return write_dataset


@pytest.fixture(scope="session")
def load() -> Callable[..., list[EpisodeData]]:
    """`load_all`."""
    return load_all


@pytest.fixture(scope="session")
def assert_same() -> Callable[..., None]:
    """`assert_same_values`."""
    return assert_same_values
