"""The options that override keys of the YAML, for our commands the same as for Axolotl's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

_Function = TypeVar("_Function", bound=Callable[..., Any])
_TYPES = {"str": str, "int": int, "float": float}


def config_options(function: _Function) -> _Function:
    """Take every option of ``axolotl train`` that sets a key, such as ``--base-model``; ``--help`` leaves them out.

    They arrive as keyword arguments, None where they were not given.
    """
    from axolotl.cli.config_options import AXOLOTL_CONFIG_CLI_OPTIONS  # a table; without axolotl's own imports

    for names, parameter, kind, text in AXOLOTL_CONFIG_CLI_OPTIONS:
        declared = (*names, parameter) if parameter else names
        wrap = click.option(*declared, default=None, type=_TYPES[kind] if kind else None, help=text, hidden=True)
        function = wrap(function)
    return function


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The overrides that were given."""
    return {name: value for name, value in options.items() if value is not None}


OVERRIDES_HELP = (
    "Options of `axolotl train` that set a key of the YAML (--base-model B, --learning-rate 1e-5) work too."
)
