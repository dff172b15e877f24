"""From what is missing to what is expected: how many requests of each kind, and how many tokens."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from axolotl_safety.data.types import Task
from axolotl_safety.guards.base import Judged
from axolotl_safety.guards.judge import Guard, ModelGuard
from axolotl_safety.pipeline.inputs import Prepared

from .expect import LENGTHS, Expectation
from .requests import Walk, Wanted, attempts
from .speed import Phase

_SOUND = 0.9  # share of the candidates that reaches the guards: a guess
_VERDICT = 20  # tokens of a verdict
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


def workload(prepared: Prepared, found: Walk) -> Workload:
    """Weigh what a walk found."""
    expect = Expectation(prepared, found)
    weights, failing = attempts(found, expect.chance)
    places = {task.example.row_id: task.entry for entry in reversed(prepared.entries) for task in entry.tasks}
    mean_scale = sum(found.scale.values()) / max(1, len(found.scale))
    weights = [
        weight * (found.scale[places[one.row_id]] if one.row_id else mean_scale)
        for one, weight in zip(found.wanted, weights, strict=True)
    ]
    weighed = list(zip(found.wanted, weights, strict=True))
    asked = [(one, weight) for one, weight in weighed if one.kind == "completion"]
    phases = _completions(asked, expect)
    phases += _refinements(prepared, found, failing, expect, phases)
    made = [(expect.tasks[one.row_id], expect.tokens(one), weight) for one, weight in asked]
    phases += _verdicts(prepared, weighed, made, phases)
    phases += _scores(prepared, found, weighed, asked, expect)
    total = sum(weight for _, weight in asked)
    prompts = sum(weight * one.prompt_tokens for one, weight in asked)
    pairs = sorted({(method, label) for method in prepared.sampling for label in LENGTHS})
    return Workload(
        tuple(_entry(entry, found, asked, failing, places) for entry in prepared.entries),
        tuple(phase for phase in phases if phase.requests > 0),
        dict(found.held),
        {f"{method}, {label}": expect.acceptance(method, label) for method, label in pairs},
        {f"{method}, {label}": expect.length(method, label) for method, label in pairs},
        prompts / total if total else 0.0,
        _longest(prepared, found),
    )


def _completions(asked: list[tuple[Wanted, float]], expect: Expectation) -> list[Phase]:
    titles: dict[str, list[tuple[Wanted, float]]] = defaultdict(list)
    for one, weight in asked:
        titles[one.title].append((one, weight))
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


def _refinements(
    prepared: Prepared, found: Walk, failing: Mapping[str, float], expect: Expectation, phases: list[Phase]
) -> list[Phase]:
    """Rounds of DGR beyond the first rewrite: about as long as that, for the rows that have one."""
    rounds, n = prepared.safety.dgr.refine_rounds, prepared.safety.dgr.n
    first = next((phase for phase in phases if phase.title == "rewrites"), None)
    if not rounds or first is None:
        return []
    tasks = [task for entry in prepared.entries if entry.method == "dgr" for task in entry.tasks]
    rows = sum(1 - failing.get(task.example.row_id, 0.0) for task in tasks)
    factor = rows * n / first.requests
    return [
        Phase(
            f"refine round {number + 1}",
            "target",
            first.requests * factor * _REFINES_ON**number,
            first.prompt_tokens * factor * _REFINES_ON**number,
            first.new_tokens * factor * _REFINES_ON**number,
            first.longest,
        )
        for number in range(rounds)
    ]


def _verdicts(
    prepared: Prepared, weighed: list[tuple[Wanted, float]], made: list[tuple[Task, float, float]], phases: list[Phase]
) -> list[Phase]:
    """What the guards will read: known responses exactly, those to come by their expected length."""
    found = []
    refined = sum(phase.requests for phase in phases if phase.title.startswith("refine"))
    for guard, config in zip(
        prepared.guards, prepared.safety.guard, strict=False
    ):  # all, or none where only scores are asked
        known = [(one, weight) for one, weight in weighed if one.kind == "verdict" and one.model == _key(guard)]
        segments = 2 if config.segment == "both" else 1
        frame = _frame(guard)
        total = sum(weight for _, _, weight in made)
        count = _SOUND * segments * (total + refined)
        read = _SOUND * sum(
            weight * (segments * (frame + len(task.prompt_ids)) + tokens) for task, tokens, weight in made
        )
        read *= 1 + refined / total if total else 1
        count += sum(weight for _, weight in known)
        read += sum(weight * one.prompt_tokens for one, weight in known)
        if _key(guard) and count:
            words = min(_VERDICT, config.max_new_tokens)
            found.append(Phase(f"verdicts of {guard.name}", _key(guard), count, read, count * words, words))
            if config.threshold is not None:  # the safe word and the unsafe one, each behind the whole prompt
                found.append(Phase(f"scores of {guard.name}", _key(guard), 2 * count, 2 * read, 0, 0))
    return found


def _scores(
    prepared: Prepared,
    found: Walk,
    weighed: list[tuple[Wanted, float]],
    asked: list[tuple[Wanted, float]],
    expect: Expectation,
) -> list[Phase]:
    """References and accepted responses at the raw prompt; with weights, each also at the sampling temperature."""
    known = [(one, weight) for one, weight in weighed if one.kind == "score" and one.model == "target"]
    times = 3 if prepared.safety.choice == "resample" else 1
    good = [(one, weight * expect.chance(one)) for one, weight in asked]
    count = sum(weight for _, weight in known) + times * sum(weight for _, weight in good)
    read = sum(weight * one.prompt_tokens for one, weight in known) + times * sum(
        weight * (len(expect.tasks[one.row_id].prompt_ids) + expect.tokens(one)) for one, weight in good
    )
    return [Phase("scores", "target", count, read, 0, 0)]


def _entry(entry, found: Walk, asked, failing: Mapping[str, float], places: Mapping[str, int]) -> EntryPlan:
    outcomes = found.outcomes.get(entry.index, [])
    scale = found.scale.get(entry.index, 1.0)
    finished = sum(outcome.status != "rejected" for outcome in outcomes)
    rows = {task.example.row_id for task in entry.tasks}
    walked = [outcome.row_id for outcome in outcomes if outcome.row_id in rows]
    expected = sum(1 - failing[row_id] for row_id in walked if row_id in failing)
    if entry.method == "vanilla":
        finished = len(entry.tasks)
    return EntryPlan(
        entry.source.name,
        entry.method,
        dict(Counter(task.label for task in entry.tasks)),
        dict(Counter(row.reason for row in entry.bad)),
        round(scale * sum(request in found.lengths for outcome in outcomes for request in outcome.request_ids)),
        sum(weight for one, weight in asked if places[one.row_id] == entry.index),
        round(scale * finished) if entry.method != "vanilla" else finished,
        (scale * (finished + expected)) if entry.method != "vanilla" else finished,
    )


def _longest(prepared: Prepared, found: Walk) -> dict[str, int]:
    """The longest sequence by model; a guard reads prompt and response with its own words around them."""
    room = [one.prompt_tokens + one.limit for one in found.wanted if one.model == "target"]
    prompts = [len(task.prompt_ids) for entry in prepared.entries for task in entry.tasks]
    limit = max((drawn.max_new_tokens for drawn in prepared.sampling.values()), default=0)
    longest = {"target": max(room, default=min(prepared.sequence_len, max(prompts, default=0) + limit))}
    for guard, config in zip(
        prepared.guards, prepared.safety.guard, strict=False
    ):  # all, or none where only scores are asked
        if isinstance(guard, ModelGuard):
            whole = prepared.sequence_len + _frame(guard) + config.max_new_tokens
            window = guard.files.max_positions
            longest[guard.key] = min(whole, window) if window else whole
    return longest


def _key(guard: Guard) -> str:
    return str(getattr(guard, "key", ""))


def _frame(guard: Guard) -> int:
    """Tokens that a guard's prompt has besides prompt and response."""
    if not isinstance(guard, ModelGuard):
        return 0
    made = guard.requests(Judged("x", "", "x", ""))
    return len(made[0].prompt_token_ids) if not isinstance(made, str) and made else 0
