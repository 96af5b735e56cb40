"""A real browser, which reports how it rendered a page; the page itself runs no script."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path
from typing import Any

from support import needs

# Each page is in a frame of its width, in which no script may run; the measuring script is in the page around them.
_AROUND = """\
<!DOCTYPE html><meta charset="utf-8"><pre id="result"></pre>
<style>iframe { height: 9000px; border: 0 }</style>
%(frames)s
<script>
const box = each => { const r = each.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
const measure = (page, root, computed, fetched, width) => (%(measured)s);
addEventListener("load", () => {
  document.getElementById("result").textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, inside = frame.contentWindow;
    const fetched = inside.performance.getEntriesByType("resource").map(each => each.name);
    return measure(page, page.documentElement, each => inside.getComputedStyle(each), fetched, frame.clientWidth);
  }));
});
</script>
"""
_FRAME = '<iframe style="width: %(width)dpx" sandbox="allow-same-origin" srcdoc="%(page)s"></iframe>'

# Of a report.
_MEASURED = """{
  scroll_width: root.scrollWidth,
  client_width: root.clientWidth,
  title: page.title,
  language: root.lang,
  loaded: fetched,
  outside: [...page.querySelectorAll("body *")].filter(each => box(each)[2] > width + 1).map(
    each => each.outerHTML.slice(0, 80)),
  headings: [...page.querySelectorAll("h1, h2")].map(each => each.textContent),
  elements: [...new Set([...page.querySelectorAll("*")].map(each => each.localName))],
  attributes: [...new Set([...page.querySelectorAll("*")].flatMap(each => each.getAttributeNames()))],
  targets: [...page.querySelectorAll("*")].flatMap(each => [...each.attributes]).filter(
    each => /^(xlink:)?(href|src|srcset|data|action|poster)$/.test(each.name)).map(each => each.value),
  ids: [...page.querySelectorAll("[id]")].map(each => each.id),
  background: computed(page.body).backgroundColor,
  pictures: [...page.querySelectorAll("svg")].filter(each => each.getBoundingClientRect().width > 0).map(each => ({
    section: each.closest("section") ? each.closest("section").querySelector("h2").textContent : "",
    label: each.getAttribute("aria-label"),
    box: box(each),
    texts: [...each.querySelectorAll("text")].map(text => [text.textContent, ...box(text)]),
    ink: [...each.querySelectorAll("text")].map(text => computed(text).fill),
  })),
}"""


@dataclass(frozen=True)
class Picture:
    section: str
    label: str
    box: tuple[float, float, float, float]
    """Left, top, right and bottom, in pixels."""
    texts: list[list[Any]]
    """Each text, and its box."""
    ink: list[str]
    """The colour of each text."""

    def overlapping(self) -> list[tuple[str, str]]:
        """Texts that cover each other."""
        overlaps = []
        for number, (text, left, top, right, bottom) in enumerate(self.texts):
            for other, left2, top2, right2, bottom2 in self.texts[number + 1 :]:
                # A box has the height of the font, a letter has less.
                if min(right, right2) - max(left, left2) > 1 and min(bottom, bottom2) - max(top, top2) > 3:
                    overlaps.append((text, other))
        return overlaps

    def outside(self) -> list[str]:
        """Texts that go beyond the picture."""
        left, top, right, bottom = self.box
        return [
            text
            for text, *box in self.texts
            if box[0] < left - 1 or box[1] < top - 1 or box[2] > right + 1 or box[3] > bottom + 1
        ]


@dataclass(frozen=True)
class Measured:
    scroll_width: int
    client_width: int
    title: str
    language: str
    loaded: list[str]
    """What it fetched."""
    outside: list[str]
    """Elements that go beyond its right border."""
    headings: list[str]
    elements: list[str]
    attributes: list[str]
    """The names of all of them."""
    targets: list[str]
    """What its elements refer to."""
    ids: list[str]
    background: str
    pictures: list[Picture]
    """The visible ones."""


def measure(pages: Sequence[tuple[str, int]], directory: Path, is_dark: bool = False) -> list[Measured]:
    """Each report in a window of this width."""
    all_values = evaluate(_MEASURED, pages, directory, is_dark)
    for values in all_values:
        values["pictures"] = [Picture(**{**each, "box": tuple(each["box"])}) for each in values["pictures"]]
    return [Measured(**values) for values in all_values]


def evaluate(script: str, pages: Sequence[tuple[str, int]], directory: Path, is_dark: bool = False) -> list[Any]:
    """What an expression in JavaScript is in each page with its width; `page`, `root` and others are set in _AROUND."""
    frames = "\n".join(_FRAME % {"width": width, "page": escape(page)} for page, width in pages)
    around = directory / "around.html"
    around.write_text(_AROUND % {"frames": frames, "measured": script})
    options = [f"--blink-settings=preferredColorScheme={0 if is_dark else 1}"]
    dumped = run("--dump-dom", "--virtual-time-budget=5000", *options, f"file://{around}", directory=directory)
    result = re.search(r'<pre id="result">(.*?)</pre>', dumped, re.DOTALL)
    assert result, f"the browser has no result: {dumped[:500]}"
    return json.loads(unescape(result[1]))


def run(*options: str, directory: Path) -> str:
    """What the browser prints."""
    needs.skip_without("chromium-headless-shell")
    command = [
        "chromium-headless-shell",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={directory}/profile",
    ]
    result = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, check=True)
    return result.stdout
