"""What the documents say exists: YAML, commands, links, files, messages, reasons, and the generated reference."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from support import axolotl_cli as cli
from support import staleness_table as staleness

from axolotl_safety.commands.report.figures import _GUARD, _REASONS
from axolotl_safety.config import DatasetOptions, SafetyConfig

ROOT = cli.ROOT
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "examples" / "lab" / "README.md"])
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
TUTORIAL, TROUBLES = TEXTS["docs/tutorial.md"], TEXTS["docs/troubleshooting.md"]
# Words in a command that stand for the reader's own files.
_PLACEHOLDERS = {"your.yml", "cfg.yml", "config.yml", "run.yml", "CONFIG.yml"}
_TO_BE_WRITTEN = {"shorter.py"}  # the worked example of a method in CONTRIBUTING


def fences(text: str, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [block for name, block in found if name == language]


def load_generator():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_configuration_reference_is_what_the_models_say():
    assert load_generator().render() == TEXTS["docs/configuration.md"], "run `make docs`"


def test_the_table_of_runs_is_what_the_records_say():
    page = TEXTS["docs/compatibility.md"]
    assert load_generator().with_runs(page) == page, "run `make docs`"


def test_every_key_has_a_description_and_a_word_for_what_it_changes():
    generate = load_generator()
    found = [(path, field, below) for path, field, below in generate.keys(SafetyConfig)]
    found += [(f"datasets.{name}", field, None) for name, field in DatasetOptions.model_fields.items()]
    for path, field, below in found:
        assert below or len(field.description or "") > 8, path
        assert generate.effect(path), path
    known = {path for path, *_ in found} | {"datasets"}
    assert set(generate.EFFECTS) <= known, "EFFECTS names keys that do not exist"


# Where a section's keys stand, and what a word of the reference may mean in the table that the product is tested by.
_SECTIONS = {
    "SafetyConfig": "",
    "EngineConfig": "engine.",
    "SamplingConfig": "sampling.",
    "GuardConfig": "guard.",
    "GuardPrompt": "guard.prompt.",
    "GuardMessage": "guard.messages.",
    "GuardVerdict": "guard.verdict.",
    "DGRConfig": "dgr.",
    "ThinkSafeConfig": "thinksafe.",
    "RecoverConfig": "recover.",
    "DatasetOptions": "datasets.",
    "KLConfig": "kl.",
    "StopConfig": "stop.",
    "ThinkConfig": "think.",
    "EvalConfig": "eval.",
    "EvalAttacksConfig": "eval.attacks.",
    "EvalSamplingConfig": "eval.sampling.",
    "EvalSetConfig": "eval.harm.",
}
_ASKED = {staleness.ANEW, staleness.PARTLY, staleness.MORE, staleness.FEWER}
_MEANS = {
    "no": set(),
    "anew": {staleness.ANEW, staleness.PARTLY},
    "more": _ASKED | {staleness.ROWS},
    "verdicts": {staleness.VERDICTS, staleness.ROWS, staleness.JUDGE},
    "training": {staleness.ROWS},
    "evaluation": {staleness.RESULTS},
}


@pytest.mark.parametrize("key", staleness.KEYS)
def test_the_word_of_a_key_is_what_changing_it_does(key):
    section, _, name = key.partition(".")
    word = load_generator().effect(_SECTIONS[section] + name)
    seen = {change.effect for change in staleness.KEYS[key]} - {staleness.NOTHING}
    assert seen <= _MEANS[word], f"the reference says {word!r}"
    assert seen or word in ("no", "training", "evaluation"), f"nothing was seen to change, and it says {word!r}"


@pytest.mark.parametrize("key", ["dtype", "quantization", "model", "batch_size", "replicas", "max_num_seqs"])
def test_the_engine_keys_that_change_the_fingerprint_are_marked_anew(key):
    from types import SimpleNamespace

    from axolotl_safety.pipeline.inputs import target_fingerprint

    other = {"dtype": "float16", "quantization": "fp8", "batch_size": 2, "replicas": 2, "max_num_seqs": 2}
    served = {"backend": "openai", "base_url": "http://localhost:8000/v1"}
    before, after = ({}, {key: other[key]}) if key in other else (served, served | {key: "x"})
    files = SimpleNamespace(fingerprint="f")
    one, two = (target_fingerprint(files, SafetyConfig(engine=block), "vllm") for block in (before, after))
    assert (one != two) == (load_generator().effect(f"engine.{key}") == "anew")


YAML_BLOCKS = [(name, block) for name, text in TEXTS.items() for block in fences(text, "yaml")]


@pytest.mark.parametrize(("name", "block"), YAML_BLOCKS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(YAML_BLOCKS)])
def test_yaml_in_the_documents_is_accepted(name, block):
    from axolotl.cli.config import prepare_plugins
    from axolotl.integrations.base import PluginManager
    from axolotl.utils.config import validate_config
    from axolotl.utils.dict import DictDefault

    from axolotl_safety.config.validate import prepare_config

    raw = yaml.safe_load(block)
    if not {"safety", "datasets", "plugins", "base_model"} & set(raw):
        raw = {"safety": {"eval": raw}} if "reasoning" in raw else {"safety": raw}
    if "base_model" not in raw:
        prepare_config(
            DictDefault({"base_model": "m", "datasets": [{"path": "x", "type": "axolotl_safety.dgr"}]} | raw)
        )
        return
    PluginManager.get_instance().plugins.clear()
    cfg = DictDefault(raw)
    try:
        prepare_plugins(cfg)
        capabilities = {"bf16": True, "n_gpu": 1, "compute_capability": "sm_89"}
        validated = validate_config(cfg, capabilities=capabilities, env_capabilities={"torch_version": "2.13.0"})
    finally:
        PluginManager.get_instance().plugins.clear()
    assert not {key for key in raw if key not in validated}, "Axolotl does not know these keys"


def test_the_tutorials_rehearsal_can_be_planned(tmp_path, monkeypatch):
    from axolotl.integrations.base import PluginManager
    from click.testing import CliRunner

    from axolotl_safety.commands.plan.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for command in (line for block in fences(TUTORIAL, "bash") for line in block.splitlines()):
        words = shlex.split(command)
        if words[0] == "mkdir":
            Path(words[-1]).mkdir()
        elif words[0] == "cp":
            Path(words[2]).write_bytes(Path(words[1]).read_bytes())
    rehearsal = next(block for block in fences(TUTORIAL, "yaml") if "examples/lab/model" in block)
    Path("my/rehearsal.yml").write_text(rehearsal)
    try:
        result = CliRunner().invoke(main, ["my/rehearsal.yml"])
    finally:
        PluginManager.get_instance().plugins.clear()
    assert result.exit_code == 0 and "this can run on a CPU" in result.output, result.output[-2000:]


def commands() -> list[tuple[str, str]]:
    found = []
    for name, text in TEXTS.items():
        for block in (*fences(text, "bash"), *fences(text, "")):
            found += [(name, line) for line in block.replace("\\\n", " ").splitlines()]
        indented = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE).replace("\\\n", " ")
        found += [(name, line) for line in re.findall(r"^ {4,}((?:axolotl|python|make) .*)$", indented, re.MULTILINE)]
        found += [(name, code) for code in re.findall(r"`((?:axolotl|python|make) [^`…]+)`", text)]
    return sorted({(name, line.partition("  #")[0].strip()) for name, line in found if line.strip()})


@pytest.mark.parametrize(("name", "command"), commands())
def test_commands_in_the_documents_exist(name, command):
    from axolotl.cli.main import cli as axolotl

    from axolotl_safety.commands import demo
    from axolotl_safety.commands.evaluate import cli as evaluate
    from axolotl_safety.commands.plan import cli as plan
    from axolotl_safety.commands.report import cli as report

    command = re.sub(r"\[(--[^\]]*)\]", r"\1", re.sub(r"\s+\(from the .*", "", command))
    words = shlex.split(re.sub(r"\.\.\.$", "", command))
    ours = {"safety-plan": plan.main, "safety-eval": evaluate.main, "safety-report": report.main}
    ours |= {"safety-demo": demo.main}
    if words[0] == "axolotl" and words[1] in ours:
        known = {option for parameter in ours[words[1]].params for option in parameter.opts}
        assert {word for word in words[2:] if word.startswith("--")} <= known
    elif words[0] == "axolotl":
        assert words[1] in axolotl.commands
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
    elif words[0] == "python" and words[1].endswith(".py"):
        source = (ROOT / words[1]).read_text()
        assert all(f'"{word}"' in source for word in words[2:] if word.startswith("--"))
    if words[0] == "axolotl":
        for word in words[2:]:
            if word.endswith(".yml") and word not in _PLACEHOLDERS and not word.startswith("my/"):
                assert (ROOT / word).is_file()


def anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", TEXTS)
def test_links_and_anchors_resolve(name):
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        place = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert place.exists(), target
        if anchor:
            assert anchor in anchors(place.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("name", TEXTS)
def test_files_that_are_named_exist(name):
    wanted = r"`((?:axolotl_safety|benchmarks|docs|tests|yaml|examples)/[\w./-]+\.(?:py|md|yml|jsonl|json|in|txt))`"
    missing = [path for path in re.findall(wanted, TEXTS[name]) if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("name", TEXTS)
def test_files_that_are_named_without_their_folder_exist_somewhere(name):
    ours = ("axolotl_safety", "benchmarks", "docs", "examples", "tests")
    known = {path.name for folder in ours for path in (ROOT / folder).rglob("*.py")}
    missing = set(re.findall(r"`(\w+\.py)\b", TEXTS[name])) - known - _TO_BE_WRITTEN
    assert not missing


def test_the_packages_in_contributing_are_those_that_there_are():
    road = TEXTS["CONTRIBUTING.md"].partition("* **A new")[0]
    rows = re.findall(r"^\| `([a-z]+)` \| (.*) \|$", road, re.MULTILINE)
    package = ROOT / "axolotl_safety"
    assert {name for name, _ in rows} == {path.parent.name for path in package.glob("*/__init__.py")} | {"plugin"}
    for room, text in rows:
        for word in re.findall(r"`([a-z_]+)/?`", text):
            inside = [package / room / word, package / room / f"{word}.py", package / f"{word}.py"]
            assert any(path.exists() for path in inside), f"{room}: {word}"


def test_where_a_step_of_the_road_is_done_exists():
    table = TEXTS["docs/how-it-works.md"].partition("| step | where |")[2].partition("\n\n")[0]
    places = [place for row in table.splitlines()[2:] for place in re.findall(r"`([\w/]+)`", row.split(" | ")[1])]
    assert len(places) > 10
    missing = [place for place in places if not list((ROOT / "axolotl_safety").glob(f"{place}*"))]
    assert not missing


def test_the_records_in_contributing_are_those_that_a_test_runs():
    shown = fences(TEXTS["CONTRIBUTING.md"], "python")
    for path in sorted((ROOT / "tests" / "outside").glob("[!_]*.py")):
        assert path.read_text(encoding="utf-8") in shown, path.name


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "docs").glob("*.svg")))
def test_a_figure_is_sound_and_stands_in_some_document(name):
    ElementTree.parse(ROOT / "docs" / name)
    assert any(name in text for text in TEXTS.values())


def test_the_citation_file_is_whole():
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "title", "message", "authors", "license"} <= set(said)
    assert {one["url"][-10:] for one in said["references"]} == {"2602.02136", "2601.23143"}


def test_every_recipe_is_mentioned():
    everything = "".join(TEXTS.values())
    missing = [path.stem for path in (ROOT / "yaml").glob("*.yml") if path.stem not in everything]
    assert not missing


def spoken() -> list[str]:
    """Every text in the package, literal pieces joined, with a blank character where a value is put in."""
    found = []

    def text(node: ast.AST) -> str:
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else "\0"
        return "".join(map(text, node.values)) if isinstance(node, ast.JoinedStr) else "\0"

    for path in sorted((ROOT / "axolotl_safety").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [text(node) for node in ast.walk(tree) if isinstance(node, (ast.Constant, ast.JoinedStr))]
    return found


def messages() -> list[str]:
    tables = TROUBLES.partition("## Without a message")[0]
    return [cell.strip("` ") for cell in re.findall(r"^\| (`.+?`) \|", tables, re.MULTILINE)]


def test_quoted_messages_stand_in_the_source():
    said = " ".join(spoken())
    assert len(messages()) > 60
    missing = [part for message in messages() for part in message.split(" ... ") if part not in said]
    assert not missing


def test_every_reject_reason_is_explained():
    explained = set(re.findall(r"^\| `([a-z_]+)` \|", TROUBLES.partition("## Reject reasons")[2], re.MULTILINE))
    sources = "".join(path.read_text() for path in (ROOT / "axolotl_safety").rglob("*.py"))
    made = set(re.findall(r'RowError\("(\w+)"\)', sources)) | set(_REASONS) | {f"guard_{word}" for word in _GUARD}
    made |= {f"engine_{word}" for word in re.findall(r'Failure\([^,\n]+, "(\w+)"', sources)}
    made |= set(re.findall(r'^_?[A-Z_]+ = "(guard_(?:too_long|control_token))"', sources, re.MULTILINE))
    assert made <= explained, made - explained
    # And nothing is explained that cannot happen.
    words = {re.sub(r"^(?:engine|guard)_", "", reason) for reason in explained}
    assert not [word for word in words if not re.search(rf'"(?:guard_)?{word}"', sources)]
