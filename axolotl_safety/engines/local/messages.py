"""Requests and results as messages. One JSON object per line; ``id`` is the engine's own number for a request."""

from __future__ import annotations

from typing import Any

from axolotl_safety.engines.base import Completion, Failure, Request, Result, Score, ScoreRequest
from axolotl_safety.util import jsonl


def encode(message: dict[str, Any]) -> bytes:
    """One message as a line of bytes."""
    return jsonl.dump(message) + b"\n"


def request_message(number: int, request: Request | ScoreRequest) -> dict[str, Any]:
    """The message that asks for ``request``."""
    message: dict[str, Any] = {
        "type": "score" if isinstance(request, ScoreRequest) else "generate",
        "id": number,
        "request_id": request.request_id,
        "model": request.model,
        "prompt": request.prompt_token_ids,
    }
    if isinstance(request, ScoreRequest):
        message |= {"response": request.response_token_ids, "temperature": request.temperature}
    else:
        sampling = request.sampling
        message |= {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "max_new_tokens": sampling.max_new_tokens,
            "seed": request.seed,
            "stop": request.stop_token_ids,
        }
    return message


def result_of(message: dict[str, Any], request: Request | ScoreRequest) -> Result:
    """The result that a ``completion``, ``score`` or ``failure`` message carries for ``request``."""
    if message["type"] == "completion":
        return Completion(request.request_id, tuple(message["tokens"]), message["finish"], message["logprob"])
    if message["type"] == "score":
        return Score(request.request_id, message["logprob"], message["num_tokens"])
    return Failure(request.request_id, message["reason"], message["message"])
