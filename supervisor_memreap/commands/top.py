"""\
Show the pools live: the state of each pool, the size of each worker against the limit, and what
happened last. Signals no worker. Needs rich: the extra `top`, or Debian's python3-rich

    memreap top                      all pools that have a [memreap:NAME] section
    memreap top myapp                one pool
    memreap top --url http://web1:9001

Shows what `memreap status` shows: the listener's view, or this command's own if the listener cannot
be asked. With --url it shows the listener's view on another machine, whose supervisord must have
[inet_http_server] and [rpcinterface:memreap]. The user name and the password for --url are those
in the URL, in SUPERVISOR_USERNAME and SUPERVISOR_PASSWORD, or in [supervisorctl] of the
configuration. A password in the URL can be seen in the list of processes.

m switches to what all programs hold, as `memreap memory` shows it, and back; q or Ctrl-C ends it.
Without a terminal, or with TERM=dumb, it prints all pools at each interval.

exit status: 0 ended by q; 1 supervisord does not answer at the start, or NAME is not watched; 2 bad
usage or configuration, or rich is missing; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from supervisor_memreap.commands.arguments import add_configuration, interval
from supervisor_memreap.core.settings import SettingsError
from supervisor_memreap.host import packages
from supervisor_memreap.supervisord import configfile
from supervisor_memreap.views.viewer import Remote, Viewer, open_viewer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--interval", type=interval, default=2.0, metavar="SECONDS", help="time between two looks (default: 2 s)"
    )
    parser.add_argument("--url", metavar="URL", help="another supervisord, such as http://web1:9001")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these programs")
    add_configuration(parser)


def run(args: argparse.Namespace) -> int:
    """The exit status, as above."""
    try:
        from supervisor_memreap.views import live
    except ModuleNotFoundError:
        text = f"memreap top needs rich, which is not installed: {packages.install_extra('top')}"
        raise packages.MissingLibraryError(text) from None
    if args.url is None:
        viewer: Viewer | Remote = open_viewer(args.configuration, args.names)
        shown = None
    else:
        client = live.client_of(args.url, _server(args.configuration))
        viewer, shown = Remote(client), client.shown_url
    try:
        return live.run(viewer, args.names, args.interval, shown)
    finally:
        viewer.close()


def _server(configuration: str | None) -> Mapping[str, str]:
    """The credentials for --url, which needs no configuration unless one is named."""
    try:
        return configfile.ConfigFile(configfile.find(configuration)).read().server
    except SettingsError:
        if configuration is not None:
            raise
        return {}
