"""Exceptions with reasons: tools/tidy.allow, one a line: RULE PATH [WORDS-OF-THE-FINDING] -- REASON"""

import re

from house import tree

PATH = "tools/tidy.allow"


def apply(files, findings):
    """The findings that no entry excuses, and the entries that excuse nothing."""
    listed = next((file for file in files if file.path == PATH), None)
    if listed is None:
        return findings
    entries, wrong = [], []
    for number, line in enumerate(listed.lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"(\S+)\s+(\S+)\s*(.*?)\s+--\s+(.{15,})", line)
        if match:
            entries.append((number, *match.groups()[:3]))
        else:
            wrong.append(listed.finding(number, "allow.form", "want: RULE PATH [WORDS] -- REASON"))
    used = set()
    left = []
    for finding in findings:
        fitting = [number for number, rule, path, words in entries
                   if rule == finding.rule and path == finding.path and words in finding.what]
        used.update(fitting)
        if not fitting:
            left.append(finding)
    unused = [tree.Finding(PATH, number, "allow.unused", f"{rule} {path} excuses nothing: remove it")
              for number, rule, path, _ in entries if number not in used]
    return left + wrong + unused
