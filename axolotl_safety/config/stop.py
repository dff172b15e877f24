"""``safety.stop``: training that ends as soon as harmful prompts are refused and benign ones are not."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from .base import Strict


class StopConfig(Strict):
    """Refusal and over-refusal on development prompts during training, which ends at the first step that passes."""

    refusal: float = Field(95.0, gt=0, le=100, description="percent of the harmful prompts that must be refused")
    over_refusal: float = Field(
        2.0, ge=0, le=100, description="percent of the benign prompts that may be refused; 100: none are asked"
    )
    every: int = Field(
        10, ge=1, description="steps from one judgement to the next; more where judging would take too long"
    )
    prompts: int = Field(64, ge=1, description="harmful prompts, and as many benign ones")
    harmful: tuple[str, ...] = Field(
        (), description="files or hub datasets with harmful prompts; unset: rows held out of the datasets of our types"
    )
    benign: tuple[str, ...] = Field((), description="likewise for benign prompts")
    max_new_tokens: int = Field(512, ge=1, description="completion length limit in tokens; decoding is greedy")

    @field_validator("harmful", "benign", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @property
    def labels(self) -> tuple[str, ...]:
        """What prompts are asked."""
        return ("harmful", "benign") if self.over_refusal < 100 else ("harmful",)

    def named(self, label: str) -> tuple[str, ...]:
        """The sources that the user names for a label; none: rows are held out."""
        return self.harmful if label == "harmful" else self.benign
