"""Datasets to do the jobs on, and a process that makes children."""

import pytest

from tests.crash.child import Forge
from tests.crash.jobs import Reference


@pytest.fixture(scope="session")
def forge():
    with Forge() as forge:
        yield forge


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """Make, or find, the reference run of a job."""
    made = {}

    def of(job):
        if job not in made:
            made[job] = Reference(job, tmp_path_factory.mktemp(job))
        return made[job]

    return of
