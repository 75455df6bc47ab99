"""The model's tokenizer and chat template, behind ``interfaces.ChatTokenizer``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pacore_rl.types import Int32, Turn

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")


@dataclass(frozen=True, slots=True)
class HuggingFaceTokenizer:
    """A transformers tokenizer that has a chat template."""

    tokenizer: Any

    def encode_chat(self, conversation: Sequence[Turn]) -> Int32:
        turns = [{"role": turn.role, "content": turn.content} for turn in conversation]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)

    def decode(self, token_ids: Int32) -> str:
        return self.tokenizer.decode(token_ids.tolist(), skip_special_tokens=True)

    def count(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def load_tokenizer(path: str, *, trust_remote_code: bool = False) -> HuggingFaceTokenizer:
    """The tokenizer of a Hugging Face folder or hub id; Python that comes with it runs only where that is asked for.

    Raises:
        ValueError: there is no such model, it has no tokenizer, or the tokenizer has no chat template.
    """
    from transformers import AutoTokenizer

    if looks_local(path) and not Path(path).is_dir():
        raise ValueError(
            f"model.path={path} is not a folder; give a Hugging Face folder (config.json, weights, tokenizer) or a "
            "hub id such as Qwen/Qwen3-8B. The quickstart's model is recipes/tiny_base."
        )
    # transformers would make up an empty one; a model's own code may read files of other names.
    if (
        Path(path).is_dir()
        and not trust_remote_code
        and not any((Path(path) / name).is_file() for name in TOKENIZER_FILES)
    ):
        raise _no_tokenizer(path, f"none of {', '.join(TOKENIZER_FILES)}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise _no_tokenizer(path, first_line(error)) from error
    if not tokenizer.chat_template:
        raise ValueError(
            f"model.path={path} has a tokenizer without a chat template; add one as chat_template.jinja beside "
            "tokenizer.json (an instruction-tuned model of the same family has one to copy)."
        )
    return HuggingFaceTokenizer(tokenizer)


def _no_tokenizer(path: str, why: str) -> ValueError:
    return ValueError(
        f"model.path={path} holds no usable tokenizer ({why}); copy tokenizer.json and tokenizer_config.json of the "
        "base model into the folder."
    )


def looks_local(path: str) -> bool:
    """Whether the path means a folder here: a hub id is ``name`` or ``owner/name``."""
    return path.startswith(("/", ".", "~")) or path.count("/") > 1 or Path(path).exists() or "recipes" in path


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
