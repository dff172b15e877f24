"""Which engine runs, and how it is started."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    python = engine.python or sys.executable
    if engine.python and not Path(engine.python).is_file():
        raise ConfigError(
            f"safety.engine.python {engine.python!r} is not there. Give the path of another environment's "
            "interpreter, such as /opt/vllm/bin/python, or remove the key."
        )
    if engine.backend == "openai":
        return "openai"
    if engine.backend not in ("auto", "transformers"):
        raise ConfigError(
            f"safety.engine.backend: {engine.backend} is not part of this version yet. Use transformers, openai or "
            "auto."
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


def _can_import(python: str, module: str, here: bool) -> bool:
    # A folder of that name on the path, such as a clone of the repository, is a spec without an origin and no module.
    if here:
        spec = importlib.util.find_spec(module)
        return spec is not None and spec.origin is not None
    found = f"importlib.util.find_spec({module!r})"
    probe = f"import importlib.util, sys; sys.exit(getattr({found}, 'origin', None) is None)"
    try:
        return subprocess.run([python, "-c", probe], timeout=_PROBE_SECONDS, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def scores_at_any_temperature(backend: str) -> bool:
    """Whether an engine can score at other temperatures than 1: vLLM and its server tell raw log-probabilities only."""
    return backend not in ("vllm", "openai")


def start_engine(
    engine: EngineConfig,
    backend: str,
    work_dir: Path,
    models: Mapping[str, ModelSpec],
    base_model: str = "",
    tokenizer: Any = None,
) -> Engine:
    """An engine that serves these models, in a process of its own that starts with the first request.

    Args:
        engine: the YAML's section.
        backend: from `choose_backend`.
        work_dir: where logs go.
        models: by the name that requests use.
        base_model: the target's name as the YAML has it, which a server is asked for.
        tokenizer: the target's, to compare with a server's.

    Raises:
        ConfigError: backend ``openai``, and the server cannot be the engine.
    """
    from .client import WorkerEngine

    if backend == "openai":
        return _served(engine, work_dir, models, base_model, tokenizer)
    return WorkerEngine(
        backend=backend,
        python=engine.python,
        work_dir=work_dir,
        models=models,
        batch_size=engine.batch_size,
        stall_seconds=engine.stall_seconds,
    )


def _served(
    engine: EngineConfig, work_dir: Path, models: Mapping[str, ModelSpec], base_model: str, tokenizer: Any
) -> Engine:
    """The target's server, checked; what else there is to run (guard models) runs here, as with backend auto."""
    from .routed import RoutedEngine
    from .server_engine import ServerEngine, server_of

    server = ServerEngine(server_of(engine, base_model or models["target"].path), tokenizer)
    server.check()
    others = {name: spec for name, spec in models.items() if name != "target"}
    if not others:
        return server
    here = EngineConfig(python=engine.python, batch_size=engine.batch_size, stall_seconds=engine.stall_seconds)
    local = start_engine(here, choose_backend(here), work_dir, others)
    return RoutedEngine({"target": server} | dict.fromkeys(others, local))
