"""A Qwen3 model with random weights, in the shape of a real one or of your own: what speed is measured on.

    python scripts/bench/random_model.py FOLDER [--shape qwen3-1.7b] [--layers 28 --hidden 2048 ...]

The tokenizer is the quickstart's, which knows 522 words: of 151,936 words most have no text, and a response hardly ever
ends by itself, so that lengths are what ``sampling.max_response_tokens`` says.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config

TINY_BASE = Path(__file__).resolve().parents[2] / "recipes" / "tiny_base"
SHAPES = {
    "small": {"layers": 4, "hidden": 128, "heads": 4, "kv_heads": 1, "head_dim": 32, "vocabulary": 522, "tied": 0},
    "qwen3-1.7b": {
        "layers": 28,
        "hidden": 2048,
        "heads": 16,
        "kv_heads": 8,
        "head_dim": 128,
        "vocabulary": 151_936,
        "tied": 1,
    },
}
"""Sizes as in the models' own configurations; the MLP is three times as wide as the hidden states in all of them."""


def add_shape_options(parser: argparse.ArgumentParser, default: str) -> None:
    """``--shape``, and an option for each of its sizes."""
    parser.add_argument("--shape", choices=sorted(SHAPES), default=default, help="sizes that the options below change")
    for name in SHAPES["small"]:
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=int, default=None, help="0 or 1" if name == "tied" else None)


def resolve_shape(options: argparse.Namespace) -> None:
    """Fill in the sizes that were not given."""
    for name, value in SHAPES[options.shape].items():
        if getattr(options, name) is None:
            setattr(options, name, value)


def write_model(options: argparse.Namespace, folder: Path, *, window_tokens: int, dtype: torch.dtype) -> int:
    """Weights and configuration of the resolved ``options`` in ``folder``; the number of parameters."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=3 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        head_dim=options.head_dim,
        max_position_embeddings=window_tokens,
        tie_word_embeddings=bool(options.tied),
    )
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(folder)
    return model.num_parameters()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    add_shape_options(parser, "qwen3-1.7b")
    parser.add_argument("--window-tokens", type=int, default=40_960, help="positions that it has")
    options = parser.parse_args()
    resolve_shape(options)
    write_model(options, options.folder, window_tokens=options.window_tokens, dtype=torch.bfloat16)
    AutoTokenizer.from_pretrained(TINY_BASE).save_pretrained(options.folder)
    print(f"wrote {options.folder}")


if __name__ == "__main__":
    main()
