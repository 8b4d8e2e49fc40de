"""Versions of a table: who made them, which was there when, which are kept under a name."""

from __future__ import annotations

import re
from typing import Any

from fogx.errors import CorruptDataError, UnknownNameError, did_you_mean, listing
from fogx.storage.log.delta import DeltaLog

OLDEST = "fogx.oldestVersion"
"""Property of the table: versions before it, but for pinned ones, may have lost files to `vacuum`."""

_PIN = "fogx.pin."
_PIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")


def history(log: DeltaLog) -> list[dict[str, Any]]:
    """Return the commits through the version that the handle is at, newest first, as far back as versions are kept.

    Each has version, time (ms since 1970, by the writer's clock, never earlier than the one before), operation, number of
    episodes, user, and the names of its pins.
    """
    names: dict[int, list[str]] = {}
    for name, version in pins(log).items():
        names.setdefault(version, []).append(name)
    result, latest_ms = [], 0
    for found in reversed(_commits(log)):
        latest_ms = max(latest_ms, found["timestamp"])
        result.append(
            {
                "version": found["version"],
                "timestamp_ms": latest_ms,
                "operation": str(found.get("fogx_operation") or _spelled(str(found.get("operation", "")))),
                "episodes": count if isinstance(count := found.get("fogx_episodes"), int) else None,
                "user": None if found.get("userName") is None else str(found["userName"]),
                "pins": ", ".join(sorted(names.get(found["version"], ()))),
            }
        )
    # What is left of the log before has gaps where a vacuum was cut short, and its entries are numbered wrong.
    first = first_kept(log, oldest_kept(log))
    return [commit for commit in result[::-1] if commit["version"] >= first]


def _commits(log: DeltaLog) -> list[dict[str, Any]]:
    from deltalake.exceptions import DeltaError

    try:
        with log.store.asking("reading the log", but=(DeltaError, ValueError)):
            commits: list[dict[str, Any]] = log.table.history()
    except (DeltaError, ValueError) as error:
        raise CorruptDataError(f"{log.store.root}: the log's history cannot be read: {str(error)[:300]}") from error
    if any(not isinstance(commit.get(key), int) for commit in commits for key in ("version", "timestamp")):
        raise CorruptDataError(f"{log.store.root}: a log entry does not say when it was made; fogx did not write it.")
    return commits


def version_at(log: DeltaLog, time_ms: int) -> int:
    """Return the version that was the newest at a time (ms since 1970).

    Raises:
        UnknownNameError: The log does not go back so far.
    """
    commits = history(log)
    for commit in commits:
        if commit["timestamp_ms"] <= time_ms:
            return int(commit["version"])
    raise UnknownNameError(
        f"{log.store.root}: no version is as old as that; the oldest is {commits[-1]['version']}. history() lists them."
    )


def pins(log: DeltaLog) -> dict[str, int]:
    """Return name → version of the pins."""
    found = {key[len(_PIN) :]: value for key, value in log.properties.items() if key.startswith(_PIN)}
    return {name: int(value) for name, value in sorted(found.items()) if value}


def set_pin(log: DeltaLog, name: str, version: int | None) -> None:
    """Pin a version, or (`None`) take the pin away, in one commit.

    Raises:
        UnknownNameError: See `EpisodeLog.pin`.
    """
    there = pins(log)
    if version is None and name not in there:
        raise UnknownNameError(f"{log.store.root}: no pin {name!r}; there are: {listing(there)}.{did_you_mean(name, there)}")
    if not _PIN_NAME.fullmatch(name):
        raise UnknownNameError(f"{name!r} cannot name a pin; use a letter, then up to 63 letters, digits, dots, - and _.")
    if version is not None:
        check_kept(log, version)
    log.set_properties({f"{_PIN}{name}": "" if version is None else str(version)}, "unpin" if version is None else "pin")


def check_kept(log: DeltaLog, version: int) -> None:
    """Refuse a version that is not there, or that `vacuum` may have taken files from.

    Raises:
        UnknownNameError: Says which versions there are.
    """
    oldest, pinned = oldest_kept(log), pins(log)
    if not oldest <= version <= log.version and version not in pinned.values():
        named = f", and the pinned {listing(f'{v} ({n})' for n, v in pinned.items())}" if pinned else ""
        raise UnknownNameError(
            f"{log.store.root} has versions {oldest} to {log.version}{named}; {version!r} was asked for"
            + (", which vacuum() did not keep." if 0 <= version < oldest else ".")
            + " history() lists them."
        )


def oldest_kept(log: DeltaLog) -> int:
    """Return the oldest version of which all files are kept, pins apart."""
    return int(log.properties.get(OLDEST) or 0)


def first_kept(log: DeltaLog, oldest: int) -> int:
    """Return the oldest version that must be readable, where all from `oldest` on are, and pinned ones."""
    return min([oldest, *pins(log).values()])


def _spelled(operation: str) -> str:
    return {"CREATE TABLE": "create", "ADD COLUMN": "add columns"}.get(operation, operation.lower())
