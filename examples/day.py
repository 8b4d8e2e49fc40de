"""A day with fogx: record, import, curate, train on a mixture, deploy, share. Random arrays stand in for a robot.

Run `python examples/day.py FOLDER` where fogx[rtx,torch] is installed; it writes `lab/`, `share/` and two files there.
"""

import sys
from itertools import islice
from pathlib import Path

import numpy as np
import torch

import fogx as fox

DATA = Path(__file__).parent / "data" / "rlds"  # 25 real Bridge episodes ship here


def main(folder: Path) -> None:
    rng = np.random.default_rng(0)
    ds = fox.Dataset(
        folder / "lab",
        features={  # declared once for every take
            "observation/wrist": fox.Feature("uint8", (96, 128, 3), camera="jpeg"),
            "observation/state": fox.Feature("float32", (7,), space="joint_position"),
            "action": fox.Feature("float32", (7,), space="joint_position", gripper="1=open"),
        },
    )

    # record: joints 200 Hz, camera 29 Hz, commands 20 Hz
    for take in range(4):
        with ds.new_episode({"operator": "ana"}, task="put the pot on the stove") as ep:
            for ms in range(0, 4000, 5):
                t_ns = ms * 1_000_000
                ep.add("observation/state", rng.random(7, np.float32), t_ns)
                if ms % 35 == 0:
                    ep.add("observation/wrist", rng.integers(0, 255, (96, 128, 3), np.uint8), t_ns)
                if ms % 50 == 15:
                    ep.add("action", rng.random(7, np.float32), t_ns)
            ep.mark(success=take != 1)
    ds.discard_last()  # the last take was bad

    # import, then curate in pandas and write back in one commit
    ds.load_rtx_episodes("bridge_dataset", data_dir=DATA, split="train", additional_metadata={"operator": "rail"})
    info = ds.get_episode_info()
    info["split"] = np.where(np.arange(len(info)) % 5 == 0, "val", "train")
    ds.update_episode_info(info)
    ana, rail = (
        info.filter((info["operator"] == who) & (info["split"] == "train") & (info["success"] != False).fillna(True))  # noqa: E712
        for who in ("ana", "rail")
    )
    ds.annotate(ana, "keep", start_s=0.5, stop_s=3.5)  # train on this part only

    # train on a mixture, resume exactly
    spec = {
        "windows": {"action": fox.steps(0, 8), "image": fox.steps(-1, 1)},
        "image_size": (64, 64),
        "normalize": "quantile",
        "features": ["action", "image"],
    }
    train = fox.mix(
        [
            (ds.as_pytorch_dataset(ana, where="keep", rename={"observation/wrist": "image"}, **spec), 1.0),
            (ds.as_pytorch_dataset(rail, rename={"observation/image_0": "image"}, **spec), 3.0),
        ]
    )
    loader = train.loader(batch_size=16, num_workers=2, seed=0)
    policy = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(56))
    for batch in islice(loader, 50):  # masks come with the batch
        error = (policy(batch["image"] / 255.0).view(-1, 8, 7) - batch["action"]).abs()
        loss = error[~batch["action_is_pad"]].mean()
        loss.backward()  # + optimiser
    torch.save({"policy": policy.state_dict(), "data": loader.state_dict()}, folder / "checkpoint.pt")  # any world size
    train.online(source=0).save(folder / "io.json")  # on the robot: fox.Online.load("io.json")(observation)

    # share
    print(ds.export(ana, "rtx", folder / "share" / "rtx"))


if __name__ == "__main__":  # workers that are spawned import this file again
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
