"""Images are encoded by other threads: in order, bounded, and without losing any."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import fogx as fox
from fogx.codecs.jpeg import JpegCodec
from fogx.codecs.zstd import ZstdCodec
from fogx.errors import EpisodeClosedError, FeatureError, QueueFullError, UnknownNameError
from fogx.feature import LARGE
from fogx.recording import encoding, values
from tests.recording.test_episode import PHOTO, Sink

fox.config(progress=False)


@pytest.fixture
def sink():
    return Sink()


@pytest.fixture
def gate(monkeypatch):
    """Let encoders of JPEG wait until the event is set, but for the first image of a shape, which `add` encodes itself."""
    event, real = threading.Event(), JpegCodec.encode
    monkeypatch.setattr(encoding, "_encoded", {})

    def encode(self, value):
        if threading.current_thread().name.startswith("fogx encoder"):
            assert event.wait(30)
        return real(self, value)

    monkeypatch.setattr(JpegCodec, "encode", encode)
    yield event
    event.set()


def photo(number):
    image = PHOTO.copy()
    image[:8, :8] = number
    return image


def shown(blob):
    from fogx.registry import get

    return round(float(get("codecs", "jpeg").decode(blob, fox.Feature("uint8", PHOTO.shape))[2:6, 2:6].mean()))


def test_frames_are_in_the_order_of_add_however_long_each_takes(sink, monkeypatch):
    real = JpegCodec.encode

    def encode(self, value):
        time.sleep(0.02 * (value[0, 0, 0] % 3 == 0))
        return real(self, value)

    monkeypatch.setattr(JpegCodec, "encode", encode)
    with sink.episode() as episode:
        for number in range(24):
            episode.add_step({"left": photo(number), "right": photo(number + 100), "number": number})
    columns = sink.sealed[0].columns
    assert [shown(blob) for blob in columns["left"].values] == list(range(24))
    assert [shown(blob) for blob in columns["right"].values] == list(range(100, 124))
    assert columns["number"].values.tolist() == list(range(24))


def test_what_a_codec_took_once_no_add_of_this_process_encodes(tmp_path, gate, monkeypatch):
    dataset = fox.Dataset(tmp_path / "lab")
    episodes = [dataset.new_episode() for _ in range(3)]
    episodes[0].add("image", photo(1))
    episodes[1].add("image", photo(2))
    assert episodes[0]._held.frames.encoding.drain(limit_s=30) is None
    assert [episode._held.frames.encoding.waiting[0] for episode in episodes[:2]] == [0, 1]
    monkeypatch.setattr(fox.settings, "_current", fox.config())
    fox.config(max_pixels=PHOTO.shape[0] * PHOTO.shape[1] - 1)
    with pytest.raises(FeatureError, match="pixels"):
        episodes[2].add("image", photo(3))
    gate.set()
    for episode in episodes:
        episode.discard()


def test_clouds_of_points_are_encoded_by_add_up_to_the_largest(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "_encoded", {})
    threads, real = [], ZstdCodec.encode

    def encode(self, value):
        threads.append(threading.current_thread().name.startswith("fogx encoder"))
        return real(self, value)

    monkeypatch.setattr(ZstdCodec, "encode", encode)
    dataset = fox.Dataset(tmp_path / "lab", features={"points": fox.Feature("float32", (None, 3), encoding="zstd")})
    with dataset.new_episode() as episode:
        for count in (5_000, 4_000, 6_000, 5_500):
            episode.add("points", np.ones((count, 3), np.float32))
            episode._held.frames.encoding.drain(limit_s=30)
    assert threads == [False, True, False, True]


def test_a_large_array_is_copied_while_others_add(tmp_path, monkeypatch):
    real, added = values._array, threading.Event()

    def copied(name, array):
        if array.nbytes > LARGE:
            assert added.wait(30)
        return real(name, array)

    monkeypatch.setattr(values, "_array", copied)
    with fox.Dataset(tmp_path / "lab").new_episode() as episode:
        camera = threading.Thread(target=episode.add, args=("image", photo(1), 1_000))
        camera.start()
        episode.add("joints", np.zeros(7), 1_000)
        added.set()
        camera.join()
    assert [len(episode_view) for episode_view in fox.Dataset(tmp_path / "lab").episodes] == [1]


def test_sixty_rounds_of_scalar_image_scalar(tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")
    with dataset.new_episode() as episode:
        for number in range(60):
            episode.add("before", number)
            episode.add("image", photo(number))
            episode.add("after", float(number))
    (view,) = fox.Dataset(dataset.path).episodes
    assert view.num_steps == 60
    assert view["before"].tolist() == view["after"].tolist() == list(range(60))
    assert [round(float(image[2:6, 2:6].mean())) for image in view["image"]] == list(range(60))


def test_changing_an_image_after_add_changes_nothing(sink, gate):
    episode, image = sink.episode(), photo(7)
    for _ in range(3):
        episode.add("image", image)
    image[:] = 0
    gate.set()
    episode.close()
    assert [shown(blob) for blob in sink.sealed[0].columns["image"].values] == [7, 7, 7]


@pytest.mark.filterwarnings("ignore:.*are missing after alignment:UserWarning")  # all come within one thread's turn
def test_add_waits_for_room_while_others_go_on(sink, gate, monkeypatch):
    monkeypatch.setattr(encoding, "QUEUE_VALUES", 2)
    episode = sink.episode(align=fox.Align(reference="image"))
    for number in range(3):
        episode.add("image", photo(number))
    adding = threading.Thread(target=episode.add, args=("image", photo(3)))
    adding.start()
    time.sleep(0.05)
    assert adding.is_alive()
    episode.add("joint", 1.0)  # another sensor does not wait
    assert "2 values" in repr(episode)
    gate.set()
    adding.join(10)
    episode.close()
    (data,) = sink.sealed
    assert [shown(blob) for blob in data.columns["image"].values] == [0, 1, 2, 3]


def test_one_larger_than_all_the_room_waits_for_the_others(sink, monkeypatch):
    monkeypatch.setattr(encoding, "QUEUE_BYTES", 10)
    with sink.episode() as episode:
        for number in range(4):
            episode.add("image", photo(number))
    assert [shown(blob) for blob in sink.sealed[0].columns["image"].values] == [0, 1, 2, 3]


def test_where_asked_for_add_raises_instead(sink, gate, monkeypatch):
    monkeypatch.setattr(encoding, "QUEUE_VALUES", 2)
    episode = sink.episode(on_full="raise")
    for number in range(3):
        episode.add_step({"image": photo(number), "number": number})
        if not number:
            episode._held.frames.encoding.drain()  # the first one, which is encoded already, is out of the queue
    for _ in range(2):
        with pytest.raises(QueueFullError, match=r"feature image: 2 values of 18432 bytes wait .* on_full='wait'"):
            episode.add_step({"image": photo(3), "number": 3})
    gate.set()
    episode._held.frames.encoding.drain()
    episode.add_step({"image": photo(3), "number": 3})
    episode.close()
    (data,) = sink.sealed
    assert data.num_steps == 4
    assert data.columns["number"].values.tolist() == [0, 1, 2, 3]


def test_closed_while_another_thread_waits_for_room(sink, gate, monkeypatch):
    monkeypatch.setattr(encoding, "QUEUE_VALUES", 1)
    episode, raised = sink.episode(), []
    episode.add("image", photo(0))
    episode.add("image", photo(1))

    def add():
        try:
            episode.add("image", photo(2))
        except EpisodeClosedError as error:
            raised.append(error)

    adding = threading.Thread(target=add)
    adding.start()
    time.sleep(0.05)
    episode.discard()
    gate.set()
    adding.join(10)
    assert len(raised) == 1


def test_options_that_there_are_not(tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")
    with pytest.raises(UnknownNameError, match="on_full='drop' is not known; use one of: wait, raise"):
        dataset.new_episode(on_full="drop")
    with pytest.raises(UnknownNameError, match="on_bad_value=None is not known; use one of: raise, quarantine"):
        dataset.new_episode(on_bad_value=None)


def failing(monkeypatch, numbers, error):
    real = JpegCodec.encode

    def encode(self, value):
        if value[0, 0, 0] in numbers:
            raise error
        return real(self, value)

    monkeypatch.setattr(JpegCodec, "encode", encode)


@pytest.mark.parametrize("error", [MemoryError("no room"), FeatureError("JPEG does not hold this."), RuntimeError("broken")])
def test_an_encoder_that_fails_is_told_once_and_costs_that_image_alone(sink, monkeypatch, error):
    failing(monkeypatch, [2, 5], error)
    episode = sink.episode()
    for number in range(4):
        episode.add_step({"image": photo(number), "number": number})
        episode._held.frames.encoding.drain()
        if number == 2:
            with pytest.raises(FeatureError, match=rf"feature 'image': .*{error}.*1 value\(s\) of image .* left out"):
                episode.add_step({"image": photo(3), "number": 3})
    episode.add_step({"image": photo(5), "number": 5})
    with pytest.raises(FeatureError, match="feature 'image': "):
        episode.close()
    assert not episode.closed
    episode.close()
    (data,) = sink.sealed
    assert data.num_steps == 5
    image = data.columns["image"]
    assert image.valid.tolist() == [True, True, False, True, False]
    assert [shown(blob) for blob in image.values[image.valid]] == [0, 1, 3]


def test_a_failing_encoder_is_counted_where_values_are_quarantined(sink, monkeypatch):
    failing(monkeypatch, [1, 2], RuntimeError("broken"))
    episode = sink.episode(on_bad_value="quarantine")
    for number in range(4):
        episode.add_step({"image": photo(number), "number": number})
    with pytest.warns(UserWarning, match="2 values were refused and left out: 2 of 'image'"):
        episode.close()
    assert sink.sealed[0].metadata["quarantined"] == {"image": {"count": 2, "first_error": "broken"}}


def test_several_episodes_at_once(tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")

    def take(number):
        with dataset.new_episode({"number": number}) as episode:
            for i in range(20):
                episode.add_step({"image": photo(number * 20 + i), "i": i})

    threads = [threading.Thread(target=take, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    dataset = fox.Dataset(dataset.path)
    for view in dataset.episodes:
        number = int(view.metadata["number"])
        want = [number * 20 + i for i in range(20)]
        assert [round(float(image[2:6, 2:6].mean())) for image in view["image"]] == want


def test_a_forked_child_records_on_its_own(tmp_path):
    dataset = fox.Dataset(tmp_path / "lab")
    episode = dataset.new_episode()
    for number in range(8):
        episode.add("image", photo(number))
    pid = os.fork()
    if pid == 0:
        sink = Sink()
        mine = sink.episode()
        for number in range(8):
            mine.add("image", photo(number))
        mine.close()
        right = [shown(blob) for blob in sink.sealed[0].columns["image"].values] == list(range(8))
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    episode.close()
    assert fox.Dataset(dataset.path).episodes[0]["image"].shape[0] == 8


CHILD = """
    import sys, numpy as np, fogx as fox
    fox.config(progress=False)
    episode = fox.Dataset(sys.argv[1]).new_episode()
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    for i in range(30):
        episode.add_step({"image": image, "i": i})
    if sys.argv[2] == "wait":
        print("full", flush=True)
        from fogx.recording import encoding
        encoding.QUEUE_VALUES = 1
        while True:
            episode.add_step({"image": image, "i": 0})
"""


def test_an_interpreter_that_ends_encodes_what_waits_and_leaves_the_journal(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(CHILD), str(tmp_path / "lab"), "end"]
    subprocess.run(command, check=True, timeout=60, stderr=subprocess.DEVNULL)
    assert fox.Dataset(tmp_path / "lab").recover()["outcome"].tolist() == ["saved"]
    (view,) = fox.Dataset(tmp_path / "lab").episodes
    assert view["i"].tolist() == list(range(30))
    assert view["image"].shape == (30, 480, 640, 3)


def test_ctrl_c_while_add_waits(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(CHILD), str(tmp_path / "lab"), "wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "full\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode in (-signal.SIGINT, 1)
    assert "KeyboardInterrupt" in said
    assert fox.Dataset(tmp_path / "lab").recover()["outcome"].tolist() == ["saved"]
