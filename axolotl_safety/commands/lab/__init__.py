"""The laboratory and the recipes that travel with the package: ``examples/lab`` and ``yaml`` of the repository.

In the repository both lie here as links, so that there is one copy; a wheel holds the files themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from axolotl_safety.util.errors import ConfigError
from axolotl_safety.util.files import write_atomically

ROOT = Path(__file__).parent
DEMO = Path("examples/lab/demo.py")
_LEFT_OUT = ("__pycache__", "cache")  # what a repository that was worked in has besides


def lab_files() -> Iterator[Path]:
    """Paths of the files, relative to `ROOT`; the recipes name theirs from there."""
    for top in ("examples", "yaml"):
        for folder, folders, names in os.walk(ROOT / top, followlinks=True):
            folders[:] = sorted(set(folders) - set(_LEFT_OUT))
            yield from (Path(folder, name).relative_to(ROOT) for name in sorted(names))


def copy_lab(folder: Path) -> int:
    """Copy everything into a folder, where the recipes run as they do in the repository.

    Args:
        folder: made if it is not there; what it holds already is left alone.

    Returns:
        How many files there are.

    Raises:
        ConfigError: a file is there already and is another one, or the folder cannot be written.
    """
    texts = {path: (ROOT / path).read_bytes() for path in lab_files()}
    if DEMO not in texts:
        raise ConfigError(f"{ROOT} does not hold the laboratory: the package is not installed whole. Install it again.")
    try:
        changed = [path for path in texts if (folder / path).exists() and (folder / path).read_bytes() != texts[path]]
        if changed:
            raise ConfigError(
                f"{folder} has {len(changed)} files of other content than the laboratory's, {changed[0]} among them; "
                "they are left as they are. Name another folder, or move them away."
            )
        for path, content in texts.items():
            if not (folder / path).exists():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / path, content)
    except OSError as error:
        raise ConfigError(f"the laboratory cannot be copied to {folder}: {error}. Name another folder.") from error
    return len(texts)
