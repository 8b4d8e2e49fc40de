"""The contract of loaders."""

from __future__ import annotations

import builtins
import io
import sys
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fogx import registry
from fogx.errors import DatasetNotFoundError, UnknownNameError
from fogx.protocols import EpisodeData, Loader, ShardTask
from fogx.testing.episodes import Alive, check_episode


class Source(NamedTuple):
    """What to load: arguments of `plan`, and how many episodes they give, three or more of them from one shard."""

    name: str
    split: str
    data_dir: str | None
    num_episodes: int


class LoaderContract:
    """Set `loader` (its package must be installed) and override the fixture `source`.

    `plan_opens_shards = True` lets `plan` open the files of shards, for formats whose counts stand only there.
    """

    loader: Loader
    plan_opens_shards = False

    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        """Return something to load, perhaps written to `tmp_path`; with `-absent` after its name there must be nothing."""
        raise NotImplementedError("override the fixture source()")

    def plan(self, source: Source) -> list[ShardTask]:
        return self.loader.plan(source.name, split=source.split, data_dir=source.data_dir)

    def keys(self, task: ShardTask) -> list[str]:
        return [str(data.source_key) for data in self.loader.read(task, lambda key: True)]

    def longest(self, source: Source) -> tuple[ShardTask, list[str]]:
        task, keys = max(((task, self.keys(task)) for task in self.plan(source)), key=lambda found: len(found[1]))
        assert len(keys) >= 3, "source() must give a shard of three or more episodes"
        return task, keys

    def test_it_is_found_by_the_name_in_its_tasks(self, source: Source) -> None:
        assert isinstance(self.loader, Loader)
        assert {type(registry.get("loaders", task.loader)) for task in self.plan(source)} == {type(self.loader)}

    def test_plan_reads_no_episode(self, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
        shards = {Path(task.location) for task in self.plan(source)}
        real_open = open

        def watched(file: Any, *args: Any, **kwargs: Any) -> Any:
            assert self.plan_opens_shards or isinstance(file, int) or Path(file) not in shards, f"plan() opens {file}"
            return real_open(file, *args, **kwargs)

        def refuse(*args: Any, **kwargs: Any) -> None:
            raise AssertionError("plan() makes an EpisodeData")

        with monkeypatch.context() as patch:
            patch.setattr(EpisodeData, "__init__", refuse)
            patch.setattr(builtins, "open", watched)
            patch.setattr(io, "open", watched)
            assert isinstance(self.plan(source), list)

    def test_tasks_travel_to_workers(self, source: Source) -> None:
        for task in self.plan(source):
            assert ForkingPickler.loads(ForkingPickler.dumps(task)) == task

    def test_an_unknown_name_or_split_is_refused(self, source: Source) -> None:
        with pytest.raises(DatasetNotFoundError, match="-absent"):
            self.plan(source._replace(name=f"{source.name}-absent"))
        with pytest.raises(UnknownNameError, match="no_such_split"):
            self.plan(source._replace(split="no_such_split"))

    def test_episodes_are_as_their_schemas_say_and_one_is_in_memory(self, source: Source) -> None:
        for task in self.plan(source):
            alive = Alive()
            for data in self.loader.read(task, lambda key: True):
                check_episode(data)
                # Two, since this loop holds the episode before while the next one is made.
                assert alive.count_with(data) <= 2, "more than one episode is in memory"

    def test_keys_and_counts_are_those_of_the_tasks(self, source: Source) -> None:
        tasks = self.plan(source)
        keys = [self.keys(task) for task in tasks]
        assert keys == [self.keys(task) for task in self.plan(source)], "reading again gives other keys"
        assert len({key for of_task in keys for key in of_task}) == sum(map(len, keys)) == source.num_episodes
        for task, of_task in zip(tasks, keys, strict=True):
            records = [_record(key) for key in of_task]
            assert of_task == [task.source_key(record) for record in records]
            assert records == sorted(records)
            assert all(task.first <= record < (sys.maxsize if task.stop is None else task.stop) for record in records)
            assert task.num_episodes in (None, len(records))

    def test_what_is_not_wanted_is_passed_over(self, source: Source) -> None:
        task, keys = self.longest(source)
        assert [data.source_key for data in self.loader.read(task, lambda key: key in keys[1::2])] == keys[1::2]

    def test_first_and_stop_bound_the_records(self, source: Source) -> None:
        task, keys = self.longest(source)
        assert self.keys(replace(task, first=_record(keys[1]), stop=_record(keys[-1]), num_episodes=None)) == keys[1:-1]


def _record(key: str) -> int:
    record = key.rpartition("/")[2]
    assert record.isdecimal(), f"source_key {key!r} does not end in the number of a record"
    return int(record)
