import pickle

import pytest

from fogx.errors import CorruptDataError, StorageError
from fogx.storage.files.durable import write_whole
from fogx.storage.files.paths import new_pointer
from fogx.storage.files.store import Store


def test_ranges_of_a_file(tmp_path):
    store, pointer = Store(tmp_path), new_pointer("frames", "dataset=x")
    with store.create(pointer) as sink:
        sink.write(b"0123456789")
    assert store.read_ranges(pointer, [(2, 4), (0, 1), (10, 10)]) == [b"23", b"0", b""]
    with pytest.raises(CorruptDataError, match="shorter"):
        store.read_ranges(pointer, [(5, 11)])
    with store.open(pointer) as file:
        assert file.read() == b"0123456789"


def test_a_lost_file_is_named(tmp_path):
    pointer = new_pointer("frames")
    for call in (lambda s: s.open(pointer), lambda s: s.read_ranges(pointer, [(0, 1)])):
        with pytest.raises(CorruptDataError, match=pointer):
            call(Store(tmp_path))


def test_small_files_are_replaced_whole(tmp_path):
    store = Store(tmp_path / "new" / "root")
    assert store.read_small("fogx.json") is None
    store.write_small("fogx.json", b"one")
    store.write_small("fogx.json", b"two")
    assert store.read_small("fogx.json") == b"two"
    assert store.sizes("") == {"fogx.json": 3}
    assert store.sizes("nothing") == {}


def test_a_failed_small_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_whole(str(tmp_path / "a"), b"old")
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_whole(str(tmp_path / "a"), b"new")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"old"}


def test_unknown_protocol_names_what_works():
    with pytest.raises(StorageError, match="s3://"):
        Store("nonsense://bucket/x").read_small("fogx.json")


def test_a_store_pickles_without_open_handles(tmp_path):
    store = Store(tmp_path)
    assert pickle.loads(pickle.dumps(store)).root == store.root
