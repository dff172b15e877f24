"""``axolotl safety-eval``: base and tuned model on the same prompts."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click

from axolotl_safety.commands import shown_plainly, version_option
from axolotl_safety.commands.overrides import OVERRIDES_HELP, config_options, given


@click.command("safety-eval", epilog=OVERRIDES_HELP)
@click.argument("config", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Path(exists=True, file_okay=False),
    help="Folder of an adapter or of a whole model; may be given again. Default: the YAML's output_dir.",
)
@click.option("--json", "json_file", default=None, help="Write the figures here instead of as the last line.")
@version_option
@config_options
def main(config: str, models: tuple[str, ...], json_file: str | None, **overrides: Any) -> None:
    """Harm, over-refusal and reasoning of base and tuned model."""
    from axolotl.logging_config import configure_logging

    configure_logging()
    from axolotl_safety.config.load import final_config
    from axolotl_safety.config.section import section
    from axolotl_safety.pipeline.ranks import exclusive
    from axolotl_safety.util.files import check_writable, writing_in
    from axolotl_safety.util.interrupt import interruptible

    from .evaluation import evaluate
    from .report import show

    with shown_plainly():
        cfg = final_config(Path(config), given(overrides))
        named = [part for one in models for part in ("--model", one)]
        again = shlex.join(["axolotl", "safety-eval", config, *section(cfg).command_line, *named])
        work_dir = Path(section(cfg).work_dir)
        check_writable(work_dir)
        with interruptible(again), exclusive(work_dir):
            done = evaluate(cfg, models)
        show(done.results)
        keys = ("hash", "models", "figures", "comparisons", "safety_tax")
        files = {"results": str(done.folder / "results.json"), "items": str(done.folder / "items.parquet")}
        line = json.dumps(files | {key: done.results[key] for key in keys})
        if json_file is not None:
            with writing_in(Path(json_file).parent):
                Path(json_file).write_text(line + "\n", encoding="utf-8")
    if json_file is None:
        click.echo(line)


if __name__ == "__main__":
    main()
