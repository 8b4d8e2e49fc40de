"""What all tests share: where real data lies, how hard hypothesis searches, and a local stand-in for S3."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("ci", max_examples=50, derandomize=True, deadline=None)
settings.register_profile("long", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

HERE = Path(__file__).parent

_SERVE = """
import sys
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # ends when the tests end, however they end
server.stop()
"""


@dataclass(frozen=True)
class FakeS3:
    """A stand-in for S3 on this machine; the environment points to it while a test has it."""

    endpoint_url: str

    def make_bucket(self, name: str) -> str:
        """Create a bucket and return its URL."""
        self._send("PUT", f"/{name}")
        return f"s3://{name}"

    def reset(self) -> None:
        """Drop all buckets."""
        self._send("POST", "/moto-api/reset")

    def _send(self, method: str, path: str) -> None:
        with urllib.request.urlopen(urllib.request.Request(self.endpoint_url + path, method=method), timeout=30):
            pass


@pytest.fixture(scope="session")
def robot_data() -> Path:
    """Folder of real robot data, too large to ship."""
    given = os.environ.get("FOGX_TEST_DATA")
    if not given:
        pytest.skip("FOGX_TEST_DATA does not name a folder of real robot data")
    return Path(given)


@pytest.fixture(scope="session")
def shipped_data() -> Path:
    """Folder of the small files that come with the tests."""
    return HERE / "data"


@pytest.fixture(scope="session")
def bridge_dir() -> Path:
    """RLDS folder of 25 real Bridge episodes of 10 steps, which ships with the examples."""
    return HERE.parent / "examples" / "data" / "rlds" / "bridge_dataset" / "1.0.0"


@pytest.fixture(scope="session")
def fake_s3_process() -> Iterator[FakeS3]:
    """The one S3 server of this session; ask for `s3_server` instead. Tests share it with `xdist_group("s3")`."""
    with subprocess.Popen([sys.executable, "-c", _SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, "the S3 server did not start; is moto[server] installed?"
        yield FakeS3(f"http://127.0.0.1:{port}")
        # Leaving the block closes stdin, at which the server stops, and waits for that.


@pytest.fixture
def s3_server(fake_s3_process: FakeS3, monkeypatch: pytest.MonkeyPatch) -> FakeS3:
    """S3 without buckets, which `s3://` means as long as the test runs."""
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": fake_s3_process.endpoint_url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    fake_s3_process.reset()
    return fake_s3_process


@pytest.fixture(scope="session")
def strace() -> None:
    """Skip without strace; where tests run for everybody it must be there."""
    if sys.platform != "linux":
        pytest.skip("strace is Linux's")
    if shutil.which("strace") is None:
        message = "needs strace: apt-get install strace"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
