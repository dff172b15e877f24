"""Progress of long work: a bar on a terminal, one line every half minute elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

LOG = logging.getLogger(__name__)
_LINE_SECONDS = 30.0


class Progress:
    """Shows rate, ETA and, where there is one, the accept rate so far."""

    def __init__(self, title: str, total: int, reused: int = 0):
        """Announce the work.

        Args:
            title: what is being done.
            total: how many requests will be made.
            reused: how many more stood in the journal.
        """
        self.title, self.total = title, total
        self.done = self.tokens = self.accepted = self.asked = 0
        self._started = self._said = time.monotonic()
        self._bar = self._task = None
        LOG.info("%s: %d to do, %d found in the journal", title, total, reused)

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, TextColumn("{task.fields[rate]}"), console=Console(stderr=True))
            self._task = self._bar.add_task(self.title, total=self.total, rate="")
            self._bar.start()
        return self

    def advance(self, tokens: int, accepted: bool | None = None) -> None:
        """One request more is done, with so many tokens; ``accepted`` says how the first checks saw it."""
        self.done += 1
        self.tokens += tokens
        self.asked += accepted is not None
        self.accepted += accepted is True
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, advance=1, rate=self._rate(now))
        elif now - self._said > _LINE_SECONDS:
            self._said = now
            left = (now - self._started) / self.done * (self.total - self.done)
            LOG.info("%s: %d of %d, %s, about %.0f s left", self.title, self.done, self.total, self._rate(now), left)

    def _rate(self, now: float) -> str:
        seconds = max(now - self._started, 1e-9)
        tokens = f", {self.tokens / seconds:.0f} tokens/s" if self.tokens else ""
        accepted = f", {100 * self.accepted / self.asked:.0f} % pass the checks" if self.asked else ""
        return f"{self.done / seconds:.1f}/s{tokens}{accepted}"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if self._bar is not None:
            self._bar.stop()
        seconds = time.monotonic() - self._started
        LOG.info(
            "%s: %d of %d done in %.1f s (%s)", self.title, self.done, self.total, seconds, self._rate(time.monotonic())
        )
