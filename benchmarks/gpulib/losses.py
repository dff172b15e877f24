"""The losses alone, the head frozen: ours from hidden states, and over full logits as a trainer without it has them.

Dimensions: N tokens, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .memory import cost_of, where_it_fits

if TYPE_CHECKING:
    from torch import Tensor

CHECKED = 256  # tokens of the comparison with float64
CHUNK_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Inputs:
    """What a loss reads: a policy's and a reference's hidden states that are close, tokens, a head."""

    student_ND: Tensor
    reference_ND: Tensor
    ids_N: Tensor
    head_VD: Tensor

    @staticmethod
    def random(tokens: int, width: int, vocabulary: int, device: str, dtype: str) -> Inputs:
        """Logits with a standard deviation of about 2 whatever the width."""
        import torch

        make = torch.Generator(device).manual_seed(0)
        kind: Any = {"device": device, "generator": make}
        reference = torch.randn(tokens, width, **kind)
        student = reference + 0.1 * torch.randn(tokens, width, **kind)
        ids = torch.randint(0, vocabulary, (tokens,), **kind)
        head = torch.randn(vocabulary, width, **kind).mul_(2.26 * width**-0.5)
        form = getattr(torch, dtype)
        return Inputs(student.to(form).requires_grad_(), reference.to(form), ids, head.to(form))

    def first(self, tokens: int) -> Inputs:
        """The first few tokens, as leaves of their own."""
        student = self.student_ND[:tokens].detach().clone().requires_grad_()
        return Inputs(student, self.reference_ND[:tokens], self.ids_N[:tokens], self.head_VD)

    def double(self) -> Inputs:
        """The same numbers in float64."""
        student = self.student_ND.detach().double().requires_grad_()
        return Inputs(student, self.reference_ND.double(), self.ids_N, self.head_VD.double())


def forward_kl(inputs: Inputs, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
    """Ours."""
    from axolotl_safety.methods.kl import forward_kl

    return forward_kl(inputs.student_ND, inputs.reference_ND, inputs.head_VD, chunk_bytes=chunk_bytes)


def forward_ce(inputs: Inputs, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
    """Ours."""
    from axolotl_safety.methods.kl import forward_ce

    return forward_ce(inputs.student_ND, inputs.ids_N, inputs.head_VD, chunk_bytes=chunk_bytes)


def full_kl(inputs: Inputs, chunk_bytes: int = 0) -> Tensor:
    """Over full logits, raised to float32 where they are of less precision."""
    import torch

    with torch.no_grad():
        logp_NV = _raised(inputs.reference_ND @ inputs.head_VD.T).log_softmax(-1)
    logq_NV = _raised(inputs.student_ND @ inputs.head_VD.T).log_softmax(-1)
    summed = torch.nn.functional.kl_div(logq_NV, logp_NV, reduction="sum", log_target=True)
    return summed / len(inputs.student_ND)


def full_ce(inputs: Inputs, chunk_bytes: int = 0) -> Tensor:
    """Over full logits, as transformers computes it."""
    import torch

    return torch.nn.functional.cross_entropy(_raised(inputs.student_ND @ inputs.head_VD.T), inputs.ids_N)


def _raised(logits_NV: Tensor) -> Tensor:
    return logits_NV if logits_NV.element_size() >= 4 else logits_NV.float()


Loss = Callable[[Inputs, int], "Tensor"]
LOSSES: dict[str, tuple[Loss, Loss]] = {"forward_kl": (forward_kl, full_kl), "forward_ce": (forward_ce, full_ce)}


def work(loss: Loss, inputs: Inputs, chunk_bytes: int = CHUNK_BYTES) -> Callable[[], None]:
    """One forward and backward pass, run once on a few tokens: the libraries' own buffers, and the gradient's."""
    loss(inputs.first(8), chunk_bytes).backward()
    inputs.student_ND[:1].sum().backward()

    def run() -> None:
        loss(inputs, chunk_bytes).backward()

    return run


def errors(ours: Loss, full: Loss, inputs: Inputs) -> tuple[float, float]:
    """Relative error of value and gradient against full logits in float64, on the first tokens."""
    few = inputs.first(CHECKED)
    exact = few.double()
    value, wanted = ours(few, CHUNK_BYTES), full(exact, 0)
    value.backward(), wanted.backward()
    given, right = few.student_ND.grad.double(), exact.student_ND.grad
    return abs(value.item() / wanted.item() - 1), ((given - right).norm() / right.norm()).item()


def measure(tokens: int, width: int, vocabulary: int, device: str, dtype: str) -> Iterator[dict[str, Any]]:
    """A row per loss: peak, time and error of ours, peak and time over full logits."""
    for name, (ours, full) in LOSSES.items():
        inputs = Inputs.random(tokens, width, vocabulary, device, dtype)
        found = where_it_fits(lambda ours=ours, full=full, inputs=inputs: errors(ours, full, inputs))
        value_error, gradient_error = found or (None, None)
        costs = [cost_of(work(one, inputs), device) for one in (ours, full)]
        yield {
            "loss": name,
            "tokens": tokens,
            "peak_bytes": costs[0].peak_bytes,
            "seconds": costs[0].seconds,
            "full_peak_bytes": costs[1].peak_bytes,
            "full_seconds": costs[1].seconds,
            "value_error": value_error,
            "gradient_error": gradient_error,
        }
