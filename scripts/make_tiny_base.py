"""Make the quickstart's base model: a Qwen3-architecture transformer of 0.6M parameters, warmed up on chain sums.

    python scripts/make_tiny_base.py --out recipes/tiny_base

It is trained on written-out demonstrations of a weak solver (``data_curation.chain_demonstrations``), first alone
and then before references. Everything is seeded; the schedule counts steps, so a slower machine gives the same
model later. The folder it writes is an ordinary Hugging Face checkpoint: weights, tokenizer and chat template.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from data_curation.chain_demonstrations import Demonstration, Habits, solo_demonstration, synthesis_demonstration
from data_curation.chain_sums import sample_chain
from pacore_rl.synthesis.prompt import render_synthesis_prompt

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
)
PAD, END = "<|endoftext|>", "<|im_end|>"
SPECIAL_TOKENS = (PAD, "<|im_start|>", END)
MAX_REFERENCES = 32
IGNORED = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of the warm-up."""

    steps: int
    rows: int
    solo_share: float
    """Share of its steps spent on solo demonstrations."""
    use_reference: float
    """``Habits.use_reference`` during it: restating references is practised first, then made rarer."""
    later_round: float = 0.0
    """``Habits.later_round`` during it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Phases under one optimizer, whose learning rate rises over ``rise_steps`` and falls to zero at the end."""

    phases: tuple[Phase, ...]
    learning_rate: float
    rise_steps: int
    fall_share: float
    """Share of the course's steps over which the rate falls."""


COURSES = (
    Course(
        phases=(
            Phase(steps=500, rows=64, solo_share=1.0, use_reference=0.0),
            Phase(steps=900, rows=48, solo_share=0.15, use_reference=0.9),
            Phase(steps=300, rows=48, solo_share=0.25, use_reference=0.5),
        ),
        learning_rate=3e-3,
        rise_steps=100,
        fall_share=0.4,
    ),
    Course(  # messages of later rounds, so that the model can be used in rounds at all
        phases=(Phase(steps=300, rows=48, solo_share=0.25, use_reference=0.5, later_round=0.4),),
        learning_rate=1.5e-3,
        rise_steps=30,
        fall_share=0.6,
    ),
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and whole words for what chain sums and the synthesis prompt repeat: any text stays lossless."""
    vocabulary = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    words = ["user\n", "assistant\n", "<think>", "</think>", " \\boxed{", "Add ", *prompt_pieces()]
    words += [f"\nReference {i}:\n" for i in range(1, MAX_REFERENCES + 1)]
    words += [f"Ref {i}:" for i in range(1, MAX_REFERENCES + 1)]
    words += [f"={total}" for total in range(100)]
    words += [str(total) for total in range(10, 100)]
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def prompt_pieces() -> list[str]:
    """The constant parts of the synthesis prompt, each long enough to deserve a token."""
    rendered = render_synthesis_prompt("\0", ["\0"])
    head, _, rest = rendered.partition("\0")
    middle, _, tail = rest.partition("\0")
    references = middle.removesuffix("\nReference 1:\n")
    return [head, references, tail.removeprefix("\n")]


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.get_vocab()[END],
            pad_token_id=tokenizer.get_vocab()[PAD],
        )
    )


def demonstrate(phase: Phase, rng: random.Random) -> list[Demonstration]:
    """One batch, all solo or all synthesis so that its rows are of like length."""
    habits = Habits(use_reference=phase.use_reference, later_round=phase.later_round)
    if rng.random() < phase.solo_share:
        return [solo_demonstration(sample_chain(rng, range(3, 11)), habits, rng) for _ in range(phase.rows)]
    most = 16 if rng.random() < 0.2 else 8
    return [
        synthesis_demonstration(sample_chain(rng, range(5, 11)), rng.randint(1, most), habits, rng)
        for _ in range(phase.rows)
    ]


def encode(
    tokenizer: PreTrainedTokenizerFast, demonstrations: Sequence[Demonstration]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, both [rows, T]; prompts and padding carry no label."""
    prompts = [
        str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": d.prompt}], tokenize=False, add_generation_prompt=True
            )
        )
        for d in demonstrations
    ]
    replies = [f"{d.reasoning}</think>{d.conclusion}{END}" for d in demonstrations]
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    reply_ids = tokenizer(replies, add_special_tokens=False)["input_ids"]
    length = max(len(p) + len(r) for p, r in zip(prompt_ids, reply_ids, strict=True))
    ids = torch.full((len(prompts), length), tokenizer.get_vocab()[PAD])
    labels = torch.full((len(prompts), length), IGNORED)
    for row, (prompt, reply) in enumerate(zip(prompt_ids, reply_ids, strict=True)):
        ids[row, : len(prompt) + len(reply)] = torch.tensor(prompt + reply)
        labels[row, len(prompt) : len(prompt) + len(reply)] = torch.tensor(reply)
    return ids, labels


def train(out: Path, *, seed: int, courses: Sequence[Course] = COURSES) -> None:
    """Warm a fresh model up through ``courses`` and write it to ``out``."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    for number, course in enumerate(courses, 1):
        print(f"course {number} of {len(courses)}")
        teach(model, tokenizer, course, random.Random(seed + number - 1))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    print(f"wrote {out}: {sum(p.numel() for p in model.parameters()):,} parameters")


def teach(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, course: Course, rng: random.Random) -> None:
    """One course of demonstrations, each batch fresh."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=course.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    total_steps = sum(phase.steps for phase in course.phases)
    started = time.monotonic()
    schedule = [phase for phase in course.phases for _ in range(phase.steps)]
    for step, phase in enumerate(schedule):
        rise, fall = (step + 1) / course.rise_steps, (1 - step / total_steps) / course.fall_share
        for group in optimizer.param_groups:
            group["lr"] = course.learning_rate * min(1.0, rise) * min(1.0, fall)
        loss = demonstration_loss(model, *encode(tokenizer, demonstrate(phase, rng)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0 or step + 1 == total_steps:
            seconds = time.monotonic() - started
            left = seconds / (step + 1) * (total_steps - step - 1)
            print(
                f"warm-up {step + 1}/{total_steps}  loss {loss.item():.3f}  {seconds:.0f} s gone, {left:.0f} s left",
                flush=True,
            )


def demonstration_loss(model: Qwen3ForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the reply tokens. Right padding needs no mask: attention is causal."""
    hidden = model.model(ids).last_hidden_state[:, :-1]
    is_reply = labels[:, 1:] != IGNORED
    return cross_entropy(model.lm_head(hidden[is_reply]), labels[:, 1:][is_reply])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("recipes/tiny_base"), help="folder of the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads; part of what makes a run repeat")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(options.out, seed=options.seed)


if __name__ == "__main__":
    main()
