#!/usr/bin/env python3
"""The file system of the server's store is full while the cloud runs: what is asked for is refused with the reason and
changes nothing, guests and leases go on, and with room again so does everything.

VIRGA_BUILD names the build folder; VIRGA_PACKAGES a folder for the tiny guest's Debian packages.
"""

import os
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
from cloud import Cloud  # noqa: E402
from cloud_case import LabCase, fill_up  # noqa: E402

VM = "acme/kept"
MANIFEST = """
kind: network
meta: {name: front, tenant: acme}
spec: {cluster: lab, subnet: 10.50.0.0/24}
---
kind: vm
meta: {name: kept, tenant: acme}
spec: {cluster: lab, image: tiny, memory_mib: 128, disks: [{name: data, size_mib: 16}], nics: [{network: front}]}
"""
FULL_S = 15  # longer than a lease


class FullStore(LabCase):
    @classmethod
    def make_cloud(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="virga-full-")
        cls.store = os.path.join(cls.folder.name, "server")
        os.makedirs(cls.store)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=755", "tmpfs", cls.store], check=True, timeout=20)
        try:
            return Cloud(os.environ["VIRGA_BUILD"], "full", hosts=1, data=cls.folder.name)
        except BaseException:
            cls.empty()
            raise

    @classmethod
    def furnish(cls):
        cls.cloud.wait_hosts(1, 90)
        cls.bring_in(MANIFEST, [VM], os.environ["VIRGA_PACKAGES"])

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.empty()

    @classmethod
    def empty(cls):
        subprocess.run(["umount", "-l", cls.store], check=False, timeout=20)
        cls.folder.cleanup()

    def test_F_F13_the_server_outlives_a_full_store_and_loses_nothing(self):
        before, boot = self.cloud.vms()[VM]["status"], self.answer()["boot_id"]
        filler = os.path.join(self.store, "filler")
        fill_up(filler)
        accepted, refusal = [], ""
        end = time.monotonic() + FULL_S
        for number in range(2000):
            # Pages that the store has already take some more.
            code, said = self.cloud.cli("network", "create", f"acme/n{number}", "--subnet",
                                        f"10.{60 + number // 250}.{number % 250}.0/24", check=False)
            if code != 0:
                refusal = said
                break
            accepted.append(f"acme/n{number}")
        self.assertIn("full", refusal, f"{len(accepted)} were taken")
        while time.monotonic() < end:
            self.assertEqual(self.answer()["boot_id"], boot)
            self.assertEqual(self.cloud.hosts()["host-1"]["status"]["health"], "alive")
            time.sleep(1)
        self.assertEqual(self.networks(), {"acme/front", *accepted}, "what was refused has changed nothing")
        os.remove(filler)
        self.cloud.wait("the store takes changes", lambda: self.cloud.cli(
            "network", "create", "acme/last", "--subnet", "10.59.0.0/24", check=False)[0] == 0, 30)
        self.assertEqual(self.networks(), {"acme/front", "acme/last", *accepted})
        now = self.cloud.vms()[VM]["status"]
        self.assertEqual((now["epoch"], now["power"]), (before["epoch"], "running"))
        self.cloud.lab("fail", "host-1", "--how", "qemu")
        self.cloud.wait(f"{VM} is restarted", lambda: self.answer()["boot_id"] != boot, 60)

    def networks(self):
        return {f"{n['meta']['tenant']}/{n['meta']['name']}" for n in self.cloud.cli("network", "list")}

    def answer(self):
        return self.cloud.wait(f"{VM} answers", lambda: self.cloud.http(self.client, self.addresses[VM]), 60)


if __name__ == "__main__":
    unittest.main(verbosity=2)
