"""Rewards that Axolotl resolves under ``trl.reward_funcs: [axolotl_safety.rewards.guard_safe]``."""

from .methods.grpo.rewards import correct, guard_safe, refusal, think_format

__all__ = ["correct", "guard_safe", "refusal", "think_format"]
