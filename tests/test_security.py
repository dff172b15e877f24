"""No code from data, no keys on disk or in logs, files for their owner alone, nothing that a terminal obeys (T39)."""

from __future__ import annotations

import ast
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from support import tiny
from support.guard_stage import sound_refusals
from support.judges import SAFE as SAFE_JSON
from support.judges import says
from support.stage import config, rows_of
from transformers import AutoTokenizer

from axolotl_safety.commands.report.page import write_report
from axolotl_safety.engines.base import EngineError
from axolotl_safety.pipeline.stage import run_stage
from axolotl_safety.util.errors import ConfigError, DataError, ModelError, StageError
from axolotl_safety.util.terminal import log_plainly

PACKAGE = Path(__file__).parents[1] / "axolotl_safety"
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "compile", "__import__"}  # bare names: model.eval() and re.compile() are others
DOTTED = {"os.system", "os.popen", "yaml.load", "torch.load", "tempfile.mktemp"}
LITERALS = {"shell", "allow_pickle", "trust_remote_code"}  # never True by our own hand


def dangers(source: str) -> list[str]:
    """What in a source could run code that came as data."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in DOTTED or (isinstance(node.func, ast.Name) and name in CALLS):
                found.append(name)
            for word in node.keywords:
                if word.arg in LITERALS and isinstance(word.value, ast.Constant) and word.value.value:
                    found.append(f"{word.arg}={word.value.value}")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from dill import loads",
        "eval(text)",
        "exec(text)",
        "import os\nos.system(text)",
        "import yaml\nyaml.load(text)",
        "import torch\ntorch.load(path, weights_only=False)",
        "subprocess.run(text, shell=True)",
        "Model.from_pretrained(path, trust_remote_code=True)",
    ],
)
def test_the_scan_sees_what_it_looks_for(source):
    assert dangers(source)
    assert not dangers("import re, yaml\nre.compile('a')\nmodel.eval()\nyaml.safe_load(t)\nf(p, trust_remote_code=x)")


def test_nothing_in_the_package_runs_what_came_as_data():
    paths = sorted(PACKAGE.rglob("*.py"))
    found = {str(path.relative_to(PACKAGE)): dangers(path.read_text()) for path in paths}
    assert len(paths) > 100 and {path: listed for path, listed in found.items() if listed} == {}


@pytest.fixture
def common_umask():
    """What most machines have: new files are readable for all unless their maker says otherwise."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_a_run_directory_holds_no_key_no_pickle_and_is_its_owners_alone(
    tmp_path, models, serve, monkeypatch, caplog, capfd, common_umask
):
    # Put together here, so that no scanner takes them for real ones.
    secrets = {"HF_TOKEN": "hf" + "_" + "QwErTy" * 5, "JUDGE_KEY": "sk" + "-" + "a1B2c3" * 6}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    caplog.set_level(logging.DEBUG)
    server = serve(lambda user, times: says(SAFE_JSON))
    judge = {"model": "judge", "family": "openai", "base_url": server.url, "api_key_env": "JUDGE_KEY"}
    work_dir = tmp_path / "mine"
    work_dir.mkdir(mode=0o755)  # somebody made it before, open to all
    cfg = config(tmp_path, models("qwen3"), tiny.direct_refusal_rows(6), work_dir=str(work_dir), guard=judge)

    def start(*_: Any) -> tiny.ScriptedEngine:
        return tiny.ScriptedEngine(sound_refusals(AutoTokenizer.from_pretrained(models("qwen3"))))

    assert rows_of(run_stage(cfg, make_engine=start)[0])
    write_report(work_dir)
    paths = sorted(work_dir.rglob("*"))
    names = {path.name for path in paths}
    assert {"manifest.json", "rows.parquet", "report.html", "runs.jsonl", "latest.json", "state.json"} <= names
    for path in paths:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), (path, oct(mode))
    shown = (caplog.text + "".join(capfd.readouterr())).encode()
    for path in [path for path in paths if path.is_file()]:
        content = path.read_bytes()
        assert path.suffix not in (".pkl", ".pt", ".pth", ".bin")
        assert not (content[:1] == b"\x80" and content[1:2] in b"\x02\x03\x04\x05"), path
        assert content[:2] != b"PK", path  # torch's archives
        for value in secrets.values():
            assert value.encode() not in content, path
    assert not any(value.encode() in shown for value in secrets.values())


EVIL = "\x1b]0;owned\x07\x1b[31m\u202egnp\x9b2J\u200b"
OBEYED = set("\x1b\x07\x9b\u202e\u200b")


@pytest.mark.parametrize("kind", [ConfigError, DataError, ModelError, StageError, EngineError])
def test_errors_spell_out_what_a_terminal_would_obey(kind):
    error = kind(f"columns: {EVIL}\nnext line")
    assert not OBEYED & set(str(error)) and "\\x1b]0;owned" in str(error) and "\nnext line" in str(error)


def test_a_column_of_a_hostile_dataset_is_named_harmlessly(tmp_path, models):
    with pytest.raises(DataError) as caught:
        run_stage(config(tmp_path, models("qwen3"), [{EVIL: 1}]))
    assert "owned" in str(caught.value) and not OBEYED & set(str(caught.value))


def test_logs_spell_out_what_a_terminal_would_obey(caplog):
    logger = logging.getLogger("axolotl_safety_logs_of_a_test")
    log_plainly(logger)
    log_plainly(logger)
    assert len(logger.handlers) == 1
    logging.getLogger(f"{logger.name}.below").warning("said: %s and %r", EVIL, 3)
    assert "owned" in caplog.text and "and 3" in caplog.text and not OBEYED & set(caplog.text)
