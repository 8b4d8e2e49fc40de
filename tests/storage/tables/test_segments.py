"""Files of segments: what is written is read, what no writer gives is refused, steps follow from times."""

import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogx.errors import CorruptDataError, SegmentError
from fogx.protocols import Segment
from fogx.storage.files.store import Store
from fogx.storage.tables import segments as tables
from fogx.storage.tables.segments import (
    SCHEMA,
    check_label,
    check_value,
    in_order,
    label_ranges,
    read_segments,
    segments_of,
    steps_of,
    write_segments,
)


def _rows(files, num_steps=100):
    ids = list(files)
    return pa.table(
        {
            "episode_id": pa.array(ids, pa.string()),
            "num_steps": pa.array([num_steps] * len(ids), pa.int64()),
            "segments_file": pa.array(list(files.values()), pa.string()),
        }
    )


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)


@st.composite
def _segments(draw, steps=100):
    start, stop = sorted((draw(st.integers(0, steps)), draw(st.integers(0, steps))))
    start_ns, stop_ns = draw(st.none() | st.integers(-50, 50)), draw(st.none() | st.integers(51, 90))
    return Segment(draw(st.sampled_from(["a", "b", "é c"])), start, stop, start_ns, stop_ns, draw(VALUES), "annotate:x")


@given(st.dictionaries(st.sampled_from(["e1", "e2", "e3", "e9"]), st.lists(_segments(), min_size=1, max_size=5)))
def test_what_is_written_is_read(tmp_path_factory, given_segments):
    store = Store(tmp_path_factory.mktemp("root"))
    pointer = write_segments(store, given_segments)
    rows = _rows({**dict.fromkeys(given_segments, pointer), "e5": None}).take([*reversed(range(len(given_segments) + 1))])
    table = read_segments(store, rows)
    assert table["number"].to_pylist() == sorted(table["number"].to_pylist())
    assert segments_of(table) == {i: in_order(segments) for i, segments in given_segments.items()}
    types = {i: [type(s.value) for s in segments] for i, segments in segments_of(table).items()}
    assert types == {i: [type(s.value) for s in in_order(segments)] for i, segments in given_segments.items()}
    only = segments_of(read_segments(store, rows, "a"))
    assert only == {i: kept for i, all_ in given_segments.items() if (kept := [s for s in in_order(all_) if s.label == "a"])}


def test_only_row_groups_of_the_episodes_are_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_ROW_GROUP_ROWS", 2)
    store = Store(tmp_path)
    pointer = write_segments(store, {f"e{i}": [Segment("a", 0, i + 1)] * 2 for i in range(9)})
    read = []
    real = tables.GuardedParquet.read
    monkeypatch.setattr(
        tables.GuardedParquet, "read", lambda self, groups, *rest: read.append(groups) or real(self, groups, *rest)
    )
    assert read_segments(store, _rows({"e3": pointer, "e4": pointer}))["stop_step"].to_pylist() == [4, 4, 5, 5]
    assert read == [[3, 4]]


@given(
    times=st.lists(st.integers(-5, 5), max_size=12),
    start=st.none() | st.integers(-7, 7),
    stop=st.none() | st.integers(-7, 7),
    falling=st.booleans(),
)
def test_steps_are_those_whose_times_lie_in_it(times, start, stop, falling):
    if start is not None and stop is not None and stop <= start:
        return
    times = times if falling else sorted(times)
    (made,) = steps_of([Segment("a", 3, 4, start, stop)], np.array(times, np.int64))
    inside = [i for i, t in enumerate(times) if (start is None or t >= start) and (stop is None or t < stop)]
    steps = list(range(made.start_step, made.stop_step))
    assert 0 <= made.start_step <= made.stop_step <= len(times)
    if not falling:
        assert steps == inside
    assert set(inside) <= set(steps)
    assert bool(steps) == bool(inside)
    if inside:
        assert (steps[0], steps[-1]) == (inside[0], inside[-1])


@given(
    st.lists(st.tuples(st.sampled_from(["e1", "e2"]), st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 5)), max_size=8)
)
def test_ranges_of_a_label(tmp_path_factory, parts):
    store = Store(tmp_path_factory.mktemp("root"))
    held, expected = {}, {"e1": set(), "e2": set(), "e3": set()}
    for episode_id, label, start, length in parts:
        held.setdefault(episode_id, []).append(Segment(label, start, start + length))
        expected[episode_id] |= set(range(start, start + length)) if label == "a" else set()
    files = dict.fromkeys(held, write_segments(store, held)) if held else {}
    found = label_ranges(store, _rows({**dict.fromkeys(expected), **files}), "a")
    for ranges, steps in zip(found, expected.values(), strict=True):
        assert ranges.dtype == np.int64
        assert ranges.shape[1:] == (2,)
        assert (ranges[:, 0] < ranges[:, 1]).all()
        assert (ranges[1:, 0] > ranges[:-1, 1]).all()
        assert [s for start, stop in ranges for s in range(start, stop)] == sorted(steps)


def test_ranges_are_read_without_what_no_worker_may_load(tmp_path):
    pointer = write_segments(Store(tmp_path), {"e1": [Segment("a", 2, 5)]})
    code = f"""
        import sys
        import pyarrow as pa
        from fogx.storage.files.store import Store
        from fogx.storage.tables.segments import label_ranges
        rows = pa.Table.from_arrays(
            [pa.array(["e0", "e1"]), pa.array([9, 9]), pa.array([None, {pointer!r}])], ["episode_id", "num_steps", "segments_file"]
        )
        print([r.tolist() for r in label_ranges(Store({str(tmp_path)!r}), rows, "a")])
        assert not {{"pandas", "polars", "deltalake"}} & set(sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.stdout == "[[], [[2, 5]]]\n", done.stderr


@pytest.mark.parametrize("label", ["", " ", "a\nb", "\ud800", "x" * 201, None, 3, b"a"])
def test_labels_that_cannot_be(label):
    with pytest.raises(SegmentError, match="1–200 printable characters"):
        check_label(label)


@pytest.mark.parametrize("value", [[1], {"a": 1}, b"x", 2**63, "\ud800", np.zeros(1), 1j])
def test_values_that_cannot_be(value):
    with pytest.raises(SegmentError, match="the value of a segment"):
        check_value(value)


def test_numpy_scalars_are_values():
    assert [check_value(np.float32(0.5)), check_value(np.int8(3)), check_value(np.bool_(True)), check_value(np.str_("a"))] == [
        0.5,
        3,
        True,
        "a",
    ]


def _write(store, **columns):
    """Write a file as no writer does."""
    pointer = write_segments(store, {"e1": [Segment("a", 1, 2, 10, 20, "v")]})
    row = pq.ParquetFile(store.path(pointer)).read().to_pylist()[0] | columns
    schema = pa.schema([f.with_nullable(True) for f in SCHEMA])
    pq.write_table(pa.Table.from_pylist([row], schema=schema), store.path(pointer))
    return pointer


@pytest.mark.parametrize(
    ("columns", "by"),
    [
        ({"start_step": -1}, "within the steps"),
        ({"start_step": 3}, "within the steps"),
        ({"stop_step": 101}, "within the steps"),
        ({"stop_ns": 10}, "stops before it starts"),
        ({"label": ""}, "empty label"),
        ({"label": None}, "null values"),
        ({"source": None}, "null values"),
        ({"start_step": None}, "null values"),
        ({"episode_id": "e2"}, "no segments of 1 of the 1 episodes"),
        ({"episode_id": None}, "null values"),
    ],
)
def test_what_no_writer_gives_is_refused(tmp_path, columns, by):
    store = Store(tmp_path)
    pointer = _write(store, **columns)
    with pytest.raises(CorruptDataError, match=by):
        read_segments(store, _rows({"e1": pointer}))


@pytest.mark.parametrize("value", ["[1]", "{", "[" * 100_000, "1" * 100, '"\\ud800"'])
def test_values_that_no_writer_gives_are_refused(tmp_path, value):
    store = Store(tmp_path)
    table = read_segments(store, _rows({"e1": _write(store, value=value)}))
    with pytest.raises(CorruptDataError, match="the value of a segment"):
        segments_of(table)


def test_other_files_are_refused(tmp_path):
    store = Store(tmp_path)
    pointer = _write(store)
    pq.write_table(pa.table({"episode_id": ["e1"], "label": ["a"]}), store.path(pointer))
    with pytest.raises(CorruptDataError, match="is not readable"):
        read_segments(store, _rows({"e1": pointer}))
    with pytest.raises(CorruptDataError, match="not a name fogx gives"):
        read_segments(store, _rows({"e1": "segments/../x.parquet"}))
    store.remove([pointer])
    with pytest.raises(CorruptDataError, match="is not there"):
        read_segments(store, _rows({"e1": pointer}))
