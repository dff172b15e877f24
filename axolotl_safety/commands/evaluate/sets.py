"""Named evaluation sets, and any file with a prompt column."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from axolotl_safety.config.evaluation import FILES, Axis, EvalConfig, EvalSetConfig, MathJudge
from axolotl_safety.util.errors import ConfigError, nearest

Row = Mapping[str, Any]
# What R1's model card asks for, and ThinkSafe for MATH-500 and AIME24 (its evaluation scripts).
_BOXED = "{prompt}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
_PROMPT_COLUMNS = ("prompt", "question", "problem", "instruction", "goal", "behavior", "forbidden_prompt", "text")
_ANSWER_COLUMNS = ("answer", "solution", "gold", "target")


@dataclass(frozen=True)
class EvalSet:
    """Where the prompts of one set are and how they are asked and judged.

    Attributes:
        path: hub id or local file.
        licence: as its authors state it; empty where nobody said.
        gated: whether the hub asks for a login first, when this was written.
        revision: hub revision. None, the newest: none of these sets was ever loaded by us at a revision to vouch for;
            the content's hash is in the results.
        prompt_fields: columns that may hold the prompt, the first that is there; of a conversation its first user turn.
        context_field: column with text that stands before the prompt, where a row has one.
        answer_fields: columns that may hold the gold answer, the first that is there.
        template: what is asked; ``{prompt}`` stands for the row's prompt.
    """

    name: str
    axis: Axis
    path: str
    licence: str = ""
    gated: bool = False
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    prompt_fields: tuple[str, ...] = _PROMPT_COLUMNS
    context_field: str | None = None
    answer_fields: tuple[str, ...] = _ANSWER_COLUMNS
    keep: Callable[[Row], bool] | None = None
    template: str = "{prompt}"
    judge: MathJudge = "marked"


def _has(column: str, value: str) -> Callable[[Row], bool]:
    return lambda row: str(row.get(column, "")).strip().lower() == value


def _not_copyright(row: Row) -> bool:
    """HarmBench judges those by a hash of the text, which no guard can do."""
    return str(row.get("FunctionalCategory", "")).strip().lower() != "copyright"


_WILD = EvalSet(
    "WildJailbreak",
    "harm",
    "allenai/wildjailbreak",
    "ODC-BY",
    gated=True,
    config="eval",
    prompt_fields=("adversarial",),
    keep=_has("data_type", "adversarial_harmful"),
)
_XSTEST = EvalSet("XSTest", "harm", "walledai/XSTest", "CC-BY-4.0", split="test", keep=_has("label", "unsafe"))
_JBB = EvalSet(
    "JBB-Behaviors",
    "harm",
    "JailbreakBench/JBB-Behaviors",
    "MIT",
    config="behaviors",
    split="harmful",
    prompt_fields=("Goal",),
)
_FORTRESS = EvalSet("Fortress", "harm", "ScaleAI/fortress_public", "CC-BY-4.0", prompt_fields=("adversarial_prompt",))
_OR_BENCH = EvalSet("OR-Bench-Toxic", "harm", "bench-llm/or-bench", "CC-BY-4.0", config="or-bench-toxic")
_SETS = (
    EvalSet(
        "HarmBench",
        "harm",
        "walledai/HarmBench",
        "MIT",
        config="standard",
        prompt_fields=("prompt", "Behavior"),
        context_field="ContextString",
        keep=_not_copyright,
    ),
    EvalSet("StrongREJECT", "harm", "walledai/StrongREJECT", "MIT", prompt_fields=("prompt", "forbidden_prompt")),
    *(_WILD, _XSTEST, _JBB, _FORTRESS, _OR_BENCH),
    EvalSet(
        "SORRY-Bench",
        "harm",
        "sorry-bench/sorry-bench-202503",
        "its own",
        gated=True,
        prompt_fields=("turns",),
        keep=_has("prompt_style", "base"),
    ),
    EvalSet(
        "WildChat",
        "harm",
        "allenai/WildChat-1M-Full",
        "ODC-BY",
        gated=True,
        prompt_fields=("conversation",),
        keep=_has("toxic", "true"),
    ),
    replace(_FORTRESS, axis="over_refusal", prompt_fields=("benign_prompt",)),
    replace(_OR_BENCH, name="OR-Bench-Hard", axis="over_refusal", config="or-bench-hard-1k"),
    EvalSet("FalseReject", "over_refusal", "AmazonScience/FalseReject", "CC-BY-NC-4.0", split="test"),
    replace(_XSTEST, axis="over_refusal", keep=_has("label", "safe")),
    replace(_JBB, axis="over_refusal", split="benign"),
    replace(_WILD, axis="over_refusal", keep=_has("data_type", "adversarial_benign")),
    EvalSet(
        "GSM8K",
        "reasoning",
        "openai/gsm8k",
        "MIT",
        config="main",
        split="test",
        prompt_fields=("question",),
        answer_fields=("answer",),
        template=_BOXED,
        judge="marked",  # not lm-eval's flexible-extract: behind "$\\boxed{18}$." its last "number" is "$."
    ),
    EvalSet(
        "MATH-500",
        "reasoning",
        "HuggingFaceH4/MATH-500",
        "MIT",
        split="test",
        prompt_fields=("problem",),
        answer_fields=("solution", "answer"),
        template=_BOXED,
        judge="math_verify",
    ),
    EvalSet(
        "AIME24",
        "reasoning",
        "Maxwell-Jia/AIME_2024",
        "MIT",
        prompt_fields=("Problem",),
        answer_fields=("Answer",),
        template=_BOXED,
        judge="math_verify",
    ),
)
_AIME25 = replace(
    _SETS[-1],
    name="AIME25",
    path="math-ai/aime25",
    licence="",
    split="test",
    prompt_fields=("problem",),
    answer_fields=("answer",),
)
_SETS += (_AIME25,)
# Reasoning sets that lm-eval's own task asks and judges, by the name that papers use.
_RUN_CODE = frozenset({"HumanEval"})
TASKS = {"GPQA-Diamond": "gpqa_diamond_cot_zeroshot", "HumanEval": "humaneval_instruct", "IFEval": "ifeval"}
KNOWN: dict[tuple[Axis, str], EvalSet] = {(one.axis, one.name): one for one in _SETS}


def with_tasks(settings: EvalConfig) -> EvalConfig:
    """The same, with lm-eval's task in the place of every reasoning set that is known by name and is one.

    Raises:
        ConfigError: keys beside the name that only a set has, or code would be run that nobody allowed.
    """
    tasks = {name.lower(): (name, task) for name, task in TASKS.items()}

    def replaced(block: EvalSetConfig) -> EvalSetConfig:
        name, task = tasks.get((block.name or "").lower(), ("", ""))
        if not task or block.path is not None:
            return block
        if alien := sorted(block.changed() - {"name", "max_items", "run_code"}):
            raise ConfigError(
                f"safety.eval.reasoning: {name} is asked and judged by lm-eval's task {task}, which has no "
                f"{', '.join(alien)}. Remove it, or give {{path: ...}} to have rows of your own asked."
            )
        if name in _RUN_CODE and not block.run_code:
            raise ConfigError(
                f"safety.eval.reasoning: {name} is judged by running code that the model wrote, on this machine and "
                f"outside any sandbox. If you mean it: {{name: {name}, run_code: true}}, and HF_ALLOW_CODE_EVAL=1 in "
                "the environment, which the metric asks for."
            )
        return block.model_copy(update={"name": None, "lm_eval": task})

    return settings.model_copy(update={"reasoning": tuple(map(replaced, settings.reasoning))})


def resolve(block: EvalSetConfig, axis: Axis) -> EvalSet:
    """The set that a block of the YAML names, its own keys over the known set's.

    Raises:
        ConfigError: no set of that name measures this axis, and no path says where it is.
    """
    known = {name.lower(): one for (of, name), one in KNOWN.items() if of == axis}
    found = known.get((block.name or "").lower())
    if found is None and block.path is None:
        near = nearest((block.name or "").lower(), known, 0.5)
        hint = f"did you mean {known[near].name!r}? " if near else ""
        names = ", ".join([*(one.name for one in known.values()), *(TASKS if axis == "reasoning" else ())])
        raise ConfigError(
            f"safety.eval.{axis}: {block.name!r} is no known set of this axis: {hint}Known here: {names}. For a file "
            "or hub dataset of your own write {path: my.jsonl}."
        )
    if found is None:
        path = str(block.path)
        name = Path(path).stem if path.lower().endswith(FILES) else path
        found = EvalSet(block.name or name, axis, path)
    elif block.path is not None:
        found = replace(found, path=block.path, config=None, split="train")
    changes: dict[str, Any] = {
        key: getattr(block, key) for key in ("split", "revision", "template") if getattr(block, key) is not None
    }
    if block.prompt_field:
        changes["prompt_fields"] = (block.prompt_field,)
    if block.answer_field:
        changes["answer_fields"] = (block.answer_field,)
    if block.judge != "auto":
        changes["judge"] = block.judge
    return replace(found, **changes)
