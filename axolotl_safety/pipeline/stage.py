"""The data stage: from the YAML's dataset entries to folders of token ids.

There is no separate notion of "resume": every run walks the same road, and the journal answers what was asked before.
A finished stage walked again starts no engine and writes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from axolotl_safety.config import SafetyConfig
from axolotl_safety.config.section import section
from axolotl_safety.config.work_dir import DEVELOPMENT, LATEST, REPORT, of_run
from axolotl_safety.data.development import Development, DevelopmentPrompt, without_met
from axolotl_safety.engines.base import Engine, EngineFigures
from axolotl_safety.engines.choose import backend_named, start_engine
from axolotl_safety.engines.gpu.given_back import require_given_back
from axolotl_safety.engines.journal import Journal
from axolotl_safety.engines.queue import WorkQueue
from axolotl_safety.guards.judge import check_remote
from axolotl_safety.methods.base import method_named
from axolotl_safety.methods.run import Answered, answer_rows
from axolotl_safety.util.errors import ConfigError, NothingAccepted
from axolotl_safety.util.files import write_atomically, writing_in
from axolotl_safety.util.loop import run_async

from .identity import TOKENIZER_KEYS, run_of
from .inputs import StageInputs, stage_inputs
from .manifest import entry_manifest, log_funnel, record_run, warnings_of
from .writer import write_dataset

LOG = logging.getLogger(__name__)
Gate = Callable[[Any, StageInputs, dict[str, Journal]], Any]
Met = Callable[[Any, Sequence[DevelopmentPrompt]], Mapping[str, str]]


def check_adapter_below(cfg: Any) -> None:
    """Refuse to generate for an adapter that the engine would not see.

    Only training is refused: inference, evaluation and merging name ``lora_model_dir`` as a matter of course.

    Raises:
        ConfigError: ``lora_model_dir`` is set.
    """
    if cfg.lora_model_dir:
        raise ConfigError(
            f"lora_model_dir {cfg.lora_model_dir!r}: the data stage samples from base_model as named, and would not "
            "see this adapter. Merge it first (axolotl merge-lora) and name the merged model as base_model."
        )


def config_hash(cfg: Any, safety: SafetyConfig) -> str:
    """Hash of what the stage is asked to do, for telling launches apart (not for caching)."""
    datasets = [dict(entry) for entry in cfg.datasets or []]
    asked = {name: cfg.get(name) for name in TOKENIZER_KEYS if cfg.get(name)}
    parts = [cfg.base_model, safety.model_dump(), datasets, *([asked] if asked else [])]
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_stage(
    cfg: Any,
    allow_engine: bool = True,
    make_engine: Callable[..., Engine] = start_engine,
    gate: Gate | None = None,
    met: Met | None = None,
) -> dict[int, dict[str, Any]]:
    """Do everything between the YAML and Axolotl's loader.

    Args:
        cfg: the final Axolotl config.
        allow_engine: False to serve only what is finished.
        make_engine: how an engine is started; tests script one.
        gate: called before an engine starts; raises if what is left cannot fit this machine or takes too long.
        met: by key, the evaluation set that a development prompt stands in, for those that stand in one.

    Returns:
        By dataset index: ``{"hash": ..., "train": path, "rows": count}``.

    Raises:
        ConfigError, DataError, ModelError: before any engine starts.
        NothingAccepted: of one of the datasets; rows, manifests and what the report reads are written.
        StageError: an engine is needed and not allowed, it left GPU memory taken, or the disk does not take what is
            written.
    """
    started = time.monotonic()
    inputs, run = stage_inputs(cfg, section(cfg)), run_of(cfg)
    if inputs.development and met is not None:
        left = without_met(inputs.development, met(cfg, inputs.development))
        inputs = replace(inputs, development=left)
    with writing_in(inputs.work_dir):
        journals = inputs.open_journals()

        def start() -> Engine:
            if gate is not None:
                gate(cfg, inputs, journals)
            return start_inputs(inputs, make_engine)

        queue = WorkQueue(journals, start if allow_engine else None)
        try:
            selected, answered = run_async(answer(inputs, queue))
        finally:
            record_run(inputs.work_dir, inputs.backend, queue)
        figures = queue.engine.figures if queue.engine else EngineFigures()
        outputs = _deliver(selected, answered, queue, figures, started, run)
    require_given_back(figures)  # last, so that the next run finds everything done
    return outputs


def start_inputs(inputs: StageInputs, make_engine: Callable[..., Engine] = start_engine) -> Engine:
    """The engine for a stage; a judge that cannot be asked ends the run before a model loads.

    Raises:
        ConfigError: an endpoint does not answer.
    """
    check_remote(inputs.guards)
    return make_engine(
        inputs.safety.engine,
        inputs.backend,
        inputs.work_dir,
        inputs.models,
        inputs.base_model,
        inputs.files.tokenizer,
    )


async def answer(inputs: StageInputs, queue: WorkQueue) -> tuple[StageInputs, Answered]:
    """Choose the rows and answer every one of them through this queue, which is closed then.

    Returns:
        The inputs with the chosen rows, and what became of these.
    """
    async with queue:
        if inputs.chosen_by_score:
            inputs = await inputs.selected_by(queue)
        return inputs, await answer_rows(inputs.contexts(queue), inputs.safety, inputs.entries, queue)


def provenance(inputs: StageInputs, auto: dict[str, Any], figures: EngineFigures) -> dict[str, Any]:
    """What a manifest says of models, engine, guards and settings."""
    safety, files, guards = inputs.safety, inputs.files, inputs.guards
    methods = [method_named(name) for name in inputs.sampling]
    prompts = {name: prompt.sha256 for method in methods for name, prompt in method.prompts(safety).items()}
    blocks = {method.name: method.config(safety) for method in methods}
    return {
        "model": {"name": inputs.base_model, "fingerprint": files.fingerprint, **model_record(inputs)},
        "engine": {"backend": inputs.backend, **asdict(figures)},
        "guards": [{"name": guard.name, "heuristic": guard.heuristic} for guard in guards],
        "guard_settings": [one.model_dump(exclude_defaults=True) for one in safety.guard] if guards else [],
        "sampling": {method: drawn.as_dict() for method, drawn in inputs.sampling.items()},
        "prompts": prompts,
        "seed": safety.seed,
        "choice": safety.choice,
        "auto": auto,
        **{name: block.model_dump() for name, block in blocks.items() if block is not None},
        "sequence_len": inputs.sequence_len,
    }


def model_record(inputs: StageInputs) -> dict[str, Any]:
    """The target for the manifest. How a server holds its weights is not known."""
    told = {"chat_template_kwargs": values} if (values := inputs.tokens.template_kwargs) else {}
    unknown = {"dtype": "unknown (the server's)", "quantization": "unknown (the server's)"}
    return (
        asdict(inputs.files.spec)
        | told
        | ({} if inputs.backend == "none" or backend_named(inputs.backend).local else unknown)
    )


def _deliver(
    inputs: StageInputs, answered: Answered, queue: WorkQueue, figures: EngineFigures, started: float, run: str
) -> dict[int, dict[str, Any]]:
    """Write what Axolotl loads, and say what became of the rows."""
    work_dir, kl = inputs.work_dir, inputs.safety.kl is not None
    common = provenance(inputs, answered.auto, figures)
    outputs, nothing = {}, []
    for entry in inputs.entries:
        rows = answered.outcomes[entry.index]
        manifest = entry_manifest(entry.method, entry.source, entry.adapter, rows, queue, figures, started) | common
        log_funnel(entry.source.name, entry.method, manifest)
        trained = manifest["funnel"]["trained"]
        if not trained:
            nothing.append(f"{entry.source.name!r}: no row was accepted. Reasons: {manifest['reasons']}.")
        digest, train = write_dataset(work_dir, rows, manifest, kl, inputs.tokens.thought_length)
        LOG.info("%s: %d rows in %s", entry.source.name, trained, train if trained else train.parent)
        outputs[entry.index] = {"hash": digest, "train": str(train), "rows": trained}
    if inputs.development:
        every = [row for rows in answered.outcomes.values() for row in rows if row.response_ids]
        trained = dict(Counter(row.label for row in every if row.status != "rejected"))
        kept = Development(inputs.development, inputs.tokens.stop_token_ids, trained)
        kept.write(work_dir / of_run(DEVELOPMENT, run))
    latest = {index: output["hash"] for index, output in outputs.items()}
    for name in (of_run(LATEST, run), LATEST):
        write_atomically(work_dir / name, json.dumps(latest).encode() + b"\n")
    if nothing:
        raise NothingAccepted(
            f"{' '.join(nothing)} There is nothing to train on. Look at the samples in {work_dir / REPORT}; try "
            "another prompt, more attempts or a longer max_new_tokens, or take the dataset out of the YAML."
        )
    generates = any(method_named(entry.method).generates for entry in inputs.entries)
    for warning in warnings_of([row for rows in answered.outcomes.values() for row in rows], generates, kl):
        LOG.warning("%s", warning)
    return outputs
