"""``axolotl safety-demo``: the laboratory outside of the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click

from . import shown_plainly, version_option

OFFLINE = {
    "AXOLOTL_DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@click.command("safety-demo")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("safety-demo"),
    show_default=True,
    help="Folder for the laboratory and for everything that the demonstration writes.",
)
@click.option("--copy", "only_copy", is_flag=True, help="Copy the laboratory and all recipes there, and run nothing.")
@version_option
def main(out: Path, only_copy: bool) -> None:
    """Vanilla, DGR and ThinkSafe on a tiny model, on a CPU in minutes."""
    from .lab import DEMO, copy_lab

    out = out.absolute()
    with shown_plainly():
        count = copy_lab(out)
    click.echo(f"{count} files of the laboratory (model, guard, data, recipes) are in {out}")
    if only_copy:
        click.echo(f"next: cd {out} && axolotl train yaml/lab_dgr.yml")
        return
    # From another folder than the repository the installed package is the one that runs.
    done = subprocess.run([sys.executable, str(out / DEMO)], cwd=out, env=OFFLINE | os.environ, check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
