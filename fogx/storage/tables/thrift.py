"""Structs of thrift's compact protocol, which parquet's footers and page headers are written in: ints, lists and structs.

The parsers that libraries have show no field that they do not use, and some end the process where a field is odd.
"""

from __future__ import annotations

from typing import Any

_DEEPEST = 16
_BYTE, _DOUBLE, _BINARY, _LIST, _STRUCT = 3, 7, 8, 9, 12


def read_struct(data: bytes, at: int = 0, *, bits: int = 64, depth: int = 0) -> tuple[dict[int, Any], int]:
    """Return the fields of a struct by number, and where it ends. Bools, bytes, doubles and texts come as `None`.

    Args:
        data: The bytes.
        at: Where the struct begins.
        bits: Largest size of an int.
        depth: How many structs it lies in.

    Raises:
        IndexError: The data end before the struct does.
        ValueError: Not thrift, too deep, or an int too large.
    """
    if depth > _DEEPEST:
        raise ValueError("a struct is nested too deep")
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
            number, at = _int(data, at, bits)
        if number in fields:
            raise ValueError(f"a struct gives field {number} twice")
        if kind in (1, 2):  # a bool, said by its type
            fields[number] = None
        else:
            fields[number], at = _value(data, at, kind, bits, depth)


def _value(data: bytes, at: int, kind: int, bits: int, depth: int) -> tuple[Any, int]:
    if kind in (4, 5, 6):
        return _int(data, at, bits)
    if kind == _STRUCT:
        return read_struct(data, at, bits=bits, depth=depth + 1)
    if kind == _LIST:
        return _list(data, at, bits, depth)
    if kind in (1, 2, _BYTE):
        return None, at + 1
    if kind == _DOUBLE:
        return None, at + 8
    if kind == _BINARY:
        length, at = _varint(data, at, 31)
        if at + length > len(data):
            raise IndexError
        return None, at + length
    raise ValueError(f"a struct has a field of type {kind}")


def _list(data: bytes, at: int, bits: int, depth: int) -> tuple[list[Any], int]:
    count, kind = data[at] >> 4, data[at] & 15
    at += 1
    if count == 15:
        count, at = _varint(data, at, 31)
    if count > len(data) - at:  # each element takes a byte at least
        raise IndexError
    values = []
    for _ in range(count):
        value, at = _value(data, at, kind, bits, depth)
        values.append(value)
    return values, at


def _int(data: bytes, at: int, bits: int) -> tuple[int, int]:
    value, at = _varint(data, at, bits)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: bytes, at: int, bits: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> bits:
                raise ValueError(f"a struct holds a number of more than {bits} bits")
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a struct holds a number without end")
