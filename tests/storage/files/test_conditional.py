import pytest

import fogx as fox
from fogx.errors import StorageError
from fogx.storage.files.conditional import require_conditional_put
from fogx.storage.files.store import Store
from tests.s3.client import REAL

pytestmark = [pytest.mark.s3, pytest.mark.xdist_group("s3")]


def test_an_endpoint_with_conditions_passes_and_keeps_nothing(s3_server):
    store = Store(s3_server.make_bucket("lab") + "/a")
    require_conditional_put(store)
    assert s3_server.objects("lab") == {}


@pytest.mark.skipif(bool(REAL), reason="the condition is signed: a real server refuses a request that lost it")
def test_an_endpoint_that_ignores_conditions_is_refused(s3_server):
    root = s3_server.make_bucket("lab") + "/a"
    s3_server.fail("ignore-conditions")
    dataset = fox.Dataset(root)
    episode = dataset.new_episode()
    episode.add("state", 1.0)
    with pytest.raises(StorageError, match=r"s3://lab/a: the endpoint ignores the condition If-None-Match.*Nothing was created"):
        episode.close()
    assert s3_server.objects("lab") == {}
    s3_server.heal()
    episode.close()
    assert len(fox.Dataset(root)) == 1


@pytest.mark.parametrize("kind", ["slow-down", "drop", "lose-reply"])
def test_the_answer_is_right_though_requests_fail(s3_server, kind):
    store = Store(s3_server.make_bucket("lab") + "/a")
    s3_server.fail(kind, method="PUT|DELETE", every=2)
    require_conditional_put(store)
    assert sum(s3_server.happened()) >= 1
    assert s3_server.objects("lab") == {}


def test_a_bucket_that_is_not_there_or_may_not_be_written_is_named(s3_server):
    with pytest.raises(StorageError, match=r"s3://nothing: writing probe-\w+ failed: .*The bucket is not there; create it first"):
        require_conditional_put(Store("s3://nothing"))
    s3_server.make_bucket("lab")
    s3_server.fail("deny", method="PUT")
    with pytest.raises(StorageError, match=r"s3://lab: writing probe-\w+ failed: .*may not do this"):
        require_conditional_put(Store("s3://lab"))


def test_local_folders_and_other_stores_are_not_asked(tmp_path):
    require_conditional_put(Store(tmp_path))
    require_conditional_put(Store("gs://nowhere"))
    assert list(tmp_path.iterdir()) == []
