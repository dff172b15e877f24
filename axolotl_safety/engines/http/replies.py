"""What servers' replies say, and which faults may pass."""

from __future__ import annotations

import email.utils
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

REFUSED = (400, 413, 422)  # the server's own word on this one request: too long, or filtered
PASSING = (408, 409, 425, 429)
_LONGEST_WAIT_SECONDS = 300.0


class Passing(Exception):
    """A fault that may be gone at the next try.

    Attributes:
        wait_seconds: how long the server asks to wait, None if it does not say.
    """

    def __init__(self, message: str, wait_seconds: float | None = None):
        super().__init__(message)
        self.wait_seconds = wait_seconds


class Malformed(Passing):
    """A reply of status 200 without an answer, as some gateways give for a fault behind them."""


def fault_of(reply: httpx.Response) -> dict[str, Any]:
    """The ``error`` object of an OpenAI-style reply, empty where there is none."""
    try:
        said = reply.json()
    except ValueError:
        return {}
    fault = said.get("error", said) if isinstance(said, dict) else {}
    return fault if isinstance(fault, dict) else {}


def first_choice(reply: httpx.Response) -> dict[str, Any]:
    """The first of the choices in a reply of status 200.

    Raises:
        Passing: it is not JSON, as from a proxy whose server is away.
        Malformed: it is JSON without a choice.
    """
    try:
        said = reply.json()
    except ValueError as error:
        raise Passing("status 200 without JSON") from error
    try:
        choice = said["choices"][0]
    except (KeyError, IndexError, TypeError) as error:
        raise Malformed("status 200 without a choice") from error
    if not isinstance(choice, dict):
        raise Malformed("status 200 without a choice")
    return choice


def retry_after(reply: httpx.Response) -> float | None:
    """Seconds that the server asks to wait: a number or a date, at most five minutes."""
    value = reply.headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return min(seconds, _LONGEST_WAIT_SECONDS) if seconds >= 0 else None


def listed_models(reply: httpx.Response) -> dict[str, dict[str, Any]]:
    """The answer to GET /models by model name; empty where the server has no such path."""
    try:
        data: Any = reply.json()["data"] if reply.status_code == 200 else []
        return {str(entry["id"]): dict(entry) for entry in data}
    except (ValueError, KeyError, TypeError):
        return {}


def brief(error: Exception) -> str:
    """An error as one line."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
