"""The Axolotl configs of the experiment, and the model folder with a template that opens the thought."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from .rows import CLOSE, OPEN
from .sizes import Sizes

Config = dict[str, Any]
# What stands before an answer is asked for in so many words: a model without a thinking mode has no other.
THINK_FIRST = (
    "Here is what somebody asks. In two short sentences, say what is wanted, and whether and how a helpful and "
    "harmless assistant should answer. Do not answer yet.\n\n{prompt}"
)
BRIEFLY = "{prompt} Answer in at most three sentences."
_OPENS = "{%- if add_generation_prompt %}{{- '" + OPEN + "\\n' }}{%- endif %}"
ARMS = ("star1", "direct", "dgr", "thinksafe")


def thinking_folder(model: Path, folder: Path) -> Path:
    """The model with its own chat template and, behind the generation prompt, the opening marker.

    Weights are linked, not copied.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in model.iterdir():
        target = folder / file.name
        if file.suffix == ".safetensors":
            if not target.exists():
                target.symlink_to(file.resolve())
        elif file.is_file():
            shutil.copyfile(file, target)
    write_template(model, folder)
    return folder


def write_template(model: Path, folder: Path) -> None:
    """The model's chat template, opening the thought, as the template of ``folder``."""
    template = model / "chat_template.jinja"
    config = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    own = template.read_text(encoding="utf-8") if template.is_file() else config["chat_template"]
    (folder / "chat_template.jinja").write_text(own.rstrip() + _OPENS, encoding="utf-8")


def _safety(sizes: Sizes, work_dir: Path) -> Config:
    return {
        "work_dir": str(work_dir),
        "seed": sizes.seed,
        "engine": {"backend": sizes.backend, "dtype": sizes.dtype, "batch_size": sizes.batch_size},
        "guard": {"model": "builtin"},
        "think": {"open": OPEN, "close": CLOSE},
    }


def _common(sizes: Sizes, model: Path, folder: Path) -> Config:
    half = sizes.dtype == "bfloat16"
    return {
        "base_model": str(model),
        "plugins": ["axolotl_safety.SafetyPlugin", *([] if sizes.on_gpu else ["reallib.on_cpu.OnCpu"])],
        "dataset_prepared_path": str(folder / "prepared"),
        "output_dir": str(folder / "model"),
        "val_set_size": 0,
        "sequence_len": sizes.sequence_len,
        "sample_packing": False,
        "adapter": "lora",
        "lora_r": sizes.rank,
        "lora_alpha": 2 * sizes.rank,
        "lora_dropout": 0.0,
        "lora_target_linear": True,
        "micro_batch_size": sizes.micro_batch,
        "gradient_accumulation_steps": sizes.batch // sizes.micro_batch,
        "optimizer": "adamw_torch",
        "learning_rate": sizes.learning_rate,
        "lr_scheduler": "cosine",
        "warmup_steps": 2,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "seed": sizes.seed,
        "bf16": half,
        "fp16": False,
        "tf32": False,
        "attn_implementation": "sdpa",
        **dict.fromkeys(("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel"), False),
        "gradient_checkpointing": sizes.on_gpu,
        "dataset_num_proc": 1,
        "logging_steps": 1,
    }


def warmup(sizes: Sizes, model: Path, folder: Path, rows: Path) -> Config:
    """Training that gives a model without a thinking mode one."""
    return _common(sizes, model, folder) | {
        "safety": _safety(sizes, folder / "safety"),
        "datasets": [{"path": str(rows), "type": "axolotl_safety.vanilla", "safety": {"label": "benign"}}],
        "max_steps": sizes.warmup_steps,
        "save_strategy": "no",
        "lora_r": sizes.warmup_rank,
        "lora_alpha": 2 * sizes.warmup_rank,
    }


def arm(sizes: Sizes, name: str, model: Path, folder: Path, harmful: Path, benign: Path | None) -> Config:
    """Alignment of the reasoner by one method; without a benign half where only the stage is of interest."""
    kinds = {"star1": "vanilla", "direct": "vanilla", "dgr": "dgr", "thinksafe": "thinksafe"}
    entries: list[Config] = [
        {"path": str(harmful), "type": f"axolotl_safety.{kinds[name]}", "safety": {"label": "harmful"}}
    ]
    if benign is not None:
        safety = {"label": "benign", "prompt_field": "prompt"}
        entries.append({"path": str(benign), "type": "axolotl_safety.thinksafe", "safety": safety})
    safety = _safety(sizes, folder / "safety") | {
        "sampling": {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "max_new_tokens": sizes.max_new_tokens},
        "dgr": {"n": 1, "retries": sizes.attempts - 1, "on_failure": "drop"},
        "thinksafe": {"ladder": ["refuse", "risk", "intent", "suffix"], "attempts": 1},
    }
    checkpoints = {"save_strategy": "steps", "save_steps": sizes.every, "save_only_model": True}
    return (
        _common(sizes, model, folder)
        | checkpoints
        | {"safety": safety, "datasets": entries, "max_steps": sizes.steps, "save_total_limit": 10_000}
    )


def evaluation(sizes: Sizes, model: Path, folder: Path, sets: Config) -> Config:
    """A YAML for `axolotl safety-eval` on these sets, decoded greedily."""
    safety = _safety(sizes, folder / "safety")
    sampling = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": sizes.max_new_tokens}
    return _common(sizes, model, folder) | {
        "safety": safety | {"eval": sets | {"sampling": sampling}},
        "datasets": [{"path": str(model), "type": "axolotl_safety.vanilla"}],
        "micro_batch_size": 1,
        "max_steps": 1,
    }
