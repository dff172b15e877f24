"""Put responses before the guards, and read them fail-closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from axolotl_safety.config import GuardConfig
from axolotl_safety.config.guard import CUSTOM
from axolotl_safety.data.refusal.detector import refuses
from axolotl_safety.engines.base import Completion, Failure, Request, ScoreRequest
from axolotl_safety.engines.model_files import ModelFiles, load_model_files
from axolotl_safety.engines.queue import Purpose, WorkQueue, gather
from axolotl_safety.guards.openai.judge import CustomJudge, OpenAIJudge
from axolotl_safety.util.errors import ConfigError

from .base import GuardInput, Verdict
from .families import recognise
from .model_guard import ModelGuard

__all__ = ["BuiltinGuard", "Guard", "GuardInput", "GuardResult", "ModelGuard", "OpenAIJudge", "judge", "load_guards"]


@dataclass(frozen=True)
class GuardResult:
    """What all guards together say.

    Attributes:
        reason: empty if every guard says safe, else why not.
        refusal: whether the response refuses, as far as any guard says; a disagreement is None.
        verdict: one word per guard, for the row's provenance.
    """

    reason: str
    refusal: bool | None
    verdict: str


class Guard(Protocol):
    """One judge.

    Attributes:
        name: for messages and provenance.
        heuristic: it uses no model and is marked so in every report.
        remote: it answers over the network, so it is asked last, and only about what the others let through.
    """

    name: str
    heuristic: bool
    remote: bool

    def requests(self, item: GuardInput) -> Sequence[Any] | str:
        """The requests that judging this response takes, or the reason why it cannot be judged."""

    def scores(self, requests: Sequence[Any], answers: Sequence[Any]) -> list[tuple[ScoreRequest, ...]]:
        """Per answer the scores that the verdict needs besides."""

    def probability(self, logprobs: Sequence[float | None]) -> float | None:
        """P(unsafe) from those scores."""

    def verdict(self, item: GuardInput, answers: Sequence[Any], scores: Sequence[float | None] = ()) -> Verdict:
        """Read the answers to those requests."""


class BuiltinGuard:
    """The refusal detector as a guard: harmful prompts must be refused. A heuristic, not a safety model."""

    name = "builtin (heuristic)"
    heuristic = True
    remote = False

    def requests(self, item: GuardInput) -> list[Request] | str:
        """Nothing to ask."""
        return []

    def scores(self, requests: Sequence[Any], answers: Sequence[Any]) -> list[tuple[ScoreRequest, ...]]:
        """Nothing to score."""
        return []

    def probability(self, logprobs: Sequence[float | None]) -> float | None:
        """There is none."""
        return None

    def verdict(
        self, item: GuardInput, answers: Sequence[Completion | Failure], scores: Sequence[float | None] = ()
    ) -> Verdict:
        """A refusal is safe; an answer is safe only where the row's label says that the prompt is benign.

        Where the detector cannot tell which of the two it is, neither can this guard.
        """
        refusal = refuses(item.answer)
        safe = refusal is True or item.label == "benign"
        return Verdict(safe, refusal, "" if safe else "unsafe" if refusal is False else "language")


def load_guards(configs: tuple[GuardConfig, ...]) -> list[Guard]:
    """Prepare every guard, before any engine starts. An HTTP endpoint is not asked yet: see `check_remote`.

    Raises:
        ConfigError: a guard cannot be read or its family cannot be told.
    """
    guards: list[Guard] = []
    for index, config in enumerate(configs):
        if config.kind == "builtin":
            guards.append(BuiltinGuard())
        elif config.kind == "openai":
            kind = CustomJudge if config.family == CUSTOM else OpenAIJudge
            guards.append(kind(config, f"guard{index}"))
        else:
            guards.append(_load_model_guard(config, f"guard{index}"))
    return guards


def _load_model_guard(config: GuardConfig, key: str) -> ModelGuard:
    read: list[ModelFiles] = []

    def files() -> ModelFiles:
        if not read:
            try:
                read.append(load_model_files(config.model, "safety.guard.model"))
            except ConfigError as error:
                raise ConfigError(
                    f"{error} `safety: {{guard: {{model: builtin}}}}` needs no model, but is only a refusal heuristic."
                ) from error
        return read[0]

    family = recognise(config, files)
    return ModelGuard(config, files(), key, family)


def check_remote(guards: Sequence[Guard]) -> None:
    """See to it, before anything expensive starts, that the judges behind an endpoint can be asked and understood.

    Raises:
        ConfigError: one cannot.
    """
    for guard in guards:
        if isinstance(guard, OpenAIJudge):
            guard.check()


async def judge(
    queue: WorkQueue,
    guards: Sequence[Guard],
    item: GuardInput,
    purpose: Purpose | None = None,
    every: bool = False,
) -> GuardResult:
    """Put a response before every guard; all must agree on safe.

    A guard behind an endpoint costs money and carries text away: it is asked last, and only about what the others let
    through. A heuristic that does not know the language abstains beside a guard that is a model; alone it rejects.

    Args:
        queue: where guard requests go; verdicts are journalled there.
        guards: at least one.
        item: the response.
        purpose: what the verdict is for.
        every: ask each of them, whatever the others say, because they are to be compared.
    """
    verdicts: dict[int, Verdict] = {}
    local = [index for index, guard in enumerate(guards) if not guard.remote]
    asked = [_verdict(queue, guards[index], item, purpose) for index in local]
    beside_model = not all(guard.heuristic for guard in guards)
    for index, verdict in zip(local, await gather(asked), strict=True):
        abstains = beside_model and verdict.reason == "language"
        verdicts[index] = replace(verdict, safe=True) if abstains else verdict
    for index, guard in enumerate(guards):
        if guard.remote and (every or all(verdict.safe for verdict in verdicts.values())):
            verdicts[index] = await _verdict(queue, guard, item, purpose)
    return _result(len(guards), verdicts)


async def put_before(
    queue: WorkQueue, guard: Guard, item: GuardInput, purpose: Purpose | None = None
) -> tuple[Sequence[Any], Sequence[Any], Verdict]:
    """What one guard is asked about a response, what it answers, and what is read of it, scores included."""
    requests = guard.requests(item)
    if isinstance(requests, str):
        return (), (), Verdict(False, None, requests.removeprefix("guard_"))
    client = guard.client if isinstance(guard, OpenAIJudge) else None
    answers = await gather([queue.ask(request, "verdict", judge=client, purpose=purpose) for request in requests])
    words = guard.scores(requests, answers)
    logprobs = [await gather([queue.logprob(request) for request in one]) for one in words]
    return requests, answers, guard.verdict(item, answers, [guard.probability(known) for known in logprobs])


async def _verdict(queue: WorkQueue, guard: Guard, item: GuardInput, purpose: Purpose | None) -> Verdict:
    return (await put_before(queue, guard, item, purpose))[2]


def _result(count: int, verdicts: dict[int, Verdict]) -> GuardResult:
    """One ruling; a guard that was not asked, because another had rejected already, says nothing."""
    reason = next((f"guard_{verdicts[index].reason}" for index in sorted(verdicts) if not verdicts[index].safe), "")
    words = [verdicts[index].word if index in verdicts else "not asked" for index in range(count)]
    said = {verdict.refusal for verdict in verdicts.values()} - {None}
    return GuardResult(reason, said.pop() if len(said) == 1 else None, ", ".join(words))
