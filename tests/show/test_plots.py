"""What is drawn, by the artists of the figure: dots, rings, links, gaps, images."""

import itertools
import sys

import numpy as np
import pytest
from matplotlib.offsetbox import AnnotationBbox

from fogx.errors import MissingExtraError
from fogx.show.plots import MOST_ELEMENTS, MOST_LINKS, MOST_POINTS, Track, alignment
from tests.show.artists import drawn, links


def held(**changes):
    given = {
        "name": "force (N)",
        "rule": "the newest up to the step",
        "sent_s": np.array([0.0, 0.4, 1.5]),
        "sent": np.array([[1.0], [2.0], [3.0]]),
        "taken": np.array([0, 1, -1]),
        "at_steps": np.array([[1.0], [2.0], [0.0]]),
    }
    return Track(**{**given, **changes})


STEPS = np.array([0.1, 0.5, 1.0])


def test_samples_are_dots_steps_are_rings_and_each_is_linked_to_its_sample():
    figure = alignment("title", "seconds", STEPS, [held()], 0.0, 2.0)
    (row,) = figure.axes
    assert drawn(row, "samples") == [[[0.0, 1.0], [0.4, 2.0], [1.5, 3.0]]]
    assert drawn(row, "steps") == [[[0.1, 1.0], [0.5, 2.0]]]
    assert links(row) == [[[0.0, 1.0], [0.1, 1.0]], [[0.4, 2.0], [0.5, 2.0]]]
    assert [time for ((time, _),) in drawn(row, "gaps")] == [1.0]
    assert row.get_title("left") == "force (N)"
    assert row.get_title("right") == "1.33/s, the newest up to the step"
    assert row.get_xlabel() == "seconds"
    assert figure.get_suptitle() == "title"
    assert len(figure.legends[0].get_texts()) == 4


def test_only_what_is_in_sight_is_drawn():
    (row,) = alignment("", "", STEPS, [held()], 0.4, 1.0).axes
    assert drawn(row, "samples") == [[[0.4, 2.0]]]
    assert drawn(row, "steps") == [[[0.5, 2.0]]]
    assert drawn(row, "gaps") == []


def test_interpolated_steps_lie_on_the_lines_between_samples_in_order_of_time():
    track = held(interpolated=True, sent_s=np.array([0.4, 0.0, 1.5]), sent=np.array([[2.0], [1.0], [3.0]]))
    (row,) = alignment("", "", STEPS, [track], 0.0, 2.0).axes
    assert drawn(row, "between") == [[[0.0, 1.0], [0.4, 2.0], [1.5, 3.0]]]
    assert links(row) == []


def test_elements_have_colours_and_names_up_to_a_number_of_them():
    values = np.arange(18.0).reshape(3, 6)
    track = held(sent=values, at_steps=values, elements=("a", "b", "c", "d", "e", "f"))
    (row,) = alignment("", "", STEPS, [track], 0.0, 2.0).axes
    assert len(drawn(row, "samples")) == MOST_ELEMENTS
    assert len({line.get_color() for line in row.get_lines() if line.get_label() == "steps"}) == MOST_ELEMENTS
    assert [text.get_text() for text in row.texts] == ["a", "b", "c", "d"]
    assert row.get_title("right").endswith("4 of 6 elements")


def test_images_stand_above_their_samples_side_by_side():
    asked = []

    def picture(number):
        asked.append(number)
        return np.full((600, 800, 3), number % 256, np.uint8)

    times = np.linspace(0, 2, 500)
    track = held(sent_s=times, sent=None, at_steps=None, taken=np.array([25, -1, 250]), picture=picture)
    figure = alignment("", "", STEPS, [track, held()], 0.0, 2.0)
    row = figure.axes[0]
    boxes = [child for child in row.get_children() if isinstance(child, AnnotationBbox)]
    assert 3 < len(boxes) < 12
    assert len(asked) == len(boxes) + 1  # one more tells the size
    assert all(box.offsetbox.get_data().shape[0] <= 250 for box in boxes)
    figure.draw_without_rendering()
    areas = [box.get_window_extent() for box in boxes]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(areas))
    assert all(row.get_window_extent().contains(*corner) for area in areas for corner in area.corners())
    assert links(row) == [[[times[25], 1.0], [0.1, 0.0]], [[times[250], 1.0], [1.0, 0.0]]]
    assert [text.get_text() for text in row.get_yticklabels()] == ["steps", "samples"]


def test_depth_and_text_are_drawn():
    depth = held(sent=None, at_steps=None, picture=lambda number: np.full((48, 64, 1), number, np.uint16))
    text = held(sent=None, at_steps=None, rule="")
    figure = alignment("", "", STEPS, [depth, text], 0.0, 2.0)
    figure.draw_without_rendering()
    assert len([child for child in figure.axes[0].get_children() if isinstance(child, AnnotationBbox)]) == 2
    assert drawn(figure.axes[1], "samples") == [[[0.0, 1.0], [0.4, 1.0], [1.5, 1.0]]]
    assert figure.axes[1].get_title("right") == ""


@pytest.mark.parametrize("count", [MOST_LINKS, MOST_LINKS + 1, MOST_POINTS, MOST_POINTS + 1, 10 * MOST_POINTS + 1])
def test_never_more_than_so_many_points(count):
    times = np.arange(count) / 100
    values = np.sin(times)[:, None]
    track = held(sent_s=times, sent=values, at_steps=values, taken=np.arange(count))
    (row,) = alignment("", "", times, [track], 0.0, count / 100).axes
    for label in ("samples", "steps"):
        (points,) = drawn(row, label)
        assert len(points) == min(count, len(points)) <= MOST_POINTS
        assert len(points) >= min(count, MOST_POINTS // 2)
    assert len(links(row)) == (count if count <= MOST_LINKS else 0)
    told = f"{len(drawn(row, 'samples')[0])} of {count} samples drawn"
    assert row.get_title("right").endswith(told) == (count > MOST_POINTS)


def test_a_feature_without_samples_is_all_gaps():
    none = held(sent_s=np.zeros(0), sent=np.zeros((0, 1)), taken=np.full(3, -1), at_steps=np.zeros((3, 1)))
    (row,) = alignment("", "", STEPS, [none], 0.0, 2.0).axes
    assert [time for time, _ in drawn(row, "gaps")[0]] == STEPS.tolist()


def test_one_moment(tmp_path):
    track = held(sent_s=np.zeros(1), sent=np.ones((1, 1)), taken=np.zeros(1, int), at_steps=np.ones((1, 1)))
    alignment("", "", np.zeros(1), [track], 0.0, 1e-9).savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"plot\(\) needs the package 'matplotlib'.*pip install 'fogx\[plot\]'"):
        alignment("", "", STEPS, [held()], 0.0, 1.0)
