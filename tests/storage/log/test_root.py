import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import fogx as fox
from fogx.errors import CorruptDataError, DatasetNotFoundError
from fogx.settings import config
from fogx.storage.files.store import Store
from fogx.storage.log import root as roots
from fogx.storage.log.delta import DeltaLog


def _created_by(count, store_of):
    barrier = threading.Barrier(count)

    def create(number):
        store = store_of()
        barrier.wait()
        roots.create(store, f"name {number}")
        return roots.root_id(roots.open_table(store))

    with ThreadPoolExecutor(count) as pool:
        return set(pool.map(create, range(count)))


def test_a_root_created_by_many_at_once_is_created_once(tmp_path):
    for number in range(10):
        store = Store(tmp_path / str(number))
        ids = _created_by(4, lambda store=store: Store(store.root))
        assert len(ids) == 1
        assert list(store.sizes(roots.LOG_FOLDER)) == [roots.entry(0)]
        assert json.loads(store.read_small("fogx.json"))["root_id"] in ids


@pytest.mark.s3
@pytest.mark.xdist_group("s3")
def test_a_bucket_is_made_a_root_once(s3_server):
    root = s3_server.make_bucket("lab")
    assert len(_created_by(4, lambda: Store(root))) == 1
    assert list(Store(root).sizes(roots.LOG_FOLDER)) == [roots.entry(0)]


def _long_log(path):
    """Make a log with a checkpoint at version 20 and three entries after it."""
    store = Store(path)
    roots.create(store, "lab")
    log = DeltaLog(store)
    while log.version < 23:
        log.set_properties({"n": str(log.version)}, "count")
    assert roots.last_checkpoint(store) == 20
    return store


def test_what_lies_before_the_checkpoint_is_not_looked_at(tmp_path, monkeypatch):
    store = _long_log(tmp_path)
    sizes, listed = Store.sizes, []
    monkeypatch.setattr(Store, "sizes", lambda *given: (listed.append(sizes(*given)), listed[-1])[1])
    assert roots.open_table(store).version() == roots.open_table(store, 22).version() + 1 == 23
    assert [min(names) for names in listed] == [roots.checkpoint(20)] * 2
    assert roots.open_table(store, 19).version() == 19
    assert min(listed[-1]) == roots.entry(0)


def test_a_note_of_no_checkpoint_hides_no_entry(tmp_path):
    store = _long_log(tmp_path)
    (tmp_path / roots.LOG_FOLDER / roots.checkpoint(20)).unlink()
    (tmp_path / roots.LOG_FOLDER / roots.entry(5)).write_bytes(b" " * (1 << 20))
    before = config().memory_mb
    config(memory_mb=2)
    try:
        for version in (None, 22):
            with pytest.raises(CorruptDataError, match="24 log entries"):
                roots.open_table(store, version)
    finally:
        config(memory_mb=before)


def test_a_folder_without_a_log_is_no_dataset(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="holds no dataset"):
        roots.open_table(Store(tmp_path))


@pytest.mark.s3
@pytest.mark.xdist_group("s3")
def test_a_bucket_is_opened_with_two_short_listings(s3_server, tmp_path):
    root = s3_server.make_bucket("lab")
    local, client = _long_log(tmp_path), s3_server.client()
    for name in local.sizes(roots.LOG_FOLDER):
        client.put_object(Bucket="lab", Key=f"{roots.LOG_FOLDER}/{name}", Body=local.read_small(f"{roots.LOG_FOLDER}/{name}"))
    s3_server.heal()
    assert fox.Dataset(root).version == 23
    asked = [request["target"] for request in s3_server.requests()]
    listings = [target for target in asked if "list-type=2" in target]
    assert len(listings) == 2
    assert all("start-after=" in target for target in listings), "ours and the table library's"
    store = Store(root)
    for start in ("", roots.entry(7), roots.entry(7)[:20], roots.checkpoint(20), "_", "z"):
        assert store.sizes(roots.LOG_FOLDER, start) == local.sizes(roots.LOG_FOLDER, start)
    assert store.sizes("nothing", "a") == {}


@pytest.mark.s3
@pytest.mark.xdist_group("s3")
def test_a_listing_of_several_pages(s3_server):
    root, client = s3_server.make_bucket("lab"), s3_server.client()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: client.put_object(Bucket="lab", Key=f"a/{n:04d}", Body=b"x" * (n % 3)), range(1_010)))
    assert Store(root).sizes("a", "0003") == {f"{n:04d}": n % 3 for n in range(3, 1_010)}
