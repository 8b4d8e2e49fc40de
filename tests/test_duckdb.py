"""The DuckDB query in `design_doc/0001-storage-layout.md`, run as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

import fogx as fox
from fogx.feature import Feature, Schema
from fogx.protocols import Column, EpisodeData
from fogx.storage.files.store import Store
from fogx.storage.log.commit import EpisodeLog
from fogx.storage.tables.pack import EpisodePacker

DOC = Path(__file__).parent.parent / "design_doc" / "0001-storage-layout.md"
SCHEMA = Schema({"action": Feature("float32", (3,)), "observation/word": Feature("str", ()), "n": Feature("uint64", ())})


def _run(root):
    """Run the documented block on a root; return column → values, and the schema it chose."""
    block = re.search(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL).group(1)
    placed = block.replace('root = "/data/robots"', f"root = {str(root)!r}").replace("print(steps)", "")
    assert placed.count(str(root)) == 1
    names = {}
    exec(compile(placed, str(DOC), "exec"), names)
    steps = names["steps"]
    return dict(zip(steps.columns, map(list, zip(*steps.fetchall(), strict=True)), strict=True)), names["schema_id"]


def _episode(seed, rows):
    rng = np.random.default_rng(seed)
    words = np.array([f"word {seed}" for _ in range(rows)], dtype=object)
    columns = {
        "action": Column(rng.random((rows, 3), np.float32), np.arange(rows) != 1),
        "observation/word": Column(words),
        "n": Column(rng.integers(2**63, 2**64, rows, np.uint64)),
    }
    return EpisodeData(SCHEMA, columns, rows, np.arange(rows) + seed)


def _pack(root, episodes):
    packer = EpisodePacker(Store(root), "lab")
    for episode_id, data in episodes.items():
        packer.add(episode_id, data)
    return packer.close().rows


def _same_as_fogx(found, dataset, ids):
    expected = dataset.get_step_data(ids).sort("episode_id", "step_index").collect()
    assert list(found) == ["dataset", "num_steps", *expected.columns]
    for name in expected.columns:
        assert found[name] == [list(v) if hasattr(v, "__len__") and not isinstance(v, str) else v for v in expected[name]], name


@pytest.fixture
def dataset(tmp_path):
    """A root with many episodes in one file, one recorded of another schema, a new user column, and deletes."""
    dataset = fox.Dataset(tmp_path / "root")
    with dataset.new_episode() as episode:
        for step in range(2):
            episode.add_step({"action": "text, where others have numbers", "step": step})
    log = EpisodeLog(Store(tmp_path / "root"))
    log.append(_pack(dataset.path, {f"e{seed}": _episode(seed, 3 + seed) for seed in range(5)}), operation="load")
    dataset.refresh()
    dataset.tag(["e3"], good=True)
    dataset.delete(["e1"])
    return dataset


def test_the_query_gives_the_current_steps(dataset):
    found, schema_id = _run(dataset.path)
    assert schema_id == SCHEMA.schema_id
    _same_as_fogx(found, dataset, ["e0", "e2", "e3", "e4"])
    assert set(found["dataset"]) == {"lab"}
    assert found["num_steps"] == [n for n in (3, 5, 6, 7) for _ in range(n)]


def test_the_query_leaves_out_old_forms_of_an_episode(dataset):
    newer = _pack(dataset.path, {"e2": _episode(99, 4)})[0]
    changes = {name: {"e2": newer[name]} for name in ("index_file", "index_row", "num_steps")}
    EpisodeLog(Store(dataset.path)).edit(changes, operation="realign")
    dataset.refresh()
    found, _ = _run(dataset.path)
    rows = [i for i, episode_id in enumerate(found["episode_id"]) if episode_id == "e2"]
    view = dataset.read_by("e2")[0]
    assert [found["n"][i] for i in rows] == view["n"].tolist() == _episode(99, 4).columns["n"].values.tolist()
    assert [found["step_index"][i] for i in rows] == [0, 1, 2, 3]
    assert {found["observation/word"][i] for i in rows} == {"word 99"}
    assert len(found["n"]) == 3 + 4 + 6 + 7
