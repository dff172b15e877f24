"""One OpenAI-compatible server: its address, its key, one request to it."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from axolotl_safety.util.errors import ConfigError

from .replies import PASSING, REFUSED, Passing, brief, retry_after

if TYPE_CHECKING:
    import httpx

_CHECK_SECONDS = 10.0
_CONNECT_SECONDS = 30.0  # a host that is away must not cost the hours that a completion may take


def api_root(base_url: str) -> str:
    """The address that ends in ``/v1``, as the OpenAI client has it; a given path is kept.

    Example:
        >>> api_root("http://localhost:8000"), api_root("https://host/api/v1/")
        ('http://localhost:8000/v1', 'https://host/api/v1')
    """
    root = base_url.rstrip("/")
    for path in ("/chat/completions", "/completions"):
        root = root.removesuffix(path)
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


@dataclass(frozen=True)
class Server:
    """A server, for who asks it. Making one sends nothing and reads no secret.

    Attributes:
        label: who it is in messages (``the judge 'm'``).
        section: where the YAML describes it (``safety.guard``).
        root: address that ends in ``/v1`` or in the path given, from `api_root`.
        model: the name under which the server knows the model.
        key_env: environment variable that holds the key, None for a server without one.
        concurrency: requests under way at once.
        timeout_seconds: longest that one request may take.
    """

    label: str
    section: str
    root: str
    model: str
    key_env: str | None
    concurrency: int
    timeout_seconds: float

    @property
    def host(self) -> str:
        """Host name or address."""
        return urlsplit(self.root).hostname or ""

    @property
    def local(self) -> bool:
        """Whether what is sent stays on this machine or its network."""
        return is_local(self.host)

    def options(self) -> dict[str, Any]:
        """Arguments for an httpx client, the key among them: not to be kept or shown.

        Raises:
            ConfigError: the environment variable holds no key.
        """
        import httpx

        headers = {"Authorization": f"Bearer {self._key()}"} if self.key_env else {}
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        timeout = httpx.Timeout(self.timeout_seconds, connect=min(self.timeout_seconds, _CONNECT_SECONDS))
        options: dict[str, Any] = {"headers": headers, "timeout": timeout, "limits": limits}
        # Reading the store of certificates takes a while: not for every client, and not where there is none to verify.
        options["verify"] = False if self.root.startswith("http://") else httpx.create_ssl_context()
        if self.local:  # a proxy must not see what goes to this machine or its network
            options["mounts"] = {"all://": None, "http://": None, "https://": None}
        return options

    def _key(self) -> str:
        key = os.environ.get(self.key_env or "", "").strip()
        if not key:
            raise ConfigError(
                f"{self.section}.api_key_env: the environment variable {self.key_env} is not set. Export the key of "
                f"{self.host} in it; it never stands in the YAML."
            )
        if not key.isascii() or not key.isprintable() or " " in key:  # the HTTP library's message would quote it
            raise ConfigError(
                f"{self.section}.api_key_env: what the environment variable {self.key_env} holds is no key: it has "
                "blanks, line ends or characters beyond ASCII."
            )
        return key

    def call(
        self, url: str, body: dict[str, Any] | None = None, seconds: float = _CHECK_SECONDS, may_pass: bool = False
    ) -> httpx.Response:
        """One short request outside of a run: GET, or POST where there is a body. Whatever it answers is returned.

        Args:
            url: the whole address.
            body: what is posted.
            seconds: longest that it may take.
            may_pass: no answer is a fault that may be gone at the next try.

        Raises:
            Passing: no answer, and ``may_pass``.
            ConfigError: no key, no server, or the key is refused.
        """
        import httpx

        with quiet_httpx(), httpx.Client(**self.options()) as client:
            timeout = min(self.timeout_seconds, seconds)
            try:
                reply = client.request("GET" if body is None else "POST", url, json=body, timeout=timeout)
            except httpx.HTTPError as error:
                if may_pass:
                    raise Passing(brief(error)) from error
                raise ConfigError(
                    f"{self.section}.base_url {self.root!r} cannot be reached: {brief(error)}. Start the server, or "
                    "set base_url to its address."
                ) from error
        if reply.status_code in (401, 403):
            raise self._key_refused(reply.status_code)
        return reply

    async def post(self, client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> httpx.Response:
        """One try of one request.

        Returns:
            A reply of status 200, or of one with which the server refuses this request (`REFUSED`).

        Raises:
            Passing: no answer, or one that may change.
            ConfigError: the key is refused, or the server does not know the model or the path.
        """
        import httpx

        try:
            async with asyncio.timeout(self.timeout_seconds):  # httpx's own limit starts anew with every byte
                reply = await client.post(f"{self.root}/{path}", json=body)
        except (httpx.HTTPError, TimeoutError) as error:
            raise Passing(brief(error)) from error
        status = reply.status_code
        if status in PASSING or status >= 500:
            raise Passing(f"status {status}", retry_after(reply))
        if status in (401, 403):
            raise self._key_refused(status)
        if status != 200 and status not in REFUSED:
            raise self.unexpected(status, path)
        return reply

    def unexpected(self, status: int, path: str) -> ConfigError:
        """The error of a status that is neither an answer nor a refusal of one request."""
        return ConfigError(
            f"{self.label} at {self.root!r} answers {status} to {path}. Check {self.section}.base_url, and that "
            f"the server knows the model {self.model!r}."
        )

    def _key_refused(self, status: int) -> ConfigError:
        return ConfigError(
            f"{self.label} at {self.root!r} answers {status}: it wants a key, or another one. "
            + (
                f"Check the environment variable {self.key_env}."
                if self.key_env
                else f"Set {self.section}.api_key_env to the name of the environment variable that holds it."
            )
        )


@contextmanager
def quiet_httpx() -> Iterator[None]:
    """Without httpx's line per request, which would bury the progress."""
    logger = logging.getLogger("httpx")
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)
