from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fogx import registry
from fogx.errors import DatasetNotFoundError, NotADatasetError
from fogx.formats.rtx.names import find_builder, identity
from fogx.protocols import ShardTask


def plan(name: str | Path, data_dir: str | Path | None = None) -> list[ShardTask]:
    tasks: list[ShardTask] = registry.get("loaders", "rtx").plan(str(name), split="all", data_dir=data_dir and str(data_dir))
    return tasks


def builder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "features.json").write_text("{}")
    return folder


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The three folders that are looked in, in order, and the current one."""
    found = {"data_dir": tmp_path / "given", "environment": tmp_path / "env", "default": tmp_path / "home/tensorflow_datasets"}
    monkeypatch.setenv("TFDS_DATA_DIR", str(found["environment"]))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return {**found, "here": tmp_path / "here"}


def test_places_are_looked_in_in_order(places: dict[str, Path]) -> None:
    for folder in places.values():
        builder(folder / "toy/1.0.0")
    for folder in places.values():
        assert find_builder("toy", str(places["data_dir"])) == str(folder / "toy/1.0.0")
        shutil.rmtree(folder / "toy")
    with pytest.raises(DatasetNotFoundError):
        find_builder("toy", str(places["data_dir"]))


def test_highest_version_by_number(places: dict[str, Path]) -> None:
    for version in ("0.9.0", "0.10.0", "0.2.11", "9.9.9.partial-ab", "notes"):
        builder(places["data_dir"] / "toy" / version)
    (places["data_dir"] / "toy/1.0.0").mkdir()  # holds nothing
    assert find_builder("toy", str(places["data_dir"])).endswith("/0.10.0")
    assert find_builder("toy/0.2.11", str(places["data_dir"])).endswith("/0.2.11")


@pytest.mark.parametrize("form", ["{base}/toy", "{base}/toy/1.0.0", "{base}/toy/", "./toy", "toy", "../given/toy"])
def test_paths(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    builder(places["data_dir"] / "toy/1.0.0")
    monkeypatch.chdir(places["data_dir"])
    assert find_builder(form.format(base=places["data_dir"]), None) == str(places["data_dir"] / "toy/1.0.0")


def test_home_is_expanded(places: dict[str, Path], tmp_path: Path) -> None:
    builder(tmp_path / "home/sets/toy/1.0.0")
    assert find_builder("toy", "~/sets") == find_builder("~/sets/toy", None) == str(tmp_path / "home/sets/toy/1.0.0")


def test_nothing_of_that_name(places: dict[str, Path]) -> None:
    builder(places["data_dir"] / "berkeley_autolab_ur5/0.1.0")
    builder(places["environment"] / "robo_net/sample_64/1.0.0")
    with pytest.raises(DatasetNotFoundError) as caught:
        find_builder("berkeley_ur5", str(places["data_dir"]))
    text = str(caught.value)
    tried = [f"{places[place]}/berkeley_ur5" for place in ("data_dir", "environment", "default", "here")]
    assert [text.index(path) for path in tried] == sorted(text.index(path) for path in tried)
    assert "berkeley_autolab_ur5, robo_net/sample_64" in text
    assert "Did you mean 'berkeley_autolab_ur5'?" in text
    assert "data_dir=" in text
    assert "TFDS_DATA_DIR" in text


def test_no_such_version(places: dict[str, Path]) -> None:
    builder(places["data_dir"] / "toy/1.0.0")
    with pytest.raises(DatasetNotFoundError, match=r"'toy' has no version 2\.0\.0; there are: 1\.0\.0"):
        find_builder("toy/2.0.0", str(places["data_dir"]))


def test_a_file_is_no_dataset(places: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "toy.tfrecord").write_text("")
    with pytest.raises(NotADatasetError, match=r"toy\.tfrecord is a file"):
        find_builder(str(tmp_path / "toy.tfrecord"), None)


@pytest.mark.parametrize(("name", "data_dir"), [("gs://gresearch/robotics/bridge", None), ("bridge", "s3://bucket/rlds")])
def test_remote_data(name: str, data_dir: str | None) -> None:
    with pytest.raises(DatasetNotFoundError, match="is remote"):
        find_builder(name, data_dir)


@pytest.mark.parametrize(
    ("folder", "config", "expected"),
    [
        ("/d/bridge/1.0.0", "", ("bridge", "1.0.0")),
        ("/d/mine", "", ("mine", "0.0.1")),
        ("/d/robo_net/sample_64/2.0.0", "sample_64", ("robo_net/sample_64", "2.0.0")),
        ("/d/copy/2.0.0", "sample_64", ("copy", "2.0.0")),
    ],
)
def test_identity_is_that_of_the_folders(folder: str, config: str, expected: tuple[str, str]) -> None:
    assert identity(folder, "0.0.1", config) == expected


def test_stub_whose_info_states_another_version(shipped_data: Path) -> None:
    (task,) = plan("bridge", shipped_data / "rlds")
    assert task.source_key(0) == "rlds:bridge/1.0.0/train/0/0"


def test_copy_under_another_name(bridge_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(bridge_dir, tmp_path / "berkeley_autolab_ur5")
    (task,) = plan(tmp_path / "berkeley_autolab_ur5")
    assert task.source_key(7) == "rlds:berkeley_autolab_ur5/1.0.0/train/0/7"
    assert Path(task.location).name == "bridge_dataset-train.tfrecord-00000-of-00001"
    first = next(registry.get("loaders", "rtx").read(task, lambda key: True))
    assert first.dataset == "berkeley_autolab_ur5"
