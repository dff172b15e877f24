"""Tells, as one line of JSON, what engines an interpreter could run. Looks, and imports nothing large."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path


def vllm_version() -> str | None:
    """The version that vLLM's own file gives, "" where it gives none; None without vLLM.

    The distribution's name is no help: CPU builds have another.
    """
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:  # a mere folder of that name has no origin
        return None
    for folder in found.submodule_search_locations or ():
        try:
            text = Path(folder, "_version.py").read_text(encoding="utf-8")
        except OSError:
            continue
        said = re.search(r"^__version__\s*=.*?['\"]([^'\"]+)['\"]", text, re.MULTILINE)
        if said:
            return said.group(1)
    return ""


if __name__ == "__main__":
    print(json.dumps({"vllm": vllm_version(), "transformers": bool(importlib.util.find_spec("transformers"))}))
