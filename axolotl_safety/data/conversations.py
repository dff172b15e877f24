"""Conversations in: turns of any common spelling become history, the last user turn and the last assistant turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")


def read_turns(turns: Any) -> tuple[tuple[Turn, ...], str, str]:
    """History, the last user turn, and the response to it (empty if the conversation ends with the user).

    A thought in an earlier assistant turn is left out, as the chat templates of reasoning models do.

    Raises:
        RowError: what is there is no conversation of text turns that ends with a user turn, or with one and its
            response.
    """
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise RowError("unreadable_messages")
    read = [_turn(turn) for turn in turns]
    response = read.pop()[1] if read[-1][0] == "assistant" else ""
    if not read or read[-1][0] != "user":
        raise RowError("unsupported_conversation")
    roles = [role for role, _ in read]
    if "system" in roles[1:] or any(before == after for before, after in pairwise(roles)):
        raise RowError("unsupported_conversation")
    *history, (_, prompt) = read
    shortened = tuple((role, split_response(text)[1] if role == "assistant" else text) for role, text in history)
    return shortened, prompt, response


def _turn(turn: Any) -> Turn:
    if not isinstance(turn, Mapping):
        raise RowError("unreadable_messages")
    # Arrow gives every turn the keys of all: those that a turn has not are None.
    role = turn.get("role") or turn.get("from")
    known = _ROLES.get(role.lower()) if isinstance(role, str) else None
    if known is None:
        raise RowError("unsupported_conversation")
    content = turn.get("content")
    text = sound_text(_joined(turn.get("value") if content is None else content))
    thought = next((turn[name] for name in _THOUGHTS if turn.get(name)), None)
    return known, text if thought is None else f"{OPEN}\n{sound_text(thought)}\n{CLOSE}\n\n{text}"


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
