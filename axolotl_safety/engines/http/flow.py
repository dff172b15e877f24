"""Many requests to one server: a bounded number under way, results as they come, clear ends."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .replies import Passing

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, RetryCallState

import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from axolotl_safety.engines.base import Failure
from axolotl_safety.util.errors import StageError

from .replies import Malformed
from .server import Server, quiet_httpx

if TYPE_CHECKING:
    import httpx


class Asked(Protocol):
    """Anything with an id that its result carries."""

    @property
    def request_id(self) -> str: ...


Item = TypeVar("Item", bound=Asked)
Found = TypeVar("Found")
Ask = Callable[["httpx.AsyncClient", Item], Awaitable[Found]]


class _GivenUp(Exception):
    """A request whose faults did not pass."""


def answers(
    server: Server, items: Iterable[Item], ask: Ask[Item, Found], patience: Patience
) -> Generator[Found | Failure, None, None]:
    """Yield one result per item, in the order they come. Holds no more items and results than are under way.

    When an item must be given up, those under way are still waited for and yielded, so that the caller can keep them;
    the error comes after them. Closing the generator breaks off what is under way at once.

    Args:
        server: who is asked.
        items: what is asked, taken one by one.
        ask: one try; raises `Passing` for what may be tried again. A reply that stays `Malformed` is a failure of its
            item alone.
        patience: how often and how long.

    Raises:
        StageError: the server did not answer for too long.
        ConfigError: as ``ask`` raises it.
    """
    import httpx

    client = httpx.AsyncClient(**server.options())
    waiting, under_way = iter(items), 0
    error: Exception | None = None
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    finished: asyncio.Queue[Any] = asyncio.Queue()
    tasks: set[asyncio.Task[None]] = set()  # a loop alone does not keep its tasks alive

    async def work(item: Item) -> None:
        try:
            outcome = await _patiently(client, item, ask, patience, stop)
        except Exception as fault:  # whatever it is ends the run, from where the results are taken
            outcome = fault
        finished.put_nowait(outcome)

    try:
        with quiet_httpx():
            while True:
                for item in islice(waiting, server.concurrency - under_way) if error is None else ():
                    tasks.add(task := loop.create_task(work(item)))
                    task.add_done_callback(tasks.discard)
                    under_way += 1
                if not under_way:
                    break
                outcome = loop.run_until_complete(finished.get())
                under_way -= 1
                if not isinstance(outcome, Exception):
                    yield outcome
                elif error is None or (isinstance(error, _GivenUp) and not isinstance(outcome, _GivenUp)):
                    error = outcome
                    stop.set()
    finally:  # also where nobody listens any more: what is under way is broken off at once
        loop.run_until_complete(_end(client))
        loop.close()
    if isinstance(error, _GivenUp):
        raise StageError(
            f"{server.label} at {server.root!r} does not answer {error}. What it has finished is journalled; run again "
            "when the server is back, and only the rest is asked."
        )
    if error is not None:
        raise error


async def _patiently(
    client: httpx.AsyncClient, item: Item, ask: Ask[Item, Found], patience: Patience, stop: asyncio.Event
) -> Found | Failure:
    started, retrying = time.monotonic(), patience.retrying(stop)
    try:
        return await retrying(ask, client, item)
    except Passing as fault:
        tries = retrying.statistics["attempt_number"]
        if isinstance(fault, Malformed) and tries >= patience.attempts:
            return Failure(item.request_id, "malformed", str(fault))
        raise _GivenUp(f"after {tries} tries over {time.monotonic() - started:.0f} s: {fault}") from fault


def hold_back(results: Iterable[Found | Failure], check: Callable[[list[Failure]], None]) -> Iterator[Found | Failure]:
    """Yield results, failures only after the first sound one.

    A server that refuses everything is not set up right, which must not become the rows' fate.

    Args:
        results: as they come.
        check: called with the failures if there is nothing else; raises if they are the server's fault.
    """
    held: list[Failure] | None = []
    for result in results:
        if held is not None and isinstance(result, Failure):
            held.append(result)
            continue
        yield result
        yield from held or ()
        held = None
    if held:
        check(held)
        yield from held


async def _end(client: httpx.AsyncClient) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.aclose()


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
