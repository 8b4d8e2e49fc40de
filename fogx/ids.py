"""Episode ids: sortable by time of creation, made without coordination."""

from __future__ import annotations

import secrets
import threading
import time

_lock = threading.Lock()
_last = 0


def new_id() -> str:
    """Return 32 hex digits of a UUID version 7 (RFC 9562, section 5.7; sub-millisecond time in `rand_a`, its method 3).

    Ids made in one process increase strictly, also where the clock stands still or jumps back.
    """
    global _last
    with _lock:
        ms, rest_ns = divmod(time.time_ns(), 1_000_000)
        _last = max(_last + 1, ms << 12 | rest_ns * 4096 // 1_000_000)
        stamp = _last
    value = (stamp >> 12) << 80 | 7 << 76 | (stamp & 0xFFF) << 64 | 0b10 << 62 | secrets.randbits(62)
    return f"{value:032x}"
