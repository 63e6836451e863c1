"""Which tests name which ids: the text of docs/coverage.md and docs/coverage-issue.md."""

import re

MISSION = "docs/mission-ids.txt"
ISSUES = "docs/fault-ids.txt"

_ID = re.compile(r"(?<![A-Za-z0-9])(A(?:10|[1-9])[_-](?:F[1-9]\d?|\d\d)|[FR][_-][BF][1-9]\d?)(?![A-Za-z0-9])")
_GTEST = re.compile(r"^\s*(?:TEST|TEST_F|TEST_P|TYPED_TEST|TYPED_TEST_P|RC_GTEST_PROP|RC_GTEST_FIXTURE_PROP)"
                    r"\(\s*(\w+)\s*,\s*(\w+)", re.MULTILINE)
_UNITTEST = re.compile(r"^\s*def (test_\w+)\([^)]*\):(?:\s*\"\"\"([^:\"]*):)?", re.MULTILINE)
_PLAYWRIGHT = re.compile(r"^\s*test\(\s*['\"`](.*?)['\"`]\s*,", re.MULTILINE)


def ids_in(text):
    return [found.replace("_", "-") for found in re.findall(
        _ID, re.sub(r"_(?=A\d|[FR]_[BF]\d)", " ", text).replace(".", " "))]


def tests_of(file):
    """[(name shown, text that carries the ids)]"""
    if file.path.endswith("_fuzz.cc"):
        return [("fuzz target", " ".join(text for line, text in file.comments if line <= 10))]
    if file.path.endswith(("_test.cc", "_tests.h")) or file.path.startswith("tests/") and file.suffix == ".cc":
        return [(f"{suite}.{name}", f"{suite} {name}") for suite, name in _GTEST.findall(file.code)]
    if file.path.endswith("_test.py"):
        # Ids stand in the name, or at the head of its docstring: "A1-02 F-B3: what it shows".
        return [(name, f"{name.removeprefix('test_')} {ids}") for name, ids in _UNITTEST.findall(file.text)]
    if file.suffix == ".scn":
        head = file.text.split("\n----")[0]
        comments = " ".join(line for line in head.split("\n") if line.startswith("#"))
        return [("scenario", f"{file.name} {comments}")]
    if file.path.endswith(".spec.ts"):
        return [(name, name) for name in _PLAYWRIGHT.findall(file.text)]
    return []


def named(files, known):
    """{id: [test, ...]}. Raises ValueError for ids that no list has."""
    found, wrong = {}, []
    for file in files:
        for shown, carrying in tests_of(file):
            for identifier in dict.fromkeys(ids_in(carrying)):
                if identifier not in known:
                    wrong.append(f"{file.path} {shown}: {identifier} stands in no list of ids")
                found.setdefault(identifier, []).append(f"`{file.path}` {shown}")
    if wrong:
        raise ValueError("\n".join(wrong))
    return found


def read_list(text):
    """[(heading, [(id, text)])] of a list file: '# heading' lines, then 'ID text' lines; '##' lines are remarks."""
    groups = []
    for line in text.split("\n"):
        if line.startswith("##") or not line.strip():
            continue
        if line.startswith("#"):
            groups.append((line[1:].strip(), []))
        else:
            identifier, words = line.split(None, 1)
            groups[-1][1].append((identifier, words.strip()))
    return groups


def table(title, note, groups, found):
    total = sum(len(rows) for _, rows in groups)
    covered = sum(1 for _, rows in groups for identifier, _ in rows if identifier in found)
    out = [f"# {title}", "", note, "", f"{covered} of {total} ids are named by a test.", "",
           "| part | ids | named by a test |", "|---|---|---|"]
    out += [f"| {heading} | {len(rows)} | {sum(1 for i, _ in rows if i in found)} |" for heading, rows in groups]
    for heading, rows in groups:
        out += ["", f"## {heading}", "", "| id | what | tests |", "|---|---|---|"]
        out += [f"| {identifier} | {words} | {'<br>'.join(found.get(identifier, [])) or 'none yet'} |"
                for identifier, words in rows]
    return "\n".join(out) + "\n"
