"""Takes out of a run's event files what lies beyond the checkpoint that the run goes on from.

TensorBoard forgets such points by itself where it can (a restart is written for it), but not texts, and not
those of the checkpoint's own iteration, so after some kills they stood there more than once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from segkit.system import files

HEAD = struct.Struct("<QI")  # a record of TensorFlow: length and its checksum, content and its checksum
FOOT = 4


def rewind(folder: Path, keep: Callable[[int, str], bool]) -> None:
    """Rewrite the event files of a folder without some of their points; a file cut short loses its stump.

    Args:
        folder: the run's.
        keep: given the iteration and the tag of a point, whether it stays.
    """
    from tensorboard.compat.proto import event_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    message = cast(Any, event_pb2).Event
    for path in sorted(folder.glob("events.out.tfevents.*")):
        contents = list(records(path))
        events = [message.FromString(content) for content in contents]
        left = [kept for kept in (_without(event, keep) for event in events) if kept is not None]
        if left != events:
            with files.whole(path) as file:
                writer = RecordWriter(file)
                for event in left:
                    writer.write(event.SerializeToString())


def records(path: Path) -> Iterator[bytes]:
    """The contents of the whole records of an event file."""
    with path.open("rb") as file:
        while len(head := file.read(HEAD.size)) == HEAD.size:
            length, _ = HEAD.unpack(head)
            content = file.read(length)
            if len(content) < length or len(file.read(FOOT)) < FOOT:
                return
            yield content


def _without(event: Any, keep: Callable[[int, str], bool]) -> Any | None:
    """The event with the points that stay, or None if none does."""
    if not event.HasField("summary"):
        return event
    values = [value for value in event.summary.value if keep(event.step, value.tag)]
    if len(values) == len(event.summary.value):
        return event
    if not values:
        return None
    kept = type(event)()
    kept.CopyFrom(event)
    del kept.summary.value[:]
    kept.summary.value.extend(values)
    return kept
