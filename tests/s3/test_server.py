"""The S3 server of the tests keeps what S3 promises, and fails as it is told to: else the other tests would prove nothing."""

import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import botocore.exceptions
import pytest

from tests.s3.client import REAL

pytestmark = [pytest.mark.s3, pytest.mark.xdist_group("s3")]

plain_puts_only = pytest.mark.skipif(bool(REAL), reason="Ceph 16 knows If-None-Match of a plain PUT only, all that fogx needs")

WRITERS = 16


def test_tests_of_one_group_run_in_one_process(request):
    """Else each process would start a server: with some versions of pytest, groups of pytest-xdist have no effect."""
    if request.config.getoption("loadgroup", False):
        assert request.node.nodeid.endswith("@s3")


def _code(call):
    """Return the HTTP status of a call through boto3, or `None` where no answer came."""
    try:
        return call()["ResponseMetadata"]["HTTPStatusCode"]
    except botocore.exceptions.ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"]
    except botocore.exceptions.HTTPClientError:
        return None


def _at_once(call):
    """Return what `call(number)` gave in threads that all begin together."""
    barrier = threading.Barrier(WRITERS)

    def run(number):
        barrier.wait()
        return call(number)

    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(run, range(WRITERS)))


def test_one_of_many_creates_a_key(s3_server):
    s3_server.make_bucket("lab")
    client = s3_server.client()
    for key in map(str, range(10)):
        # Large enough that a server that looks first and writes later is caught between the two.
        bodies = [b"%02d" % number * 50_000 for number in range(WRITERS)]
        put = functools.partial(client.put_object, Bucket="lab", Key=key, IfNoneMatch="*")
        codes = _at_once(lambda number, put=put, bodies=bodies: _code(lambda: put(Body=bodies[number])))
        assert sorted(codes) == [200] + [412] * (WRITERS - 1)
        assert client.get_object(Bucket="lab", Key=key)["Body"].read() == bodies[codes.index(200)]


@plain_puts_only
def test_one_of_many_replaces_a_key(s3_server):
    s3_server.make_bucket("lab")
    client = s3_server.client()
    for key in map(str, range(5)):
        tag = client.put_object(Bucket="lab", Key=key, Body=b"old")["ETag"]
        codes = _at_once(lambda n, k=key, t=tag: _code(lambda: client.put_object(Bucket="lab", Key=k, Body=b"%d" % n, IfMatch=t)))
        assert sorted(codes) == [200] + [412] * (WRITERS - 1)


@plain_puts_only
def test_one_of_many_completes_an_upload_of_parts(s3_server):
    s3_server.make_bucket("lab")
    client = s3_server.client()

    def upload(number):
        upload_id = client.create_multipart_upload(Bucket="lab", Key="k")["UploadId"]
        tag = client.upload_part(Bucket="lab", Key="k", UploadId=upload_id, PartNumber=1, Body=b"%d" % number)["ETag"]
        return {"UploadId": upload_id, "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": tag}]}}

    uploads = [upload(number) for number in range(WRITERS)]
    codes = _at_once(
        lambda n: _code(lambda: client.complete_multipart_upload(Bucket="lab", Key="k", IfNoneMatch="*", **uploads[n]))
    )
    assert sorted(codes) == [200] + [412] * (WRITERS - 1)


@pytest.mark.parametrize(
    ("kind", "code", "done"),
    [
        ("slow-down", 503, False),
        ("internal-error", 500, False),
        ("deny", 403, False),
        ("drop", None, False),
        ("lose-reply", None, True),
        ("slow", 200, True),
    ],
)
def test_faults_are_what_they_say(s3_server, kind, code, done):
    s3_server.make_bucket("lab")
    client = s3_server.client()
    s3_server.fail(kind, method="PUT", target="/lab/k 1", times=1, seconds=0.01)
    assert _code(lambda: client.put_object(Bucket="lab", Key="other", Body=b"x")) == 200
    assert _code(lambda: client.put_object(Bucket="lab", Key="k 1", Body=b"x")) == code
    assert s3_server.objects("lab") == {"other": b"x", **({"k 1": b"x"} if done else {})}
    assert s3_server.happened() == [1]
    assert _code(lambda: client.put_object(Bucket="lab", Key="k 1", Body=b"x")) == 200


@pytest.mark.skipif(bool(REAL), reason="the condition is signed: a real server refuses a request that lost it")
def test_conditions_can_be_ignored(s3_server):
    s3_server.make_bucket("lab")
    s3_server.fail("ignore-conditions")
    assert [_code(lambda: s3_server.client().put_object(Bucket="lab", Key="k", Body=b"x", IfNoneMatch="*")) for _ in "ab"] == [
        200
    ] * 2


def test_slow_requests_share_one_wire(s3_server):
    s3_server.make_bucket("lab")
    client = s3_server.client()
    s3_server.fail("slow", bytes_per_s=1e6)
    began = time.monotonic()
    assert set(_at_once(lambda n: _code(lambda: client.put_object(Bucket="lab", Key=f"{n}", Body=bytes(10_000))))) == {200}
    assert time.monotonic() - began >= WRITERS * 0.01
    began = time.monotonic()
    assert client.get_object(Bucket="lab", Key="0")["Body"].read() == bytes(10_000)
    assert time.monotonic() - began >= 0.01


def test_faults_strike_some_requests_only(s3_server):
    s3_server.make_bucket("lab")
    client = s3_server.client()
    s3_server.fail("slow-down", target="/lab/a", every=3)
    assert [_code(lambda: client.put_object(Bucket="lab", Key="a", Body=b"")) for _ in range(7)] == [
        200,
        200,
        503,
        200,
        200,
        503,
        200,
    ]
    s3_server.heal()
    s3_server.fail("slow-down", target="/lab/a", share=0.3, seed=1)
    first = [_code(lambda: client.put_object(Bucket="lab", Key="a", Body=b"")) for _ in range(30)]
    assert 3 <= first.count(503) <= 15
    s3_server.heal()
    s3_server.fail("slow-down", target="/lab/a", share=0.3, seed=1)
    assert [_code(lambda: client.put_object(Bucket="lab", Key="a", Body=b"")) for _ in range(30)] == first
