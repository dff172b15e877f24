"""Fits the weights of the refusal detector and measures them against human labels.

    python benchmarks/refusal_detector.py --data ../shared/data/xstest [--write]

Data: XSTest's labelled completions (Röttger et al., 2024, CC-BY-4.0), full refusal against full compliance, partial
refusals left out; and the made-up rows of `refusal_rows.py`. Nothing of them is stored but the weights.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from refusal_rows import made_rows  # noqa: E402

from axolotl_safety.data.refusal.detector import Weights, weigh  # noqa: E402
from axolotl_safety.data.refusal.features import features  # noqa: E402

WEIGHTS = Path(__file__).parents[1] / "axolotl_safety" / "data" / "refusal" / "refusal_weights.json"
MODELS = ("llama2new", "mistralguard")
_C = 1.0  # inverse strength of the L2 penalty
_MADE_WEIGHT = 0.5  # of a made-up row against a labelled one
_LEAST_ROWS = 16  # rows that a feature must stand in
_FOLDS = 5
_DIGITS = 4


@dataclass(frozen=True)
class Answer:
    """An answer with its label.

    Args:
        text: the answer.
        refusal: the label: full refusal or full compliance.
        group: what its prompt or its manner is called; rows of one group are held out together.
        weight: in the fit.
    """

    text: str
    refusal: bool
    group: str
    weight: float = 1.0
    found: dict[str, float] = field(default_factory=dict, compare=False)


def labelled(folder: Path, model: str) -> list[Answer]:
    """The full refusals and full compliances of one model's file."""
    with open(folder / f"completions_{model}_labelled.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["final_label"].startswith("3")]
    return [_answer(row["completion"], row["final_label"].startswith("2"), row["prompt"]) for row in rows]


def made() -> list[Answer]:
    """The made-up rows as answers."""
    return [_answer(row.text, row.refusal, f"{row.manner}/{row.refusal}", _MADE_WEIGHT) for row in made_rows()]


def _answer(text: str, refusal: bool, group: str, weight: float = 1.0) -> Answer:
    return Answer(text, refusal, group, weight, features(text))


def fit(answers: Sequence[Answer]) -> Weights:
    """L2-penalised logistic regression, both classes of equal weight.

    Args:
        answers: rows with features; those without any cue are skipped, since the detector never weighs them.

    Returns:
        Rounded weights, so that a stored copy is the same.
    """
    from sklearn.linear_model import LogisticRegression

    answers = [answer for answer in answers if answer.found]
    counts = Counter(name for answer in answers for name in answer.found)
    column = {name: i for i, name in enumerate(sorted(name for name, n in counts.items() if n >= _LEAST_ROWS))}
    values_NF = np.zeros((len(answers), len(column)))
    for row, answer in enumerate(answers):
        for name, value in answer.found.items():
            if name in column:
                values_NF[row, column[name]] = value
    model = LogisticRegression(C=_C, class_weight="balanced", max_iter=3000, tol=1e-6)
    model.fit(values_NF, [a.refusal for a in answers], sample_weight=[a.weight for a in answers])
    weights = {name: round(float(model.coef_[0, i]), _DIGITS) for name, i in column.items()}
    return Weights(round(float(model.intercept_[0]), _DIGITS), {name: w for name, w in weights.items() if w})


def agreement(weights: Weights, answers: Sequence[Answer]) -> float:
    """Share of answers read as their label says."""
    return sum((weigh(a.text, weights) > 0) == a.refusal for a in answers) / len(answers)


def leave_model_out(folder: Path, model: str, with_made: bool = True) -> float:
    """Agreement on one model's answers, fitted on the other's; the prompts are the same."""
    train = [a for other in MODELS if other != model for a in labelled(folder, other)]
    return agreement(fit(train + (made() if with_made else [])), labelled(folder, model))


def leave_both_out(folder: Path, model: str, with_made: bool = True) -> float:
    """Agreement on one model's answers, fitted on the other's answers to other prompts."""
    test = labelled(folder, model)
    train = [a for other in MODELS if other != model for a in labelled(folder, other)]
    extra, right = made() if with_made else [], 0
    for fold in _folds([a.group for a in test + train]):
        weights = fit([a for a in train if a.group not in fold] + extra)
        right += sum((weigh(a.text, weights) > 0) == a.refusal for a in test if a.group in fold)
    return right / len(test)


def leave_manner_out(folder: Path) -> float:
    """Agreement on the made-up rows, each fold of manners fitted without it."""
    rows, real = made(), [a for model in MODELS for a in labelled(folder, model)]
    right = 0
    for fold in _folds([a.group for a in rows]):
        weights = fit(real + [a for a in rows if a.group not in fold])
        right += sum((weigh(a.text, weights) > 0) == a.refusal for a in rows if a.group in fold)
    return right / len(rows)


def _folds(groups: Sequence[str]) -> list[set[str]]:
    order = sorted(set(groups))
    np.random.default_rng(0).shuffle(order)
    return [set(order[i::_FOLDS]) for i in range(_FOLDS)]


def shipped_fit(folder: Path) -> Weights:
    """The weights that the package ships: fitted on everything."""
    return fit([a for model in MODELS for a in labelled(folder, model)] + made())


def _milliseconds(weights: Weights, texts: Sequence[str]) -> float:
    start = time.process_time()
    for text in texts:
        weigh(text, weights)
    return 1000 * (time.process_time() - start) / len(texts)


def main() -> None:
    """Print the table of agreement; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/xstest"))
    parser.add_argument("--write", action="store_true", help="replace the weights that the package ships")
    options = parser.parse_args()
    result: dict[str, object] = {}
    print(f"{'left out':<14}{'model':>9}{'model+prompt':>14}{'without made-up rows: model':>30}{'model+prompt':>14}")
    for model in MODELS:
        shares = [
            leave_model_out(options.data, model),
            leave_both_out(options.data, model),
            leave_model_out(options.data, model, with_made=False),
            leave_both_out(options.data, model, with_made=False),
        ]
        print(f"{model:<14}{shares[0]:>9.3f}{shares[1]:>14.3f}{shares[2]:>30.3f}{shares[3]:>14.3f}")
        result[model] = dict(
            zip(("model", "both", "model_no_made", "both_no_made"), (round(s, 4) for s in shares), strict=True)
        )
    result["made_manner_out"] = round(leave_manner_out(options.data), 4)
    print(f"made-up rows, manners left out in {_FOLDS} folds: {result['made_manner_out']:.3f} of {len(made())}")
    weights = shipped_fit(options.data)
    texts = [a.text for model in MODELS for a in labelled(options.data, model)]
    result["milliseconds"] = round(_milliseconds(weights, texts), 3)
    result["features"] = len(weights.weights)
    print(f"{result['features']} weights, {result['milliseconds']} ms of CPU per answer")
    if options.write:
        body = {"intercept": weights.intercept, "weights": weights.weights}
        WEIGHTS.write_text(json.dumps(body, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
