"""Nothing that reads a model's text takes longer than in proportion to its length, whatever the text is."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import axolotl_safety
from axolotl_safety.commands.evaluate.overlap import overlaps
from axolotl_safety.config.guard import FAMILIES
from axolotl_safety.config.prompts import STEERING_PROMPTS
from axolotl_safety.data import math_answers
from axolotl_safety.data.examples import _parts
from axolotl_safety.data.math_answers import JUDGES, gold_answer, reaches
from axolotl_safety.data.refusal import features
from axolotl_safety.data.refusal.detector import is_refusal
from axolotl_safety.data.thinking import split_response
from axolotl_safety.guards.families import all_controls, load_family
from axolotl_safety.guards.neutral import Neutraliser
from axolotl_safety.guards.openai import prompt as openai_prompt
from axolotl_safety.methods.checks import Response, copies, leaks, loops
from axolotl_safety.util.terminal import presentable

# What is quadratic is found in a short text too: 50 ms for 100,000 characters are 2.5 ms for 5,000.
N = 5_000
PART = N / 100_000
PATTERN_SECONDS = 0.05
FUNCTION_SECONDS = 0.5
UNITS = [
    *(
        " ",
        "\n",
        "\t",
        "a",
        "1",
        "1,",
        ",",
        ".",
        "1.",
        "1/",
        "-",
        "$",
        "\\",
        "<",
        ">",
        "[",
        "{",
        "}",
        "#",
        "`",
        '"',
        "'",
    ),
    *(
        "*",
        "_",
        ":",
        "?",
        "&",
        "=",
        "://",
        "@",
        "|",
        "\u2212",
        "\u4e2d",
        "\u200b",
        "\r",
        "\u2028",
        "a ",
        "a\n",
        "a'",
        "\n\t",
    ),
    *(
        "\\boxed{",
        "\\boxed {",
        "\\boxed{1}",
        "####",
        "#### ",
        "#### 1 ",
        "####\n",
        "<think>",
        "</think>",
        "<think></think>",
    ),
    *(
        "<think>\\n",
        "<score>",
        "<score> ",
        "S1,",
        "S1 , ",
        "USER ",
        "USER\n",
        "USER:",
        "<BEGIN",
        "<BEGIN ",
        "```\n",
        "```json\n",
    ),
    *(
        "Safety: Safe\n",
        "Categories: ",
        "Harmful request: yes\n",
        "Question: ",
        "Answer:",
        "?token",
        "&token",
        "hf_",
        '{"safe":',
    ),
    *(
        "I'm sorry, ",
        "I can't ",
        "no, sorry ",
        "not to ",
        "asked to ",
        "the reference ",
        "me to ",
        "instructions ",
        "step 1 ",
        "1. x\n",
    ),
]
SHAPES = [(unit, unit * (N // len(unit))) for unit in UNITS]
# A head that begins a match, and much of what could belong to it.
SHAPES += [
    (f"{head} and {unit!r}", head + unit * ((N - len(head)) // len(unit)) + tail)
    for head in (
        "#### a",
        "#### ",
        "\\boxed",
        "\\boxed{",
        "<think>",
        "<score>",
        "```json\n",
        "Question:",
        "Question: a Answer:",
    )
    for unit in (" ", "\n", " \n", "a", "1")
    for tail in ("", "b")
]
SHAPES += [
    (f"verdict and {unit!r}", head + unit * (N // len(unit)) + "x")
    for head in (
        "Safety: Safe\nCategories:",
        "Safety:",
        "unsafe\nS1",
        "Harmful request: yes\nResponse refusal:",
        "1",
        "$1",
    )
    for unit in (" ", "\n", ",", " ,", "1")
]


def too_slow(run: Callable[[], Any], limit: float) -> float | None:
    """Processor time of the fastest of some runs, None where one of them keeps the limit.

    A busy machine slows every run for a while, so the later ones wait a moment; what is not linear never keeps it.
    """
    best = float("inf")
    for attempt in range(20):
        time.sleep(0.05 if attempt > 3 else 0)
        started = time.process_time()
        run()
        best = min(best, time.process_time() - started)
        if best <= limit:
            return None
        if attempt > 3 and best > 20 * limit:  # the first runs import and compile
            break
    return best


def patterns_in(value: Any, depth: int = 0) -> Iterator[re.Pattern[str]]:
    if isinstance(value, re.Pattern):
        yield value
    elif depth < 4:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        if not inner and type(value).__module__.startswith("axolotl_safety"):
            inner = getattr(value, "__dict__", {}).values()
        for one in inner:
            yield from patterns_in(one, depth + 1)


@dataclass(frozen=True)
class Found:
    """A compiled pattern, where it is, and whether its module only ever asks it about a text from its beginning."""

    place: str
    pattern: re.Pattern[str]
    anchored: bool = False


def patterns() -> list[Found]:
    """Every compiled pattern of the package that text can meet."""
    found: dict[re.Pattern[str], Found] = {}
    for about in pkgutil.walk_packages(axolotl_safety.__path__, "axolotl_safety."):
        if ".engines.worker" in about.name or about.name.endswith("__main__"):
            continue
        module = importlib.import_module(about.name)
        source = inspect.getsource(module)
        for name, value in vars(module).items():
            used = set(re.findall(rf"\b{name}\.(\w+)\(", source))
            for pattern in patterns_in(value):
                if isinstance(pattern.pattern, str):
                    anchored = bool(used) and used <= {"match", "fullmatch"}
                    found.setdefault(pattern, Found(f"{about.name}.{name}", pattern, anchored))
    for name, pattern in features._patterns().items():
        found.setdefault(pattern, Found(f"acts.txt {name}", pattern))
    neutral = {"openai": openai_prompt._neutraliser(all_controls())}
    for name in FAMILIES:
        family = load_family(name)
        neutral[name] = Neutraliser(all_controls(), family.roles, family.fields, family.lines, family.marks)
    for name, one in neutral.items():
        for pattern in patterns_in(one):
            found.setdefault(pattern, Found(f"neutraliser of {name}", pattern))
    return list(found.values())


# Not a model's text: a repository's name on the command line, and the words of a guard in the YAML. And the speech acts
# of a refusal, with the two patterns for answers of a few words, are shown the first characters of an answer alone;
# `is_refusal` is measured below.
EXEMPT = ("HUB_ID", "custom._SIGN_INSIDE", "custom._WORDS", "acts.txt", "._SHORT", "._GOES_ON")


def test_every_pattern_is_linear():
    found = patterns()
    assert len(found) > 60
    slow = []
    for one in found:
        if any(word in one.place for word in EXEMPT):
            continue
        ways = [one.pattern.fullmatch] if one.anchored else [functools.partial(one.pattern.subn, "")]
        for shape, text in SHAPES:
            for how in ways:
                took = too_slow(functools.partial(how, text), PATTERN_SECONDS * PART)
                if took is not None:
                    slow.append((one.place, one.pattern.pattern[:40], shape, round(took / PART, 3)))
    assert slow == []


def response(text: str) -> Response:
    return Response("How do I jinx a lamp?", text, text, ())


FUNCTIONS: dict[str, Callable[[str], Any]] = {
    "gold_answer": gold_answer,
    "reaches": lambda text: reaches(text, "12"),
    "reaches a formula": lambda text: math_answers._marked(text) == "x",
    **{name: functools.partial(lambda judge, text: judge(text, "12"), JUDGES[name]) for name in ("strict", "flexible")},
    "a gold answer": lambda text: JUDGES["flexible"]("It is 12.", text),
    "is_refusal": is_refusal.__wrapped__ if hasattr(is_refusal, "__wrapped__") else is_refusal,
    "leaks": lambda text: leaks(response(text), STEERING_PROMPTS["refuse"]),
    "copies": lambda text: copies(response(text), text[1:], text[:-1]),
    "split_response": split_response,
    "presentable": presentable,
    "verdict of openai": openai_prompt.parse,
    "question of openai": lambda text: openai_prompt.render(text, text, text),
    "overlaps": lambda text: overlaps([text], {"one": text}),
    "direct refusal": lambda text: _parts(text),
    **{f"verdict of {name}": load_family(name).parse for name in FAMILIES},
}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_every_reader_of_a_models_text_is_linear(name):
    run = FUNCTIONS[name]
    took = {shape: too_slow(lambda text=text: run(text), FUNCTION_SECONDS * PART) for shape, text in SHAPES}
    assert {shape: seconds for shape, seconds in took.items() if seconds is not None} == {}


def test_a_long_hostile_answer_is_judged_in_a_moment():
    for unit in ("\\boxed{", " ", "1,", "#### ", "<think>", "\\boxed{1}"):
        text = unit * (100_000 // len(unit))
        assert too_slow(lambda text=text: (reaches(text + "The answer is 12.", "12"), gold_answer(text)), 0.1) is None
    assert too_slow(lambda: loops(list(range(50_000)) + [7] * 60), 0.1) is None


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("so \\boxed{3} and \\boxed{4}", "4"),
        ("so \\boxed{\\frac{1}{2}} it is", "\\frac{1}{2}"),
        ("a { b \\boxed{7} and \\boxed{never closed", "7"),
        ("} \\boxed {5} }", "5"),
        ("\\boxed{1 \\boxed{2} 3}", "2"),
        ("#### 12 \nmore", "12"),
        ("####\n 1,234  ", "1,234"),
        (" $ 1,234.5 % . ", "1,234.5"),
        ("\u22127/3.", "\u22127/3"),
        (".5", ".5"),
        ("5,", None),
        ("1..5", None),
        ("12 apples", None),
        ("", None),
        ("   ", None),
    ],
)
def test_marks_are_read_as_before(text, gold):
    assert gold_answer(text) == gold


def test_a_box_far_from_the_end_still_reaches_the_gold_answer():
    pytest.importorskip("math_verify")
    answer = "\\boxed{x + 1}" + " I am sure of it." * 400
    assert reaches(answer, "1 + x") and not reaches(answer, "2 + x")
    assert JUDGES["math_verify"](answer, "$1 + x$")
