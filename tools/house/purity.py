"""Which symbols a library that only decides may not refer to."""

import fnmatch
import subprocess


def read_table(text):
    """[(kind, pattern)] of lines KIND PATTERN; patterns are the shell's."""
    rows = (line.split(None, 1) for line in text.split("\n") if line.strip() and not line.startswith("#"))
    return [(kind, pattern.strip()) for kind, pattern in rows]


def undefined(library):
    """Names that the library's objects refer to and do not define themselves."""
    listed = subprocess.run(["nm", "-uC", library], check=True, capture_output=True, text=True, timeout=60).stdout
    return sorted({line.split(None, 1)[1].split("@")[0] for line in listed.split("\n")
                   if line.startswith(" ") and len(line.split(None, 1)) == 2})


def impure(symbols, banned):
    """[(kind, symbol)] of the symbols that a row forbids."""
    return [(kind, symbol) for symbol in symbols for kind, pattern in banned
            if fnmatch.fnmatchcase(symbol, pattern)]
