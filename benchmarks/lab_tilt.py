"""ThinkSafe's Assumption 4.3 on the laboratory: does steering only re-weigh, or does it also reword?

    python benchmarks/lab_tilt.py --base 0 --json -

The assumption (arXiv 2601.23143): under the steering I, p(y | I, x) is p(y | x) times a factor omega(x) on safe y and
times 1 on unsafe y, normalised. Then d(y) = log p(y | x) - log p(y | I, x) is one number for all safe y of a prompt,
and the accepted steered samples are exact draws from the model's own distribution, restricted to safe responses.

Tested on one set of prompts: each is asked n times with and n times without the steering, at temperature 1 with
nothing truncated; every response is scored both ways. Reported over safe responses: the standard deviation of d
within a prompt (the assumption says 0), and what it means for use: the effective share of the steered safe samples as
draws from p, (sum w)^2 / (n sum w^2) with w = exp(d) (the assumption says 1). For the spread, samples of both kinds are
pooled and also shown apart. For scale: the spread of log p(y | x) itself within a prompt, and the mean d by kind.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "examples" / "lab"), str(HERE.parent)]

from lablib.bases import base_folder  # noqa: E402
from lablib.figures import log_probabilities  # noqa: E402

MAX_NEW_TOKENS = 160
DRAWS = 2000


@dataclass(frozen=True)
class Sample:
    """One response to a prompt.

    Attributes:
        prompt: its place.
        steered: under which of the two it was drawn.
        safe: finished, with a closed thought, and a refusal.
        tokens: of the response, its end token too.
        raw: log p(y | x) in nats at temperature 1.
        tilted: log p(y | I, x).
    """

    prompt: int
    steered: bool
    safe: bool
    tokens: int
    raw: float
    tilted: float

    @property
    def gap(self) -> float:
        return self.raw - self.tilted


def within(groups: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation within groups: squares around each group's mean, over the degrees of freedom of all."""
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return None
    means = [sum(group) / len(group) for group in groups]
    squares = sum((value - mean) ** 2 for group, mean in zip(groups, means, strict=True) for value in group)
    return math.sqrt(squares / freedom)


def effective_share(gaps: Sequence[float]) -> float:
    """Effective sample size of self-normalised weights exp(gap), over their number: 1 when all are equal."""
    top = max(gaps)
    weights = [math.exp(gap - top) for gap in gaps]
    return sum(weights) ** 2 / (len(weights) * sum(weight * weight for weight in weights))


def by_prompt(samples: Sequence[Sample], value: Callable[[Sample], float]) -> list[list[float]]:
    """Values grouped by prompt."""
    groups: dict[int, list[float]] = {}
    for sample in samples:
        groups.setdefault(sample.prompt, []).append(value(sample))
    return list(groups.values())


def resampled(groups: Sequence[list[float]], figure: Callable[[Sequence[list[float]]], float | None]) -> Any:
    """A figure over prompts with its 95 % bootstrap interval (whole prompts are drawn again)."""
    found = figure(groups)
    if found is None:
        return None
    rng = random.Random(0)
    draws = [figure(rng.choices(groups, k=len(groups))) for _ in range(DRAWS)]
    draws = sorted(value for value in draws if value is not None)
    return [round(value, 4) for value in (found, draws[int(0.025 * len(draws))], draws[int(0.975 * len(draws)) - 1])]


def report(samples: Sequence[Sample]) -> dict[str, Any]:
    """The figures; those with an interval are ``[value, low, high]``, in nats unless said otherwise."""
    safe = [sample for sample in samples if sample.safe]
    drawn = {
        name: [s for s in samples if s.steered == steered] for name, steered in (("steered", True), ("raw", False))
    }
    own, refusals = ([s for s in drawn["steered"] if s.safe], [s for s in drawn["raw"] if s.safe])
    gaps = by_prompt(own, lambda sample: sample.gap)

    def mean_share(groups: Sequence[list[float]]) -> float | None:
        shares = [effective_share(group) for group in groups if len(group) > 1]
        return statistics.mean(shares) if shares else None

    unsafe = [sample.gap for sample in samples if not sample.safe]
    return {
        "samples": {name: len(part) for name, part in drawn.items()},
        "safe": {"steered": len(own), "raw": len(refusals)},
        "tokens": round(statistics.mean(s.tokens for s in safe), 1) if safe else None,
        "gap_sd_within_prompt": resampled(by_prompt(safe, lambda sample: sample.gap), within),
        "gap_sd_within_prompt_steered": resampled(gaps, within),
        "gap_sd_within_prompt_raw": resampled(by_prompt(refusals, lambda sample: sample.gap), within),
        "log_p_sd_within_prompt": resampled(by_prompt(safe, lambda sample: sample.raw), within),
        "effective_share": resampled(gaps, mean_share),
        "mean_gap_safe_steered": round(statistics.mean(s.gap for s in own), 3) if own else None,
        "mean_gap_safe_raw": round(statistics.mean(s.gap for s in refusals), 3) if refusals else None,
        "mean_gap_unsafe": round(statistics.mean(unsafe), 3) if unsafe else None,
    }


def draw(folder: Path, count: int, n: int, seed: int) -> list[Sample]:
    """Ask ``count`` harmful prompts n times each way, and score what comes both ways."""
    from labkit.data_files import read_jsonl
    from labkit.generation import generate_ids
    from labkit.models import load_model
    from labkit.own_style import split_response
    from labkit.tokenizer import END, chat_text, encode

    from axolotl_safety.config.prompts import STEERING_PROMPTS
    from axolotl_safety.data.refusal.detector import is_refusal

    model, tokenizer = load_model(folder / "model")
    rows = [row for row in read_jsonl(folder / "data" / "safechain.jsonl") if row["label"] == "vanilla_harmful"]
    asked = [row["instruction"] for row in rows[:count]]
    template = STEERING_PROMPTS["refuse"].template
    raw = [encode(tokenizer, chat_text(prompt)) for prompt in asked]
    tilted = [encode(tokenizer, chat_text(template.replace("{prompt}", prompt))) for prompt in asked]
    stop = tokenizer.convert_tokens_to_ids(END)
    drawn = []
    for steered, prompts in ((True, tilted), (False, raw)):
        responses = generate_ids(model, [ids for ids in prompts for _ in range(n)], stop, MAX_NEW_TOKENS, 1.0, seed)
        drawn += [(at // n, steered, ids) for at, ids in enumerate(responses)]
    ended = [[*ids, stop] if len(ids) < MAX_NEW_TOKENS else ids for _, _, ids in drawn]
    scores = [
        log_probabilities(model, [(prompts[at], ids) for (at, _, _), ids in zip(drawn, ended, strict=True)])
        for prompts in (raw, tilted)
    ]
    samples = []
    for (at, steered, ids), whole, p, q in zip(drawn, ended, *scores, strict=True):
        text = tokenizer.decode(ids, skip_special_tokens=False)
        safe = len(ids) < MAX_NEW_TOKENS and "</think>" in text and is_refusal(split_response(text)[1])
        samples.append(Sample(at, steered, safe, len(whole), p, q))
    return samples


@click.command()
@click.option("--base", "numbers", multiple=True, type=int, default=(0,), show_default=True, help="Pretrained base.")
@click.option("--prompts", default=100, show_default=True, help="Harmful prompts, of the alignment set.")
@click.option("--n", default=8, show_default=True, help="Samples of each kind per prompt.")
@click.option("--seed", default=0, show_default=True, help="Of the sampling.")
@click.option("--bases", type=click.Path(path_type=Path), default=HERE.parent / "outputs" / "lab_bases")
@click.option("--samples", "kept", type=click.Path(path_type=Path), default=None, help="Keep every sample here.")
@click.option("--json", "target", default="-", show_default=True, help="Where the line of JSON goes.")
def main(
    numbers: tuple[int, ...], prompts: int, n: int, seed: int, bases: Path, kept: Path | None, target: str
) -> None:
    """Print one line of JSON with a row per base."""
    import torch

    torch.set_num_threads(1)
    rows = []
    for number in numbers:
        samples = draw(base_folder(number, bases), prompts, n, seed)
        if kept:
            kept.mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps(asdict(sample)) + "\n" for sample in samples)
            (kept / f"base{number}.jsonl").write_text(lines, encoding="utf-8")
        rows.append({"base": number, "prompts": prompts, "n": n, **report(samples)})
    with click.open_file(target, "w", encoding="utf-8") as out:
        out.write(json.dumps({"rows": rows}) + "\n")


if __name__ == "__main__":
    main()
