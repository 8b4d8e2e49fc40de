"""Importing fogx stays light; what a name needs is loaded when the name is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "deltalake",
    "fsspec",
    "matplotlib",
    "numpy",
    "pandas",
    "PIL",
    "polars",
    "pyarrow",
    "tensorflow",
    "tensorflow_datasets",
    "torch",
}


def loaded_by(code: str) -> set[str]:
    """Return which heavy packages a fresh Python has loaded after running some code."""
    shown = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return HEAVY & set(shown.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import fogx",
        "import fogx; dir(fogx), fogx.__version__",
        "import fogx; fogx.config(); fogx.FogxError",
        "from fogx import registry; [registry.names(kind) for kind in registry.BUILTIN]",
    ],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert loaded_by(code) == set()


def test_a_feature_needs_only_numpy() -> None:
    assert loaded_by("import fogx; fogx.Feature('float32', (7,))") == {"numpy"}


def test_opening_the_facade_loads_no_framework() -> None:
    assert loaded_by("import fogx; fogx.Dataset") & {"matplotlib", "tensorflow", "tensorflow_datasets", "torch"} == set()
