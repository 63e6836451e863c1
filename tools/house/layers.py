"""Who may include whom, by tools/layers.txt; that headers name what they use, and no two classes have one name."""

import re

TABLE = "tools/layers.txt"
FREE = re.compile(r"^src/\w+\.cc$|(_test|bench|main|_fuzz)\.cc$|(_test_\w+|_fixture|_contract)\.(cc|h)$")
PLAN = re.compile(r"^src/arch/\w+/(planner|types)\.(h|cc)$")
ALONE = {"runtime/cluster_view": "view", "agent/protocol": "protocol"}  # layers of their own
PLAN_MAY = {"base", "model", "view", "mechanism"}

NAMED = re.compile(r"^(?:(namespace) ([\w:]+)|(?:class|struct|enum class) (\w+)\b(?!::)[^;{]*) *\{", re.MULTILINE)

HIDDEN = ("boost/asio", "boost/beast")

# std names -> headers any of which brings them. The precompiled header hides a missing one from the compiler.
STANDARD = {
    r"std::string\b": ("string",), r"std::string_view\b": ("string_view", "string"),
    r"std::vector\b": ("vector",), r"std::map\b": ("map",), r"std::set\b": ("set",),
    r"std::optional\b": ("optional",), r"std::function\b": ("functional",),
    r"std::(unique_ptr|shared_ptr|weak_ptr|make_unique|make_shared)\b": ("memory",),
    r"std::variant\b": ("variant",), r"std::array\b": ("array",), r"std::deque\b": ("deque",),
    r"std::unordered_map\b": ("unordered_map",), r"std::unordered_set\b": ("unordered_set",),
    r"std::span\b": ("span",), r"std::chrono\b": ("chrono",), r"std::thread\b": ("thread",),
    r"std::exchange\b": ("utility", "map", "memory"),
    r"std::mutex\b": ("mutex",), r"std::atomic\b": ("atomic",), r"std::pair\b": (
        "utility", "map", "vector", "string", "functional", "memory"),
    r"std::u?int(8|16|32|64)_t\b": ("cstdint", "stdint.h", "string", "chrono"),
    r"BOOST_DESCRIBE_(STRUCT|ENUM)\b": ("boost/describe.hpp",), r"fmt::format\b": ("fmt/format.h",),
}


def check(files):
    listed = next((file for file in files if file.path == TABLE), None)
    if listed is None:
        return
    folders, foreign = read(listed)
    by_path = {file.path: file for file in files}
    for file in files:
        if not file.is_cpp or not file.path.startswith("src/"):
            continue
        if not FREE.search(file.path):
            yield from allowed(file, folders, foreign)
        yield from hides_asio(file, by_path)
        if file.is_header:
            yield from names_what_it_uses(file, by_path)
    yield from named_once(files)


def read(listed):
    folders, foreign = {}, {}
    for line in listed.lines:
        line = line.split("#")[0].strip()
        if "->" in line:
            prefix, may = line.split("->")
            foreign[prefix.strip().lstrip("<")] = set(may.split())
        elif ":" in line:
            folder, may = line.split(":")
            folders[folder.strip()] = set(may.split())
    return folders, foreign


def folder_of(path, folders):
    """The longest folder of the table that holds `path` (without src/)."""
    if path.rsplit(".", 1)[0] in ALONE:
        return ALONE[path.rsplit(".", 1)[0]]
    parts = path.split("/")[:-1]
    while parts and "/".join(parts) not in folders:
        parts.pop()
    return "/".join(parts)


def allowed(file, folders, foreign):
    here = folder_of(file.path.removeprefix("src/"), folders)
    if not here:
        yield file.finding(1, "layer.unknown", f"its folder stands not in {TABLE}")
        return
    may = PLAN_MAY if PLAN.match(file.path) else folders[here] | {here}
    may = may | {layer for path, layer in ALONE.items() if path.split("/")[0] in may}
    for line, name, quoted in file.includes:
        if quoted:
            there = folder_of(name, folders)
            same = file.path.removeprefix("src/").rsplit("/", 1)[0] == name.rsplit("/", 1)[0]
            if there not in may and not same and there != here:
                yield file.finding(line, "layer", f'"{name}": {here} may not include {there or "that"}')
            continue
        for prefix, places in foreign.items():
            if name.startswith(prefix) and here.split("/")[0] not in places and here not in places:
                yield file.finding(line, "layer.foreign", f"<{name}> belongs in {', '.join(sorted(places))}")


def reached(file, by_path, seen):
    """Names of all headers that `file` includes, through our own headers too."""
    found = set()
    for _, name, quoted in file.includes:
        found.add(name)
        own = by_path.get("src/" + name)
        if quoted and own is not None and own.path not in seen:
            seen.add(own.path)
            found |= reached(own, by_path, seen)
    return found


def named_once(files):
    """Two classes of one name are one to the linker, which takes the functions of either for both."""
    owners = {}
    for file in files:
        if not file.is_header or not file.path.startswith("src/"):
            continue
        space = ""
        for match in NAMED.finditer(file.code):
            if match[1]:
                space = match[2]
                continue
            name = f"{space}::{match[3]}"
            owner = owners.setdefault(name, file.path)
            if owner != file.path:
                yield file.finding(file.line_of(match.start()), "names.twice", f"{name} is a class of {owner} too")


def hides_asio(file, by_path):
    """Asio is compiled in src/edge alone; its headers cost every other file seconds."""
    if not file.path.startswith("src/edge/"):
        direct = {name for _, name, _ in file.includes}
        for name in sorted(reached(file, by_path, {file.path}) - direct):
            if name.startswith(HIDDEN):
                yield file.finding(1, "layer.asio", f"reaches <{name}> through a header of src/edge")


def names_what_it_uses(file, by_path):
    have = reached(file, by_path, {file.path})
    for pattern, headers in STANDARD.items():
        match = re.search(pattern, file.code)
        if match and not have.intersection(headers):
            yield file.finding(file.line_of(match.start()), "form.include",
                               f"uses {match.group(0)} and does not include <{headers[0]}>")
