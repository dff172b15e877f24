"""Families that think when told, or by markers of their own: prompts, responses and source rows, from ids."""

from __future__ import annotations

import logging

import pytest
from support import tiny
from support.thinkers import THINKERS, make_thinker

from axolotl_safety.config import DatasetOptions, ThinkConfig
from axolotl_safety.data.examples import BadRow, choose_adapter, read_examples
from axolotl_safety.data.tokenizer import TargetTokenizer
from axolotl_safety.util.errors import ModelError


def target(name: str, **values) -> TargetTokenizer:
    tokenizer = make_thinker(name)
    return TargetTokenizer(tokenizer, (tokenizer.eos_token_id,), None, values)


@pytest.mark.parametrize("name", THINKERS)
def test_a_family_that_is_told_to_think_is_served_from_ids(name):
    family = THINKERS[name]
    tokens = target(name, **family.values)
    turns = [{"role": "user", "content": "polish it"}]
    wanted = tokens.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **family.values)
    prompt = tokens.prompt_ids("polish it")
    assert tokens.decode(prompt) == wanted and wanted.endswith(family.prompt_end)
    assert tokens.tokenizer.convert_ids_to_tokens(tokens.turn_end_id) == family.end

    said = (*tokens.encode(family.said), tokens.turn_end_id)
    split = tokens.split(said)
    answer = "<response>A</response>" if name == "granite" else "A"
    assert (split.thinking, split.answer, split.fault) == ("R", answer, "")
    # What this model would have to write itself is what it is read from.
    written = tokens.response_ids("R", "A")
    assert tokens.split(written).fault == "" and written[-1] == tokens.turn_end_id
    if name not in ("granite", "deepseek_v3.1"):  # whose models write no blank lines; the frame has them
        assert written == said
    cut = tokens.encode(family.said.partition("R")[0] + "R")
    assert tokens.split(tuple(cut)).fault == "unclosed_think"
    assert tokens.split((*said[:-1], *tokens.encode(family.tokens[0]), said[-1])).fault == "control_token"
    assert 0 < tokens.thought_length(said) < len(said)
    assert tokens.decode(said[: tokens.thought_length(said)]).endswith(tokens.thinking.close)


@pytest.mark.parametrize("name", [name for name, family in THINKERS.items() if family.closed])
def test_a_template_that_is_not_told_to_think_names_what_tells_it(name):
    (switch,) = THINKERS[name].values
    with pytest.raises(ModelError, match=rf"some/{name}.*closes the thought.*chat_template_kwargs: {{{switch}: true}}"):
        target(name)
    with pytest.raises(ModelError, match=rf"with chat_template_kwargs {{'{switch}': False}}"):
        target(name, **{switch: False})


def test_a_mode_that_only_the_system_prompt_shows_is_named_in_a_warning(caplog):
    with caplog.at_level(logging.WARNING, "axolotl_safety"):
        target("gpt_oss")
        target("granite", thinking=True)
        assert not caplog.records
        target("granite")
    assert "'some/granite' has a mode that is not used" in caplog.text and "{thinking: true}" in caplog.text


def test_values_in_the_section_are_the_templates_and_leave_the_markers_to_be_found():
    tokenizer = make_thinker("gpt_oss")
    think = ThinkConfig(chat_template_kwargs={"reasoning_effort": "low"})
    tokens = TargetTokenizer(tokenizer, (tokenizer.eos_token_id,), think)
    assert "Reasoning: low" in tokens.decode(tokens.prompt_ids("hello"))
    assert tokens.thinking.open == "<|channel|>analysis<|message|>"
    assert ThinkConfig().markers == ("<think>", "</think>")
    assert ThinkConfig(close="]]").markers == ("<think>", "]]")


def test_harmony_channels_are_told_apart_by_their_tokens():
    tokens = target("gpt_oss")
    end = tokens.turn_end_id

    def split(text: str):
        return tokens.split((*tokens.encode(text), end))

    final = "<|end|><|start|>assistant<|channel|>final<|message|>"
    analysis = "<|channel|>analysis<|message|>"
    assert split(f"{analysis}R{final}A").fault == ""
    assert split("<|channel|>final<|message|>A").fault == "unclosed_think"
    assert split(f"R{final}A").fault == "unopened_think"
    assert split(f"{analysis}R{final}A{final}B").fault == "stray_marker"
    assert (
        split(f"{analysis}R<|end|><|start|>assistant<|channel|>commentary<|message|>C{final}A").fault == "control_token"
    )
    # The same letters, spelt with ordinary tokens, are no channel.
    pieces = [index for letter in final for index in tokens.encode(letter)]
    assert tokens.split((*tokens.encode(f"{analysis}R"), *pieces, *tokens.encode("A"), end)).fault == "unclosed_think"
    # <|end|> ends a message inside a response: it must not end the response.
    assert tokens.stop_token_ids == (end,)
    # In a message to the model the thought of a reference stands between plain markers.
    assert tokens.thinking.shown("R", "A") == "<think>\nR\n</think>\n\nA"
    assert tokens.prompt_ids("Reference:\n" + tokens.thinking.shown("R", "A")) is not None


ROWS = {
    "own": "{said}",
    "think": "<think>\nR\n</think>\n\nA",
    "tail": "R\n</think>\n\nA",
    "plain": "A",
}


@pytest.mark.parametrize("name", THINKERS)
@pytest.mark.parametrize("kind", ROWS)
def test_source_rows_are_read_by_the_models_own_markers_and_by_think(name, kind):
    tokens = target(name, **THINKERS[name].values)
    markers = tokens.thinking
    said = ROWS[kind].replace("{said}", f"{markers.open}R{markers.close}A")
    history = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": f"{markers.open}R{markers.close}before"},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": said},
    ]
    for row in ({"prompt": "q", "response": said}, {"messages": history}):
        adapter = choose_adapter(row, DatasetOptions(), "data")
        (read,) = read_examples([row], adapter, DatasetOptions(label="benign"), tokens.thinking)
        assert (read.thought, read.answer) == ("" if kind == "plain" else "R", "A")
        assert [text for _, text in read.history] == (["q", "before"] if "messages" in row else [])
    row = {"prompt": "q", "response": f"{markers.open}R{markers.close}"}
    (read,) = read_examples([row], choose_adapter(row, DatasetOptions(), "data"), DatasetOptions(), tokens.thinking)
    assert isinstance(read, BadRow) and read.reason == "empty_answer"


def test_named_markers_read_rows_too():
    tokenizer = make_thinker("smollm3")
    think = ThinkConfig(open="[THINK]", close="[/THINK]", chat_template_kwargs={"enable_thinking": True})
    tokens = TargetTokenizer(tokenizer, (tokenizer.eos_token_id,), think)
    square = TargetTokenizer(
        tokenizer, (tokenizer.eos_token_id,), think.model_copy(update={"open": "[[", "close": "]]"})
    ).thinking
    assert square.read("", "[[R]]A") == ("R", "A") and square.read("", "x[y[0]] is it.") == ("", "x[y[0]] is it.")
    for text in ("[THINK]R[/THINK]A", "R[/THINK]\n\nA", "<think>R</think>A"):
        row = {"prompt": "q", "response": text}
        (read,) = read_examples([row], choose_adapter(row, DatasetOptions(), "d"), DatasetOptions(), tokens.thinking)
        assert (read.thought, read.answer) == ("R", "A")


def test_markers_that_hold_a_token_of_a_turn_are_read_and_stand_in_no_message():
    """As in s1, whose thought and answer begin with ``<|im_start|>think`` and ``<|im_start|>answer``."""
    tokenizer = tiny.make_tokenizer("no_think")
    think = ThinkConfig(open="<|im_start|>think", close="<|im_start|>answer")
    tokens = TargetTokenizer(tokenizer, (tokenizer.eos_token_id,), think)
    said = (*tokens.encode("<|im_start|>think\nR\n<|im_start|>answer\nA"), tokens.turn_end_id)
    split = tokens.split(said)
    assert (split.thinking, split.answer, split.fault) == ("R", "A", "")
    assert tokens.split(tokens.response_ids("R", "A")).fault == ""
    more = (*said[:-1], *tokens.encode("<|im_start|>user"), said[-1])
    assert tokens.split(more).fault == "control_token"
    assert tokens.thinking.shown("R", "A") == "<think>\nR\n</think>\n\nA"
    assert tokens.has_control_token("<|im_start|>think") and tokens.prompt_ids("a <|im_start|>") is None
