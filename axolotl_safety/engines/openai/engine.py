"""An engine behind an OpenAI-compatible server that somebody else runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from axolotl_safety.config import EngineConfig
from axolotl_safety.engines.base import EngineFigures, Failure, Request, Result, ScoreRequest
from axolotl_safety.engines.http.flow import Patience, answers, hold_back
from axolotl_safety.engines.http.replies import REFUSED, fault_of, first_choice
from axolotl_safety.engines.http.server import Server, api_root
from axolotl_safety.util.errors import ConfigError

from .check import check_tokenizer, look_at, probe
from .messages import body_of, read_completion, read_score, tokens_of

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

    The server is not ours: it is neither started nor ended here, and nobody's memory is given back.

    Args:
        server: who is asked.
        tokenizer: the base model's, to compare with the server's; None leaves that out.
        patience: how long an answer is waited for, over all tries.
    """

    def __init__(self, server: Server, tokenizer: Any = None, patience: Patience | None = None) -> None:
        self.figures = EngineFigures()
        self._server = server
        self._tokenizer = tokenizer
        # Two timeouts in a row are enough: what takes longer will not be quicker the third time.
        self._patience = patience or Patience(_ATTEMPTS, seconds=max(900.0, 2 * server.timeout_seconds))
        self._window: int | None = None
        self._checked = False
        self._answered = False
        self._warned = False
        self._too_long = 0

    def check(self) -> None:
        """See to it, before anything expensive starts, that the server can be the engine.

        Raises:
            ConfigError: it cannot be reached, refuses the key, serves another model or tokenizer, or does not tell
                token ids or log-probabilities.
            StageError: it is there and does not answer.
        """
        if self._checked:
            return
        facts = look_at(self._server)
        self._window = facts.get("max_model_len")
        self._probe()
        self.figures.server = facts
        self._checked = True

    def _probe(self) -> None:
        hasty = replace(self._patience, attempts=min(_CHECK_ATTEMPTS, self._patience.attempts))
        probe(lambda asked: self._results(asked, hasty), check_tokenizer(self._server, self._tokenizer))

    def run(self, requests: Iterable[Request | ScoreRequest]) -> Iterator[Result]:
        """Yield one result per request, in the order they finish.

        When a request must be given up, those under way are still waited for and yielded; the error comes after them.
        Refusals are held back until the first result of another kind.

        Raises:
            ConfigError: as `check`, or every request so far is longer than the server's window.
            StageError: the server did not answer for too long, or refuses everything.
        """
        self.check()
        started, self._too_long = time.monotonic(), 0
        try:
            with closing(self._results(requests, self._patience)) as results:
                for result in hold_back(results, self._all_refused):
                    self._answered = self._answered or not isinstance(result, Failure)
                    yield result
        finally:
            self.figures.seconds += time.monotonic() - started

    def close(self) -> None:
        """Nothing is ours to end."""

    def _results(self, requests: Iterable[Request | ScoreRequest], patience: Patience) -> Generator[Result, None, None]:
        return answers(self._server, requests, self._ask, patience)

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
        if self._window is None or tokens_of(request) <= self._window:
            return ""
        self._too_long += 1
        message = f"the request can come to {tokens_of(request)} tokens, the server's max_model_len is {self._window}"
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

    def _all_refused(self, held: list[Failure]) -> None:
        """Nothing of a run was answered: find out whether that is the server's fault.

        Raises:
            ConfigError: it is, and stays so until somebody changes something.
        """
        if self._too_long < len(held):
            self._probe()
        elif not self._answered:  # later on, the last few rows may well be those that the server cannot take
            raise ConfigError(
                f"safety.engine: none of {len(held)} requests fits the server: {held[0].message}. Start it with a "
                "longer --max-model-len, or lower max_new_tokens or sequence_len."
            )
