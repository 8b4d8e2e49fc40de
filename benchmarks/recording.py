"""Recording, side by side in one run on the same frames: fogx, LeRobotDataset and plain HDF5. Needs `fogx[rtx,dev]`.

    python benchmarks/recording.py --rounds 3 --lerobot OTHER/bin/python
    python benchmarks/recording.py --sizes 256 --steps 60 --rounds 1 --seconds 5    # a quick look

Two cameras and joints are recorded as fast as they are taken; then four cameras at 30 Hz and joints at 500 Hz in real time, by fogx, on
two cores. Each case runs in a process of its own, rounds are interleaved, and medians are shown. `--lerobot` names the Python of a
venv with lerobot 0.4.4; without it those cases are left out, and it is said. The tables go to stdout, progress to stderr.
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

import numpy as np
from PIL import Image

import fogx as fox

BRIDGE = Path(__file__).parent.parent / "examples" / "data" / "rlds" / "bridge_dataset" / "1.0.0"
SIZES = {"256": (256, 256), "480": (480, 640)}
CASES = ("fogx_jpeg", "fogx_png", "lerobot_video", "lerobot_image", "hdf5_raw", "hdf5_jpeg")
PACKAGES = ("numpy", "pyarrow", "deltalake", "simplejpeg", "pillow", "h5py")
FRAMES = 60
"""Frames in a row of each camera, played to and fro: 2 s, in memory, so that no disk is read while recording."""

Rows = dict[str, list[dict[str, Any]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="steps of two frames a case (300)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median is shown (3)")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="256×256 and 640×480 (both)")
    parser.add_argument("--seconds", type=int, default=30, help="length of the case in real time; 0 leaves it out (30)")
    parser.add_argument("--lerobot", metavar="PYTHON", help="Python that has lerobot 0.4.4; see benchmarks/README.md")
    parser.add_argument("--data", help="holds rlds/g1_bottle/1.0.0; by default $FOGX_TEST_DATA, without it the shipped episodes")
    given = parser.parse_args()
    if min(given.steps, given.rounds) < 1 or given.seconds < 0:
        parser.error("--steps and --rounds must be 1 or more, --seconds 0 or more")
    pythons = {"fogx": sys.executable, "hdf5": sys.executable, "lerobot": given.lerobot}
    cases = [case for case in CASES if pythons[case.partition("_")[0]]]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="fogx-bench-") as folder:
        scratch = Path(folder)
        source = cameras(given.data, scratch, set(given.sizes) | ({"480"} if given.seconds else set()), parser)
        print(machine(given.lerobot))
        print(f"frames: {source}; load average at start {load:.1f}{'; the machine was shared' if load > 1.5 else ''}")
        if given.lerobot is None:
            print("LeRobot is left out: --lerobot names the Python of a venv that has it")
        for size in given.sizes:
            results: Rows = {case: [] for case in cases}
            for turn in range(given.rounds):
                for case in cases:
                    python = str(pythons[case.partition("_")[0]])
                    one = measured(python, case, scratch / f"2x{size}.npy", scratch / "out", given.steps)
                    results[case].append(one)
                    said = f"round {turn + 1} of {given.rounds}: {size} {case} {one['wall']:.2f} s"
                    print(said, file=sys.stderr, flush=True)
            report(size, results, given.steps)
        if given.seconds:
            lived = [
                measured(sys.executable, "real_time", scratch / "4x480.npy", scratch / "out", given.seconds)
                for _ in range(given.rounds)
            ]
            report_real_time(lived, given.seconds)


def cameras(data: str | None, scratch: Path, sizes: set[str], parser: argparse.ArgumentParser) -> str:
    """Write `2x256.npy` and the like, `(cameras, FRAMES, H, W, 3)` of real frames in a row; return what they are."""
    folder = data or os.environ.get("FOGX_TEST_DATA")
    found = Path(folder or "") / "rlds" / "g1_bottle" / "1.0.0"
    if data and not found.is_dir():
        parser.error(f"{found} is not there; leave --data out to use the episodes that ship with fogx")
    real = bool(folder) and found.is_dir()
    fox.config(progress=False)
    dataset = fox.Dataset(scratch / "source")
    # Bridge has but 10 steps an episode, so there each episode is played to its end, and the next begins.
    dataset.load_rtx_episodes(found if real else BRIDGE, split="train")
    camera = "observation/image" if real else "observation/image_0"
    frames = np.concatenate([view[: 2 * FRAMES][camera] for view in dataset.episodes])
    for size in sizes:
        height, width = SIZES[size]
        for count in (2, 4) if size == "480" else (2,):
            made = np.stack([_scaled(frame, width, height) for frame in np.resize(frames, (count * FRAMES, *frames.shape[1:]))])
            np.save(scratch / f"{count}x{size}.npy", made.reshape(count, FRAMES, height, width, 3))
    name, shape = ("Unitree G1", "320×240") if real else ("Bridge", f"{frames.shape[2]}×{frames.shape[1]}")
    return f"{name}, real {shape} JPEG, decoded, cut to the aspect and scaled, {FRAMES} in a row a camera, to and fro"


def _scaled(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    high, wide = frame.shape[:2]
    side = min(wide / width, high / height)
    left, top = (wide - width * side) / 2, (high - height * side) / 2
    box = (left, top, wide - left, high - top)
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS, box=box))


def measured(python: str, case: str, frames: Path, out: Path, amount: int) -> dict[str, Any]:
    """Run a case in a process of its own and return what it tells; what it wrote is removed."""
    os.sync()  # what the case before left to write must not be paid here
    command = [python, str(Path(__file__).with_name("recording_cases.py")), case, str(frames), str(out), str(amount)]
    done = subprocess.run(command, capture_output=True, text=True)
    for folder in (out, out.with_name("warm")):
        shutil.rmtree(folder, ignore_errors=True)
    if done.returncode:
        sys.exit(f"{case} failed:\n{done.stderr}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def machine(lerobot: str | None) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    if lerobot:
        ask = 'from importlib.metadata import version as v; print(f\'lerobot {v("lerobot")} (torch {v("torch")}, av {v("av")})\')'
        packages += ", " + subprocess.run([lerobot, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    return (
        f"{platform.platform()}; {os.cpu_count()} cores, {memory:.0f} GiB RAM\n"
        f"Python {platform.python_version()}, fogx {fox.__version__}, {packages}"
    )


def report(size: str, results: Rows, steps: int) -> None:
    height, width = SIZES[size]
    kept = {one["steps"] for found in results.values() for one in found}
    if kept != {steps}:
        sys.exit(f"the cases kept different numbers of steps: {sorted(kept)}, {steps} were given")
    rate = {case: 2 * steps / _median(found, "wall") for case, found in results.items()}
    print(f"\n2 cameras of {width}×{height}, 7 joints: {2 * steps} frames; medians of {len(results['fogx_jpeg'])}\n")
    print("| case | frames/s | CPU s | close s | MB on disk | peak MiB | of it base | step ms median | p99 | p99.9 |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for case, found in results.items():
        waits = " | ".join(f"{_median(found, key) * 1e3:.2f}" for key in ("p50", "p99", "p99.9"))
        print(
            f"| {case} | {rate[case]:,.0f} | {_median(found, 'cpu'):.2f} | {_median(found, 'close'):.2f} | {_median(found, 'bytes') / 1e6:.1f}"
            f" | {_median(found, 'peak'):.0f} | {_median(found, 'base'):.0f} | {waits} |"
        )
    print("\n| figure | found | aim | reached |\n|---|---:|---:|---|")
    if size == "256":
        _aim("fogx_jpeg, frames/s at 256×256", f"{rate['fogx_jpeg']:,.0f}", "≥ 500", rate["fogx_jpeg"] >= 500)
    for peer in (case for case in results if not case.startswith("fogx")):
        ratio = rate["fogx_jpeg"] / rate[peer]
        if peer == "lerobot_video":
            _aim(f"fogx_jpeg / {peer}", f"{ratio:.1f}x", "≥ 10x", ratio >= 10)
        else:
            print(f"| fogx_jpeg / {peer} | {ratio:.1f}x | | |")


def report_real_time(lived: list[dict[str, Any]], seconds: int) -> None:
    dropped, late = sum(one["dropped"] for one in lived), sum(one["late frames"] for one in lived)
    frame_s, joint_s = _median(lived, "frame p99.9"), _median(lived, "joint p99.9")
    print(
        f"\nreal time: 4 cameras of 640×480 at 30 Hz as JPEG, joints at 500 Hz, {seconds} s; medians of {len(lived)}, counts of all\n"
    )
    print("| figure | found | aim | reached |\n|---|---:|---:|---|")
    _aim(f"frames dropped, of {sum(one['frames'] for one in lived) + dropped}", str(dropped), "0", dropped == 0)
    print(f"| frames that began more than 10 ms late | {late} | | |")
    print(
        f"| joints that began more than 10 ms late, of {sum(one['joints'] for one in lived)} | {sum(one['late joints'] for one in lived)} | | |"
    )
    _aim("add of joints, p99.9", f"{joint_s * 1e3:.2f} ms", "≤ 1 ms", joint_s <= 1e-3)
    _aim("add of a frame, p99.9", f"{frame_s * 1e3:.2f} ms", "≤ 1 ms", frame_s <= 1e-3)
    for key in ("joint p50", "joint p99", "frame p50", "frame p99"):
        print(f"| add, {key} | {_median(lived, key) * 1e3:.3f} ms | | |")
    print(f"| CPU while recording | {_median(lived, 'recording cpu') / seconds:.0%} of a core | | |")
    _aim("close", f"{_median(lived, 'close'):.2f} s", "≤ 1 s", _median(lived, "close") <= 1)
    print(f"| on disk | {_median(lived, 'bytes') / 1e6:.0f} MB | | |")
    print(f"| peak memory, of it {_median(lived, 'base'):.0f} MiB before | {_median(lived, 'peak'):.0f} MiB | | |")


def _aim(figure: str, found: str, aim: str, reached: bool) -> None:
    print(f"| {figure} | {found} | {aim} | {'yes' if reached else 'NO'} |")


def _median(found: list[dict[str, Any]], key: str) -> float:
    return float(statistics.median(one[key] for one in found))


if __name__ == "__main__":
    main()
