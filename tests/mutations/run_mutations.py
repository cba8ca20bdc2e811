#!/usr/bin/env python3
"""Puts one mistake at a time into a copy of Archon and checks that a test notices it.

    tests/mutations/run_mutations.py [--only TEXT] [--list]

    --only TEXT   only mutations whose name holds TEXT; docs/mutations.md stays as it is
    --list        print their names and end

The copy lies in build/mutations; LibTorch comes from LIBTORCH_ROOT, as for every build. Each
mutation of mutations.py is applied, built, tested by the CTest names given with it, and taken
back. First the same tests must pass without any. The table goes to stdout and, when all
mutations ran, to docs/mutations.md.
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
    return run(["ninja", "-C", BUILD, *programs, "archon_program", "qwen2", "qwen3"], log) == 0


def failed_tests(tests: set, log: Path) -> set:
    """Runs the tests, one at a time and with what they need; returns those that fail."""
    regex = "^(" + "|".join(re.escape(name) for name in sorted(tests)) + ")$"
    junit = WORK / "tests.xml"
    junit.unlink(missing_ok=True)
    code = run(["ctest", "--test-dir", BUILD, "-R", regex, "--no-tests=error", "--timeout", "150",
                "--output-on-failure", "--output-junit", junit], log)
    text = junit.read_text() if junit.is_file() else ""
    ran = re.findall(r'<testcase name="([^"]+)"[^>]*status="(\w+)"', text)
    if not tests <= {name for name, _ in ran}:
        sys.exit(f"not all of {sorted(tests)} ran; see {log}")
    failed = {name for name, status in ran if status != "run"}
    # A fixture that fails keeps its tests from running: that counts as noticed by the fixture.
    if code != 0 and not failed:
        sys.exit(f"ctest failed without a failed test; see {log}")
    return failed


def check_table(mutations: list) -> None:
    for mutation in mutations:
        count = (ROOT / mutation.file).read_text().count(mutation.old)
        if count != 1:
            print(f"{mutation.name}: its text occurs {count} times in {mutation.file}; bring "
                  "mutations.py up to date", file=sys.stderr)
            sys.exit(2)


def try_mutation(mutation: Mutation, log: Path) -> tuple:
    """Returns (result, seconds)."""
    path = SOURCE / mutation.file
    original = path.read_text()
    start = time.monotonic()
    path.write_text(original.replace(mutation.old, mutation.new))
    try:
        if not build(set(mutation.tests), log):
            return "DOES NOT BUILD", time.monotonic() - start
        failed = failed_tests(set(mutation.tests), log)
    finally:
        path.write_text(original)
    missed = [name for name in mutation.tests if name not in failed]
    if not failed:
        result = "SURVIVED"
    elif missed:
        result = "noticed by " + ", ".join(sorted(failed))
    else:
        result = "noticed by all"
    return result, time.monotonic() - start


def markdown(rows: list) -> str:
    lines = ["| mutation | file | tests | result | seconds |", "|---|---|---|---|---|"]
    for mutation, result, seconds in rows:
        lines.append(f"| {mutation.name} | `{mutation.file}` | {', '.join(mutation.tests)} "
                     f"| {result} | {seconds:.0f} |")
    return "\n".join(lines) + "\n"


HEAD = """# Mistakes that the tests notice

`tests/mutations/run_mutations.py` wrote this page: it put each mistake into a copy of the sources,
built it, and ran the tests named here (`NAME.RANKS` in CTest). Without a mistake they all pass.
Seconds are for building and testing together. The mistakes themselves are in
`tests/mutations/mutations.py`.

"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    chosen = [m for m in MUTATIONS if arguments.only in m.name]
    if arguments.list or not chosen:
        print("\n".join(m.name for m in chosen) or f'no mutation holds "{arguments.only}"')
        return 0 if chosen else 2
    check_table(chosen)

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
    if failed := failed_tests(tests, log):
        sys.exit(f"fail without any mutation: {', '.join(sorted(failed))}; see {log}")

    rows = []
    for number, mutation in enumerate(chosen, 1):
        with log.open("a") as out:
            out.write(f"\n==== {mutation.name}\n")
        result, seconds = try_mutation(mutation, log)
        rows.append((mutation, result, seconds))
        print(f"[{number}/{len(chosen)}] {mutation.name}: {result} ({seconds:.0f} s)",
              file=sys.stderr, flush=True)
    table = markdown(rows)
    print(table)
    if len(chosen) == len(MUTATIONS):
        (ROOT / "docs" / "mutations.md").write_text(HEAD + table)
    return 0 if all(result.startswith("noticed") for _, result, _ in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
