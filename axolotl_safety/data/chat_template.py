"""Checks of a chat template and its tokenizer before anything is sampled with them."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from axolotl_safety.util.errors import ModelError

if TYPE_CHECKING:
    from .tokenizer import TargetTokenizer

LOG = logging.getLogger(__name__)
_MARKER = re.compile(r"<[^<>\s]{1,40}>|\[[^\[\]\s]{1,40}\]")
_PROBE = 'The quick brown fox, 12 + 30 = 42.\n\n  Two spaces, a "quote" and a tab\t.'
_WAY_OUT = (
    "Copy the tokenizer's files into a folder, mend chat_template.jinja there, and name that folder as "
    "tokenizer_config in the YAML."
)


def probe_template(tokenizer: Any, user: str) -> str:
    """Render the generation prompt of one user message, the least that every row needs.

    Raises:
        ModelError: the template takes no such message, or the message is not in what it renders.
    """
    named = f"the chat template of {tokenizer.name_or_path!r}"
    turns = [{"role": "user", "content": user}]

    def render(**values: Any) -> str:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **values)

    try:
        text = render()
        dated = render(strftime_now=lambda form: "then") != render(strftime_now=lambda form: "now")
    except Exception as error:  # a template is a program, and raises what it likes
        raise ModelError(
            f"{named} cannot render one user message without a system turn or tools: "
            f"{type(error).__name__}: {error}. {_WAY_OUT}"
        ) from error
    if user not in text:
        raise ModelError(f"{named} leaves out or changes what the user says: {user!r} became {text!r}. {_WAY_OUT}")
    if dated:
        LOG.warning(
            "%s prints today's date: a run that goes on tomorrow asks everything anew, and its training set is "
            "another one. To avoid that, put a fixed date into it. %s",
            named,
            _WAY_OUT,
        )
    return text


def written_markers(tokenizer: Any, tokens: Collection[str]) -> tuple[str, ...]:
    """Turn markers that a template writes as ordinary text: ``<|user|>`` of Tulu and OLMo 2, ``[INST]`` of Llama 2.

    In the ids they cannot be told from the same letters in a row, so that they are looked for in the text.
    """
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}, {"role": "user", "content": "x"}]
    system = [{"role": "system", "content": "x"}]
    found: set[str] = set()
    for conversation in (turns[:1], turns, system + turns):
        try:
            text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        except Exception:  # a template is a program; rows that need what it refuses are rejected one by one
            continue
        found |= set(_MARKER.findall(text))
    return tuple(sorted(found - set(tokens)))


def check_round_trip(tokens: TargetTokenizer, texts: list[str], raw_tokenizer_file: str | None) -> None:
    """Refuse a tokenizer that changes text (transformers #45488: some Llama-class loads lose spaces).

    It is held against the checkpoint's ``tokenizer.json`` where there is one. The texts, a sample of what will be
    trained on, are never shown in a message.

    Raises:
        ModelError: with the fixed probe and what became of it.
    """
    if raw_tokenizer_file is not None:
        from tokenizers import Tokenizer

        raw = Tokenizer.from_file(raw_tokenizer_file)
        raw.no_truncation()
        raw.no_padding()
        for text in (_PROBE, *texts):
            if raw.encode(text, add_special_tokens=False).ids != tokens.encode(text):
                raise ModelError(
                    f"the tokenizer of {tokens.tokenizer.name_or_path!r}, loaded as "
                    f"{type(tokens.tokenizer).__name__}, gives other ids than its own tokenizer.json: "
                    f"{_PROBE!r} is {raw.encode(_PROBE, add_special_tokens=False).ids} in the file and "
                    f"{tokens.encode(_PROBE)} as loaded. Copy its tokenizer "
                    "files (without config.json) into a folder, set tokenizer_class to PreTrainedTokenizerFast in "
                    "tokenizer_config.json there, and name that folder as tokenizer_config in the YAML."
                )
    if tokens.decode(tokens.encode(_PROBE)) == _PROBE:
        return
    if any(tokens.decode(tokens.encode(text)) != text for text in texts):
        raise ModelError(
            f"the tokenizer of {tokens.tokenizer.name_or_path!r} does not give back the text it was given: "
            f"{_PROBE!r} becomes {tokens.decode(tokens.encode(_PROBE))!r}. What is trained would not be what the "
            "model produced; repair the tokenizer (tokenizer_class, normalizer, decoder) first."
        )
