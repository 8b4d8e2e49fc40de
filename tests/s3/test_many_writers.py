"""Many processes on one root in a bucket: all they were told is saved is there, once and whole."""

import multiprocessing

import numpy as np
import pytest

import fogx as fox

pytestmark = [pytest.mark.s3, pytest.mark.xdist_group("s3")]

SPAWN = multiprocessing.get_context("spawn")


def _write(root, start, answers, writer, count):
    """Record episodes, the first of them while the others create the root too, and tag one's own."""
    start.wait()
    dataset = fox.Dataset(root)
    saved = {}
    for number in range(count):
        with dataset.new_episode({"writer": writer, f"of_{writer}": number}) as episode:
            for step in range(3):
                episode.add("state", np.full(2, 1000 * writer + number + step, np.float32))
                episode.add("view", np.full((32, 32, 3), writer, np.uint8))
        saved[episode.episode_id] = number
    dataset.tag(list(saved), done=True)
    answers.put((writer, saved))


def _check_many(root, writers, count):
    """Let processes write at once, and compare the root with what they say."""
    start, answers = SPAWN.Barrier(writers), SPAWN.Queue()
    processes = [SPAWN.Process(target=_write, args=(root, start, answers, writer, count)) for writer in range(writers)]
    for process in processes:
        process.start()
    said = dict(answers.get(timeout=540) for _ in processes)
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    wanted = {episode_id: (writer, number) for writer, saved in said.items() for episode_id, number in saved.items()}
    assert len(wanted) == writers * count
    dataset = fox.Dataset(root)
    info = dataset.get_episode_info()
    assert sorted(info["episode_id"]) == sorted(wanted)
    assert info["done"].tolist() == [True] * len(wanted)
    assert dataset.history()["operation"].tolist().count("create") == 1
    assert dataset.history()["operation"].tolist().count("record") == len(wanted)
    for episode_id, row in info.set_index("episode_id").iterrows():
        writer, number = wanted[episode_id]
        assert (row["writer"], row[f"of_{writer}"]) == (writer, number)
    steps = dataset.get_step_data().collect()
    found = {key[0]: group["state"].to_list() for key, group in steps.group_by("episode_id", maintain_order=True)}
    assert found == {i: [[1000 * w + n + step] * 2 for step in range(3)] for i, (w, n) in wanted.items()}
    for view in dataset.episodes[:: max(1, len(wanted) // 20)]:
        assert view["view"].shape == (3, 32, 32, 3)


def test_four_processes_write_at_once(s3_server):
    _check_many(s3_server.make_bucket("lab") + "/robots", 4, 5)


@pytest.mark.long
def test_four_processes_write_at_once_though_requests_fail(s3_server):
    root = s3_server.make_bucket("lab") + "/robots"
    s3_server.fail("lose-reply", method="PUT", target=r"_delta_log/\d{20}\.json$", every=4)
    _check_many(root, 4, 3)
    assert s3_server.happened()[0] >= 3


@pytest.mark.long
def test_eight_processes_write_at_once(s3_server):
    _check_many(s3_server.make_bucket("lab") + "/robots", 8, 50)
