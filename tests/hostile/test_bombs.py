"""Small files that would take much memory or time are refused before they do. The reading process has 64 MiB to spend."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fogx as fox
from fogx.errors import CorruptDataError
from fogx.memory import Room
from fogx.storage.tables.guarded import read_table

ROWS = 12_500_000
"""Of 8 bytes: 100 MB."""

TOO_MUCH_MB = 160
"""What a refusal may take at most, all libraries' own needs included: the budget of the process and half as much again."""


def parquet(table: pa.Table, **options: object) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **{"compression": "zstd", **options})
    return sink.getvalue().to_pybytes()


def only(folder: Path, pattern: str) -> Path:
    """Return the first file of a pattern."""
    return sorted(folder.glob(pattern))[0]


def refused(child: Any, root: Path, *, by: str = "MiB of memory") -> None:
    outcome = child.ask(read=str(root))
    assert outcome.findings == []
    assert by in outcome.text
    assert outcome.peak_mb < TOO_MUCH_MB


def test_half_a_megabyte_that_decodes_to_800(tmp_path):
    path = tmp_path / "bomb.parquet"
    zeros = pa.table({"x": np.zeros(12_500_000)})
    with pq.ParquetWriter(path, zeros.schema, compression="zstd", use_dictionary=False) as writer:
        for _ in range(8):
            writer.write_table(zeros, row_group_size=len(zeros))
    assert path.stat().st_size < 600_000
    with path.open("rb") as file, pytest.raises(CorruptDataError, match="763 MiB of memory, allowed are 512"):
        read_table(file, "bomb", Room())


@pytest.mark.parametrize("kind", ["one row again and again", "long text", "nulls"])
def test_episodes(hostile_child, small_root, small_table, copy_of, kind):
    root = copy_of(small_root)
    path = root / small_table[0]
    table = pq.ParquetFile(path).read()
    if kind == "one row again and again":
        table = table.combine_chunks().take(pa.array(np.zeros(1_000_000, np.int32)))
    elif kind == "long text":
        column = pa.array(["x" * 100_000_000] * len(table))
        table = table.set_column(table.column_names.index("collector"), "collector", column)
    else:
        table = pa.table({f.name: pa.nulls(ROWS, f.type) for f in table.schema})
    path.write_bytes(parquet(table))
    refused(hostile_child, root)


def test_a_wide_table_of_absent_columns(hostile_child, small_root, small_table, copy_of):
    root = copy_of(small_root)
    newest = max((root / "episodes/_delta_log").glob("*.json"))
    path = root / small_table[0]
    table = pq.ParquetFile(path).read().combine_chunks().take(pa.array(np.zeros(100_000, np.int32)))
    path.write_bytes(parquet(table.set_column(0, "episode_id", pa.array([f"{i:036}" for i in range(100_000)]))))
    version = int(newest.stem) + 1
    first = next(
        json.loads(line)["metaData"] for line in (newest.parent / f"{0:020}.json").read_text().splitlines() if "metaData" in line
    )
    schema = json.loads(first["schemaString"])
    schema["fields"] += [{"name": f"c{i}", "type": "long", "nullable": True, "metadata": {}} for i in range(1_000)]
    (root / f"episodes/_delta_log/{version:020}.json").write_text(
        json.dumps({"metaData": {**first, "schemaString": json.dumps(schema)}}) + "\n"
    )
    refused(hostile_child, root)


def test_index(hostile_child, small_root, copy_of):
    root = copy_of(small_root)
    path = only(root, "index/*.parquet")
    table = pq.ParquetFile(path).read()
    path.write_bytes(parquet(table.set_column(5, table.schema.field("metadata"), [['{"a": "' + "x" * 30_000_000 + '"}']])))
    refused(hostile_child, root)


def test_lists_in_the_index(hostile_child, small_root, copy_of):
    root = copy_of(small_root)
    path = only(root, "index/*.parquet")
    table = pq.ParquetFile(path).read()
    names = pa.ListArray.from_arrays(pa.array([0, ROWS], pa.int32()), pa.array(np.zeros(ROWS, np.int8)).cast(pa.string()))
    path.write_bytes(parquet(table.set_column(4, "partial", names)))
    refused(hostile_child, root)


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_steps(hostile_child, small_root, copy_of, use_dictionary):
    root = copy_of(small_root)
    path = only(root, "steps/*/*.parquet")
    table = pq.ParquetFile(path).read().slice(0, 1).combine_chunks()
    path.write_bytes(parquet(table.take(pa.array(np.zeros(ROWS // 8, np.int32))), use_dictionary=use_dictionary))
    refused(hostile_child, root)


def test_missing_values_of_a_large_fixed_size(hostile_child, small_root, copy_of):
    root = copy_of(small_root)
    path = only(root, "steps/*/*.parquet")
    table = pq.ParquetFile(path).read()
    column = pa.nulls(len(table), pa.list_(pa.float32(), 100_000_000))
    path.write_bytes(parquet(table.set_column(table.column_names.index("action"), "action", column)))
    refused(hostile_child, root)


@pytest.mark.parametrize("kind", ["one row again and again", "long text", "a long value"])
def test_segments(hostile_child, small_root, copy_of, kind):
    root = copy_of(small_root)
    for path in root.glob("segments/*.parquet"):
        table = pq.ParquetFile(path).read()
        if kind == "one row again and again":
            table = table.take(pa.array(np.zeros(2_000_000, np.int32))).combine_chunks()
        else:
            name, text = ("label", "x" * 100_000_000) if kind == "long text" else ("value", "[" + "0," * 5_000_000 + "0]")
            position = table.column_names.index(name)
            table = table.set_column(position, table.schema.field(position), pa.array([text] * len(table)))
        path.write_bytes(parquet(table))
    refused(hostile_child, root)


def changed_frames(root: Path, **places: object) -> Path:
    """Change the last place of frames of each episode in one index file; return the frames file."""
    path = only(root, "index/*.parquet")
    table = pq.ParquetFile(path).read()
    rows = [[*others, {**last, **places}] for *others, last in table["frames"].to_pylist()]
    field = table.schema.field("frames")
    path.write_bytes(parquet(table.set_column(table.column_names.index("frames"), field, pa.array(rows, field.type))))
    return root / rows[0][-1]["file"]


def test_frames_through_parquet(hostile_child, small_root, copy_of):
    root = copy_of(small_root)
    path = changed_frames(root, offset=-1)
    table = pq.ParquetFile(path).read()
    data = pa.array([b"x" * 100_000_000] + [b""] * (len(table) - 1))
    path.write_bytes(parquet(table.set_column(5, table.schema.field("data"), data), use_dictionary=False))
    refused(hostile_child, root)


@pytest.mark.parametrize(
    ("places", "by"),
    [
        ({"lengths": [2**31 - 1] * 3}, "shorter than its index says"),
        ({"lengths": [-1, 5, 5]}, "negative"),
        ({"offset": 2**62}, "shorter than its index says"),
        ({"offset": -5}, "negative"),
        ({"first_frame": -1}, "negative"),
        ({"first_frame": 2**31 - 3}, "past the 3"),
        ({"first_row": 3}, "overlap"),
        ({"row_group": 10_000, "offset": -1}, "row groups"),
    ],
)
def test_places_of_frames_that_cannot_be(hostile_child, small_root, copy_of, places, by):
    root = copy_of(small_root)
    changed_frames(root, **places)
    refused(hostile_child, root, by=by)


def test_one_frame_named_by_every_step_is_read_once(small_root, tmp_path):
    dataset = fox.Dataset(tmp_path / "r")
    episode = dataset.new_episode()
    episode.add_step({"view": np.zeros((32, 32, 3), np.uint8)})
    episode.close()
    (view,) = dataset.episodes
    from fogx.storage.tables.frames import read_frames

    blobs = read_frames(view._store, view._index.frames_of("view"), np.zeros(1_000, np.int64))
    assert len(blobs) == 1_000
    assert len({id(blob) for blob in blobs}) == 1


def varint(n: int) -> bytes:
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def deep_footer(depth: int) -> bytes:
    """Return a parquet file whose schema is so many groups inside each other."""
    group, leaf = b"\x35\x00\x18\x01g\x15\x02\x00", b"\x15\x02\x25\x00\x18\x01x\x00"
    schema = b"\x48\x01r\x15\x02\x00" + group * depth + leaf
    footer = b"\x15\x02\x19\xfc" + varint(depth + 2) + schema + b"\x16\x00\x19\x0c\x00"
    return b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1"


def test_the_deep_footer_is_one():
    with pytest.raises(OSError, match="schema depth limit"):
        pq.ParquetFile(pa.BufferReader(deep_footer(1_000)))
    assert pq.ParquetFile(pa.BufferReader(deep_footer(3))).metadata.num_columns == 1


@pytest.mark.parametrize(
    "pattern", ["episodes/*.parquet", "index/*.parquet", "steps/*/*.parquet", "segments/*.parquet", "*/_delta_log/*.parquet"]
)
def test_footers_nested_too_deep(hostile_child, small_root, copy_of, pattern):
    """These end the process in polars and delta-rs."""
    root = copy_of(small_root)
    for path in root.glob(pattern):
        path.write_bytes(deep_footer(20_000))
    refused(hostile_child, root, by="nested too deep")


def test_a_footer_too_large_to_parse(hostile_child, small_root, copy_of):
    root = copy_of(small_root)
    footer = b"\x15\x02\x19\x0c\x16\x00\x19\x0c\x00".ljust(2 << 20, b"\0")
    only(root, "steps/*/*.parquet").write_bytes(b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1")
    refused(hostile_child, root, by="its footer has 2097152 bytes")


def test_checkpoint(hostile_child, small_root, copy_of):
    root = copy_of(small_root)
    path = max(root.glob("episodes/_delta_log/*.checkpoint.parquet"))
    table = pq.ParquetFile(path).read()
    rows = table.to_pylist()
    next(row for row in rows if row["add"])["add"]["path"] = "x" * 100_000_000
    path.write_bytes(parquet(pa.Table.from_pylist(rows, schema=table.schema), use_dictionary=False))
    refused(hostile_child, root)


@pytest.mark.parametrize("sparse", [True, False])
def test_log_entry(hostile_child, small_root, copy_of, sparse):
    root = copy_of(small_root)
    newest = max((root / "episodes/_delta_log").glob("*.json"))
    path = newest.with_name(f"{int(newest.stem) + 1:020}.json")
    with path.open("wb") as file:
        if sparse:
            file.truncate(20 << 30)
        else:
            file.write(b'{"commitInfo": {"x": "' + b"a" * 20_000_000 + b'"}}')
    refused(hostile_child, root, by="log entries have")


def test_many_episodes_are_no_bomb():
    rows = 1_000_000
    numbers = np.arange(rows)
    table = pa.table(
        {
            "episode_id": pa.array([f"0193c4a5-{i:08x}-7bbb-8ccc-dddddddddddd" for i in range(rows)]),
            "dataset": pa.array(["bridge_dataset"]).take(pa.array(np.zeros(rows, np.int32))),
            "task": pa.array([f"put the {i} in the pot" for i in range(500)]).take(pa.array((numbers % 500).astype(np.int32))),
            "note": pa.array(["short"] * (rows - 1) + ["a long note " * 2_000]),
            **{f"n{i}": numbers * i for i in range(6)},
        }
    )
    data = parquet(table)
    assert len(data) < 50 << 20
    assert read_table(data, "many", Room()).num_rows == rows


def test_long_text_is_no_bomb():
    rng = np.random.default_rng(0)
    texts = [rng.bytes(20_000).hex() for _ in range(3_000)]
    data = parquet(pa.table({"text": texts, "same": ["word " * 20_000] * 3_000}))
    assert read_table(data, "long", Room()).num_rows == 3_000
