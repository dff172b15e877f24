"""The package's version, and those of what it stands on; without importing any of them."""

from collections.abc import Iterable

__version__ = "0.1.0"


def installed(names: Iterable[str]) -> dict[str, str]:
    """Versions of those distributions that are there."""
    from importlib.metadata import PackageNotFoundError, version  # not at import: it takes longer than the package

    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
