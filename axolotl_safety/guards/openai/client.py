"""The HTTP side of a judge behind an OpenAI-compatible endpoint: what it is asked and what its replies mean."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from axolotl_safety.engines.base import Answer, Failure, Question
from axolotl_safety.engines.http.flow import Flow, RetryPolicy
from axolotl_safety.engines.http.replies import (
    PASSING,
    REFUSED,
    Malformed,
    Passing,
    fault_of,
    first_choice,
    listed_models,
)
from axolotl_safety.engines.http.server import Server, api_root
from axolotl_safety.guards.base import UNPARSABLE, Verdict
from axolotl_safety.util.errors import ConfigError, StageError

from . import prompt as openai_prompt

if TYPE_CHECKING:
    import httpx

LOG = logging.getLogger(__name__)

_PARAMETERS = ("max_tokens", "temperature")
_SETTLING = len(_PARAMETERS) + 1
_UNSUPPORTED = re.compile(r"not support|unsupported|does not take|unrecognized|unknown", re.IGNORECASE)
_HELLO = "Good morning!"
_GREETING = Question("greeting", "", openai_prompt.INSTRUCTION, openai_prompt.render(_HELLO, "", _HELLO))


class ChatClient:
    """Asks ``POST {base_url}/chat/completions`` for one verdict per question.

    What the work queue asks in the place of an engine.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str | None,
        concurrency: int,
        timeout_seconds: float,
        max_tokens: int,
        policy: RetryPolicy | None = None,
    ):
        """Prepare; nothing is sent and no secret is read yet.

        Args:
            base_url: with or without ``/v1``.
            model: the name under which the server knows the model.
            api_key_env: environment variable that holds the key, None for a server without one.
            concurrency: requests under way at once.
            timeout_seconds: longest that one request may take.
            max_tokens: length limit of a verdict.
            policy: how long an answer is waited for, over all tries.
        """
        self.server = Server(
            f"the judge {model!r}", "safety.guard", api_root(base_url), model, api_key_env, concurrency, timeout_seconds
        )
        self.place = self.server.root.split("://", 1)[-1]
        self._max_tokens = max_tokens
        self._policy = policy or RetryPolicy()
        self._flow = Flow(self.server, self._ask, self._policy, self._greet)
        self._lengths, self._temperature = "max_tokens", True  # as most servers take them
        self._checked = self._probed = False
        self._refusals = 0

    def check(self) -> None:
        """Ask the server for its models, so that a wrong address or key shows before anything expensive starts.

        Raises:
            ConfigError: no key, no server, or the key is refused.
        """
        if self._checked:
            return
        server = self.server
        if not server.local:
            LOG.warning("guard %s: prompts and responses, harmful ones too, are sent to %s", server.model, server.host)
        names = listed_models(server.call(f"{server.root}/models"))
        if names and server.model not in names:
            LOG.warning("guard %s: %s lists other models: %s", server.model, server.host, ", ".join(list(names)[:8]))
        self._checked = True

    def probe(self, question: Question, parse: Callable[[str], Verdict], wanted: str) -> None:
        """Ask for one verdict, on a greeting, before anything is made that must be judged; once, however often called.

        A server that is busy or away for a moment is no reason to stop here: the run itself waits for it.

        Args:
            question: the judge's own, about the greeting.
            parse: reads its verdict.
            wanted: a reply that it could read.

        Raises:
            ConfigError: no verdict can be read from what it answers, or it does not take the question.
        """
        if self._probed:
            return
        self._probed = True
        try:
            answer = _read(question.request_id, self._reply_to(question))
        except Passing as fault:
            LOG.warning("guard %s: %s gave no verdict on a greeting: %s", self.server.model, self.server.host, fault)
            return
        where = f"{self.server.label} at {self.server.root!r}"
        if answer.finish_reason == "length":
            raise ConfigError(
                f"{where} was cut off at {self._max_tokens} tokens before it gave a verdict on a greeting; a judge "
                f"that thinks needs more. Set safety.guard.max_new_tokens: {max(1024, 4 * self._max_tokens)}."
            )
        if parse(answer.text) is UNPARSABLE or answer.finish_reason != "stop":
            raise ConfigError(
                f"{where} was asked for a verdict on a greeting and answers {answer.text[:300]!r} (finish_reason "
                f"{answer.finish_reason}), which is not {wanted}. Every row would be rejected. Use a chat model that "
                "follows instructions, or the family of a guard model."
            )

    def _reply_to(self, question: Question) -> httpx.Response:
        for _ in range(_SETTLING):
            body = self._body(question)
            reply = self.server.call(f"{self.server.root}/chat/completions", body, self.server.timeout_seconds, True)
            if reply.status_code in PASSING or reply.status_code >= 500:
                raise Passing(f"status {reply.status_code}")
            if reply.status_code in REFUSED and self._other_parameters(reply, body):
                continue
            if reply.status_code in REFUSED:
                raise Passing(f"status {reply.status_code} {self._unsupported(reply)}".strip())
            if reply.status_code != 200:
                raise self.server.unexpected(reply.status_code, "chat/completions")
            return reply
        raise Passing("it takes neither of our parameters")

    def window(self, model: str) -> int:
        """Requests under way at once."""
        return self.server.concurrency

    async def answer(self, question: Question) -> Answer | Failure:
        """The answer to one question, or why there is none.

        Refusals are held back until the first answer, to a harmless question of ours if need be: a server that refuses
        everything is not set up right, which must not become the rows' fate.

        Raises:
            ConfigError: the key is refused, or the server does not know the model or the path.
            StageError: the server did not answer for too long, or refused everything.
        """
        self.check()
        return await self._flow.answer(question)

    async def close(self, at_once: bool = False) -> None:
        """End the connection."""
        await self._flow.close()

    async def _greet(self, held: list[Failure]) -> None:
        flow = Flow(self.server, self._ask, self._policy)
        try:
            sound = isinstance(await flow.answer(_GREETING), Answer)
        finally:
            await flow.close()
        if not sound:
            raise StageError(
                f"{self.server.label} at {self.server.root!r} answers nothing, not even to a greeting "
                f"({held[0].reason}, {held[0].message}). Check that it is a chat model."
            )

    async def _ask(self, client: httpx.AsyncClient, question: Question) -> Answer | Failure:
        for _ in range(_SETTLING):
            body = self._body(question)
            reply = await self.server.post(client, "chat/completions", body)
            if reply.status_code not in REFUSED:
                return _read(question.request_id, reply)
            if not self._other_parameters(reply, body):
                break
        return self._refused(question, reply)

    def _body(self, question: Question) -> dict[str, Any]:
        said = question.messages or (("system", question.system), ("user", question.user))
        body = {
            "model": self.server.model,
            "messages": [{"role": role, "content": content} for role, content in said],
            self._lengths: self._max_tokens,
        }
        return body | {"temperature": 0} if self._temperature else body

    def _other_parameters(self, reply: httpx.Response, body: dict[str, Any]) -> bool:
        """Whether the question is worth asking again: the server does not take a parameter that can be had otherwise.

        Reasoning models count their tokens as ``max_completion_tokens`` and take no temperature. What was found out
        holds for every question after this one.
        """
        parameter = _refused_parameter(reply)
        if parameter == "max_tokens" and self._lengths == parameter:
            self._lengths = "max_completion_tokens"
            LOG.info("guard %s: %s takes max_completion_tokens", self.server.model, self.server.host)
        elif parameter == "temperature" and self._temperature:
            self._temperature = False
            LOG.warning(
                "guard %s: %s takes no temperature, so that its verdicts may differ from one time to the next",
                *(self.server.model, self.server.host),
            )
        else:  # another request has found out while this one was under way
            return parameter in body and parameter not in self._body(_GREETING)
        return True

    def _refused(self, question: Question, reply: httpx.Response) -> Failure:
        """A request that the server will not take. Its message is not repeated: it may quote what was judged.

        Raises:
            ConfigError: not this text is refused but the way we ask, which would hold for every row.
        """
        code = self._unsupported(reply)
        if not self._refusals:
            LOG.warning(
                "guard %s: %s refuses a response (status %d %s); such rows are not safe and counted as guard_refused",
                *(self.server.model, self.server.host, reply.status_code, code),
            )
        self._refusals += 1
        return Failure(question.request_id, "refused", f"status {reply.status_code} {code}".strip())

    def _unsupported(self, reply: httpx.Response) -> str:
        """The code of a refusal.

        Raises:
            ConfigError: not this text is refused but the way we ask.
        """
        fault = fault_of(reply)
        code, place = (str(fault.get(key) or "")[:40] for key in ("code", "param"))
        if code.startswith("unsupported") or code == "model_not_found":
            raise ConfigError(
                f"{self.server.label} at {self.server.root!r} answers {reply.status_code} ({code} {place}): it cannot "
                "be asked in our way, or is not there. Use another model."
            )
        return code


def _refused_parameter(reply: httpx.Response) -> str | None:
    """Which of our parameters a server does not take, None where a refusal is about something else."""
    fault = fault_of(reply)
    code, place, message = (str(fault.get(key) or "") for key in ("code", "param", "message"))
    if not code.startswith("unsupported") and not _UNSUPPORTED.search(message[:500]):
        return None
    return next((name for name in _PARAMETERS if name == place or (not place and name in message[:500])), None)


def _read(request_id: str, reply: httpx.Response) -> Answer:
    """The first choice's text.

    Raises:
        Passing: it is not JSON.
        Malformed: it is JSON without a choice.
    """
    choice = first_choice(reply)
    try:
        text, finish = choice["message"]["content"], choice["finish_reason"]
    except (KeyError, TypeError) as error:
        raise Malformed("status 200 without a choice") from error
    return Answer(request_id, text if isinstance(text, str) else "", str(finish))
