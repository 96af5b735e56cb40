#!/bin/sh
# Says the pid of the worker of fcgiwrap that runs it.
printf 'Content-Type: text/plain\nX-Worker: %s\n\nok\n' "$PPID"
