"""A stranger's path: the wheel in a new environment, an Axolotl QLoRA YAML of their own changed by two lines.

    python tests/support/stranger.py [--python ENVIRONMENT/bin/python] [--folder DIR]

Takes minutes, so it is no part of `make test`; `make test-wheel` runs it. Without --python it makes an environment and
installs torch, Axolotl and the wheel into it. The repository is on no path. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OFFLINE = {
    "AXOLOTL_DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
# A QLoRA YAML as anybody may have it; the last block is what a machine without a GPU needs.
ORDINARY = """base_model: lab/examples/lab/model
load_in_4bit: true
adapter: qlora
lora_r: 16
lora_alpha: 32
lora_target_linear: true

datasets:
  - path: rows.jsonl
    type: {kind}
{chat}
sequence_len: 512
sample_packing: true
pad_to_sequence_len: true
output_dir: ./model

micro_batch_size: 2
gradient_accumulation_steps: 1
max_steps: 10
optimizer: adamw_torch
learning_rate: 1e-3
lr_scheduler: cosine
save_strategy: "no"

bf16: false
fp16: false
tf32: false
attn_implementation: sdpa
lora_mlp_kernel: false
lora_qkv_kernel: false
lora_o_kernel: false
"""
PLUGIN = "plugins: [axolotl_safety.SafetyPlugin]\n"
# The default guard comes from the hub; the third line is what a machine without one needs.
GUARD = "safety: {guard: {model: lab/examples/lab/guard, family: qwen3guard}}\n"
EVALUATION = "eval: {harm: [lab/examples/lab/data/eval/test/harmful_seen.jsonl], max_items: 10}"


class Stranger:
    """The commands of one stranger, in one folder, timed."""

    def __init__(self, python: Path, folder: Path):
        """Remember where."""
        self.python, self.folder = python, folder
        self.seconds: dict[str, float] = {}

    def run(self, name: str, *words: str, fails: bool = False) -> str:
        """A command's output.

        Raises:
            SystemExit: it did not end as it should.
        """
        environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environ |= OFFLINE | {"PATH": f"{self.python.parent}{os.pathsep}{environ['PATH']}"}
        print(f"$ {' '.join(words)}", flush=True)
        started = time.monotonic()
        done = subprocess.run(
            words, cwd=self.folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.seconds[name] = round(time.monotonic() - started, 1)
        if (done.returncode != 0) != fails:
            raise SystemExit(f"{done.stdout[-6000:]}\n{' '.join(words)} ended with exit code {done.returncode}")
        return done.stdout

    def yaml(self, name: str, text: str) -> str:
        """A YAML of the stranger's."""
        (self.folder / name).write_text(text, encoding="utf-8")
        return name


def install(path: Stranger) -> None:
    """Torch, Axolotl and the wheel in a new environment."""
    pip = (str(path.python), "-m", "pip", "install", "-q")
    path.run("venv", sys.executable, "-m", "venv", str(path.python.parents[1]))
    release = "0.21" if sys.version_info >= (3, 12) else "0.19"
    pins = ROOT / "constraints" / f"axolotl-{release}.txt"
    path.run("torch", *pip, re.search(r"^torch==.*$", pins.read_text(), re.MULTILINE)[0])
    path.run("wheel", *pip[:3], "wheel", "-q", "--no-deps", "-w", ".", str(ROOT))
    (wheel,) = path.folder.glob("axolotl_safety-*.whl")
    path.run("install", *pip, "-c", str(pins), wheel.name)


def check(path: Stranger, kind: str) -> None:
    """Train on the stranger's YAML as it was, then with our lines in it."""
    lab = path.folder / "lab" / "examples" / "lab"
    rows = [json.loads(line) for line in (lab / "data" / "r1_act.jsonl").read_text().splitlines()[:40]]
    if kind == "chat_template":
        told = [[("user", row["instruction"]), ("assistant", row["response"])] for row in rows]
        rows = [{"messages": [{"role": role, "content": text} for role, text in turns]} for turns in told]
    else:
        rows = [{"instruction": row["instruction"], "input": "", "output": row["response"]} for row in rows]
    (path.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    chat = "chat_template: tokenizer_default\n" if kind == "chat_template" else ""
    ordinary = ORDINARY.format(kind=kind, chat=chat)
    path.run("train as it was", "axolotl", "train", path.yaml("ordinary.yml", ordinary))
    adapter = path.folder / "model" / "adapter_model.safetensors"
    adapter.unlink()

    changed = PLUGIN + ordinary.replace(f"type: {kind}", "type: axolotl_safety.dgr")
    said = path.run("train without a hub", "axolotl", "train", path.yaml("two.yml", changed), fails=True)
    assert "Qwen/Qwen3Guard-Gen-0.6B" in said and "safety: {guard: {model: builtin}}" in said, said[-3000:]
    assert not adapter.exists() and not (path.folder / "safety" / "journal").exists()

    said = path.run("train", "axolotl", "train", path.yaml("three.yml", GUARD + changed))
    (manifest,) = (path.folder / "safety" / "datasets").glob("*/manifest.json")
    facts = json.loads(manifest.read_text())
    assert adapter.exists() and (path.folder / "safety" / "report.html").exists()
    assert facts["funnel"]["trained"] >= 30 and not facts["guards"][0]["heuristic"], facts["funnel"]
    installed = path.run(
        "version", str(path.python), "-c", "import axolotl_safety as a; print(a.__version__, a.__file__)"
    )
    version, place = installed.split()
    assert facts["versions"]["axolotl_safety"] == version and Path(place).is_relative_to(path.python.parents[1])

    path.run("plan", "axolotl", "safety-plan", "three.yml")
    path.run("report", "axolotl", "safety-report", "three.yml", "--out", "again.html")
    assert (path.folder / "again.html").read_bytes() == (path.folder / "safety" / "report.html").read_bytes()
    evaluated = GUARD.replace("safety: {", f"safety: {{{EVALUATION}, ") + changed
    said = path.run("eval", "axolotl", "safety-eval", path.yaml("eval.yml", evaluated))
    result = json.loads(said.splitlines()[-1])
    assert Path(result["results"]).is_file()
    print(json.dumps({"funnel": facts["funnel"], "nll": facts["nll"], "version": version}))


def main() -> None:
    """Do it all, and say how long each step took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="of an environment that has Axolotl and the wheel")
    parser.add_argument("--folder", type=Path, help="an empty folder to work in; default: a temporary one")
    parser.add_argument("--type", default="chat_template", choices=("chat_template", "alpaca"), help="of their dataset")
    options = parser.parse_args()
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="stranger-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    path = Stranger((options.python or folder / "environment" / "bin" / "python").absolute(), folder)
    if options.python is None:
        install(path)
    path.run("copy", "axolotl", "safety-demo", "--copy", "--out", "lab")
    check(path, options.type)
    print(json.dumps({"folder": str(folder), "seconds": path.seconds}))


if __name__ == "__main__":
    main()
