"""Keep keys out of configurations, and so out of every message, log and manifest that quotes them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

HIDDEN = "(not shown)"
_LONGEST_NAME = 64


def _may_be_key(value: str) -> bool:
    """Anything that is no name of a variable, or looks drawn at random: small letters and digits, or no word at all."""
    digits = any(letter.isdigit() for letter in value)
    small = any(letter.islower() for letter in value)
    return (
        not (value.isascii() and value.isidentifier())
        or (digits and small)
        or (digits and "_" not in value and len(value) >= 16)
        or len(value) > _LONGEST_NAME
    )


def hide_key(value: Any) -> Any:
    """What stands where the name of an environment variable belongs, or `HIDDEN` if it may be a key.

    Example:
        >>> hide_key("JUDGE_KEY"), hide_key("sk-123")
        ('JUDGE_KEY', '(not shown)')
    """
    return HIDDEN if isinstance(value, str) and _may_be_key(value) else value


def hide_credentials(value: Any) -> Any:
    """A plain http address as it is, `HIDDEN` for one with a user, a password or a query, or for no address."""
    if not isinstance(value, str):
        return value
    try:
        parts = urlsplit(value)
        plain = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return HIDDEN
    return value if plain and "@" not in parts.netloc and not parts.query and not parts.fragment else HIDDEN
