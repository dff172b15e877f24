"""Which engine runs, and how it is started."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ..config import EngineConfig
from ..errors import ConfigError
from .base import Engine, ModelSpec

LOG = logging.getLogger(__name__)
_PROBE_SECONDS = 120


def choose_backend(engine: EngineConfig) -> str:
    """Resolve ``engine.backend: auto`` and check that the interpreter is there.

    Raises:
        ConfigError: the interpreter or the backend is missing.
    """
    if engine.backend == "ray":
        return _ray_worker(engine)
    python = engine.python or sys.executable
    if engine.python and not Path(engine.python).is_file():
        raise ConfigError(
            f"safety.engine.python {engine.python!r} is not there. Give the path of another environment's "
            "interpreter, such as /opt/vllm/bin/python, or remove the key."
        )
    if engine.backend not in ("auto", "transformers"):
        raise ConfigError(
            f"safety.engine.backend: {engine.backend} is not part of this version yet. Use transformers or auto."
        )
    if engine.backend == "transformers":
        found = _can_import(python, "transformers", engine.python is None)
        if not found:
            raise ConfigError(f"safety.engine.backend: transformers cannot be imported by {python}; install it there.")
        return "transformers"
    if _can_import(python, "vllm", engine.python is None):
        LOG.info("engine: vLLM can be imported by %s, but this version has no vLLM worker yet: transformers", python)
    else:
        LOG.info("engine: transformers (vLLM cannot be imported by %s)", python)
    return "transformers"


def _ray_worker(engine: EngineConfig) -> str:
    """What runs in the actors. The nodes cannot be asked before Ray runs, so ``auto`` asks this machine."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            'safety.engine.backend: ray needs Ray, which is not installed: pip install "axolotl-safety[ray]".'
        )
    if engine.ray_worker != "auto":
        return engine.ray_worker
    local = EngineConfig(python=engine.python if engine.python and Path(engine.python).is_file() else None)
    return choose_backend(local)


def _can_import(python: str, module: str, here: bool) -> bool:
    if here:
        return importlib.util.find_spec(module) is not None
    probe = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    try:
        return subprocess.run([python, "-c", probe], timeout=_PROBE_SECONDS, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def start_engine(engine: EngineConfig, backend: str, work_dir: Path, models: Mapping[str, ModelSpec]) -> Engine:
    """An engine that serves these models, in processes of its own that start with the first request.

    Raises:
        ConfigError: the models do not fit the GPUs, or there are fewer GPUs than asked for.
        EngineError: Ray does not start.
    """
    from .client import WorkerEngine

    common = {
        "backend": backend,
        "work_dir": work_dir,
        "models": models,
        "batch_size": engine.batch_size,
        "stall_seconds": engine.stall_seconds,
    }
    if engine.backend == "ray":
        from .ray_cluster import ray_launcher

        launcher, lanes = ray_launcher(engine, backend, models)
        return WorkerEngine(**common, replicas=lanes, launcher=launcher)
    from .placement import plan_placement

    placement = plan_placement(engine, backend, models)
    return WorkerEngine(
        **common,
        python=engine.python,
        replicas=placement.replicas,
        devices=placement.devices,
        threads=placement.threads,
    )
