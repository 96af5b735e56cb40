"""`python -m supervisor_memreap` is the `memreap` command."""

import sys

from supervisor_memreap.cli import main

sys.exit(main())
