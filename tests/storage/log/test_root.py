import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from fogx.storage.files.store import Store
from fogx.storage.log import root as roots


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
