"""Recipes: extending, overriding, and one clear screen for each way of getting them wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pacore_rl.config import Config
from pacore_rl.recipe_errors import nearest
from pacore_rl.recipes import RecipeError, load_config, origins, resolved_yaml
from pacore_rl.settings import REQUIRED, settings

RECIPES = Path(__file__).parents[1] / "recipes"
SHIPPED = sorted(path.relative_to(RECIPES) for path in RECIPES.rglob("*.yaml") if path.name != "base.yaml")
SMALL = """\
model: {path: some/model}
data: {problems: problems.jsonl, pool: pool.jsonl}
ppo:
  problems_per_step: 4
  responses_per_problem: 8
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write(tmp_path / "small.yaml", SMALL)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert len(message.splitlines()) <= 30, "an error fits one screen"
    return message


class TestLoading:
    def test_what_a_recipe_leaves_out_keeps_its_default(self, small: Path) -> None:
        config = load_config(small)
        assert config.ppo.rows_per_step == 32
        assert config.trainer.steps == Config.model_fields["trainer"].get_default().steps

    def test_relative_paths_stay_relative_to_the_current_directory(self, small: Path) -> None:
        assert load_config(small).data.pool == Path("pool.jsonl")

    def test_overrides_are_typed_as_yaml_and_the_last_wins(self, small: Path) -> None:
        config = load_config(
            small,
            [
                "trainer.steps=10",
                "trainer.steps=11",
                "actor.learning_rate=1e-5",
                "evaluation.configurations=[[8], [8, 4]]",
                "logging.wandb_project=null",
                "rollout.enforce_eager=false",
                "data={held_out_problems: other.jsonl, held_out_pool: held_out_pool.jsonl}",
            ],
        )
        assert config.trainer.steps == 11
        assert config.actor.learning_rate == 1e-5
        assert config.evaluation.configurations == ((8,), (8, 4))
        assert config.logging.wandb_project is None
        assert not config.rollout.enforce_eager
        assert (config.data.held_out_problems, config.data.pool) == (Path("other.jsonl"), Path("pool.jsonl"))

    def test_a_section_left_empty_is_as_if_left_out(self, tmp_path: Path) -> None:
        path = write(tmp_path / "r.yaml", f"{SMALL}trainer:\n  # steps: 3\n")
        assert load_config(path).trainer.steps == 250

    def test_an_environment_variable_can_be_read(self, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SOME_MODEL", "from/environment")
        assert load_config(small, ["model.path=${oc.env:SOME_MODEL}"]).model.path == "from/environment"

    def test_resolved_yaml_is_a_recipe_of_the_same_run(self, small: Path, tmp_path: Path) -> None:
        config = load_config(small, ["actor.learning_rate=3e-7", "model.rope_scaling={rope_type: yarn, factor: 2.0}"])
        assert load_config(write(tmp_path / "resolved.yaml", resolved_yaml(config))) == config


class TestExtends:
    def test_sections_merge_lists_and_values_replace(self, tmp_path: Path) -> None:
        write(tmp_path / "base.yaml", f"{SMALL}evaluation: {{configurations: [[4], [16]], num_problems: 7}}\n")
        write(tmp_path / "more/mid.yaml", "extends: ../base.yaml\nevaluation: {configurations: [[2]]}\n")
        top = write(tmp_path / "more/top.yaml", "extends: mid.yaml\nppo: {problems_per_step: 2}\n")
        config = load_config(top)
        assert config.evaluation.configurations == ((2,),)
        assert config.evaluation.num_problems == 7
        assert (config.ppo.problems_per_step, config.ppo.responses_per_problem) == (2, 8)

    def test_a_reward_of_the_users_own_is_one_line(self, tmp_path: Path) -> None:
        base = write(tmp_path / "base.yaml", SMALL + "reward: {num_workers: 3, custom: {timeout_seconds: 9}}\n")
        recipe = write(tmp_path / "mine.yaml", "extends: base.yaml\nreward: my_package.my_module:score\n")
        reward = load_config(recipe).reward
        assert (reward.custom.name, reward.num_workers) == ("my_package.my_module:score", 3)
        assert reward.custom.timeout_seconds == 9
        assert load_config(base, ["reward=other:score"]).reward.custom.name == "other:score"
        assert "mine.yaml, line 2" in origins(recipe)["reward.custom.name"]
        write(recipe, "extends: base.yaml\nreward: maths\n")
        assert "line 2" in refusal(recipe)

    def test_origins_name_file_line_and_override(self, tmp_path: Path) -> None:
        base = write(tmp_path / "base.yaml", SMALL)
        top = write(tmp_path / "top.yaml", "extends: base.yaml\nppo:\n  gamma: 0.9\n")
        found = origins(top, ["trainer.steps=3"])
        assert found["ppo.problems_per_step"] == f"{base}, line 4"
        assert found["ppo.gamma"] == f"{top}, line 3"
        assert found["trainer.steps"] == "command line, trainer.steps=3"

    def test_a_circle_is_named(self, tmp_path: Path) -> None:
        first = write(tmp_path / "first.yaml", "extends: second.yaml\n")
        write(tmp_path / "second.yaml", "extends: first.yaml\n")
        message = refusal(first)
        assert "circle" in message and "second.yaml" in message

    def test_a_missing_base_says_who_extends_it(self, tmp_path: Path) -> None:
        top = write(tmp_path / "top.yaml", "extends: nowhere.yaml\n")
        message = refusal(top)
        assert "nowhere.yaml" in message and str(top) in message

    def test_extends_must_be_one_path(self, tmp_path: Path) -> None:
        assert "line 1" in refusal(write(tmp_path / "top.yaml", "extends: [a.yaml, b.yaml]\n"))

    def test_extends_is_no_override(self, small: Path) -> None:
        assert "belongs in a recipe file" in refusal(small, "extends=base.yaml")


class TestUnknownKeys:
    @pytest.mark.parametrize(
        ("key", "meant"),
        [
            ("trainer.step", "trainer.steps"),
            ("steps", "trainer.steps"),
            ("trainr", "trainer"),
            ("ppo.cliprange", "ppo.clip_range"),
            ("actor.zero_stag", "actor.zero_stage"),
            ("PPO.Gamma", "ppo.gamma"),
            ("sampling.max_tokens", "sampling.max_response_tokens"),
        ],
    )
    def test_nearest_name(self, key: str, meant: str) -> None:
        assert nearest(key)[0] == meant

    def test_a_setting_in_the_wrong_section_is_found(self, small: Path) -> None:
        message = refusal(small, "trainer.learning_rate=1")
        assert "actor.learning_rate" in message and "critic.learning_rate" in message

    def test_all_of_them_are_told_at_once_with_file_and_line(self, tmp_path: Path) -> None:
        path = write(tmp_path / "r.yaml", f"{SMALL}  gama: 0.9\ntrainer:\n  step: 3\n")
        message = refusal(path, "run.nam=x")
        assert f"ppo.gama ({path}, line 6)" in message and "did you mean ppo.gamma?" in message
        assert f"trainer.step ({path}, line 8)" in message and "did you mean trainer.steps?" in message
        assert "run.nam (command line, run.nam=x)" in message

    def test_nothing_near_lists_the_choices(self, small: Path) -> None:
        assert "choose among run, model, data" in refusal(small, "zzzzzz=1")
        assert "trainer.checkpoint_every_steps" in refusal(small, "trainer.qqqqqqqqqqqqqqqq=1")


class TestValues:
    @pytest.mark.parametrize(
        ("override", "shown"),
        [
            (
                "ppo.clip_range=wide",
                ["ppo.clip_range: wide was given", "command line", "number > 0", "ppo.clip_range=0.2"],
            ),
            ("ppo.gamma=2", ["ppo.gamma: 2 was given", "less than or equal to 1"]),
            ("run.device=gpu", ["'auto', 'cpu' or 'cuda'"]),
            ("run.name=2024", ["run.name", "Quote it"]),
            ("trainer=5", ["trainer: 5 was given", "steps, checkpoint_every_steps"]),
            ("evaluation.configurations=[[4], [0]]", ["evaluation.configurations[1][0]: 0 was given"]),
            ("model.rope_scaling={factor: [1]}", ["model.rope_scaling.factor: [1] was given"]),
            ("synthesis.min_messages=30", ["synthesis.min_messages=30 exceeds synthesis.max_messages=24"]),
            ("actor.num_ranks=33", ["32 rows give no row to some rank", "over actor.num_ranks=33"]),
            ("actor.sequence_parallel=2", ["actor.num_ranks=1 cannot be divided into groups"]),
            ("data.pool=null", ["needs data.pool", "pacore-rl pool"]),
            ("run.name=${nothing.there}", ["run.name", "nothing.there"]),
        ],
    )
    def test_says_what_was_given_and_what_must_hold(self, small: Path, override: str, shown: list[str]) -> None:
        message = refusal(small, override)
        for part in shown:
            assert part in message
        assert "pydantic" not in message

    def test_a_value_in_a_file_is_told_with_its_line(self, tmp_path: Path) -> None:
        path = write(tmp_path / "r.yaml", f"{SMALL}  gamma: -1\n")
        assert f"{path}, line 6" in refusal(path)

    def test_what_must_be_given_is_named_with_its_meaning(self, tmp_path: Path) -> None:
        message = refusal(write(tmp_path / "empty.yaml", ""))
        assert "model.path: nothing was given" in message and "tokenizer" in message
        assert "data.problems: nothing was given" in message

    @pytest.mark.parametrize("override", ["trainer.steps", "=3", "trainer.steps=[1"])
    def test_an_override_that_cannot_be_read(self, small: Path, override: str) -> None:
        assert repr(override) in refusal(small, override)


class TestFiles:
    def test_missing_names_the_recipes_nearby(self, small: Path) -> None:
        message = refusal(small.parent / "smal.yaml")
        assert "smal.yaml cannot be read" in message and str(small) in message

    def test_a_folder(self, tmp_path: Path) -> None:
        assert "cannot be read" in refusal(tmp_path)

    def test_not_yaml_shows_the_line(self, tmp_path: Path) -> None:
        assert "line 2" in refusal(write(tmp_path / "r.yaml", "ppo:\n\tgamma: 1\n"))

    def test_a_key_given_twice(self, tmp_path: Path) -> None:
        assert "duplicate key" in refusal(write(tmp_path / "r.yaml", f"{SMALL}ppo: {{gamma: 1}}\n"))

    def test_an_interpolation_that_cannot_be_read(self, tmp_path: Path) -> None:
        assert "${" in refusal(write(tmp_path / "r.yaml", f"{SMALL}run: {{name: '${{half'}}\n"))

    def test_no_mapping(self, tmp_path: Path) -> None:
        assert "key: value" in refusal(write(tmp_path / "r.yaml", "- a\n- b\n"))

    def test_no_text(self, tmp_path: Path) -> None:
        path = tmp_path / "r.yaml"
        path.write_bytes(b"\xff\xfe\x00")
        assert "UTF-8" in refusal(path)


class TestShippedRecipes:
    @pytest.mark.parametrize("path", SHIPPED, ids=str)
    def test_loads(self, path: Path) -> None:
        config = load_config(RECIPES / path)
        assert config.run.name == str(path.with_suffix("")).replace("/", "-").replace("_", "-")

    def test_base_lacks_only_model_and_data(self) -> None:
        message = refusal(RECIPES / "base.yaml")
        assert message.count("nothing was given") == 2

    def test_the_papers_numbers(self) -> None:
        stage1, stage2, rlvr = (
            load_config(RECIPES / f"{n}.yaml") for n in ("pacore_8b/stage1", "pacore_8b/stage2", "pacore_8b/rlvr")
        )
        assert (stage1.synthesis.min_messages, stage1.synthesis.max_messages) == (16, 24)
        assert (stage1.ppo.problems_per_step, stage1.ppo.responses_per_problem) == (16, 64)
        assert (stage1.trainer.steps, stage2.trainer.steps) == (250, 450)
        last = Path("runs/pacore-8b-stage1/checkpoints/step_000250")
        assert (stage2.model.path, stage2.critic.path) == (str(last / "actor"), str(last / "critic"))
        assert (stage1.run_dir, stage1.trainer.steps) == (last.parents[1], 250), "that is what stage 1 writes"
        assert rlvr.synthesis.max_messages == 0 and rlvr.data.pool is None
        assert (rlvr.ppo.problems_per_step, rlvr.ppo.responses_per_problem, rlvr.trainer.steps) == (256, 16, 200)
        assert (rlvr.ppo.actor_minibatches, rlvr.ppo.importance_cap) == (4, 8.0) and rlvr.ppo.oversample > 0
        assert rlvr.ppo.critic_minibatches == 4
        assert (rlvr.actor.learning_rate, rlvr.critic.learning_rate) == (2e-6, 5e-6)
        mixture = load_config(RECIPES / "rlvr_30b_a3b.yaml")
        assert (mixture.trainer.steps, mixture.ppo.actor_minibatches) == (50, 4)

    def test_the_sample_of_the_readme_is_a_run(self, tmp_path: Path) -> None:
        text = (RECIPES.parent / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
        (tmp_path / "mine.yaml").write_text(text.replace("extends: ", f"extends: {RECIPES}/"))
        config = load_config(tmp_path / "mine.yaml")
        assert config.run.name == "mine" and config.actor.num_ranks == config.rollout.num_workers == 8

    def test_base_agrees_with_the_defaults_of_the_code_where_the_paper_speaks(self) -> None:
        """Where base.yaml and config.py differ, it is on purpose: the time limit of a cluster run, the size of the
        final evaluation, how often steps that take long are saved."""
        base = load_config(RECIPES / "base.yaml", ["model.path=m", "data.problems=p", "data.pool=q"])
        bare = Config.model_validate({"model": {"path": "m"}, "data": {"problems": "p", "pool": "q"}})
        sections = [name for name in Config.model_fields if getattr(base, name) != getattr(bare, name)]
        assert sections == ["run", "evaluation", "trainer"]


def test_every_setting_has_a_kind_a_default_and_a_doc() -> None:
    by_key = {setting.key: setting for setting in settings()}
    assert by_key["model.path"].default == REQUIRED
    assert by_key["run.device"].kind == "auto | cpu | cuda"
    assert by_key["ppo.clip_range"].kind == "number > 0"
    assert by_key["evaluation.configurations"].default == "[[4], [16], [32, 4]]"
    assert all(setting.kind and setting.doc for setting in settings())


class TestNestedSections:
    def test_a_section_within_a_section_is_set_key_by_key(self, tmp_path: Path) -> None:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(
            "model: {path: m}\ndata: {problems: p, pool: q}\nreward: {judge: {model: a}}\nactor: {lora: {rank: 4}}\n"
        )
        config = load_config(recipe, ["reward.judge.passes=3", "actor.lora.alpha=8"])
        assert (config.reward.judge.model, config.reward.judge.passes) == ("a", 3)
        assert config.actor.lora is not None and (config.actor.lora.rank, config.actor.lora.alpha) == (4, 8.0)
        assert config.critic.lora is None
        assert load_config(recipe, ["actor.lora=null"]).actor.lora is None

    @pytest.mark.parametrize("override", ["reward.judge.pases=3", "actor.lora.rnak=4"])
    def test_a_misspelt_key_in_it_is_refused_with_the_nearest_name(self, tmp_path: Path, override: str) -> None:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text("model: {path: m}\ndata: {problems: p, pool: q}\n")
        with pytest.raises(RecipeError, match=r"reward\.judge\.passes|actor\.lora\.rank"):
            load_config(recipe, [override])


class TestNamedSections:
    """Sections under names of the user's: ``curation.sources.NAME``."""

    def test_each_is_set_and_overridden_key_by_key(self, small: Path) -> None:
        config = load_config(small, ["curation.sources.a={path: a.jsonl, licence: MIT}", "curation.sources.a.limit=5"])
        assert (config.curation.sources["a"].limit, config.curation.sources["a"].licence) == (5, "MIT")

    @pytest.mark.parametrize(
        ("override", "told"),
        [
            ("curation.sources.a={path: a, lisence: MIT}", "curation.sources.a.lisence"),
            ("curation.sources.a={path: a}", "curation.sources.a.licence: nothing was given"),
            ("curation.sources.a={path: a, licence: MIT, limit: abc}", "curation.sources.a.limit: abc was given"),
            ("curation.sources.a=3", "NAME one of path, licence"),
            ("curation.decontamination.held_out_contests=[{years: [2024]}]", "held_out_contests[0].name: nothing"),
        ],
    )
    def test_a_mistake_in_one_is_told_with_its_name(self, small: Path, override: str, told: str) -> None:
        assert told in refusal(small, override)

    def test_training_data_comes_from_a_set_or_from_files(self, small: Path) -> None:
        assert load_config(small, ["data.path=some/set"]).data.path == Path("some/set")
        assert "data.path=FOLDER" in refusal(small, "data.problems=null")
