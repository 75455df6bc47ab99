"""A run as one HTML file that needs no network: charts, samples, recipe.

The parts of the page lie in ``web/``. Charts are plotly.js, its basic bundle (MIT, vendored with its licence): it has
stacked bars, logarithmic axes and zoom in 1.2 MB, where the whole of plotly.js would fill the page's limit alone.

Model text is hostile: a policy under training may write markup. It travels as JSON inside an element that browsers do
not execute, with every ``<``, ``>`` and ``&`` escaped; scripts put it on the page as text nodes only; and a content
security policy names the hash of the one script that may run, and forbids every address.
"""

from __future__ import annotations

import base64
import hashlib
import html
import string
from functools import cache
from importlib import resources
from pathlib import Path

from pacore_rl.problems import write_atomically
from pacore_rl.reporting.run_data import RunData, gather

MAX_BYTES = 5_000_000
"""Of a written report."""
SCRIPTS = ("vendor/plotly-basic.min.js", "charts.js", "samples.js", "page.js")
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def write_report(folder: Path, out: Path) -> Path:
    """Write the report of the run in ``folder`` to ``out``, in one piece. Returns ``out``.

    Raises:
        ValueError: the folder holds no run, or a damaged one (see ``run_data.gather``).
    """
    page = render(gather(folder)).encode()
    assert len(page) < MAX_BYTES, f"a report of {len(page)} bytes; samples and points have limits"
    write_atomically(out, lambda file: file.write(page))
    return out


def render(data: RunData, *, live: bool = False) -> str:
    """The page. A ``live`` one asks the server that it came from for ``data.json`` every few seconds."""
    script = _script()
    return string.Template(_asset("report.html")).substitute(
        policy=content_security_policy(script, live=live),
        title=html.escape(data.name),
        css=_asset("report.css"),
        live="true" if live else "false",
        data=escape_json(data.to_json()),
        script=script,
    )


def live_security_policy() -> str:
    """The policy of a live page, which its server sends as a header too."""
    return content_security_policy(_script(), live=True)


def content_security_policy(script: str, *, live: bool) -> str:
    """What the page may do: run one script, by its hash, and style itself; no address but, if live, its server's."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    connect = "'self'" if live else "'none'"
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data: blob:; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )


def escape_json(text: str) -> str:
    """JSON that means the same and cannot end the element that holds it."""
    return text.translate(str.maketrans(_ESCAPES))


@cache
def _script() -> str:
    script = "\n".join(_asset(name) for name in SCRIPTS)
    assert "</script" not in script.lower(), "a script that would end its own element"
    return script


def _asset(name: str) -> str:
    return (resources.files("pacore_rl.reporting") / "web" / name).read_text(encoding="utf-8")
