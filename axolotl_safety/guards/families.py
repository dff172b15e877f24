"""The families of guards, and how to tell which one a model belongs to."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from axolotl_safety.config import GuardConfig
from axolotl_safety.data.refusal.detector import is_refusal
from axolotl_safety.engines.model_files import ModelFiles
from axolotl_safety.util.errors import ConfigError

from . import granite_guardian, llama_guard, qwen3guard, wildguard
from .base import Family, Verdict
from .openai import prompt as openai_prompt

LOG = logging.getLogger(__name__)

MODEL_FAMILIES: dict[str, Family] = {
    module.FAMILY.name: module.FAMILY for module in (qwen3guard, llama_guard, wildguard, granite_guardian)
}

_NAMES = (
    (re.compile(r"qwen3[-_]?guard"), "qwen3guard"),
    (re.compile(r"llama[-_]?guard[-_]?[34]"), "llama_guard"),
    (re.compile(r"wild[-_]?guard"), "wildguard"),
    (re.compile(r"granite[-_]?guardian[-_]?4"), "granite_guardian"),
)
# Relatives whose prompt or output is another one: better refused than read wrongly.
_RELATIVES = (
    (re.compile(r"qwen3[-_]?guard[-_]?stream"), "Qwen3Guard-Stream has a classification head and writes no verdict"),
    (re.compile(r"llama[-_]?guard(?:[-_]?[12]\b|[-_]?7b)"), "Llama Guard 1 and 2 have another taxonomy and prompt"),
    (re.compile(r"granite[-_]?guardian(?:[-_]?3|[-_]?hap)"), "Granite Guardian before 4.1 has another prompt"),
)
_TEMPLATES = (
    ("Safety: Controversial", "qwen3guard"),
    ("First line must read 'safe' or 'unsafe'", "llama_guard"),
    ("First line must read \\'safe\\' or \\'unsafe\\'", "llama_guard"),
    ("classifier for analyzing interactions between humans and LLMs", "wildguard"),
    ("<guardian>", "granite_guardian"),
)


def _by_name(name: str) -> str | None:
    """Family by the last part of a model's name.

    Raises:
        ConfigError: a relative that is not supported.
    """
    last = name.rstrip("/").replace("\\", "/").split("/")[-1].lower()
    for pattern, why in _RELATIVES:
        if pattern.search(last):
            raise ConfigError(
                f"safety.guard.model {name!r}: {why}. Use Qwen3Guard-Gen, Llama Guard 3 or 4, WildGuard or Granite "
                "Guardian 4.1, or set guard.family if the name misleads."
            )
    return next((family for pattern, family in _NAMES if pattern.search(last)), None)


def _read_config(path: str, revision: str | None) -> dict[str, Any]:
    local = Path(path) / "config.json"
    try:
        if not local.is_file():
            from transformers.utils import cached_file

            local = Path(cached_file(path, "config.json", revision=revision) or "")
        return json.loads(local.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _by_files(files: ModelFiles) -> str | None:
    """Family by what the model's files say: its former name, its chat template, its architecture."""
    config = _read_config(files.spec.path, files.spec.revision)
    for key in ("_name_or_path", "base_model_name_or_path"):
        found = _by_name(str(config.get(key) or ""))
        if found:
            return found
    own = str(getattr(files.tokenizer, "chat_template", None) or "")
    found = next((family for mark, family in _TEMPLATES if mark in own), None)
    if found:
        return found
    # The only family built on this architecture: a fine-tune of Qwen3Guard-Gen under another name and template.
    vocabulary = files.tokenizer.get_vocab()
    if config.get("model_type") == "qwen3" and {"<|im_start|>", "<think>", "</think>"} <= vocabulary.keys():
        LOG.warning(
            "guard %s: taken for a qwen3guard by its architecture alone; set guard.family: qwen3guard if it is one",
            files.spec.path,
        )
        return "qwen3guard"
    return None


def recognise(config: GuardConfig, files: Callable[[], ModelFiles]) -> Family:
    """The family of a guard model, by ``guard.family``, else by its name, else by its files.

    Args:
        config: the YAML's block.
        files: reads the model's files; called where the name does not decide.

    Raises:
        ConfigError: it cannot be told, or is one that is not supported.
    """
    name = config.family if config.family != "auto" else _by_name(config.model) or _by_files(files())
    if name not in MODEL_FAMILIES:
        raise ConfigError(
            f"safety.guard.model {config.model!r}: its name and files do not say what kind of guard it is. Set "
            f"guard.family to one of {', '.join(MODEL_FAMILIES)} (models), openai (an HTTP endpoint, with "
            "guard.base_url) or builtin (no model)."
        )
    return MODEL_FAMILIES[name]


def _builtin(answer: str) -> Verdict:
    """The heuristic reads the answer itself: only a refusal is clearly safe."""
    refusal = is_refusal(answer)
    return Verdict(refusal, refusal, "" if refusal else "unsafe")


FAMILIES: dict[str, Callable[[str], Verdict]] = {
    "qwen3guard": qwen3guard.parse,
    "llama_guard": llama_guard.parse,
    "wildguard": wildguard.parse,
    "granite_guardian": granite_guardian.parse,
    "openai": openai_prompt.parse,
    "builtin": _builtin,
}


def parse(family: str, text: str) -> Verdict:
    """Read what a guard of this family wrote; whatever is not clearly safe is not safe.

    Raises:
        ValueError: no such family.
    """
    if family not in FAMILIES:
        raise ValueError(f"no guard family {family!r}; known: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[family](text)
