"""The ``safety:`` section of an Axolotl YAML.

Keys of Axolotl that are read and not redefined here: ``base_model``, ``tokenizer_config``,
``revision_of_model``, ``trust_remote_code``, ``sequence_len``, ``sample_packing``, ``datasets``.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from axolotl_safety.util.releases import PREFIX, SECTION

from .base import SamplingConfig, Strict
from .engine import EngineConfig
from .evaluation import EvalConfig
from .guard import GuardConfig
from .hinges import BENIGN_HINGES, HARMFUL_HINGES, resolve_hinge
from .prompts import STEERING_PROMPTS, resolve_rewrite, resolve_steering
from .stop import StopConfig

__all__ = ["PREFIX", "SECTION"]
# What stands behind each ``type:``, by name; a record is imported when it is needed.
METHODS = {
    "dgr": "axolotl_safety.methods.dgr:DGR",
    "thinksafe": "axolotl_safety.methods.thinksafe:THINKSAFE",
    "recover": "axolotl_safety.methods.recover:RECOVER",
    "vanilla": "axolotl_safety.methods.vanilla:VANILLA",
}
Choice = Literal["first", "lowest_nll", "resample"]
Select = Literal["random", "lowest_nll", "diverse"]
OnFailure = Literal["drop", "keep_original", "steer"]
Label = Literal["harmful", "benign"]

AUTO = "auto"  # in the place of a prompt's name: probe the named ones and take the best


def types() -> tuple[str, ...]:
    """Every ``type:`` of this plugin that makes a training set."""
    return tuple(PREFIX + name for name in METHODS)


class DGRConfig(Strict):
    """Distribution-grounded refinement (after arXiv 2602.02136)."""

    prompt: str = Field(
        "rewrite", description="named prompt, literal template with {prompt} and {reference}, or auto: the best named"
    )
    n: int = Field(1, ge=1, description="candidates per attempt")
    retries: int = Field(3, ge=0, description="further attempts for a row with no accepted candidate")
    refine_rounds: int = Field(0, ge=0, description="rounds with the accepted rewrite as reference while NLL falls")
    on_failure: OnFailure = Field(
        "drop", description="drop, keep_original (the paper's Eq. 3), or steer: answer the raw prompt as thinksafe does"
    )
    probe_rows: int = Field(32, ge=4, description="rows on which `prompt: auto` tries each named prompt")
    sampling: SamplingConfig = SamplingConfig()

    @field_validator("prompt")
    @classmethod
    def _prompt_resolves(cls, value: str) -> str:
        if value != AUTO:
            resolve_rewrite(value)
        return value


class ThinkSafeConfig(Strict):
    """Self-generated answers under refusal steering (arXiv 2601.23143)."""

    ladder: tuple[str, ...] = Field(
        ("refuse",),
        description="prompts for harmful rows, tried in order: names, literal templates with {prompt}, or auto",
    )
    prompt: str | None = Field(None, description="short for a ladder of this one prompt")
    attempts: int = Field(2, ge=1, description="attempts per rung for a row with no accepted candidate")
    n: int = Field(1, ge=1, description="candidates per attempt")
    probe_rows: int = Field(32, ge=4, description="harmful rows on which `auto` tries each named prompt")
    sampling: SamplingConfig = SamplingConfig()

    @model_validator(mode="before")
    @classmethod
    def _one_prompt_is_a_ladder(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("ladder"), str):
            data = {**data, "ladder": [data["ladder"]]}
        if not isinstance(data, dict) or data.get("prompt") is None:
            return data
        one = [data["prompt"]]
        if data.get("ladder") is not None and list(data["ladder"]) != one:
            raise ValueError(f"prompt {data['prompt']!r} and ladder {data['ladder']!r} are two answers; keep one")
        return {**data, "ladder": one}

    @field_validator("ladder")
    @classmethod
    def _rungs_resolve(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError(f"the ladder needs at least one prompt, and each only once: {list(value)!r}")
        if AUTO in value and {*STEERING_PROMPTS} - {"none"} <= {*value}:
            raise ValueError("the ladder names every prompt, so that auto has none left to try; leave auto out")
        for rung in value:
            if rung != AUTO:
                resolve_steering(rung)
        return value


class RecoverConfig(Strict):
    """Ways back from the model's own thoughts that went wrong (after RECAP, arXiv 2510.00938; offline)."""

    prompt: str = Field(
        "refuse",
        description="steering, a name or a template with {prompt}: towards the way back of a harmful prompt's thought, "
        "and towards a benign prompt's thought that refuses",
    )
    hinges: tuple[str, ...] = Field(
        ("again",),
        description="what is put behind a harmful prompt's thought, tried in order: names or literal texts",
    )
    benign_hinges: tuple[str, ...] = Field(
        ("again",), description="likewise behind a benign prompt's thought that refused"
    )
    whole: float = Field(0.35, ge=0, le=1, description="share of the rows that keep the whole thought")
    closed: float = Field(
        0.3, ge=0, le=1, description="share whose whole thought is closed, every other one with a part of the answer"
    )
    cut_from: float = Field(
        0.5, ge=0, lt=1, description="the others are cut at a token drawn behind this share of the thought"
    )
    attempts: int = Field(3, ge=1, description="attempts for a thought, and per hinge for a way back")
    n: int = Field(1, ge=1, description="candidates per attempt")
    sampling: SamplingConfig = SamplingConfig()

    @field_validator("prompt")
    @classmethod
    def _prompt_resolves(cls, value: str) -> str:
        if resolve_steering(value).name == "none":
            raise ValueError("recover.prompt is none: nothing would steer a benign prompt's thought towards a refusal")
        return value

    @model_validator(mode="after")
    def _shares_are_of_one_whole(self) -> RecoverConfig:
        if self.whole + self.closed > 1:
            raise ValueError(
                f"recover: whole {self.whole} and closed {self.closed} are shares of the rows, above 1 together"
            )
        return self

    @field_validator("hinges", "benign_hinges", mode="before")
    @classmethod
    def _one_hinge_is_a_ladder(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("hinges", "benign_hinges")
    @classmethod
    def _hinges_resolve(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError(f"{info.field_name} needs at least one hinge, and each only once: {list(value)!r}")
        for hinge in value:
            resolve_hinge(hinge, HARMFUL_HINGES if info.field_name == "hinges" else BENIGN_HINGES)
        return value


class DatasetOptions(Strict):
    """The ``safety:`` block of one dataset entry."""

    label: Literal["harmful", "benign", "any"] | None = Field(
        None, description="label of every row of this dataset, whatever the rows say; any: the guard alone decides"
    )
    only: Label | None = Field(None, description="take only the rows that are labelled so")
    max_rows: int | None = Field(None, ge=1, description="rows taken from this dataset")
    select: Select | None = Field(None, description="which rows max_rows takes; unset: safety.select")
    hold_out: tuple[str, ...] = Field((), description="categories whose rows are not taken, for evaluation on them")
    category_field: str | None = Field(None, description="column with a row's category; default: category, else type")
    prompt_field: str | None = Field(None, description="column that holds the prompt")
    response_field: str | None = Field(None, description="column that holds the response (thought and answer)")
    thought_field: str | None = Field(None, description="column that holds the thought alone")
    label_field: str | None = Field(None, description="column that holds the label")

    @model_validator(mode="after")
    def _only_needs_the_rows_own_labels(self) -> DatasetOptions:
        if self.only and self.label:
            raise ValueError(f"label {self.label} gives every row that label, so that only {self.only} chooses nothing")
        return self


class KLConfig(Strict):
    """Forward KL to the frozen starting model on benign response tokens (ThinkSafe+KL)."""

    mode: Literal["replace", "add"] = Field(
        "replace", description="KL instead of cross-entropy on benign tokens, or besides it"
    )
    weight: float = Field(1.0, gt=0, description="factor on the KL")
    reference: Literal["auto", "adapter", "copy", "top_k"] = Field(
        "auto", description="auto: adapter off if there is one, else a frozen copy; top_k: stored log-probabilities"
    )
    k: int = Field(64, ge=1, description="log-probabilities stored per token by reference: top_k")
    chunk_mb: int = Field(256, ge=1, description="bound on the loss's temporaries in MiB")


class ThinkConfig(Strict):
    """How the model thinks, where tokenizer or template do not give it away."""

    open: str | None = Field(None, min_length=1, description="text that opens the thought; unset: found, else <think>")
    close: str | None = Field(
        None, min_length=1, description="text that closes the thought; unset: found, else </think>"
    )
    chat_template_kwargs: dict[str, Any] = Field(
        {},
        description="values for the chat template in every prompt, such as {enable_thinking: true}; Axolotl's own "
        "chat_template_kwargs come first",
    )

    @property
    def markers(self) -> tuple[str, str] | None:
        """Those that the user names; None if only the template is told something, and they are to be found."""
        if self.open is None and self.close is None and self.chat_template_kwargs:
            return None
        return self.open or "<think>", self.close or "</think>"


class SafetyConfig(Strict):
    """The whole section. Every key is optional."""

    work_dir: str = Field("./safety", description="journals, datasets and logs; content-addressed inside")
    seed: int = Field(42, description="decides row selection and every draw")
    max_rows: int | None = Field(None, ge=1, description="rows taken from each dataset of our types")
    select: Select = Field(
        "random", description="which rows max_rows takes; lowest_nll: those whose reference the model finds likeliest"
    )
    choice: Choice = Field(
        "first", description="which accepted candidate is trained on; resample needs top_p 1, top_k 0 and n above 1"
    )
    max_hours: float | None = Field(
        None, gt=0, description="stop before the engine starts if the plan takes longer; unset: warn above 12"
    )
    engine: EngineConfig = EngineConfig()
    sampling: SamplingConfig = SamplingConfig()
    guard: tuple[GuardConfig, ...] = Field((GuardConfig(),), description="one guard or a list that must agree")
    dgr: DGRConfig = DGRConfig()
    thinksafe: ThinkSafeConfig = ThinkSafeConfig()
    recover: RecoverConfig = RecoverConfig()
    kl: KLConfig | None = Field(None, description="off unless set; an empty mapping takes the defaults")
    stop: StopConfig | None = Field(None, description="off unless set; an empty mapping takes the defaults")
    think: ThinkConfig | None = Field(
        None, description="set to name the think markers yourself, or to have the chat template think"
    )
    eval: EvalConfig | None = Field(
        None, description="what `axolotl safety-eval` asks base and tuned model; off unless set"
    )
    per_dataset: tuple[DatasetOptions | None, ...] = Field(
        (), description="filled from the datasets' own `safety:` blocks; not to be written by hand"
    )

    command_line: tuple[str, ...] = Field(
        (), description="filled from the options that override the YAML; not to be written by hand"
    )

    def options_of(self, index: int) -> DatasetOptions:
        """The own block of the dataset entry at this place; one without keys where it has none."""
        return (self.per_dataset[index] if index < len(self.per_dataset) else None) or DatasetOptions()

    @model_validator(mode="after")
    def _select_needs_a_number(self) -> SafetyConfig:
        blocks = [block or DatasetOptions() for block in self.per_dataset]
        counted = [bool(block.max_rows or self.max_rows) for block in blocks]
        asked = [block.select for block in blocks if block.select not in (None, "random") and not block.max_rows]
        if not self.max_rows and (asked or (self.select != "random" and not any(counted))):
            raise ValueError(
                f"select {(asked or [self.select])[0]} says which rows are taken, and no max_rows says how many: set "
                "both"
            )
        return self

    @field_validator("guard", mode="before")
    @classmethod
    def _one_guard_or_many(cls, value: Any) -> Any:
        guards = value if isinstance(value, (list, tuple)) else [value]
        if not guards:
            raise ValueError("an empty list of guards would let everything pass; name one, or remove the key")
        return [{"model": guard} if isinstance(guard, str) else guard for guard in guards]


class SafetyArgs(BaseModel):
    """What Axolotl merges into its own input model: our one top-level key."""

    safety: SafetyConfig | None = Field(None, description="axolotl-safety: data stage before training")
