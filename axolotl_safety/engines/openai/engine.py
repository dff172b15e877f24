"""An engine behind an OpenAI-compatible server that somebody else runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axolotl_safety.config import EngineConfig
from axolotl_safety.engines.base import (
    Backend,
    Engine,
    EngineFigures,
    Failure,
    ModelSpec,
    Request,
    Result,
    ScoreRequest,
)
from axolotl_safety.engines.choose import choose_backend, start_engine
from axolotl_safety.engines.choose import look_at as look_at_interpreter
from axolotl_safety.engines.http.flow import Flow, RetryPolicy
from axolotl_safety.engines.http.replies import REFUSED, fault_of, first_choice
from axolotl_safety.engines.http.server import Server, api_root
from axolotl_safety.util.errors import ConfigError

from .check import check_tokenizer, look_at, probe
from .messages import body_of, read_completion, read_score
from .routed import RoutedEngine

if TYPE_CHECKING:
    import httpx

LOG = logging.getLogger(__name__)
_ATTEMPTS = 9  # three minutes of backoff: a server that is restarted has loaded its model by then
_CHECK_ATTEMPTS = 3
_MESSAGE_CHARS = 200


def server_of(engine: EngineConfig, base_model: str) -> Server:
    """The server that the YAML describes."""
    model = engine.model or base_model
    return Server(
        f"the server of {model!r}",
        "safety.engine",
        api_root(engine.base_url or ""),
        model,
        engine.api_key_env,
        engine.concurrency,
        engine.timeout_seconds,
    )


class ServerEngine:
    """An `Engine` that asks a server for the target's completions and scores.

    The server is not ours: it is neither started nor ended here, and nobody's memory is given back. Whether it can be
    the engine is looked at before the first request.

    Args:
        server: who is asked.
        tokenizer: the base model's, to compare with the server's; None leaves that out.
        policy: how long an answer is waited for, over all tries.
    """

    def __init__(self, server: Server, tokenizer: Any = None, policy: RetryPolicy | None = None) -> None:
        self.figures = EngineFigures()
        self._server = server
        self._tokenizer = tokenizer
        # Two timeouts in a row are enough: what takes longer will not be quicker the third time.
        self._policy = policy or RetryPolicy(_ATTEMPTS, seconds=max(900.0, 2 * server.timeout_seconds))
        self._flow = Flow(server, self._ask, self._policy, self._all_refused)
        self._max_model_len: int | None = None
        self._check: asyncio.Task[None] | None = None
        self._warned = False
        self._too_long = 0
        self._opened: float | None = None

    def window(self, model: str) -> int:
        """Requests under way at once."""
        return self._server.concurrency

    async def check(self) -> None:
        """See to it that the server can be the engine.

        Raises:
            ConfigError: it cannot be reached, refuses the key, serves another model or tokenizer, or does not tell
                token ids or log-probabilities.
            StageError: it is there and does not answer.
        """
        facts = look_at(self._server)
        self._max_model_len = facts.get("max_model_len")
        await self._probe()
        self.figures.server = facts

    async def _probe(self) -> None:
        hasty = replace(self._policy, attempts=min(_CHECK_ATTEMPTS, self._policy.attempts))
        flow = Flow(self._server, self._ask, hasty)
        try:
            await probe(flow.answer, check_tokenizer(self._server, self._tokenizer))
        finally:
            await flow.close()

    async def answer(self, request: Request | ScoreRequest) -> Result:
        """The result of one request.

        Raises:
            ConfigError: as `check`, or every request so far is longer than the server's window.
            StageError: the server did not answer for too long, or refuses everything.
        """
        if self._check is None:
            self._opened = time.monotonic()
            self._check = asyncio.create_task(self.check())
        if not self._check.done():
            await asyncio.shield(self._check)
        self._check.result()
        return await self._flow.answer(request)

    async def close(self, at_once: bool = False) -> None:
        """Nothing is ours to end but the connection."""
        if self._check is not None:
            self._check.cancel()
            await asyncio.gather(self._check, return_exceptions=True)
        if self._opened is not None:
            self.figures.seconds += time.monotonic() - self._opened
            self._opened = self._check = None
        await self._flow.close()

    async def _ask(self, client: httpx.AsyncClient, request: Request | ScoreRequest) -> Result:
        refusal = self._refusal(request)
        if refusal:
            return Failure(request.request_id, "refused", refusal)
        reply = await self._server.post(client, "completions", body_of(self._server.model, request))
        if reply.status_code in REFUSED:
            said = str(fault_of(reply).get("message") or "")[:_MESSAGE_CHARS]
            return self._turned_down(request.request_id, f"status {reply.status_code} {said}".strip())
        choice = first_choice(reply)
        if isinstance(request, ScoreRequest):
            return read_score(request, choice)
        result = read_completion(request, choice)
        return self._turned_down(result.request_id, result.message) if isinstance(result, Failure) else result

    def _refusal(self, request: Request | ScoreRequest) -> str:
        """Why a request is not sent, empty if it is. A request beyond its window vLLM would answer cut short."""
        if isinstance(request, ScoreRequest) and request.temperature != 1.0:
            return f"a server scores at temperature 1, and {request.temperature} was asked for"
        if isinstance(request, ScoreRequest) and not request.response_token_ids:
            return "the response to score is empty"
        tokens = request.tokens + isinstance(request, ScoreRequest)  # a score draws one token besides
        if self._max_model_len is None or tokens <= self._max_model_len:
            return ""
        self._too_long += 1
        message = f"the request can come to {tokens} tokens, the server's max_model_len is {self._max_model_len}"
        self._warn_once(f"{message}. Start it with a longer --max-model-len")
        return message

    def _turned_down(self, request_id: str, message: str) -> Failure:
        """A request that the server will not answer, or not whole."""
        self._warn_once(message)
        return Failure(request_id, "refused", message)

    def _warn_once(self, message: str) -> None:
        if not self._warned:
            LOG.warning("engine: requests are refused, and their rows rejected and counted; the first: %s", message)
        self._warned = True

    async def _all_refused(self, held: list[Failure]) -> None:
        """Nothing was answered: find out whether that is the server's fault.

        Raises:
            ConfigError: it is, and stays so until somebody changes something.
        """
        if self._too_long < len(held):
            await self._probe()
        else:
            raise ConfigError(
                f"safety.engine: none of {len(held)} requests fits the server: {held[0].message}. Start it with a "
                "longer --max-model-len, or lower max_new_tokens or sequence_len."
            )


def _start(
    engine: EngineConfig,
    backend: str,
    work_dir: Path,
    models: Mapping[str, ModelSpec],
    base_model: str = "",
    tokenizer: Any = None,
) -> Engine:
    """The target's server; what else there is to run (guard models) runs here, as with backend auto."""
    server = ServerEngine(server_of(engine, base_model or models["target"].path), tokenizer)
    others = {name: spec for name, spec in models.items() if name != "target"}
    if not others:
        return server
    here = EngineConfig(python=engine.python, batch_size=engine.batch_size, stall_seconds=engine.stall_seconds)
    return RoutedEngine(server, start_engine(here, choose_backend(here), work_dir, others))


def _resolve(engine: EngineConfig, ask: Any, has_gpu: Any) -> str:
    if engine.python:
        look_at_interpreter(engine, ask)
    return "openai"


OPENAI = Backend("openai", _start, _resolve, adapters=None)
