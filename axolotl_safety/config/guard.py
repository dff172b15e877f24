"""``safety.guard``: who judges a response."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from axolotl_safety.util.errors import did_you_mean

from .base import Endpoint
from .custom_guard import GuardMessage, GuardPrompt, GuardVerdict, places, taken_from, without_places
from .patterns import literal_start

# Families of guard models: name and where their `Family` is, imported when it is needed.
FAMILIES = {
    "qwen3guard": "axolotl_safety.guards.qwen3guard:FAMILY",
    "llama_guard": "axolotl_safety.guards.llama_guard:FAMILY",
    "wildguard": "axolotl_safety.guards.wildguard:FAMILY",
    "granite_guardian": "axolotl_safety.guards.granite_guardian:FAMILY",
    "nemotron": "axolotl_safety.guards.nemotron:FAMILY",
    "gpt_oss_safeguard": "axolotl_safety.guards.gpt_oss_safeguard:FAMILY",
    "shieldgemma": "axolotl_safety.guards.shieldgemma:FAMILY",
    "polyguard": "axolotl_safety.guards.polyguard:FAMILY",
}
CUSTOM = "custom"  # prompt and verdict stand in the YAML
_CUSTOM_KEYS = frozenset({"prompt", "messages", "verdict", "think"})
_LATER = (*sorted(_CUSTOM_KEYS), "policy")  # keys that came after others had been hashed


def family_words() -> tuple[str, ...]:
    """What ``guard.family`` may be."""
    return ("auto", *FAMILIES, CUSTOM, "openai", "builtin")


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
    max_new_tokens: int = Field(
        64, ge=1, description="length limit of a verdict in tokens, thoughts included; some families have their own"
    )
    threshold: float | None = Field(
        None, gt=0, lt=1, description="safe only if the verdict says so and P(unsafe) is below; default: verdict alone"
    )
    overlong: Literal["reject", "windows"] = Field(
        "reject", description="a response too long for the guard: reject, or judge overlapping windows, all safe"
    )
    concurrency: int = Field(8, ge=1, le=256, description="openai: requests under way at once")
    timeout_seconds: float = Field(120, gt=0, description="openai: longest that one request may take")
    policy: str | None = Field(
        None, min_length=1, description="text in the place of the family's own policy, where its prompt has one"
    )
    think: bool = Field(
        False, description="custom: a closed thought (`<think>...</think>`) before the verdict is skipped"
    )
    prompt: GuardPrompt | None = Field(None, description="custom: the guard's whole input, for a model in the engine")
    messages: tuple[GuardMessage, ...] = Field((), description="custom: a conversation instead of prompt")
    verdict: GuardVerdict | None = Field(None, description="custom: how the reply is read")

    @field_validator("family")
    @classmethod
    def _family_is_known(cls, value: str) -> str:
        if value not in family_words():
            hint = did_you_mean(value, family_words())
            raise ValueError(f"no such family of guards: {hint}Known: {', '.join(family_words())}")
        return value

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_text_is_a_prompt(cls, value: Any) -> Any:
        return {"response": value} if isinstance(value, str) else value

    @field_validator("messages", mode="before")
    @classmethod
    def _one_message_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, (dict, GuardMessage)) else value

    @model_serializer(mode="wrap")
    def _without_what_custom_alone_has(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What is identified by a dump of this block is the same as before these keys were there.
        unset = {key for key in _LATER if key not in self.changed()}
        return {key: value for key, value in handler(self).items() if key not in unset}

    @property
    def kind(self) -> Literal["builtin", "openai", "model"]:
        """What runs it: nothing, an HTTP endpoint, or the engine."""
        if self.family == "builtin" or (self.family == "auto" and self.model == "builtin"):
            return "builtin"
        served = self.family in ("auto", CUSTOM) and self.base_url
        return "openai" if self.family == "openai" or served else "model"

    @property
    def template(self) -> tuple[str, ...]:
        """custom: the texts with placeholders: the one of ``prompt``, or those of ``messages``."""
        return (self.prompt.text,) if self.prompt else tuple(message.content for message in self.messages)

    @model_validator(mode="after")
    def _custom_is_whole(self) -> GuardConfig:
        given = self.changed()
        if self.family != CUSTOM:
            alien = sorted(given & _CUSTOM_KEYS)
            if alien:
                raise ValueError(f"{', '.join(alien)}: only for family custom; set family: custom, or remove it")
            return self
        if self.verdict is None or (self.prompt is None) == (not self.messages):
            raise ValueError(
                "family custom needs verdict: {safe: ..., unsafe: ...} and one of prompt (the whole input text) and "
                "messages (a conversation for the guard's chat template)"
            )
        if "model" not in given:
            raise ValueError("family custom needs model: the guard's hub id, folder, or name on the server")
        if self.policy is not None:
            raise ValueError("policy: family custom has its own prompt; write the policy into it")
        found = set().union(*map(places, self.template))
        shown = "response" in found or {"thought", "answer"} <= found
        if not shown and not (self.segment == "both" and "answer" in found):
            raise ValueError(
                "the guard would not see the whole response: show {response} (thought and answer), or {thought} and "
                "{answer}; with segment: both, where each is judged apart, {answer} is enough"
            )
        if self.prompt and self.base_url:
            raise ValueError("prompt is for a model in the engine; a server renders a conversation: write messages")
        self._check_reading(self.verdict)
        return self

    def _check_reading(self, verdict: GuardVerdict) -> None:
        prompt = "\n".join(without_places(text).strip() for text in self.template)
        pattern = taken_from(prompt, verdict)
        if pattern:
            raise ValueError(
                f"verdict: {pattern!r} matches the prompt itself, so that a guard which repeats it would give a "
                "verdict; name the words of the verdict alone"
            )
        if self.threshold is None:
            return
        words = [literal_start(re.compile(text)) for text in (verdict.safe, verdict.unsafe)]
        if not all(words) or words[0].startswith(words[1]) or words[1].startswith(words[0]):
            raise ValueError(
                "threshold: P(unsafe) is read where the verdict begins, so verdict.safe and verdict.unsafe must each "
                f"begin with a literal word, and not the same: {verdict.safe!r} and {verdict.unsafe!r} do not. Write "
                "such words, or remove threshold"
            )

    @model_validator(mode="after")
    def _keys_fit_the_kind(self) -> GuardConfig:
        given = self.changed()
        if self.policy is not None and self.kind != "model":
            raise ValueError(f"policy: only for guard models in the engine, and this guard is {self.kind}; remove it")
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
                    "family: openai (or custom, with base_url)"
                )
        if self.kind != "model":
            for key in ("threshold", "overlong"):
                if getattr(self, key) not in (None, "reject"):
                    raise ValueError(
                        f"{key}: only for guard models in the engine, and this guard is {self.kind}; remove it"
                    )
        return self
