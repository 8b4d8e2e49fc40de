from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fogx import registry
from fogx.errors import FogxError, StorageError
from fogx.feature import Feature, Schema
from fogx.formats.rtx.loader import RtxLoader
from fogx.protocols import Column, EpisodeData, ShardTask
from fogx.testing.episodes import check_episode, make_episodes
from fogx.testing.loaders import LoaderContract, Source


class TestRtx(LoaderContract):
    loader = registry.get("loaders", "rtx")

    @pytest.fixture(params=[("train", 25), ("train[3:12]", 9), ("train[:2]+train[20:]", 7)], ids=lambda param: param[0])
    def source(self, bridge_dir: Path, request: pytest.FixtureRequest) -> Source:
        split, count = request.param
        return Source(str(bridge_dir), split, None, count)


class Broken(RtxLoader):
    """The RT-X loader with one fault."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.reads = 0

    def plan(self, name: str, *, split: str, data_dir: str | None) -> list[ShardTask]:
        split = "train" if self.fault == "takes any split" else split
        try:
            tasks = super().plan(name, split=split, data_dir=data_dir)
        except FogxError as error:
            raise (StorageError(str(error)) if self.fault == "says it otherwise" else error) from None
        match self.fault:
            case "plans lambdas":
                return [replace(task, options={**task.options, "key": lambda: None}) for task in tasks]
            case "plans for another":
                return [replace(task, loader="nobody") for task in tasks]
            case "miscounts":
                return [replace(task, num_episodes=1) for task in tasks]
            case "opens shards":
                Path(tasks[0].location).open("rb").close()
            case "reads while it plans":
                next(self.read(tasks[0], lambda key: True))
        return tasks

    def read(self, task: ShardTask, wanted: Callable[[str], bool]) -> Iterator[EpisodeData]:
        self.reads += 1
        match self.fault:
            case "gives the unwanted":
                return super().read(task, lambda key: True)
            case "reads to the end":
                return super().read(replace(task, stop=task.options["shard_length"]), wanted)
            case "begins at 0":
                return super().read(replace(task, first=0), wanted)
            case "keeps all in memory":
                return iter(list(super().read(task, wanted)))
            case "numbers its reads":
                return self.with_keys(super().read(task, wanted), lambda key: f"{self.reads}{key}")
            case "repeats a key":
                return self.with_keys(super().read(task, wanted), lambda key: task.source_key(task.first))
            case "makes up keys":
                return self.with_keys(super().read(task, wanted), lambda key: f"x/{key}")
            case "gives no keys":
                return self.with_keys(super().read(task, wanted), lambda key: None)
        return super().read(task, wanted)

    def with_keys(self, episodes: Iterator[EpisodeData], key: Callable[[Any], str | None]) -> Iterator[EpisodeData]:
        return (replace(data, source_key=key(data.source_key)) for data in episodes)


KEYS = "test_keys_and_counts_are_those_of_the_tasks"
REFUSED = "test_an_unknown_name_or_split_is_refused"


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("takes any split", REFUSED),
        ("says it otherwise", REFUSED),
        ("plans lambdas", "test_tasks_travel_to_workers"),
        ("plans for another", "test_it_is_found_by_the_name_in_its_tasks"),
        ("opens shards", "test_plan_reads_no_episode"),
        ("reads while it plans", "test_plan_reads_no_episode"),
        ("keeps all in memory", "test_episodes_are_as_their_schemas_say_and_one_is_in_memory"),
        ("miscounts", KEYS),
        ("numbers its reads", KEYS),
        ("repeats a key", KEYS),
        ("makes up keys", KEYS),
        ("gives no keys", KEYS),
        ("gives the unwanted", "test_what_is_not_wanted_is_passed_over"),
        ("reads to the end", "test_first_and_stop_bound_the_records"),
        ("begins at 0", "test_first_and_stop_bound_the_records"),
    ],
)
def test_a_broken_loader_fails(fault: str, check: str, bridge_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Suite(LoaderContract):
        loader = Broken(fault)

    test = getattr(Suite(), check)
    patch = {"monkeypatch": monkeypatch} if check == "test_plan_reads_no_episode" else {}
    with pytest.raises((AssertionError, pytest.fail.Exception, FogxError, AttributeError)):
        test(Source(str(bridge_dir), "train", None, 25), **patch)


def test_plan_may_open_shards_where_that_is_said(bridge_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Suite(LoaderContract):
        loader = Broken("opens shards")
        plan_opens_shards = True

    Suite().test_plan_reads_no_episode(Source(str(bridge_dir), "train", None, 25), monkeypatch)


def objects(*items: Any) -> np.ndarray:
    out = np.empty(len(items), object)
    for i, item in enumerate(items):
        out[i] = item
    return out


PNG = functools.partial(Feature, encoding="png")
IMAGE = registry.get("codecs", "png").encode(np.zeros((4, 5), np.uint8))


@pytest.mark.parametrize(
    ("feature", "column"),
    [
        (Feature("float32", (2,)), Column(np.zeros((2, 2), np.float32), np.array([True, False]))),
        (Feature("str", ()), Column(objects("a", None), np.array([True, False]))),
        (Feature("bytes", (1,)), Column(objects(b"a", b"b").reshape(2, 1))),
        (Feature("int8", (None,)), Column(objects(np.zeros(1, np.int8), np.zeros(3, np.int8)))),
        (PNG("uint8", (4, 5)), Column(objects(IMAGE, IMAGE))),
    ],
)
def test_columns_that_are_as_declared(feature: Feature, column: Column) -> None:
    check_episode(EpisodeData(Schema({"x": feature}), {"x": column}, 2))


@pytest.mark.parametrize(
    ("feature", "column"),
    [
        (Feature("float32", (2,)), Column(np.zeros((2, 2)))),
        (Feature("float32", (2,)), Column(np.zeros((2, 3), np.float32))),
        (Feature("float32", (2,)), Column(np.zeros((3, 2), np.float32))),
        (Feature("float32", (2,)), Column(np.zeros((2, 2), np.float32), np.array([True]))),
        (Feature("float32", (2,)), Column(np.zeros((2, 2), np.float32), np.array([1, 0]))),
        (Feature("float32"), Column(np.zeros(2, np.float32))),
        (Feature(None, ()), Column(np.zeros(2))),
        (Feature("str", ()), Column(np.array(["a", "b"]))),
        (Feature("str", ()), Column(objects("a", b"b"))),
        (Feature("str", ()), Column(objects("a", None))),
        (Feature("int8", (None,)), Column(np.zeros((2, 3), np.int8))),
        (Feature("int8", (None,)), Column(objects(np.zeros(1, np.int8), np.zeros(1)))),
        (Feature("int8", (None,)), Column(objects(np.zeros(1, np.int8), np.zeros((1, 1), np.int8)))),
        (PNG("uint8", (4, 5)), Column(np.zeros((2, 4, 5), np.uint8))),
        (PNG("uint8", (4, 5)), Column(objects(IMAGE, bytearray(IMAGE)))),
        (PNG("uint8", (4, 5)), Column(objects(IMAGE, None))),
    ],
)
def test_columns_that_are_not(feature: Feature, column: Column) -> None:
    with pytest.raises(AssertionError):
        check_episode(EpisodeData(Schema({"x": feature}), {"x": column}, 2))


def test_a_column_too_few_or_too_many() -> None:
    (data, *_) = make_episodes()
    check_episode(data)
    for features in ({}, {**data.schema.features, "more": Feature("int8", ())}):
        with pytest.raises(AssertionError):
            check_episode(replace(data, schema=Schema(features)))
