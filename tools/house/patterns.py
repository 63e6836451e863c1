"""What must not stand in the tree. Each row: rule, pattern, where it applies, where it does not, what to do instead."""

import dataclasses
import re

SELF = ("tools/house/", "tools/house_test.py", "tools/tidy.allow")  # they name what they forbid
DECIDING = ("src/sim/", "src/arch/", "src/runtime/", "src/mechanism/", "src/server/", "src/agent/",
            "src/model/")


@dataclasses.dataclass(frozen=True)
class Banned:
    rule: str
    pattern: str
    instead: str
    under: tuple = ("src/", "tests/")
    but: tuple = ()
    names: str = r".*\.(h|cc)$"  # full path
    flags: int = 0


CODE = (  # looked for in code: comments and literals are blank there
    Banned("ban.random", r"\b(uniform_int_distribution|uniform_real_distribution|normal_distribution"
           r"|bernoulli_distribution|discrete_distribution|exponential_distribution|mt19937(_64)?"
           r"|default_random_engine|random_shuffle|std::(shuffle|sample|rand|srand)\b)",
           "take an Rng: std's distributions differ between compilers"),
    Banned("ban.random", r"\brandom_device\b", "take a seed, or random_secret() of edge/tls.h",
           but=("src/edge/",)),
    Banned("ban.clock", r"\b(system_clock|steady_clock|high_resolution_clock|clock_gettime|gettimeofday"
           r"|timespec_get|std::time\s*\()|(?<![\w.>:])time\s*\(\s*(NULL|nullptr|0|&)",
           "take the time from Loop::now()",
           but=("src/base/", "src/edge/", "src/guest/", "src/agent/leash_loop", "tests/"),
           names=r".*(?<!bench)(?<!main)\.(h|cc)$"),
    Banned("ban.sleep", r"\b(sleep_for|sleep_until|usleep|nanosleep)\s*\(|(?<![\w.>])sleep\s*\(",
           "wait for what you wait for, with a deadline on a Loop or a descriptor",
           but=("src/guest/",)),
    Banned("ban.using_namespace", r"^\s*using\s+namespace\b(?!\s+reflect\b)",
           "name what you use: a header's reader did not ask for it", names=r".*\.h$",
           flags=re.MULTILINE),
    Banned("ban.singleton", r"\bstatic\s+[\w:<>]+\s*[&*]\s*(get_)?(instance|singleton|shared|global)\s*\(",
           "pass it to the constructor"),
    Banned("ban.catch_all", r"\bcatch\s*\([^)]*\)\s*\{\s*\}", "an error is handled or handed on"),
    Banned("ban.skip", r"\bGTEST_SKIP\b|\bDISABLED_\w+", "a test runs or is not there"),
    Banned("ban.empty_test", r"\b(EXPECT|ASSERT)_TRUE\s*\(\s*true\s*\)|\bSUCCEED\s*\(",
           "a test that cannot fail proves nothing"),
    Banned("ban.detach", r"\.\s*detach\s*\(\s*\)", "own the thread and join it", but=("src/guest/",)),
    Banned("ban.system", r"(?<![\w.>:])(std::)?system\s*\(|\bpopen\s*\(",
           "start processes with edge/process.h: no shell between"),
    Banned("ban.unbounded", r"\b(strcpy|strcat|sprintf|gets)\s*\(", "use fmt or std::string"),
    Banned("ban.volatile_env", r"\b(getenv|setenv|putenv)\s*\(", "take settings as options",
           but=("src/edge/", "src/cli/", "src/lab/", "src/image/", "tests/"),
           names=r"(?!.*main\.cc$).*(?<!_test)\.(h|cc)$"),
)

TEXT = (  # looked for in whole lines
    Banned("ban.todo", r"\b(TODO|FIXME|XXX|HACK)\b", "do it, or say what is pending in SPECIFICATION.md",
           under=("",), names=r".*\.(h|cc|py|sh|txt|cmake|ts|tsx|yml|md|scn)$|.*/[^./]+$"),
    Banned("form.conflict", r"^(<{7}|>{7}|={7})(?= |$)", "a merge was committed unfinished", under=("",), names=r".*",
           flags=re.MULTILINE),
    Banned("ban.machine_path", r"(?<![\w.])/(work|home/\w+|Users/\w+)/", "a path of one machine: find it from "
           "the script's own place", under=("",), names=r".*"),
    Banned("form.temporary", r"\"/(tmp|var/tmp|dev/shm)/(?!virga)\w", "temporary names begin with virga, so that what "
           "is left behind is found", under=("src/", "tests/"), names=r".*\.(h|cc|py)$"),
    Banned("ban.kill_by_name", r"\b(pkill|killall)\b|\bfuser\s+-k", "end processes by pid or pidfd",
           under=("",), names=r"(?!.*\.md$).*"),
    Banned("ban.skip", r"\btest\.skip\b|\.only\(|unittest\.skip|@skip\b", "a test runs or is not there",
           under=("",), names=r".*\.(ts|tsx|py)$"),
)

_CODE_COMMENT = re.compile(
    r"^//\s*(?!/)(?:(?:return|if|for|while|auto|const|int|bool|std::\w+|delete|throw)\b.*[;{]"
    r"|[\w.\->:]+(?:\(.*\)|\[.*\])\s*[;{]|[\w.\->:\[\]]+\s*[-+*/|&]?=\s*[^=].*;|}|\}\s*else\s*\{"
    r"|#\s*include\b.*)\s*$")
_UNORDERED = re.compile(r"\bunordered_(?:multi)?(?:map|set)\s*<[^;{}()]*>\s*&?\s*(\w+)\s*[;={),]")


def check(files):
    by_path = {file.path: file for file in files}
    for file in files:
        if file.path.startswith(SELF):
            continue
        yield from rows(file, CODE, file.code)
        yield from rows(file, TEXT, file.text)
        if file.is_cpp:
            yield from commented_code(file)
            yield from coroutines(file)
            yield from own_header_first(file, by_path)
            yield from unordered(file, by_path)
            if file.is_header and "#pragma once" not in file.text:
                yield file.finding(1, "form.pragma", "a header begins with #pragma once")


def rows(file, table, text):
    for row in table:
        if (not file.path.startswith(row.under) or row.but and file.path.startswith(row.but)
                or not re.fullmatch(row.names, file.path)):
            continue
        for match in re.finditer(row.pattern, text, row.flags):
            found = match.group(0).strip().split("\n")[0]
            yield file.finding(file.line_of(match.start()), row.rule, f"'{found}': {row.instead}")


def commented_code(file):
    for line, comment in file.comments:
        if comment.startswith("//") and not comment.startswith("///") and _CODE_COMMENT.match(comment):
            yield file.finding(line, "form.commented_code", f"'{comment[:50]}': remove it; git remembers")


def coroutines(file):
    """g++ 12 miscompiles braces and lambdas inside a co_await expression; references dangle after the first one."""
    if not re.search(r"\bco_(await|return|yield)\b", file.code):
        return
    for match in re.finditer(r"\bco_await\b([^;]*);", file.code):
        if "{" in match.group(1) or re.search(r"(?:^|[(,=\s])\[[^\]]*\]\s*[({]", match.group(1)):
            yield file.finding(file.line_of(match.start()), "coroutine.brace",
                               "between co_await and ';' stands a '{' or a lambda: name it on the line above")
    bodies = [f for f in file.functions if f.body >= 0]
    for match in re.finditer(r"\bco_(await|return|yield)\b", file.code):
        around = [f for f in bodies if f.body < match.start() < f.end]
        if not around:
            continue
        inner = max(around, key=lambda f: f.body)
        for parameter in inner.parameters:
            if re.search(r"&(?!&)|\bstring_view\b|\bspan\s*<", parameter.replace("&&", "")):
                yield file.finding(file.line_of(inner.begin), "coroutine.reference",
                                   f"{inner.name}: '{parameter}': a coroutine takes values")


def own_header_first(file, by_path):
    if file.suffix != ".cc" or not file.path.startswith("src/"):
        return
    own = file.path[:-3].removesuffix("_test") + ".h"
    if own not in by_path or file.name.endswith("_test.cc"):
        return
    if not file.includes or file.includes[0][1] != own.removeprefix("src/"):
        yield file.finding(1, "form.own_header", f'includes "{own.removeprefix("src/")}" not first')


def unordered(file, by_path):
    """An unordered container's order must not reach an output; where things are decided nobody walks one."""
    if not file.path.startswith(DECIDING):
        return
    header = by_path.get(file.path.removesuffix(".cc") + ".h")
    declared = file.code + (header.code if header and header is not file else "")
    names = set(_UNORDERED.findall(declared))
    for name in sorted(names):
        walk = rf"\bfor\s*\([^;()]*:\s*(?:\w+(?:\.|->))*{name}\s*\)|\b{name}\.c?begin\s*\("
        for match in re.finditer(walk, file.code):
            yield file.finding(file.line_of(match.start()), "ban.unordered",
                               f"walks '{name}', whose order differs between machines: use a sorted container")
