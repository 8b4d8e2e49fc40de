"""One root of unlike episodes, which tests of training read in many ways."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import fogx as fox

MS = 1_000_000


@pytest.fixture(scope="package")
def unlike(tmp_path_factory) -> fox.Dataset:
    """Episodes of 0, 1 and more steps; with times and with a rate; with gaps; of two schemas."""
    features = {"points": fox.Feature("float32", (None, 3))}
    dataset = fox.Dataset(tmp_path_factory.mktemp("unlike") / "lab", features=features)
    random = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, steps in enumerate([4, 0, 1, 7, 2, 5]):
            with dataset.new_episode({"control_hz": 10.0}, task=["push", "pull"][number % 2] if number < 4 else None) as episode:
                time_ns = 1_000 * MS
                for step in range(steps):
                    time_ns += int(random.integers(20, 180)) * MS
                    values = {
                        "action": random.normal(size=2),
                        "count": np.int32(100 * number + step),
                        "language_instruction": "" if number == 3 else f"do {number}",
                    }
                    values |= {"cam": random.integers(0, 255, (32, 40, 3), np.uint8)} if step % 3 != 1 else {}
                    values |= {"points": random.normal(size=(step, 3)).astype(np.float32)} if number % 2 else {}
                    values |= {"pair": np.array(["a", f"b{step}"])} if step else {}
                    episode.add_step(values, time_ns)
        for number, steps in enumerate([3, 6]):
            with dataset.new_episode({"control_hz": 5.0}) as episode:
                for step in range(steps):
                    episode.add_step(
                        {"action": random.normal(size=2), "count": np.int32(1_000 * (number + 1) + step), "more": True}
                    )
    return dataset
