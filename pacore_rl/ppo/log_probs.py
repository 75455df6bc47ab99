"""Log-probabilities of chosen tokens from hidden states, without ever holding tokens x vocabulary.

At 131,072 tokens and 151,936 words, fp32 logits are 80 GB and their gradient as much again. Both are made a part at a
time, and made again in the backward pass instead of being kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def chosen_log_probs(
    hidden_aH: Tensor, weight_VH: Tensor, labels_a: Tensor, *, temperature: float, chunk_tokens: int
) -> Tensor:
    """Log-probability [a] of each label under ``softmax(hidden weight^T / temperature)``.

    Args:
        hidden_aH: [a, H] hidden states that predict the labels; only action positions, nothing else is projected.
        weight_VH: [V, H] output embedding (the input embedding too, where the model ties them).
        labels_a: [a] int64 token ids.
        temperature: sampling temperature; the log-probs are of the distribution that was sampled.
        chunk_tokens: tokens whose logits [chunk_tokens, V] are alive at once; the backward pass goes through blocks of
            the vocabulary of no more numbers.

    Returns:
        fp32 log-probs, differentiable once in ``hidden_aH`` and ``weight_VH``.
    """
    apply = cast(Callable[..., Tensor], _ChosenLogProbs.apply)  # pyright: ignore[reportUnknownMemberType]
    return apply(hidden_aH, weight_VH, labels_a, temperature, chunk_tokens)


@torch.no_grad()
def log_probs_and_entropies(
    hidden_aH: Tensor, weight_VH: Tensor, labels_a: Tensor, *, temperature: float, chunk_tokens: int
) -> tuple[Tensor, Tensor]:
    """The same log-probs [a], and the entropy [a] of each distribution in nats; without gradients.

    There is no entropy bonus (paper, section 3.1), so a pass with gradients need not read the logits for it.
    """
    log_probs = torch.empty(len(labels_a), dtype=torch.float32, device=hidden_aH.device)
    entropies = torch.empty_like(log_probs)
    for start in range(0, len(labels_a), chunk_tokens):
        part = slice(start, start + chunk_tokens)
        logits = _logits(hidden_aH[part], weight_VH, temperature)
        table = logits.log_softmax(dim=-1)
        log_probs[part] = _chosen(table, labels_a[part])
        entropies[part] = torch.exp(table, out=logits).mul_(table).sum(dim=-1).neg_()
    return log_probs, entropies


def _product(left: Tensor, right: Tensor) -> Tensor:
    """fp32 product of two matrices, half precision accumulated in fp32."""
    if left.dtype == torch.float32:
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """fp32 logits [tokens, words] divided by the temperature."""
    logits = _product(hidden, weight.t())
    return logits if temperature == 1.0 else logits.div_(temperature)


def _chosen(table: Tensor, columns: Tensor) -> Tensor:
    """One number [a] of each row of ``table`` [a, words]."""
    return table.gather(1, columns[:, None]).squeeze(1)


class _ChosenLogProbs(torch.autograd.Function):
    """d log p(y) / d logit_v = ([v = y] - p_v) / temperature; the probabilities are made again in the backward pass.

    The forward pass takes the tokens in chunks, the backward pass the vocabulary in blocks of as many numbers: so a row
    of the weight's gradient is one product over all tokens, accumulated inside it in fp32 and written once. Chunks of
    tokens would each read and write the whole gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, temperature: float, chunk_tokens: int
    ) -> Tensor:
        log_probs = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        normalisers = torch.empty_like(log_probs)
        for start in range(0, len(labels), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            logits = _logits(hidden[part], weight, temperature)
            log_probs[part] = _chosen(logits.log_softmax(dim=-1), labels[part])
            normalisers[part] = _chosen(logits, labels[part]) - log_probs[part]
        ctx.save_for_backward(hidden, weight, labels, log_probs, normalisers)
        ctx.temperature, ctx.chunk_tokens = temperature, chunk_tokens
        return log_probs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, labels, log_probs, normalisers = ctx.saved_tensors
        scale = -grads[0][:, None] / ctx.temperature
        scaled_hidden = (scale * hidden).to(hidden.dtype)
        grad_hidden = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None  # a frozen head needs none
        # p_y - 1 in fp32, not from a rounded p_y: most tokens of a trained policy have p_y near 1.
        error_of_labels = torch.expm1(log_probs).to(hidden.dtype)
        block = max(1, ctx.chunk_tokens * len(weight) // max(len(labels), ctx.chunk_tokens))
        for start in range(0, len(weight), block):
            words = slice(start, min(start + block, len(weight)))
            logits = _logits(hidden, weight[words], ctx.temperature).sub_(normalisers[:, None])
            # p_v - [v = y], rounded to the products' type as it is written.
            error = logits if logits.dtype == hidden.dtype else torch.empty_like(logits, dtype=hidden.dtype)
            torch.exp(logits, out=error)
            is_here = (labels >= words.start) & (labels < words.stop)
            column = (labels - words.start).clamp(0, words.stop - words.start - 1)
            error.scatter_(1, column[:, None], torch.where(is_here, error_of_labels, _chosen(error, column))[:, None])
            grad_hidden.add_(_product(error, weight[words]))
            if grad_weight is not None:
                torch.mm(error.t(), scaled_hidden, out=grad_weight[words])
        return grad_hidden.mul_(scale).to(hidden.dtype), grad_weight, None, None, None
