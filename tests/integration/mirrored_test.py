#!/usr/bin/env python3
"""A mirrored volume as the disk of a real guest: what is lost of it, with whom, and how it comes back.

One cloud of three hosts, each with a storage device, serves all tests, in the order of their numbers. The guest's
witness writes a number to its disk each second and says what was acknowledged and whether anybody else wrote.
VIRGA_BUILD names the build folder; VIRGA_PACKAGES a folder for the guest's packages.
"""

import os
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
from cloud import Cloud  # noqa: E402
from cloud_case import DiskCase, kill  # noqa: E402

VM = DiskCase.VM
DEVICE = """---
kind: device
meta: {{name: disk-{number}}}
spec: {{host: host-{number}, directory: {directory}-{number}, capacity_mib: 1000}}
"""
MANIFEST = """
kind: network
meta: {name: front, tenant: acme}
spec: {cluster: lab, subnet: 10.50.0.0/24}
---
kind: volume
meta: {name: data, tenant: acme}
spec: {cluster: lab, size_mib: 64, mirrored: true}
---
kind: vm
meta: {name: db, tenant: acme}
spec: {cluster: lab, image: tiny, memory_mib: 128, disks: [{name: data, volume: data}], nics: [{network: front}]}
"""


class MirroredTest(DiskCase):
    @classmethod
    def make_cloud(cls):
        return Cloud(os.environ["VIRGA_BUILD"], "mir")

    @classmethod
    def furnish(cls):
        cls.cloud.wait_hosts(3, 90)
        cls.directory = os.path.join(cls.cloud.data, "device")
        devices = "".join(DEVICE.format(number=number, directory=cls.directory) for number in (1, 2, 3))
        cls.bring_in(MANIFEST + devices, [VM], os.environ["VIRGA_PACKAGES"])

    def legs(self):
        return self.cloud.cli("volume", "get", "acme/data")["status"]["legs"]

    def wait_mirrored(self, deadline=120):
        """In two places, on devices of two hosts, and the guest writes to both."""
        self.cloud.wait("both places are in sync",
                        lambda: [leg["state"] for leg in self.legs()] == ["in_sync", "in_sync"], deadline)
        places = {leg["device"] for leg in self.legs()}
        self.assertEqual(len(places), 2)

        def written_to():
            report = self.cloud.api("GET", f"hosts/{self.status()['host']}/live")
            return [set(disk["legs"]) for vm in report["vms"] if vm["vm"] == VM for disk in vm["disks"]]

        self.cloud.wait("the guest writes to both", lambda: written_to() == [places], 30)

    def place(self, name, device=None):
        return os.path.join(f"{self.directory}-{device.rsplit('-', 1)[1]}", "acme", "data", name)

    def host_of(self, device):
        return "host-" + device.rsplit("-", 1)[1]

    def wait_writes(self, sequence, deadline):
        self.cloud.wait("the disk takes writes", lambda: self.answer()["disk_sequence"] > sequence + 1, deadline)

    def move_guest_from(self, devices):
        """So that the loss of one of these hosts is not the loss of the guest."""
        hosts = {self.host_of(device) for device in devices}
        if self.status()["host"] in hosts:
            target = ({"host-1", "host-2", "host-3"} - hosts).pop()
            self.cloud.cli("--wait", "vm", "migrate", VM, "--host", target)

    def test_01_a_volume_gets_its_second_place_while_its_guest_runs(self):
        """R-B1: chosen on another host, made equal under the guest, written to from then on."""
        self.wait_mirrored()
        self.assert_writes_on(1)

    def test_02_a_live_move_takes_both_places_along(self):
        """R-B4 A3-15: nothing is copied, the guest writes to both before and after."""
        self.wait_mirrored()
        before = self.answer()
        target = next(f"host-{n}" for n in (1, 2, 3) if f"host-{n}" != self.status()["host"])
        self.cloud.cli("--wait", "vm", "migrate", VM, "--host", target)
        self.assertEqual(self.answer()["boot_id"], before["boot_id"])
        self.assert_writes_on(before["disk_sequence"])
        self.wait_mirrored(30)

    def test_03_a_storage_host_is_lost_and_the_guest_goes_on(self):
        """R-B1 R-F3: the place that is read from goes; the other one counts alone, then both do again."""
        self.wait_mirrored()
        first = self.legs()[0]["device"]
        self.move_guest_from([leg["device"] for leg in self.legs()])
        self.wait_mirrored(30)
        before, after, cut = self.answer(), self.cloud.last_event(), time.monotonic()
        self.cloud.lab("fail", self.host_of(first), "--how", "power")
        self.cloud.wait_event(after, ["volume.degraded"], "volume/acme/data", 40)
        self.wait_writes(before["disk_sequence"], 60)
        print(f"power cut of a storage host to the next write: {time.monotonic() - cut:.1f} s")
        self.assertEqual(self.answer()["boot_id"], before["boot_id"], "it went on where it was")
        self.assertNotEqual(self.legs()[0]["device"], first)
        self.assert_writes_on(before["disk_sequence"])
        self.cloud.lab("heal")
        self.wait_mirrored()
        self.assert_writes_on(before["disk_sequence"])

    def test_04_the_server_of_one_place_is_gone_and_the_guest_goes_on(self):
        """R-B1 R-F2: its agent does not start it anew; QEMU says which place it misses."""
        self.wait_mirrored()
        lost = self.legs()[1]["device"]
        self.move_guest_from([lost])
        self.wait_mirrored(30)
        before, after, cut = self.answer(), self.cloud.last_event(), time.monotonic()
        self.cloud.lab("fail", self.host_of(lost), "--how", "agent", "--hold")
        kill(self.server_pid(lost))
        self.cloud.wait_event(after, ["volume.degraded"], "volume/acme/data", 40)
        self.wait_writes(before["disk_sequence"], 60)
        print(f"end of a volume's server to the next write: {time.monotonic() - cut:.1f} s")
        self.cloud.lab("heal")
        self.wait_mirrored()
        self.assert_writes_on(before["disk_sequence"])
        self.assertEqual(self.answer()["boot_id"], before["boot_id"])

    def test_05_the_guests_host_is_lost_with_one_place_and_it_starts_from_the_other(self):
        """R-B2 A1-06: what was acknowledged is there, whatever the lost host still held."""
        self.wait_mirrored()
        lost = self.legs()[0]["device"]
        if self.status()["host"] != self.host_of(lost):
            self.cloud.cli("--wait", "vm", "migrate", VM, "--host", self.host_of(lost))
            self.wait_mirrored(30)
        before, host = self.answer(), self.status()["host"]
        self.cloud.lab("fail", host, "--how", "power", "--bmc", "silent")
        self.cloud.wait("it runs elsewhere", lambda: self.status()["power"] == "running"
                        and self.status()["host"] != host, 90)
        self.assert_writes_on(before["disk_sequence"])
        self.cloud.lab("heal")
        self.cloud.wait_hosts(3, 90)
        self.wait_mirrored()
        self.assert_writes_on(before["disk_sequence"])

    def test_06_it_grows_in_both_places_before_its_guest_starts_again(self):
        """R-B1: a start that comes at once waits for both, which the guest then writes to."""
        self.wait_mirrored()
        before = self.answer()
        self.cloud.cli("--wait", "vm", "stop", VM)
        self.cloud.cli("volume", "grow", "acme/data", "--size-mib", "96")
        self.cloud.cli("--wait", "vm", "start", VM)
        self.assertEqual([leg["state"] for leg in self.legs()], ["in_sync", "in_sync"])
        for leg in self.legs():
            self.assertEqual(os.path.getsize(self.place("volume.raw", leg["device"])), 96 << 20)
        self.assert_writes_on(before["disk_sequence"])
        self.wait_mirrored(30)

    def test_07_a_start_does_without_a_place_that_is_away(self):
        """R-B1: both hold the same after an orderly end; who comes back is made equal again."""
        self.wait_mirrored()
        lost = self.legs()[0]["device"]
        before = self.answer()
        self.cloud.cli("--wait", "vm", "stop", VM)
        self.assertEqual([leg["state"] for leg in self.legs()], ["in_sync", "in_sync"], "it ended in order")
        self.cloud.lab("fail", self.host_of(lost), "--how", "power")
        self.cloud.cli("vm", "start", VM)
        self.assert_writes_on(before["disk_sequence"])
        self.cloud.lab("heal")
        self.wait_mirrored()

    def test_08_nothing_of_it_stays_when_it_is_deleted(self):
        """R-B1: in both places."""
        self.cloud.cli("--wait", "vm", "delete", VM, text=True)
        self.cloud.cli("volume", "delete", "acme/data", text=True)
        self.cloud.wait("it is gone", lambda: self.cloud.cli("volume", "list") == [], 60)
        for number in (1, 2, 3):
            self.assertFalse(os.path.exists(f"{self.directory}-{number}/acme/data/volume.raw"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
