"""The run as its reward functions see it: tokenizer, think markers, guards.

TRL hands a reward function the batch and nothing of the YAML. Axolotl keeps the validated config in its plugin
manager, one per process; it is read there, so that a cached dataset cannot name an old guard.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from axolotl_safety.config import ThinkConfig
from axolotl_safety.data.tokenizer import Split, TargetTokenizer
from axolotl_safety.guards.judge import GuardInput
from axolotl_safety.util.errors import ConfigError

from .guard_score import GuardScorer


def trainer_tokens(tokenizer: Any, think: ThinkConfig | None, values: Mapping[str, Any]) -> TargetTokenizer:
    """The trainer's tokenizer with the model's think markers.

    Raises:
        ConfigError: the trainer ends a completion with another token than the chat template ends a turn with.
    """
    tokens = TargetTokenizer(tokenizer, (tokenizer.eos_token_id,), think, values)
    if tokens.turn_end_id != tokenizer.eos_token_id:
        end = tokens.decode([tokens.turn_end_id])
        raise ConfigError(
            f"rl: the trainer ends a completion at the tokenizer's end token {tokenizer.eos_token!r}, and the chat "
            f"template of {tokenizer.name_or_path!r} ends a turn with {end!r}: every completion would run to the "
            f"limit. Set special_tokens: {{eos_token: {end!r}}} in the YAML."
        )
    return tokens


class RewardContext:
    """The run's tokenizer and guards."""

    def __init__(self, cfg: Any):
        """Remember the validated config; nothing is loaded yet."""
        self._cfg = cfg

    @cached_property
    def tokens(self) -> TargetTokenizer:
        """The tokenizer that the trainer uses, with the model's think markers."""
        from axolotl.loaders import load_tokenizer

        from axolotl_safety.config.section import section, template_kwargs

        tokenizer = load_tokenizer(self._cfg)
        safety = section(self._cfg)
        return trainer_tokens(tokenizer, safety.think, template_kwargs(self._cfg, safety))

    @cached_property
    def guards(self) -> list[GuardScorer]:
        """The YAML's guards, on this process's device; weights come with the first score."""
        from accelerate import PartialState

        from axolotl_safety.config.section import section

        return [GuardScorer(config, PartialState().device) for config in section(self._cfg).guard]

    def split(self, ids: Sequence[int]) -> Split:
        """Thought and answer of one completion; ``fault`` says what is wrong with its form."""
        if not ids or ids[-1] not in self.tokens.stop_token_ids:
            return Split("", "", "unfinished")
        split = self.tokens.split(tuple(ids))
        if split.fault:
            return split
        if not split.thinking:
            return Split("", split.answer, "empty_think")
        return split if split.answer else Split(split.thinking, "", "empty_answer")

    def safe(self, items: Sequence[GuardInput | None]) -> list[float]:
        """P(safe) of each response: the least that any guard gives."""
        return [min(scores) for scores in zip(*(guard.safe(items) for guard in self.guards), strict=True)]


@dataclass(frozen=True)
class _Key:
    """Two configs are the same run if these words are."""

    words: str
    cfg: Any = field(compare=False, hash=False, repr=False)


@lru_cache(maxsize=1)
def _context(key: _Key) -> RewardContext:
    return RewardContext(key.cfg)


def current() -> RewardContext:
    """The context of the run in this process.

    Raises:
        ConfigError: Axolotl has no config here, or the YAML does not list the plugin.
    """
    from axolotl.integrations.base import PluginManager

    from axolotl_safety.config.section import require_plugin

    cfg = PluginManager.get_instance().cfg
    if cfg is None:
        raise ConfigError(
            "a reward function of axolotl_safety was called in a process that has no Axolotl config. Rewards run in "
            "the trainer's own process: leave trl.reward_num_workers at 1."
        )
    require_plugin("a reward function of axolotl_safety")
    names = ("base_model", "tokenizer_config", "tokenizer_type", "special_tokens", "chat_template", "safety", "trl")
    names += ("chat_template_jinja", "chat_template_kwargs", "tokens")
    return _context(_Key(json.dumps([cfg.get(name) for name in names], sort_keys=True, default=str), cfg))


def check_rewards(cfg: Any) -> None:
    """See to it before a model is loaded that the YAML's guards can give rewards, if they are asked to.

    Raises:
        ConfigError: a guard cannot be reached, or P(safe) cannot be read from it.
    """
    if any(str(name).endswith(".guard_safe") for name in (cfg.trl or {}).get("reward_funcs") or []):
        from axolotl_safety.config.section import section

        for config in section(cfg).guard:
            GuardScorer(config, "cpu")
