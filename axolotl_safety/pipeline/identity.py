"""Which run of a work folder is a YAML's own: by what it asks for, not by which was the last."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from axolotl_safety.config.section import our_entries, section

# Where it is written, for how long, how fast and what is measured afterwards: none of that makes another dataset.
_NEUTRAL = {"work_dir", "max_hours", "eval", "command_line", "engine", "guard", "stop"}
_HELD_OUT = {"prompts", "over_refusal", "harmful", "benign"}  # of `stop`: they decide which rows are left out
_ENGINE = {"backend", "ray_worker", "dtype", "quantization", "model"}
_GUARD = {"api_key_env", "concurrency", "timeout_seconds"}
# Axolotl's keys that change how the target is asked and where its responses end.
TOKENIZER_KEYS = ("chat_template", "chat_template_jinja", "chat_template_kwargs", "special_tokens", "tokens")
TOKENIZER_KEYS += ("eot_tokens", "default_system_message", "tokenizer_config")
_TOP = ("base_model", "revision_of_model", "sequence_len", *TOKENIZER_KEYS)
_STAMP = "field_model"  # put there by `register`; it changes whenever a stage ends


def run_of(cfg: Any) -> str:
    """Identity of a final config's data stage, of 16 hexadecimal digits; before the stage has replaced the entries."""
    safety = section(cfg)
    entries = [
        {key: value for key, value in dict(cfg.datasets[index]).items() if key != _STAMP and value is not None}
        for index in our_entries(cfg)
    ]
    parts = [
        {key: cfg.get(key) for key in _TOP if cfg.get(key)},
        entries,
        safety.model_dump(exclude=_NEUTRAL),
        safety.engine.model_dump(include=_ENGINE),
        [guard.model_dump(exclude=_GUARD) for guard in safety.guard],
        *([safety.stop.model_dump(include=_HELD_OUT)] if safety.stop else []),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
