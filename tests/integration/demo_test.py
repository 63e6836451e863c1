#!/usr/bin/env python3
"""The demo as a test: it ends well, its timeline shows what it promises, and it leaves nothing behind.

VIRGA_BUILD names the build folder; VIRGA_PACKAGES a folder for the tiny guest's Debian packages.
"""

import glob
import os
import re
import signal
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
INSTANCE = "demotest"
LIMIT_S = 480


def traces():
    """Whatever a lab of this name could have left on the machine."""
    patterns = (f"/run/netns/vg-{INSTANCE}-*", f"/sys/class/net/vg-{INSTANCE}*",
                f"/sys/fs/cgroup/*/virga-lab/{INSTANCE}", f"/sys/fs/cgroup/virga-lab/{INSTANCE}",
                f"/run/virga-lab/{INSTANCE}*", f"/dev/shm/virga-lab-{INSTANCE}")
    return sorted(path for pattern in patterns for path in glob.glob(pattern))


def processes():
    """Command lines that name the lab."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                words = file.read().split("\0")
        except OSError:
            continue
        if any(f"virga-lab-{INSTANCE}/" in word or f"virga-{INSTANCE}-" in word for word in words):
            found.append(" ".join(words))
    return found


def run(command, out, environment):
    """The exit code; after the limit the demo and its lab are asked to end, then made to."""
    process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
    try:
        return process.wait(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
        try:
            return process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait(timeout=10)


class Demo(unittest.TestCase):
    def test_F_B13_R_B12_the_demo_shows_a_lost_host_and_a_lost_link_and_leaves_nothing(self):
        with tempfile.TemporaryDirectory(prefix="virga-demo-test-") as folder:
            build = os.environ["VIRGA_BUILD"]
            command = [sys.executable, "-B", os.path.join(ROOT, "tools", "demo.py"), "--build", build,
                       "--packages", os.environ["VIRGA_PACKAGES"], "--instance", INSTANCE]
            with open(os.path.join(folder, "out"), "w+", encoding="utf-8") as out:
                code = run(command, out, {**os.environ, "TMPDIR": folder})
                left = traces() + processes() + glob.glob(os.path.join(folder, "virga-*"))
                out.seek(0)
                text = out.read()
            if left:
                subprocess.run([os.path.join(build, "bin", "virgad"), "dev", "--clean", "--instance", INSTANCE,
                                "--data", os.path.join(folder, "data")], timeout=60, check=False)
        self.assertEqual(code, 0, text)
        self.assertEqual(left, [], text)
        sections = re.split(r"^== ", text, flags=re.MULTILINE)
        self.assert_lost_host(self.section(sections, "power loss of a host"), "bmc_power_off")
        self.assert_lost_host(self.section(sections, "all links of a host are cut"), "lease_and_leash")
        self.assertIn("no VM ran twice", text)
        storage = self.section(sections, "a volume moves under its guest, and cuts off the copy")
        self.assertRegex(storage, r"(?m)^acme/data moved from ssd to ssd-2 .* connections lost 0, .* foreign writes 0$")
        near = self.section(sections, "a VM moves with the disk of its host")
        self.assertRegex(near, r"(?m)^acme/near and its disk .* from (host-\d) to (host-\d) in .* connections lost 0, "
                               r"foreign writes 0; its disk was on \1 and is on \2$")
        service = self.section(sections, "a service of two guests")
        self.assertRegex(service, r"(?m)^acme/shop-c1 was duplicated, redirected, drained and retired .*, 0 failed, ")
        self.assertRegex(service, r"(?m)^host-\d went into maintenance and was empty .*, 0 failed, ")
        self.assertRegex(service, r"(?m)^its monitor on host-\d: \d+ requests, 0 failed; .* \d+ and \d+ ms$")
        self.assertRegex(storage, r"(?m)^host-\d, which holds acme/data, was without power .* foreign writes 0$")
        self.assertRegex(storage, r"(?m)^acme/db .*storage_revoked$")
        answers = re.findall(r"^\S+/web-\d answers at \S+: boot [0-9a-f]{8}, .* request \d+$", text, re.M)
        self.assertEqual(len(answers), 6, text)
        self.assertRegex(text, r"moved alive from host-\d to host-\d")

    def section(self, sections, title):
        found = [section for section in sections if section.startswith(title)]
        self.assertEqual(len(found), 1, sections)
        return found[0]

    def assert_lost_host(self, section, proof):
        """Each VM of the lost host has a line: noticed, placed, started and answering in this order, with its proof."""
        carried = re.search(r"host-\d carries (.*); now:", section)
        self.assertIsNotNone(carried, section)
        for vm in carried[1].split(", "):
            line = next(line.split() for line in section.splitlines() if line.startswith(vm + " "))
            detected, fenced, placed, started, answering = line[1:6]
            self.assertEqual(line[6], proof, section)
            self.assertLessEqual(float(detected), float(fenced), section)
            self.assertLessEqual(float(fenced), float(placed), section)
            self.assertLess(float(placed), float(started), section)
            self.assertLess(float(started), float(answering), section)


if __name__ == "__main__":
    unittest.main(verbosity=2)
