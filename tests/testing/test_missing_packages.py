"""The suites say what to install; nothing else of fogx needs them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fogx.testing import __name__ as package


@pytest.mark.parametrize(("missing", "module"), [("pytest", package), ("hypothesis", f"{package}.codecs")])
def test_a_missing_package_is_named(missing: str, module: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None\ntry:\n import {module}\nexcept ImportError as e: print(type(e).__name__, e)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.startswith(f"MissingExtraError {module} needs the package {missing!r}. Install it with: pip install 'fogx[dev]'")
