"""A real language model through the whole of it: a reasoner of its own, shift, four methods, tax against refusal.

    python benchmarks/real_model.py --model DIR_OR_ID --data DIR --out DIR --json -

DATA holds `star1/STAR-1.json`, `xstest/xstest_prompts.csv` and `gsm8k/test.jsonl` as their authors publish them. The
prompts of the first two are real: OUT, where rows, completions and adapters lie, belongs outside any repository. What
`--keep` writes holds figures and hashes, and no text.

1. *A reasoner*: an instruct model without a thinking mode is asked for GSM8K solutions, for thoughts and answers on
   harmless prompts, and for thoughts and refusals on harmful ones; what is correct, answered and refused, wrapped in
   <think>, trains it (LoRA, `axolotl train`), and the adapter is merged. `human` is the same with GSM8K's own solutions
   of the same problems in their place. Warm-up, alignment and evaluation share no prompt.
2. *Stage*: DGR and ThinkSafe on a pool of STAR-1's prompts, the guard being `builtin`, a heuristic. Every arm then
   trains on the prompts that both kept, with the same benign half: harmless prompts that the reasoner itself answers.
3. *Training* of STAR-1's traces, of fixed refusals (DirectRefusal's manner), of DGR's rewrites and of ThinkSafe's
   answers: same steps, learning rate and LoRA, by `axolotl train`; `axolotl safety-eval` on XSTest and GSM8K.

Each step is kept and not made again: kill it and run it again. Several programs may share OUT, so that `--arms` of
different methods run beside each other; whoever needs what another is making waits.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from lablib.figures import keep, kept  # noqa: E402
from lablib.options import listed  # noqa: E402
from lablib.training import preload  # noqa: E402
from reallib import arms, steps, summary  # noqa: E402
from reallib.recipes import ARMS  # noqa: E402
from reallib.sizes import Sizes  # noqa: E402

PARTS = ("instruct", "human", "own", "stage", "shift", "arms", "checkpoints")


def size_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option per size, named after it."""
    for one in reversed(dataclasses.fields(Sizes)):
        name = f"--{one.name.replace('_', '-')}"
        flag = {"is_flag": True} if one.type == "bool" else {"type": type(one.default)}
        command = click.option(name, default=one.default, show_default=True, **flag)(command)
    return command


def checked_sizes(out: Path, sizes: Sizes) -> None:
    """Remember the sizes of a folder.

    Raises:
        click.ClickException: it holds an experiment of other sizes, whose figures would be mixed with these.
    """
    found, now = kept(out / "sizes.json"), dataclasses.asdict(sizes)
    del now["rank"]  # arms of several ranks lie beside each other
    if found is None:
        keep(out / "sizes.json", now)
    elif differ := [f"{key} {found[key]} (now {now[key]})" for key in now if found.get(key) != now[key]]:
        raise click.ClickException(f"{out} holds a run with {', '.join(differ)}; take its sizes or name another --out")


def local(model: str) -> Path:
    """The folder of a model; a hub id is downloaded."""
    if Path(model).is_dir():
        return Path(model).absolute()
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]))


def perform(run: steps.Run, parts: Sequence[str], methods: Sequence[str]) -> None:
    """The parts asked for, the ends of training before what lies on the way."""
    last, every = run.sizes.steps, run.sizes.every
    work: dict[str, Callable[[], Any]] = {
        "instruct": lambda: steps.evaluate(run, "instruct", run.model),
        "human": lambda: steps.evaluate(run, "human", steps.reasoner(run, "human")),
        "own": lambda: steps.evaluate(run, "own", steps.reasoner(run, "own")),
        "stage": lambda: [arms.staged(run, name) for name in arms.GENERATING if name in methods],
        "arms": lambda: [arms.arm_figures(run, name, last) for name in methods],
        "shift": lambda: [arms.shift(run, name) for name in methods],
        "checkpoints": lambda: [
            arms.arm_figures(run, name, step) for step in range(every, last, every) for name in methods
        ],
    }
    for part in parts:
        click.echo(f"{part} ...", err=True)
        work[part]()


@click.command(epilog="See the head of the file.")
@click.option("--model", required=True, help="Folder or hub id of an instruct model without a thinking mode.")
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Work folder, outside any repository.")
@click.option("--parts", callback=listed(PARTS), default=",".join(PARTS), show_default=True)
@click.option("--arms", "methods", callback=listed(ARMS), default=",".join(ARMS), show_default=True)
@click.option("--keep", "folder", type=click.Path(path_type=Path), help="Write figures, without any text, here.")
@click.option("--json", "target", default="-", show_default=True, help="Where the line of JSON goes.")
@size_options
def main(
    model: str,
    data: Path,
    out: Path,
    parts: list[str],
    methods: list[str],
    folder: Path | None,
    target: str,
    **sizes: Any,
) -> None:
    """Print the table in markdown, then one line of JSON; what was not made yet is left out."""
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    run = steps.Run(local(model), data.absolute(), out, Sizes(**sizes))
    checked_sizes(out, run.sizes)
    if parts:
        preload()
        perform(run, parts, methods)
    found = summary.collect(run, ARMS)
    click.echo(f"{summary.table(found)}\n\n{summary.stage_table(found)}")
    if folder is not None:
        summary.write(found, folder)
    with click.open_file(target, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
