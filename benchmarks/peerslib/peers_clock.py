"""The clock in the server: when each request for a completion came, when it was answered, and what it asked.

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
        self._noted: list[dict[str, Any]] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Notes a request for a completion, and passes everything on."""
        path = scope.get("path", "")
        if path == "/peers/taken":
            await self._hand_over(send)
        elif path.endswith("/completions"):
            noted = {"came": time.time(), "body": bytearray()}
            self._noted.append(noted)
            try:
                await self._app(scope, _noting(receive, noted["body"]), send)
            finally:
                noted["left"] = time.time()
        else:
            await self._app(scope, receive, send)

    async def _hand_over(self, send: Send) -> None:
        noted, self._noted = self._noted, []
        asked = [one | {"body": json.loads(bytes(one["body"]) or b"null")} for one in noted if "left" in one]
        taken = json.dumps({"asked": asked, "pid": os.getpid()})
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": taken.encode()})


def _noting(receive: Receive, body: bytearray) -> Receive:
    async def noting() -> Message:
        message = await receive()
        body.extend(message.get("body", b""))
        return message

    return noting
