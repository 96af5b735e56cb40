"""docs/memory.md: its configurations are valid, and the lines that it quotes are ones that memreap writes."""

from __future__ import annotations

import configparser
import re

import pytest
from support import stack
from test_core_events import EXAMPLES

from supervisor_memreap.core.settings import Given, resolve

PAGE = (stack.ROOT / "docs/memory.md").read_text()
BLOCKS = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=["on a host", "in a container"])
def test_its_configurations_are_valid(block):
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(block)
    resolve(
        {
            section.partition(":")[2]: {key: Given(value, section) for key, value in parser[section].items()}
            for section in parser.sections()
        }
    )


def test_the_quoted_lines_are_written_by_memreap():
    quoted = re.findall(r"^    (\S.+)$", PAGE, re.MULTILINE)
    texts = [event.text for event, _ in EXAMPLES]
    assert len(quoted) == 2
    assert [line for line in quoted if line not in texts] == []
