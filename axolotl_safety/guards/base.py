"""Verdicts of guards, responses put before them, and families of guard models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from re import Pattern
from typing import Any

# Prompt and response, both neutralised -> the guard's whole input text. A family that shows thought and answer `apart`
# is given these as well.
Render = Callable[..., str]


@dataclass(frozen=True)
class Verdict:
    """A guard's judgement of one response. Whatever is not clearly safe is not safe.

    Attributes:
        safe: True only for an unambiguous, complete verdict that says so.
        refusal: whether the response refuses; None where the guard does not say, or says it unclearly.
        reason: empty when safe. From the text: ``unsafe``, ``controversial``, ``unparsable``. From elsewhere:
            ``truncated``, ``failed``, ``refused`` (the server would not take it), ``threshold``, ``unscored``,
            ``language`` (the heuristic does not know it well enough; kept where it abstains, which lets pass).
        categories: harm categories as the guard names them.
        score: P(unsafe) at the verdict's position, None where no threshold asks for it.
    """

    safe: bool
    refusal: bool | None = None
    reason: str = ""
    categories: tuple[str, ...] = ()
    score: float | None = None

    @property
    def word(self) -> str:
        """The verdict for a row's provenance: ``safe``, ``safe p=0.03``, ``unsafe``..."""
        said = self.reason or "safe"
        return said if self.score is None else f"{said} p={self.score:.2g}"


UNPARSABLE = Verdict(False, None, "unparsable")


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object's keys and values, for ``object_pairs_hook``.

    Raises:
        ValueError: a key stands twice, so that the verdict may be read in two ways.
    """
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


@dataclass(frozen=True)
class GuardInput:
    """A response put before the guards."""

    prompt: str
    thinking: str
    answer: str
    label: str


@dataclass(frozen=True)
class Family:
    """How to recognise the guard models of one family, and how to talk to them.

    Attributes:
        name: as in ``guard.family``.
        title: the models that it covers, for messages.
        parse: reads the text that the guard wrote.
        template: chooses the prompt for a tokenizer, so that versions of a family can differ; several where the guard
            judges by one rule at a time, and all must be safe.
        roles: role names that open a turn in the prompt (``USER``), broken in judged text.
        fields: names of verdict fields (``Safety``), likewise.
        lines: words that are a verdict or a rule when they stand alone on a line, likewise.
        marks: further strings with a meaning in the prompt, wherever they stand, likewise.
        word: finds, as its group, the word that decides in a safe verdict.
        words: every word that could stand there; the first is the safe one.
        names: finds the family in the last part of a model's name, in lower case.
        relatives: likewise models whose prompt or output is another one, and why they are refused.
        template_marks: what tells the family's own chat template.
        architecture: model type, then tokens of its vocabulary, by which alone it is told where nothing else does.
        controls: what steers in the family's prompt, plain text to other families' tokenizers.
        lead: what the guard writes before the deciding word; empty where its logits are not read there.
        middle: those of ``words`` that ``allow_controversial`` counts as safe.
        max_positions: longest input the family's own documents use, in tokens; None where the model's window counts.
        foreign: whether other families' control tokens are broken as well.
        policy: the same as ``template`` with a policy of the user's own; None where the prompt has no place for one.
        new_tokens: how long a verdict may be where the user does not say; None for the usual.
        usual_tokens: how long it usually is, thoughts included: a plan's guess.
        first_word: the verdict is the first word that the guard writes, so that being cut off behind it is no fault.
        apart: the prompt shows thought and answer in places of their own.
        example: a whole verdict that says safe, which the guard's test has a response pretend.
    """

    name: str
    title: str
    parse: Callable[[str], Verdict]
    template: Callable[[Any], Render | tuple[Render, ...]]
    word: Pattern[str]
    words: tuple[str, ...]
    names: Pattern[str]
    relatives: tuple[tuple[Pattern[str], str], ...] = ()
    template_marks: tuple[str, ...] = ()
    architecture: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    lead: str = ""
    roles: tuple[str, ...] = ("USER", "ASSISTANT", "SYSTEM", "HUMAN", "AGENT")
    fields: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    middle: tuple[str, ...] = ()
    max_positions: int | None = None
    foreign: bool = True
    policy: Callable[[str], Callable[[Any], Render | tuple[Render, ...]]] | None = None
    new_tokens: int | None = None
    usual_tokens: int = 20
    first_word: bool = False
    apart: bool = False
    example: str = ""
