"""Mean losses over tokens straight from hidden states, a chunk of rows at a time.

The N x V logits are never built. Each chunk's logits live in buffers that are allocated once and used again, and the
gradient is taken while they are there: the head is multiplied three times per row (logits, reference logits, gradient),
where recomputing in the backward pass would take five. What waits for the backward pass is one N x D gradient.

Names of dimensions: N tokens, D hidden width, V vocabulary, n rows of a chunk, K kept entries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

CHUNK_BYTES = 256 * 2**20
_PIECES = 16  # temporaries of the elementwise work are this fraction of a chunk's logits


def accumulator(*tensors: Tensor) -> torch.dtype:
    """float64 if any of them is, else float32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


@dataclass(frozen=True)
class Head:
    """An output head: ``logits = hidden @ weight.T``, times ``scale``, then ``soft_cap * tanh(logits / soft_cap)``.

    Cohere scales; Granite divides, so give the inverse; Gemma caps.
    """

    weight_VD: Tensor
    scale: float = 1.0
    soft_cap: float | None = None

    def logits(self, hidden_nD: Tensor, out_nV: Tensor, pieces: list[slice]) -> None:
        """Write the logits of a few rows into a buffer, a piece of the vocabulary at a time."""
        for piece in pieces:
            out = out_nV[:, piece]
            _matmul(hidden_nD, self.weight_VD[piece].T, self.weight_VD.dtype, out)
            if self.scale != 1.0:
                out.mul_(self.scale)
            if self.soft_cap is not None:
                out.div_(self.soft_cap).tanh_().mul_(self.soft_cap)

    def chain_(self, gradient: Tensor, logits: Tensor) -> None:
        """Turn a gradient by the logits into one by ``hidden @ weight.T``."""
        if self.soft_cap is not None:
            gradient.mul_(1 - (logits / self.soft_cap) ** 2)
        if self.scale != 1.0:
            gradient.mul_(self.scale)


class Target(Protocol):
    """What the policy's rows are compared with."""

    buffers: int  # how many n x V buffers it needs, the policy's own among them

    def loss_(self, buffers: list[Tensor], rows: slice, pieces: list[slice], head: Head) -> Tensor:
        """Loss of each row, from the policy's logits in the first buffer, which then holds its gradient."""


@dataclass(frozen=True)
class Tokens:
    """One token per row: the loss is cross-entropy."""

    ids_N: Tensor
    buffers = 1

    def loss_(self, buffers: list[Tensor], rows: slice, pieces: list[slice], head: Head) -> Tensor:
        """``logsumexp(z) - z[token]``; gradient ``softmax(z) - onehot``."""
        (z_nV,) = buffers
        ids_n1 = self.ids_N[rows, None]
        shift_n1 = log_normalise_(z_nV, pieces)
        loss_n = -z_nV.gather(1, ids_n1)[:, 0]
        for piece in pieces:
            logq = z_nV[:, piece]
            gradient = logq.exp()
            here = (ids_n1 >= piece.start) & (ids_n1 < piece.stop)
            index = (ids_n1 - piece.start).clamp(0, logq.shape[1] - 1)
            gradient.scatter_add_(1, index, -here.to(gradient.dtype))
            head.chain_(gradient, logq + shift_n1)
            logq.copy_(gradient)
        return loss_n


@dataclass(frozen=True)
class Reference:
    """A frozen model's hidden states: the loss is KL(reference || policy)."""

    hidden_ND: Tensor
    head: Head
    buffers = 2

    def loss_(self, buffers: list[Tensor], rows: slice, pieces: list[slice], head: Head) -> Tensor:
        """The KL of each row; gradient ``q - p``."""
        q_nV, p_nV = buffers
        self.head.logits(self.hidden_ND[rows], p_nV, pieces)
        shift_n1 = log_normalise_(q_nV, pieces)
        log_normalise_(p_nV, pieces)
        return _divergence_(q_nV, p_nV, shift_n1, pieces, head)


@dataclass(frozen=True)
class TopK:
    """A frozen model's K likeliest tokens and the mass of all others: the loss is the KL of that coarser choice.

    The others' mass is spread as the policy spreads its own, which makes the full KL formula give the lumped KL.
    """

    ids_NK: Tensor
    logprobs_NK: Tensor
    rest_N: Tensor
    buffers = 2

    def loss_(self, buffers: list[Tensor], rows: slice, pieces: list[slice], head: Head) -> Tensor:
        """The lumped KL of each row; its gradient is ``q - p`` for the spread p as well."""
        q_nV, p_nV = buffers
        ids_nK = self.ids_NK[rows].to(q_nV.device, torch.int64)
        shift_n1 = log_normalise_(q_nV, pieces)
        p_nV.copy_(q_nV).scatter_(1, ids_nK, -math.inf)
        others_n1 = logsumexp(p_nV, pieces)
        rest_n1 = self.rest_N[rows, None].to(q_nV)
        # A rest of no mass has nothing to spread; -inf - -inf would be nan.
        change_n1 = torch.where(others_n1.isinf(), rest_n1.new_zeros(()), rest_n1 - others_n1)
        p_nV.add_(change_n1).scatter_(1, ids_nK, self.logprobs_NK[rows].to(q_nV))
        return _divergence_(q_nV, p_nV, shift_n1, pieces, head)


def _divergence_(q_nV: Tensor, p_nV: Tensor, shift_n1: Tensor, pieces: list[slice], head: Head) -> Tensor:
    """KL(p || q) of each row from log-probabilities; the gradient by the policy's raw logits replaces ``q_nV``.

    Each term is ``p d - p + q`` with ``d = log p - log q``. It is at least zero, and the sum of all ``q - p`` is zero,
    so that an error in a row's normaliser cancels to first order. Where p and q are close, ``expm1`` keeps what the
    difference of two close numbers would lose.
    """
    loss_n = q_nV.new_zeros(q_nV.shape[0])
    for piece in pieces:
        logq, logp = q_nV[:, piece], p_nV[:, piece]
        p = logp.exp()
        d = torch.where(p > 0, logp - logq, 0)  # p = 0 leaves q alone; 0 * inf would be nan
        close = (d.abs() < 1) & (p > 0)
        bend = torch.expm1(-d)
        gradient = torch.where(close, p * bend, logq.exp() - p)
        # The clamp takes away rounding only: d + expm1(-d) is never negative.
        loss_n += torch.where(close, p * (d + bend).clamp(min=0), p * d + gradient).sum(1)
        head.chain_(gradient, logq + shift_n1)
        logq.copy_(gradient)
    return loss_n


class ChunkedMean(torch.autograd.Function):
    """Mean over rows of a target's loss, with gradients to the hidden states and to the head."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, head: Head, target: Target, chunk_bytes: int, learn: bool
    ) -> Tensor:
        """Value, and while the logits are there the gradients.

        Args:
            hidden_ND: the policy's hidden states.
            weight_VD: the weight of ``head`` again, so that autograd sees it.
            head: the policy's head.
            target: what rows are compared with.
            chunk_bytes: bound on all temporaries of a chunk together; one row is the least.
            learn: False where no gradient will be asked for.
        """
        (tokens, width), vocabulary = hidden_ND.shape, weight_VD.shape[0]
        kind = accumulator(hidden_ND, weight_VD)
        device = hidden_ND.device
        need_hidden, need_head = (learn and need for need in ctx.needs_input_grad[:2])
        losses_N = torch.zeros(tokens, dtype=kind, device=device)
        grad_ND = torch.zeros(tokens, width, dtype=kind, device=device) if need_hidden else None
        grad_VD = torch.zeros(vocabulary, width, dtype=kind, device=device) if need_head else None
        work = weight_VD.dtype
        with torch.autocast(device.type, enabled=False):
            for rows, pieces, buffers in chunks(tokens, vocabulary, width, target.buffers, chunk_bytes, kind, device):
                head.logits(hidden_ND[rows], buffers[0], pieces)
                losses_N[rows] = target.loss_(buffers, rows, pieces, head)
                for piece in pieces:
                    gradient = buffers[0][:, piece]
                    if grad_ND is not None:
                        _matmul(gradient, weight_VD[piece], work, grad_ND[rows], add=True)
                    if grad_VD is not None:
                        _matmul(gradient.T, hidden_ND[rows], work, grad_VD[piece], add=True)
        ctx.save_for_backward(grad_ND, grad_VD)
        ctx.tokens, ctx.kinds = max(tokens, 1), (hidden_ND.dtype, weight_VD.dtype)
        return losses_N.sum() / max(tokens, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """The stored sums, scaled last: a loss scale must reach them before they are rounded."""
        scale = grad_output / ctx.tokens
        grads = [
            None if grad is None else (grad * scale).to(kind)
            for grad, kind in zip(ctx.saved_tensors, ctx.kinds, strict=True)
        ]
        return (*grads, None, None, None, None)


def chunks(
    tokens: int,
    vocabulary: int,
    width: int,
    buffers: int,
    chunk_bytes: int,
    kind: torch.dtype,
    device: torch.device,
) -> Iterator[tuple[slice, list[slice], list[Tensor]]]:
    """Rows, pieces of the vocabulary, and the buffers cut to those rows."""
    size = kind.itemsize
    # Elementwise work holds up to eight pieces at once; a low-precision head is raised to float32 a piece at a time.
    row_bytes = vocabulary * size * (buffers + 8 / _PIECES)
    count = max(1, min(tokens, int(chunk_bytes * 7 / 8 / row_bytes)))
    longest = max(64, min(math.ceil(vocabulary / _PIECES), chunk_bytes // (8 * width * size)))
    pieces = [slice(start, min(start + longest, vocabulary)) for start in range(0, vocabulary, longest)]
    held = [torch.empty(count, vocabulary, dtype=kind, device=device) for _ in range(buffers)] if tokens else []
    for start in range(0, tokens, count):
        rows = slice(start, min(start + count, tokens))
        yield rows, pieces, [buffer[: rows.stop - rows.start] for buffer in held]


def _matmul(a: Tensor, b: Tensor, work: torch.dtype, out: Tensor, add: bool = False) -> None:
    """``out = a @ b`` or ``out += a @ b``, accumulated in ``out``'s precision.

    On CUDA low-precision operands are multiplied as they are and come out in float32; elsewhere they are raised first.
    """
    if work != out.dtype and out.is_cuda and torch.version.cuda:
        product = torch.mm(a.to(work), b.to(work), out_dtype=out.dtype)
        out.add_(product) if add else out.copy_(product)
    elif add:
        out.addmm_(a.to(out.dtype), b.to(out.dtype))
    else:
        torch.mm(a.to(out.dtype), b.to(out.dtype), out=out)


def logsumexp(z_nV: Tensor, pieces: list[slice]) -> Tensor:
    """Of each row, n x 1, without a temporary as large as the rows."""
    return torch.stack([z_nV[:, piece].logsumexp(1) for piece in pieces], 1).logsumexp(1, keepdim=True)


def log_normalise_(z_nV: Tensor, pieces: list[slice]) -> Tensor:
    """Logits become log-probabilities in place; returns what was subtracted, n x 1."""
    shift_n1 = logsumexp(z_nV, pieces)
    z_nV.sub_(shift_n1)
    return shift_n1
