"""vLLM loads an exported folder as it is, and says what the trained policy says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoint_runs import YARN, make_run

from pacore_rl.engine.models import load_policy
from pacore_rl.engine.rollout_worker import ENVIRONMENT
from pacore_rl.export.folder import export_run
from pacore_rl.recipes import load_config
from pacore_rl.tokenizer import load_tokenizer
from pacore_rl.types import Turn

NUM_TOKENS = 12
QUESTIONS = ("Add A5 B1 C1 D3 E5.", "Add A9 B8 C7 D8 E8 F4 G6.", "Add A1 B2 C3 D4 E5 F6.")
PROGRAM = """
import json, sys
from vllm import LLM, SamplingParams

folder, prompts = sys.argv[1], json.loads(sys.argv[2])
llm = LLM(folder, max_model_len=512, enforce_eager=True, kv_cache_memory_bytes=2**27)
greedy = SamplingParams(temperature=0.0, max_tokens=int(sys.argv[3]), ignore_eos=True)
outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], greedy)
default = llm.get_default_sampling_params()
print("RESULT " + json.dumps([[list(out.outputs[0].token_ids) for out in outputs], default.temperature, default.top_k]))
"""


@pytest.mark.slow
def test_greedy_output_of_the_exported_model_is_the_policys(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rope_scaling=YARN)
    out, _ = export_run(run, tmp_path / "model")
    tokenizer = load_tokenizer(str(out))
    prompts = [tokenizer.encode_chat([Turn(role="user", content=question)]).tolist() for question in QUESTIONS]
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(out), json.dumps(prompts), str(NUM_TOKENS)],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("RESULT ")]
    tokens, temperature, top_k = json.loads(line.removeprefix("RESULT "))
    assert (temperature, top_k) == (pytest.approx(0.9), 0), "generation_config.json is what vLLM samples with"
    policy = load_policy(load_config(run / "recipe.yaml").model, torch.float32)
    assert tokens == [greedy(policy, prompt) for prompt in prompts]


def greedy(policy: torch.nn.Module, prompt: list[int]) -> list[int]:
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(NUM_TOKENS):
            positions = torch.arange(len(ids))[None]
            ids.append(int(policy(torch.tensor([ids]), position_ids=positions).logits[0, -1].argmax()))
    return ids[len(prompt) :]
