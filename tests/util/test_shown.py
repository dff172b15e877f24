"""Our errors on the screen: the sentence alone, once and last, whoever started the process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from axolotl_safety.util.errors import ConfigError, StageError
from axolotl_safety.util.shown import _only_waits, sentence_of

ROOT = Path(__file__).parents[2]
FAILING = """
import sys, types
sys.modules["axolotl.utils.tee"] = types.SimpleNamespace(file_only_stream=open({log!r}, "a"))
from axolotl_safety.util.errors import ConfigError
from axolotl_safety.util.shown import show_plainly
show_plainly(); show_plainly()
def deep():
    raise {error}
deep()
"""
OURS = "ConfigError('safety.seed: must be a number. Write one.')"
# As `accelerate launch` and `axolotl evaluate` wait for what they start.
WAITING = """
import subprocess, sys
child = subprocess.Popen({command!r})
child.wait()
if child.returncode:
    raise subprocess.CalledProcessError(child.returncode, "child")
"""


def run(tmp_path, error=OURS, above=(), **environ):
    """A process that fails below others, each of them a script of that name."""
    script = tmp_path / "failing.py"
    script.write_text(textwrap.dedent(FAILING).format(log=str(tmp_path / "debug.log"), error=error))
    command = [sys.executable, str(script)]
    for name, *arguments in reversed(above):
        waiting = tmp_path / name
        waiting.write_text(textwrap.dedent(WAITING).format(command=command))
        command = [sys.executable, str(waiting), *arguments]
    inherited = {key: value for key, value in os.environ.items() if key not in ("RANK", "TORCHELASTIC_ERROR_FILE")}
    return subprocess.run(
        command, env=inherited | {"PYTHONPATH": str(ROOT)} | environ, capture_output=True, text=True, timeout=60
    )


ACCELERATE = ("accelerate", "launch", "-m", "axolotl.cli.train", "my.yml")
EVALUATE = ("axolotl", "evaluate", "my.yml")


@pytest.mark.parametrize(
    ("above", "code"),
    [
        ((), 1),
        ((ACCELERATE,), -signal.SIGTERM),
        ((EVALUATE, ACCELERATE), -signal.SIGTERM),
    ],
)
def test_the_sentence_stands_alone_and_once(tmp_path, above, code):
    done = run(tmp_path, above=above)
    assert done.stderr == "\nError: safety.seed: must be a number. Write one.\n" and done.stdout == ""
    assert done.returncode == code
    assert "in deep" in (tmp_path / "debug.log").read_text()


def test_a_sweep_goes_on_and_another_parent_is_left_alone(tmp_path):
    sweep = run(tmp_path, above=(("axolotl", "train", "my.yml", "--sweep=s.yml"), ACCELERATE))
    assert sweep.returncode == 1 and "died with <Signals.SIGTERM" in sweep.stderr
    other = run(tmp_path, above=(("accelerate", "launch", "mine.py"),))
    assert other.returncode == 1 and other.stderr.count("Error: safety.seed") == 1


@pytest.mark.parametrize(
    ("words", "waits"),
    [
        (["/v/bin/python", "/v/bin/axolotl", "train", "a.yml"], True),
        (["axolotl", "evaluate", "a.yml"], True),
        (["/v/bin/python3.12", "/v/bin/axolotl", "train", "a.yml", "--sweep=s.yml"], False),
        (["SCREEN", "axolotl", "train", "a.yml"], False),
        (["timeout", "60", "axolotl", "train"], False),
        (["bash", "axolotl"], False),
        ([], False),
    ],
)
def test_only_axolotl_itself_is_ended_above_a_launcher(words, waits):
    assert _only_waits(words, first=False) is waits


def test_a_variable_brings_the_traceback_back(tmp_path):
    done = run(tmp_path, AXOLOTL_SAFETY_TRACEBACK="1")
    assert "in deep" in done.stderr and "Traceback" in done.stderr and done.returncode == 1


@pytest.mark.parametrize("name", ["SafetyPlugn", "Safety", "safety_plugin"])
def test_a_plugin_that_does_not_exist_is_named_alone(tmp_path, name):
    done = run(tmp_path, error=f"getattr(__import__('axolotl_safety'), {name!r})")
    said = f"plugins: 'axolotl_safety.{name}' does not exist. Write axolotl_safety.SafetyPlugin."
    assert done.stderr == f"\nError: {said}\n" and done.returncode == 1


def test_anothers_error_is_shown_as_before(tmp_path):
    done = run(tmp_path, "KeyError('theirs')")
    assert "in deep" in done.stderr and "Error: " not in done.stderr.replace("KeyError: ", "")


def test_the_first_rank_is_the_one_that_torchrun_shows(tmp_path):
    file = tmp_path / "error.json"
    done = run(tmp_path, RANK="0", TORCHELASTIC_ERROR_FILE=str(file))
    assert done.returncode == 1 and done.stderr == ""
    said = json.loads(file.read_text())
    assert said["message"] == "safety.seed: must be a number. Write one." and said["timestamp"] > 1.7e9
    script = "import axolotl_safety.util.shown as shown; shown._FIRST_RANK_SECONDS = 60\n"
    waiting = subprocess.Popen(
        [sys.executable, "-c", script + FAILING.format(log=os.devnull, error=OURS)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "RANK": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    with pytest.raises(subprocess.TimeoutExpired):  # it waits for the first one's sentence
        waiting.communicate(timeout=1.5)
    waiting.kill()
    assert waiting.communicate()[1] == ""


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    seed: int = 0


class Whole(BaseModel):
    safety: Inner | None = None
    other: int = 0


def fault(**values):
    with pytest.raises(ValueError) as raised:
        Whole(**values)
    return raised.value


def test_whose_sentence_it_is():
    outer = RuntimeError("somebody's wrapper")
    outer.__cause__ = StageError("ours")
    assert sentence_of(outer) == "ours" and sentence_of(ConfigError("mine")) == "mine"
    said = sentence_of(fault(safety={"seed": "x\x1b"}))
    assert "safety.seed: Input should be a valid integer" in said and "\x1b" not in said
    assert sentence_of(fault(safety={"seed": "x"}, other="y")) is None
    assert sentence_of(fault(other="y")) is None and sentence_of(KeyError("x")) is None
