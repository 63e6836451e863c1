"""Documents speak only of what is there: files, scripts and names.

What is promised and not there yet is marked: `src/x.h` (pending). Once it is there the mark is a finding.
"""

import pathlib
import re

TOPS = ("src/", "tools/", "scripts/", "docs/", "tests/", "scenarios/", "portal/", "cmake/", ".ci/")
NAMED = ("ARCHITECTURE.md", "docs/life-of-a-vm.md")  # their code words must exist in src/
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_WORD = re.compile(r"(?:\w+::)*~?\w+(?:\(\))?")
_PENDING = re.compile(r"[\s#]*\(pending\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def check(files):
    have = {file.path for file in files}
    root = files[0].root if files else pathlib.Path(".")
    words = None
    for file in files:
        if file.suffix != ".md":
            continue
        text = _FENCE.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), file.text)
        yield from paths(file, text, have, root)
        yield from commands(file, have)
        if file.path in NAMED:
            if words is None:
                words = set(re.findall(r"\w+", "\n".join(
                    f.text for f in files if f.path.startswith(("src/", "tests/", "cmake/")))))
            yield from names(file, text, words)


def exists(path, have, root):
    path = path.rstrip("/.,:;")
    return path in have or (root / path).exists() or any(name.startswith(path + "/") for name in have)


def verdict(file, text, match, word, rule, there):
    pending = _PENDING.match(text, match.end()) is not None
    if not there and not pending:
        yield file.finding(file.line_of(match.start()), rule, f"`{word}` is not there")
    elif there and pending:
        yield file.finding(file.line_of(match.start()), "docs.pending", f"`{word}` is there: remove (pending)")


def paths(file, text, have, root):
    folder = pathlib.PurePosixPath(file.path).parent
    for match in _CODE.finditer(text):
        word = match.group(1).split()[0].split(":")[0].removeprefix("./")
        if not word.startswith(TOPS) or re.search(r"[<>*{}$…]|\.\.\.|NN", match.group(1).split()[0]):
            continue
        yield from verdict(file, text, match, word, "docs.path", exists(word, have, root))
    for match in _LINK.finditer(text):
        target = match.group(1)
        if re.match(r"^[a-z]+:", target):
            continue
        if not (root / folder / target).exists():
            yield file.finding(file.line_of(match.start()), "docs.link", f"({target}) is not there")


def commands(file, have):
    """Lines of shell blocks that start a script of ours."""
    for match in re.finditer(r"^\s*(?:\$ )?(?:\./)?((?:scripts|tools|\.ci)/[\w./-]+)", file.text,
                             re.MULTILINE):
        yield from verdict(file, file.text, match, match.group(1), "docs.command",
                           match.group(1) in have or match.group(1).endswith("/"))


def names(file, text, words):
    """Type::member, function() and PascalCase words between backticks."""
    for match in _CODE.finditer(text):
        code = match.group(1)
        if not _WORD.fullmatch(code):
            continue
        is_name = "::" in code or code.endswith("()") or re.fullmatch(r"([A-Z][a-z0-9]+){2,}", code)
        there = all(part in words for part in re.findall(r"\w+", code) if part != "std")
        if is_name:
            yield from verdict(file, text, match, code, "docs.name", there)
