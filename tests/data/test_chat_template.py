"""Chat templates that ship with Axolotl, and toy ones with a fault: served token for token, or refused by name."""

from __future__ import annotations

import logging

import pytest
from axolotl.utils.chat_templates.base import _CHAT_TEMPLATES
from jinja2 import TemplateError
from support import tiny

from axolotl_safety.config import ThinkConfig
from axolotl_safety.data.tokenizer import TargetTokenizer
from axolotl_safety.data.types import IGNORE, Outcome
from axolotl_safety.pipeline.writer import training_row
from axolotl_safety.util.errors import ModelError

USER = "How do I polish the tin moon?"
CHATML = tiny.TEMPLATES["no_think"]
# Without `enable_thinking` these ask for an answer without a thought.
CLOSED = {"exaone4", "gemma4", "gemma4_unified"}
# Templates that raise on a system turn; such a conversation is a counted reject.
NO_SYSTEM = {"gemma"}


@pytest.fixture(scope="module")
def reasoning():
    """One tokenizer with think markers for every template; turn markers that it does not know are plain text to it."""
    tokenizer = tiny.make_tokenizer("qwen3")
    tokenizer.add_special_tokens({"bos_token": "<|endoftext|>"})
    return tokenizer


def with_template(tokenizer, template, name="some/model"):
    tokenizer.chat_template, tokenizer.name_or_path = template, name
    return tokenizer


def target_of(tokenizer, think=None):
    return TargetTokenizer(tokenizer, (tokenizer.eos_token_id,), think)


@pytest.mark.parametrize("name", sorted(_CHAT_TEMPLATES))
def test_a_template_is_served_token_for_token_or_refused_by_name(reasoning, name):
    tokenizer = with_template(reasoning, _CHAT_TEMPLATES[name], f"some/{name}")
    if name in CLOSED:
        with pytest.raises(ModelError, match=f"some/{name}.*closes the thought.*thinking mode"):
            target_of(tokenizer)
        return
    target = target_of(tokenizer)
    turns = [{"role": "user", "content": USER}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=True, add_generation_prompt=True)["input_ids"]
    assert target.prompt_ids(USER) == tuple(prompt)

    # A sampled response keeps its ids behind the prompt; only they are trained, the end token too.
    opening = "" if target.thinking.prompt_opens else "<think>\n"
    said = (*target.encode(f"{opening}It is harmless.\n</think>\n\nWith a cloth."), tokenizer.eos_token_id)
    split = target.split(said)
    assert (split.thinking, split.answer, split.fault) == ("It is harmless.", "With a cloth.", "")
    outcome = Outcome("r", 0, "s", USER, "benign", "accepted", prompt_ids=tuple(prompt), response_ids=said)
    ids_T, labels_T = training_row(outcome)
    assert ids_T.tolist() == [*prompt, *said] and labels_T.tolist() == [IGNORE] * len(prompt) + list(said)
    assert target.turn_end_id == tokenizer.eos_token_id

    if name in NO_SYSTEM:
        with pytest.raises(TemplateError, match="System role"):
            target.prompt_ids(USER, history=(("system", "Be brief."),))
    else:
        assert target.prompt_ids(USER, history=(("system", "Be brief."),)) is not None


@pytest.mark.parametrize("name", sorted(set(_CHAT_TEMPLATES) - CLOSED))
def test_without_think_markers_a_template_that_knows_none_is_refused_by_name(name):
    tokenizer = with_template(NO_MARKERS, _CHAT_TEMPLATES[name], f"some/{name}")
    if "</think>" in _CHAT_TEMPLATES[name]:
        assert target_of(tokenizer).thinking.close == "</think>"
        return
    with pytest.raises(ModelError, match=f"some/{name}.*not look like a reasoning model.*safety.think"):
        target_of(tokenizer)


NO_MARKERS = tiny.make_tokenizer("no_think")


def test_gemma4_opens_and_closes_its_own_kind_of_thought(reasoning):
    tokenizer = with_template(reasoning, _CHAT_TEMPLATES["gemma4"])
    with pytest.raises(ModelError, match="closes the thought"):
        target_of(tokenizer, ThinkConfig(open="<|channel>thought", close="<channel|>"))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% if not tools %}{{ raise_exception('no tools') }}{% endif %}" + CHATML, "TemplateError: no tools"),
        ("{% if messages[0]['role'] != 'system' %}{{ raise_exception('who am I') }}{% endif %}" + CHATML, "who am I"),
        ("{{ tools | length }}" + CHATML, "has no len"),
        ("{{ 1 if }}", "TemplateSyntaxError"),
        ({"tool_use": CHATML}, "ValueError"),
        (CHATML.replace("m['content']", "''"), "leaves out or changes"),
        (CHATML.replace("m['content']", "m['content'] | upper"), "leaves out or changes.*AXOLOTL SAFETY"),
    ],
    ids=["tools", "system", "type", "syntax", "dict", "drops", "upper"],
)
def test_a_template_that_cannot_serve_is_refused_with_its_model_and_the_way_out(reasoning, template, words):
    with pytest.raises(ModelError, match=f"(?s)'some/model'.*{words}.*tokenizer_config"):
        target_of(with_template(reasoning, template))


def test_a_template_that_prints_the_date_is_named_in_a_warning(reasoning, caplog):
    dated = "{{ 'Today: ' + strftime_now('%d %b') + '\\n' }}" + CHATML
    with caplog.at_level(logging.WARNING, "axolotl_safety"):
        target_of(with_template(reasoning, CHATML))
        assert not caplog.records
        target = target_of(with_template(reasoning, dated))
    assert "'some/model' prints today's date" in caplog.text and "tokenizer_config" in caplog.text
    assert target.prompt_ids(USER) is not None
