"""Alignment of the reasoner: the stage on a pool of prompts, equal rows for every method, training, shift."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lablib.training import axolotl_train, in_child
from scipy.stats import bootstrap

from . import recipes, rows
from .steps import Found, Run, borrow_journals, evaluate, reasoner, written

KIND = "own"  # the reasoner that is aligned
GENERATING = ("dgr", "thinksafe")


def staged_rows(folder: Path) -> tuple[list[Found], list[Found]]:
    """Every row of the data stage in a step's folder, and the manifest of each dataset entry."""
    import pyarrow.parquet as pq

    datasets = folder / "safety" / "datasets"
    names = json.loads((datasets / "latest.json").read_text(encoding="utf-8")).values()
    found = [row for name in names for row in pq.read_table(datasets / name / "rows.parquet").to_pylist()]
    return found, [json.loads((datasets / name / "manifest.json").read_text(encoding="utf-8")) for name in names]


def _pool(run: Run) -> list[Found]:
    return rows.star1(run.data, run.sizes.seed, run.sizes.pool, run.sizes.warmup_harmful, run.sizes.longest)[0]


def _texts(name: str, found: list[Found]) -> list[Found]:
    return [row | {"response": rows.DIRECT} for row in found] if name == "direct" else found


def _benign(run: Run, folder: Path) -> Path:
    _, prompts = rows.harmless(run.sizes.seed, run.sizes.warmup_harmless, run.sizes.benign)
    return rows.write_jsonl(folder / "benign.jsonl", prompts)


def staged(run: Run, name: str) -> Found:
    """`axolotl preprocess`: one method on the whole pool. With ThinkSafe the benign half is answered."""

    def work(folder: Path) -> Found:
        pool = rows.write_jsonl(folder / "harmful.jsonl", _texts(name, _pool(run)))
        benign = _benign(run, folder) if name == "thinksafe" else None
        config = recipes.arm(run.sizes, name, model, folder, pool, benign)
        path = written(folder, config)

        def preprocess() -> None:
            from axolotl.cli.main import cli

            cli.main(["preprocess", str(path)], standalone_mode=False)

        in_child(preprocess, log=folder / "log.txt")
        found, manifests = staged_rows(folder)
        kept = ("funnel", "reasons", "candidate_reasons", "rungs", "nll", "shift")
        return {
            "entries": [{key: manifest.get(key) for key in kept} for manifest in manifests],
            "accepted": [row["prompt"] for row in found if row["label"] == "harmful" and row["status"] == "accepted"],
        }

    model = reasoner(run, KIND)
    return run.step(f"stage/{name}", work)


def _equal_rows(run: Run) -> list[Found]:
    """Rows of the pool that both generating methods kept: every arm trains on these prompts.

    Raises:
        ValueError: there are none.
    """
    kept = [set(staged(run, name)["accepted"]) for name in GENERATING]
    found = rows.same_prompts(_pool(run), set.intersection(*kept), run.sizes.harmful)
    if not found:
        raise ValueError(f"of {run.sizes.pool} prompts DGR kept {len(kept[0])}, ThinkSafe {len(kept[1])}, none both")
    return found


def trained(run: Run, name: str) -> Path:
    """`axolotl train` of one method on the common prompts; returns the step's folder, with its checkpoints."""
    harmful, model = _equal_rows(run), reasoner(run, KIND)

    def work(folder: Path) -> Found:
        for place in ("model", "prepared"):
            shutil.rmtree(folder / place, ignore_errors=True)
        path = rows.write_jsonl(folder / "harmful.jsonl", _texts(name, harmful))
        config = recipes.arm(run.sizes, name, model, folder, path, _benign(run, folder))
        borrow_journals(folder, [run.out / "stage" / other for other in GENERATING])
        yml = written(folder, config)
        in_child(lambda: axolotl_train(yml), log=folder / "log.txt")
        found, _ = staged_rows(folder)
        rows_by_label = {label: [row for row in _trained(found) if row["label"] == label] for label in LABELS}
        return {label: _size(found) for label, found in rows_by_label.items()}

    run.step(f"arm/{name}-r{run.sizes.rank}", work)
    return run.out / "arm" / f"{name}-r{run.sizes.rank}"


LABELS = ("harmful", "benign")


def _trained(found: Sequence[Found]) -> list[Found]:
    return [row for row in found if row["response_token_ids"] and row["status"] != "rejected"]


def _size(found: Sequence[Found]) -> Found:
    return {"rows": len(found), "tokens": sum(len(row["response_token_ids"]) for row in found)}


def arm_figures(run: Run, name: str, step: int) -> Found:
    """`axolotl safety-eval` of one checkpoint beside the reasoner, whose answers are borrowed."""
    model, folder = reasoner(run, KIND), trained(run, name)
    evaluate(run, KIND, model)  # first, or what is to be borrowed would be asked once more
    adapter = folder / "model" / f"checkpoint-{step}"
    return evaluate(run, f"{name}-r{run.sizes.rank}-{step}", model, [adapter], borrow=[KIND])


def shift(run: Run, name: str) -> Found:
    """NLL per token, in nats, of the pool's rows that a method has, under the reasoner; interval over rows."""
    model = reasoner(run, KIND)
    staged(run, name)

    def work(place: Path) -> Found:
        pairs = [
            (row["prompt_token_ids"], row["response_token_ids"])
            for row in _trained(staged_rows(run.out / "stage" / name)[0])
            if row["label"] == "harmful"
        ]
        in_child(lambda: _score(model, pairs, place / "sums.json"), log=place / "log.txt")
        sums_R = -np.array(json.loads((place / "sums.json").read_text(encoding="utf-8")))
        tokens_R = np.array([len(response) for _, response in pairs])
        return nats(sums_R, tokens_R) | {"sums": sums_R.round(3).tolist(), "tokens": tokens_R.tolist()}

    return run.step(f"shift/{name}", work)


def nats(sums_R: np.ndarray, tokens_R: np.ndarray) -> Found:
    """Mean NLL per token with a bootstrap interval (BCa, 95 %); rows are drawn, not tokens."""

    def mean(sums: Any, tokens: Any, axis: int) -> Any:
        return sums.sum(axis=axis) / tokens.sum(axis=axis)

    found = {"nats": round(float(sums_R.sum() / tokens_R.sum()), 3), "rows": len(sums_R), "interval": None}
    if len(sums_R) > 1:
        rng = np.random.default_rng(0)
        ends = bootstrap((sums_R, tokens_R), mean, paired=True, vectorized=True, n_resamples=2000, rng=rng)
        found["interval"] = [round(float(end), 3) for end in ends.confidence_interval]
    return found


def _score(model: Path, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], target: Path) -> None:
    import torch
    from lablib.figures import log_probabilities
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
    target.write_text(json.dumps(log_probabilities(loaded, pairs, batch=2)), encoding="utf-8")
