"""A remote root behind `s3://`."""

import numpy as np
import pytest
import torch

import fogx as fox
from fogx.errors import DatasetNotFoundError

pytestmark = [pytest.mark.s3, pytest.mark.xdist_group("s3")]


def _record(dataset, **metadata):
    episode = dataset.new_episode(metadata)
    for i in range(4):
        episode.add("state", np.arange(3, dtype=np.float32) + i)
        episode.add("view", np.full((32, 32, 3), i, np.uint8))
    episode.close()
    return episode.episode_id


def test_a_bucket_holds_a_dataset(s3_server):
    root = s3_server.make_bucket("fox_storage") + "//"
    dataset = fox.Dataset(root)
    episode_id = _record(dataset, collector="ana")
    dataset.tag(dataset.get_episode_info(), good=True)
    again = fox.Dataset(root)
    assert again.path == "s3://fox_storage"
    info = again.get_episode_info()
    assert info["episode_id"].tolist() == [episode_id]
    assert info["good"].tolist() == [True]
    view = again.read_by(info)[0]
    assert view["state"].tolist() == [[i, i + 1, i + 2] for i in range(4)]
    assert view["view"].shape == (4, 32, 32, 3)
    steps = again.get_step_data(info, images="encoded").collect()
    assert steps["step_index"].to_list() == [0, 1, 2, 3]
    assert steps["view"].to_list() == view.encoded("view")
    assert again.delete(info) == 1
    assert len(fox.Dataset(root)) == 0


def test_a_bucket_is_checked_through_its_handle(s3_server):
    dataset = fox.Dataset(s3_server.make_bucket("checked"), storage_options={"config_kwargs": {"retries": {"max_attempts": 3}}})
    _record(dataset)
    assert dataset.check(deep=True).empty
    assert dataset.repair(dry_run=True).empty


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_from_a_bucket(s3_server, context):
    root = s3_server.make_bucket("lab") + "/a/b"
    dataset = fox.Dataset(root)
    _record(dataset)
    dataset.get_step_data().collect()
    loader = torch.utils.data.DataLoader(dataset.as_pytorch_dataset(), num_workers=2, multiprocessing_context=context)
    assert [int(batch["view"][0, 0, 0, 0]) for batch in loader] == [0, 1, 2, 3]


def test_local_and_remote_read_as_one(s3_server, tmp_path):
    remote = s3_server.make_bucket("lab")
    ids = [_record(fox.Dataset(remote))]
    both = fox.Dataset(tmp_path, load_from=[remote])
    ids = [_record(both), *ids]
    info = both.get_episode_info()
    assert info["episode_id"].tolist() == ids
    assert info["root"].tolist() == [str(tmp_path), remote]
    assert both.get_step_data().collect()["episode_id"].unique(maintain_order=True).to_list() == ids
    assert both.get_step_data(ids[::-1]).collect()["episode_id"].unique(maintain_order=True).to_list() == ids[::-1]


def test_a_bucket_without_a_dataset_is_named(s3_server, tmp_path):
    s3_server.make_bucket("empty")
    with pytest.raises(DatasetNotFoundError, match="s3://empty"):
        fox.Dataset(tmp_path, load_from=["s3://empty"])
