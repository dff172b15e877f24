"""Build the laboratory: data files, tokenizer, base model and guard, from one seed."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import click
import torch

HERE = Path(__file__).resolve().parent
for folder in (str(HERE), str(HERE.parents[1])):  # the lab's own modules, and the package when not installed
    if folder not in sys.path:
        sys.path.append(folder)

from labkit.curriculum import Curriculum  # noqa: E402
from labkit.data_files import write_data  # noqa: E402
from labkit.guard_training import train_guard  # noqa: E402
from labkit.models import copy_tokenizer, folder_bytes, load_model, save_model  # noqa: E402
from labkit.pretraining import pretrain, tokenizer_for  # noqa: E402


@click.command()
@click.option("--seed", default=0, show_default=True, help="Of the data, the weights and the order.")
@click.option("--out", type=click.Path(path_type=Path), default=HERE, help="Where model/, guard/ and data/ go.")
@click.option("--steps", default=2800, show_default=True, help="Pretraining steps of the base.")
@click.option("--guard-steps", default=1000, show_default=True, help="Training steps of the guard.")
@click.option(
    "--only", type=click.Choice(["data", "base", "guard"]), default=None, help="Stop after, or do only, this."
)
@click.option(
    "--two-tasks", is_flag=True, help="The base learns to follow turns on a compass as well; the shipped one has not."
)
def main(seed: int, out: Path, steps: int, guard_steps: int, only: str | None, two_tasks: bool) -> None:
    """Rebuild the laboratory on one CPU core."""
    torch.set_num_threads(1)
    random.seed(seed)
    started = time.process_time()
    requests, problems = write_data(out / "data", seed, two_tasks)
    if only == "data":
        return
    if only != "guard":
        tokenizer = tokenizer_for(Curriculum(1000 + seed, requests, problems, two_tasks), out / "model")
        click.echo(f"base: {steps} steps")
        curriculum = Curriculum(2000 + seed, requests, problems, two_tasks)
        save_model(pretrain(tokenizer, curriculum, steps, seed), out / "model")
    if only != "base":
        base, tokenizer = load_model(out / "model")
        click.echo(f"guard: {guard_steps} steps")
        save_model(train_guard(base, tokenizer, requests, guard_steps, seed), out / "guard")
        copy_tokenizer(out / "model", out / "guard")
    sizes = ", ".join(f"{name} {folder_bytes(out / name) / 1e6:.2f} MB" for name in ("model", "guard", "data"))
    click.echo(f"{time.process_time() - started:.0f} CPU s; {sizes}")


if __name__ == "__main__":
    main()
