"""The clock in the server: when each request for a completion came, and what it asked.

vLLM loads it with ``--middleware peers_clock.Clock``. It is the same for every client, whichever library it sends with,
and costs a few microseconds per request. ``GET /peers/taken`` hands over what was noted since the last time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Clock:
    """ASGI middleware that notes arrivals."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self._app = app
        self._noted: list[tuple[float, bytearray]] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Notes a request for a completion, and passes everything on."""
        path = scope.get("path", "")
        if path == "/peers/taken":
            await self._hand_over(send)
        elif path.endswith("/completions"):
            await self._app(scope, self._noting(receive), send)
        else:
            await self._app(scope, receive, send)

    def _noting(self, receive: Receive) -> Receive:
        body = bytearray()
        self._noted.append((time.time(), body))

        async def noting() -> Message:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        return noting

    async def _hand_over(self, send: Send) -> None:
        noted, self._noted = self._noted, []
        asked = [{"came": came, "body": json.loads(bytes(body) or b"null")} for came, body in noted]
        taken = json.dumps({"asked": asked, "pid": os.getpid()})
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": taken.encode()})
