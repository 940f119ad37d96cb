"""The documentation site: the documents as they stand, and pages made from the package itself.

`python docs/build.py`, or `make docs`, writes it. `staging.py` lays the pages out as Sphinx reads them, and `conf.py`
says how they look.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
