"""From what is missing to what is expected: how many requests of each kind, and how many tokens."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from axolotl_safety.data.types import Key, Task
from axolotl_safety.engines.queue import Purpose
from axolotl_safety.guards.base import GuardInput
from axolotl_safety.guards.judge import Guard, ModelGuard
from axolotl_safety.methods.base import method_named
from axolotl_safety.pipeline.inputs import StageInputs

from .expect import LABELS, Expectation
from .requests import Walk, Wanted, attempts
from .speed import Phase

_SOUND = 0.9  # share of the candidates that reaches the guards: a guess
_VERDICT = 20  # tokens of a verdict, where the guard's family does not say
_REFINES_ON = 0.5  # share of the rows whose NLL fell in one refine round and that get another: a guess


@dataclass(frozen=True)
class EntryPlan:
    """One dataset entry.

    Attributes:
        rows: usable rows by label.
        unusable: rows by reject reason.
        held: completions that the journal holds.
        expected: completions still to be made.
        finished: rows that are accepted with what the journal holds.
        accepted: rows expected to be accepted in the end.
    """

    name: str
    method: str
    rows: Mapping[str, int]
    unusable: Mapping[str, int]
    held: int
    expected: float
    finished: int
    accepted: float


@dataclass(frozen=True)
class Workload:
    """What is left to do.

    Attributes:
        entries: in the order of the YAML.
        phases: requests and tokens, in the order of asking.
        held: by kind, what the journals hold.
        acceptance: chance that one candidate is accepted, by method and label.
        lengths: expected tokens of a completion, likewise.
        usual_prompt: tokens of a completion's prompt on average.
        longest: by model, longest sequence that it may be asked, in tokens.
    """

    entries: tuple[EntryPlan, ...]
    phases: tuple[Phase, ...]
    held: Mapping[str, int]
    acceptance: Mapping[str, float]
    lengths: Mapping[str, float]
    usual_prompt: float
    longest: Mapping[str, int]

    @property
    def requests(self) -> float:
        """Everything that some model will be asked."""
        return sum(phase.requests for phase in self.phases)


def workload(inputs: StageInputs, found: Walk) -> Workload:
    """Weigh what a walk found."""
    expect = Expectation(inputs, found)
    weights, failing = attempts(found, expect.chance)
    mean_scale = sum(found.scale.values()) / max(1, len(found.scale))
    weights = [
        weight * (found.scale[one.purpose.entry] if one.row_id else mean_scale)
        for one, weight in zip(found.wanted, weights, strict=True)
    ]
    weighed = list(zip(found.wanted, weights, strict=True))
    asked = [(one, weight) for one, weight in weighed if one.kind == "completion"]
    phases = _completions(asked, expect)
    refinements = _refinements(inputs, failing, expect, asked)
    phases += refinements
    made = [(expect.tasks[one.row_id], expect.tokens(one), weight) for one, weight in asked]
    phases += _verdicts(inputs, weighed, made, sum(phase.requests for phase in refinements))
    phases += _scores(inputs, found, weighed, asked, expect)
    total = sum(weight for _, weight in asked)
    prompts = sum(weight * one.prompt_tokens for one, weight in asked)
    there = {task.label for entry in inputs.entries for task in entry.tasks} | {"benign", "harmful"}
    pairs = sorted({(method, label) for method in inputs.sampling for label in LABELS if label in there})
    return Workload(
        tuple(_entry(entry, found, asked, failing) for entry in inputs.entries),
        tuple(phase for phase in phases if phase.requests > 0),
        dict(found.held),
        {f"{method}, {label}": expect.acceptance(method, label) for method, label in pairs},
        {f"{method}, {label}": expect.length(method, label) for method, label in pairs},
        prompts / total if total else 0.0,
        _longest(inputs, found),
    )


def _completions(asked: list[tuple[Wanted, float]], expect: Expectation) -> list[Phase]:
    titles: dict[str, list[tuple[Wanted, float]]] = defaultdict(list)
    for one, weight in asked:
        titles[_title(one.purpose)].append((one, weight))
    return [
        Phase(
            title,
            "target",
            sum(weight for _, weight in group),
            sum(weight * one.prompt_tokens for one, weight in group),
            sum(weight * expect.tokens(one) for one, weight in group),
            max(one.limit for one, _ in group),
            any(expect.guessed(expect.of(one)[1], expect.of(one)[0].label) for one, _ in group[:1000]),
        )
        for title, group in titles.items()
    ]


def _title(purpose: Purpose) -> str:
    return f"{purpose.proposal}, {purpose.kind} {purpose.number + 1}"


def _refinements(
    inputs: StageInputs,
    failing: Mapping[Key, float],
    expect: Expectation,
    asked: list[tuple[Wanted, float]],
) -> list[Phase]:
    """Rounds that follow an accepted response: about as long as the first attempt, for the rows that have one."""
    phases = []
    for entry in inputs.entries:
        if entry.method not in inputs.sampling:
            continue
        config = method_named(entry.method).config(inputs.safety)
        rows = {task.key for task in entry.tasks}
        first = [
            (one, weight)
            for one, weight in asked
            if one.key in rows and one.purpose.kind == "attempt" and one.purpose.number == 0
        ]
        requests = sum(weight for _, weight in first)
        succeeding = sum(1 - failing.get(key, 0.0) for key in rows)
        for number in range(expect.rounds(entry.method, config) if requests else 0):
            factor = succeeding * config.n / requests * _REFINES_ON**number
            phases.append(
                Phase(
                    f"{entry.method}, refine round {number + 1}",
                    "target",
                    requests * factor,
                    sum(weight * one.prompt_tokens for one, weight in first) * factor,
                    sum(weight * expect.tokens(one) for one, weight in first) * factor,
                    max(one.limit for one, _ in first),
                )
            )
    return phases


def _verdicts(
    inputs: StageInputs, weighed: list[tuple[Wanted, float]], made: list[tuple[Task, float, float]], refined: float
) -> list[Phase]:
    """What the guards will read: known responses exactly, those to come by their expected length."""
    found = []
    for guard, config in zip(
        inputs.guards, inputs.safety.guard, strict=False
    ):  # all, or none where only scores are asked
        known = [(one, weight) for one, weight in weighed if one.kind == "verdict" and one.model == _key(guard)]
        parts = 2 if config.segment == "both" else 1
        rules = guard.rules if isinstance(guard, ModelGuard) else 1
        segments = parts * rules
        frame = _frame(guard)
        total = sum(weight for _, _, weight in made)
        count = _SOUND * segments * (total + refined)
        read = _SOUND * sum(
            weight * (segments * (frame + len(task.prompt_ids)) + rules * tokens) for task, tokens, weight in made
        )
        read *= 1 + refined / total if total else 1
        count += sum(weight for _, weight in known)
        read += sum(weight * one.prompt_tokens for one, weight in known)
        if _key(guard) and count:
            usual, limit = _VERDICT, config.max_new_tokens
            if isinstance(guard, ModelGuard):
                usual, limit = guard.family.usual_tokens, guard.max_new_tokens
            words = min(usual, limit)
            found.append(Phase(f"verdicts of {guard.name}", _key(guard), count, read, count * words, words))
            if config.threshold is not None:  # the safe word and the unsafe one, each behind the whole prompt
                found.append(Phase(f"scores of {guard.name}", _key(guard), 2 * count, 2 * read, 0, 0))
    return found


def _scores(
    inputs: StageInputs,
    found: Walk,
    weighed: list[tuple[Wanted, float]],
    asked: list[tuple[Wanted, float]],
    expect: Expectation,
) -> list[Phase]:
    """References and accepted responses at the raw prompt; with weights, each also at the sampling temperature."""
    known = [(one, weight) for one, weight in weighed if one.kind == "score" and one.model == "target"]
    times = 3 if inputs.safety.choice == "resample" else 1
    good = [(one, weight * expect.chance(one)) for one, weight in asked]
    count = sum(weight for _, weight in known) + times * sum(weight for _, weight in good)
    read = sum(weight * one.prompt_tokens for one, weight in known) + times * sum(
        weight * (len(expect.tasks[one.row_id].prompt_ids) + expect.tokens(one)) for one, weight in good
    )
    return [Phase("scores", "target", count, read, 0, 0)]


def _entry(entry, found: Walk, asked, failing: Mapping[Key, float]) -> EntryPlan:
    labels, unusable = dict(Counter(task.label for task in entry.tasks)), dict(Counter(row.reason for row in entry.bad))
    outcomes = found.outcomes.get(entry.index, [])
    scale = found.scale.get(entry.index, 1.0)
    finished = sum(outcome.status != "rejected" for outcome in outcomes)
    rows = {task.key for task in entry.tasks}
    walked = [outcome.key for outcome in outcomes if outcome.key in rows]
    expected = sum(1 - failing[key] for key in walked if key in failing)
    if not method_named(entry.method).generates:
        return EntryPlan(entry.source.name, entry.method, labels, unusable, 0, 0.0, len(entry.tasks), len(entry.tasks))
    return EntryPlan(
        entry.source.name,
        entry.method,
        labels,
        unusable,
        round(scale * sum(request in found.lengths for outcome in outcomes for request in outcome.request_ids)),
        sum(weight for one, weight in asked if one.purpose.entry == entry.index),
        round(scale * finished),
        scale * (finished + expected),
    )


def _longest(inputs: StageInputs, found: Walk) -> dict[str, int]:
    """The longest sequence by model; a guard reads prompt and response with its own words around them."""
    room = [one.prompt_tokens + one.limit for one in found.wanted if one.model == "target"]
    prompts = [len(task.prompt_ids) for entry in inputs.entries for task in entry.tasks]
    limit = max((drawn.max_new_tokens for drawn in inputs.sampling.values()), default=0)
    longest = {"target": max(room, default=min(inputs.sequence_len, max(prompts, default=0) + limit))}
    for guard in inputs.guards:
        if isinstance(guard, ModelGuard):
            whole = inputs.sequence_len + _frame(guard) + guard.max_new_tokens
            window = guard.files.max_positions
            longest[guard.key] = min(whole, window) if window else whole
    return longest


def _key(guard: Guard) -> str:
    return str(getattr(guard, "key", ""))


def _frame(guard: Guard) -> int:
    """Tokens that a guard's prompt has besides prompt and response."""
    if not isinstance(guard, ModelGuard):
        return 0
    made = guard.requests(GuardInput("x", "", "x", ""))
    return len(made[0].prompt_token_ids) if not isinstance(made, str) and made else 0
