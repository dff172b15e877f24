"""A checkpoint whose weights are quantised already: by what, to how many bits, and how large its files are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_INDEX = "model.safetensors.index.json"
_SCALES = 1.06  # scales and zero points of groups of 64 to 128 weights, beside the weights
_BITS = {"mxfp4": 4, "fp8": 8, "fbgemm_fp8": 8, "modelopt": 8, "bitnet": 2}  # methods that do not say theirs
_UNKNOWN_BITS = 8


@dataclass(frozen=True)
class StoredWeights:
    """What ``quantization_config`` in a checkpoint's ``config.json`` says.

    Attributes:
        method: ``bitsandbytes``, ``gptq``, ``awq``, ``fp8``, ``compressed-tensors``, ``mxfp4``, ...
        bits: of a quantised weight.
        file_bytes: of the weight files, None where they are not on this machine and no index says it.
    """

    method: str
    bits: int
    file_bytes: int | None = None

    @property
    def bytes_per_weight(self) -> float:
        """Of a quantised matrix, scales included; an estimate for files that are not here."""
        return self.bits / 8 * _SCALES

    def __str__(self) -> str:
        """As a message names it."""
        return f"{self.method}, {self.bits} bits"


def stored_weights(path: str, config: Any, revision: str | None = None) -> StoredWeights | None:
    """How a checkpoint's weights are quantised, None where they are not.

    Args:
        path: local folder or hub id.
        config: transformers' configuration of it.
        revision: hub revision.
    """
    said = getattr(config, "quantization_config", None)
    if not said:
        return None
    said = said if isinstance(said, dict) else said.to_dict()
    method = str(getattr(said.get("quant_method"), "value", said.get("quant_method") or ""))
    if said.get("load_in_4bit") or said.get("load_in_8bit"):
        method = "bitsandbytes"
    return StoredWeights(method or "unknown", _bits(said, method), _file_bytes(path, revision))


def _bits(said: dict[str, Any], method: str) -> int:
    if method == "bitsandbytes":
        return 4 if said.get("load_in_4bit") else 8
    for key in ("bits", "w_bit", "nbits"):
        if isinstance(said.get(key), int):
            return said[key]
    groups = said.get("config_groups")  # compressed-tensors
    widths = [(one.get("weights") or {}).get("num_bits") for one in groups.values()] if isinstance(groups, dict) else []
    return next((width for width in widths if isinstance(width, int)), _BITS.get(method, _UNKNOWN_BITS))


def _file_bytes(path: str, revision: str | None) -> int | None:
    from transformers.utils import cached_file

    folder = Path(path).expanduser()
    if folder.is_dir():
        files = list(folder.glob("model*.safetensors")) or list(folder.glob("*.safetensors"))
        return sum(file.stat().st_size for file in files or folder.glob("*.bin")) or None
    try:  # what is in the cache; a hub is not asked
        quiet = {"revision": revision, "local_files_only": True, "_raise_exceptions_for_missing_entries": False}
        index = cached_file(path, _INDEX, **quiet)
        if index:
            return int(json.loads(Path(index).read_text(encoding="utf-8"))["metadata"]["total_size"])
        single = cached_file(path, "model.safetensors", **quiet)
        return Path(single).stat().st_size if single else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
