"""Evaluation prompts that also stand in the training data, exactly or in 13 words in a row.

The 13-gram is GPT-3's (Brown et al., 2020, appendix C): lower case, punctuation dropped. A prompt of fewer words has
none and is compared as a whole.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from axolotl_safety.config import PREFIX
from axolotl_safety.config.work_dir import LATEST, read_latest
from axolotl_safety.util.terminal import without_credentials

WORDS = 13
_WORD = re.compile(r"\w+")


def normalise(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def _grams(words: Sequence[str]) -> Iterable[str]:
    return (" ".join(words[first : first + WORDS]) for first in range(len(words) - WORDS + 1))


def overlaps(training: Iterable[str], evaluation: Mapping[Any, str]) -> dict[Any, str]:
    """How each evaluation prompt, by any key, meets the training prompts (read once, not kept).

    Returns:
        Key to ``exact`` or ``ngram``, for those that meet one.
    """
    whole: dict[str, list[Any]] = defaultdict(list)
    grams: dict[str, list[Any]] = defaultdict(list)
    for key, text in evaluation.items():
        words = normalise(text)
        whole[" ".join(words)].append(key)
        for gram in set(_grams(words)):
            grams[gram].append(key)
    found: dict[Any, str] = {}
    for text in training:
        words = normalise(text)
        for key in whole.get(" ".join(words), ()):
            found[key] = "exact"
        for gram in _grams(words):
            for key in grams.get(gram, ()):
                found.setdefault(key, "ngram")
    return found


def training_prompts(cfg: Any, work_dir: Path, run: str) -> tuple[list[str] | None, dict[str, Any]]:
    """Prompts that this YAML's last finished data stage trains on; of another's in the same folder, nothing is read.

    Returns:
        The prompts, None where no stage is finished, and what to say of them: ``hashes`` and ``rows`` of the
        datasets, ``not_compared``: entries of other types, whose rows are not read.
    """
    import pyarrow.parquet as pq

    entries = [(str(entry.path), str(entry.type or "")) for entry in cfg.datasets or []]
    others = [without_credentials(path) for path, kind in entries if not kind.startswith(PREFIX)]
    about: dict[str, Any] = {"hashes": [], "rows": 0, "not_compared": others, "reason": ""}
    try:
        hashes = sorted(set(read_latest(work_dir, LATEST, run).values()))
        tables = [
            pq.read_table(work_dir / "datasets" / one / "rows.parquet", columns=["prompt", "status"]) for one in hashes
        ]
    except (OSError, ValueError):
        return None, about | {"reason": "no finished data stage of this YAML in work_dir (axolotl preprocess makes it)"}
    rows = [row for table in tables for row in table.to_pylist() if row["status"] != "rejected"]
    return [row["prompt"] for row in rows], about | {"hashes": hashes, "rows": len(rows)}
