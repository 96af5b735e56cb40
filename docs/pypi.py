"""Makes README.md and setup.cfg as PyPI needs them: python docs/pypi.py URL VERSION EMAIL

URL is that of the repository, as https://github.com/OWNER/NAME; VERSION a tag of it; EMAIL the authors'. On PyPI
relative links lead nowhere, and a package names its pages and whom to write to. A checkout does not know them, so it is
for one from which a release is built: the two files are written anew. A second run changes nothing.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README, SETUP = ROOT / "README.md", ROOT / "setup.cfg"
# A picture or a link whose target is a file of the repository: neither a URL nor a heading of the page itself.
_LINK = re.compile(r"(!?)(\[[^\]]*\])\((?![a-z]+:|#)([^)\s]+)\)")
_NOT_YET = " It is not on PyPI yet."


def absolute(text: str, url: str, version: str) -> str:
    """With each link to the file at that version; a picture's to the file as it is, not to the page that shows it."""
    return _LINK.sub(
        lambda found: f"{found[1]}{found[2]}({url}/{'raw' if found[1] else 'blob'}/{version}/{found[3]})",
        text.replace(_NOT_YET, ""),
    )


def with_addresses(setup: str, url: str, version: str, email: str) -> str:
    """setup.cfg with the pages of the project, and the authors' address."""
    if "\nauthor_email" in setup:
        return setup
    addresses = (
        f"author_email = {email}\n"
        "project_urls =\n"
        f"    Source = {url}\n"
        f"    Documentation = {url}/blob/{version}/docs/index.md\n"
        f"    Changelog = {url}/blob/{version}/CHANGES.md\n"
        f"    Issues = {url}/issues\n"
    )
    return setup.replace("license_expression", f"{addresses}license_expression", 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("version")
    parser.add_argument("email")
    args = parser.parse_args()
    url = args.url.rstrip("/")
    if not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", args.email):
        parser.error(f"not an address of mail: {args.email!r}")
    README.write_text(absolute(README.read_text(), url, args.version))
    SETUP.write_text(with_addresses(SETUP.read_text(), url, args.version, args.email))


if __name__ == "__main__":
    main()
