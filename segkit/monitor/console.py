"""Console output of a run: one progress line on a terminal, plain lines elsewhere; ``train.log`` has both."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from tqdm import tqdm

from segkit.runtime.text import format_clock

LOG = logging.getLogger("segkit")
LINE_SECONDS = 20  # between plain progress lines


class Console:
    """Prints progress and the log of ``segkit``, and appends both to a file."""

    def __init__(self, file: Path, *, start: int, total: int) -> None:
        self.start, self.total = start, total
        self.start_time = time.perf_counter()
        self.last_line_time = -float("inf")
        self.bar = tqdm(
            total=total,
            initial=start,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar:8}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
        )
        self.file = logging.FileHandler(file, encoding="utf-8")
        self.file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        self.handlers = [self.file, _TqdmHandler()]
        self.before = LOG.level, LOG.propagate
        LOG.setLevel(logging.INFO)
        LOG.propagate = False  # no second line from the root logger
        for handler in self.handlers:
            LOG.addHandler(handler)

    def advance(self, iteration: int) -> None:
        """Set the number of iterations done."""
        self.bar.update(iteration - self.bar.n)

    def progress(self, iteration: int, facts: str) -> None:
        """Show the latest values; without a bar, as a line every ``LINE_SECONDS``."""
        self.bar.set_postfix_str(facts, refresh=False)
        now = time.perf_counter()
        if now - self.last_line_time < LINE_SECONDS and iteration != self.total:
            return
        self.last_line_time = now
        left = (now - self.start_time) / max(1, iteration - self.start) * (self.total - iteration)
        share = f"{iteration}/{self.total} ({100 * iteration // self.total} %)"
        line = f"{share}: {facts}, {format_clock(left)} left"
        if self.bar.disable:
            LOG.info(line)
        else:
            self.file.handle(LOG.makeRecord(LOG.name, logging.INFO, __file__, 0, line, (), None))

    def close(self) -> None:
        """End the progress line and restore the logger."""
        self.bar.close()
        level, LOG.propagate = self.before
        LOG.setLevel(level)
        for handler in self.handlers:
            LOG.removeHandler(handler)
            handler.close()


class _TqdmHandler(logging.Handler):
    """Prints log lines above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
