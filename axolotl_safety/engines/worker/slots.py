"""A cache whose rows each have their own length, so that rows join and leave a running batch without moving others.

Row b keeps its keys and values in columns 0 .. length_b - 1. A decode step writes column length_b of each row. The
columns after a row's end hold leftovers that the attention mask hides. Nothing is concatenated step by step, and no row
is shifted when another one joins, which left-padding would need.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_GRAIN = 64  # columns; capacity comes in multiples of this
_GROWTH = 1.5


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, of shape (slots, heads, columns, head dimension)."""

    is_sliding = False
    is_compileable = False

    def __init__(self) -> None:
        super().__init__()
        self.rows_B: Tensor | None = None  # 0 .. B-1
        self.columns_B: Tensor | None = None  # where this step writes
        self.width = 0  # columns that this step sees, the new one included

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Not used: rows arrive by `put`."""
        raise NotImplementedError

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple:
        """Writes one new column per row; returns what the rows see: (B, heads, width, head dimension) each."""
        batch = key_states.shape[0]
        self.keys[self.rows_B, :, self.columns_B] = key_states[:, :, 0]
        self.values[self.rows_B, :, self.columns_B] = value_states[:, :, 0]
        return self.keys[:batch, :, : self.width], self.values[:batch, :, : self.width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Key length and offset of the mask."""
        return self.width, 0

    def get_seq_length(self) -> int:
        """Columns before this step's, counted on the longest row."""
        return self.width - 1

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    def put(self, first: int, keys_BHTD: Tensor, values_BHTD: Tensor, source_B1T1: Tensor | None) -> None:
        """Puts new rows into the slots from ``first`` on; ``source_B1T1`` says where column t of a row comes from."""
        if source_B1T1 is not None:
            keys_BHTD = torch.take_along_dim(keys_BHTD, source_B1T1, dim=2)
            values_BHTD = torch.take_along_dim(values_BHTD, source_B1T1, dim=2)
        last, width = first + keys_BHTD.shape[0], keys_BHTD.shape[2]
        self.keys[first:last, :, :width] = keys_BHTD
        self.values[first:last, :, :width] = values_BHTD

    def reserve(self, slots: int, columns: int, like_keys: Tensor, like_values: Tensor, used: tuple[int, int]) -> None:
        """Makes room for ``slots`` x ``columns``; keeps the first ``used`` slots and columns."""
        self.keys = _resized(self.keys, slots, columns, like_keys, used)
        self.values = _resized(self.values, slots, columns, like_values, used)
        self.is_initialized = True

    def move(self, targets_N: Tensor, sources_N: Tensor, width: int) -> None:
        """Copies rows over rows."""
        self.keys[targets_N, :, :width] = self.keys[sources_N, :, :width]
        self.values[targets_N, :, :width] = self.values[sources_N, :, :width]


def _resized(old: Tensor | None, slots: int, columns: int, like_BHTD: Tensor, used: tuple[int, int]) -> Tensor:
    # Zeros, since fresh memory may hold a NaN, which survives the mask: 0 * NaN is NaN.
    new = like_BHTD.new_zeros((slots, like_BHTD.shape[1], columns, like_BHTD.shape[3]))
    if old is not None:
        rows, width = used
        new[:rows, :, :width] = old[:rows, :, :width]
    return new


class SlotCache(Cache):
    """The cache of a running batch: `lengths` has one entry per row, slot b being row b."""

    def __init__(self, slots: int) -> None:
        super().__init__(layers=[])
        self.lengths: list[int] = []
        self._slots = slots
        self._columns = 0

    def join(self, prefilled: Cache, lengths: list[int], padded: int) -> None:
        """Adds rows from a left-padded prefill."""
        if not self.layers:
            self.layers = [SlotLayer() for _ in prefilled.layers]
        self._reserve(max(padded, *lengths) + 1, prefilled)
        device = prefilled.layers[0].keys.device
        source_B1T1 = None
        if min(lengths) < padded:
            pads_B1 = torch.tensor([padded - length for length in lengths], device=device)[:, None]
            source_BT = (torch.arange(padded, device=device)[None] + pads_B1).clamp_(max=padded - 1)
            source_B1T1 = source_BT[:, None, :, None]
        for layer, new in zip(self.layers, prefilled.layers, strict=True):
            layer.put(len(self.lengths), new.keys, new.values, source_B1T1)
            new.keys = new.values = None  # given back layer by layer
        self.lengths += lengths

    def open_step(self, columns_B: Tensor, rows_B: Tensor) -> int:
        """Prepares the layers for one new column per row, written at ``columns_B``; returns the columns seen."""
        width = max(self.lengths) + 1
        self._reserve(width, None)
        for layer in self.layers:
            layer.rows_B, layer.columns_B, layer.width = rows_B, columns_B, width
        return width

    def close_step(self) -> None:
        """Books the new column."""
        self.lengths = [length + 1 for length in self.lengths]

    def leave(self, gone: list[int]) -> list[int]:
        """Takes rows out; the last rows move into the holes.

        Returns:
            For every slot that remains, the row that it holds now.
        """
        order = list(range(len(self.lengths)))
        remaining = len(order) - len(gone)
        gone_set = set(gone)
        movers = [row for row in order[remaining:] if row not in gone_set]
        holes = [row for row in sorted(gone) if row < remaining]
        if holes:
            device = self.layers[0].keys.device
            targets_N, sources_N = torch.tensor(holes, device=device), torch.tensor(movers, device=device)
            width = max(self.lengths[row] for row in movers)
            for layer in self.layers:
                layer.move(targets_N, sources_N, width)
            for hole, mover in zip(holes, movers, strict=True):
                order[hole] = mover
        order = order[:remaining]
        self.lengths = [self.lengths[row] for row in order]
        return order

    def scrub(self, rows: list[int]) -> None:
        """Zeroes rows that hold NaN: a mask does not hide those, and others will use the slots."""
        for layer in self.layers:
            layer.keys[rows] = 0
            layer.values[rows] = 0

    def _reserve(self, columns: int, prefilled: Cache | None) -> None:
        if columns <= self._columns:
            return
        wanted = max(columns, int(self._columns * _GROWTH))
        wanted = -(-wanted // _GRAIN) * _GRAIN
        used = (len(self.lengths), max(self.lengths, default=0))
        for index, layer in enumerate(self.layers):
            like = layer if prefilled is None else prefilled.layers[index]
            layer.reserve(self._slots, wanted, like.keys, like.values, used)
        self._columns = wanted
