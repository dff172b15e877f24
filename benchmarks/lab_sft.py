"""Plain fine-tuning of the lab's base with LoRA: where the shipped learning rate and steps come from.

No Axolotl and no plugin: a loop of forty lines, so that many settings can be tried on the dev split.
"""

from __future__ import annotations

import json
import random
import re
import sys
import time
from pathlib import Path

import click
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedTokenizerBase

ROOT = Path(__file__).resolve().parents[1]
LAB = ROOT / "examples" / "lab"
sys.path[:0] = [str(LAB), str(ROOT)]

from labkit.data_files import read_jsonl  # noqa: E402
from labkit.evaluation import correct_answers, evaluate, load_split, paired_interval, summarise  # noqa: E402
from labkit.foreign_sets import FAR_THOUGHT  # noqa: E402
from labkit.generation import respond  # noqa: E402
from labkit.models import load_model  # noqa: E402
from labkit.own_style import response, split_response  # noqa: E402
from labkit.tokenizer import END, chat_text, encode  # noqa: E402
from labkit.training import Example, weighted_loss  # noqa: E402

from axolotl_safety.config.prompts import REWRITE_PROMPTS, STEERING_PROMPTS  # noqa: E402
from axolotl_safety.data.refusal.detector import is_refusal  # noqa: E402

ARMS = ("far", "near", "dgr", "dgr_near", "thinksafe")
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_COMPLIES = re.compile(r"\btake a \w+ and\b", re.IGNORECASE)

Pairs = list[tuple[str, str]]


def foreign_pairs(style: str, data: Path) -> Pairs:
    """Prompts and foreign responses, whole."""
    if style == "near":
        return [(row["instruction"], row["response"]) for row in read_jsonl(data / "r1_act.jsonl")]
    rows = read_jsonl(data / "direct_refusal.jsonl")
    return [(row["prompt"], response(FAR_THOUGHT, row["refusal"].split("\nAnswer: ", 1)[1])) for row in rows]


def safechain_prompts(label: str, data: Path) -> list[str]:
    """Prompts of one label."""
    return [row["instruction"] for row in read_jsonl(data / "safechain.jsonl") if row["label"] == label]


def self_generated(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, asked: Pairs, refuse: bool, seed: int, tries: int = 4
) -> tuple[Pairs, float]:
    """Answer each asked message and keep the first sound response with the wanted decision.

    Args:
        model: the base.
        tokenizer: its tokenizer.
        asked: raw prompt and the message shown to the model.
        refuse: the wanted decision.
        seed: of the sampling.
        tries: candidates per prompt.

    Returns:
        Raw prompts with their kept responses, and the share of candidates that were sound.
    """
    kept: dict[str, str] = {}
    sound = 0
    for attempt in range(tries):
        texts = respond(model, tokenizer, [message for _, message in asked], 0.7, seed * 100 + attempt)
        for (prompt, _), text in zip(asked, texts, strict=True):
            _, answer = split_response(text)
            leak = "reference" in text or "told to refuse" in text
            if answer and not leak and is_refusal(answer) == refuse and not (refuse and _COMPLIES.search(text)):
                sound += 1
                kept.setdefault(prompt, text)
    return list(kept.items()), sound / (tries * len(asked))


def alignment_pairs(
    arm: str, benign: bool, model: nn.Module, tokenizer: PreTrainedTokenizerBase, data: Path, seed: int
) -> Pairs:
    """The training set of an arm, with the self-answered benign half if asked for."""
    if arm in ("far", "near"):
        pairs = foreign_pairs(arm, data)
    elif arm == "thinksafe":
        template = STEERING_PROMPTS["refuse"].template
        asked = [
            (prompt, template.replace("{prompt}", prompt)) for prompt in safechain_prompts("vanilla_harmful", data)
        ]
        pairs, share = self_generated(model, tokenizer, asked, True, seed)
        click.echo(f"{arm}: {len(pairs)} rows, {100 * share:.1f} % of {4 * len(asked)} candidates sound", err=True)
    else:
        template = REWRITE_PROMPTS["rewrite"].template
        foreign = foreign_pairs("near" if arm == "dgr_near" else "far", data)
        asked = [
            (prompt, template.replace("{prompt}", prompt).replace("{reference}", text)) for prompt, text in foreign
        ]
        pairs, share = self_generated(model, tokenizer, asked, True, seed)
        click.echo(f"{arm}: {len(pairs)} rows, {100 * share:.1f} % of {4 * len(asked)} candidates sound", err=True)
    if benign:
        asked = [(prompt, prompt) for prompt in safechain_prompts("vanilla_benign", data)]
        pairs = pairs + self_generated(model, tokenizer, asked, False, seed, tries=1)[0]
    return pairs


def finetune(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Pairs,
    lr: float,
    steps: int,
    seed: int,
    batch: int = 16,
) -> nn.Module:
    """LoRA r16 alpha 32 on every linear layer, AdamW, cosine with five warm-up steps, loss on the response only."""
    torch.manual_seed(seed)
    tuned = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=LINEARS, task_type="CAUSAL_LM"))
    examples = []
    for prompt, text in pairs:
        head, body = encode(tokenizer, chat_text(prompt)), encode(tokenizer, text + END)
        examples.append(Example((*head, *body), (0.0,) * len(head) + (1.0,) * len(body)))
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps - 5, 1))
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.2, 1.0, 5)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [5])
    queue: list[Example] = []
    tuned.train()
    for _ in range(steps):
        if len(queue) < batch:
            queue += rng.sample(examples, len(examples))
        rows, queue = queue[:batch], queue[batch:]
        weighted_loss(tuned.get_base_model(), rows).backward()
        nn.utils.clip_grad_norm_(tuned.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
    return tuned.merge_and_unload().eval()


@click.command()
@click.option("--lab", type=click.Path(path_type=Path), default=LAB, help="Folder with model/ and data/.")
@click.option("--arm", "arms", multiple=True, type=click.Choice(ARMS), required=True)
@click.option("--benign/--no-benign", default=False, help="Add the self-answered benign half.")
@click.option("--lr", "rates", multiple=True, type=float, required=True)
@click.option("--steps", "lengths", multiple=True, type=int, required=True)
@click.option("--seed", "seeds", multiple=True, type=int, default=(0,))
@click.option("--split", type=click.Choice(["dev", "test"]), default="dev", show_default=True)
def main(
    lab: Path,
    arms: tuple[str, ...],
    benign: bool,
    rates: tuple[float, ...],
    lengths: tuple[int, ...],
    seeds: tuple[int, ...],
    split: str,
) -> None:
    """Print one line of figures per arm, rate, number of steps and seed."""
    torch.set_num_threads(1)
    sets = load_split(split, lab / "data")
    base, tokenizer = load_model(lab / "model")
    before = evaluate(base, tokenizer, sets)
    click.echo(json.dumps({"arm": "base", **summarise(before)}))
    for arm in arms:
        for seed in seeds:
            pairs = alignment_pairs(arm, benign, base, tokenizer, lab / "data", seed)
            for rate in rates:
                for steps in lengths:
                    started = time.process_time()
                    tuned = finetune(load_model(lab / "model")[0], tokenizer, pairs, rate, steps, seed)
                    spent = time.process_time() - started
                    after = evaluate(tuned, tokenizer, sets)
                    loss = paired_interval(correct_answers(before), correct_answers(after))
                    row = {"arm": arm, "benign": benign, "rows": len(pairs), "lr": rate, "steps": steps, "seed": seed}
                    row |= summarise(after) | {"loss": [round(v, 1) for v in loss], "sft_cpu_s": round(spent, 1)}
                    row.pop("n")
                    click.echo(json.dumps(row))
                    sys.stdout.flush()


if __name__ == "__main__":
    main()
