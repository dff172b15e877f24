"""The machine that was measured: card, driver, versions, date; without importing torch, which would take the card."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from axolotl_safety.engines.gpu.gpus import Gpu, read_gpus
from axolotl_safety.util.version import __version__

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "safetensors", "nvidia-ml-py")


def cards() -> tuple[Gpu, ...]:
    """The visible GPUs."""
    return read_gpus()


def first_card(device: str) -> dict[str, str]:
    """Variables that show a process one card, or none: `transformers.Trainer` would take all."""
    names = [card.name for card in cards()[:1]] if device == "cuda" else []
    # NVML counts by PCI bus; CUDA does when it is told.
    return {"CUDA_VISIBLE_DEVICES": ",".join(names), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def about(device: str) -> dict[str, Any]:
    """What stands beside the figures."""
    found = cards()[:1] if device == "cuda" else ()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device,
        "card": found[0].card if found else None,
        "card_memory_bytes": found[0].total_bytes if found else None,
        "driver": _driver() if found else None,
        "cpus": os.cpu_count(),
        "main_memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "machine": platform.machine(),
        "versions": {"python": platform.python_version(), "axolotl-safety": __version__}
        | {name: _version(name) for name in LIBRARIES},
    }


def _driver() -> dict[str, Any]:
    import pynvml

    pynvml.nvmlInit()
    try:
        cuda = pynvml.nvmlSystemGetCudaDriverVersion()
        return {"version": str(pynvml.nvmlSystemGetDriverVersion()), "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}"}
    finally:
        pynvml.nvmlShutdown()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
