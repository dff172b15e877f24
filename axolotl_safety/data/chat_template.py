"""Checks of a chat template and its tokenizer before anything is sampled with them."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from axolotl_safety.util.errors import ModelError

if TYPE_CHECKING:
    from .tokenizer import TargetTokenizer

LOG = logging.getLogger(__name__)
_MARKER = re.compile(r"<[^<>\s]{1,40}>|\[[^\[\]\s]{1,40}\]")
_ROLE = re.compile(r"tool|think|^<[|\uff5c].*[|\uff5c]>$")
_SIGN = re.compile(r"[^\w\s]")
Render = Callable[..., str]
_PROBE = 'The quick brown fox, 12 + 30 = 42.\n\n  Two spaces, a "quote" and a tab\t.'
_WAY_OUT = (
    "Copy the tokenizer's files into a folder, mend chat_template.jinja there, and name that folder as "
    "tokenizer_config in the YAML."
)


def renderer(tokenizer: Any, values: Mapping[str, Any]) -> Render:
    """A function of turns, and of further values for the template, that renders them as text.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        values: what every rendering gives the template: the YAML's ``chat_template_kwargs``.
    """

    def render(turns: Sequence[Mapping[str, str]], **more: Any) -> str:
        options = {"tokenize": False, "add_generation_prompt": True}
        return tokenizer.apply_chat_template(turns, **{**options, **values, **more})

    return render


def probe_template(name: str, render: Render, user: str) -> Callable[..., str]:
    """Render the generation prompt of one user message, the least that every row needs.

    Returns:
        What stands behind the user's message in it, as a function of further values for the template.

    Raises:
        ModelError: the template takes no such message, or the message is not in what it renders.
    """
    named = f"the chat template of {name!r}"
    turns = [{"role": "user", "content": user}]
    try:
        text = render(turns)
        dated = render(turns, strftime_now=lambda form: "then") != render(turns, strftime_now=lambda form: "now")
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
    # A system prompt may speak of think markers too; what counts stands behind the user's message.
    return lambda **more: render(turns, **more).rpartition(user)[2]


_SAID = "axolotl safety probe"


def frames(render: Render) -> list[str]:
    """What a template writes around turns, but for a system prompt of its own, whose prose is no frame.

    A conversation that it refuses is left out; rows that need it are rejected one by one.
    """
    turns = [{"role": role, "content": _SAID} for role in ("user", "assistant", "user")]
    found: list[str] = []

    def rendered(conversation: Sequence[Mapping[str, str]]) -> list[str]:
        try:
            return render(conversation).split(_SAID)
        except Exception:  # a template is a program, and raises what it likes
            return []

    whole = rendered([{"role": "system", "content": _SAID}, *turns])
    found += whole
    for conversation in (turns[:1], turns):
        found += rendered(conversation)[1 if whole else 0 :]
    return found


def written_markers(framed: Iterable[str], tokens: Collection[str]) -> tuple[str, ...]:
    """Turn markers that a template writes as ordinary text: ``<|user|>`` of Tulu and OLMo 2, ``[INST]`` of Llama 2.

    In the ids they cannot be told from the same letters in a row, so that they are looked for in the text.
    """
    return tuple(sorted({marker for text in framed for marker in _MARKER.findall(text)} - set(tokens)))


def control_tokens(tokenizer: Any, framed: Iterable[str]) -> dict[str, int]:
    """Added tokens that are control: the special ones, and the markers of template, turn, tool and thought.

    Any other added token is a word or a tag that a text may hold, such as Gemma's HTML tags and a domain's own terms.
    """
    template = tokenizer.chat_template
    source = "\n".join(template.values()) if isinstance(template, dict) else template or ""
    framed = "\n".join(framed)

    def controls(word: str, special: bool) -> bool:
        if not word.replace("\u2581", "").strip():  # runs of blanks (Gemma, Phi); SentencePiece writes U+2581
            return False
        named = _MARKER.fullmatch(word) and (word in source or _ROLE.search(word))
        return bool(special or named or (word in framed and _SIGN.search(word)))

    added = {str(token): (index, token.special) for index, token in tokenizer.added_tokens_decoder.items()}
    return {word: index for word, (index, special) in added.items() if controls(word, special)}


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
