"""The steps of the experiment. Each leaves one JSON file and is not made again; two programs may share a folder."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lablib.figures import keep, kept
from lablib.training import axolotl_train, in_child

from . import recipes, rows
from .sizes import Sizes

Found = dict[str, Any]
# GSM8K's own judge here is lm-eval's flexible-extract, whose last "number" of `$\boxed{18}$.` is `$.`; the prompt asks
# for a box, so the box counts.
JUDGE = "marked"


@dataclass(frozen=True)
class Run:
    """One model, one seed, one folder."""

    model: Path
    data: Path
    out: Path
    sizes: Sizes

    def step(self, name: str, work: Callable[[Path], Any]) -> Any:
        """What ``work`` returned, now or in an earlier run; whoever comes second waits for the first.

        Args:
            name: of the step's folder, which ``work`` is given.
            work: returns what can be kept as JSON.
        """
        folder = self.out / name
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "w", encoding="utf-8") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if (found := kept(folder / "done.json")) is not None:
                return found["result"]
            started, cpu = time.monotonic(), _cpu()
            result = work(folder)
            spent = {"seconds": round(time.monotonic() - started, 1), "cpu_seconds": round(_cpu() - cpu, 1)}
            keep(folder / "done.json", {"result": result, **spent})
        return result


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def written(folder: Path, config: Found) -> Path:
    """The config as YAML in a step's folder; returns its path."""
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def borrow_journals(folder: Path, others: Sequence[Path]) -> None:
    """Copy the journals of other steps: what they asked is not asked again. One model's is one file in each of them."""
    journal = folder / "safety" / "journal"
    if journal.is_dir():
        return
    journal.mkdir(parents=True)
    for file in [file for other in others for file in sorted((other / "safety" / "journal").glob("*.jsonl"))]:
        with open(journal / file.name, "ab") as lines:
            lines.write(file.read_bytes())


def evaluated(
    folder: Path, config: Found, adapters: Sequence[Path] = (), borrow: Sequence[Path] = ()
) -> tuple[Found, list[Found]]:
    """`axolotl safety-eval` in a process of its own: its results, and one row per completion."""
    import pyarrow.parquet as pq

    borrow_journals(folder, borrow)
    path, said = written(folder, config), folder / "figures.json"
    models = [part for adapter in adapters for part in ("--model", str(adapter))]

    def work() -> None:
        from axolotl_safety.commands.evaluate.cli import main

        main([str(path), *models, "--json", str(said)], standalone_mode=False)

    in_child(work, log=folder / "log.txt")
    line = json.loads(said.read_text(encoding="utf-8"))
    results = json.loads(Path(line["results"]).read_text(encoding="utf-8"))
    return results, pq.read_table(line["items"]).to_pylist()


def _sets(run: Run) -> Found:
    """What every model is asked: both halves of XSTest, and GSM8K problems that no warm-up has seen."""
    problems, _ = rows.gsm8k(run.data, run.sizes.seed, run.sizes.gsm8k, run.sizes.warmup_problems)
    gsm8k = rows.write_jsonl(run.out / "rows" / f"gsm8k-{os.getpid()}.jsonl", problems)
    target = run.out / "rows" / "gsm8k.jsonl"
    os.replace(gsm8k, target)
    xstest = {
        "name": "XSTest",
        "path": str(run.data / "xstest" / "xstest_prompts.csv"),
        "max_items": run.sizes.xstest,
    }
    return {
        "harm": [xstest],
        "over_refusal": [xstest],
        "reasoning": [{"name": "GSM8K", "path": str(target), "judge": JUDGE}],
    }


def evaluate(run: Run, name: str, model: Path, adapters: Sequence[Path] = (), borrow: Sequence[str] = ()) -> Found:
    """Greedy figures of a model, and of adapters on it, with the outcome of every item."""

    def work(folder: Path) -> Found:
        config = recipes.evaluation(run.sizes, model, folder, _sets(run))
        results, items = evaluated(folder, config, adapters, [run.out / "eval" / other for other in borrow])
        return {
            "figures": results["figures"],
            "comparisons": results["comparisons"],
            "safety_tax": results["safety_tax"],
            "outcomes": _outcomes(items),
            "tokens": sum(item["tokens"] for item in items if item["model"] != "base" or not adapters),
        }

    return run.step(f"eval/{name}", work)


def _outcomes(items: Sequence[Found]) -> Found:
    """Per model and set: item's id to outcome, and no text."""
    found: Found = {}
    what = {"harm": "refused", "over_refusal": "refused", "reasoning": "correct"}
    for item in items:
        axis = found.setdefault(item["model"], {}).setdefault(item["axis"], {})
        axis[item["item"]] = None if item[what[item["axis"]]] is None else int(item[what[item["axis"]]])
    return found


def sampled(run: Run) -> Found:
    """The model's own solutions, thoughts and answers, as the rows of two warm-ups: its own and GSM8K's."""
    from axolotl_safety.commands.evaluate.sets import KNOWN

    template = KNOWN["reasoning", "GSM8K"].template

    def work(folder: Path) -> Found:
        sizes = run.sizes
        _, problems = rows.gsm8k(run.data, sizes.seed, sizes.gsm8k, sizes.warmup_problems)
        harmless, _ = rows.harmless(sizes.seed, sizes.warmup_harmless, sizes.benign)
        _, harmful = rows.star1(run.data, sizes.seed, sizes.pool, sizes.warmup_harmful, sizes.longest)
        prompts = {"over_refusal": [row["prompt"] for row in harmless], "harm": [row["question"] for row in harmful]}
        sets: dict[str, list[Found]] = {
            "reasoning": [
                {"name": "GSM8K", "path": str(rows.write_jsonl(folder / "problems.jsonl", problems)), "judge": JUDGE}
            ]
        }
        for axis, texts in prompts.items():
            path = rows.write_jsonl(folder / f"{axis}.jsonl", [{"prompt": text} for text in texts])
            asked = {"answers": recipes.BRIEFLY, "thoughts": recipes.THINK_FIRST}
            sets[axis] = [
                {"name": name, "path": str(path), "prompt_field": "prompt", "template": around}
                for name, around in asked.items()
            ]
        _, items = evaluated(folder, recipes.evaluation(sizes, run.model, folder, sets))
        return _warmup_rows(folder, sizes, template, problems, prompts, items)

    return run.step("sampled", work)


def _pairs(axis: str, prompts: Sequence[str], whole: Sequence[Found]) -> list[Found]:
    """The model's own thoughts with its own answers to harmless prompts, or its own refusals of harmful ones."""
    said: Found = {"answers": {}, "thoughts": {}}
    for item in whole:
        # A thought that is a refusal thinks of nothing.
        if item["axis"] == axis and item["refused"] is (item["set"] == "answers" and axis == "harm"):
            said[item["set"]][item["prompt"]] = item["answer"]
    found = []
    for text in prompts:
        thought = said["thoughts"].get(recipes.THINK_FIRST.replace("{prompt}", text))
        answer = said["answers"].get(recipes.BRIEFLY.replace("{prompt}", text))
        if thought and answer:
            found.append({"prompt": text, "response": rows.wrapped(thought, answer)})
    return found


def _warmup_rows(
    folder: Path,
    sizes: Sizes,
    template: str,
    problems: list[Found],
    prompts: dict[str, list[str]],
    items: Sequence[Found],
) -> Found:
    whole = [item for item in items if item["finish"] == "stop" and not item["incoherent"]]
    pairs = {axis: _pairs(axis, texts, whole) for axis, texts in prompts.items()}
    own = {item["prompt"]: item["answer"] for item in whole if item["correct"]}
    right = [(own[asked], row) for row in problems if (asked := template.replace("{prompt}", row["question"])) in own]
    right = sorted(right, key=lambda pair: len(pair[0]))[: sizes.warmup_rows]
    texts = {
        "own": [rows.solved(row, template, solution) for solution, row in right],
        "human": [rows.solved(row, template, rows.human_thought(row)) for _, row in right],
    }
    for name, made in texts.items():
        every = [*made, *(row for found in pairs.values() for row in found)]
        rows.write_jsonl(folder / f"{name}.jsonl", rows.shuffled(every, sizes.seed, "warmup"))
    counts = {"asked": len(problems), "correct": len(own), "solutions": len(right)}
    counts |= {"harmless": len(pairs["over_refusal"]), "refusals": len(pairs["harm"])}
    return counts | {"tokens": sum(item["tokens"] for item in items)}


def reasoner(run: Run, kind: str) -> Path:
    """Train the warm-up with `axolotl train`, merge it, and put the template beside it. Returns the folder."""
    final = run.out / "reasoner" / kind / "merged"

    def work(folder: Path) -> Found:
        start = recipes.thinking_folder(run.model, run.out / "reasoner" / kind / "start")
        shutil.rmtree(folder / "prepared", ignore_errors=True)
        config = recipes.warmup(run.sizes, start, folder, run.out / "sampled" / f"{kind}.jsonl")
        path = written(folder, config)
        in_child(lambda: axolotl_train(path), log=folder / "log.txt")
        in_child(lambda: _merge(start, folder / "model", final), log=folder / "merge.txt")
        return {"steps": run.sizes.warmup_steps}

    sampled(run)
    run.step(f"reasoner/{kind}", work)
    return final


def _merge(start: Path, adapter: Path, folder: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.bfloat16)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(folder)
    for file in start.iterdir():
        if file.name.startswith("tokenizer") or file.suffix == ".jinja":
            shutil.copyfile(file, folder / file.name)
