"""An SVG with light and dark colours, text as text, and no script."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

SANS = "system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif"
MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
# What a class is filled with, where it is light and where it is dark; drawn lines have the class `line` beside it.
COLOURS = {
    "ground": ("#ffffff", "#0d1117"),
    "panel": ("#f6f8fa", "#161b22"),
    "edge": ("#d0d7de", "#30363d"),
    "empty": ("#eaeef2", "#21262d"),
    "text": ("#1f2328", "#e6edf3"),
    "dim": ("#57606a", "#9198a1"),
    "red": ("#c9303e", "#ff7b72"),
    "amber": ("#b7791f", "#e3b341"),
    "blue": ("#2f7699", "#6cb6e0"),
    "green": ("#2f855a", "#56d364"),
    "violet": ("#7b5ea7", "#b69df0"),
}


def document(title: str, description: str, size: tuple[float, float], body: Iterable[str], css: str = "") -> str:
    """It is 600 wide where there is room, and as wide as there is where not; `size` is what the body is drawn in."""
    width, height = size
    natural = f'width="600" height="{round(600 * height / width)}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" {natural} role="img"'
        ' aria-labelledby="title desc">\n'
        f'<title id="title">{escape(title)}</title>\n<desc id="desc">{escape(description)}</desc>\n'
        f"<style>{_css()}{css}</style>\n"
        f'<rect x=".5" y=".5" width="{width - 1:g}" height="{height - 1:g}" rx="8" class="ground edge line"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _css() -> str:
    light, dark = ("".join(_rules(number)) for number in (0, 1))
    return (
        f"text{{font:12px {SANS}}}.bold{{font-weight:600}}.small{{font-size:11px}}.big{{font-size:14px}}"
        f".mono{{font-family:{MONO}}}.line{{stroke-width:1}}.mid{{stroke-width:1.5}}.thick{{stroke-width:2}}path{{fill:none;stroke-linejoin:round}}"
        f"{light}@media(prefers-color-scheme:dark){{{dark}}}"
    )


def _rules(number: int) -> Iterable[str]:
    for name, colours in COLOURS.items():
        if name != "edge":
            yield f".{name}{{fill:{colours[number]}}}"
        yield f".{name}.line{{stroke:{colours[number]}}}path.{name}{{fill:none;stroke:{colours[number]}}}"


def text(x: float, y: float, content: str, classes: str = "text", anchor: str = "") -> str:
    where = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x:g}" y="{y:g}" class="{classes}"{where}>{escape(content)}</text>'


def rect(x: float, y: float, width: float, height: float, classes: str, more: str = "") -> str:
    where = f'x="{_short(x)}" y="{_short(y)}" width="{_short(width)}" height="{_short(height)}"'
    return f'<rect {where} class="{classes}"{more}/>'


def path(points: Iterable[tuple[float, float]], classes: str, more: str = "") -> str:
    steps = " ".join(f"{_short(x)},{_short(y)}" for x, y in points)
    return f'<path d="M{steps}" class="{classes}"{more}/>'


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
