"""The small JSON files that go with a policy: normalisers, statistics, what a robot needs. Needs nothing but Python."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fogx.errors import CorruptDataError, DatasetNotFoundError, FogxError, FormatVersionError, listing
from fogx.storage.files.durable import write_whole

VERSION = 1
_MOST_BYTES = 64 << 20


def write_document(path: str | os.PathLike[str], kind: str, body: Mapping[str, Any]) -> None:
    """Write a document whole or not at all.

    Args:
        path: Where; folders that are missing are made, a file that is there is replaced.
        kind: What it is; stands in the file.
        body: Plain values.
    """
    write_json(path, {"fogx": kind, "version": VERSION, **body})


def write_json(path: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
    """Write plain values as JSON, whole or not at all."""
    write_whole(os.path.abspath(path), json.dumps(values, indent=1).encode())


def read_document(path: str | os.PathLike[str], kinds: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """Return the kind of a document and its values.

    Raises:
        DatasetNotFoundError: No such file.
        CorruptDataError: No document of one of these kinds.
        FormatVersionError: Written by a later fogx.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise DatasetNotFoundError(f"{path}: no such file.") from None
    if len(data) > _MOST_BYTES:
        raise CorruptDataError(f"{path} has more than {_MOST_BYTES} bytes, which no document of fogx has.")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptDataError(f"{path} is no JSON: {str(error)[:200]}.") from None
    kind = body.get("fogx") if isinstance(body, dict) else None
    if kind not in kinds:
        found = f"fogx {kind[:40]}" if isinstance(kind, str) else "nothing that fogx wrote"
        raise CorruptDataError(f"{path} holds {found}; wanted is one of: {listing(kinds)}.")
    if body.get("version") != VERSION:
        raise FormatVersionError(f"{path} has version {body.get('version')!r:.20}, this fogx reads {VERSION}. Update fogx.")
    return kind, body


@contextmanager
def parsing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say of which document the values are when they are not what fogx writes."""
    try:
        yield
    except FogxError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise CorruptDataError(f"{path} cannot be used: {type(error).__name__}: {str(error)[:200]}.") from None
