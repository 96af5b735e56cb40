"""Makes README.md as PyPI shows it, where relative links lead nowhere: python docs/pypi.py URL VERSION

URL is that of the repository, as https://github.com/OWNER/NAME; VERSION a tag of it. Writes README.md itself: for a
checkout from which a release is built. A second run changes nothing.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
# A picture or a link whose target is a file of the repository: neither a URL nor a heading of the page itself.
_LINK = re.compile(r"(!?)(\[[^\]]*\])\((?![a-z]+:|#)([^)\s]+)\)")


def absolute(text: str, url: str, version: str) -> str:
    """With each link to the file at that version; a picture's to the file as it is, not to the page that shows it."""
    return _LINK.sub(
        lambda found: f"{found[1]}{found[2]}({url}/{'raw' if found[1] else 'blob'}/{version}/{found[3]})", text
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("version")
    args = parser.parse_args()
    README.write_text(absolute(README.read_text(), args.url.rstrip("/"), args.version))


if __name__ == "__main__":
    main()
