"""Fair pairs: the same harmless half for every method, one judge for every checkpoint, results that are kept."""

from __future__ import annotations

import fcntl
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from .figures import EQUAL_REFUSAL, USABLE_OVER_REFUSAL, keep, kept, trained_rows
from .loop import Row, Setting, Tuning
from .methods import METHODS, config_of
from .training import axolotl_preprocess, in_child

EVERY = 10  # steps between judged checkpoints
FIRST = 24  # prompts asked before the rest of a set: most checkpoints fail by them

# What the table calls a method, and the entry of METHODS whose data stage makes its rows, both halves.
SOURCES = {"vanilla": "vanilla_benign", "vanilla_long": "vanilla_long_benign", "dgr": "dgr", "thinksafe": "thinksafe"}

Item = dict[str, Any]
Figures = dict[str, Any]


@dataclass(frozen=True, order=True)
class Key:
    """One run.

    Attributes:
        method: a name of ``SOURCES``.
        share: rows of the benign half per hundred harmful rows.
        shape: a name of ``loop.SHAPES``.
        rate: learning rate.
        seed: of the data stage's draws, of the rows drawn, of the order.
        base: ``shipped``, or ``two0`` and so on for a base that knows two tasks.
    """

    method: str
    share: int
    shape: str
    rate: float
    seed: int
    base: str

    @property
    def setting(self) -> Setting:
        """What is trained, and how fast."""
        return Setting(self.shape, self.rate)


class Results:
    """Results of runs, one line of JSON each, in a file that several processes may append to."""

    def __init__(self, path: Path) -> None:
        """Name the file; it need not be there."""
        self._path = path

    def all(self) -> dict[Key, Figures]:
        """Every result."""
        if not self._path.is_file():
            return {}
        lines = [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]
        return {Key(**line["run"]): line["found"] for line in lines}

    def add(self, key: Key, found: Figures) -> None:
        """Append one."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a", encoding="utf-8") as out:
            fcntl.flock(out, fcntl.LOCK_EX)
            out.write(json.dumps({"run": asdict(key), "found": found}) + "\n")


def both_halves(method: str, seed: int, base: Path, work: Path) -> list[Row]:
    """Token ids of a method's rows, all of the benign half; made by the product's data stage when first asked for.

    Args:
        method: a name of ``SOURCES`` or of ``METHODS``.
        seed: of the stage's draws.
        base: folder with ``model/``, ``guard/`` and ``data/``.
        work: where rows and journals of this base and seed are kept.
    """
    path = work / f"{method}.json"
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(work / "lock"):  # methods share the journal, and other processes the folder
        if not path.is_file():
            config = config_of(METHODS[SOURCES.get(method, method)], seed, base, work / method, work / "safety", EVERY)
            (work / method / "config.json").write_text(json.dumps(config), encoding="utf-8")

            def stage() -> None:
                axolotl_preprocess(work / method / "config.json")
                keep(path, trained_rows(work / "safety"))

            in_child(stage, log=work / f"{method}.log")
    return [
        Row(
            tuple(row["prompt_token_ids"]),
            tuple(row["response_token_ids"]),
            row["label"] == "harmful",
            bool(row.get("begun_tokens")),
        )
        for row in kept(path)
    ]


def with_share(rows: Sequence[Row], share: int, seed: int) -> list[Row]:
    """All harmful rows and ``share`` benign ones per hundred of them; a larger share keeps those of a smaller one."""
    harmful, benign = ([row for row in rows if row.harmful is half] for half in (True, False))
    random.Random(f"{seed} benign").shuffle(benign)
    return harmful + benign[: round(share * len(harmful) / 100)]


class Judge:
    """Looks at a model on one split of one base."""

    def __init__(self, base: Path, split: str) -> None:
        """Answer the reasoning tasks with the untouched base, to compare with."""
        from labkit.evaluation import SECOND_TASK, load_split
        from labkit.models import load_model

        self._sets = load_split(split, base / "data")
        model, self._tokenizer = load_model(base / "model")
        self.tasks = tuple(task for task in ("math", SECOND_TASK) if task in self._sets)
        self._before = {task: self.correct(model, task) for task in self.tasks}

    def _ask(self, model: Any, name: str, rows: Sequence[Item]) -> list[Item]:
        from labkit.evaluation import evaluate

        return evaluate(model, self._tokenizer, {name: list(rows)})

    def correct(self, model: Any, task: str) -> list[bool]:
        """Outcomes of a reasoning task, item by item."""
        return [item["correct"] for item in self._ask(model, task, self._sets[task])]

    def refused(self, model: Any, name: str) -> float:
        """Refusals of a set in percent."""
        items = self._ask(model, name, self._sets[name])
        return 100 * sum(item["refused"] for item in items) / len(items)

    def usable(self, model: Any) -> tuple[bool, list[float]]:
        """Whether a model is usable, asking no more than the answer needs.

        Returns:
            The verdict, and the refusals in percent of the sets that were asked: seen, unseen, benign; the last of
            them, where it failed, over the first prompts alone.
        """
        found = []
        for name, wanted in (("harmful_seen", True), ("harmful_unseen", True), ("benign", False)):
            rows = self._sets[name]
            limit = 100 - EQUAL_REFUSAL if wanted else USABLE_OVER_REFUSAL
            items: list[Item] = []
            for part in (rows[:FIRST], rows[FIRST:]):
                items += self._ask(model, name, part)
                wrong = sum(item["refused"] is not wanted for item in items)
                if 100 * wrong > limit * len(rows):
                    return False, [*found, 100 * sum(item["refused"] for item in items) / len(items)]
            found.append(100 * sum(item["refused"] for item in items) / len(items))
        return True, found

    def whole(self, model: Any) -> Figures:
        """Every figure: refusals in percent, and per task the items lost (1), kept (0) or won (-1) against the base."""
        rates = {name: self.refused(model, name) for name in ("harmful_seen", "harmful_unseen", "benign")}
        lost = {task: self.lost(model, task) for task in self.tasks}
        return {
            "refusal_seen": rates["harmful_seen"],
            "refusal_unseen": rates["harmful_unseen"],
            "over_refusal": rates["benign"],
            **{f"lost_{task}": signs(gaps) for task, gaps in lost.items()},
        }

    def lost(self, model: Any, task: str) -> list[int]:
        """Per item of a task: 1 where the base was right and the model is not, -1 the other way round."""
        after = self.correct(model, task)
        return [int(was) - int(is_now) for was, is_now in zip(self._before[task], after, strict=True)]

    def loss(self, model: Any, task: str = "math") -> float:
        """Points lost against the base."""
        gaps = self.lost(model, task)
        return 100 * sum(gaps) / len(gaps)


def signs(lost: Sequence[int]) -> str:
    """The items of ``Judge.lost`` as they are kept, one letter each."""
    return "".join("+0-"[1 - gap] for gap in lost)


def lost_of(found: Figures, task: str) -> list[int]:
    """The items lost, as ``Judge.lost`` gave them."""
    return [{"+": 1, "0": 0, "-": -1}[sign] for sign in found[f"lost_{task}"]]


def search_run(key: Key, rows: Sequence[Row], base: Path, judge: Judge, steps: int) -> Figures:
    """Train; look every ten steps until a checkpoint is usable, and at the end, which is half-way if one was by then.

    Args:
        key: the run.
        rows: what it is trained on.
        base: folder of the base.
        judge: of the development split.
        steps: after which the run ends in any case.

    Returns:
        ``steps`` at the end, ``usable_step`` and ``loss_at_usable`` (None where not reached), ``end`` (usable or not,
        refusals, loss), and the curve: per judged checkpoint its step and the refusals asked for.
    """
    from labkit.models import load_model

    started = time.process_time()
    tuning = Tuning(load_model(base / "model")[0], rows, key.setting, key.seed)
    found: Figures = {"rows": len(rows), "usable_step": None, "loss_at_usable": None, "curve": []}
    for step in range(EVERY, steps + 1, EVERY):
        tuning.advance(EVERY)
        found["steps"] = step
        if found["usable_step"] is None:
            with tuning.merged() as model:
                verdict, refusals = judge.usable(model)
                found["curve"].append([step, *(round(value, 1) for value in refusals)])
                if verdict:
                    found |= {"usable_step": step, "loss_at_usable": round(judge.loss(model), 2)}
        if found["usable_step"] is not None and step >= steps / 2:
            break
    with tuning.merged() as model:
        verdict, refusals = judge.usable(model)
        found["end"] = {"usable": verdict, "refusals": refusals, "loss": round(judge.loss(model), 2)}
    return found | {"cpu_s": round(time.process_time() - started)}


def seed_run(key: Key, rows: Sequence[Row], base: Path, dev: Judge, test: Judge, steps: int) -> Figures:
    """Train until a checkpoint is usable on the development split; read that one, or the last, on the test split."""
    from labkit.models import load_model

    started = time.process_time()
    tuning = Tuning(load_model(base / "model")[0], rows, key.setting, key.seed)
    for step in range(EVERY, steps + 1, EVERY):
        tuning.advance(EVERY)
        with tuning.merged() as model:
            verdict, _ = dev.usable(model)
            if verdict or step + EVERY > steps:
                found = {"rows": len(rows), "steps": step, "usable": verdict, **test.whole(model)}
                return found | {"cpu_s": round(time.process_time() - started)}
    raise ValueError(f"{steps} steps: no checkpoint, as one is judged every {EVERY}")


def at(key: Key, share: int, seed: int, base: str) -> Key:
    """The same setting elsewhere."""
    return replace(key, share=share, seed=seed, base=base)
