"""Whatever the file system raises, a `Store` says which root, which operation, and what to do."""

import socket

import pytest

from fogx.errors import CorruptDataError, StorageError
from fogx.storage.files.options import StorageOptions
from fogx.storage.files.paths import new_pointer
from fogx.storage.files.store import Store

pytestmark = [pytest.mark.s3, pytest.mark.xdist_group("s3")]

ONCE = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
POINTER = f"frames/dataset=x/{'0' * 32}.parquet"


def _write(store):
    with store.create(POINTER) as sink:
        sink.write(b"0123456789")


OPERATIONS = {
    f"writing {POINTER}": _write,
    "writing fogx.json": lambda store: store.write_small("fogx.json", b"{}"),
    "reading fogx.json": lambda store: store.read_small("fogx.json"),
    "listing steps": lambda store: store.sizes("steps"),
    f"reading {POINTER}": lambda store: store.read_ranges(POINTER, [(0, 4)]),
    f"reading {POINTER} ": lambda store: store.open(POINTER).read(4),
}


def _filled(s3_server, options=None):
    store = Store(s3_server.make_bucket("lab") + "/a", StorageOptions(options))
    _write(store)
    store.write_small("fogx.json", b"{}")
    return store


@pytest.mark.parametrize("kind", ["slow-down", "internal-error", "drop", "deny"])
def test_an_endpoint_that_only_fails(s3_server, kind):
    store = _filled(s3_server, ONCE)
    remedy = "may not do this" if kind == "deny" else "try again"
    s3_server.fail(kind)
    for number, (what, call) in enumerate(OPERATIONS.items()):
        with pytest.raises(StorageError, match=rf"s3://lab/a: {what.strip()} failed: .*{remedy}"):
            call(store)
        assert s3_server.happened()[0] > number


@pytest.mark.parametrize("kind", ["internal-error", "drop", "lose-reply"])
def test_every_second_request_is_made_up_for(s3_server, kind):
    store = _filled(s3_server)
    s3_server.fail(kind, every=2)
    for call in OPERATIONS.values():
        call(store)
    assert store.read_ranges(POINTER, [(2, 4), (0, 1)]) == [b"23", b"0"]
    assert s3_server.happened()[0] >= 4


def test_a_small_file_is_read_by_one_request(s3_server):
    store = _filled(s3_server)
    s3_server.heal()
    with store.open(POINTER) as file:
        whole = file.read()
        file.seek(2)
        assert file.read(2) == whole[2:4]
    assert [request["method"] for request in s3_server.requests()] == ["HEAD", "GET"]


def test_a_read_that_fails_late_is_told_too(s3_server, monkeypatch):
    monkeypatch.setattr("fogx.storage.files.store._WHOLE_BYTES", 0)
    store = Store(s3_server.make_bucket("lab"), StorageOptions(ONCE))
    _write(store)
    with store.open(POINTER) as file:
        s3_server.fail("slow-down")
        with pytest.raises(StorageError, match=f"reading {POINTER} failed"):
            file.read(4)


def test_a_lost_remote_file_is_named(s3_server):
    store = Store(s3_server.make_bucket("lab"))
    for call in (lambda: store.open(POINTER), lambda: store.read_ranges(POINTER, [(0, 1), (1, 2)])):
        with pytest.raises(CorruptDataError, match=POINTER):
            call()
    assert store.read_small("fogx.json") is None
    assert store.sizes("steps") == {}


def test_a_short_remote_file_is_damage(s3_server):
    store = Store(s3_server.make_bucket("lab"))
    _write(store)
    with pytest.raises(CorruptDataError, match="shorter"):
        store.read_ranges(POINTER, [(5, 11)])


def test_nobody_listens_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        options = {"endpoint_url": f"http://127.0.0.1:{taken.getsockname()[1]}", "key": "k", "secret": "s", **ONCE}
        with pytest.raises(StorageError, match=r"listing the root failed: .*Check the network, and endpoint_url"):
            Store("s3://lab", StorageOptions(options)).sizes("")


def test_no_credentials_at_all(s3_server, monkeypatch):
    s3_server.make_bucket("lab")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match=r"No credentials were found\. Give them in storage_options"):
        Store("s3://lab").read_small("fogx.json")


def test_removing_gives_up_at_the_first_refusal(s3_server):
    store = Store(s3_server.make_bucket("lab"), StorageOptions(ONCE))
    _write(store)
    s3_server.fail("deny", method="DELETE")
    store.remove([POINTER, *(new_pointer("frames") for _ in range(5))])
    assert s3_server.happened() == [1]
    s3_server.heal()
    store.remove([new_pointer("frames"), POINTER])
    assert s3_server.objects("lab") == {}
