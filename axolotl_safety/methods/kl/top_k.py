"""Stored top-k log-probabilities of the starting model, for full fine-tuning without a second model in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from axolotl_safety.data.types import IGNORE, KL_MASK
from axolotl_safety.util.errors import DataError

from .collator import KL_INDEX

LOG = logging.getLogger(__name__)
Look = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class TopKTable:
    """One row per benign response token, in main memory: ``8 k + 4`` bytes each.

    Attributes:
        ids_MK, logprobs_MK, rest_M: as `kl.top_k_logprobs` gives them, M benign tokens.
    """

    ids_MK: Tensor
    logprobs_MK: Tensor
    rest_M: Tensor

    def rows(self, index_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The entries of some tokens, on the device of their index."""
        index, device = index_N.cpu(), index_N.device
        return self.ids_MK[index].to(device), self.logprobs_MK[index].to(device), self.rest_M[index].to(device)


def benign_positions(labels: Any, mask: Any) -> np.ndarray:
    """Positions of a row's benign response tokens (labels T, mask T or longer); the first token is never predicted."""
    if mask is None:
        return np.zeros(0, dtype=np.int64)
    labels_T = np.asarray(labels)
    chosen_T = (labels_T != IGNORE) & (np.asarray(mask)[: len(labels_T)] != 0)
    chosen_T[:1] = False
    return np.flatnonzero(chosen_T)


def build_table(datasets: Sequence[Any], look: Look) -> tuple[TopKTable, list[Any]]:
    """Run the untouched model once over every row with benign tokens.

    Datasets have ``input_ids``, ``labels`` and ``kl_mask``. ``look`` goes from ids (1 x T) and n positions to the n
    rows of entries that predict the tokens there.

    Returns:
        The table, and the datasets with a ``kl_index`` column: each token's row in the table, or -1.

    Raises:
        DataError: a dataset is streamed.
    """
    LOG.info("KL reference: one pass of the untouched model over %d rows", sum(len(data) for data in datasets))
    parts: list[list[Tensor]] = []
    indexed, count = [], 0
    for dataset in datasets:
        if not hasattr(dataset, "add_column"):
            raise DataError(
                "safety.kl.reference: top_k needs a dataset that is not streamed; set streaming: false, or reference: "
                "copy."
            )
        columns = []
        for row in dataset:
            # Foreign rows, as test_datasets has them, hold no mask and no benign token.
            positions = benign_positions(row["labels"], row[KL_MASK]) if row.get(KL_MASK) is not None else []
            index_T = np.full(len(row["input_ids"]), -1, dtype=np.int64)
            index_T[positions] = np.arange(count, count + len(positions))
            columns.append(index_T)
            count += len(positions)
            if len(positions):
                ids_1T = torch.as_tensor(np.asarray(row["input_ids"]), dtype=torch.int64)[None]
                parts.append([entry.cpu() for entry in look(ids_1T, torch.as_tensor(positions))])
        indexed.append(dataset.add_column(KL_INDEX, columns))
    if parts:
        table = TopKTable(*(torch.cat(column) for column in zip(*parts, strict=True)))
    else:
        table = TopKTable(torch.empty(0, 1, dtype=torch.int32), torch.empty(0, 1), torch.empty(0))
    size = table.ids_MK.nbytes + table.logprobs_MK.nbytes + table.rest_M.nbytes
    LOG.info("KL reference: top-%d of %d benign tokens, %.1f MB", table.ids_MK.shape[1], count, size / 1e6)
    return table, indexed
