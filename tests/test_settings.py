from __future__ import annotations

import dataclasses

import pytest

import fogx as fox
from fogx import settings
from fogx.settings import Config, ConfigError


@pytest.fixture(autouse=True)
def _defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_current", Config())


def test_a_call_without_arguments_shows_the_defaults() -> None:
    assert fox.config() == Config(
        image="jpeg",
        jpeg_quality=95,
        memory_mb=512,
        max_pixels=64_000_000,
        progress=True,
        cache_mb=20_000,
        cache_dir=None,
    )


def test_a_change_stays_and_leaves_the_rest() -> None:
    assert fox.config(image="png", memory_mb=1).image == "png"
    assert fox.config() == Config(image="png", memory_mb=1)


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("image", "webp", "'jpeg' or 'png'"),
        ("jpeg_quality", 0, "1 to 100"),
        ("jpeg_quality", 101, "1 to 100"),
        ("jpeg_quality", True, "1 to 100"),
        ("jpeg_quality", 95.0, "1 to 100"),
        ("memory_mb", 0, "a whole number from 1"),
        ("memory_mb", "512", "a whole number from 1"),
        ("max_pixels", -1, "a whole number from 1"),
        ("progress", 1, "True or False"),
        ("cache_mb", 0, "a whole number from 1"),
        ("cache_dir", "", "a folder, or None"),
        ("cache_dir", 7, "a folder, or None"),
    ],
)
def test_a_value_out_of_bounds_is_refused_and_changes_nothing(option: str, value: object, allowed: str) -> None:
    other = {"memory_mb": 7} if option != "memory_mb" else {"image": "png"}
    with pytest.raises(ConfigError) as caught:
        fox.config(**other, **{option: value})
    assert str(caught.value) == f"fox.config({option}={value!r}): allowed is {allowed}."
    assert fox.config() == Config()


@pytest.mark.parametrize("quality", [1, 100])
def test_bounds_are_included(quality: int) -> None:
    assert fox.config(jpeg_quality=quality).jpeg_quality == quality


def test_an_unknown_option_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no option 'memory'; there are: image, .*cache_dir\. Did you mean 'memory_mb'\?"):
        fox.config(memory=1)


def test_what_was_given_out_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        fox.config().image = "png"  # type: ignore[misc]
