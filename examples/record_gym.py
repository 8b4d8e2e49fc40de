"""Record episodes of a Gymnasium environment: `python examples/record_gym.py FOLDER --env CartPole-v1 --episodes 5`.

Needs fogx and gymnasium. A random policy acts; put yours in its place.
"""

import argparse
import sys

import numpy as np

import fogx as fox

try:
    import gymnasium as gym
except ImportError:
    sys.exit("This example needs Gymnasium. Install it with: pip install gymnasium")


def record(dataset: fox.Dataset, env: gym.Env, seed: int) -> str:
    """Record one episode in RLDS's order: what was seen, what was done then, and what it earned."""
    observation, _ = env.reset(seed=seed)
    env.action_space.seed(seed)
    name = env.spec.id if env.spec else type(env.unwrapped).__name__
    with dataset.new_episode({"environment": name, "seed": seed}) as episode:
        first, terminated, truncated = True, False, False
        while not (terminated or truncated):
            action = env.action_space.sample()
            seen, reward, terminated, truncated, _ = env.step(action)
            # A dict of observations becomes one feature for each of its keys.
            step = {"observation": observation, "action": action, "reward": float(reward)}
            episode.add_step({**step, "is_first": first, "is_last": False, "is_terminal": False})
            observation, first = seen, False
        # The last step has what was seen at the end; nothing was done then.
        step = {"observation": observation, "action": np.zeros_like(action), "reward": 0.0}
        episode.add_step({**step, "is_first": False, "is_last": True, "is_terminal": terminated})
        episode.mark(success=truncated)  # the pole stood until the time was up
    return episode.episode_id


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="gym_dataset")
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--episodes", type=int, default=5)
    given = parser.parse_args()
    dataset = fox.Dataset(given.folder)
    env = gym.make(given.env)
    for seed in range(given.episodes):
        record(dataset, env, seed)
    env.close()
    info = dataset.get_episode_info()
    print(info[["episode_id", "environment", "seed", "num_steps", "success"]].to_string(index=False))
    view = dataset.episodes[-1]
    print({name: (view[name].shape, str(view[name].dtype)) for name in view.features})
    print(f"return of the last: {view['reward'].sum():g}")
    print(f"dataset: {dataset.path}")


if __name__ == "__main__":
    main()
