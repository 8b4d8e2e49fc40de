"""Ranges of local files: each as it is in its file, in the order that was asked for, whatever was read together."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogx.errors import CorruptDataError
from fogx.storage.files.ranges import RangeReader
from fogx.storage.files.store import Store

SIZE = 40_000


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A root with two data files, and what is in them."""
    root = tmp_path_factory.mktemp("ranges")
    contents = [np.random.default_rng(number).integers(0, 256, SIZE, np.uint8).tobytes() for number in range(2)]
    names = [f"steps/dataset=a/{number:032x}.parquet" for number in range(2)]
    for name, content in zip(names, contents, strict=True):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return Store(str(root)), names, contents


def read(reader, names, ranges):
    file, starts, lengths = (np.array([entry[part] for entry in ranges], np.int64) for part in range(3))
    return reader.read(names, file, starts, lengths)


near = st.tuples(st.integers(0, 1), st.integers(0, 600), st.integers(0, 300))
anywhere = st.tuples(st.integers(0, 1), st.integers(0, SIZE - 9_000), st.integers(0, 9_000))


@given(ranges=st.lists(st.one_of(near, anywhere), max_size=30), announces=st.booleans())
def test_each_is_as_it_is_in_its_file(lab, ranges, announces):
    store, names, contents = lab
    with pytest.MonkeyPatch.context() as patch:
        if not announces:
            patch.delattr(os, "posix_fadvise", raising=False)  # as on macOS
        found = read(RangeReader(store), names, ranges)
    assert found == [contents[file][start : start + length] for file, start, length in ranges]
    assert {type(data) for data in found} <= {bytes}


@pytest.mark.parametrize("wrong", [(0, SIZE - 1, 2), (1, SIZE + 5, 1), (0, 2**62, 9), (0, 0, 2**62)])
def test_a_file_that_is_too_short_is_named(lab, wrong):
    store, names, _ = lab
    with pytest.raises(CorruptDataError, match=f"{names[wrong[0]]} is shorter than its index says"):
        read(RangeReader(store), names, [(0, 10, 10), wrong])


def test_a_file_that_is_gone_is_named(lab):
    store, _, _ = lab
    name = f"steps/dataset=a/{9:032x}.parquet"
    with pytest.raises(CorruptDataError, match=name):
        read(RangeReader(store), [name], [(0, 0, 1)])


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="macOS has no such call")
def test_neighbours_are_announced_together_and_read_by_themselves(lab, monkeypatch):
    store, names, contents = lab
    calls = []
    for name in ("posix_fadvise", "pread"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *given, name=name, real=real: calls.append((name, given[1:3])) or real(*given))
    found = read(RangeReader(store), names, [(0, 5_000, 5_000), (0, 0, 5_000), (0, 30_000, 100), (0, 30_100, 100)])
    assert found == [contents[0][start:stop] for start, stop in ((5_000, 10_000), (0, 5_000), (30_000, 30_100), (30_100, 30_200))]
    assert calls == [
        *(("posix_fadvise", run) for run in ((0, 10_000), (30_000, 200))),
        *(("pread", run) for run in ((5_000, 0), (5_000, 5_000), (200, 30_000))),
    ]
