"""The HTTP side of a judge behind an OpenAI-compatible endpoint: concurrency, backoff, clear ends, no secrets."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..engines.base import Failure
from ..errors import ConfigError, StageError
from . import openai_prompt
from .base import Answer, Question
from .openai_http import Malformed, Passing, brief, chat_root, fault_of, is_local, model_names, read_choice, retry_after

if TYPE_CHECKING:
    import httpx

LOG = logging.getLogger(__name__)
_ATTEMPTS = 7
_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 60.0
_CHECK_SECONDS = 10.0
_REFUSED = (400, 413, 422)  # the server's own word on this one request: too long, or filtered
_PASSING = (408, 409, 425, 429)

_PROBE = Question("probe", "", openai_prompt.INSTRUCTION, openai_prompt.render("Good morning!", "", "Good morning!"))


class ChatClient:
    """Asks ``POST {base_url}/chat/completions`` for one verdict per question.

    An engine to the work queue: `run` yields answers as they come, so that each is journalled before the next.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str | None,
        concurrency: int,
        timeout_seconds: float,
        max_tokens: int,
        attempts: int = _ATTEMPTS,
        first_wait_seconds: float = _FIRST_WAIT_SECONDS,
    ):
        """Prepare; nothing is sent and no secret is read yet.

        Args:
            base_url: with or without ``/v1``.
            model: the name under which the server knows the model.
            api_key_env: environment variable that holds the key, None for a server without one.
            concurrency: requests under way at once.
            timeout_seconds: longest that one request may take.
            max_tokens: length limit of a verdict.
            attempts: tries per question before the run is given up.
            first_wait_seconds: wait before the second try; doubles from there.
        """
        self.root = chat_root(base_url)
        self.host = urlsplit(self.root).hostname or ""
        self.place = self.root.split("://", 1)[-1]
        self._model, self._key_env, self._concurrency = model, api_key_env, concurrency
        self._timeout, self._max_tokens = timeout_seconds, max_tokens
        self._attempts, self._first_wait = attempts, first_wait_seconds
        self._checked = False
        self._refusals = 0

    def _options(self) -> dict[str, Any]:
        headers = {}
        if self._key_env:
            key = os.environ.get(self._key_env, "").strip()
            if not key:
                raise ConfigError(
                    f"safety.guard.api_key_env: the environment variable {self._key_env} is not set. Export the key of "
                    f"{self.host} in it; it never stands in the YAML."
                )
            if not key.isascii() or not key.isprintable() or " " in key:  # the HTTP library's message would quote it
                raise ConfigError(
                    f"safety.guard.api_key_env: what the environment variable {self._key_env} holds is no key: it has "
                    "blanks, line ends or characters beyond ASCII."
                )
            headers["Authorization"] = f"Bearer {key}"
        options: dict[str, Any] = {"headers": headers, "timeout": self._timeout}
        if is_local(self.host):  # a proxy must not see what goes to this machine or its network
            options["mounts"] = {"all://": None, "http://": None, "https://": None}
        return options

    def check(self) -> None:
        """Ask the server for its models, so that a wrong address or key shows before anything expensive starts.

        Raises:
            ConfigError: no key, no server, or the key is refused.
        """
        import httpx

        if self._checked:
            return
        if not is_local(self.host):
            LOG.warning("guard %s: prompts and responses, harmful ones too, are sent to %s", self._model, self.host)
        with _quiet_httpx(), httpx.Client(**self._options()) as client:
            try:
                reply = client.get(f"{self.root}/models", timeout=min(self._timeout, _CHECK_SECONDS))
            except httpx.HTTPError as error:
                raise ConfigError(
                    f"safety.guard.base_url {self.root!r} cannot be reached: {brief(error)}. Start the server, or set "
                    "base_url to its address."
                ) from error
        if reply.status_code in (401, 403):
            raise self._key_refused(reply.status_code)
        names = model_names(reply)
        if names and self._model not in names:
            LOG.warning("guard %s: %s lists other models: %s", self._model, self.host, ", ".join(names[:8]))
        self._checked = True

    def _key_refused(self, status: int) -> ConfigError:
        return ConfigError(
            f"the judge at {self.root!r} answers {status}: it wants a key, or another one. "
            + (
                f"Check the environment variable {self._key_env}."
                if self._key_env
                else "Set guard.api_key_env to the name of the environment variable that holds it."
            )
        )

    def run(self, questions: Iterable[Question]) -> Iterator[Answer | Failure]:
        """Yield an answer or a failure per question, as they come.

        When a question must be given up, those under way are still waited for and yielded, so that the caller can
        keep them; the error comes after them. Refusals are held back until the first answer, to a harmless question of
        ours if need be: a server that refuses everything is not set up right, which must not become the rows' fate.

        Raises:
            ConfigError: the key is refused, or the server does not know the model or the path.
            StageError: the server did not answer for too long, or refused everything.
        """
        self.check()
        held: list[Failure] | None = []
        with closing(self._results(questions)) as results:
            for result in results:
                if held is not None and isinstance(result, Failure):
                    held.append(result)
                    continue
                yield result
                yield from held or ()
                held = None
        if held:
            with closing(self._results([_PROBE])) as results:
                sound = isinstance(next(results), Answer)
            if not sound:
                raise StageError(
                    f"the judge {self._model!r} at {self.root!r} answers nothing, not even to a greeting "
                    f"({held[0].reason}, {held[0].message}). Check that it is a chat model."
                )
        yield from held or ()

    def _results(self, questions: Iterable[Question]) -> Generator[Answer | Failure, None, None]:
        """What `run` yields, refusals as they come."""
        import httpx

        started, waiting = time.monotonic(), iter(questions)
        error: Exception | None = None
        under_way: set[asyncio.Task[Answer | Failure]] = set()
        loop, stop = asyncio.new_event_loop(), asyncio.Event()
        client = httpx.AsyncClient(**self._options())
        try:
            with _quiet_httpx():
                while True:
                    if error is None:
                        for question in islice(waiting, self._concurrency - len(under_way)):
                            under_way.add(loop.create_task(self._ask(client, question, stop)))
                    if not under_way:
                        break
                    step = asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                    done, under_way = loop.run_until_complete(step)
                    for task in done:
                        fault = task.exception()
                        if fault is None:
                            yield task.result()
                        elif error is None or isinstance(error, Passing):
                            error = fault if isinstance(fault, Exception) else StageError(repr(fault))
                            stop.set()
        finally:  # also where nobody listens any more: what is under way is broken off at once
            loop.run_until_complete(_end(client))
            loop.close()
        if isinstance(error, Passing):
            raise StageError(
                f"the judge {self._model!r} at {self.root!r} does not answer after {self._attempts} tries over "
                f"{time.monotonic() - started:.0f} s: {error}. Its finished verdicts are journalled; run again when "
                "the server is back."
            )
        if error is not None:
            raise error

    async def _ask(self, client: httpx.AsyncClient, question: Question, stop: asyncio.Event) -> Answer | Failure:
        for attempt in range(self._attempts):
            try:
                return await self._try(client, question)
            except Passing as fault:
                if isinstance(fault, Malformed) and attempt == self._attempts - 1:
                    return Failure(question.request_id, "malformed", str(fault))
                if attempt == self._attempts - 1 or stop.is_set():
                    raise
                patience = min(self._first_wait * 2**attempt, _LONGEST_WAIT_SECONDS)
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), patience if fault.wait_seconds is None else fault.wait_seconds)
        raise AssertionError("unreachable")

    async def _try(self, client: httpx.AsyncClient, question: Question) -> Answer | Failure:
        import httpx

        body = {
            "model": self._model,
            "messages": [
                {"role": "system", "content": question.system},
                {"role": "user", "content": question.user},
            ],
            "temperature": 0,
            "max_tokens": self._max_tokens,
        }
        try:
            async with asyncio.timeout(self._timeout):  # httpx's own limit starts anew with every byte
                reply = await client.post(f"{self.root}/chat/completions", json=body)
        except (httpx.HTTPError, TimeoutError) as error:
            raise Passing(brief(error)) from error
        status = reply.status_code
        if status in _REFUSED:
            return self._refused(question, reply)
        if status in _PASSING or status >= 500:
            raise Passing(f"status {status}", retry_after(reply))
        if status in (401, 403):
            raise self._key_refused(status)
        if status != 200:
            raise ConfigError(
                f"the judge at {self.root!r} answers {status} to chat/completions. Check guard.base_url, and that the "
                f"server knows the model {self._model!r}."
            )
        return read_choice(question.request_id, reply)

    def _refused(self, question: Question, reply: httpx.Response) -> Failure:
        """A request that the server will not take. Its message is not repeated: it may quote what was judged.

        Raises:
            ConfigError: not this text is refused but the way we ask, which would hold for every row.
        """
        fault = fault_of(reply)
        code, place = (str(fault.get(key) or "")[:40] for key in ("code", "param"))
        if code.startswith("unsupported") or code == "model_not_found":
            raise ConfigError(
                f"the judge {self._model!r} at {self.root!r} answers {reply.status_code} ({code} {place}): it cannot "
                "be asked for temperature 0 and max_tokens, or is not there. Use another model."
            )
        if not self._refusals:
            LOG.warning(
                "guard %s: %s refuses a response (status %d %s); such rows are not safe and counted as guard_refused",
                *(self._model, self.host, reply.status_code, code),
            )
        self._refusals += 1
        return Failure(question.request_id, "refused", f"status {reply.status_code} {code}".strip())


async def _end(client: httpx.AsyncClient) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.aclose()


@contextmanager
def _quiet_httpx() -> Iterator[None]:
    """Without httpx's line per request, which would bury the progress."""
    logger = logging.getLogger("httpx")
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)
