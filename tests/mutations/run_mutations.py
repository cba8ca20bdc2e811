#!/usr/bin/env python3
"""Puts one mistake at a time into a copy of Archon and checks that a test notices it.

    tests/mutations/run_mutations.py [--only TEXT] [--all] [--list]

    --only TEXT   only mutations whose name holds TEXT
    --all         run every test named with a mutation, not only until one notices it
    --list        print their names and end; their texts must be in the sources, too

The copy lies in build/mutations; LibTorch comes from LIBTORCH_ROOT, as for every build. Each
mutation of mutations.py is applied, built, tested by the CTest names given with it, and taken
back. First the same tests must pass without any. The results replace those of the same
mutations in docs/mutations.md.
Exit code: 0 every mistake was noticed, 1 some was not, 2 wrong usage or a table that is out of date.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "mutations"
SOURCE = WORK / "source"
# Laid out like an ordinary build, so that ccache knows the objects.
BUILD = SOURCE / "build" / "release"


def run(command: list, log: Path) -> int:
    with log.open("a") as out:
        return subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, cwd=SOURCE).returncode


def copy_tree() -> None:
    """Copies what git knows, but leaves equal files alone, so that little is built anew."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True, capture_output=True).stdout.decode()
    wanted = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    for name in wanted:
        data, target = (ROOT / name).read_bytes(), SOURCE / name
        if not target.is_file() or target.read_bytes() != data:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            target.chmod((ROOT / name).stat().st_mode)
    for path in SOURCE.rglob("*"):
        name = path.relative_to(SOURCE)
        if path.is_file() and str(name) not in wanted and name.parts[0] != "build":
            path.unlink()


def configure(log: Path) -> None:
    # Test programs link a shared libarchon whose interface no mutation changes.
    code = run(["cmake", "--preset", "release", "-DARCHON_BENCHMARKS=OFF",
                "-DCMAKE_LINK_DEPENDS_NO_SHARED=ON"], log)
    if code != 0:
        sys.exit(f"cannot configure {BUILD}; see {log}")


def build(tests: set, log: Path) -> bool:
    programs = sorted({"test_" + name.rsplit(".", 1)[0] for name in tests})
    return run(["ninja", "-C", BUILD, *programs, "qwen2", "qwen3"], log) == 0


def passes(test: str, log: Path) -> bool:
    """Runs one test with what it needs; a fixture that fails counts as the test's failure."""
    return run(["ctest", "--test-dir", BUILD, "-R", f"^{re.escape(test)}$", "--no-tests=error",
                "--timeout", "150", "--output-on-failure"], log) == 0


def check_table(mutations: list) -> None:
    for mutation in mutations:
        count = (ROOT / mutation.file).read_text().count(mutation.old)
        if count != 1:
            print(f"{mutation.name}: its text occurs {count} times in {mutation.file}; bring "
                  "mutations.py up to date", file=sys.stderr)
            sys.exit(2)


def try_mutation(mutation: Mutation, run_all: bool, log: Path) -> str:
    path = SOURCE / mutation.file
    original = path.read_text()
    path.write_text(original.replace(mutation.old, mutation.new))
    try:
        if not build(set(mutation.tests), log):
            return "DOES NOT BUILD"
        noticed, silent = [], []
        for test in mutation.tests:
            (silent if passes(test, log) else noticed).append(test)
            if noticed and not run_all:
                break
    finally:
        path.write_text(original)
    if not noticed:
        return "SURVIVED " + ", ".join(silent)
    return ", ".join(noticed) + (f" (not {', '.join(silent)})" if silent else "")


HEAD = """# Mistakes that the tests notice

`tests/mutations/run_mutations.py` wrote this page: it put each mistake into a copy of the sources,
built it, and ran the tests that should notice it (`NAME.RANKS` in CTest) until one failed, or all
of them (`--all`). Without a mistake they all pass. Seconds are for building and testing together.
The mistakes themselves are in `tests/mutations/mutations.py`.

"""


def write_table(rows: dict) -> None:
    """Puts the new rows in place of the old, in the order of the table of mutations."""
    page = ROOT / "docs" / "mutations.md"
    old = page.read_text().splitlines() if page.is_file() else []
    known = {line.split(" | ")[0][2:]: line for line in old if line.startswith("| ")} | rows
    lines = ["| mistake | file | failing test | seconds |", "|---|---|---|---|"]
    lines += [known[m.name] for m in MUTATIONS if m.name in known]
    page.write_text(HEAD + "\n".join(lines) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    chosen = [m for m in MUTATIONS if arguments.only in m.name]
    if not chosen:
        print(f'no mutation holds "{arguments.only}"', file=sys.stderr)
        return 2
    check_table(chosen)
    if arguments.list:
        print("\n".join(m.name for m in chosen))
        return 0

    SOURCE.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT", "1")
    os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
    log = WORK / "log.txt"
    log.write_text("")
    copy_tree()
    configure(log)
    tests = {name for mutation in chosen for name in mutation.tests}
    print(f"the sources as they are: {len(tests)} tests", file=sys.stderr, flush=True)
    if not build(tests, log):
        sys.exit(f"the sources as they are do not build; see {log}")
    if failed := [test for test in sorted(tests) if not passes(test, log)]:
        sys.exit(f"fail without any mutation: {', '.join(failed)}; see {log}")

    rows, missed = {}, 0
    for number, mutation in enumerate(chosen, 1):
        with log.open("a") as out:
            out.write(f"\n==== {mutation.name}\n")
        start = time.monotonic()
        result = try_mutation(mutation, arguments.all, log)
        seconds = time.monotonic() - start
        missed += result.startswith(("SURVIVED", "DOES NOT BUILD"))
        rows[mutation.name] = f"| {mutation.name} | `{mutation.file}` | {result} | {seconds:.0f} |"
        print(f"[{number}/{len(chosen)}] {mutation.name}: {result} ({seconds:.0f} s)", flush=True)
    write_table(rows)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
