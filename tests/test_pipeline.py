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
from segkit.inference import predict_files
from segkit.inference.pipeline import ReaderThread, WriterThread
from segkit.inference.video import Video


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers()), st.integers(1, 4))
def test_reader_thread_keeps_items_and_order(items, most):
    with ReaderThread(iter(items), most=most) as reading:
        assert list(reading) == [(item, 0) for item in items]


def test_reader_thread_waits_when_the_queue_is_full():
    read = []
    items = (read.append(i) or i for i in itertools.count())
    with ReaderThread(items, most=3) as reading:
        for wanted in range(5):
            assert next(reading)[0] == wanted
            time.sleep(0.02)
            assert len(read) <= wanted + 1 + 3 + 1  # given, waiting, and the one in hand
    assert not reading.thread.is_alive()


def test_reader_thread_raises_after_earlier_items():
    def broken():
        yield 1
        raise ValueError("the file ends here")

    with ReaderThread(broken()) as reading:
        assert next(reading) == (1, 0)
        with pytest.raises(ValueError, match="the file ends here"):
            next(reading)


def test_reader_thread_drops_old_camera_frames():
    taken, come = threading.Event(), threading.Event()

    def camera():
        yield 0
        taken.wait(10)
        yield from range(1, 6)
        come.set()
        threading.Event().wait(0.2)
        yield 6

    with ReaderThread(camera(), drop=True) as reading:
        assert next(reading) == (0, 0)
        taken.set()
        come.wait(10)
        assert next(reading) == (5, 4)
        assert next(reading) == (6, 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers()), st.integers(1, 4))
def test_writer_thread_makes_calls_in_order(items, most):
    done = []
    with WriterThread(most=most) as writing:
        for item in items:
            writing.submit(done.append, item)
    assert done == items


@pytest.mark.parametrize("more", [0, 5])
def test_writer_thread_raises_errors_of_calls(more):
    def full():
        raise OSError("no space left on device")

    def write():
        with WriterThread() as writing:
            writing.submit(full)
            for _ in range(more):
                writing.submit(time.sleep, 0.01)

    with pytest.raises(OSError, match="no space left"):
        write()


class Camera:
    """Frames of growing brightness; each prediction lets some pass."""

    source, endless, rate, length = 0, True, 10.0, None

    def __init__(self, passing):
        self.passing, self.free = passing, threading.Semaphore(1)
        self.shown = threading.Event()

    def __iter__(self):
        for n in range(sum(self.passing)):
            self.free.acquire()
            yield n, np.full((32, 32, 3), n, np.uint8)
        self.shown.set()


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
    outcome, dropped = predict_files.predict_video(predictor, camera, tmp_path, "camera0", **how)
    assert outcome.predicted + dropped == sum(passing)
    assert dropped == 5
    assert len(list(Video(tmp_path / "colors/camera0.mp4"))) == sum(passing)
    assert len(list((tmp_path / "ids/camera0").iterdir())) == outcome.predicted
