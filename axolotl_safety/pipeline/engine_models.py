"""The models as the engine is told of them, and what it must be able to do with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from axolotl_safety.config import SafetyConfig
from axolotl_safety.config.prompts import CUSTOM
from axolotl_safety.data.entries import Entry
from axolotl_safety.engines.base import ModelSpec, Sampling
from axolotl_safety.engines.choose import backend_named
from axolotl_safety.engines.model_files import ModelFiles
from axolotl_safety.guards.judge import Guard, ModelGuard
from axolotl_safety.methods.base import method_named
from axolotl_safety.util.errors import ConfigError

# Words that a named prompt puts around a row, with room to spare; the policy around what a guard reads is longer.
_TEMPLATE_TOKENS = 1024
_GUARD_FRAME_TOKENS = 4096


def check_resampling(choice: str, sampling: Mapping[str, Sampling], backend: str) -> None:
    """``choice: resample`` weighs by log p at the sampling temperature; not every engine gives that.

    Raises:
        ConfigError: this one does not, and the temperature is not 1.
    """
    warm = {method: drawn.temperature for method, drawn in sampling.items() if drawn.temperature != 1.0}
    if choice == "resample" and warm and not backend_named(backend).any_temperature:
        said = ", ".join(f"{method} {temperature}" for method, temperature in warm.items())
        raise ConfigError(
            f"safety.choice: resample weighs by p / q at the sampling temperature ({said}), and backend {backend} "
            "gives log-probabilities at temperature 1 only. Set sampling: {temperature: 1.0}, or engine: {backend: "
            "transformers}, or another choice."
        )


def window_of(files: ModelFiles, safety: SafetyConfig, backend: str) -> int | None:
    """Tokens that the target can hold: its own window, or what the user leaves of it in vLLM."""
    limits = [files.max_positions, safety.engine.max_model_len]  # which only vLLM reads
    return min((limit for limit in limits if limit is not None), default=None)


def longest_sequence(
    safety: SafetyConfig, entries: Sequence[Entry], sampling: Mapping[str, Sampling], window: int | None
) -> int | None:
    """Tokens of the longest sequence that the target will be asked for, a shown prompt and its completion.

    A rewriting prompt shows the row's prompt and a reference (the row's own, or an earlier rewrite) in words of its
    own. One token more is what a score takes.
    """
    tasks = [task for entry in entries for task in entry.tasks]
    prompt = max((len(task.prompt_ids) for task in tasks), default=0)
    reference = max((len(task.reference_ids or ()) for task in tasks), default=0)
    drawn = max((one.max_new_tokens for one in sampling.values()), default=0)
    # A literal template has at most one token per byte; the named ones are shorter than the allowance.
    shown = [prompt for method in sampling for prompt in method_named(method).prompts(safety).values()]
    literal = max((len(prompt.template.encode()) for prompt in shown if prompt.name == CUSTOM), default=0)
    needed = prompt + max(reference, drawn) + drawn + _TEMPLATE_TOKENS + literal + 1
    return min(needed, window) if window else needed


def engine_models(
    files: ModelFiles, longest: int | None, guards: Sequence[Guard], sequence_len: int
) -> dict[str, ModelSpec]:
    """What the engine serves: the target, and the guards that are models.

    A guard reads one row, so that none of them needs the whole of a long window.
    """
    return {"target": replace(files.spec, max_model_len=longest)} | guard_models(guards, sequence_len)


def guard_models(guards: Sequence[Guard], sequence_len: int) -> dict[str, ModelSpec]:
    """The guards that are models, with no more of a window than judging one row takes."""
    models = {}
    for guard in guards:
        if isinstance(guard, ModelGuard):
            enough = 2 * sequence_len + max(_GUARD_FRAME_TOKENS, guard.frame_tokens + guard.max_new_tokens)
            own = guard.files.max_positions or enough
            models[guard.key] = replace(guard.files.spec, max_model_len=min(own, enough))
    return models
