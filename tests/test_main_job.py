"""The main job as users run it: the example, and the seed snippet line for line, twice, as plain scripts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fogx as fox

ROOT = Path(__file__).parent.parent

SEED = """\
import torch
import fogx as fox
dataset = fox.Dataset(load_from=["/tmp/rtx", "s3://fox_storage/"])
episode = dataset.new_episode()
episode.add(feature="arm_view", value="image1.jpg")
episode.close()                                   # time-aligns and saves
dataset.load_rtx_episodes(name="berkeley_autolab_ur5", additional_metadata={"collector": "User 2"})
episode_info = dataset.get_episode_info()
desired_episodes = episode_info.filter(episode_info["collector"] == "User 2")
dataset.export(desired_episodes, format="rtx")
torch.utils.data.DataLoader(dataset.as_pytorch_dataset(desired_episodes))
"""


def _run(folder, *command):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_quickstart(tmp_path):
    out = _run(tmp_path, ROOT / "examples" / "quickstart.py", "out")
    for line in (
        "imported 25 episodes",
        "selected 25 of 25",
        "recorded 20 steps",
        "250 steps with 2 workers",
        "25 episodes, equal",
    ):
        assert line in out
    assert len(fox.Dataset(tmp_path / "out")) == 26


@pytest.mark.s3
@pytest.mark.xdist_group("s3")
def test_the_seed_snippet_runs_twice(s3_server, tmp_path, monkeypatch, bridge_dir):
    # The snippet names /tmp/rtx; the test keeps to its own folder, and changes nothing else.
    script = SEED.replace("/tmp/rtx", str(tmp_path / "rtx"))
    (tmp_path / "seed.py").write_text(script)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(tmp_path / "image1.jpg")
    shutil.copytree(bridge_dir, tmp_path / "tfds" / "berkeley_autolab_ur5" / "1.0.0")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    s3_server.make_bucket("fox_storage")
    remote = fox.Dataset("s3://fox_storage/")
    with remote.new_episode({"collector": "User 2"}) as episode:
        episode.add("far", 1.0)
    remote.delete(remote.get_episode_info())
    for times in (1, 2):
        _run(tmp_path, "seed.py")
        dataset = fox.Dataset(load_from=[tmp_path / "rtx", "s3://fox_storage/"])
        info = dataset.get_episode_info()
        assert info["dataset"].value_counts().to_dict() == {"berkeley_autolab_ur5": 25, "rtx": times}
        exports = tmp_path / "rtx" / "exports" / "rtx" / "berkeley_autolab_ur5"
        assert sorted(p.name for p in exports.iterdir()) == [f"{n + 1}.0.0" for n in range(times)]
        recorded = dataset.read_by(info["dataset"] == "rtx")
        assert recorded[0].encoded("arm_view") == [(tmp_path / "image1.jpg").read_bytes()]
    # Relative, remote and odd spellings leave no stray folders.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["image1.jpg", "rtx", "seed.py", "tfds"]
