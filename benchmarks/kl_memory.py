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

VOCABULARIES = (32768, 65536, 131072, 151936)
COMPARED = VOCABULARIES[:3]  # flat_within_percent is over these
TOKENS = 2048
WIDTH = 512
STEP_WIDTH = 64
MIB = 2**20


def peak_above(work: Callable[[], None], device: str) -> int:
    """Bytes at the peak of ``work`` above what is in use now."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    before = _status("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts again from here
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":"))


def loss_work(kind: str, vocabulary: int, device: str, chunk_bytes: int) -> Callable[[], None]:
    """One forward and backward pass of the loss alone, the head frozen."""
    import torch

    from axolotl_safety.methods.kl import forward_kl

    make = torch.Generator().manual_seed(0)
    student = torch.randn(TOKENS, WIDTH, generator=make).to(device).requires_grad_()
    reference = torch.randn(TOKENS, WIDTH, generator=make).to(device)
    head = (torch.randn(vocabulary, WIDTH, generator=make) * 0.1).to(device)
    (student[:8] @ head[:64].T).sum().backward()  # the libraries' own buffers, and the gradient's
    forward_kl(student[:8], reference[:8], head[:64]).backward()

    def ours() -> None:
        forward_kl(student, reference, head, chunk_bytes=chunk_bytes).backward()

    def peer() -> None:
        with torch.no_grad():
            logp_NV = (reference @ head.T).log_softmax(-1)
        logq_NV = (student @ head.T).log_softmax(-1)
        (torch.nn.functional.kl_div(logq_NV, logp_NV, reduction="sum", log_target=True) / TOKENS).backward()

    return ours if kind == "forward_kl" else peer


def step_work(vocabulary: int, device: str, tied: bool, folder: str) -> Callable[[], None]:
    """One training step of the KL trainer: reference pass, policy pass, loss, backward; the head frozen."""
    import torch
    from axolotl.core.training_args import AxolotlTrainingArguments
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from axolotl_safety.config import KLConfig
    from axolotl_safety.methods.kl.trainer import trainer_class

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=STEP_WIDTH,
        intermediate_size=2 * STEP_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
        attn_implementation="sdpa",
    )
    model = get_peft_model(Qwen2ForCausalLM(config), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    args = AxolotlTrainingArguments(output_dir=folder, report_to=[], use_cpu=device == "cpu", include_tkps=False)
    trainer = trainer_class(KLConfig())(model=model, args=args)

    def batch(tokens: int) -> dict[str, Any]:
        ids = torch.randint(0, vocabulary, (2, tokens))
        benign = torch.tensor([[0], [1]], dtype=torch.int8).expand(2, tokens)
        return {"input_ids": ids, "labels": ids.clone(), "kl_mask": benign.contiguous()}

    trainer.training_step(trainer.model, batch(64), torch.tensor(126))
    whole = batch(TOKENS // 2 + 1)
    return lambda: trainer.training_step(trainer.model, whole, torch.tensor(TOKENS))


def measure(kind: str, vocabulary: int, device: str, chunk_mib: int) -> int:
    """One number, in a process of its own so that no allocator remembers another."""
    command = [sys.executable, __file__, "--one", kind, "--vocabulary", str(vocabulary)]
    command += ["--device", device, "--chunk-mib", str(chunk_mib)]
    environ = os.environ | {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    # Freed tensors go back to the system at once; a heap that keeps them would hide what is used again.
    environ |= {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
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
