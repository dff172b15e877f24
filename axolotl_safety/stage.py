"""The data stage: from the YAML's dataset entries to folders of token ids.

There is no separate notion of "resume": every run walks the same road, and the journal answers what was asked before.
A finished stage walked again starts no engine and writes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import methods as at_work
from .candidates import Workshop
from .config import METHODS, PREFIX, TYPES, SafetyConfig
from .engine_models import engine_models, longest_sequence, refuse_resampling_without_scores, window_of
from .engines.base import Engine, EngineFigures
from .engines.choose import choose_backend, start_engine
from .engines.gpu_memory import require_given_back
from .errors import ConfigError, StageError
from .funnel import entry_manifest, log_funnel, warn_of_empty_thoughts, warn_without_benign_rows
from .guards.judge import BuiltinGuard, Guard, check_remote, load_guards
from .handoff import write_dataset
from .journal import Journal, write_atomically
from .queue import WorkQueue
from .reasoning import TargetTokenizer
from .rows import LATEST, Outcome
from .target import ModelFiles, load_model_files
from .tasks import Entry, read_entry, resolve_sampling, warn_without_choice

LOG = logging.getLogger(__name__)


def our_entries(cfg: Any) -> dict[int, str]:
    """Index and method of the dataset entries that are ours.

    Raises:
        ConfigError: a type of ours that does not exist.
    """
    found = {}
    for index, entry in enumerate(cfg.datasets or []):
        if isinstance(entry.type, str) and entry.type.startswith(PREFIX):
            method = entry.type.removeprefix(PREFIX)
            if method not in METHODS:
                raise ConfigError(
                    f"datasets: type {entry.type!r} does not exist. Types of this plugin: {', '.join(TYPES)}."
                )
            found[index] = method
    return found


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


def section(cfg: Any) -> SafetyConfig:
    """The validated ``safety:`` section of a final Axolotl config."""
    raw = cfg.safety
    return SafetyConfig.model_validate(raw.to_dict() if hasattr(raw, "to_dict") else raw or {})


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
        ConfigError, DataError, ModelError: before any engine starts.
        StageError: nothing was accepted, an engine is needed and not allowed, or it left GPU memory taken.
    """
    started = time.monotonic()
    safety = section(cfg)
    work_dir = Path(safety.work_dir)
    check_writable(work_dir)
    methods = our_entries(cfg)
    generates = any(method != "vanilla" for method in methods.values())
    files = load_target(cfg, safety)
    think = (safety.think.open, safety.think.close) if safety.think else None
    tokens = TargetTokenizer(files.tokenizer, files.stop_token_ids, think)
    entries = [read_entry(cfg, safety, tokens, index, method) for index, method in methods.items()]
    tokens.check_round_trip([text for entry in entries for text in entry.sample_texts()], files.tokenizer_file)
    sampling = {
        method: resolve_sampling(
            safety,
            getattr(safety, method).sampling,
            cfg.sequence_len,
            [entry for entry in entries if at_work.may_answer(safety, method, entry.method)],
            files.family,
        )
        for method in at_work.generating(safety, methods.values())
    }
    warn_without_choice(safety, sampling)
    guards = load_guards(safety.guard) if generates else []
    backend = choose_backend(safety.engine) if generates else "none"
    refuse_resampling_without_scores(safety.choice, sampling, backend)
    window = window_of(files, safety, backend)
    longest = longest_sequence(safety, entries, sampling, window)
    models = engine_models(files, longest, guards, cfg.sequence_len)
    fingerprint = target_fingerprint(files, safety, backend)

    def start() -> Engine:
        check_remote(guards)  # a judge that cannot be asked ends the run before a model loads
        return make_engine(safety.engine, backend, work_dir, models)

    queue = WorkQueue(
        open_journals(work_dir, fingerprint, guards) if generates else {},
        start if allow_engine else None,
    )
    try:
        model = (fingerprint, window, cfg.sequence_len)
        shops = {
            method: Workshop(queue, tokens, guards, *model, drawn, safety.seed, safety.choice)
            for method, drawn in sampling.items()
        }
        outcomes, probed = at_work.run(shops, safety, entries, cfg.sequence_len)
    finally:
        queue.close()
    figures = queue.engine.figures if queue.engine else EngineFigures()
    common = {
        "model": {"path": str(cfg.base_model), "fingerprint": files.fingerprint, **asdict(files.spec)},
        "engine": {"backend": backend, **asdict(figures)},
        "guards": [{"name": guard.name, "heuristic": guard.heuristic} for guard in guards],
        "guard_settings": [one.model_dump(exclude_defaults=True) for one in safety.guard] if guards else [],
        "sampling": {method: drawn.as_dict() for method, drawn in sampling.items()},
        "seed": safety.seed,
        "choice": safety.choice,
        "auto": probed,
        **{method: getattr(safety, method).model_dump() for method in sampling},
        "sequence_len": cfg.sequence_len,
    }
    outputs = _deliver(work_dir, entries, outcomes, queue, common, figures, started, kl=safety.kl is not None)
    require_given_back(figures)  # last, so that the next run finds everything done
    return outputs


def check_writable(work_dir: Path) -> None:
    """Create the folder and try to write into it.

    Raises:
        ConfigError: it cannot be written.
    """
    # Every rank looks, unlocked: one name each, or one would delete the other's.
    probe = work_dir / f".writable-{socket.gethostname()}-{os.getpid()}"
    try:
        work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"safety.work_dir {str(work_dir)!r} cannot be written: {error}. Set it to a folder on a disk with space "
            "that this user may write."
        ) from error


def load_target(cfg: Any, safety: SafetyConfig) -> ModelFiles:
    """The base model as named: the policy that generates is the one that training starts from."""
    return load_model_files(
        cfg.base_model,
        "base_model",
        tokenizer_name=cfg.tokenizer_config,
        revision=cfg.revision_of_model,
        trust_remote_code=bool(cfg.trust_remote_code),
        dtype=safety.engine.dtype,
        quantization=safety.engine.quantization,
    )


def target_fingerprint(files: ModelFiles, safety: SafetyConfig, backend: str) -> str:
    """Hash of everything about target and engine that changes what is sampled; memory settings do not."""
    parts = [files.fingerprint, backend, safety.engine.dtype, safety.engine.quantization]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def open_journals(work_dir: Path, fingerprint: str, guards: list[Guard]) -> dict[str, Journal]:
    """One journal per model; two guards that run the same model share theirs."""
    names = {"target": f"target-{fingerprint[:16]}"}
    for guard in guards:
        if not isinstance(guard, BuiltinGuard):
            digest = hashlib.sha256(guard.fingerprint.encode()).hexdigest()
            names[guard.key] = f"guard-{digest[:16]}"
    opened = {name: Journal(work_dir / "journal" / f"{name}.jsonl") for name in set(names.values())}
    return {key: opened[name] for key, name in names.items()}


def _deliver(
    work_dir: Path,
    entries: list[Entry],
    outcomes: dict[int, list[Outcome]],
    queue: WorkQueue,
    common: dict[str, Any],
    figures: EngineFigures,
    started: float,
    kl: bool,
) -> dict[int, dict[str, Any]]:
    outputs = {}
    for entry in entries:
        rows = outcomes[entry.index]
        manifest = entry_manifest(entry.method, entry.source, entry.adapter, rows, queue, figures, started) | common
        log_funnel(entry.source.name, entry.method, manifest)
        trained = manifest["funnel"]["trained"]
        if not trained:
            raise StageError(
                f"{entry.source.name!r}: no row was accepted, so there is nothing to train on. Reasons: "
                f"{manifest['reasons']}. Look at the completions in {work_dir / 'journal'}; try another prompt, "
                "more attempts or a longer max_new_tokens."
            )
        digest, train = write_dataset(work_dir, rows, manifest, kl)
        LOG.info("%s: %d rows in %s", entry.source.name, trained, train)
        outputs[entry.index] = {"hash": digest, "train": str(train), "rows": trained}
    kept = [row.label for rows in outcomes.values() for row in rows if row.status != "rejected"]
    warn_without_benign_rows({entry.method for entry in entries}, set(kept), kl)
    warn_of_empty_thoughts([row for rows in outcomes.values() for row in rows])
    latest = {index: output["hash"] for index, output in outputs.items()}
    write_atomically(work_dir / LATEST, json.dumps(latest).encode() + b"\n")
    return outputs
