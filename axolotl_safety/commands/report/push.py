"""The dataset as others may have it: accepted rows, a card that says how they came about, and the push to a hub."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from axolotl_safety.util.errors import ConfigError

from .card import HUB_ID, card_text, own_text, public_name, source_licence
from .reading import Entry, read_stage

_COLUMNS = (
    *("row_id", "prompt", "thinking", "answer", "label", "categories", "proposal", "verdict"),
    *("nll_reference", "nll_accepted", "prompt_token_ids", "response_token_ids"),
)


def write_dataset_folder(work_dir: Path, folder: Path, run: str | None = None) -> Path:
    """Write ``README.md`` and ``data/train.parquet``: the accepted rows of a finished stage and their card.

    A row that kept its original response, and the references, stay out: they are somebody else's text. Paths of this
    machine are cut to their last part.

    Raises:
        StageError: no stage has been finished there.
        ConfigError: the folder holds something, or no row was accepted.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; name a new folder.")
    stage = read_stage(work_dir, run)
    count = sum(own_text(row) for entry in stage.entries for row in entry.rows)
    if not count:
        raise ConfigError(f"{work_dir}: no row was accepted as the model's own, so there is nothing to publish.")
    names = [public_name(str(entry.manifest["source"]["path"])) for entry in stage.entries]
    licences = {name: source_licence(name) for name in names}
    (folder / "data").mkdir(parents=True, exist_ok=True)
    writer = None
    try:
        for entry, name in zip(stage.entries, names, strict=True):
            for part in _accepted(entry, name):
                writer = writer or pq.ParquetWriter(folder / "data" / "train.parquet", part.schema)
                writer.write_table(part)
    finally:
        if writer is not None:
            writer.close()
    (folder / "README.md").write_text(
        card_text(stage, names, licences, count), encoding="utf-8", errors="backslashreplace"
    )
    return folder


def _accepted(entry: Entry, name: str) -> Iterator[pa.Table]:
    for part in pq.ParquetFile(entry.table).iter_batches(1024, columns=[*_COLUMNS, "status", "stage"]):
        table = pa.Table.from_batches([part])
        own = pc.and_(pc.equal(table["status"], "accepted"), pc.not_equal(table["stage"], "original"))
        table = table.filter(own).select(_COLUMNS)
        if len(table):
            yield table.add_column(0, "source", pa.array([name] * len(table), pa.string()))


def push(work_dir: Path, repo_id: str, public: bool = False, run: str | None = None) -> str:
    """Push card and accepted rows to a dataset repository, which is made if need be: private unless said otherwise.

    The token comes from ``HF_TOKEN`` and goes nowhere but into the requests.

    Raises:
        ConfigError: no token, no access, not a repository's name, or a public repository without ``public``.
        StageError: no stage has been finished there.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    token = os.environ.get("HF_TOKEN")
    if not token:
        raise ConfigError(
            "HF_TOKEN is not set: export a token that may write (https://huggingface.co/settings/tokens)."
        )
    if not HUB_ID.fullmatch(repo_id):
        raise ConfigError(f"{repo_id!r} is not the name of a repository; write owner/name.")
    api: Any = HfApi(token=token)
    with tempfile.TemporaryDirectory() as made:
        folder = write_dataset_folder(work_dir, Path(made) / "dataset", run)
        try:
            api.create_repo(repo_id, repo_type="dataset", private=not public, exist_ok=True)
            # One that was there before keeps its visibility, whatever was asked for.
            if not public and not api.repo_info(repo_id, repo_type="dataset").private:
                raise ConfigError(
                    f"{repo_id} exists and is public; nothing was pushed. Add --public if that is meant, or name "
                    "another repository."
                )
            message = "Accepted rows and card"
            api.upload_folder(repo_id=repo_id, repo_type="dataset", folder_path=folder, commit_message=message)
        except OfflineModeIsEnabled as error:
            raise ConfigError(
                "HF_HUB_OFFLINE is set, so nothing can be pushed; unset it, or use --card-only."
            ) from error
        except HfHubHTTPError as error:
            status = getattr(error.response, "status_code", "no answer")
            raise ConfigError(
                f"{repo_id} could not be pushed ({status}): {str(error).splitlines()[0]}. May the token in HF_TOKEN "
                "write there?"
            ) from error
    return f"https://huggingface.co/datasets/{repo_id}"
