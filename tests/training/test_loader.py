"""The loader: each sample once over ranks and workers, exact resume whatever changes, processes that end."""

import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fogx as fox
from fogx.errors import SelectionError
from fogx.training.loader import Loader
from fogx.training.order import BlockShuffled, InOrder, Shuffled
from tests.training.standins import Numbers

ROOT = Path(__file__).parent.parent.parent


def pairs(batch):
    return list(zip(batch["epoch"].tolist(), batch["item"].tolist(), strict=True))


def loaders(order, batch_size, world_size, **given):
    return [Loader(Numbers(len(order)), order, batch_size, rank=r, world_size=world_size, **given) for r in range(world_size)]


def in_step(ranks):
    """Yield for each step what each rank got and its state, as ranks that train together do; None where a rank got none."""
    iterators = [iter(loader) for loader in ranks]
    while True:
        got = [next(iterator, None) for iterator in iterators]
        if all(batch is None for batch in got):
            return
        yield [pairs(batch) for batch in got if batch is not None], [loader.state_dict() for loader in ranks]


ORDERS = st.one_of(
    st.integers(1, 70).map(Shuffled),
    st.integers(1, 70).map(InOrder),
    st.lists(st.integers(1, 9), min_size=1, max_size=9).map(BlockShuffled),
)


@given(ORDERS, st.integers(1, 9), st.integers(1, 5), st.booleans())
def test_ranks_share_an_epoch_without_repeats_or_gaps(order, batch_size, world_size, drop_last):
    ranks = loaders(order, batch_size, world_size, drop_last=drop_last)
    for epoch in range(2):
        steps = [step for step, _ in in_step(ranks)]
        seen = list(itertools.chain.from_iterable(itertools.chain.from_iterable(steps)))
        assert len(set(seen)) == len(seen)
        assert {e for e, _ in seen} <= {epoch}
        assert len(seen) == (len(order) - len(order) % (batch_size * world_size) if drop_last else len(order))
        assert [len(loader) for loader in ranks] == [sum(len(step) > rank for step in steps) for rank in range(world_size)]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(ORDERS, st.data())
def test_every_resume_goes_on_as_if_nothing_had_happened(order, data):
    sizes = st.tuples(st.integers(1, 9), st.integers(1, 4))
    alone = Loader(Numbers(len(order)), order, 100, seed=3)
    whole = [pair for _ in range(11) for batch in alone for pair in pairs(batch)]
    state, seen = None, []
    for _ in range(data.draw(st.integers(1, 5))):
        batch_size, world_size = data.draw(sizes)
        ranks = loaders(order, batch_size, world_size, seed=3 if state is None else 0)
        for loader in ranks:
            if state is not None:
                loader.load_state_dict(state)
        steps = data.draw(st.integers(0, 8))
        for step, states in itertools.islice(itertools.chain(in_step(ranks), in_step(ranks)), steps):
            seen += itertools.chain.from_iterable(step)
            state = json.loads(json.dumps(states[0]))
            # A rank that had no share of a last step stands where it stood before; all others agree.
            assert all(s == state for s in states[: len(step)])
    assert seen == whole[: len(seen)]


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("at", range(12))
def test_what_workers_read_ahead_does_not_count(workers, at):
    order = Shuffled(23)
    whole = [pair for _ in range(2) for batch in [*Loader(Numbers(23), order, 23, seed=1)] for pair in pairs(batch)][:23]
    loader = Loader(Numbers(23), order, 2, workers, seed=1, prefetch_factor=4 if workers else None)
    seen = [pair for batch in itertools.islice(loader, at) for pair in pairs(batch)]
    assert loader.state_dict()["position"] == len(seen)
    other = Loader(Numbers(23), order, 3, 2 - workers % 2)
    other.load_state_dict(loader.state_dict())
    assert [*seen, *(pair for batch in other for pair in pairs(batch))] == (whole if at < 12 else [])


def test_a_state_at_the_end_of_an_epoch_goes_on_with_the_next():
    for drop_last, count in ((False, 10), (False, 11), (True, 11)):
        loader = Loader(Numbers(count), Shuffled(count), 5, drop_last=drop_last)
        *_, state = (loader.state_dict() for _ in loader)
        assert state["epoch"] == 0
        for at_the_end in (state, loader.state_dict()):
            again = Loader(Numbers(count), Shuffled(count), 5, drop_last=drop_last)
            again.load_state_dict(at_the_end)
            batches = list(again)
            assert len(batches) == len(again)
            assert {e for batch in batches for e, _ in pairs(batch)} == {1}


def test_an_epoch_left_early_is_over():
    loader = Loader(Numbers(20), Shuffled(20), 5)
    for epoch in range(3):
        assert {e for batch in itertools.islice(loader, 2) for e, _ in pairs(batch)} == {epoch}
    iter(loader)  # one that delivers nothing changes nothing
    assert {e for batch in loader for e, _ in pairs(batch)} == {3}


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("pin_memory", [False, True])
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator:UserWarning")
def test_ways_to_start_workers(context, pin_memory):
    loader = Loader(Numbers(20), Shuffled(20), 3, 2, multiprocessing_context=context, pin_memory=pin_memory)
    pids = []
    for epoch in range(2):
        batches = list(loader)
        assert sorted(pair for batch in batches for pair in pairs(batch)) == [(epoch, item) for item in range(20)]
        pids.append({pid for batch in batches for pid in batch["pid"].tolist()})
    assert pids[0] == pids[1], "persistent workers stay"
    assert len(pids[0]) == 2
    assert os.getpid() not in pids[0]


def test_workers_that_do_not_stay_are_others_each_epoch():
    loader = Loader(Numbers(8), InOrder(8), 2, 1, persistent_workers=False)
    assert len({pid for _ in range(2) for batch in loader for pid in batch["pid"].tolist()}) == 2


def test_workers_left_early_are_gone():
    loader = Loader(Numbers(1000, seconds=3), InOrder(1000), 1, 1, persistent_workers=False)
    batches = iter(loader)
    pid = int(next(batches)["pid"])
    batches.close()
    assert gone(pid, within_s=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_an_item_comes_out_and_the_loader_can_go_on(workers):
    numbers = Numbers(20, fails_at=13)
    loader = Loader(numbers, InOrder(20), 4, workers)
    seen = []
    with pytest.raises(ValueError, match="item 13 cannot be read"):
        seen += [pair for batch in loader for pair in pairs(batch)]
    assert loader.state_dict()["position"] == 12
    state = loader.state_dict()
    numbers.fails_at = None
    loader.load_state_dict(state)
    assert [item for batch in loader for _, item in pairs(batch)] == list(range(12, 20))


def test_the_random_state_of_the_process_stays():
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    list(Loader(Numbers(6), Shuffled(6), 2, 1))
    assert torch.equal(torch.rand(3), wanted)


def seeds_of_workers(loader):
    return [int(batch["item"][0]) for batch in loader]


class Seeds(Numbers):
    def __getitems__(self, items):
        return [{"item": torch.tensor(torch.initial_seed() % 2**40)} for _ in items]


def test_seeds_of_workers_differ_by_epoch_rank_and_seed_and_come_again():
    def found(seed, rank):
        loader = Loader(Seeds(4), InOrder(4), 1, 2, seed, rank=rank, world_size=2, persistent_workers=False)
        return [seeds_of_workers(loader) for _ in range(2)]

    every = {(seed, rank): found(seed, rank) for seed in (0, 1) for rank in (0, 1)}
    flat = [seed for epochs in every.values() for batches in epochs for seed in batches]
    assert len(set(flat)) == len(flat)
    assert found(0, 0) == every[0, 0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: allowed is a whole number from 1"),
        ({"batch_size": 2.0}, "batch_size=2.0: allowed"),
        ({"num_workers": -1}, "num_workers=-1: allowed is a whole number from 0"),
        ({"rank": 1}, "rank=1, world_size=None: give both"),
        ({"world_size": 2}, "rank=None, world_size=2: give both"),
        ({"rank": 2, "world_size": 2}, "rank=2, world_size=2: give both, with 0 <= rank < world_size"),
        ({"seed": -1}, "seed=-1: allowed is a whole number from 0"),
    ],
)
def test_arguments_out_of_range(given, message):
    with pytest.raises(SelectionError, match=message):
        Loader(Numbers(3), InOrder(3), **{"batch_size": 1, **given})


@pytest.mark.parametrize("state", [None, {}, "state", 3])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(SelectionError, match="This is no state of a fogx loader"):
        Loader(Numbers(4), InOrder(4), 2).load_state_dict(state)


def test_it_says_what_it_is_and_pickles():
    loader = Loader(Numbers(20), Shuffled(20), 3, seed=4, rank=1, world_size=2)
    next(iter(loader))
    assert repr(loader) == (
        "<fogx loader: 4 batches of 3 on rank 1 of 2, 0 workers; 20 samples, shuffled, seed 4; epoch 0, 6 of 20 samples delivered>"
    )
    again = pickle.loads(pickle.dumps(loader))
    assert again.state_dict() == loader.state_dict()
    assert [pairs(batch) for batch in again] == [pairs(batch) for batch in loader]


def test_an_empty_dataset_has_no_batches():
    loader = Loader(Numbers(0), Shuffled(0), 3)
    assert (len(loader), list(loader)) == (0, [])


def gone(pid, within_s):
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] if sys.platform == "linux" else ""
            os.kill(pid, 0)
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


TRAINING = """
    import sys, time
    import numpy, polars, pyarrow
    sys.path.insert(0, {root!r})
    from fogx.training.loader import Loader
    from fogx.training.order import Shuffled
    from tests.training.standins import Numbers

    if __name__ == "__main__":
        loader = Loader(Numbers(1000, seconds={seconds}), Shuffled(1000), 1, 2, multiprocessing_context={context!r},
                        persistent_workers={persistent}, pin_memory={pin})
        try:
            for batch in loader:
                print(int(batch["pid"]), flush=True)
                {then}
        except KeyboardInterrupt:
            {at_last}
"""


@pytest.mark.parametrize("whole_group", [False, True])
@pytest.mark.parametrize(
    ("context", "persistent", "pin", "seconds", "then", "at_last"),
    [
        ("fork", True, False, 0.01, "time.sleep(0.01)", "raise"),
        ("fork", False, False, 3.0, "time.sleep(60)", "raise"),  # workers in the middle of an item, the parent in the user's code
        ("fork", True, True, 3.0, "time.sleep(60)", "raise"),
        ("fork", True, True, 3.0, "pass", "time.sleep(60)"),  # the parent waits for a batch, and lives on
        ("spawn", True, True, 0.01, "time.sleep(0.01)", "raise"),
        ("forkserver", False, False, 0.01, "time.sleep(0.01)", "raise"),
    ],
)
def test_ctrl_c_leaves_no_worker(tmp_path, whole_group, context, persistent, pin, seconds, then, at_last):
    script = tmp_path / "train.py"
    given = {"context": context, "persistent": persistent, "pin": pin, "seconds": seconds, "then": then, "at_last": at_last}
    script.write_text(textwrap.dedent(TRAINING.format(root=str(ROOT), **given)))
    training = subprocess.Popen(
        [sys.executable, "-W", "ignore", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        pids = {int(training.stdout.readline()) for _ in range(1 if then == "time.sleep(60)" else 2)}
        time.sleep(0.2)
        end = time.monotonic() + 2
        (os.killpg if whole_group else os.kill)(training.pid, signal.SIGINT)
        assert all(gone(pid, within_s=end - time.monotonic()) for pid in pids)
        if at_last == "raise":
            _, errors = training.communicate(timeout=10)
            assert errors.rstrip().endswith("KeyboardInterrupt")
        else:
            assert training.poll() is None
    finally:
        training.kill()
        training.communicate()


HELD = """
    import sys
    sys.path.insert(0, {root!r})
    from fogx.training.loader import Loader
    from fogx.training.order import InOrder
    from tests.training.standins import Numbers

    held = iter(Loader(Numbers(40), InOrder(40), 2, {workers}, persistent_workers={persistent}))
    next(held)
"""


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_a_program_ends_that_holds_an_iterator(tmp_path, workers, persistent):
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(HELD.format(root=str(ROOT), workers=workers, persistent=persistent)))
    ended = subprocess.run([sys.executable, "-W", "ignore", script], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stderr == ""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Two episodes, of 7 and 4 steps."""
    dataset = fox.Dataset(tmp_path_factory.mktemp("loader") / "lab")
    for steps in (7, 4):
        with dataset.new_episode() as episode:
            for i in range(steps):
                episode.add_step({"x": np.full(2, i, np.float32), "word": f"w{i}"})
    return dataset


def test_a_dataset_gives_a_loader_and_a_sampler(lab):
    train = lab.as_pytorch_dataset(windows={"x": fox.steps(0, 3)})
    in_order = [
        key
        for batch in train.loader(4, shuffle=False)
        for key in zip(batch["episode_id"], batch["step_index"].tolist(), strict=True)
    ]
    assert in_order == [(item["episode_id"], item["step_index"]) for item in train]
    batches = list(train.loader(4, 1, seed=3))
    assert [batch["x"].shape for batch in batches] == [(4, 3, 2), (4, 3, 2), (3, 3, 2)]
    drawn = [key for batch in batches for key in zip(batch["episode_id"], batch["step_index"].tolist(), strict=True)]
    assert sorted(drawn) == sorted(in_order)
    assert drawn == [(train[i]["episode_id"], train[i]["step_index"]) for i in train.sampler(3)]
    assert [*train.sampler(3, shuffle=False)] == list(range(11))
    assert "11 samples, shuffled, seed 3" in repr(train.loader(4, seed=3))


class Picky:
    """A transform that cannot do one step of the second episode."""

    def __call__(self, item):
        if item["word"] == "w3" and item["episode_id"] == self.episode_id:
            raise ValueError("no such word")
        return item


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("mixed", [False, True])
def test_an_error_names_item_and_episode(lab, workers, mixed):
    picky = Picky()
    picky.episode_id = lab.episodes[1].episode_id
    train = lab.as_pytorch_dataset(transform=picky)
    loader = fox.mix([(train, 1.0)]).loader(4, workers) if mixed else train.loader(4, workers)
    with pytest.raises(ValueError, match="no such word") as caught:
        list(loader)
    told = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert f"This was item 10: step 3 of episode '{picky.episode_id}'" in told


def test_an_error_in_a_whole_episode_names_it(lab):
    def fails(item):
        raise ValueError("never")

    with pytest.raises(ValueError, match="never") as caught:
        lab.as_pytorch_dataset(level="episode", transform=fails)[1]
    assert caught.value.__notes__ == [f"This was item 1: episode {lab.episodes[1].episode_id!r}."]


def test_remote_items_are_shuffled_in_blocks(lab, monkeypatch):
    train = lab.as_pytorch_dataset()
    assert repr(train.order(shuffle=True)) == "11 samples, shuffled"
    monkeypatch.setattr(train._reader.index.episodes.stores[0], "is_local", False)
    assert repr(train.order(shuffle=True)).startswith("11 samples, shuffled in 1 blocks (")
    assert repr(train.order(shuffle=False)) == "11 samples in order"


DISTRIBUTED = """
    import json, sys
    import torch.distributed as dist
    sys.path.insert(0, {root!r})
    from fogx.training.loader import Loader
    from fogx.training.order import Shuffled
    from tests.training.standins import Numbers

    loader = Loader(Numbers(23), Shuffled(23), 3, 1, seed=5)  # before there are ranks, as scripts do
    dist.init_process_group("gloo", init_method="file://{folder}/meet", rank=int(sys.argv[1]), world_size=2)
    if {state}:
        loader.load_state_dict({state})
    seen = []
    for _ in range({epochs}):
        for step, batch in enumerate(loader):
            seen += zip(batch["epoch"].tolist(), batch["item"].tolist())
            dist.barrier()  # hangs where ranks make unlike numbers of steps
            if step + 1 == {steps}:
                break
    with open({folder!r} + f"/rank{{sys.argv[1]}}.json", "w") as file:
        json.dump([seen, loader.state_dict(), len(loader)], file)
    dist.destroy_process_group()
"""


def distributed(folder, **given):
    """Run two processes that meet through a file; return what each saw, its state, and its number of batches."""
    folder.mkdir()
    script = folder / "train.py"
    script.write_text(textwrap.dedent(DISTRIBUTED.format(root=str(ROOT), folder=str(folder), **given)))
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0"}
    ranks = [subprocess.Popen([sys.executable, script, str(rank)], env=environment) for rank in range(2)]
    try:
        assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def test_two_processes_share_epochs_and_resume(tmp_path):
    (first, state, batches), (second, other_state, other_batches) = distributed(tmp_path / "a", state=None, epochs=1, steps=2)
    assert state == other_state
    assert (batches, other_batches) == (4, 4)
    assert state["position"] == len(first) + len(second) == 12
    (third, *_), (fourth, *_) = distributed(tmp_path / "b", state=state, epochs=1, steps=-1)
    everything = [*first, *second, *third, *fourth]
    assert sorted(everything) == [[0, item] for item in range(23)]
    # One process alone goes on from the same state with the same samples.
    alone = Loader(Numbers(23), Shuffled(23), 4)
    alone.load_state_dict(state)
    assert sorted(list(pair) for batch in alone for pair in pairs(batch)) == sorted([*third, *fourth])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_batches_of_workers_are_those_of_this_process(tmp_path, method):
    with fox.Dataset(tmp_path / "root").new_episode() as episode:
        for step in range(6):
            image = np.random.default_rng(step).integers(0, 255, (96, 96, 3), np.uint8)
            episode.add_step({"camera": image, "action": np.float32([step, 1]), "language_instruction": f"step {step}"})
    items = fox.Dataset(tmp_path / "root").as_pytorch_dataset(windows={"action": fox.steps(0, 2)})
    here = list(items.loader(4, shuffle=False))
    sent = list(items.loader(4, 1, shuffle=False, multiprocessing_context=method, persistent_workers=False))
    assert [type(batch) for batch in sent] == [dict, dict]
    for mine, theirs in zip(here, sent, strict=True):
        assert list(mine) == list(theirs)
        for name, value in mine.items():
            if isinstance(value, torch.Tensor):
                assert theirs[name].dtype == value.dtype
                assert torch.equal(theirs[name], value), name
                theirs[name].zero_()  # it may be written to
            else:
                assert theirs[name] == value
    # What is large need not be copied; a small one is no file of shared memory.
    assert [sent[0][name].is_shared() for name in ("camera", "action", "action_is_pad")] == [True, False, False]
