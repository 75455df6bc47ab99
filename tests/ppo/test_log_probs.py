"""Chunked log-probs equal the plain ones, in value and gradient, and never hold tokens x vocabulary."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pacore_rl.ppo.log_probs import chosen_log_probs, log_probs_and_entropies


class LargestTensor(TorchDispatchMode):
    """Watches the size of everything any operation returns, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.numel())
        return out


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk_tokens", [1, 4, 100])
def test_equals_log_softmax(temperature: float, chunk_tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(10, 8, generator=generator, dtype=torch.float32).requires_grad_()
    weight = torch.randn(33, 8, generator=generator).requires_grad_()
    labels = torch.randint(33, (10,), generator=generator)
    upstream = torch.randn(10, generator=generator)

    log_probs = chosen_log_probs(hidden, weight, labels, temperature=temperature, chunk_tokens=chunk_tokens)
    grads = torch.autograd.grad(log_probs, (hidden, weight), upstream)

    table = torch.log_softmax(hidden @ weight.t() / temperature, dim=-1)
    expected = table.gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(log_probs, expected, atol=1e-6, rtol=1e-6)
    again, entropies = log_probs_and_entropies(
        hidden, weight, labels, temperature=temperature, chunk_tokens=chunk_tokens
    )
    assert torch.equal(again, log_probs)
    torch.testing.assert_close(entropies, -(table.exp() * table).sum(-1), atol=1e-6, rtol=1e-6)
    assert not again.requires_grad and not entropies.requires_grad
    for grad, plain in zip(grads, torch.autograd.grad(expected, (hidden, weight), upstream), strict=True):
        torch.testing.assert_close(grad, plain, atol=2e-6, rtol=1e-5)


def test_nothing_of_size_tokens_x_vocabulary_is_alive() -> None:
    num_tokens, vocabulary, width, chunk = 2048, 32_000, 4, 64
    hidden = torch.randn(num_tokens, width).requires_grad_()
    weight = torch.randn(vocabulary, width).requires_grad_()
    labels = torch.randint(vocabulary, (num_tokens,))
    with LargestTensor() as largest:
        log_probs_and_entropies(hidden, weight, labels, temperature=1.0, chunk_tokens=chunk)
        log_probs = chosen_log_probs(hidden, weight, labels, temperature=1.0, chunk_tokens=chunk)
        log_probs.sum().backward()
    assert largest.elements == chunk * vocabulary


def test_no_actions_give_no_gradient() -> None:
    hidden, weight = torch.randn(0, 4, requires_grad=True), torch.randn(7, 4, requires_grad=True)
    log_probs = chosen_log_probs(hidden, weight, torch.zeros(0, dtype=torch.int64), temperature=1.0, chunk_tokens=4)
    log_probs.sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, weight = torch.randn(5, 4, requires_grad=True), torch.randn(7, 4)
    labels = torch.tensor([0, 6, 3, 3, 1])
    log_probs = chosen_log_probs(hidden, weight, labels, temperature=0.5, chunk_tokens=2)
    (grad,) = torch.autograd.grad(log_probs.sum(), hidden)
    table = torch.log_softmax(hidden @ weight.t() / 0.5, dim=-1)
    (plain,) = torch.autograd.grad(table.gather(1, labels[:, None]).sum(), hidden)
    torch.testing.assert_close(grad, plain, atol=2e-6, rtol=1e-5)


def test_half_precision_keeps_the_gradient_of_sure_tokens() -> None:
    """Where p(y) is nearly 1, p - 1 must not be lost to bfloat16's three digits."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(50, 16, generator=generator)
    labels = torch.arange(0, 48, 2)
    hidden = 1.2 * weight[labels] + 0.1 * torch.randn(24, 16, generator=generator)
    half = [tensor.bfloat16().requires_grad_() for tensor in (hidden, weight)]
    whole = [tensor.detach().float().requires_grad_() for tensor in half]
    results = []
    for pair in (half, whole):
        log_probs = chosen_log_probs(pair[0], pair[1], labels, temperature=1.0, chunk_tokens=5)
        results.append((log_probs.detach(), torch.autograd.grad(log_probs.sum(), pair)))
    (half_log_probs, half_grads), (log_probs, grads) = results
    assert log_probs.exp().median() > 0.99
    torch.testing.assert_close(half_log_probs, log_probs, atol=1e-5, rtol=1e-4)
    for grad, expected in zip(half_grads, grads, strict=True):
        assert (grad.float() - expected).norm() < 0.01 * expected.norm()
