"""Statistics of batches against numpy on all values at once."""

import pickle
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fogx as fox
from fogx.errors import DatasetNotFoundError, FeatureError, FeatureNotFoundError
from fogx.training import describe as describe_module
from fogx.training.cache import cache_folder
from fogx.training.describe import ELEMENTWISE, describe
from fogx.training.items import ItemReader
from fogx.training.itemstats import PARTS, QUANTILES
from fogx.training.normalize import MODES


def expected(rows):
    """Statistics of (N, E) rows by numpy, NaN left out, element by element."""
    result = {part: [] for part in PARTS}
    for column in np.asarray(rows, np.float64).T:
        there = column[~np.isnan(column)]
        for part, value in zip(("mean", "std", "min", "max"), (np.mean, np.std, np.min, np.max), strict=True):
            result[part].append(value(there) if len(there) else np.nan)
        for part, q in QUANTILES.items():
            result[part].append(np.quantile(there, q) if len(there) else np.nan)
    return result


def assert_numbers(numbers, rows):
    rows = np.asarray(rows, np.float64)
    assert np.array_equal(numbers.count.reshape(-1), (~np.isnan(rows)).sum(axis=0))
    for part, wanted in expected(rows).items():
        np.testing.assert_allclose(numbers[part].reshape(-1), wanted, rtol=1e-9, atol=1e-9, err_msg=part)


@given(st.data())
def test_batches_together_are_numpy_on_all_values_that_count(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    shape = data.draw(st.sampled_from([(), (1,), (3,), (2, 2), (0,), (70,)]))
    dtype = data.draw(st.sampled_from([np.float32, np.float64, np.int16, bool]))
    windowed, nullable = data.draw(st.booleans()), data.draw(st.booleans())
    batches, counted = [], []
    for size in data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=4)):
        lead = (size, 3) if windowed else (size,)
        values = (rng.normal(size=(*lead, *shape)) * 10).astype(dtype)
        if np.dtype(dtype).kind == "f" and data.draw(st.booleans()):
            values[rng.random(values.shape) < 0.3] = np.nan
        batch, keep = {"x": values, "word": np.full(size, "a", object)}, np.ones(lead, bool)
        if windowed:
            batch["x_is_pad"] = rng.random(lead) < 0.4
            keep &= ~batch["x_is_pad"]
        if nullable:
            batch["x_is_valid"] = rng.random(lead) < 0.6
            keep &= batch["x_is_valid"]
        batches.append(batch)
        counted.append(values[keep])
    stats = describe(batches, sum(len(batch["x"]) for batch in batches), 2)
    assert (list(stats), stats.num_episodes) == (["x"], 2)
    numbers = stats["x"]
    assert (numbers.shape, numbers.dtype, numbers.rank_error, numbers.sampled) == (shape, np.dtype(dtype).name, 0.0, None)
    rows = np.concatenate(counted)
    assert_numbers(numbers, rows.reshape(len(rows), int(np.prod(shape))))


@given(st.integers(0, 99), st.booleans(), st.sampled_from([np.uint8, np.uint16]), st.sampled_from([1, 3]))
def test_images_are_counted_per_channel(seed, windowed, dtype, channels):
    rng = np.random.default_rng(seed)
    lead = (4, 2) if windowed else (4,)
    images = rng.integers(0, np.iinfo(dtype).max, (*lead, channels, 3, 5), dtype=dtype, endpoint=True)
    pad = rng.random(lead) < 0.3
    batch = {"view": images, "view_is_pad": pad} if windowed else {"view": images}
    numbers = describe([batch, batch], 20, 1, images=["view"])["view"]
    assert (numbers.shape, numbers.image, numbers.sampled) == ((channels, 1, 1), True, 8)
    kept = images[~pad] if windowed else images
    rows = np.moveaxis(kept, 1, -1).reshape(-1, channels)
    assert_numbers(numbers, np.concatenate([rows, rows]))


def test_images_of_which_none_counts():
    batch = {"view": np.zeros((2, 3, 4, 4), np.uint8), "view_is_valid": np.zeros(2, bool)}
    numbers = describe([batch], 2, 1, images=["view"])["view"]
    assert numbers.count.reshape(-1).tolist() == [0, 0, 0]
    assert np.isnan(numbers["mean"]).all()


def test_images_that_a_transform_made_floats_are_counted_together():
    batch = {"view": np.random.default_rng(0).random((2, 3, 32, 32), np.float32)}
    numbers = describe([batch], 2, 1, images=["view"])["view"]
    assert (numbers.shape, int(numbers.count), numbers.image) == ((), 2 * 3 * 32 * 32, False)


def test_many_elements_are_counted_together():
    wide = np.random.default_rng(0).normal(size=(3, ELEMENTWISE + 1))
    numbers = describe([{"x": wide[:2]}, {"x": wide[2:]}], 3, 1)["x"]
    assert numbers.shape == ()
    assert_numbers(numbers, wide.reshape(-1, 1))


def test_quantiles_of_many_values_are_within_the_stated_error(monkeypatch):
    monkeypatch.setattr(describe_module, "EXACT_VALUES", 999)
    values = np.random.default_rng(3).normal(size=(20, 500, 2))
    numbers = describe([{"x": part} for part in values], 10_000, 1)["x"]
    rows = values.reshape(-1, 2)
    assert numbers.rank_error == 0.0133
    for part in ("mean", "std", "min", "max"):
        np.testing.assert_allclose(numbers[part], expected(rows)[part], rtol=1e-9, atol=1e-12)
    for part, q in QUANTILES.items():
        for element in range(2):
            rank = np.mean(rows[:, element] <= numbers[part][element])
            assert abs(rank - q) <= 2 * numbers.rank_error, "the bound holds for 99 sketches in 100; none is far beyond it"


def test_infinities_count_and_warn_of_nothing():
    numbers = describe([{"x": np.array([1.0, np.inf, -np.inf])}], 3, 1)["x"]
    assert (numbers.count, numbers["min"], numbers["max"]) == (3, -np.inf, np.inf)


@pytest.mark.parametrize("name", ["x_is_pad", "x_is_valid"])
def test_a_feature_that_is_only_named_like_a_mask_is_counted(name):
    assert list(describe([{name: np.array([True, False])}], 2, 1)) == [name]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Episodes of unlike lengths, whose steps lack some values; one has no step where items stand."""
    rng = np.random.default_rng(0)
    dataset = fox.Dataset(tmp_path_factory.mktemp("lab"))
    for length in (1, 9, 4, 6):
        with dataset.new_episode() as episode:
            for i in range(length):
                step = {
                    "observation/state": rng.normal(size=4),
                    "observation/wrist": rng.integers(0, 256, (32, 40, 3), np.uint8),
                    "action": rng.normal(size=5).astype(np.float32),
                    "reward": float(length != 4 and i % 2 == 0),
                    "language_instruction": "pick",
                }
                if rng.random() < 0.7:
                    step["observation/force"] = rng.normal(size=2).astype(np.float32)
                episode.add_step(step)
    return dataset


def halved(item):
    return {**item, "action": item["action"] / 2, "extra": item["observation/state"][..., :1]}


WINDOWS = {"action": fox.steps(0, 3), "observation/state": fox.steps([-2, 0]), "observation/force": fox.steps(-1, 1)}


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"windows": WINDOWS},
        {"windows": WINDOWS, "pad": "zero", "dtype": "float64", "image_size": (8, 9)},
        {"windows": WINDOWS, "pad": "drop", "where": pl.col("reward") > 0},
        {"windows": WINDOWS, "every": 2, "relative": {"action": "observation/state"}},
        {"relative": {"action": "observation/force"}},
        {"windows": {**WINDOWS, "observation/wrist": fox.steps(-1, 1)}, "transform": halved, "keys": "lerobot"},
        {"level": "window", "windows": {"action": fox.steps(0, 3)}},
        {"level": "episode"},
        {"level": "episode", "transform": halved},
        {"goals": {"observation/state": "last"}, "language": "first", "keys": "lerobot"},
    ],
    ids=lambda spec: "-".join(spec),
)
def test_statistics_are_those_of_a_pass_over_all_items(lab, spec):
    items = lab.as_pytorch_dataset(**spec)
    stats = items.stats()
    counted: dict[str, list[np.ndarray]] = {}
    for item in (items[i] for i in range(len(items))):
        for name in stats:
            spelled = {"observation/state": "observation.state", "observation/wrist": "observation.images.wrist"}
            spelled |= {"observation/force": "observation.force", "reward": "next.reward", "extra": "extra"}
            key = spelled.get(name, name) if "keys" in spec else name
            values = item[key].numpy()
            keep = np.ones((), bool)
            for mask in (~item[f"{key}_is_pad"].numpy() if f"{key}_is_pad" in item else None, item.get(f"{key}_is_valid")):
                keep = keep if mask is None else keep & np.asarray(mask)
            rows = values[keep] if keep.ndim else values[None][np.atleast_1d(keep)]
            if spec.get("level") == "episode" and not keep.ndim:
                rows = rows[0]
            counted.setdefault(name, []).append(np.moveaxis(rows, -3, -1).reshape(-1, 3) if name.endswith("wrist") else rows)
    for name, rows in counted.items():
        together = np.concatenate(rows)
        assert_numbers(stats[name], together.reshape(len(together), -1))
    wanted = {"observation/state", "observation/wrist", "observation/force", "action", "reward"}
    assert set(stats) == wanted | ({"extra"} if "transform" in spec else set())
    assert stats["observation/wrist"].image
    assert stats["observation/wrist"].shape == (3, 1, 1)


def test_normalised_items_are_normalised_by_their_own_statistics(lab):
    spec = {"windows": WINDOWS, "relative": {"action": "observation/state"}, "features": [*WINDOWS, "reward"]}
    plain = lab.as_pytorch_dataset(**spec)
    for mode in MODES:
        items = lab.as_pytorch_dataset(**spec, normalize=mode, exclude={"action": [-1]})
        assert items.normalizer == fox.Normalizer(plain.stats(), mode, {"action": [4]})
        assert fox.Normalizer(items.stats(), mode, {"action": [4]}) == items.normalizer
        for i in range(len(items)):
            batch = {name: value.numpy() for name, value in plain[i].items() if name in WINDOWS}
            for name, wanted in items.normalizer(batch).items():
                assert np.array_equal(items[i][name].numpy(), wanted)
            back = items.normalizer.unnormalize({name: items[i][name].numpy() for name in WINDOWS})
            for name, value in back.items():
                np.testing.assert_allclose(value, batch[name], rtol=1e-5, atol=1e-5)
                assert np.array_equal(items[i][f"{name}_is_pad"], plain[i][f"{name}_is_pad"])
            assert np.array_equal(items[i]["action"][..., 4], plain[i]["action"][..., 4])
        assert pickle.loads(pickle.dumps(items))[3]["action"].equal(items[3]["action"])


def test_a_saved_normaliser_is_taken_as_it_is(lab, tmp_path):
    first = lab.as_pytorch_dataset(normalize="quantile", exclude={"action": [0]})
    first.normalizer.save(tmp_path / "norm.json")
    for saved in (first.normalizer, tmp_path / "norm.json", str(tmp_path / "norm.json")):
        assert lab.as_pytorch_dataset(normalize=saved).normalizer == first.normalizer
        assert lab.as_pytorch_dataset(normalize=saved, exclude={}).normalizer.exclude == {}
    few = lab.as_pytorch_dataset(features=["action"], normalize="quantile").normalizer
    with pytest.raises(
        FeatureNotFoundError, match="the given normaliser has no statistics of 'observation/state'; it has: action"
    ):
        lab.as_pytorch_dataset(features=["action", "observation/state"], normalize=few)
    with pytest.raises(FeatureError, match=r"statistics of 'action' of shape \(5,\); items have float64\(4\)"):
        lab.as_pytorch_dataset(features=["action"], rename={"observation/state": "action", "action": "b"}, normalize=few)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (
            {"normalize": "quantiles"},
            FeatureError,
            r"normalize='quantiles' is neither a file nor one of: mean_std, .*mean 'quantile'",
        ),
        ({"normalize": 3}, FeatureError, "a fox.Normalizer or the path of one, found int"),
        ({"exclude": {"action": [6]}}, FeatureError, "exclude= says what is not normalised, and nothing is; give normalize="),
        ({"normalize": "min_max", "exclude": {"action": [6]}}, FeatureError, "no dimension 6; there are 5: 0 to 4"),
        ({"normalize": Path("nowhere.json")}, DatasetNotFoundError, "nowhere.json: no such file"),
        ({"relative": {"action": "state"}}, FeatureNotFoundError, r"relative= names 'state', which items do not have"),
        ({"relative": {"action": "observation/wrist"}}, FeatureError, "relative= subtracts floats"),
        (
            {"relative": {"action": "observation/state"}, "windows": {"observation/state": fox.steps(-2, 0)}},
            FeatureError,
            r"'observation/state' at the item's own step, which is not in its window",
        ),
    ],
)
def test_what_cannot_be_done_is_an_error(lab, spec, error, message):
    with pytest.raises(error, match=message):
        lab.as_pytorch_dataset(**spec)


def test_statistics_are_kept_until_something_changes(lab, monkeypatch):
    read = []
    batch = ItemReader.batch
    monkeypatch.setattr(ItemReader, "batch", lambda self, items: read.append(len(items)) or batch(self, items))
    spec = {"features": ["action", "observation/wrist"], "windows": {"action": fox.steps(0, 2)}}
    fox.clear_cache()
    stats = lab.as_pytorch_dataset(**spec).stats()
    assert read
    read.clear()
    again = lab.as_pytorch_dataset(**spec).stats()
    assert not read
    assert again.to_json() == stats.to_json()
    others = [
        {**spec, "windows": {"action": fox.steps(0, 3)}},
        {**spec, "every": 2},
        {**spec, "where": pl.col("reward") > 0},
        {**spec, "dtype": "float64"},
        {**spec, "image_size": (8, 8)},
        {**spec, "rename": {"action": "a"}, "features": ["a"], "windows": {}},
        {**spec, "episodes": lab.get_episode_info()["episode_id"].tolist()[:2]},
    ]
    for other in others:
        read.clear()
        lab.as_pytorch_dataset(**other).stats()
        assert read, other
    for path in Path(cache_folder()).glob("*.stats"):
        path.write_text("{")
    read.clear()
    assert lab.as_pytorch_dataset(**spec).stats().to_json() == stats.to_json()
    assert read, "a damaged file is not taken"
    fox.clear_cache()
    assert not list(Path(cache_folder()).glob("*.stats"))


def test_frames_are_counted_of_a_sample(lab, monkeypatch):
    monkeypatch.setattr(describe_module, "SAMPLE", 7)
    fox.clear_cache()
    stats = lab.as_pytorch_dataset().stats()
    assert (stats["observation/wrist"].sampled, stats["action"].sampled) == (7, None)
    assert stats["observation/wrist"].count.reshape(-1).tolist() == [7 * 32 * 40] * 3
    assert (stats.num_items, stats.num_episodes) == (20, 4)


def test_no_items_have_no_statistics(lab):
    stats = lab.as_pytorch_dataset(where=pl.col("reward") > 5, normalize="quantile").stats()
    assert (stats.num_items, stats.num_episodes) == (0, 0)


def test_statistics_of_bridge(bridge_dir, tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")
    dataset.load_rtx_episodes("bridge_dataset", data_dir=str(bridge_dir.parent.parent), split="train[:3]")
    image = next(name for name in dataset.episodes[0].features if name.endswith("image_0"))
    stats = dataset.as_pytorch_dataset(features=[image, "action"], windows={"action": fox.steps(0, 4)}).stats()
    actions = [np.asarray(view["action"]) for view in dataset]
    chunks = np.concatenate([view[i : i + 4] for view in actions for i in range(len(view))])  # cut off, where items are padded
    assert_numbers(stats["action"], chunks.astype(np.float32))
    pixels = np.concatenate([np.asarray(view[image]).reshape(-1, 3) for view in dataset])
    assert_numbers(stats[image], pixels)
