"""``safety.eval``: the sets that ``axolotl safety-eval`` asks the base and the tuned model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from axolotl_safety.util.errors import did_you_mean

from .attacks import OPENINGS, PREFILL, WHOLE, WRAPPERS
from .base import SamplingConfig, Strict

Axis = Literal["harm", "over_refusal", "reasoning"]
AXES: tuple[Axis, ...] = ("harm", "over_refusal", "reasoning")
FILES = (".json", ".jsonl", ".csv", ".parquet")  # what ends so is a file, not a name
MathJudge = Literal["auto", "math_verify", "flexible", "strict", "marked"]


class EvalSetConfig(Strict):
    """One evaluation set: a known name, a local file, a hub dataset, or a task of lm-eval."""

    name: str | None = Field(None, description="a known set (HarmBench, GSM8K...), or how figures shall call this one")
    path: str | None = Field(
        None, description="json, jsonl, csv or parquet file, or hub id; of a known set: where to find it"
    )
    split: str | None = Field(None, description="split of a hub dataset")
    revision: str | None = Field(None, description="revision of a hub dataset; unset: the newest")
    prompt_field: str | None = Field(None, description="column that holds the prompt")
    answer_field: str | None = Field(None, description="reasoning: column that holds the gold answer")
    template: str | None = Field(None, description="what is asked; {prompt} stands for the row's prompt")
    judge: MathJudge = Field("auto", description="reasoning: how an answer is judged; auto: the set's own way")
    max_items: int | None = Field(None, ge=1, description="prompts drawn from this set; unset: safety.eval.max_items")
    lm_eval: str | None = Field(None, description="reasoning: name of a task that lm-eval's own harness runs")
    include_path: str | None = Field(None, description="lm_eval: folder with task files of your own")
    run_code: bool = Field(
        False, description="lm_eval: let the task run code that the model wrote, on this machine, as HumanEval does"
    )

    @model_validator(mode="before")
    @classmethod
    def _a_word_is_a_name_or_a_file(cls, data: Any) -> Any:
        if not isinstance(data, str):
            return data
        return {"path" if data.lower().endswith(FILES) else "name": data}

    @model_validator(mode="after")
    def _says_what_is_asked(self) -> EvalSetConfig:
        if not (self.name or self.path or self.lm_eval):
            raise ValueError("an evaluation set needs name (a known set), path (a file or hub id) or lm_eval (a task)")
        if self.template is not None and "{prompt}" not in self.template:
            raise ValueError(f"template {self.template!r} has no {{prompt}}, so every row would be asked the same")
        if self.lm_eval:
            allowed = {"lm_eval", "include_path", "max_items", "run_code"}
            alien = sorted(self.changed() - allowed)
            if alien:
                raise ValueError(f"{', '.join(alien)}: not for lm_eval, whose task decides it; remove it")
        elif self.include_path:
            raise ValueError(
                f"include_path {self.include_path!r} is read only beside lm_eval; name the task there, or remove it"
            )
        return self


class EvalSamplingConfig(SamplingConfig):
    """How completions are drawn. Nothing is inherited from the data stage; unset values are the model family's."""

    max_new_tokens: int = Field(8192, ge=1, description="completion length limit in tokens, within the model's window")


class EvalAttacksConfig(Strict):
    """Pushes towards answering, on the prompts of ``harm`` and ``over_refusal``; the plain ones are asked too."""

    prefill: tuple[int | Literal["whole"], ...] = Field(
        (),
        description="tokens of the base's own compliant thought that a response begins with; whole: all of it; true: "
        "8, 16, 32, 64 and whole",
    )
    openings: tuple[str, ...] = Field(
        (), description=f"a response begins with a fixed text; true: all of {', '.join(OPENINGS)}"
    )
    wrapped: tuple[str, ...] = Field(
        (), description=f"the prompt stands inside another text; true: all of {', '.join(WRAPPERS)}"
    )

    @field_validator("prefill", mode="before")
    @classmethod
    def _lengths(cls, value: Any) -> Any:
        chosen = _chosen(value, PREFILL)
        wrong = [one for one in chosen if one != WHOLE and (type(one) is not int or one < 1)]
        if wrong:
            raise ValueError(
                f"prefill: {wrong[0]!r} is no length. Write numbers of tokens from 1 on and {WHOLE}, such as "
                f"[8, 32, {WHOLE}], or true"
            )
        return sorted(chosen, key=lambda one: float("inf") if one == WHOLE else one)

    @field_validator("openings", "wrapped", mode="before")
    @classmethod
    def _names(cls, value: Any, info: Any) -> Any:
        known: Mapping[str, Any] = OPENINGS if info.field_name == "openings" else WRAPPERS
        chosen = _chosen(value, tuple(known))
        for one in chosen:
            if not isinstance(one, str) or one not in known:
                hint = did_you_mean(str(one), known)
                raise ValueError(f"{info.field_name}: {one!r} is unknown: {hint}known: {', '.join(known)}; or true")
        return chosen

    @model_validator(mode="after")
    def _names_some(self) -> EvalAttacksConfig:
        if not self.changed():
            raise ValueError(
                "attacks names none. Write prefill: true, openings: true or wrapped: true, or remove attacks"
            )
        return self


def _chosen(value: Any, every: tuple[Any, ...]) -> list[Any]:
    """What a value of the YAML names, each once: ``true`` everything, ``false`` nothing."""
    if isinstance(value, bool) or value is None:
        return list(every) if value else []
    listed = list(value) if isinstance(value, (list, tuple)) else [value]
    return [one for place, one in enumerate(listed) if one not in listed[:place]]


class EvalConfig(Strict):
    """Base and tuned model on the same prompts: harm, over-refusal, reasoning."""

    after_train: bool = Field(False, description="run it when training ends, in a process of its own")
    harm: tuple[EvalSetConfig, ...] = Field((), description="sets of harmful prompts: guard's verdict and refusal")
    over_refusal: tuple[EvalSetConfig, ...] = Field((), description="sets of benign prompts: refusal")
    reasoning: tuple[EvalSetConfig, ...] = Field((), description="sets with gold answers: mean pass@1")
    max_items: int | None = Field(None, ge=1, description="prompts drawn from each set; unset: all")
    samples: int = Field(1, ge=1, description="reasoning: completions per prompt")
    sampling: EvalSamplingConfig = EvalSamplingConfig()
    attacks: EvalAttacksConfig | None = Field(
        None, description="ask harm and over_refusal again under these attacks; off unless set"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_set_or_many(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {
            key: [value] if key in AXES and isinstance(value, (str, dict)) else value for key, value in data.items()
        }

    @model_validator(mode="after")
    def _asks_something(self) -> EvalConfig:
        sets = [(axis, one) for axis in AXES for one in getattr(self, axis)]
        if not sets:
            raise ValueError(
                "no set is named, so nothing would be evaluated. Name some, such as harm: [HarmBench], "
                "over_refusal: [XSTest], reasoning: [GSM8K]"
            )
        for axis, one in sets:
            if axis != "reasoning" and (one.lm_eval or one.answer_field or one.judge != "auto" or one.run_code):
                raise ValueError(
                    f"{axis}: lm_eval, answer_field, judge and run_code are for reasoning; remove them here, or move "
                    "the set"
                )
        if self.attacks and not (self.harm or self.over_refusal):
            raise ValueError(
                "attacks are made on the prompts of harm and over_refusal, and neither is named; name a set, or remove "
                "attacks"
            )
        if self.samples > 1 and self.sampling.temperature == 0:
            raise ValueError(
                f"{self.samples} samples at temperature 0 are {self.samples} times the same; set samples: 1"
            )
        return self
