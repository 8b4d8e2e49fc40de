"""Import and export of RLDS, side by side in one run: fogx, TFDS, and a plain copy of the bytes.

    python benchmarks/import_export.py --gb 1 --rounds 3 --data FOLDER_WITH_g1_bottle

Each case runs in a process of its own; rounds are interleaved; medians are shown. Without --data (or FOGX_TEST_DATA) the shipped
Bridge episodes are repeated instead.
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
from importlib.metadata import version
from pathlib import Path

SHIPPED = Path(__file__).parent.parent / "examples" / "data" / "rlds" / "bridge_dataset" / "1.0.0"


def repeated(source: Path, target: Path, size: int) -> int:
    """Write a builder folder whose shards are copies of the source's, until `size` bytes; return the bytes."""
    info = json.loads((source / "dataset_info.json").read_text())
    split = next(s for s in info["splits"] if s["name"] == "train")
    shards = sorted(source.glob("*-train.tfrecord-*"))
    rounds = max(1, -(-size // sum(shard.stat().st_size for shard in shards)))
    count = rounds * len(shards)
    target.mkdir(parents=True)
    shutil.copy(source / "features.json", target)
    for number in range(count):
        shutil.copy(shards[number % len(shards)], target / f"{info['name']}-train.tfrecord-{number:05d}-of-{count:05d}")
    split["shardLengths"] = split["shardLengths"] * rounds
    split["numBytes"] = str(int(split["numBytes"]) * rounds)
    (target / "dataset_info.json").write_text(json.dumps({**info, "splits": [split]}))
    return sum(p.stat().st_size for p in target.iterdir())


def case_copy(source: Path, out: Path) -> None:
    out.mkdir(parents=True)
    for path in source.iterdir():
        with open(path, "rb") as reader, open(out / path.name, "wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fsync(writer.fileno())
    folder = os.open(out, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def case_fogx_import(source: Path, out: Path) -> None:
    import fogx as fox

    fox.config(progress=False)
    fox.Dataset(out).load_rtx_episodes(source)


def case_tfds_decode(source: Path, out: Path) -> None:
    import tensorflow_datasets as tfds

    for episode in tfds.builder_from_directory(source).as_dataset(split="train"):
        for _ in episode["steps"]:
            pass


def case_fogx_export(source: Path, out: Path) -> None:
    import fogx as fox

    fox.config(progress=False)
    fox.Dataset(source).export(path=out, name="bench")


def case_tfds_write(source: Path, out: Path) -> None:
    """What a converter does: decoded steps into a SequentialWriter."""
    import numpy as np
    import tensorflow_datasets as tfds

    import fogx as fox

    builder = tfds.builder_from_directory(json.loads((source / "builder.json").read_text()))
    info = tfds.core.DatasetInfo(
        builder=tfds.core.dataset_info.DatasetIdentity(
            name="bench", version=tfds.core.Version("1.0.0"), data_dir=str(out), module_name="bench"
        ),
        features=builder.info.features,
    )
    out.mkdir(parents=True)
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=100)
    writer.initialize_splits(["train"])
    for view in fox.Dataset(source):
        nested: dict = {}
        for name in view.features:
            place = nested
            *parents, leaf = name.split("/")
            for parent in parents:
                place = place.setdefault(parent, {})
            place[leaf] = np.asarray(view[name])
        metadata = {k.removeprefix("episode_metadata/"): v for k, v in view.metadata.items() if k.startswith("episode_metadata/")}
        writer.add_examples({"train": [{"steps": nested, "episode_metadata": metadata}]})
    writer.close_all()


CASES = {name.removeprefix("case_"): function for name, function in list(globals().items()) if name.startswith("case_")}


def measured(case: str, source: Path, out: Path) -> tuple[float, float, float]:
    """Run a case in a process of its own; return wall seconds, CPU seconds and peak MiB."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, __file__, "--case", case, str(source), str(out)], stdout=subprocess.PIPE, check=True)
    wall = time.perf_counter() - started
    cpu, peak, startup = json.loads(done.stdout)
    shutil.rmtree(out, ignore_errors=True)
    return wall - startup, cpu, peak


def run_case(case: str, source: Path, out: Path) -> None:
    # Imports are paid before the clock starts: a program pays them once, not per gigabyte.
    began = time.perf_counter()
    if case.startswith("fogx"):
        import tensorflow_datasets.core.features

        import fogx.dataset  # noqa: F401
    elif case.startswith("tfds"):
        import tensorflow  # noqa: F401
        import tensorflow_datasets  # noqa: F401
    startup = time.perf_counter() - began
    before = resource.getrusage(resource.RUSAGE_SELF)
    CASES[case](source, out)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    print(json.dumps([cpu, after.ru_maxrss / unit, startup]))


def table(title: str, size: int, cases: dict[str, Path], scratch: Path, rounds: int) -> dict[str, tuple[float, float, float]]:
    results: dict[str, list[tuple[float, float, float]]] = {case: [] for case in cases}
    for number in range(rounds):
        for case, source in cases.items():
            results[case].append(measured(case, source, scratch / f"out-{case}-{number}"))
            print(f"  round {number + 1}: {case} {results[case][-1][0]:.2f} s", file=sys.stderr)
    medians = {case: tuple(statistics.median(column) for column in zip(*rows, strict=True)) for case, rows in results.items()}
    print(f"\n{title}: {size / 1e9:.2f} GB, median of {rounds}\n")
    print(f"| {'case':14} | wall s | CPU s | MB/s | peak MiB |\n|{'-' * 16}|-------:|------:|-----:|---------:|")
    for case, (wall, cpu, peak) in medians.items():
        print(f"| {case:14} | {wall:6.2f} | {cpu:5.2f} | {size / 1e6 / wall:4.0f} | {peak:8.0f} |")
    return medians  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--export-gb", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", default=os.environ.get("FOGX_TEST_DATA"))
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        run_case(given.case[0], Path(given.case[1]), Path(given.case[2]))
        return
    g1 = Path(given.data or "") / "rlds" / "g1_bottle" / "1.0.0"
    source = g1 if given.data and g1.exists() else SHIPPED
    packages = ("fogx", "pyarrow", "deltalake", "tensorflow-datasets", "numpy")
    installed = ", ".join(f"{name} {version(name)}" for name in packages if name != "fogx")
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}; {installed}")
    print(f"source: {source.parent.name}, repeated; load average at start {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="fogx-bench-") as folder:
        scratch = Path(folder)
        size = repeated(source, scratch / "many" / "1.0.0", int(given.gb * 1e9))
        cases = dict.fromkeys(["copy", "fogx_import", "tfds_decode"], scratch / "many" / "1.0.0")
        imported = table("import", size, cases, scratch, given.rounds)
        fogx, tfds, copy = imported["fogx_import"], imported["tfds_decode"], imported["copy"]
        print(f"\nTFDS full decode / fogx: {tfds[0] / fogx[0]:.1f}x (aim 20x)")
        print(f"fogx / copy with fsync: {fogx[0] / copy[0]:.2f}x (aim 3x); fogx peak {fogx[2]:.0f} MiB (aim 512)")
        small = scratch / "few" / "1.0.0"
        size = repeated(source, small, int(given.export_gb * 1e9))
        root = scratch / "root"
        case_fogx_import(small, root)
        (root / "builder.json").write_text(json.dumps(str(small)))
        exported = table("export", size, {"fogx_export": root, "tfds_write": root}, scratch, given.rounds)
        print(f"\nSequentialWriter / fogx: {exported['tfds_write'][0] / exported['fogx_export'][0]:.1f}x")


if __name__ == "__main__":
    main()
