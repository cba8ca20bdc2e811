"""The site is built without a warning, and what is wrong in the pages or headers is one."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import yaml

SOURCE = Path(os.environ["ARCHON_TEST_SOURCE_DIR"])


def build(source, output):
    done = subprocess.run([sys.executable, source / "docs" / "build_site.py", output],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


class Site(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="archon-site-")
        cls.addClassCleanup(folder.cleanup)
        cls.html = Path(folder.name) / "html"
        cls.built = build(SOURCE, folder.name)

    def page(self, name):
        return (self.html / f"{name}.html").read_text(encoding="utf-8")

    def test_it_is_built_without_a_word(self):
        self.assertEqual(self.built, (0, ""))

    def test_every_page_is_there(self):
        pages = [path.relative_to(SOURCE) for path in (SOURCE / "docs").rglob("*.md")]
        for page in (*pages, "CHANGELOG.md", "CONTRIBUTING.md"):
            self.assertTrue((self.html / page).with_suffix(".html").is_file(), page)

    def test_it_begins_with_the_index(self):
        self.assertIn("url=docs/index.html", self.page("index"))

    def test_the_index_lists_the_pages_in_the_order_of_the_side_bar(self):
        text = (SOURCE / "docs" / "index.md").read_text(encoding="utf-8")
        listed = re.findall(r"\]\(((?!https?:)[^)]+)\.md\)", text)
        hidden = " ".join(re.findall(r":hidden:\n\n(.*?)```", text, re.DOTALL)).split()
        self.assertEqual([page.removeprefix("../") for page in listed],
                         [page.removeprefix("/") for page in hidden])

    def test_layers_come_in_their_order(self):
        sources = (SOURCE / "src" / "CMakeLists.txt").read_text(encoding="utf-8")
        layers = re.search(r"foreach\(layer (.*?)\)", sources)[1].split()
        index = (SOURCE / "docs" / "api" / "index.md").read_text(encoding="utf-8")
        listed = re.search(r":maxdepth: 1\n\n(.*?)```", index, re.DOTALL)[1].split()
        self.assertEqual(listed, [*layers, "consumer"])

    def test_every_public_header_is_shown(self):
        for header in (SOURCE / "include" / "archon").rglob("*.h*"):
            layer = header.parent.name if header.parent.name != "archon" else "consumer"
            self.assertIn(f"<h2>{header.name}", self.page(f"docs/api/{layer}"))

    def test_comments_of_headers_are_shown(self):
        for layer, text in (("parallel", "outside attention each cp rank holds a contiguous slice"),
                            ("comm", "reduce_scatter                n-1 messages"),
                            ("consumer", "One whole tensor under its HuggingFace name"),
                            ("consumer", "archon_consumer_error tells why")):
            self.assertIn(text, re.sub(r"<[^>]*>", "", self.page(f"docs/api/{layer}")))


class Mistakes(unittest.TestCase):
    """A small site of the same settings, with a mistake in it."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="archon-site-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        docs, base = self.folder / "docs", "include/archon/base"
        (docs / "api").mkdir(parents=True)
        for name in ("build_site.py", "conf.py", "api_pages.py", "header_comments.awk", "Doxyfile"):
            shutil.copy(SOURCE / "docs" / name, docs)
        shutil.copytree(SOURCE / "docs" / "_static", docs / "_static")
        shutil.copytree(SOURCE / base, self.folder / base)
        shutil.copy(SOURCE / "CMakeLists.txt", self.folder)
        (docs / "index.md").write_text("# Small\n\n[a page](page.md#here)\n\n```{toctree}\npage\napi/base\n```\n")
        (docs / "page.md").write_text("# Page\n\n## Here\n")
        (docs / "api" / "base.md").write_text("# base\n")

    def build(self):
        return build(self.folder, self.folder / "out")

    def change(self, file, old, new):
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        self.assertIn(old, text)
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    def test_without_one_it_is_built(self):
        self.assertEqual(self.build(), (0, ""))

    def expect(self, *words):
        code, told = self.build()
        self.assertNotEqual(code, 0, told)
        for word in words:
            self.assertIn(word, told)

    def test_a_link_to_no_page(self):
        self.change("docs/index.md", "page.md#here", "absent.md")
        self.expect("index.md:3", "absent.md")

    def test_a_link_to_no_heading(self):
        self.change("docs/page.md", "## Here", "## There")
        self.expect("index.md:3", "here")

    def test_a_page_that_nothing_leads_to(self):
        (self.folder / "docs" / "alone.md").write_text("# Alone\n")
        self.expect("alone.md", "toctree")

    def declare(self, text):
        self.change("include/archon/base/threads.hpp", "}  // namespace archon", f"{text}\n}}  // namespace archon")

    def test_a_comment_on_a_parameter_that_is_not_there(self):
        self.declare("/// @param absent is not there\nvoid something(int present);\n")
        self.expect("threads.hpp", "absent")

    def test_a_type_that_is_not_declared(self):
        self.declare("void something(Undeclared);\n")
        self.expect("Undeclared")

    def test_absent_tools_are_named(self):
        done = subprocess.run([sys.executable, self.folder / "docs" / "build_site.py", self.folder / "out"],
                              env={"PATH": ""}, capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("the program doxygen", done.stderr)
        self.assertIn("job_scripts/setup.sh --tests", done.stderr)


class Citation(unittest.TestCase):
    """CITATION.cff after the schema 1.2.0, as far as it uses it."""

    def test_it_can_be_read_and_tells_the_version(self):
        text = (SOURCE / "CITATION.cff").read_text(encoding="utf-8")
        citation = yaml.safe_load(text)
        self.assertEqual(citation["cff-version"], "1.2.0")
        self.assertEqual(citation["type"], "software")
        self.assertEqual(citation["title"], "Archon")
        self.assertTrue(citation["message"])
        for author in citation["authors"]:
            self.assertEqual(list(author), ["name"])
        known = {"cff-version", "title", "message", "type", "authors", "version", "license", "abstract",
                 "keywords"}
        self.assertLessEqual(set(citation), known)
        project = (SOURCE / "CMakeLists.txt").read_text(encoding="utf-8")
        version = re.search(r"project\(Archon VERSION ([\d.]+)", project)[1]
        self.assertEqual(citation["version"], version)
        self.assertIn("Apache License", (SOURCE / "LICENSE").read_text(encoding="utf-8"))
        self.assertEqual(citation["license"], "Apache-2.0")
        page = (SOURCE / "docs" / "licence.md").read_text(encoding="utf-8")
        self.assertIn(f"version = {{{version}}}", page)


if __name__ == "__main__":
    unittest.main()
