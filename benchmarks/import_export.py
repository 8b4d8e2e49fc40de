"""Import and export of RLDS, side by side in one run: fogx, TFDS, and a plain copy of the bytes. Needs `fogx[rtx,dev]`.

    python benchmarks/import_export.py --gb 1 --rounds 3 --data FOLDER

Each case runs in a process of its own, rounds are interleaved, and medians are shown. Takes about twice `--gb` of disk
under the temporary folder. The table goes to stdout, progress to stderr.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fogx

SHIPPED = Path(__file__).parent.parent / "examples" / "data" / "rlds" / "bridge_dataset" / "1.0.0"
PACKAGES = ("numpy", "pyarrow", "polars", "deltalake", "google-crc32c", "protobuf", "tensorflow-datasets")

Rows = dict[str, list[dict[str, Any]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=1.0, help="GB to import (1)")
    parser.add_argument("--export-gb", type=float, help="GB to export (0.15, at most --gb)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median is shown (3)")
    parser.add_argument(
        "--data", help="holds rlds/g1_bottle/1.0.0; by default $FOGX_TEST_DATA, and without it the shipped episodes"
    )
    given = parser.parse_args()
    export_gb = min(0.15, given.gb) if given.export_gb is None else given.export_gb
    if given.rounds < 1 or given.gb <= 0 or export_gb <= 0:
        parser.error("--rounds must be 1 or more, --gb and --export-gb more than 0")
    source = _source(given.data, parser)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="fogx-bench-") as folder:
        scratch = Path(folder)
        many, few, root = scratch / "many" / "1.0.0", scratch / "few" / "1.0.0", scratch / "root"
        size = repeated(source, many, int(given.gb * 1e9))
        imports = dict.fromkeys(["copy", "fogx_import", "tfds_loop", "tfds_batched", "tfds_encoded"], many)
        imported = rounds(imports, scratch, given.rounds)
        shutil.rmtree(many)
        export_size = repeated(source, few, int(export_gb * 1e9))
        measured("fogx_import", few, root)
        exports = {"copy": few, "fogx_export": root, "tfds_write_decoded": few, "tfds_write_encoded": few}
        exported = rounds(exports, scratch, given.rounds)
        read = rounds({"fogx_read": root}, scratch, given.rounds)
        _check(imported)
        _check(exported)
        print(machine(scratch))
        print(f"source: {source.parent.name}, its shards repeated; load average at start {load:.1f}", end="")
        print("; the machine was shared" if load > 1.5 else "")
    report(size, imported, export_size, exported, read, given.rounds)


def repeated(source: Path, target: Path, size: int) -> int:
    """Write a builder folder whose shards are copies of the source's, until `size` bytes; return the bytes of the shards."""
    info = json.loads((source / "dataset_info.json").read_text())
    split = next(s for s in info["splits"] if s["name"] == "train")
    shards = sorted(source.glob("*-train.tfrecord-*"))
    times = max(1, -(-size // sum(shard.stat().st_size for shard in shards)))
    count = times * len(shards)
    target.mkdir(parents=True)
    shutil.copyfile(source / "features.json", target / "features.json")
    for number in range(count):
        name = f"{info['name']}-train.tfrecord-{number:05d}-of-{count:05d}"
        shutil.copyfile(shards[number % len(shards)], target / name)
    split["shardLengths"] = split["shardLengths"] * times
    split["numBytes"] = str(int(split["numBytes"]) * times)
    (target / "dataset_info.json").write_text(json.dumps({**info, "splits": [split]}))
    return sum(p.stat().st_size for p in target.glob("*.tfrecord-*"))


def rounds(cases: dict[str, Path], scratch: Path, number: int) -> Rows:
    """Run all cases in turn, `number` times."""
    for source in set(cases.values()):  # into the page cache, so that the first case does not pay for all
        for path in source.rglob("*"):
            if path.is_file():
                with open(path, "rb") as file:
                    # In pieces: a child's peak memory begins at what its parent holds.
                    while file.read(1 << 20):
                        pass
    results: Rows = {case: [] for case in cases}
    for turn in range(number):
        for case, source in cases.items():
            results[case].append(measured(case, source, scratch / "out"))
            print(f"round {turn + 1} of {number}: {case} {results[case][-1]['wall']:.2f} s", file=sys.stderr, flush=True)
    return results


def measured(case: str, source: Path, out: Path) -> dict[str, Any]:
    """Run a case in a process of its own and return what it tells; what it wrote is removed, but for a root to keep."""
    os.sync()  # what the case before left to write must not be paid here
    command = [sys.executable, str(Path(__file__).with_name("cases.py")), case, str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{case} failed:\n{done.stderr}")
    if out.name == "out":
        shutil.rmtree(out, ignore_errors=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def machine(scratch: Path) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    versions += "".join(f", {name} {_version(name)}" for name in ("tensorflow", "tensorflow-cpu") if _version(name))
    return (
        f"{platform.platform()}; {_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB RAM, {_filesystem(scratch)} disk\n"
        f"Python {platform.python_version()}, fogx {fogx.__version__}, {versions}"
    )


def report(size: int, imported: Rows, export_size: int, exported: Rows, read: Rows, number: int) -> None:
    print(
        f"medians of {number}, in brackets the fastest and the slowest; importing packages (start, base) is not in wall and CPU\n"
    )
    print("| import | wall s | CPU s | MB/s | peak MiB | base MiB | start s |\n|---|---:|---:|---:|---:|---:|---:|")
    _lines(imported, size)
    print("| **export** | | | | | | |")
    _lines(exported, export_size)
    print(f"\nimport: {size / 1e9:.2f} GB, {imported['fogx_import'][0]['episodes']} episodes, {imported['fogx_import'][0]['steps']} steps;"
          f" export: {export_size / 1e9:.2f} GB, {exported['fogx_export'][0]['episodes']} episodes\n")  # fmt: skip
    fogx_s, copy_s = _median(imported, "fogx_import"), _median(imported, "copy")
    quickest = min(("tfds_loop", "tfds_batched"), key=lambda case: _median(imported, case))
    print("| figure | found | aim | reached |\n|---|---:|---:|---|")
    for case in ("tfds_loop", "tfds_batched"):
        ratio = _median(imported, case) / fogx_s
        told = " (the faster way to decode all)" if case == quickest else ""
        _aim(f"{case} / fogx_import{told}", f"{ratio:.1f}x", "≥ 20x", ratio >= 20)
    _aim("fogx_import / copy", f"{fogx_s / copy_s:.2f}x", "≤ 3x", fogx_s / copy_s <= 3)
    peak = _median(imported, "fogx_import", "peak") * (1 << 20)
    _aim("fogx_import, peak memory", f"{peak / 1e9:.2f} GB", "≤ 0.5 GB", peak <= 0.5e9)
    print(f"| tfds_encoded / fogx_import | {_median(imported, 'tfds_encoded') / fogx_s:.1f}x | | |")
    out = _median(exported, "fogx_export")
    for case in ("tfds_write_decoded", "tfds_write_encoded"):
        print(f"| {case} / fogx_export | {_median(exported, case) / out:.1f}x | | |")
    print(f"| fogx_export / copy | {out / _median(exported, 'copy'):.2f}x | | |")
    for key in ("known offset frames/s", "row group frames/s", "decode frames/s"):
        print(f"| read: {key} | {_median(read, 'fogx_read', key):,.0f} | | |")
    print(f"| read: group-by over the steps of {read['fogx_read'][0]['group-by episodes']} episodes |"
          f" {_median(read, 'fogx_read', 'group-by s') * 1e3:.0f} ms | | |")  # fmt: skip


def _lines(results: Rows, size: int) -> None:
    for case, found in results.items():
        walls = [one["wall"] for one in found]
        wall = statistics.median(walls)
        print(f"| {case} | {wall:.2f} ({min(walls):.2f}–{max(walls):.2f}) | {_median(results, case, 'cpu'):.2f} | {size / 1e6 / wall:.0f}"
              f" | {_median(results, case, 'peak'):.0f} | {_median(results, case, 'base'):.0f}"
              f" | {_median(results, case, 'imports'):.1f} |")  # fmt: skip


def _aim(figure: str, found: str, aim: str, reached: bool) -> None:
    print(f"| {figure} | {found} | {aim} | {'yes' if reached else 'NO'} |")


def _median(results: Rows, case: str, key: str = "wall") -> float:
    return float(statistics.median(one[key] for one in results[case]))


def _check(results: Rows) -> None:
    """Refuse to compare cases that did not do the same work."""
    for key in ("episodes", "steps"):
        counts = {one[key] for found in results.values() for one in found if key in one}
        if len(counts) > 1:
            sys.exit(f"the cases saw different numbers of {key}: {sorted(counts)}")


def _source(data: str | None, parser: argparse.ArgumentParser) -> Path:
    folder = data or os.environ.get("FOGX_TEST_DATA")
    found = Path(folder or "") / "rlds" / "g1_bottle" / "1.0.0"
    if folder and found.is_dir():
        return found
    if data:
        parser.error(f"{found} is not there; leave --data out to use the episodes that ship with fogx")
    return SHIPPED


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:
        return ""


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _filesystem(path: Path) -> str:
    """Return the type of the file system, where the machine tells: the longest mount point that holds the path."""
    if sys.platform != "linux":
        return "local"
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return str(max((m for m in mounts if path.resolve().is_relative_to(m[1])), key=lambda m: len(m[1]))[2])


if __name__ == "__main__":
    main()
