"""Graphics cards: their figures, by name or as this machine reports them."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace

from axolotl_safety.engines.gpu.gpus import read_gpus
from axolotl_safety.util.errors import ConfigError


@dataclass(frozen=True)
class Card:
    """One graphics card.

    Attributes:
        name: as it is written for ``--gpu``, or as the driver calls an unknown one.
        memory_bytes: as the driver reports it, which is a little less than the box says.
        bandwidth: of its memory in bytes per second; None for a card that is not in the table.
        flops: dense bfloat16 (before Ampere: float16) with float32 accumulation, per second; None likewise.
        capability: CUDA compute capability; 8.0 is the first with bfloat16, 8.9 the first that computes in fp8.
    """

    name: str
    memory_bytes: int
    bandwidth: float | None = None
    flops: float | None = None
    capability: float | None = None


# MiB as nvidia-smi shows them, GB/s, dense TFLOPS, compute capability. Bandwidth and TFLOPS are from NVIDIA's data
# sheets and architecture white papers (GA102, AD102, GB202 appendices for GeForce: "FP16 Tensor with FP32 Accumulate",
# without sparsity; A100, H100, H200, L4, L40S, A10, T4, V100 data sheets, halved where the sheet counts sparsity) and
# from AMD's MI300X data sheet.
_TABLE = {
    "rtx3060": (12288, 360, 25.5, 8.6),
    "rtx3090": (24576, 936, 71, 8.6),
    "rtx4060ti-16": (16380, 288, 44, 8.9),
    "rtx4070": (12282, 504, 58, 8.9),
    "rtx4070tisuper": (16376, 672, 88, 8.9),
    "rtx4080": (16376, 717, 97, 8.9),
    "rtx4090": (24564, 1008, 165, 8.9),
    "rtx5090": (32607, 1792, 209, 12.0),
    "rtxa4000": (16376, 448, 77, 8.6),
    "rtxa5000": (24564, 768, 111, 8.6),
    "rtxa6000": (49140, 768, 155, 8.6),
    "rtx6000ada": (49140, 960, 364, 8.9),
    "l4": (23034, 300, 121, 8.9),
    "l40s": (46068, 864, 362, 8.9),
    "t4": (15360, 320, 65, 7.5),
    "v100-32": (32768, 900, 125, 7.0),
    "a10": (23028, 600, 125, 8.6),
    "a100-40": (40960, 1555, 312, 8.0),
    "a100-80": (81920, 2039, 312, 8.0),
    "h100": (81559, 3350, 989, 9.0),
    "h200": (143771, 4800, 989, 9.0),
    "mi300x": (196592, 5300, 1307, None),
}
CARDS = {
    name: Card(name, mib << 20, gigabytes * 1e9, teraflops * 1e12, capability)
    for name, (mib, gigabytes, teraflops, capability) in _TABLE.items()
}
_BRANDS = {"nvidia", "geforce", "tesla", "quadro", "amd", "instinct", "graphics"}


def _plain(name: str) -> str:
    """``NVIDIA A100-SXM4-80GB`` becomes ``a100sxm480gb``."""
    return "".join(word for word in re.split(r"[^a-z0-9]+", name.lower()) if word not in _BRANDS)


def named_card(name: str) -> Card:
    """The card that a user means.

    Raises:
        ConfigError: no such card in the table; the message names the nearest.
    """
    plain = _plain(name)
    keys = {_plain(key): key for key in CARDS} | {_plain(key).removeprefix("rtx"): key for key in CARDS}
    if plain in keys:
        return CARDS[keys[plain]]
    begun = sorted({key for short, key in keys.items() if short.startswith(plain)}) if plain else []
    if len(begun) == 1:
        return CARDS[begun[0]]
    near = begun or [keys[match] for match in difflib.get_close_matches(plain, keys, n=2, cutoff=0.5)]
    hint = f"did you mean {' or '.join(dict.fromkeys(near))}? " if near else ""
    raise ConfigError(f"--gpu {name!r} is not known: {hint}Known are {', '.join(CARDS)}.")


def reported_card(name: str, memory_bytes: int) -> Card:
    """A card as the driver reports it, with the figures of the table where it is in there.

    A card that only shares the beginning of a name (a laptop's, a Ti) is another one and is left without figures.
    """
    plain = _plain(name)
    stems = {key: _plain(key.split("-")[0]) for key in CARDS}
    found = [key for key, stem in stems.items() if plain.startswith(stem) and not plain.startswith(f"{stem}ti")]
    if not found or "laptop" in plain:
        return Card(name, memory_bytes)
    longest = max(len(stems[key]) for key in found)
    alike = [key for key in found if len(stems[key]) == longest]
    nearest = min(alike, key=lambda key: abs(CARDS[key].memory_bytes - memory_bytes))
    return replace(CARDS[nearest], memory_bytes=memory_bytes)


def machine_cards() -> list[Card]:
    """The cards of this machine that a process may use; nothing is allocated on them."""
    return [reported_card(gpu.card, gpu.total_bytes) for gpu in read_gpus()]
