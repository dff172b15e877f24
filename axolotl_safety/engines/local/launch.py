"""How a replica's child is started: here, in a session of its own, with its share of the GPUs and cores."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from . import process

WORKER = Path(__file__).parents[1] / "worker"


class Process(Protocol):
    """A child as a replica sees it, wherever it runs.

    Attributes:
        pid: its process id on its machine; 0 while that is not known.
        name: what to call it in messages.
        log_path: where its log can be read here.
        started_at: by ``time.monotonic``.
        peak_rss_bytes: of what is known so far.
        ended: nothing more will come from it.
    """

    pid: int
    name: str
    log_path: Path
    started_at: float
    peak_rss_bytes: int
    ended: bool

    def send(self, message: dict[str, Any]) -> None:
        """Queues a message."""

    def flush(self) -> None:
        """Sets off what is queued."""

    def poll(self, seconds: float) -> list[dict[str, Any]]:
        """Waits at most ``seconds`` for messages and returns them."""

    def ask_to_end(self) -> None:
        """Asks it to end, without waiting."""

    def end(self, grace_seconds: float) -> str:
        """Ends it and verifies that nothing is left; returns how it ended. Raises EngineError."""

    def cause(self) -> str:
        """How it ended, in words."""

    def log_tail(self) -> str:
        """The last lines of its log."""


class Launcher(Protocol):
    """Where children run."""

    def start(self, arguments: Sequence[str], index: int, log_path: Path) -> Process:
        """Starts a worker with these arguments for a replica. Raises EngineError."""

    async def wait(self, children: Sequence[Any], news: asyncio.Event, seconds: float) -> None:
        """Waits until one of these children has something to say, or until there is news."""

    def close(self) -> None:
        """Gives back what the launcher itself holds, once its children are gone."""


@dataclass(frozen=True)
class LocalLauncher:
    """Children of this process.

    Attributes:
        python: interpreter; None means this one.
        worker_path: script or folder that the interpreter runs.
        devices: per replica, the GPUs as ``CUDA_VISIBLE_DEVICES`` names them; empty leaves the variable alone.
        threads: CPU threads of a child's libraries; None leaves the choice to them.
    """

    python: str | None = None
    worker_path: str | Path = WORKER
    devices: tuple[tuple[str, ...], ...] = ()
    threads: int | None = None

    def start(self, arguments: Sequence[str], index: int, log_path: Path) -> process.Child:
        """Starts a worker with these arguments for a replica. Raises EngineError."""
        python = self.python or sys.executable
        command = [python, str(self.worker_path), *arguments]
        if threading.current_thread() is threading.main_thread():
            # The kernel's parent-death signal fires when the *thread* that started the child ends, so only from here.
            command.append("--die-with-parent")
        environ = child_environment(
            os.environ,
            # Not by what links point at: two environments often share the interpreter that theirs link to.
            other_python=os.path.abspath(python) != os.path.abspath(sys.executable),
            devices=self.devices[index] if self.devices else None,
            threads=self.threads,
        )
        return process.Child(command, environ, log_path)

    async def wait(self, children: Sequence[process.Child], news: asyncio.Event, seconds: float) -> None:
        """Waits until one of these children has something to say or takes more, or until there is news."""
        loop, places = asyncio.get_running_loop(), [child.fileno() for child in children]
        for place in places:
            loop.add_reader(place, news.set)
        try:
            async with asyncio.timeout(seconds):
                await news.wait()
        except TimeoutError:
            pass
        finally:
            for place in places:
                loop.remove_reader(place)

    def close(self) -> None:
        """Nothing is held here."""


# A child that sees torchrun's rendezvous believes that it is a rank and waits for the others.
_LAUNCHER_NAMES = frozenset(
    """RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK GROUP_WORLD_SIZE NODE_RANK MASTER_ADDR MASTER_PORT
    NCCL_ASYNC_ERROR_HANDLING TORCH_NCCL_ASYNC_ERROR_HANDLING TORCH_DISTRIBUTED_DEBUG
    CROSS_RANK AXOLOTL_IS_PREPROCESS PMI_RANK PMI_SIZE OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE
    OMPI_COMM_WORLD_LOCAL_RANK OMPI_COMM_WORLD_LOCAL_SIZE""".split()
)
_LAUNCHER_PREFIXES = ("ROLE_", "ACCELERATE_", "TORCHELASTIC_", "FSDP_", "DEEPSPEED_", "RAY_")
_ALLOCATOR_NAMES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
# These tie an interpreter to one installation; another interpreter would import the wrong packages.
_INTERPRETER_NAMES = frozenset(("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"))


def child_environment(
    environ: Mapping[str, str],
    other_python: bool = False,
    devices: Sequence[str] | None = None,
    threads: int | None = None,
) -> dict[str, str]:
    """Builds the environment of an engine's child.

    Args:
        environ: the parent's environment; it is not changed.
        other_python: whether the child runs under another interpreter than the parent.
        devices: the GPUs that the child may see, as ``CUDA_VISIBLE_DEVICES`` names them; None changes nothing.
        threads: threads of the child's numeric libraries; None changes nothing.

    Returns:
        A copy without the launcher's variables (ranks, rendezvous, Accelerate, FSDP, Ray), without the allocator option
        ``expandable_segments`` (it breaks vLLM's sleep-mode allocator; the other options stay), and with the
        tokenizers' thread pool off. Everything else stays: ``HF_*``, ``CUDA_VISIBLE_DEVICES``, proxies.
    """
    child = {
        name: value
        for name, value in environ.items()
        if name not in _LAUNCHER_NAMES
        and not name.startswith(_LAUNCHER_PREFIXES)
        and not (other_python and name in _INTERPRETER_NAMES)
    }
    for name in _ALLOCATOR_NAMES:
        if name in child:
            options = [option.strip() for option in child[name].split(",")]
            kept = [option for option in options if option and not option.startswith("expandable_segments")]
            if kept:
                child[name] = ",".join(kept)
            else:
                del child[name]
    child["TOKENIZERS_PARALLELISM"] = "false"
    if devices is not None:
        child["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    if threads is not None:
        child["OMP_NUM_THREADS"] = str(threads)
    return child
