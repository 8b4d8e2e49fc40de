import json

import numpy as np
import pytest

from fogx.errors import CorruptDataError, MetadataError
from fogx.storage.tables.nested import decode_nested, encode_nested, split_metadata


def test_arrays_dicts_and_lists_come_back():
    given = {
        "intrinsics": np.array([[1.5, 0], [0, np.nan]], np.float16),
        "camera": {"depth_scale": 0.001, "size": [640, 480], "pose": np.eye(4)},
        "flags": [True, None, "x", np.int32(3)],
    }
    back = decode_nested(encode_nested(given))
    assert back["intrinsics"].dtype == np.float16
    assert back["intrinsics"].tobytes() == given["intrinsics"].tobytes()
    assert back["camera"]["pose"].tolist() == np.eye(4).tolist()
    assert back["flags"] == [True, None, "x", 3]


def test_split_keeps_scalars_apart():
    cells, nested = split_metadata({"a": 1, "b": [1], "c": np.array(2.5), "d": np.zeros(1)})
    assert list(cells) == ["a", "c"]
    assert list(nested) == ["b", "d"]


@pytest.mark.parametrize("value", [{"x": object()}, {1: 2}, np.array(["a"]), {"__array__": 1}, np.array([object()])])
def test_what_cannot_be_kept_names_its_key(value):
    with pytest.raises(MetadataError, match="camera"):
        encode_nested({"camera": value})


def test_no_object_arrays_from_data():
    text = json.dumps({"x": {"__array__": {"dtype": "object", "shape": [1], "data": "AAAA"}}})
    with pytest.raises(CorruptDataError):
        decode_nested(text)
