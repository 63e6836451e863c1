"""Just enough of C++ to measure it: literals and comments blanked, functions with their parameters and nesting."""

import bisect
import dataclasses
import re

_TOKEN = re.compile(
    r'//(?:[^\n\\]|\\.|\\\n)*'
    r'|/\*.*?\*/'
    r'|(?:u8|[uUL])?R"(?P<tag>[^()\\\s]{0,16})\(.*?\)(?P=tag)"'
    r'|"(?:[^"\\\n]|\\.|\\\n)*"'
    r"|(?<![0-9A-Za-z_])(?:u8|[uUL])?'(?:[^'\\\n]|\\.)+'",
    re.DOTALL)
_NOT_NEWLINE = re.compile(r"[^\n]")
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:"([^"]+)"|<([^>]+)>)', re.MULTILINE)
_DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n\\]|\\.|\\\n)*", re.MULTILINE | re.DOTALL)
_MACRO = re.compile(r"^[ \t]*[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+(?=\()", re.MULTILINE)
_CONTROL = re.compile(r"^(?:if|for|while|switch|do|else|try|catch)\b")
_LABEL = re.compile(r"^(?:(?:case\b[^;{}?]*?|default|public|private|protected)\s*:(?!:)\s*)+")
_LAMBDA_TAIL = re.compile(r"\]\s*(?:<[^{}]*>\s*)?(?:\(.*\))?\s*(?:mutable|noexcept|constexpr|\s)*"
                          r"(?:->[^{}=]*)?$", re.DOTALL)
_TYPE = re.compile(r"^(?:template\s*<.*>\s*|typedef\s+|\[\[.*?\]\]\s*|requires\b.*\s|static\s+|const\s+)*"
                   r"(class|struct|union|enum)\b", re.DOTALL)
_NAME_BEFORE_PAREN = re.compile(r"(operator\s*(?:\(\s*\)|[^\s\w(]{1,3}|[\w:<>]+)|~?[A-Za-z_]\w*)\s*$")
_NOT_A_NAME = {"if", "for", "while", "switch", "catch", "return", "sizeof", "decltype", "noexcept",
               "requires", "alignas", "static_assert", "explicit", "__attribute__", "co_await"}


@dataclasses.dataclass
class Function:
    name: str
    parameters: list  # texts
    begin: int  # offset of the head
    body: int  # offset of its '{'; -1 = a declaration
    end: int  # offset of its '}'
    depth: int  # deepest nesting of control blocks and lambdas
    deepest: int  # offset of the deepest block
    is_lambda: bool = False

    def is_macro(self):
        return self.name.isupper() or re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+|RC_GTEST_\w+", self.name)


def blank(text):
    """(text with comments and literal contents as spaces, [(line, comment)])."""
    comments = []

    def replaced(match):
        token = match.group(0)
        if token.startswith("/"):
            comments.append((text.count("\n", 0, match.start()) + 1, token))
            return _NOT_NEWLINE.sub(" ", token)
        quote = '"' if '"' in token else "'"
        first = token.index(quote)
        inner = _NOT_NEWLINE.sub(" ", token[first + 1:-1])
        return token[:first].replace("R", " ") + quote + inner + quote

    return _TOKEN.sub(replaced, text), comments


def includes(text):
    return [(text.count("\n", 0, m.start()) + 1, m.group(1) or m.group(2), m.group(1) is not None)
            for m in _INCLUDE.finditer(text)]


def split_top(text):
    """Splits at commas that stand in no bracket."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        if c in "([{" or (c == "<" and text[i - 1:i] not in ("<", "=")):
            depth += 1
        elif c in ")]}" or (c == ">" and text[i - 1:i] not in ("-", "=")):
            depth -= 1
        elif c == "," and depth <= 0:
            parts.append(text[start:i].strip())
            start = i + 1
    parts.append(text[start:].strip())
    return [part for part in parts if part and part != "void"]


def signature(head):
    """(name, parameters) of a function's head, or None."""
    depth, angle = 0, 0
    for i, c in enumerate(head):
        if c == "(" and depth == 0:
            match = _NAME_BEFORE_PAREN.search(head[:i])
            close = _closing(head, i)
            if close < 0:
                return None
            if (match and match.group(1) not in _NOT_A_NAME and angle <= 0
                    and not (match.group(1).startswith("operator") and head[i - 8:i].strip() == "operator")):
                return match.group(1), split_top(head[i + 1:close])
        if c in "([":
            depth += 1
        elif c in ")]":
            depth -= 1
        elif c == "<" and depth == 0 and not head[:i].rstrip().endswith("operator"):
            angle += 1
        elif c == ">" and depth == 0 and angle > 0 and head[i - 1:i] != "-":
            angle -= 1
    return None


def _closing(text, opening):
    depth = 0
    for i in range(opening, len(text)):
        if text[i] in "([{":
            depth += 1
        elif text[i] in ")]}":
            depth -= 1
            if depth == 0:
                return i
    return -1


def _end_macros(code):
    """Ends with ';' what macros such as BOOST_DESCRIBE_STRUCT(...) leave open, in place of their ')'."""
    out, done = [], 0
    for match in _MACRO.finditer(code):
        close = _closing(code, match.end())
        if match.start() >= done and close > 0 and not code[close + 1:].lstrip().startswith(("{", ";")):
            out += [code[done:match.start()], _NOT_NEWLINE.sub(" ", code[match.start():close]), ";"]
            done = close + 1
    return "".join(out) + code[done:]


def _outside_brackets(head):
    """The head without what stands inside brackets."""
    out, depth = [], 0
    for c in head:
        if c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif depth == 0:
            out.append(c)
    return "".join(out)


def _kind(head, inside):
    """What the '{' after `head` begins; `inside` is what it stands in."""
    head = _LABEL.sub("", head.strip()).strip()
    if inside in ("file", "namespace", "type"):
        if re.match(r"^(inline\s+)?namespace\b|^extern\s+\"", head):
            return "namespace"
        type_match = _TYPE.match(head)
        if type_match and not re.search(r"\)\s*(const|noexcept|override|\s)*$", head):
            return "list" if type_match.group(1) == "enum" else "type"
        plain = re.sub(r"operator\s*[=!<>]=?>?", "operator", _outside_brackets(head))
        if re.search(r"(?<![=!<>])=(?!=)", re.sub(r"<[^<>]*>", "", plain)):
            return "lambda" if _LAMBDA_TAIL.search(head) else "list"
        if signature(head) is None:
            return "list"
        initialisers = re.search(r"\)[\s\w]*:(?!:)", head)
        if initialisers and re.search(r"[\w>]$", head):
            return "list"  # a member of a constructor's list: name_{...}
        return "function"
    if inside in ("function", "block", "lambda"):
        if not head or _CONTROL.match(head):
            return "lambda" if _LAMBDA_TAIL.search(head) and "[" in head and head[-1:] in "]" else "block"
        if _TYPE.match(head) and "(" not in head and "=" not in head:
            return "list" if re.match(r"^\s*enum\b", head) else "type"
    return "lambda" if _LAMBDA_TAIL.search(head) else "list"


@dataclasses.dataclass
class _Frame:
    kind: str  # file namespace type function block lambda list paren
    start: int  # where the statement at hand begins
    function: object = None
    depth: int = 0


class _Walk:
    def __init__(self, code):
        self.code = _end_macros(_DIRECTIVE.sub(lambda m: _NOT_NEWLINE.sub(" ", m.group(0)), code))
        self.stack = [_Frame("file", 0)]
        self.found = []

    def run(self):
        for match in re.finditer(r"[{}()\[\];,]", self.code):
            c, i = match.group(0), match.start()
            if c == "{":
                self.open_brace(i)
            elif c in "([":
                top = self.stack[-1]
                self.stack.append(_Frame("paren", i + 1, top.function, top.depth))
            elif c in ")]":
                if self.stack[-1].kind == "paren":
                    self.stack.pop()
            elif c == "}":
                self.close_brace(i)
            elif c == ";":
                self.declaration(i)
                self.stack[-1].start = i + 1
            elif c == "," and self.stack[-1].kind in ("paren", "list"):
                self.stack[-1].start = i + 1
        return self.found

    def declaration(self, i):
        top = self.stack[-1]
        if top.kind not in ("file", "namespace", "type"):
            return
        head = self.code[top.start:i]
        if "(" not in head or re.search(r"\b(using|friend|static_assert|typedef)\b", head):
            return
        made = signature(_LABEL.sub("", head.strip()))
        before = head[:head.index("(")]
        if made and "=" not in before.replace("operator=", "") and len(before.split()) > 1:
            self.found.append(Function(made[0], made[1], top.start + len(head) - len(head.lstrip()),
                                       -1, i, 0, i))

    def open_brace(self, i):
        top = self.stack[-1]
        inside = top.kind
        head = self.code[top.start:i]
        if inside in ("paren", "list"):
            kind = "lambda" if _LAMBDA_TAIL.search(head) and "[" in head else "list"
            if not head.strip():
                kind = "list"
        else:
            kind = _kind(head, inside)
        frame = _Frame(kind, i + 1, top.function, top.depth)
        if kind == "function":
            name, parameters = signature(_LABEL.sub("", head.strip()))
            begin = top.start + len(head) - len(head.lstrip())
            frame.function = Function(name, parameters, begin, i, i, 0, i)
            frame.depth = 0
            self.found.append(frame.function)
        elif kind in ("block", "lambda") and top.function is not None:
            frame.depth = top.depth + 1
            if frame.depth > top.function.depth:
                top.function.depth, top.function.deepest = frame.depth, i
        if kind == "lambda":
            opening = head.rfind("[", 0, _LAMBDA_TAIL.search(head).start() + 1)
            tail = head[_LAMBDA_TAIL.search(head).start() + 1:].strip()
            close = _closing(tail, 0) if tail.startswith("(") else -1
            parameters = split_top(tail[1:close]) if close > 0 else []
            self.found.append(Function("lambda", parameters, top.start + max(opening, 0), i, i, 0, i, True))
        self.stack.append(frame)
        frame.opened = i

    def close_brace(self, i):
        while len(self.stack) > 1 and self.stack[-1].kind == "paren":
            self.stack.pop()  # unbalanced in a macro: recover
        if len(self.stack) == 1:
            return
        frame = self.stack.pop()
        for function in reversed(self.found):
            if function.body == frame.opened:
                function.end = i
                break
        if frame.kind in ("namespace", "function", "block"):
            self.stack[-1].start = i + 1


def functions(code):
    """All functions with bodies, declarations (body -1) and lambdas, in order of their ends."""
    return _Walk(code).run()


class Lines:
    """Line numbers of offsets."""

    def __init__(self, text):
        self.starts = [0] + [m.end() for m in re.finditer("\n", text)]

    def of(self, offset):
        return bisect.bisect_right(self.starts, offset)
