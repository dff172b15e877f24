"""Ask for work; what the journal holds is not asked again, what finishes is journalled before anyone sees it.

Every request is awaited on its own. Whoever asks goes on the moment its result is there; nothing waits for a neighbour.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from axolotl_safety.util import jsonl
from axolotl_safety.util.errors import StageError

from .base import Answer, Completion, Engine, Failure, Question, Request, Result, Score, ScoreRequest
from .journal import Journal

Work = Request | ScoreRequest | Question
Found = Result | Answer
T = TypeVar("T")


def content_id(*parts: Any) -> str:
    """A request's id: the hash of everything that decides its result."""
    return hashlib.sha256(b"[" + b",".join(map(_json, parts)) + b"]").hexdigest()[:32]


def _json(part: Any) -> bytes:
    if type(part) is tuple and part and type(part[0]) is int:  # token ids, for which the standard library takes long
        return jsonl.dump(part)
    return json.dumps(part, separators=(",", ":"), sort_keys=True).encode()


def score_request(
    fingerprint: str,
    prompt_ids: tuple[int, ...],
    response_ids: tuple[int, ...],
    temperature: float = 1.0,
    turn: int = 0,
) -> ScoreRequest:
    """Ask for log p(response | prompt) under the frozen target.

    Args:
        fingerprint: of target and engine.
        prompt_ids: what stands before the response.
        response_ids: what is scored.
        temperature: of the distribution.
        turn: place of the row, for the order of asking.
    """
    warmth = () if temperature == 1.0 else (temperature,)
    request_id = content_id("score", fingerprint, prompt_ids, response_ids, *warmth)
    return ScoreRequest(request_id, "target", prompt_ids, response_ids, temperature, turn)


@dataclass(frozen=True)
class Purpose:
    """What a request is for. Nothing depends on it; a plan counts by it.

    Attributes:
        kind: ``attempt`` for a row's own candidates, ``probe`` where a prompt is tried, ``original`` where a response
            stands in for a failed one, ``thought`` for what a row's own candidates go on from.
        proposal: name of what the target is shown, ``dgr/rewrite@1`` for instance.
        number: of the attempt, from 0.
        entry: the dataset entry of the row.
    """

    kind: str = ""
    proposal: str = ""
    number: int = 0
    entry: int = 0


class Answerer(Protocol):
    """Whatever answers requests: the engine, or a judge behind an endpoint."""

    def window(self, model: str) -> int:
        """Requests that it can make use of at once."""

    async def answer(self, request: Any) -> Any:
        """The result of one request."""

    async def close(self, at_once: bool = False) -> None:
        """Give back what it holds."""


class WorkQueue:
    """The one door to the engine, opened and closed by ``async with``.

    When whoever answers cannot go on, nothing new is asked; what is under way comes to its end and is kept.

    Attributes:
        generated: ids of the requests whose result was made in this run.
        reused: ids of the requests whose result stood in the journal.
        made: how many records of each kind were made in this run.
        tokens: how many tokens those have.
        in_flight: requests that somebody works on now.
        dry: nothing is really asked, so what comes out of it is not to be announced.
    """

    dry = False

    def __init__(self, journals: dict[str, Journal], start_engine: Callable[[], Engine] | None):
        """Open the door.

        Args:
            journals: by model name.
            start_engine: called at the first request that the journal cannot answer; None where no engine may start.
        """
        self.generated: set[str] = set()
        self.reused: set[str] = set()
        self.made: Counter[str] = Counter()
        self.tokens = self.in_flight = 0
        self.engine: Engine | None = None
        self._journals = journals
        self._start_engine = start_engine
        self._judges: dict[str, Answerer] = {}
        self._slots: dict[str, _Slots] = {}
        self._under_way: dict[str, list[asyncio.Future[None]]] = {}  # who else waits for a result
        self._fault: Exception | None = None

    async def ask(
        self,
        request: Work,
        kind: str,
        note: dict[str, Any] | None = None,
        judge: Answerer | None = None,
        purpose: Purpose | None = None,
    ) -> Found:
        """The result of a request: from the journal, else from whoever answers, journalled.

        Args:
            request: to a model that has a journal.
            kind: its result's in the journal: ``completion``, ``verdict`` or ``score``. Failures name themselves.
            note: provenance to store with a completion.
            judge: who answers, if not the engine: a judge behind an endpoint.
            purpose: what it is asked for.

        Raises:
            StageError: it is missing and no engine may start, or whoever answers cannot go on.
            OSError: the disk does not take it.
        """
        request_id = request.request_id
        while True:
            held = self._held(request, kind)
            if held is not None:
                if request_id not in self.generated:
                    self.reused.add(request_id)
                return held
            if self._fault is not None:
                raise self._fault
            if request_id not in self._under_way:
                return await self._make(request, kind, note, judge)
            waiting = asyncio.get_running_loop().create_future()
            self._under_way[request_id].append(waiting)
            await waiting  # another row asks the same; should that one be given up, this one asks itself

    async def completion(
        self, request: Request, note: dict[str, Any] | None = None, purpose: Purpose | None = None
    ) -> Completion | Failure:
        """A finished completion."""
        found = await self.ask(request, "completion", note, purpose=purpose)
        assert isinstance(found, Completion | Failure)
        return found

    async def logprob(self, request: ScoreRequest) -> float | None:
        """log p of the whole response in nats, None if it could not be scored."""
        found = await self.ask(request, "score")
        return found.logprob if isinstance(found, Score) else None

    async def nll(self, request: ScoreRequest) -> float | None:
        """Mean negative log-probability per response token in nats, None if it could not be scored."""
        found = await self.ask(request, "score")
        return -found.logprob / found.num_tokens if isinstance(found, Score) and found.num_tokens else None

    def _held(self, request: Work, kind: str) -> Found | None:
        journal, request_id = self._journals[request.model], request.request_id
        record = journal.get(kind, request_id)
        if record is None:
            failed = journal.get("failure", request_id)
            return Failure(request_id, failed["reason"], failed["message"]) if failed else None
        if kind == "score":
            return Score(request_id, record["logprob"], record["num_tokens"])
        if "text" in record:
            return Answer(request_id, record["text"], record["finish_reason"])
        return Completion(request_id, tuple(record["token_ids"]), record["finish_reason"], record.get("logprob", 0.0))

    async def _make(self, request: Work, kind: str, note: dict[str, Any] | None, judge: Answerer | None) -> Found:
        self._under_way[request.request_id] = []
        try:
            answerer = self._answerer(request, kind, judge)
            slots = self._slots.get(request.model)
            if slots is None:
                slots = self._slots[request.model] = _Slots(answerer.window(request.model))
            await slots.acquire((request.turn, -request.tokens))
            self.in_flight += 1
            try:
                if self._fault is not None:  # which came while this one waited
                    raise self._fault
                result = await answerer.answer(request)
                self._store(request, result, kind, note)
                return result
            finally:
                self.in_flight -= 1
                slots.release()
        except Exception as fault:
            self._fault = self._fault or fault
            raise
        finally:
            for waiting in self._under_way.pop(request.request_id):
                if not waiting.done():
                    waiting.set_result(None)

    def _answerer(self, request: Work, kind: str, judge: Answerer | None) -> Answerer:
        if self._start_engine is None:
            raise StageError(
                f"the data stage is not finished: the {kind} {request.request_id} of {request.model} and perhaps more "
                "are missing. Run `axolotl preprocess` with this YAML first."
            )
        if judge is not None:
            self._judges[request.model] = judge
            return judge
        self.engine = self.engine or self._start_engine()
        return self.engine

    def _store(self, request: Work, result: Found, kind: str, note: dict[str, Any] | None) -> None:
        self.generated.add(request.request_id)
        if isinstance(result, Failure):
            kind, fields = "failure", {"reason": result.reason, "message": result.message}
        elif isinstance(result, Score):
            fields = {"logprob": result.logprob, "num_tokens": result.num_tokens}
        elif isinstance(result, Answer):
            fields = {"text": result.text, "finish_reason": result.finish_reason}
        else:
            self.tokens += len(result.token_ids)
            fields = {
                "token_ids": result.token_ids,
                "finish_reason": result.finish_reason,
                "logprob": result.logprob,
                **(note or {}),
            }
        self._journals[request.model].append(kind, request.request_id, fields)
        self.made[kind] += 1

    async def __aenter__(self) -> WorkQueue:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        """End whoever answers and close the journals."""
        try:
            for answerer in (*self._judges.values(), *([self.engine] if self.engine else [])):
                await answerer.close(at_once=error is not None)
        finally:
            for journal in self._journals.values():
                journal.close()


class _Slots:
    """As many requests at once as whoever answers can make use of; of those that wait, the lowest order goes first."""

    def __init__(self, free: int):
        self._free = free
        self._waiting: list[tuple[tuple[int, int], int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._dealing = False

    async def acquire(self, order: tuple[int, int]) -> None:
        """Wait for a slot."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (order, next(self._numbers), future))
        self._deal_soon()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Give a slot back; who held it may ask again before it is dealt."""
        self._free += 1
        self._deal_soon()

    def _deal_soon(self) -> None:
        if self._free and self._waiting and not self._dealing:
            self._dealing = True
            asyncio.get_running_loop().call_soon(self._deal)

    def _deal(self) -> None:
        self._dealing = False
        while self._free and self._waiting:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                self._free -= 1
                future.set_result(None)


async def gather(asked: Sequence[Awaitable[T]]) -> list[T]:
    """The results of several questions that are asked at once, in their order; one alone needs no task of its own."""
    if not asked:
        return []
    return [await asked[0]] if len(asked) == 1 else list(await asyncio.gather(*asked))


def count_where(request_ids: Iterable[str], among: set[str]) -> int:
    """How many of the ids are in the set."""
    return sum(request_id in among for request_id in request_ids)
