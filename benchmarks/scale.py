"""A root of many episodes: opening, selecting, editing, appending, planning a read. Needs `fogx` alone.

    python benchmarks/scale.py --rows 1000000 --rounds 3

The rows are generated: three datasets, four columns of the user's, index files of 5,000 episodes; no steps. Each round opens the
root in a process of its own; medians are shown. The table goes to stdout, progress to stderr.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import fogx as fox
from fogx.feature import Feature, Schema
from fogx.storage.files.store import Store
from fogx.storage.log import root as log_root
from fogx.storage.log.commit import EpisodeLog
from fogx.storage.tables.index import IndexRow, write_index, write_schema
from fogx.storage.tables.places import StepsPlace

PER_INDEX_FILE = 5_000
STEPS = 100


def generate(path: Path, rows: int) -> None:
    """Write the table in one commit, and the index files that its rows point to."""
    store = Store(path)
    log_root.create(store, "scale")
    log = EpisodeLog(store)
    log.delta.add_columns({"collector": pa.string(), "task": pa.string(), "score": pa.float64(), "checked": pa.bool_()})
    schema = Schema({"state": Feature("float32", (7,)), "action": Feature("float32", (7,))})
    write_schema(store, schema)
    ids = [f"{0x18C0000000000000 + 7 * n:016x}{(n * 0x9E3779B97F4A7C15) % 2**64:016x}" for n in range(rows)]
    files = []
    for start in range(0, rows, PER_INDEX_FILE):
        steps = f"steps/dataset=d{start % 3}/{start:032x}.parquet"
        part = [
            IndexRow(i, schema.schema_id, STEPS, b"0" * 16, [], [StepsPlace(steps, n // 100, n % 100 * STEPS, STEPS)], [])
            for n, i in enumerate(ids[start : start + PER_INDEX_FILE])
        ]
        files.append(write_index(store, part))
        print(f"\rindex rows {start + len(part):,}", end="", file=sys.stderr)
    print(file=sys.stderr)
    random, number = np.random.default_rng(0), np.arange(rows)
    words = np.array([f"put the {a} {b} the {c}" for a in ("pot", "cup", "can") for b in ("on", "by") for c in ("sink", "stove")])
    given: dict[str, Any] = {
        "episode_id": ids,
        "dataset": np.array(["bridge", "g1", "lab"])[random.integers(0, 3, rows)],
        "split": np.array(["train", "val"])[(number % 10 == 0).astype(int)],
        "num_steps": np.full(rows, STEPS),
        "success": random.random(rows) < 0.7,
        "schema_id": np.full(rows, schema.schema_id),
        "source_key": [f"rlds:bridge/1.0.0/train/{n // 1000}/{n % 1000}" for n in range(rows)],
        "index_file": np.array(files)[number // PER_INDEX_FILE],
        "index_row": (number % PER_INDEX_FILE).astype(np.int32),
        "collector": np.array(["ana", "bo", "cy", "dee"])[random.integers(0, 4, rows)],
        "task": words[random.integers(0, len(words), rows)],
        "score": random.random(rows),
    }
    fields = log.delta.snapshot().schema
    columns = [pa.array(given[f.name], f.type) if f.name in given else pa.nulls(rows, f.type) for f in fields]
    log.delta.commit("generate", rows, add=pa.Table.from_arrays(columns, schema=fields))


def run(path: str) -> dict[str, float]:
    """Do everything once, on a copy of the root, and return seconds (memory in MiB) by name."""
    took: dict[str, float] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = call()
        took[name] = time.perf_counter() - start
        return result

    def peak(name: str) -> None:
        took[name] = _peak_mib()

    peak("memory before, MiB")
    dataset = timed("open", lambda: fox.Dataset(path))
    peak("memory after open, MiB")
    timed("repr, len and notebook card", lambda: (repr(dataset), len(dataset), dataset._repr_html_()))
    info = timed("get_episode_info()", dataset.get_episode_info)
    mask = (info["collector"] == "ana") & (info["score"] > 0.5)
    chosen = timed("filter by a mask", lambda: info.filter(mask))
    peak("memory after filter, MiB")
    many = info.sample(min(100_000, len(info)), random_state=0)
    timed("tag 1 row", lambda: dataset.tag(chosen.head(1), checked=True))
    timed("tag 100,000 rows in order", lambda: dataset.tag(info.head(100_000), checked=True))
    timed("tag 100,000 rows of all over", lambda: dataset.tag(many, checked=False))
    edited = dataset.get_episode_info()
    edited.loc[edited["episode_id"].isin(many["episode_id"]), "score"] = 2.0
    timed("update_episode_info, 100,000 changed", lambda: dataset.update_episode_info(edited))

    def record() -> None:
        with dataset.new_episode({"collector": "ana"}) as episode:
            episode.add("state", np.zeros(7, np.float32))

    timed("close() of an episode, first", record)
    timed("close() of an episode", record)
    timed("plan of files, 1,000 episodes of all over", lambda: dataset.get_step_data(many.head(1_000)))
    timed("plan of files, 100,000 episodes in order", lambda: dataset.get_step_data(info.head(100_000)))
    timed("plan of files, 100,000 episodes of all over", lambda: dataset.get_step_data(many))
    peak("memory at the end, MiB")
    return took


def _peak_mib() -> float:
    if platform.system() == "Linux":  # there ru_maxrss starts with what the parent had
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[1_000_000], help="episodes (1000000); several make several columns"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median is shown (3)")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        fox.config(progress=False)
        print(json.dumps(run(given.run)))
        return
    columns, sizes = [], []
    for rows in given.rows:
        with tempfile.TemporaryDirectory(prefix="fogx-scale-") as folder:
            generate(Path(folder, "made"), rows)
            sizes.append(sum(p.stat().st_size for p in Path(folder, "made", "episodes").glob("*.parquet")) / 1e6)
            results: list[dict[str, float]] = []
            for number in range(given.rounds):
                print(f"{rows:,} rows, round {number + 1}", file=sys.stderr)
                shutil.copytree(Path(folder, "made"), Path(folder, "root"))
                command = [sys.executable, __file__, "--run", str(Path(folder, "root"))]
                results.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
                shutil.rmtree(Path(folder, "root"))
            columns.append({name: statistics.median(r[name] for r in results) for name in results[0]})
    packages = ", ".join(f"{name} {version(name)}" for name in ("deltalake", "pyarrow", "pandas", "polars"))
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, fogx {fox.__version__}, {packages}; {given.rounds} rounds"
    )
    print("| seconds, medians | " + " | ".join(f"{rows:,} episodes" for rows in given.rows) + " |")
    print("|---|" + "---:|" * len(columns))
    print("| the table on disk, MB | " + " | ".join(f"{size:.0f}" for size in sizes) + " |")
    for name in columns[0]:
        digits = 0 if name.endswith("MiB") else 3
        print(f"| {name} | " + " | ".join(f"{column[name]:,.{digits}f}" for column in columns) + " |")


if __name__ == "__main__":
    main()
