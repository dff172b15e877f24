"""Requests and results as bodies of ``POST /v1/completions``, token ids both ways.

The fields are those of vLLM's server (``vllm/entrypoints/openai/completion/protocol.py``). Every sampling parameter is
set: what a body leaves out, the server takes from the model's generation config, a repetition penalty for instance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from axolotl_safety.engines.base import Completion, Failure, Request, Score, ScoreRequest
from axolotl_safety.engines.http.replies import Malformed, Passing
from axolotl_safety.engines.worker.items import draw_key

_SEED_BITS = 63  # what a signed 64-bit field holds
_PLAIN = {"min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


def body_of(model: str, request: Request | ScoreRequest) -> dict[str, Any]:
    """What is posted for a request.

    A completion ends at our stop tokens alone (``ignore_eos`` turns the server's own off), and ``logprobs: 0`` gives
    the log-probability of each sampled token. A score is a prompt's ``prompt_logprobs``; the one token that must be
    generated besides is thrown away.
    """
    if isinstance(request, ScoreRequest):
        prompt = [*request.prompt_token_ids, *request.response_token_ids]
        drawn = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_tokens": 1, "prompt_logprobs": 0}
    else:
        prompt, sampling = list(request.prompt_token_ids), request.sampling
        drawn = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "max_tokens": sampling.max_new_tokens,
            "stop_token_ids": list(request.stop_token_ids),
            "logprobs": 0,
            "return_token_ids": True,
        }
        if sampling.temperature > 0:  # a greedy completion draws nothing, and a generator per request costs time
            drawn["seed"] = draw_key(request.seed, request.request_id) >> (64 - _SEED_BITS)
    return {"model": model, "prompt": prompt, "ignore_eos": True, "skip_special_tokens": False, **_PLAIN, **drawn}


def read_completion(request: Request, choice: dict[str, Any]) -> Completion | Failure:
    """The completion in a reply, checked: what is trained on must be what was sampled, and complete.

    Args:
        request: what was asked.
        choice: the reply's first choice.

    Returns:
        The completion, or a failure where the server ended it by a limit or a stop token of its own.

    Raises:
        Malformed: the reply lacks a field or contradicts itself.
        Passing: the server broke the completion off.
    """
    finish = choice.get("finish_reason")
    if finish == "abort":
        raise Passing("the completion was aborted by the server")
    if finish not in ("stop", "length"):
        raise Malformed(f"finish_reason {str(finish)[:40]!r}; expected stop or length")
    asked = choice.get("prompt_token_ids")
    if asked is not None and tuple(asked) != request.prompt_token_ids:
        raise Malformed("the server changed the prompt's token ids (choices[0].prompt_token_ids)")
    ids = _ids(choice.get("token_ids"))
    logprobs = choice.get("logprobs")
    logprob = _sum(logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None, len(ids))
    limit, stops = request.sampling.max_new_tokens, set(request.stop_token_ids)
    if len(ids) > limit or not stops.isdisjoint(ids[:-1]):
        raise Malformed(f"{len(ids)} tokens that go on behind a stop token or beyond max_tokens {limit}")
    if ids[-1] in stops:
        return Completion(request.request_id, ids, "stop", logprob)
    if finish == "stop":
        why = f"the server stopped at token {ids[-1]}, which is none of the target's stop tokens {sorted(stops)}"
        return Failure(request.request_id, "refused", why)
    if len(ids) < limit:
        why = (
            f"the server cut the completion off after {len(ids)} of {limit} tokens: its window is smaller, or the "
            "max_new_tokens of its generation config"
        )
        return Failure(request.request_id, "refused", why)
    return Completion(request.request_id, ids, "length", logprob)


def read_score(request: ScoreRequest, choice: dict[str, Any]) -> Score:
    """The score in a reply.

    Raises:
        Malformed: the reply lacks a token's log-probability.
    """
    entries, before = choice.get("prompt_logprobs"), len(request.prompt_token_ids)
    ids = request.response_token_ids
    if not isinstance(entries, list) or len(entries) != before + len(ids):
        raise Malformed("no log-probability per prompt token (choices[0].prompt_logprobs)")
    try:
        values = [entry[str(token)]["logprob"] for entry, token in zip(entries[before:], ids, strict=True)]
    except (KeyError, TypeError) as error:
        raise Malformed("a prompt token without its log-probability (choices[0].prompt_logprobs)") from error
    return Score(request.request_id, _sum(values, len(ids)), len(ids))


def _ids(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or not all(type(token) is int and token >= 0 for token in value):
        raise Malformed("no token ids (choices[0].token_ids)")
    return tuple(value)


def _sum(values: Any, count: int) -> float:
    """Sum of ``count`` log-probabilities, in nats."""
    if not isinstance(values, Sequence) or len(values) != count:
        raise Malformed("no log-probability per token (choices[0].logprobs.token_logprobs)")
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise Malformed("a log-probability that is no number (choices[0].logprobs.token_logprobs)")
    return math.fsum(values)
