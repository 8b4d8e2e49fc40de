"""What all tests share: where real data lies, how hard hypothesis searches, and S3 on this machine."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.s3.client import S3Server, serving

settings.register_profile("ci", max_examples=50, derandomize=True, deadline=None)
settings.register_profile("long", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

HERE = Path(__file__).parent


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what training caches away from the user's folder, also in processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


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
def s3_process() -> Iterator[S3Server]:
    """The one S3 server of this session; ask for `s3_server` instead. Tests share it with `xdist_group("s3")`."""
    with serving() as server:
        yield server


@pytest.fixture
def s3_server(s3_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """S3 without buckets and faults, which `s3://` means as long as the test runs."""
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_process.environment.items():
        monkeypatch.setenv(name, value)
    s3_process.reset()
    return s3_process


@pytest.fixture(scope="session")
def strace() -> None:
    """Skip without strace; where tests run for everybody it must be there."""
    if sys.platform != "linux":
        pytest.skip("strace is Linux's")
    if shutil.which("strace") is None:
        message = "needs strace: apt-get install strace"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
