"""A Sphinx extension: pages of docs/api end with what the public headers of their layer say.

Doxygen reads the headers, Breathe shows what it found."""

import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "docs/api/"
SHOWN = ("detaileddescription briefdescription innerclass define enum typedef var func public-type "
         "public-func public-static-func public-attrib public-static-attrib")


def read_headers(app, config):
    output = Path(app.doctreedir) / "doxygen"
    shutil.rmtree(output, ignore_errors=True)  # headers may be gone since
    output.mkdir(parents=True)
    settings = (ROOT / "docs/Doxyfile").read_text(encoding="utf-8")
    subprocess.run(["doxygen", "-"], input=f"{settings}\nOUTPUT_DIRECTORY = {output}\n",
                   text=True, check=True, cwd=ROOT)
    files_hold_their_members(output / "xml")
    config.breathe_projects = {"archon": str(output / "xml")}


def files_hold_their_members(folder):
    """Doxygen puts functions of a namespace under the namespace, and lists files without their
    folders. Breathe would repeat the namespace for each header, and confuse headers of one name."""
    members = {}  # by header and kind
    for file in folder.glob("namespace*.xml"):
        compound = ElementTree.parse(file).getroot().find("compounddef")
        for section in compound.findall("sectiondef"):
            for member in section.findall("memberdef"):
                name = member.find("name")
                name.text = f"{compound.find('compoundname').text}::{name.text}"
                path = member.find("location").get("file")
                members.setdefault(path, {}).setdefault(section.get("kind"), []).append(member)
    index = ElementTree.parse(folder / "index.xml")
    for entry in index.findall("compound[@kind='file']"):
        path = folder / f"{entry.get('refid')}.xml"
        tree = ElementTree.parse(path)
        compound = tree.getroot().find("compounddef")
        entry.find("name").text = header = compound.find("location").get("file")
        for namespace in compound.findall("innernamespace"):
            compound.remove(namespace)
        place = list(compound).index(compound.find("briefdescription"))
        for kind, its_members in members.get(header, {}).items():
            section = ElementTree.Element("sectiondef", kind=kind)
            section.extend(its_members)
            compound.insert(place, section)
            place += 1
        remove_names_of_structs(compound)
        tree.write(path, encoding="utf-8")
    index.write(folder / "index.xml", encoding="utf-8")


def remove_names_of_structs(compound):
    """`typedef struct x {...} x` of C declares the same twice."""
    types = {inner.text for inner in compound.findall("innerclass")}
    types |= {member.findtext("name") for member in compound.iterfind("sectiondef/memberdef[@kind='enum']")}
    for section in compound.findall("sectiondef"):
        for member in section.findall("memberdef[@kind='typedef']"):
            if member.findtext("name") in types:
                section.remove(member)


def headers(name):
    folder = ROOT / "include/archon"
    return sorted((folder / name).glob("*.h*")) or [folder / f"archon_{name}.h"]


def show_headers(app, page, source):
    if not page.startswith(FOLDER) or page == f"{FOLDER}index":
        return
    for header in headers(page.removeprefix(FOLDER)):
        path = header.relative_to(ROOT / "include")
        source[0] += f"\n## {header.name}\n\n```{{doxygenfile}} {path}\n:sections: {SHOWN}\n```\n"


def setup(app):
    app.connect("config-inited", read_headers)
    app.connect("source-read", show_headers)
