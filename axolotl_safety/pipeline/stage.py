"""The data stage: from the YAML's dataset entries to folders of token ids.

There is no separate notion of "resume": every run walks the same road, and the journal answers what was asked before.
A finished stage walked again starts no engine and writes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from axolotl_safety.commands.plan.gate import check_plan
from axolotl_safety.config.prompts import prompts_in_use
from axolotl_safety.config.section import section
from axolotl_safety.config.work_dir import LATEST, REPORT
from axolotl_safety.data.types import Outcome
from axolotl_safety.engines.base import Engine, EngineFigures, ModelSpec
from axolotl_safety.engines.choose import start_engine
from axolotl_safety.engines.gpu.given_back import require_given_back
from axolotl_safety.engines.queue import WorkQueue
from axolotl_safety.guards.judge import check_remote
from axolotl_safety.methods import run as at_work
from axolotl_safety.util.errors import ConfigError, NothingAccepted
from axolotl_safety.util.files import write_atomically, writing_in

from .cache import remember
from .inputs import Prepared, prepare
from .manifest import entry_manifest, log_funnel, record_run, warnings_of
from .writer import write_dataset

LOG = logging.getLogger(__name__)


def refuse_adapter_below(cfg: Any) -> None:
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


def config_hash(cfg: Any) -> str:
    """Hash of what the stage is asked to do, for telling launches apart (not for caching)."""
    datasets = [dict(entry) for entry in cfg.datasets or []]
    text = json.dumps([cfg.base_model, section(cfg).model_dump(), datasets], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_stage(
    cfg: Any, allow_engine: bool = True, make_engine: Callable[..., Engine] = start_engine
) -> dict[int, dict[str, Any]]:
    """Do everything between the YAML and Axolotl's loader.

    Args:
        cfg: the final Axolotl config.
        allow_engine: False to serve only what is finished.
        make_engine: how an engine is started; tests script one.

    Returns:
        By dataset index: ``{"hash": ..., "train": path, "rows": count}``.

    Raises:
        ConfigError, DataError, ModelError: before any engine starts; also if it cannot fit this machine or takes longer
            than ``safety.max_hours``.
        NothingAccepted: of one of the datasets; rows, manifests and what the report reads are written.
        StageError: an engine is needed and not allowed, it left GPU memory taken, or the disk does not take what is
            written.
    """
    started = time.monotonic()
    prepared = prepare(cfg)
    with writing_in(prepared.work_dir):
        return _run(cfg, prepared, allow_engine, make_engine, started)


def _run(
    cfg: Any, prepared: Prepared, allow_engine: bool, make_engine: Callable[..., Engine], started: float
) -> dict[int, dict[str, Any]]:
    journals = prepared.open_journals()

    def start() -> Engine:
        check_plan(cfg, prepared, journals)
        return start_prepared(prepared, make_engine)

    queue = WorkQueue(journals, start if allow_engine else None)
    try:
        prepared = prepared.selected(queue)
        outcomes, probed = answer(prepared, queue)
    finally:
        queue.close()
        record_run(prepared.work_dir, prepared.backend, queue)
    figures = queue.engine.figures if queue.engine else EngineFigures()
    outputs = _deliver(prepared, outcomes, probed, queue, figures, started)
    warnings = warnings_of(
        [row for rows in outcomes.values() for row in rows],
        {entry.method for entry in prepared.entries},
        prepared.safety.kl is not None,
    )
    for warning in warnings:
        LOG.warning("%s", warning)
    remember(cfg, prepared, [journal.path for journal in journals.values()], outputs, warnings)
    require_given_back(figures)  # last, so that the next run finds everything done
    return outputs


def start_prepared(prepared: Prepared, make_engine: Callable[..., Engine] = start_engine) -> Engine:
    """The engine for a stage; a judge that cannot be asked ends the run before a model loads.

    Raises:
        ConfigError: an endpoint does not answer.
    """
    check_remote(prepared.guards)
    return make_engine(
        prepared.safety.engine,
        prepared.backend,
        prepared.work_dir,
        prepared.models,
        prepared.base_model,
        prepared.files.tokenizer,
    )


def answer(prepared: Prepared, queue: WorkQueue) -> tuple[dict[int, list[Outcome]], dict[str, Any]]:
    """Answer every row through this queue.

    Returns:
        Outcomes by dataset index, in source order; and what `auto` found, by method.
    """
    return at_work.run(prepared.workshops(queue), prepared.safety, prepared.entries, prepared.sequence_len)


def provenance(prepared: Prepared, probed: dict[str, Any], figures: EngineFigures) -> dict[str, Any]:
    """What a manifest says of models, engine, guards and settings."""
    safety, files, guards = prepared.safety, prepared.files, prepared.guards
    return {
        "model": {"name": prepared.base_model, "fingerprint": files.fingerprint, **told(files.spec, prepared.backend)},
        "engine": {"backend": prepared.backend, **asdict(figures)},
        "guards": [{"name": guard.name, "heuristic": guard.heuristic} for guard in guards],
        "guard_settings": [one.model_dump(exclude_defaults=True) for one in safety.guard] if guards else [],
        "sampling": {method: drawn.as_dict() for method, drawn in prepared.sampling.items()},
        "prompts": prompts_in_use(safety, prepared.sampling),
        "seed": safety.seed,
        "choice": safety.choice,
        "auto": probed,
        **{method: getattr(safety, method).model_dump() for method in prepared.sampling},
        "sequence_len": prepared.sequence_len,
    }


def told(spec: ModelSpec, backend: str) -> dict[str, Any]:
    """A model for the manifest. How a server holds its weights is not known."""
    unknown = {"dtype": "unknown (the server's)", "quantization": "unknown (the server's)"}
    return asdict(spec) | (unknown if backend == "openai" else {})


def _deliver(
    prepared: Prepared,
    outcomes: dict[int, list[Outcome]],
    probed: dict[str, Any],
    queue: WorkQueue,
    figures: EngineFigures,
    started: float,
) -> dict[int, dict[str, Any]]:
    work_dir, kl = prepared.work_dir, prepared.safety.kl is not None
    common = provenance(prepared, probed, figures)
    outputs, nothing = {}, []
    for entry in prepared.entries:
        rows = outcomes[entry.index]
        manifest = entry_manifest(entry.method, entry.source, entry.adapter, rows, queue, figures, started) | common
        log_funnel(entry.source.name, entry.method, manifest)
        trained = manifest["funnel"]["trained"]
        if not trained:
            nothing.append(f"{entry.source.name!r}: no row was accepted. Reasons: {manifest['reasons']}.")
        digest, train = write_dataset(work_dir, rows, manifest, kl, prepared.tokens.thought_length)
        LOG.info("%s: %d rows in %s", entry.source.name, trained, train if trained else train.parent)
        outputs[entry.index] = {"hash": digest, "train": str(train), "rows": trained}
    latest = {index: output["hash"] for index, output in outputs.items()}
    write_atomically(work_dir / LATEST, json.dumps(latest).encode() + b"\n")
    if nothing:
        raise NothingAccepted(
            f"{' '.join(nothing)} There is nothing to train on. Look at the samples in {work_dir / REPORT}; try "
            "another prompt, more attempts or a longer max_new_tokens, or take the dataset out of the YAML."
        )
    return outputs
