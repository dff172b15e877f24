"""How long a server that does not answer is waited for."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .replies import Passing

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, RetryCallState


@dataclass(frozen=True)
class Patience:
    """Exponential backoff with jitter, bounded in tries and in time.

    Attributes:
        attempts: tries per request before the run is given up.
        first_wait_seconds: wait before the second try; doubles from there. Also the jitter on each wait.
        longest_wait_seconds: where the doubling ends. A server's own Retry-After may be longer.
        seconds: after this long since its first try, a request that fails is not tried again.
    """

    attempts: int = 7
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 60.0
    seconds: float = 900.0

    def retrying(self, stop: asyncio.Event) -> AsyncRetrying:
        """A retryer for one request; ``stop`` ends its waiting, and what fails then is not tried again."""
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, stop_after_delay
        from tenacity.stop import stop_when_event_set

        async def pause(seconds: float) -> None:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), seconds)

        return AsyncRetrying(
            retry=retry_if_exception_type(Passing),
            stop=stop_after_attempt(self.attempts) | stop_after_delay(self.seconds) | stop_when_event_set(stop),
            wait=self._wait,
            sleep=pause,
            reraise=True,
        )

    def _wait(self, state: RetryCallState) -> float:
        """Seconds to wait: what the server asks for, else the backoff; the jitter spreads who failed at once."""
        fault = state.outcome.exception() if state.outcome else None
        asked = fault.wait_seconds if isinstance(fault, Passing) else None
        backoff = min(self.first_wait_seconds * 2.0 ** (state.attempt_number - 1), self.longest_wait_seconds)
        return (backoff if asked is None else asked) + random.uniform(0, self.first_wait_seconds)
