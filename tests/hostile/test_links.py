"""Names, links and odd files that would lead a reader out of the root, or make it wait for ever."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fogx as fox
from fogx.errors import CorruptDataError

FAMILIES = ["episodes", "episodes/_delta_log", "index", "index/schemas", "steps", "frames", "segments"]


def refused(child, root: Path, by: str) -> None:
    outcome = child.ask(read=str(root))
    assert outcome.findings == []
    assert by in outcome.text


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_that_is_a_link_out_of_the_root(hostile_child, small_root, copy_of, tmp_path, family):
    root = copy_of(small_root)
    (root / family).rename(tmp_path / "outside")
    (root / family).symlink_to(tmp_path / "outside")
    refused(hostile_child, root, "is a link that leaves the dataset's folder")


@pytest.mark.parametrize(
    "pattern",
    [
        "episodes/*.parquet",
        "episodes/_delta_log/*",
        "index/*.parquet",
        "index/schemas/*",
        "steps/*/*",
        "frames/*/*",
        "segments/*",
    ],
)
def test_a_file_that_is_a_link_out_of_the_root(hostile_child, small_root, copy_of, tmp_path, pattern):
    root = copy_of(small_root)
    for number, path in enumerate(sorted(root.glob(pattern))):
        if path.is_file():
            path.rename(tmp_path / f"outside{number}")
            path.symlink_to(tmp_path / f"outside{number}")
    refused(hostile_child, root, "is a link that leaves the dataset's folder")


@pytest.mark.parametrize(
    "pattern", ["episodes/*.parquet", "index/*.parquet", "index/schemas/*.json", "steps/*/*", "frames/*/*", "segments/*"]
)
def test_a_pipe_keeps_nobody_waiting(hostile_child, small_root, copy_of, pattern):
    root = copy_of(small_root)
    for path in root.glob(pattern):
        path.unlink()
        os.mkfifo(path)
    refused(hostile_child, root, "is no regular file")


@pytest.mark.parametrize("name", ["_last_checkpoint", "00000000000000000021.json", "00000000000000000021.checkpoint.parquet"])
def test_a_pipe_in_the_log_keeps_nobody_waiting(hostile_child, small_root, copy_of, name):
    root = copy_of(small_root)
    path = root / "episodes/_delta_log" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    outcome = hostile_child.ask(read=str(root))
    assert outcome.findings == []


def test_the_root_itself_may_be_reached_through_a_link(hostile_child, small_root, tmp_path):
    (tmp_path / "link").symlink_to(small_root)
    outcome = hostile_child.ask(read=str(tmp_path / "link"))
    assert outcome.errors == []


@pytest.mark.parametrize(
    "pointer",
    [
        "../{}",
        "/etc/passwd",
        "file:///etc/passwd",
        "s3://other-bucket/{}",
        "index/../{}",
        "{}\x00",
        "index%2f..%2f{}",
        "index\u2215{}",
        "INDEX/{}",
        "",
    ],
)
def test_pointers_of_rows(hostile_child, small_root, small_table, copy_of, pointer):
    root = copy_of(small_root)
    for name in small_table:
        path = root / name
        table = pq.ParquetFile(path).read()
        pointers = pa.array([pointer.format(p) for p in table["index_file"].to_pylist()])
        sink = pa.BufferOutputStream()
        pq.write_table(table.set_column(table.column_names.index("index_file"), "index_file", pointers), sink)
        path.write_bytes(sink.getvalue().to_pybytes())
    refused(hostile_child, root, "is not a name fogx gives")


@pytest.mark.parametrize(
    "name",
    ["../../x.parquet", "%2e%2e/x.parquet", "/etc/passwd", "file:///etc/passwd", "s3://bucket/x.parquet", "a/b.parquet", ""],
)
def test_names_in_the_log(hostile_child, small_root, copy_of, name):
    root = copy_of(small_root)
    newest = max((root / "episodes/_delta_log").glob("*.json"))
    add = {
        "path": name,
        "partitionValues": {},
        "size": 10,
        "modificationTime": 0,
        "dataChange": True,
        "stats": '{"numRecords": 1}',
    }
    newest.with_name(f"{int(newest.stem) + 1:020}.json").write_text(json.dumps({"add": add}) + "\n")
    outcome = hostile_child.ask(read=str(root))
    assert outcome.findings == []
    assert outcome.errors[0]["what"] == "open"


def test_nothing_is_written_through_a_link(small_root, copy_of, tmp_path):
    root, outside = copy_of(small_root), tmp_path / "outside"
    outside.mkdir()
    (root / "index/schemas").rename(root / "index/old")
    (root / "index/schemas").symlink_to(outside)
    episode = fox.Dataset(root).new_episode()
    episode.add("new", 1.0)
    with pytest.raises(CorruptDataError, match="link that leaves"):
        episode.close()
    episode.discard()
    assert os.listdir(outside) == []


def test_vacuum_stays_inside(small_root, copy_of, tmp_path):
    root, other = copy_of(small_root), copy_of(small_root)
    (root / "steps").rename(tmp_path / "steps")
    (root / "steps").symlink_to(other / "steps")
    before = sorted(other.rglob("*"))
    with pytest.raises(CorruptDataError, match="link that leaves"):
        fox.Dataset(root).vacuum()
    assert sorted(other.rglob("*")) == before
