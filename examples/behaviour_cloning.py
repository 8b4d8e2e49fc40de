"""Behaviour cloning with action chunks on real robot data: `python examples/behaviour_cloning.py FOLDER --steps 400`.

A small network sees the image of a step and the last two states, and answers with the next four actions. Of the 25 Bridge episodes that
ship here every fifth is held out. Run again with more steps, it goes on from its checkpoint as if it had not stopped. At the end it acts
on the held-out episodes as it would on a robot, and its actions are drawn beside those recorded. Needs fogx[rtx,torch,plot], and a
quarter of a minute on a CPU. 200 steps to learn from are few: it does better than the mean action, by the states alone (with black
images it does as well), and is good for no robot yet.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

import fogx as fox
from fogx.reading.view import EpisodeView
from fogx.training.loader import Loader
from fogx.training.torch import StepDataset

DATA = Path(__file__).parent / "data" / "rlds"
CHUNK = 4
IMAGE, STATE = "observation/image_0", "observation/state"
# Actions of Bridge are movements of the gripper already. Were they poses, relative={"action": STATE} would make movements of them.
SPEC = {"windows": {"action": fox.steps(0, CHUNK), STATE: fox.steps(-1, 1)}, "features": [IMAGE, STATE, "action"]}
ACTIONS = ("x (m)", "y (m)", "z (m)", "roll (rad)", "pitch (rad)", "yaw (rad)", "gripper (1 = open)")


class Policy(nn.Module):
    """From the image of a step and the last two states to the next `CHUNK` actions, states and actions normalised."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels, more in ((3, 16), (16, 16), (16, 16)):
            layers += [nn.Conv2d(channels, more, 3, stride=2, padding=1), nn.BatchNorm2d(more), nn.ReLU()]
        self.eye = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 8), nn.Tanh())
        self.scale = nn.BatchNorm1d(14)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(22, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, CHUNK * 7))

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        before, now = batch[STATE].unbind(1)
        body = self.scale(torch.cat([now, now - before], 1))
        return self.head(torch.cat([self.eye(batch[IMAGE] / 255), body], 1)).view(-1, CHUNK, 7)


def loss_of(answer: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the mean squared error, where an episode still had an action to imitate."""
    return (answer - batch["action"]).square()[~batch["action_is_pad"]].mean()


@torch.no_grad()
def held_out_loss(policy: Policy, batch: dict[str, torch.Tensor]) -> float:
    return loss_of(policy.eval()(batch), batch).item()


def load(folder: Path) -> tuple[fox.Dataset, StepDataset, StepDataset]:
    """Return the dataset, its items to train on, and those held out; they are normalised by the numbers of the first."""
    dataset = fox.Dataset(folder / "bridge")
    dataset.load_rtx_episodes("bridge_dataset", data_dir=DATA)  # what is there already is passed over
    info = dataset.get_episode_info()
    info["split"] = np.where(np.arange(len(info)) % 5 == 0, "val", "train")
    dataset.update_episode_info(info)
    train = dataset.as_pytorch_dataset(info.filter(info["split"] == "train"), normalize="mean_std", **SPEC)
    held_out = dataset.as_pytorch_dataset(info.filter(info["split"] == "val"), normalize=train.normalizer, **SPEC)
    return dataset, train, held_out


def epochs(loader: Loader) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the batches of one epoch after the other."""
    while True:
        yield from loader


def fit(policy: Policy, loader: Loader, steps: int, checkpoint: Path) -> None:
    """Train up to a number of steps, from the checkpoint on where there is one."""
    optimiser = torch.optim.AdamW(policy.parameters(), lr=1e-3, weight_decay=0.1)
    done = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        policy.load_state_dict(saved["policy"])
        optimiser.load_state_dict(saved["optimiser"])
        loader.load_state_dict(saved["data"])  # in the middle of an epoch, on any number of ranks and workers
        torch.set_rng_state(saved["random"])
        done = saved["step"]
        print(f"went on from {checkpoint} at step {done}: {loader}")
    policy.train()
    for step, batch in zip(range(done + 1, steps + 1), epochs(loader), strict=False):
        loss = loss_of(policy(batch), batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 100 == 0 or step == steps:
            print(f"step {step}: loss of the batch {loss.item():.3f}", flush=True)
            state = {"policy": policy.state_dict(), "optimiser": optimiser.state_dict(), "data": loader.state_dict()}
            torch.save({**state, "random": torch.get_rng_state(), "step": step}, f"{checkpoint}.new")
            os.replace(f"{checkpoint}.new", checkpoint)  # whoever is killed here has the old one


@torch.no_grad()
def rollout(policy: Policy, online: fox.Online, view: EpisodeView) -> np.ndarray:
    """Return the (T, CHUNK, 7) actions that the policy answers with at each step of a recorded episode, as a robot would get them.

    What it sees is what was recorded: nothing moves by its actions.
    """
    policy.eval()
    online.reset()
    chunks = []
    for image, state in zip(view[IMAGE], view[STATE], strict=True):
        batch = online({IMAGE: image, STATE: state})
        answer = policy({name: torch.from_numpy(values) for name, values in batch.items()})
        chunks.append(online.unnormalize(answer)[0])
    return np.stack(chunks)


def rms(errors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(errors).mean(0))


def draw(view: EpisodeView, chunks: np.ndarray, mean: np.ndarray, path: Path) -> None:
    """Draw what was recorded, what the policy would have done at each step, and the mean action."""
    recorded, steps = view["action"], np.arange(view.num_steps)
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    axes = figure.subplots(2, 4).flat
    axes[0].imshow(view[IMAGE][0])
    axes[0].set_title("image of step 0", fontsize=9)
    axes[0].axis("off")
    for i, (axis, name) in enumerate(zip(axes[1:], ACTIONS, strict=True)):
        axis.axhline(mean[i], color="#8b949e", linestyle=":", label="mean action of training")
        axis.plot(steps, recorded[:, i], "o-", color="#24292f", markersize=4, label="recorded")
        for start, chunk in enumerate(chunks):
            inside = chunk[: len(steps) - start, i]
            label = f"policy: chunk of {CHUNK} actions, the dot is the first" if start == 0 else None
            axis.plot(
                start + np.arange(len(inside)),
                inside,
                "o-",
                color="#d9730d",
                markersize=4,
                markevery=CHUNK,
                alpha=0.6,
                label=label,
            )
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.set_xticks(steps[::3])
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[4:]:
        axis.set_xlabel("step", fontsize=8)
    figure.suptitle(f"Actions on a held-out episode: {view['language_instruction'][0]}", fontsize=11)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="behaviour_cloning", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    given = parser.parse_args()

    # 1. Episodes, a split of them in the table, and items: windows, normalised.
    dataset, train, held_out = load(given.folder)
    (test,) = held_out.loader(len(held_out), shuffle=False)
    print(f"{train}\nheld out: {held_out}")

    # 2. Train. The mean action is what a policy that sees nothing does best; normalised, it is 0.
    torch.set_num_threads(1)  # so small a network only waits for more, most of all where others use them
    torch.manual_seed(0)
    policy = Policy()
    before, of_mean = held_out_loss(policy, test), loss_of(torch.zeros_like(test["action"]), test).item()
    fit(policy, train.loader(batch_size=32, seed=0), given.steps, given.folder / "checkpoint.pt")
    print(f"held-out loss: before {before:.4f}, after {held_out_loss(policy, test):.4f}, of the mean action {of_mean:.4f}")

    # 3. On the robot there is this file and the policy, and no dataset.
    train.online().save(given.folder / "io.json")
    online = fox.Online.load(given.folder / "io.json")
    info = dataset.get_episode_info()
    views = dataset.read_by(info.filter(info["split"] == "val"))
    chunks = [rollout(policy, online, view) for view in views]
    mean = train.stats()["action"]["mean"]
    recorded, first = np.concatenate([view["action"] for view in views]), np.concatenate(chunks)[:, 0]
    for name, error, of_mean in zip(ACTIONS, rms(first - recorded), rms(mean - recorded), strict=True):
        print(f"{name}: off by {error:.4f}, the mean action by {of_mean:.4f}")

    picture = given.folder / "actions.png"
    draw(views[0], chunks[0], mean, picture)
    print(f"wrote {picture}")


if __name__ == "__main__":
    main()
