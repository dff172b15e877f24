"""``axolotl safety-report``: the report rebuilt from the journals, the dataset card and the push."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from axolotl_safety.commands import shown_plainly, version_option
from axolotl_safety.commands.overrides import OVERRIDES_HELP, config_options, given


@click.command("safety-report", epilog=OVERRIDES_HELP)
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Where to; default: report.html in work_dir."
)
@click.option("--no-text", is_flag=True, help="Leave out every prompt and response.")
@click.option(
    "--card-only", type=click.Path(file_okay=False, path_type=Path), help="Write card and accepted rows here."
)
@click.option("--push-to-hub", metavar="ID", help="Push card and accepted rows to this dataset repository: private.")
@click.option("--public", is_flag=True, help="With --push-to-hub: a public repository.")
@version_option
@config_options
def main(
    config: Path,
    out: Path | None,
    no_text: bool,
    card_only: Path | None,
    push_to_hub: str | None,
    public: bool,
    **overrides: Any,
) -> None:
    """Rebuild the report of a finished data stage from its journals; nothing is generated.

    CONFIG is the YAML that the stage ran with.
    """
    if public and not push_to_hub:
        raise click.UsageError("--public says how to push: name the repository, --push-to-hub ID.")
    from .page import write_report
    from .push import push, write_dataset_folder

    with shown_plainly(OSError):
        work_dir, run = _walk(config, given(overrides))
        click.echo(f"report: {write_report(work_dir, out, texts=not no_text, run=run)}")
        if card_only:
            click.echo(f"dataset card and accepted rows: {write_dataset_folder(work_dir, card_only, run)}")
        if push_to_hub:
            click.echo(f"pushed: {push(work_dir, push_to_hub, public, run)}")


def _walk(config: Path, overrides: dict[str, Any]) -> tuple[Path, str]:
    """Walk the stage's road again without an engine, so that the dataset folders say what the journals say.

    Returns:
        The work folder, and the run of this YAML in it.
    """
    from axolotl_safety.config.load import final_config
    from axolotl_safety.config.section import our_entries, section
    from axolotl_safety.pipeline.identity import run_of
    from axolotl_safety.pipeline.ranks import exclusive
    from axolotl_safety.pipeline.stage import run_stage
    from axolotl_safety.util.errors import ConfigError, NothingAccepted

    cfg: Any = final_config(config, overrides)
    if cfg.rl or not our_entries(cfg):
        raise ConfigError(
            f"{config}: no data stage belongs to this YAML"
            + (f" (rl: {cfg.rl})." if cfg.rl else ": no dataset has a type of this plugin.")
        )
    work_dir = Path(section(cfg).work_dir)
    if not work_dir.is_dir():
        raise ConfigError(f"{work_dir} is not there: run `axolotl preprocess {config}` first.")
    with exclusive(work_dir), suppress(NothingAccepted):  # which the report then shows
        run_stage(cfg, allow_engine=False)
    return work_dir, run_of(cfg)
