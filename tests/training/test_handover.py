"""Arrays reach workers through a file that they share; what else is sent fits into a pipe."""

import multiprocessing
import os
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pyarrow as pa
import pytest

from fogx.training import handover
from fogx.training.index import Anchors, EpisodeColumns, TrainingIndex

PIPE_BYTES = 1 << 16
EPISODES = 10_000


def _index(episodes=EPISODES, chosen=None):
    numbers = np.arange(episodes)
    ids = pa.array([f"{number:032x}" for number in range(episodes)], pa.string())
    columns = EpisodeColumns(
        stores=[],
        schemas=[],
        index_files=["index/a"],
        ids=ids,
        store=numbers.astype(np.int32),
        schema=numbers % 3,
        index_file=numbers * 0,
        index_row=numbers,
        num_steps=numbers % 7 + 1,
        control_hz=numbers / 3,
        timed=numbers % 2 == 0,
        tasks=["pick"],
        task=numbers * 0,
    )
    return TrainingIndex(columns, {}, [], {}, frozenset(), Anchors(columns.num_steps, numbers * 0, 1, chosen))


def _same(one, other):
    assert one.anchors.every == other.anchors.every
    for mine, its in ((one.episodes, other.episodes), (one.anchors, other.anchors)):
        for name, value in vars(mine).items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(getattr(its, name), value)
                assert getattr(its, name).dtype == value.dtype
    assert other.episodes.ids.equals(one.episodes.ids)
    assert other.episodes.tasks == one.episodes.tasks
    assert (one.anchors.chosen is None) == (other.anchors.chosen is None)


def _answer(pipe, index):
    pipe.send((index.episodes.ids[len(index.episodes.ids) - 1].as_py(), int(index.episodes.index_row.sum()), len(index.anchors)))
    writable = [value.flags.writeable for value in vars(index.episodes).values() if isinstance(value, np.ndarray)]
    pipe.send(any(writable))
    pipe.send(ForkingPickler.dumps(index).nbytes)


@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_started_processes_have_what_the_parent_has(context):
    index, start = _index(chosen=np.arange(50_000)), multiprocessing.get_context(context)
    for _ in range(2):  # a second one is given the same file
        ours, theirs = start.Pipe()
        process = start.Process(target=_answer, args=(theirs, index))
        process.start()
        assert ours.recv() == (f"{EPISODES - 1:032x}", EPISODES * (EPISODES - 1) // 2, int(index.episodes.num_steps.sum()))
        assert ours.recv() is False
        assert ours.recv() > EPISODES * 32, "an index that was handed over is whole when it is sent on"
        process.join()
        assert process.exitcode == 0


@pytest.mark.parametrize("episodes", [0, 1, EPISODES])
def test_what_goes_through_the_pipe_fits_into_it(monkeypatch, episodes):
    index = _index(episodes, np.arange(5 * episodes))
    monkeypatch.setattr(handover, "get_spawning_popen", lambda: object())
    monkeypatch.setattr(handover, "DupFd", _Here)
    sent = bytes(ForkingPickler.dumps(index))
    assert len(sent) < PIPE_BYTES
    _same(index, ForkingPickler.loads(sent))


@pytest.mark.parametrize("error", [FileNotFoundError("No usable temporary directory"), OSError(28, "No space left on device")])
def test_where_no_file_can_be_written_all_is_sent(monkeypatch, error):
    index, tried = _index(), []

    def refused():
        tried.append(1)
        raise error

    monkeypatch.setattr(handover.tempfile, "TemporaryFile", refused)
    monkeypatch.setattr(handover, "get_spawning_popen", lambda: object())
    _same(index, ForkingPickler.loads(ForkingPickler.dumps(index)))
    assert tried


class _Here:
    """A file of this process, as `DupFd` is one of another."""

    def __init__(self, descriptor):
        self._descriptor = descriptor

    def detach(self):
        return os.dup(self._descriptor)


def test_where_nothing_is_started_all_is_sent():
    index = _index()
    _same(index, ForkingPickler.loads(ForkingPickler.dumps(index)))
    assert ForkingPickler.dumps(index).nbytes > EPISODES * 32
