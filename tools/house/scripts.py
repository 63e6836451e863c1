"""Scripts start, stop at the first error and are whole; rooms are complete; labels of tests are known."""

import re
import subprocess

ROOM = ("README.md", "types.h", "planner.h", "planner.cc", "planner_test.cc", "controller.h", "controller.cc",
        "controller_test.cc", "bench.cc")
LABELS = {"unit", "real", "tidy", "scenario", "soak"}


def check(files):
    have = {file.path for file in files}
    for file in files:
        in_place = file.path.startswith(("scripts/", "tools/", ".ci/"))
        if file.is_script and not file.executable:
            yield file.finding(1, "script.mode", "has #! and no run bit")
        if in_place and file.executable and not file.is_script:
            yield file.finding(1, "script.mode", "has a run bit and no #!")
        if file.is_script and re.match(r"#!.*\bbash\b", file.lines[0]):
            yield from bash(file)
        if file.name == "CMakeLists.txt":
            yield from labels(file)
    for room in sorted({m.group(1) for m in (re.match(r"(src/arch/\w+)/\w+\.cc$", p) for p in have) if m}):
        for name in ROOM:
            if f"{room}/{name}" not in have:
                yield next(f for f in files if f.path.startswith(room)).finding(
                    1, "room.shape", f"{room} has no {name}: every room holds the same files")


def bash(file):
    if "set -euo pipefail" not in file.text:
        yield file.finding(1, "script.strict", "lacks 'set -euo pipefail'")
    checked = subprocess.run(["bash", "-n"], input=file.text, capture_output=True, text=True, timeout=20)
    if checked.returncode != 0:
        yield file.finding(1, "script.syntax", checked.stderr.strip().split("\n")[0])


def labels(file):
    for match in re.finditer(r"\bLABELS?\s+\"?(\w+)\"?", file.text):
        if match.group(1) not in LABELS and match.group(1) != "ARG_LABEL":
            yield file.finding(file.line_of(match.start()), "test.label",
                               f"{match.group(1)}: labels are {', '.join(sorted(LABELS))}")
