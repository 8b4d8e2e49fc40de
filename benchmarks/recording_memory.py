"""Memory, latency of `add` and length of `close()` while cameras and joints are recorded, played faster than real time.

    python benchmarks/recording_memory.py --minutes 30
    python benchmarks/recording_memory.py --cameras 4 --minutes 1 --speed 1

Joints of 7 float32 come at 500 Hz, JPEG cameras of 640×480 at 30 Hz, `--speed` times as fast as they are. Where the encoders do not keep
up with that, `add` waits for them, as it should, and its latencies are no longer those of a robot; the queue is then always full. Needs
`fogx` alone, and about 4 GB of disk for 30 minutes of two cameras.
"""

import argparse
import gc
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

import fogx as fox

JOINTS_HZ, CAMERA_HZ = 500, 30
ROUNDS = 64
"""So many images are made beforehand; they come again and again."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="of recorded time (30)")
    parser.add_argument("--cameras", type=int, default=2, help="(2)")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), help="height and width of an image (480 640)")
    parser.add_argument("--speed", type=float, default=4, help="times the speed of the recorded time (4)")
    parser.add_argument("--root", help="folder for the dataset; a new temporary one, removed afterwards, by default")
    options = parser.parse_args()
    folder = options.root or tempfile.mkdtemp(prefix="fogx-recording-")
    try:
        record(fox.Dataset(Path(folder) / "dataset"), options)
    finally:
        if not options.root:
            shutil.rmtree(folder)


def record(dataset: fox.Dataset, options: argparse.Namespace) -> None:
    images = scenes(*options.size)
    with dataset.new_episode() as warm:  # what is imported and begun once is not counted
        warm.add_step({"joints": np.zeros(7, np.float32), "camera/0": images[0]}, timestamp=0)
    base, peak = rss(), 0.0
    print(
        f"{options.cameras} × {options.size[1]}×{options.size[0]} at {CAMERA_HZ} Hz, joints at {JOINTS_HZ} Hz; base {base:.0f} MB"
    )
    gc.collect()
    gc.freeze()  # as a program does that has loaded its modules: the collector stops all threads for 40 ms when it looks at them first
    ticks = round(options.minutes * 60 * JOINTS_HZ)
    latency = {"joints": np.zeros(ticks), "image": np.zeros(options.cameras * (ticks * CAMERA_HZ // JOINTS_HZ + 1))}
    base, images_added = rss(), 0
    episode, began, cpu, late = dataset.new_episode(), time.perf_counter(), time.process_time(), 0.0
    joints = np.zeros(7, np.float32)
    for tick in range(ticks):
        stamp = tick * 1_000_000_000 // JOINTS_HZ
        ahead = began + tick / JOINTS_HZ / options.speed - time.perf_counter()
        late = max(late, -ahead)
        if ahead > 0:
            time.sleep(ahead)
        joints[:] = tick
        start = time.perf_counter()
        episode.add("joints", joints, stamp)
        latency["joints"][tick] = time.perf_counter() - start
        if tick * CAMERA_HZ // JOINTS_HZ != (tick - 1) * CAMERA_HZ // JOINTS_HZ:
            for camera in range(options.cameras):
                image = images[(images_added + camera) % len(images)]
                start = time.perf_counter()
                episode.add(f"camera/{camera}", image, stamp)
                latency["image"][images_added] = time.perf_counter() - start
                images_added += 1
        if tick % 500 == 0:
            peak = max(peak, rss())
        if (tick + 1) % max(ticks // 10, 1) == 0:
            print(f"{(tick + 1) / JOINTS_HZ / 60:6.1f} min  rss {rss() - base:+5.0f} MB  {episode!r}"[:150])
    took, used = time.perf_counter() - began, time.process_time() - cpu
    start = time.perf_counter()
    episode.close()
    close = time.perf_counter() - start
    peak = max(peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(
        f"recorded in {took:.1f} s: {images_added / took:.0f} images/s, CPU {100 * used / took:.0f} % of one core, latest {late * 1e3:.0f} ms"
    )
    for name, seconds in latency.items():
        median, p99, p999 = np.percentile(seconds[: images_added if name == "image" else None] * 1e6, (50, 99, 99.9))
        print(f"add of {name}: median {median:.1f} µs, p99 {p99:.0f} µs, p99.9 {p999:.0f} µs, most {seconds.max() * 1e6:.0f} µs")
    print(f"close {close:.2f} s; peak rss {peak - base:+.0f} MB over base")


def scenes(height: int, width: int) -> list[np.ndarray]:
    """Return images that compress about as photographs do: smooth shapes and a little noise."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    made = []
    for number in range(ROUNDS):
        waves = [np.sin(x / (20 + 7 * c) + number / 9) + np.cos(y / (15 + 5 * c) - number / 7) for c in range(3)]
        made.append((np.stack(waves, -1) * 50 + 128 + random.normal(0, 1.5, (height, width, 3))).clip(0, 255).astype(np.uint8))
    return made


def rss() -> float:
    """Return the memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
