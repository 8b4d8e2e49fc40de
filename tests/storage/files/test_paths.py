import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogx.errors import CorruptDataError, NotADatasetError
from fogx.storage.files import paths


def test_local_spellings_are_one_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    wanted = str(tmp_path / "lab" / "a")
    for spelling in ("lab/a", "./lab/a/", "~/lab/a", "~/lab//a//", f"file://{wanted}", tmp_path / "lab" / "a", "lab/../lab/a"):
        assert paths.canonical_root(spelling) == wanted
    assert os.listdir(tmp_path) == []


def test_urls_lose_extra_slashes():
    assert paths.canonical_root("s3://bucket//a///b/") == "s3://bucket/a/b"
    assert paths.canonical_root("S3://fox_storage/") == "s3://fox_storage"


@pytest.mark.parametrize("bad", ["", "  ", "s3://", "s3:///"])
def test_no_place_is_an_error(bad):
    with pytest.raises(NotADatasetError):
        paths.canonical_root(bad)


def test_a_file_is_not_a_root(tmp_path):
    (tmp_path / "x").write_text("hello")
    with pytest.raises(NotADatasetError, match="is a file"):
        paths.canonical_root(tmp_path / "x")


@given(st.text(max_size=100))
def test_partition_folders_are_one_harmless_level(value):
    folder = paths.partition_folder("dataset", value)
    assert re.fullmatch(r"dataset=[A-Za-z0-9._%-]{1,64}", folder)
    pointer = paths.new_pointer("steps", folder)
    assert paths.check_pointer("/root", pointer) == f"/root/{pointer}"


@pytest.mark.parametrize(
    "pointer",
    [
        "../steps/" + "0" * 32 + ".parquet",
        "steps/../../" + "0" * 32 + ".parquet",
        "/etc/passwd",
        "steps/" + "0" * 32 + ".parquet\n",
        "steps/dataset=a/b/" + "0" * 32 + ".parquet",
        "episodes/" + "0" * 32 + ".parquet",
        "steps/" + "0" * 31 + ".parquet",
        "",
    ],
)
def test_pointers_of_another_form_are_refused(pointer):
    with pytest.raises(CorruptDataError):
        paths.check_pointer("/root", pointer)


def test_a_link_that_leaves_the_root_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "root"
    root.mkdir()
    (root / "steps").symlink_to(outside)
    with pytest.raises(CorruptDataError, match="leaves the dataset"):
        paths.check_pointer(str(root), paths.new_pointer("steps"))
