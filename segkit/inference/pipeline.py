"""Threads that read inputs before and write outputs behind the network, with bounded queues.

Decoding and encoding release Python's lock, so the network hardly waits for either.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self, TypeVar

T = TypeVar("T")


class ReaderThread(Iterator[tuple[T, int]]):
    """Items read by a thread, each with the number of items dropped just before it.

    A context manager: leaving it stops the thread after its current item.

    Args:
        items: iterated in the thread; its exceptions are raised here, after the items before them.
        most: size of the queue.
        drop: when the queue is full, drop the oldest item instead of waiting; for cameras, which do not wait.
    """

    def __init__(self, items: Iterable[T], *, most: int = 2, drop: bool = False) -> None:
        self.items, self.most, self.drop = items, most, drop
        if drop:
            self.most = 1
        self.queue: deque[T] = deque()
        self.changed = threading.Condition()
        self.dropped, self.has_ended, self.is_stopped = 0, False, False
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        try:
            for item in self.items:
                with self.changed:
                    self.changed.wait_for(lambda: self.is_stopped or self.drop or len(self.queue) < self.most)
                    if self.is_stopped:
                        break
                    if len(self.queue) == self.most:
                        self.queue.popleft()
                        self.dropped += 1
                    self.queue.append(item)
                    self.changed.notify_all()
        except BaseException as error:  # raised by __next__
            self.error = error
        with self.changed:
            self.has_ended = True
            self.changed.notify_all()

    def __next__(self) -> tuple[T, int]:
        with self.changed:
            self.changed.wait_for(lambda: self.queue or self.has_ended)
            if not self.queue:
                raise self.error or StopIteration
            item = self.queue.popleft()
            dropped, self.dropped = self.dropped, 0
            self.changed.notify_all()
            return item, dropped

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self.changed:
            self.is_stopped = True
            self.changed.notify_all()
        self.thread.join(5)  # a camera that hangs ends with the process


class WriterThread:
    """A thread that makes calls in order; at most ``most`` are queued.

    A context manager: leaving it waits for all calls. An exception of a call is raised by the next ``submit``
    or on leaving.
    """

    def __init__(self, *, most: int = 2) -> None:
        self.most = most
        self.pool = ThreadPoolExecutor(1)
        self.queue: deque[Future[None]] = deque()

    def submit(self, fn: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Queue a call; waits while the queue is full."""
        while len(self.queue) >= self.most or (self.queue and self.queue[0].done()):
            self.queue.popleft().result()
        self.queue.append(self.pool.submit(fn, *args, **kwargs))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.pool.shutdown()
        if kind is None:
            for call in self.queue:
                call.result()
