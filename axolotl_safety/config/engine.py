"""``safety.engine``: the source of completions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from axolotl_safety.util.errors import did_you_mean

from .base import Endpoint

# What stands behind ``engine.backend``, by name; a record is imported when it is needed.
BACKENDS = {
    "vllm": "axolotl_safety.engines.local.backends:VLLM",
    "transformers": "axolotl_safety.engines.local.backends:TRANSFORMERS",
    "openai": "axolotl_safety.engines.openai.engine:OPENAI",
    "ray": "axolotl_safety.engines.ray.cluster:RAY",
}

# Keys that only some backends read. `auto` may become vLLM, `ray` runs vLLM or transformers.
_BATCHED = ("auto", "transformers", "ray")
_VLLM = ("auto", "vllm", "ray")
_READ_BY: dict[str, tuple[str, ...]] = {
    "batch_size": (*_BATCHED, "openai"),  # guard models run here when the target's server is elsewhere
    "dtype": ("auto", "vllm", "transformers", "ray"),
    "replicas": ("auto", "vllm", "transformers", "ray"),
    "tensor_parallel_size": _VLLM,
    "gpu_memory_utilization": _VLLM,
    "max_model_len": _VLLM,
    "max_num_seqs": _VLLM,
    "enforce_eager": _VLLM,
    "enable_prefix_caching": _VLLM,
    "base_url": ("openai",),
    "model": ("openai",),
    "api_key_env": ("openai",),
    "concurrency": ("openai",),
    "timeout_seconds": ("openai",),
    "ray_address": ("ray",),
    "ray_worker": ("ray",),
}


class EngineConfig(Endpoint):
    """Where completions come from. Keys that Axolotl's own ``vllm:`` section has mean the same here."""

    backend: str = Field(
        "auto", description="auto: vLLM where there is a GPU and a vLLM here or in engine.python, else transformers"
    )
    python: str | None = Field(None, description="interpreter of another environment that runs the engine")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: float32 on a CPU, else the checkpoint's own"
    )
    quantization: Literal["bitsandbytes", "fp8"] | None = Field(
        None, description="quantise the target in the engine; fp8 with vllm only"
    )
    stall_seconds: float = Field(600, gt=0, description="restart the engine after this long without progress")
    batch_size: int = Field(32, ge=1, description="transformers: completions decoded at once")
    replicas: Literal["auto"] | int = Field(
        "auto", description="worker processes that share the queue; auto: one per GPU (or per tensor-parallel group)"
    )
    tensor_parallel_size: int | None = Field(
        None, ge=1, description="vllm: GPUs that hold one model together; unset: 1, or as many as the model needs"
    )
    gpu_memory_utilization: float = Field(
        0.9, gt=0, le=1, description="vllm: share of a GPU's memory for all models of the engine together"
    )
    max_model_len: int | None = Field(
        None, ge=1, description="vllm: longest prompt and completion in tokens; unset: what the data needs"
    )
    max_num_seqs: int | None = Field(None, ge=1, description="vllm: completions decoded at once; unset: 256")
    enforce_eager: bool = Field(False, description="vllm: no CUDA graphs; slower, and less memory")
    enable_prefix_caching: bool = Field(True, description="vllm: reuse the keys and values of a shared beginning")
    model: str | None = Field(
        None, description="openai: the server's name for the target; unset: base_model as written"
    )
    concurrency: int = Field(64, ge=1, le=1024, description="openai: requests under way at once")
    timeout_seconds: float = Field(1800, gt=0, description="openai: longest that one completion may take")
    ray_address: str | None = Field(None, description="ray: a cluster's address, or auto; unset: this machine alone")
    ray_worker: Literal["auto", "vllm", "transformers"] = Field("auto", description="ray: what runs in the actors")

    @field_validator("backend")
    @classmethod
    def _backend_is_known(cls, value: str) -> str:
        if value not in ("auto", *BACKENDS):
            hint = did_you_mean(value, ("auto", *BACKENDS))
            raise ValueError(f"no such backend: {hint}Known: auto, {', '.join(BACKENDS)}")
        return value

    @field_validator("replicas")
    @classmethod
    def _at_least_one(cls, value: str | int) -> str | int:
        if isinstance(value, int) and value < 1:
            raise ValueError("at least one worker is needed; leave the key out for one per GPU")
        return value

    @model_validator(mode="after")
    def _keys_fit_the_backend(self) -> EngineConfig:
        changed = self.changed()
        for key, backends in _READ_BY.items():
            if key in changed and self.backend not in backends:
                raise ValueError(f"{key}: read by backend {' or '.join(backends)}, and this one is {self.backend}")
        if self.backend == "openai" and not self.base_url:
            raise ValueError("backend openai needs base_url, such as http://localhost:8000/v1")
        if self.quantization and self.backend == "openai":
            raise ValueError("quantization: the server decides it; set it there, and remove the key here")
        if self.quantization == "fp8" and "vllm" not in (self.backend, self.ray_worker) and self.backend != "auto":
            raise ValueError("quantization fp8 needs vllm; use bitsandbytes, or backend: vllm")
        return self
