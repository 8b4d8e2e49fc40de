"""Reading ahead without workers: the same batches in the same order, and what users give is called where they iterate."""

import itertools
import os
import random
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fogx as fox
from fogx import threads
from fogx.errors import SelectionError
from fogx.training import ahead, cache
from fogx.training.loader import Loader
from fogx.training.order import InOrder, Shuffled
from tests.training.standins import InTwo, Numbers

ROOT = Path(__file__).parent.parent.parent


def items_of(batches):
    return [item for batch in batches for item in batch["item"].tolist()]


@given(count=st.integers(0, 30), batch_size=st.integers(1, 7), most=st.integers(1, 5), at=st.integers(0, 30))
def test_batches_and_states_are_those_without(count, batch_size, most, at):
    begun = Loader(InTwo(count), Shuffled(count), batch_size, prefetch_factor=most)
    plain = Loader(Numbers(count), Shuffled(count), batch_size)
    for _ in range(2):
        assert items_of(itertools.islice(begun, at)) == items_of(itertools.islice(plain, at))
        assert begun.state_dict() == plain.state_dict()
    state, (begun, plain) = begun.state_dict(), (Loader(kind(count), Shuffled(count), 3) for kind in (InTwo, Numbers))
    begun.load_state_dict(state)
    plain.load_state_dict(state)
    assert items_of(begun) == items_of(plain)


@pytest.mark.parametrize("most", [None, 1, 4])
def test_so_many_batches_are_begun_and_no_more(most):
    numbers = InTwo(100)
    batches = iter(Loader(numbers, InOrder(100), 2, prefetch_factor=most))
    for taken in range(1, 10):
        assert next(batches)["item"].tolist() == [2 * taken - 2, 2 * taken - 1]
        settled = threading.Event()
        settled.wait(0.02)
        assert taken <= len(numbers.begun) <= taken + (most or 2)
    batches.close()


def test_they_are_read_at_the_same_time(monkeypatch):
    monkeypatch.setattr(ahead, "pool", lambda name: threads.pool("of a test of reading ahead", 2))
    together = threading.Barrier(2, timeout=30)

    class Meet(InTwo):
        def read(self, items):
            together.wait()  # hangs where one is read after the other
            return super().read(items)

    assert items_of(Loader(Meet(8), InOrder(8), 2)) == list(range(8))


def test_nothing_is_ahead_where_that_is_asked_for_or_gains_nothing():
    numbers = InTwo(20)
    batches = iter(Loader(numbers, InOrder(20), 2, prefetch_factor=0))
    next(batches)
    assert numbers.begun == [[0, 1]]
    numbers = InTwo(20)
    numbers.reads_ahead = False
    next(iter(Loader(numbers, InOrder(20), 2)))
    assert numbers.begun == [[0, 1]]
    with pytest.raises(SelectionError, match="prefetch_factor=-1: allowed is a whole number from 0"):
        Loader(numbers, InOrder(20), 2, prefetch_factor=-1)
    with pytest.raises(SelectionError, match="prefetch_factor=0: allowed is a whole number from 1"):
        Loader(numbers, InOrder(20), 2, 1, prefetch_factor=0)


def test_what_nobody_takes_is_given_up():
    numbers = InTwo(1000, seconds=0.05)
    batches = iter(Loader(numbers, InOrder(1000), 1, prefetch_factor=100))
    next(batches)
    batches.close()
    before = len(numbers.begun)
    threading.Event().wait(0.2)
    assert len(numbers.begun) <= before + os.cpu_count() < 100


def test_an_error_comes_when_its_batch_is_due_and_the_loader_can_go_on():
    numbers = InTwo(20, fails_at=13)
    loader = Loader(numbers, InOrder(20), 4)
    batches = iter(loader)
    assert items_of(itertools.islice(batches, 3)) == list(range(12))
    with pytest.raises(ValueError, match="item 13 cannot be read"):
        next(batches)
    state = loader.state_dict()
    assert state["position"] == 12
    numbers.fails_at = None
    loader.load_state_dict(state)
    assert items_of(loader) == list(range(12, 20))


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator:UserWarning")
def test_other_options_of_the_loader_hold():
    loader = Loader(
        InTwo(7), InOrder(7), 2, drop_last=True, pin_memory=True, collate_fn=lambda items: [i["words"] for i in items]
    )
    assert list(loader) == [[f"item {number}" for number in pair] for pair in ((0, 1), (2, 3), (4, 5))]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Three episodes with a camera and two instructions."""
    dataset = fox.Dataset(tmp_path_factory.mktemp("ahead") / "lab")
    pixels = np.random.default_rng(0)
    for steps in (9, 1, 14):
        with dataset.new_episode(task="push") as episode:
            for step in range(steps):
                camera = pixels.integers(0, 255, (40, 48, 3), np.uint8)
                values = {"action": np.float32([step, -step]), "language_instruction": f"{steps} {step}"}
                episode.add_step(values | ({"camera": camera} if step != 3 else {}))
    return dataset


def same(mine, theirs):
    assert list(mine) == list(theirs)
    for name, value in mine.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == theirs[name].dtype
            assert torch.equal(value, theirs[name]), name
        else:
            assert value == theirs[name], name


@pytest.mark.parametrize("level", ["step", "episode"])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.filterwarnings("ignore:.*values .* are missing:UserWarning")
def test_items_are_the_same_bit_for_bit(lab, level, mixed):
    windows = {} if level == "episode" else {"camera": fox.steps(-2, 1), "action": fox.steps(0, 3)}
    goals = {} if level == "episode" else {"camera": "future"}
    train = lab.as_pytorch_dataset(
        level=level, windows=windows, image_size=(24, 24), language="random", goals=goals, normalize="mean_std"
    )
    assert train.reads_ahead
    if mixed:
        train = fox.mix([(train, 1.0), (train, 2.0)])
        assert train.reads_ahead
    for mine, theirs in zip(train.loader(4, seed=3), train.loader(4, seed=3, prefetch_factor=0), strict=True):
        same(mine, theirs)


def test_numbers_on_this_disk_are_not_read_ahead_and_those_far_away_are(lab, monkeypatch):
    train = lab.as_pytorch_dataset(features=["action"])
    assert not train.reads_ahead
    assert not fox.mix([(train, 1.0)]).reads_ahead
    monkeypatch.setattr(train._reader.index.episodes.stores[0], "is_local", False)
    assert train.reads_ahead


def test_what_users_give_is_called_where_they_iterate_and_draws_the_same(lab):
    called = []

    def noisy(item):
        called.append((threading.current_thread(), int(item["step_index"])))
        return {**item, "noise": torch.rand(2), "word": random.random()}

    train = lab.as_pytorch_dataset(features=["camera"], transform=noisy)

    def drawn(**given):
        torch.manual_seed(5)
        random.seed(5)
        return [value for batch in train.loader(4, **given) for value in (batch["noise"].tolist(), batch["word"].tolist())]

    drawn_ahead = drawn()
    assert {thread for thread, _ in called} == {threading.main_thread()}
    assert drawn_ahead == drawn(prefetch_factor=0)
    half = len(called) // 2
    assert [step for _, step in called[:half]] == [step for _, step in called[half:]]


def test_an_error_of_either_step_names_the_item(lab, monkeypatch):
    def fails(item):
        if item["step_index"] == 5:
            raise ValueError("no such step")
        return item

    for train in (lab.as_pytorch_dataset(transform=fails), lab.as_pytorch_dataset()):
        if train.stages:
            message = "no such step"
        else:
            message = "found 5"
            whole = type(train._reader).batch

            def damaged(reader, items, whole=whole):
                if 5 in items:
                    raise ValueError("found 5")
                return whole(reader, items)

            monkeypatch.setattr(type(train._reader), "batch", damaged)
        for mixture in (False, True):
            source = fox.mix([(train, 1.0)]) if mixture else train
            with pytest.raises(ValueError, match=message) as caught:
                list(source.loader(4))
            assert caught.value.__notes__ == [f"This was item 5: step 5 of episode '{lab.episodes[0].episode_id}'."]


def test_two_batches_at_once_make_a_block_once(lab, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    both, made = threading.Barrier(2, timeout=30), []
    train = lab.as_pytorch_dataset()
    make = train._reader.blocks._make
    monkeypatch.setattr(train._reader.blocks, "_make", lambda number: made.append(number) or make(number))

    def read():
        both.wait()
        train.read([0, 10])

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert len(made) == len(set(made)) > 0


def test_a_fork_while_another_thread_makes_a_block_makes_its_own(tmp_path, monkeypatch):
    blocks = cache.BlockCache(lambda number: f"{number:064x}", lambda number: cache.Block({"x": np.arange(number)}, {}), 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with blocks._making[os.getpid()]:
        child = os.fork()
        if child == 0:
            os._exit(0 if len(blocks.get(7).arrays["x"]) == 7 else 1)
        assert os.waitpid(child, 0)[1] == 0


WORKERS_BESIDE = """
    import itertools, sys
    sys.path.insert(0, {root!r})
    import fogx as fox

    train = fox.Dataset({lab!r}).as_pytorch_dataset(features=["camera"])
    ahead = itertools.chain.from_iterable(itertools.repeat(train.loader(2, seed=1)))
    seen = 0
    for _ in range(20):
        next(ahead)
        beside = train.loader(6, 2, multiprocessing_context="fork", persistent_workers=False)
        seen += sum(len(batch["step_index"]) for batch in beside)
        next(ahead)
    print(seen)
"""


def test_workers_are_forked_while_threads_read(lab):
    code = textwrap.dedent(WORKERS_BESIDE.format(root=str(ROOT), lab=lab.path))
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout.split(), ended.stderr) == (0, [str(20 * 24)], "")
