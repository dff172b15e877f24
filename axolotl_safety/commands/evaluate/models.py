"""The models of an evaluation: the base, and what training made of it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from axolotl_safety.config import SafetyConfig
from axolotl_safety.data.tokenizer import TargetTokenizer
from axolotl_safety.data.trained_tokenizer import other_prompts
from axolotl_safety.engines.choose import backend_named
from axolotl_safety.engines.model_files import ModelFiles, fingerprint_folder, load_model_files
from axolotl_safety.pipeline.inputs import load_target
from axolotl_safety.util.errors import ConfigError

LOG = logging.getLogger(__name__)
_ADAPTER = "adapter_config.json"
# The names by which peft knows embedding and head, and saves them whole (peft, utils/other.py).
_EMBEDDING = re.compile(r"\.(?:embed_tokens|lm_head|wte|embed_in|embed_out|word_embeddings)(?:\.base_layer)?\.weight$")
_ADAPTER_FILES = (_ADAPTER, "adapter_model.safetensors")


@dataclass(frozen=True)
class EvalModel:
    """A model that answers.

    Attributes:
        name: as figures call it: ``base``, or the folder's name.
        kind: ``base``, ``adapter`` or ``model``.
        path: as the user named it.
        files: what the engine loads; tokenizer and stop tokens are the base's.
        loaded: how it is loaded, in words.
    """

    name: str
    kind: str
    path: str
    files: ModelFiles
    loaded: str


def eval_models(cfg: Any, safety: SafetyConfig, folders: tuple[str, ...], backend: str) -> list[EvalModel]:
    """The base, then a model for every folder; without any, for ``output_dir`` if a model stands there.

    Raises:
        ConfigError: a folder holds no model, or none that this base and engine can run.
    """
    base = load_target(cfg, safety)
    weights = _weights(safety)
    found = [EvalModel("base", "base", str(cfg.base_model), base, weights)]
    if not folders and cfg.output_dir and _holds_model(Path(cfg.output_dir)):
        folders = (str(cfg.output_dir),)
    if not folders:
        LOG.warning("no tuned model: output_dir %r holds none and --model names none; the base alone", cfg.output_dir)
    if folders and backend_named(backend).adapters is None:
        raise ConfigError(
            f"safety-eval: backend {backend} serves one model and cannot load another. Use backend vllm or "
            "transformers."
        )
    for folder in folders:
        made = _tuned(cfg, safety, folder, base, backend, weights)
        taken = {one.name for one in found}
        name = next(n for n in (made.name, folder, *(f"{folder}#{i}" for i in range(2, 99))) if n not in taken)
        found.append(replace(made, name=name))
    return found


def _weights(safety: SafetyConfig) -> str:
    engine = safety.engine
    if engine.quantization:
        return f"weights in {engine.quantization}"
    return "weights in float32 on a CPU, else as saved" if engine.dtype == "auto" else f"weights in {engine.dtype}"


def _holds_model(folder: Path) -> bool:
    whole = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    return (folder / _ADAPTER).is_file() or whole


def _tuned(cfg: Any, safety: SafetyConfig, folder: str, base: ModelFiles, backend: str, weights: str) -> EvalModel:
    path = Path(folder).expanduser().absolute()
    name = path.name if path.name != "model" else f"{path.parent.name}/{path.name}"
    if (path / _ADAPTER).is_file():
        _check_adapter(cfg, path, backend)
        spec = replace(base.spec, adapter=str(path))
        digest = fingerprint_folder(path, whole=True, patterns=_ADAPTER_FILES)
        files = replace(base, spec=spec, fingerprint=f"{base.fingerprint}+adapter:{digest}")
        beside = base.spec.quantization or base.stored is not None
        how = "beside the quantised base, as trained" if beside else "merged in memory"
        return EvalModel(name, "adapter", folder, files, f"LoRA adapter {how}; {weights}")
    if not _holds_model(path):
        raise ConfigError(
            f"safety-eval: {folder!r} holds neither an adapter ({_ADAPTER}) nor a model (config.json and "
            "*.safetensors). Give the output_dir of a finished training, or a merged model."
        )
    files = load_model_files(
        str(path),
        "--model",
        trust_remote_code=base.spec.trust_remote_code,
        dtype=safety.engine.dtype,
        quantization=safety.engine.quantization,
    )
    if not base.tokenizer.get_vocab().items() <= files.tokenizer.get_vocab().items():
        raise ConfigError(
            f"safety-eval: the tokenizer in {folder!r} has other tokens than base_model's, so the two cannot be asked "
            "the same ids. Evaluate it by itself, in a YAML that names it as base_model."
        )
    digest = fingerprint_folder(path, whole=True)
    # The base's tokenizer and template for both: the prompts are then the same ids, whatever training saved.
    files = replace(base, spec=files.spec, fingerprint=f"{digest}+prompts:{base.fingerprint}")
    return EvalModel(name, "model", folder, files, f"whole model; {weights}")


def warn_of_other_prompts(models: Sequence[EvalModel], tokens: TargetTokenizer) -> None:
    """Say where a tuned folder's own tokenizer would ask its model otherwise than this evaluation does."""
    for model in models:
        folder = Path(model.path).expanduser()
        if model.kind == "base" or not (folder / "tokenizer_config.json").is_file():
            continue
        from transformers import AutoTokenizer

        said = other_prompts(AutoTokenizer.from_pretrained(folder), tokens.tokenizer, tokens.template_kwargs)
        if said:
            LOG.warning(
                "%s: the tokenizer that is saved there renders other prompts than base_model's in this YAML, with "
                "which base and tuned model are asked: %s.",
                model.path,
                said,
            )


def trained_vocabulary(adapter: Path) -> int | None:
    """Rows of the embedding or head that an adapter brings whole, None where it brings neither.

    Raises:
        ConfigError: its file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    file = adapter / "adapter_model.safetensors"
    try:
        with safe_open(file, framework="numpy") as tensors:
            whole = [key for key in tensors.keys() if _EMBEDDING.search(key)]
            return int(tensors.get_slice(whole[0]).get_shape()[0]) if whole else None
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"safety-eval: {str(file)!r} cannot be read: {error}. It is damaged or not whole; save the adapter again."
        ) from error


def check_lm_eval(models: Sequence[EvalModel], tokenizer: Any) -> None:
    """Refuse an adapter with an embedding of its own that lm-eval could not load: it makes the base's as large as the
    tokenizer is (``HFLM._create_model``), whatever training did.

    Raises:
        ConfigError: naming the way out.
    """
    for model in models:
        rows = trained_vocabulary(Path(model.files.spec.adapter)) if model.files.spec.adapter else None
        if rows is not None and rows != len(tokenizer):
            raise ConfigError(
                f"safety.eval.reasoning: lm-eval cannot load the adapter {model.path!r}: training left {rows} rows in "
                f"its embedding, and the tokenizer has {len(tokenizer)} tokens. Merge it (axolotl merge-lora) and give "
                "the merged folder with --model, or leave the lm_eval tasks out."
            )


def _check_adapter(cfg: Any, path: Path, backend: str) -> None:
    """Refuse what the engine cannot load.

    Raises:
        ConfigError: naming the way out.
    """
    if not backend_named(backend).adapters:
        raise ConfigError(
            f"safety-eval: {str(path)!r} is an adapter, which backend {backend} does not load in this version. Merge "
            "it (axolotl merge-lora) and give the merged folder, or set safety.engine.backend: transformers."
        )
    if not (path / "adapter_model.safetensors").is_file():
        raise ConfigError(
            f"safety-eval: {str(path)!r} has no adapter_model.safetensors: its training did not end, or it saved "
            "another format, which can run code when it is read. Train to the end, or save the adapter as safetensors."
        )
    trained_vocabulary(path)
    said = json.loads((path / _ADAPTER).read_text(encoding="utf-8"))
    if said.get("peft_type") != "LORA":
        raise ConfigError(
            f"safety-eval: {str(path)!r} is an adapter of type {said.get('peft_type')!r}; only LORA can be loaded. "
            "Merge it (axolotl merge-lora) and give the merged folder."
        )
    below = said.get("base_model_name_or_path")
    if below and str(below) != str(cfg.base_model) and Path(str(below)).absolute() != Path(cfg.base_model).absolute():
        LOG.warning(
            "%s was trained on %r, and base_model is %r; it is loaded onto the latter", path, below, cfg.base_model
        )
