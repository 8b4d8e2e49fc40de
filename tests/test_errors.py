from __future__ import annotations

import inspect
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogx import errors
from fogx.errors import EpisodeNotFoundError, FogxError, MissingExtraError, did_you_mean, listing, missing_extra

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, FogxError) and c is not FogxError]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_is_also_a_built_in_one(error: type[FogxError]) -> None:
    built_in = [c for c in error.__mro__ if c.__module__ == "builtins" and c not in (Exception, BaseException, object)]
    assert built_in
    with pytest.raises(built_in[0], match="what happened"):
        raise error("what happened")


@pytest.mark.parametrize("error", CLASSES)
def test_an_error_of_a_worker_process_keeps_class_and_message(error: type[FogxError]) -> None:
    back = pickle.loads(pickle.dumps(error("what happened")))
    assert type(back) is error
    assert str(back) == "what happened"


def test_a_key_error_shows_its_message_without_quotes() -> None:
    assert str(EpisodeNotFoundError("no episode 'a'")) == "no episode 'a'"


def test_an_error_without_message_is_empty() -> None:
    assert str(FogxError()) == ""


@pytest.mark.parametrize(
    ("typed", "hint"), [("rld", " Did you mean 'rlds'?"), ("RLDS", " Did you mean 'rlds'?"), ("zzz", ""), ("", "")]
)
def test_did_you_mean(typed: str, hint: str) -> None:
    assert did_you_mean(typed, ["lerobot", "rlds"]) == hint


@given(st.text(max_size=10), st.lists(st.text(max_size=10), max_size=5))
def test_what_is_suggested_exists(typed: str, known: list[str]) -> None:
    assert did_you_mean(typed, known) in ["", *(f" Did you mean {name!r}?" for name in known)]


def test_listing() -> None:
    assert listing([]) == "none"
    assert listing(["a", 2]) == "a, 2"
    assert listing(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"
    assert listing(range(5), most=3) == "0, 1, 2, … (2 more)"


def test_a_missing_extra_says_how_to_install_it() -> None:
    error = missing_extra("torch", "torch", "as_pytorch_dataset")
    assert isinstance(error, MissingExtraError)
    assert isinstance(error, ImportError)
    assert str(error) == "as_pytorch_dataset needs the package 'torch'. Install it with: pip install 'fogx[torch]'"
