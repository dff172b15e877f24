"""Which engine runs, and how it is started."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from axolotl_safety.config import EngineConfig
from axolotl_safety.engines.gpu.gpus import Gpu, read_gpus
from axolotl_safety.engines.local.launch import child_environment
from axolotl_safety.util.errors import ConfigError

from .base import Engine, ModelSpec

LOG = logging.getLogger(__name__)
OLDEST, NEWEST = (0, 20), (0, 32)  # of vLLM: what the worker's API was tried with or read in
_PROBE = Path(__file__).parent / "worker" / "probe.py"
_SECONDS = 120
_RANGE = f"vLLM {OLDEST[0]}.{OLDEST[1]} or newer (tried up to {NEWEST[0]}.{NEWEST[1]})"
_SECOND_ENVIRONMENT = (
    "Axolotl 0.19 can share an environment with vllm>=0.20,<0.24; any other goes into one of its own "
    "(python -m venv /opt/vllm && /opt/vllm/bin/pip install vllm) that engine.python names: /opt/vllm/bin/python. "
    "backend: transformers needs neither"
)


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


def scores_at_any_temperature(backend: str) -> bool:
    """Whether a backend gives log p at the sampling temperature, which ``choice: resample`` weighs by.

    vLLM's ``prompt_logprobs`` are those of temperature 1, in the worker as in a server.
    """
    return backend == "transformers"


def choose_backend(
    engine: EngineConfig,
    ask: Callable[[str | None], Interpreter] = ask_interpreter,
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
    if engine.backend == "ray":
        return _ray_worker(engine, ask, has_gpu)
    if engine.python and not Path(engine.python).is_file():
        raise ConfigError(
            f"safety.engine.python {engine.python!r} is not there. Give the path of another environment's "
            "interpreter, such as /opt/vllm/bin/python, or remove the key."
        )
    if engine.backend == "openai":
        return "openai"
    found = ask(engine.python)
    if found.fault:
        raise ConfigError(
            f"safety.engine.python: {found.python} does not run: {found.fault}. Name another interpreter."
        )
    backend = engine.backend
    if backend == "auto":
        backend = "vllm" if found.vllm_fits and has_gpu() else "transformers"
        why = f"vLLM {found.vllm}" if found.vllm else "no vLLM"
        LOG.info("engine: %s (%s in %s)", backend, why, found.python)
    if backend == "vllm" and not found.vllm_fits:
        seen = f"has vLLM {found.vllm or 'of an unknown version'}" if found.vllm is not None else "has no vLLM"
        raise ConfigError(
            f"safety.engine.backend: vllm: {found.python} {seen}; wanted is {_RANGE}. {_SECOND_ENVIRONMENT}."
        )
    if backend == "transformers" and not found.transformers:
        raise ConfigError(
            f"safety.engine.backend: transformers cannot be imported by {found.python}; install it there."
        )
    if backend == "transformers" and engine.quantization == "fp8":
        raise ConfigError(
            "safety.engine.quantization: fp8 needs vLLM, and the engine is transformers. Use bitsandbytes."
        )
    return backend


def _ray_worker(
    engine: EngineConfig, ask: Callable[[str | None], Interpreter], has_gpu: Callable[[], bool]
) -> Literal["vllm", "transformers"]:
    """What runs in the actors. The nodes cannot be asked before Ray runs, so ``auto`` asks this machine."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            'safety.engine.backend: ray needs Ray, which is not installed: pip install "axolotl-safety[ray]".'
        )
    if engine.ray_worker != "auto":
        return engine.ray_worker
    python = engine.python if engine.python and Path(engine.python).is_file() else None
    return choose_backend(EngineConfig(python=python), ask, has_gpu)


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
    if backend == "openai":
        return _served(engine, work_dir, models, base_model, tokenizer)
    from axolotl_safety.engines.local.engine import WorkerEngine

    common = {"backend": backend, "work_dir": work_dir, "models": models, "stall_seconds": engine.stall_seconds}
    if engine.backend == "ray":
        from axolotl_safety.engines.ray.cluster import ray_launcher

        launcher, lanes = ray_launcher(engine, backend, models)
        try:
            sizes = _sizes(engine, backend, models, read_gpus(), max(1, launcher.gpus))
            return WorkerEngine(**common, **sizes, replicas=lanes, launcher=launcher)
        except BaseException:
            launcher.close()
            raise
    from axolotl_safety.engines.gpu.placement import plan_placement

    placement = plan_placement(engine, backend, models)
    used = {name for lane in placement.devices for name in lane}
    cards = [card for card in read_gpus() if card.name in used]
    return WorkerEngine(
        **common,
        **_sizes(engine, backend, models, cards, placement.tensor_parallel_size),
        python=engine.python,
        replicas=placement.replicas,
        devices=placement.devices,
        threads=placement.threads,
    )


def _sizes(
    engine: EngineConfig, backend: str, models: Mapping[str, ModelSpec], cards: Sequence[Gpu], group: int
) -> dict[str, Any]:
    """How much a worker does at once, and what vLLM is told about memory."""
    if backend != "vllm":
        return {"batch_size": engine.batch_size}
    from axolotl_safety.engines.gpu.vllm_settings import max_num_seqs, read_needs, worker_options

    options = worker_options(engine, read_needs(models, on_cpu=not cards), cards, group)
    return {"batch_size": max_num_seqs(engine), "options": options}


def _served(
    engine: EngineConfig, work_dir: Path, models: Mapping[str, ModelSpec], base_model: str, tokenizer: Any
) -> Engine:
    """The target's server; what else there is to run (guard models) runs here, as with backend auto."""
    from axolotl_safety.engines.openai.engine import ServerEngine, server_of
    from axolotl_safety.engines.openai.routed import RoutedEngine

    server = ServerEngine(server_of(engine, base_model or models["target"].path), tokenizer)
    others = {name: spec for name, spec in models.items() if name != "target"}
    if not others:
        return server
    here = EngineConfig(python=engine.python, batch_size=engine.batch_size, stall_seconds=engine.stall_seconds)
    local = start_engine(here, choose_backend(here), work_dir, others)
    return RoutedEngine(server, local)
