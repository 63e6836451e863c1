#!/usr/bin/env python3
"""A real guest that holds a device of its host directly: a loop device, whose file shows what the guest has written.

VIRGA_BUILD names the build folder; VIRGA_PACKAGES a folder for the tiny guest's Debian packages. As root: loop devices.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
from cloud import Cloud  # noqa: E402
from cloud_case import LabCase, NETWORK, kill  # noqa: E402

SIZE = 16 << 20
RAW = """---
kind: vm
meta: {name: raw, tenant: acme}
spec: {cluster: lab, image: tiny, memory_mib: 128, pinned_host: host-1, host_devices: [scratch],
       nics: [{network: front}]}
"""


class HostDevice(LabCase):
    VM = "acme/raw"

    @classmethod
    def make_cloud(cls):
        cls.folder = tempfile.mkdtemp(prefix="virga-host-device-")
        cls.file = os.path.join(cls.folder, "scratch.raw")
        with open(cls.file, "wb") as file:
            file.truncate(SIZE)
        found = subprocess.run(["losetup", "--find", "--show", cls.file], capture_output=True, text=True, check=True,
                               timeout=20)
        cls.device = found.stdout.strip()
        return Cloud(os.environ["VIRGA_BUILD"], "hostdev", hosts=2,
                     options=["--host-device", f"host-1:scratch={cls.device}"])

    @classmethod
    def furnish(cls):
        cls.cloud.wait_hosts(2, 90)
        cls.bring_in(NETWORK + RAW, [cls.VM], os.environ["VIRGA_PACKAGES"])

    @classmethod
    def setUpClass(cls):
        cls.addClassCleanup(cls.let_go)
        super().setUpClass()

    @classmethod
    def let_go(cls):
        subprocess.run(["losetup", "--detach", cls.device], check=False, timeout=20)
        shutil.rmtree(cls.folder)

    def status(self):
        return self.cloud.vms()[self.VM]["status"]

    def answer(self):
        return self.cloud.wait(f"{self.VM} answers", lambda: self.cloud.http(self.client, self.addresses[self.VM]), 60)

    def booted_after(self, before, deadline):
        def booted():
            now = self.answer()
            return now["boot_id"] != before["boot_id"] and now
        return self.cloud.wait(f"{self.VM} boots again", booted, deadline)

    def written(self):
        """The first block as it is on the device: what the guest's witness has written last."""
        with open(self.file, "rb") as file:
            return file.read(512).rstrip(b"\0")

    def unplaced(self, words, deadline=30):
        return self.cloud.wait(f"{self.VM} says why", lambda: all(
            word in self.status()["unplaced_reason"] for word in words) and self.status(), deadline)

    def refused(self, code, words, *arguments):
        got, text = self.cloud.cli(*arguments, check=False)
        self.assertEqual(got, code, text)
        for word in words:
            self.assertIn(word, text)

    def test_1_A3_23_R_B5_the_guest_writes_to_the_device_of_its_host(self):
        offered = self.cloud.hosts()["host-1"]["status"]["host_devices"]
        self.assertEqual(offered, [{"name": "scratch", "kind": "block", "size": SIZE}])
        self.assertEqual(self.cloud.hosts()["host-2"]["status"]["host_devices"], [])
        first = self.answer()
        self.assertEqual(first["disk_bytes"], SIZE)
        before = self.written()
        self.assertIn(first["boot_id"].encode(), before)
        self.cloud.wait("the next word is on the device", lambda: self.written() != before, 20)
        busy = subprocess.run(["mkfs.ext4", "-q", self.device], capture_output=True, text=True, check=False, timeout=20)
        self.assertNotEqual(busy.returncode, 0, "the host itself cannot use what its guest holds")

    def test_2_A3_23_R_B5_what_the_guest_holds_it_holds_alone(self):
        make = ["vm", "create", "acme/second", "--image", "tiny", "--network", "front", "--host-device"]
        self.refused(4, ["held by vm acme/raw"], *make, "scratch", "--pin", "host-1")
        self.refused(3, ["offers no device", "--host-device scratch="], *make, "scratch", "--pin", "host-2")
        self.refused(2, ["spec.pinned_host: is empty"], *make, "scratch")

    def test_3_A3_23_R_B5_it_moves_nowhere_and_says_why(self):
        boot = self.answer()["boot_id"]
        self.refused(1, ["cannot move alive"], "vm", "migrate", self.VM, "--host", "host-2")
        self.cloud.api("POST", "hosts/host-1/maintenance", {})
        self.unplaced(["maintenance", "uses a device of its host directly"])
        self.assertEqual(self.answer()["boot_id"], boot)
        losses = {loss["lost"]: loss for loss in self.cloud.cli("whatif", "cluster", "lab")["losses"]}
        self.assertIn(self.VM, json.dumps(losses["host-1"]["pinned"]))
        self.cloud.cli("host", "activate", "host-1")
        degraded = os.path.join(self.cloud.data, "hosts", "host-1", "degraded")
        with open(degraded, "w", encoding="utf-8") as file:
            file.write("a fan stands still\n")
        try:
            self.unplaced(["a fan stands still", "uses a device of its host directly"])
        finally:
            os.remove(degraded)
        self.assertEqual(self.answer()["boot_id"], boot)
        self.cloud.wait("host-1 is well", lambda: self.cloud.hosts()["host-1"]["status"]["health"] == "alive", 30)

    def test_4_A3_23_R_B5_it_is_restarted_where_its_device_is(self):
        before = self.answer()
        kill(self.cloud.guests_on("host-1")[0])
        again = self.booted_after(before, 60)
        self.assertEqual(self.status()["host"], "host-1")
        self.assertGreaterEqual(again["disk_sequence"], before["disk_sequence"])
        self.cloud.lab("fail", "host-1", "--how", "power")
        self.unplaced(["the VM is pinned to host-1"], 60)
        self.cloud.lab("heal", "host-1")
        third = self.booted_after(again, 120)
        self.assertEqual(self.status()["host"], "host-1")
        self.assertGreaterEqual(third["disk_sequence"], again["disk_sequence"])
        self.assertEqual(third["disk_foreign_writes"], 0)

    def test_5_A3_23_R_B5_a_device_that_the_host_uses_is_not_taken(self):
        self.cloud.cli("--wait", "vm", "stop", self.VM)
        held = os.open(self.device, os.O_RDWR | os.O_EXCL)
        try:
            self.cloud.cli("vm", "start", self.VM)
            self.cloud.wait("the start is refused", lambda: [
                e for e in self.cloud.events() if e["kind"] == "vm.start_failed"
                and "the host itself uses" in e["text"]], 30)
        finally:
            os.close(held)
        self.answer()
        self.cloud.cli("--wait", "vm", "delete", self.VM, text=True)
        with open(self.device, "rb") as device:
            self.assertNotEqual(device.read(16), bytes(16), "what is on it is its operator's")


if __name__ == "__main__":
    unittest.main()
