"""A root of many episodes: opening, selecting, editing, appending, planning a read. Needs `fogx[torch]`.

    python benchmarks/scale.py --rows 1000000 --rounds 3
    python benchmarks/scale.py --rows 3000000 --roots 3    # the same number in three roots, read as one

The rows are generated: three datasets, four columns of the user's, index files of 5,000 episodes; no steps. Each round works on a
copy of the root in a process of its own; medians are shown, wall clock and (CPU of all threads). The same files are read by pandas
and polars, each in its own process. The table goes to stdout, progress to stderr.
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


def generate(path: Path, rows: int, root: int = 0, roots: int = 1) -> None:
    """Write the table in one commit, and the index files that its rows point to; ids of several roots alternate."""
    store = Store(path)
    log_root.create(store, "scale")
    log = EpisodeLog(store)
    log.delta.add_columns({"collector": pa.string(), "task": pa.string(), "score": pa.float64(), "checked": pa.bool_()})
    schema = Schema({"state": Feature("float32", (7,)), "action": Feature("float32", (7,))})
    write_schema(store, schema)
    numbers = range(root, rows * roots, roots)
    ids = [f"{0x18C0000000000000 + 7 * n:016x}{(n * 0x9E3779B97F4A7C15) % 2**64:016x}" for n in numbers]
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


class Clock:
    """Takes down wall and CPU seconds of calls, and memory, by name."""

    def __init__(self) -> None:
        self.taken: dict[str, tuple[float, ...]] = {}

    def __call__(self, name: str, call: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = call()
        self.taken[name] = time.perf_counter() - wall, time.process_time() - cpu
        return result

    def peak(self, name: str) -> None:
        self.taken[f"{name}, peak MiB"] = (_peak_mib(),)


def run_fogx(path: str) -> dict[str, tuple[float, ...]]:
    """Do everything once, on a copy of the root."""
    fox.config(progress=False)
    open_root = fox.Dataset  # imports pandas and polars
    clock = Clock()
    clock.peak("memory after imports")
    paths = sorted(map(str, Path(path).iterdir()))
    dataset = clock("open", lambda: open_root(paths[0], load_from=paths[1:]))
    clock.peak("memory after open")
    clock("repr, len and notebook card", lambda: (repr(dataset), len(dataset), dataset._repr_html_()))
    info = clock("get_episode_info()", dataset.get_episode_info)
    clock.peak("memory after get_episode_info()")
    mask = (info["collector"] == "ana") & (info["score"] > 0.5)
    chosen = clock("filter by a mask, first", lambda: info.filter(mask))
    clock("filter by a mask, again", lambda: info.filter(mask))
    many = info.sample(min(100_000, len(info)), random_state=0)
    clock("select 1 episode by id", lambda: dataset.read_by(chosen["episode_id"].iloc[0]))
    clock("plan of files, 1,000 episodes of all over, first", lambda: dataset.get_step_data(many.head(1_000)))
    clock("plan of files, 1,000 episodes of all over, again", lambda: dataset.get_step_data(many.head(1_000)))
    clock("plan of files, 100,000 episodes in order", lambda: dataset.get_step_data(info.head(100_000)))
    clock("plan of files, 100,000 episodes of all over", lambda: dataset.get_step_data(many))
    clock.peak("memory after planning")
    dataset.as_pytorch_dataset(info.head(1))  # imports torch
    clock("as_pytorch_dataset, 100,000 episodes in order", lambda: dataset.as_pytorch_dataset(info.head(100_000)))
    mine = info.filter(info["root"] == dataset.path)
    many = mine.sample(min(100_000, len(mine)), random_state=0)
    clock("tag 1 row", lambda: dataset.tag(mine.head(1), checked=True))
    clock("tag 100,000 rows in order", lambda: dataset.tag(mine.head(100_000), checked=True))
    clock("tag 100,000 rows of all over", lambda: dataset.tag(many, checked=False))
    edited = dataset.get_episode_info()
    edited.loc[edited["episode_id"].isin(many["episode_id"].tolist()), "score"] = 2.0
    clock("update_episode_info, 100,000 changed", lambda: dataset.update_episode_info(edited))

    def record() -> None:
        with dataset.new_episode({"collector": "ana"}) as episode:
            episode.add("state", np.zeros(7, np.float32))

    clock("close() of an episode, first", record)
    clock("close() of an episode", record)
    clock.peak("memory at the end")
    return clock.taken


def tables(path: str) -> list[str]:
    """Return the files of the table, which nobody has edited yet."""
    return sorted(map(str, Path(path).glob("*/episodes/*.parquet")))


def run_pandas(path: str) -> dict[str, tuple[float, ...]]:
    """Keep the table in pandas: a tag writes all of it, and nothing is synced."""
    import pandas as pd

    clock = Clock()
    frame = clock("pandas: read_parquet", lambda: pd.read_parquet(tables(path)))
    mask = (frame["collector"] == "ana") & (frame["score"] > 0.5)
    clock("pandas: filter by a mask", lambda: frame[mask])
    frame.loc[frame.index[mask][:1], "checked"] = True
    clock("pandas: to_parquet after a tag", lambda: frame.to_parquet(Path(path, "all.parquet"), compression="zstd"))
    clock.peak("pandas: memory")
    return clock.taken


def run_polars(path: str) -> dict[str, tuple[float, ...]]:
    """The same with polars."""
    import polars as pl

    clock = Clock()
    frame = clock("polars: read_parquet", lambda: pl.read_parquet(tables(path)))
    wanted = (pl.col("collector") == "ana") & (pl.col("score") > 0.5)
    clock("polars: filter", lambda: frame.filter(wanted))
    edited = frame.with_columns(checked=pl.int_range(pl.len()) == 0)
    clock("polars: write_parquet after a tag", lambda: edited.write_parquet(Path(path, "all.parquet"), compression="zstd"))
    clock.peak("polars: memory")
    return clock.taken


RUNS = {"fogx": run_fogx, "pandas": run_pandas, "polars": run_polars}


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
    parser.add_argument("--roots", type=int, default=1, help="roots that they are spread over (1)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median is shown (3)")
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--root", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        print(json.dumps(RUNS[given.run](given.root)))
        return
    columns: list[dict[str, str]] = []
    for rows in given.rows:
        with tempfile.TemporaryDirectory(prefix="fogx-scale-") as folder:
            made, copy = Path(folder, "made"), Path(folder, "root")
            for root in range(given.roots):
                generate(made / str(root), rows // given.roots, root, given.roots)
            results: list[dict[str, list[float]]] = []
            for number in range(given.rounds):
                print(f"{rows:,} rows, round {number + 1}", file=sys.stderr)
                taken: dict[str, list[float]] = {}
                for name in RUNS:
                    shutil.copytree(made, copy)
                    command = [sys.executable, __file__, "--run", name, "--root", str(copy)]
                    taken |= json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
                    shutil.rmtree(copy)
                results.append(taken)
            column = {f"{family} on disk, MB": f"{_megabytes(made, family):.0f}" for family in ("episodes", "index")}
            columns.append(column | {name: _shown([r[name] for r in results]) for name in results[0]})
    packages = ", ".join(f"{name} {version(name)}" for name in ("deltalake", "pyarrow", "pandas", "polars"))
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, fogx {fox.__version__}, {packages}; {given.rounds} rounds"
    )
    print("| seconds, medians: wall (CPU) | " + " | ".join(f"{rows:,} episodes" for rows in given.rows) + " |")
    print("|---|" + "---:|" * len(columns))
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(column[name] for column in columns) + " |")


def _shown(rounds: list[list[float]]) -> str:
    medians = [statistics.median(values) for values in zip(*rounds, strict=True)]
    return f"{medians[0]:,.0f}" if len(medians) == 1 else f"{medians[0]:.3f} ({medians[1]:.3f})"


def _megabytes(folder: Path, family: str) -> float:
    return sum(path.stat().st_size for path in folder.glob(f"*/{family}/*.parquet")) / 1e6


if __name__ == "__main__":
    main()
