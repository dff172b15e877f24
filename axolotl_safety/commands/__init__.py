"""The commands that this package adds to Axolotl's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import click

from axolotl_safety.util.shown import TRACEBACK
from axolotl_safety.util.terminal import PlainError
from axolotl_safety.util.version import __version__


@contextmanager
def shown_plainly(*others: type[Exception]) -> Iterator[None]:
    """End with the message alone where an error says all that its reader needs: ours do."""
    try:
        yield
    except (PlainError, *others) as error:
        if os.environ.get(TRACEBACK) == "1":
            raise
        raise click.ClickException(str(error)) from error


version_option = click.version_option(__version__, message="axolotl-safety %(version)s")
