"""The part of thrift's compact protocol that parquet's footers and page headers are written in.

pyarrow parses them too, but asking it for a column of a damaged footer ends the process (abort, 26.0), so what is needed to judge a
file is read here. Whatever is not asked for is passed over and takes no memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

INT, TEXT, PLACE = "int", "text", "place"

Spec = Mapping[int, Any]
"""Field number → `INT`, `TEXT`, the spec of a struct, or a list of one of these; or `PLACE`: where a struct begins, which is passed
over, as fields are that are not in the spec."""

_DEEPEST = 32
_BOOLS, _BYTE, _INTS, _BINARY, _LISTS, _STRUCT = (1, 2), 3, (4, 5, 6), 8, (9, 10), 12
_SIZES = {_BYTE: 1, 7: 8}


def _heads(*kinds: int) -> bytes:
    """Return a pattern of the bytes that fields begin with, but for those that give their number in full."""
    return b"[%s]" % re.escape(bytes(step << 4 | kind for step in range(1, 16) for kind in kinds))


def _lists(kinds: tuple[int, ...], element: bytes, most: int) -> bytes:
    """Return a pattern of lists of up to so many elements."""
    starts = (re.escape(bytes(count << 4 | kind for kind in kinds)) for count in range(most + 1))
    return b"%s(?:%s)" % (_heads(9), b"|".join(b"[%s](?:%s){%d}" % (start, element, n) for n, start in enumerate(starts)))


_VARINT = rb"[\x80-\xff]*+[\x00-\x7f]"
_PLAIN = b"%s|%s%s|%s" % (_heads(*_BOOLS), _heads(*_INTS), _VARINT, _lists(_INTS, _VARINT, 14))
_PLAIN_STRUCT = b"(?:%s){0,64}+\x00" % _PLAIN
_PASSED = b"%s|%s%s|%s" % (_PLAIN, _heads(_STRUCT), _PLAIN_STRUCT, _lists((_STRUCT,), _PLAIN_STRUCT, 4))

_pass = re.compile(b"(?:%s){0,64}+" % _PASSED).match
"""Finds the end of fields that hold numbers, or short lists and structs of numbers: nearly all of a footer that is passed over."""


def parse(data: bytes, spec: Spec, at: int = 0) -> tuple[dict[int, Any], int]:
    """Return the fields of the struct that bytes hold from a position on, and where it ends.

    Raises:
        IndexError: The bytes end before the struct does.
        ValueError: They are no such struct: another type than the spec's, a field given twice, or nested too deep.
    """
    return _struct(data, at, spec, 0)


def _struct(data: bytes, at: int, spec: Spec, depth: int) -> tuple[dict[int, Any], int]:
    if depth > _DEEPEST:
        raise ValueError("it is nested too deep")
    fields: dict[int, Any] = {}
    number = 0
    while True:
        head = data[at]
        at += 1
        kind = head & 15
        if kind == 0:
            return fields, at
        if head >> 4:
            number += head >> 4
        else:
            number, at = _int(data, at)
        if number not in spec:
            at = at if kind in _BOOLS else _skipped(data, at, kind, depth)
        elif number in fields:
            raise ValueError(f"field {number} is given twice")
        else:
            fields[number], at = _value(data, at, kind, spec[number], depth)


def _value(data: bytes, at: int, kind: int, wanted: Any, depth: int) -> tuple[Any, int]:
    if wanted is INT and kind in _INTS:
        return _int(data, at)
    if wanted is TEXT and kind == _BINARY:
        stop, at = _end(data, at)
        return data[at:stop], stop
    if isinstance(wanted, dict) and kind == _STRUCT:
        return _struct(data, at, wanted, depth + 1)
    if wanted is PLACE and kind == _STRUCT:
        return at, _skipped(data, at, kind, depth)
    if isinstance(wanted, list) and kind in _LISTS:
        count, element, at = _list(data, at)
        items = []
        for _ in range(count):
            item, at = _value(data, at, element, wanted[0], depth + 1)
            items.append(item)
        return items, at
    raise ValueError(f"a field is of type {kind}")


def _skipped(data: bytes, at: int, kind: int, depth: int) -> int:
    """Pass over a value."""
    if kind in _INTS:
        while data[at] & 0x80:
            at += 1
        return at + 1
    if kind == _BINARY:
        return _end(data, at)[0]
    if kind == _STRUCT and depth < _DEEPEST:
        while True:
            at = _pass(data, at).end()  # type: ignore[union-attr]  # nothing is a match too
            kind, step = data[at] & 15, data[at] >> 4
            at += 1
            if kind == 0:
                return at
            if not step:
                at = _varint(data, at)[1]
            if kind == _BINARY:
                at += data[at] + 1 if data[at] < 0x80 else _end(data, at)[0] - at
            elif kind not in _BOOLS:  # said by the type
                at = _skipped(data, at, kind, depth + 1)
    if kind in _LISTS and depth < _DEEPEST:
        count, element, at = _list(data, at)
        element = _BYTE if element in _BOOLS else element
        if count > len(data):  # each takes a byte or more
            raise ValueError("a list is longer than its bytes")
        if element == _BINARY:
            for _ in range(count):  # past the end there is no next byte
                at += data[at] + 1 if data[at] < 0x80 else _end(data, at)[0] - at
        else:
            for _ in range(count):
                at = _skipped(data, at, element, depth + 1)
        return at
    if kind in _SIZES and at + _SIZES[kind] <= len(data):
        return at + _SIZES[kind]
    # Parquet has no maps.
    raise ValueError(f"a field is of type {kind}, or nested too deep")


def _list(data: bytes, at: int) -> tuple[int, int, int]:
    head = data[at]
    at += 1
    if head >> 4 == 15:
        count, at = _varint(data, at)
        return count, head & 15, at
    return head >> 4, head & 15, at


def _end(data: bytes, at: int) -> tuple[int, int]:
    length, at = _varint(data, at)
    if at + length > len(data):
        raise IndexError
    return at + length, at


def _int(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    at += 1
    if byte < 0x80:
        return byte, at
    value, shift = byte & 0x7F, 7
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                raise ValueError("a number has more than 64 bits")
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number has no end")
