"""Which engine generates which response, with numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pacore_rl.engine.placement import Device
from pacore_rl.engine.rollout import check_requests, choose_routing, engine_capacity
from pacore_rl.engine.routing import DynamicRoute, StaticRoute, assign, token_budget
from pacore_rl.types import Finish, GenerationRequest, Sampling, Trajectory

TEN = Sampling(max_response_tokens=10)


def request(
    num_samples: int, *, num_tokens: int = 4, so_far: int | None = None, seed: int = 0, finish: Finish = "unfinished"
) -> GenerationRequest:
    """With ``so_far``: one that goes on with a response of so many tokens."""
    prompt_ids = np.arange(num_tokens, dtype=np.int32)
    continues = None
    if so_far is not None:
        continues = Trajectory(
            prompt_ids=prompt_ids,
            response_ids=np.arange(so_far, dtype=np.int32),
            logprobs=np.zeros(so_far, dtype=np.float32),
            text="",
            finish=finish,
            weight_versions=np.zeros(so_far, dtype=np.int32),
        )
    return GenerationRequest(prompt_ids=prompt_ids, num_samples=num_samples, seed=seed, continues=continues)


def test_loads_are_balanced_and_always_alike() -> None:
    requests = [request(1 + index % 3, num_tokens=10 + index) for index in range(12)]
    sampling = Sampling(max_response_tokens=50)
    shares = assign(requests, sampling, 3)
    assert shares == assign(requests, sampling, 3)
    assert sorted(index for share in shares for index in share) == list(range(12))
    loads = [sum(10 + i + (1 + i % 3) * 50 for i in share) for share in shares]
    assert max(loads) - min(loads) <= 160  # one request at most
    assert assign(requests[:1], sampling, 3) == [[0], [], []]


def test_static_hands_out_everything_at_once() -> None:
    route = StaticRoute([request(2), request(1), request(3)], TEN, 2)
    # Loads 24, 14 and 34: the third to engine 0, the first and then the second to engine 1.
    assert route.hand_out() == [[(2, 0), (2, 1), (2, 2)], [(0, 0), (0, 1), (1, 0)]]
    assert not route.has_waiting
    assert route.hand_out() == [[], []] and route.withdraw() == []


class TestDynamicRoute:
    def test_problems_stay_together_and_engines_fill_evenly(self) -> None:
        route = DynamicRoute([request(4), request(2), request(1)], TEN, 2, capacity=3)
        # In turns: 0 begins with problem 0, 1 with problem 1; 1 is through with that after two and takes problem 2.
        assert route.hand_out() == [[(0, 0), (0, 1), (0, 2)], [(1, 0), (1, 1), (2, 0)]]
        assert route.has_waiting
        assert route.hand_out() == [[], []]

    def test_who_has_room_gets_the_next_its_own_problem_first(self) -> None:
        route = DynamicRoute([request(3), request(3)], TEN, 2, capacity=1)
        assert route.hand_out() == [[(0, 0)], [(1, 0)]]
        route.ended(1, (1, 0))
        assert route.hand_out() == [[], [(1, 1)]]
        route.ended(1, (1, 1))
        assert route.hand_out() == [[], [(1, 2)]]
        route.ended(1, (1, 2))
        assert route.hand_out() == [[], [(0, 1)]]  # its own are through: it helps with the other
        route.ended(0, (0, 0))
        assert route.hand_out() == [[(0, 2)], []]
        assert not route.has_waiting

    def test_fewest_outstanding_tokens_first(self) -> None:
        # Budgets: 10, 10 - 8 = 2, 10 - 7 = 3, 10. Engine 0 holds 10 and 1 holds 2 + 3, so 1 takes the last one too.
        requests = [request(1), request(1, so_far=8), request(1, so_far=7), request(1)]
        route = DynamicRoute(requests, TEN, 2, capacity=10)
        assert route.hand_out() == [[(0, 0)], [(1, 0), (2, 0), (3, 0)]]

    def test_the_problem_of_which_most_waits_is_helped_with(self) -> None:
        route = DynamicRoute([request(2), request(4), request(1)], TEN, 3, capacity=1)
        assert route.hand_out() == [[(0, 0)], [(1, 0)], [(2, 0)]]
        route.ended(2, (2, 0))
        assert route.hand_out() == [[], [], [(1, 1)]]

    def test_skewed_lengths_keep_all_engines_busy(self) -> None:
        """A clock of our own: two engines, two responses at a time, one token of each a tick."""
        lengths = {0: [40, 40, 40, 40], 1: [1, 1, 1, 1], 2: [40, 40, 40, 40], 3: [1, 1, 1, 1]}
        requests = [request(4) for _ in lengths]
        static = [[(i, s) for i in share for s in range(4)] for share in assign(requests, TEN, 2)]
        assert static == [[(i, s) for i in (0, 2) for s in range(4)], [(i, s) for i in (1, 3) for s in range(4)]]
        # Static: engine 0 computes 8 x 40 tokens two at a time, in 160 ticks, while engine 1 is idle after 4.
        route, running = DynamicRoute(requests, TEN, 2, capacity=2), [dict[tuple[int, int], int]() for _ in range(2)]
        ticks, ended = 0, []
        while True:
            for engine, jobs in enumerate(route.hand_out()):
                running[engine] |= {job: lengths[job[0]][job[1]] for job in jobs}
            if not any(running):
                break
            ticks += 1
            for engine, jobs in enumerate(running):
                for job in list(jobs):
                    jobs[job] -= 1
                    if not jobs[job]:
                        del jobs[job]
                        route.ended(engine, job)
                        ended.append(job)
        assert sorted(ended) == [(index, sample) for index in range(4) for sample in range(4)]
        # 8 x 40 + 8 tokens over 4 places are 82 ticks: no place was idle.
        assert ticks == 82

    def test_what_nobody_has_can_be_withdrawn(self) -> None:
        route = DynamicRoute([request(2), request(2)], TEN, 1, capacity=1)
        assert route.hand_out() == [[(0, 0)]]
        assert route.withdraw() == [(0, 1), (1, 0), (1, 1)]
        route.ended(0, (0, 0))
        assert not route.has_waiting and route.hand_out() == [[]]


def test_a_continued_response_has_the_rest_of_its_budget() -> None:
    assert token_budget(request(3), TEN) == 10
    assert token_budget(request(1, so_far=7), TEN) == 3
    assert token_budget(request(1, so_far=12), TEN) == 0


def test_capacity_and_routing_follow_the_configuration() -> None:
    assert [engine_capacity(number) for number in (1, 8, 256)] == [2, 9, 288]
    cpu, cuda = Device(kind="cpu", cpu_threads=1), Device(kind="cuda", cpu_threads=1)
    assert choose_routing("auto", cpu) == "static" and choose_routing("auto", cuda) == "dynamic"
    assert choose_routing("dynamic", cpu) == "dynamic" and choose_routing("static", cuda) == "static"


def test_what_ended_never_goes_on_and_seeds_differ() -> None:
    check_requests([request(4, seed=1), request(4, seed=1), request(1, so_far=3, seed=1), request(1, so_far=3, seed=2)])
    for bad in (
        [request(1, so_far=3, finish="stopped")],
        [request(2, so_far=3)],
        [request(1, so_far=3, seed=1), request(1, so_far=3, seed=1)],
    ):
        with pytest.raises(AssertionError):
            check_requests(bad)
