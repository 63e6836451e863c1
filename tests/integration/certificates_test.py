#!/usr/bin/env python3
"""Certificates that are short-lived: replaced under way, and good for the links that come after the first ones ended.

VIRGA_BUILD names the build folder; VIRGA_PACKAGES a folder for the tiny guest's Debian packages.
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
VM = "acme/db"
SIZE_MIB, RATE = 400, 8  # a copy of 50 s
MANIFEST = f"""
kind: network
meta: {{name: front, tenant: acme}}
spec: {{cluster: lab, subnet: 10.50.0.0/24}}
---
kind: volume
meta: {{name: data, tenant: acme}}
spec: {{cluster: lab, size_mib: {SIZE_MIB}, device: ssd-1}}
---
kind: vm
meta: {{name: db, tenant: acme}}
spec: {{cluster: lab, image: tiny, memory_mib: 128, disks: [{{name: data, volume: data}}], nics: [{{network: front}}]}}
"""


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

    def test_a_move_takes_longer_than_the_certificates_under_which_it_began(self):
        """R-F13 R-B4 A10-04: they end while a disk is copied under its guest; the server is killed after that, so that
        all links of the rest of the move are opened with others. Nothing that was acknowledged is missing."""
        self.cloud.wait_hosts(len(HOSTS), 90)
        for number, host in enumerate(HOSTS, 1):
            self.cloud.cli("device", "create", f"ssd-{number}", "--host", host, "--directory",
                           os.path.join(self.folder.name, f"ssd-{number}"), "--capacity-mib", "1000")
            self.cloud.cli("device", "set", f"ssd-{number}", "--copy-mib-per-second", str(RATE))
        self.cloud.build_image(os.environ["VIRGA_PACKAGES"])
        disks, _, vm = MANIFEST.rpartition("---")
        self.cloud.apply(disks)
        self.cloud.wait("the disk is made", lambda: any(leg["state"] == "in_sync"
                                                        for leg in self.volume()["status"]["legs"]), 60)
        # Holes cost a copy no time.
        with open(os.path.join(self.folder.name, "ssd-1", "acme", "data", "volume.raw"), "r+b") as file:
            file.seek(16 << 20)
            for _ in range(SIZE_MIB - 16):
                file.write(b"\x5a" * (1 << 20))
        self.cloud.apply(vm)
        self.cloud.wait_answering([VM], 120)
        client, address = self.cloud.attach_client("acme/front", "10.50.0.250/24"), self.cloud.address(VM)

        def answer():
            return self.cloud.wait(f"{VM} answers", lambda: self.cloud.http(client, address), 60)
        before, after, told = answer(), self.cloud.last_event(), self.renewals()
        began = time.monotonic()
        self.cloud.cli("volume", "move", "acme/data", "--device", "ssd-2")
        self.cloud.wait("all certificates of the move's begin have ended",
                        lambda: time.monotonic() > began + VALID_S + 2, VALID_S + 5)
        self.assertGreater(self.renewals(), told)
        legs = self.volume()["status"]["legs"]
        self.assertEqual((len(legs), legs[0]["device"]), (2, "ssd-1"), "it is still on its way")
        self.cloud.lab("fail", "server", "--how", "power")
        self.cloud.wait("it has moved", lambda: self.volume()["status"]["legs"]
                        == [{"device": "ssd-2", "state": "in_sync"}], 180)
        now = answer()
        self.assertEqual(now["boot_id"], before["boot_id"])
        self.assertGreater(now["disk_sequence"], before["disk_sequence"])
        self.assertEqual((now["disk_foreign_writes"], now["disk_errors"]), (0, 0))
        self.assertEqual([event for event in self.cloud.events(after) if event["kind"] in TROUBLE], [])

    def volume(self):
        return next(v for v in self.cloud.cli("volume", "list") if v["meta"]["name"] == "data")


if __name__ == "__main__":
    unittest.main(verbosity=2)
