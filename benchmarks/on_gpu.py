"""What only a card can show, in under eight minutes: the losses, a LoRA step, the transformers engine, in bfloat16.

    python benchmarks/on_gpu.py                              # everything, at the 1.5B's and the 7B's shape
    python benchmarks/on_gpu.py --parts loss,step --sizes 7b
    python benchmarks/on_gpu.py --device cpu --sizes tiny    # tries the script itself, in seconds

It needs torch, transformers, peft and nvidia-ml-py (with psutil and accelerate, which peft brings), and neither
Axolotl, nor vLLM, nor a network, nor an installed axolotl-safety: weights are random, of a published shape, with the
published vocabulary. Each part runs in a process of its own. One that fails is a row that says so, and the others go
on; one that does not end in time is ended, and its finished rows stay. Prints Markdown; the last line is JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # nothing is installed

from gpulib import machine, tables  # noqa: E402
from gpulib.memory import HEAP, OUT_OF_MEMORY, is_out_of_memory  # noqa: E402
from gpulib.shapes import SIZES  # noqa: E402

SECONDS = 440.0
# What a part imports, by the name that pip knows; and the seconds without which it is not begun.
_MODELS = {"torch": "torch", "transformers": "transformers", "numpy": "numpy"}
NEEDS = {
    "loss": {"torch": "torch"},
    "step": {**_MODELS, "peft": "peft", "accelerate": "accelerate"},
    "engine": {**_MODELS, "safetensors": "safetensors", "psutil": "psutil"},
}
LEAST_SECONDS = {"loss": 20.0, "step": 30.0, "engine": 60.0}


def measure(part: str, size: str, device: str, folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of one part, as they are found."""
    made = SIZES[size]
    if part == "loss":
        from gpulib import losses

        for tokens in made.loss_tokens:
            yield from losses.measure(tokens, made.shape.hidden, made.shape.vocabulary, device, "bfloat16")
    elif part == "step":
        from gpulib import step

        yield from step.measure(made.shape, made.step_tokens, device, folder)
    else:
        from gpulib import engine

        yield engine.measure(size, device, folder)


def run_part(part: str, size: str, device: str, folder: Path) -> None:
    """In a process of its own: writes each row as a line of JSON."""
    out = os.dup(1)  # libraries print
    os.dup2(2, 1)
    if device == "cuda" and part != "engine":
        import torch

        if not torch.cuda.is_available():
            raise SystemExit(f"torch {torch.__version__} sees no GPU")
    for row in measure(part, size, device, folder):
        os.write(out, json.dumps(row).encode() + b"\n")


def collect(command: Sequence[str], environ: dict[str, str], seconds: float, folder: Path) -> list[dict[str, Any]]:
    """The rows that a part's process writes, and one more where it does not come to a good end."""
    folder.mkdir(parents=True)
    said, errors = folder / "rows.jsonl", folder / "errors.log"
    with open(said, "wb") as out, open(errors, "wb") as err:
        child = subprocess.Popen(command, stdout=out, stderr=err, env=environ, start_new_session=True)
        try:
            status = child.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if child.poll() is None:  # too late, or Ctrl-C here
                os.killpg(child.pid, signal.SIGKILL)  # the engine's worker ends with the process that started it
                child.wait()
    lines = said.read_bytes().split(b"\n")[:-1]
    rows = [{"status": "measured"} | json.loads(line) for line in lines]
    if status == 0:
        return rows
    text = errors.read_text(errors="replace").strip()
    print(f"{' '.join(command)}:\n{text[-2000:]}", file=sys.stderr)
    if status is None:
        why = f"ended after {seconds:.0f} s: no time left"
    elif is_out_of_memory(text):
        why = OUT_OF_MEMORY
    elif status < 0:
        why = f"failed: killed by {signal.Signals(-status).name}; was main memory short?"
    else:
        why = f"failed: {text.rpartition(chr(10))[2][:200]}"
    return [*rows, {"status": why}]


def run_all(options: argparse.Namespace, environ: dict[str, str], folder: Path) -> list[dict[str, Any]]:
    """Every part of every size, the smallest size first, within the time."""
    ends = time.monotonic() + options.seconds
    rows: list[dict[str, Any]] = []
    for size in options.sizes:
        for part in options.parts:
            left, own = ends - time.monotonic(), folder / f"{size}-{part}"
            if left < LEAST_SECONDS[part]:
                found = [{"status": f"left out: {max(left, 0):.0f} s left of {options.seconds:.0f}"}]
            else:
                command = [sys.executable, __file__, "--one", part, "--sizes", size, "--device", options.device]
                found = collect([*command, "--work-dir", str(own)], environ, left, own)
            rows += [{"part": part, "size": size, **row} for row in found]
            print(f"{part} {size}: {'; '.join(row['status'] for row in found)}", file=sys.stderr, flush=True)
    return rows


def check(options: argparse.Namespace) -> None:
    """Ends with one sentence where something is missing."""
    wanted = {name: pip for part in options.parts for name, pip in NEEDS[part].items()}
    wanted |= {"pynvml": "nvidia-ml-py"} if options.device == "cuda" else {}
    missing = [pip for name, pip in wanted.items() if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(
            f"on_gpu.py: {sys.executable} has no {' and no '.join(missing)}: pip install {' '.join(missing)}, or "
            "leave out what needs it with --parts."
        )
    if options.device == "cuda" and not machine.cards():
        raise SystemExit(
            "on_gpu.py: NVML shows no GPU here; look at nvidia-smi and CUDA_VISIBLE_DEVICES, or try the script with "
            "--device cpu --sizes tiny."
        )


def names(known: Sequence[str]) -> Any:
    """A parser of names with commas between."""

    def parse(text: str) -> list[str]:
        chosen = [name.strip().lower() for name in text.split(",")]
        strange = [name for name in chosen if name not in known]
        if strange:
            raise argparse.ArgumentTypeError(f"{strange[0]!r} is none of {', '.join(known)}")
        return chosen

    return parse


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--parts", type=names([*NEEDS]), default=[*NEEDS], help=f"of {','.join(NEEDS)}")
    parser.add_argument("--sizes", type=names([*SIZES]), default=["1.5b", "7b"], help=f"of {','.join(SIZES)}")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="all parts together; what is over is left out")
    parser.add_argument("--work-dir", type=Path, help="takes 19 GB of weights for a while; unset: the temporary folder")
    parser.add_argument("--one", choices=[*NEEDS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_part(options.one, options.sizes[0], options.device, options.work_dir)
        return
    check(options)
    environ = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **machine.first_card(options.device),
    }
    environ |= HEAP if options.device == "cpu" else {}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.work_dir, ignore_cleanup_errors=True) as folder:
        rows = run_all(options, environ, Path(folder))
    about = machine.about(options.device) | {"seconds": round(time.monotonic() - started, 1)}
    print(tables.markdown(rows, about))
    print(json.dumps(about | {"rows": rows}))


if __name__ == "__main__":
    main()
