"""A general chat model behind an OpenAI-compatible endpoint as the judge."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from axolotl_safety.config import GuardConfig
from axolotl_safety.engines.base import Answer, Failure, Question, ScoreRequest
from axolotl_safety.engines.queue import content_id
from axolotl_safety.guards.base import UNPARSABLE, GuardInput, Verdict

from . import prompt as openai_prompt
from .client import ChatClient


class OpenAIJudge:
    """Asks for a JSON verdict on each response. Over-long input is the server's to refuse; nothing is cut short."""

    heuristic = False
    remote = True

    def __init__(self, config: GuardConfig, key: str, client: ChatClient | None = None):
        """Prepare to ask; nothing is sent yet.

        Args:
            config: the YAML's block.
            key: the judge's name in the queue (``guard0``).
            client: the HTTP side, if not the one that the block describes.
        """
        self.name = config.model
        self.key = key
        self.client = client or ChatClient(
            config.base_url or "",
            config.model,
            config.api_key_env,
            config.concurrency,
            config.timeout_seconds,
            config.max_new_tokens,
        )
        self._config = config
        # The address without its scheme: http or https, the same server is the same judge.
        parts = ["openai", self.client.place, config.model]
        self.fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]

    def requests(self, item: GuardInput) -> list[Question] | str:
        """One question per segment."""
        whole = [(item.thinking, item.answer)]
        apart = [("", part) for part in (item.thinking, item.answer) if part]
        return [
            self._question(openai_prompt.render(item.prompt, thinking, answer))
            for thinking, answer in (apart if self._config.segment == "both" else whole)
        ]

    def _question(self, user: str) -> Question:
        identity = (openai_prompt.VERSION, openai_prompt.INSTRUCTION, user, self._config.max_new_tokens)
        request_id = content_id("openai", self.fingerprint, identity)
        return Question(request_id, self.key, openai_prompt.INSTRUCTION, user)

    def scores(self, requests: Sequence[Any], answers: Sequence[Any]) -> list[tuple[ScoreRequest, ...]]:
        """None: an endpoint's probabilities are not asked for."""
        return []

    def probability(self, logprobs: Sequence[float | None]) -> float | None:
        """There is none."""
        return None

    def verdict(
        self, item: GuardInput, answers: Sequence[Answer | Failure], scores: Sequence[float | None] = ()
    ) -> Verdict:
        """All segments must be safe; the last one (the answer) says whether the response refuses."""
        verdicts = [_read(answer) for answer in answers]
        if not verdicts:
            return UNPARSABLE
        worst = next((verdict for verdict in verdicts if not verdict.safe), verdicts[-1])
        return Verdict(worst.safe, verdicts[-1].refusal, worst.reason)


def _read(answer: Answer | Failure) -> Verdict:
    if isinstance(answer, Failure):
        return Verdict(False, None, answer.reason)
    if answer.finish_reason != "stop":
        return Verdict(False, None, "truncated")
    return openai_prompt.parse(answer.text)
