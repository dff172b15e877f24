"""How large the experiment is, and on what it runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Everything that decides the figures, but for model and data.

    Attributes:
        warmup_problems: GSM8K problems that the model is asked for solutions of its own.
        warmup_rows: correct solutions that the warm-up takes at most, the shortest first.
        warmup_harmless: harmless prompts in the warm-up.
        warmup_harmful: harmful prompts that the model is asked for refusals of its own.
        warmup_steps: optimizer steps of the warm-up, ``warmup_rank`` its LoRA's rank.
        pool: harmful prompts that DGR and ThinkSafe are tried on.
        harmful: of the prompts that both kept, how many every arm trains on at most.
        longest: characters of a STAR-1 trace.
        benign: harmless prompts in every arm's benign half.
        attempts: of DGR per row.
        steps: optimizer steps of every arm, ``every`` so many a checkpoint.
        xstest: prompts of each half of XSTest.
        gsm8k: problems of the evaluation.
        rank: of the arms' LoRA; arms of several ranks may lie in one folder.
        batch: sequences per optimizer step, ``micro_batch`` of them at once.
        batch_size: completions decoded at once.
        dtype: of engine and training.
    """

    seed: int = 0
    warmup_problems: int = 600
    warmup_rows: int = 240
    warmup_harmless: int = 80
    warmup_harmful: int = 80
    warmup_steps: int = 60
    warmup_rank: int = 16
    pool: int = 300
    harmful: int = 120
    longest: int = 2000
    benign: int = 120
    attempts: int = 3
    steps: int = 90
    every: int = 30
    xstest: int = 200
    gsm8k: int = 400
    rank: int = 16
    learning_rate: float = 2e-4
    batch: int = 8
    micro_batch: int = 2
    batch_size: int = 64
    max_new_tokens: int = 1024
    sequence_len: int = 2048
    backend: str = "transformers"
    dtype: str = "bfloat16"
    on_gpu: bool = False
