"""Which commands are those of memreap's listener: the same for doctor, for status and inside supervisord."""

from __future__ import annotations

import pytest

from supervisor_memreap.core.listeners import is_listener, words_of_listener


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("memreap listen", []),
        ("/opt/my venv/bin/memreap  listen", []),
        ("python3 -m supervisor_memreap listen myapp=150MB web=1GB", ["myapp=150MB", "web=1GB"]),
        ("memreap -c /etc/supervisord.conf listen", []),
        ("memreap --configuration=/etc/supervisord.conf listen -c x", ["-c", "x"]),
        ('memreap listen "myapp=150MB"', ["myapp=150MB"]),
        ('"/usr/bin/python3" "-m" "supervisor_memreap" "listen" "myapp=150MB"', ["myapp=150MB"]),
        ("'memreap' '-c' '/etc/supervisord.conf' 'listen'", []),
        ("sh -c 'exec memreap listen'", []),
        ("sh -c 'memreap listen myapp=150MB'", ["myapp=150MB"]),
        ("sh -c 'memreap listen; sleep 1'", []),
        ("setpriv --reuid www-data memreap-1.0 listen", []),
    ],
)
def test_a_listener_command_with_arguments_is_recognised(command, words):
    assert is_listener(command)
    assert words_of_listener(command) == words


@pytest.mark.parametrize(
    "command", ["", "memreap", "memreap once", "memreap listen-x", "memreap listening", "memreaplisten", "cat listen"]
)
def test_other_commands_are_not_listeners(command):
    assert not is_listener(command)
    assert words_of_listener(command) == []
