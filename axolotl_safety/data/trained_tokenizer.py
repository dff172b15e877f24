"""The tokenizer as Axolotl saves it with the tuned model: the base's, with what the YAML changes in it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

from axolotl_safety.util.errors import ConfigError

from .chat_template import renderer

LOG = logging.getLogger(__name__)
_TURNS = [{"role": "user", "content": "axolotl safety probe"}]


def as_trained(tokenizer: Any, cfg: Any, values: Mapping[str, Any]) -> Any:
    """Give a tokenizer the special tokens, words and chat template of the YAML, as ``axolotl.loaders.load_tokenizer``.

    Words that the YAML adds are special here: the model knows none of them, so that no row may spell one.

    Args:
        tokenizer: the base model's.
        cfg: the final Axolotl config.
        values: what the chat template is given, for a comparison with the base's own.

    Raises:
        ConfigError: the YAML asks for a tokenizer or a template that cannot be had.
    """
    for key, way in (
        ("tokenizer_use_mistral_common", "Remove it: the model's own tokenizer.json and chat template then serve."),
        (
            "added_tokens_overrides",
            "Rename the tokens in a copy of the tokenizer, and name its folder: tokenizer_config.",
        ),
    ):
        if cfg.get(key):
            raise ConfigError(
                f"{key}: {cfg.get(key)!r}: Axolotl then saves another tokenizer than prompts are rendered with here, "
                f"and the tuned model would see other prompts than it was trained on. {way}"
            )
    if not any((cfg.special_tokens, cfg.tokens, cfg.chat_template)):
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    _add_tokens(tokenizer, cfg)
    if cfg.chat_template:
        own, tokenizer.chat_template = tokenizer.chat_template, _template(cfg, None, tokenizer)
        if own and own != tokenizer.chat_template:
            _compare(tokenizer, own, str(getattr(cfg.chat_template, "value", cfg.chat_template)), values)
    return tokenizer


def _add_tokens(tokenizer: Any, cfg: Any) -> None:
    special = dict(cfg.special_tokens or {})
    more = special.pop("additional_special_tokens", None) or []
    if special.get("pad_token") in tokenizer.get_vocab():
        del special["pad_token"]  # a word of the vocabulary stays a word
    if special:
        tokenizer.add_special_tokens({name: word for name, word in special.items() if word is not None})
    words, known = list(cfg.tokens or []), tokenizer.get_vocab()
    tokenizer.add_tokens([word for word in words if word in known])
    tokenizer.add_tokens([*(word for word in words if word not in known), *more], special_tokens=True)


def _template(cfg: Any, entry: Any, tokenizer: Any) -> str:
    """The chat template that the YAML, or one dataset entry of it, names."""
    from axolotl.utils.chat_templates import get_chat_template_from_config

    try:
        text = get_chat_template_from_config(cfg, ds_cfg=entry, tokenizer=tokenizer)
    except ValueError as error:
        raise ConfigError(f"chat_template {(entry or cfg).get('chat_template')!r}: {error}") from error
    if entry is None and cfg.default_system_message and cfg.chat_template == "chatml":
        return text.replace("You are a helpful assistant.", cfg.default_system_message)
    return text


def _rendered(tokenizer: Any, template: Any, values: Mapping[str, Any]) -> str | None:
    text = template.get("default") if isinstance(template, dict) else template
    try:
        return renderer(tokenizer, {**values, "chat_template": text})(_TURNS)
    except Exception:  # a template is a program, and raises what it likes; the target's own check says so
        return None


def _compare(tokenizer: Any, own: Any, name: str, values: Mapping[str, Any]) -> None:
    """Say that prompts are not those of the base model."""
    ours, theirs = _rendered(tokenizer, tokenizer.chat_template, values), _rendered(tokenizer, own, values)
    if ours is not None and ours != theirs:
        LOG.warning(
            "chat_template %s of the YAML renders other prompts than the template of %r itself: %r instead of %r. "
            "Axolotl saves it with the tuned model, so prompts are rendered with it here too, and base_model answers "
            "prompts that it was not trained on. Remove chat_template to keep the model's own.",
            name,
            tokenizer.name_or_path,
            ours,
            theirs,
        )


def check_entry_template(tokenizer: Any, cfg: Any, entry: Any, values: Mapping[str, Any]) -> None:
    """Refuse a chat template on a dataset entry of ours that is not the one of the tuned model.

    Raises:
        ConfigError: the two render different prompts.
    """
    if not entry.get("chat_template"):
        return
    theirs = _template(cfg, entry, tokenizer)
    if _rendered(tokenizer, theirs, values) != _rendered(tokenizer, tokenizer.chat_template, values):
        raise ConfigError(
            f"datasets: {entry.path!r} has chat_template {entry.chat_template!r}, which renders other prompts than the "
            f"template that is saved with the tuned model. Rows of type {entry.type} are rendered as the tuned model "
            "is asked: remove the key, or set chat_template at the YAML's top level."
        )


def other_prompts(saved: Any, tokenizer: Any, values: Mapping[str, Any]) -> str:
    """In which way a tuned model's own tokenizer renders a prompt otherwise; empty if it does not."""
    ours = _rendered(tokenizer, tokenizer.chat_template, values)
    if _rendered(saved, saved.chat_template, {}) == ours:
        return ""
    theirs = _rendered(saved, saved.chat_template, values)
    if theirs == ours:
        return f"it needs chat_template_kwargs {dict(values)} for the prompts that are asked here"
    return f"it renders {theirs!r}, and {ours!r} is asked here"
