"""One progress line on a terminal, plain lines elsewhere, and everything said in the run's log file."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from tqdm import tqdm

LOG = logging.getLogger("segkit")
LINE_SECONDS = 20  # between plain progress lines


class Console:
    """Shows progress, and whatever is logged to ``segkit`` once on the screen and once in the file.

    Args:
        file: of the log, appended to.
        start: iterations done before.
        total: iterations in all.
    """

    def __init__(self, file: Path, *, start: int, total: int) -> None:
        self.start, self.total = start, total
        self.began = time.perf_counter()
        self.spoke = -float("inf")
        self.bar = tqdm(
            total=total,
            initial=start,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar:8}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
        )
        self.file = logging.FileHandler(file, encoding="utf-8")
        self.file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        self.handlers = [self.file, _AboveTheBar()]
        self.before = LOG.level, LOG.propagate
        LOG.setLevel(logging.INFO)
        LOG.propagate = False  # said once, whatever the root logger does
        for handler in self.handlers:
            LOG.addHandler(handler)

    def advance(self, iteration: int) -> None:
        """Count an iteration."""
        self.bar.update(iteration - self.bar.n)

    def progress(self, iteration: int, facts: str) -> None:
        """Show the latest figures; without a bar, as a line now and then."""
        self.bar.set_postfix_str(facts, refresh=False)
        now = time.perf_counter()
        if now - self.spoke < LINE_SECONDS and iteration != self.total:
            return
        self.spoke = now
        left = (now - self.began) / max(1, iteration - self.start) * (self.total - iteration)
        line = f"{iteration}/{self.total} ({100 * iteration // self.total} %): {facts}, {clock(left)} left"
        if self.bar.disable:
            LOG.info(line)
        else:
            self.file.handle(LOG.makeRecord(LOG.name, logging.INFO, __file__, 0, line, (), None))

    def close(self) -> None:
        """End the progress line and give the logger back as it was."""
        self.bar.close()
        LOG.setLevel(self.before[0])
        LOG.propagate = self.before[1]
        for handler in self.handlers:
            LOG.removeHandler(handler)
            handler.close()


class _AboveTheBar(logging.Handler):
    """Writes to standard output without tearing a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)


def clock(seconds: float) -> str:
    """Seconds as ``1:02:03``, or ``2:03`` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
