"""What the documents say of the tests and of each other is so."""

from __future__ import annotations

import re

import pytest
import stack

DOCUMENTS = [stack.ROOT / "README.md", *sorted((stack.ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_that_is_named_is_there(document):
    missing = []
    for file, name in re.findall(r"`(test_\w+\.py)::(test_\w+)`", document.read_text()):
        path = stack.ROOT / "tests" / file
        if not path.exists() or f"def {name}(" not in path.read_text():
            missing.append(f"{file}::{name}")
    assert missing == []


def test_the_page_on_safety_names_tests_at_all():
    assert len(re.findall(r"`test_\w+\.py::test_\w+`", (stack.ROOT / "docs/safety.md").read_text())) > 30


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_within_leads_somewhere(document):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []
