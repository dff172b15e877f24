"""Which models were merged out of which adapters, as ``axolotl merge-lora`` says it (Axolotl 0.21 and newer)."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from axolotl_safety.config.section import section
from axolotl_safety.pipeline.identity import run_of
from axolotl_safety.util.files import write_atomically

LOG = logging.getLogger(__name__)
FILE = "merges.json"


def note_merge(cfg: Any, adapter_path: str, output_path: str) -> None:
    """Note one merge in the work folder and write its report again; the merge is done, so nothing here can fail it."""
    from .page import try_report

    work_dir = Path(section(cfg).work_dir)
    if not work_dir.is_dir():
        return  # no data stage was run here, so there is no report to tell it in
    merged = {str(Path(output_path).absolute()): f"{Path(adapter_path).absolute()} on {cfg.base_model}"}
    try:
        write_atomically(work_dir / FILE, json.dumps(read_merges(work_dir) | merged, indent=1).encode())
    except OSError as error:
        LOG.warning("the merge is done, but %s could not be written: %s", work_dir / FILE, error)
        return
    try_report(work_dir, run_of(cfg))


def read_merges(work_dir: Path) -> dict[str, str]:
    """For each merged model's folder: the adapter and the base that it was made of, its last merge alone."""
    try:
        return dict(json.loads((work_dir / FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        LOG.warning("%s is left out of the report: %s: %s", work_dir / FILE, type(error).__name__, error)
        return {}
