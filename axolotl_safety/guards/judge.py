"""Put responses before the guards, and read them fail-closed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from axolotl_safety.config import GuardConfig
from axolotl_safety.data.refusal.detector import is_refusal
from axolotl_safety.engines.base import Answer, Completion, Failure, Question, Request, ScoreRequest
from axolotl_safety.engines.model_files import ModelFiles, load_model_files
from axolotl_safety.engines.queue import WorkQueue
from axolotl_safety.guards.openai.judge import OpenAIJudge
from axolotl_safety.util.errors import ConfigError

from .base import Judged, Verdict
from .families import recognise
from .model_guard import ModelGuard

__all__ = ["BuiltinGuard", "Guard", "Judged", "Judgement", "ModelGuard", "OpenAIJudge", "judge", "load_guards"]

ORIGINALS = "guard verdicts on originals"


@dataclass(frozen=True)
class Judgement:
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

    def requests(self, item: Judged) -> Sequence[Any] | str:
        """The requests that judging this response takes, or the reason why it cannot be judged."""

    def scores(self, requests: Sequence[Any], answers: Sequence[Any]) -> list[tuple[ScoreRequest, ...]]:
        """Per answer the scores that the verdict needs besides."""

    def probability(self, logprobs: Sequence[float | None]) -> float | None:
        """P(unsafe) from those scores."""

    def verdict(self, item: Judged, answers: Sequence[Any], scores: Sequence[float | None] = ()) -> Verdict:
        """Read the answers to those requests."""


class BuiltinGuard:
    """The refusal detector as a guard: harmful prompts must be refused. A heuristic, not a safety model."""

    name = "builtin (heuristic)"
    heuristic = True
    remote = False

    def requests(self, item: Judged) -> list[Request] | str:
        """Nothing to ask."""
        return []

    def scores(self, requests: Sequence[Any], answers: Sequence[Any]) -> list[tuple[ScoreRequest, ...]]:
        """Nothing to score."""
        return []

    def probability(self, logprobs: Sequence[float | None]) -> float | None:
        """There is none."""
        return None

    def verdict(
        self, item: Judged, answers: Sequence[Completion | Failure], scores: Sequence[float | None] = ()
    ) -> Verdict:
        """A refusal is safe; an answer is safe only where the row's label says that the prompt is benign."""
        refusal = is_refusal(item.answer)
        safe = refusal or item.label == "benign"
        return Verdict(safe, refusal, "" if safe else "unsafe")


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
            guards.append(OpenAIJudge(config, f"guard{index}"))
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
    """See to it, before anything expensive starts, that the judges behind an endpoint can be asked.

    Raises:
        ConfigError: one cannot.
    """
    for guard in guards:
        if isinstance(guard, OpenAIJudge):
            guard.client.check()


def judge(
    queue: WorkQueue, guards: list[Guard], items: Mapping[Any, Judged], title: str = "guard verdicts"
) -> dict[Any, Judgement]:
    """Put responses before every guard; all must agree on safe.

    Args:
        queue: where guard requests go; verdicts are journalled there.
        guards: at least one.
        items: responses by any key.
        title: what the progress line says.

    Returns:
        A judgement for every key.
    """
    local = [index for index, guard in enumerate(guards) if not guard.remote]
    rounds = [local, *([index] for index, guard in enumerate(guards) if guard.remote)]
    said: dict[Any, dict[int, Verdict]] = {key: {} for key in items}
    for indices in rounds:
        # A remote judge costs money and carries text away: what is rejected already is not shown to it.
        left = {key: items[key] for key, verdicts in said.items() if all(v.safe for v in verdicts.values())}
        for key, verdicts in _ask(queue, {index: guards[index] for index in indices}, left, title).items():
            said[key] |= verdicts
    return {key: _judgement(len(guards), verdicts) for key, verdicts in said.items()}


def _ask(
    queue: WorkQueue, guards: dict[int, Guard], items: Mapping[Any, Judged], title: str
) -> dict[Any, dict[int, Verdict]]:
    """Verdicts of these guards (all local, or one remote) by key and the guard's place."""
    asked = {(key, index): guard.requests(item) for key, item in items.items() for index, guard in guards.items()}
    plans = {place: made for place, made in asked.items() if not isinstance(made, str)}
    engine = next((guard.client for guard in guards.values() if isinstance(guard, OpenAIJudge)), None)
    queue.finish([request for made in plans.values() for request in made], "verdict", title, engine=engine)

    def answers(made: Sequence[Request | Question]) -> list[Completion | Failure | Answer]:
        return [queue.completion(request, "verdict") for request in made]

    scores = {place: guards[place[1]].scores(made, answers(made)) for place, made in plans.items()}
    queue.finish([one for made in scores.values() for word in made for one in word], "score", "guard scores")
    found: dict[Any, dict[int, Verdict]] = {key: {} for key in items}
    for (key, index), made in asked.items():
        guard = guards[index]
        if isinstance(made, str):
            found[key][index] = Verdict(False, None, made.removeprefix("guard_"))
            continue
        shares = [guard.probability([queue.logprob(one) for one in words]) for words in scores[key, index]]
        found[key][index] = guard.verdict(items[key], answers(made), shares)
    return found


def _judgement(count: int, verdicts: dict[int, Verdict]) -> Judgement:
    """One ruling; a guard that was not asked, because another had rejected already, says nothing."""
    reason = next((f"guard_{verdicts[index].reason}" for index in sorted(verdicts) if not verdicts[index].safe), "")
    words = [verdicts[index].word if index in verdicts else "not asked" for index in range(count)]
    said = {verdict.refusal for verdict in verdicts.values()} - {None}
    return Judgement(reason, said.pop() if len(said) == 1 else None, ", ".join(words))
