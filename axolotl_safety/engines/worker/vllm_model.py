"""One model in vLLM: items in, messages out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

from items import GenerateItem, Item, ScoreItem, draw_key, failure, refusal
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

Message = dict[str, Any]
_COMPANION_TOKENS = 512


class ServedModel:
    """A model and the requests that it works on.

    vLLM holds little more than it can decode at once: what waits, waits here, so that a crash leaves few suspects.

    Args:
        llm: a ``vllm.LLM``.
        max_num_seqs: rows that it decodes at once.
        chunk: tokens of a row that are prefilled at once, None for any number.
        send: sends a message at once.
    """

    def __init__(self, llm: Any, max_num_seqs: int, chunk: int | None, send: Callable[[Message], None]) -> None:
        self.engine = llm.llm_engine
        config = self.engine.model_config
        self.vocabulary, self.max_positions = config.get_vocab_size(), config.max_model_len
        self.tokens_drawn = 0
        self._llm = llm
        self._room = max_num_seqs + max(4, max_num_seqs // 4)  # a few that wait for a free place, and no more
        self._chunk = chunk
        self._send = send
        self._waiting: deque[Item] = deque()
        self._running: dict[str, Item] = {}
        self._long_scores = 0
        self._companions: set[str] = set()
        self._companions_made = 0

    @property
    def busy(self) -> bool:
        """Whether there is something to do."""
        return bool(self._waiting or self._running)

    @property
    def active(self) -> int:
        """Requests with vLLM."""
        return len(self._running)

    def add(self, item: Item) -> Message | None:
        """Queues an item; returns the message that turns it down, if it cannot be taken."""
        reason = refusal(item, self.vocabulary, self.max_positions)
        if not reason and isinstance(item, ScoreItem):
            reason = self._cannot_score(item)
        if reason:
            return failure(item, reason)
        self._waiting.append(item)
        return None

    def _cannot_score(self, item: ScoreItem) -> str | None:
        if item.temperature != 1.0:
            return (
                f"vLLM gives a prompt's log-probabilities at temperature 1 only, and {item.temperature} was asked. "
                "Sample at temperature 1.0, or use backend: transformers."
            )
        total = len(item.sequence)
        if total >= self.max_positions:  # vLLM wants to draw one token more
            return f"Scoring {total} tokens needs a window of {total + 1}, and this one has {self.max_positions}."
        return None

    def cancel(self) -> None:
        """Forgets every item."""
        self._waiting.clear()
        self.engine.abort_request([*self._running, *self._companions])
        self._running.clear()
        self._companions.clear()
        self._long_scores = 0

    def step(self) -> list[Message]:
        """Lets vLLM advance by a token; returns messages."""
        messages = self._feed()
        if not self.engine.has_unfinished_requests():
            return messages
        for output in self.engine.step():
            if not output.finished:
                continue
            if output.request_id in self._companions:
                self._companions.discard(output.request_id)
                continue
            item = self._running.pop(output.request_id, None)
            if item is not None:  # else cancelled
                messages.append(self._message(item, output))
        self._keep_company()
        return messages

    def _feed(self) -> list[Message]:
        started, messages = [], []
        while self._waiting and len(self._running) < self._room:
            item = self._waiting.popleft()
            if self._is_long_score(item):
                self._long_scores += 1
                self._keep_company()
            number = str(item.number)
            params = generate_params(item) if isinstance(item, GenerateItem) else SamplingParams(**_TO_SCORE, **_PLAIN)
            ids = item.sequence if isinstance(item, ScoreItem) else item.prompt
            try:
                self.engine.add_request(number, {"prompt_token_ids": ids}, params)
            except ValueError as error:  # vLLM's own checks; every other error is the engine's
                self._long_scores -= self._is_long_score(item)
                messages.append(failure(item, f"vLLM turned it down: {error}"))
                continue
            self._running[number] = item
            started.append(item.number)
        if started:  # told before it happens: what kills vLLM now is one of them
            self._send({"type": "started", "ids": started})
        return messages

    def _is_long_score(self, item: Item) -> bool:
        return self._chunk is not None and isinstance(item, ScoreItem) and len(item.sequence) > self._chunk

    def _keep_company(self) -> None:
        """Sees to it that a long row to score is never vLLM's only request.

        vLLM's scheduler prefills a row in pieces of ``long_prefill_token_threshold`` tokens so that it does not starve
        others, and (0.32) takes the whole row at once when there are no others: gigabytes of logits. Two small
        requests of different lengths, renewed as they end, are those others.
        """
        if not self._long_scores:
            if self._companions:
                self.engine.abort_request(list(self._companions))
                self._companions.clear()
            return
        while len(self._companions) < 2:
            # The first is half as long as the second, so that they never end together.
            tokens = _COMPANION_TOKENS // (1 if self._companions else 2)
            tokens = min(tokens, self.max_positions - 1)
            name = f"companion-{self._companions_made}"
            self._companions_made += 1
            params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, **_PLAIN)
            self.engine.add_request(name, {"prompt_token_ids": [0]}, params)
            self._companions.add(name)

    def _message(self, item: Item, output: Any) -> Message:
        (completion,) = output.outputs
        if completion.finish_reason not in ("stop", "length"):
            return failure(item, f"vLLM ended it with {completion.finish_reason!r}; see the engine's log.")
        if isinstance(item, ScoreItem):
            self._long_scores -= self._is_long_score(item)
            return _score_message(item, output.prompt_logprobs)
        return self._completion_message(item, list(completion.token_ids), completion.cumulative_logprob)

    def _completion_message(self, item: GenerateItem, tokens: list[int], logprob: float) -> Message:
        self.tokens_drawn += len(tokens)
        if not math.isfinite(logprob):
            return failure(item, "The model's output is not a number; try another dtype.")
        stopped = bool(tokens) and tokens[-1] in item.stop
        if not stopped and len(tokens) < item.max_new_tokens:
            return failure(item, f"vLLM ended it after {len(tokens)} of {item.max_new_tokens} tokens without a reason.")
        finish = "stop" if stopped else "length"
        return {"type": "completion", "id": item.number, "tokens": tokens, "finish": finish, "logprob": logprob}


_PLAIN = {"output_kind": RequestOutputKind.FINAL_ONLY, "detokenize": False}
# vLLM cannot draw no token at all, so one is wasted.
_TO_SCORE = {"temperature": 0, "max_tokens": 1, "prompt_logprobs": 0, "ignore_eos": True, "flat_logprobs": True}


def generate_params(item: GenerateItem) -> SamplingParams:
    return SamplingParams(
        temperature=item.temperature,
        top_p=item.top_p,
        top_k=item.top_k,
        max_tokens=item.max_new_tokens,
        seed=draw_key(item.seed, item.request_id) >> 1 if item.temperature > 0 else None,  # vLLM takes 63 bits
        stop_token_ids=sorted(item.stop),
        ignore_eos=True,  # `item.stop` alone ends it: what the checkpoint calls its end is in there if it is wanted
        logprobs=0,  # the drawn token's, before temperature and truncation
        **_PLAIN,
    )


def _score_message(item: ScoreItem, prompt_logprobs: Any) -> Message:
    ids, start = item.sequence, len(item.prompt)
    total = math.fsum(prompt_logprobs[place][ids[place]].logprob for place in range(start, len(ids)))
    if not math.isfinite(total):
        return failure(item, "The score is not a number; try another dtype.")
    return {"type": "score", "id": item.number, "logprob": total, "num_tokens": len(item.response)}
