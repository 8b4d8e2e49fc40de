"""The examples in a short form, as users run them: each a process of its own, judged by what it leaves behind."""

import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import fogx as fox
from fogx.reading.episodes import locate, read_sound

ROOT = Path(__file__).parent.parent
SENSORS = ["action", "observation/front", "observation/joints", "observation/wrist"]

BUSY = "default"
"""Where a machine is too busy for the rates of the sensors, fogx says that many values are missing, as it should."""


@pytest.fixture
def start(tmp_path):
    """Start an example in a folder of its own; it is killed where the test ends before it."""
    begun = []

    def run(name, *arguments, warnings="error"):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
        command = [sys.executable, "-W", warnings, str(ROOT / "examples" / name), *arguments]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        begun.append(process)
        return process

    yield run
    for process in begun:
        process.kill()
        process.communicate()


def finished(process):
    out, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    return out


def samples(dataset, view):
    """Return the number of samples by feature, after holding the episode against its checksum."""
    (located,) = [one for one in locate(dataset._roots.chosen()) if one.episode_id == view.episode_id]
    read_sound(located)
    return {name: len(view.samples(name)[0]) for name in view.features}


def test_a_robot_of_many_rates(start, tmp_path):
    out = finished(start("record_robot.py", "lab", "--takes", "2", "--seconds", "1.5", warnings=BUSY))
    dataset = fox.Dataset(tmp_path / "lab")
    (view,) = dataset.episodes  # of two takes the last was discarded
    assert "take 2 of 2" in out
    assert f"kept as {view.episode_id}" in out
    assert out.count("discarded ") == 1
    assert f"take {view.episode_id}: success=True, {view.num_steps} steps" in out
    assert view.metadata["task"] == "push the ball"
    assert view.metadata["operator"] == "Ada"
    counts = samples(dataset, view)
    assert sorted(counts) == SENSORS
    assert view.num_steps == counts["observation/front"] > 1
    assert counts["observation/joints"] > counts["observation/front"]
    assert f"observation/joints: {counts['observation/joints']} samples" in out
    assert np.array_equal(view.timestamps_ns, np.sort(view.samples("observation/front")[0]))
    assert list(tmp_path.iterdir()) == [tmp_path / "lab"]


def test_ctrl_c_ends_a_take_and_keeps_it(start, tmp_path):
    process = start("record_robot.py", "lab", "--takes", "3", "--seconds", "600", warnings=BUSY)
    said = []
    while not all(name in "".join(said[-1:]) for name in SENSORS):
        said.append(process.stdout.readline())
        assert said[-1], process.stderr.read()
    process.send_signal(signal.SIGINT)
    out = finished(process)
    dataset = fox.Dataset(tmp_path / "lab")
    (view,) = dataset.episodes
    assert f"kept as {view.episode_id}, until it was stopped" in out
    assert view.metadata["stopped_early"] is True
    assert view.metadata["success"] is False
    assert "interrupted" not in view.metadata
    assert all(count > 0 for count in samples(dataset, view).values())
    assert dataset.recover(dry_run=True).empty


def test_ctrl_c_again_while_the_sensors_stop(tmp_path, monkeypatch, capsys):
    robot = runpy.run_path(str(ROOT / "examples" / "record_robot.py"))
    pressed = []

    class Thread(threading.Thread):
        def join(self, timeout=None):
            if len(pressed) < 3:
                pressed.append(self)
                raise KeyboardInterrupt
            super().join(timeout)

    monkeypatch.setattr(robot["threading"], "Thread", Thread)
    dataset = fox.Dataset(tmp_path / "lab")
    with warnings.catch_warnings():
        warnings.simplefilter(BUSY)
        episode_id, whole = robot["take"](dataset, 0.5)
    assert whole
    assert pressed
    assert "the sensors are stopping" in capsys.readouterr().out
    assert [view.episode_id for view in dataset.episodes] == [episode_id]
    assert "interrupted" not in dataset.episodes[0].metadata
    assert not any(thread.is_alive() for thread in pressed)


@pytest.mark.parametrize("name", ["behaviour_cloning.py", "plot_alignment.py", "record_gym.py", "record_robot.py"])
def test_help_is_told_and_nothing_is_written(start, tmp_path, name):
    assert f"usage: {name}" in finished(start(name, "--help"))
    assert not list(tmp_path.iterdir())


def test_a_gymnasium_loop(start, tmp_path):
    out = finished(start("record_gym.py", "gym", "--episodes", "3"))
    dataset = fox.Dataset(tmp_path / "gym")
    assert len(dataset) == 3
    assert dataset.get_episode_info()["environment"].tolist() == ["CartPole-v1"] * 3
    assert dataset.get_episode_info()["seed"].tolist() == [0, 1, 2]
    for view in dataset:
        steps = view.num_steps
        assert view["observation"].shape == (steps, 4)
        assert view["observation"].dtype == np.float32
        assert view["reward"].tolist() == [1.0] * (steps - 1) + [0.0]
        assert view["is_first"].tolist() == [True] + [False] * (steps - 1)
        assert view["is_last"].tolist() == [False] * (steps - 1) + [True]
        assert view["is_terminal"].tolist() == view["is_last"].tolist()  # a random policy lets the pole fall
        assert set(view["action"].tolist()) <= {0, 1}
        assert len(np.unique(view["observation"], axis=0)) == steps  # not one array, seen again and again
    assert f"return of the last: {steps - 1}" in out


def test_gymnasium_is_asked_for(tmp_path):
    script = ROOT / "examples" / "record_gym.py"
    code = f"import runpy, sys; sys.modules['gymnasium'] = None; runpy.run_path({str(script)!r}, run_name='__main__')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "This example needs Gymnasium. Install it with: pip install gymnasium\n"


def test_the_picture_of_alignment(start, tmp_path):
    out = finished(start("plot_alignment.py", "plot.png"))
    assert "observation/force: 11 samples, 10 steps, 2 of them without a value" in out
    picture = (tmp_path / "plot.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 150_000


def test_a_day(start, tmp_path):
    folder = tmp_path / "day"
    assert finished(start("day.py", str(folder))).strip() == str(folder / "share" / "rtx" / "lab" / "1.0.0")
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.pt", "io.json", "lab", "share"]
    assert list(tmp_path.iterdir()) == [folder]
    dataset = fox.Dataset(folder / "lab")
    assert len(dataset) == 3 + 25
    kept = dataset.segments(label="keep")
    assert (kept["stop_step"] - kept["start_step"]).between(58, 61).all()  # commands come 50 ms apart
    saved = torch.load(folder / "checkpoint.pt")
    assert set(saved) == {"policy", "data"}
    online = fox.Online.load(folder / "io.json")
    batch = online({"observation/wrist": np.zeros((96, 128, 3), np.uint8)})
    assert batch["image"].shape == (1, 2, 3, 64, 64)


def test_behaviour_cloning_goes_on_as_if_it_had_not_stopped(start, tmp_path):
    def clone(folder, steps):
        return finished(start("behaviour_cloning.py", folder, "--steps", str(steps)))

    def losses(out):
        found = re.search(r"held-out loss: before (\S+), after (\S+), of the mean action (\S+)\n", out)
        return [float(number) for number in found.groups()]

    whole, first = clone("whole", 120), clone("parts", 60)
    second = clone("parts", 120)
    before, after, of_mean = losses(whole)
    assert after < of_mean < before
    assert after < losses(first)[1] < before

    # 200 items are 7 batches: step 60 lies within an epoch.
    assert "went on from" not in whole + first
    assert "at step 60" in second
    assert "epoch 8, 128 of 200 samples delivered" in second
    assert losses(second) == losses(whole)
    one, other = (torch.load(tmp_path / folder / "checkpoint.pt") for folder in ("whole", "parts"))
    assert one["data"] == other["data"]
    assert all(torch.equal(one["policy"][name], values) for name, values in other["policy"].items())

    info = fox.Dataset(tmp_path / "parts" / "bridge").get_episode_info()
    assert info["split"].value_counts().to_dict() == {"train": 20, "val": 5}
    names = sorted(path.name for path in (tmp_path / "parts").iterdir())
    assert names == ["actions.png", "bridge", "checkpoint.pt", "io.json"]
    assert (tmp_path / "parts" / "actions.png").read_bytes().startswith(b"\x89PNG")
    online = fox.Online.load(tmp_path / "parts" / "io.json")
    assert online.features == ["observation/image_0", "observation/state"]
