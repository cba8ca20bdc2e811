"""Settings of the site, which docs/build_site.py builds. Its source is the whole repository, so that
links between the Markdown files are the same here and on a Git host."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

project = "Archon"
author = "The Archon developers"
copyright = author
cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
version = release = re.search(r"project\(Archon VERSION ([\d.]+)", cmake)[1]

extensions = ["myst_parser", "breathe", "api_pages"]
include_patterns = ["docs/**", "CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = [".*", "build", "out", "docs/_static"]
root_doc = "docs/index"
myst_heading_anchors = 4
highlight_language = "none"
smartquotes = False  # they would turn the dashes of options into one
toc_object_entries_show_parents = "hide"
breathe_default_project = "archon"
breathe_show_include = False
# What other libraries declare, namespaces, macros, and types that a class keeps to itself.
nitpick_ignore_regex = [("cpp:identifier", name) for name in (
    r"(std|at|fmt|nlohmann)(::.*)?", r"size_t|u?int\d+_t", r"hid_t|H5\w+|MPI_\w+|SIGTERM",
    r"archon|h5", r"ARCHON_[A-Z_]+", r"State|Kind")]

html_theme = "furo"
html_title = f"Archon {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False


def begin_at_the_top(app, error):
    """The first page lies in docs/; the folder's own index.html leads there."""
    if error is None and app.builder.name == "html":
        page = f"{root_doc}.html"
        Path(app.outdir, "index.html").write_text(
            f'<meta charset="utf-8"><meta http-equiv="refresh" content="0; url={page}">'
            f'<a href="{page}">{project}</a>\n', encoding="utf-8")


def setup(app):
    app.connect("build-finished", begin_at_the_top)
