"""The pictures: each is shown, whole, readable by a screen reader and on any ground, and made again from its record."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from support import browser, stack

PAGES = [
    stack.ROOT / "README.md",
    *(stack.ROOT / "docs").glob("*.md"),
    *(stack.ROOT / "benchmarks/results").glob("*.md"),
]
SHOWN = [each for page in PAGES for each in re.findall(r"!\[([^\]]*)\]\([^)]*?(\w+)\.svg\)", page.read_text())]
PICTURES = sorted(path.stem for path in (stack.ROOT / "docs").glob("*.svg"))
# Those that docs/pictures draws; the others are of benchmarks.
DRAWN = ("day", "demo", "flow", "sizes")
SVG = "{http://www.w3.org/2000/svg}"


def test_each_picture_is_shown_with_a_text_for_those_who_cannot_see_it():
    assert set(DRAWN) < set(PICTURES)
    assert {name for _, name in SHOWN} == set(PICTURES)
    assert [alt for alt, _ in SHOWN if len(alt) <= 40] == []


@pytest.mark.parametrize("name", PICTURES)
def test_each_picture_is_well_formed_titled_and_self_contained(name):
    text = (stack.ROOT / f"docs/{name}.svg").read_text()
    assert len(text.encode()) < 300_000
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    title = root.find(f"{SVG}title")
    assert title is not None
    assert (title.text or "").strip()
    allowed = {"svg", "title", "desc", "style", "defs", "clipPath", "g", "use", "rect", "path", "line", "text"}
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= allowed
    for element in root.iter():
        for key, value in element.attrib.items():
            assert not key.startswith("on")
            assert "href" not in key or value.startswith("#")
    without_namespace = text.replace('"http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?:|//|@import|javascript|data:", without_namespace)
    assert not [url for url in re.findall(r"url\(([^)]*)", text) if not url.startswith("#")]
    assert "prefers-color-scheme:dark" in text


def test_the_pictures_are_drawn_from_the_records(tmp_path):
    command = [sys.executable, str(stack.ROOT / "docs/pictures"), "--draw", "--to", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    assert {path.stem for path in tmp_path.iterdir()} == set(DRAWN)
    for path in tmp_path.iterdir():
        same = path.read_text() == (stack.ROOT / "docs" / path.name).read_text()
        assert same, f"run python docs/pictures --draw {path.stem}"


def test_the_page_on_limits_has_the_versions_for_which_sizes_were_measured():
    record = json.loads((stack.ROOT / "docs/pictures/sizes.json").read_text())
    page = (stack.ROOT / "docs/choose-a-limit.md").read_text()
    assert f"Catalyst {record['catalyst']}, Perl {record['perl']}, {record['system']}" in page


def test_each_picture_can_be_made_alone_and_a_wrong_name_is_one_line(tmp_path):
    command = [sys.executable, str(stack.ROOT / "docs/pictures"), "--to", str(tmp_path)]
    subprocess.run([*command, "flow"], check=True, capture_output=True)
    assert [path.name for path in tmp_path.iterdir()] == ["flow.svg"]
    result = subprocess.run([*command, "flaw"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "no picture 'flaw'; there are: demo, flow, sizes, day" in result.stderr


def test_the_demo_stays_on_its_last_frame_with_reduced_motion():
    text = (stack.ROOT / "docs/demo.svg").read_text()
    assert "@media(prefers-reduced-motion:reduce){#film{animation:none}}" in text
    frames = text.count('<g transform="translate(', text.index('<g id="film">'))
    shift = re.search(r"#film\{transform:translateX\(-([\d.]+)px\)", text)
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', text)[1])
    assert float(shift[1]) == pytest.approx((frames - 1) * width)
    assert frames > 40


MEASURED = """{
  lost: [...page.querySelectorAll("svg > text, svg > g > text")].filter(text => {
    const [left, , right, bottom] = box(text), whole = box(page.querySelector("svg"));
    return left < whole[0] || right > whole[2] - 4 || bottom > whole[3];
  }).map(text => text.textContent),
  width: root.scrollWidth,
  text: computed(page.querySelector("text.text")).fill,
  ground: computed(page.querySelector(".ground")).fill,
}"""


@pytest.mark.parametrize(("width", "is_dark"), [(390, True), (1280, False)], ids=["phone, dark", "desktop, light"])
def test_in_a_browser_no_text_overflows_a_picture_in_light_or_dark(tmp_path, width, is_dark):
    fits = "<!doctype html><style>svg{max-width:100%;height:auto}</style><body>"
    pages = [(fits + (stack.ROOT / f"docs/{name}.svg").read_text(), width) for name in PICTURES]
    dark, light = ("rgb(230, 237, 243)", "rgb(13, 17, 23)"), ("rgb(31, 35, 40)", "rgb(255, 255, 255)")
    for name, measured in zip(PICTURES, browser.evaluate(MEASURED, pages, tmp_path, is_dark)):
        assert measured["lost"] == [], name
        assert measured["width"] <= width, name
        assert (measured["text"], measured["ground"]) == (dark if is_dark else light), name
