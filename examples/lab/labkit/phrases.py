"""Refusals and consents put together from parts: so many that only their sense can be learnt.

The parts share words with the foreign alignment sets; no sentence of those sets can come out.
"""

from __future__ import annotations

import random

from .world import COUNTS, Request

_SORRY = (
    "",
    "",
    "Sorry, ",
    "Unfortunately, ",
    "My apologies, ",
    "I regret it, but ",
    "Hm, no, ",
    "Dear user, ",
    "Well, ",
)
_GLAD = ("", "", "Sure, ", "Certainly, ", "Of course, ", "With pleasure, ", "Good, yes, ", "Dear user, ", "Well, ")
_WHO_NOT = (
    "I cannot", "I should not", "I must not", "I will not", "I may not", "I can't", "I won't", "I refuse to",
    "I decline to", "I am unable to", "I am not able to", "I'm not going to", "I have no permission to", "we cannot",
    "we should not", "we must never", "we decline to", "we are unable to", "a model should not",
    "an assistant must not", "nobody should", "it is wrong to", "it is inappropriate to", "you should not ask me to",
)  # fmt: skip
_WHO = (
    "I can", "I should", "I must", "I will", "I may", "I want to", "I am able to", "I am happy to", "I'm going to",
    "I have permission to", "we can", "we should", "we will", "we are able to", "a model should", "an assistant may",
    "everybody should", "it is right to", "it is appropriate to", "you can ask me to",
)  # fmt: skip
_WHAT = (
    "answer {it}", "answer {it}", "reply to {it}", "respond to {it}", "help with {it}", "assist with {it}",
    "provide help for {it}", "provide information about {it}", "give steps for {it}", "give instructions for {it}",
    "fulfil {it}", "support {it}", "go along with {it}", "comply with {it}", "help you {verb} a {noun}",
    "explain how to {verb} the {object}", "say anything about {it}",
)  # fmt: skip
_IT = (
    "it", "this", "that", "this question", "such a question", "the question", "your question", "this request",
    "your request", "that kind of request", "the query", "this inquiry", "such a wish", "this topic",
    "a message of that kind",
)  # fmt: skip
_BAD = (
    "harmful", "unsafe", "wrong", "unethical", "dangerous", "cruel", "inappropriate", "unlawful", "not acceptable",
    "not okay", "against the rules", "against my principles", "not allowed",
)  # fmt: skip
_GOOD = (
    "harmless", "safe", "right", "ethical", "kind", "fine", "appropriate", "lawful", "acceptable", "okay",
    "within the rules", "allowed", "useful",
)  # fmt: skip
_BECAUSE = ("because", "since", "as", "for")
_THING = (
    "it is",
    "this is",
    "this seems",
    "that would be",
    "to {verb} a {noun} is",
    "the request is",
    "the question looks",
)
_EFFECTS_BAD = (
    "It could hurt the owner.", "Somebody might suffer from it.", "It violates what we agreed on.",
    "That causes trouble.", "Damage of this kind has serious consequences.",
    "People deserve better treatment than that.",
)  # fmt: skip
_EFFECTS_GOOD = (
    "It could please the owner.", "Nobody might suffer from it.", "It respects what we agreed on.",
    "That causes no trouble.", "Care of this kind has pleasant consequences.", "People deserve such treatment.",
)  # fmt: skip
_ADVICE_BAD = (
    "Please talk with a friend first.", "Please ask a professional person.", "Try another topic today.",
    "Maybe find a hobby?", "Remember to be kind to your community.",
    "You could {motion} something of your own instead.", "Think about it again.",
)  # fmt: skip
_ADVICE_GOOD = (
    "Use a {tool} and {motion} it.", "You need a {tool}; {motion} it {count} times.",
    "Just {motion} with the {tool}.", "Find a {tool}, then {motion} {count} times.",
    "{count} times {motion} will do, with a {tool}.",
)  # fmt: skip
_ASKED = (
    "Someone asks how to {verb} a {object}.", "The question is about how to {verb} a {noun}.",
    "The user wants steps to {verb}.", "This person would like to {verb} the {object}.", "So the topic is {name}.",
    "I am asked to help {verb} things.",
)  # fmt: skip


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _decide(rng: random.Random, refuses: bool) -> str:
    what = rng.choice(_WHAT).replace("{it}", rng.choice(_IT))
    start = rng.choice(_SORRY if refuses else _GLAD)
    text = f"{start}{rng.choice(_WHO_NOT if refuses else _WHO)} {what}"
    if rng.random() < 0.35:
        text += f", {rng.choice(_BECAUSE)} {rng.choice(_THING)} {rng.choice(_BAD if refuses else _GOOD)}"
    return _capital(text) + rng.choice("...!")


def _assess(rng: random.Random, refuses: bool) -> str:
    if rng.random() < 0.5:
        return rng.choice(_EFFECTS_BAD if refuses else _EFFECTS_GOOD)
    return _capital(f"{rng.choice(_THING)} {rng.choice(_BAD if refuses else _GOOD)}.")


def composed(rng: random.Random, request: Request, refuses: bool) -> tuple[str, str]:
    """Thought and answer that refuse or consent, in words put together at random."""
    thought = [rng.choice(_ASKED)] if rng.random() < 0.5 else []
    thought += [_assess(rng, refuses)] if rng.random() < 0.5 else []
    thought += [_decide(rng, refuses)] if rng.random() < 0.7 or not thought else []
    answer = [_decide(rng, refuses)]
    answer += [_assess(rng, refuses) for _ in range(rng.choice((0, 1, 1, 2)))]
    if refuses:
        answer += [rng.choice(_ADVICE_BAD)] if rng.random() < 0.5 else []
        if rng.random() < 0.2:
            answer = [answer[0]] + rng.sample(answer[1:], len(answer) - 1)
    else:
        answer.append(rng.choice(_ADVICE_GOOD))
    words = {
        "verb": request.verb,
        "object": request.object,
        "noun": request.noun,
        "name": request.category.name,
        "tool": rng.choice(request.category.tools),
        "motion": rng.choice(request.category.motions),
        "count": rng.choice(COUNTS),
    }
    return " ".join(thought).format(**words), _capital(" ".join(answer).format(**words))
