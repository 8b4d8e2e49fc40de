"""Alignment of 600 s of sensors at 30, 200 and 1000 Hz, beside polars' join_asof on the same stamps.

    python benchmarks/align.py --rounds 15

Needs `fogx` alone. Medians, wall clock; rounds are interleaved.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import polars as pl

import fogx as fox
from fogx.align.steps import Steps, Stream, align

SECONDS = 600
RATES_HZ = {"camera": 30, "joint": 200, "force": 1000}
CASES = {
    "default: a step a sample of force": fox.Align(),
    "reference camera, hold": fox.Align(reference="camera"),
    "rate_hz=50, hold": fox.Align(rate_hz=50),
    "union": fox.Align(union=True),
    "rate_hz=1000, force and joint linear": fox.Align(rate_hz=1000, features={"force": fox.linear(), "joint": fox.linear()}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="(15)")
    rounds = parser.parse_args().rounds
    random = np.random.default_rng(0)
    streams, before = {}, 0
    for name, rate in RATES_HZ.items():
        stamps = np.sort((np.arange(SECONDS * rate) * 1e9 / rate + random.normal(0, 1e5, SECONDS * rate)).astype(np.int64))
        values = None if name == "camera" else random.normal(size=(len(stamps), 7)).astype(np.float32)
        streams[name] = Stream(stamps, values, np.arange(before, before + len(stamps)), is_camera=values is None)
        before += len(stamps)
    frames = {n: pl.DataFrame({"t": s.stamps_ns, n: np.arange(len(s.stamps_ns))}) for n, s in streams.items()}

    def joined() -> pl.DataFrame:
        steps = frames["camera"]
        for name in ("joint", "force"):
            steps = steps.join_asof(frames[name], on="t", strategy="backward")
        return steps

    cases: dict[str, Callable[[], Steps | pl.DataFrame]] = {
        name: lambda policy=policy: align(streams, policy) for name, policy in CASES.items()
    }
    cases["polars: join_asof at the camera's times"] = joined
    held = align(streams, CASES["reference camera, hold"])
    assert held.features["force"].sample.tolist() == [-1 if v is None else v for v in joined()["force"].to_list()]
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            times[name].append(1_000 * (time.perf_counter() - start))
    print(f"{SECONDS} s of {RATES_HZ} Hz, {rounds} rounds\n\n| case | median ms | best ms |\n|---|---:|---:|")
    for name, found in times.items():
        print(f"| {name} | {statistics.median(found):.1f} | {min(found):.1f} |")


if __name__ == "__main__":
    main()
