"""Change any one thing that matters, and finished work is not used again; change what does not, and all of it is (T24).

`staleness_table.KEYS` says for every key of the ``safety:`` section what it makes stale: who adds a key adds it there.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import numpy as np
import pytest
from axolotl.utils.dict import DictDefault
from pydantic import BaseModel
from safetensors.numpy import load_file, save_file
from support import axolotl_cli, tiny
from support import evaluation as eval_helpers
from support.guards import ITEM
from support.staleness_table import (
    ANEW,
    AXOLOTL,
    DGR,
    FEWER,
    JUDGE,
    JUDGED,
    KEYS,
    MORE,
    NOTHING,
    ONCE,
    PARTLY,
    RESULTS,
    ROWS,
    SET,
    VERDICTS,
    Key,
)
from transformers import AutoTokenizer

from axolotl_safety.commands.evaluate import evaluation
from axolotl_safety.commands.evaluate.figures import Measured
from axolotl_safety.commands.evaluate.models import eval_models
from axolotl_safety.config import GuardConfig, SafetyConfig, prompts
from axolotl_safety.config.prompts import REWRITE_PROMPTS
from axolotl_safety.config.section import section
from axolotl_safety.config.validate import prepare_config
from axolotl_safety.engines import model_files as target
from axolotl_safety.engines.base import Request, Score, ScoreRequest
from axolotl_safety.engines.choose import Interpreter, choose_backend
from axolotl_safety.engines.model_files import load_model_files
from axolotl_safety.engines.queue import WorkQueue
from axolotl_safety.guards import judge, qwen3guard
from axolotl_safety.guards.judge import load_guards
from axolotl_safety.guards.openai import prompt as openai_prompt
from axolotl_safety.pipeline import inputs as preparing
from axolotl_safety.pipeline import stage
from axolotl_safety.pipeline.writer import dataset_hash, training_row
from axolotl_safety.util.errors import ConfigError


def walk(model: type[BaseModel]) -> Iterator[str]:
    """``Model.key`` of every key that holds a value, the models inside included, each once.

    The command line is no key: `register` notes there what Axolotl was asked for beside the YAML.
    """
    seen: list[type[BaseModel]] = []

    def inside(annotation: Any) -> list[type[BaseModel]]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return [annotation]
        return [found for part in get_args(annotation) for found in inside(part)]

    def keys(one: type[BaseModel]) -> Iterator[str]:
        if one in seen:
            return
        seen.append(one)
        for name, info in one.model_fields.items():
            models = inside(info.annotation)
            for found in models:
                yield from keys(found)
            if name != "command_line" and (not models or name in ("harm", "over_refusal", "reasoning")):
                yield f"{one.__name__}.{name}"

    return keys(model)


def test_every_key_says_what_it_makes_stale():
    assert sorted(KEYS) == sorted(walk(SafetyConfig))
    assert all(KEYS.values())


def test_a_key_that_somebody_adds_is_found():
    class Added(BaseModel):
        shiny: int = 1

    class Grown(SafetyConfig):
        polish: int = 1
        added: Added | None = None

    assert {*walk(Grown)} - {*walk(SafetyConfig)} >= {"Grown.polish", "Added.shiny"}


# ---- the scene: one model, one guard, two datasets, and an engine whose answers depend on the request alone


@pytest.fixture(scope="module")
def scene(tmp_path_factory, models):
    """Folders that names in capitals stand for, and what both configurations have."""
    root = tmp_path_factory.mktemp("staleness")
    guards = {}
    for name, positions, seed in (("GUARD", 8192, 0), ("OTHER_GUARD", 8192, 1)):
        guards[name] = tiny.make_model(root / name / "Qwen3Guard-Gen-tiny", positions=positions, seed=seed)
    guards["SAME_GUARD"] = Path(shutil.copytree(guards["GUARD"], root / "moved" / "Qwen3Guard-Gen-tiny"))
    one = load_guards((GuardConfig(model=str(guards["GUARD"])),))[0]
    frame = len(one.files.tokenizer.encode(qwen3guard.render("", ""), add_special_tokens=False))
    guards["NARROW_GUARD"] = tiny.make_model(root / "narrow" / "Qwen3Guard-Gen-tiny", positions=frame + 64 + 95)
    things = (
        "marsh lamp,brass kettle,pebble hat,velvet spoon,tin moon,wool boat,clay bird,paper crown,glass egg,iron leaf"
    )
    direct = tiny.direct_refusal_rows(10)
    for row, thing in zip(direct, things.split(","), strict=True):
        row["other"] = f"I'm sorry, but I can't do that to the {thing}."
    chain = [
        {
            "instruction": f"How do I {'jinx' if place % 2 else 'polish'} the {thing}?",
            "asked": f"How do I paint the {thing}?",
            "label": "vanilla_harmful" if place % 2 else "vanilla_benign",
            "other_label": "vanilla_harmful" if place % 3 else "vanilla_benign",
            "response": "foreign thought</think>foreign answer",
            "category": "red" if place < 4 else "green",
            "colour": "red" if place > 6 else "green",
        }
        for place, thing in enumerate(things.split(","))
    ]
    files = {"dgr": tiny.write_rows(root / "direct.jsonl", direct)}
    files["thinksafe"] = tiny.write_rows(root / "chain.jsonl", chain)
    # Of few rows none may need a second hinge, or every one: what is said hangs on the versions of the libraries.
    coloured = [
        row | {"instruction": row["instruction"].replace("the ", f"the {colour} ")}
        for colour in ("red", "blue", "grey", "pale")
        for row in chain
    ]
    files["recover"] = tiny.write_rows(root / "coloured.jsonl", coloured)
    model = models("qwen3")
    other = tiny.make_model(root / "other", seed=5)
    sums = [{"question": f"Sum case {n}?", "other": f"Case {n}: what now?", "answer": str(n)} for n in range(3)]
    for row in sums:
        row["other_answer"] = "7"
    paths = {"MODEL": model, "OTHER_MODEL": other, **guards}
    paths["SUMS"] = tiny.write_rows(root / "sums.jsonl", sums)
    paths["COPY"] = tiny.write_rows(root / "copy" / "again.jsonl", sums)
    paths["OTHER"] = tiny.write_rows(root / "other" / "sums.jsonl", [row | {"question": "Case 9?"} for row in sums])
    paths["TASKS"] = root / "tasks"
    paths["TASKS"].mkdir()
    (paths["TASKS"] / "toy.yaml").write_text("task: toy\n")
    return paths, files


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Models' files are read once, and no interpreter is asked: this machine has transformers, the others have vLLM."""

    @functools.cache
    def read(name: str, role: str, **options: Any) -> target.ModelFiles:
        files = load_model_files(name, role, **options)
        if role == "base_model":  # not in the folder, whose fingerprint decides every draw
            files.tokenizer.chat_template = "{{ effort | default('') }}" + files.tokenizer.chat_template
        return files

    def ask(python: str | None) -> Interpreter:
        return Interpreter(python or sys.executable, "0.22", True)

    def backend(engine: Any) -> str:
        return choose_backend(engine, ask, lambda: False)

    with pytest.MonkeyPatch.context() as patch:
        for module in (preparing, judge):
            patch.setattr(module, "load_model_files", read)
        for module in (preparing, evaluation):
            patch.setattr(module, "choose_backend", backend)
        patch.setattr("axolotl_safety.commands.evaluate.models.load_model_files", read)
        yield


class Player(tiny.ScriptedEngine):
    """Target and guard: what is said depends on the request alone, and every kind of verdict occurs."""

    def __init__(self, tokenizer: Any):
        self.asked: dict[str, set[str]] = {"target": set(), "guard": set()}
        self.tokenizer = tokenizer

        def answer(request: Request) -> tuple[int, ...]:
            shown = tokenizer.decode(request.prompt_token_ids, skip_special_tokens=False)
            number = tiny.draw(request.request_id, 1000)
            if request.model == "target":
                text = self._said(shown, number)
                if "<think>" in shown.rpartition("assistant\n")[2]:  # within a thought that has begun
                    text = text.removeprefix("<think>\n")
            elif "AI assistant:" in shown:
                text = "Harmful request: yes\nResponse refusal: n/a\nHarmful response: no"
            else:
                level = "Controversial" if tiny.draw(shown, 3) == 0 else "Safe"
                text = f"Safety: {level}\nCategories: {'None' if level == 'Safe' else 'PII'}"
                text = f"<think>hm</think>\n{text}" if "Think first." in shown else text
            return (*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id)

        super().__init__(answer)

    @staticmethod
    def _said(shown: str, number: int) -> str:
        thought = f"<think>\nThey ask for something, case {number}, and I think of lamps and kettles.\n</think>\n\n"
        helps = "polish" in shown or "paint" in shown
        if helps == (number % 3 == 0):  # one in three decides wrongly
            return f"{thought}I can't help with that, case {number}. It would hurt somebody, and I am sorry."
        return f"{thought}Take a soft cloth and rub it, case {number}. Then let it dry in the sun for an hour."

    async def answer(self, request: Any) -> Any:
        if not isinstance(request, ScoreRequest):
            self.asked["target" if request.model == "target" else "guard"].add(request.request_id)
        if request.model == "target" or isinstance(request, Request):
            return await super().answer(request)
        unsafe = 0.4 if sum(request.prompt_token_ids) % 2 else 0.01  # sure of every other row
        word = self.tokenizer.decode(request.response_token_ids)
        share = 1 - unsafe if word.strip() == "Safe" else unsafe / 2
        return Score(request.request_id, math.log(share), len(request.response_token_ids))


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """The one mapping over the other, blocks merged."""
    both = dict(below)
    for name, value in above.items():
        nested = isinstance(value, dict) and isinstance(both.get(name), dict)
        both[name] = merged(both[name], value) if nested else value
    return both


def filled(value: Any, paths: dict[str, Path]) -> Any:
    """The same with names in capitals replaced by what they stand for."""
    if isinstance(value, dict):
        return {name: filled(inner, paths) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [filled(inner, paths) for inner in value]
    first, slash, rest = value.partition("/") if isinstance(value, str) else (value, "", "")
    return f"{paths[first]}{slash}{rest}" if isinstance(value, str) and first in paths else value


def configured(folder: Path, scene: Any, safety: dict[str, Any], entries: tuple[str, ...], **top: Any) -> DictDefault:
    """A final Axolotl config."""
    paths, files = scene
    safety = filled(safety, {**paths, "WORK": folder})
    section = merged({"work_dir": str(folder / "work"), "guard": {"model": str(paths["GUARD"])}}, safety)
    options = section.pop("entry", None)
    move, extra = top.pop("move_rows", False), {name: top.pop(name) for name in ("split", "shards") if name in top}
    datasets = []
    for method in entries:
        path = shutil.copy(files[method], folder / f"{method}-moved.jsonl") if move else files[method]
        datasets.append({"path": str(path), "type": f"axolotl_safety.{method}", **extra})
        if options is not None:
            datasets[-1]["safety"] = options
    raw = {"base_model": str(paths["MODEL"]), "sequence_len": 512, "datasets": datasets, "safety": section}
    cfg = DictDefault(raw | filled(top, paths))
    prepare_config(cfg)
    return DictDefault(cfg.to_dict())


@dataclass(frozen=True)
class Seen:
    """What a stage asked for and made."""

    target: frozenset[str]
    guard: frozenset[str]
    fingerprint: str
    data: tuple[str, ...]


def staged(cfg: DictDefault, scene: Any) -> Seen:
    """Walk the whole stage in a fresh folder, but for the writing."""
    player = Player(AutoTokenizer.from_pretrained(scene[0]["MODEL"]))
    prepared = preparing.stage_inputs(cfg, section(cfg))
    queue = WorkQueue(prepared.open_journals(), lambda: player)
    outcomes = asyncio.run(stage.answer(prepared, queue))[1].outcomes
    kl = prepared.safety.kl is not None
    data = [
        dataset_hash([training_row(row, kl) for row in rows if row.status != "rejected" and row.response_ids])
        for rows in outcomes.values()
    ]
    return Seen(frozenset(player.asked["target"]), frozenset(player.asked["guard"]), prepared.fingerprint, tuple(data))


def effect_of(before: Seen, after: Seen) -> str:
    """The change in one word."""
    if before.target != after.target:
        if not before.target & after.target:
            return ANEW
        return MORE if before.target < after.target else FEWER if after.target < before.target else PARTLY
    if before.guard != after.guard and not before.guard & after.guard:
        return VERDICTS
    return ROWS if before.data != after.data else NOTHING if before == after else "something else"


CASES = [(f"{name}-{place}", key) for name, keys in KEYS.items() for place, key in enumerate(keys)]
STAGED = [(name, key) for name, key in CASES if not name.startswith("Eval") and key.base != JUDGED]
BASES: dict[str, Seen] = {}


def compare(tmp_path: Path, scene: Any, key: Key, base: dict[str, Any], change: dict[str, Any], **top: Any) -> None:
    """Both stages, the first one once per base."""
    name = json.dumps([base, key.entries], sort_keys=True)
    for folder in ("before", "after"):
        (tmp_path / folder).mkdir()
    if name not in BASES:
        BASES[name] = staged(configured(tmp_path / "before", scene, base, key.entries), scene)
    before = BASES[name]
    after = staged(configured(tmp_path / "after", scene, merged(base, change), key.entries, **top), scene)
    assert before.target and after.target and (before.data or key.effect != ROWS)
    assert effect_of(before, after) == key.effect
    if key.effect not in (ANEW, PARTLY):
        assert before.fingerprint == after.fingerprint  # the journals are found again


@pytest.mark.parametrize(("name", "key"), STAGED, ids=[name for name, _ in STAGED])
def test_a_key_makes_stale_what_it_must_and_nothing_else(tmp_path, scene, name, key):
    compare(tmp_path, scene, key, key.base, key.change)


@pytest.mark.parametrize("name", AXOLOTL)
def test_axolotls_own_keys(tmp_path, scene, name):
    key = AXOLOTL[name]
    compare(tmp_path, scene, key, key.base.get("safety", {}), {}, **key.change)


JUDGES = [(name, key) for name, key in CASES if key.base == JUDGED]


@pytest.mark.parametrize(("name", "key"), JUDGES, ids=[name for name, _ in JUDGES])
def test_a_key_of_a_judge_by_http(name, key):
    def asked(config: dict[str, Any]) -> list[str]:
        return [question.request_id for question in load_guards((GuardConfig(**config),))[0].requests(ITEM)]

    assert (asked(key.base) != asked(key.base | key.change)) == (key.effect == JUDGE)


EVALUATED = [(name, key) for name, key in CASES if name.startswith("Eval")]
EVALUATIONS: dict[str, str] = {}


def evaluated(folder: Path, scene: Any, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """Hash of an evaluation of the base model alone, with a scripted engine; lm-eval itself is not started."""
    paths, files = scene
    sets = {
        "harm": [{"path": str(files["thinksafe"]), "prompt_field": "instruction"}],
        "over_refusal": [{"path": str(files["thinksafe"]), "prompt_field": "asked"}],
        "reasoning": [SET],
        "sampling": {"max_new_tokens": 100},
    }
    section = {"work_dir": str(folder), "guard": {"model": "builtin"}, "eval": filled(merged(sets, settings), paths)}
    raw = DictDefault({"base_model": str(paths["MODEL"]), "sequence_len": 512, "datasets": [], "safety": section})
    prepare_config(raw)
    player = Player(AutoTokenizer.from_pretrained(paths["MODEL"]))
    about = {"failed": 0, "truncation_rate": None, "unclosed_rate": None, "judge": "lm-eval", "heuristic": False}

    def scored(task: Any, model: Any, *_: Any) -> Measured:
        return Measured(task.name, "reasoning", "correct", model.name, {"0": (1.0,), "1": (0.0,)}, about)

    monkeypatch.setattr(evaluation, "run_task", scored)
    return evaluation.evaluate(DictDefault(raw.to_dict()), make_engine=lambda *_: player).results["hash"]


@pytest.mark.parametrize(("name", "key"), EVALUATED, ids=[name for name, _ in EVALUATED])
def test_a_key_of_the_evaluation(tmp_path, scene, monkeypatch, name, key):
    base = json.dumps(key.base, sort_keys=True)
    if base not in EVALUATIONS:
        EVALUATIONS[base] = evaluated(tmp_path / "before", scene, key.base["eval"], monkeypatch)
    after = evaluated(tmp_path / "after", scene, merged(key.base["eval"], key.change), monkeypatch)
    assert (EVALUATIONS[base] != after) == (key.effect == RESULTS)


def test_an_evaluation_block_changes_nothing_in_the_data_stage(tmp_path, scene):
    compare(tmp_path, scene, Key({}, NOTHING), {}, {"eval": {"harm": ["HarmBench"], "samples": 3, "reasoning": [SET]}})


def patched_prompt(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """The named rewrite prompt as another release might have it."""
    known = dict(REWRITE_PROMPTS) | {"rewrite": replace(REWRITE_PROMPTS["rewrite"], **changes)}
    monkeypatch.setattr(prompts, "REWRITE_PROMPTS", MappingProxyType(known))


RELEASES = {
    "prompt's text": (ANEW, lambda patch: patched_prompt(patch, template="{prompt}!\n{reference}")),
    "prompt's version alone": (NOTHING, lambda patch: patched_prompt(patch, version=2)),  # a name; the text decides
    "meaning of a request": (ANEW, lambda patch: patch.setattr(preparing, "SCHEMA", 2)),
    "guard's policy": (VERDICTS, lambda patch: patch.setattr(qwen3guard, "_HEAD", qwen3guard._HEAD + "Be strict. ")),
    "guard's parser": (NOTHING, lambda patch: patch.setattr(qwen3guard, "CATEGORIES", ())),
}


@pytest.mark.parametrize("what", RELEASES)
def test_another_release_of_this_package(tmp_path, scene, monkeypatch, what):
    effect, change = RELEASES[what]
    (tmp_path / "before").mkdir()
    (tmp_path / "after").mkdir()
    before = staged(configured(tmp_path / "before", scene, ONCE, DGR), scene)
    change(monkeypatch)
    after = staged(configured(tmp_path / "after", scene, ONCE, DGR), scene)
    assert effect_of(before, after) == effect


def test_another_instruction_of_the_judge(monkeypatch):
    (judge_by_http,) = load_guards((GuardConfig(**JUDGED),))
    before = [question.request_id for question in judge_by_http.requests(ITEM)]
    monkeypatch.setattr(openai_prompt, "INSTRUCTION", "Be strict.")
    assert before != [question.request_id for question in judge_by_http.requests(ITEM)]


def edit(name: str, change: Any) -> Any:
    def edited(folder: Path) -> None:
        path = folder / name
        text = path.read_text() if path.exists() else ""
        path.write_text(change(text))

    return edited


def heavier(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[3]
    save_file(weights | {name: weights[name] + 1}, folder / "model.safetensors")


FILES = {
    "weights": heavier,
    "chat template": edit("chat_template.jinja", lambda text: text + " "),
    "tokenizer": edit("tokenizer.json", lambda text: text.replace('"lamp"', '"lamq"', 1) + " "),
    "configuration": edit("config.json", lambda text: text.replace("{", '{"note": 1, ', 1)),
    "end tokens": edit("generation_config.json", lambda text: '{"eos_token_id": [1]}'),
    "code of its own": edit("modeling_own.py", lambda text: "x = 1"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_models_files(tmp_path, models, what):
    folder = Path(shutil.copytree(models("qwen3"), tmp_path / "model"))
    before = load_model_files(str(folder), "base_model").fingerprint
    (folder / "README.md").write_text("about")
    assert load_model_files(str(folder), "base_model").fingerprint == before
    assert load_model_files(str(folder.rename(tmp_path / "moved")), "base_model").fingerprint == before
    FILES[what](tmp_path / "moved")
    assert load_model_files(str(tmp_path / "moved"), "base_model").fingerprint != before


def test_one_tensor_of_a_large_file(tmp_path, monkeypatch):
    """A merged adapter changes some tensors: the samples must see each, wherever it lies."""
    monkeypatch.setattr(target, "_WHOLE_FILE_BYTES", 1000)
    monkeypatch.setattr(target, "_SAMPLE_BYTES", 100)
    weights = {f"layer{index}": np.full(5000, index, dtype=np.float32) for index in range(40)}
    save_file(weights, tmp_path / "model.safetensors")
    before = target.fingerprint_folder(tmp_path)
    for name in weights:
        save_file(weights | {name: weights[name] + 0.5}, tmp_path / "model.safetensors")
        assert target.fingerprint_folder(tmp_path) != before
    save_file(weights, tmp_path / "model.safetensors")
    assert target.fingerprint_folder(tmp_path) == before
    for rubbish in (b"\xff" * 2000, b"\x10" + b"\0" * 2000, b'\x09\0\0\0\0\0\0\0{"a": 12}' + b"x" * 2000):
        (tmp_path / "model.safetensors").write_bytes(rubbish)
        assert target.fingerprint_folder(tmp_path) != before


def test_a_hub_models_commit(tmp_path, models, monkeypatch):
    """Model, tokenizer and guard by hub id: what the commit holds is what counts, under whatever name it is asked."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(judge, "load_model_files", load_model_files)  # not the one that remembers
    axolotl_cli.hub_cache(tmp_path, "toy/model", models("qwen3"))
    repository = tmp_path / "hub" / "models--toy--model"
    shutil.copytree(repository / "snapshots" / ("0" * 40), repository / "snapshots" / ("1" * 40))
    guard = GuardConfig(model="toy/model", family="qwen3guard")

    def fingerprints() -> tuple[str, ...]:
        by_name = load_model_files("toy/model", "base_model")
        other = load_model_files(str(models("qwen3")), "base_model", tokenizer_name="toy/model")
        return by_name.fingerprint, other.fingerprint, load_guards((guard,))[0].fingerprint

    first = fingerprints()
    assert (
        first == fingerprints() and load_model_files("toy/model", "base_model", revision="main").fingerprint == first[0]
    )
    assert load_model_files("toy/model", "base_model", revision="1" * 40).fingerprint != first[0]
    (repository / "refs" / "main").write_text("1" * 40)
    assert all(now != then for now, then in zip(fingerprints(), first, strict=True))


def test_an_adapter_is_refused_below_the_stage_and_counts_in_an_evaluation(tmp_path, models):
    cfg = eval_helpers.config(tmp_path, models("qwen3"), {"harm": ["HarmBench"]})
    found = []
    for place, scale in enumerate((0.0, 0.0, 1.0)):
        folder = eval_helpers.adapter_folder(tmp_path / str(place) / "tuned", models("qwen3"), scale)
        found.append(eval_models(cfg, section(cfg), [str(folder)], "transformers")[1].files.fingerprint)
    assert found[0] == found[1] != found[2]
    with pytest.raises(ConfigError, match="merge-lora"):
        stage.check_adapter_below(DictDefault({"lora_model_dir": "adapter"}))
