"""The HTML report without a browser: what goes into it, how large it is, and what cannot get out of its data."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from run_folders import HOSTILE, SAMPLES_OF_EVERY_KIND, message, response, sample, write_run

import pacore_rl.reporting
from pacore_rl.reporting.panels import PANELS
from pacore_rl.reporting.run_data import MAX_POINTS, gather, is_run, keep_within, thin
from pacore_rl.reporting.run_report import MAX_BYTES, SCRIPTS, escape_json, render, write_report


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def embedded(page: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


class TestData:
    def test_every_chart_of_a_run_is_there_with_its_numbers(self, run: Path) -> None:
        data = gather(run)
        assert data.panels == PANELS and data.num_steps == 30 and data.steps_a_point == 1
        assert data.series["reward/mean"][:2] == [0.033333, 0.066667], "five digits are enough for a picture"
        assert data.seconds == pytest.approx(30 * 2.0 + sum(step / 30 for step in range(1, 31)), rel=1e-3)
        assert dict(data.facts) == {"model": "models/tiny", "context window": "512", "seed": "3"}
        assert len(data.samples) == len(SAMPLES_OF_EVERY_KIND)

    def test_what_was_not_measured_is_a_gap_and_an_empty_panel_is_left_out(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.jsonl").write_text(
            '{"schema": 1, "step": 1, "reward/mean": 0.5}\n{"schema": 1, "step": 2, "reward/mean": "nan"}\n'
        )
        data = gather(tmp_path)
        assert [panel.title for panel in data.panels] == ["Reward and synthesis accuracy"]
        assert data.series == {"reward/mean": [0.5, None]} and data.samples == () and data.recipe == ""

    def test_a_folder_without_a_run_or_without_a_step_is_refused(self, tmp_path: Path) -> None:
        assert not is_run(tmp_path)
        with pytest.raises(ValueError, match=r"holds no metrics\.jsonl"):
            gather(tmp_path)
        (tmp_path / "metrics.jsonl").touch()
        with pytest.raises(ValueError, match="has not reported a step yet"):
            gather(tmp_path)

    @pytest.mark.parametrize(("recipe", "told"), [("a: [", "is no YAML any more"), ("- a", "holds no settings")])
    def test_a_damaged_recipe_is_told(self, run: Path, recipe: str, told: str) -> None:
        (run / "recipe.yaml").write_text(recipe)
        with pytest.raises(ValueError, match=rf"recipe\.yaml {told}.*mend it, or remove it"):
            gather(run)
        (run / "recipe.yaml").write_text("model: 3\nrun: {seed: [1]}\n")
        assert gather(run).facts == ()

    def test_long_runs_are_drawn_as_means_of_neighbours(self) -> None:
        rows = [{"step": float(step), "a": float(step)} for step in range(2 * MAX_POINTS)]
        rows[1] = {"step": 1.0, "a": float("nan")}
        points, width = thin(rows, ["a"])
        assert width == 2 and len(points) == MAX_POINTS
        assert points[0] == {"step": 1.0, "a": 0.0} and points[1] == {"step": 3.0, "a": 2.5}

    def test_of_too_many_samples_histories_and_the_newest_stay(self) -> None:
        samples = [sample(step, f"once-{step}", messages=[message("x" * 100, True)]) for step in range(50)]
        samples += [sample(step, "often", messages=[message("x" * 100, True)]) for step in range(0, 50, 10)]
        samples.sort(key=lambda one: one.step)
        kept = keep_within(samples, 6_000)
        assert [one.step for one in kept if one.problem_id == "often"] == [0, 10, 20, 30, 40]
        assert f"once-{49}" in {one.problem_id for one in kept} and "once-3" not in {one.problem_id for one in kept}
        assert list(kept) == [one for one in samples if one in kept] and len(kept) < len(samples)


class TestPage:
    def test_it_is_one_file_that_names_no_address_to_load_from(self, run: Path, tmp_path: Path) -> None:
        page = write_report(run, tmp_path / "out" / "report.html").read_text()
        shell = page.replace(re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[0], "")
        assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?!#)[^"'\s>]+|@import|url\(""", shell.split('id="data"')[0])
        assert [file.name for file in (tmp_path / "out").iterdir()] == ["report.html"]

    def test_a_long_run_with_long_samples_stays_below_five_megabytes(self, tmp_path: Path) -> None:
        texts = [response("word " * 1600, True)] * 4
        many = [
            sample(step, f"p{step % 50}-{i}", messages=[message("m" * 8000, True)] * 24, responses=texts)
            for step in range(30)
            for i in range(2)
        ]
        out = write_report(write_run(tmp_path / "run", num_steps=2 * MAX_POINTS, samples=many), tmp_path / "r.html")
        assert 2_000_000 < out.stat().st_size < MAX_BYTES

    def test_text_of_a_model_cannot_end_the_element_that_holds_it(self, run: Path) -> None:
        page = render(gather(run))
        assert page.lower().count("</script") == 2 and "onerror=" in page and "<img" not in page
        samples = embedded(page)["samples"]
        assert isinstance(samples, list)
        assert {m["text"] for one in samples for m in one["messages"]} >= {HOSTILE}, "and comes back as it was"

    def test_escaped_json_means_the_same(self) -> None:
        text = json.dumps({"a": "<b>&\u2028\\u003c"}, ensure_ascii=False)
        assert json.loads(escape_json(text)) == json.loads(text)
        assert not set(escape_json(text)) & set("<>&\u2028")

    def test_the_policy_allows_the_pages_own_script_and_no_address(self, run: Path) -> None:
        data = replace(gather(run), name='"><script>x()</script>')
        for live, connect in ((False, "'none'"), (True, "'self'")):
            page = render(data, live=live)
            (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
            (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', page)
            assert f"default-src 'none'; script-src 'sha256-{digest}'" in policy and f"connect-src {connect}" in policy
            assert "unsafe-eval" not in policy and "http" not in policy

    def test_the_vendored_library_has_its_licence_beside_it(self) -> None:
        web = Path(pacore_rl.reporting.__file__).parent / "web"
        assert "MIT" in (web / "vendor" / "LICENSE.plotly").read_text()
        assert all((web / name).is_file() for name in SCRIPTS)
