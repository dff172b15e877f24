"""Peak memory of the KL loss against the vocabulary, beside the formulation with full logits.

    python benchmarks/kl_memory.py                  # resident memory of the process, float32, one process per number
    python benchmarks/kl_memory.py --device cuda    # torch.cuda.max_memory_allocated

Each number is the peak of one forward and backward pass above what was there before it: the hidden states, the frozen
head and, for the whole step, a tiny LoRA model's parameters. Prints a Markdown table; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from gpulib import losses, step
from gpulib.memory import HEAP, peak_above
from gpulib.shapes import Shape

VOCABULARIES = (32768, 65536, 131072, 151936)
COMPARED = VOCABULARIES[:3]  # flat_within_percent is over these
TOKENS = 2048
WIDTH = 512
STEP_WIDTH = 64
MIB = 2**20


def loss_work(kind: str, vocabulary: int, device: str, chunk_bytes: int) -> Callable[[], None]:
    """One forward and backward pass of the loss alone, the head frozen."""
    ours, full = losses.LOSSES["forward_kl"]
    inputs = losses.Inputs.random(TOKENS, WIDTH, vocabulary, device, "float32")
    return losses.work(ours if kind == "forward_kl" else full, inputs, chunk_bytes)


def step_work(vocabulary: int, device: str, tied: bool, folder: str) -> Callable[[], Any]:
    """One training step of the KL trainer: reference pass, policy pass, loss, backward; the head frozen."""
    import torch

    shape = Shape(STEP_WIDTH, 2 * STEP_WIDTH, 2, 2, 1, vocabulary, tied)
    setup = step.Setup(
        shape,
        device,
        TOKENS // 2 + 1,
        rows=2,
        dtype="float32",
        rank=4,
        targets=("q_proj", "v_proj"),
        checkpointing=False,
    )
    trainer = step.make_trainer(setup, folder, step.rows_of(setup))
    whole = trainer.data_collator(trainer.train_dataset[:2])
    few = {name: column[:, :64] for name, column in whole.items()}
    trainer.training_step(trainer.model, few, torch.tensor(126))
    return lambda: trainer.training_step(trainer.model, dict(whole), torch.tensor(TOKENS))


def measure(kind: str, vocabulary: int, device: str, chunk_mib: int) -> int:
    """One number, in a process of its own so that no allocator remembers another."""
    command = [sys.executable, __file__, "--one", kind, "--vocabulary", str(vocabulary)]
    command += ["--device", device, "--chunk-mib", str(chunk_mib)]
    environ = os.environ | {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    environ |= HEAP
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{kind} at {vocabulary} failed:\n{done.stderr[-2000:]}")
    return int(done.stdout.split()[-1])


def main() -> None:
    """Measure everything, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--chunk-mib", type=int, default=256, help="chunk_bytes of the loss alone")
    parser.add_argument("--one", choices=["forward_kl", "peer", "step", "step_tied"], help=argparse.SUPPRESS)
    parser.add_argument("--vocabulary", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        with tempfile.TemporaryDirectory() as folder:
            if options.one.startswith("step"):
                work = step_work(options.vocabulary, options.device, options.one == "step_tied", folder)
            else:
                work = loss_work(options.one, options.vocabulary, options.device, options.chunk_mib * MIB)
            print(peak_above(work, options.device))
        return
    kinds = ("forward_kl", "peer", "step")
    found = {
        kind: {str(v): measure(kind, v, options.device, options.chunk_mib) for v in VOCABULARIES} for kind in kinds
    }
    tied = measure("step_tied", 131072, options.device, options.chunk_mib)
    print(
        f"Peak above inputs, N = {TOKENS}, float32, {options.device}; the loss alone at D = {WIDTH} in chunks of "
        f"{options.chunk_mib} MiB, the whole LoRA step at D = {STEP_WIDTH}.\n"
    )
    print("| V | forward_kl | full logits | ratio | LoRA step |\n|---|---|---|---|---|")
    for key in found["peer"]:
        cells = [f"{found[kind][key] / MIB:.0f} MiB" for kind in kinds]
        cells.insert(2, f"{found['peer'][key] / found['forward_kl'][key]:.1f}x")
        print(f"| {key} | {' | '.join(cells)} |")
    print(f"\nLoRA step with a tied head at V = 131072: {tied / MIB:.0f} MiB\n")
    flat = [found["forward_kl"][str(v)] for v in COMPARED]
    steps = [found["step"][str(v)] for v in COMPARED]
    result = {
        "forward_kl": found["forward_kl"],
        "peer": found["peer"],
        "ratio_128k": round(found["peer"]["131072"] / found["forward_kl"]["131072"], 2),
        "flat_within_percent": round(100 * (max(flat) / min(flat) - 1), 2),
        "lora_step": found["step"],
        "lora_step_tied_128k": tied,
        "lora_step_flat_within_percent": round(100 * (max(steps) / min(steps) - 1), 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
