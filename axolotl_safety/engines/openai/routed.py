"""A server and an engine of ours as one: each request goes to the one that serves its model."""

from __future__ import annotations

from axolotl_safety.engines.base import Engine, EngineFigures, Request, Result, ScoreRequest


class RoutedEngine:
    """An `Engine` of a server for the target and a process here for the guards; both work at once.

    Args:
        target: answers for the model ``target``.
        others: answers for the rest; it starts with their first request.
    """

    def __init__(self, target: Engine, others: Engine) -> None:
        self._target, self._others = target, others

    @property
    def figures(self) -> EngineFigures:
        """Those of our own process, with what the server says of itself; together they took this many seconds."""
        own, server = self._others.figures, self._target.figures
        return EngineFigures(
            own.starts,
            own.pids,
            own.peak_rss_bytes,
            own.gpu_memory,
            own.seconds + server.seconds,
            own.worker,
            server.server,
        )

    def window(self, model: str) -> int:
        """Of the engine that serves the model."""
        return self._of(model).window(model)

    async def answer(self, request: Request | ScoreRequest) -> Result:
        """The result of one request."""
        return await self._of(request.model).answer(request)

    async def close(self, at_once: bool = False) -> None:
        """End both, whatever one of them says."""
        try:
            await self._target.close(at_once)
        finally:
            await self._others.close(at_once)

    def _of(self, model: str) -> Engine:
        return self._target if model == "target" else self._others
