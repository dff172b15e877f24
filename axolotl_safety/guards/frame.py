"""A guard's prompt as text around places for what is judged, filled in one go so that no text is read as a template."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from axolotl_safety.config.custom_guard import PLACE
from axolotl_safety.util.errors import ConfigError

_STAND_IN = "placeholderofthe"  # and the name: letters alone, so that no chat template changes it


class Frame:
    """Literal text and named places in turn."""

    def __init__(self, text: str, pattern: re.Pattern[str] = PLACE):
        """Take a template apart.

        Args:
            text: the template.
            pattern: finds its places; their names are the last word of what it finds.
        """
        self.parts: list[tuple[str, str | None]] = []
        end = 0
        for match in pattern.finditer(text):
            # Two places side by side would let a delimiter begin in one and end in the other.
            gap = text[end : match.start()] or ("\n" if self.parts else "")
            self.parts += [(gap, None), (match[0], match[0].strip("{}").removeprefix(_STAND_IN))]
            end = match.end()
        self.parts = [(part, name) for part, name in [*self.parts, (text[end:], None)] if part]

    @property
    def literals(self) -> list[str]:
        """The text around the places, in order."""
        return [part for part, name in self.parts if name is None]

    @property
    def places(self) -> list[str]:
        """The places, in order."""
        return [name for _, name in self.parts if name is not None]

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with these values in its places."""
        return "".join(part if name is None else values[name] for part, name in self.parts)


def through_template(tokenizer: Any, turns: Sequence[Mapping[str, str]], what: str, **options: Any) -> Frame:
    """The turns as the guard's own chat template writes them, ready for its answer.

    The template sees stand-ins for what is judged, so that it can delete no thought and read nothing as a turn.

    Args:
        tokenizer: with the chat template.
        turns: role and content, places written as ``{name}``.
        what: the guard, for messages.
        options: for the template.

    Raises:
        ConfigError: there is none, it fails, or it leaves out or changes a part of the turns.
    """
    asked = [Frame(turn["content"]) for turn in turns]
    wanted = [name for one in asked for name in one.places]
    stand_ins = {name: _STAND_IN + name for name in wanted}
    shown = [{"role": turn["role"], "content": frame.fill(stand_ins)} for turn, frame in zip(turns, asked, strict=True)]
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(f"{what}: its tokenizer has no chat template, which its conversation needs. {_WAY_OUT}")
    try:
        text = tokenizer.apply_chat_template(shown, tokenize=False, add_generation_prompt=True, **options)
    except Exception as error:  # a template is a program, and raises what it likes
        raise ConfigError(f"{what}: its chat template fails: {type(error).__name__}: {error}. {_WAY_OUT}") from error
    frame = Frame(text, re.compile("|".join(stand_ins.values())))
    if frame.places != wanted:
        raise ConfigError(
            f"{what}: its chat template shows the places {frame.places} where the conversation has {wanted}, so that "
            f"the guard would not see all that it judges. {_WAY_OUT}"
        )
    for literal in (part.strip() for one in asked for part in one.literals):
        if literal not in text:
            raise ConfigError(f"{what}: its chat template leaves out or changes {literal[:80]!r}. {_WAY_OUT}")
    return frame


_WAY_OUT = "Use family custom with prompt: the whole input text with its special tokens."


def with_beginning(tokenizer: Any, text: str) -> str:
    """The text behind the token that the tokenizer puts before every text, if it does and the text lacks it."""
    token = getattr(tokenizer, "bos_token", None)
    if not token or text.startswith(token):
        return text
    return token + text if tokenizer.encode("x")[:1] == [tokenizer.bos_token_id] else text
