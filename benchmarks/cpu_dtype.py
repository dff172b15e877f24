"""What a real model costs on a CPU: a decode step of our engine, and a LoRA step, in float32 and in bfloat16.

    python benchmarks/cpu_dtype.py --model DIR --dtype bfloat16 --json -

One thread, and CPU seconds of this process alone, so that other work on the machine does not count. ``grouped`` is the
engine's attention (`engines/worker/attention.py`), ``repeat`` transformers' own, which copies keys and values once per
query head. Prompts differ in length, as a stage's do: with equal lengths there is no mask, and transformers copies
nothing either. The first step is left out; libraries compile in it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "axolotl_safety" / "engines" / "worker"))
SPREAD = 40  # tokens by which prompts differ


def cpu_seconds(work: Any) -> float:
    """CPU seconds of a call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def decoding(model: str, dtype: str, rows: int, prompt: int, steps: int) -> dict[str, float]:
    """Tokens per CPU second: prefill, and greedy decode steps with either attention, in turns."""
    import torch
    from attention import grouped_attention
    from decode import ContinuousDecoder
    from items import GenerateItem
    from loading import load
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    loaded = load({"path": model, "dtype": dtype})
    decoder = ContinuousDecoder(loaded, rows, lambda message: None)
    lengths = [prompt - index % SPREAD for index in range(rows)]
    for index, length in enumerate(lengths):
        ids = torch.randint(loaded.vocabulary // 2, (length,)).tolist()
        decoder.add(GenerateItem(index, f"r{index}", "target", ids, 0.0, 1.0, 0, 4096, 0, frozenset()))
    found = {"prefill": sum(lengths) / cpu_seconds(decoder.step)}
    decoder.step()
    spent = {"grouped": 0.0, "repeat": 0.0}
    for name in ("grouped", "repeat", "repeat", "grouped"):
        ALL_ATTENTION_FUNCTIONS["sdpa"] = grouped_attention if name == "grouped" else sdpa_attention_forward
        spent[name] += cpu_seconds(lambda: [decoder.step() for _ in range(steps)])
    return found | {name: 2 * steps * rows / seconds for name, seconds in spent.items()}


def training(model: str, dtype: str, batch: int, length: int) -> float:
    """Tokens per CPU second of a LoRA step of rank 16 on all linears, forward, backward and optimizer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    tuned = get_peft_model(loaded, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([one for one in tuned.parameters() if one.requires_grad], lr=1e-4)
    ids_BT = torch.randint(loaded.config.vocab_size // 2, (batch, length))

    def step() -> None:
        tuned(input_ids=ids_BT, labels=ids_BT).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    return batch * length / cpu_seconds(step)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a model")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=160, help="tokens of the longest prompt")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4, help="sequences of a LoRA step; 0 leaves it out")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--json", default="-", help="a file, or - for the last line")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    found: dict[str, Any] = decoding(options.model, options.dtype, options.rows, options.prompt, options.steps)
    if options.batch:
        found["lora_step"] = training(options.model, options.dtype, options.batch, options.length)
    figures = {name: round(value, 1) for name, value in found.items()}
    about = {"unit": "tokens per CPU second", "torch": torch.__version__, "python": platform.python_version()}
    asked = {name: value for name, value in vars(options).items() if name not in ("json", "model")}
    line = json.dumps({"model": Path(options.model).name, **asked, **figures, **about})
    if options.json == "-":
        print(line)
    else:
        Path(options.json).write_text(line + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
