"""The evaluation: from the YAML to ``results.json``."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axolotl_safety.config import SafetyConfig
from axolotl_safety.config.evaluation import AXES, EvalConfig
from axolotl_safety.config.section import section
from axolotl_safety.data.tokenizer import TargetTokenizer
from axolotl_safety.engines.base import Engine, Sampling
from axolotl_safety.engines.choose import choose_backend, start_engine
from axolotl_safety.guards.judge import Guard, ModelGuard, load_guards
from axolotl_safety.pipeline.identity import run_of
from axolotl_safety.pipeline.inputs import target_fingerprint, target_tokens
from axolotl_safety.pipeline.manifest import versions
from axolotl_safety.pipeline.sampling import family_preset
from axolotl_safety.util.errors import ConfigError
from axolotl_safety.util.files import check_writable, writing_in
from axolotl_safety.util.loop import run_async
from axolotl_safety.util.terminal import without_credentials

from .agreement import agreements, under_each
from .attacks import attacks_of
from .figures import REFUSAL_JUDGE, HarmJudge, attack_effects, comparisons, figures, measure, safety_tax
from .items import LoadedSet, load_set
from .lm_eval_task import LmEvalTask, run_task, task_files
from .models import EvalModel, check_lm_eval, eval_models, warn_of_other_prompts
from .overlap import overlaps, training_prompts
from .runner import EvalContext, Response, Thoughts, answer_all
from .sets import resolve, with_tasks
from .store import SCHEMA, write_results

LOG = logging.getLogger(__name__)
_EXAMPLE = "safety:\n  eval:\n    harm: [HarmBench]\n    over_refusal: [XSTest]\n    reasoning: [GSM8K]"


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation: its figures and where they are."""

    results: dict[str, Any]
    folder: Path


def evaluate(cfg: Any, folders: tuple[str, ...] = (), make_engine: Callable[..., Engine] = start_engine) -> Evaluated:
    """Ask the base and every tuned model, judge, count, write.

    Args:
        cfg: the final Axolotl config.
        folders: adapters or models; without any, ``output_dir`` if a model stands there.
        make_engine: how an engine is started; tests script one.

    Raises:
        ConfigError, DataError, ModelError: before any engine starts.
        StageError: the disk does not take what is written.
    """
    safety = section(cfg)
    settings = safety.eval and with_tasks(safety.eval)
    if settings is None:
        raise ConfigError(
            f"safety-eval: the YAML has no safety.eval section, so nothing is to be asked. Add:\n{_EXAMPLE}"
        )
    work_dir = Path(safety.work_dir)
    check_writable(work_dir)
    with writing_in(work_dir):
        return _evaluate(cfg, safety, work_dir, settings, folders, make_engine)


def _evaluate(
    cfg: Any,
    safety: SafetyConfig,
    work_dir: Path,
    settings: EvalConfig,
    folders: tuple[str, ...],
    make_engine: Callable[..., Engine],
) -> Evaluated:
    backend = choose_backend(safety.engine)
    models = eval_models(cfg, safety, folders, backend)
    base = models[0].files
    tokens = target_tokens(cfg, safety, base)
    warn_of_other_prompts(models, tokens)
    sets = _load_sets(cfg, safety, settings, tokens, base.max_positions)
    sampling = _sampling(settings, base.family)
    guards = load_guards(safety.guard) if settings.harm else []
    tasks = [
        LmEvalTask(one.lm_eval, one.include_path, one.max_items or settings.max_items, one.run_code)
        for one in settings.reasoning
        if one.lm_eval
    ]
    if tasks:
        check_lm_eval(models, tokens.tokenizer)
    _warn_of_few(sets, settings)

    attacks = attacks_of(settings.attacks)
    ctx = EvalContext(safety, backend, work_dir, guards, tokens, sampling, settings.samples, attacks, make_engine)
    thoughts: Thoughts = {}
    responses = [response for model in models for response in run_async(answer_all(ctx, model, sets, thoughts))]
    harm_judge = HarmJudge(", ".join(guard.name for guard in guards), any(guard.heuristic for guard in guards))
    measured = measure(sets, responses, harm_judge) + under_each(sets, responses, guards)
    for task in tasks:
        measured += [run_task(task, model, tokens, sampling, safety, work_dir) for model in models]
    run = run_of(cfg)
    training, about = training_prompts(cfg, work_dir, run)
    prompts = {(one.spec.axis, one.spec.name, item.item_id): item.row_prompt for one in sets for item in one.items}
    shared = overlaps(training, prompts) if training is not None else {}

    results = {
        "schema": SCHEMA,
        "hash": _hash(ctx, settings, models, sets, tasks, about),
        "models": [_about_model(ctx, model) for model in models],
        "seed": safety.seed,
        "sampling": sampling.as_dict(),
        "samples": settings.samples,
        "judges": _judges(harm_judge),
        "sets": [
            {**_about_set(one, None if training is None else shared), **_not_asked(one, responses)} for one in sets
        ],
        "figures": figures(measured),
        "comparisons": comparisons(measured),
        "attacks": attack_effects(measured),
        "safety_tax": safety_tax(measured),
        "agreement": agreements(responses, guards),
        "training_data": about,
        "versions": versions(),
    }
    return Evaluated(results, write_results(work_dir, results, responses, shared, run))


def _load_sets(
    cfg: Any, safety: SafetyConfig, settings: EvalConfig, tokens: TargetTokenizer, max_positions: int | None
) -> list[LoadedSet]:
    blocks = [(axis, one) for axis in AXES for one in getattr(settings, axis) if not one.lm_eval]
    specs = [(resolve(one, axis), one) for axis, one in blocks]
    doubled = [name for name, count in Counter((spec.axis, spec.name) for spec, _ in specs).items() if count > 1]
    if doubled:
        axis, name = doubled[0]
        raise ConfigError(
            f"safety.eval.{axis}: two sets are called {name!r}; give one of them another name: {{name: ...}}."
        )
    token = cfg.hf_use_auth_token
    return [load_set(spec, one, settings, tokens, max_positions, token, safety.seed) for spec, one in specs]


def _sampling(settings: EvalConfig, family: str) -> Sampling:
    return Sampling(**(family_preset(family) | settings.sampling.model_dump(exclude_none=True)))


def _warn_of_few(sets: Sequence[LoadedSet], settings: EvalConfig) -> None:
    for one in sets:
        drawn = len(one.items) * settings.samples
        if one.spec.axis == "reasoning" and drawn < 100 and settings.sampling.temperature != 0:
            LOG.warning(
                "%s: %d prompts and %d samples each make wide intervals; samples: 8 is usual for a set this small",
                one.spec.name,
                len(one.items),
                settings.samples,
            )


def _about_model(ctx: EvalContext, model: EvalModel) -> dict[str, Any]:
    fingerprint = target_fingerprint(model.files, ctx.safety, ctx.backend)
    about = {"name": model.name, "kind": model.kind, "path": model.path, "loaded": model.loaded}
    return {**about, "backend": ctx.backend, "fingerprint": fingerprint}


def _judges(harm: HarmJudge) -> dict[str, Any]:
    return {
        "harm": {"name": harm.name, "heuristic": harm.heuristic} if harm.name else None,
        "refusal": {"name": REFUSAL_JUDGE, "heuristic": True},
    }


def _about_set(one: LoadedSet, shared: dict[Any, str] | None) -> dict[str, Any]:
    spec = one.spec
    overlap = None
    if shared is not None:
        ways = Counter(shared.get((spec.axis, spec.name, item.item_id)) for item in one.items)
        overlap = {"exact": ways["exact"], "ngram": ways["ngram"], "any": ways["exact"] + ways["ngram"]}
    source = {
        "path": without_credentials(spec.path),
        "config": spec.config,
        "split": spec.split,
        "revision": spec.revision,
    }
    return {
        "set": spec.name,
        "axis": spec.axis,
        "source": {**source, "sha256": one.sha256},
        "licence": spec.licence,
        "template": spec.template,
        "rows": one.rows,
        "n": len(one.items),
        "skipped": one.skipped,
        "judge": spec.judge if spec.axis == "reasoning" else None,
        "overlap": overlap,
    }


def _not_asked(one: LoadedSet, responses: Sequence[Response]) -> dict[str, Any]:
    """Prompts on which an attack could not be made, by attack and reason; the same ones for every model."""
    reasons: dict[str, Counter[str]] = {}
    for response in responses:
        place = (response.axis, response.set, response.model, response.finish)
        if place == (one.spec.axis, one.spec.name, "base", "not_asked"):
            reasons.setdefault(response.attack, Counter())[response.verdict] += 1
    return {"not_asked": {attack: dict(sorted(found.items())) for attack, found in reasons.items()}}


def _guard_identity(guards: Sequence[Guard]) -> list[str]:
    return [guard.fingerprint if isinstance(guard, ModelGuard) else guard.name for guard in guards]


def _hash(
    ctx: EvalContext,
    settings: EvalConfig,
    models: Sequence[EvalModel],
    sets: Sequence[LoadedSet],
    tasks: Sequence[LmEvalTask],
    training: dict[str, Any],
) -> str:
    """Hash of everything that decides the results."""
    asked = [
        (
            one.spec.axis,
            one.spec.name,
            one.spec.judge,
            [(item.item_id, item.prompt_ids, item.gold) for item in one.items],
        )
        for one in sets
    ]
    parts = [
        SCHEMA,
        [(model.name, target_fingerprint(model.files, ctx.safety, ctx.backend)) for model in models],
        asked,
        [(task.name, task.limit, task_files(task)) for task in tasks],
        ctx.sampling.as_dict(),
        settings.samples,
        ctx.safety.seed,
        [_guard_identity(ctx.guards), [one.model_dump() for one in ctx.safety.guard] if ctx.guards else []],
        training,
        versions()["axolotl_safety"],
    ]
    if ctx.attacks:  # without any, the hash is what it was before there were some
        parts.append([(attack.name, attack.identity) for attack in ctx.attacks])
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]
