"""The two tiny Qwen3 models: sizes, saving and loading."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from .tokenizer import END, PAD

POSITIONS = 4096


def new_model(tokenizer: PreTrainedTokenizerBase, hidden: int, layers: int, inner: int, seed: int) -> nn.Module:
    """An untrained model with tied embeddings and explicit head size."""
    torch.manual_seed(seed)
    end, pad = tokenizer.convert_tokens_to_ids([END, PAD])
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        head_dim=32,
        max_position_embeddings=POSITIONS,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = [end, pad]
    model.generation_config.pad_token_id = pad
    model.generation_config.do_sample = True
    model.generation_config.temperature = 0.7
    return model


def save_model(model: nn.Module, folder: Path) -> None:
    """Write the model; weights are kept in bfloat16."""
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    model.to(torch.float32)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Put the tokenizer's files of one model beside another."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(source / name, folder / name)


def load_model(folder: Path | str, adapter: Path | str | None = None) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Load model and tokenizer for inference in float32, an adapter merged in memory."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def folder_bytes(folder: Path) -> int:
    """Size of everything in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
