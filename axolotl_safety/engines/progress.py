"""Progress of rows whose requests go through a queue: what is in flight, accepted, and made per second."""

from __future__ import annotations

import logging
import time
from types import TracebackType

from axolotl_safety.util.progress import ProgressLine, time_left

from .queue import WorkQueue

LOG = logging.getLogger(__name__)


class Progress(ProgressLine):
    """Shows how many are done, what is in flight, accept rate, tokens per second and what is left.

    Args:
        title: what is counted, ``rows`` for instance.
        total: how many there are.
        queue: whose requests they make; where it is dry, nothing is shown.
    """

    def __init__(self, title: str, total: int, queue: WorkQueue):
        super().__init__(title, total, LOG, shown=not queue.dry)
        self._queue = queue
        self._judged = self._accepted = 0
        self._from_journal: int | None = None  # done before anything had to be made: they say nothing of what is left
        self._making_since = self.started
        self._tokens_before = queue.tokens

    def done(self, accepted: bool | None = None) -> None:
        """One more is done; ``accepted`` says how it ended, where that is a question."""
        self._judged += accepted is not None
        self._accepted += accepted is True
        if self._from_journal is None and self._queue.engine is not None:
            self._from_journal, self._making_since = self.count + 1, time.monotonic()
            self._tokens_before = self._queue.tokens
        super().done()

    def rate(self, now: float) -> str:
        """What is said besides the count."""
        said = [f"{self._queue.in_flight} requests in flight"] if self._queue.in_flight else []
        if self._judged:
            said.append(f"{100 * self._accepted / self._judged:.0f} % accepted")
        seconds = now - self._making_since
        tokens = self._queue.tokens - self._tokens_before
        if tokens and seconds > 0:
            said.append(f"{tokens / seconds:.0f} tokens/s")
        made = self.count - (self._from_journal or 0)
        return ", ".join([*said, *filter(None, [time_left(seconds, made, self.total - self.count)])])

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        super().__exit__(kind, error, trace)
        if self.shown:
            now = time.monotonic()
            rate = f" ({rate})" if (rate := self.rate(now)) else ""
            LOG.info("%s: %d of %d done in %.1f s%s", self.title, self.count, self.total, now - self.started, rate)
