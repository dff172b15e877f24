"""The funnel: how many rows went in, where each one was lost, how many Axolotl trains on."""

from __future__ import annotations

import logging
import platform
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from axolotl_safety.data.refusal.detector import is_open
from axolotl_safety.data.sources import Source
from axolotl_safety.data.types import UNLABELLED, Outcome
from axolotl_safety.engines.base import EngineFigures
from axolotl_safety.engines.journal import Journal
from axolotl_safety.engines.queue import WorkQueue, content_id, count_where
from axolotl_safety.util.version import __version__, installed

from .shift import shift_lines, shift_of

LOG = logging.getLogger(__name__)
_CATEGORIES = 200  # a column named `type` may hold something else in every row
_PACKAGES = ("axolotl", "torch", "transformers", "datasets", "tokenizers", "peft")


def versions() -> dict[str, str]:
    """Versions of what decides the result."""
    return {"axolotl_safety": __version__, "python": platform.python_version()} | installed(_PACKAGES)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def entry_manifest(
    method: str,
    source: Source,
    adapter: str,
    rows: Sequence[Outcome],
    queue: WorkQueue,
    figures: EngineFigures,
    started: float,
) -> dict[str, Any]:
    """What is said of one dataset entry; ``funnel`` keeps the order in which rows are lost.

    ``counts`` is about this run: completions made now, completions found in the journal, engine starts.
    """
    asked = [request_id for row in rows for request_id in row.request_ids]
    candidates = Counter(reason or "accepted" for row in rows for reason in row.candidate_reasons)
    status = Counter(row.status for row in rows)
    trained = [row for row in rows if row.response_ids and row.status != "rejected"]
    lost = Counter(row.reason for row in rows if row.status == "rejected")
    return {
        "method": method,
        "source": {"path": source.name, "rows": len(source.rows), "sha256": source.sha256, "adapter": adapter}
        | ({} if source.whole is None else {"before_weight": source.whole}),
        "funnel": {
            "source": len(source.rows),
            "taken": len(rows),
            "asked": len(asked),
            "finished": sum(count for reason, count in candidates.items() if not reason.startswith("engine_")),
            "accepted_candidates": candidates["accepted"],
            "accepted": status["accepted"],
            "fallback": status["fallback"],
            "rejected": status["rejected"],
            "trained": len(trained),
        },
        "reasons": dict(sorted(lost.items())),
        "fallback_reasons": dict(sorted(Counter(row.reason for row in rows if row.status == "fallback").items())),
        "candidate_reasons": dict(sorted(candidates.items())),
        "rungs": _rungs(rows),
        "resampling": _resampling(rows),
        "labels": dict(sorted(Counter(row.label for row in trained).items())),
        "unlabelled": {
            "taken": sum(row.label == UNLABELLED for row in rows),
            "trained": sum(row.label == UNLABELLED for row in trained),
        },
        "refusal_unknown": sum(map(_undecided, rows)),
        "counts": {
            "generated": count_where(asked, queue.generated),
            "reused": count_where(asked, queue.reused),
            "engine_starts": figures.starts,
            "verdicts_made": queue.made["verdict"],
            "scores_made": queue.made["score"],
        },
        "tokens": {
            "trained": sum(len(row.response_ids) for row in trained),
            "prompt": sum(len(row.prompt_ids) for row in trained),
        },
        "nll": {
            "unit": "nats per token at the raw prompt under the frozen target",
            "before": _mean(row.nll_reference for row in trained),
            "after": _mean(row.nll_accepted for row in trained),
        },
        "shift": shift_of(trained),
        "categories": _categories(rows),
        "seconds": round(time.monotonic() - started, 3),
        "versions": versions(),
    }


def _undecided(row: Outcome) -> bool:
    """Whether a written answer is one of which the refusal detector cannot tell whether it refuses."""
    return bool(row.request_ids and row.answer) and is_open(row.answer)


def _rungs(rows: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Per proposal: rows tried and accepted, candidates, and the accepted rows' mean NLL at the raw prompt."""
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for row in rows for name in row.candidate_proposals):
        tried = [row for row in rows if name in row.candidate_proposals]
        labels = sorted({row.label for row in tried})
        by_label = {label: _rung(name, [row for row in tried if row.label == label]) for label in labels}
        found[name] = _rung(name, tried) | {"labels": by_label}
    return found


def _rung(name: str, tried: Sequence[Outcome]) -> dict[str, Any]:
    kept = [row for row in tried if row.status == "accepted" and row.proposal == name]
    pairs = [pair for row in tried for pair in zip(row.candidate_proposals, row.candidate_reasons, strict=True)]
    return {
        "rows": len(tried),
        "accepted": len(kept),
        "acceptance": len(kept) / len(tried),
        "candidates": sum(proposal == name for proposal, _ in pairs),
        "accepted_candidates": sum(proposal == name and not reason for proposal, reason in pairs),
        "nll": _mean(row.nll_accepted for row in kept),
    }


def _categories(rows: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    """Per category of the source, the largest ones: how its rows ended. A row with two categories counts in both."""
    found: dict[str, Counter[str]] = {}
    for row in rows:
        for name in row.categories:
            found.setdefault(name, Counter())[row.status] += 1
    return {
        name: {"taken": sum(count.values())}
        | {status: count[status] for status in ("accepted", "fallback", "rejected")}
        for name, count in sorted(found.items(), key=lambda item: (-item[1].total(), item[0]))[:_CATEGORIES]
    }


def _resampling(rows: Sequence[Outcome]) -> dict[str, Any]:
    """What the draws by weight came to: effective sample sizes before tempering, exponents, fallbacks to the first."""
    drawn = [row for row in rows if row.tempering is not None]
    return {
        "rows": len(drawn),
        "mean_effective_sample_size": _mean(row.ess for row in drawn),
        "mean_tempering": _mean(row.tempering for row in drawn),
        "fell_back_to_first": sum(row.tempering == 0 for row in drawn),
    }


def log_funnel(source: str, method: str, manifest: dict[str, Any]) -> None:
    """Print the funnel; the last line is what Axolotl trains on."""
    funnel, nll, counts = manifest["funnel"], manifest["nll"], manifest["counts"]
    lines = [f"{method} funnel of {source}"]
    lines += [f"  {name:<20}{value:>8}" for name, value in funnel.items() if name not in ("rejected", "trained")]
    lines += [
        f"    candidate {name:<24}{value:>8}"
        for name, value in manifest["candidate_reasons"].items()
        if name != "accepted"
    ]
    lines.append(f"  {'rejected':<20}{funnel['rejected']:>8}")
    lines += [f"    {name:<24}{value:>8}" for name, value in manifest["reasons"].items()]
    if manifest["unlabelled"]["taken"]:
        lines.append(f"  {'without a label':<20}{manifest['unlabelled']['taken']:>8}, judged by the guard alone, no KL")
    if manifest["refusal_unknown"]:
        lines.append(f"  {'refusal unknown':<20}{manifest['refusal_unknown']:>8}, in their language: the guard's word")
    if nll["before"] is not None and nll["after"] is not None:
        lines.append(f"  NLL per token {nll['before']:.3f} before, {nll['after']:.3f} after")
    lines += shift_lines(manifest["shift"])
    lines.append(f"  made {counts['generated']}, reused {counts['reused']}, engine starts {counts['engine_starts']}")
    lines.append(f"  {'trained':<20}{funnel['trained']:>8}")
    LOG.info("\n".join(lines))


def warnings_of(rows: Sequence[Outcome], generates: bool, kl: bool) -> list[str]:
    """What a user should know of the rows as a whole before training on them."""
    found = []
    trained = [row for row in rows if row.status != "rejected"]
    benign = any(row.label == "benign" for row in trained)
    if kl and not benign:
        found.append("safety.kl is set and no row is benign: no token is compared with the frozen model.")
    if generates and not benign:
        found.append(
            "no benign rows: a model trained on refusals alone tends to refuse everything. Check over-refusal after "
            "training, or let the model answer benign prompts too:\n"
            "datasets:\n"
            "  - path: some/benign-prompts\n"
            "    type: axolotl_safety.thinksafe\n"
            "    safety: {label: benign, prompt_field: prompt}"
        )
    unjudged = sum("guard_language" in row.candidate_reasons for row in rows)
    if unjudged:
        found.append(
            f"{unjudged} rows have answers in a language of which the heuristic guard (guard: {{model: builtin}}) does "
            "not know well enough how it refuses: it cannot judge them, and they are rejected. Name a guard that is a "
            "model."
        )
    without = sum(not row.thinking.strip() and not row.begun_tokens for row in trained)
    if without:
        found.append(
            f"{without} rows that are trained on have no thought: they teach the model to answer without thinking. "
            "Name the column that holds it (safety: {thought_field: ...}), or let the model write its own (type: "
            "axolotl_safety.dgr or axolotl_safety.thinksafe)."
        )
    return found


RUNS = "runs.jsonl"  # in work_dir
_KIND = "run"


def record_run(work_dir: Path, backend: str, queue: WorkQueue) -> None:
    """Note what the queue's engine cost, if it had to be started; a full disk costs this note and nothing else."""
    if queue.engine is None:
        return
    figures = {name: value for name, value in asdict(queue.engine.figures).items() if name != "pids"}
    fields = {
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "backend": backend,
        **figures,
        "made": dict(sorted(queue.made.items())),
    }
    try:
        with Journal(work_dir / RUNS) as journal:
            journal.append(_KIND, content_id(fields, len(journal)), fields)
    except OSError as error:
        LOG.warning("%s: the engine's figures could not be noted: %s", work_dir / RUNS, error)


def read_runs(work_dir: Path) -> list[Mapping[str, Any]]:
    """Every engine run of this work folder, oldest first."""
    if not (work_dir / RUNS).is_file():
        return []
    with Journal(work_dir / RUNS) as journal:
        return [record for kind, request_id in journal.keys() if (record := journal.get(kind, request_id))]
