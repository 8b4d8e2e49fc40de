"""What a commit and an open cost as the log grows: a fresh root, one row appended at a time, every fifth commit an edit.

    python benchmarks/commits.py --commits 10 1000 5000
    python benchmarks/commits.py --root s3://bucket/new-folder --commits 10 1000

Takes about three minutes on a local disk. Options of S3 come from the environment (`AWS_…`); what was written there is left. The table goes to stdout. Appends and edits are of table rows alone: no steps or frames are written.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from fogx.ids import new_id
from fogx.storage.files.store import Store
from fogx.storage.log import root as log_root
from fogx.storage.log.commit import EpisodeLog
from fogx.storage.log.rows import BASE

LAST = 100
"""Medians and maxima are over so many commits before each mark."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, nargs="+", default=[10, 1_000, 5_000], help="marks (10 1000 5000)")
    parser.add_argument("--root", help="a new folder or URL (a temporary folder)")
    given = parser.parse_args()
    print(f"deltalake {version('deltalake')}, pyarrow {version('pyarrow')}; ms, over the last {LAST} commits")
    print(
        "| commits | append, median | append, max | edit, median | open, median of 3 | first commit of a handle | table files |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|")
    with contextlib.ExitStack() as stack:
        store = Store(given.root or stack.enter_context(tempfile.TemporaryDirectory(prefix="fogx-commits-")) + "/root")
        log_root.create(store, "commits")
        log, appends, edits = EpisodeLog(store), list[float](), list[float]()
        for mark in sorted(given.commits):
            while log.version < mark:
                row = _row()
                appends.append(_ms(lambda row=row: log.append([row], operation="record")))
                if log.version % 5 == 0:
                    edits.append(_ms(lambda row=row: log.edit({"score": {row["episode_id"]: 0.5}}, operation="tag")))
            opens = [_ms(lambda: EpisodeLog(store)) for _ in range(3)]
            fresh = EpisodeLog(store)
            first = _ms(lambda fresh=fresh: fresh.append([_row()], operation="record"))
            figures = [statistics.median(appends[-LAST:]), max(appends[-LAST:]), statistics.median(edits[-LAST // 5 :] or [0])]
            shown = " | ".join(f"{value:.1f}" for value in (*figures, statistics.median(opens), first))
            print(f"| {log.version:,} | {shown} | {len(log.delta.names())} |", flush=True)


def _row() -> dict[str, Any]:
    row: dict[str, Any] = {name: None for name in BASE.names if name != "_extra"}
    return row | {"episode_id": new_id(), "dataset": "lab", "num_steps": 1, "metadata": {"collector": "ana"}}


def _ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1_000 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
