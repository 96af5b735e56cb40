"""The `memreap` command; also `python -m supervisor_memreap`."""

import sys

# Before any import that is not built in, as `__future__` is not: -m puts the current directory first on the path, where
# another user may have left a json.py. If -I or -P kept Python from that, the first entry is another one.
if __name__ == "__main__" and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]


def main() -> int:
    """Run the command; the exit status."""
    try:
        # Here, since this takes 0.2 s: Ctrl-C during that time prints no traceback either.
        from supervisor_memreap.commands import cli

        return cli.main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
