"""The rows of `on_gpu.py` as Markdown: a table per part, and a line for whatever was not measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .memory import OUT_OF_MEMORY

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]
NONE = "-"


def size(name: str) -> Callable[[Row], str]:
    """Bytes in MiB."""
    return lambda row: NONE if row.get(name) is None else f"{row[name] / 2**20:,.0f} MiB"


def milliseconds(name: str) -> Callable[[Row], str]:
    """Seconds in milliseconds."""
    return lambda row: NONE if row.get(name) is None else f"{row[name] * 1e3:,.1f} ms"


def number(name: str, form: str) -> Callable[[Row], str]:
    """A number in a format."""
    return lambda row: NONE if row.get(name) is None else format(row[name], form)


def where_it_fits(cell: Callable[[Row], str]) -> Callable[[Row], str]:
    """A measurement that is missing because memory did not suffice."""
    return lambda row: OUT_OF_MEMORY if cell(row) == NONE else cell(row)


TITLES = {
    "loss": "Losses alone, forward and backward, head frozen: peak above the inputs, and time",
    "step": "A LoRA step (rank 32 on all linears, gradient checkpointing), optimizer included; peak with the weights",
    "engine": "The transformers engine through its worker, beside sorted `generate`; memory in use on the card",
}
COLUMNS: dict[str, list[Column]] = {
    "loss": [
        ("loss", lambda row: row["loss"]),
        ("tokens", number("tokens", ",")),
        ("ours", where_it_fits(size("peak_bytes"))),
        ("", milliseconds("seconds")),
        ("full logits", where_it_fits(size("full_peak_bytes"))),
        ("", milliseconds("full_seconds")),
        ("error of value", number("value_error", ".1e")),
        ("of gradient", number("gradient_error", ".1e")),
    ],
    "step": [
        ("loss", lambda row: "with KL" if row["with_kl"] else "cross-entropy"),
        ("tokens", number("tokens", ",")),
        ("weights", size("model_bytes")),
        ("peak", size("peak_bytes")),
        ("time", milliseconds("seconds")),
        ("KL of the first step", lambda row: f"{row['kl'][0]:.1e}" if row.get("kl") else NONE),
    ],
    "engine": [
        ("requests", number("requests", ",")),
        ("at once", number("batch", ",")),
        ("times halved for want of memory", number("halved", ",")),
        ("tokens/s", number("tokens_per_second", ",.0f")),
        ("`generate`", lambda row: row.get("generate_status") or number("generate_tokens_per_second", ",.0f")(row)),
        ("ratio", number("ratio", ".2f")),
        ("start and load", number("start_seconds", ".1f")),
        ("before", size("before_bytes")),
        ("peak", size("peak_bytes")),
        ("after", size("after_bytes")),
        ("given back", lambda row: NONE if "given_back" not in row else "yes" if row["given_back"] else "no"),
    ],
}


def markdown(rows: Sequence[Row], about: Row) -> str:
    """All tables."""
    memory = f", {about['card_memory_bytes'] / 2**30:.0f} GiB" if about["card_memory_bytes"] else ""
    driver = f", driver {about['driver']['version']} (CUDA {about['driver']['cuda']})" if about["driver"] else ""
    versions = ", ".join(f"{name} {found}" for name, found in about["versions"].items() if found)
    lines = [f"{about['card'] or 'CPU'}{memory}{driver}; {versions}; bfloat16, random weights; {about['date']}", ""]
    for part, columns in COLUMNS.items():
        own = [row for row in rows if row["part"] == part]
        if own:
            lines += [f"**{TITLES[part]}**", "", *_table(own, columns), ""]
    return "\n".join(lines)


def _table(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    heads = ["model", *(head for head, _ in columns)]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        if row["status"] == "measured":
            cells = [cell(row) for _, cell in columns]
        else:
            told = "".join(f"{name}: {row[name]}, " for name in ("with_kl", "tokens") if name in row)
            cells = [f"{told}{row['status']}", *[""] * (len(columns) - 1)]
        lines.append(f"| {' | '.join([row['size'], *(cell.replace('|', '/') for cell in cells)])} |")
    return lines
