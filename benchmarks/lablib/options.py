"""What the benchmarks' command lines share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click


def listed(known: Sequence[str]) -> Callable[..., list[str]]:
    """A callback that reads a comma-separated list of known words."""

    def read(_: click.Context, __: click.Parameter, value: str) -> list[str]:
        names = [name.strip() for name in value.split(",") if name.strip()]
        if unknown := [name for name in names if name not in known]:
            raise click.BadParameter(f"unknown {', '.join(unknown)}; known are {', '.join(known)}")
        return names

    return read
