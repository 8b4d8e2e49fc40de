"""TensorFlow itself, in a process of its own, says what is in a dataset."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fogx import registry
from fogx.feature import NUMERIC_DTYPES, Feature, Schema
from fogx.protocols import Column, EpisodeData

pytestmark = pytest.mark.tensorflow

ORACLE = Path(__file__).parents[2] / "oracle" / "read_with_tf.py"
Load = Callable[..., list[EpisodeData]]


@pytest.fixture
def read_with_tf(tmp_path: Path) -> Callable[..., dict[str, np.ndarray]]:
    def run(folder: Path, split: str = "train") -> dict[str, np.ndarray]:
        out = tmp_path / f"{folder.parent.name}.npz"
        subprocess.run([sys.executable, "-W", "ignore", str(ORACLE), str(folder), split, str(out)], check=True, timeout=300)
        with np.load(out, allow_pickle=False) as found:
            return {key: found[key] for key in found.files}

    return run


def assert_equal(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(got) == set(expected)
    for key, value in expected.items():
        assert (got[key].dtype, got[key].shape) == (value.dtype, value.shape), key
        assert got[key].tobytes() == value.tobytes(), key


def export(folder: Path, episodes: list[EpisodeData], **options: Any) -> Path:
    registry.get("exporters", "rtx").export(episodes, episodes[0].schema, str(folder), name="copy", **options)
    return folder


def leaves(episode: EpisodeData, index: int) -> dict[str, np.ndarray]:
    """Return an episode as the oracle gives it, images decoded by fogx."""
    found: dict[str, np.ndarray] = {f"{index}/steps#": np.array(episode.num_steps)}

    def put(key: str, value: Any, feature: Feature) -> None:
        if feature.is_image:
            found[key] = registry.get("codecs", str(feature.encoding)).decode(value, feature)
        elif feature.dtype in ("str", "bytes"):
            if isinstance(value, np.ndarray):
                for i, item in enumerate(value):
                    put(f"{key}/{i}", item, feature)
            else:
                found[f"{key}|string"] = np.frombuffer(value.encode() if isinstance(value, str) else value, np.uint8)
        else:
            found[key] = np.asarray(value)

    for name, feature in episode.schema.items():
        for i, value in enumerate(episode.columns[name].values):
            put(f"{index}/steps/{i}/{name}", value, feature)
    for column, (path, feature) in episode.schema.episode_fields.items():
        put(f"{index}/{path}", episode.metadata[column], feature)
    return found


def all_leaves(episodes: list[EpisodeData]) -> dict[str, np.ndarray]:
    return {key: value for index, episode in enumerate(episodes) for key, value in leaves(episode, index).items()}


def test_bridge_as_loaded_and_as_exported(
    bridge_dir: Path, tmp_path: Path, load: Load, read_with_tf: Callable[..., dict[str, np.ndarray]]
) -> None:
    episodes = load(bridge_dir)
    original = read_with_tf(bridge_dir)
    assert len(original) == 25 * (10 * 13 + 8)
    assert_equal(all_leaves(episodes), original)
    assert_equal(read_with_tf(export(tmp_path / "copy/1.0.0", episodes, max_shard_mb=1)), original)


def test_stub_with_nested_actions(shipped_data: Path, tmp_path: Path, load: Load, read_with_tf: Callable[..., Any]) -> None:
    original = read_with_tf(shipped_data / "rlds/bridge/1.0.0")
    episodes = load("bridge", data_dir=shipped_data / "rlds")
    assert_equal(all_leaves(episodes), original)
    copy = read_with_tf(export(tmp_path / "copy/1.0.0", episodes))
    added = {key for key in copy if key.endswith(("/discount", "/language_instruction|string"))}
    assert len(added) == 2 * 3
    assert_equal({key: value for key, value in copy.items() if key not in added}, original)


def test_every_dtype_and_shape_is_read_by_tensorflow(tmp_path: Path, load: Load, read_with_tf: Callable[..., Any]) -> None:
    steps = 3
    features: dict[str, Feature] = {}
    columns: dict[str, Column] = {}
    fields: dict[str, tuple[str, Feature]] = {}
    metadata: dict[str, Any] = {}
    extremes = {"b": [True, False, True], "f": [np.pi, -0.0, np.inf]}
    for dtype in NUMERIC_DTYPES:
        kind = np.dtype(dtype)
        whole = [] if kind.kind in "bf" else [np.iinfo(dtype).max, np.iinfo(dtype).min, 1]
        row = np.array(extremes.get(kind.kind, whole), kind)
        forms = {
            "scalar": ((), row),
            "vector": ((3,), np.stack([row] * steps)),
            "matrix": ((3, 1), np.stack([row[:, None]] * steps)),
            "rows": ((None,), [row[:2], row[:0], row]),
            "points": ((None, 1), [row[:2, None], row[:0, None], row[:, None]]),
        }
        if dtype != "uint32":
            forms["empty"] = ((0,), np.zeros((steps, 0), kind))
            forms["wide"] = ((1, None), [row[None, :2], row[None, :0], row[None]])
        for form, (shape, values) in forms.items():
            name = f"{form}/{dtype}"
            features[name] = Feature(dtype, shape)
            if isinstance(values, list):
                column = np.empty(steps, object)
                column[:] = values
                values = column
            columns[name] = Column(values)
            fields[f"episode_metadata/{name}"] = (f"top/{name}", features[name])
            metadata[f"episode_metadata/{name}"] = values[0]
    for name, feature, texts in (
        ("text/one", Feature("str", ()), ["é", "", "x"]),
        ("text/raw", Feature("bytes", ()), [b"\xff", b"", b"\x00"]),
    ):
        features[name] = feature
        columns[name] = Column(np.array(texts, object))
    words = np.empty(steps, object)
    words[:] = [np.array(w, object) for w in (["a", "b"], ["c"], ["d", "e", "f"])]
    features["text/many"], columns["text/many"] = Feature("str", (None,)), Column(words)
    episode = EpisodeData(Schema(features, fields), columns, steps, metadata=metadata)
    folder = export(tmp_path / "copy/1.0.0", [episode])
    found = read_with_tf(folder)
    added = {"is_first", "is_last", "is_terminal", "reward", "discount", "language_instruction|string"}
    assert_equal({k: v for k, v in found.items() if k.rsplit("/", 1)[-1] not in added}, leaves(episode, 0))
    assert {key.rsplit("/", 1)[-1] for key in found} >= added
