"""The families of guard models, and which one a model belongs to."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

from axolotl_safety.config import GuardConfig
from axolotl_safety.config.guard import CUSTOM, FAMILIES
from axolotl_safety.engines.model_files import ModelFiles, read_json
from axolotl_safety.util.errors import ConfigError

from . import custom
from .base import Family

LOG = logging.getLogger(__name__)


def load_family(name: str) -> Family:
    """A family of the table, imported when it is asked for."""
    module, _, attribute = FAMILIES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def _all() -> Iterator[Family]:
    return map(load_family, FAMILIES)


def all_controls() -> tuple[str, ...]:
    """What steers in any family's prompt, broken in judged text because a model may have learnt it."""
    return tuple(sorted({mark for family in _all() for mark in family.controls}))


def _by_name(name: str) -> Family | None:
    """Family by the last part of a model's name.

    Raises:
        ConfigError: a relative that is not supported.
    """
    last = name.rstrip("/").replace("\\", "/").split("/")[-1].lower()
    for family in _all():
        for pattern, why in family.relatives:
            if pattern.search(last):
                *titles, title = (one.title for one in _all())
                raise ConfigError(
                    f"safety.guard.model {name!r}: {why}. Use {', '.join(titles)} or {title}, or set guard.family if "
                    "the name misleads."
                )
    return next((family for family in _all() if family.names.search(last)), None)


def _by_files(files: ModelFiles) -> Family | None:
    """Family by what the model's files say: its former name, its chat template, its architecture."""
    config = read_json(files.spec.path, "config.json", files.spec.revision)
    for key in ("_name_or_path", "base_model_name_or_path"):
        found = _by_name(str(config.get(key) or ""))
        if found:
            return found
    own = str(getattr(files.tokenizer, "chat_template", None) or "")
    found = next((family for family in _all() if any(mark in own for mark in family.template_marks)), None)
    if found:
        return found
    vocabulary = files.tokenizer.get_vocab()
    for family in _all():
        kind, *tokens = family.architecture or ("",)
        if kind and config.get("model_type") == kind and vocabulary.keys() >= {*tokens}:
            LOG.warning(
                "guard %s: taken for a %s by its architecture alone; set guard.family: %s if it is one",
                *(files.spec.path, family.name, family.name),
            )
            return family
    return None


def recognise(config: GuardConfig, files: Callable[[], ModelFiles]) -> Family:
    """The family of a guard model, by ``guard.family``, else by its name, else by its files.

    Raises:
        ConfigError: it cannot be told, is one that is not supported, or cannot be asked as the section says.
    """
    if config.family == CUSTOM:
        return custom.family(config, files().tokenizer)
    found = load_family(config.family) if config.family != "auto" else _told(config, files)
    if found.first_word and "max_new_tokens" in config.changed():
        raise ConfigError(
            f"safety.guard.max_new_tokens: of what {found.title} writes the first token alone is read; remove the key."
        )
    if config.policy is None:
        return found
    if found.policy is None:
        takers = ", ".join(family.name for family in _all() if family.policy is not None)
        raise ConfigError(
            f"safety.guard.policy: the prompt of {found.title} has no place for a policy of your own. Remove the key, "
            f"use a guard that takes one ({takers}), or write the whole prompt with family: custom."
        )
    return replace(found, template=found.policy(config.policy))


def _told(config: GuardConfig, files: Callable[[], ModelFiles]) -> Family:
    found = _by_name(config.model) or _by_files(files())
    if found is None:
        raise ConfigError(
            f"safety.guard.model {config.model!r}: its name and files do not say what kind of guard it is. Set "
            f"guard.family to one of {', '.join(FAMILIES)} (models), openai (an HTTP endpoint, with guard.base_url), "
            "builtin (no model), or custom (its prompt and verdict in the YAML)."
        )
    return found
