"""Whether a server can be the engine: it is there, has this model and tokenizer, and tells what is needed.

All of it is asked before anything expensive starts; what a server cannot give ends the run (promise: what is trained on
is, token for token, what the model produced).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from axolotl_safety.engines.base import Completion, Failure, Request, Result, Sampling, Score, ScoreRequest
from axolotl_safety.engines.http.replies import listed_models
from axolotl_safety.engines.http.server import Server
from axolotl_safety.util.errors import ConfigError

LOG = logging.getLogger(__name__)
Ask = Callable[[Request | ScoreRequest], Awaitable[Result]]

# Words, digits, code, other scripts and markers: tokenizers that differ differ here.
_SAMPLE = "Is 12 × 7 = 84?\n\n<think>\nNaïve Übung: 日本語, дом, don't() { return x_1; }\n</think>\n\nYes, 84."
_PROBE_IDS = (3, 5, 7, 11)  # where no tokenizer is at hand; any ids will do
_PROBE_TOKENS = 8
_NEEDS = (
    "The data stage trains on the very tokens that the model sampled, so a server must take prompts as token ids and "
    "return token ids and log-probabilities (return_token_ids, logprobs, prompt_logprobs on /v1/completions). vLLM's "
    "server does, from version 0.10.2 on. Use it, or backend vllm or transformers."
)


def look_at(server: Server) -> dict[str, Any]:
    """Ask who the server is.

    Returns:
        As far as the server says: ``model``, ``root`` (the checkpoint it was started with), ``max_model_len`` and
        ``version``.

    Raises:
        ConfigError: it cannot be reached, refuses the key, or does not list the model.
    """
    if not server.local:
        LOG.warning("engine: prompts and completions, harmful ones too, go through %s", server.host)
    listed = listed_models(server.call(f"{server.root}/models"))
    if listed and server.model not in listed:
        names = ", ".join(list(listed)[:8])
        raise ConfigError(
            f"safety.engine.model: {server.root!r} does not serve {server.model!r} but {names}. Set engine.model to "
            "the name under which it serves base_model; without the key, base_model is asked for as written."
        )
    if not listed:
        LOG.warning("engine: %s lists no models, so its window and checkpoint are not known", server.host)
    entry = listed.get(server.model, {})
    facts = {"model": server.model, "root": entry.get("root"), "max_model_len": entry.get("max_model_len")}
    with suppress(ValueError, AttributeError):
        facts["version"] = server.call(f"{_service(server)}/version").json().get("version")
    kept = {key: value for key, value in facts.items() if isinstance(value, str | int)}
    LOG.info("engine: server %s: %s", server.root, " ".join(f"{key}={value}" for key, value in kept.items()))
    return kept


def check_tokenizer(server: Server, tokenizer: Any) -> tuple[int, ...]:
    """Compare the server's tokenizer with ours on a sample text.

    Args:
        server: who is asked, at vLLM's ``POST /tokenize``.
        tokenizer: the base model's, from transformers; None if there is none at hand.

    Returns:
        Ids to probe with.

    Raises:
        ConfigError: they differ.
    """
    if tokenizer is None:
        return _PROBE_IDS
    text = _SAMPLE + (tokenizer.eos_token or "")
    ours = tokenizer.encode(text, add_special_tokens=False)
    body = {"model": server.model, "prompt": text, "add_special_tokens": False}
    reply = server.call(f"{_service(server)}/tokenize", body)
    try:
        theirs = reply.json()["tokens"] if reply.status_code == 200 else None
    except (ValueError, KeyError, TypeError):
        theirs = None
    if theirs is None:
        LOG.warning(
            "engine: %s has no /tokenize (status %d), so it could not be checked that it serves base_model's tokenizer",
            *(server.host, reply.status_code),
        )
    elif list(theirs) != ours:
        place = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), len(theirs))
        raise ConfigError(
            f"safety.engine: {server.model!r} at {server.root!r} has another tokenizer than base_model: a sample text "
            f"is {len(ours)} tokens here and {len(theirs)} there, and differs from token {place} on. Token ids mean "
            "something else there. Serve the model that base_model names, with its own tokenizer."
        )
    return tuple(ours)


async def probe(ask: Ask, prompt: tuple[int, ...]) -> None:
    """Have a few tokens sampled and scored, and compare what both say of them.

    With top-k 1 every token's log-probability is 0 after truncation, and is not before: a server that reports the
    former cannot be used, because importance weights and NLL need the model's own.

    Args:
        ask: puts a request to the server.
        prompt: token ids.

    Raises:
        ConfigError: something is missing or does not agree.
        StageError: the server does not answer.
    """
    sampled = await ask(Request("probe", "target", prompt, Sampling(1.0, 1.0, 1, _PROBE_TOKENS), 0, ()))
    if not isinstance(sampled, Completion):
        raise _lacking(sampled)
    scored = await ask(ScoreRequest("probe", "target", prompt, sampled.token_ids))
    if not isinstance(scored, Score):
        raise _lacking(scored)
    # Half precision, and a prefill that rounds differently than decoding, are worth some hundredths per token.
    if abs(sampled.logprob - scored.logprob) > 0.2 + 0.1 * abs(scored.logprob):
        raise ConfigError(
            f"safety.engine: the server's log-probabilities contradict each other: {sampled.logprob:.3f} nats for "
            f"{len(sampled.token_ids)} tokens as it sampled them, {scored.logprob:.3f} as a prompt. They must be the "
            "model's own, before temperature and truncation: start vLLM with --logprobs-mode raw_logprobs (its "
            "default)."
        )


def _lacking(result: Result) -> ConfigError:
    said = f"{result.reason}: {result.message}" if isinstance(result, Failure) else repr(result)
    return ConfigError(f"safety.engine: the server cannot be the engine ({said}). {_NEEDS}")


def _service(server: Server) -> str:
    """Where vLLM has what is not OpenAI's."""
    return server.root.removesuffix("/v1")
