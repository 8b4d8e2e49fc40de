"""Blocks on disk: found again, shared, damaged, too many, refused by the disk. What is read is always the same."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import fogx as fox
from fogx import settings
from fogx.settings import Config
from fogx.training import cache, index, source


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The folder of the blocks of this test."""
    monkeypatch.setattr(settings, "_current", Config(cache_dir=tmp_path / "cache"))
    return tmp_path / "cache" / "blocks"


@pytest.fixture(scope="module")
def numbers(tmp_path_factory) -> fox.Dataset:
    """Four episodes of 50 steps."""
    dataset = fox.Dataset(tmp_path_factory.mktemp("numbers") / "lab")
    for number in range(4):
        with dataset.new_episode() as episode:
            for step in range(50):
                episode.add_step({"x": np.arange(8) + 1_000 * number + step, "word": f"w{step % 3}"})
    return dataset


def _blocks(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.block"))


def _check(dataset: fox.Dataset) -> None:
    items = dataset.as_pytorch_dataset()
    batch = items.__getitems__(range(len(items))).batch
    assert batch["x"].tolist() == [list(range(1_000 * n + s, 1_000 * n + s + 8)) for n in range(4) for s in range(50)]
    assert batch["word"] == [f"w{s % 3}" for _ in range(4) for s in range(50)]


@pytest.fixture
def made(monkeypatch) -> list[int]:
    """Numbers of the blocks that are made."""
    numbers: list[int] = []
    make = source.make_block
    monkeypatch.setattr("fogx.training.items.make_block", lambda index, number: numbers.append(number) or make(index, number))
    return numbers


def test_blocks_are_made_once_and_found_again(numbers, folder, made) -> None:
    _check(numbers)
    assert made == [0]
    _check(fox.Dataset(numbers.path))
    assert made == [0]
    assert len(_blocks(folder)) == 1
    assert numbers.as_pytorch_dataset(rename={"x": "y"})[3]["y"].tolist() == list(range(3, 11))
    assert made == [0], "a name is no content"
    assert numbers.as_pytorch_dataset(features="x")[0]["x"].shape == (8,)
    assert made == [0, 0]


@pytest.mark.parametrize(
    "damage", ["truncated", "emptied", "flipped in the header", "flipped in the numbers", "foreign", "of another block"]
)
def test_what_is_damaged_is_made_anew(numbers, folder, made, damage) -> None:
    numbers.as_pytorch_dataset(features="word")[0]
    (other,) = _blocks(folder)
    _check(numbers)
    (block,) = set(_blocks(folder)) - {other}
    data = bytearray(block.read_bytes())
    if damage == "of another block":
        data = bytearray(other.read_bytes())
    elif damage == "foreign":
        data = bytearray(b"something else" * 500)
    elif damage == "emptied":
        data = bytearray()
    elif damage == "truncated":
        data = data[:-64]
    else:
        data[100 if "header" in damage else -100] ^= 4
    block.write_bytes(data)
    made.clear()
    _check(numbers)
    assert made == [0]
    _check(numbers)
    assert made == [0]


def test_the_least_recently_used_go(numbers, folder, monkeypatch) -> None:
    monkeypatch.setattr(index, "BLOCK_BYTES", 1)
    items = numbers.as_pytorch_dataset()
    assert items._reader.index.num_blocks == 4
    items.__getitems__(range(200))
    blocks = _blocks(folder)
    assert len(blocks) == 4
    for age, block in enumerate(blocks):
        os.utime(block, (time.time() - 100 * age,) * 2)
    size = blocks[0].stat().st_size
    cache.trim(2 * size + 100, keep=str(blocks[3]))
    assert set(_blocks(folder)) == {blocks[0], blocks[3]}
    assert items.__getitems__([0, 60, 120, 199]).batch["x"][:, 0].tolist() == [0, 1_010, 2_020, 3_049], (
        "what is open stays readable"
    )


def test_a_selection_larger_than_the_cache_says_so_once(numbers, folder, monkeypatch, caplog) -> None:
    monkeypatch.setattr(index, "BLOCK_BYTES", 1)
    items = numbers.as_pytorch_dataset()
    items._reader.blocks._expected_bytes = 30_000 << 20
    items.__getitems__(range(200))
    assert caplog.text.count("take about 30000 MiB, the cache has room for 20000") == 1
    assert "fox.config(cache_mb=37500)" in caplog.text
    fox.config(cache_mb=37_500)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_is_read_past(numbers, folder, made, monkeypatch, caplog, code) -> None:
    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(cache.os, "fsync", full)
    _check(numbers)
    items = numbers.as_pytorch_dataset()
    made.clear()
    for item in range(0, 200, 20):
        items[item]
    assert made == [0], "it is kept in memory"
    assert _blocks(folder) == []
    assert list(folder.glob("*.tmp")) == []
    assert os.strerror(code) in caplog.text


def test_clearing(numbers, folder) -> None:
    assert fox.clear_cache() == 0
    _check(numbers)
    mine = folder / "notes.txt"
    mine.write_text("not ours")
    size = sum(block.stat().st_size for block in _blocks(folder))
    assert fox.clear_cache() == size
    assert list(folder.iterdir()) == [mine]
    _check(numbers)


BOTH = """
    import sys
    import fogx as fox
    from fogx.training import items, source

    make = source.make_block
    items.make_block = lambda index, number: print("made") or make(index, number)
    fox.config(cache_dir=sys.argv[2])
    print(int(fox.Dataset(sys.argv[1]).as_pytorch_dataset().__getitems__(range(200)).batch["x"].sum()))
"""


def test_two_processes_make_it_once(numbers, folder) -> None:
    command = [sys.executable, "-c", textwrap.dedent(BOTH), numbers.path, str(folder.parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    told = [process.communicate(timeout=200)[0].split() for process in both]
    total = str(sum(range(8)) * 200 + 8 * sum(1_000 * n + s for n in range(4) for s in range(50)))
    assert sorted(told, key=len) == [[total], ["made", total]]
    assert len(_blocks(folder)) == 1


def test_what_a_killed_process_left_goes(numbers, folder) -> None:
    _check(numbers)
    old, fresh = folder / "a.block.1.tmp", folder / "b.block.2.tmp"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7_200,) * 2)
    cache.trim(1 << 30, keep="")
    assert (old.exists(), fresh.exists()) == (False, True)
