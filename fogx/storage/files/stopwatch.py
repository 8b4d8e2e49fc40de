"""How long ago something began, whatever happened to the clock meanwhile."""

from __future__ import annotations

import time


class Stopwatch:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._monotonic_s = time.monotonic()
        self._wall_s = time.time()

    def elapsed_s(self) -> float:
        """Return the longer of two answers: one clock stands while a machine sleeps, the other may be set back."""
        return max(time.monotonic() - self._monotonic_s, time.time() - self._wall_s)
