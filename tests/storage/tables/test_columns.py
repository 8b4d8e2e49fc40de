import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fogx.feature import NUMERIC_DTYPES, Feature
from fogx.protocols import Column
from fogx.storage.tables.columns import arrow_type, from_arrow, to_arrow


def _same(a, b):
    """Equal to the bit, NaN payloads and signs of zero too."""
    if a.dtype == object:
        return len(a) == len(b) and all(
            _same(np.asarray(x), np.asarray(y)) if isinstance(x, np.ndarray) else x == y
            for x, y in zip(a.flat, b.flat, strict=True)
        )
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _through_parquet(array, tmp):
    pq.write_table(pa.table({"x": array}), tmp)
    return pq.read_table(tmp)["x"]


@st.composite
def columns(draw):
    dtype = draw(st.sampled_from(NUMERIC_DTYPES))
    shape = draw(st.sampled_from([(), (1,), (3,), (2, 3), (2, 1, 2), (0,), (2, 0)]))
    rows = draw(st.integers(0, 6))
    values = draw(hnp.arrays(np.uint8, (rows, *shape, np.dtype(dtype).itemsize)))
    values = values[..., 0] % 2 == 1 if dtype == "bool" else np.ascontiguousarray(values).view(dtype).reshape(rows, *shape)
    valid = draw(st.none() | hnp.arrays(bool, rows))
    return Feature(dtype, shape), Column(values, valid)


@given(columns())
def test_numbers_come_back_bit_for_bit(tmp_path_factory, case):
    feature, column = case
    array = to_arrow(column, feature)
    assert array.type == arrow_type(feature)
    back = from_arrow(_through_parquet(array, tmp_path_factory.mktemp("t") / "x.parquet"), feature)
    mask = np.ones(len(column.values), bool) if column.valid is None else column.valid
    back_mask = np.ones(len(mask), bool) if back.valid is None else back.valid
    assert mask.tolist() == back_mask.tolist()
    assert _same(column.values[mask], back.values[mask])
    assert back.values.dtype == feature.dtype
    assert back.values.shape == column.values.shape


@given(columns(), st.data())
def test_slices_come_back_right(case, data):
    feature, column = case
    rows = len(column.values)
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    back = from_arrow(to_arrow(column, feature).slice(start, stop - start), feature)
    mask = slice(None) if column.valid is None else column.valid[start:stop]
    assert _same(column.values[start:stop][mask], back.values[mask])


@pytest.mark.parametrize("dtype", ["str", "bytes"])
@pytest.mark.parametrize("shape", [(), (2,), (0,)])
def test_text_and_bytes(tmp_path, dtype, shape):
    word = "aé\0" if dtype == "str" else b"\xff\0"
    values = np.empty((3, *shape), dtype=object)
    values[...] = word
    feature = Feature(dtype, shape)
    column = Column(values, np.array([True, False, True]))
    back = from_arrow(_through_parquet(to_arrow(column, feature), tmp_path / "x"), feature)
    assert back.valid.tolist() == [True, False, True]
    assert back.values.shape == values.shape
    assert _same(back.values[column.valid], values[column.valid])


@pytest.mark.parametrize("shape", [(None,), (None, 3), (2, None)])
@pytest.mark.parametrize("dtype", ["float16", "int32", "bool", "str"])
def test_varying_shapes(tmp_path, shape, dtype):
    values = np.empty(4, dtype=object)
    for i, n in enumerate([0, 2, 1, 3]):
        full = tuple(n if d is None else d for d in shape)
        numbers = np.arange(np.prod(full)).reshape(full)
        values[i] = numbers.astype(str).astype(object) if dtype == "str" else numbers.astype(dtype)
    feature = Feature(dtype, shape)
    back = from_arrow(_through_parquet(to_arrow(Column(values, np.array([1, 1, 0, 1], bool)), feature), tmp_path / "x"), feature)
    assert back.valid.tolist() == [True, True, False, True]
    for i in (0, 1, 3):
        assert back.values[i].shape == values[i].shape
        assert _same(back.values[i], values[i])
