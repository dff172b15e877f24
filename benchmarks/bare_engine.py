"""The engines as anybody would call them: the other side of `engine_overhead.py`.

A process of its own, under the engine's interpreter. It loads the model once, then answers each line of standard input
(``{"prompts": ..., "new": ..., "seed": ...}``) with one line: tokens made, wall and CPU seconds from the first submit
to the last result.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORKER = Path(__file__).parents[1] / "axolotl_safety" / "engines" / "worker"
Run = Callable[[dict[str, Any]], int]


def bare_vllm(model: str, options: dict[str, Any], plain: bool) -> Run:
    """`LLM.generate` over everything at once, with the worker's own arguments, seeds and log-probabilities.

    Args:
        model: folder.
        options: the worker's options.
        plain: without seeds and without log-probabilities, which the data stage cannot do without.
    """
    sys.path.insert(0, str(WORKER))
    from vllm_options import arguments, set_environment

    set_environment(on_cpu=True, threads=1)
    import vllm
    from items import GenerateItem
    from vllm_cpu import let_seeds_survive_chunks
    from vllm_model import generate_params

    let_seeds_survive_chunks()
    spec = {"path": model, **options["spec"]}
    llm = vllm.LLM(**arguments(spec, options, options["memory"]["target"], on_cpu=True))

    def params(index: int, new: int, asked: dict[str, Any]) -> Any:
        name = f"{asked['seed']}-{index}"
        item = GenerateItem(index, name, "target", [], 0.7, 1.0, 0, new, asked["seed"], frozenset())
        made = generate_params(item)
        if plain:
            made.seed = made.logprobs = None
        return made

    def run(asked: dict[str, Any]) -> int:
        prompts = [{"prompt_token_ids": prompt} for prompt in asked["prompts"]]
        sampling = [params(index, new, asked) for index, new in enumerate(asked["new"])]
        outputs = llm.generate(prompts, sampling, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return run


def sorted_loop(model: str, batch_size: int, device: str = "cpu", dtype: str = "float32", size: str = "") -> Run:
    """`generate` in batches of similar length, the longest first: a plain loop at its best.

    Args:
        model: folder.
        batch_size: sequences at once.
        device: where it runs; on a CPU with one thread.
        dtype: of the weights.
        size: of a model with random weights that is made first and saved in the folder; empty loads what is there.
    """
    import torch
    from gpulib.shapes import SIZES, random_model
    from transformers import AutoModelForCausalLM

    if device == "cpu":
        torch.set_num_threads(1)
    if size:
        loaded = random_model(SIZES[size].shape, device, dtype).eval()
        loaded.save_pretrained(model)
    else:
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval().to(device)

    def run(asked: dict[str, Any]) -> int:
        torch.manual_seed(asked["seed"])
        order = sorted(
            range(len(asked["new"])), key=lambda index: (-asked["new"][index], -len(asked["prompts"][index]))
        )
        made = 0
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            width = max(len(asked["prompts"][index]) for index in batch)
            pads = [width - len(asked["prompts"][index]) for index in batch]
            ids = [[0] * pad + asked["prompts"][index] for pad, index in zip(pads, batch, strict=True)]
            mask = [[0] * pad + [1] * (width - pad) for pad in pads]
            longest = max(asked["new"][index] for index in batch)
            output = loaded.generate(
                torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                max_new_tokens=longest,
                do_sample=True,
                temperature=0.7,
                top_k=0,
                eos_token_id=None,
                pad_token_id=0,
            ).cpu()  # not before it is there
            assert output.shape[1] == width + longest
            made += sum(asked["new"][index] for index in batch)  # what was asked; the rest is waste
        return made

    return run


def main() -> None:
    """Serves until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=["vllm", "transformers"])
    parser.add_argument("model")
    parser.add_argument("--options", type=json.loads, default={})
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--make", default="", help="a size of gpulib.shapes: make such a model in the folder first")
    options = parser.parse_args()
    out = os.dup(1)  # libraries print
    os.dup2(2, 1)
    if options.engine == "vllm":
        run = bare_vllm(options.model, options.options, options.plain)
    else:
        run = sorted_loop(options.model, options.batch_size, options.device, options.dtype, options.make)
    os.write(out, b"{}\n")
    for line in sys.stdin:
        asked = json.loads(line)
        wall, cpu = time.perf_counter(), time.process_time()
        tokens = run(asked)
        said = {"tokens": tokens, "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        os.write(out, json.dumps(said).encode() + b"\n")


if __name__ == "__main__":
    main()
