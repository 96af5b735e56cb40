"""The `memreap` command; also `python -m supervisor_memreap`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command; the exit status."""
    try:
        # Here, since this takes 0.2 s: Ctrl-C in that time is no traceback either.
        from supervisor_memreap import cli

        return cli.main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
