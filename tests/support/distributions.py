"""Installed distributions: what one needs, and an environment that holds some of them and nothing else."""

from __future__ import annotations

import venv
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(name: str, extra: str) -> dict[str, Distribution]:
    """Every installed distribution that this one needs, itself included, by canonical name."""
    found: dict[str, Distribution] = {}
    seen, todo = set(), [(name, frozenset({extra, ""}))]
    while todo:
        name, extras = one = todo.pop()
        if one in seen:
            continue
        seen.add(one)
        found[canonicalize_name(name)] = here = distribution(name)
        for line in here.requires or []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append((needed.name, frozenset({*needed.extras, ""})))
    return found


def environment_of(names: Iterable[str], folder: Path) -> str:
    """A virtual environment with these distributions and what they need, linked from here; returns its interpreter."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    for name in names:
        for needed in closure(name, "").values():
            tops = {path.parts[0] for path in needed.files or () if path.parts[0] not in ("..", "__pycache__")}
            for top in tops:
                source, link = Path(needed.locate_file(top)), site / top
                if source.suffix != ".pth" and source.exists() and not link.exists():
                    link.symlink_to(source)
    return str(folder / "bin" / "python")
