"""Batches for training, side by side in one run on the same frames: fogx, its peers, and the limits. Needs `fogx[rtx,torch,dev]`.

    python benchmarks/training.py --lerobot OTHER/bin/python --peers THIRD/bin/python     # about 30 minutes
    python benchmarks/training.py --cases window actions --readers fogx "decode only" --rounds 1    # a quick look
    python benchmarks/training.py --cold               # the same of eight times the data, which no page cache holds
    python benchmarks/training.py --memory 512         # the same within 512 MiB, of data four times as large; as root
    python benchmarks/training.py --s3                 # instead: windows from S3 on this machine, 25 ms a request, 1 Gb/s
    python benchmarks/training.py --episodes 100000    # instead: time to the first batch, cold and warm, and memory of a worker

Each reader runs in a process of its own, rounds are interleaved, and medians are shown. `--lerobot` names the Python of a venv with
lerobot 0.4.4, `--peers` one with webdataset and pylance; dlimp is imported here. What is not there is left out, and it is said. Tables go to stdout,
progress to stderr.
"""

import argparse
import io
import itertools
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from page_cache import forget, limited
from training_cases import CASES, PREPARE, READERS, S3_READERS, S3_ROOT

import fogx as fox

DATA = Path(__file__).parent.parent / "examples" / "data" / "rlds" / "bridge_dataset" / "1.0.0"
CASES_FILE = str(Path(__file__).with_name("training_cases.py"))
SIZES = {"256": (256, 256, 250), "480": (480, 640, 150)}
"""Height, width, and the most steps of an episode."""
PACKAGES = ("numpy", "pyarrow", "simplejpeg", "torch", "h5py")
LEFT_OUT = {
    ("step", "TensorDataset"), ("window", "TensorDataset"), ("window 480", "TensorDataset"), ("16 an episode", "TensorDataset"),
    ("actions", "decode only"), ("actions", "decode only, threads"), ("actions", "memmap"), ("actions", "LeRobot image"), ("actions", "RLDS"),
    ("step", "fogx, derived"), ("window", "fogx, derived"), ("actions", "fogx, derived"), ("16 an episode", "fogx, derived"),
    ("sequential", "TensorDataset"), ("sequential", "fogx, derived"), ("16 an episode", "dlimp"), ("sequential", "dlimp"),
}  # fmt: skip
"""No limit of the case, the same as another reader of it, or not what the reader does: dlimp mixes episodes."""
FROM_DISK = ("fogx", "memmap", "HDF5", "WebDataset", "Lance")
"""Readers that `--memory` measures, unless others are named: they do not want all data in memory, nor much for themselves."""
COLD_COPIES, MEMORY_TIMES = 8, 4
GIGABIT = 125_000_000
"""Bytes a second."""
AIMS = {
    ("window", "decode only"): 0.8, ("window", "decode only, threads"): 0.8, ("window", "LeRobot video"): 3, ("window", "WebDataset"): 1,
    ("window", "Lance"): 1, ("window", "RLDS, Octo's way"): 1, ("window", "dlimp"): 1, ("actions", "TensorDataset"): 0.8,
}  # fmt: skip
"""How many times as fast as a reader fogx shall be; with workers alone for `TensorDataset`."""
THREADS_ONLY = ("fogx, torch's loader", "decode only, threads")
"""Readers of interest without workers alone."""

Rows = dict[tuple[str, int], list[dict[str, Any]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median is shown (3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each is measured in a round (2)")
    parser.add_argument("--cases", nargs="+", choices=CASES, help="what an item is (all; window and sequential with --memory)")
    parser.add_argument("--readers", nargs="+", choices=READERS, help="who reads (all; those that read from disk with --memory)")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 2], help="processes of a loader (0 2)")
    parser.add_argument("--lerobot", metavar="PYTHON", help="Python that has lerobot 0.4.4; see benchmarks/README.md")
    parser.add_argument("--peers", metavar="PYTHON", default=sys.executable, help="Python that has webdataset, pylance and torch")
    parser.add_argument("--cold", action="store_true", help="drop the data from the page cache before each process")
    parser.add_argument("--memory", type=int, metavar="MIB", help="as --cold, and let each reader have so much memory")
    parser.add_argument(
        "--copies", type=int, help="how often each episode is there (1; 8 with --cold; with --memory what it takes)"
    )
    parser.add_argument("--episodes", type=int, help="instead: the first batch of so many episodes of 100 steps")
    parser.add_argument("--s3", action="store_true", help="instead: fogx from the tests' S3 server, 25 ms a request, 1 Gb/s")
    given = parser.parse_args()
    whole = (given.rounds, given.memory or 1, given.copies or 1, *(workers + 1 for workers in given.workers))
    if min(whole) < 1 or given.seconds <= 0:
        parser.error("--rounds, --memory and --copies must be 1 or more, --workers 0 or more, --seconds above 0")
    given.cases = given.cases or (["window", "sequential"] if given.memory else list(CASES))
    given.readers = given.readers or (list(FROM_DISK) if given.memory else list(READERS))
    fox.config(progress=False)
    load = os.getloadavg()[0]
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(
        f"{platform.platform()}; {os.cpu_count()} cores\nPython {platform.python_version()}, fogx {fox.__version__}, {packages}"
    )
    print(f"load average at start {load:.1f}{'; the machine was shared' if load > 1 else ''}")
    with tempfile.TemporaryDirectory(prefix="fogx-training-") as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        if given.episodes:
            report_first_batch(Path(folder), given.episodes)
        elif given.s3:
            report_s3(Path(folder), given)
        else:
            pythons = _pythons(given)
            for case in given.cases:
                results = compared(case, Path(folder), given, pythons)
                report(f"{case}: medians of {given.rounds}, {_found(given)}", case, results)


def _found(given: argparse.Namespace) -> str:
    """Say what a process finds in memory."""
    if given.memory:
        return f"page cache cold, {given.memory} MiB of memory and page cache for a reader with its workers"
    return "page cache cold: the first reads of a process" if given.cold else "page cache warm"


def _pythons(given: argparse.Namespace) -> dict[str, str]:
    """Return reader → the Python that runs it, of readers that can run; say which cannot."""
    needs = {"WebDataset": ("webdataset", given.peers), "Lance": ("lance", given.peers)}
    needs |= {name: ("tensorflow_datasets", sys.executable) for name in READERS if name.startswith("RLDS")}
    needs["dlimp"] = ("dlimp", sys.executable)
    needs |= {name: ("lerobot", given.lerobot) for name in READERS if name.startswith("LeRobot")}
    found, reasons = {}, {}
    for reader in given.readers:
        package, python = needs.get(reader, ("h5py", sys.executable))
        asked = [
            str(python),
            "-c",
            f"import {package}, importlib.metadata as m; print(m.version('{MODULES.get(package, package)}'))",
        ]
        done = subprocess.run(asked, capture_output=True, text=True) if python else None
        if done is None or done.returncode:
            reasons[reader] = f"no {package} in {'--lerobot' if package == 'lerobot' else 'this Python, nor --peers'}"
        else:
            found[reader] = str(python)
            if reader in needs:
                print(f"{reader}: {package} {done.stdout.splitlines()[-1]}")
    for reader, reason in reasons.items():
        print(f"{reader} is left out: {reason}")
    return found


MODULES = {"lance": "pylance"}
"""Module → the package that has it, where names differ."""


def generate(path: Path, size: str, copies: int = 1, least_bytes: int = 0) -> None:
    """Record real episodes, their two cameras scaled, as JPEG, and write the same bytes as HDF5.

    Args:
        path: A folder, which is made.
        size: Which of `SIZES`.
        copies: How often each episode is there.
        least_bytes: Bytes of JPEG that there are at least, with more copies.
    """
    import h5py  # type: ignore[import-untyped]
    from PIL import Image, ImageOps

    height, width, most = SIZES[size]
    path.mkdir()
    data = os.environ.get("FOGX_TEST_DATA")
    source, dataset = fox.Dataset(path / "source"), fox.Dataset(path / "root")
    source.load_rtx_episodes(Path(data, "rlds/g1_bottle/1.0.0") if data else DATA)
    episodes: list[list[dict[str, Any]]] = []
    for view in source:
        cameras = [name for name, feature in view.schema.items() if feature.is_image]
        state = next(name for name in ("observation/state", "state") if name in view.features)
        views = {"front": view[cameras[0]], "wrist": view[cameras[-1]][::-1]}
        numbers = {"action": view["action"], "state": view[state]}
        episodes.append([])
        for number in range(min(most, view.num_steps)):
            step: dict[str, Any] = {name: values[number].astype(np.float32) for name, values in numbers.items()}
            for name, pictures in views.items():
                picture, out = Image.fromarray(pictures[number]).resize((width, height)), io.BytesIO()
                (ImageOps.mirror(picture) if name == "wrist" else picture).save(out, "JPEG", quality=95)
                step[name] = out.getvalue()
            episodes[-1].append(step)
    steps = list(itertools.chain(*episodes))
    jpeg = sum(len(step["front"]) + len(step["wrist"]) for step in steps)
    copies = max(copies, math.ceil(least_bytes / jpeg))
    for episode in episodes * copies:
        with dataset.new_episode() as recorder:
            for step in episode:
                recorder.add_step(step)
    with h5py.File(path / "frames.h5", "w") as file:
        file.attrs["copies"] = copies
        for name in ("action", "state"):
            values = np.stack([step[name] for step in steps])
            file.create_dataset(name, data=np.tile(values, (copies, 1)), chunks=(256, values.shape[1]))
        for name in ("front", "wrist"):
            frames = file.create_dataset(name, (len(steps) * copies,), h5py.vlen_dtype(np.uint8), chunks=(64,))
            for number, step in enumerate(steps * copies):
                frames[number] = np.frombuffer(step[name], np.uint8)
    np.save(path / "starts.npy", np.cumsum([0, *map(len, episodes * copies)]))
    print(f"{size}: {len(episodes) * copies} episodes, {len(steps) * copies:,} steps, {jpeg * copies >> 20:,} MiB of JPEG")


def compared(case: str, scratch: Path, given: argparse.Namespace, pythons: dict[str, str]) -> Rows:
    """Run a case with all readers, round by round."""
    folder = _prepared(case, scratch, given, pythons)
    results: Rows = {}
    for turn in range(given.rounds):
        for workers in given.workers:
            for reader, python in pythons.items():
                if (case, reader) in LEFT_OUT or (workers and reader in THREADS_ONLY):
                    continue
                if given.cold or given.memory:
                    forget(scratch)
                group: AbstractContextManager[list[str]] = limited(given.memory) if given.memory else nullcontext([])
                arguments = (reader, case, str(folder), str(workers), str(given.seconds))
                try:
                    with group as before:
                        one = _called(*before, python, CASES_FILE, *arguments)
                except SystemExit as failure:
                    if not given.memory or "killed" not in str(failure).lower():
                        raise
                    print(f"{case}, {workers} workers: {reader} was killed, as it does not live in so much memory", flush=True)
                    continue
                results.setdefault((reader, workers), []).append(one)
                said = f"round {turn + 1} of {given.rounds}: {case}, {workers} workers, {reader} {one['rate']:,.0f} items/s"
                print(said, file=sys.stderr, flush=True)
    for size in ("pixels", "actions"):
        found = {one[size] for several in results.values() for one in several if one[size]}
        if len(found) > 1:
            sys.exit(f"{case}: the readers gave items of different sizes: {size} {sorted(found)}")
    return results


def _prepared(case: str, scratch: Path, given: argparse.Namespace, pythons: dict[str, str]) -> Path:
    size = CASES[case].size
    folder = scratch / size
    if not folder.exists():
        print(f"{size}: writing frames", file=sys.stderr, flush=True)
        copies = given.copies or (COLD_COPIES if given.cold else 1)
        generate(folder, size, copies, 0 if given.copies else MEMORY_TIMES * (given.memory or 0) << 20)
    for reader, python in pythons.items():
        done = folder / f"{reader}.done"
        if reader in PREPARE and (case, reader) not in LEFT_OUT and not done.exists():
            print(f"{size}: writing for {reader}", file=sys.stderr, flush=True)
            _run(python, CASES_FILE, "prepare", reader, str(folder))
            done.touch()
    return folder


def _called(*command: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(_run(*command).splitlines()[-1])
    return told


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        killed = "; it was killed, as happens where memory does not suffice" if done.returncode == -signal.SIGKILL else ""
        sys.exit(f"{' '.join(command)} failed{killed}:\n{done.stderr}")
    return done.stdout


def report(title: str, case: str, results: Rows) -> None:
    """Print a table of a case, and what was aimed at."""
    print(f"\n{title}\n")
    waits = "wait for a batch ms | p99 | first batch s"
    print(f"| reader | workers | items/s | fogx / it | CPU ms an item | fogx / it | {waits} | from disk KiB an item |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for (reader, workers), found in sorted(results.items(), key=lambda entry: entry[0][1]):
        wall, cpu = _speeds(results, reader, workers)
        waits = " | ".join(f"{_median(found, key):.2f}" for key in ("p50", "p99", "first"))
        rate = f"{_median(found, 'rate'):,.0f} | {wall} | {_median(found, 'cpu'):.3f} | {cpu}"
        print(f"| {reader} | {workers} | {rate} | {waits} | {_median(found, 'disk'):,.1f} |")
    aims = [aim for (reader, workers) in results if (aim := _aim(case, reader, workers, results))]
    if aims:
        print("\n| figure | found | by CPU | aim | reached |\n|---|---:|---:|---:|---|")
        print("\n".join(aims))


def _aim(case: str, reader: str, workers: int, results: Rows) -> str:
    """Return a line of the table of aims, if there is one for a reader."""
    own = _own_workers(reader, workers)
    if ("fogx", own) not in results:
        return ""
    if case == "actions" and reader == "fogx" and not workers:
        rate = _median(results[reader, workers], "rate")
        return f"| fogx, {case}/s, this process | {rate:,.0f} | | ≥ 50,000 | {'yes' if rate >= 50_000 else 'NO'} |"
    least = AIMS.get((case.split()[0], reader), 0)
    if not least or (reader == "TensorDataset" and not workers):
        return ""
    wall, cpu = _speeds(results, reader, workers)
    reached = {2: "yes", 1: "by one of the two", 0: "NO"}[sum(float(ratio) >= least for ratio in (wall, cpu))]
    which = f"{workers} workers" if own == workers else f"{workers} threads each"
    return f"| fogx / {reader}, {which} | {wall} | {cpu} | ≥ {least} | {reached} |"


def _own_workers(reader: str, workers: int) -> int:
    """Return the workers of fogx to compare a reader's with: those of tf.data are threads, and fogx has a thread a processor without any."""
    return 0 if reader.startswith(("RLDS", "dlimp")) and workers == os.cpu_count() else workers


def _speeds(results: Rows, reader: str, workers: int) -> tuple[str, str]:
    """Return how many times as fast as a reader fogx is, by the clock and by CPU; each round against its own, as load changes."""
    pairs = list(zip(results.get(("fogx", _own_workers(reader, workers)), ()), results[reader, workers], strict=False))
    if not pairs:
        return "", ""
    wall = statistics.median(one["rate"] / other["rate"] for one, other in pairs)
    return f"{wall:.2f}", f"{statistics.median(other['cpu'] / one['cpu'] for one, other in pairs):.2f}"


def report_first_batch(path: Path, episodes: int) -> None:
    """Print the time to the first batch of many episodes."""
    generate_many(path / "root", episodes)
    cold, *warm = [_called(sys.executable, CASES_FILE, "first", str(path / "root")) for _ in range(3)]
    print(f"| {episodes:,} episodes, seconds | cold | warm |\n|---|---:|---:|")
    for name in cold:
        print(f"| {name} | {cold[name]:.3f} | {statistics.median(told[name] for told in warm):.3f} |")


def generate_many(path: Path, episodes: int) -> None:
    """Write the table of `scale.py` and the steps that it points to: 100 of 14 numbers an episode."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from scale import PER_INDEX_FILE, STEPS
    from scale import generate as generate_table

    from fogx.feature import Feature, Schema
    from fogx.storage.tables.steps import steps_schema

    generate_table(path, episodes)
    schema = steps_schema(Schema({"state": Feature("float32", (7,)), "action": Feature("float32", (7,))}))
    random = np.random.default_rng(0)
    for start in range(0, episodes, PER_INDEX_FILE):
        rows = min(PER_INDEX_FILE, episodes - start) * STEPS
        file = path / f"steps/dataset=d{start % 3}" / f"{start:032x}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        values = [pa.FixedSizeListArray.from_arrays(pa.array(random.random(7 * rows, np.float32)), 7) for _ in range(2)]
        own = [
            pa.array(["x"]).take(pa.array(np.zeros(rows, np.int64))),
            pa.array(np.arange(rows) % STEPS),
            pa.nulls(rows, pa.int64()),
        ]
        pq.write_table(pa.Table.from_arrays([*own, *values], schema=schema), file, compression="zstd", row_group_size=10_000)


def report_s3(path: Path, given: argparse.Namespace) -> None:
    """Print what windows cost from S3 on this machine, where each request takes 25 ms more and all share 1 Gb/s."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    import fsspec

    from tests.s3.client import serving

    generate(path / "256", "256", given.copies or 1)
    with serving() as server:
        os.environ.update(server.environment)
        server.make_bucket(S3_ROOT.split("/")[2])
        fsspec.filesystem("s3", skip_instance_cache=True).put(f"{path}/256/root/", f"{S3_ROOT}/", recursive=True)
        server.fail("slow", seconds=0.025, bytes_per_s=GIGABIT)
        print("\n25 ms a request, 1 Gb/s for all of them together; fogx' cache of columns is warm after the first round\n")
        print("| window, fogx | workers | items/s | CPU ms an item | wait for a batch ms | p99 | first batch s |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        for workers in given.workers:
            for reader in ("fogx", *S3_READERS):
                arguments = (reader, "window", str(path / "256"), str(workers), str(given.seconds))
                found = [_called(sys.executable, CASES_FILE, *arguments) for _ in range(given.rounds)]
                values = " | ".join(f"{_median(found, key):.2f}" for key in ("cpu", "p50", "p99", "first"))
                shown = "local, at random" if reader == "fogx" else reader
                print(f"| {shown} | {workers} | {_median(found, 'rate'):,.0f} | {values} |")


def _median(found: list[dict[str, Any]], key: str) -> float:
    return float(statistics.median(one[key] for one in found))


if __name__ == "__main__":
    main()
