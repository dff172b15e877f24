"""Checks of the raw YAML against ``rl: grpo``."""

from __future__ import annotations

from typing import Any

from axolotl_safety.util.errors import ConfigError, did_you_mean, nearest

from . import PREFIX, SafetyConfig, types

GRPO_TYPE = PREFIX + "grpo"
_TRAINERS = ("grpo", "gdpo")  # Axolotl runs both by the same trainer
REWARDS = tuple(f"{PREFIX}rewards.{name}" for name in ("correct", "guard_safe", "refusal", "think_format"))


def serves_trainer(cfg: Any) -> bool:
    """Whether the trainer's prompts or rewards are ours."""
    names = [*((cfg.trl or {}).get("reward_funcs") or []), *(entry.get("type") for entry in cfg.datasets or [])]
    return any(str(name).startswith(PREFIX) for name in names)


def check_rl(cfg: Any, safety: SafetyConfig) -> None:
    """Refuse types of ours under the wrong trainer, rewards that do not exist, and options that would do nothing.

    Raises:
        ConfigError: naming the entry and the way out.
    """
    rl = getattr(cfg.get("rl"), "value", cfg.get("rl"))
    ours = False
    for index, entry in enumerate(cfg.get("datasets") or []):
        path, name = (entry.get(key) if isinstance(entry, dict) else getattr(entry, key) for key in ("path", "type"))
        if name == GRPO_TYPE and rl not in _TRAINERS:
            raise ConfigError(
                f"datasets: {path!r} has type {name!r}, which gives prompts to a trainer that samples by itself, and "
                f"rl is {rl!r}. Set rl: grpo, or use one of {', '.join(types())}."
            )
        if name in types() and rl:
            raise ConfigError(
                f"datasets: {path!r} has type {name!r}, whose rows are for supervised fine-tuning, and rl is {rl!r}. "
                f"Remove rl:, or use type {GRPO_TYPE} with rl: grpo."
            )
        if name == GRPO_TYPE:
            ours = True
            options = safety.options_of(index)
            if options.hold_out:
                raise ConfigError(
                    f"datasets: {path!r}: hold_out belongs to the data stage, which does not run under rl: {rl}. Take "
                    "those rows out of the file."
                )
            if safety.max_rows or options.max_rows:
                raise ConfigError(
                    f"datasets: {path!r}: safety.max_rows belongs to the data stage, which does not run under rl: "
                    f"{rl}. Take a part of the dataset by its split: split: train[:4000]."
                )
    _check_reward_names(cfg, ours, rl)


def _check_reward_names(cfg: Any, ours: bool, rl: Any) -> None:
    names = [str(name) for name in (cfg.get("trl") or {}).get("reward_funcs") or []]
    for name in names:
        if name not in REWARDS and (nearest(name, REWARDS, 0.85) or name.startswith(PREFIX)):
            hint = did_you_mean(name, REWARDS, 0.85)
            raise ConfigError(f"trl.reward_funcs: {name!r} does not exist: {hint}Known: {', '.join(REWARDS)}.")
    if ours and not names and rl in _TRAINERS:
        raise ConfigError(
            f"rl: {rl} with type {GRPO_TYPE} needs rewards. Add, for instance:\ntrl:\n  reward_funcs:\n"
            + "\n".join(f"    - {name}" for name in REWARDS[1:])
        )
