"""Published tokenizers with tiny random weights of the right architecture, where a folder of them is at hand.

``AXOLOTL_SAFETY_REAL_MODELS`` names the folder that holds ``tokenizers/<name>``, ``AXOLOTL_SAFETY_REAL_DATA`` the one
that holds ``star1``. Nothing of either is part of the repository, and tests that need them are skipped without.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from support.thinkers import THINKERS

_MODELS = os.environ.get("AXOLOTL_SAFETY_REAL_MODELS")
_DATA = os.environ.get("AXOLOTL_SAFETY_REAL_DATA")
needs_tokenizers = pytest.mark.skipif(not _MODELS, reason="AXOLOTL_SAFETY_REAL_MODELS is not set")
needs_rows = pytest.mark.skipif(not _DATA, reason="AXOLOTL_SAFETY_REAL_DATA is not set")

# Architecture and vocabulary by tokenizer.
_SHAPES = {
    "r1-distill-qwen": ("qwen2", 152064),
    "qwen3": ("qwen3", 151936),
    "llama3.1": ("llama", 128256),
    "gemma3": ("gemma3_text", 262208),
    "gpt-oss": ("gpt_oss", 201088),
}


def make_model(name: str, folder: Path) -> Path:
    """Save random weights with a published tokenizer; gpt-oss, which comes without, gets a template in its manner."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    assert _MODELS is not None
    source = Path(_MODELS) / "tokenizers" / name
    if not source.is_dir():
        pytest.skip(f"{source} is not there")
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("config.json", "README*"))
    kind, vocabulary = _SHAPES[name]
    shape: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 8192,
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
    }
    if name == "gpt-oss":
        shape |= {"num_local_experts": 2, "num_experts_per_tok": 1, "layer_types": ["full_attention"]}
        (folder / "chat_template.jinja").write_text(THINKERS["gpt_oss"].template)
    if name == "gemma3":
        shape |= {"layer_types": ["full_attention"]}
    config = AutoConfig.for_model(kind, **shape)
    torch.manual_seed(0)
    with torch.no_grad():
        model = AutoModelForCausalLM.from_config(config)
    config = model.config
    config.save_pretrained(folder)
    end = AutoTokenizer.from_pretrained(folder).eos_token_id
    model.generation_config.eos_token_id = end
    model.config.eos_token_id = end
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("tokenizer")}
    model.save_pretrained(folder)
    for file, content in kept.items():
        (folder / file).write_bytes(content)
    return folder


def star1_rows() -> list[dict[str, Any]]:
    """The rows of STAR-1."""
    assert _DATA is not None
    return json.loads((Path(_DATA) / "star1" / "STAR-1.json").read_text(encoding="utf-8"))
