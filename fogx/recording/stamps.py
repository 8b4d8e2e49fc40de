"""Times that users give with their samples, as ns since 1970 or since whatever their clock counts from."""

from __future__ import annotations

import datetime
import math
from typing import Any

import numpy as np

from fogx.errors import FeatureError, FeatureTypeError, listing

_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
LARGEST_NS = 1 << 62
"""So that differences of two stamps fit int64 too."""


def check_unit(time_unit: object) -> None:
    """Refuse what is no unit of time, whether or not there is a time in it.

    Raises:
        FeatureError: It is none of `ns`, `us`, `ms` and `s`.
    """
    if not isinstance(time_unit, str) or time_unit not in _NS:
        raise FeatureError(f"time_unit is one of {listing(_NS)}, found {time_unit!r:.40}.")


def stamp_ns(timestamp: Any, time_unit: str = "ns") -> int:
    """Return a time in ns.

    Args:
        timestamp: A whole number, a float where the unit is not ns, a datetime with a time zone, or a `numpy.datetime64`.
        time_unit: Unit of numbers: `ns`, `us`, `ms` or `s`.

    Raises:
        FeatureTypeError: Something else.
        FeatureError: A float without its unit, an unknown unit, a datetime without a time zone, or a time that does not fit.
    """
    check_unit(time_unit)
    if isinstance(timestamp, datetime.datetime):
        if timestamp.tzinfo is None:
            raise FeatureError("timestamp is a datetime without a time zone. Give one with timestamp.astimezone().")
        return _fitting((timestamp - _EPOCH) // _MICROSECOND * 1_000)
    if isinstance(timestamp, np.datetime64) and not np.isnat(timestamp):
        return _fitting(int(timestamp.astype("datetime64[ns]").astype(np.int64)))
    if isinstance(timestamp, (bool, np.bool_)):
        raise FeatureTypeError("timestamp is a number or a datetime, found bool.")
    if isinstance(timestamp, (int, np.integer)):
        return _fitting(int(timestamp) * _NS[time_unit])
    if isinstance(timestamp, (float, np.floating)):
        if time_unit == "ns":
            raise FeatureError(
                f"timestamp {float(timestamp)!r} is a float, whose unit is not known: give time_unit='s' (or 'ms', 'us'), or whole ns."
            )
        if not math.isfinite(timestamp):
            raise FeatureError(f"timestamp is a time, found {float(timestamp)}.")
        return _fitting(round(float(timestamp) * _NS[time_unit]))
    raise FeatureTypeError(f"timestamp is a number or a datetime with a time zone, found {type(timestamp).__name__}.")


def _fitting(ns: int) -> int:
    if abs(ns) >= LARGEST_NS:
        raise FeatureError(f"timestamp {ns} ns is too far from 0; is its unit right?")
    return ns
