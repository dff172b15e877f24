"""Which engine runs, and how it is started."""

from __future__ import annotations

import json
import logging
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axolotl_safety.config import EngineConfig
from axolotl_safety.config.engine import BACKENDS
from axolotl_safety.engines.gpu.gpus import read_gpus
from axolotl_safety.engines.local.launch import child_environment
from axolotl_safety.util.errors import ConfigError

from .base import Backend, Engine, ModelSpec

LOG = logging.getLogger(__name__)
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


Ask = Callable[[str | None], Interpreter]


def backend_named(name: str) -> Backend:
    """The record of a backend in the table `config.engine.BACKENDS`."""
    return pkgutil.resolve_name(BACKENDS[name])


def choose_backend(
    engine: EngineConfig,
    ask: Ask = ask_interpreter,
    has_gpu: Callable[[], bool] = lambda: bool(read_gpus()),
) -> str:
    """Resolve ``engine.backend: auto`` and check that the interpreter is there.

    ``auto`` is vLLM where there is a GPU and a vLLM for it, else transformers. On a CPU vLLM must be asked for.

    Args:
        engine: the user's section.
        ask: what an interpreter could run.
        has_gpu: whether this machine shows one.

    Raises:
        ConfigError: the interpreter or the backend is missing or does not fit.
    """
    name = engine.backend
    if name == "auto":
        found = look_at(engine, ask)
        name = "vllm" if found.vllm_fits and has_gpu() else "transformers"
        why = f"vLLM {found.vllm}" if found.vllm else "no vLLM"
        LOG.info("engine: %s (%s in %s)", name, why, found.python)
    return backend_named(name).resolve(engine, ask, has_gpu)


def look_at(engine: EngineConfig, ask: Ask) -> Interpreter:
    """What the interpreter that the section names, or this one, could run.

    Raises:
        ConfigError: it is not there, or does not run.
    """
    if engine.python and not Path(engine.python).is_file():
        raise ConfigError(
            f"safety.engine.python {engine.python!r} is not there. Give the path of another environment's "
            "interpreter, such as /opt/vllm/bin/python, or remove the key."
        )
    found = ask(engine.python)
    if found.fault:
        raise ConfigError(
            f"safety.engine.python: {found.python} does not run: {found.fault}. Name another interpreter."
        )
    return found


def start_engine(
    engine: EngineConfig,
    backend: str,
    work_dir: Path,
    models: Mapping[str, ModelSpec],
    base_model: str = "",
    tokenizer: Any = None,
) -> Engine:
    """An engine that serves these models, in processes of its own that start with the first request.

    Args:
        engine: the YAML's section.
        backend: from `choose_backend`.
        work_dir: where logs go.
        models: by the name that requests use.
        base_model: the target's name as the YAML has it, which a server is asked for.
        tokenizer: the target's, to compare with a server's.

    Raises:
        ConfigError: the models do not fit the GPUs, or there are fewer GPUs than asked for.
        EngineError: Ray does not start.
    """
    record = backend_named(backend if engine.backend == "auto" else engine.backend)
    return record.start(engine, backend, work_dir, models, base_model, tokenizer)
