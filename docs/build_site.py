#!/usr/bin/env python3
"""Builds the documentation as a site: build_site.py OUTPUT, then OUTPUT/html/index.html. Any warning is
an error. `cmake --build build/release --target docs` calls it."""

import importlib.util
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("sphinx", "myst_parser", "furo", "breathe")


def absent():
    missing = [f"the Python package {name}" for name in PACKAGES if not importlib.util.find_spec(name)]
    return missing + [f"the program {name}" for name in ("doxygen", "awk") if not shutil.which(name)]


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    if missing := absent():
        print(f"error: the site cannot be built without {', '.join(missing)}\n"
              f"       {sys.executable} runs this script\n"
              "       run job_scripts/setup.sh --tests, which installs them", file=sys.stderr)
        sys.exit(2)
    from sphinx.cmd.build import main as sphinx
    output = Path(sys.argv[1]).resolve()
    strict = ["--fail-on-warning", "--keep-going", "--nitpicky", "--quiet"]
    # A link target may be gone from a page that did not change, so every page is read each time.
    sys.exit(sphinx([*strict, "--fresh-env", "-c", str(ROOT / "docs"), "-d", str(output / "doctrees"),
                     str(ROOT), str(output / "html")]))


if __name__ == "__main__":
    main()
