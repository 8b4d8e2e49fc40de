from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fogx import registry
from fogx.feature import Schema
from fogx.formats.rtx.exporter import RtxExporter
from fogx.protocols import EpisodeData
from fogx.testing.episodes import make_episodes
from fogx.testing.exporters import ExporterContract


def load(path: str, split: str = "train") -> Iterator[EpisodeData]:
    loader = registry.get("loaders", "rtx")
    for task in loader.plan(path, split=split, data_dir=None):
        yield from loader.read(task, lambda key: True)


class TestRtx(ExporterContract):
    exporter = registry.get("exporters", "rtx")
    read_back = staticmethod(load)


class TestRtxWithWhatItsLoaderReads(ExporterContract):
    exporter = registry.get("exporters", "rtx")
    read_back = staticmethod(load)

    @pytest.fixture
    def episodes(self, bridge_dir: Path) -> list[EpisodeData]:
        return list(load(str(bridge_dir), "train[:4]"))


class Broken(RtxExporter):
    """The RT-X exporter with one fault."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.name = "a/b" if fault == "has no folder name" else "rtx"

    def export(self, episodes: Iterable[EpisodeData], schema: Schema, path: str, **options: Any) -> str:
        parent = Path(path).parent
        match self.fault:
            case "takes all episodes":
                episodes = list(episodes)
            case "drops the last":
                episodes = list(episodes)[:-1]
            case "reverses":
                episodes = list(episodes)[::-1]
            case "leaves a partial folder":
                (parent / "partial").mkdir(parents=True)
            case "writes in place":
                parent.mkdir(parents=True)
                episodes = self.marking(episodes, path)
            case "cleans up after errors only":
                return self.careless(episodes, schema, path, **options)
        super().export(episodes, schema, path, **options)
        return str(parent) if self.fault == "returns another" else path

    def marking(self, episodes: Iterable[EpisodeData], path: str) -> Iterator[EpisodeData]:
        for episode in episodes:
            os.makedirs(path, exist_ok=True)
            yield episode

    def careless(self, episodes: Iterable[EpisodeData], schema: Schema, path: str, **options: Any) -> str:
        os.makedirs(f"{path}.tmp")
        try:
            episodes = list(episodes)
        except Exception:
            shutil.rmtree(f"{path}.tmp")
            raise
        shutil.rmtree(f"{path}.tmp")
        return super().export(episodes, schema, path, **options)


WHOLE, BREAK = "test_the_folder_appears_whole", "test_a_break_leaves_nothing"
BACK = "test_what_was_exported_comes_back"


@pytest.mark.parametrize(
    ("fault", "check", "more"),
    [
        ("takes all episodes", "test_one_episode_is_in_memory", {}),
        ("drops the last", BACK, {}),
        ("reverses", BACK, {}),
        ("returns another", WHOLE, {}),
        ("leaves a partial folder", WHOLE, {}),
        ("leaves a partial folder", BREAK, {"error": RuntimeError}),
        ("writes in place", WHOLE, {}),
        ("writes in place", BREAK, {"error": RuntimeError}),
        ("cleans up after errors only", BREAK, {"error": KeyboardInterrupt}),
    ],
)
def test_a_broken_exporter_fails(fault: str, check: str, more: dict[str, Any], tmp_path: Path) -> None:
    class Suite(ExporterContract):
        exporter = Broken(fault)
        read_back = staticmethod(load)

    with pytest.raises(AssertionError):
        getattr(Suite(), check)(make_episodes(), tmp_path, **more)


def test_only_keyboard_interrupt_shows_careless_cleaning(tmp_path: Path) -> None:
    class Suite(ExporterContract):
        exporter = Broken("cleans up after errors only")

    Suite().test_a_break_leaves_nothing(make_episodes(), tmp_path, RuntimeError)


def test_a_name_that_is_no_folder_fails() -> None:
    class Suite(ExporterContract):
        exporter = Broken("has no folder name")

    with pytest.raises(AssertionError):
        Suite().test_its_name_is_one_of_a_folder()


def test_without_a_reader_nothing_is_compared(tmp_path: Path) -> None:
    with pytest.raises(pytest.skip.Exception, match="read_back"):
        ExporterContract().read_back(str(tmp_path))
