"""What all tests share: where real data lies, how hard hypothesis searches, and S3 on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.s3.client import S3Server, serving

settings.register_profile("ci", max_examples=50, derandomize=True, deadline=None)
settings.register_profile("long", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

HERE = Path(__file__).parent


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
