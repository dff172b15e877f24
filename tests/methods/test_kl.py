"""Forward KL and cross-entropy from hidden states, against plain formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from axolotl_safety.methods.kl import Head, forward_ce, forward_kl, forward_kl_top_k, top_k_logprobs

N, D, V = 9, 6, 150
TRANSFORMS = [(1.0, None), (0.25, None), (1.0, 2.0), (1.7, 3.0)]


def logits(hidden, head, scale=1.0, cap=None):
    """The plain formula."""
    z = hidden.double() @ head.double().T * scale
    return z if cap is None else cap * torch.tanh(z / cap)


def plain_kl(student, reference, head, other=None, scale=1.0, cap=None):
    logq = logits(student, head, scale, cap).log_softmax(-1)
    logp = logits(reference, head if other is None else other, scale, cap).log_softmax(-1).detach()
    return (logp.exp() * (logp - logq)).sum(-1).mean()


def tensors(seed=0, dtype=torch.float64, n=N, spread=1.0):
    """Policy, reference, head, another head: the reference is the policy plus some noise."""
    make = torch.Generator().manual_seed(seed)
    student = torch.randn(n, D, generator=make, dtype=torch.float64)
    reference = student + spread * torch.randn(n, D, generator=make, dtype=torch.float64)
    head, other = (torch.randn(V, D, generator=make, dtype=torch.float64) for _ in range(2))
    return [tensor.to(dtype).requires_grad_() for tensor in (student, reference, head, other)]


@pytest.mark.parametrize("chunk_bytes", [1, 20_000, 2**28])
@pytest.mark.parametrize(("scale", "cap"), TRANSFORMS)
def test_kl_value_and_gradients_match_full_logits_in_any_chunks(scale, cap, chunk_bytes):
    student, reference, head, other = tensors()
    ours = forward_kl(student, reference, Head(head, scale, cap), other, chunk_bytes)
    theirs = plain_kl(student, reference, head, other, scale, cap)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for a, b in zip(
        torch.autograd.grad(ours, (student, head)), torch.autograd.grad(theirs, (student, head)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("chunk_bytes", [1, 2**28])
@pytest.mark.parametrize(("scale", "cap"), TRANSFORMS)
def test_ce_value_and_gradients_match_full_logits(scale, cap, chunk_bytes):
    student, _, head, _ = tensors()
    targets = torch.randint(0, V, (N,), generator=torch.Generator().manual_seed(1))
    targets[:2] = torch.tensor([0, V - 1])
    ours = forward_ce(student, targets, Head(head, scale, cap), chunk_bytes)
    theirs = torch.nn.functional.cross_entropy(logits(student, head, scale, cap), targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for a, b in zip(
        torch.autograd.grad(ours, (student, head)), torch.autograd.grad(theirs, (student, head)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("scale", "cap"), TRANSFORMS[::3])
def test_gradcheck(scale, cap):
    student, reference, head, other = tensors(n=2)
    head, other = (tensor.detach()[:70].clone().requires_grad_() for tensor in (head, other))
    entries = top_k_logprobs(reference, Head(other, scale, cap), 20)
    for loss in (
        lambda s, h: forward_kl(s, reference, Head(h, scale, cap), other, chunk_bytes=1),
        lambda s, h: forward_kl_top_k(s, *entries, Head(h, scale, cap), chunk_bytes=1),
        lambda s, h: forward_ce(s, torch.arange(2), Head(h, scale, cap), chunk_bytes=1),
    ):
        assert torch.autograd.gradcheck(loss, (student, head))


@pytest.mark.parametrize(
    ("dtype", "value", "gradient"),
    [(torch.float32, 1e-5, 1e-5), (torch.bfloat16, 1e-5, 2**-8), (torch.float16, 1e-5, 2**-11)],
)
def test_lower_precision_is_accumulated_in_float32(dtype, value, gradient):
    """The inputs are rounded, the arithmetic between is not: float64 on the same rounded inputs is the measure."""
    student, reference, head, other = tensors(dtype=dtype)
    ours = forward_kl(student, reference, head, other, 20_000)
    assert ours.dtype == torch.float32
    exact = [tensor.detach().double().requires_grad_() for tensor in (student, head)]
    theirs = plain_kl(exact[0], reference, exact[1], other)
    torch.testing.assert_close(ours.double(), theirs, rtol=value, atol=0)
    for a, b in zip(torch.autograd.grad(ours, (student, head)), torch.autograd.grad(theirs, exact), strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, rtol=gradient, atol=gradient * b.abs().max().item())


def test_hidden_states_and_head_may_differ_in_precision():
    student, reference, head, _ = tensors(dtype=torch.float32)
    half = head.detach().bfloat16()
    ours = forward_kl(student, reference, half)
    ours.backward()
    assert student.grad.dtype == torch.float32
    torch.testing.assert_close(ours.double(), plain_kl(student, reference, half), rtol=1e-5, atol=0)


def test_autocast_changes_nothing():
    student, reference, head, other = tensors(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = forward_kl(student, reference, head, other)
    assert inside == forward_kl(student, reference, head, other)


def test_a_float16_loss_scale_reaches_gradients_before_they_are_rounded():
    student, reference, head, other = tensors(dtype=torch.float16, spread=1e-3)
    scale = 2.0**14
    (forward_kl(student, reference, head, head) * scale).backward()
    exact = student.detach().double().requires_grad_()
    plain_kl(exact, reference, head).backward()
    torch.testing.assert_close(student.grad.double() / scale, exact.grad, rtol=2e-3, atol=1e-2 * exact.grad.abs().max())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_equal_sides_give_exactly_zero(dtype):
    student, _, head, _ = tensors(dtype=dtype)
    loss = forward_kl(student, student.detach().clone(), head, head.detach().clone(), 20_000)
    grads = torch.autograd.grad(loss, (student, head))
    assert loss.item() == 0 and all(not grad.any() for grad in grads)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    log_spread=st.floats(-9, 2),
    size=st.floats(-3, 2),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_never_negative_and_never_nan(seed, log_spread, size, dtype):
    student, reference, head, _ = tensors(seed, spread=10**log_spread)
    student, reference, head = (tensor.detach().to(dtype) for tensor in (student, reference, head * 10**size))
    loss = forward_kl(student, reference, head)
    assert loss >= 0 and loss.isfinite()
    assert forward_kl_top_k(student, *top_k_logprobs(reference, head, 5), head) >= 0
    assert forward_ce(student, torch.zeros(N, dtype=torch.int64), head) >= 0


def test_close_models_keep_their_digits_in_float32():
    """Where log-probabilities differ by 1e-4 the KL is 1e-9: subtracting two float32 sums would give noise of 1e-7."""
    student, reference, head, _ = tensors(spread=1e-5)
    exact = plain_kl(student, reference, head).item()
    ours = forward_kl(*(tensor.detach().float() for tensor in (student, reference, head))).item()
    assert 0 < exact < 1e-8 and abs(ours - exact) < 0.05 * exact


def test_gradient_of_a_sum_in_parts_is_the_gradient_of_the_whole():
    student, reference, head, _ = tensors()
    whole = torch.autograd.grad(forward_kl(student, reference, head), (student, head))
    parts = sum(forward_kl(student[a:b], reference[a:b], head) * (b - a) / N for a, b in [(0, 4), (4, 9)])
    for a, b in zip(whole, torch.autograd.grad(parts, (student, head)), strict=True):
        torch.testing.assert_close(a, b)


def test_the_reference_gets_no_gradient_and_a_frozen_head_none():
    student, reference, head, other = tensors()
    head.requires_grad_(False)
    forward_kl(student, reference, head, other).backward()
    assert student.grad is not None and reference.grad is None and head.grad is None and other.grad is None
    with torch.no_grad():
        assert not forward_kl(student, reference, head).requires_grad


def test_no_tokens_give_zero_with_a_graph():
    student, reference, head, _ = tensors()
    none = torch.zeros(0, dtype=torch.int64)
    entries = top_k_logprobs(reference[:0], head, 4)
    losses = [
        forward_kl(student[:0], reference[:0], head),
        forward_ce(student[:0], none, head),
        forward_kl_top_k(student[:0], *entries, head),
    ]
    for loss in losses:
        loss.backward()
        assert loss.item() == 0 and not student.grad.any() and not head.grad.any()


def test_top_k_is_a_lower_bound_that_grows_to_the_kl():
    student, reference, head, other = tensors()
    whole = forward_kl(student, reference, head, other).item()
    values = [
        forward_kl_top_k(student, *top_k_logprobs(reference, other, k, 20_000), head, 20_000).item()
        for k in (1, 4, 16, 64, V)
    ]
    assert values == sorted(values) and values[0] > 0 and values[3] < whole
    assert values[-1] == pytest.approx(whole, rel=1e-12)


def test_top_k_lumps_the_rest_into_one_bucket():
    student, reference, head, other = tensors()
    ids, logprobs, rest = top_k_logprobs(reference, other, 10)
    q = logits(student, head).softmax(-1).gather(1, ids.long())
    p = logits(reference, other).softmax(-1).gather(1, ids.long())
    p, q = (torch.cat([part, 1 - part.sum(1, keepdim=True)], 1) for part in (p, q))
    assert torch.allclose(logprobs.exp(), p[:, :-1]) and torch.allclose(rest.exp(), p[:, -1])
    expected = (p * (p / q).log()).sum(1).mean().item()
    assert forward_kl_top_k(student, ids, logprobs, rest, head).item() == pytest.approx(expected, rel=1e-12)


def test_shapes_that_do_not_fit_are_named():
    student, reference, head, _ = tensors()
    ids, logprobs, rest = top_k_logprobs(reference, head, 4)
    for call, words in [
        (lambda: forward_kl(student, reference[:-1], head), "9 tokens, reference_hidden_ND 8"),
        (lambda: forward_kl(student[:, :-1], reference, head), r"\(9, 5\) and \(150, 6\)"),
        (lambda: forward_kl(student, reference[:, :-1], head), "reference_hidden states"),
        (lambda: forward_kl(student, reference, head, head[:-1]), "150 vocabulary entries, the reference's 149"),
        (lambda: forward_kl(student[None], reference, head), "tokens x width"),
        (lambda: forward_kl(student, reference, Head(head, soft_cap=0.0)), "soft_cap must be above 0"),
        (lambda: forward_ce(student, torch.zeros(3, dtype=torch.int64), head), "for 9 tokens"),
        (lambda: forward_kl_top_k(student, ids[:-1], logprobs, rest, head), "do not fit 9 tokens"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if torch.is_tensor(tensor) and tensor.untyped_storage() is not None:
                self.bytes = max(self.bytes, tensor.numel() * tensor.itemsize)
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("loss", ["kl", "ce", "top_k"])
def test_no_tensor_outgrows_the_chunk(loss, dtype):
    tokens, width, vocabulary, chunk_bytes = 64, 8, 8000, 400_000
    student = torch.randn(tokens, width, dtype=dtype, requires_grad=True)
    reference, head = torch.randn(tokens, width, dtype=dtype), torch.randn(vocabulary, width, dtype=dtype)
    ids = torch.randint(0, vocabulary, (tokens,))
    entries = top_k_logprobs(reference, head, 8, chunk_bytes)
    seen = Largest()
    with seen:
        if loss == "kl":
            forward_kl(student, reference, head, chunk_bytes=chunk_bytes).backward()
        elif loss == "ce":
            forward_ce(student, ids, head, chunk_bytes).backward()
        else:
            forward_kl_top_k(student, *entries, head, chunk_bytes).backward()
    head_bytes = vocabulary * width * dtype.itemsize  # views of the head pass by, and are no new memory
    assert seen.bytes <= max(chunk_bytes, head_bytes) < tokens * vocabulary * 4 / 5
    assert math.isfinite(student.grad.abs().sum().item())
