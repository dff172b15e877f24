"""Which engines an interpreter can run, asked once and without importing them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .environment import child_environment

OLDEST, NEWEST = (0, 20), (0, 32)  # of vLLM: what the worker's API was tried with or read in
_PROBE = Path(__file__).parent / "worker" / "probe.py"
_SECONDS = 120


@dataclass(frozen=True)
class Interpreter:
    """What was found.

    Attributes:
        python: path of the interpreter.
        vllm: version, "" where it could not be read, None without vLLM.
        transformers: whether it is there.
        fault: why the interpreter gave no answer, else "".
    """

    python: str
    vllm: str | None
    transformers: bool
    fault: str = ""

    @property
    def vllm_fits(self) -> bool:
        """Whether there is a vLLM that the worker knows how to use."""
        found = re.match(r"(\d+)\.(\d+)", self.vllm or "")
        return bool(found) and (int(found[1]), int(found[2])) >= OLDEST


def ask_interpreter(python: str | None) -> Interpreter:
    """Asks an interpreter, None for this one, what it could import."""
    path = python or sys.executable
    other = os.path.abspath(path) != os.path.abspath(sys.executable)
    environ = child_environment(os.environ, other_python=other)
    try:
        done = subprocess.run([path, str(_PROBE)], env=environ, capture_output=True, timeout=_SECONDS, check=True)
        said = json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        return Interpreter(path, None, False, error.stderr.decode(errors="replace").strip()[-300:] or str(error))
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return Interpreter(path, None, False, f"{type(error).__name__}: {error}")
    return Interpreter(path, said["vllm"], said["transformers"])
