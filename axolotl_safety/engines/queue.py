"""Ask for work; what the journal holds is not asked again, what finishes is journalled before anyone sees it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from axolotl_safety.util.errors import StageError

from .base import Answer, Completion, Engine, Failure, Question, Request, Result, Score, ScoreRequest
from .journal import Journal
from .progress import Progress

Work = Request | ScoreRequest | Question


def content_id(*parts: Any) -> str:
    """A request's id: the hash of everything that decides its result."""
    return hashlib.sha256(json.dumps(parts, separators=(",", ":"), sort_keys=True).encode()).hexdigest()[:32]


def kind_of(request: Work, kind: str) -> str:
    """The journal kind of a request's result: scores name themselves, the rest is what was asked for."""
    return "score" if isinstance(request, ScoreRequest) else kind


class Runner(Protocol):
    """Whatever answers requests: the engine, or a judge behind an endpoint."""

    def run(self, requests: list[Any]) -> Iterator[Any]:
        """Yield one result per request, in the order they finish."""


class WorkQueue:
    """The one door to the engine.

    Attributes:
        generated: ids of the requests whose result was made in this run.
        reused: ids of the requests whose result stood in the journal.
        made: how many records of each kind were made in this run.
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
        self._journals = journals
        self._start_engine = start_engine
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine | None:
        """The engine, if one had to be started."""
        return self._engine

    def finish(
        self,
        work: Sequence[Work],
        kind: str,
        title: str,
        describe: Callable[[Work], dict[str, Any]] | None = None,
        accept: Callable[[str], bool] | None = None,
        engine: Runner | None = None,
    ) -> None:
        """See to it that every request has a result in the journal.

        Args:
            work: requests to one or more models.
            kind: journal kind of a completion, ``completion`` or ``verdict`` (scores and failures name themselves).
            title: what the progress line says.
            describe: provenance to store with a completion.
            accept: told each request id as its result is journalled; says whether it looks sound, for the progress.
            engine: who answers, if not the engine: a judge behind an endpoint.

        Raises:
            StageError: something is missing and no engine may start.
        """
        missing: dict[str, Work] = {}
        for request in work:
            if self._held(request, kind):
                self.reused.add(request.request_id)
            else:
                missing[request.request_id] = request
        if not missing:
            return
        if self._start_engine is None:
            raise StageError(
                f"the data stage is not finished: {len(missing)} of {len(work)} {title} are missing. "
                "Run `axolotl preprocess` with this YAML first."
            )
        runner = engine
        if runner is None:
            runner = self._engine = self._engine or self._start_engine()
        with Progress(title, len(missing), reused=len(work) - len(missing)) as progress:
            for result in runner.run(list(missing.values())):
                request = missing[result.request_id]
                self._store(request, result, kind, describe)
                tokens = len(result.token_ids) if isinstance(result, Completion) else 0
                progress.advance(tokens, accept(result.request_id) if accept else None)

    def _held(self, request: Work, kind: str) -> bool:
        journal = self._journals[request.model]
        return (kind_of(request, kind), request.request_id) in journal or ("failure", request.request_id) in journal

    def _store(
        self, request: Work, result: Result | Answer, kind: str, describe: Callable[[Work], dict[str, Any]] | None
    ) -> None:
        journal = self._journals[request.model]
        self.generated.add(request.request_id)
        if isinstance(result, Failure):
            kind, fields = "failure", {"reason": result.reason, "message": result.message}
        elif isinstance(result, Score):
            kind, fields = "score", {"logprob": result.logprob, "num_tokens": result.num_tokens}
        elif isinstance(result, Answer):
            fields = {"text": result.text, "finish_reason": result.finish_reason}
        else:
            fields = {
                "token_ids": list(result.token_ids),
                "finish_reason": result.finish_reason,
                "logprob": result.logprob,
                **(describe(request) if describe else {}),
            }
        journal.append(kind, request.request_id, fields)
        self.made[kind] += 1

    def completion(self, request: Request | Question, kind: str = "completion") -> Completion | Answer | Failure:
        """The finished completion of a request, read back from the journal; a question's answer is text."""
        journal = self._journals[request.model]
        record = journal.get(kind, request.request_id)
        if record is None:
            failed = journal.get("failure", request.request_id) or {}
            return Failure(request.request_id, failed.get("reason", "lost"), failed.get("message", ""))
        if "text" in record:
            return Answer(request.request_id, record["text"], record["finish_reason"])
        return Completion(
            request.request_id, tuple(record["token_ids"]), record["finish_reason"], record.get("logprob", 0.0)
        )

    def logprob(self, request: ScoreRequest) -> float | None:
        """log p of the whole response in nats, None if it could not be scored."""
        record = self._journals[request.model].get("score", request.request_id)
        return record["logprob"] if record else None

    def nll(self, request: ScoreRequest) -> float | None:
        """Mean negative log-probability per response token in nats, None if it could not be scored."""
        record = self._journals[request.model].get("score", request.request_id)
        return -record["logprob"] / record["num_tokens"] if record and record["num_tokens"] else None

    def close(self) -> None:
        """End the engine, if there is one, and close the journals."""
        try:
            if self._engine is not None:
                self._engine.close()
        finally:
            for journal in self._journals.values():
                journal.close()


def count_where(request_ids: Iterable[str], among: set[str]) -> int:
    """How many of the ids are in the set."""
    return sum(request_id in among for request_id in request_ids)


class Frozen(Protocol):
    """Whatever says which target, under which engine, a score belongs to."""

    @property
    def fingerprint(self) -> str:
        """Of target and engine."""


def score_request(
    shop: Frozen, prompt_ids: tuple[int, ...], response_ids: tuple[int, ...], temperature: float = 1.0
) -> ScoreRequest:
    """Ask for log p(response | prompt) under the frozen target."""
    return target_score(shop.fingerprint, prompt_ids, response_ids, temperature)


def target_score(
    fingerprint: str, prompt_ids: tuple[int, ...], response_ids: tuple[int, ...], temperature: float = 1.0
) -> ScoreRequest:
    """The same where there is no workshop yet: rows are chosen before a method works on them."""
    warmth = () if temperature == 1.0 else (temperature,)
    request_id = content_id("score", fingerprint, prompt_ids, response_ids, *warmth)
    return ScoreRequest(request_id, "target", prompt_ids, response_ids, temperature)
