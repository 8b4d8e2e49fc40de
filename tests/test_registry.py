from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fogx import registry
from fogx.errors import PluginClashError, UnknownPluginError
from fogx.feature import Feature
from fogx.protocols import Codec, Executor, Exporter, Loader

PROTOCOLS = {"codecs": Codec, "executors": Executor, "exporters": Exporter, "loaders": Loader}
PLUGINS = Path(__file__).parent / "plugins"

Install = Callable[[str], None]


def _forget() -> None:
    registry.get.cache_clear()
    registry._table.cache_clear()


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install one of the packages under `plugins` for this test."""

    def install(package: str) -> None:
        monkeypatch.syspath_prepend(PLUGINS / package)
        _forget()

    yield install
    monkeypatch.undo()
    _forget()


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, table in registry.BUILTIN.items() for name in table])
def test_every_built_in_keeps_its_protocol(kind: str, name: str) -> None:
    assert isinstance(registry.get(kind, name), PROTOCOLS[kind])


def test_one_instance_is_shared() -> None:
    assert registry.get("codecs", "zstd") is registry.get("codecs", "zstd")


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_names_are_sorted_and_hold_the_built_ins(kind: str) -> None:
    names = registry.names(kind)
    assert names == sorted(names)
    assert set(registry.BUILTIN[kind]) <= set(names)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownPluginError) as caught:
        registry.get("loaders", "rld")
    assert str(caught.value) == "no loader named 'rld'; available: open-x, rlds, rtx. Did you mean 'rlds'?"


def test_an_installed_plugin_is_found(install: Install) -> None:
    assert "demo" not in registry.names("loaders")
    install("good")
    assert "demo" in registry.names("loaders")
    assert isinstance(registry.get("loaders", "demo"), Loader)
    assert isinstance(registry.get("exporters", "demo"), Exporter)
    assert isinstance(registry.get("codecs", "negative"), Codec)


def test_an_installed_plugin_works(install: Install, tmp_path: Path) -> None:
    install("good")
    loader = registry.get("loaders", "demo")
    (task,) = loader.plan("robot", split="all", data_dir=None)
    episodes = list(loader.read(task, lambda key: key != "demo:robot/0/0"))
    assert [episode.source_key for episode in episodes] == ["demo:robot/0/1"]

    folder = registry.get("exporters", "demo").export(episodes, episodes[0].schema, str(tmp_path / "out"), name="robot")
    assert (Path(folder) / "robot.txt").read_text() == "3"

    codec, pixels = registry.get("codecs", "negative"), np.arange(4, dtype=np.uint8)
    assert codec.decode(codec.encode(pixels), Feature("uint8", (4,))).tolist() == [0, 1, 2, 3]


def test_a_plugin_is_suggested_as_a_built_in_is(install: Install) -> None:
    install("good")
    with pytest.raises(UnknownPluginError, match=r"available: demo, open-x, rlds, rtx\. Did you mean 'demo'\?"):
        registry.get("loaders", "demos")


def test_a_clash_names_both(install: Install) -> None:
    install("clash")
    with pytest.raises(PluginClashError) as caught:
        registry.get("loaders", "rlds")
    assert "'rlds': fogx.formats.rtx.loader:RtxLoader and clashing_fogx_plugin:OtherLoader" in str(caught.value)


def test_a_clash_of_one_kind_leaves_the_others(install: Install) -> None:
    install("clash")
    assert registry.names("codecs") == sorted(registry.BUILTIN["codecs"])
