"""What sensors sent, and the picture of what steps made of it."""

import numpy as np
import pytest

import fogx as fox
from fogx.errors import FeatureError, FeatureNotFoundError, SelectionError
from tests.show.artists import drawn, links

fox.config(progress=False)
MS = 1_000_000
START = 1_700_000_000_000 * MS


@pytest.fixture
def dataset(tmp_path):
    features = {
        "cam": fox.Feature("uint8", (32, 40, 3), camera="png"),
        "tcp": fox.Feature("float32", (2,), unit="m", names=("x", "y")),
    }
    return fox.Dataset(tmp_path / "lab", features=features)


def image(number):
    return np.full((32, 40, 3), number, np.uint8)


def record(dataset, **changes):
    """Record three images at 0, 100 and 200 ms, poses each 40 ms, forces at 90 and 190 ms, commands 15 ms after the images."""
    features = {"tcp": fox.linear(), "force": fox.hold(max_age_s=0.02)}
    align = fox.Align(**{"reference": "cam", "features": features, **changes})
    with dataset.new_episode(align=align) as episode:
        for number in range(3):
            episode.add("cam", image(number), START + 100 * number * MS)
            episode.add("action", float(number), START + (100 * number + 15) * MS)
            if number:
                episode.add("force", number, START + (100 * number - 10) * MS)
        for ms in (40, 0, 80, 120, 160, 200):  # one came late
            episode.add("tcp", np.array([ms, -ms], np.float32), START + ms * MS)
    return dataset.episodes[-1]


def test_samples_are_there_as_they_came(dataset):
    view = record(dataset)
    stamps, values = view.samples("tcp")
    assert (stamps - START).tolist() == [ms * MS for ms in (40, 0, 80, 120, 160, 200)]
    assert values[:, 0].tolist() == [40, 0, 80, 120, 160, 200]
    assert values.dtype == np.float32
    stamps, values = view[1:].samples("cam")
    assert (stamps - START).tolist() == [0, 100 * MS, 200 * MS]
    assert np.array_equal(values, [image(0), image(1), image(2)])
    assert view.samples("force")[1].tolist() == [1, 2]


def test_samples_of_steps_that_say_all(dataset):
    with dataset.new_episode() as episode:
        for number in range(4):
            episode.add_step({"x": number, "cam": image(number), **({} if number == 1 else {"rare": 1.0})}, START + number * MS)
    (view,) = dataset.episodes
    assert (view.samples("rare")[0] - START).tolist() == [0, 2 * MS, 3 * MS]
    assert view.samples("x")[1].tolist() == [0, 1, 2, 3]
    assert np.array_equal(view.samples("cam")[1], view["cam"])


def test_samples_that_there_are_not(dataset, bridge_dir):
    with pytest.raises(FeatureNotFoundError, match="tcp"):
        record(dataset).samples("tpc")
    dataset.load_rtx_episodes(bridge_dir, split="train[:1]")
    with pytest.raises(SelectionError, match=r"has no times, so none of samples; its values are view\['action'\]"):
        dataset.episodes[-1].samples("action")


def test_the_picture_shows_which_sample_each_step_took(dataset):
    view = record(dataset)
    rows = {row.get_title("left"): row for row in view.plot().axes}
    assert list(rows) == ["cam", "action", "force", "tcp (m)"]
    assert links(rows["cam"]) == [[[t, 1.0], [t, 0.0]] for t in (0.0, 0.1, 0.2)]
    assert np.allclose(links(rows["action"]), [[[t + 0.015, v], [t, v]] for t, v in ((0.0, 0), (0.1, 1), (0.2, 2))])
    assert links(rows["force"]) == [[[0.09, 1.0], [0.1, 1.0]], [[0.19, 2.0], [0.2, 2.0]]]
    assert [time for ((time, _),) in drawn(rows["force"], "gaps")] == [0.0]
    x, y = drawn(rows["tcp (m)"], "steps")
    assert np.allclose(x, [[0, 0], [0.1, 100], [0.2, 200]])
    assert np.allclose(y, [[0, 0], [0.1, -100], [0.2, -200]])
    assert [text.get_text() for text in rows["tcp (m)"].texts] == ["x", "y"]
    told = [row.get_title("right") for row in rows.values()]
    assert told == [
        "10/s, its samples are the steps",
        "10/s, the first from the step on",
        "10/s, the newest up to the step, 0.02 s at most",
        "25/s, between two, linear",
    ]


def test_latency_is_taken_off(dataset):
    view = record(dataset, latency_s={"action": 0.015})
    (row,) = view.plot("action").axes
    assert np.allclose(links(row), [[[t, v], [t, v]] for t, v in ((0.0, 0), (0.1, 1), (0.2, 2))])


def test_a_slice_and_a_stretch(dataset):
    view = record(dataset)
    (row,) = view[1:].plot("cam").axes
    assert drawn(row, "steps") == [[[0.1, 0.0], [0.2, 0.0]]]
    (row,) = view.plot("tcp", start_s=0.05, stop_s=0.15).axes
    assert [len(points) for points in drawn(row, "steps")] == [1, 1]
    assert np.allclose(np.array(drawn(row, "samples")[0])[:, 0], [0.08, 0.12])
    for stop_s in (1, 2):
        with pytest.raises(SelectionError, match=rf"plot from 2 s to {stop_s} s: that is no stretch of time"):
            view.plot(start_s=2, stop_s=stop_s)


def test_steps_made_anew_are_drawn(dataset):
    view = record(dataset).aligned(fox.Align(reference="action"))
    rows = {row.get_title("left"): row for row in view.plot().axes}
    assert np.allclose(links(rows["cam"]), [[[t, 1.0], [t + 0.015, 0.0]] for t in (-0.015, 0.085, 0.185)])
    assert rows["action"].get_title("right") == "10/s, its samples are the steps"
    assert np.allclose(drawn(rows["force"], "gaps")[0], [[0.0, 0.1]])


def test_steps_without_a_policy_and_without_times(dataset, bridge_dir):
    with dataset.new_episode() as episode:
        for number in range(8):
            episode.add("x", float(number))
            if number != 2:
                episode.add("text", f"{number}")
    x, text = dataset.episodes[0].plot().axes
    assert [value for _, value in drawn(x, "steps")[0]] == list(range(8))
    assert len(drawn(text, "gaps")[0]) == 1
    dataset.load_rtx_episodes(bridge_dir, split="train[:1]")
    figure = dataset.episodes[-1].plot(["action", "observation/image_0", "language_instruction"])
    assert [point[0] for point in drawn(figure.axes[0], "steps")[0]] == list(range(10))
    assert figure.axes[-1].get_xlabel() == "steps"
    assert figure.axes[0].get_title("right") == "4 of 7 elements"


def test_what_cannot_be_plotted(dataset):
    view = record(dataset)
    with pytest.raises(FeatureNotFoundError, match="camera"):
        view.plot(["camera"])
    with pytest.raises(SelectionError, match="nothing to plot"):
        view.plot([])
    with pytest.raises(SelectionError, match="0 steps; there is nothing to plot"):
        view[:0].plot()
    with pytest.raises(FeatureNotFoundError, match="no feature 3; there are: "):
        view.plot(3)
    with pytest.raises(FeatureError, match="start_s is a finite number up to 1000000000, found '1'"):
        view.plot(start_s="1")
    with pytest.raises(FeatureError, match="stop_s is a finite number up to 1000000000, found nan"):
        view.plot(stop_s=float("nan"))


def test_it_is_all_drawn(dataset, tmp_path):
    record(dataset).plot().savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
