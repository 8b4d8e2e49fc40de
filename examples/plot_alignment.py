"""Sensors of unlike rates, and the steps that they become, in one picture.

    python examples/plot_alignment.py plot.png

The sensors are simulated. The camera is the clock: its images are the steps. Needs fogx[plot].
"""

import argparse
import tempfile

import numpy as np

import fogx as fox

MS = 1_000_000


def scene(ms: float) -> np.ndarray:
    """Return what a camera over a table sees while a gripper moves to a block, (96, 128, 3) uint8."""
    image = np.empty((96, 128, 3), np.uint8)
    image[:] = np.linspace((214, 205, 190), (178, 165, 146), 96)[:, None]
    image[60:80, 92:112] = (196, 62, 48)
    reach = int(12 + 64 * min(ms / 500, 1))
    image[64:70, : reach + 4] = (70, 78, 90)
    for finger in (58, 74):
        image[finger : finger + 4, reach : reach + 16] = (40, 46, 54)
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", nargs="?", default="alignment.png", help="file to write; its suffix tells the format")
    path = parser.parse_args().picture

    # 1. How samples become steps: one a camera image; poses between samples are interpolated; an old force counts as none.
    align = fox.Align(
        reference="observation/wrist",
        features={"observation/tcp": fox.linear(), "observation/force": fox.hold(max_age_s=0.06)},
    )
    features = {
        "observation/tcp": fox.Feature("float32", (2,), unit="m", names=("x", "y")),
        "observation/force": fox.Feature("float32", unit="N"),
    }
    with tempfile.TemporaryDirectory(prefix="fogx-plot-") as folder:
        dataset = fox.Dataset(folder, features=features)

        # 2. Each sensor at its own rate. The force sensor falls silent for a while. Stamps are whole ns.
        with dataset.new_episode(align=align, task="reach the block") as episode:
            for ms in np.arange(6, 520, 55):
                episode.add("observation/wrist", scene(ms), int(ms) * MS)
            for ms in range(0, 530, 20):
                pose = np.array([0.30 + 0.12 * np.sin(ms / 160), 0.22 + 0.08 * np.cos(ms / 110)], np.float32)
                episode.add("observation/tcp", pose, ms * MS)
            for ms in (*range(2, 190, 36), *range(370, 530, 36)):
                episode.add("observation/force", np.float32(2 + 1.5 * np.sin(ms / 60)), ms * MS)
            for number, ms in enumerate(range(24, 560, 75)):
                episode.add("action", np.float32([0, 0.4, 0.8, 0.6, 0.3, 0.7, 1.0, 0.9][number]), ms * MS)

        # 3. What came of it: dots are samples, rings the values of the steps.
        (view,) = dataset.episodes
        for name in view.features:
            stamps_ns, _ = view.samples(name)
            missing = np.ma.count_masked(view[name]) if name != "observation/wrist" else 0
            print(f"{name}: {len(stamps_ns)} samples, {view.num_steps} steps, {missing} of them without a value")
        figure = view.plot()
        figure.suptitle("Four sensors, and the ten steps that they became")
        figure.savefig(path, dpi=110)
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
