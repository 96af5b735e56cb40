"""The `memreap` command; also `python -m supervisor_memreap`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command; the exit status."""
    try:
        if sys.argv[1:2] == ["listen"]:
            # http.client would load it, for nothing: supervisord speaks no TLS, and the listener stays 1.2 MB smaller.
            sys.modules["ssl"] = None  # type: ignore[assignment]
        # Here, since this takes 0.2 s: Ctrl-C in that time is no traceback either.
        from supervisor_memreap import cli

        return cli.main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
