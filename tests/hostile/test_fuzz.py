"""Damaged files of every kind, and values that no writer gives: success or an error of fogx, within memory and time.

A process of its own reads them, so that a crash, a panic or a hang is seen as one. `HYPOTHESIS_PROFILE=long` looks twenty times as hard.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fogx.feature import Schema

EXAMPLES = settings(
    max_examples=max(settings.default.max_examples // 10, 5), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
"""For each of the 20 kinds."""

LARGEST_PEAK_MB = 160

FILES = {
    "table": "episodes/*.parquet",
    "log": "episodes/_delta_log/000000000000000000[2-9]*.json",
    "checkpoint": "episodes/_delta_log/*.parquet",
    "last checkpoint": "episodes/_delta_log/_last_checkpoint",
    "index": "index/*.parquet",
    "schema": "index/schemas/*.json",
    "steps": "steps/*/*.parquet",
    "frames": "frames/*/*.parquet",
    "about": "fogx.json",
}
RLDS = {"shard": "*.tfrecord*", "features": "features.json", "info": "dataset_info.json"}

ODD = [
    b"\x00",
    b"\xff" * 4,
    b"\x80\x80\x80\x80\x10",
    b"-1",
    b"null",
    b"[]",
    b"{}",
    b"1e999",
    b"9" * 20,
    b"NaN",
    b"\\ud800",
    b"../..",
]
ODD_JSON = [
    None,
    True,
    -1,
    0,
    1.5,
    2**31,
    10**20,
    "",
    "x",
    "../x",
    "\0",
    "é" * 300,
    [],
    [None],
    [10**9] * 3,
    {},
    {"a": 1},
    "[" * 3_000,
]

edits = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "splice", "repeat", "odd"]),
        st.floats(0, 1),  # where, of the whole file
        st.booleans(),  # or of its last 4 KB, where a footer lies
        st.integers(0, 255),
        st.integers(1, 64),
    ),
    min_size=1,
    max_size=4,
)


def damaged(data: bytes, edit: list[tuple[str, float, bool, int, int]]) -> bytes:
    """Apply edits to the bytes of a file."""
    for how, share, at_end, value, length in edit:
        size = len(data)
        span = min(size, 4_096) if at_end else size
        at = size - span + int(share * max(span - 1, 0))
        head, tail = data[:at], data[at:]
        match how:
            case "flip":
                data = head + bytes([tail[0] ^ (value or 1)]) + tail[1:] if tail else data
            case "cut":
                data = head
            case "insert":
                data = head + bytes([value]) * length + tail
            case "splice":
                data = head + tail[length:]
            case "repeat":
                data = head + tail[:length] + tail
            case "odd":
                odd = ODD[value % len(ODD)]
                data = head + odd + tail[len(odd) * (length % 2) :]
    return data


def nodes(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where every value of a JSON tree stands."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(where for key, value in inner for where in nodes(value, (*path, key)))]


def replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = replaced(copy[path[0]], path[1:], value)
    return copy


class Target:
    """Copies of one folder, one at a time."""

    def __init__(self, source: Path, folder: Path, ask: Callable[[Path], Any]) -> None:
        self.source = source
        self.folder = folder
        self._ask = ask

    def fresh(self) -> Path:
        shutil.rmtree(self.folder, ignore_errors=True)
        return Path(shutil.copytree(self.source, self.folder))

    def check(self) -> None:
        """Have the folder read, and refuse all but what is allowed."""
        outcome = self._ask(self.folder)
        assert outcome.findings == []
        assert outcome.peak_mb < LARGEST_PEAK_MB


@pytest.fixture
def root(small_root: Path, tmp_path: Path, hostile_child: Any) -> Target:
    return Target(small_root, tmp_path / "copy", lambda folder: hostile_child.ask(read=str(folder)))


@pytest.fixture
def rlds(small_rlds: Path, tmp_path: Path, hostile_child: Any) -> Target:
    def ask(folder: Path) -> Any:
        shutil.rmtree(tmp_path / "into", ignore_errors=True)
        return hostile_child.ask(load=str(folder), into=str(tmp_path / "into"))

    return Target(small_rlds, tmp_path / "copy", ask)


@pytest.mark.parametrize("kind", FILES)
@EXAMPLES
@given(which=st.integers(0, 99), edit=edits)
def test_damaged_bytes(root, kind, which, edit):
    files = sorted(root.fresh().glob(FILES[kind]))
    path = files[which % len(files)]
    path.write_bytes(damaged(path.read_bytes(), edit))
    root.check()


@pytest.mark.parametrize("kind", RLDS)
@EXAMPLES
@given(edit=edits)
def test_damaged_bytes_of_rlds(rlds, kind, edit):
    (path,) = rlds.fresh().glob(RLDS[kind])
    path.write_bytes(damaged(path.read_bytes(), edit))
    rlds.check()


@EXAMPLES
@given(data=st.data(), value=st.sampled_from(ODD_JSON))
def test_odd_values_in_the_log(root, data, value):
    newest = max(root.fresh().glob(FILES["log"]))
    lines = newest.read_text().splitlines()
    number = data.draw(st.integers(0, len(lines) - 1))
    tree = json.loads(lines[number])
    lines[number] = json.dumps(replaced(tree, data.draw(st.sampled_from(nodes(tree))), value))
    newest.write_text("\n".join(lines))
    root.check()


@pytest.mark.parametrize("kind", ["features", "info"])
@EXAMPLES
@given(data=st.data(), value=st.sampled_from(ODD_JSON))
def test_odd_values_in_rlds(rlds, kind, data, value):
    path = rlds.fresh() / RLDS[kind]
    tree = json.loads(path.read_text())
    path.write_text(json.dumps(replaced(tree, data.draw(st.sampled_from(nodes(tree))), value)))
    rlds.check()


@pytest.mark.parametrize("kind", ["table", "index", "steps", "frames"])
@EXAMPLES
@given(data=st.data(), which=st.integers(0, 99))
def test_odd_values_in_parquet(root, kind, data, which):
    """Whole files with good checksums, but values that no writer gives."""
    files = sorted(root.fresh().glob(FILES[kind]))
    path = files[which % len(files)]
    table = pq.ParquetFile(path).read()
    rows = table.to_pylist()
    where = data.draw(st.sampled_from([node for node in nodes(rows) if len(node) > 1 and len(node) < 6]))
    value = data.draw(st.sampled_from([*ODD_JSON, b"", b"\xff\xd8\xff", 2**31 - 1, 2**62, 1_000_000]))
    schema = pa.schema([field.with_nullable(True) for field in table.schema], metadata=table.schema.metadata)
    try:
        changed = pa.Table.from_pylist(replaced(rows, where, value), schema=schema)
    except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError):
        assume(False)
    pq.write_table(changed, path, compression="zstd")
    root.check()


@EXAMPLES
@given(
    data=st.data(), value=st.sampled_from([*ODD_JSON, "float32", "uint8", "str", "jpeg", "zstd", "bool", [3], [32, 32, 3], [0]])
)
def test_schemas_that_no_writer_gives(root, data, value):
    """The schema has the id that its content gives, and all rows name it."""
    folder = root.fresh()
    path = sorted(folder.glob(FILES["schema"]))[0]
    tree = json.loads(path.read_text())
    text = json.dumps(
        replaced(tree, data.draw(st.sampled_from(nodes(tree)[1:])), value), ensure_ascii=False, separators=(",", ":")
    )
    try:
        schema_id = Schema.from_json(text).schema_id
    except Exception:
        assume(False)
    (path.parent / f"{schema_id}.json").write_text(text)
    for file in [*folder.glob(FILES["table"]), *folder.glob(FILES["index"])]:
        table = pq.ParquetFile(file).read()
        ids = pa.array([schema_id if old == path.stem else old for old in table["schema_id"].to_pylist()])
        pq.write_table(table.set_column(table.column_names.index("schema_id"), table.schema.field("schema_id"), ids), file)
    root.check()
