"""A process killed at any point of a save or an import: what was acknowledged is there, nothing is half visible, and it goes on."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest

import fogx as fox

# Every write of bytes or names passes one of these seams; the child kills itself before or after the n-th.
CHILD = """
    import os, signal, sys
    import numpy as np
    import fogx as fox
    from deltalake import DeltaTable
    from fogx.storage.files import durable
    from fogx.storage.files.store import Store

    root, job, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
    count = 0

    def point():
        global count
        count += 1
        if count == wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    def guard(owner, name):
        real = getattr(owner, name)
        def guarded(*args, **kwargs):
            point()
            result = real(*args, **kwargs)
            point()
            return result
        setattr(owner, name, guarded)

    fox.config(progress=False)
    for owner, name in [
        (os, "fsync"), (os, "replace"), (os, "makedirs"), (Store, "create"), (Store, "sync"), (Store, "write_small"),
        (DeltaTable, "create_write_transaction"), (DeltaTable, "create"), (DeltaTable, "create_checkpoint"),
    ]:
        if wanted >= 0:
            guard(owner, name)

    dataset = fox.Dataset(root)
    if job == "record":
        for number in range(2 if wanted >= 0 else 10**6):
            with dataset.new_episode({"number": number}) as episode:
                for i in range(4):
                    episode.add("state", np.full(3, i, np.float32))
                    episode.add("view", np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8))
            os.write(1, (episode.episode_id + "\\n").encode())
    else:
        dataset.load_rtx_episodes(sys.argv[4], split="train[:12]")
        dataset.tag(dataset.get_episode_info().head(3), kept=True)
        os.write(1, b"tagged\\n")
        dataset.delete(dataset.get_episode_info().tail(1))
        os.write(1, b"deleted\\n")
    os.write(2, f"points {count}".encode())
"""


def _child(root, job, wanted, *more, **options):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(root), job, str(wanted), *map(str, more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options)


def _points(root, job, *more):
    with _child(root, job, 0, *more) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return int(said.rsplit("points ", 1)[1])


def _check_recorded(root, acknowledged):
    dataset = fox.Dataset(root)
    ids = [view.episode_id for view in dataset]
    assert set(acknowledged) <= set(ids)
    assert len(set(ids)) == len(ids)
    for view in dataset:
        assert view["state"][:, 0].tolist() == [0, 1, 2, 3]
        assert view["view"].shape == (4, 32, 32, 3)
    with dataset.new_episode() as episode:
        episode.add("state", 1.0)
    assert len(fox.Dataset(root)) == len(ids) + 1


@pytest.mark.parametrize("part", range(4))
def test_killed_at_every_point_of_a_recording(tmp_path, part):
    total = _points(tmp_path / "count", "record")
    assert total > 60
    # After one call is before the next: every second point leaves the same states behind.
    for wanted in range(1 + 2 * part, total + 1, 8):
        root = tmp_path / str(wanted)
        with _child(root, "record", wanted) as process:
            out, said = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, said
        _check_recorded(root, out.split())


@pytest.mark.parametrize("part", range(2))
def test_killed_in_an_import_or_an_edit(tmp_path, bridge_dir, part):
    fox.config(progress=False)
    total = _points(tmp_path / "count", "import", bridge_dir)
    for wanted in range(1 + part * 5, total + 1, 10):
        root = tmp_path / str(wanted)
        with _child(root, "import", wanted, bridge_dir) as process:
            out, said = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, said
        dataset = fox.Dataset(root)
        assert len(dataset) in (0, 11, 12), "an import of one group is there whole or not at all"
        if "tagged" in out:
            assert dataset.get_episode_info()["kept"].fillna(False).sum() == 3
        if len(dataset) != 11:
            dataset.load_rtx_episodes(bridge_dir, split="train[:12]")
            assert len(fox.Dataset(root)) == 12
        assert all(view.num_steps == len(view["action"]) == 10 for view in fox.Dataset(root))


@pytest.mark.parametrize("part", range(2))
def test_killed_at_random_times(tmp_path, part):
    seed = random.Random(part)
    for number in range(10):
        root = tmp_path / str(number)
        with _child(root, "record", -1) as process:
            acknowledged = [process.stdout.readline().strip()]
            time.sleep(seed.random() * 0.3)
            process.kill()
            acknowledged += [line.strip() for line in process.stdout if len(line) == 33]
        _check_recorded(root, acknowledged)
