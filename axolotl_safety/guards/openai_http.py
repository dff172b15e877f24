"""Addresses of OpenAI-compatible servers, and what their replies say."""

from __future__ import annotations

import email.utils
import ipaddress
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .base import Answer

if TYPE_CHECKING:
    import httpx

_LONGEST_WAIT_SECONDS = 300.0


class Passing(Exception):
    """A fault that may be gone at the next try."""

    def __init__(self, message: str, wait_seconds: float | None = None):
        super().__init__(message)
        self.wait_seconds = wait_seconds


class Malformed(Passing):
    """A reply of status 200 without an answer, as some gateways give for a fault behind them."""


def chat_root(base_url: str) -> str:
    """The address that ends in ``/v1``, as the OpenAI client has it; a given path is kept.

    Example:
        >>> chat_root("http://localhost:8000"), chat_root("https://host/api/v1/")
        ('http://localhost:8000/v1', 'https://host/api/v1')
    """
    root = base_url.rstrip("/").removesuffix("/chat/completions")
    return root if urlsplit(root).path else f"{root}/v1"


def is_local(host: str) -> bool:
    """Whether a host name or address is this machine or a private network, as far as its name says."""
    if host == "localhost" or host.endswith((".localhost", ".local", ".internal", ".lan")):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host
    return address.is_loopback or address.is_private


def fault_of(reply: httpx.Response) -> dict[str, Any]:
    """The ``error`` object of an OpenAI-style reply, empty where there is none."""
    try:
        said = reply.json()
    except ValueError:
        return {}
    fault = said.get("error", said) if isinstance(said, dict) else {}
    return fault if isinstance(fault, dict) else {}


def read_choice(request_id: str, reply: httpx.Response) -> Answer:
    """The first choice's text.

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
        text, finish = choice["message"]["content"], choice["finish_reason"]
    except (KeyError, IndexError, TypeError) as error:
        raise Malformed("status 200 without a choice") from error
    return Answer(request_id, text if isinstance(text, str) else "", str(finish))


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


def model_names(reply: httpx.Response) -> list[str]:
    """Model names in the answer to GET /models; empty where the server has no such path."""
    try:
        data: Any = reply.json()["data"] if reply.status_code == 200 else []
        return [str(entry["id"]) for entry in data]
    except (ValueError, KeyError, TypeError):
        return []


def brief(error: Exception) -> str:
    """An error as one line."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
