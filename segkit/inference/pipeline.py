"""Reading before and writing behind the network, each in a thread of its own, with bounded waiting.

Decoding and encoding run outside Python's lock, so the network hardly waits for either.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self, TypeVar

T = TypeVar("T")


class ReaderThread(Iterator[tuple[T, int]]):
    """Items as a thread reads them, each with the number of those dropped just before it.

    A context: on leaving it the thread stops, after the item it is at.

    Args:
        items: read in the thread; what it raises is raised here.
        most: items that wait at once.
        drop: when that many wait, drop the oldest in place of pausing: for a camera, which does not pause.
    """

    def __init__(self, items: Iterable[T], *, most: int = 2, drop: bool = False) -> None:
        self.items, self.most, self.drop = items, 1 if drop else most, drop
        self.waiting: deque[T] = deque()
        self.changed = threading.Condition()
        self.dropped, self.ended, self.stopped = 0, False, False
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        try:
            for item in self.items:
                with self.changed:
                    self.changed.wait_for(lambda: self.stopped or self.drop or len(self.waiting) < self.most)
                    if self.stopped:
                        break
                    if len(self.waiting) == self.most:
                        self.waiting.popleft()
                        self.dropped += 1
                    self.waiting.append(item)
                    self.changed.notify_all()
        except BaseException as error:  # whatever reading meets is raised where the items are used
            self.error = error
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def __next__(self) -> tuple[T, int]:
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or self.ended)
            if not self.waiting:
                if self.error is not None:
                    raise self.error
                raise StopIteration
            item, dropped, self.dropped = self.waiting.popleft(), self.dropped, 0
            self.changed.notify_all()
            return item, dropped

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self.changed:
            self.stopped = True
            self.changed.notify_all()
        self.thread.join(5)  # a camera that hangs is left to the end of the process


class WriterThread:
    """Calls made one after the other in a thread; at most ``most`` wait.

    A context: on leaving it all are done. What one raises is raised by the next ``submit``, or on leaving.
    """

    def __init__(self, *, most: int = 2) -> None:
        self.most = most
        self.pool = ThreadPoolExecutor(1)
        self.waiting: deque[Future[None]] = deque()

    def submit(self, call: Callable[..., None], *given: Any, **named: Any) -> None:
        """Make a call when those before it are done."""
        while len(self.waiting) >= self.most or (self.waiting and self.waiting[0].done()):
            self.waiting.popleft().result()
        self.waiting.append(self.pool.submit(call, *given, **named))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.pool.shutdown()
        if kind is None:
            for call in self.waiting:
                call.result()
