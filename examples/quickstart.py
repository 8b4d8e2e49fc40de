"""The main job on real robot data: import RT-X, select in pandas, read steps lazily, record, train, export, read back.

Run `bash examples/run`, or `python examples/quickstart.py FOLDER` where fogx[rtx,torch] is installed.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import torch

import fogx as fox

DATA = Path(__file__).parent / "data" / "rlds"


def main(folder: str) -> None:
    # 1. Open a dataset at a fresh root, and import Bridge: 25 real episodes, four cameras, taken over byte for byte.
    dataset = fox.Dataset(folder)
    added = dataset.load_rtx_episodes("bridge_dataset", data_dir=DATA, additional_metadata={"collector": "User 2"})
    print(f"imported {len(added)} episodes: {dataset}")

    # 2. The table of episodes is a pandas DataFrame; filter() also takes a mask.
    info = dataset.get_episode_info()
    desired_episodes = info.filter((info["collector"] == "User 2") & info["episode_metadata/has_language"])
    print(f"selected {len(desired_episodes)} of {len(info)} episodes by two columns of {len(info.columns)}")

    # 3. Steps are one polars LazyFrame: only the columns and row groups used are read.
    effort = dataset.get_step_data(desired_episodes).group_by("episode_id", maintain_order=True)
    effort = effort.agg(pl.len().alias("steps"), pl.col("action").arr.get(6).mean().alias("gripper")).collect()
    print(f"gripper open in {effort['gripper'].mean():.0%} of {effort['steps'].sum()} steps")

    # 4. Record a live episode beside them; its features need not be those of Bridge. close() makes it durable.
    rng = np.random.default_rng(0)
    with dataset.new_episode({"collector": "User 1"}, task="wave") as episode:
        for _ in range(20):
            episode.add("observation/arm_view", rng.integers(0, 255, (96, 128, 3), np.uint8))
            episode.add("observation/state", rng.random(7, np.float32))
            episode.add("action", rng.random(7, np.float32))
    view = dataset.read_by(episode.episode_id)[0]
    print(f"recorded {view.num_steps} steps: images {view['observation/arm_view'].shape}, actions {view['action'].shape}")

    # 5. Train: a map-style dataset for any DataLoader, in this process or in workers.
    for workers in (0, 2):
        loader = torch.utils.data.DataLoader(dataset.as_pytorch_dataset(desired_episodes), batch_size=32, num_workers=workers)
        steps = sum(len(batch["action"]) for batch in loader)
        image = next(iter(loader))["observation/image_0"]
        print(f"trained over {steps} steps with {workers} workers: images {tuple(image.shape)} {image.dtype}")

    # 6. Export the selection as RLDS, and read that export back.
    exported = dataset.export(desired_episodes, format="rtx")
    again = fox.Dataset(Path(folder) / "read_back")
    again.load_rtx_episodes(exported)
    first, copy = dataset.read_by(desired_episodes)[0], again.episodes[0]
    same = np.array_equal(first["action"], copy["action"])
    same &= first.encoded("observation/image_0") == copy.encoded("observation/image_0")
    print(f"exported to {exported}; read back {len(again)} episodes, {'equal' if same else 'NOT EQUAL'}")
    print(f"dataset: {dataset.path}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "quickstart_dataset")
