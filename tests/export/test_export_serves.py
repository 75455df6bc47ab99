"""`vllm serve` loads an exported folder as it is, and says what the trained policy says."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import torch
from checkpoint_runs import YARN, make_run
from vllm_server import MODEL, vllm_server

from pacore_rl.engine.models import load_policy
from pacore_rl.export.folder import export_run
from pacore_rl.recipes import load_config
from pacore_rl.tokenizer import load_tokenizer
from pacore_rl.types import Turn

NUM_TOKENS = 12
QUESTIONS = ("Add A5 B1 C1 D3 E5.", "Add A9 B8 C7 D8 E8 F4 G6.", "Add A1 B2 C3 D4 E5 F6.")


@pytest.mark.slow
def test_greedy_output_of_the_served_model_is_the_policys(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rope_scaling=YARN)
    out, _ = export_run(run, tmp_path / "model")
    log = tmp_path / "server.log"
    with vllm_server(model=out, log=log) as url:
        served = [ask(url, question) for question in QUESTIONS]
    tokenizer = load_tokenizer(str(out))
    policy = load_policy(load_config(run / "recipe.yaml").model, torch.float32)
    for question, (prompt, answer) in zip(QUESTIONS, served, strict=True):
        assert prompt == tokenizer.encode_chat([Turn(role="user", content=question)]).tolist()
        assert answer == greedy(policy, prompt)
    assert "'temperature': 0.9" in log.read_text(), "generation_config.json is what vLLM samples with"


def ask(url: str, question: str) -> tuple[list[int], list[int]]:
    """The prompt's and the answer's token ids."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0.0,
        "max_tokens": NUM_TOKENS,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    answered = httpx.post(f"{url}/chat/completions", json=body, timeout=120).raise_for_status().json()
    return answered["prompt_token_ids"], answered["choices"][0]["token_ids"]


def greedy(policy: torch.nn.Module, prompt: list[int]) -> list[int]:
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(NUM_TOKENS):
            positions = torch.arange(len(ids))[None]
            ids.append(int(policy(torch.tensor([ids]), position_ids=positions).logits[0, -1].argmax()))
    return ids[len(prompt) :]
