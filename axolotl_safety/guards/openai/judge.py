"""A general chat model behind an OpenAI-compatible endpoint as the judge."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from axolotl_safety.config import GuardConfig
from axolotl_safety.config.patterns import examples
from axolotl_safety.engines.base import Answer, Failure, Question, ScoreRequest
from axolotl_safety.engines.queue import content_id
from axolotl_safety.guards import custom
from axolotl_safety.guards.base import UNPARSABLE, GuardInput, Verdict
from axolotl_safety.guards.families import all_controls
from axolotl_safety.guards.frame import Frame
from axolotl_safety.guards.neutral import THINK, Neutraliser

from . import prompt as openai_prompt
from .client import ChatClient


class OpenAIJudge:
    """Asks for a JSON verdict on each response. Over-long input is the server's to refuse; nothing is cut short."""

    heuristic = False
    remote = True
    example = '{"safe": true, "refusal": true}'
    wanted = '{"safe": true or false, "refusal": true or false}'

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
        self.max_new_tokens = config.max_new_tokens
        self._config = config
        # The address without its scheme: http or https, the same server is the same judge.
        parts = ["openai", self.client.place, config.model]
        self.fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]

    def check(self) -> None:
        """See to it that the server can be asked, and that its verdict on a greeting can be read.

        Raises:
            ConfigError: no key, no server, no model, or no verdict.
        """
        self.client.check()
        self.client.probe(self._question("Good morning!", "", "Good morning!"), self.parse, self.wanted)

    def requests(self, item: GuardInput) -> list[Question] | str:
        """One question per segment."""
        whole = [(item.thinking, item.answer)]
        apart = [("", part) for part in (item.thinking, item.answer) if part]
        return [
            self._question(item.prompt, thinking, answer)
            for thinking, answer in (apart if self._config.segment == "both" else whole)
        ]

    def _question(self, prompt: str, thinking: str, answer: str) -> Question:
        user = openai_prompt.render(prompt, thinking, answer)
        identity = (openai_prompt.VERSION, openai_prompt.INSTRUCTION, user, self._config.max_new_tokens)
        request_id = content_id("openai", self.fingerprint, identity)
        return Question(request_id, self.key, openai_prompt.INSTRUCTION, user)

    def parse(self, text: str) -> Verdict:
        """What a reply says."""
        return openai_prompt.parse(text)

    def shown(self, requests: Sequence[Question]) -> list[str]:
        """What the judge reads, as text."""
        return [
            "\n".join(content for _, content in question.messages) or f"{question.system}\n{question.user}"
            for question in requests
        ]

    def text(self, answer: Answer) -> str:
        """What the judge wrote."""
        return answer.text

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
        verdicts = [self._read(answer) for answer in answers]
        if not verdicts:
            return UNPARSABLE
        worst = next((verdict for verdict in verdicts if not verdict.safe), verdicts[-1])
        return Verdict(worst.safe, verdicts[-1].refusal, worst.reason)

    def _read(self, answer: Answer | Failure) -> Verdict:
        if isinstance(answer, Failure):
            return Verdict(False, None, answer.reason)
        if answer.finish_reason != "stop":
            return Verdict(False, None, "truncated")
        return self.parse(answer.text)


# Control tokens of chat templates that servers may read in a message's text, beside those of the guard families.
_CHAT_TOKENS = (
    *("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>", "<|constrain|>"),
    *("<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
)


class CustomJudge(OpenAIJudge):
    """A model behind an endpoint that is asked and read as the YAML says. The server's chat template frames it."""

    def __init__(self, config: GuardConfig, key: str, client: ChatClient | None = None):
        """Prepare to ask; nothing is sent yet. The arguments are those of any judge behind an endpoint."""
        super().__init__(config, key, client)
        found = custom.delimiters(config)
        tokens = (*all_controls(), *_CHAT_TOKENS, *THINK)
        self._neutral = Neutraliser(tokens, found.roles, (), found.lines, found.marks)
        self._frames = [(message.role, Frame(message.content)) for message in config.messages]
        self._parse = custom.parser(config)
        verdict = config.verdict.safe if config.verdict else ""
        self.example = next(iter(examples(re.compile(verdict))), "")
        self.wanted = "read by safety.guard.verdict as one verdict"

    def parse(self, text: str) -> Verdict:
        """What a reply says."""
        return self._parse(text)

    def _question(self, prompt: str, thinking: str, answer: str) -> Question:
        prompt, thinking, answer = map(self._neutral, (prompt, thinking, answer))
        response = f"<think>\n{thinking}\n</think>\n\n{answer}" if thinking else answer
        values = {"prompt": prompt, "thought": thinking, "answer": answer, "response": response}
        messages = tuple((role, frame.fill(values)) for role, frame in self._frames)
        request_id = content_id("openai", self.fingerprint, ("custom", messages, self._config.max_new_tokens))
        return Question(request_id, self.key, "", "", messages=messages)
