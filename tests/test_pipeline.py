"""Reader and writer threads: order, bounds, errors, dropped frames."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import segkit
from segkit.inference import pipeline, predict_files
from segkit.inference.video import Video


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers()))
def test_threads_keep_items_and_order(items):
    done = []
    with pipeline.write_behind() as submit:
        for item in pipeline.read_ahead(items):
            submit(done.append, item)
    assert done == items


def test_reader_stays_within_its_bound():
    read = []
    reader = pipeline.read_ahead(read.append(i) or i for i in itertools.count())
    for wanted in range(5):
        assert next(reader) == wanted
        time.sleep(0.02)
        assert len(read) <= wanted + 1 + pipeline.AHEAD
    reader.close()  # waits for the items that are being read
    assert len(read) == 5 + pipeline.AHEAD


@pytest.mark.parametrize("read", [pipeline.read_ahead, pipeline.read_newest])
def test_reader_raises_errors_of_the_items(read):
    def broken():
        yield 1
        time.sleep(0.2)
        raise ValueError("the file ends here")

    reader = read(broken())
    assert next(reader) == 1
    with pytest.raises(ValueError, match="the file ends here"):
        next(reader)


def test_closing_a_reader_of_the_newest_ends_its_thread():
    before = threading.enumerate()
    reader = pipeline.read_newest(itertools.count())
    next(reader)
    reader.close()
    assert threading.enumerate() == before


@pytest.mark.parametrize("more", [0, 5])
def test_writer_raises_errors_of_calls(more):
    def full():
        raise OSError("no space left on device")

    def write():
        with pipeline.write_behind() as submit:
            submit(full)
            for _ in range(more):
                submit(time.sleep, 0.01)

    with pytest.raises(OSError, match="no space left"):
        write()


class Camera:
    """Frames of growing brightness; each prediction lets some pass."""

    source, endless, rate, length = 0, True, 10.0, None

    def __init__(self, passing):
        self.passing, self.free = passing, threading.Semaphore(1)

    def __iter__(self):
        for n in range(sum(self.passing)):
            self.free.acquire()
            yield n, np.full((32, 32, 3), n, np.uint8)


@pytest.mark.medium
def test_camera_video_repeats_dropped_frames(tiny_run, tmp_path, monkeypatch):
    passing = [1, 4, 1, 3]
    camera, times = Camera(passing), iter(passing[1:])
    predictor = segkit.load(tiny_run / "best.pt", device="cpu")
    own = predictor.predict

    def slow(image):
        for _ in range(next(times, 0)):
            camera.free.release()
        time.sleep(0.3)
        return own(image)

    monkeypatch.setattr(predictor, "predict", slow)
    how = {"kinds": ["colors", "ids"], "resume": False}
    outcome = predict_files.predict_video(predictor, camera, tmp_path, "camera0", **how)
    assert str(outcome).endswith("0 failed (5 more were dropped while the network was busy)")
    frames = sorted((tmp_path / "ids/camera0").iterdir())
    assert [int(frame.stem) for frame in frames] == [0, 4, 5, 8]
    assert len(list(Video(tmp_path / "colors/camera0.mp4"))) == sum(passing)
