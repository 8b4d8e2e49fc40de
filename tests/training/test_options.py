"""What can be asked of items besides windows, and what is refused."""

from __future__ import annotations

import io
import pickle

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

import fogx as fox
from fogx.errors import FeatureNotFoundError, FogxError, SelectionError
from fogx.training.draws import uniform
from fogx.training.resize import by_definition
from fogx.training.torch import collate


class Draw(int):
    """A position that carries what random choices follow from."""

    def __new__(cls, item: int, seed: int, epoch: int) -> Draw:
        """Return one."""
        self = super().__new__(cls, item)
        self.seed, self.epoch = seed, epoch
        return self


def test_renamed_first(unlike) -> None:
    items = unlike.as_pytorch_dataset(
        features=["act", "n"], rename={"action": "act", "count": "n"}, windows={"act": fox.steps(0, 2)}, where=pl.col("n") >= 300
    )
    assert set(items[0]) == {"episode_id", "step_index", "act", "act_is_pad", "n"}
    assert items[0]["n"].item() == 300


def test_text_language_and_tasks(unlike) -> None:
    first = unlike.as_pytorch_dataset(features=["count"], language="first")
    told = {int(item["count"]): item["language_instruction"] for item in first.__getitems__(range(len(first)))}
    assert (told[0], told[200], told[300], told[500], told[1_000]) == ("do 0", "do 2", "pull", "do 5", "")
    random = unlike.as_pytorch_dataset(features=["count"], language="random")
    assert {random[0]["language_instruction"] for _ in range(60)} == {"do 0", "push"}
    drawn = [[random[Draw(0, seed, 1)]["language_instruction"] for seed in range(30)] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {"do 0", "push"}


def test_goals(unlike) -> None:
    last = unlike.as_pytorch_dataset(features=["action"], goals={"count": "last", "cam": "last"})
    assert last[0]["goal/count"].item() == 3
    assert last[0]["goal/cam"].shape == (3, 32, 40)
    assert set(last[0]) == {"episode_id", "step_index", "action", "goal/count", "goal/cam", "goal/cam_is_valid"}
    later = unlike.as_pytorch_dataset(features=["count"], goals={"count": "future"})
    assert {int(later[1]["goal/count"]) for _ in range(60)} == {2, 3}
    assert int(later[3]["goal/count"]) == 3
    assert [int(later[Draw(5, 7, e)]["goal/count"]) for e in range(9)] == [
        int(later[Draw(5, 7, e)]["goal/count"]) for e in range(9)
    ]


def test_draws_are_spread_evenly() -> None:
    drawn = uniform([Draw(item, 3, epoch) for item in range(100) for epoch in range(100)], "goal")
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert np.histogram(drawn, 10, (0, 1))[0].min() > 850
    assert len(set(drawn.tolist())) == 10_000
    assert not np.array_equal(drawn, uniform([Draw(item, 3, epoch) for item in range(100) for epoch in range(100)], "word"))


def test_images_of_another_size(unlike) -> None:
    items = unlike.as_pytorch_dataset(features=["cam"], image_size=(16, 24), windows={"cam": fox.steps(0, 1)})
    frame = unlike.episodes[3]["cam"][0]
    assert np.array_equal(items[5]["cam"][0].numpy(), by_definition(frame, (16, 24)).transpose(2, 0, 1))


def test_masks_and_depth_are_not_mixed(tmp_path) -> None:
    dataset = fox.Dataset(tmp_path / "lab")
    random = np.random.default_rng(0)
    depth, mask = random.integers(0, 60_000, (64, 64), np.uint16), random.integers(0, 9, (64, 64), np.uint8)
    with dataset.new_episode() as episode:
        episode.add_step({"depth": depth, "mask": mask, "gray": mask})
    assert dataset.episodes[0].schema["depth"].is_image
    item = dataset.as_pytorch_dataset(image_size=(20, 30))[0]
    assert item["depth"].shape == item["mask"].shape == item["gray"].shape == (1, 20, 30)
    assert item["depth"].dtype == torch.uint16
    assert set(item["depth"].numpy().ravel().tolist()) <= set(depth.ravel().tolist())
    assert np.array_equal(item["mask"][0].numpy(), np.asarray(Image.fromarray(mask).resize((30, 20), Image.Resampling.NEAREST)))
    assert np.array_equal(item["gray"][0].numpy(), by_definition(mask[:, :, None], (20, 30))[:, :, 0])


def test_names_of_lerobot(unlike) -> None:
    items = unlike.as_pytorch_dataset(
        features=["action", "cam", "count"], keys="lerobot", language="first", windows={"action": [0, 0.1], "cam": [0]}
    )
    item = items[5]
    assert set(item) == {
        *("episode_id", "frame_index", "episode_index", "index", "timestamp", "task", "action", "action_is_pad"),
        *("observation.images.cam", "observation.images.cam_is_pad", "observation.images.cam_is_valid", "observation.count"),
    }
    view = unlike.episodes[3]
    assert [int(item[name]) for name in ("frame_index", "episode_index", "index")] == [0, 3, 5]
    assert items[7]["timestamp"].item() == pytest.approx((view.timestamps_ns[2] - view.timestamps_ns[0]) / 1e9)
    assert items.features == ["action", "observation.images.cam", "observation.count"]


def test_transform_is_given_items(unlike) -> None:
    def double(item):
        assert item["action"].shape == (2, 2)
        return {**item, "action": item["action"] * 2, "sum": float(item["count"]), "word": item["language_instruction"] + "!"}

    spec = {"features": ["action", "count", "language_instruction"], "windows": {"action": fox.steps(0, 2)}}
    plain, changed = unlike.as_pytorch_dataset(**spec), unlike.as_pytorch_dataset(**spec, transform=double)
    batch = changed.__getitems__([0, 5]).batch
    assert torch.equal(batch["action"], plain.__getitems__([0, 5]).batch["action"] * 2)
    assert batch["sum"].tolist() == [0, 300]
    assert batch["word"] == ["do 0!", "!"]
    with pytest.raises(SelectionError, match="returned a NoneType"):
        unlike.as_pytorch_dataset(**spec, transform=lambda item: None)[0]
    ragged = unlike.as_pytorch_dataset(**spec, transform=lambda item: {"x": torch.zeros(int(item["step_index"]))})
    with pytest.raises(SelectionError, match="'x' in unlike shapes"):
        ragged.__getitems__([0, 1])


def test_the_iterable_twin_gives_each_item_once(unlike) -> None:
    items = unlike.as_pytorch_dataset(features=["count"])
    assert repr(items.iterable()) == f"<fogx stream of {items!r}>"
    for workers in (0, 2):
        loader = torch.utils.data.DataLoader(items.iterable(), batch_size=4, num_workers=workers)
        assert sorted(int(c) for batch in loader for c in batch["count"]) == sorted(
            int(item["count"]) for item in items.__getitems__(range(len(items)))
        )


def test_batches_of_a_loader(unlike) -> None:
    items = unlike.as_pytorch_dataset(features=["count", "cam", "language_instruction"], windows={"cam": fox.steps(-1, 1)})
    stacked = next(iter(torch.utils.data.DataLoader(items, batch_size=6)))
    ours = next(iter(torch.utils.data.DataLoader(items, batch_size=6, collate_fn=collate)))
    assert stacked.keys() == ours.keys()
    for name, value in stacked.items():
        assert torch.equal(value, ours[name]) if isinstance(value, torch.Tensor) else value == ours[name], name
    assert sum(items.blocks()) == len(items)
    assert len(pickle.loads(pickle.dumps(items))) == len(items)
    with pytest.raises(IndexError, match="item 28 of 28"):
        items.__getitems__([0, 28])


def test_frames_that_only_parquet_gives(unlike, monkeypatch) -> None:
    from fogx.storage.tables.places import FramesPlace
    from fogx.training import items as module
    from fogx.training import source

    wanted = unlike.as_pytorch_dataset(features=["cam"], windows={"cam": fox.steps(-2, 2)})[6]["cam"]
    places = source._places

    def slow(store, name, episode_id, known, files):
        forgotten = [FramesPlace(**{**{f: getattr(p, f) for f in p.__dataclass_fields__}, "offset": -1}) for p in known]
        return places(store, name, episode_id, forgotten, files)

    monkeypatch.setattr(source, "_places", slow)
    monkeypatch.setattr(module, "block_key", lambda index, number: "f" * 64)
    assert torch.equal(unlike.as_pytorch_dataset(features=["cam"], windows={"cam": fox.steps(-2, 2)})[6]["cam"], wanted)


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"level": "windows"}, SelectionError, "Did you mean 'window'"),
        ({"level": "window"}, SelectionError, "has to count every step"),
        ({"level": "window", "windows": {"count": fox.steps(0, 8, 2)}}, SelectionError, "has to count every step"),
        ({"level": "episode", "windows": {"count": fox.steps(0, 8)}}, SelectionError, "leave windows= out"),
        ({"pad": "edges"}, SelectionError, "Did you mean 'edge'"),
        ({"dtype": "int8"}, SelectionError, "float16, float32, float64"),
        ({"every": 0}, SelectionError, "a whole number from 1"),
        ({"image_size": 7}, SelectionError, r"give \(height, width\)"),
        ({"image_size": (0, 7)}, SelectionError, "a whole number from 1"),
        ({"image_size": (100_000, 100_000)}, SelectionError, r"fox\.config\(max_pixels=10000000000\)"),
        ({"language": "all"}, SelectionError, "first, random"),
        ({"goals": {"count": "next"}}, SelectionError, "last, future"),
        ({"goals": {"cuont": "last"}}, FeatureNotFoundError, "Did you mean 'count'"),
        ({"keys": "robomimic"}, SelectionError, "lerobot"),
        ({"windows": {"cuont": fox.steps(0, 2)}}, FeatureNotFoundError, "Did you mean 'count'"),
        ({"windows": {"more": fox.steps(0, 2)}}, FeatureNotFoundError, "name it in features= too"),
        ({"rename": {"actoin": "a"}}, FeatureNotFoundError, "Did you mean 'action'"),
        ({"rename": {"action": "count"}}, SelectionError, "would both be 'count'"),
        ({"rename": {"action": "step_index"}}, FogxError, "fogx's own step columns"),
        ({"where": "keep"}, SelectionError, "none of the 8 selected episodes has a segment with this label"),
        ({"where": 3}, SelectionError, "where= is a int"),
        ({"where": pl.col("cuont") > 1}, FeatureNotFoundError, "no column 'cuont'; there are: .*Did you mean 'count'"),
        ({"windows": fox.steps(0, 2)}, SelectionError, r"windows= is a StepWindow; give a dict by feature"),
        ({"windows": {3: fox.steps(0, 2)}}, FeatureNotFoundError, "names 3"),
        ({"features": 5}, SelectionError, "features= is a int; give a name, or a list of names"),
        ({"features": [5]}, FeatureNotFoundError, "no selected episode has 5"),
        ({"rename": ["action"]}, SelectionError, "rename= is a list; give a dict"),
        ({"goals": "last"}, SelectionError, "goals= is a str; give a dict"),
        ({"relative": "count"}, SelectionError, "relative= is a str; give a dict"),
        ({"exclude": ["action"], "normalize": "quantile"}, SelectionError, "exclude= is a list; give a dict"),
        ({"exclude": {"action": 1}, "normalize": "quantile"}, FogxError, "give whole numbers of dimensions"),
        ({"where": pl.col("count") + 1}, SelectionError, "one bool a step"),
        ({"where": pl.col("count").max() > 1}, SelectionError, "gives 1 values"),
        ({"where": pl.col("count") > pl.col("language_instruction")}, SelectionError, "cannot be evaluated"),
    ],
)
def test_what_does_not_fit_is_refused_at_the_call(unlike, options, kind, says) -> None:
    with pytest.raises(kind, match=says):
        unlike.as_pytorch_dataset(**options)


def test_numbers_of_numpy_are_numbers(unlike) -> None:
    items = unlike.as_pytorch_dataset(features=["cam"], every=np.int64(2), image_size=(np.int32(16), np.int64(24)))
    assert len(items) == len(unlike.as_pytorch_dataset(features=["count"], every=2))
    assert next(iter(items.loader(np.int64(2), np.int64(0), np.int64(3))))["cam"].shape == (2, 3, 16, 24)


def test_seconds_need_times_or_a_rate(tmp_path, bridge_dir) -> None:
    dataset = fox.Dataset(tmp_path / "lab")
    dataset.load_rtx_episodes(bridge_dir, split="train[:2]")
    with pytest.raises(SelectionError, match="2 of 2 selected episodes have neither"):
        dataset.as_pytorch_dataset(windows={"action": fox.seconds(0, 1, hz=5)})
    dataset.tag(None, control_hz=5.0)
    spec = {"features": ["action"], "pad": "drop"}
    by_time = dataset.as_pytorch_dataset(windows={"action": fox.seconds(-0.4, 1, hz=5)}, **spec)
    by_step = dataset.as_pytorch_dataset(windows={"action": fox.steps(-2, 5)}, **spec)
    assert len(by_time) == len(by_step) == 2 * (10 - 6)
    assert torch.equal(by_time[5]["action"], by_step[5]["action"])


def test_a_frame_that_fails_its_checksum_is_not_shown(tmp_path) -> None:
    dataset = fox.Dataset(tmp_path / "lab")
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(buffer, "PNG")
    with dataset.new_episode() as episode:
        episode.add("cam", buffer.getvalue())
    (file,) = (tmp_path / "lab").glob("frames/*/*.parquet")
    data = bytearray(file.read_bytes())
    data[data.index(buffer.getvalue()[:50]) + 500] ^= 1
    file.write_bytes(data)
    with pytest.raises(FogxError, match="'cam' fails its checksum"):
        dataset.as_pytorch_dataset()[0]
