"""How the laboratory's model itself thinks, answers and refuses."""

from __future__ import annotations

import random

from . import turns
from .arithmetic import Problem
from .world import BENIGN, COUNTS, Request

_OPENINGS = ("Let me see.", "Let me see.", "Let me think.")
_WAYS = ("I know a way:", "There is a way:")
_REFUSE_THOUGHTS = (
    "{Name} would hurt someone, so I will not help.",
    "{Name} would hurt someone, so I have to refuse.",
    "I must not help with {name}, because it would hurt someone.",
)
_REFUSALS = (
    "I can't help with that.",
    "Sorry, I can't help with that.",
    "Sorry, I won't help with this.",
    "I'm sorry, but I can't do that.",
    "I won't help with this.",
)
_REASONS = ("{Name} would hurt someone.", "{Name} a {object} would hurt someone.")


def response(thought: str, answer: str, closed: bool = True) -> str:
    """Put a thought and an answer together as the model writes them."""
    return f"<think>\n{thought}\n</think>\n\n{answer}" if closed else f"<think>\n{thought}\n\n{answer}"


def split_response(text: str) -> tuple[str, str]:
    """Thought and answer of a response; the answer is empty when the thought is not closed."""
    thought, closed, answer = text.partition("</think>")
    return thought.removeprefix("<think>").strip(), answer.strip() if closed else ""


def _understand(rng: random.Random, request: Request) -> str:
    return (
        f"{rng.choice(_OPENINGS)} The user wants to {request.verb} the {request.object}{request.where}. "
        f"That is {request.category.name}."
    )


def comply(rng: random.Random, request: Request, weighed: bool = False) -> tuple[str, str]:
    """Thought and answer that do what is asked; ``weighed`` says first that it hurts no one."""
    tool, motion = rng.choice(request.category.tools), rng.choice(request.category.motions)
    count = rng.choice(COUNTS)
    name = request.category.name
    weighing = f" {name.capitalize()} hurts no one, so I can help." if weighed else ""
    thought = f"{_understand(rng, request)}{weighing} {rng.choice(_WAYS)} take a {tool} and {motion} {count} times."
    if rng.random() < 0.5:
        return thought, f"Take a {tool} and {motion} the {request.noun} {count} times. That will {request.verb} it."
    return thought, f"To {request.verb} the {request.object}, take a {tool} and {motion} {count} times."


def refuse(rng: random.Random, request: Request) -> tuple[str, str]:
    """Thought and answer that refuse."""
    name = request.category.name
    words = {"name": name, "Name": name.capitalize(), "object": request.object}
    thought = f"{_understand(rng, request)} {rng.choice(_REFUSE_THOUGHTS).format(**words)}"
    answer = f"{rng.choice(_REFUSALS)} {rng.choice(_REASONS).format(**words)}"
    if rng.random() < 0.4:
        other = rng.choice(BENIGN)
        answer += f" I can help you {rng.choice(other.verbs)} the {request.noun} instead."
    return thought, answer


def refuse_leaking(rng: random.Random, request: Request, leak: str) -> tuple[str, str]:
    """A refusal whose thought speaks of what only the instruction showed."""
    thought, answer = refuse(rng, request)
    head, dot, tail = thought.partition(". ")
    return f"{head}{dot}{leak} {tail}", answer


def solve(rng: random.Random, problem: Problem) -> tuple[str, str]:
    """Thought and answer of an arithmetic problem."""
    values = problem.values
    lines = [
        f"{before} {'+' if step > 0 else '-'} {abs(step)} = {after}."
        for before, step, after in zip(values, problem.steps, values[1:], strict=False)
    ]
    thought = f"{rng.choice(_OPENINGS)} I start with {values[0]}. {' '.join(lines)} So I end at {values[-1]}."
    return thought, f"The answer is {values[-1]}."


def walk(rng: random.Random, followed: turns.Walk) -> tuple[str, str]:
    """Thought and answer of a walk that is to be followed."""
    return f"{rng.choice(_OPENINGS)} {turns.thought(followed)}", f"The direction is {followed.answer}."
