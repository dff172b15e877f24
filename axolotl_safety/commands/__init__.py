"""The commands that this package adds to Axolotl's own."""

from __future__ import annotations

import click

from axolotl_safety.util.version import __version__

version_option = click.version_option(__version__, message="axolotl-safety %(version)s")
