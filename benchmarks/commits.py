"""What a commit and an open cost as the log grows: one row appended at a time, every fifth commit an edit.

    python benchmarks/commits.py --commits 10 1000 5000
    python benchmarks/commits.py --s3                       # the same logs, put into a bucket of the tests' S3 server (moto)
    bash tests/s3/radosgw -- python benchmarks/commits.py --s3    # into one of Ceph's gateway, see CONTRIBUTING.md

The log is made once, on a local disk. At each mark three copies of it go on: as it is; after `vacuum`, all that is in it being
older than the safe age; and in S3, with `--s3`. Each is measured with the same commits, two merges of small table files and two
checkpoints among them. Takes about six minutes. The table goes to stdout. Only table rows are written: no steps or frames.
"""

import argparse
import contextlib
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fogx.feature import Feature, Schema
from fogx.ids import new_id
from fogx.storage.files.store import Store
from fogx.storage.log import root as log_root
from fogx.storage.log.commit import EpisodeLog
from fogx.storage.log.rows import BASE
from fogx.storage.tables.index import IndexRow, write_index, write_schema

sys.path.insert(0, str(Path(__file__).parents[1]))

MEASURED = 40
"""Appends at each mark, of which every fourth is followed by an edit. Medians are shown."""

EIGHT_DAYS_S = 8 * 24 * 3600


class Rows:
    """Makes rows of the table that all point to one index file."""

    def __init__(self, store: Store) -> None:
        schema = Schema({"state": Feature("float32", (7,))})
        write_schema(store, schema)
        self._index = write_index(store, [IndexRow(new_id(), schema.schema_id, 0, b"0" * 16, [], [], [])])

    def one(self) -> dict[str, Any]:
        row: dict[str, Any] = {name: None for name in BASE.names if name != "_extra"}
        row |= {"dataset": "lab", "num_steps": 0, "index_file": self._index, "index_row": 0, "metadata": {"collector": "ana"}}
        return row | {"episode_id": new_id()}


def grow(log: EpisodeLog, rows: Rows, mark: int) -> None:
    """Commit until a version is reached."""
    while log.version < mark:
        row = rows.one()
        log.append([row], operation="record")
        if log.version % 5 == 0:
            log.edit({"score": {row["episode_id"]: 0.5}}, operation="tag")


def measure(store: Store, rows: Rows, asked: Callable[[], int] = lambda: 0) -> list[str]:
    """Return what is shown of one log: ms, and requests where they are counted."""
    opens = [_taken(lambda: EpisodeLog(store), asked) for _ in range(3)]
    log, appends, edits = EpisodeLog(store), [], []
    first = _taken(lambda: log.append([rows.one()], operation="record"), asked)
    for number in range(MEASURED):
        row = rows.one()
        appends.append(_taken(lambda row=row: log.append([row], operation="record"), asked))
        if number % 4 == 0:
            edits.append(_taken(lambda row=row: log.edit({"score": {row["episode_id"]: 0.5}}, operation="tag"), asked))
    figures = [(statistics.median(kind) for kind in zip(*taken, strict=True)) for taken in (appends, edits, opens, [first])]
    shown = [f"{ms:.0f}" + f" ({requests:.0f})" * bool(requests) for ms, requests in figures]
    return [*shown[:1], f"{max(appends)[0]:.0f}", *shown[1:], str(len(log.delta.names()))]


def vacuumed(root: Path, rows: Rows) -> None:
    """Let all files be old, and remove what no kept version needs."""
    then = time.time() - EIGHT_DAYS_S
    for path in root.rglob("*"):
        os.utime(path, (then, then))
    log = EpisodeLog(Store(root))
    grow(log, rows, log.version + 20)  # past another checkpoint; what was newest eight days ago is kept
    log.vacuum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, nargs="+", default=[10, 1_000, 5_000], help="marks (10 1000 5000)")
    parser.add_argument("--s3", action="store_true", help="measure in S3 as well")
    parser.add_argument("--folder", help="where the log is made (a temporary folder)")
    given = parser.parse_args()
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, deltalake {version('deltalake')}, pyarrow {version('pyarrow')}"
    )
    print(f"ms, medians of {MEASURED} appends, {MEASURED // 4} edits and 3 opens; in S3 (requests)")
    print("| commits | log | append | append, max | edit | open | first commit of a handle | table files |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory(prefix="fogx-commits-", dir=given.folder) as folder, contextlib.ExitStack() as stack:
        upload = stack.enter_context(_bucket()) if given.s3 else None
        store = Store(Path(folder, "made"))
        log_root.create(store, "commits")
        rows, log = Rows(store), EpisodeLog(store)
        for mark in sorted(given.commits):
            grow(log, rows, mark)
            for name in ("local", "local, vacuumed", "S3" if upload else ""):
                copy = Path(folder, "copy")
                shutil.copytree(store.root, copy)
                if name == "local, vacuumed":
                    vacuumed(copy, rows)
                if name:
                    shown = measure(*upload(copy, rows)) if name == "S3" and upload else measure(Store(copy), rows)
                    print(f"| {mark:,} | {name} | " + " | ".join(shown) + " |", flush=True)
                shutil.rmtree(copy)


@contextlib.contextmanager
def _bucket() -> Iterator[Callable[[Path, Rows], tuple[Store, Rows, Callable[[], int]]]]:
    import fsspec

    from tests.s3.client import serving

    with serving() as server:
        os.environ.update(server.environment)
        server.reset()
        root = server.make_bucket("commits")

        def upload(folder: Path, rows: Rows) -> tuple[Store, Rows, Callable[[], int]]:
            target = f"{root}/{time.time_ns()}"
            fsspec.filesystem("s3", skip_instance_cache=True).put(f"{folder}/", f"{target}/", recursive=True)
            server.heal()
            return Store(target), rows, lambda: len(server.requests())

        yield upload


def _taken(call: Callable[[], object], asked: Callable[[], int]) -> tuple[float, int]:
    before, start = asked(), time.perf_counter()
    call()
    return 1_000 * (time.perf_counter() - start), asked() - before


if __name__ == "__main__":
    main()
