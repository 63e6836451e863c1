"""Sizes that keep the tree readable: lines, columns, parameters, nesting."""

from house import cpp

FILE_LINES = 800
HEADER_LINES = 250
FUNCTION_LINES = 70
PARAMETERS = 5
NESTING = 3
COLUMNS = 100
COMMENT_COLUMNS = 120  # of comments in headers
MEASURED = {".h", ".cc", ".py", ".ts", ".tsx", ".sh"}


def check(files):
    for file in files:
        if file.suffix in MEASURED or file.is_script:
            yield from lines(file)
            yield from columns(file)
        if file.is_cpp:
            yield from functions(file)


def lines(file):
    count = len(file.lines) - 1
    if count > FILE_LINES:
        yield file.finding(1, "size.file", f"{count} lines; at most {FILE_LINES}")
    elif file.is_header and count > HEADER_LINES:
        yield file.finding(1, "size.header", f"{count} lines; at most {HEADER_LINES} in a header")


def columns(file):
    for number, line in enumerate(file.lines, 1):
        if len(line) <= COLUMNS or "http://" in line or "https://" in line:
            continue
        most = COLUMNS
        if file.is_header and "//" in line and len(line[:line.index("//")].rstrip()) <= COLUMNS:
            most = COMMENT_COLUMNS
        if not file.is_cpp:
            most = COMMENT_COLUMNS
        if len(line) > most and 'R"' not in line:
            yield file.finding(number, "size.columns", f"{len(line)} columns; at most {most}")


def functions(file):
    where = cpp.Lines(file.code)
    for function in file.functions:
        if function.is_lambda or function.is_macro() and function.body < 0:
            continue
        first = where.of(function.begin)
        if len(function.parameters) > PARAMETERS and not function.is_macro():
            yield file.finding(first, "size.parameters", f"{function.name} takes "
                               f"{len(function.parameters)} parameters; at most {PARAMETERS}: "
                               "use a struct of options")
        if function.body < 0:
            continue
        count = where.of(function.end) - first + 1
        if count > FUNCTION_LINES:
            yield file.finding(first, "size.function",
                               f"{function.name} has {count} lines; at most {FUNCTION_LINES}")
        if function.depth > NESTING:
            yield file.finding(where.of(function.deepest), "size.nesting",
                               f"{function.name} nests {function.depth} deep; at most {NESTING}")
