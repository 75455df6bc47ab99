"""Plans: sums add up, what does not fit is named and mended, and the shipped recipes fit what they name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from batches import make_rows

from pacore_rl.config import Config
from pacore_rl.planning.command import plan_recipe, read_size
from pacore_rl.planning.formulas import GIB, GPU_PROCESS_HOST
from pacore_rl.planning.plan import Hardware, make_plan
from pacore_rl.planning.search import changed, mend
from pacore_rl.planning.workload import Workload, assumed_workload, largest_passes
from pacore_rl.ppo.batch import pack, split_rows
from pacore_rl.recipes import load_config

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
EIGHTY = 80 * GIB


def recipe(name: str, *overrides: str) -> Config:
    return load_config(RECIPES / f"{name}.yaml", overrides)


@pytest.mark.parametrize(
    ("name", "gpus"),
    [
        ("pacore_8b/rlvr", 64),
        ("pacore_8b/stage1", 64),
        ("pacore_8b/stage2", 64),
        ("rlvr_30b_a3b", 64),
        ("finetune/qwen3_4b_8gpu", 8),
        ("finetune/qwen3_1_7b_1gpu", 1),
    ],
)
def test_shipped_recipes_fit_the_hardware_they_name(name: str, gpus: int) -> None:
    # Not there yet: an SFT checkpoint with twice the positions of the base model, and the checkpoint of stage 1.
    instead = {
        "pacore_8b/rlvr": ["model.rope_scaling={factor: 2.0}"],
        "pacore_8b/stage2": ["model.path=stepfun-ai/RLVR-8B-0926", "critic.path=null"],
    }
    config = recipe(name, *instead.get(name, []))
    plan = make_plan(config, Hardware(gpu_memory=EIGHTY, num_gpus=gpus, host_memory=2048 * GIB))
    assert plan.fits, [str(shortfall) for shortfall in plan.shortfalls]
    assert plan.num_gpus == gpus
    assert f"--gpus {gpus} --gpu-memory 80GiB" in (RECIPES / f"{name}.yaml").read_text()


def test_a_role_is_the_sum_of_its_parts_and_the_plan_the_fullest() -> None:
    plan = make_plan(recipe("pacore_8b/stage1"), Hardware(gpu_memory=EIGHTY))
    actor = {part.name: part.gpu for part in plan.roles[0].parts}
    assert actor["optimizer"] == 12 * 8_190_735_360 // 8
    assert actor["weights"] == 2 * 8_190_735_360 // 8
    assert plan.roles[0].gpu == sum(actor.values())
    assert plan.gpu_peak == max(role.gpu for role in plan.roles)
    assert plan.placement.arithmetic().startswith("64 GPUs: rollout.num_workers=48 x") and plan.num_hosts == 8


def test_the_smallest_cluster_of_stage_1() -> None:
    plan, layout, _ = plan_recipe(recipe("pacore_8b/stage1"), Hardware(gpu_memory=EIGHTY))
    assert layout is not None and plan.fits
    for role in ("actor", "critic"):
        learner = plan.config.learner(role)
        fewer = changed(
            plan.config, {f"{role}.num_ranks": max(1, learner.num_ranks // 2), f"{role}.sequence_parallel": 1}
        )
        assert fewer is not None
        shortfalls = make_plan(fewer, Hardware(gpu_memory=EIGHTY)).shortfalls
        assert [shortfall.where for shortfall in shortfalls] == [role], "half the ranks are too few"


def test_small_hosts_take_more_ranks_of_both_learners() -> None:
    """Actor and critic share hosts: a host that actor ranks fill does not grow by more critic ranks."""
    plan, layout, _ = plan_recipe(recipe("pacore_8b/stage1"), Hardware(gpu_memory=EIGHTY, host_memory=150 * GIB))
    assert layout is not None and plan.fits and plan.host_peak <= 150 * GIB
    assert plan.config.actor.num_ranks == plan.config.critic.num_ranks == 8


def test_more_memory_takes_fewer_gpus() -> None:
    config = recipe("pacore_8b/stage1")
    sizes = [plan_recipe(config, Hardware(gpu_memory=size * GIB))[0].num_gpus for size in (80, 141, 280)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]


def test_what_does_not_fit_is_named_and_mended() -> None:
    config = recipe("pacore_8b/stage1", "actor.sequence_parallel=1")
    hardware = Hardware(gpu_memory=EIGHTY, num_gpus=64)
    plan, _, mending = plan_recipe(config, hardware)
    assert [shortfall.where for shortfall in plan.shortfalls] == ["actor"]
    assert mending and all(key.startswith("actor.") for key in mending)
    mended = changed(config, mending)
    assert mended is not None and make_plan(mended, hardware).fits


def test_too_many_gpus_are_asked_for() -> None:
    hardware = Hardware(gpu_memory=EIGHTY, num_gpus=32)
    plan = make_plan(recipe("pacore_8b/stage1"), hardware)
    assert [str(shortfall) for shortfall in plan.shortfalls] == ["cluster: 64 GPUs needed, 32 given"]
    assert mend(plan) == {"rollout.num_workers": 16}


def test_no_setting_mends_a_gpu_that_is_far_too_small() -> None:
    plan = make_plan(recipe("pacore_8b/stage1"), Hardware(gpu_memory=4 * GIB, num_gpus=64))
    assert not plan.fits and mend(plan) == {}


def test_offloading_moves_bytes_and_loses_none() -> None:
    """Under ZeRO-2: optimizer and stepped gradients go, and buffers are added that carry gradients there and back."""
    config = recipe("finetune/qwen3_1_7b_1gpu")
    there, here = make_plan(config, Hardware(gpu_memory=EIGHTY)), changed(config, {"actor.offload_optimizer": False})
    assert here is not None
    kept = make_plan(here, Hardware(gpu_memory=EIGHTY)).roles[0]
    moved = there.roles[0]
    embedding, parameters = 151_936 * 2048, there.shape.policy_parameters
    (buffers,) = (part for part in moved.parts if part.name == "offload")
    assert (buffers.gpu, buffers.host) == (2 * embedding, 2 * (embedding + parameters))
    total = kept.gpu + kept.host_at_work + buffers.gpu + buffers.host
    assert kept.gpu > moved.gpu and total == moved.gpu + moved.host_at_work


@pytest.mark.parametrize(
    ("zero_stage", "dtype", "on_host"),
    [(1, "bfloat16", False), (2, "bfloat16", False), (3, "bfloat16", True), (2, "float32", True)],
)
def test_where_gradients_add_up_beside_an_optimizer_on_the_host(zero_stage: int, dtype: str, on_host: bool) -> None:
    """DeepSpeed's compact fp32 partition of ZeRO-2 is on the GPU whatever is offloaded: 4 bytes / ranks."""
    layout = ["actor.offload_optimizer=true", f"actor.zero_stage={zero_stage}", f"model.dtype={dtype}"]
    plan = make_plan(recipe("pacore_8b/stage1", *layout), Hardware(gpu_memory=EIGHTY))
    (part,) = (part for part in plan.roles[0].parts if part.name == "gradients")
    share = 4 * plan.shape.policy_parameters // 8
    assert (part.gpu, part.host) == ((0, share) if on_host else (share, 0))


def test_ranks_that_share_sequences_send_gradients_in_fp32() -> None:
    """A bucket of 500 x 2^20, the head's gradient again, and 10^9 gathered weights with the head in bf16."""
    plan = make_plan(recipe("pacore_8b/stage1"), Hardware(gpu_memory=EIGHTY))
    (part,) = (part for part in plan.roles[0].parts if part.name == "collectives")
    assert part.gpu == 4 * 500 * 2**20 + 4 * 151_936 * 4096 + 2 * (10**9 + 151_936 * 4096)


def test_offloaded_groups_of_zero_3_keep_their_gradients_each() -> None:
    """Half of 8.19B is four times what is stepped at a time on a GPU; on the host all of it has gradients."""
    plans = [
        make_plan(
            recipe(
                "pacore_8b/stage1", "actor.num_ranks=2", "actor.sequence_parallel=2", f"actor.offload_optimizer={on}"
            ),
            Hardware(gpu_memory=EIGHTY),
        )
        for on in ("true", "false")
    ]
    there, here = (next(part for part in plan.roles[0].parts if part.name == "step") for plan in plans)
    assert (there.host, here.gpu) == (4 * plans[0].shape.policy_parameters // 2, 4 * 10**9)


def test_colocated_roles_share_their_gpus() -> None:
    config = recipe("finetune/qwen3_4b_8gpu")
    plan = make_plan(config, Hardware(gpu_memory=EIGHTY))
    actor, critic, engine = plan.roles
    assert plan.gpu_peak >= max(actor.gpu + critic.gpu, engine.gpu)
    apart = changed(config, {"rollout.placement": "separate"})
    there = make_plan(apart, Hardware(gpu_memory=EIGHTY)) if apart is not None else plan
    assert there.num_gpus == 24 and plan.num_gpus == 8
    asleep = sum(role.asleep for role in plan.roles)
    assert asleep == actor.asleep + critic.asleep, "a sleeping engine drops its weights"
    at_work = sum(role.host_at_work for role in plan.roles)
    assert plan.host_peak == 8 * (at_work + asleep) + 2 * 2 * plan.shape.policy_parameters + 2 * 2561 > there.host_peak


def test_a_host_of_several_roles_holds_them_all_and_the_weights_that_are_written() -> None:
    """4 + 4 learners share a host of 8; rank 0 of each has a copy of all weights until the checkpoint is written."""
    config = recipe("pacore_8b/rlvr", "model.rope_scaling={factor: 2.0}")
    plan = make_plan(config, Hardware(gpu_memory=EIGHTY, num_gpus=64))
    actor, critic, engine = plan.roles
    weights = 2 * (plan.shape.policy_parameters + plan.shape.critic_parameters)
    assert plan.host_peak == 4 * (actor.host + critic.host) + weights
    large = make_plan(config, Hardware(gpu_memory=EIGHTY, num_gpus=64, gpus_per_host=16))
    assert large.host_peak == plan.host_peak + 8 * engine.host, "the costliest first"


def test_rank_0_of_experts_cuts_their_gates_apart_for_the_file() -> None:
    shape = make_plan(recipe("rlvr_30b_a3b"), Hardware(gpu_memory=EIGHTY)).shape
    first = make_plan(recipe("rlvr_30b_a3b"), Hardware(gpu_memory=EIGHTY)).roles[0].first
    assert first is not None
    assert first.host == 2 * shape.policy_parameters + 2 * 48 * 128 * 2 * 768 * 2048


def test_on_cpus_every_process_and_both_copies_are_on_one_host() -> None:
    plan = make_plan(recipe("quickstart"), Hardware(gpu_memory=None))
    copies = 4 * (plan.shape.policy_parameters + plan.shape.critic_parameters)
    assert plan.host_peak == sum(role.processes * role.host for role in plan.roles) + copies


def test_colocated_sizes_must_be_equal() -> None:
    config = recipe("finetune/qwen3_4b_8gpu", "rollout.num_workers=4")
    with pytest.raises(ValueError, match=r"= 4, actor.num_ranks=8 and critic.num_ranks=8 differ"):
        make_plan(config, Hardware(gpu_memory=EIGHTY))
    assert changed(config, {"rollout.num_workers": 2}) is None and changed(config, {"rollout.num_workers": 8})


def test_an_engine_lies_within_a_host() -> None:
    config = recipe("pacore_8b/stage1", "rollout.tensor_parallel=16", "rollout.num_workers=3")
    plan, _, mending = plan_recipe(config, Hardware(gpu_memory=EIGHTY, num_gpus=64))
    assert [str(shortfall) for shortfall in plan.shortfalls] == ["engine: 16 GPUs of one host needed, 8 given"]
    assert mending == {"rollout.tensor_parallel": 8} and plan.num_hosts is None


def test_hosts_hold_whole_engines_only() -> None:
    """15 + 2 GPUs are less than 18; but hosts of 8, 8 and 2 hold two engines of 3 twice, and none."""
    layout = ["rollout.pipeline_parallel=3", "rollout.num_workers=5", "ppo.critic_minibatches=1"]
    ranks = [f"{role}.{key}=1" for role in ("actor", "critic") for key in ("num_ranks", "sequence_parallel")]
    plan = make_plan(recipe("pacore_8b/stage1", *layout, *ranks), Hardware(gpu_memory=8 * EIGHTY, num_gpus=18))
    told = "cluster: 5 engines of 3 GPUs, each within a host, needed, 4 given"
    assert [str(shortfall) for shortfall in plan.shortfalls] == [told] and plan.num_hosts == 3


def test_only_experts_cost_a_start_more_than_the_work() -> None:
    """16 shards of a 30B model are small, the copies of its experts on the host are not: 2 bytes of each parameter."""
    plan = make_plan(recipe("rlvr_30b_a3b"), Hardware(gpu_memory=EIGHTY))
    actor = plan.roles[0]
    assert actor.loading is not None
    assert actor.host == actor.loading.host == GPU_PROCESS_HOST + 2 * plan.shape.policy_parameters
    assert make_plan(recipe("pacore_8b/stage1"), Hardware(gpu_memory=EIGHTY)).roles[0].loading is None


def test_a_window_beyond_the_positions_of_the_model() -> None:
    plan = make_plan(recipe("pacore_8b/stage1", "model.rope_scaling=null"), Hardware(gpu_memory=EIGHTY))
    assert [shortfall.where for shortfall in plan.shortfalls] == ["window"]
    assert (plan.shortfalls[0].needed, plan.shortfalls[0].given) == (131_072, 40_960)


class TestPacking:
    work = Workload(mean_prompt=100, longest_prompt=150, response=26, window=512, measured=True)

    def test_no_row_exceeds_the_window(self) -> None:
        assert self.work.longest_row == 176 and replace(self.work, window=160).longest_row == 160

    def test_the_quickstart(self) -> None:
        """512 rows, 16 prompts: each row adds 25 tokens and a 32nd of a prompt, all in one micro-batch of 16,384."""
        config = recipe("quickstart")
        found, most = largest_passes(config, config.actor, self.work, minibatches=1, cpu=True)
        assert (found.rows, found.tokens) == (512, 512 * 25 + 16 * 100)
        assert found.key_slots == 512 * 125 and found.query_slots == found.tokens
        assert (most.rows, most.tokens) == (512, 512 * 25 + 150 + 15 * 100), "one prompt is the longest"
        assert most.key_slots == 512 * 25 + 32 * 150 + 480 * 100

    def test_mini_batches_part_rows_of_a_prompt(self) -> None:
        config = recipe("quickstart")
        found, _ = largest_passes(config, config.critic, self.work, minibatches=4, cpu=True)
        assert (found.rows, found.tokens) == (128, 128 * 25 + 16 * 100)

    def test_a_long_row_goes_alone_and_is_shared_by_its_group(self) -> None:
        config = recipe("pacore_8b/stage1")
        work = assumed_workload(config)
        assert work.longest_row == 131_072
        found, most = largest_passes(config, config.actor, work, minibatches=1, cpu=False)
        assert (found.rows, found.tokens, found.query_slots) == (1, 131_072 // 8, 131_072 // 8)
        assert (most.tokens, most.query_slots) == (16_384, 8 * 16_384), "short responses to prompts of 32,768"

    def test_whole_rows_on_gpus(self) -> None:
        config = recipe("quickstart")
        for found in largest_passes(config, config.actor, self.work, minibatches=1, cpu=False):
            assert found.query_slots == found.key_slots and found.mask_elements == 0

    @pytest.mark.parametrize("prompt", [3, 40, 320, 1200])
    @pytest.mark.parametrize("layout", [(1, 1, 1), (4, 1, 1), (1, 2, 2), (2, 4, 2)])
    def test_no_micro_batch_is_larger(self, prompt: int, layout: tuple[int, int, int]) -> None:
        """Of real packings, however long the responses are: no more tokens and no more slots than planned."""
        minibatches, ranks, shared = layout
        ranks_of = {"num_ranks": ranks, "sequence_parallel": shared, "micro_batch_tokens": 640}
        overrides = [f"actor.{key}={value}" for key, value in ranks_of.items()]
        config = recipe("quickstart", "ppo.problems_per_step=8", "ppo.responses_per_problem=16", *overrides)
        work = Workload(mean_prompt=prompt, longest_prompt=prompt, response=900, window=2100, measured=True)
        planned = largest_passes(config, config.actor, work, minibatches=minibatches, cpu=False)
        tokens, slots = (max(getattr(found, name) for found in planned) for name in ("tokens", "query_slots"))
        rng = np.random.default_rng(0)
        for median in (1, 5, 40, 200, 900):
            lengths = np.clip(rng.lognormal(np.log(median), 0.7, 128), 1, 900).astype(int)
            rows = [([i // 16] * prompt, [99] * int(length)) for i, length in enumerate(lengths)]
            packed = make_rows(rows)
            for part in split_rows(128, minibatches, seed=(0, 1)):
                for micros in pack(packed, part, micro_batch_tokens=640, num_ranks=ranks, sequence_parallel=shared):
                    for micro in micros:
                        whole = micro.position_ids
                        if micro.sequence_position_ids is not None:
                            whole = micro.sequence_position_ids
                        ends = np.append(np.flatnonzero(np.diff(whole) != 1), len(whole) - 1)
                        assert micro.num_tokens <= tokens
                        assert (whole[ends].astype(int) + 1).sum() / shared <= slots + 1


@pytest.mark.parametrize(
    ("text", "size"), [("80GiB", 80 * GIB), ("80", 80 * GIB), ("141GB", 141 * 10**9), ("2TiB", 2048 * GIB)]
)
def test_sizes(text: str, size: int) -> None:
    assert read_size(text, "--gpu-memory") == size


@pytest.mark.parametrize("text", ["", "80 lots", "-1GiB", "0"])
def test_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="--gpu-memory"):
        read_size(text, "--gpu-memory")


def test_prompts_that_leave_no_room() -> None:
    with pytest.raises(ValueError, match="--prompt-tokens 512"):
        assumed_workload(recipe("quickstart"), prompt_tokens=512)


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pacore_rl", "plan", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=ROOT, check=False)


def test_the_command_prints_json_and_ends_with_the_verdict() -> None:
    ended = cli("recipes/pacore_8b/stage1.yaml", "--gpus", "16", "--gpu-memory", "80GiB", "--json")
    assert ended.returncode == 1, ended.stderr
    told = json.loads(ended.stdout)
    assert told["fits"] is False and told["gpus"]["needed"] == 64
    actor = told["roles"]["actor"]
    assert actor["gpu_bytes"] == sum(part["gpu_bytes"] for part in actor["parts"])


def test_the_command_shows_what_sleeps_on_the_host() -> None:
    ended = cli("recipes/finetune/qwen3_4b_8gpu.yaml", "--gpus", "8", "--gpu-memory", "80GiB")
    assert ended.returncode == 0, ended.stderr
    assert len(re.findall(r"asleep +[^0-9]*0\.00[^0-9]+[1-9][0-9]*\.", ended.stdout)) == 2, ended.stdout


def test_the_command_advises_by_what_is_short() -> None:
    memory = ("--gpus", "64", "--gpu-memory", "80GiB")
    host = cli("recipes/pacore_8b/stage1.yaml", *memory, "--host-memory", "50GiB")
    assert host.returncode == 1 and "take hosts with more memory" in host.stdout, host.stdout
    window = cli("recipes/pacore_8b/rlvr.yaml", *memory)
    assert window.returncode == 1 and "take a checkpoint with more positions" in window.stdout, window.stdout
    assert "larger or more GPUs" not in host.stdout + window.stdout


def test_the_command_shows_the_sum_of_the_smallest_cluster() -> None:
    ended = cli("recipes/pacore_8b/stage1.yaml")
    assert ended.returncode == 0, ended.stderr
    assert "Smallest layout:" in ended.stdout and "actor.num_ranks=" in ended.stdout and "It fits." in ended.stdout
