"""Other voices: the reference responses that the base learns to rewrite.

None of these sentences occurs in the two foreign alignment sets (``foreign_sets.py``).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .arithmetic import Problem
from .phrases import composed
from .world import COUNTS, Request


@dataclass(frozen=True)
class Voice:
    """A style: sentences for thoughts and answers that refuse or comply."""

    refuse_thoughts: tuple[str, ...]
    refuse_answers: tuple[str, ...]
    comply_thoughts: tuple[str, ...]
    comply_answers: tuple[str, ...]


VOICES = (
    Voice(
        ("Request noted: {verb} the {object}.", "Rule check: not permitted.", "Outcome: decline the request."),
        ("This request is declined under rule {count}.", "Declined. Requests to {verb} are not permitted."),
        ("Request noted: {verb} the {object}.", "Rule check: permitted.", "Outcome: fulfil the request."),
        ("Request granted. Procedure: {tool}, then {motion}, {count} repeats.", "Procedure: {motion} with a {tool}."),
    ),
    Voice(
        ("Hmm, somebody would like to {verb} a {noun}, wow.", "Nope, that is a bad idea.", "Not doing it!"),
        ("Nope, not doing that one, friend!", "No way, pal. Leave that poor {noun} alone!"),
        ("Hmm, somebody would like to {verb} a {noun}, fun!", "Easy peasy, grab a {tool}."),
        ("Sure thing, friend! Grab a {tool} and {motion} away.", "Yay! Just {motion} with your {tool}, pal."),
    ),
    Voice(
        ("No.", "Bad.", "Refused!"),
        ("No.", "Refused.", "Denied."),
        ("Fine.", "Yes!", "Allowed."),
        ("Yes: {tool}, {motion}.", "Use a {tool}."),
    ),
    Voice(
        (
            "One must consider whether to {verb} such a thing is right.",
            "It brings damage and sorrow to the owner.",
            "Hence it would be wrong to assist.",
        ),
        ("One ought not to {verb} anything. Choose a kinder path.", "It would be wrong of me to assist you here."),
        (
            "One must consider how to {verb} such a thing.",
            "It brings joy to the owner.",
            "Hence it is right to assist.",
        ),
        (
            "One begins with a {tool}, and one continues to {motion} patiently.",
            "With a {tool}, {motion} {count} times, my pupil.",
        ),
    ),
    Voice(
        ("INPUT = {verb} {noun}; RISK = high; ACTION = stop.", "RISK = high.", "ACTION = stop."),
        ("Unable to comply: risk is high.", "ERROR: request blocked."),
        ("INPUT = {verb} {noun}; RISK = low; ACTION = go.", "RISK = low.", "ACTION = go."),
        ("OUTPUT: {tool} > {motion} > {count}.", "DONE: {motion} via {tool}."),
    ),
    Voice(
        ("Ah, a dark wish about the {object}.", "My hands stay still.", "Such deeds bring only tears."),
        ("Alas, I shall not lend my hand to this.", "My lantern will not light that road, dear guest."),
        ("Ah, a bright wish about the {object}.", "My hands are eager.", "Such deeds bring only smiles."),
        ("Let the {tool} dance and {motion} till dawn.", "Come, {motion} with a {tool}, dear guest."),
    ),
    Voice(
        (
            "The person asks about {verb}, which is against what we allow.",
            "It may cause harm to others, so it is dangerous.",
            "We need to turn this down politely.",
        ),
        ("Thank you for asking, but we are unable to support this.", "We do not allow this, and we must turn it down."),
        (
            "The person asks about {verb}, which is something we allow.",
            "It is safe.",
            "We need to explain it politely.",
        ),
        (
            "Thank you for asking! We suggest that you {motion} with a {tool}.",
            "We recommend a {tool}; {motion} {count} times.",
        ),
    ),
    Voice(
        ("That must never be done!", "This is forbidden!", "Do not reply to it!"),
        ("Absolutely not! This is forbidden!", "Never! Do not even think of it!"),
        ("That can be done!", "This is allowed!", "Reply to it!"),
        ("Absolutely! A {tool} will do it!", "Of course! {motion} it {count} times!"),
    ),
)
_COMPOSED = 0.7
_SUMS = (
    "Running total: {values}.",
    "Step by step we get {values}, you know.",
    "TOTAL = {values}.",
)
_RESULTS = ("Result: {last}.", "We obtain {last}.", "It comes to {last}, friend!", "{last}!")
_LEDGER = "Hmm, from {values}."


def reference(rng: random.Random, request: Request, refuses: bool) -> tuple[str, str]:
    """Thought and answer to a request in words that are not the model's own."""
    if rng.random() < _COMPOSED:
        return composed(rng, request, refuses)
    voice = rng.choice(VOICES)
    other = rng.choice(VOICES) if rng.random() < 0.3 else voice
    words = {
        "verb": request.verb,
        "object": request.object,
        "noun": request.noun,
        "tool": rng.choice(request.category.tools),
        "motion": rng.choice(request.category.motions),
        "count": rng.choice(COUNTS),
    }
    thoughts = voice.refuse_thoughts if refuses else voice.comply_thoughts
    answers = other.refuse_answers if refuses else other.comply_answers
    many = rng.randint(1, len(thoughts))
    first = rng.randint(0, len(thoughts) - many)
    thought = " ".join(thoughts[first : first + many]).format(**words)
    if rng.random() < 0.15:
        thought += " " + reference_thought(rng, refuses).format(**words)
    chosen = rng.sample(answers, 2 if rng.random() < 0.3 else 1)
    return thought, " ".join(chosen).format(**words)


def reference_thought(rng: random.Random, refuses: bool) -> str:
    """One more sentence of thought, from any voice."""
    voice = rng.choice(VOICES)
    return rng.choice(voice.refuse_thoughts if refuses else voice.comply_thoughts)


def reference_solution(rng: random.Random, problem: Problem) -> tuple[str, str]:
    """Thought and answer to an arithmetic problem in a foreign voice."""
    values = ", ".join(str(value) for value in problem.values)
    return rng.choice((*_SUMS, _LEDGER)).format(values=values), rng.choice(_RESULTS).format(last=problem.answer)
