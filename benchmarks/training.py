"""Batches for training against the limits of the machine. Needs `fogx[rtx,torch]`.

    python benchmarks/training.py                      # windows of actions, and of real frames; about 3 minutes
    python benchmarks/training.py --episodes 100000    # time to the first batch, cold and warm, and memory of a worker

Each case runs in a process of its own, one thread; medians of rounds are shown, by the wall clock and (CPU), as thousandths of a second
for each item. `limit` is what a program could do at best: decode the same JPEG bytes and nothing else, or index tensors in memory. `resized` and `derived`
are a frame of each of 2 cameras in 224×224, from 640×480 (real frames scaled up) and from what `derive` made of them.
"""

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import fogx as fox

WINDOWS = {"action": fox.steps(0, 16), "state": fox.steps(-1, 1), "front": fox.steps(-1, 1), "wrist": fox.steps(-1, 1)}
BATCH = 64
SMALL = (224, 224)
DATA = Path(__file__).parent.parent / "examples" / "data" / "rlds" / "bridge_dataset" / "1.0.0"


def generate(path: Path, name: str, size: tuple[int, int], repeats: int) -> None:
    """Record real episodes, their two cameras resized to a width and height, as JPEG; each several times, and once mirrored."""
    from PIL import Image, ImageOps

    given = os.environ.get("FOGX_TEST_DATA")
    source = fox.Dataset(path / f"source of {name}")
    source.load_rtx_episodes(Path(given, "rlds/g1_bottle/1.0.0") if given else DATA)
    dataset = fox.Dataset(path / name)
    for view in source:
        cameras = [name for name, feature in view.schema.items() if feature.is_image]
        state = next(name for name in ("observation/state", "state") if name in view.features)
        views = {"front": view[cameras[0]], "wrist": view[cameras[-1]][::-1]}
        steps = []
        for number in range(view.num_steps):
            step: dict[str, Any] = {"action": view["action"][number], "state": view[state][number]}
            for camera, pictures in views.items():
                picture, out = Image.fromarray(pictures[number]).resize(size), io.BytesIO()
                (ImageOps.mirror(picture) if camera == "wrist" else picture).save(out, "JPEG", quality=95)
                step[camera] = out.getvalue()
            steps.append(step)
        for _ in range(repeats):
            with dataset.new_episode() as episode:
                for step in steps:
                    episode.add_step(step)


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


def fogx_batches(path: str, count: int, features: list[str]) -> Iterator[Callable[[], Any]]:
    """Yield calls that read a batch of random items."""
    windows = {name: window for name, window in WINDOWS.items() if name in features}
    items = fox.Dataset(f"{path}/root").as_pytorch_dataset(windows=windows, features=features)
    random = np.random.default_rng(0)
    for _ in range(count):
        yield lambda: items.__getitems__(random.integers(0, len(items), BATCH).tolist()).batch


def fogx_windows(path: str, count: int) -> Iterator[Callable[[], Any]]:
    """16 actions, 2 states, 2 frames of 2 cameras."""
    yield from fogx_batches(path, count, list(WINDOWS))


def fogx_steps(path: str, count: int) -> Iterator[Callable[[], Any]]:
    """One action, one state, a frame of each of 2 cameras."""
    items = fox.Dataset(f"{path}/root").as_pytorch_dataset(features=list(WINDOWS))
    random = np.random.default_rng(0)
    for _ in range(count):
        yield lambda: items.__getitems__(random.integers(0, len(items), BATCH).tolist()).batch


def fogx_actions(path: str, count: int) -> Iterator[Callable[[], Any]]:
    """16 actions."""
    yield from fogx_batches(path, 20 * count, ["action"])


def fogx_resized(path: str, count: int) -> Iterator[Callable[[], Any]]:
    """A frame of each of 2 cameras, 640×480 resized to 224×224."""
    yield from _small(fox.Dataset(f"{path}/large").at("recorded"), count)


def fogx_derived(path: str, count: int) -> Iterator[Callable[[], Any]]:
    """The same from the frames that `derive` made."""
    yield from _small(fox.Dataset(f"{path}/large"), count)


def _small(dataset: fox.Dataset, count: int) -> Iterator[Callable[[], Any]]:
    items = dataset.as_pytorch_dataset(features=["front", "wrist"], image_size=SMALL)
    random = np.random.default_rng(0)
    for _ in range(count):
        yield lambda: items.__getitems__(random.integers(0, len(items), BATCH).tolist()).batch


def _encoded(root: str) -> list[bytes]:
    return [blob for view in fox.Dataset(root) for name in ("front", "wrist") for blob in view.encoded(name)]


def _decode(blobs: Sequence[bytes], count: int, frames: int) -> Iterator[Callable[[], Any]]:
    import simplejpeg

    random = np.random.default_rng(0)

    def decode() -> None:
        for number in random.integers(0, len(blobs), BATCH * frames).tolist():
            simplejpeg.decode_jpeg(blobs[number], fastdct=True, fastupsample=False)

    for _ in range(count):
        yield decode


def limit_windows(path: str, count: int) -> Iterator[Callable[[], Any]]:
    """Decode 4 frames an item from memory, and nothing else."""
    yield from _decode(_encoded(f"{path}/root"), count, 4)


def limit_steps(path: str, count: int) -> Iterator[Callable[[], Any]]:
    """Decode 2 frames an item from memory, and nothing else."""
    yield from _decode(_encoded(f"{path}/root"), count, 2)


def limit_resized(path: str, count: int) -> Iterator[Callable[[], Any]]:
    """Decode 2 frames of 640×480 an item from memory, and nothing else."""
    yield from _decode(_encoded(f"{path}/large"), count, 2)


def limit_derived(path: str, count: int) -> Iterator[Callable[[], Any]]:
    """Decode 2 frames of 224×224 an item from memory, and nothing else."""
    from fogx.reading.episodes import locate, read_derived

    members = locate(fox.Dataset(f"{path}/large")._roots.chosen())
    yield from _decode([blob for member in members for blobs in read_derived(member).values() for blob in blobs], count, 2)


def limit_actions(path: str, count: int) -> Iterator[Callable[[], Any]]:
    """Index one tensor in memory that holds all windows: a `TensorDataset`, a batch at once."""
    import torch

    actions = np.concatenate([view["action"] for view in fox.Dataset(f"{path}/root")]).astype(np.float32)
    places = np.minimum(np.arange(len(actions))[:, None] + np.arange(16), len(actions) - 1)
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(actions[places]), torch.zeros(len(actions), 16, dtype=torch.bool))
    random = np.random.default_rng(0)
    for _ in range(20 * count):
        yield lambda: dataset[torch.from_numpy(random.integers(0, len(actions), BATCH))]


CASES = {
    case.__name__: case
    for case in (
        *(fogx_windows, limit_windows, fogx_steps, limit_steps, fogx_actions, limit_actions),
        *(fogx_resized, limit_resized, fogx_derived, limit_derived),
    )
}


def run(case: str, path: str, batches: int) -> dict[str, float]:
    """Return ms an item, by the wall clock and of CPU."""
    import torch

    torch.set_num_threads(1)
    walls, cpus = [], []
    for call in CASES[case](path, batches + 2):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {"wall": 1e3 * statistics.median(walls[2:]) / BATCH, "cpu": 1e3 * statistics.median(cpus[2:]) / BATCH}


def first_batch(path: str) -> dict[str, float]:
    """Return seconds to open, to plan and to have the first random batch, and the memory of the process."""
    told, began = {}, time.perf_counter()

    def note(name: str) -> None:
        nonlocal began
        told[name] = time.perf_counter() - began
        began = time.perf_counter()

    import torch

    dataset = fox.Dataset
    note("import torch and fogx")
    handle = dataset(path)
    note("open")
    items = handle.as_pytorch_dataset(features=["action"], windows={"action": fox.steps(0, 16)})
    note("as_pytorch_dataset")
    random = np.random.default_rng(0)
    items.__getitems__(random.integers(0, len(items), 256).tolist())
    note("first batch of 256 random items")
    for _ in range(20):
        items.__getitems__(random.integers(0, len(items), 256).tolist())
    told["next batch"] = (time.perf_counter() - began) / 20
    loader = torch.utils.data.DataLoader(items, 256, shuffle=True, num_workers=2, multiprocessing_context="spawn")
    began = time.perf_counter()
    batches = iter(loader)
    next(batches)
    note("first batch of 2 spawned workers")
    workers = [worker.pid for worker in batches._workers]  # type: ignore[attr-defined]
    for _ in range(100):
        next(batches)
    told |= {f"memory of a worker, {name}, MiB": max(_status(pid, field) for pid in workers) for name, field in MEMORY.items()}
    told["memory of this process, own, MiB"] = _status(os.getpid(), "RssAnon")
    return told


MEMORY = {"own": "RssAnon", "with mapped files": "VmRSS"}


def _status(pid: int, field: str) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().split(f"{field}:")[1].split()[0]) / 1024


def _called(*arguments: str, cache: Path) -> dict[str, float]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, env=environment)
    told: dict[str, float] = json.loads(done.stdout)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median is shown (3)")
    parser.add_argument("--batches", type=int, default=10, help="batches of 64 a round (10)")
    parser.add_argument("--side", type=int, default=256, help="pixels of a side (256)")
    parser.add_argument("--episodes", type=int, help="instead: the first batch of so many episodes of 100 steps")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--root", help=argparse.SUPPRESS)
    given = parser.parse_args()
    fox.config(progress=False)
    if given.run:
        print(json.dumps(first_batch(given.root) if given.run == "first" else run(given.run, given.root, given.batches)))
        return
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "pyarrow", "simplejpeg", "torch"))
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, fogx {fox.__version__}, {packages}")
    with tempfile.TemporaryDirectory(prefix="fogx-training-") as folder:
        path = Path(folder)
        if given.episodes:
            generate_many(path / "root", given.episodes)
            cold, *warm = [_called("--run", "first", "--root", str(path / "root"), cache=path / "cache") for _ in range(3)]
            print(f"| {given.episodes:,} episodes, seconds | cold | warm |\n|---|---:|---:|")
            for name in cold:
                print(f"| {name} | {cold[name]:.3f} | {statistics.median(told[name] for told in warm):.3f} |")
            return
        generate(path, "root", (given.side, given.side), 2)
        generate(path, "large", (640, 480), 1)
        large = fox.Dataset(path / "large")
        large.pin("recorded")
        began = time.perf_counter()
        large.derive(image_size=SMALL)
        took, frames = time.perf_counter() - began, 2 * sum(view.num_steps for view in large)
        print(f"derive: {frames} frames of 640×480 to 224×224 in {took:.1f} s, {frames / took:.0f}/s")
        told: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
        for _ in range(given.rounds):
            for case in CASES:
                told[case].append(_called("--run", case, "--root", folder, "--batches", str(given.batches), cache=path / "cache"))
        median = {c: {k: statistics.median(found[k] for found in rounds) for k in ("wall", "cpu")} for c, rounds in told.items()}
        print("| ms an item | fogx | limit | of the limit's speed | items/s |\n|---|---:|---:|---:|---:|")
        for name in ("windows", "steps", "actions", "resized", "derived"):
            ours, limit = median[f"fogx_{name}"], median[f"limit_{name}"]
            shown = [f"{found['wall']:.4f} ({found['cpu']:.4f})" for found in (ours, limit)]
            print(f"| {name} | {' | '.join(shown)} | {100 * limit['cpu'] / ours['cpu']:.0f} % | {1e3 / ours['wall']:,.0f} |")


if __name__ == "__main__":
    main()
