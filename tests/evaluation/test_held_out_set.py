from __future__ import annotations

from evaluation_fakes import CharacterTokenizer, FakeGenerator, FakeScorer, config_of, message_of, problem_of

from pacore_rl.config import EvaluationConfig
from pacore_rl.evaluation.held_out_set import HeldOut, responses_of_evaluation


def test_the_expected_number_of_responses_is_the_number_that_is_generated() -> None:
    problems = tuple(problem_of(index) for index in range(5))
    held_out = HeldOut(problems=problems, pool={p.id: [message_of(p, "wrong")] * 4 for p in problems})
    settings = EvaluationConfig(
        responses_per_problem=3, configurations=((4,), (6, 2)), samples_per_problem=2, self_consistency_pool=12
    )
    config = config_of().model_copy(update={"evaluation": settings})
    generator = FakeGenerator(policy=lambda prompt, rng: ("</think>[wrong1]", "stopped"))
    held_out.report(config, generator, FakeScorer(), CharacterTokenizer())
    asked = sum(request.num_samples for call in generator.calls for request in call)
    # 3 conditions x 3 responses, 12 solo ones, and twice 1 + (2 + 1) responses after round 1, which reuses solo ones.
    assert asked == 5 * responses_of_evaluation(config) == 5 * (9 + 12 + 8)
