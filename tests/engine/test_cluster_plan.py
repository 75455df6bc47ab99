"""Placement as arithmetic: what a configuration asks for, whether a cluster has it, and who gets which slot."""

from __future__ import annotations

from typing import Any

import pytest

from pacore_rl.config import Config
from pacore_rl.config_engine import LoraConfig
from pacore_rl.engine.placement import choose_kind
from pacore_rl.planning.placement import Slot, check_fits, plan_placement, seat


def configuration(*, actor: int = 2, critic: int = 2, device: str = "auto", **rollout: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"device": device},
            "model": {"path": "unused"},
            "data": {"problems": "unused.jsonl"},
            "synthesis": {"min_messages": 0, "max_messages": 0},
            "actor": {"num_ranks": actor},
            "critic": {"num_ranks": critic},
            "rollout": rollout,
        }
    )


def slots(*per_node: int) -> list[Slot]:
    """Slots on node a, b, ... with bundles numbered across them, as Ray may give them: not in order."""
    nodes = [name for name, count in zip("abcdef", per_node, strict=False) for _ in range(count)]
    found = [Slot(bundle=bundle, node=node, gpu=str(bundle % 4)) for bundle, node in enumerate(nodes)]
    return found[::-1]


def test_separate_adds_up_and_colocated_shares() -> None:
    separate = plan_placement(configuration(num_workers=2, tensor_parallel=2), kind="cuda")
    assert separate.num_slots == 2 * 2 + 2 + 2
    assert separate.bundle == {"CPU": 1, "GPU": 1} and separate.learner_gpus == 1
    shared = configuration(actor=4, critic=4, num_workers=2, tensor_parallel=2, placement="colocated")
    colocated = plan_placement(shared, kind="cuda")
    assert colocated.num_slots == 4
    assert colocated.bundle == {"CPU": 3, "GPU": 1} and colocated.learner_gpus == 0.5
    only_engines = plan_placement(shared, kind="cpu", learners=False)
    assert not only_engines.colocated and only_engines.num_slots == 4 and only_engines.bundle == {"CPU": 1}
    assert "4 GPUs: rollout.num_workers=2 x tensor_parallel x pipeline_parallel=2 = 4, shared" in colocated.arithmetic()


def test_hosts_hold_whole_engines() -> None:
    plan = plan_placement(configuration(num_workers=5, tensor_parallel=3, actor=1, critic=1), kind="cuda")
    assert plan.num_slots == 17 and plan.hosts(8) == 3 and plan.hosts(16) == 2
    apart = plan_placement(configuration(num_workers=5, tensor_parallel=3), kind="cuda", learners=False)
    assert apart.num_slots == 15 and apart.hosts(8) == 3, "two engines a host, whatever the sum"


def test_engines_get_whole_nodes_and_learners_the_rest() -> None:
    plan = plan_placement(configuration(num_workers=2, tensor_parallel=2), kind="cuda")
    seats = seat(plan, slots(4, 4))
    assert [[slot.bundle for slot in engine] for engine in seats.engines] == [[0, 1], [2, 3]]
    assert [slot.bundle for slot in seats.actor] == [4, 5] and [slot.bundle for slot in seats.critic] == [6, 7]
    # 3 + 5: the odd slot of node a goes to a learner, and no engine straddles.
    seats = seat(plan, slots(3, 5))
    assert [{slot.node for slot in engine} for engine in seats.engines] == [{"a"}, {"b"}]
    used = [slot.bundle for engine in seats.engines for slot in engine]
    assert sorted(used + [slot.bundle for slot in (*seats.actor, *seats.critic)]) == list(range(8))


def test_colocated_ranks_sit_where_the_engines_do() -> None:
    plan = plan_placement(
        configuration(actor=8, critic=8, num_workers=4, pipeline_parallel=2, placement="colocated"), kind="cuda"
    )
    seats = seat(plan, slots(4, 4))
    assert seats.actor == seats.critic == tuple(slot for engine in seats.engines for slot in engine)
    assert all(engine[0].node == engine[1].node for engine in seats.engines)
    with pytest.raises(ValueError, match=r"engine 3 needs 2 GPUs of one node, but the cluster gave this run 3, 5"):
        seat(plan, slots(3, 5))


def test_colocated_sizes_must_be_equal() -> None:
    with pytest.raises(ValueError, match=r"num_workers=2 x rollout.tensor_parallel=2 .*= 4, actor.num_ranks=4 and"):
        plan_placement(
            configuration(actor=4, critic=2, num_workers=2, tensor_parallel=2, placement="colocated"), kind="cuda"
        )


def test_adapters_cannot_share_gpus_with_engines() -> None:
    """DeepSpeed moves what it trains to the host, and not the frozen weights."""
    config = configuration(actor=2, critic=2, num_workers=2, placement="colocated")
    adapted = config.model_copy(update={"actor": config.actor.model_copy(update={"lora": LoraConfig(rank=8)})})
    with pytest.raises(ValueError, match=r"actor\.lora is set .*=colocated: .* cannot leave the GPU"):
        plan_placement(adapted, kind="cuda")
    plan_placement(adapted, kind="cpu")


def test_what_does_not_fit_is_refused_with_the_sum() -> None:
    plan = plan_placement(configuration(num_workers=2, tensor_parallel=2), kind="cuda")
    check_fits(plan, {"a": {"CPU": 8, "GPU": 4}, "b": {"CPU": 8, "GPU": 4}})
    with pytest.raises(ValueError, match=r"wants 8 GPUs: .*=2 = 4, and actor.num_ranks=2, .* offers 6 \(a 4, b 2\)"):
        check_fits(plan, {"a": {"CPU": 8, "GPU": 4}, "b": {"CPU": 8, "GPU": 2}})
    with pytest.raises(ValueError, match=r"offers 5 \(a 4, b 1\)"):  # GPUs without a CPU for their process are none
        check_fits(plan, {"a": {"CPU": 8, "GPU": 4}, "b": {"CPU": 1, "GPU": 4}})
    wide = plan_placement(configuration(num_workers=1, tensor_parallel=8), kind="cuda", learners=False)
    with pytest.raises(ValueError, match=r"1 engine of 8 GPUs .*each within one node. The nodes offer a 4, b 4"):
        check_fits(wide, {"a": {"CPU": 8, "GPU": 4}, "b": {"CPU": 8, "GPU": 4}})


def test_missing_gpus_are_an_error_only_where_they_are_asked_for() -> None:
    assert choose_kind(configuration(), num_gpus=0, where="this machine") == "cpu"
    assert choose_kind(configuration(), num_gpus=8, where="the cluster") == "cuda"
    assert choose_kind(configuration(device="cpu"), num_gpus=8, where="the cluster") == "cpu"
    with pytest.raises(ValueError, match=r"run.device=cuda, but the cluster has no GPU"):
        choose_kind(configuration(device="cuda"), num_gpus=0, where="the cluster")
