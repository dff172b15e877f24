"""Run Axolotl's own command line on a YAML, on a CPU, offline."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from axolotl_safety.commands.demo import OFFLINE

ROOT = Path(__file__).parents[2]

# What any real YAML needs on a machine without a GPU, and a run of a few steps.
CPU_KEYS: dict[str, Any] = {
    "bf16": False,
    "fp16": False,
    "tf32": False,
    "attn_implementation": "sdpa",
    "lora_mlp_kernel": False,
    "lora_qkv_kernel": False,
    "lora_o_kernel": False,
    "optimizer": "adamw_torch",
    "dataset_num_proc": 1,
}

_OFFLINE = OFFLINE | {"OMP_NUM_THREADS": "1"}


def training_yaml(model: Path, rows: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """A short LoRA run of DGR on a tiny model."""
    return (
        {
            "base_model": str(model),
            "plugins": ["axolotl_safety.SafetyPlugin"],
            "safety": {
                "work_dir": str(out / "safety"),
                "engine": {"backend": "transformers"},
                "guard": {"model": "builtin"},
                "sampling": {"max_new_tokens": 150},
                "dgr": {"retries": 0, "on_failure": "keep_original"},
            },
            "datasets": [{"path": str(rows), "type": "axolotl_safety.dgr"}],
            "dataset_prepared_path": str(out / "prepared"),
            "output_dir": str(out / "model"),
            "sequence_len": 512,
            "sample_packing": False,
            "adapter": "lora",
            "lora_r": 4,
            "lora_alpha": 8,
            "lora_target_linear": True,
            "micro_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "max_steps": 2,
            "learning_rate": 1e-4,
            "lr_scheduler": "constant",
            "gradient_checkpointing": False,
            "logging_steps": 1,
            "save_strategy": "no",
            "val_set_size": 0,
        }
        | CPU_KEYS
        | changes
    )


def start(command: str, config: dict[str, Any] | Path, folder: Path, *options: str, **environ: str) -> subprocess.Popen:
    """``axolotl <command> <yaml>`` in a process group of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    path = config if isinstance(config, Path) else folder / "config.yml"
    if not isinstance(config, Path):
        path.write_text(yaml.safe_dump(config))
    binaries = str(Path(sys.executable).parent)
    full = os.environ | _OFFLINE | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"} | environ
    return subprocess.Popen(
        [f"{binaries}/axolotl", command, str(path), *options],
        cwd=ROOT,
        env=full,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(command: str, config: dict[str, Any] | Path, folder: Path, *options: str, **environ: str) -> tuple[int, str]:
    """Exit code and output of a whole command; the launcher is left out to save its start-up."""
    if "--launcher" not in options and command in ("train", "evaluate"):
        options = ("--launcher", "python", *options)
    process = start(command, config, folder, *options, **environ)
    try:
        output, _ = process.communicate(timeout=500)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output


def manifests(work_dir: Path) -> list[dict[str, Any]]:
    """Every manifest under a work_dir."""
    return [json.loads(path.read_text()) for path in sorted(work_dir.glob("datasets/*/manifest.json"))]


def processes_of(work_dir: Path) -> list[int]:
    """Processes whose command line names this work_dir (engines do)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(work_dir).encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def wait_until(condition: Any, seconds: float) -> bool:
    """Poll until a condition holds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


def hub_cache(folder: Path, name: str, model: Path) -> Path:
    """A hub cache that holds a local model under a hub id, so that a YAML can keep that id offline."""
    snapshot = folder / "hub" / f"models--{name.replace('/', '--')}" / "snapshots" / ("0" * 40)
    shutil.copytree(model, snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    return folder


def without_the_package(folder: Path) -> str:
    """A PYTHONPATH under which ``import axolotl_safety`` fails, as if it were not installed."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "class Gone:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'axolotl_safety':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Gone())\n"
    )
    return str(folder)


def without_driver(folder: Path) -> dict[str, str]:
    """Environment for several ranks where PyTorch is a CUDA build and no driver is there: Axolotl then asks which cards
    reach each other, which is an error of PyTorch's, before a plugin is heard."""
    import torch

    if torch.version.cuda is None or torch.cuda.is_available():
        return {}
    folder.mkdir()
    text = "import torch.cuda\ntorch.cuda.can_device_access_peer = lambda *_: True\n"
    (folder / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": str(folder)}


def not_installed(folder: Path) -> str:
    """The same, and no entry point tells of it: as on a machine that never saw the package."""
    path = without_the_package(folder)
    with (folder / "sitecustomize.py").open("a", encoding="utf-8") as file:
        file.write(
            "import importlib.metadata as metadata\n"
            "found = metadata.entry_points\n"
            "metadata.entry_points = lambda **asked: metadata.EntryPoints(\n"
            "    point for point in found(**asked) if not point.value.startswith('axolotl_safety'))\n"
        )
    return path
