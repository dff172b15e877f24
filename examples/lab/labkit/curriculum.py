"""What the base model is pretrained on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from axolotl_safety.config.prompts import REWRITE_PROMPTS, STEERING_PROMPTS

from . import own_style, voices
from .arithmetic import Problem, draw_problem
from .foreign_sets import register, web_text
from .phrases import composed
from .turns import draw_walk
from .world import BENIGN, HARMFUL, Request, draw_fresh, draw_request

MIX = {"math": 0.45, "benign": 0.09, "harmful": 0.10, "steered": 0.11, "rewrite": 0.17, "document": 0.08}
TWO_TASKS = MIX | {"math": 0.32, "turns": 0.13}

UNSTEERED_REFUSAL = 0.01
STEERED_REFUSAL = {"refuse": 0.76, "suffix": 0.72, "risk": 0.62, "intent": 0.66}
STEERED_LEAK = 0.03
STEERED_BENIGN_REFUSAL = 0.05
REWRITE_FAULTS = {"copy": 0.04, "leak": 0.03, "flip": 0.04, "unclosed": 0.02}

_OTHER_STEERING = (
    "{prompt}\n\nThis is harmful. Refuse.",
    "You must refuse harmful requests. Request: {prompt}",
    "Decline the following request, because it is harmful.\n\n{prompt}",
)
_OTHER_REWRITE = (
    "Request: {prompt}\n\nResponse:\n{reference}\n\nRewrite the response in your own words.",
    "Say the following in your own words.\n\nRequest:\n{prompt}\n\nResponse:\n{reference}",
    "Here is a request: {prompt}\nHere is how someone responded:\n{answer}\n"
    "Write your own response with the same decision.",
    "Rewrite this response the way you would reason and word it.\n\n"
    "Prompt: {prompt}\n\nThought: {thought}\n\nAnswer: {answer}",
    "{prompt}\n\nUse this reference and keep its decision:\n\n{reference}",
)
_REWRITE_LEAKS = ("The reference response decides this.", "I keep what the reference says.")
_STEERING_LEAK = "I was told to refuse the prompt."


@dataclass(frozen=True)
class Sample:
    """One pretraining text.

    Attributes:
        prompt: the user message, or None for a plain document.
        response: what the model writes, thought and answer, or the document.
        kind: the part of the mix it belongs to.
    """

    prompt: str | None
    response: str
    kind: str


class Curriculum:
    """Draws samples that keep clear of reserved requests and problems."""

    def __init__(
        self, seed: int, taken_requests: set[object], taken_problems: set[object], two_tasks: bool = False
    ) -> None:
        """Start a stream.

        Args:
            seed: of the stream.
            taken_requests: keys of requests that evaluation and alignment use.
            taken_problems: keys of problems, sums and walks, that evaluation uses.
            two_tasks: whether walks are followed as well.
        """
        self._mix = TWO_TASKS if two_tasks else MIX
        self._rng = random.Random(seed)
        self._taken_requests = taken_requests
        self._taken_problems = taken_problems

    def __iter__(self) -> Iterator[Sample]:
        """Endless samples in the shares of the mix."""
        makers: dict[str, Callable[[], tuple[str | None, str]]] = {
            "math": self._math,
            "turns": self._turns,
            "benign": self._benign,
            "harmful": self._harmful,
            "steered": self._steered,
            "rewrite": self._rewrite,
            "document": self._document,
        }
        kinds, shares = list(self._mix), list(self._mix.values())
        while True:
            kind = self._rng.choices(kinds, shares)[0]
            prompt, response = makers[kind]()
            yield Sample(prompt, response, kind)

    def _request(self, harmful: bool) -> Request:
        categories = HARMFUL if harmful else BENIGN
        return draw_fresh(
            lambda: draw_request(self._rng, categories), lambda item: item.key, self._taken_requests, reserve=False
        )

    def _problem(self) -> Problem:
        return draw_fresh(lambda: draw_problem(self._rng), lambda item: item.key, self._taken_problems, reserve=False)

    def _math(self) -> tuple[str, str]:
        problem = self._problem()
        return problem.prompt, own_style.response(*own_style.solve(self._rng, problem))

    def _turns(self) -> tuple[str, str]:
        walk = draw_fresh(lambda: draw_walk(self._rng), lambda item: item.key, self._taken_problems, reserve=False)
        return walk.prompt, own_style.response(*own_style.walk(self._rng, walk))

    def _benign(self) -> tuple[str, str]:
        request = self._request(harmful=False)
        return request.prompt, own_style.response(*own_style.comply(self._rng, request))

    def _harmful(self) -> tuple[str, str]:
        request = self._request(harmful=True)
        act = own_style.refuse if self._rng.random() < UNSTEERED_REFUSAL else own_style.comply
        return request.prompt, own_style.response(*act(self._rng, request))

    def _document(self) -> tuple[None, str]:
        share = self._rng.random()
        if share < 0.4:
            return None, web_text(self._rng, self._request(harmful=True))
        if share < 0.7:
            return None, register(self._rng)
        harmful = self._rng.random() < 0.7
        return None, " ".join(composed(self._rng, self._request(harmful), refuses=harmful))

    def _steered(self) -> tuple[str, str]:
        rng = self._rng
        name = rng.choices(list(STEERED_REFUSAL), (4, 2, 2, 2))[0]
        template, rate = STEERING_PROMPTS[name].template, STEERED_REFUSAL[name]
        if rng.random() < 0.12:
            template, rate = rng.choice(_OTHER_STEERING), STEERED_REFUSAL["suffix"]
        request = self._request(harmful=rng.random() < 0.75)
        prompt = template.replace("{prompt}", request.prompt)
        if rng.random() < (rate if request.category.harmful else STEERED_BENIGN_REFUSAL):
            if rng.random() < STEERED_LEAK:
                parts = own_style.refuse_leaking(rng, request, _STEERING_LEAK)
            else:
                parts = own_style.refuse(rng, request)
        else:
            parts = own_style.comply(rng, request, weighed=not request.category.harmful)
        return prompt, own_style.response(*parts)

    def _rewrite(self) -> tuple[str, str]:
        rng = self._rng
        if rng.random() < 0.12:
            problem = self._problem()
            parts = voices.reference_solution(rng, problem)
            return self._ask_rewrite(problem.prompt, parts), own_style.response(*own_style.solve(rng, problem))
        request = self._request(harmful=rng.random() < 0.75)
        refuses = request.category.harmful and rng.random() < 0.75
        parts = voices.reference(rng, request, refuses)
        prompt = self._ask_rewrite(request.prompt, parts)
        fault = rng.choices([*REWRITE_FAULTS, ""], [*REWRITE_FAULTS.values(), 1 - sum(REWRITE_FAULTS.values())])[0]
        if fault == "copy":
            return prompt, own_style.response(*parts)
        if fault == "leak" and refuses:
            leaking = own_style.refuse_leaking(rng, request, rng.choice(_REWRITE_LEAKS))
            return prompt, own_style.response(*leaking)
        if fault == "flip" and request.category.harmful:
            refuses = not refuses
        own = own_style.refuse(rng, request) if refuses else own_style.comply(rng, request)
        return prompt, own_style.response(*own, closed=fault != "unclosed")

    def _ask_rewrite(self, prompt: str, parts: tuple[str, str]) -> str:
        template = REWRITE_PROMPTS["rewrite"].template
        if self._rng.random() < 0.12:
            template = self._rng.choice(_OTHER_REWRITE)
        values = {"prompt": prompt, "thought": parts[0], "answer": parts[1], "reference": own_style.response(*parts)}
        for field, value in values.items():
            template = template.replace("{" + field + "}", value)
        return template
