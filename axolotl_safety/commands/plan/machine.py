"""Needs of a run besides a card: disk, access to models, versions."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from axolotl_safety.util.version import installed

_PACKAGES = ("axolotl", "torch", "transformers", "vllm", "ray", "bitsandbytes")
_PROBE_SECONDS = 60
# A journalled completion: about 7 characters per token id, and its provenance.
_TOKEN_BYTES = 7
_RECORD_BYTES = 400
_ROW_COPIES = 3  # the delivered dataset, rows.parquet, and Axolotl's prepared copy


def versions(python: str | None) -> dict[str, str]:
    """Versions here, and vLLM's where ``engine.python`` runs it. A package may be there under another name."""
    found = installed(_PACKAGES)
    if importlib.util.find_spec("vllm"):
        found.setdefault("vllm", "found")
    return found | ({f"vllm ({python})": _version_there(python)} if python else {})


def _version_there(python: str) -> str:
    code = (
        "import importlib.metadata as m, importlib.util as u\n"
        "names = [d for d in m.packages_distributions().get('vllm', [])]\n"
        "print(m.version(names[0]) if names else 'found' if u.find_spec('vllm') else '')"
    )
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
        return done.stdout.strip() or "not found"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot be run: {error}"


def disk_bytes(completions: float, new_tokens: float) -> int:
    """What journal and datasets will take, roughly."""
    return int(completions * _RECORD_BYTES + new_tokens * _TOKEN_BYTES * (1 + _ROW_COPIES))


def free_disk_bytes(folder: Path) -> int:
    """Free space where a folder is or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def access(names: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    """Whether each model (hub id or folder, and revision) can be read, in words; an empty word means yes."""
    return {name: _access(name, revision) for name, revision in names}


def _access(name: str, revision: str | None) -> str:
    if Path(name).is_dir():
        return ""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE") == "1":
        return "" if _cached_weights(name, revision) else "offline, and its weights are not in the cache"
    try:
        HfApi().auth_check(name)
    except GatedRepoError:
        return (
            f"gated: accept its licence at https://huggingface.co/{name} and log in (hf auth login or HF_TOKEN), or "
            "use an ungated model"
        )
    except RepositoryNotFoundError:
        return "not found on the hub, or private: check its name, and log in (hf auth login or HF_TOKEN)"
    except (HfHubHTTPError, OSError) as error:
        if not _cached_weights(name, revision):
            return f"the hub does not answer ({type(error).__name__}), and its weights are not in the cache"
    return ""


def _cached_weights(name: str, revision: str | None) -> bool:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        return False
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
