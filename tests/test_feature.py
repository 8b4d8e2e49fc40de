from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogx.errors import FeatureError, FeatureNotFoundError
from fogx.feature import DTYPES, STEP_KEYS, Feature, Schema, check_feature_name, role_of

dims: st.SearchStrategy[list[int | None]] = st.lists(st.integers(0, 9), max_size=4)
texts = st.none() | st.text(max_size=12)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int | None, ...]:
    shape = draw(dims)
    varying = draw(st.none() | st.integers(0, 3))
    if varying is not None and varying < len(shape):
        shape[varying] = None
    return tuple(shape)


@st.composite
def features(draw: st.DrawFn) -> Feature:
    dtype, shape = draw(st.none() | st.sampled_from(DTYPES)), draw(st.none() | shapes())
    elements = shape[0] if shape else None
    return Feature(
        dtype,
        shape,
        names=draw(st.none() | st.just(tuple(f"joint {i}" for i in range(elements or 0)))) if shape else None,
        camera=draw(st.sampled_from([None, "png"] + (["jpeg"] if dtype in (None, "uint8") else []))),
        encoding=draw(st.sampled_from([None, "jpeg", "png", "zstd"])),
        **{name: draw(texts) for name in ("unit", "space", "frame", "rotation", "gripper", "doc")},
    )


schemas = st.builds(
    Schema,
    st.dictionaries(st.text(min_size=1, max_size=12), features(), max_size=5),
    st.dictionaries(st.text(max_size=12), st.tuples(st.text(max_size=12), features()), max_size=2),
)


@given(features())
def test_a_feature_comes_back_from_json(feature: Feature) -> None:
    assert Feature.from_dict(json.loads(json.dumps(feature.to_dict()))) == feature


@given(schemas)
def test_a_schema_comes_back_from_json_in_order(schema: Schema) -> None:
    back = Schema.from_json(schema.json)
    assert back == schema
    assert list(back.items()) == list(schema.items())
    assert list(back.episode_fields.items()) == list(schema.episode_fields.items())
    assert hash(back) == hash(schema)


def test_keys_of_later_versions_are_ignored() -> None:
    assert Feature.from_dict({"dtype": "int8", "shape": [3], "unheard_of": 1}) == Feature("int8", (3,))


def test_the_schema_id_knows_order_and_every_detail() -> None:
    a, b = Feature("float32", (7,)), Feature("uint8", ())
    schema = Schema({"a": a, "b": b})
    assert len(schema.schema_id) == 32
    others = [
        Schema({"b": b, "a": a}),
        Schema({"a": a}),
        Schema({"a": a, "c": b}),
        Schema({"a": Feature("float64", (7,)), "b": b}),
        Schema({"a": Feature("float32", (7,), unit="m"), "b": b}),
        Schema({"a": a, "b": b}, {"e": ("e", b)}),
    ]
    assert len({schema.schema_id, *(other.schema_id for other in others)}) == 7
    assert schema not in others


def test_the_schema_id_is_the_same_in_every_release() -> None:
    # Stored data is looked up by it.
    schema = Schema(
        {"action": Feature("float32", (7,), names=tuple("xyzrpwg")), "observation/image": Feature("uint8", (8, 8, 3))}
    )
    assert schema.schema_id == "2fcf26cb4e0c37fe5875af9dfcd8ee66"


def test_a_schema_reads_like_a_mapping() -> None:
    schema = Schema({"action": Feature("float32", (7,)), "image": Feature("uint8", (4, None, 3), encoding="jpeg")})
    assert list(schema) == ["action", "image"]
    assert len(schema) == 2
    assert "action" in schema
    assert schema["action"].dtype == "float32"
    assert repr(schema) == "Schema(action: float32(7), image: uint8(4×?×3) jpeg)"
    assert schema != {"action": Feature("float32", (7,))}


def test_an_unknown_feature_is_named_with_those_there_are() -> None:
    with pytest.raises(FeatureNotFoundError) as caught:
        _ = Schema({"action": Feature(), "reward": Feature()})["actoin"]
    assert str(caught.value) == "no feature 'actoin'; there are: action, reward. Did you mean 'action'?"


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (np.uint8, "uint8"),
        (np.dtype("f4"), "float32"),
        (float, "float64"),
        (bool, "bool"),
        (str, "str"),
        (bytes, "bytes"),
        ("str", "str"),
    ],
)
def test_dtypes_are_kept_by_name(dtype: Any, name: str) -> None:
    assert Feature(dtype).dtype == name


@pytest.mark.parametrize("dtype", ["float31", "complex64", object, "datetime64[ns]", "", 7])
def test_other_dtypes_are_refused(dtype: Any) -> None:
    with pytest.raises(FeatureError, match="is not one a feature can have; use one of: bool, int8"):
        Feature(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_that_is_offered_works(dtype: str) -> None:
    assert Feature(dtype).dtype == dtype


@pytest.mark.parametrize(
    ("shape", "kept"), [([2, 3], (2, 3)), (np.zeros((4, 5)).shape, (4, 5)), ((None, 3), (None, 3)), (7, (7,)), ((), ())]
)
def test_shapes_are_kept_as_tuples(shape: Any, kept: tuple[int | None, ...]) -> None:
    assert Feature("uint8", shape).shape == kept


@pytest.mark.parametrize("shape", [(-1,), (None, None), "ab", ("a",), object()])
def test_other_shapes_are_refused(shape: Any) -> None:
    with pytest.raises(FeatureError, match="shape"):
        Feature("uint8", shape)


@pytest.mark.parametrize(
    ("declared", "complaint"),
    [
        ({"shape": (3,), "names": ("x", "y")}, "names has 2 entries, the first dimension of shape (3,) has 3."),
        ({"camera": "webp"}, "camera='webp' is not a codec; use 'jpeg' (lossy), 'png' (lossless) or None."),
        ({"dtype": "uint16", "camera": "jpeg"}, "camera='jpeg' holds uint8 only, dtype is uint16; use camera='png'."),
    ],
)
def test_a_declaration_must_agree_with_itself(declared: dict[str, Any], complaint: str) -> None:
    with pytest.raises(FeatureError) as caught:
        Feature(**declared)
    assert str(caught.value) == complaint


def test_names_are_free_where_the_first_dimension_varies() -> None:
    assert Feature("float32", (None,), names=("x", "y")).names == ("x", "y")


@pytest.mark.parametrize(
    ("encoding", "in_frames", "is_image"),
    [(None, False, False), ("zstd", True, False), ("png", True, True), ("jpeg", True, True)],
)
def test_where_values_live(encoding: str | None, in_frames: bool, is_image: bool) -> None:
    feature = Feature("uint8", (8,), encoding=encoding)
    assert (feature.in_frames, feature.is_image) == (in_frames, is_image)


@pytest.mark.parametrize(("shape", "varies"), [(None, False), ((), False), ((3,), False), ((3, None), True)])
def test_whether_the_shape_varies(shape: tuple[int | None, ...] | None, varies: bool) -> None:
    assert Feature("uint8", shape).is_variable is varies


@given(features(), features())
def test_a_declaration_wins_field_by_field(declared: Feature, seen: Feature) -> None:
    try:
        both = declared.declared_over(seen)
    except FeatureError:
        return  # the two contradict each other
    for name, value in both.to_dict().items():
        assert value == declared.to_dict().get(name, seen.to_dict().get(name))
    assert both.to_dict().keys() == declared.to_dict().keys() | seen.to_dict().keys()


@pytest.mark.parametrize(
    ("feature", "text", "shown"),
    [
        (Feature("float32", (7,)), "float32(7)", "Feature(dtype='float32', shape=(7,))"),
        (Feature("str", ()), "str", "Feature(dtype='str', shape=())"),
        (
            Feature("uint8", (4, None, 3), encoding="png"),
            "uint8(4×?×3) png",
            "Feature(dtype='uint8', shape=(4, None, 3), encoding='png')",
        ),
        (Feature(unit="m"), "None", "Feature(unit='m')"),
    ],
)
def test_a_feature_shows_what_is_set(feature: Feature, text: str, shown: str) -> None:
    assert feature.describe() == text
    assert repr(feature) == shown
    assert eval(shown) == feature


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("action", "action"),
        ("action/gripper", "action"),
        ("actions", "observation"),
        ("observation/image", "observation"),
        ("arm_view", "observation"),
        ("reward", "signal"),
        ("is_last", "signal"),
        ("language_instruction", "language"),
        ("observation/natural_language_instruction", "language"),
        ("observation/language_embedding", "language"),
    ],
)
def test_the_prefix_gives_the_role(name: str, role: str) -> None:
    assert role_of(name) == role


@pytest.mark.parametrize("name", ["action", "observation/wrist image", "a.b", "手", "x" * 200])
def test_usable_names(name: str) -> None:
    assert check_feature_name(name) == name


@pytest.mark.parametrize("name", ["", "/", "a/", "/a", "a//b", "a\nb", "a\x00", "x" * 201, *STEP_KEYS])
def test_unusable_names(name: str) -> None:
    with pytest.raises(FeatureError, match="feature name"):
        check_feature_name(name)


def test_a_name_is_a_str() -> None:
    with pytest.raises(FeatureError, match="a feature name is a str, not int"):
        check_feature_name(3)
