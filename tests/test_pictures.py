"""The pictures of the README: each is there, whole, readable by a screen reader, and made again from its record."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from support import stack

README = (stack.ROOT / "README.md").read_text()
NAMED = dict(re.findall(r"!\[([^\]]*)\]\((docs/[^)]+\.svg)\)", README)[::-1])
PICTURES = sorted(NAMED.values())
DRAWN = ("day", "demo", "flow", "sizes")
SVG = "{http://www.w3.org/2000/svg}"


def test_the_readme_has_the_pictures_that_are_made():
    assert {f"docs/{name}.svg" for name in DRAWN} < set(PICTURES)
    assert len(NAMED) == README.count("![")
    assert all(len(alt) > 40 for alt in NAMED)


@pytest.mark.parametrize("name", PICTURES)
def test_each_picture_is_well_formed_titled_and_self_contained(name):
    text = (stack.ROOT / name).read_text()
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


def test_the_readme_names_the_versions_for_which_sizes_were_measured():
    record = json.loads((stack.ROOT / "docs/pictures/sizes.json").read_text())
    assert f"Catalyst {record['catalyst']}, Perl {record['perl']}, {record['system']};" in README


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


PROBE = """
<script>
const svg = document.querySelector("svg"), whole = svg.getBoundingClientRect(), lost = [];
for (const text of document.querySelectorAll("svg > text, svg > g > text")) {
    const box = text.getBoundingClientRect();
    if (box.left < whole.left || box.right > whole.right - 4 || box.bottom > whole.bottom) lost.push(text.textContent);
}
const text = document.querySelector("text.text"), ground = document.querySelector(".ground");
document.title = JSON.stringify({
    lost, width: document.documentElement.scrollWidth,
    text: getComputedStyle(text).fill, ground: getComputedStyle(ground).fill,
});
</script>
"""


@pytest.mark.skipif(not shutil.which("chromium-headless-shell"), reason="no chromium: tests/run installs it")
@pytest.mark.parametrize(("width", "scheme"), [(390, 0), (1280, 1)], ids=["phone, dark", "desktop, light"])
@pytest.mark.parametrize("name", DRAWN)
def test_in_a_browser_no_text_overflows_the_picture_in_light_or_dark(tmp_path, name, width, scheme):
    picture = (stack.ROOT / f"docs/{name}.svg").read_text()
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><style>svg{{max-width:100%;height:auto}}</style><body>{picture}{PROBE}")
    command = ["chromium-headless-shell", "--no-sandbox", f"--window-size={width},800", "--dump-dom"]
    settings = [f"--blink-settings=preferredColorScheme={scheme}", f"--user-data-dir={tmp_path}/profile"]
    result = subprocess.run([*command, *settings, f"file://{page}"], capture_output=True, text=True, check=True)
    measured = json.loads(re.search(r"<title>(\{.*?\})</title>", result.stdout)[1])
    assert measured["lost"] == []
    assert measured["width"] <= width
    dark, light = ("rgb(230, 237, 243)", "rgb(13, 17, 23)"), ("rgb(31, 35, 40)", "rgb(255, 255, 255)")
    assert (measured["text"], measured["ground"]) == (light if scheme else dark)
