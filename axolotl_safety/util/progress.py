"""Progress of long work: one bar on a terminal, one line every half minute elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any

LINE_SECONDS = 30.0
_DRAWN_SECONDS = 0.1  # a bar that is drawn for every row costs more than the row


class ProgressLine:
    """Shows how many are done and how long the rest may take.

    Args:
        title: what is counted, ``rows`` for instance.
        total: how many there are.
        log: whose lines they are.
        shown: False shows nothing.
    """

    def __init__(self, title: str, total: int, log: logging.Logger, shown: bool = True):
        self.title, self.total, self.shown = title, total, shown
        self.count = 0
        self.started = self._said = time.monotonic()
        self._drawn = 0.0
        self._log = log
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Any:
        if sys.stderr.isatty() and self.shown:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[rate]}"), console=Console(stderr=True))
            self._task = self._bar.add_task(self.title, total=self.total, rate="")
            self._bar.start()
        return self

    def done(self) -> None:
        """One more is done."""
        self.count += 1
        now = time.monotonic()
        if self._bar is not None:
            if now - self._drawn > _DRAWN_SECONDS:
                self._drawn = now
                self._bar.update(self._task, completed=self.count, rate=self.rate(now))
        elif now - self._said > LINE_SECONDS and self.shown:
            self._said = now
            rate = f", {rate}" if (rate := self.rate(now)) else ""
            self._log.info("%s: %d of %d done%s", self.title, self.count, self.total, rate)

    def rate(self, now: float) -> str:
        """What is said besides the count."""
        return time_left(now - self.started, self.count, self.total - self.count)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if self._bar is not None:
            self._bar.update(self._task, completed=self.count, rate=self.rate(time.monotonic()))
            self._bar.stop()


def time_left(seconds: float, made: int, missing: int) -> str:
    """``about 14 min left`` at the speed so far; empty if nothing is missing or nothing was made."""
    return f"about {_duration(seconds / made * missing)} left" if missing > 0 and made else ""


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
