"""Build the documentation site: `python docs/build.py [--output out/docs]`; open out/docs/html/index.html.

Needs the packages of the extra "docs" and no network.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
from pathlib import Path

from website import ROOT
from website.staging import stage

MARK = ".vitrim-site"  # in a folder that may be written over


def clear(output: Path) -> None:
    """Make room for the site; ValueError for a folder that holds something else."""
    if output.exists() and any(output.iterdir()) and not (output / MARK).exists():
        raise ValueError(f"{output} holds something else than this site: name a folder that is new or empty.")
    for part in ("source", "html"):
        shutil.rmtree(output / part, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    (output / MARK).touch()


def build(output: Path) -> None:
    """Write the pages and let Sphinx turn them into HTML; a warning, a broken link for one, is an error."""
    from sphinx.cmd.build import build_main

    clear(output)
    stage(output / "source")
    place = [str(output / "source"), str(output / "html")]
    if build_main(["-W", "--keep-going", "-q", "-b", "html", "-c", str(ROOT / "docs" / "website"), *place]):
        raise SystemExit("the site is not as it should be: see the warnings above.")


def main() -> None:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    options.add_argument("--output", type=Path, default=ROOT / "out" / "docs")
    output = options.parse_args().output.resolve()
    if importlib.util.find_spec("sphinx") is None:
        sys.exit('the site needs Sphinx, furo and myst-parser: pip install ".[docs]".')
    try:
        build(output)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"open {output / 'html' / 'index.html'}")


if __name__ == "__main__":
    main()
