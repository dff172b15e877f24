"""Checks on the raw YAML. Pure but for the config it is given, and the same when run twice."""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from axolotl_safety.util.errors import ConfigError, nearest
from axolotl_safety.util.releases import is_ours, key_of

from . import SECTION, DatasetOptions, SafetyConfig, types
from .command_line import command_line
from .grpo_conflicts import GRPO_TYPE, check_rl
from .kl_conflicts import check_kl
from .stop_conflicts import check_stop
from .work_dir import LATEST

# Modes in which Axolotl leaves out rows that were made for this training, or cannot train on them.
_NOT_TRAINED = {
    "pretraining_dataset": "Axolotl then trains on that dataset alone, and not on `datasets:`. Train in two runs.",
    "streaming": "The rows are all on the disk when training begins, so there is nothing to stream. Remove streaming.",
    "reward_model": "Rows for supervised fine-tuning hold no pairs to compare. Train it in a YAML of its own.",
    "process_reward_model": "Rows for supervised fine-tuning hold no judged steps. Train it in a YAML of its own.",
}


def prepare_config(cfg: Any) -> None:
    """Refuse what cannot work, lift per-dataset blocks into the section, make ``work_dir`` absolute.

    Axolotl drops keys that it does not know, at the top level and on dataset entries alike, so both are looked at
    here, where the raw YAML is still whole.

    Raises:
        ConfigError: naming the key and the way out.
    """
    _check_section_name(cfg)
    _check_datasets(cfg)
    _check_places(cfg)
    raw = cfg.get(SECTION)
    raw = raw.to_dict() if hasattr(raw, "to_dict") else raw or {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{SECTION}: must be a mapping of keys, not {raw!r}.")
    overrides = command_line(cfg) if "command_line" not in raw else raw["command_line"]  # Ray's workers ask again
    blocks = [_lift(entry) for entry in cfg.get("datasets") or []]
    if any(block is not None for block in blocks):
        raw = {**raw, "per_dataset": blocks}
    try:
        checked = SafetyConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_readable(error)) from None
    ours = any(is_ours(entry) for entry in cfg.get("datasets") or [])
    if checked.kl is not None:
        check_kl(cfg, checked.kl, ours)
    if checked.stop is not None:
        check_stop(cfg, ours)
    check_rl(cfg, checked)
    _check_modes(cfg)
    raw = {**raw, "work_dir": str(Path(checked.work_dir).expanduser().absolute())}
    _stamp_cache_key(cfg, {key: value for key, value in raw.items() if key != "command_line"})
    cfg[SECTION] = {**raw, "command_line": list(overrides)}


def _check_section_name(cfg: Any) -> None:
    from axolotl.utils.schemas.config import AxolotlInputConfig

    known = set(AxolotlInputConfig.model_fields) | {SECTION}
    for key in cfg:
        # By its name alone: what is inside may be another tool's, or anchors that our section takes its values from.
        if key not in known and nearest(str(key).lower(), [SECTION, "axolotl_safety"], 0.65):
            raise ConfigError(
                f"unknown top-level key {key!r}: did you mean {SECTION!r}? Axolotl would silently ignore it."
            )


def _check_datasets(cfg: Any) -> None:
    datasets = cfg.get("datasets") or []
    entries = datasets if isinstance(datasets, (list, tuple)) else [datasets]
    wrong = [entry for entry in entries if not isinstance(entry, dict) and not hasattr(entry, "type")]
    if wrong or entries is not datasets:
        seen = wrong[0] if wrong else datasets
        raise ConfigError(
            f"datasets: must be a list of mappings, and holds {seen!r}. Write each entry below a dash: "
            "datasets: [{path: ..., type: axolotl_safety.thinksafe}]."
        )


def _check_modes(cfg: Any) -> None:
    ours = [entry for entry in cfg.get("datasets") or [] if str(key_of(entry, "type")) in types()]
    for key, way_out in _NOT_TRAINED.items():
        if ours and cfg.get(key):
            raise ConfigError(
                f"{key}: {cfg.get(key)!r} does not go with datasets: {key_of(ours[0], 'path')!r} of type "
                f"{key_of(ours[0], 'type')}, whose rows would not be trained on. {way_out}"
            )


def _stamp_cache_key(cfg: Any, raw: dict[str, Any]) -> None:
    """Make Axolotl's prepared cache tell our outputs apart when it caches one under the source's path.

    Only ``axolotl evaluate`` does: it never calls ``load_datasets``, so our entries keep their path and type there,
    and the cache key holds neither this section nor what a file contains. ``field_model`` is part of that key and
    means nothing to our types.
    """
    try:
        latest = (Path(raw["work_dir"]) / LATEST).read_text(encoding="utf-8")
    except OSError:
        latest = ""
    stamp = hashlib.sha256(json.dumps([raw, latest], sort_keys=True, default=str).encode()).hexdigest()[:16]
    for index, entry in enumerate(cfg.get("datasets") or []):
        if is_ours(entry) and isinstance(entry, dict):
            entry["field_model"] = f"axolotl_safety:{stamp}:{index}"  # the index tells equal paths apart


def _check_places(cfg: Any) -> None:
    """Types of ours where they cannot work, types that are nearly ours, and options beside ``type`` instead of in
    ``safety:``; Axolotl would notice the first two only after the data stage, and the last never."""
    for key in ("test_datasets", "pretraining_dataset"):
        for entry in cfg.get(key) or []:
            if isinstance(entry, dict) and is_ours(entry):
                raise ConfigError(
                    f"{key}: {entry.get('path')!r} has type {entry['type']!r}, which works in datasets: only."
                )
    for entry in cfg.get("datasets") or []:
        name = str(key_of(entry, "type") or "")
        known = (*types(), GRPO_TYPE)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if near and name not in known:
            raise ConfigError(f"datasets: {key_of(entry, 'path')!r} has type {name!r}: did you mean {near[0]!r}?")
        if not is_ours(entry) or not isinstance(entry, dict):
            continue
        for key in entry:
            if key != SECTION and difflib.get_close_matches(str(key).lower(), [SECTION], n=1, cutoff=0.65):
                raise ConfigError(
                    f"datasets: {entry.get('path')!r} has the unknown key {key!r}: did you mean {SECTION!r}?"
                )
            if key in DatasetOptions.model_fields:
                raise ConfigError(
                    f"datasets: {entry.get('path')!r} has {key!r} beside its type; put it into the entry's own block: "
                    f"safety: {{{key}: {entry[key]!r}}}."
                )


def _lift(entry: Any) -> dict[str, Any] | None:
    """Take an entry's ``safety:`` block out of it, None if it has none."""
    block = key_of(entry, SECTION)
    if block is None:
        return None
    block = block.to_dict() if hasattr(block, "to_dict") else block
    if not is_ours(entry):
        raise ConfigError(
            f"datasets: {key_of(entry, 'path')!r} has a `safety:` block but type {key_of(entry, 'type')!r}; such a "
            f"block works on the types of this plugin ({', '.join(types())})."
        )
    if isinstance(entry, dict):
        entry.pop(SECTION)
    return block


# What pydantic calls a valid dictionary or instance of a class, and a tuple.
_FORMS = {
    "model_type": "must be a mapping of keys, such as {key: value}",
    "dict_type": "must be a mapping of keys, such as {key: value}",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
}


def _readable(error: ValidationError) -> str:
    """Pydantic's findings as one line each, with the path of the key."""
    lines = []
    for fault in error.errors():
        place = ".".join([SECTION, *map(str, fault["loc"])]).replace("safety.per_dataset.", "safety: block of dataset ")
        message = _FORMS.get(fault["type"]) or fault["msg"].removeprefix("Value error, ")
        value = "" if "unknown key" in message else f" (got {fault['input']!r})"
        lines.append(f"{place}: {message}{value}")
    return "the YAML's safety section is not valid:\n  " + "\n  ".join(lines)
