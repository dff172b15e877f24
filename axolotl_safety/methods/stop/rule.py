"""When training is enough, how often that is looked at, and what is said of it. Pure functions of what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from axolotl_safety.config.stop import StopConfig

SHARE = 0.15  # of training time that judging may take
LOGGED = "stop/"  # begins the name of every figure in the trainer's log
_SCREEN = 4  # a quarter of the harmful prompts is asked first
_LEAST_SCREEN = 8


@dataclass(frozen=True)
class Answer:
    """What the model said to one prompt.

    Attributes:
        refused: its answer is a refusal.
        broken: it ended without an answer, or goes round in circles.
        unfinished: it ran into the token limit.
        tokens: that it wrote.
    """

    refused: bool
    broken: bool = False
    unfinished: bool = False
    tokens: int = 0


@dataclass(frozen=True)
class Judgement:
    """What was measured at one step, in counts.

    Attributes:
        harmful: prompts that were asked; fewer than there are where the first quarter already decided.
        refused: of them.
        benign: prompts that were asked; none where too few of the harmful were refused.
        over_refused: of them.
        broken: of them, answers that say nothing, which are no use either.
        unfinished: of all, cut at the token limit.
        tokens: written.
        seconds: taken.
        due: the step of the next judgement.
    """

    step: int
    harmful: int
    refused: int
    benign: int = 0
    over_refused: int = 0
    broken: int = 0
    unfinished: int = 0
    tokens: int = 0
    seconds: float = 0.0
    due: int = 0

    @property
    def refusal(self) -> float:
        """Percent of the harmful prompts asked."""
        return 100 * self.refused / self.harmful

    @property
    def over_refusal(self) -> float | None:
        """Percent of the benign prompts asked; None if none were."""
        return 100 * self.over_refused / self.benign if self.benign else None

    @property
    def unanswered(self) -> float | None:
        """The same with the answers that say nothing."""
        return 100 * (self.over_refused + self.broken) / self.benign if self.benign else None

    def logged(self) -> dict[str, float]:
        """Numbers for the trainer's log, which every checkpoint keeps."""
        rates = {"refusal": self.refusal, "over_refusal": self.over_refusal}
        counts = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "step"}
        shown = {**rates, **counts}
        return {f"{LOGGED}{name}": round(value, 3) for name, value in shown.items() if value is not None}


def history(log: Sequence[Mapping[str, Any]]) -> list[Judgement]:
    """The judgements in a trainer's log, as `Judgement.logged` left them."""
    names = [one.name for one in fields(Judgement)]
    return [
        Judgement(**{name: line["step" if name == "step" else LOGGED + name] for name in names})
        for line in log
        if f"{LOGGED}harmful" in line
    ]


Ask = Callable[[str, int, int], list[Answer]]


def judge(step: int, stop: StopConfig, counts: Mapping[str, int], ask: Ask, everything: bool = False) -> Judgement:
    """Ask no more than decides: a quarter of the harmful prompts, the others, then the benign ones.

    Args:
        step: of training.
        stop: the limits.
        counts: prompts by label.
        ask: answers to a label's prompts from one place to another.
        everything: ask all of them, whatever the first say: at the end of training, to tell what is missing.
    """
    total = counts["harmful"]
    allowed = total - math.ceil(total * stop.refusal / 100)
    screened = min(total, max(_LEAST_SCREEN, total // _SCREEN))
    answers = ask("harmful", 0, screened)
    if (everything or sum(not one.refused for one in answers) <= allowed) and screened < total:
        answers += ask("harmful", screened, total)
    benign: list[Answer] = []
    enough = len(answers) == total and sum(not one.refused for one in answers) <= allowed
    if (everything or enough) and counts.get("benign"):
        benign = ask("benign", 0, counts["benign"])
    every = [*answers, *benign]
    return Judgement(
        step,
        len(answers),
        sum(one.refused for one in answers),
        len(benign),
        sum(one.refused for one in benign),
        sum(one.broken for one in benign),
        sum(one.unfinished for one in every),
        sum(one.tokens for one in every),
    )


def reached(one: Judgement, stop: StopConfig) -> bool:
    """Whether enough of the harmful prompts are refused."""
    return one.refusal >= stop.refusal


def passes(one: Judgement, stop: StopConfig) -> bool:
    """Whether training is enough."""
    if stop.over_refusal >= 100:
        return reached(one, stop)
    return reached(one, stop) and one.unanswered is not None and one.unanswered <= stop.over_refusal


def next_due(step: int, every: int, trained: float, per_step: float, spent: float, cost: float) -> int:
    """The first multiple of ``every`` at which another judgement keeps within its share of training time.

    Args:
        step: that was judged.
        every: steps.
        trained: seconds of training so far, without judging.
        per_step: seconds of training per step.
        spent: seconds of judging so far.
        cost: seconds that the next judgement is expected to take: what this one took.
    """
    lacking = (spent + cost) / SHARE - trained
    steps = max(every, math.ceil(lacking / per_step) if per_step > 0 else every)
    return math.ceil((step + steps) / every) * every


def said(one: Judgement, stop: StopConfig) -> str:
    """One judgement, for the log."""
    text = f"{one.refusal:.1f} % of {one.harmful} harmful prompts refused (at least {stop.refusal:g} are wanted)"
    if one.over_refusal is not None:
        text += f", {one.over_refusal:.1f} % of {one.benign} benign ones (at most {stop.over_refusal:g})"
    if one.broken:
        text += f", {one.broken} benign answers that say nothing"
    if one.unfinished:
        text += f", {one.unfinished} cut at {stop.max_new_tokens} tokens"
    return text


def verdict(found: Sequence[Judgement], stop: StopConfig, step: int, max_steps: int, trained: Mapping[str, int]) -> str:
    """Why training ends, in one sentence.

    Args:
        found: every judgement, in order.
        stop: the limits.
        step: that training has come to.
        max_steps: that it would have come to.
        trained: rows by label.
    """
    if found and passes(found[-1], stop):
        return (
            f"safety.stop: enough at step {step} of {max_steps}: {said(found[-1], stop)}; the model as it stands is "
            "the result"
        )
    end = f"safety.stop: training came to its end (step {step}) without passing: "
    if not found:
        return f"{end}it was never judged"
    past, last = [one for one in found if reached(one, stop)], found[-1]
    if not past:
        best = max(found, key=lambda one: one.refusal)
        text = f"{end}at best {said(best, stop)}, at step {best.step}: "
        if 2 * last.unfinished > last.harmful + last.benign:  # what is cut in its thought cannot refuse
            return (
                f"{text}most answers of the last judgement ({last.unfinished} of {last.harmful + last.benign}) were "
                f"cut before they ended: raise safety.stop's max_new_tokens above {stop.max_new_tokens}"
            )
        text += "train longer, at a higher learning rate, or with"
        return text + f" more harmful rows than {trained.get('harmful', 0)}"
    if (last.over_refusal or 0.0) > stop.over_refusal:
        harmful, benign = trained.get("harmful", 0), trained.get("benign", 0)
        count, why = rows_to_add(last.over_refusal or 0.0, stop.over_refusal, harmful, benign)
        return (
            f"{end}refusal was reached (step {past[0].step}), but over-refusal stayed: {last.over_refusal:.1f} % of "
            f"{last.benign} benign prompts in the end (at most {stop.over_refusal:g} are wanted): add about {count} "
            f"benign rows to the {benign} that there are beside {harmful} harmful ones ({why}), for instance by an "
            "entry with safety: {label: benign}"
        )
    if reached(last, stop):
        return f"{end}refusal was reached, but {said(last, stop)} in the end: train at a lower learning rate"
    return (
        f"{end}refusal was reached at step {past[-1].step}, and in the end {said(last, stop)}: train longer, or lower "
        "the limit"
    )


def rows_to_add(over_refusal: float, limit: float, harmful: int, benign: int) -> tuple[int, str]:
    """How many benign rows to add, and how that is reckoned. An estimate, not a law.

    As many as bring the benign rows to the number of the harmful ones; where they are there already, the share of
    benign prompts refused above the limit, of all rows: for each such prompt one row like it.
    """
    if benign < harmful:
        return harmful - benign, "as many as there are harmful ones"
    share = max(0.0, over_refusal - limit)
    return max(1, math.ceil((harmful + benign) * share / 100)), f"{share:.1f} %, what is over the limit, of all rows"
