"""One dict of options, said in the words of each library."""

import pickle

import pytest

from fogx.errors import StorageError, UnknownNameError
from fogx.storage.files.options import StorageOptions
from fogx.storage.files.store import Store

CONFIG = """
[profile lab]
region = eu-north-1
endpoint_url = http://127.0.0.1:9
[profile office]
"""
CREDENTIALS = """
[lab]
aws_access_key_id = LABKEY
aws_secret_access_key = lab-hush
[office]
aws_access_key_id = OFFICEKEY
aws_secret_access_key = office-hush
"""


@pytest.fixture(autouse=True)
def aws_files(tmp_path, monkeypatch):
    """Config files of two profiles, and no AWS variables."""
    import os

    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for variable, text in {"AWS_CONFIG_FILE": CONFIG, "AWS_SHARED_CREDENTIALS_FILE": CREDENTIALS}.items():
        (tmp_path / variable).write_text(text)
        monkeypatch.setenv(variable, str(tmp_path / variable))


def _of(options, root="s3://lab/a"):
    return StorageOptions(options).of(root)


@pytest.mark.parametrize(
    "given",
    [
        {"key": "k", "secret": "s", "token": "t", "endpoint_url": "http://127.0.0.1:9", "region_name": "r"},
        {"key": "k", "secret": "s", "token": "t", "client_kwargs": {"endpoint_url": "http://127.0.0.1:9", "region_name": "r"}},
        {
            "endpoint_url": "http://127.0.0.1:9",
            "client_kwargs": {
                "aws_access_key_id": "k",
                "aws_secret_access_key": "s",
                "aws_session_token": "t",
                "region_name": "r",
            },
        },
    ],
)
def test_every_spelling_reaches_delta_and_polars(given):
    options = _of(given)
    wanted = {
        "aws_access_key_id": "k",
        "aws_secret_access_key": "s",
        "aws_session_token": "t",
        "aws_endpoint_url": "http://127.0.0.1:9",
        "aws_region": "r",
        "aws_allow_http": "true",
        "aws_conditional_put": "etag",
    }
    assert options.for_object_store() == {**wanted, "max_retries": "8", "retry_timeout": "60s"}
    assert options.for_polars() == {**wanted, "max_retries": 8, "retry_timeout_ms": 60_000}
    # s3fs takes no region but in client_kwargs.
    assert options.for_fsspec()["client_kwargs"]["region_name"] == "r"
    assert "region_name" not in options.for_fsspec()


def test_plain_http_is_allowed_where_it_is_named_only():
    assert "aws_allow_http" not in _of({"endpoint_url": "https://x"}).for_object_store()
    assert "aws_endpoint_url" not in _of({"key": "k", "secret": "s"}).for_object_store()


def test_anonymous_means_unsigned():
    translated = _of({"anon": True}).for_object_store()
    assert translated["aws_skip_signature"] == "true"
    assert "aws_access_key_id" not in translated


def test_a_profile_is_resolved_for_libraries_that_know_none(monkeypatch):
    for options in (_of({"profile": "lab"}), None):
        if options is None:
            monkeypatch.setenv("AWS_PROFILE", "lab")
            options = _of({})
        translated = options.for_object_store()
        assert translated["aws_access_key_id"] == "LABKEY"
        assert translated["aws_secret_access_key"] == "lab-hush"
        assert translated["aws_region"] == "eu-north-1"
        assert translated["aws_endpoint_url"] == "http://127.0.0.1:9"
        assert b"hush" not in pickle.dumps(options)


def test_what_is_given_goes_before_the_profile():
    translated = _of({"profile": "lab", "region_name": "here", "endpoint_url": "https://x"}).for_object_store()
    assert (translated["aws_region"], translated["aws_endpoint_url"]) == ("here", "https://x")
    assert "aws_allow_http" not in translated


def test_a_profile_that_is_not_there_names_those_that_are():
    for ask in (StorageOptions.for_fsspec, StorageOptions.for_object_store, StorageOptions.for_polars):
        with pytest.raises(UnknownNameError, match=r"'labb'.*lab, office.*Did you mean 'lab'"):
            ask(_of({"profile": "labb"}))


def test_a_token_of_other_credentials_is_not_sent_along(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "envkey")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "envsecret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "envtoken")
    assert _of({}).for_object_store()["aws_session_token"] == "envtoken"
    assert _of({"key": "envkey", "secret": "envsecret"}).for_object_store()["aws_session_token"] == "envtoken"
    assert _of({"key": "k", "secret": "s", "token": "t"}).for_object_store()["aws_session_token"] == "t"
    with pytest.raises(StorageError, match="Unset AWS_SESSION_TOKEN"):
        _of({"key": "k", "secret": "s"}).for_object_store()


def test_the_longest_url_counts():
    options = StorageOptions({"s3://a": {"key": "1", "secret": "s"}, "s3://a/b/": {"key": "2", "secret": "s"}})
    keys = {
        root: options.of(root).for_fsspec().get("key") for root in ("s3://a", "s3://a/b", "s3://a/b/c", "s3://a/bc", "s3://c")
    }
    assert keys == {"s3://a": "1", "s3://a/b": "2", "s3://a/b/c": "2", "s3://a/bc": "1", "s3://c": None}
    narrowed = options.of("s3://a/b")
    assert narrowed.of("s3://a/b").for_fsspec() == narrowed.for_fsspec()


def test_one_dict_is_for_all_remote_roots_and_no_local_one():
    options = StorageOptions({"key": "k", "secret": "s"})
    assert options.of("s3://x").for_fsspec()["key"] == "k"
    local = options.of("/data")
    assert (local.for_fsspec(), local.for_object_store(), local.for_polars()) == ({}, {}, {})


def test_options_of_other_stores_pass_as_they_are():
    assert _of({"project": "p"}, "gs://b").for_fsspec() == {"project": "p"}


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"s3://a": {}, "key": "k"}, StorageError, "these mix the two"),
        ({"s3://a": "k"}, StorageError, "these mix the two"),
        ({"key": "k"}, StorageError, "both, or neither"),
        ({"AWS_S3_ALLOW_UNSAFE_RENAME": "true"}, StorageError, "overwrite each other's commits. Leave it out"),
        ({"client_kwargs": {"allow_unsafe_rename": True}}, StorageError, "overwrite each other's commits. Leave it out"),
        ({"s3://lab": {"aws_s3_allow_unsafe_rename": "1"}}, StorageError, "overwrite each other's commits. Leave it out"),
        ({"secrets": "s"}, UnknownNameError, "1 options in storage_options are not known: secrets. Did you mean 'secret'"),
        ({"client_kwargs": {"region": "r"}}, UnknownNameError, "in client_kwargs are not known: region. Did you mean"),
    ],
)
def test_options_that_cannot_be_kept_are_refused(given, error, said):
    with pytest.raises(error, match=said):
        _of(given)


def test_retries_are_bounded_and_can_be_chosen():
    assert _of({}).for_fsspec()["config_kwargs"] == {"retries": {"mode": "standard", "max_attempts": 5}}
    for retries in ({"max_attempts": 2}, {"total_max_attempts": 3}):
        options = _of({"config_kwargs": {"retries": retries, "read_timeout": 3}})
        assert options.for_fsspec()["config_kwargs"] == {"retries": {"mode": "standard", **retries}, "read_timeout": 3}
        assert (options.for_object_store()["max_retries"], options.for_polars()["max_retries"]) == ("2", 2)


def test_secrets_show_nowhere():
    options = StorageOptions({"key": "AKIA", "secret": "hush", "endpoint_url": "http://127.0.0.1:1"})
    assert "hush" not in repr(options)
    assert "AKIA" not in repr(options)
    assert "hush" not in repr(Store("s3://b", options))
    assert options.of("s3://b").hide("AKIA said hush, hush") == "… said …, …"
