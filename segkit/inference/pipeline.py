"""Threads that read inputs before and write outputs behind the network, with bounded queues.

Decoding and encoding release Python's lock, so the network hardly waits for either.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
END: Any = object()
AHEAD = 2  # items that wait; with one, the network waits after each image that is slow to read


def read_ahead(items: Iterable[T]) -> Generator[T]:
    """Yield items that a thread reads in advance; its errors are raised in their place."""
    iterator = iter(items)
    with ThreadPoolExecutor(1) as pool:
        pending = deque(pool.submit(next, iterator, END) for _ in range(AHEAD))
        while (item := pending.popleft().result()) is not END:
            pending.append(pool.submit(next, iterator, END))
            yield item


def read_newest(items: Iterable[T]) -> Generator[T]:
    """Yield the newest item whenever the caller is free; for cameras, which do not wait.

    A thread reads the items. Of those that arrive in the meantime, all but the last are dropped. Closing the
    generator ends the thread after its current item.
    """
    newest: queue.Queue[Any] = queue.Queue()
    is_closed = threading.Event()

    def read() -> None:
        try:
            for item in items:
                with contextlib.suppress(queue.Empty):
                    newest.get_nowait()
                newest.put(item)
                if is_closed.is_set():
                    break
            newest.put(END)
        except BaseException as error:  # raised by the caller's thread
            newest.put(error)

    thread = threading.Thread(target=read, daemon=True)  # a camera that hangs ends with the process
    thread.start()
    try:
        while (item := newest.get()) is not END:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        is_closed.set()
        thread.join(5)  # while a thread is inside OpenCV, Python cannot exit cleanly


@contextlib.contextmanager
def write_behind() -> Iterator[Callable[..., None]]:
    """Yield a function ``submit(fn, *args, **kwargs)`` that makes calls in a thread, in order.

    It waits while ``AHEAD`` calls are queued. Leaving the context waits for all. An exception of a call is
    raised by a later ``submit`` or on leaving.
    """
    with ThreadPoolExecutor(1) as pool:
        calls = deque[Any]()

        def submit(fn: Callable[..., None], *args: Any, **kwargs: Any) -> None:
            while len(calls) >= AHEAD or (calls and calls[0].done()):
                calls.popleft().result()
            calls.append(pool.submit(fn, *args, **kwargs))

        yield submit
        for call in calls:
            call.result()
