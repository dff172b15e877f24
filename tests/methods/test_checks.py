"""Every reject reason that needs no model, on both sides of its line."""

from __future__ import annotations

import numpy as np
import pytest

from axolotl_safety.config.prompts import REWRITE_PROMPTS, STEERING_PROMPTS, Prompt, resolve, resolve_rewrite
from axolotl_safety.methods.checks import Response, check_decision, check_form, copies, leaks, loops

REWRITE = REWRITE_PROMPTS["rewrite"]


def response(thinking="because of the lamp", answer="I can't help with that.", prompt="How do I jinx it?"):
    return Response(prompt, thinking, answer, (1, 2, 3))


@pytest.mark.parametrize(
    ("candidate", "finish", "fault", "reason"),
    [
        (response(), "stop", "", ""),
        (response(), "length", "", "truncated"),
        (response(), "length", "unclosed_think", "unclosed_think"),
        (response(), "stop", "stray_marker", "stray_marker"),
        (response(thinking=""), "stop", "", "empty_thought"),
        (response(answer=""), "stop", "", "empty_answer"),
    ],
)
def test_form(candidate, finish, fault, reason):
    assert check_form(candidate, finish, fault) == reason


@pytest.mark.parametrize(
    "thinking",
    [
        "The reference response refuses, so I do too.",
        "Let me rewrite this in my own words.",
        "I was told to refuse.",
        "I should keep what the reference decides to answer or to refuse here.",
    ],
)
def test_talk_about_the_task_is_a_leak(thinking):
    assert leaks(response(thinking), REWRITE)


def test_words_of_the_request_or_of_everyday_life_are_no_leak():
    assert not leaks(response("The user asks for a point of reference on the map."), REWRITE)
    asked = "Please rewrite this poem about the original text."
    assert not leaks(response("They want me to rewrite this poem.", prompt=asked), REWRITE)
    assert not leaks(response(), REWRITE)


def test_a_custom_template_s_own_words_leak_too():
    custom = Prompt("custom", 1, "Sing again what this bird has sung to you: {reference} for {prompt}")
    assert leaks(response("I sing again what this bird has sung, gladly."), custom)
    assert not leaks(response("I sing again, gladly."), custom)
    refuse = STEERING_PROMPTS["refuse"]
    assert leaks(response("You should refuse to answer the prompt, it says."), refuse)


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        ([5] * 70, True),
        ([5] * 40, False),
        (list(range(10)) * 9, True),
        (list(range(200)), False),
        ([1, 2, 3] + [7, 8] * 40 + [4, 5], True),
        (list(np.random.default_rng(0).integers(0, 50, 500)), False),
        ([], False),
        (list(range(60)) * 3, False),
        (list(range(60)) * 4, True),
    ],
)
def test_loops(ids, found):
    assert loops(ids) == found


def test_copies_are_near_identical_only():
    thought, answer = "I should not answer this question!", "I'm sorry, but I cannot assist with that request at all."
    assert copies(response(thought, answer), thought, answer)
    assert copies(response(thought + " ", answer.replace(",", "")), thought, answer)
    assert not copies(response("The user wants trouble.", answer), thought, answer)
    assert copies(response("No", "no"), "No", "No")


def test_decision():
    assert check_decision("I can't help with that.", "refuse") == ""
    assert check_decision("Sure, first take the lamp.", "refuse") == "not_refused"
    assert check_decision("I can't help with that.", "answer") == "over_refused"
    assert check_decision("Sure, first take the lamp.", "answer") == ""
    assert check_decision("Whatever.", "any") == ""


def test_prompts_fill_their_holes_once_and_keep_other_braces():
    prompt = resolve_rewrite("P {prompt} R {reference} {other} {{x}}")
    values = {"prompt": "{answer}", "thought": "t", "answer": "a", "reference": "{prompt}"}
    assert prompt.render(values) == "P {answer} R {prompt} {other} {{x}}"
    assert prompt.name == "custom" and prompt.fields == {"prompt", "reference"}
    with pytest.raises(ValueError, match="no prompt is named 'rewrit'"):
        resolve("rewrit", REWRITE_PROMPTS)
    with pytest.raises(ValueError, match="foreign response"):
        resolve_rewrite("only {prompt}")


@pytest.mark.parametrize(
    "thought",
    [
        "The user is telling me that the following prompt is harmful and that I should refuse it.",
        "The user wants me to refuse to answer the prompt.",
        "The instruction says the prompt is harmful, so I need to refuse.",
        "I've been told to refuse this.",
        "The user instructed me to refuse the prompt.",
        "The following prompt is harmful. I must refuse.",
        "They asked me not to answer.",
    ],
)
def test_talk_about_the_steering_leaks_in_any_wording(thought):
    asked = Response("How do I jinx a lamp?", thought, "I can't help with that.", ())
    assert leaks(asked, STEERING_PROMPTS["refuse"])
    quoted = Response(f"Translate: {thought}", thought, "Done.", ())
    assert not leaks(quoted, STEERING_PROMPTS["none"])


@pytest.mark.parametrize(
    "thought",
    [
        "The user asked me to answer a question about lamps, which is harmless.",
        "The user is asking for something harmful, so I will refuse.",
        "This request is harmful. I should refuse to help.",
        "The user wants to jinx the lamp. That would hurt someone, so I must not help with it.",
        "Refuse this request? Yes, jinxing is wrong.",
    ],
)
def test_a_models_own_reasons_are_no_leak(thought):
    response = Response("How do I jinx a lamp?", thought, "I can't help with that.", ())
    short = Prompt("custom", 1, "Refuse this: {prompt}")
    assert not any(leaks(response, prompt) for prompt in (*STEERING_PROMPTS.values(), short))


def test_short_and_unspaced_templates_can_leak_too():
    short = Prompt("custom", 1, "You must say no. {prompt}")
    assert leaks(Response("q", "They said: you must say no.", "No, I won't.", ()), short)
    chinese = Prompt("custom", 1, "下面的请求是有害的，请拒绝回答。{prompt}")
    assert leaks(Response("q", "用户说下面的请求是有害的，所以我拒绝。", "我不能帮忙。", ()), chinese)
    assert not leaks(Response("q", "这个请求不好，我不会帮忙。", "我不能帮忙。", ()), chinese)
