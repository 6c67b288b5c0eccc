"""A headless Chromium that looks at a page: what it drew, what it logged, and where everything lies."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium here")
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)
# What a person would see to be wrong: a page wider than its window, words that overlap or stick out of their box.
_PROBE = """<script>addEventListener("load", () => {
  const box = element => { const r = element.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  const found = {
    text: document.body.innerText, page: document.documentElement.scrollWidth, window: innerWidth,
    scrolling: [...document.querySelectorAll("*")].filter(element =>
      getComputedStyle(element).overflowX == "auto" && element.scrollWidth > element.clientWidth).length,
    cut: [...document.querySelectorAll(".piece span")].filter(words =>
      words.offsetWidth > words.parentElement.clientWidth).length,
    operators: [...document.querySelectorAll(".dag .operator")].map(operator => ({
      box: box(operator.querySelector(".box")), words: [...operator.querySelectorAll("text")].map(box)})),
    rows: [...document.querySelectorAll(".row")].map(row => ({box: box(row), words: [...row.children].map(box)})),
  };
  const output = document.createElement("output");
  output.hidden = true;
  output.textContent = JSON.stringify(found);
  parent.document.body.append(output);
});</script>"""


_NARROWEST_WINDOW = 500
_FRAME = (
    '<!DOCTYPE html><html><body style="margin: 0"><iframe srcdoc="{0}" '
    'style="width: {1}px; height: 6000px; border: 0; display: block"></iframe></body></html>'
)


@dataclass(frozen=True)
class Seen:
    """What came of opening a page. `picture` is the file of a screenshot, `probe` where things lie, if asked for."""

    console: list[str]
    picture: Path
    probe: dict


def open_page(html: str, folder: Path, *, dark: bool, width: int, probe: bool = False, height: int = 2000) -> Seen:
    """Opens a page from a file. With `probe` its policy against scripts is lifted for a script that measures it."""
    if probe:
        html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html).replace(
            "</body>", f"{_PROBE}</body>"
        )
    if width < _NARROWEST_WINDOW:
        # A frame is as narrow as a phone; the browser's own window can't be.
        html = _FRAME.format(escape(html), width)
    page, picture = folder / "page.html", folder / f"{width}-{dark}.png"
    page.write_text(html, encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    asked = [
        scheme,
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},{height}",
        f"--screenshot={picture}",
    ]
    command = [EXECUTABLE, *_OPTIONS, *asked, *(["--dump-dom"] if probe else []), page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    measured = Text("output")
    measured.feed(done.stdout)
    return Seen(console, picture, json.loads(measured.text) if probe else {})


class Text(HTMLParser):
    """The text of a page, or of its elements of one kind; and its tags, in `tags`."""

    def __init__(self, only: str | None = None) -> None:
        super().__init__()
        self._only, self._open = only, []
        self.text, self.tags, self.links = "", [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src", "xlink:href")]
        if tag not in ("meta", "link", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag in self._open:
            self._open.remove(tag)

    def handle_data(self, data):
        if self._only is None or self._only in self._open:
            self.text += data
