"""What the values of the core say about themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor_memreap.core.model import ProcessMemory, Program, supervisord_of


@pytest.mark.parametrize(("pss", "swapped", "share"), [(30, 5, 35), (None, 5, 15)])
def test_the_share_of_a_process_is_its_pss_with_swap_and_without_pss_what_is_its_own(pss, swapped, share):
    assert ProcessMemory(10, swapped, pss).share == share


def test_the_supervisord_of_programs_is_the_first_that_is_known():
    unknown = Program("myapp", "myapp", "RUNNING", 7)
    assert supervisord_of([unknown, replace(unknown, supervisord=3)]) == 3
    assert supervisord_of([unknown]) is None
