from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from fogx import registry
from fogx.errors import CorruptDataError, DatasetNotFoundError, NotADatasetError, UnknownNameError
from fogx.protocols import EpisodeData


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, rlds_folder: Callable[..., Path]) -> Path:
    """Split train: 10 episodes in files of 4, 0, 3, 3; split val: 5 in one. Episode i holds the number i."""
    steps = tfds.features.Dataset({"x": np.int64})
    return rlds_folder(
        tmp_path_factory.mktemp("splits") / "toy/1.0.0",
        {"steps": steps, "i": np.int64},
        [{"steps": {"x": [i]}, "i": i} for i in range(15)],
        splits={"train": [4, 0, 3, 3], "val": [5]},
    )


@pytest.fixture
def damaged(toy: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "toy/1.0.0"
    folder.mkdir(parents=True)
    for file in toy.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def numbers(episodes: list[EpisodeData]) -> list[int]:
    return [int(e.metadata["episode_metadata/i"]) for e in episodes]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("all", range(15)),
        ("train", range(10)),
        ("val", range(10, 15)),
        ("train+val", range(15)),
        ("val + train", [*range(10, 15), *range(10)]),
        ("train[:75%]", range(8)),  # 7.5 rounds to the even neighbour
        ("train[25%:75%]", range(2, 8)),
        ("train[:5%]", []),
        ("train[-30%:]", [7, 8, 9]),
        ("train[3:5]", [3, 4]),
        ("train[-2:]", [8, 9]),
        ("train[4:]", range(4, 10)),
        ("train[:0]", []),
        ("train[0:10]", range(10)),
        ("train[5:3]", []),
        ("train[2shard]", [4, 5, 6]),
        ("train[:2]+val[-1:]", [0, 1, 14]),
        ("train[:4]+train[2:6]", range(6)),
        ("train[:1]+train[2:3]", [0, 2]),
    ],
)
def test_split_expressions(toy: Path, load: Callable[..., list[EpisodeData]], split: str, expected: list[int]) -> None:
    assert numbers(load(toy, split=split)) == list(expected)


@pytest.mark.parametrize(
    "split", ["train", "train[:33%]", "train[13%:71%]", "train[-45%:-15%]", "train[1:-1]", "val[:49%]+train[9:]"]
)
def test_same_as_tfds_itself(toy: Path, load: Callable[..., list[EpisodeData]], split: str) -> None:
    builder = tfds.builder_from_directory(toy)
    files = {Path(name).name: i for i, name in enumerate(builder.info.splits["train"].filenames)}
    starts = [0, 4, 4, 7]
    expected = []
    for part in builder.info.splits[split].file_instructions:
        name = Path(part.filename).name
        start = (starts[files[name]] if name in files else 10) + part.skip
        expected += range(start, start + part.take)
    assert numbers(load(toy, split=split)) == expected


def test_tasks_are_one_for_each_shard_and_plain(toy: Path) -> None:
    tasks = registry.get("loaders", "rtx").plan(str(toy), split="train[1:8]", data_dir=None)
    assert [(t.shard, t.first, t.stop, t.num_episodes) for t in tasks] == [(0, 1, 4, 3), (2, 0, 3, 3), (3, 0, 1, 1)]
    assert {t.source for t in tasks} == {"rlds:toy/1.0.0/train"}
    assert all(json.loads(json.dumps(dict(t.options))) == dict(t.options) for t in tasks)


@pytest.mark.parametrize("split", ["tset", "", "train+vla", "all[:3]", "all[:50%]"])
def test_unknown_splits_list_those_there_are(toy: Path, load: Callable[..., list[EpisodeData]], split: str) -> None:
    with pytest.raises(UnknownNameError, match=r"train \(10 episodes\), val \(5 episodes\)"):
        load(toy, split=split)


def test_a_near_miss_is_suggested(toy: Path, load: Callable[..., list[EpisodeData]]) -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'train'\?"):
        load(toy, split="trian[:3]")


@pytest.mark.parametrize(
    "split",
    ["train[", "train[x:]", "train[:11]", "train[-11:]", "train[:101%]", "train[3]", "train[1:2:3]", "train[:1.5]", "train[:]"],
)
def test_bad_slices_suggest_ones_that_work(toy: Path, load: Callable[..., list[EpisodeData]], split: str) -> None:
    with pytest.raises(UnknownNameError, match="is not one that can be read") as caught:
        load(toy, split=split)
    suggestions = str(caught.value).split("for instance ")[1].rstrip(".").replace(" or ", ", ").split(", ")
    assert [len(load(toy, split=s.strip("'"))) for s in suggestions] == [10, 8, 10, 15]


def test_missing_files_of_a_split(damaged: Path, load: Callable[..., list[EpisodeData]]) -> None:
    (damaged / "toy-train.tfrecord-00002-of-00004").unlink()
    with pytest.raises(
        DatasetNotFoundError, match=r"1 of the 3 .*: toy-train\.tfrecord-00002-of-00004\. .* all their files: val\."
    ):
        load(damaged, split="train")
    with pytest.raises(DatasetNotFoundError):
        load(damaged, split="all")
    assert numbers(load(damaged, split="train[:4]+val")) == [0, 1, 2, 3, *range(10, 15)]


def test_all_leaves_out_a_split_that_is_only_listed(
    damaged: Path, load: Callable[..., list[EpisodeData]], caplog: pytest.LogCaptureFixture
) -> None:
    (damaged / "toy-val.tfrecord-00000-of-00001").unlink()
    with caplog.at_level(logging.WARNING, "fogx"):
        assert numbers(load(damaged, split="all")) == list(range(10))
    assert "val" in caplog.text
    with pytest.raises(DatasetNotFoundError, match=r"toy-val.*all their files: train\."):
        load(damaged, split="val")


def test_no_files_at_all(damaged: Path, load: Callable[..., list[EpisodeData]]) -> None:
    for file in damaged.glob("*.tfrecord-*"):
        file.unlink()
    with pytest.raises(DatasetNotFoundError, match="none of the 5 record files"):
        load(damaged)


def test_fewer_and_more_records_than_declared(damaged: Path, load: Callable[..., list[EpisodeData]]) -> None:
    info = json.loads((damaged / "dataset_info.json").read_text())
    for length, says in (("6", "ends at byte"), ("4", "goes on at byte")):
        info["splits"][1]["shardLengths"] = [length]
        (damaged / "dataset_info.json").write_text(json.dumps(info))
        with pytest.raises(CorruptDataError, match=rf"toy-val.*{says}.*declares {length}"):
            load(damaged, split="val")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"fileFormat": "array_record"}, NotADatasetError),
        ({"name": "../toy"}, CorruptDataError),
        ({"splits": [{"name": "..", "shardLengths": ["1"]}]}, CorruptDataError),
        ({"splits": [{"name": "train", "shardLengths": ["1"], "filepathTemplate": "../{SPLIT}"}]}, CorruptDataError),
        ({"splits": [{"name": "train", "shardLengths": ["1"], "filepathTemplate": "{SPLIT.__class__}"}]}, CorruptDataError),
        ({"splits": [{"name": "train", "shardLengths": ["-1"]}]}, CorruptDataError),
        ({"splits": 3}, CorruptDataError),
    ],
)
def test_info_that_cannot_be_used(
    damaged: Path, load: Callable[..., list[EpisodeData]], change: dict[str, object], error: type[Exception]
) -> None:
    info = json.loads((damaged / "dataset_info.json").read_text())
    (damaged / "dataset_info.json").write_text(json.dumps({**info, **change}))
    with pytest.raises(error, match=str(damaged)):
        load(damaged)


def test_info_that_is_not_there_or_no_json(damaged: Path, load: Callable[..., list[EpisodeData]]) -> None:
    (damaged / "dataset_info.json").write_bytes(b"\xff{")
    with pytest.raises(CorruptDataError, match=r"not a dataset_info\.json"):
        load(damaged)
    (damaged / "dataset_info.json").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"no dataset_info\.json"):
        load(damaged)


def test_file_template_of_the_dataset(damaged: Path, load: Callable[..., list[EpisodeData]]) -> None:
    info = json.loads((damaged / "dataset_info.json").read_text())
    info["splits"][1]["filepathTemplate"] = "{SPLIT}.{SHARD_INDEX}.{FILEFORMAT}"
    (damaged / "dataset_info.json").write_text(json.dumps(info))
    (damaged / "toy-val.tfrecord-00000-of-00001").rename(damaged / "val.00000.tfrecord")
    assert numbers(load(damaged, split="val")) == list(range(10, 15))
