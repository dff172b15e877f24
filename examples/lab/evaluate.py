"""Refusal, over-refusal and reasoning of a lab model, from the command line; ``labkit.evaluation`` is the library."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import torch

HERE = Path(__file__).resolve().parent
for folder in (str(HERE), str(HERE.parents[1])):  # the lab's own modules, and the package when not installed
    if folder not in sys.path:
        sys.path.append(folder)

from labkit.evaluation import DATA, evaluate, load_split, summarise  # noqa: E402
from labkit.models import load_model  # noqa: E402


@click.command()
@click.option("--model", "model_folder", required=True, help="Folder of the model.")
@click.option("--adapter", default=None, help="Folder of a LoRA adapter; it is merged in memory.")
@click.option("--split", type=click.Choice(["dev", "test"]), default="test", show_default=True)
@click.option("--data", type=click.Path(path_type=Path), default=DATA, help="Folder of the data files.")
@click.option("--temperature", default=0.0, show_default=True, help="0 is greedy.")
@click.option("--seed", default=0, show_default=True, help="Of the sampling.")
@click.option("--threads", default=1, show_default=True, help="CPU threads; more do not pay for a model this small.")
@click.option("--json", "json_target", default="-", show_default=True, help="Where the figures go; - is the terminal.")
@click.option("--out", "items_file", default=None, help="Where the outcomes per item go (JSON lines).")
def main(
    model_folder: str,
    adapter: str | None,
    split: str,
    data: Path,
    temperature: float,
    seed: int,
    threads: int,
    json_target: str,
    items_file: str | None,
) -> None:
    """Evaluate a lab model on the dev or the test split."""
    torch.set_num_threads(threads)
    model, tokenizer = load_model(model_folder, adapter)
    items = evaluate(model, tokenizer, load_split(split, data), temperature, seed)
    if items_file:
        with open(items_file, "w", encoding="utf-8") as out:
            out.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    with click.open_file(json_target, "w", encoding="utf-8") as out:
        out.write(json.dumps(summarise(items), indent=1) + "\n")


if __name__ == "__main__":
    main()
