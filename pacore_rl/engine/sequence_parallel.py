"""Ulysses sequence parallelism (arXiv 2309.14509): neighbouring ranks share each packed sequence.

A rank holds a slice of the tokens and computes everything but attention on it alone. For attention, all-to-alls trade
tokens for heads and back, so that a rank sees the whole sequence in its share of the heads:

    [T/n tokens, all heads] -> all-to-all -> [T tokens, heads/n] -> document attention -> all-to-all -> [T/n, all heads]

DeepSpeed's own class does the exchange around our attention function and repeats key-value heads where ranks outnumber
them. Our attention reads documents and branches off the positions of the whole sequence, which the micro-batch carries
(``pacore_rl.ppo.batch``): around sdpa, DeepSpeed would drop the mask, and packed documents would see each other.

ZeRO shards and averages over all ranks, whoever shares a sequence, so it is not told of the groups (its ``mpu``). Told,
DeepSpeed 0.19.8 divides gradients by the number of groups, but under ZeRO-3 by the number of ranks: Adam does not mind
the scale, but the clipping of the gradient does.
"""

from __future__ import annotations

from transformers import PreTrainedModel

from pacore_rl.engine.document_attention import DOCUMENT_ATTENTION


def share_sequences(model: PreTrainedModel, num_ranks: int) -> None:
    """Make groups of ``num_ranks`` neighbouring ranks share sequences from now on, in every model of this process.

    Collective over all ranks of the learner, after ``join_deepspeed``.
    """
    if num_ranks == 1:
        return
    # Late: reads DS_ACCELERATOR, which only a worker's environment sets.
    from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF

    UlyssesSPAttentionHF.register_with_transformers(
        model_name_or_path=model,
        core_attn_implementation=DOCUMENT_ATTENTION,
        sequence_parallel_size=num_ranks,
        micro_batch_size=1,
        seq_length_is_variable=True,
    )
