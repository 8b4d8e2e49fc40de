"""The public names, locked: one more or one less is a decision, not an accident."""

from __future__ import annotations

import ast
import inspect
from importlib.metadata import version

import pytest

import fogx


def test_the_public_names() -> None:
    assert fogx.__all__ == [
        "Align",
        "Dataset",
        "Feature",
        "FogxError",
        "Normalizer",
        "Online",
        "__version__",
        "check",
        "clear_cache",
        "config",
        "exact",
        "hold",
        "linear",
        "mix",
        "nearest",
        "next",
        "repair",
        "seconds",
        "slerp",
        "steps",
    ]
    assert dir(fogx) == sorted(fogx.__all__)


@pytest.mark.parametrize("name", fogx.__all__)
def test_each_name_is_there(name: str) -> None:
    value = getattr(fogx, name)
    assert name == "__version__" or value.__name__ == name


def test_type_checkers_see_what_users_get() -> None:
    tree = ast.parse(inspect.getsource(fogx))
    told = [n for node in tree.body if isinstance(node, ast.If) for n in node.body if isinstance(n, ast.ImportFrom)]
    assert {alias.asname: node.module for node in told for alias in node.names} == fogx._WHERE
    assert {*fogx._WHERE, "__version__"} == set(fogx.__all__)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'fogx' has no attribute 'Datset'"):
        _ = fogx.Datset


def test_the_version_is_the_installed_one() -> None:
    assert version("fogx") == fogx.__version__
