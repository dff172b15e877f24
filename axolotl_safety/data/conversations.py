"""Conversations in: turns of any common spelling become history, the last user turn and the last assistant turn."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from axolotl_safety.util.errors import RowError

from .thinking import CLOSE, OPEN, split_response

Turn = tuple[str, str]  # role (system, user, assistant) and content

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
# As JSON, or as Python shows them, which no prompt that anybody writes begins with.
_TURNS_AS_TEXT = re.compile(r"""\s{0,99}\[\s{0,99}\{\s{0,99}(["'])(?:role|from|content|value)\1\s{0,99}:""")
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")


def read_turns(turns: Any) -> tuple[tuple[Turn, ...], str, Callable[[], str]]:
    """History, the last user turn, and what reads the response to it (empty if the conversation ends with the user).

    A thought in an earlier assistant turn is left out, as the chat templates of reasoning models do.

    Raises:
        RowError: what is there is no conversation of text turns that ends with a user turn, or with one and its
            response. The response's own text is looked at when it is read.
    """
    said = as_turns(turns)
    answered = _role(said[-1]) == "assistant"
    read = [(_role(turn), _content(turn)) for turn in (said[:-1] if answered else said)]
    if not read or read[-1][0] != "user":
        raise RowError("unsupported_conversation")
    roles = [role for role, _ in read]
    if "system" in roles[1:] or any(before == after for before, after in pairwise(roles)):
        raise RowError("unsupported_conversation")
    *history, (_, prompt) = read
    shortened = tuple((role, split_response(text)[1] if role == "assistant" else text) for role, text in history)
    return shortened, prompt, lambda: _content(said[-1]) if answered else ""


def read_response(turns: Any) -> str:
    """The text of a response that is given as a conversation of one assistant turn, as TRL writes completions.

    Raises:
        RowError: it is none.
    """
    said = as_turns(turns)
    if len(said) != 1 or _role(said[0]) != "assistant":
        raise RowError("unsupported_conversation")
    return _content(said[0])


def is_conversation(value: Any) -> bool:
    """Whether a value that may be text is a list of turns, in any form that `as_turns` reads or refuses."""
    if isinstance(value, str):
        return _TURNS_AS_TEXT.match(value) is not None
    if isinstance(value, Mapping):
        return isinstance(value.get("role") or value.get("from"), list)
    return isinstance(value, Sequence) and not isinstance(value, str) and bool(value) and isinstance(value[0], Mapping)


def as_turns(value: Any) -> Sequence[Any]:
    """The turns of a conversation: a list, JSON text of one, or a mapping of lists, as Arrow holds a list of structs.

    Raises:
        RowError: it is something else, or empty.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            raise RowError("unreadable_messages") from None
    if isinstance(value, Mapping) and all(isinstance(column, list) for column in value.values()):
        lengths = {len(column) for column in value.values()}
        turns = zip(*value.values(), strict=True) if len(lengths) == 1 else ()
        value = [dict(zip(value, turn, strict=True)) for turn in turns]
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise RowError("unreadable_messages")
    return value


def _role(turn: Any) -> str:
    if not isinstance(turn, Mapping):
        raise RowError("unreadable_messages")
    # Arrow gives every turn the keys of all: those that a turn has not are None.
    role = turn.get("role") or turn.get("from")
    known = _ROLES.get(role.lower()) if isinstance(role, str) else None
    if known is None:
        raise RowError("unsupported_conversation")
    return known


def _content(turn: Mapping[str, Any]) -> str:
    content = turn.get("content")
    text = sound_text(_joined(turn.get("value") if content is None else content))
    thought = next((turn[name] for name in _THOUGHTS if turn.get(name)), None)
    return text if thought is None else f"{OPEN}\n{sound_text(thought)}\n{CLOSE}\n\n{text}"


def _joined(content: Any) -> Any:
    """The text of content given in parts, each ``{type: text, text: ...}``; anything else as it is."""
    if not isinstance(content, Sequence) or isinstance(content, str):
        return content
    parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
    return "".join(parts) if parts and all(isinstance(part, str) for part in parts) else content


def sound_text(value: Any) -> str:
    """The value, if it is text that can be written.

    Raises:
        RowError: it is missing, no text, or holds half a character.
    """
    if value is None:
        raise RowError("null_text")
    if not isinstance(value, str):
        raise RowError("not_text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RowError("invalid_unicode") from None
    return value
