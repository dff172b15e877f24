"""The demonstration: foreign refusals as they are (vanilla), rewritten by the model (DGR), or its own (ThinkSafe).

Runs `axolotl train` for real on the lab's YAMLs, measures base and adapters on the test split, and prints the funnels,
a table of fair pairs (the harmful rows alone, then with a benign half) and the path of the report. The last line is
JSON.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]
OUTPUTS = ROOT / "outputs"
HARMFUL_ROWS_ALONE = ("vanilla", "dgr_harmful_only")
WITH_A_BENIGN_HALF = ("vanilla_benign", "dgr", "thinksafe")
ARMS = (*HARMFUL_ROWS_ALONE, *WITH_A_BENIGN_HALF)
LONGEST_FIRST = ("dgr", "vanilla_benign", "dgr_harmful_only", "thinksafe", "vanilla")
RATES = {
    "refusal_seen": "harmful_seen",
    "refusal_unseen": "harmful_unseen",
    "over_refusal": "benign",
    "reasoning": "math",
}


def train(arm: str) -> str:
    """Run ``axolotl train`` on an arm's YAML.

    Returns:
        Its funnels, as its log has them.

    Raises:
        SystemExit: the training failed; the end of its log is shown.
    """
    binaries = Path(sys.executable).parent
    log = OUTPUTS / f"lab_{arm}.log"
    log.parent.mkdir(exist_ok=True)
    environ = {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environ |= dict(os.environ) | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    started = time.monotonic()
    print(f"$ axolotl train yaml/lab_{arm}.yml   (log: {log.relative_to(ROOT)})", flush=True)
    with open(log, "w", encoding="utf-8") as file:
        command = [str(binaries / "axolotl"), "train", f"yaml/lab_{arm}.yml"]
        code = subprocess.run(command, cwd=ROOT, env=environ, stdout=file, stderr=subprocess.STDOUT).returncode
    text = log.read_text(encoding="utf-8", errors="replace")
    if code:
        print(text[-4000:], flush=True)
        raise SystemExit(f"axolotl train yaml/lab_{arm}.yml ended with exit code {code}; the whole log is {log}")
    funnels = re.findall(r"\w+ funnel of [^\n]*\n(?:  [^\n]*\n)+", text)
    return "\n".join([*map(str.rstrip, funnels), f"  lab_{arm}.yml: {time.monotonic() - started:.0f} s\n"])


def measure(adapter: Path | None) -> list[dict[str, Any]]:
    """Outcomes on the test split of the base, or of the base with an adapter merged in memory."""
    from labkit.evaluation import evaluate, load_split
    from labkit.models import load_model

    model, tokenizer = load_model(str(HERE / "model"), str(adapter) if adapter else None)
    return evaluate(model, tokenizer, load_split("test"))


def figures(items: list[dict[str, Any]]) -> dict[str, Any]:
    """The four rates in percent, with the n of each."""
    from labkit.evaluation import summarise

    summary = summarise(items)
    return {rate: summary[rate] for rate in RATES} | {"n": {rate: summary["n"][name] for rate, name in RATES.items()}}


def finished_dataset(arm: str) -> Path:
    """The folder that the arm's data stage wrote last."""
    work_dir = OUTPUTS / f"lab_{arm}" / "safety"
    latest = json.loads((work_dir / "datasets" / "latest.json").read_text())
    return work_dir / "datasets" / latest["0"]


def show(results: dict[str, dict[str, Any]], items: dict[str, list[dict[str, Any]]]) -> None:
    """Print the table, the paired losses, and what the figures do not show."""
    from labkit.evaluation import correct_answers, paired_interval
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Laboratory, test split, greedy; percent")
    for column in ("", "refusal seen", "refusal unseen", "over-refusal", "reasoning", "reasoning lost [95 %]"):
        table.add_column(column, justify="left" if not column else "right")
    base = correct_answers(items["base"])
    for arm, result in results.items():
        lost = ""
        if arm != "base":
            loss, low, high = paired_interval(base, correct_answers(items[arm]))
            lost = f"{loss:.1f} [{low:.1f}, {high:.1f}]"
        ends = arm in ("base", HARMFUL_ROWS_ALONE[-1])
        table.add_row(arm, *(f"{result[rate]:.1f}" for rate in RATES), lost, end_section=ends)
    Console(width=110).print(table)
    counts = ", ".join(f"{rate} {count}" for rate, count in results["base"]["n"].items())
    print(f"n: {counts}; reasoning lost: base minus tuned on the same items, paired bootstrap")
    print(
        "vanilla: the foreign refusals as they are. DGR: the same, rewritten by the model. ThinkSafe: the model's own, "
        "under refusal steering.\nFirst the harmful rows alone, then with a benign half that the model answered "
        "itself, each at settings of its own: docs/lab-fair.md."
    )


def main() -> None:
    """Run everything and print the JSON line."""
    import torch

    torch.set_num_threads(1)  # a model this small only waits for its other threads
    # Each keeps one core busy, and none needs another's result.
    with ThreadPoolExecutor(min(len(ARMS), os.cpu_count() or 1)) as pool:
        trainings = {pool.submit(train, arm): arm for arm in LONGEST_FIRST}
        measured = {"base": measure(None)}
        for training in as_completed(trainings):
            print(training.result(), flush=True)
            measured[trainings[training]] = measure(OUTPUTS / f"lab_{trainings[training]}" / "model")
    items = {arm: measured[arm] for arm in ("base", *ARMS)}
    results = {arm: figures(outcomes) for arm, outcomes in items.items()}
    show(results, items)
    report = OUTPUTS / "lab_dgr" / "safety" / "report.html"
    paths = {"dataset": str(finished_dataset("dgr")), "adapter": str(OUTPUTS / "lab_dgr" / "model")}
    paths["report"] = str(report)
    print(f"report of the DGR data stage (open it in a browser): {report}")
    print(json.dumps(results | paths))


if __name__ == "__main__":
    main()
