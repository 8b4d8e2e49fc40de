"""Which version of each root a handle looks at: numbers, times, pins, and tokens that name several roots."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from fogx.errors import UnknownNameError, listing
from fogx.storage.log import versions
from fogx.storage.log.commit import EpisodeLog
from fogx.storage.log.delta import DeltaLog

_TOKEN = re.compile(r"[0-9a-f]{32}@\d+(?:\+[0-9a-f]{32}@\d+)*")


def is_version(version: object) -> bool:
    """Return whether a value could be the number of a version: any whole number from 0, numpy's too."""
    return isinstance(version, (int, np.integer)) and not isinstance(version, bool) and bool(version >= 0)


def token_of(logs: Sequence[EpisodeLog]) -> str:
    """Return the text that names the versions of all these tables."""
    return "+".join(sorted(f"{log.root_id}@{log.version}" for log in logs))


def is_token(version: object) -> bool:
    """Return whether a value is what `token_of` gives."""
    return isinstance(version, str) and _TOKEN.fullmatch(version) is not None


def is_for_all_roots(version: object) -> bool:
    """Return whether a token or a time is given, which mean a version of each root; others mean the write root's."""
    return is_token(version) or _time(version) is not None


def numbered(log: EpisodeLog, version: Any) -> int:
    """Return the number of a version of one table.

    Args:
        log: The table.
        version: Its number; a time with a zone (a datetime, or ISO 8601 text) that asks for the newest version then; the name
            of a pin; or a token.

    Raises:
        UnknownNameError: No such version, or one that was not kept; says which there are.
    """
    with log.newest_table() as table:
        number = _number(log, table, version)
        versions.check_kept(table, number)
    return number


def _number(log: EpisodeLog, table: DeltaLog, version: Any) -> int:
    time = _time(version)
    if is_token(version):
        there = dict(part.split("@") for part in str(version).split("+"))
        if log.root_id not in there:
            raise UnknownNameError(
                f"{log.store.root} (root id {log.root_id}) is not among the {len(there)} roots that the version token names; open the "
                "roots that it was made with."
            )
        return int(there[log.root_id])
    if time is not None:
        return versions.version_at(table, time.value // 1_000_000)
    if is_version(version):
        return int(version)
    pins = versions.pins(table)
    if version not in pins:
        raise UnknownNameError(
            f"{log.store.root}: {version!r} is no version. It has versions {versions.oldest_kept(table)} to "
            f"{table.version}, which history() lists; a time with a zone (2026-01-31T12:00:00Z), a version token or a pin will "
            f"do too. Pins are: {listing(pins)}."
        )
    return pins[version]


def _time(version: object) -> pd.Timestamp | None:
    if not isinstance(version, (str, datetime, np.datetime64)) or is_token(version):
        return None
    if isinstance(version, str) and not version[:4].isdigit():
        return None
    try:
        time = pd.Timestamp(version)
    except ValueError:
        return None
    if time.tzinfo is None:
        raise UnknownNameError(f"the time {version!s} has no zone; add one, for example {time.isoformat()}Z.")
    return time.as_unit("ns")
