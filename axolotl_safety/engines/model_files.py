"""The base model as the stage needs it: where it is, what it is exactly, its tokenizer and its window."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from axolotl_safety.util.errors import ConfigError, ModelError

from .base import ModelSpec
from .gpu.stored import StoredWeights, stored_weights

_WHOLE_FILE_BYTES = 64 << 20
_SAMPLE_BYTES = 1 << 20
_SAMPLES = 16
_TENSOR_BYTES = 4096
_LONGEST_HEADER = 100_000_000  # what the safetensors format allows
ADAPTER_CONFIG = "adapter_config.json"
# Code of a model's own runs only where the user trusts it, and then decides what is sampled.
_HASHED = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors", "*.bin", "*.py")


@dataclass(frozen=True)
class ModelFiles:
    """A model that can be loaded.

    Attributes:
        fingerprint: changes whenever weights, tokenizer or configuration change.
        max_positions: context window in tokens, None where the configuration does not say.
        tokenizer_file: path of ``tokenizer.json``, if there is one.
        stop_token_ids: the generation config's end-of-sequence ids, then the tokenizer's, then the configuration's.
        vocab_size: number of ids that the model can produce.
        family: ``r1`` by the tokenizer's turn markers, else the configuration's model type up to a size or kind
            (``qwen3`` for qwen3_moe too).
        ends: ids that end a turn, by the file that says so.
        own_ids: size of its vocabulary before the YAML adds tokens to it; None where none are added.
        stored: what the checkpoint's weights are quantised to already, None where they are not.
    """

    spec: ModelSpec
    fingerprint: str
    max_positions: int | None
    tokenizer: Any
    tokenizer_file: str | None
    stop_token_ids: tuple[int, ...]
    vocab_size: int
    family: str = ""
    config: Any = None
    ends: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    own_ids: int | None = None
    stored: StoredWeights | None = None


def _sample(path: Path) -> bytes:
    """The bytes that stand for a file: all of a small one; size, 16 places and every tensor's ends of a large one."""
    size = path.stat().st_size
    if size <= _WHOLE_FILE_BYTES:
        return path.read_bytes()
    parts = [str(size).encode()]
    with open(path, "rb") as file:
        for index in range(_SAMPLES):
            file.seek((size - _SAMPLE_BYTES) * index // (_SAMPLES - 1))
            parts.append(file.read(_SAMPLE_BYTES))
        for place in _tensor_places(file, size) if path.suffix == ".safetensors" else ():
            file.seek(place)
            parts.append(file.read(_TENSOR_BYTES))
    return b"".join(parts)


def _tensor_places(file: BinaryIO, size: int) -> list[int]:
    """Where each tensor begins, has its middle and ends: training changes nearly all of a tensor, but not every tensor.

    A merged adapter may touch a tenth of a file, which spread samples alone could miss. The header's layout is that of
    the format's documentation (huggingface/safetensors, README).
    """
    file.seek(0)
    try:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length)) if length <= min(size, _LONGEST_HEADER) else {}
        spans = [about["data_offsets"] for name, about in header.items() if name != "__metadata__"]
        places = [(8 + length + begin, 8 + length + max(begin, end - _TENSOR_BYTES)) for begin, end in spans]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error):
        return []  # not what its name says: the spread samples stand for it, and loading it will say what is wrong
    return sorted(
        {int(place) for begin, end in places for place in (begin, (begin + end) // 2, end) if 0 <= place < size}
    )


def _whole(path: Path) -> bytes:
    """Hash of a file of any size, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def fingerprint_folder(folder: Path, whole: bool = False, patterns: Sequence[str] = _HASHED) -> str:
    """Hash of a local checkpoint: every small file whole, large weight files by size and samples of every tensor.

    Args:
        folder: the checkpoint.
        whole: read large files whole too: what was trained further may differ in a few layers only.
        patterns: which files count.
    """
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        content = _whole(path) if whole else hashlib.sha256(_sample(path)).digest()
        digest.update(path.name.encode() + b"\0" + content)
    return digest.hexdigest()[:24]


def _explain(name: str, role: str, error: Exception) -> ConfigError:
    text = str(error)
    if "gated" in text.lower() or "401" in text or "403" in text:
        way = (
            f"Accept its licence at https://huggingface.co/{name} and log in (`hf auth login` or HF_TOKEN), or use "
            "an ungated model."
        )
    else:
        way = (
            "Give an existing local folder or a hub id that this machine can reach (HF_HUB_OFFLINE allows only what "
            "is cached)."
        )
    return ConfigError(f"{role} {name!r} cannot be loaded: {text.splitlines()[0] if text else error!r}. {way}")


def load_model_files(
    name: str,
    role: str,
    *,
    tokenizer_name: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dtype: str = "auto",
    quantization: str | None = None,
) -> ModelFiles:
    """Read everything but the weights.

    Args:
        name: local folder or hub id.
        role: how to call it in a message (``base_model``, ``safety.guard.model``).
        tokenizer_name: another tokenizer, as Axolotl's ``tokenizer_config`` names it.
        revision: hub revision.
        trust_remote_code: only what the user set for ``base_model``.
        dtype: passed on to the engine.
        quantization: passed on to the engine.

    Raises:
        ConfigError: the model is not there, gated, has no weights, or is an adapter; or it is quantised already in
            another way than the engine is told.
    """
    from transformers import AutoConfig, AutoTokenizer

    local = Path(name)
    if (local / ADAPTER_CONFIG).is_file() and not _holds_whole_model(local):
        raise ConfigError(
            f"{role} {name!r} is an adapter ({ADAPTER_CONFIG} without a model's config and weights), not a whole "
            f"model. Merge it (axolotl merge-lora) and give the merged folder{_below(local / ADAPTER_CONFIG)}."
        )
    if local.is_dir() and not any(local.glob("*.safetensors")) and not any(local.glob("*.bin")):
        raise ConfigError(f"{role} {name!r} is a folder without weights (*.safetensors). Point it at a checkpoint.")
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(name, **options)
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_name or name, **options)
    except (OSError, ValueError) as error:
        raise _explain(name, role, error) from error
    stored = stored_weights(name, config, revision)
    if stored is not None and quantization is not None and stored.method != quantization:
        raise ConfigError(
            f"safety.engine.quantization: {quantization}, but {role} {name!r} is quantised already ({stored}), and an "
            "engine loads it as it is. Remove the key, or give the checkpoint that is not quantised."
        )
    ends = _ends(name, revision, tokenizer)
    fingerprint = _fingerprint(name, role, tokenizer_name, revision)
    path = str(local.resolve()) if local.is_dir() else name
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    tokenizer_file = Path(tokenizer_name or name) / "tokenizer.json"
    return ModelFiles(
        spec=ModelSpec(path, revision, dtype, quantization, trust_remote_code),
        fingerprint=fingerprint,
        max_positions=getattr(text_config, "max_position_embeddings", None),
        tokenizer=tokenizer,
        tokenizer_file=str(tokenizer_file) if tokenizer_file.is_file() else None,
        stop_token_ids=tuple(dict.fromkeys(index for ids in ends.values() for index in ids)),
        vocab_size=int(getattr(text_config, "vocab_size", len(tokenizer))),
        family=_family(text_config, tokenizer),
        config=config,
        ends=ends,
        stored=stored,
    )


def _holds_whole_model(folder: Path) -> bool:
    weights = {path.name for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern)}
    own = {name for name in weights if not name.startswith(("adapter_", "training_args", "optimizer", "scheduler"))}
    return (folder / "config.json").is_file() and bool(own)


def _below(config: Path) -> str:
    try:
        base = json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        base = None
    return f", or give the model that it was trained on: {base!r}" if base else ""


def _ends(name: str, revision: str | None, tokenizer: Any) -> dict[str, tuple[int, ...]]:
    """Ids that end a turn, by who says so; many checkpoints have no generation config."""

    def ids(file: dict[str, Any]) -> tuple[int, ...]:
        said = file.get("eos_token_id")
        return tuple(said) if isinstance(said, list) else () if said is None else (said,)

    config = read_json(name, "config.json", revision)
    inner = config.get("text_config")
    # Converted checkpoints carry the id of another vocabulary there, which is a word in this one.
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    own = tokenizer.eos_token_id
    return {
        "generation_config.json": ids(read_json(name, "generation_config.json", revision)),
        "tokenizer_config.json": () if own is None else (own,),
        "config.json": tuple(
            index for index in ids(config) or ids(inner if isinstance(inner, dict) else {}) if index in special
        ),
    }


def _fingerprint(name: str, role: str, tokenizer_name: str | None, revision: str | None) -> str:
    fingerprint = _identity(name, role, "config.json", revision)
    if tokenizer_name and tokenizer_name != name:
        tokenizer = _identity(tokenizer_name, "tokenizer_config", "tokenizer_config.json", revision)
        fingerprint = f"{fingerprint}+{tokenizer}"
    return fingerprint


def _identity(name: str, role: str, file: str, revision: str | None) -> str:
    """Hash of a folder, or name and commit of one from a hub, as the cache's path of a file of it says.

    transformers' configs had a `_commit_hash` up to 5.17 and have none in 5.20.
    """
    from transformers.utils import cached_file
    from transformers.utils.hub import extract_commit_hash

    if Path(name).is_dir():
        return fingerprint_folder(Path(name))
    commit = extract_commit_hash(cached_file(name, file, revision=revision), None)
    if commit is None:
        raise ModelError(f"{role} {name!r}: neither a local folder nor a hub commit could be made out")
    return f"{name}@{commit}"


def _family(config: Any, tokenizer: Any) -> str:
    """R1 distills have the architecture of another family, and R1's own turn markers."""
    if "<｜Assistant｜>" in tokenizer.get_vocab():
        return "r1"
    return str(getattr(config, "model_type", "")).split("_")[0]


def read_json(name: str, file: str, revision: str | None) -> dict[str, Any]:
    """A JSON file of a local or cached checkpoint; empty where it has none that can be read."""
    from transformers.utils import cached_file

    try:
        path = cached_file(name, file, revision=revision)
        return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):
        return {}
