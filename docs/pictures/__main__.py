"""Make the pictures of the README again: python docs/pictures [--draw] [--to DIR] [NAME …]

Each is drawn from a record of a real run, which is made first; --draw uses the records that are there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "tests"))

import day
import demo
import flow
import sizes

HERE = Path(__file__).parent
PICTURES: dict[str, ModuleType] = {"demo": demo, "flow": flow, "sizes": sizes, "day": day}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python docs/pictures",
        description="Make the pictures of the README again, from real runs on this machine.",
        epilog="\n".join(_about(name) for name in PICTURES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--draw", action="store_true", help="draw only, from the records of the last runs")
    parser.add_argument("--to", type=Path, default=HERE.parent, metavar="DIR", help="default: docs")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these: {', '.join(PICTURES)}")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in PICTURES]
    if unknown:
        parser.error(f"no picture '{unknown[0]}'; there are: {', '.join(PICTURES)}")
    for name in args.names or PICTURES:
        picture, record = PICTURES[name], HERE / f"{name}.json"
        if not args.draw and picture.SECONDS:
            print(f"{name}: a run of about {picture.SECONDS} s", flush=True)
            record.write_text(json.dumps(picture.record(), ensure_ascii=False, separators=(",", ":")) + "\n")
        drawn = picture.draw(json.loads(record.read_text()) if picture.SECONDS else None)
        (args.to / f"{name}.svg").write_text(drawn)
        print(f"{name}: {args.to / f'{name}.svg'}, {len(drawn) / 1000:.0f} kB", flush=True)


def _about(name: str) -> str:
    picture = PICTURES[name]
    takes = f"about {picture.SECONDS} s" if picture.SECONDS else "no run"
    return f"  {name:6} {takes:12} needs {picture.NEEDS}"


if __name__ == "__main__":
    main()
