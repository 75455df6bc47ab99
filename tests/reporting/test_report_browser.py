"""The report in a real browser, headless: both widths, both colours, keyboard, filters, hostile text, a live run."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import uvicorn
from PIL import Image
from run_folders import HOSTILE, write_run

from pacore_rl.events import record_event
from pacore_rl.reporting.jsonl import JsonlSink
from pacore_rl.reporting.panels import PANELS
from pacore_rl.reporting.run_report import write_report
from pacore_rl.reporting.watch import open_port, watching


def headless() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "scripts" / "headless_browser.py"
    spec = importlib.util.spec_from_file_location("headless_browser", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


LOWEST_CONTRAST = """
    const luminance = (colour) => {
        const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
            .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
    };
    const behind = (one) => {
        for (let at = one; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (/^rgb\\(/.test(colour)) return colour;
        }
    };
    const texts = 'h1, h2, h3, h4, p, dt, dd, summary, button, .badge, .facts, .reason, mark, pre, .question';
    return Math.min(...[...document.querySelectorAll(texts)].filter((one) => one.offsetParent).map((one) => {
        const [a, b] = [luminance(getComputedStyle(one).color), luminance(behind(one))].sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05);
    }));
"""
"""Of every pair of colours that carries words, by WCAG's formula."""
MODULE = headless()
pytestmark = pytest.mark.skipif(MODULE.missing() is not None, reason=f"no browser: {MODULE.missing()}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with MODULE.headless_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("browser")
    return write_report(write_run(folder / "run"), folder / "report.html").as_uri()


def opened(browser: Any, address: str, width: int = 1280) -> Any:
    browser.size(width, 900, mobile=width < 500)
    browser.open(address)
    browser.wait_for("return document.body && document.body.dataset.ready")
    return browser


def options(browser: Any) -> list[str]:
    """Problem ids of the list, newest first."""
    keys = browser.run("return [...document.querySelectorAll('[role=option]')].map((one) => one.dataset.key)")
    return [key.split(" ", 1)[1] for key in keys]


def detail(browser: Any) -> str:
    return browser.run("return document.getElementById('sample-detail').innerText")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_every_chart_is_drawn_legible_and_whole_and_the_console_is_silent(
    browser: Any, address: str, width: int, colours: str, tmp_path: Path
) -> None:
    browser.prefer(colours)
    opened(browser, address, width)
    drawn = "return [...document.querySelectorAll('.plot')].filter((one) => one.querySelector('svg.main-svg')).length"
    assert browser.run(drawn) == len(PANELS)
    bars = "return document.querySelectorAll('.plot .barlayer .point').length"
    assert browser.run(bars) == 30 * 11, "eleven phases of thirty steps, stacked"
    assert browser.run("return document.documentElement.scrollWidth") == width
    outside = """return [...document.querySelectorAll('figure, .card, .detail, .list, button')]
        .filter((one) => one.getBoundingClientRect().right > innerWidth + 0.5).length"""
    assert browser.run(outside) == 0
    assert browser.run(LOWEST_CONTRAST) >= 4.5, "WCAG's contrast of small text"
    assert browser.complaints() == []
    browser.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.size == (width, 900)
        seen = picture.convert("L").histogram()
        paper = max(range(256), key=seen.__getitem__)
    assert (paper > 200) == (colours == "light"), "mostly paper, of the colour that was asked for"
    assert sum(count > 20 for count in seen) > 20, "with something on it"


def test_what_happened_to_the_run_is_told(browser: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    record_event(run, "restart", step=7, cause="<b>policy</b> rank 0 died")
    opened(browser, write_report(run, tmp_path / "r.html").as_uri(), 390)
    told = browser.run("return document.getElementById('event-list').innerText")
    assert "after step 7" in told and "<b>policy</b> rank 0 died" in told
    assert browser.run("return document.documentElement.scrollWidth") == 390


def test_filters_narrow_the_list_and_combine(browser: Any, address: str) -> None:
    opened(browser, address)
    every = ["plain", "seen-twice", "long", "emergent", "hostile", "seen-twice"]
    assert sorted(options(browser)) == sorted(every)
    press = "document.querySelector(`[data-filter=${arguments[0]}]`).click()"
    for name, left in (("emergent", ["emergent"]), ("truncated", ["long"]), ("changed", ["seen-twice"] * 2)):
        browser.run(press, name)
        assert options(browser) == left
        assert left[0] in detail(browser), "the shown sample is one of the list"
        browser.run(press, name)
    browser.run(press, "emergent")
    browser.run(press, "changed")
    assert options(browser) == [] and "No sample is like this" in browser.run("return document.body.innerText")
    browser.run(press, "emergent")
    browser.run(press, "changed")
    search = (
        "const box = document.querySelector('[type=search]'); box.value = 'LONG'; box.dispatchEvent(new Event('input'))"
    )
    browser.run(search)
    assert options(browser) == ["long"]
    assert browser.complaints() == []


def test_words_that_refer_to_a_reference_are_marked(browser: Any, address: str) -> None:
    opened(browser, address)
    browser.run("document.querySelector('[data-key=\"2 emergent\"]').click()")
    assert browser.run("return [...document.querySelectorAll('mark')].map((one) => one.textContent)") == [
        "Ref 1",
        "Reference",
    ]
    assert "0 of 1 messages right" in detail(browser) and "✗ wrong" in detail(browser) and "✓ right" in detail(browser)


def test_a_problem_met_twice_links_its_steps(browser: Any, address: str) -> None:
    opened(browser, address)
    browser.run("document.querySelector('[data-key=\"3 seen-twice\"]').click()")
    assert "1: 0.00" in detail(browser) and "3: 0.50" in detail(browser)
    browser.run("document.querySelector('.visits button').click()")
    assert "Step 1 " in detail(browser)


def test_it_can_be_read_with_the_keyboard_alone(browser: Any, address: str) -> None:
    opened(browser, address)
    active = "const one = document.activeElement; return one.id || one.className || one.textContent"
    browser.press("Tab")
    assert browser.run(active) == "skip", "the first stop leads past the navigation"
    browser.press("Enter", "Tab")
    assert browser.run("return document.getElementById('charts').contains(document.activeElement)")
    browser.run("document.querySelector('.filters button').focus()")
    browser.press("Enter")
    assert options(browser) == ["emergent"]
    browser.press("Enter", *["Tab"] * 4)
    assert browser.run(active) == "sample-list"
    browser.press("Home", "Down", "Down")
    shown = browser.run("return document.querySelector('[aria-selected=true]').dataset.key").split(" ", 1)[1]
    assert shown == options(browser)[2] and shown in detail(browser)
    assert (
        browser.run("return document.getElementById('sample-list').getAttribute('aria-activedescendant')") == "option-2"
    )
    browser.press("End", "Enter")
    assert browser.run(active) == "sample-detail" and options(browser)[-1] in detail(browser)
    lines = "return document.querySelectorAll('.plot')[0].querySelectorAll('.scatterlayer .trace').length"
    before = browser.run(lines)
    browser.run("document.querySelector('.legend button').focus()")
    browser.press("Enter")
    assert browser.run(lines) == before - 2, "a line is its points and their mean"
    browser.run("document.querySelector('figure summary').focus()")
    browser.press("Enter")
    assert browser.wait_for("return document.querySelectorAll('figure table tbody tr').length") == 30


def test_colours_can_be_chosen(browser: Any, address: str) -> None:
    browser.prefer("light")
    opened(browser, address)
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = browser.run(paper)
    for _ in range(2):
        browser.run("document.getElementById('theme').click()")
    assert browser.run(paper) != light
    browser.prefer("dark")
    dark = browser.run(paper)
    browser.run("document.getElementById('theme').click()")
    assert browser.run(paper) == dark, "as the system has them"


def test_what_a_model_writes_is_text(browser: Any, address: str) -> None:
    opened(browser, address)
    browser.run("document.querySelector('[data-key=\"1 hostile\"]').click()")
    assert browser.run("return document.querySelector('.responses pre').textContent") == HOSTILE
    assert browser.run("return document.title") == "run · PaCoRe-RL"
    assert browser.run("return document.querySelectorAll('main img, main b.bold, main script').length") == 0


def test_the_policy_stops_a_script_that_got_in_all_the_same(browser: Any, address: str) -> None:
    opened(browser, address)
    injected = "<img src='data:,' onerror='document.title=1'><iframe srcdoc='<script>top.document.title=2</script>'>"
    browser.run("document.getElementById('recipe').insertAdjacentHTML('beforeend', arguments[0])", injected)
    time.sleep(0.3)
    assert browser.run("return document.title") == "run · PaCoRe-RL"
    assert any("Content Security Policy" in line for line in browser.complaints())


def test_a_live_page_follows_the_run(browser: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_steps=2)
    server = uvicorn.Server(uvicorn.Config(watching(run), log_level="warning"))
    with open_port(0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        opened(browser, f"http://127.0.0.1:{listener.getsockname()[1]}/")
        assert "2 steps" in browser.run("return document.getElementById('status').textContent")
        sink = JsonlSink(run / "metrics.jsonl")
        sink.log(3, {"reward/mean": 1.0})
        sink.close()
        browser.wait_for("return document.getElementById('status').textContent.startsWith('3 steps')")
        assert browser.run("return document.body.dataset.connection") == "live"
        server.should_exit = True
        thread.join(timeout=20)
    browser.wait_for("return document.body.dataset.connection === 'lost'")
