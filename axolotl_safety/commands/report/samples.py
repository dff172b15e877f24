"""The rows that the report shows: all of them while they fit, else some of every kind, the same ones each time."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from .reading import TEXTS, Entry, read_texts, text_sizes

_CAPS = (16000, 8000, 4000, 2000, 1000, 500)  # characters shown of one text
_ROW_BYTES = 420  # what a row takes besides its texts

Hardware = tuple[int, int]  # index of the entry and of the row in it


def embed(value: Any) -> str:
    """JSON that can stand in a ``<script>`` element: no character of it can end the element or open another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def choose_samples(entries: Sequence[Entry], budget: int, texts: bool) -> list[dict[str, Any]]:
    """Rows to show, in source order, within a budget of bytes in the page.

    Rows of one entry, status, reason and label form a group. Each round takes one row of every group, so that a rare
    reason is there beside a common one; within a group the order is that of a hash.
    """
    order = list(_in_turns(entries))
    groups = len({_group(entries, place) for place in order})
    for cap in _CAPS if texts else _CAPS[:1]:
        sizes = [list(text_sizes(entry.table, cap)) if texts else [0] * len(entry.rows) for entry in entries]
        cost = [_ROW_BYTES + sizes[index][row] for index, row in order]
        if sum(cost[:groups]) <= budget:  # one row of every group fits
            break
    wanted, spent = [], 0
    for place, bytes_ in zip(order, cost, strict=True):
        spent += bytes_
        if spent > budget:
            break
        wanted.append(place)
    shown = {place: _row(entries, place) for place in sorted(wanted)}
    if texts:
        for index, entry in enumerate(entries):
            places = [row for owner, row in shown if owner == index]
            for row, found in read_texts(entry.table, places):
                shown[index, row] |= {name: _clip(found[name], cap) for name in TEXTS}
    return list(_fitting(shown, order, budget))


def _fitting(shown: dict[Hardware, dict[str, Any]], order: Sequence[Hardware], budget: int) -> Iterator[dict[str, Any]]:
    """What really fits, once the texts are known: the last to be chosen go first."""
    size = {place: len(embed(row).encode()) for place, row in shown.items()}
    spent, kept = 0, set()
    for place in order:
        if place in size:
            spent += size[place]
            if spent > budget:
                break
            kept.add(place)
    return (row for place, row in shown.items() if place in kept)


def _group(entries: Sequence[Entry], place: Hardware) -> tuple[int, str, str, str]:
    row = entries[place[0]].rows[place[1]]
    return (place[0], row["status"], row["reason"] or "", row["label"] or "")


def _in_turns(entries: Sequence[Entry]) -> Iterator[Hardware]:
    """Every row's place: one of each group, then the next of each."""
    groups: dict[tuple[int, str, str, str], list[Hardware]] = defaultdict(list)
    for index, entry in enumerate(entries):
        for row in range(len(entry.rows)):
            groups[_group(entries, (index, row))].append((index, row))

    def drawn(place: Hardware) -> bytes:
        return hashlib.sha256(entries[place[0]].rows[place[1]]["row_id"].encode()).digest()

    queues = [sorted(groups[name], key=drawn) for name in sorted(groups)]
    for turn in range(max(map(len, queues), default=0)):
        yield from (queue[turn] for queue in queues if turn < len(queue))


def _row(entries: Sequence[Entry], place: Hardware) -> dict[str, Any]:
    row = entries[place[0]].rows[place[1]]
    tried = Counter(reason or "accepted" for reason in row["candidate_reasons"] or [])
    answer = (row["response_tokens"] or 0) - (row["thought_tokens"] or 0)
    found = {
        "entry": place[0],
        "id": row["row_id"],
        "status": row["status"],
        "reason": row["reason"],
        "label": row["label"],
        "category": "; ".join(row["categories"] or []),
        "proposal": row["proposal"],
        "verdict": row["verdict"],
        "before": _short(row["nll_reference"]),
        "after": _short(row["nll_accepted"]),
        "tokens": [row["prompt_tokens"], row["thought_tokens"], answer] if row["response_tokens"] else None,
        "tried": ", ".join(f"{name} {count}" for name, count in sorted(tried.items())),
    }
    return {name: value for name, value in found.items() if value not in (None, "")}


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _clip(text: str, cap: int) -> str:
    left = len(text) - cap
    return text if left <= 0 else f"{text[:cap]}\n\n[{left:,} more characters, in rows.parquet]"
