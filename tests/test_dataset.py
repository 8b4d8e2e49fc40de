"""Every public call on one root that holds Bridge, the RT-X stub and a recorded one-feature episode together."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from PIL import Image

import fogx as fox
from fogx.errors import (
    CorruptDataError,
    DatasetNotFoundError,
    EpisodeClosedError,
    EpisodeNotFoundError,
    ExistsError,
    FeatureError,
    FeatureNotFoundError,
    FormatVersionError,
    ImportConflictError,
    MetadataError,
    NotADatasetError,
    ReadOnlyError,
    SchemaMismatchError,
    SegmentError,
    SelectionError,
    UnknownNameError,
    UnknownPluginError,
)


@pytest.fixture(autouse=True)
def _quiet():
    fox.config(progress=False)
    yield
    fox.config(progress=True)


@pytest.fixture(scope="session")
def mixed_root(tmp_path_factory, bridge_dir, shipped_data):
    """A folder with 25 Bridge episodes, the stub and a recording; tests that write take a copy."""
    folder = tmp_path_factory.mktemp("mixed")
    fox.config(progress=False)
    dataset = fox.Dataset(folder / "root")
    dataset.load_rtx_episodes(bridge_dir, additional_metadata={"collector": "User 2"})
    with pytest.warns(UserWarning, match="episode_id"):  # a number in Bridge, text in the stub
        dataset.load_rtx_episodes(shipped_data / "rlds" / "bridge" / "1.0.0")
    image = folder / "image1.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(image)
    with dataset.new_episode() as episode:
        episode.add(feature="arm_view", value=str(image))
    return folder / "root"


@pytest.fixture
def mixed(mixed_root, tmp_path):
    shutil.copytree(mixed_root, tmp_path / "root")
    return fox.Dataset(tmp_path / "root")


def _of(dataset, name):
    info = dataset.get_episode_info()
    return info.filter(info["dataset"] == name)


def test_counts_and_reprs(mixed, mixed_root):
    assert len(mixed) == 27
    assert [view.num_steps for view in mixed] == [10] * 25 + [3, 1]
    assert "27 episodes, 254 steps" in repr(mixed)
    assert mixed.path in repr(mixed)
    page = mixed._repr_html_()
    for text in ("bridge_dataset", "254", "27"):
        assert text in page


def test_the_table(mixed):
    info = mixed.get_episode_info()
    assert info["num_steps"].sum() == 254
    assert info["split"].fillna("-").tolist() == ["train"] * 26 + ["-"]
    assert info["start_ns"].isna().tolist() == [True] * 26 + [False]
    assert str(info["episode_metadata/has_image_0"].dtype) == "boolean"
    kept = info.filter(info["collector"] == "User 2")
    assert len(kept) == 25


def test_steps_of_everything(mixed):
    steps = mixed.get_step_data()
    assert steps.select(pl.len()).collect().item() == 254
    counts = steps.group_by("episode_id", maintain_order=True).agg(pl.len()).collect()
    assert counts["len"].to_list() == [10] * 25 + [3, 1]
    assert counts["episode_id"].to_list() == mixed.get_episode_info()["episode_id"].tolist()
    everything = steps.collect()
    assert everything["observation/state"].dtype == pl.Array(pl.Float32, 7)
    assert everything["arm_view"].drop_nulls().to_list() == [0]
    encoded = mixed.get_step_data(images="encoded").select("observation/image_0", "arm_view").collect()
    assert encoded["observation/image_0"].null_count() == 4
    pixels = mixed.get_step_data(_of(mixed, "bridge"), images="pixels").select("observation/image").collect()
    assert pixels["observation/image"].dtype == pl.Array(pl.UInt8, (480, 640, 3))


def test_views(mixed):
    bridge, stub, recorded = (mixed.read_by(_of(mixed, name))[0] for name in ("bridge_dataset", "bridge", "root"))
    assert bridge["observation/image_0"].shape == (10, 64, 64, 3)
    assert bridge["action"].dtype == np.float32
    assert bridge.metadata["collector"] == "User 2"
    assert isinstance(bridge["language_instruction"][0], str)
    assert stub["action/world_vector"].shape == (3, 3)
    assert stub["action/open_gripper"].dtype == bool
    assert recorded["arm_view"].shape == (1, 48, 64, 3)
    for view in mixed:
        assert repr(view)
        assert view._repr_html_()
        for name in view.features:
            assert len(view[name]) == view.num_steps


def test_edit_tag_delete_history_at(mixed):
    before = mixed.version
    info = mixed.get_episode_info()
    assert mixed.tag(info.tail(2), reviewed=True, control_hz=5) == 2
    info = mixed.get_episode_info()
    assert info["reviewed"].fillna(False).tolist() == [False] * 25 + [True] * 2
    assert info["control_hz"].fillna(0).tolist() == [0] * 25 + [5] * 2
    info["success"] = [True] * 27
    info["episode_metadata/episode_id"] = [str(n) for n in range(27)]
    with pytest.warns(UserWarning, match="episode_id"):
        assert mixed.update_episode_info(info) == 27
    assert mixed.get_episode_info()["episode_metadata/episode_id"].tolist() == [str(n) for n in range(27)]
    assert mixed.delete(_of(mixed, "bridge")) == 1
    assert len(mixed) == len(fox.Dataset(mixed.path)) == 26
    assert mixed.get_step_data().select(pl.len()).collect().item() == 251
    history = mixed.history()
    assert history["operation"].tolist()[0] == "delete"
    assert history["version"].tolist() == list(range(mixed.version, -1, -1))
    old = mixed.at(before)
    assert len(old) == 27
    assert "reviewed" not in old.get_episode_info().columns
    assert old.get_step_data().select(pl.len()).collect().item() == 254
    with pytest.raises(ReadOnlyError):
        old.new_episode()
    with pytest.raises(ReadOnlyError):
        old.tag(info.head(1), a=1)
    for bad in (mixed.version + 1, -1, "1", True):
        with pytest.raises(UnknownNameError, match="versions 0 to"):
            mixed.at(bad)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_on_bridge(mixed, workers):
    selection = _of(mixed, "bridge_dataset")
    loader = torch.utils.data.DataLoader(mixed.as_pytorch_dataset(selection), batch_size=50, num_workers=workers)
    batches = list(loader)
    assert [batch["action"].shape for batch in batches] == [(50, 7)] * 5
    assert batches[0]["observation/image_3"].shape == (50, 3, 64, 64)
    assert batches[0]["observation/image_3"].dtype == torch.uint8
    views = mixed.read_by(selection)
    actions = np.concatenate([view["action"] for view in views])
    assert np.array_equal(torch.cat([batch["action"] for batch in batches]).numpy(), actions)
    images = np.concatenate([view["observation/image_1"] for view in views])
    assert np.array_equal(torch.cat([b["observation/image_1"] for b in batches]).numpy(), images.transpose(0, 3, 1, 2))
    assert batches[0]["language_instruction"][0] == views[0]["language_instruction"][0]


def test_training_on_everything(mixed, caplog):
    everything = mixed.as_pytorch_dataset()
    assert len(everything) == 254
    assert "left out" in caplog.text
    named = mixed.as_pytorch_dataset(features=["observation/state", "reward", "arm_view"])
    assert named[0]["arm_view_is_valid"].item() is False
    assert named[0]["arm_view"].shape == (3, 48, 64)
    assert named[253]["arm_view_is_valid"].item() is True
    assert named[253]["observation/state"].tolist() == [0] * 7
    assert named[253]["observation/state_is_valid"].item() is False
    assert sum(len(b["reward"]) for b in torch.utils.data.DataLoader(named, batch_size=9)) == 254
    episodes = mixed.as_pytorch_dataset(features=["observation/state"], level="episode")
    assert [len(item["observation/state"]) for item in episodes] == [10] * 25 + [3, 1]
    with pytest.raises(IndexError):
        named[254]
    assert named[-1]["episode_id"] == named[253]["episode_id"]
    with pytest.raises(FeatureNotFoundError, match="Did you mean 'reward'"):
        mixed.as_pytorch_dataset(features=["rewrad"])
    with pytest.raises(SelectionError, match="Did you mean 'episode'"):
        mixed.as_pytorch_dataset(level="episodes")


WORKERS = """
    import sys
    import torch
    import fogx as fox

    class Checked(torch.utils.data.Dataset):
        def __init__(self, inner): self.inner = inner
        def __len__(self): return len(self.inner)
        def __getitem__(self, item):
            value = self.inner[item]
            if {context!r} != "fork":
                loaded = {{"polars", "pandas", "deltalake"}} & set(sys.modules)
                assert not loaded, loaded
            return value

    if __name__ == "__main__":
        import polars as pl
        dataset = fox.Dataset({root!r})
        info = dataset.get_episode_info()
        dataset.get_step_data().select(pl.col("reward").sum()).collect()
        selection = info.filter(info["dataset"] == "bridge_dataset")
        loader = torch.utils.data.DataLoader(
            Checked(dataset.as_pytorch_dataset(selection)), batch_size=25, num_workers=2, multiprocessing_context={context!r}
        )
        for epoch in range(2):
            print(sum(len(batch["observation/image_0"]) for batch in loader))
"""


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
def test_workers_after_the_parent_used_polars(mixed, tmp_path, context):
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(WORKERS).format(context=context, root=mixed.path))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["250", "250"]


def test_exports(mixed, tmp_path):
    bridge = _of(mixed, "bridge_dataset")
    chosen = bridge.iloc[[3, 1]]
    folder = mixed.export(chosen, "rlds", tmp_path / "share")
    assert folder == str(tmp_path / "share" / "bridge_dataset" / "1.0.0")
    back = fox.Dataset(tmp_path / "back")
    back.load_rtx_episodes(folder)
    for was, now in zip(mixed.read_by(chosen), back.episodes, strict=True):
        assert set(was.features) == set(now.features)
        for name in was.features:
            assert was.schema[name].describe() == now.schema[name].describe()
            same = was.encoded(name) == now.encoded(name) if was.schema[name].in_frames else np.array_equal(was[name], now[name])
            assert same, name
        assert now.metadata["episode_metadata/file_path"] == was.metadata["episode_metadata/file_path"]
        assert now.metadata["episode_metadata/collector"] == "User 2"
    with pytest.raises(ExistsError, match=r"1\.0\.0 exists already"):
        mixed.export(bridge, "rtx", tmp_path / "share")
    assert mixed.export(_of(mixed, "bridge")).endswith("exports/rtx/bridge/1.0.0")
    assert mixed.export(_of(mixed, "bridge"), "open-x").endswith("exports/rtx/bridge/2.0.0")
    assert mixed.export(_of(mixed, "root"), name="mine").endswith("exports/rtx/mine/1.0.0")
    with pytest.raises(SchemaMismatchError, match="3:\n  25 of dataset bridge_dataset"):
        mixed.export()
    with pytest.raises(UnknownPluginError, match="Did you mean 'rlds'"):
        mixed.export(bridge, "rlsd")
    with pytest.raises(SelectionError, match="no episodes"):
        mixed.export(bridge.head(0))


def test_importing_again_imports_the_rest(tmp_path, bridge_dir):
    dataset = fox.Dataset(tmp_path / "lab")
    assert len(dataset.load_rtx_episodes(bridge_dir, split="train[:10]", additional_metadata={"who": "a"})) == 10
    assert len(dataset.load_rtx_episodes(bridge_dir, split="train[5:15]", additional_metadata={"who": "b"})) == 5
    with pytest.raises(ImportConflictError, match="15 of the episodes"):
        dataset.load_rtx_episodes(bridge_dir, on_existing="error")
    assert len(dataset.load_rtx_episodes(bridge_dir)) == 10
    assert dataset.load_rtx_episodes(bridge_dir) == []
    info = dataset.get_episode_info()
    assert info["who"].fillna("-").tolist() == ["a"] * 10 + ["b"] * 5 + ["-"] * 10
    assert len(dataset.load_rtx_episodes(bridge_dir, on_existing="append", split="train[:2]")) == 2
    assert dataset.load_rtx_episodes(bridge_dir) == []
    assert len(dataset) == 27


def test_additional_metadata_may_set_own_columns(tmp_path, bridge_dir):
    dataset = fox.Dataset(tmp_path / "lab")
    dataset.load_rtx_episodes(
        bridge_dir, split="train[:1]", additional_metadata={"split": "val", "control_hz": 5, "success": True}
    )
    info = dataset.get_episode_info()
    assert info[["split", "control_hz", "success"]].to_numpy().tolist() == [["val", 5.0, True]]


def test_a_damaged_shard_leaves_what_was_there(tmp_path, bridge_dir):
    source = tmp_path / "bad" / "1.0.0"
    shutil.copytree(bridge_dir, source)
    (shard,) = source.glob("*.tfrecord*")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    dataset = fox.Dataset(tmp_path / "lab")
    dataset.new_episode().close()
    with pytest.raises(CorruptDataError, match=shard.name) as caught:
        dataset.load_rtx_episodes(source)
    assert "0 episodes" in caught.value.__notes__[0]
    assert len(dataset) == len(fox.Dataset(dataset.path)) == 1
    left = [p for family in ("steps", "frames") for p in (tmp_path / "lab" / family).rglob("*.parquet")]
    assert len(left) <= 1, "the files of the failed group are gone"


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda d: d.load_rtx_episodes("bridge_dateset", data_dir="DATA"), DatasetNotFoundError, "Did you mean 'bridge_dataset'"),
        (lambda d: d.load_rtx_episodes("bridge_dataset", data_dir="DATA", split="tran"), UnknownNameError, "train"),
        (lambda d: d.load_rtx_episodes("x", on_existing="skp"), UnknownNameError, "Did you mean 'skip'"),
        (lambda d: d.load("x", "rdls"), UnknownPluginError, "Did you mean 'rlds'"),
        (lambda d: d.load_rtx_episodes("x", executor="spark"), UnknownPluginError, "inline"),
        (lambda d: d.load_rtx_episodes("x", additional_metadata={"episode_id": 1}), MetadataError, "episode_id"),
        (lambda d: d.new_episode({"num_steps": 1}), MetadataError, "num_steps"),
        (lambda d: d.tag(None, root="x"), MetadataError, "root"),
        (lambda d: d.tag(None, when=pd.Timestamp(0)), MetadataError, "nanoseconds"),
        (lambda d: d.read_by(["absent"]), EpisodeNotFoundError, "1 of 1"),
    ],
)
def test_bad_arguments(mixed, bridge_dir, monkeypatch, call, error, match):
    monkeypatch.setenv("TFDS_DATA_DIR", str(bridge_dir.parent.parent))
    real = type(mixed).load_rtx_episodes
    monkeypatch.setattr(
        type(mixed),
        "load_rtx_episodes",
        lambda self, *a, data_dir=None, **k: real(self, *a, **k, data_dir=data_dir and bridge_dir.parent.parent),
    )
    version = mixed.version
    with pytest.raises(error, match=match):
        call(mixed)
    assert fox.Dataset(mixed.path).version == version


def test_bad_roots(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADatasetError, match="is a file"):
        fox.Dataset(tmp_path / "file")
    with pytest.raises(DatasetNotFoundError, match="nowhere"):
        fox.Dataset(tmp_path / "new", load_from=[tmp_path / "nowhere"])
    with pytest.raises(DatasetNotFoundError):
        fox.Dataset(tmp_path / "new", read_only=True)
    with pytest.raises(SelectionError, match="path="):
        fox.Dataset()
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("whole", [False, True], ids=["nothing", "all"])
def test_every_verb_that_writes_is_refused_where_reading_was_asked_for(tmp_path, whole):
    path = tmp_path / "lab"
    with fox.Dataset(path).new_episode() as episode:
        episode.begin("a")
        episode.add("x", 1)
        episode.end("a")
    dataset = fox.Dataset(path, read_only=True)
    some = None if whole else []
    verbs = {
        "new_episode": lambda: dataset.new_episode(),
        "discard_last": lambda: dataset.discard_last(),
        "recover": lambda: dataset.recover(dry_run=not whole),
        "load": lambda: dataset.load(tmp_path),
        "update_episode_info": lambda: dataset.update_episode_info(dataset.get_episode_info()),
        "tag": lambda: dataset.tag(some, note="x"),
        "annotate": lambda: dataset.annotate(some, "b"),
        "remove_segments": lambda: dataset.remove_segments(dataset.segments(some)),
        "delete": lambda: dataset.delete(dataset.episodes if whole else []),
        "compact": lambda: dataset.compact(some),
        "realign": lambda: dataset.realign(some),
        "derive": lambda: dataset.derive(some, image_size=(32, 32)),
        "repair": lambda: dataset.repair(dry_run=not whole),
        "pin": lambda: dataset.pin("a"),
        "unpin": lambda: dataset.unpin("a"),
        "restore": lambda: dataset.restore(0),
        "vacuum": lambda: dataset.vacuum(dry_run=not whole),
        "migrate": lambda: dataset.migrate(),
    }
    version = dataset.version
    for verb, call in verbs.items():
        with pytest.raises(ReadOnlyError, match="for reading only"):
            pytest.fail(f"{verb} returned {call()!r}")
    assert fox.Dataset(path).version == version


def test_episode_state_errors(tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")
    episode = dataset.new_episode()
    episode.add("state", np.zeros(3, np.float32))
    for bad in (np.zeros(4, np.float32), np.zeros(3)):
        with pytest.raises(FeatureError, match="state"):
            episode.add("state", bad)
    with pytest.raises(FeatureError, match="timestamp_ns"):
        episode.add("timestamp_ns", 3)
    episode.close()
    for call in (episode.close, episode.discard, lambda: episode.add("state", np.zeros(3, np.float32))):
        with pytest.raises(EpisodeClosedError):
            call()
    assert [view.num_steps for view in dataset] == [1]


def test_a_failed_save_can_be_tried_again(tmp_path, monkeypatch):
    dataset = fox.Dataset(tmp_path / "lab")
    episode = dataset.new_episode()
    episode.add("state", 1.0)
    real = os.fsync

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        episode.close()
    monkeypatch.setattr("os.fsync", real)
    assert len(fox.Dataset(tmp_path / "lab", name="x")) == 0
    episode.close()
    assert [view["state"].tolist() for view in fox.Dataset(tmp_path / "lab")] == [[1.0]]


def test_several_open_at_once_and_features_that_change(tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")
    first, second = dataset.new_episode(), dataset.new_episode()
    first.add("a", 1)
    second.add("a", "text")
    second.add("b", [1.5, 2.5])
    second.close()
    first.close()
    third = dataset.new_episode()
    third.discard()
    fourth = dataset.new_episode()
    fourth.add("c", True)
    with pytest.raises(RuntimeError, match="stop"), fourth:
        raise RuntimeError("stop")
    again = fox.Dataset(dataset.path)
    assert [view.episode_id for view in again] == [first.episode_id, second.episode_id, fourth.episode_id]
    assert again.episodes[2].metadata["interrupted"] == "RuntimeError"
    assert again.get_step_data().select("b").collect()["b"].to_list() == [None, [1.5, 2.5], None]


def test_spellings_of_one_local_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    fox.Dataset("lab").new_episode().close()
    for spelling in ("~/lab/", "./lab//", str(tmp_path) + "//lab", f"file://{tmp_path}/lab"):
        assert len(fox.Dataset(spelling)) == 1
        assert len(fox.Dataset(spelling, load_from=["lab", spelling])) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lab"]


def test_a_copied_root_is_read_once(mixed, tmp_path):
    shutil.copytree(mixed.path, tmp_path / "copy")
    both = fox.Dataset(mixed.path, load_from=[tmp_path / "copy"])
    assert len(both) == 27
    assert "27 episodes, 254 steps" in repr(both)


def test_a_newer_format_says_what_to_install(mixed):
    from deltalake import DeltaTable

    DeltaTable(f"{mixed.path}/episodes").alter.set_table_properties({"fogx.minReaderVersion": "2"}, raise_if_not_exists=False)
    with pytest.raises(FormatVersionError, match="pip install -U fogx"):
        fox.Dataset(mixed.path)


WRITER = """
    import sys, numpy as np, fogx as fox
    dataset = fox.Dataset(sys.argv[1])
    while True:
        with dataset.new_episode() as episode:
            for i in range(5):
                episode.add("state", np.full(3, i, np.float32))
                episode.add("view", np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8))
        print(episode.episode_id, flush=True)
"""


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_readers_beside_a_writer_see_whole_episodes_and_a_stop_loses_none(tmp_path, stop):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path / "lab")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment) as writer:
        acknowledged = [writer.stdout.readline().strip() for _ in range(3)]
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            for view in fox.Dataset(tmp_path / "lab").episodes[-2:]:
                assert view.num_steps == 5
                assert view["state"][:, 0].tolist() == [0, 1, 2, 3, 4]
                assert view["view"].shape == (5, 32, 32, 3)
        writer.send_signal(stop)
        acknowledged += [line.strip() for line in writer.stdout if len(line.strip()) == 32]
    ids = fox.Dataset(tmp_path / "lab").get_episode_info()["episode_id"].tolist()
    assert len(acknowledged) >= 3
    assert set(acknowledged) <= set(ids)
    for view in fox.Dataset(tmp_path / "lab"):
        assert all(len(view[name]) == view.num_steps for name in view.features)


def test_wrong_arguments_are_told_at_the_call(tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")
    for wrong, message in (
        (["a"], "is a dict of fox.Feature by name, found list"),
        ({"a": "float32"}, "'a' is declared by a str"),
    ):
        with pytest.raises(FeatureError, match=message):
            fox.Dataset(tmp_path / "other", features=wrong)
        with pytest.raises(FeatureError, match=message):
            dataset.new_episode(features=wrong)
    with pytest.raises(MetadataError, match="task= says in words what the robot is to do, found int"):
        dataset.new_episode(task=3)
    with dataset.new_episode() as episode:
        episode.add("x", 1.0)
    with pytest.raises(SegmentError, match="label of a segment is a str"):
        dataset.segments(label=3)
