"""A small root with a bit of everything, and what can be done to its files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fogx as fox

HERE = Path(__file__).parent
BRIDGE = HERE.parent.parent / "examples" / "data" / "rlds" / "bridge_dataset" / "1.0.0"


def make(root: Path) -> Path:
    """Record two episodes, import three, tag, delete; with a checkpoint half way."""
    dataset = fox.Dataset(root, name="lab")
    record(dataset, 1)
    dataset.load_rtx_episodes(BRIDGE, split="train[:3]")
    dataset._roots.write.writable().delta.checkpoint()
    gone = record(dataset, 2)
    record(dataset, 3)
    dataset.tag([dataset.get_episode_info()["episode_id"][0]], good=True)
    dataset.delete([gone])
    return root


def record(dataset: fox.Dataset, seed: int) -> str:
    random = np.random.default_rng(seed)
    episode = dataset.new_episode(
        {"operator": "ana", "notes": [1, 2]}, task="pick", features={"depth": fox.Feature(camera="png")}
    )
    for step in range(6):
        episode.add("state", random.normal(size=7).astype(np.float32))
        episode.add("view", random.integers(0, 255, (16, 24, 3), dtype=np.uint8))
        episode.add("depth", random.integers(0, 5_000, (16, 24), dtype=np.uint16))
        episode.add("said", f"word {step}")
        if step == 2:
            episode.begin("middle", 0.5)
    episode.end("middle")
    episode.close()
    return episode.episode_id


def copy(root: Path, to: Path) -> Path:
    """Return a fresh copy of a root."""
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(root, to))


def users_of(root: Path) -> dict[str, set[str]]:
    """Return file → episodes whose rows or values lie in it."""
    from fogx.storage.tables.index import read_index, schema_name

    log = fox.Dataset(root)._roots.write.writable()
    found: dict[str, set[str]] = {}
    for name in log.delta.names():
        found[f"episodes/{name}"] = set(log.delta.read(name)["episode_id"].to_pylist())
    for row in log.rows.to_pylist():
        (index,) = read_index(log.store, row["index_file"], [row["index_row"]], ("steps", "frames"))
        places = [*index.steps, *index.frames]
        named = {row["index_file"], row["segments_file"], schema_name(row["schema_id"]), *(place.file for place in places)}
        for path in named - {None}:
            found.setdefault(path, set()).add(row["episode_id"])
    return found


def content_of(root: Path) -> dict[str, Any]:
    """Return all that a user can read of the newest version."""
    dataset = fox.Dataset(root)
    rows = dataset.get_episode_info()
    values: dict[str, Any] = {}
    for view in dataset.episodes:
        columns = {name: view.encoded(name) if f.in_frames else np.asarray(view[name]) for name, f in view.schema.items()}
        values[view.episode_id] = {
            name: column if isinstance(column, list) else column.tolist() for name, column in columns.items()
        }
        values[view.episode_id]["times"] = repr(view.timestamps_ns)
    cells = {row.pop("episode_id"): row for row in rows.drop(columns="root").to_dict("records")}
    for view in dataset.episodes:
        cells[view.episode_id] |= view.metadata
    return {"rows": {i: repr(row) for i, row in cells.items()}, "values": values}


@pytest.fixture(scope="session")
def damaged() -> SimpleNamespace:
    """What can be done with a root: `make`, `record`, `copy`, `users`, `content`."""
    return SimpleNamespace(make=make, record=record, copy=copy, users=users_of, content=content_of)


@pytest.fixture(scope="session")
def sound_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound root; copy it."""
    return make(tmp_path_factory.mktemp("sound") / "lab")


@pytest.fixture(scope="session")
def want(sound_root: Path) -> dict[str, Any]:
    """What a user can read of the sound root."""
    return content_of(sound_root)


@pytest.fixture(scope="session")
def users(sound_root: Path) -> dict[str, set[str]]:
    """File of the sound root → episodes whose rows or values lie in it."""
    return users_of(sound_root)


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    fox.config(progress=False)
    yield
    fox.config(progress=True)
