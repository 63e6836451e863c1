"""The commands of the documents: those of a walk-through run in order, of all others programs and options exist."""

import glob
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "tools"))
from cloud import free_port  # noqa: E402

BIN = os.environ.get("VIRGA_BIN", os.path.join(TOP, "build", "release", "bin"))
PACKAGES = os.environ.get("VIRGA_PACKAGES", "")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def documents():
    named = subprocess.run(["git", "-C", TOP, "ls-files", "*.md"], capture_output=True, text=True, check=True).stdout
    return [path for path in named.split() if not path.startswith("docs/reference/")]


def blocks(path, language):
    with open(os.path.join(TOP, path), encoding="utf-8") as file:
        return [text for kind, text in BLOCK.findall(file.read()) if kind == language]


class Commands(unittest.TestCase):
    def words_of(self, line):
        try:
            return shlex.split(line, comments=True)
        except ValueError:
            return []

    def test_F_B1_programs_and_options_in_documents_exist(self):
        checked = 0
        for path in documents():
            lines = [line for language in ("sh", "") for block in blocks(path, language)
                     for line in block.replace("\\\n", " ").splitlines()]
            for line in lines:
                words = [word for word in self.words_of(line) if word not in ("&", "if", "until", "[", "!")]
                if not words or words[0] not in ("virga", "virgad"):
                    continue
                options = [word.split("=")[0] for word in words[1:] if word.startswith("--")]
                named = [word for word in words[1:] if re.fullmatch(r"[a-z-]+", word) and not word.startswith("-")]
                pages = [subprocess.run([os.path.join(BIN, words[0]), *named[:depth], "--help"], capture_output=True,
                                        text=True, timeout=20, check=False).stdout for depth in (0, 1, 2)]
                for option in options:
                    self.assertTrue(any(re.search(re.escape(option) + r"\b", page) for page in pages),
                                    f"{path}: {line}: no program knows {option}")
                checked += 1
        self.assertGreater(checked, 20)

    def test_F_B1_scripts_in_documents_exist_and_have_help(self):
        named = {name for path in documents() for language in ("sh", "") for block in blocks(path, language)
                 for name in re.findall(r"^(scripts/\w+|tools/\w+)", block, re.MULTILINE)}
        self.assertIn("scripts/demo", named)
        for name in sorted(named):
            self.assertTrue(os.access(os.path.join(TOP, name), os.X_OK), name)


class WalkThrough(unittest.TestCase):
    """Runs a document's sh blocks as one script, with a folder, a port and a name of its own."""

    def test_F_B1_F_B10_F_B11_the_first_cloud_works_as_written(self):
        folder = tempfile.mkdtemp(prefix="virga-docs-")
        self.addCleanup(shutil.rmtree, folder, True)
        instance = f"d{os.getpid() % 10**7}"
        script = "set -euo pipefail\n" + "\n".join(blocks("docs/operations/first-cloud.md", "sh"))
        script = script.replace("/var/lib/virga/lab/first", folder + "/lab").replace("7070", str(free_port()))
        script = re.sub(r"--instance first\b", f"--instance {instance}", script)
        if PACKAGES:
            script = script.replace("image build tiny", f"image build tiny --packages {shlex.quote(PACKAGES)}")
        environment = dict(os.environ, PATH=BIN + ":" + os.environ["PATH"])
        log_path = os.path.join(folder, "walk-through.log")
        with open(log_path, "w", encoding="utf-8") as log:
            process = subprocess.Popen(["bash", "-mc", script], stdout=log, stderr=subprocess.STDOUT, env=environment,
                                       stdin=subprocess.DEVNULL, start_new_session=True)
            try:
                code = process.wait(timeout=300)
            except subprocess.TimeoutExpired:
                code = "not ended in time"
            finally:
                self.end(process, instance, folder)
        with open(log_path, encoding="utf-8") as log:
            text = log.read()
        self.assertEqual(code, 0, text[-6000:])
        for said in ("vm.moved", "paused for", "host.fenced", "vm.placed", "it does not run", "memory"):
            self.assertIn(said, text)
        self.assertFalse(os.path.exists(folder + "/lab"), "the last command removes the folder")

    def end(self, process, instance, folder):
        """What a broken walk-through leaves: its jobs by the session, the lab by its own cleaner."""
        for pid in self.session_of(process.pid):
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        process.wait(timeout=60)
        if os.path.exists(folder + "/lab"):
            subprocess.run([os.path.join(BIN, "virgad"), "dev", "--clean", "--instance", instance,
                            "--data", folder + "/lab"], capture_output=True, timeout=60, check=False)

    @staticmethod
    def session_of(leader):
        found = []
        for path in glob.iglob("/proc/[0-9]*/stat"):
            try:
                with open(path, encoding="utf-8") as file:
                    after_name = file.read().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(after_name[3]) == leader:
                found.append(int(path.split("/")[2]))
        return found


if __name__ == "__main__":
    unittest.main()
