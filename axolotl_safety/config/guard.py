"""``safety.guard``: who judges a response."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from axolotl_safety.util.errors import did_you_mean

from .base import Endpoint

# Families of guard models: name and where their `Family` is, imported when it is needed.
FAMILIES = {
    "qwen3guard": "axolotl_safety.guards.qwen3guard:FAMILY",
    "llama_guard": "axolotl_safety.guards.llama_guard:FAMILY",
    "wildguard": "axolotl_safety.guards.wildguard:FAMILY",
    "granite_guardian": "axolotl_safety.guards.granite_guardian:FAMILY",
}


def family_words() -> tuple[str, ...]:
    """What ``guard.family`` may be."""
    return ("auto", *FAMILIES, "openai", "builtin")


class GuardConfig(Endpoint):
    """One guard. Several guards must all agree that a response is safe."""

    model: str = Field(
        "Qwen/Qwen3Guard-Gen-0.6B", description="hub id, local folder, a server's model name, or `builtin` (heuristic)"
    )
    family: str = Field("auto", description="prompt and answer format; auto: by the model's name and files")
    segment: Literal["whole", "both"] = Field(
        "whole", description="whole: thought and answer together; both: each apart, both must be safe"
    )
    allow_controversial: bool = Field(False, description="count the guard's middle level as safe")
    max_new_tokens: int = Field(64, ge=1, description="length limit of a verdict in tokens")
    threshold: float | None = Field(
        None, gt=0, lt=1, description="safe only if the verdict says so and P(unsafe) is below; default: verdict alone"
    )
    overlong: Literal["reject", "windows"] = Field(
        "reject", description="a response too long for the guard: reject, or judge overlapping windows, all safe"
    )
    concurrency: int = Field(8, ge=1, le=256, description="openai: requests under way at once")
    timeout_seconds: float = Field(120, gt=0, description="openai: longest that one request may take")

    @field_validator("family")
    @classmethod
    def _family_is_known(cls, value: str) -> str:
        if value not in family_words():
            hint = did_you_mean(value, family_words())
            raise ValueError(f"no such family of guards: {hint}Known: {', '.join(family_words())}")
        return value

    @property
    def kind(self) -> Literal["builtin", "openai", "model"]:
        """What runs it: nothing, an HTTP endpoint, or the engine."""
        if self.family == "builtin" or (self.family == "auto" and self.model == "builtin"):
            return "builtin"
        return "openai" if self.family == "openai" or (self.family == "auto" and self.base_url) else "model"

    @model_validator(mode="after")
    def _keys_fit_the_kind(self) -> GuardConfig:
        given = self.changed()
        if self.kind == "openai":
            if not self.base_url:
                raise ValueError("family openai needs base_url, such as http://localhost:8000/v1")
            if "model" not in given:
                raise ValueError("family openai needs model: the name under which the server knows it")
        else:
            alien = sorted(given & {"base_url", "api_key_env", "concurrency", "timeout_seconds"})
            if alien:
                raise ValueError(
                    f"{', '.join(alien)}: only for family openai, and this guard is {self.kind}; remove it, or set "
                    "family: openai"
                )
        if self.kind != "model":
            for key in ("threshold", "overlong"):
                if getattr(self, key) not in (None, "reject"):
                    raise ValueError(
                        f"{key}: only for guard models in the engine, and this guard is {self.kind}; remove it"
                    )
        return self
