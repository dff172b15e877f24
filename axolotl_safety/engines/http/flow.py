"""Many requests to one server: faults that may pass are waited out, others end the run clearly."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from axolotl_safety.engines.base import Failure
from axolotl_safety.util.errors import StageError

from .replies import Malformed, Passing
from .server import Server, quiet_httpx

if TYPE_CHECKING:
    import httpx
    from tenacity import AsyncRetrying, RetryCallState

_SETTLE_SECONDS = 0.05  # requests that are refused without being sent come before others have begun

Ask = Callable[["httpx.AsyncClient", Any], Awaitable[Any]]


@dataclass(frozen=True)
class RetryPolicy:
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


class Flow:
    """Requests to one server, each tried until it is answered, refused or given up.

    A server that refuses everything is not set up right, which must not become the rows' fate: refusals are held back
    until the first answer of another kind.

    Args:
        server: who is asked.
        ask: one try; raises `Passing` for what may be tried again. A reply that stays `Malformed` is a failure of its
            request alone.
        policy: how often and how long.
        all_refused: called with the refusals if there is nothing else; raises if they are the server's fault.
    """

    def __init__(
        self,
        server: Server,
        ask: Ask,
        policy: RetryPolicy,
        all_refused: Callable[[list[Failure]], Awaitable[None]] | None = None,
    ) -> None:
        self._server = server
        self._ask = ask
        self._policy = policy
        self._all_refused = all_refused
        self._clients: list[httpx.AsyncClient] = []
        self._idle: list[httpx.AsyncClient] = []
        self._opened = False
        self._stack = ExitStack()
        self._trusted = all_refused is None

    async def answer(self, item: Any) -> Any:
        """The result of one request, or its failure.

        Raises:
            StageError: the server did not answer for too long; the other requests stop trying again.
            ConfigError: as ``ask`` or ``all_refused`` raises it.
        """
        self._open()
        client = self._idle.pop() if self._idle else self._connect()
        self._under_way += 1
        try:
            result = await self._patiently(client, item)
            if not isinstance(result, Failure):
                self._trust()
            elif not self._trusted:
                await self._hold_back(result)
            return result
        except Exception:
            self._stop.set()
            raise
        finally:
            self._idle.append(client)
            self._under_way -= 1
            self._look()

    async def close(self) -> None:
        """Break off what is under way; another request opens the connection anew."""
        clients, self._clients, self._idle = self._clients, [], []
        self._opened = False
        self._stack.close()
        await asyncio.gather(*(client.aclose() for client in clients))

    def _connect(self) -> httpx.AsyncClient:
        """A client of its own for each request under way: the pool that one client would share takes most of the time
        of a hundred requests at once (measured by ``benchmarks/peers.py``)."""
        import httpx

        self._clients.append(httpx.AsyncClient(**self._options))
        return self._clients[-1]

    def _open(self) -> None:
        if not self._opened:
            self._opened = True
            self._stack.enter_context(quiet_httpx())
            self._options = self._server.options()
            self._stop = asyncio.Event()
            self._verdict: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._held: list[Failure] = []
            self._checking: asyncio.Task[None] | None = None
            self._under_way = 0

    async def _patiently(self, client: httpx.AsyncClient, item: Any) -> Any:
        started, retrying = time.monotonic(), self._policy.retrying(self._stop)
        try:
            return await retrying(self._ask, client, item)
        except Passing as fault:
            tries = retrying.statistics["attempt_number"]
            if isinstance(fault, Malformed) and tries >= self._policy.attempts:
                return Failure(item.request_id, "malformed", str(fault))
            seconds = time.monotonic() - started
            raise StageError(
                f"{self._server.label} at {self._server.root!r} does not answer after {tries} tries over "
                f"{seconds:.0f} s: {fault}. What it has finished is journalled; run again when the server is back, and "
                "only the rest is asked."
            ) from fault

    async def _hold_back(self, failure: Failure) -> None:
        self._held.append(failure)
        self._look()
        await asyncio.shield(self._verdict)

    def _trust(self) -> None:
        self._trusted = True
        if not self._verdict.done():
            self._verdict.set_result(None)

    def _look(self) -> None:
        """Where everything under way is a refusal, find out whether that is the server's fault."""
        undecided = not self._trusted and not self._verdict.done() and self._checking is None
        if undecided and self._held and len(self._held) >= self._under_way:
            self._checking = asyncio.create_task(self._check())

    async def _check(self) -> None:
        assert self._all_refused is not None
        await asyncio.sleep(_SETTLE_SECONDS)
        self._checking = None
        if self._trusted or len(self._held) < self._under_way:
            return
        try:
            await self._all_refused(self._held)
        except Exception as error:
            if not self._verdict.done():
                self._verdict.set_exception(error)
        else:
            self._trust()
