"""Frames of a batch are decoded side by side: all of them, once, and by no thread that a fork has left behind."""

import multiprocessing
import subprocess
import sys
import textwrap
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogx import threads
from fogx.training import parts
from fogx.training.parts import in_parts


@given(count=st.integers(0, 100), processors=st.integers(1, 9))
def test_each_is_done_once(count, processors):
    done = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "processors", lambda: processors)
        in_parts(lambda part: done.extend(range(count)[part]), count)
    assert sorted(done) == list(range(count))


def test_parts_are_done_at_the_same_time(monkeypatch):
    monkeypatch.setattr(parts, "processors", lambda: 2)
    together = threading.Barrier(2, timeout=30)
    in_parts(lambda part: together.wait() and None, 8)


def test_an_error_comes_once_all_are_done(monkeypatch):
    monkeypatch.setattr(parts, "processors", lambda: 2)
    gone_on, done = threading.Event(), []

    def work(part):
        if part.start == 0:
            gone_on.set()
            raise ValueError("the first")
        assert gone_on.wait(30)
        done.append(part)

    with pytest.raises(ValueError, match="the first"):
        in_parts(work, 8)
    assert len(done) == 1
    with pytest.raises(ZeroDivisionError):
        in_parts(lambda part: 1 / part.start, 8)


def _threads(queue):
    names = set()
    in_parts(lambda part: names.add(threading.current_thread().name), 100)
    queue.put(names)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_has_one_thread(method):
    in_parts(lambda part: None, 100)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    worker = context.Process(target=_threads, args=(queue,))
    worker.start()
    assert len(queue.get(timeout=60)) == 1
    worker.join()


def test_where_the_interpreter_ends_all_is_done_here():
    code = """
        import atexit
        from fogx.training import parts

        parts.processors = lambda: 2
        done = []
        atexit.register(lambda: (parts.in_parts(lambda part: done.extend(range(8)[part]), 8), print(sorted(done))))
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["[0,", "1,", "2,", "3,", "4,", "5,", "6,", "7]"]
    assert not run.stderr


def test_threads_of_a_name_are_the_same_ones():
    assert threads.pool("of a test", 2) is threads.pool("of a test", 2)
    assert threads.pool("of a test", 2)._max_workers == min(2, threads.processors())
