"""One `storage_options` reaches s3fs, delta-rs and polars, per root where wanted, and its secrets reach nothing else."""

import json
import logging
import os
import pickle
import traceback

import numpy as np
import pytest

import fogx as fox
from fogx.errors import StorageError
from tests.s3.client import REAL

pytestmark = [pytest.mark.s3, pytest.mark.xdist_group("s3")]
one_user = pytest.mark.skipif(bool(REAL), reason="the real server knows one user only")

LIBRARIES = {"aiobotocore": "s3fs", "object_store": "delta-rs", "polars": "polars"}
SECRETS = ("hush-secret", "hush-token")


@pytest.fixture
def bare(s3_server, monkeypatch):
    """The server, of which the environment says nothing but that it is on this machine."""
    for name in s3_server.environment:
        if name not in ("NO_PROXY", "AWS_EC2_METADATA_DISABLED", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.delenv(name)
    return s3_server


def _record(dataset):
    with dataset.new_episode({"collector": "ana"}) as episode:
        for i in range(3):
            episode.add("state", np.full(3, i, np.float32))
            episode.add("view", np.full((32, 32, 3), i, np.uint8))
    return episode.episode_id


def _use(root, options, *, write=True):
    """Write with s3fs and delta-rs, read with all three libraries."""
    if write:
        dataset = fox.Dataset(root, storage_options=options)
        _record(dataset)
        dataset.tag(None, good=True)
    dataset = fox.Dataset(load_from=root, storage_options=options, read_only=True)
    assert dataset.episodes[0]["view"].shape == (3, 32, 32, 3)
    assert dataset.get_step_data(images="encoded").collect()["state"].to_list() == [[i] * 3 for i in range(3)]


def _keys(server, bucket):
    """Return library → the access keys that it signed with; an empty one where it did not sign."""
    used = {}
    for request in server.requests():
        if request["target"].split("?")[0].split("/")[1] == bucket and request["agent"] in LIBRARIES:
            used.setdefault(LIBRARIES[request["agent"]], set()).add(request["key"])
    return used


def _profile_files(monkeypatch, folder, server):
    files = {
        "AWS_CONFIG_FILE": f"[profile lab]\nregion = us-east-1\nendpoint_url = {server.endpoint_url}\n",
        "AWS_SHARED_CREDENTIALS_FILE": "[lab]\naws_access_key_id = testing\naws_secret_access_key = testing\n",
    }
    for variable, text in files.items():
        (folder / variable).write_text(text)
        monkeypatch.setenv(variable, str(folder / variable))


@pytest.mark.parametrize("spelling", ["client_kwargs", "profile", "AWS_PROFILE"])
def test_three_libraries_use_the_same_credentials(bare, spelling, tmp_path, monkeypatch):
    root = bare.make_bucket("lab") + "/a"
    bare.heal()
    options = {}
    if spelling == "client_kwargs":
        client = {"endpoint_url": bare.endpoint_url, "aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        options = {"client_kwargs": client}
    else:
        _profile_files(monkeypatch, tmp_path, bare)
        if spelling == "AWS_PROFILE":
            monkeypatch.setenv("AWS_PROFILE", "lab")
        else:
            options = {"profile": "lab"}
    _use(root, options)
    assert _keys(bare, "lab") == {library: {"testing"} for library in LIBRARIES.values()}


def test_a_public_bucket_needs_no_credentials(bare):
    root = bare.make_bucket("lab") + "/a"
    _use(root, {"key": "testing", "secret": "testing", "endpoint_url": bare.endpoint_url})
    everyone = {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": ["arn:aws:s3:::lab", "arn:aws:s3:::lab/*"]}
    bare.client().put_bucket_policy(Bucket="lab", Policy=json.dumps({"Version": "2012-10-17", "Statement": [everyone]}))
    bare.heal()
    _use(root, {"anon": True, "endpoint_url": bare.endpoint_url}, write=False)
    assert _keys(bare, "lab") == {library: {""} for library in LIBRARIES.values()}


@one_user
def test_two_roots_have_options_of_their_own(bare, tmp_path):
    roots = [bare.make_bucket("ours") + "/a", bare.make_bucket("theirs")]
    options = {
        "s3://ours": {"key": "OURKEY", "secret": "hush-secret", "endpoint_url": bare.endpoint_url},
        "s3://theirs": {"key": "THEIRKEY", "secret": "hush-token", "endpoint_url": bare.endpoint_url},
    }
    ids = [_record(fox.Dataset(root, storage_options=options)) for root in roots]
    both = fox.Dataset(tmp_path, load_from=roots, storage_options=options)
    assert sorted(both.get_episode_info()["episode_id"]) == sorted(ids)
    assert [view["view"].shape for view in both] == [(3, 32, 32, 3)] * 2
    assert both.get_step_data().collect()["episode_id"].unique().sort().to_list() == sorted(ids)
    assert _keys(bare, "ours") == {library: {"OURKEY"} for library in LIBRARIES.values()}
    assert _keys(bare, "theirs") == {library: {"THEIRKEY"} for library in LIBRARIES.values()}


def test_no_options_and_no_environment_is_told(bare):
    with pytest.raises(StorageError, match=r"No credentials were found\. Give them in storage_options"):
        fox.Dataset("s3://lab", storage_options={"endpoint_url": bare.endpoint_url})


@one_user
def test_secrets_are_nowhere(bare, tmp_path, caplog, bridge_dir):
    fox.config(progress=False)
    caplog.set_level(logging.DEBUG, logger="fogx")
    root = bare.make_bucket("lab") + "/a"
    options = {
        "key": "visible",
        "secret": "hush-secret",
        "token": "hush-token",
        "endpoint_url": bare.endpoint_url,
        "config_kwargs": {"retries": {"total_max_attempts": 1}},
    }
    dataset = fox.Dataset(root, storage_options=options)
    _record(dataset)
    dataset.load_rtx_episodes(bridge_dir, split="train[:2]")
    dataset.tag(None, good=True)
    items = dataset.as_pytorch_dataset(features=["state"])
    shown = [repr(dataset), dataset._repr_html_(), repr(vars(dataset)), repr(items), repr(vars(items)), str(dataset.history())]
    shown += [repr(view) for view in dataset]
    view, waiting = dataset.episodes[0], dataset.new_episode()
    waiting.add("state", 1.0)
    for kind in ("deny", "internal-error", "drop"):
        bare.heal()
        bare.fail(kind)
        calls = (
            lambda: fox.Dataset(root, storage_options=options),
            lambda: dataset.tag(None, good=False),
            lambda: dataset.get_step_data(),
            lambda view=view: view["view"],
            waiting.close,
            dataset.refresh,
            lambda: fox.Dataset("s3://nothing", storage_options=options).new_episode(),
        )
        for call in calls:
            with pytest.raises(StorageError) as caught:
                call()
            shown.append("".join(traceback.format_exception(caught.value)))
    bare.heal()
    waiting.discard()
    shown += [str(record.__dict__) for record in caplog.records]
    written = bare.objects("lab")
    assert len(written) > 10
    for secret in SECRETS:
        assert not [text for text in shown if secret in text]
        assert not [key for key, data in written.items() if secret.encode() in data or secret in key]
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    # A worker cannot do without: a pickle of items carries what was given, and nothing of the environment.
    assert b"hush-secret" in pickle.dumps(items)


def test_nothing_turns_conditions_off():
    package = os.path.dirname(fox.__file__)
    sources = [os.path.join(folder, name) for folder, _, names in os.walk(package) for name in names if name.endswith(".py")]
    assert len(sources) > 50
    for path in sources:
        with open(path, encoding="utf-8") as file:
            assert "ALLOW_UNSAFE_RENAME" not in file.read().upper(), path
