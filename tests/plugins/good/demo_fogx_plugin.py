"""A plug-in package: it knows only the protocols, and fogx finds it through its entry points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fogx.errors import UnknownNameError
from fogx.feature import Feature, Schema
from fogx.protocols import Column, EpisodeData, ShardTask


class DemoLoader:
    """Two episodes of one feature, from nowhere."""

    def plan(self, name: str, *, split: str, data_dir: str | None) -> list[ShardTask]:
        if split != "all":
            raise UnknownNameError(f"no split {split!r}; there are: all.")
        return [ShardTask("demo", data_dir or "", f"demo:{name}", num_episodes=2)]

    def read(self, task: ShardTask, wanted: Callable[[str], bool]) -> Iterator[EpisodeData]:
        schema = Schema({"action": Feature("float32", (2,))})
        for record in range(2):
            key = task.source_key(record)
            if wanted(key):
                values = np.full((3, 2), record, np.float32)
                yield EpisodeData(schema, {"action": Column(values)}, 3, source_key=key)


class DemoExporter:
    """Writes how many steps each episode has."""

    name = "demo"

    def export(self, episodes: Iterable[EpisodeData], schema: Schema, path: str, *, name: str, **options: Any) -> str:
        Path(path).mkdir(parents=True)
        (Path(path) / f"{name}.txt").write_text("\n".join(str(episode.num_steps) for episode in episodes))
        return path


class NegativeCodec:
    """Stores bytes inverted."""

    def encode(self, value: np.ndarray) -> bytes:
        return (255 - value).tobytes()

    def decode(self, data: bytes, feature: Feature) -> np.ndarray:
        return 255 - np.frombuffer(data, np.uint8)
