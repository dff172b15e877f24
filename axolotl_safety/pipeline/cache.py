"""What the last stage came to: a command whose YAML, data and models are still the same is served at once.

A finished stage walked again writes the same bytes, but walking takes about two seconds for a thousand rows. So its
end is noted together with everything that it was made from. If any of that differs, nothing is served and the stage is
walked.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from axolotl_safety.config.section import our_entries, section
from axolotl_safety.config.work_dir import LATEST
from axolotl_safety.data.sources import read_source
from axolotl_safety.engines.base import EngineFigures
from axolotl_safety.engines.model_files import model_fingerprint
from axolotl_safety.guards.model_guard import ModelGuard
from axolotl_safety.util.files import write_atomically

from .inputs import Prepared
from .manifest import log_funnel
from .writer import read_hash, write_manifest

LOG = logging.getLogger(__name__)
FINISHED = "finished.json"  # in work_dir
# Axolotl's keys that the stage reads besides `safety` and `datasets`; a test holds them against what it does read.
KEYS = ("base_model", "tokenizer_config", "revision_of_model", "trust_remote_code", "sequence_len", "seed")
# They render, tokenise, read the rows and write the dataset.
_LIBRARIES = ("axolotl", "datasets", "jinja2", "numpy", "pyarrow", "tokenizers", "transformers")
# Keys of the section that no row depends on.
_ELSEWHERE = {"work_dir", "eval", "max_hours"}
_PIECE = 1 << 20


def remember(
    cfg: Any,
    prepared: Prepared,
    journals: Iterable[Path],
    outputs: Mapping[int, dict[str, Any]],
    warnings: Sequence[str],
) -> None:
    """Note the end of a stage.

    Args:
        cfg: the final Axolotl config.
        prepared: models and rows as the stage read them; by now the disk may hold others.
        journals: the files that answered it.
        outputs: by dataset index, as the stage returns them.
        warnings: what was said about the rows as a whole.

    Raises:
        OSError: the disk does not take it.
    """
    try:
        guards = [guard.fingerprint for guard in prepared.guards if isinstance(guard, ModelGuard)]
        sources = {entry.index: entry.source.sha256 for entry in prepared.entries}
        made_from = _made_from(cfg, prepared.files.fingerprint, guards, sources)
    except Exception as error:  # whatever it is: the data is there, and the next command can walk
        LOG.warning("the stage's end is not noted, so the next command walks it again: %s", error)
        return
    note = {
        "made_from": made_from,
        "journals": {path.name: [size := path.stat().st_size, _begin(path, size)] for path in sorted({*journals})},
        "outputs": {str(index): [_written(output), _manifest(output)] for index, output in outputs.items()},
        "warnings": list(warnings),
    }
    text = json.dumps(note)
    write_atomically(prepared.work_dir / FINISHED, f"{_checksum(text)}\n{text}\n".encode())


def recall(cfg: Any) -> dict[int, dict[str, Any]] | None:
    """What the stage would return, if nothing that it was made from has changed; else None.

    Args:
        cfg: the final Axolotl config.
    """
    started = time.monotonic()
    work_dir = Path(section(cfg).work_dir)
    try:
        checksum, _, text = (work_dir / FINISHED).read_text(encoding="utf-8").partition("\n")
        if checksum != _checksum(text[:-1]):
            return None
        note = json.loads(text)
        latest = json.loads((work_dir / LATEST).read_text(encoding="utf-8"))
        same = latest == {index: written["hash"] for index, (written, _) in note["outputs"].items()}
        for name, (size, digest) in note["journals"].items():
            same = same and _begin(work_dir / "journal" / name, size) == digest
        if not same or note["made_from"] != _made_from(cfg, *_on_disk(cfg)):
            return None
        outputs, manifests = {}, []
        for index, (written, manifest) in note["outputs"].items():
            outputs[int(index)] = output = _output(work_dir, written["hash"], manifest)
            if _written(output) != written:
                return None
            manifests.append(manifest | _nothing_done(manifest, time.monotonic() - started))
            write_manifest(Path(output["train"]).parent, manifests[-1])
    except Exception:  # whatever it is, the stage itself will meet it and say so
        return None
    for output, manifest in zip(outputs.values(), manifests, strict=True):
        name = manifest["source"]["path"]
        log_funnel(name, manifest["method"], manifest)
        LOG.info("%s: finished before, %d rows in %s", name, output["rows"], output["train"])
    for warning in note["warnings"]:
        LOG.warning("%s", warning)
    return outputs


def _output(work_dir: Path, digest: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    train = work_dir / "datasets" / digest / "train"
    return {"hash": digest, "train": str(train), "rows": manifest["funnel"]["trained"]}


def _written(output: Mapping[str, Any]) -> dict[str, Any]:
    """Hashes of what stands on the disk for one dataset."""
    train = Path(output["train"])
    rows = train.parent / "rows.parquet"
    return {"hash": read_hash(train), "rows": _begin(rows, rows.stat().st_size)}


def _manifest(output: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads((Path(output["train"]).parent / "manifest.json").read_text(encoding="utf-8"))


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _nothing_done(manifest: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """What a manifest says of the run itself."""
    counts = dict.fromkeys(manifest["counts"], 0) | {"reused": manifest["funnel"]["asked"]}
    engine = {"backend": manifest["engine"]["backend"], **asdict(EngineFigures())}
    return {"counts": counts, "engine": engine, "seconds": round(seconds, 3)}


def _begin(path: Path, size: int) -> str:
    """Hash of a file's first bytes. Journals only grow, and what comes later answers other requests."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while size > 0 and (piece := file.read(min(size, _PIECE))):
            digest.update(piece)
            size -= len(piece)
    return digest.hexdigest() if size == 0 else "too short"


def _on_disk(cfg: Any) -> tuple[str, list[str], dict[int, str]]:
    """Fingerprints of target and guards, and hashes of the source rows by dataset index, as they are now."""
    methods = our_entries(cfg)
    target = model_fingerprint(cfg.base_model, cfg.tokenizer_config, cfg.revision_of_model, bool(cfg.trust_remote_code))
    judged = set(methods.values()) != {"vanilla"}  # guards are not even loaded otherwise
    guards = [model_fingerprint(one.model) for one in section(cfg).guard if judged and one.kind == "model"]
    token, seed = cfg.hf_use_auth_token, int(cfg.seed or 42)
    return target, guards, {index: read_source(cfg.datasets[index], token, seed).sha256 for index in methods}


def _made_from(cfg: Any, target: str, guards: Sequence[str], sources: Mapping[int, str]) -> str:
    """Hash of everything that decides what the stage writes, given its journals."""
    parts = {
        "code": _code(),
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
        "settings": section(cfg).model_dump(mode="json", exclude=_ELSEWHERE),
        "keys": {key: cfg[key] for key in KEYS},
        "target": target,
        "guards": guards,
        # `field_model` is ours: what `register` marks an entry with differs after each finished stage.
        "entries": {index: {**cfg.datasets[index], "field_model": None} for index in sources},
        "sources": sources,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _code() -> str:
    """Hash of this package's own files: another version of it may check or choose otherwise."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
