"""The GPUs that this process may use, and who holds how much of their memory: by NVML, without touching CUDA."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One card (or MIG instance) at one moment.

    Attributes:
        name: as ``CUDA_VISIBLE_DEVICES`` names it: an index, a ``GPU-`` or a ``MIG-`` identifier.
        used_bytes: memory in use, by whomever.
        processes: bytes by process id; None where the driver does not tell.
        card: what the driver calls its kind.
    """

    name: str
    total_bytes: int
    used_bytes: int
    processes: Mapping[int, int | None]
    card: str = ""


def visible_names(environ: Mapping[str, str], uuids: Sequence[str]) -> tuple[str, ...]:
    """The names of the GPUs that CUDA would show, by CUDA's own rule: the list ends at the first name that is wrong.

    Args:
        environ: whose ``CUDA_VISIBLE_DEVICES`` counts; unset shows all, empty shows none.
        uuids: identifiers of the machine's GPUs, by index.
    """
    asked = environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return tuple(str(index) for index in range(len(uuids)))
    names: list[str] = []
    for name in (part.strip() for part in asked.split(",")):
        by_index = name.isdigit() and int(name) < len(uuids)
        by_uuid = name.startswith("GPU-") and sum(uuid.startswith(name) for uuid in uuids) == 1
        if not (by_index or by_uuid or (name.startswith("MIG-") and uuids)) or name in names:
            break
        names.append(name)
    return tuple(names)


def read_gpus(environ: Mapping[str, str] | None = None) -> tuple[Gpu, ...]:
    """The visible GPUs as they are now; empty without NVML or without a GPU.

    Indices count by PCI bus, as NVML does. CUDA counts the fastest first unless ``CUDA_DEVICE_ORDER`` says otherwise,
    which differs where the cards do.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no library, no driver, no GPU: each has its own error
        return ()
    try:
        cards = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        uuids = [_text(pynvml.nvmlDeviceGetUUID(card)) for card in cards]
        names = visible_names(os.environ if environ is None else environ, uuids)
        return tuple(_read(pynvml, name, _handle(pynvml, name, cards, uuids)) for name in names)
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def _handle(nvml: Any, name: str, cards: Sequence[Any], uuids: Sequence[str]) -> Any:
    if name.isdigit():
        return cards[int(name)]
    if name.startswith("MIG-"):
        return nvml.nvmlDeviceGetHandleByUUID(name.encode())
    return next(card for card, uuid in zip(cards, uuids, strict=True) if uuid.startswith(name))


def _read(nvml: Any, name: str, handle: Any) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    processes: dict[int, int | None] = {}
    for running in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        try:
            processes |= {process.pid: process.usedGpuMemory for process in running(handle)}
        except nvml.NVMLError:  # not every driver lists them
            continue
    return Gpu(name, int(memory.total), int(memory.used), processes, _text(nvml.nvmlDeviceGetName(handle)))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
