"""How completions are drawn: method block over ``safety.sampling`` over the preset of the model's family."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from axolotl_safety.config import SafetyConfig, SamplingConfig
from axolotl_safety.data.entries import Entry
from axolotl_safety.engines.base import Sampling
from axolotl_safety.methods.base import method_named
from axolotl_safety.util.errors import ConfigError

LOG = logging.getLogger(__name__)

# What the model cards recommend and ThinkSafe samples with (arXiv 2601.23143, appendix; its published code).
_PRESETS = {
    "r1": {"temperature": 0.6, "top_p": 0.95, "top_k": 0},
    "qwen3": {"temperature": 0.6, "top_p": 0.95, "top_k": 20},
}


_DEFAULT_MAX_NEW_TOKENS = 4096


def warn_without_choice(safety: SafetyConfig, methods: Iterable[str]) -> None:
    """Say so when there is a choice to make and only one candidate to choose from."""
    methods = list(methods)
    blocks = [method_named(method).config(safety) for method in methods]
    if safety.choice != "first" and methods and all(getattr(block, "n", 1) == 1 for block in blocks):
        LOG.warning(
            "safety.choice: %s chooses among the candidates of one attempt, and n is 1. Set %s.n to 4, say, or leave "
            "choice out.",
            safety.choice,
            methods[0],
        )


def family_preset(family: str) -> dict[str, Any]:
    """Temperature, top_p and top_k for a model family; R1's, where none is known."""
    return dict(_PRESETS.get(family, _PRESETS["r1"]))


def resolve_sampling(
    safety: SafetyConfig, method: SamplingConfig, sequence_len: int, entries: Sequence[Entry], family: str = "r1"
) -> Sampling:
    """Method block over ``safety.sampling`` over the preset of the model's family (R1's, where none is known).

    Raises:
        ConfigError: a ``max_new_tokens`` that no row can hold within ``sequence_len``, or settings under which
            ``choice: resample`` has no meaning.
    """
    lengths = [len(task.prompt_ids) for entry in entries for task in entry.tasks]
    shortest, longest = min(lengths, default=0), max(lengths, default=0)
    values = family_preset(family)
    for block in (safety.sampling, method):
        values.update(block.model_dump(exclude_none=True))
    limit = values.pop("max_new_tokens", None)
    if limit is None:
        limit = _DEFAULT_MAX_NEW_TOKENS  # each request gets what its own row leaves of sequence_len
    elif shortest + limit > sequence_len:
        raise ConfigError(
            f"safety: max_new_tokens {limit} cannot fit: with sequence_len {sequence_len} and prompts of "
            f"{shortest} to {longest} tokens a completion may have at most {sequence_len - shortest}. Raise "
            f"sequence_len to {limit + longest}, or lower max_new_tokens to {max(1, sequence_len - longest)}."
        )
    sampling = Sampling(max_new_tokens=limit, **values)
    if safety.choice == "resample" and not (sampling.temperature > 0 and sampling.top_p == 1 and sampling.top_k == 0):
        raise ConfigError(
            f"safety: choice resample weighs by p / q, which truncation cuts off: temperature {sampling.temperature}, "
            f"top_p {sampling.top_p}, top_k {sampling.top_k}. Set sampling: {{top_p: 1.0, top_k: 0}} and a temperature "
            "above 0, or another choice."
        )
    return sampling
