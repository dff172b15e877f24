"""How fast an engine really is: what it read and wrote, and how long that took."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..engines.base import Completion, Engine, EngineFigures, Request, Result, Sampling, ScoreRequest
from .speed import Phase


@dataclass(frozen=True)
class Measured:
    """One call of the engine: the work, as a phase of known lengths, and its seconds."""

    phase: Phase
    seconds: float


class Meter:
    """An engine that notes what every call took. Loading is not part of it: `warm_up` has each model loaded before."""

    def __init__(self, engine: Engine):
        """Wrap an engine."""
        self._engine = engine
        self.measured: list[Measured] = []

    @property
    def figures(self) -> EngineFigures:
        """Those of the engine."""
        return self._engine.figures

    def warm_up(self, models: Iterable[str], token_id: int) -> None:
        """Have every model write one token. Nothing of it is kept."""
        sampling = Sampling(temperature=0.0, top_p=1.0, top_k=0, max_new_tokens=1)
        requests = [Request(f"warm-up {name}", name, (token_id,), sampling, 0, ()) for name in models]
        for _ in self._engine.run(requests):
            pass

    def run(self, requests: Iterable[Request | ScoreRequest]) -> Iterator[Result]:
        """As the engine does."""
        requests = list(requests)
        started = time.monotonic()
        written = 0
        for result in self._engine.run(requests):
            written += len(result.token_ids) if isinstance(result, Completion) else 0
            yield result
        seconds = time.monotonic() - started
        if requests:
            read = sum(len(one.prompt_token_ids) + len(getattr(one, "response_token_ids", ())) for one in requests)
            longest = max((one.sampling.max_new_tokens for one in requests if isinstance(one, Request)), default=0)
            phase = Phase("measured", requests[0].model, len(requests), read, written, longest, guessed=False)
            self.measured.append(Measured(phase, seconds))

    def close(self) -> None:
        """End the engine."""
        self._engine.close()

    @property
    def seconds(self) -> float:
        """Of all calls."""
        return sum(one.seconds for one in self.measured)

    @property
    def rate(self) -> float | None:
        """Tokens per second that the target wrote, None if it wrote none."""
        wrote = [one for one in self.measured if one.phase.model == "target" and one.phase.new_tokens]
        seconds = sum(one.seconds for one in wrote)
        return sum(one.phase.new_tokens for one in wrote) / seconds if seconds else None
