"""Lanes on a Ray cluster. Ray Core alone, and little of it: queue, journal and what follows a crash are ours.

``ray.data.llm`` pins versions of vLLM that do not go with Axolotl's, and brings a journal and retries of its own.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axolotl_safety.config import EngineConfig
from axolotl_safety.engines.base import Backend, Engine, EngineError, ModelSpec
from axolotl_safety.engines.choose import choose_backend
from axolotl_safety.engines.gpu.gpus import read_gpus
from axolotl_safety.engines.gpu.vllm_settings import read_needs, tensor_parallel_size
from axolotl_safety.engines.local.backends import worker_sizes
from axolotl_safety.engines.local.engine import WorkerEngine
from axolotl_safety.engines.local.launch import WORKER
from axolotl_safety.util.errors import ConfigError

from .child import RayChild, actor_class, first_line, shipped_files

LOG = logging.getLogger(__name__)
# What the driver says about the hub holds for the nodes; tokens are the nodes' own business.
_FORWARDED = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")


@dataclass
class RayLauncher:
    """Starts replicas as actors of a Ray cluster.

    Attributes:
        ray: the module, connected.
        ours: whether the connection ends with the engine; a training run's own Ray stays.
        python: interpreter of the workers on the nodes; None means that of the nodes' Ray.
        gpus: GPUs per replica; 0 on a cluster without.
        replicas_per_node: replicas that share a node's cores, where no GPU does the work.
        worker_path: script or folder that the interpreter runs.
    """

    ray: Any
    ours: bool
    python: str | None = None
    gpus: int = 0
    replicas_per_node: int = 1
    worker_path: Path = WORKER

    def start(self, arguments: Sequence[str], replica: int, log_path: Path) -> RayChild:
        """Asks for an actor; it is placed, and its worker started, while other replicas go on."""
        start = "worker" if self.worker_path.is_dir() else f"worker/{self.worker_path.name}"
        # No cores are asked for: training's own workers may hold all of them.
        options = {"num_cpus": 0, "num_gpus": self.gpus, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        actor = (
            self.ray.remote(actor_class())
            .options(**options)
            .remote(
                shipped_files(self.worker_path),
                start,
                arguments=list(arguments),
                python=self.python,
                replicas_here=None if self.gpus else self.replicas_per_node,
                environ=forwarded(os.environ),
            )
        )
        needs = f"{self.gpus} GPU(s) on one node" if self.gpus else "a node, whatever it holds"
        return RayChild(self.ray, actor, replica, needs, log_path)

    async def wait(self, children: Sequence[RayChild], news: asyncio.Event, seconds: float) -> None:
        """Waits until one of these children has something to say; a call to an actor is never long."""
        for child in children:
            child.flush()
        pending = [child.pending for child in children if child.pending is not None]
        if not pending:
            await asyncio.sleep(0)
            return
        await asyncio.to_thread(self.ray.wait, pending, num_returns=1, timeout=seconds)

    def close(self) -> None:
        """Shuts Ray down, if it was started here: a training run's Ray stays."""
        if self.ours and self.ray.is_initialized():
            self.ours = False
            self.ray.shutdown()


def connect(address: str | None) -> tuple[Any, bool]:
    """The Ray module, connected, and whether the connection was made here.

    Raises:
        EngineError: there is no cluster at the address, or Ray does not start.
    """
    # Read when Ray starts its processes: nothing is sent anywhere, and workers are as urgent as any other process.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own is 15: beside other work our worker would starve
    import ray

    if ray.is_initialized():
        return ray, False
    if address is None:
        # The smallest object store: messages are small, and none outlives its reading.
        options: dict[str, Any] = {"address": "local", "num_cpus": os.cpu_count(), "object_store_memory": 100 << 20}
        options["include_dashboard"] = False
    else:
        options = {"address": address}
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.WARNING)
    except Exception as error:  # ConnectionError, ValueError, bare Exception: by the way in which it failed
        where = "on this machine" if address is None else f"at safety.engine.ray_address {address!r}"
        raise EngineError(
            f"Ray did not start {where}: {first_line(error)}. Check that `ray status` shows the cluster, that the "
            "versions of Ray and Python are the cluster's, and Ray's logs under /tmp/ray; or use backend: auto."
        ) from error
    return ray, True


def ray_launcher(
    engine: EngineConfig, worker: str, models: Mapping[str, ModelSpec], worker_path: Path = WORKER
) -> tuple[RayLauncher, int]:
    """Connects, and decides how many replicas there are and what each asks for.

    Args:
        engine: the configuration; ``ray_address``, ``replicas``, ``tensor_parallel_size``, ``python``.
        worker: what runs in the actors.
        models: for the size of a tensor-parallel group. The nodes' GPUs are taken to be as large as this machine's.
        worker_path: script or folder that the interpreter runs; for tests.

    Returns:
        The launcher, and the number of replicas.

    Raises:
        EngineError: Ray does not start, or the cluster has too few GPUs.
    """
    ray, ours = connect(engine.ray_address)
    try:
        gpus = node_gpus(ray)
        group = engine.tensor_parallel_size or 1
        if worker == "vllm" and any(gpus):
            cards = read_gpus()
            if not cards:
                raise EngineError(
                    "This machine shows no GPU, and vLLM must be told how large the Ray nodes' are. Start the run on "
                    "one of the nodes that have GPUs, or set safety.engine.ray_worker: transformers."
                )
            if engine.tensor_parallel_size is None and max(gpus) > 1:
                smallest = min(card.total_bytes for card in cards)
                group = tensor_parallel_size(engine, read_needs(models, on_cpu=False), smallest, max(gpus))
        room = cluster_replicas(gpus, group)
        replicas = room if engine.replicas == "auto" else engine.replicas
        if replicas < 1 or (any(gpus) and replicas > room):
            raise EngineError(
                f"safety.engine: replicas {engine.replicas} with {group} GPU(s) each, but the Ray cluster's nodes have "
                f"{gpus} GPUs: room for {room}. Lower replicas or tensor_parallel_size."
            )
    except BaseException:
        if ours:
            ray.shutdown()
        raise
    LOG.info("engine: %d replicas on a Ray cluster of %d nodes with %s GPUs", replicas, len(gpus), gpus)
    wanted = group if any(gpus) else 0
    return RayLauncher(ray, ours, engine.python, wanted, -(-replicas // len(gpus)), worker_path), replicas


def node_gpus(ray: Any) -> list[int]:
    """GPUs of every node that is alive."""
    return [int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]]


def cluster_replicas(gpus_by_node: Sequence[int], group: int) -> int:
    """Lanes that a cluster has room for: one per group of GPUs on one node; without GPUs, one per node."""
    if not any(gpus_by_node):
        return max(1, len(gpus_by_node))
    return sum(gpus // group for gpus in gpus_by_node)


def forwarded(environ: Mapping[str, str]) -> dict[str, str]:
    """What of the driver's environment goes to the workers."""
    return {name: environ[name] for name in _FORWARDED if name in environ}


def _resolve(engine: EngineConfig, ask: Any, has_gpu: Any) -> str:
    """What runs in the actors. The nodes cannot be asked before Ray runs, so ``auto`` asks this machine."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            'safety.engine.backend: ray needs Ray, which is not installed: pip install "axolotl-safety[ray]".'
        )
    if engine.ray_worker != "auto":
        return engine.ray_worker
    python = engine.python if engine.python and Path(engine.python).is_file() else None
    return choose_backend(EngineConfig(python=python), ask, has_gpu)


def _start(engine: EngineConfig, backend: str, work_dir: Path, models: Mapping[str, ModelSpec], *_: Any) -> Engine:
    launcher, replicas = ray_launcher(engine, backend, models)
    try:
        sizes = worker_sizes(engine, backend, models, read_gpus(), max(1, launcher.gpus))
        options = {"stall_seconds": engine.stall_seconds, "replicas": replicas, "launcher": launcher}
        return WorkerEngine(backend, work_dir, models, **sizes, **options)
    except BaseException:
        launcher.close()
        raise


RAY = Backend("ray", _start, _resolve, local=True)
