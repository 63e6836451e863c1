"""The files of the tree, each read once, and the findings of the rules."""

import dataclasses
import functools
import os
import pathlib
import subprocess

from house import cpp

BINARY = {".png", ".gz", ".ico", ".woff2", ".db", ".bin", ".qcow2", ".xz"}


@dataclasses.dataclass(frozen=True, order=True)
class Finding:
    path: str
    line: int
    rule: str
    what: str

    def text(self):
        return f"{self.path}:{self.line}: {self.rule}: {self.what}"


class File:
    """One text file; `path` is relative to the top, with slashes."""

    def __init__(self, root, path, text, executable=False):
        self.root, self.path, self.text, self.executable = root, path, text, executable

    @property
    def suffix(self):
        return pathlib.PurePosixPath(self.path).suffix

    @property
    def name(self):
        return pathlib.PurePosixPath(self.path).name

    @property
    def is_cpp(self):
        return self.suffix in (".h", ".cc")

    @property
    def is_header(self):
        return self.suffix == ".h"

    @property
    def is_test(self):
        return self.name.endswith("_test.cc") or self.path.startswith("tests/")

    @property
    def is_script(self):
        return self.text.startswith("#!")

    @functools.cached_property
    def lines(self):
        return self.text.split("\n")

    @functools.cached_property
    def blanked(self):
        return cpp.blank(self.text) if self.is_cpp else (self.text, [])

    @functools.cached_property
    def code(self):
        """The text with comments and the insides of literals blanked; same length, same lines."""
        return self.blanked[0]

    @functools.cached_property
    def comments(self):
        """[(line, text)] of a C++ file."""
        return self.blanked[1]

    @functools.cached_property
    def functions(self):
        return cpp.functions(self.code) if self.is_cpp else []

    @functools.cached_property
    def includes(self):
        """[(line, name, quoted)]"""
        return cpp.includes(self.text) if self.is_cpp else []

    def line_of(self, offset):
        return self.text.count("\n", 0, offset) + 1

    def finding(self, line, rule, what):
        return Finding(self.path, line, rule, what)


def names(root):
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root,
                            check=True, capture_output=True, text=True, timeout=60).stdout
    return sorted(name for name in set(listed.split("\0")) if name)


def read(root):
    files = []
    for name in names(root):
        path = root / name
        if path.suffix in BINARY or path.is_symlink() or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        files.append(File(root, name, text, os.access(path, os.X_OK)))
    return files
