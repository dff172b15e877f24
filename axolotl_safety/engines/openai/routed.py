"""Several engines as one: each request goes to the engine that serves its model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from axolotl_safety.engines.base import Engine, EngineError, EngineFigures, Request, Result, ScoreRequest


class RoutedEngine:
    """An `Engine` made of others, such as a server for the target and a process here for the guards.

    Args:
        engines: by the model's name in requests. Each starts when the first request for its models arrives.
    """

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = dict(engines)

    @property
    def figures(self) -> EngineFigures:
        """What all of them cost together."""
        return combined([engine.figures for engine in self._each()])

    def run(self, requests: Iterable[Request | ScoreRequest]) -> Iterator[Result]:
        """Yield one result per request, in the order they finish, one engine after the other.

        The stage asks one model at a time, so nothing waits for another engine in practice.

        Raises:
            EngineError: a model that none of them serves.
        """
        shares: dict[int, list[Request | ScoreRequest]] = {}
        for request in requests:
            if request.model not in self._engines:
                raise EngineError(
                    f"Request for the model {request.model!r}, but the engines serve {sorted(self._engines)}."
                )
            shares.setdefault(id(self._engines[request.model]), []).append(request)
        for engine in self._each():
            if id(engine) in shares:
                yield from engine.run(shares[id(engine)])

    def close(self) -> None:
        """End all of them, whatever one of them says."""
        faults: list[Exception] = []
        for engine in self._each():
            try:
                engine.close()
            except Exception as error:  # the others must still be ended
                faults.append(error)
        if faults:
            raise faults[0]

    def _each(self) -> list[Engine]:
        return list({id(engine): engine for engine in self._engines.values()}.values())


def combined(figures: Iterable[EngineFigures]) -> EngineFigures:
    """Sums, but for peak memory (the highest) and what only one of them knows (the first that does)."""
    whole = EngineFigures()
    for one in figures:
        whole.starts += one.starts
        whole.pids += one.pids
        whole.peak_rss_bytes = max(whole.peak_rss_bytes, one.peak_rss_bytes)
        whole.seconds += one.seconds
        whole.server = whole.server or one.server
        whole.worker = whole.worker or one.worker
        whole.gpu_memory = whole.gpu_memory or one.gpu_memory
    return whole
