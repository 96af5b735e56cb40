"""The real `memreap listen`, for fast motion (suggest_record.py).

It measures all workers at every look, not each 30 s, and its history gets every look, not one a minute.
"""

import sys

from supervisor_memreap.commands import cli
from supervisor_memreap.listener import sizes, slowoutputs

sizes.MEASURE = 0.0
slowoutputs._HISTORY = slowoutputs._HISTORY._replace(period=0.0)
slowoutputs._KINDS = (slowoutputs._HISTORY, *slowoutputs._KINDS[1:])
sys.argv[1:] = ["listen"]
sys.exit(cli.main())
