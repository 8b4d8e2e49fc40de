"""Structs of thrift's compact protocol: what is asked for is found, whatever lies between is passed over."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogx.storage.tables.thrift import INT, PLACE, TEXT, parse

NUMBERS = st.integers(-(2**63), 2**63 - 1)
FIXED = {3: st.binary(min_size=1, max_size=1), 7: st.binary(min_size=8, max_size=8)}
SIMPLE = st.one_of(
    st.tuples(st.sampled_from([1, 2]), st.none()),
    st.tuples(st.sampled_from([4, 5, 6]), NUMBERS),
    st.tuples(st.just(8), st.binary(max_size=200)),
    *(st.tuples(st.just(kind), values) for kind, values in FIXED.items()),
)


def _grown(inner):
    structs = st.dictionaries(st.integers(1, 40), inner, max_size=5)
    elements = st.one_of(
        st.tuples(st.just(5), st.lists(NUMBERS, max_size=20)),
        st.tuples(st.just(8), st.lists(st.binary(max_size=140), max_size=4)),
        st.tuples(st.just(1), st.lists(st.none(), max_size=4)),
        st.tuples(st.just(12), st.lists(structs, max_size=6)),
    )
    return st.one_of(SIMPLE, st.tuples(st.just(9), elements), st.tuples(st.just(12), structs))


FIELDS = st.dictionaries(st.integers(1, 40), st.recursive(SIMPLE, _grown, max_leaves=12), max_size=8)


def _varint(value):
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def _encoded(kind, value):
    if kind in (4, 5, 6):
        return _varint((value << 1) ^ (value >> 63) if value < 0 else value << 1)
    if kind == 8:
        return _varint(len(value)) + value
    if kind == 9:
        element, items = value
        head = bytes([len(items) << 4 | element]) if len(items) < 15 else bytes([0xF0 | element]) + _varint(len(items))
        return head + b"".join(b"\1" if element == 1 else _encoded(element, item) for item in items)
    if kind == 12:
        return _struct(value)
    return value or b""


def _struct(fields):
    data, last = b"", 0
    for number, (kind, value) in sorted(fields.items()):
        step = number - last
        data += bytes([step << 4 | kind]) if step < 16 else bytes([kind]) + _encoded(5, number)
        data, last = data + _encoded(kind, value), number
    return data + b"\0"


@given(FIELDS, st.sets(st.integers(1, 40)), st.binary(max_size=3))
def test_fields_that_are_asked_for(fields, wanted, before):
    specs = {4: INT, 5: INT, 6: INT, 8: TEXT, 12: PLACE}
    spec = {n: specs[kind] for n, (kind, _) in fields.items() if n in wanted and kind in specs}
    data = before + _struct(fields)
    found, end = parse(data + b"more", spec, len(before))
    assert end == len(data)
    assert found.keys() == spec.keys()
    for number, value in found.items():
        kind, expected = fields[number]
        if kind == 12:  # found again where it is said to be
            assert data[value:].startswith(_struct(expected))
        else:
            assert value == expected
    for stop in range(len(before), len(data)):
        with pytest.raises((IndexError, ValueError)):
            parse(data[:stop], spec, len(before))


def test_lists_and_structs_within():
    fields = {1: (9, (12, [{3: (5, 7), 4: (8, b"x")}, {4: (8, b"y")}])), 2: (12, {1: (5, -1)})}
    found, _ = parse(_struct(fields), {1: [{3: INT}], 2: {1: INT}})
    assert found == {1: [{3: 7}, {}], 2: {1: -1}}


def test_a_million_fields_are_passed_over_in_little_memory():
    fields = b"\x15\2" * 1_000_000
    tracemalloc.start()
    try:
        assert parse(fields + b"\0", {}) == ({}, 2_000_001)
        assert parse(b"\x1c" + fields + b"\0\0", {}) == ({}, 2_000_003)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
