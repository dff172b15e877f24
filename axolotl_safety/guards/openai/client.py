"""The HTTP side of a judge behind an OpenAI-compatible endpoint: what it is asked and what its replies mean."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from axolotl_safety.engines.base import Answer, Failure, Question
from axolotl_safety.engines.http.flow import Flow, RetryPolicy
from axolotl_safety.engines.http.replies import REFUSED, Malformed, fault_of, first_choice, listed_models
from axolotl_safety.engines.http.server import Server, api_root
from axolotl_safety.util.errors import ConfigError, StageError

from . import prompt as openai_prompt

if TYPE_CHECKING:
    import httpx

LOG = logging.getLogger(__name__)

_PROBE = Question("probe", "", openai_prompt.INSTRUCTION, openai_prompt.render("Good morning!", "", "Good morning!"))


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
        self._checked = False
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
            sound = isinstance(await flow.answer(_PROBE), Answer)
        finally:
            await flow.close()
        if not sound:
            raise StageError(
                f"{self.server.label} at {self.server.root!r} answers nothing, not even to a greeting "
                f"({held[0].reason}, {held[0].message}). Check that it is a chat model."
            )

    async def _ask(self, client: httpx.AsyncClient, question: Question) -> Answer | Failure:
        said = question.messages or (("system", question.system), ("user", question.user))
        body = {
            "model": self.server.model,
            "messages": [{"role": role, "content": content} for role, content in said],
            "temperature": 0,
            "max_tokens": self._max_tokens,
        }
        reply = await self.server.post(client, "chat/completions", body)
        return self._refused(question, reply) if reply.status_code in REFUSED else _read(question.request_id, reply)

    def _refused(self, question: Question, reply: httpx.Response) -> Failure:
        """A request that the server will not take. Its message is not repeated: it may quote what was judged.

        Raises:
            ConfigError: not this text is refused but the way we ask, which would hold for every row.
        """
        fault = fault_of(reply)
        code, place = (str(fault.get(key) or "")[:40] for key in ("code", "param"))
        if code.startswith("unsupported") or code == "model_not_found":
            raise ConfigError(
                f"{self.server.label} at {self.server.root!r} answers {reply.status_code} ({code} {place}): it cannot "
                "be asked for temperature 0 and max_tokens, or is not there. Use another model."
            )
        if not self._refusals:
            LOG.warning(
                "guard %s: %s refuses a response (status %d %s); such rows are not safe and counted as guard_refused",
                *(self.server.model, self.server.host, reply.status_code, code),
            )
        self._refusals += 1
        return Failure(question.request_id, "refused", f"status {reply.status_code} {code}".strip())


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
