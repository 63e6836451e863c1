#!/usr/bin/env python3
"""Volumes as disks of real guests: made, moved along, fenced by their own servers, grown and erased.

One cloud of three hosts serves all tests, in the order of their numbers: host-3 has the storage device and, in
maintenance, no guests. The guest's witness writes a number to its disk each second and says what was acknowledged and
whether anybody else wrote. VIRGA_BUILD names the build folder; VIRGA_PACKAGES a folder for the guest's packages.
"""

import contextlib
import glob
import json
import os
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
from cloud import Cloud  # noqa: E402
from cloud_case import VolumeCase, kill, state_of  # noqa: E402

VM = VolumeCase.VM


class VolumesTest(VolumeCase):
    @classmethod
    def make_cloud(cls):
        return Cloud(os.environ["VIRGA_BUILD"], "vol")

    def volume(self):
        return next(v for v in self.cloud.cli("volume", "list") if v["meta"]["name"] == "data")

    def place(self, name, device=None):
        """A file of the volume, on the device that holds it now."""
        device = device or self.volume()["status"]["legs"][0]["device"]
        return os.path.join(self.directory + {"ssd": "", "hdd": "-2", "small": "-3"}[device], "acme", "data", name)

    def record(self):
        """What the device itself holds of the volume."""
        with open(self.place("volume.json"), encoding="utf-8") as file:
            return json.load(file)

    def attached(self):
        return [one["epoch"]["counter"] for one in self.record()["attachments"]]

    def wait_alone(self, deadline=30):
        """The copy in force is the only one that the volume lets in."""
        self.cloud.wait("one attachment, of the epoch in force",
                        lambda: self.attached() == [self.status()["epoch"]["counter"]], deadline)

    def assert_writes_on(self, acknowledged):
        super().assert_writes_on(acknowledged)
        self.wait_alone()

    def other_host(self):
        return "host-2" if self.status()["host"] == "host-1" else "host-1"

    def test_01_a_guest_writes_to_its_volume(self):
        """R-B1 A3-17: a device, a volume on it, a guest that uses it over the network."""
        self.assertEqual(self.volume()["status"]["legs"], [{"device": "ssd", "state": "in_sync"}])
        self.assert_writes_on(1)
        launch = os.path.join(self.cloud.data, "shared", "vms", VM, "vm.json")
        with open(launch, encoding="utf-8") as file:
            text = file.read()
        self.assertIn("acme/data", text)
        for secret in (one[name] for one in self.record()["attachments"] for name in ("key", "export_name")):
            self.assertNotIn(secret, text, "what opens a volume lies on no shared storage")

    def test_02_a_live_move_takes_the_volume_along(self):
        """R-B2 R-B4 A3-15: ownership passes, nothing is copied, the old attachment is over."""
        before, epoch = self.answer(), self.status()["epoch"]["counter"]
        boots = before["boot_id"]
        target = self.other_host()
        self.cloud.cli("--wait", "vm", "migrate", VM, "--host", target)
        self.assertEqual(self.status()["host"], target)
        self.assertEqual(self.answer()["boot_id"], boots, "it was not started anew")
        self.assert_writes_on(before["disk_sequence"])
        self.assertGreaterEqual(self.record()["revoked"]["counter"], epoch)

    def rests(self):
        vm = self.cloud.vms()[VM]
        return not vm["spec"]["move_to"] and not vm["status"]["operation"] and vm["status"]["power"] == "running"

    def over_in_a_live_move(self, wait_s, what):
        """A live move, `what` after so long; whichever way it goes the guest lives and nothing is lost."""
        before, epoch = self.answer(), self.status()["epoch"]["counter"]
        target = self.other_host()
        self.cloud.cli("vm", "migrate", VM, "--host", target)
        time.sleep(wait_s)
        undo = what()
        if undo:
            time.sleep(8)
            undo()
        self.cloud.wait("the move is over", self.rests, 90)
        self.assertEqual(self.answer()["boot_id"], before["boot_id"], "it was not started anew")
        self.assert_writes_on(before["disk_sequence"])
        moved = self.status()["epoch"]["counter"] > epoch
        print(f"after {wait_s} s: {'moved' if moved else 'stayed where it was'}")

    def test_02_x_the_server_of_its_volume_is_killed_in_the_middle_of_a_live_move(self):
        """R-F1 R-B2 R-B4: the storage daemon dies at three moments of it."""
        for wait_s in (0.05, 0.3, 0.8):
            pid = self.server_pid()
            self.over_in_a_live_move(wait_s, lambda: kill(pid))
            self.cloud.wait("another server", lambda: self.server_pid() != pid, 20)

    def test_02_y_storage_falls_silent_in_the_middle_of_a_live_move(self):
        """R-F3: both hosts of the guest hear nothing of the volume's server for 8 s, nor it of them."""
        def cut():
            self.cloud.lab("fail", "host-3", "--how", "link", "--network", "storage")
            return lambda: self.cloud.lab("heal")
        # Later its guest is being paused, and waits for its disk: the move is called off there.
        for wait_s in (0.3, 0.6):
            self.over_in_a_live_move(wait_s, cut)

    def test_03_the_server_of_a_volume_dies_and_the_guest_waits_for_it(self):
        """R-B1 R-F2: killed under a writing guest, it is there again and no write is lost."""
        before = self.answer()
        pid = self.server_pid()
        kill(pid)
        self.cloud.wait("another server", lambda: self.server_pid() != pid, 20)
        self.assert_writes_on(before["disk_sequence"])
        self.assertEqual(self.answer()["boot_id"], before["boot_id"])

    def test_04_the_agent_of_the_storage_host_is_replaced_and_the_guest_goes_on(self):
        """R-B1 R-F1: servers of volumes outlive the agent and are adopted by the next."""
        before, pid = self.answer(), self.server_pid()
        self.cloud.lab("fail", "host-3", "--how", "agent")
        self.cloud.wait_hosts(3, 60)
        self.assert_writes_on(before["disk_sequence"])
        self.assertEqual(self.server_pid(), pid)

    def test_05_a_volume_grows_under_its_guest(self):
        """R-B1: the larger size stands on the device; the guest goes on."""
        before = self.answer()
        self.cloud.cli("volume", "grow", "acme/data", "--size-mib", "96")
        self.cloud.wait("the volume has grown", lambda: self.volume()["status"]["size_mib"] == 96, 30)
        self.assertEqual(os.path.getsize(self.place("volume.raw")), 96 << 20)
        self.cloud.wait("its guest sees the new size", lambda: self.answer()["disk_bytes"] == 96 << 20, 30)
        self.assert_writes_on(before["disk_sequence"])

    def test_05_x_a_snapshot_is_taken_under_its_guest_and_another_guest_is_made_of_it(self):
        """R-B1: it holds what was acknowledged before it was asked for; neither guest sees the other's writes."""
        before = self.answer()
        self.cloud.cli("--wait", "volume", "snapshot", "acme/monday", "--of", "data")
        whole = self.answer()
        self.assertGreaterEqual(whole["disk_sequence"], before["disk_sequence"], "the guest goes on")
        code, words = self.cloud.cli("vm", "create", "acme/test", "--image", "tiny", "--network", "front",
                                     "--volume", "monday", check=False)
        self.assertNotEqual(code, 0)
        self.assertIn("is a snapshot", words)
        self.cloud.wait("its guest writes on", lambda: self.answer()["disk_sequence"] > whole["disk_sequence"] + 1, 30)
        self.cloud.cli("--wait", "volume", "create", "acme/data-2", "--from", "monday")
        self.cloud.cli("--wait", "vm", "create", "acme/test", "--image", "tiny", "--memory-mib", "128",
                       "--network", "front", "--volume", "data-2")
        self.cloud.wait_answering(["acme/test"], 120)
        address = self.cloud.address("acme/test")
        copy = self.cloud.wait("the other guest writes", lambda: (lambda seen: seen if seen["disk_sequence"]
                               > before["disk_sequence"] else None)(self.cloud.http(self.client, address)), 40)
        self.assertEqual(copy["disk_foreign_writes"], 0)
        taken = {v["meta"]["name"]: v["status"].get("taken_at") for v in self.cloud.cli("volume", "list")}
        self.assertTrue(taken["monday"] and taken["data-2"] > taken["monday"], taken)
        self.assert_writes_on(whole["disk_sequence"])
        self.assertEqual(self.answer()["boot_id"], before["boot_id"])
        self.cloud.cli("--wait", "vm", "delete", "acme/test", text=True)
        for name in ("monday", "data-2"):
            self.cloud.cli("volume", "delete", "acme/" + name, text=True)
        self.cloud.wait("both are gone", lambda: len(self.cloud.cli("volume", "list")) == 1, 30)
        self.assertEqual(glob.glob(self.directory + "/acme/*"), [self.directory + "/acme/data"])

    def test_06_a_volume_moves_to_another_device_under_its_guest(self):
        """A10-04 A3-14 R-B4: copied, made equal, switched, then erased where it was; the guest just goes on."""
        self.cloud.cli("device", "create", "hdd", "--host", "host-3", "--directory", self.directory + "-2",
                       "--capacity-mib", "1000")
        self.cloud.wait("the device is there", lambda: all(one["status"]["available"]
                                                           for one in self.cloud.cli("device", "list")), 30)
        before, after = self.answer(), self.cloud.last_event()
        prober = self.cloud.probe(self.client, [self.addresses[VM]], "echo")
        self.cloud.cli("--wait", "volume", "move", "acme/data", "--device", "hdd")
        self.cloud.wait_event(after, ["vm.disk_moved"], f"vm/{VM}", 30)
        line = prober.stop()[0]
        self.assertEqual(line["connections_lost"], 0)
        print(f"a volume of 96 MiB moved under its guest: longest silence {line['longest_silence_ms']:.0f} ms")
        self.assertEqual(self.volume()["status"]["legs"], [{"device": "hdd", "state": "in_sync"}])
        self.assertFalse(os.path.exists(self.place("", "ssd")), "nothing is left where it was")
        self.assertEqual(os.path.getsize(self.place("volume.raw")), 96 << 20)
        self.assert_writes_on(before["disk_sequence"])
        self.assertEqual(self.answer()["boot_id"], before["boot_id"], "it was not started anew")

    def test_07_a_move_whose_target_dies_leaves_the_guest_where_it_was_and_is_tried_again(self):
        """A10-04 R-B4 R-F2: the server of the new place stands still while the data are copied."""
        self.cloud.cli("--wait", "volume", "grow", "acme/data", "--size-mib", "700")
        self.cloud.wait("its guest sees the new size", lambda: self.answer()["disk_bytes"] == 700 << 20, 30)
        before, after = self.answer(), self.cloud.last_event()
        self.cloud.cli("volume", "move", "acme/data", "--device", "ssd")
        target = self.place("volume.raw", "ssd")
        # Not before: a server that stands still while its consumer is let in is replaced, and the move succeeds.
        self.cloud.wait("data are copied", lambda: os.path.exists(target) and os.stat(target).st_blocks > 0, 30)
        server = self.server_pid("ssd")
        os.kill(server, signal.SIGSTOP)
        try:
            failed = self.cloud.wait_event(after, ["vm.disk_move_failed"], f"vm/{VM}", 40)
        finally:
            with contextlib.suppress(ProcessLookupError):  # one that does not obey is killed
                os.kill(server, signal.SIGCONT)
        self.assertEqual(failed["facts"]["device"], "ssd")
        self.assertEqual(self.volume()["status"]["legs"][0]["device"], "hdd")
        self.assertGreater(self.answer()["disk_sequence"], before["disk_sequence"], "it just goes on")
        self.cloud.wait("it has moved", lambda: self.volume()["status"]["legs"]
                        == [{"device": "ssd", "state": "in_sync"}], 90)
        self.assert_writes_on(before["disk_sequence"])
        self.assertEqual(self.answer()["boot_id"], before["boot_id"])

    def move_and_lose_both_places(self, device, folder, away_s):
        """The storage host loses its power while data are copied. The guest waits for what it had asked, and with it
        the copy; when the host is back, with a kernel that knows no connection, both go on."""
        before, after = self.answer(), self.cloud.last_event()
        self.cloud.cli("volume", "move", "acme/data", "--device", device)
        target = os.path.join(folder, "acme", "data", "volume.raw")
        self.cloud.wait("data are copied", lambda: os.path.exists(target) and os.stat(target).st_blocks > 0, 30)
        self.cloud.lab("fail", "host-3", "--how", "power")
        if away_s:
            self.cloud.wait_event(after, ["device.unavailable"], "device/" + device, 30)
            time.sleep(away_s)
        self.cloud.lab("heal", "host-3")
        self.cloud.wait_hosts(3, 90)
        self.cloud.wait_event(after, ["vm.disk_move_failed", "vm.disk_moved"], f"vm/{VM}", 90)
        self.assert_writes_on(before["disk_sequence"])
        self.cloud.wait("it has moved", lambda: self.volume()["status"]["legs"]
                        == [{"device": device, "state": "in_sync"}], 120)
        self.assert_writes_on(before["disk_sequence"])
        self.assertEqual(self.answer()["boot_id"], before["boot_id"], "it went on where it was")

    def test_07_both_places_are_away_while_a_volume_moves(self):
        """A10-04 R-B4 R-F2: for longer than a silent connection is asked whether it lives."""
        self.move_and_lose_both_places("hdd", self.directory + "-2", 20)

    def test_07_x_both_places_are_back_at_once_while_a_volume_moves(self):
        """A10-04 R-B4 R-F2: nobody has told the guest's host that what it waits for will never come."""
        self.move_and_lose_both_places("ssd", self.directory, 0)
        self.cloud.cli("--wait", "volume", "move", "acme/data", "--device", "hdd")

    def test_08_the_agent_of_the_guests_host_dies_while_its_disk_moves(self):
        """A10-04 R-B4 R-F1: the next agent finds the copy in QEMU and takes it back; it is tried again."""
        before, after = self.answer(), self.cloud.last_event()
        self.cloud.cli("volume", "move", "acme/data", "--device", "ssd")
        self.cloud.wait("the new place is served", lambda: os.path.exists(self.place("server.json", "ssd")), 30)
        self.cloud.lab("fail", self.status()["host"], "--how", "agent")
        self.cloud.wait_event(after, ["vm.disk_move_failed", "vm.disk_moved"], f"vm/{VM}", 60)
        self.cloud.wait("it has moved", lambda: self.volume()["status"]["legs"]
                        == [{"device": "ssd", "state": "in_sync"}], 90)
        self.assert_writes_on(before["disk_sequence"])
        self.assertEqual(self.answer()["boot_id"], before["boot_id"])

    def test_08_x_a_full_device_is_told_and_holds_up_neither_a_move_nor_a_fence(self):
        """R-F5 R-F6 R-B2: no byte is left below the device; who has a place there goes on, moves and is fenced."""
        directory = self.directory + "-3"
        os.makedirs(directory)
        mount = ["mount", "-t", "tmpfs", "-o", "size=800m,mode=700", "virga-test", directory]
        subprocess.run(mount, check=True, timeout=20)
        self.addCleanup(subprocess.run, ["umount", "-l", directory], timeout=20)
        resize = lambda size: subprocess.run(  # noqa: E731
            ["mount", "-o", f"remount,size={size}", directory], check=True, timeout=20)
        self.cloud.cli("device", "create", "small", "--host", "host-3", "--directory", directory,
                       "--capacity-mib", "1000")
        self.cloud.cli("--wait", "volume", "move", "acme/data", "--device", "small")
        self.cloud.wait("it has moved", lambda: self.volume()["status"]["legs"]
                        == [{"device": "small", "state": "in_sync"}], 90)
        before, after = self.answer(), self.cloud.last_event()
        seen = os.statvfs(directory)
        self.assertLess((seen.f_blocks - seen.f_bfree) * seen.f_frsize, 8 << 20, "it has moved four times and is thin")
        resize("16m")
        with open(os.path.join(directory, "ballast"), "wb", buffering=0) as ballast:
            with self.assertRaises(OSError):
                for _ in range(10000):
                    ballast.write(bytes(4096))
        self.cloud.wait_event(after, ["device.full"], "device/small", 30)
        self.cloud.cli("--wait", "vm", "migrate", VM, "--host", self.other_host())
        self.assert_writes_on(before["disk_sequence"])
        before, after = self.answer(), self.cloud.last_event()
        self.cloud.lab("fail", self.status()["host"], "--how", "power", "--bmc", "silent")
        placed = self.cloud.wait_event(after, ["vm.placed"], f"vm/{VM}", 40)
        self.assertEqual(placed["facts"]["proof"], "storage_revoked")
        self.assert_writes_on(before["disk_sequence"])
        os.unlink(os.path.join(directory, "ballast"))
        resize("800m")
        self.cloud.wait_event(after, ["device.has_room"], "device/small", 30)
        self.cloud.cli("--wait", "volume", "move", "acme/data", "--device", "ssd")
        self.cloud.wait("it has moved back", lambda: self.volume()["status"]["legs"]
                        == [{"device": "ssd", "state": "in_sync"}], 90)
        self.cloud.cli("device", "delete", "small", text=True)

    def test_09_a_lost_hosts_guest_comes_back_on_the_word_of_its_volume(self):
        """R-B2 A1-06 A1-07: no BMC answers; the volume has cut the old copy off, and that proves it."""
        before, lost = self.answer(), self.status()["host"]
        after, cut = self.cloud.last_event(), time.monotonic()
        self.cloud.lab("fail", lost, "--how", "power", "--bmc", "silent")
        self.cloud.wait_event(after, ["vm.fenced"], f"vm/{VM}", 30)
        placed = self.cloud.wait_event(after, ["vm.placed"], f"vm/{VM}", 30)
        took = time.monotonic() - cut
        self.assertEqual(placed["facts"]["proof"], "storage_revoked")
        self.assertLess(took, 10, "its lease was not awaited")
        print(f"power cut to placed elsewhere, on the word of storage: {took:.2f} s")
        self.cloud.wait("it runs elsewhere", lambda: self.status()["power"] == "running"
                        and self.status()["host"] != lost, 60)
        self.assert_writes_on(before["disk_sequence"])

    def test_10_a_zombie_keeps_running_and_writes_nothing(self):
        """R-B2 A1-06: its host reaches its volume and nobody else; it is cut off before the other starts."""
        before, lost = self.answer(), self.status()["host"]
        old = self.cloud.copies()[VM][lost]
        after = self.cloud.last_event()
        # Until its lease ends nothing on the host ends the guest.
        self.cloud.lab("fail", lost, "--how", "link", "--network", "management", "--bmc", "silent")
        placed = self.cloud.wait_event(after, ["vm.placed"], f"vm/{VM}", 30)
        self.assertEqual(placed["facts"]["proof"], "storage_revoked")
        zombies = [pid for pid in old if state_of(pid) not in ("", "Z", "X")]
        self.cloud.wait("it runs elsewhere", lambda: self.status()["power"] == "running"
                        and self.status()["host"] != lost, 60)
        self.assertTrue(zombies, "the old copy was there when the other was decided")
        self.assert_writes_on(before["disk_sequence"])
        self.cloud.lab("heal")
        self.cloud.wait("the old copy is gone", lambda: list(self.cloud.copies()[VM]) == [self.status()["host"]], 90)

    def test_11_the_storage_host_is_away_and_comes_back(self):
        """R-F2: an alarm says so; its guests wait and go on after its return."""
        before, after = self.answer(), self.cloud.last_event()
        self.cloud.lab("fail", "host-3", "--how", "power")
        self.cloud.wait_event(after, ["device.unavailable"], "device/ssd", 30)
        self.cloud.wait_event(after, ["host.fenced"], "host/host-3", 60)
        self.cloud.lab("heal", "host-3")
        self.cloud.wait_event(after, ["device.available"], "device/ssd", 90)
        self.assert_writes_on(before["disk_sequence"])
        self.assertEqual(self.answer()["boot_id"], before["boot_id"], "it went on where it was")

    def test_12_a_guest_that_its_disk_has_paused_goes_on_when_it_is_back(self):
        """R-F2 R-F1: the server of its volume is gone for longer than QEMU waits, and nobody there to start it."""
        before = self.answer()
        self.cloud.lab("fail", "host-3", "--how", "agent", "--hold")
        kill(self.server_pid())
        self.cloud.wait("the guest is paused by its disk",
                        lambda: self.status()["health_reason"].startswith("disk data"), 90)
        self.cloud.lab("heal", "host-3")
        self.assert_writes_on(before["disk_sequence"])
        self.assertEqual(self.answer()["boot_id"], before["boot_id"], "it went on where it was")

    def test_13_a_volume_outlives_its_vm_and_goes_when_it_is_deleted(self):
        """R-B1: refused while it is used; kept when the VM goes; erased with its data on request."""
        code, words = self.cloud.cli("volume", "delete", "acme/data", check=False)
        self.assertNotEqual(code, 0)
        self.assertIn("has it as a disk", words)
        sequence = self.answer()["disk_sequence"]
        self.cloud.cli("--wait", "vm", "delete", VM, text=True)
        self.cloud.wait("nobody is let in", lambda: self.attached() == [], 30)
        self.cloud.cli("--wait", "vm", "create", VM, "--image", "tiny", "--memory-mib", "128", "--network", "front",
                       "--volume", "data")
        self.cloud.wait_answering([VM], 120)
        self.addresses[VM] = self.cloud.address(VM)
        self.assert_writes_on(sequence)
        self.cloud.cli("--wait", "vm", "delete", VM, text=True)
        self.cloud.cli("volume", "delete", "acme/data", text=True)
        self.cloud.wait("it is gone", lambda: self.cloud.cli("volume", "list") == [], 30)
        self.assertEqual(glob.glob(self.directory + "*/acme/*"), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
