"""Progress of long work: one bar on a terminal, one line every half minute elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any

from .queue import WorkQueue

LOG = logging.getLogger(__name__)
_LINE_SECONDS = 30.0


class Progress:
    """Shows how many are done, what is in flight, accept rate, tokens per second and what is left.

    Args:
        title: what is counted, ``rows`` for instance.
        total: how many there are.
        queue: whose requests they make; where it is dry, nothing is shown.
    """

    def __init__(self, title: str, total: int, queue: WorkQueue):
        self._title, self._total, self._queue = title, total, queue
        self._done = self._judged = self._accepted = 0
        self._from_journal: int | None = None  # done before anything had to be made: they say nothing of what is left
        self._started = self._making_since = self._said = time.monotonic()
        self._tokens_before = queue.tokens
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty() and not self._queue.dry:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bar = Bar(*columns, TextColumn("{task.fields[rate]}"), console=Console(stderr=True))
            self._task = self._bar.add_task(self._title, total=self._total, rate="")
            self._bar.start()
        return self

    def done(self, accepted: bool | None = None) -> None:
        """One more is done; ``accepted`` says how it ended, where that is a question."""
        self._done += 1
        self._judged += accepted is not None
        self._accepted += accepted is True
        now = time.monotonic()
        if self._from_journal is None and self._queue.engine is not None:
            self._from_journal, self._making_since, self._tokens_before = self._done, now, self._queue.tokens
        if self._bar is not None:
            self._bar.update(self._task, advance=1, rate=self._rate(now))
        elif now - self._said > _LINE_SECONDS and not self._queue.dry:
            self._said = now
            LOG.info("%s: %d of %d done, %s", self._title, self._done, self._total, self._rate(now))

    def _rate(self, now: float) -> str:
        said = [f"{self._queue.in_flight} requests in flight"] if self._queue.in_flight else []
        if self._judged:
            said.append(f"{100 * self._accepted / self._judged:.0f} % accepted")
        seconds = now - self._making_since
        made = self._done - (self._from_journal or 0)
        tokens = self._queue.tokens - self._tokens_before
        if tokens and seconds > 0:
            said.append(f"{tokens / seconds:.0f} tokens/s")
        if self._done < self._total and made:
            said.append(f"about {_duration(seconds / made * (self._total - self._done))} left")
        return ", ".join(said)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if self._bar is not None:
            self._bar.stop()
        if not self._queue.dry:
            now = time.monotonic()
            rate = f" ({rate})" if (rate := self._rate(now)) else ""
            seconds = now - self._started
            LOG.info("%s: %d of %d done in %.1f s%s", self._title, self._done, self._total, seconds, rate)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
