"""The ``safety:`` section of a final Axolotl config, and the dataset entries that are ours."""

from __future__ import annotations

from typing import Any

from axolotl_safety.util.errors import ConfigError
from axolotl_safety.util.releases import PLUGIN

from . import METHODS, PREFIX, SafetyConfig, types


def section(cfg: Any) -> SafetyConfig:
    """The validated ``safety:`` section of a final Axolotl config."""
    raw = cfg.safety
    return SafetyConfig.model_validate(raw.to_dict() if hasattr(raw, "to_dict") else raw or {})


def our_entries(cfg: Any) -> dict[int, str]:
    """Index and method of the dataset entries that are ours.

    Raises:
        ConfigError: a type of ours that does not exist.
    """
    found = {}
    for index, entry in enumerate(cfg.datasets or []):
        if isinstance(entry.type, str) and entry.type.startswith(PREFIX):
            method = entry.type.removeprefix(PREFIX)
            if method not in METHODS:
                raise ConfigError(
                    f"datasets: type {entry.type!r} does not exist. Types of this plugin: {', '.join(types())}."
                )
            found[index] = method
    return found


# What renders a conversation, and is no value for the template.
_RENDERING = frozenset(
    "conversation messages chat_template tokenize add_generation_prompt continue_final_message return_dict "
    "return_tensors return_assistant_tokens_mask padding truncation max_length tokenizer_kwargs".split()
)


def template_kwargs(cfg: Any, safety: SafetyConfig) -> dict[str, Any]:
    """What every rendering of the target's prompt gives the chat template.

    Axolotl's ``chat_template_kwargs``, which its own rows are rendered with, or ``safety.think``'s where that is not
    set. Under ``rl:`` the trainer's are the same.

    Raises:
        ConfigError: two of them differ, or a name is none of a template.
    """
    trainer = (cfg.trl or {}).get("chat_template_kwargs") if cfg.rl else None
    said = {
        "chat_template_kwargs": cfg.chat_template_kwargs,
        "safety.think.chat_template_kwargs": safety.think.chat_template_kwargs if safety.think else None,
        "trl.chat_template_kwargs": trainer,
    }
    given = {key: dict(values) for key, values in said.items() if values}
    for key, values in given.items():
        if taken := sorted(_RENDERING & values.keys()):
            raise ConfigError(
                f"{key}: {taken[0]!r} says how a conversation is rendered and is no value for the template. Remove it."
            )
    (first, chosen), *others = given.items() or [("", {})]
    for key, values in others:
        if values != chosen:
            raise ConfigError(
                f"{first} is {chosen} and {key} is {values}: prompts are rendered in one way only. Remove one of them."
            )
    return chosen


def require_plugin(what: str) -> None:
    """Refuse to work without the plugin.

    Raises:
        ConfigError: the YAML does not list the plugin.
    """
    from axolotl.integrations.base import PluginManager

    if PLUGIN not in PluginManager.get_instance().plugins:
        raise ConfigError(f"{what} needs the plugin, and `plugins:` does not list it. Add:\nplugins:\n  - {PLUGIN}")
