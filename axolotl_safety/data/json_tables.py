"""JSON files that are one object: a table by columns, rows below one key, or a single row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from axolotl_safety.util.errors import DataError


def object_rows(whole: Mapping[str, Any], path: str) -> list[Any]:
    """The rows of a file that is one object.

    ``{"prompt": [...], "response": [...]}`` is a table by columns, ``{"prompt": {"0": ..., "1": ...}}`` one as pandas
    writes it, ``{"data": [{...}, {...}]}`` rows below one key; anything else is one row.

    Raises:
        DataError: a table whose columns are not of one length.
    """
    values = list(whole.values())
    if values and all(map(_is_column, values)):
        return _by_columns(whole, path)
    if values and all(_is_numbered(value) for value in values):
        return _by_columns({column: list(value.values()) for column, value in whole.items()}, path)
    if len(values) == 1 and isinstance(values[0], list) and not any(_is_turn(one) for one in values[0]):
        return values[0]
    return [whole]


def _by_columns(columns: Mapping[str, list[Any]], path: str) -> list[Any]:
    lengths = {column: len(values) for column, values in columns.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{column} {length}" for column, length in lengths.items())
        raise DataError(
            f"datasets: {path!r} is one JSON object of lists, a table by columns, and they are not of one length: "
            f"{said}. Write one object per row, or columns of the same length."
        )
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _is_column(value: Any) -> bool:
    """A list of mappings is a conversation, or rows."""
    return isinstance(value, list) and not any(isinstance(one, Mapping) for one in value)


def _is_numbered(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(str(key).isdigit() for key in value)


def _is_turn(value: Any) -> bool:
    return isinstance(value, Mapping) and not {"role", "from"}.isdisjoint(value)
