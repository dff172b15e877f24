"""Options of vLLM: environment variables before it is imported, arguments for each model."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from protocol import LoadError

# A row of N tokens is scored from N x vocabulary logits, held in float32 about three times over (logits, their
# log-softmax, a comparison for the ranks). vLLM does not count them when it sizes its cache, so they are kept small.
_LOGITS_BYTES = 300_000_000
_LOGITS_COPIES = 3
_LOGITS_GRAIN = 32
_CPU_CACHE_BYTES = 256 << 20

_ALWAYS = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_UNLESS_SET = {"VLLM_LOGGING_LEVEL": "WARNING"}
# One process and no compiler: on a CPU the engine's own processes and torch.compile cost more than they bring.
_ON_CPU = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",
}


def set_environment(on_cpu: bool, threads: int | None) -> None:
    """Sets the variables that vLLM reads at its import. The user's own ``VLLM_*`` stay, where they do no harm."""
    os.environ.update(_ALWAYS)
    for name, value in {**_UNLESS_SET, **(_ON_CPU if on_cpu else {})}.items():
        os.environ.setdefault(name, value)
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)


def prefill_chunk(vocabulary: int) -> int:
    """Tokens of one row that may be prefilled at once, so that the logits of scoring stay small."""
    tokens = _LOGITS_BYTES // (_LOGITS_COPIES * 4 * vocabulary)
    return max(_LOGITS_GRAIN, tokens // _LOGITS_GRAIN * _LOGITS_GRAIN)


def head_and_window(path: str, spec: dict[str, Any]) -> tuple[int, int | None]:
    """Rows of the model's head, and its window in tokens if its configuration names one.

    Raises:
        LoadError: there is no readable configuration.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            path, revision=spec.get("revision"), trust_remote_code=bool(spec.get("trust_remote_code"))
        )
    except Exception as error:  # OSError, ValueError, a hub's own ...
        hint = "Check the path or id, the revision, and that the files are complete (a gated model needs a token)."
        raise LoadError(f"{path}: {type(error).__name__}: {error}", hint) from error
    text = config.get_text_config()
    return int(text.vocab_size), getattr(text, "max_position_embeddings", None)


def arguments(spec: dict[str, Any], options: dict[str, Any], memory: dict[str, Any], on_cpu: bool) -> dict[str, Any]:
    """Keyword arguments of ``vllm.LLM`` for a model.

    Args:
        spec: the fields of ``ModelSpec``.
        options: what holds for every model: ``max_num_seqs``, ``enforce_eager``, ``enable_prefix_caching``,
            ``tensor_parallel_size``.
        memory: this model's ``gpu_memory_utilization`` or ``kv_cache_memory_bytes``.
        on_cpu: whether there is no GPU.

    Raises:
        LoadError: the model is not there, or the quantisation is not.
    """
    path = os.path.expanduser(spec["path"])
    if os.path.isabs(path) and not os.path.isdir(path):
        raise LoadError(f"{path}: no such folder", "Check the model's path, or give a hub id.")
    made: dict[str, Any] = {
        "model": path,
        "revision": spec.get("revision"),
        "trust_remote_code": bool(spec.get("trust_remote_code")),
        "dtype": "float32" if on_cpu and spec.get("dtype", "auto") == "auto" else spec.get("dtype") or "auto",
        # Ids in, ids out; what the checkpoint says of sampling is not ours.
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "logprobs_mode": "raw_logprobs",
        "disable_log_stats": True,
        "enable_chunked_prefill": True,
        "enforce_eager": on_cpu or bool(options.get("enforce_eager")),
        "enable_prefix_caching": bool(options.get("enable_prefix_caching", True)),
        "tensor_parallel_size": options.get("tensor_parallel_size") or 1,
        **_quantization(spec.get("quantization"), on_cpu),
        "max_num_seqs": options["max_num_seqs"],
        **({"kv_cache_memory_bytes": _CPU_CACHE_BYTES} if on_cpu else {}),
        **memory,
    }
    vocabulary, window = head_and_window(path, spec)
    longest = spec.get("max_model_len") or window
    if spec.get("max_model_len"):
        made["max_model_len"] = longest
    chunk = prefill_chunk(vocabulary)
    if not longest or chunk < longest:
        made["long_prefill_token_threshold"] = chunk
    return made


def _quantization(scheme: str | None, on_cpu: bool) -> dict[str, Any]:
    if scheme is None:
        return {}
    if scheme not in ("bitsandbytes", "fp8"):
        raise LoadError(f"quantization {scheme!r} is not known to the vLLM engine", "Use bitsandbytes, fp8 or none.")
    if on_cpu:
        raise LoadError(f"quantization {scheme}: vLLM has none for a CPU", "Remove the key, or use a GPU.")
    if scheme == "bitsandbytes":
        # Part of vLLM until 0.27.1, a plugin of its own since (vLLM PR 43529).
        inside = importlib.util.find_spec("vllm.model_executor.layers.quantization.bitsandbytes")
        if not inside and not importlib.util.find_spec("vllm_bnb_plugin"):
            hint = "Install vllm-bnb-plugin in the engine's environment, use vllm<=0.27.1, or quantization: fp8."
            raise LoadError("this vLLM has no bitsandbytes any more", hint)
        if not importlib.util.find_spec("bitsandbytes"):
            raise LoadError("bitsandbytes cannot be imported", "Install it in the engine's environment.")
    return {"quantization": scheme}
