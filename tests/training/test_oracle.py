"""Items of any specification against ones that are put together by hand from the views of the same episodes."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fogx as fox
from fogx.training.torch import collate
from fogx.training.windows import StepWindow

NAMES = ("action", "count", "language_instruction", "cam", "points", "pair", "more")

offsets = st.lists(st.integers(-8, 8), min_size=1, max_size=4)
windows = st.one_of(
    offsets.map(fox.steps),
    st.builds(fox.steps, st.integers(-4, 0), st.integers(1, 6)),
    st.lists(st.integers(-9, 9), min_size=1, max_size=3).map(lambda tenths: [tenth / 10 for tenth in tenths]),
)


class Hand:
    """An episode as one reads it by hand."""

    def __init__(self, view: Any, control_hz: float) -> None:
        self.view, self.T = view, view.num_steps
        stored = {name: view[name] for name in view.features}
        self.values = {name: [stored[name][i] for i in range(self.T)] for name in stored}
        steps = [view[i] for i in range(self.T)]
        self.present = {name: [step.get(name) is not None for step in steps] for name in stored}
        times = view.timestamps_ns
        self.times = (
            [i / control_hz for i in range(self.T)]
            if times is None
            else [t / 1e9 for t in (times - times[0] if self.T else times)]
        )

    def window(self, window: Any, anchor: int) -> list[tuple[int, bool]]:
        """Return (step, whether it is padding) of each element of a window."""
        if isinstance(window, StepWindow):
            wanted = [anchor + offset for offset in window.offsets]
            return [(min(max(step, 0), self.T - 1), not 0 <= step < self.T) for step in wanted]
        found = []
        for offset in window:
            time = self.times[min(max(anchor, 0), self.T - 1)] + offset
            not_later = [step for step in range(self.T) if self.times[step] <= time + 1e-6]
            found.append((not_later[-1] if not_later else 0, not not_later or time - 1e-6 > self.times[-1]))
        return found

    def value(self, name: str, step: int, shape: tuple[int, ...], dtype: Any) -> tuple[Any, bool]:
        """Return what an item shows of a step, and whether there is a value."""
        valid = name in self.present and self.present[name][step]
        if name == "language_instruction":
            return (self.values[name][step] if valid else ""), valid
        if name == "pair":
            return (list(self.values[name][step]) if valid else ["", ""]), valid
        value = np.asarray(self.values[name][step], dtype) if valid else np.zeros(shape, dtype)
        return (value.transpose(2, 0, 1) if name == "cam" and valid else value), valid


@functools.cache
def hands(dataset: fox.Dataset) -> list[Hand]:
    rates = dataset.get_episode_info()["control_hz"].tolist()
    return [Hand(view, hz) for view, hz in zip(dataset, rates, strict=True)]


SHAPES = {"action": (2,), "count": (), "cam": (3, 32, 40), "points": (0, 3), "more": ()}
DTYPES = {"action": np.float32, "count": np.int32, "cam": np.uint8, "points": np.float32, "more": np.bool_}


def nothing(name: str) -> Any:
    if name in SHAPES:
        return np.zeros(SHAPES[name], DTYPES[name])
    return "" if name == "language_instruction" else ["", ""]


def by_hand(
    dataset: fox.Dataset, spec: dict[str, Any], chosen: Any, level: str, every: int, pad: str
) -> Iterator[dict[str, Any]]:
    """Yield the items that a specification means."""
    length, ahead = 1, 0
    if level == "window":
        longest = max(spec.values(), key=len)
        length, ahead = len(longest), longest.offsets[0]
    for hand in hands(dataset):
        runs, run = [], []
        for step in range(hand.T + 1):
            if step < hand.T and chosen(hand, step):
                run.append(step)
            elif run:
                runs.append(run)
                run = []
        starts = [start for run in runs for start in run[::length]][::every]
        for start in starts:
            anchor = start - ahead
            placed = {name: hand.window(window, anchor) for name, window in spec.items()}
            if pad == "drop" and any(is_pad for window in placed.values() for _, is_pad in window):
                continue
            own = min(max(anchor, 0), hand.T - 1)
            item: dict[str, Any] = {"episode_id": hand.view.episode_id, "step_index": own}
            for name in NAMES:
                shape, dtype = SHAPES.get(name, ()), DTYPES.get(name, object)
                if name not in placed:
                    item[name], item[f"{name}_is_valid"] = hand.value(name, own, shape, dtype)
                    continue
                found = [(*hand.value(name, step, shape, dtype), is_pad) for step, is_pad in placed[name]]
                zero = pad == "zero"
                item[name] = [nothing(name) if zero and is_pad else value for value, _, is_pad in found]
                item[f"{name}_is_valid"] = [valid and not (zero and is_pad) for _, valid, is_pad in found]
                item[f"{name}_is_pad"] = [is_pad for _, _, is_pad in found]
            yield item


def plain(value: Any) -> Any:
    """Return nested lists of numbers and texts."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return value.tolist()
    return [plain(part) for part in value] if isinstance(value, list) else value


ALWAYS_VALID = {"action", "count"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    spec=st.dictionaries(st.sampled_from(NAMES), windows, max_size=4),
    level=st.sampled_from(["step", "step", "window"]),
    every=st.integers(1, 3),
    pad=st.sampled_from(["edge", "zero", "drop"]),
    where=st.sampled_from([None, "even", "late", "none"]),
    order=st.permutations(range(40)),
)
def test_every_item_is_what_is_meant(unlike, caplog, spec, level, every, pad, where, order) -> None:
    caplog.set_level(logging.ERROR)
    if level == "window":
        spec = {**spec, "count": fox.steps(-1, 11)}
    told = {
        None: (None, lambda hand, step: True),
        "even": (pl.col("count") % 2 == 0, lambda hand, step: hand.values["count"][step] % 2 == 0),
        "late": (pl.col("step_index") > 1, lambda hand, step: step > 1),
        "none": (pl.col("count") < 0, lambda hand, step: False),
    }
    expression, chosen = told[where]
    items = unlike.as_pytorch_dataset(features=NAMES, windows=spec, level=level, every=every, pad=pad, where=expression)
    wanted = list(by_hand(unlike, spec, chosen, level, every, pad))
    assert len(items) == len(wanted)
    order = [position for position in order if position < len(wanted)]
    for item, position in zip(items.__getitems__(order), order, strict=True):
        want = wanted[position]
        assert set(want) - set(item) <= {f"{name}_is_valid" for name in ALWAYS_VALID}
        assert set(item) <= set(want)
        for name, value in item.items():
            assert plain(value) == plain(want[name]), name


def test_shapes_and_dtypes(unlike) -> None:
    items = unlike.as_pytorch_dataset(
        features=["action", "cam"], windows={"action": fox.steps(0, 16), "cam": fox.steps(-1, 1)}, dtype="float64"
    )
    batch = items.__getitems__([0, 3, 5]).batch
    assert (batch["action"].shape, batch["action"].dtype) == ((3, 16, 2), torch.float64)
    assert (batch["action_is_pad"].shape, batch["action_is_pad"].dtype) == ((3, 16), torch.bool)
    assert (batch["cam"].shape, batch["cam"].dtype) == ((3, 2, 3, 32, 40), torch.uint8)
    assert (batch["cam_is_valid"].shape, batch["step_index"].tolist()) == ((3, 2), [0, 3, 0])
    assert items[0]["action"].shape == (16, 2)
    assert unlike.as_pytorch_dataset(features="action", windows={"action": fox.steps(0, 1)})[0]["action"].shape == (1, 2)


def test_whole_episodes_are_batched_with_padding(unlike) -> None:
    items = unlike.as_pytorch_dataset(features=["action", "count", "language_instruction"], level="episode", every=2)
    batch = collate(items.__getitems__([0, 1, 3]))
    assert batch["action"].shape == (3, 4, 2)
    assert batch["is_pad"].tolist() == [[False, False, True, True], [True] * 4, [False] * 4]
    assert batch["count"].tolist() == [[0, 2, 0, 0], [0] * 4, [300, 302, 304, 306]]
    assert [len(words) for words in batch["language_instruction"]] == [2, 0, 4]


@pytest.mark.parametrize(
    "keep", [lambda count: count % 100 >= 2, lambda count: count < 0, lambda count: count >= 0, lambda count: count == 303]
)
def test_whole_episodes_without_a_chosen_step_are_left_out(unlike, keep) -> None:
    items = unlike.as_pytorch_dataset(features=["action", "count"], level="episode", where=keep(pl.col("count")))
    kept = [(view, np.flatnonzero(keep(view["count"]))) for view in unlike.episodes if len(view)]
    kept = [(view, steps) for view, steps in kept if len(steps)]
    assert [item["episode_id"] for item in items] == [view.episode_id for view, _ in kept]
    for item, (view, steps) in zip(items, kept, strict=True):
        assert item["step_index"].tolist() == steps.tolist()
        assert item["count"].tolist() == view["count"][steps].tolist()
        assert torch.equal(item["action"], torch.from_numpy(view["action"][steps].astype(np.float32)))


def test_windows_cover_each_step_once(unlike) -> None:
    items = unlike.as_pytorch_dataset(features="count", windows={"count": fox.steps(0, 4)}, level="window")
    seen = torch.cat([item["count"][~item["count_is_pad"]] for item in items.__getitems__(range(len(items)))]).tolist()
    assert seen == [int(count) for view in unlike if len(view) for count in view["count"]]
