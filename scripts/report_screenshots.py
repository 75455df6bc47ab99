"""Screenshots of a run's report, for the documentation.

    python scripts/report_screenshots.py runs/quickstart docs/images

Writes report_charts.png (1280 pixels wide, light), report_samples.png (1280, dark) and report_phone.png (390 pixels)
with a headless Chromium; prints what the browser's console said, which should be nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from headless_browser import Browser, headless_browser

from pacore_rl.reporting.run_report import write_report

EMERGENT = "document.querySelector('[data-filter=emergent]').click()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="Folder of a training run.")
    parser.add_argument("out", type=Path, help="Folder for the pictures.")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder, headless_browser() as browser:
        address = write_report(arguments.run, Path(folder) / "report.html").as_uri()
        opened(browser, address, 1280, 1180, "light")
        browser.screenshot(arguments.out / "report_charts.png")
        opened(browser, address, 390, 844, "light")
        browser.screenshot(arguments.out / "report_phone.png")
        opened(browser, address, 1280, 940, "dark")
        browser.run(EMERGENT)
        browser.run("document.getElementById('samples').scrollIntoView({behavior: 'instant'})")
        browser.screenshot(arguments.out / "report_samples.png")
        for complaint in browser.complaints():
            print(complaint)


def opened(browser: Browser, address: str, width: int, height: int, colours: str) -> None:
    browser.size(width, height, mobile=width < 500)
    browser.prefer(colours)
    browser.open(address)
    browser.wait_for("return document.body && document.body.dataset.ready")


if __name__ == "__main__":
    main()
