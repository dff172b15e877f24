"""A guard's probability of safe, read from its logits inside the training process."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from axolotl_safety.config import GuardConfig
from axolotl_safety.config.guard import FAMILIES
from axolotl_safety.guards.families import load_family
from axolotl_safety.guards.judge import BuiltinGuard, GuardInput, ModelGuard, load_guards
from axolotl_safety.guards.model_guard import common_length
from axolotl_safety.util.errors import ConfigError, ModelError

_LEAST_MASS = 0.5  # below this the guard was about to write something that is no verdict
_TOKENS_AT_ONCE = 16384  # padded tokens per forward pass
_SHARED_WORTH = 64  # a shorter common beginning is not worth a cache of its own


@dataclass(frozen=True)
class Words:
    """Token ids of a guard's verdict.

    Attributes:
        lead_ids: what is put behind the guard's prompt.
        safe_ids: tokens that begin a word that counts as safe.
        unsafe_ids: tokens that begin any other word; none is in both.
    """

    lead_ids: tuple[int, ...]
    safe_ids: tuple[int, ...]
    unsafe_ids: tuple[int, ...]


def verdict_words(tokenizer: Any, family: str, allow_controversial: bool) -> Words:
    """Where the verdict of a family's guard is decided, in this tokenizer's ids.

    Raises:
        ConfigError: no such family here.
        ModelError: a safe and an unsafe word begin with the same token.
    """
    known = load_family(family) if family in FAMILIES else None
    if known is None or not known.lead:
        readable = ", ".join(name for name in FAMILIES if load_family(name).lead)
        raise ConfigError(
            f"safety.guard: the reward guard_safe reads P(safe) from the logits of {readable} models, not "
            f"of the family {family!r}. Use such a guard (Qwen/Qwen3Guard-Gen-0.6B), or `guard: {{model: builtin}}`."
        )
    lead, words = known.lead, known.words
    coded = [tokenizer.encode(lead + word, add_special_tokens=False) for word in words]
    at = common_length(coded)
    firsts = {word: ids[at] if len(ids) > at else -1 for word, ids in zip(words, coded, strict=True)}
    good = {words[0], *(known.middle if allow_controversial else ())}
    safe_ids = {token for word, token in firsts.items() if word in good}
    unsafe_ids = set(firsts.values()) - {firsts[word] for word in good}
    if -1 in firsts.values() or any(firsts[word] in safe_ids for word in words if word not in good):
        raise ModelError(
            f"the guard's tokenizer does not tell {', '.join(words)} apart by one token behind {lead!r}: {coded}. "
            "Use another guard for the reward guard_safe."
        )
    return Words(tuple(coded[0][:at]), tuple(sorted(safe_ids)), tuple(sorted(unsafe_ids)))


class GuardScorer:
    """One guard, on the trainer's device; ``safe`` gives P(safe) of responses, 0 for whatever cannot be judged."""

    def __init__(self, config: GuardConfig, device: Any):
        """Prepare the prompts; the weights are loaded by the first call of ``safe``.

        Raises:
            ConfigError: the guard cannot be reached, or has no logits to read.
        """
        (self._guard,) = load_guards((config,))
        self._config = config
        self._device = device
        self._model: Any = None
        self._words: Words | None = None
        if isinstance(self._guard, ModelGuard):
            tokenizer, family = self._guard.files.tokenizer, self._guard.family.name
            self._words = verdict_words(tokenizer, family, config.allow_controversial)
        elif not isinstance(self._guard, BuiltinGuard):
            verdict_words(None, "openai", config.allow_controversial)  # raises: an endpoint shows no logits

    def safe(self, items: Sequence[GuardInput | None]) -> list[float]:
        """P(safe) of each response, the least over its segments; 0 for what does not fit the guard, and for None."""
        asked = [[] if item is None else self._prompts(item) for item in items]
        if self._words is None:
            return [
                float(item is not None and self._guard.verdict(item, []).safe) for item in items
            ]  # the heuristic guard
        scores = iter(self._scores([ids for prompts in asked for ids in prompts]))
        return [min((next(scores) for _ in prompts), default=0.0) for prompts in asked]

    def _prompts(self, item: GuardInput) -> list[tuple[int, ...]]:
        made = self._guard.requests(item)
        if isinstance(made, str) or self._words is None:  # a string is the reason why it cannot be judged
            return []
        return [tuple(request.prompt_token_ids) + self._words.lead_ids for request in made]

    def _scores(self, prompts: list[tuple[int, ...]]) -> list[float]:
        """P(safe) per prompt, longest first so that rows of a batch are of about one length."""
        if not prompts:
            return []
        if self._model is None:
            self._model = _load_guard_model(self._guard.files.spec, self._device)
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        shared = _shared(prompts)
        scores = [0.0] * len(prompts)
        with torch.inference_mode():
            cache = None
            if shared:
                ids_1P = torch.tensor([list(prompts[0][:shared])], device=self._device)
                cache = self._model(input_ids=ids_1P, use_cache=True, logits_to_keep=1).past_key_values
            while order:
                rows = max(1, _TOKENS_AT_ONCE // (len(prompts[order[0]]) - shared))
                some, order = order[:rows], order[rows:]
                logits_BV = _last_logits(self._model, [prompts[index][shared:] for index in some], shared, cache)
                for index, share in zip(some, _safe_share(logits_BV, self._words), strict=True):
                    scores[index] = share
        return scores


def _load_guard_model(spec: Any, device: Any) -> Any:
    from transformers import AutoModelForCausalLM

    dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(spec.path, revision=spec.revision, dtype=dtype)
    return model.to(device).eval().requires_grad_(False)


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """Length of the beginning that all prompts share (the guard's instructions), 0 where it does not pay."""
    if len(prompts) < 2:
        return 0
    low, high = min(prompts), max(prompts)  # the two that differ first
    most = min(len(prompt) for prompt in prompts) - 1
    count = next((at for at in range(most) if low[at] != high[at]), most)
    return count if count >= _SHARED_WORTH else 0


def _last_logits(model: Any, rows: list[tuple[int, ...]], shared: int, cache: Any) -> torch.Tensor:
    """Logits behind each row (B x V, float32), left-padded, continuing the shared beginning."""
    width = max(len(row) for row in rows)
    ids_BT = torch.zeros(len(rows), width, dtype=torch.long)
    mask_BT = torch.zeros(len(rows), shared + width, dtype=torch.long)
    mask_BT[:, :shared] = 1
    for at, row in enumerate(rows):
        ids_BT[at, width - len(row) :] = torch.tensor(row)
        mask_BT[at, shared + width - len(row) :] = 1
    positions_BT = (mask_BT.cumsum(1) - 1).clamp_min(0)[:, shared:]
    options = {}
    if cache is not None:
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(len(rows))
        options = {"past_key_values": cache, "use_cache": True}
    device = model.device
    out = model(
        input_ids=ids_BT.to(device),
        attention_mask=mask_BT.to(device),
        position_ids=positions_BT.to(device),
        logits_to_keep=1,
        **options,
    )
    return out.logits[:, -1].float()


def _safe_share(logits_BV: torch.Tensor, words: Words) -> list[float]:
    """P(safe) renormalised over the verdict's words; 0 where the guard was not about to write one of them."""
    probabilities_BV = logits_BV.softmax(-1)
    safe_B = probabilities_BV[:, list(words.safe_ids)].sum(-1)
    mass_B = safe_B + probabilities_BV[:, list(words.unsafe_ids)].sum(-1)
    shares = (safe_B / mass_B).tolist()
    return [
        share if mass >= _LEAST_MASS and math.isfinite(share) else 0.0
        for share, mass in zip(shares, mass_B.tolist(), strict=True)
    ]
