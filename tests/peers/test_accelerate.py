"""Accelerate over fogx' sampler, which it shards, and over fogx' loader, which it leaves alone."""

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("accelerate", reason="bash tests/peers/run installs it")

ROOT = Path(__file__).parent.parent.parent

SCRIPT = """
    import itertools, json, os, sys
    sys.path.insert(0, {root!r})
    import torch
    from accelerate import Accelerator
    from accelerate.utils import ProjectConfiguration
    from fogx.training.loader import Loader
    from fogx.training.order import Shuffled
    from fogx.training.sampler import Sampler
    from tests.training.standins import Numbers

    def items(batches):
        return [pair for b in batches for pair in zip(b["epoch"].tolist(), b["item"].tolist())]

    accelerator = Accelerator(cpu=True)
    result = {{}}
    # fogx' sampler in PyTorch's loader: Accelerate gives each process its batches, and the epochs.
    sharded = accelerator.prepare(torch.utils.data.DataLoader(Numbers(24), batch_size=3, sampler=Sampler(Shuffled(24), 1)))
    result["sampler"] = [items(sharded) for _ in range(2)]
    # fogx' loader shards by itself, and its state goes with Accelerate's checkpoints.
    loader = Loader(Numbers(23), Shuffled(23), 3, seed=1)
    assert accelerator.prepare(loader) is loader
    accelerator.register_for_checkpointing(loader)
    result["before"] = items(itertools.islice(loader, 2))
    accelerator.save_state({folder!r} + "/state")
    result["rest"] = items(itertools.islice(loader, 1))
    accelerator.load_state({folder!r} + "/state")
    result["after"] = items(loader)
    with open({folder!r} + "/rank" + os.environ.get("RANK", "0"), "w") as file:
        json.dump(result, file)
    accelerator.end_training()
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_each_sample_once_and_resumed(tmp_path, processes):
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT.format(root=str(ROOT), folder=str(tmp_path))))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0", "ACCELERATE_USE_CPU": "true"}
    ranks = [
        subprocess.Popen([sys.executable, script], env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]
    try:
        assert [rank.wait(timeout=180) for rank in ranks] == [0] * processes
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    found = [json.loads((tmp_path / f"rank{rank}").read_text()) for rank in range(processes)]
    for epoch in range(2):
        assert sorted(pair for rank in found for pair in rank["sampler"][epoch]) == [[epoch, item] for item in range(24)]
    assert sorted(pair for rank in found for part in ("before", "after") for pair in rank[part]) == [
        [0, item] for item in range(23)
    ]
