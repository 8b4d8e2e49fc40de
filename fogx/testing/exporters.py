"""The contract of exporters."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from fogx.protocols import EpisodeData, Exporter
from fogx.testing.episodes import Alive, make_episodes


class ExporterContract:
    """Set `exporter`, and `options` where it needs any."""

    exporter: Exporter
    options: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture
    def episodes(self) -> list[EpisodeData]:
        """Return episodes of one schema; override it where the format cannot hold these, or with what your loader reads."""
        return make_episodes()

    def read_back(self, path: str) -> Iterable[EpisodeData]:
        """Read what was exported; override it where there is a loader of the format."""
        pytest.skip("no read_back()")

    def export(self, stream: Iterable[EpisodeData], episodes: list[EpisodeData], folder: Path) -> Path:
        target = folder / "exports" / "1.0.0"
        assert self.exporter.export(stream, episodes[0].schema, str(target), name="contract", **self.options) == str(target)
        return target

    def test_its_name_is_one_of_a_folder(self) -> None:
        assert isinstance(self.exporter, Exporter)
        assert self.exporter.name == os.path.basename(self.exporter.name).strip(".") != ""

    def test_the_folder_appears_whole(self, episodes: list[EpisodeData], tmp_path: Path) -> None:
        def watched() -> Iterator[EpisodeData]:
            for data in (*episodes, None):
                assert not (tmp_path / "exports" / "1.0.0").exists(), "the folder is there before the stream has ended"
                if data:
                    yield data

        assert list(self.export(watched(), episodes, tmp_path).parent.iterdir()) == [tmp_path / "exports" / "1.0.0"]
        assert self.export((), episodes, tmp_path / "empty").is_dir()

    def test_one_episode_is_in_memory(self, episodes: list[EpisodeData], tmp_path: Path) -> None:
        alive = Alive()

        def stream() -> Iterator[EpisodeData]:
            for given in itertools.islice(itertools.cycle(episodes), 12):
                data = replace(given)
                assert alive.count_with(data) <= 2, "more than one consumed episode is held"
                yield data

        self.export(stream(), episodes, tmp_path)

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_a_break_leaves_nothing(self, episodes: list[EpisodeData], tmp_path: Path, error: type[BaseException]) -> None:
        def broken() -> Iterator[EpisodeData]:
            yield episodes[0]
            raise error("broken off")

        with pytest.raises(error, match="broken off"):
            self.export(broken(), episodes, tmp_path)
        # The folder around the target may stay: others may have begun to use it.
        assert set(tmp_path.rglob("*")) <= {tmp_path / "exports"}

    def test_what_was_exported_comes_back(self, episodes: list[EpisodeData], tmp_path: Path) -> None:
        back = list(self.read_back(str(self.export(iter(episodes), episodes, tmp_path))))
        assert [data.num_steps for data in back] == [data.num_steps for data in episodes]
        for old, new in zip(episodes, back, strict=True):
            for name, column in old.columns.items():
                assert new.columns[name].values.dtype == column.values.dtype, name
                np.testing.assert_array_equal(new.columns[name].values, column.values, err_msg=name)
