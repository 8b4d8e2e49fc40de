import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogx.errors import MetadataError
from fogx.storage.log import rows


@pytest.mark.parametrize(
    "key",
    ["episode_id", "root", "duration_s", "NUM_STEPS", "_extra", "schema_id", "start_ns", "Success", "", "a\nb", "x" * 201, 3],
)
def test_reserved_and_unusable_keys(key):
    with pytest.raises(MetadataError):
        rows.check_metadata({key: 1})


@pytest.mark.parametrize(
    "metadata", [{"success": "yes"}, {"control_hz": "fast"}, {"split": 3}, {"x": object()}, {"x": 1 + 2j}, {"split": [1]}]
)
def test_values_that_no_cell_holds(metadata):
    with pytest.raises(MetadataError, match=next(iter(metadata))):
        rows.check_metadata(metadata)


def test_what_may_be_given():
    rows.check_metadata(
        {"success": np.True_, "control_hz": 30, "split": "val", "dataset": "x", "mine": None, "k": {"a": [1]}, "n": np.uint64(3)}
    )


@given(st.lists(st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3), max_size=12))
def test_no_value_is_lost_or_changed(values):
    """Each value is in its column, equal to what was given, or in `_extra`: never cast with loss, never refused."""
    fitted = rows.fit_cells(rows.BASE, [{"k": v} for v in values])
    column = pa.array([c.get("k") for c in fitted.cells], fitted.added.get("k", pa.null())).to_pylist()
    for value, cell, extra in zip(values, column, fitted.extra, strict=True):
        back = rows.extra_values(rows.extra_text(extra)).get("k", cell)
        if value is None:
            assert back is None
        elif value != value:
            assert back != back
        else:
            assert back == value
            assert isinstance(back, bool) == isinstance(value, bool)


@pytest.mark.parametrize(
    ("kind", "value", "wanted"),
    [
        (pa.int64(), 0.5, pa.float64()),
        (pa.int32(), 1 << 40, pa.int64()),
        (pa.float32(), 0.1, pa.float64()),
        (pa.float32(), 0.5, pa.float32()),
        (pa.int8(), np.int8(3), pa.int8()),
    ],
)
def test_numbers_widen_without_loss(kind, value, wanted):
    schema = rows.BASE.append(pa.field("k", kind))
    fitted = rows.fit_cells(schema, [{"k": value}])
    assert fitted.widened.get("k", kind) == wanted
    assert fitted.cells == [{"k": value}]


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [(pa.bool_(), "k", 0.5), (pa.int64(), "k", "text"), (pa.string(), "k", 1), (pa.float64(), "k", True), (pa.int64(), "K", 1)],
)
def test_clashes_are_kept_apart_with_one_warning(kind, key, value):
    schema = rows.BASE.append(pa.field("k", kind))
    fitted = rows.fit_cells(schema, [{key: value}, {key: value}])
    with pytest.warns(UserWarning, match=key) as caught:
        fitted.tell()
    assert len(caught) == 1
    assert fitted.cells == [{}, {}]
    assert json.loads(rows.extra_text(fitted.extra[1])) == {key: value}
