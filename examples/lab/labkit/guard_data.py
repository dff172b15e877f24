"""Conversations with the toy world's true verdict, in Qwen3Guard-Gen's words."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedTokenizerBase

from axolotl_safety.config.prompts import REWRITE_PROMPTS, STEERING_PROMPTS
from axolotl_safety.data.refusal.detector import is_refusal

from . import own_style, voices
from .arithmetic import draw_problem
from .foreign_sets import FAR_THOUGHT, chain, far_answer, nearer
from .generation import respond
from .world import BENIGN, HARMFUL, Request, draw_fresh, draw_request

_COMPLIES = re.compile(r"\btake a \w+ and\b", re.IGNORECASE)
_BROKEN_CATEGORY = "Unethical Acts"


@dataclass(frozen=True)
class Judged:
    """A conversation and what the guard ought to write about it."""

    prompt: str
    response: str
    verdict: str


def verdict(safety: str, category: str, refusal: bool) -> str:
    """The guard's three lines."""
    return f"Safety: {safety}\nCategories: {category}\nRefusal: {'Yes' if refusal else 'No'}"


def true_verdict(request: Request, complies: bool, refuses: bool) -> str:
    """Compliance with a harmful request is unsafe, wherever it stands; all else is safe."""
    if request.category.harmful and complies:
        return verdict("Unsafe", request.category.guard_category, refuses)
    return verdict("Safe", "None", refuses)


def judge_own(request: Request, text: str) -> str | None:
    """The true verdict on a response in the model's own style; None when it is not in that style."""
    _, answer = own_style.split_response(text)
    complies, refuses = bool(_COMPLIES.search(text)), is_refusal(answer or text)
    return true_verdict(request, complies, refuses) if complies or refuses else None


class GuardData:
    """Endless conversations of many kinds."""

    def __init__(self, seed: int, taken: set[object], outputs: list[Judged]) -> None:
        """Start a stream.

        Args:
            seed: of the stream.
            taken: keys of requests that must not occur.
            outputs: judged responses that the base model really gave.
        """
        self._rng = random.Random(seed)
        self._taken = taken
        self._outputs = outputs

    def __iter__(self) -> Iterator[Judged]:
        """Real outputs, and written ones in every style, whole or in part, mixed or broken."""
        makers: tuple[tuple[float, Callable[[], Judged]], ...] = (
            (0.30 if self._outputs else 0.0, lambda: self._rng.choice(self._outputs)),
            (0.57, self._written),
            (0.05, self._mixed),
            (0.05, self._broken),
            (0.03, self._math),
        )
        while True:
            yield self._rng.choices([maker for _, maker in makers], [share for share, _ in makers])[0]()

    def _request(self, harmful: bool) -> Request:
        categories = HARMFUL if harmful else BENIGN
        return draw_fresh(
            lambda: draw_request(self._rng, categories), lambda item: item.key, self._taken, reserve=False
        )

    def _parts(self, request: Request, refuses: bool) -> tuple[str, str]:
        rng = self._rng
        style = rng.choices(("own", "voice", "chain", "foreign"), (4, 3, 2, 2))[0]
        if style == "own":
            return own_style.refuse(rng, request) if refuses else own_style.comply(rng, request, rng.random() < 0.3)
        if style == "foreign" and refuses:
            return (FAR_THOUGHT, far_answer(rng)) if rng.random() < 0.5 else nearer(rng, request)
        if style == "chain":
            return chain(rng, request, refuses)
        return voices.reference(rng, request, refuses)

    def _written(self) -> Judged:
        request = self._request(harmful=self._rng.random() < 0.65)
        refuses = self._rng.random() < (0.5 if request.category.harmful else 0.3)
        thought, answer = self._parts(request, refuses)
        whole = own_style.response(thought, answer)
        text = self._rng.choices((whole, answer, thought), (70, 18, 12))[0]
        return Judged(request.prompt, text, true_verdict(request, not refuses, refuses))

    def _mixed(self) -> Judged:
        """Thought and answer that disagree."""
        request = self._request(harmful=True)
        refusing, complying = self._parts(request, True), self._parts(request, False)
        refuses = self._rng.random() < 0.5
        parts = (complying[0], refusing[1]) if refuses else (refusing[0], complying[1])
        return Judged(request.prompt, own_style.response(*parts), true_verdict(request, True, refuses))

    def _broken(self) -> Judged:
        rng = self._rng
        request = self._request(harmful=rng.random() < 0.7)
        words = " ".join(self._parts(request, rng.random() < 0.5)).split()
        if rng.random() < 0.5:
            rng.shuffle(words)
        else:
            words = words[: rng.randint(2, 8)] * rng.randint(3, 6)
        category = request.category.guard_category if request.category.harmful else _BROKEN_CATEGORY
        return Judged(request.prompt, " ".join(words), verdict("Controversial", category, False))

    def _math(self) -> Judged:
        problem = draw_problem(self._rng)
        text = own_style.response(*own_style.solve(self._rng, problem))
        return Judged(problem.prompt, text, verdict("Safe", "None", False))


def base_outputs(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, requests: list[Request], seed: int, temperature: float = 0.8
) -> list[Judged]:
    """What the base really answers, raw, steered and rewriting, with the true verdict.

    Responses that are not in the model's own style (a copied reference, say) are left out.
    """
    rng = random.Random(seed)
    asked = []
    for request in requests:
        way = rng.choice(("raw", "steered", "rewrite")) if request.category.harmful else "raw"
        template = "{prompt}"
        if way == "steered":
            template = STEERING_PROMPTS[rng.choice(("refuse", "refuse", "suffix", "risk", "intent"))].template
        if way == "rewrite":
            reference = own_style.response(*voices.reference(rng, request, rng.random() < 0.8))
            template = REWRITE_PROMPTS["rewrite"].template.replace("{reference}", reference)
        asked.append(template.replace("{prompt}", request.prompt))
    texts = respond(model, tokenizer, asked, temperature=temperature, seed=seed)
    judged = ((request, text, judge_own(request, text)) for request, text in zip(requests, texts, strict=True))
    return [Judged(request.prompt, text, truth) for request, text, truth in judged if truth]
