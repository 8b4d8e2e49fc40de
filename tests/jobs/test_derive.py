"""Frames in the size of training: what resizing gives, beside originals that nothing touches; never more than a copy."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fogx as fox
from fogx.codecs.jpeg import JpegCodec
from fogx.errors import CorruptDataError, FeatureError, FeatureNotFoundError, FogxError, ReadOnlyError, SelectionError
from fogx.feature import Feature, Schema
from fogx.jobs import derive as job
from fogx.reading.episodes import locate, read_derived, read_sound
from fogx.storage.tables import frames
from fogx.storage.tables.derived import derived_name, source_of
from fogx.storage.tables.index import PARTS
from fogx.training.images import is_smooth, resized
from tests.ageing import make_older

MS = 1_000_000
FEATURES = {
    "depth": Feature("uint16", (24, 32), camera="png"),
    "mask": Feature("bool", (24, 32, 1), camera="png"),
    "rgb": Feature("uint8", (24, 32, 3), camera="png"),
    "view": Feature("uint8", (24, 32, 3), camera="jpeg"),
    "gray": Feature("uint8", (24, 32), camera="jpeg"),
    "any": Feature("uint8", (None, 32, 3), camera="png"),
}
LOSSY = ("view", "gray")


def picture(random, feature, shape=None):
    shape = shape or feature.shape
    return random.integers(0, 2 if feature.dtype == "bool" else 255, shape).astype(feature.dtype)


def record(dataset, number=0, steps=6, names=("view", "depth", "mask"), every=1, **about):
    """Record an episode; `every` n-th step has images."""
    random = np.random.default_rng(number)
    with dataset.new_episode({"number": number}, **about) as episode:
        for i in range(steps):
            episode.add("state", np.full(3, i + 100 * number, np.float32), 10 * i * MS)
            for name in names if i % every == 0 else ():
                shape = (24 + i, 32, 3) if name == "any" else None
                episode.add(name, picture(random, FEATURES[name], shape), 10 * i * MS)
    return episode.episode_id


@pytest.fixture
def dataset(tmp_path):
    dataset = fox.Dataset(tmp_path / "root", features=FEATURES)
    for number in range(4):
        record(dataset, number)
    return dataset


def files_of(dataset, family="frames"):
    return {path: path.read_bytes() for path in Path(dataset.path).glob(f"{family}/**/*.parquet")}


def members(dataset):
    return locate(fox.Dataset(dataset.path)._roots.chosen(), PARTS)


def names_of(dataset):
    return [sorted({place.feature for place in member.index.derived}) for member in members(dataset)]


def derived_files(dataset):
    return sorted({place.file for member in members(dataset) for place in member.index.derived})


def batch(dataset, size, **options):
    items = dataset.as_pytorch_dataset(image_size=size, **options)
    return {name: np.asarray(values) for name, values in items.__getitems__(list(range(len(items)))).batch.items()}


def expected(name, original, size, quality):
    """Return one image as training shall see it: resized, and once more encoded where that loses something."""
    small = resized(original, size, smooth=is_smooth(name, FEATURES[name]))
    if name in LOSSY:
        small = JpegCodec().decode(JpegCodec(quality).encode(small), Feature("uint8", small.shape, encoding="jpeg"))
    return np.moveaxis(small, -1, 0) if small.ndim == 3 else small[None]


@settings(max_examples=settings.default.max_examples // 4)
@given(
    first=st.integers(1, 5),
    others=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3)), max_size=2),
    names=st.sets(st.sampled_from(sorted(FEATURES)), min_size=1, max_size=4),
    size=st.sampled_from([(8, 8), (7, 40), (24, 31), (25, 32), (60, 60)]),
    some=st.booleans(),
    quality=st.sampled_from([None, 30, 100]),
)
def test_items_are_what_resizing_gives(tmp_path_factory, first, others, names, size, some, quality):
    dataset = fox.Dataset(tmp_path_factory.mktemp("root"), features=FEATURES)
    episodes = [(first, 2), *others]
    ids = [record(dataset, n, steps, sorted(names), every) for n, (steps, every) in enumerate(episodes)]
    kept = [read_sound(member).columns for member in members(dataset)]
    chosen = ids[:1] if some else ids
    got = dataset.derive(chosen, image_size=size, quality=quality)
    assert got == [i for i, (steps, _) in zip(ids, episodes, strict=True) if i in chosen and steps]
    found = batch(dataset, size, features=sorted(names), windows={name: fox.steps(-1, 1) for name in sorted(names)[:1]})
    row = 0
    for view in dataset.episodes:
        for step in range(view.num_steps):
            for number, name in enumerate(sorted(names)):
                for at, value in (
                    ((max(step - 1, 0), found[name][row][0]), (step, found[name][row][1]))
                    if number == 0
                    else ((step, found[name][row]),)
                ):
                    frame = view[at : at + 1][name]
                    if np.ma.getmaskarray(frame).all() if isinstance(frame, np.ma.MaskedArray) else frame[0] is None:
                        assert not value.any()
                    elif view.episode_id in chosen:
                        assert np.array_equal(value, expected(name, np.asarray(frame[0]), size, quality or 95)), name
                    else:
                        small = resized(np.asarray(frame[0]), size, smooth=is_smooth(name, FEATURES[name]))
                        assert np.array_equal(value, np.moveaxis(small, -1, 0) if small.ndim == 3 else small[None]), name
            row += 1
    for member, before in zip(members(dataset), kept, strict=True):
        after = read_sound(member).columns
        assert all(np.array_equal(after[name].values, column.values) for name, column in before.items())
    assert dataset.derive(chosen, image_size=size, quality=quality) == []
    assert fox.check(dataset.path, deep=True).empty


def test_originals_and_all_else_stay(dataset):
    before, index, version = files_of(dataset), [m.index for m in members(dataset)], dataset.version
    items = batch(dataset, None)
    small = batch(dataset, (12, 16))
    info = dataset.get_episode_info()
    assert dataset.derive(image_size=(12, 16)) == info["episode_id"].tolist()
    assert dataset.history()["operation"].tolist()[:2] == ["derive", "first derive"]
    assert dataset.get_episode_info().equals(info)
    assert before.items() <= files_of(dataset).items()
    for old, member in zip(index, members(dataset), strict=True):
        new = member.index
        for name in ("episode_id", "schema_id", "num_steps", "checksum", "partial", "steps", "metadata", "streams", "align"):
            assert getattr(new, name) == getattr(old, name), name
        for mine, theirs in zip(new.frames, old.frames, strict=True):
            assert (mine.feature, mine.file, mine.lengths.tolist()) == (theirs.feature, theirs.file, theirs.lengths.tolist())
        assert repr({n: s.to_dict() for n, s in new.stats.items()}) == repr({n: s.to_dict() for n, s in old.stats.items()})
    assert all(np.array_equal(batch(dataset, None)[name], values) for name, values in items.items())
    after = batch(dataset, (12, 16))
    assert [name for name in small if not np.array_equal(after[name], small[name])] == ["view"]
    assert np.array_equal(batch(dataset.at(version), (12, 16))["view"], small["view"])


def test_who_knows_nothing_of_it_sees_the_frames_of_features_alone(dataset):
    dataset.derive(image_size=(12, 16))
    for path in Path(dataset.path).glob("index/*.parquet"):
        for row in pq.read_table(path, columns=["frames"])["frames"].to_pylist():
            assert {place["feature"] for place in row} == {"depth", "mask", "view"}
    (file,) = derived_files(dataset)
    stored = set(pq.read_table(Path(dataset.path, file), columns=["feature"])["feature"].to_pylist())
    assert stored == {"depth//12x16", "mask//12x16", "view//12x16q95"}
    for name in stored:
        with pytest.raises(FeatureError, match="single '/'"):
            dataset.new_episode(features={name: Feature("uint8", (12, 16, 3))})


def test_sizes_stand_side_by_side_and_qualities_do_not(dataset):
    assert len(dataset.derive(image_size=(12, 16), features="view")) == 4
    assert len(dataset.derive(image_size=(8, 8))) == 4
    assert len(dataset.derive(image_size=(12, 16))) == 4
    sizes = ["depth//12x16", "depth//8x8", "mask//12x16", "mask//8x8"]
    assert names_of(dataset) == [[*sizes, "view//12x16q95", "view//8x8q95"]] * 4
    assert len(dataset.derive(dataset.get_episode_info()["episode_id"][:1], image_size=(8, 8), quality=40)) == 1
    assert names_of(dataset)[0] == [*sizes, "view//12x16q95", "view//8x8q40"]
    assert names_of(dataset)[1] == [*sizes, "view//12x16q95", "view//8x8q95"]
    assert dataset.derive(image_size=(24, 32)) == []
    assert dataset.check(deep=True).empty


def test_a_new_name_that_asks_for_another_way_of_resizing(dataset):
    before = {name: batch(dataset, (12, 16), rename={"view": name})[name] for name in ("front", "mask_of_view")}
    dataset.derive(image_size=(12, 16))
    after = {name: batch(dataset, (12, 16), rename={"view": name})[name] for name in before}
    assert np.array_equal(after["mask_of_view"], before["mask_of_view"])
    assert not np.array_equal(after["front"], before["front"])


def test_compact_and_realign_keep_them(tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "FILE_BYTES", 4_000)
    monkeypatch.setattr(frames, "ROW_GROUP_ROWS", 10)
    dataset = fox.Dataset(tmp_path / "root", features=FEATURES)
    for number in range(5):
        record(dataset, number, 12, every=3, align=fox.Align(reference="state"))
    dataset.derive(image_size=(12, 16))
    assert len(derived_files(dataset)) > 1
    blobs = [read_derived(member) for member in members(dataset)]
    want = batch(dataset, (12, 16), align=fox.Align(rate_hz=50))
    assert len(dataset.realign(align=fox.Align(rate_hz=50))) == 5
    assert [read_derived(member) for member in members(dataset)] == blobs
    assert np.array_equal(batch(dataset, (12, 16))["view"], want["view"])
    before = derived_files(dataset)
    assert dataset.compact() == 5
    assert not set(derived_files(dataset)) & set(before)
    assert [read_derived(member) for member in members(dataset)] == blobs
    assert np.array_equal(batch(dataset, (12, 16))["view"], want["view"])
    assert dataset.derive(image_size=(12, 16)) == []
    assert dataset.check(deep=True).empty


def test_vacuum_keeps_what_is_used(dataset):
    dataset.derive(image_size=(12, 16))
    make_older(dataset.path)
    dataset.vacuum()
    used = derived_files(dataset)
    assert dataset.check(deep=True).empty
    dataset.derive(image_size=(12, 16), features="view", quality=20)
    dataset.delete(dataset.get_episode_info()["episode_id"].tolist()[:2])
    dataset.compact()
    make_older(dataset.path)
    dataset.tag([], note=1)
    make_older(dataset.path)
    dataset.vacuum()
    assert dataset.check(deep=True).empty
    assert not any(Path(dataset.path, file).exists() for file in used)


@pytest.mark.parametrize("how", ["lost", "cut", "flipped"])
def test_damage_hurts_no_episode(dataset, how):
    ids = dataset.get_episode_info()["episode_id"].tolist()
    before = [read_sound(member).columns["view"].values.tolist() for member in members(dataset)]
    dataset.derive(ids[:2], image_size=(12, 16))
    dataset.derive(ids[2:], image_size=(12, 16))
    (hurt,) = {place.file for member in members(dataset)[:2] for place in member.index.derived}
    path = Path(dataset.path, hurt)
    data = bytearray(path.read_bytes())
    place = members(dataset)[1].index.derived[0]
    data[place.offset + 3] ^= 1
    path.unlink() if how == "lost" else path.write_bytes(data[:-9] if how == "cut" else data)
    found = fox.check(dataset.path, deep=how == "flipped")
    assert found[["severity", "kind", "file"]].values.tolist() == [
        ["damage", {"lost": "lost", "cut": "truncated", "flipped": "checksum"}[how], hurt]
    ]
    bad = [ids[1]] if how == "flipped" else ids[:2]
    assert found["episode_ids"].tolist() == [bad]
    assert "derive() makes them again" in found["remedy"][0]
    if how != "cut":
        with pytest.raises(CorruptDataError):
            batch(dataset, (12, 16))
        with pytest.raises(CorruptDataError):
            dataset.compact()
    assert dataset.repair(dry_run=True)["action"].tolist() == ["left out"]
    assert len(names_of(dataset)[1]) == 3
    done = dataset.repair()
    assert done[["action", "episode_ids"]].values.tolist() == [["left out", bad]]
    assert [not names for names in names_of(dataset)] == [i in bad for i in ids]
    assert [read_sound(member).columns["view"].values.tolist() for member in members(dataset)] == before
    assert fox.check(dataset.path, deep=True).empty
    dataset = fox.Dataset(dataset.path)
    assert dataset.derive(image_size=(12, 16)) == bad
    batch(dataset, (12, 16))


def test_an_index_that_places_too_few_is_named(dataset, monkeypatch):
    real = job._with_derived

    def some(*given):
        row = real(*given)
        return job.replace(row, derived=[place for place in row.derived if place.feature != "mask//12x16"][:1])

    monkeypatch.setattr(frames, "ROW_GROUP_ROWS", 4)
    monkeypatch.setattr(job, "_with_derived", some)
    dataset.derive(image_size=(12, 16))
    before = batch(dataset, (12, 16))
    found = fox.check(dataset.path)
    assert found["kind"].tolist() == ["wrong count"]
    assert found["episodes"].tolist() == [4]
    monkeypatch.undo()
    assert dataset.derive(image_size=(12, 16)) == dataset.get_episode_info()["episode_id"].tolist()
    assert dataset.check(deep=True).empty
    after = batch(dataset, (12, 16))
    assert all(np.array_equal(after[name], before[name]) for name in ("depth", "mask"))


def test_what_others_change_meanwhile_stays(tmp_path, monkeypatch, caplog):
    dataset = fox.Dataset(tmp_path / "root", features=FEATURES)
    ids = [record(dataset, number) for number in range(6)]
    other = fox.Dataset(dataset.path)
    real = job._made

    def meanwhile(*given):
        monkeypatch.setattr(job, "_made", real)
        other.delete(ids[0])
        other.tag(ids[1:3], note="mine")
        other.annotate(ids[2], "theirs")
        other.compact(ids[3:5])
        return real(*given)

    monkeypatch.setattr(job, "_made", meanwhile)
    assert dataset.derive(image_size=(12, 16)) == [ids[1], ids[2], ids[5]]
    assert "derive: left 3 of 6 episodes as they are" in caplog.text
    dataset.refresh()
    caplog.clear()
    assert dataset.get_episode_info()["note"].dropna().tolist() == ["mine"] * 2
    assert dataset.segments()["label"].tolist() == ["theirs"]
    assert dataset.derive(image_size=(12, 16)) == ids[3:5]
    assert not caplog.text
    assert dataset.check(deep=True).empty


@pytest.mark.parametrize("stop", [KeyboardInterrupt, CorruptDataError])
def test_an_interrupted_call_keeps_whole_groups(dataset, monkeypatch, stop):
    ids = dataset.get_episode_info()["episode_id"].tolist()
    real, calls = job._made, []

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 5:  # of three features: the second of the second episode
            raise stop("now")
        return real(*given)

    monkeypatch.setattr(job, "GROUP_BYTES", 1)
    monkeypatch.setattr(job, "_made", interrupted)
    with pytest.raises(stop, match="now") as error:
        dataset.derive(image_size=(12, 16))
    assert [len(names) for names in names_of(dataset)] == [3, 0, 0, 0]
    if stop is CorruptDataError:
        assert error.value.__notes__ == ["1 episodes have their frames; the same call goes on with the rest."]
    assert len(files_of(dataset)) == 4 + 1, "no file of what was interrupted is left"
    assert dataset.derive(image_size=(12, 16)) == ids[1:]
    assert dataset.check(deep=True).empty


def test_what_cannot_be_decoded_is_named(tmp_path):
    dataset = fox.Dataset(tmp_path / "root")
    good = JpegCodec().encode(picture(np.random.default_rng(0), FEATURES["view"]))
    with dataset.new_episode() as episode:
        for i in range(3):
            episode.add("view", good if i != 1 else good[:-200] + good[-2:])
    with pytest.raises(CorruptDataError, match=rf"episode {episode.episode_id}: frame 1 of 'view' cannot be decoded"):
        dataset.derive(image_size=(12, 16))
    assert names_of(dataset) == [[]]


def test_what_does_not_fit_changes_nothing(dataset, tmp_path):
    version = dataset.version
    with pytest.raises(FeatureNotFoundError, match=r"'veiw', which no selected episode has.*Did you mean 'view'"):
        dataset.derive(image_size=(12, 16), features="veiw")
    with pytest.raises(FeatureError, match=r"'state', float32\(3\), which holds no images"):
        dataset.derive(image_size=(12, 16), features=["view", "state"])
    for size in ((12,), (0, 4), "big", (12.5, 16)):
        with pytest.raises(SelectionError, match="image_size"):
            dataset.derive(image_size=size)
    for features, says in ((5, "features= is a int"), ([5], "names 5, which no selected episode has")):
        with pytest.raises(FogxError, match=says):
            dataset.derive(image_size=(12, 16), features=features)
    for quality in (0, 101, 9.5, True):
        with pytest.raises(SelectionError, match="quality"):
            dataset.derive(image_size=(12, 16), quality=quality)
    with pytest.raises(ReadOnlyError):
        fox.Dataset(dataset.path, read_only=True).derive(image_size=(12, 16))
    with pytest.raises(SelectionError, match="root"):
        fox.Dataset(tmp_path / "mine", load_from=[dataset.path]).derive(image_size=(12, 16))
    assert dataset.derive([], image_size=(12, 16), features="view") == []
    assert dataset.refresh().version == version


def test_names_lead_back():
    schema = Schema({"a/b": Feature("uint8", (4, 5, 3), encoding="png"), "n": Feature("int8", ())})
    assert source_of(derived_name("a/b", (2, 3), None), schema) == ("a/b", Feature("uint8", (2, 3, 3), encoding="png"))
    assert source_of(derived_name("a/b", (2, 3), 7), schema)[0] == "a/b"
    for name in ("a/b", "n//2x3", "c//2x3", "a/b//2x", "a/b//0x3", "a/b//2x3q", "a/b//2x3q1234"):
        with pytest.raises(ValueError, match="no image of the episode"):
            source_of(name, schema)


@pytest.mark.parametrize("many", [False, True])
def test_pytorch_is_loaded_for_many_frames_alone(tmp_path, many):
    record(fox.Dataset(tmp_path / "root", features=FEATURES), 0, 2, sorted(FEATURES), 1)
    code = f"""
import sys
import fogx as fox
from fogx.jobs import derive
derive._MANY_BYTES = {1 if many else 1 << 20}
assert len(fox.Dataset({str(tmp_path / "root")!r}).derive(image_size=(8, 8))) == 1
assert ("torch" in sys.modules) == {many}
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_a_pytorch_that_cannot_be_loaded_is_done_without(tmp_path):
    record(fox.Dataset(tmp_path / "root", features=FEATURES), 0, 2, sorted(FEATURES), 1)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text("raise OSError('libtorch.so: cannot open shared object file')")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path / "broken")!r})
import fogx as fox
from fogx.jobs import derive
derive._MANY_BYTES = 1
assert len(fox.Dataset({str(tmp_path / "root")!r}).derive(image_size=(8, 8))) == 1
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
