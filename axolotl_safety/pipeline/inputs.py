"""What has to be known before anything is asked: models, rows, sampling, guards. No engine starts here.

The stage and its plan both begin with `stage_inputs`, so that what is planned is what runs.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from axolotl_safety.config import SafetyConfig, SamplingConfig
from axolotl_safety.config.section import our_entries, template_kwargs
from axolotl_safety.data.chat_template import check_round_trip
from axolotl_safety.data.development import DevelopmentPrompt, development_prompts
from axolotl_safety.data.entries import Entry, EntryReader, read_entry
from axolotl_safety.data.refusal.languages import knows
from axolotl_safety.data.tokenizer import TargetTokenizer
from axolotl_safety.data.trained_tokenizer import as_trained, check_entry_template
from axolotl_safety.data.turn_end import all_ends, check_turn_end, yaml_ends
from axolotl_safety.engines.base import ModelSpec, Sampling
from axolotl_safety.engines.choose import choose_backend
from axolotl_safety.engines.journal import Journal
from axolotl_safety.engines.model_files import ModelFiles, load_model_files
from axolotl_safety.engines.queue import WorkQueue
from axolotl_safety.guards.judge import BuiltinGuard, Guard, load_guards
from axolotl_safety.methods.base import MethodContext, generating, may_answer, method_named
from axolotl_safety.util.errors import ModelError
from axolotl_safety.util.files import check_writable

from .engine_models import check_resampling, engine_models, longest_sequence, window_of
from .sampling import resolve_sampling, warn_without_choice
from .selection import check_scorable, reference_nlls, rows_enough, scores_rows, select_tasks

LOG = logging.getLogger(__name__)
# Raised when the same request would mean another draw (what a field of it says, how a seed is used): journals of before
# then answer nothing.
SCHEMA = 1


@dataclass(frozen=True)
class StageInputs:
    """Everything that the stage needs but an engine.

    Attributes:
        safety: the section.
        base_model: the target's name as the YAML has it.
        sequence_len: the longest row that Axolotl keeps, in tokens.
        files: the target.
        tokens: its tokenizer.
        entries: the dataset entries of our types, read.
        sampling: by generating method.
        guards: the judges; none if nothing is generated.
        backend: as resolved; ``none`` if nothing is generated.
        window: tokens that the target can hold in this engine, None where nobody says.
        fingerprint: everything about target and engine that changes what is sampled.
        development: what training is judged on while it runs; none without ``safety.stop``.
    """

    safety: SafetyConfig
    base_model: str
    sequence_len: int
    files: ModelFiles
    tokens: TargetTokenizer
    entries: tuple[Entry, ...]
    sampling: Mapping[str, Sampling]
    guards: list[Guard]
    backend: str
    window: int | None
    fingerprint: str
    development: tuple[DevelopmentPrompt, ...] = ()

    @property
    def work_dir(self) -> Path:
        """Where journals and datasets lie."""
        return Path(self.safety.work_dir)

    @property
    def models(self) -> dict[str, ModelSpec]:
        """What the engine serves, by name."""
        longest = longest_sequence(self.safety, self.entries, self.sampling, self.window)
        return engine_models(self.files, longest, self.guards, self.sequence_len)

    @property
    def chosen_by_score(self) -> bool:
        """Whether the rows that `max_rows` takes are known only once the engine has scored their references."""
        return scores_rows(self.safety, self.entries)

    async def selected_by(self, queue: WorkQueue) -> StageInputs:
        """With no more rows per entry than `max_rows` says, scored where the choice needs it.

        Raises:
            StageError: scores are missing and no engine may start.
        """
        nlls = await reference_nlls(self.safety, self.entries, queue, self.fingerprint)
        return replace(self, entries=tuple(select_tasks(self.safety, self.entries, nlls)))

    def selected(self) -> StageInputs:
        """The same without asking: as many rows as a score would choose are drawn by seed, as a plan does."""
        return replace(self, entries=tuple(select_tasks(self.safety, self.entries)))

    def open_journals(self, read_only: bool = False) -> dict[str, Journal]:
        """One journal per model; none if nothing is asked."""
        if self.backend == "none":
            return {}
        return open_journals(self.work_dir, self.fingerprint, self.guards, read_only)

    def contexts(self, queue: WorkQueue) -> dict[str, MethodContext]:
        """What each method works with: those of the entries, and those that rows may be handed to."""
        names = {*self.sampling, *(entry.method for entry in self.entries)}
        return {
            name: MethodContext(
                method_named(name).config(self.safety),
                queue,
                self.tokens,
                self.guards,
                self.fingerprint,
                self.window,
                self.sequence_len,
                self.sampling.get(name),
                self.safety.seed,
                self.safety.choice,
            )
            for name in sorted(names)
        }


def stage_inputs(cfg: Any, safety: SafetyConfig, backend: str | None = None, engine: bool = False) -> StageInputs:
    """Read models, rows and guards, and check that they go together.

    Args:
        cfg: the final Axolotl config.
        safety: its section.
        backend: assume this one without looking for it; a plan for another machine does.
        engine: find the engine even where nothing is generated.

    Raises:
        ConfigError, DataError, ModelError: something cannot work.
    """
    check_writable(Path(safety.work_dir))
    methods = our_entries(cfg)
    generates = any(method_named(method).generates for method in methods.values())
    files = load_target(cfg, safety)
    tokens = target_tokens(cfg, safety, files, asked=generates)
    for index in methods:
        check_entry_template(files.tokenizer, cfg, cfg.datasets[index], tokens.template_kwargs)
    readers = [
        EntryReader(cfg, safety, tokens, index, method, method_named(method).reads_reference)
        for index, method in methods.items()
    ]
    development = development_prompts(cfg, safety, tokens, readers) if safety.stop else ()
    without = {prompt.key for prompt in development}
    entries = [read_entry(reader, rows_enough(safety, reader.options), without) for reader in readers]
    for entry in entries:
        check_scorable(safety, entry.method, entry.options, entry.source.name)
    check_round_trip(tokens, [text for entry in entries for text in entry.sample_texts()], files.tokenizer_file)
    sampling = {
        method: resolve_sampling(
            safety,
            _own_sampling(safety, method),
            cfg.sequence_len,
            [entry for entry in entries if may_answer(safety, method, entry.method)],
            files.family,
        )
        for method in generating(safety, list(methods.values()))
    }
    warn_without_choice(safety, sampling)
    guards = load_guards(safety.guard) if generates else []
    _warn_of_languages(entries, guards)
    unchosen = scores_rows(safety, entries)
    backend = (backend or choose_backend(safety.engine)) if generates or engine or unchosen else "none"
    check_resampling(safety.choice, sampling, backend)
    inputs = StageInputs(
        safety=safety,
        base_model=str(cfg.base_model),
        sequence_len=cfg.sequence_len,
        files=files,
        tokens=tokens,
        entries=tuple(entries),
        sampling=sampling,
        guards=guards,
        backend=backend,
        window=window_of(files, safety, backend),
        fingerprint=target_fingerprint(files, safety, backend),
        development=development,
    )
    # Rows that are chosen by a score wait for the engine.
    return inputs if unchosen else inputs.selected()


def _warn_of_languages(entries: Sequence[Entry], guards: Sequence[Guard]) -> None:
    """Say before anything is asked where a heuristic is the only guard and does not know the rows' language."""
    if not guards or not all(guard.heuristic for guard in guards):
        return
    for entry in entries:
        asked = [task for task in entry.tasks if task.label != "benign"] if method_named(entry.method).generates else []
        if unknown := sum(not knows(task.example.prompt) for task in asked):
            LOG.warning(
                "%s: %d prompts are in a language of which the heuristic guard (guard: {model: builtin}) does not know "
                "how it refuses: answers in it cannot be judged, and are rejected (guard_language). Name a guard that "
                "is a model.",
                entry.source.name,
                unknown,
            )


def _own_sampling(safety: SafetyConfig, method: str) -> SamplingConfig:
    return getattr(method_named(method).config(safety), "sampling", SamplingConfig())


def load_target(cfg: Any, safety: SafetyConfig) -> ModelFiles:
    """The base model as named: the policy that generates is the one that training starts from.

    Its tokenizer is the one that Axolotl saves with the tuned model.
    """
    files = load_model_files(
        cfg.base_model,
        "base_model",
        tokenizer_name=cfg.tokenizer_config,
        revision=cfg.revision_of_model,
        trust_remote_code=bool(cfg.trust_remote_code),
        dtype=safety.engine.dtype,
        quantization=safety.engine.quantization,
    )
    own_ids = len(files.tokenizer)
    tokenizer = as_trained(files.tokenizer, cfg, template_kwargs(cfg, safety))
    return replace(files, tokenizer=tokenizer, own_ids=own_ids)


def target_tokens(cfg: Any, safety: SafetyConfig, files: ModelFiles, asked: bool = True) -> TargetTokenizer:
    """How the target is asked and how its responses end.

    Args:
        cfg: the final Axolotl config.
        safety: its section.
        files: the target's.
        asked: whether it writes anything, and so must know the token that ends its turn.

    Raises:
        ConfigError, ModelError: its template cannot be used, or it is not clear where a turn ends.
    """
    said = {**files.ends, **yaml_ends(cfg, files.tokenizer)}
    try:
        tokens = TargetTokenizer(files.tokenizer, all_ends(said), safety.think, template_kwargs(cfg, safety))
    except ModelError as error:
        named = str(getattr(cfg.chat_template, "value", cfg.chat_template or "tokenizer_default"))
        if named.startswith("tokenizer_default"):
            raise
        raise ModelError(
            f"{error} Its chat template here is that of chat_template: {named} in the YAML, which is saved with the "
            "tuned model; without that key it is the model's own."
        ) from error
    check_turn_end(tokens, said, files.own_ids if asked else None)
    return tokens


def target_fingerprint(files: ModelFiles, safety: SafetyConfig, backend: str) -> str:
    """Hash of everything about target and engine that changes what is sampled; memory settings do not."""
    parts = [SCHEMA, files.fingerprint, backend, safety.engine.dtype, safety.engine.quantization]
    # A server's address is left out: a server that moves is the same. Without a name of its own, base_model is asked
    # for, which is in there already.
    parts += [safety.engine.model] if safety.engine.model else []
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def open_journals(
    work_dir: Path, fingerprint: str, guards: Sequence[Guard], read_only: bool = False
) -> dict[str, Journal]:
    """One journal per model, by the name that requests use; two guards that run the same model share theirs."""
    names = {"target": f"target-{fingerprint[:16]}"}
    for guard in guards:
        if not isinstance(guard, BuiltinGuard):
            digest = hashlib.sha256(guard.fingerprint.encode()).hexdigest()
            names[guard.key] = f"guard-{digest[:16]}"
    opened = {name: Journal(work_dir / "journal" / f"{name}.jsonl", read_only) for name in set(names.values())}
    return {key: opened[name] for key, name in names.items()}
