#!/usr/bin/env python3
"""Certificates that are short-lived: replaced under way, and good for the links that come after the first ones ended.

VIRGA_BUILD names the build folder.
"""

import os
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
from cloud import Cloud  # noqa: E402

HOSTS = ("host-1", "host-2")
VALID_S = 30
TROUBLE = ("host.suspect", "host.dead", "host.fenced")


class CertificatesTest(unittest.TestCase):
    def setUp(self):
        build = os.environ["VIRGA_BUILD"]
        self.folder = tempfile.TemporaryDirectory()
        server = os.path.join(self.folder.name, "server")
        with open(server, "w", encoding="utf-8") as file:
            file.write(f'#!/bin/sh\nexec {build}/bin/virgad "$@" --certificates-valid-s {VALID_S}\n')
        os.chmod(server, 0o755)
        self.cloud = Cloud(build, "cert", hosts=len(HOSTS), options=("--server-program", server))

    def tearDown(self):
        self.cloud.close()
        self.folder.cleanup()

    def renewals(self):
        subjects = [event["subject"] for event in self.cloud.events() if event["kind"] == "host.certificate_renewed"]
        return min(subjects.count(f"host/{host}") for host in HOSTS)

    def test_hosts_outlive_their_first_certificates(self):
        """R-F13 F-B6: of hosts and server; a link that is opened after their end is let in."""
        self.cloud.wait_hosts(len(HOSTS), 90)
        ends = time.monotonic() + VALID_S
        self.cloud.wait("both hosts have another certificate", lambda: self.renewals() >= 1, VALID_S)
        self.cloud.wait("the first ones have ended", lambda: time.monotonic() > ends, VALID_S + 5)
        after = self.cloud.last_event()
        self.cloud.lab("fail", "server", "--how", "power")
        self.cloud.wait_hosts(len(HOSTS), 60)
        told = self.renewals()
        self.cloud.wait("renewed on links to the server that followed", lambda: self.renewals() > told, VALID_S + 10)
        self.assertEqual([event for event in self.cloud.events(after) if event["kind"] in TROUBLE], [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
