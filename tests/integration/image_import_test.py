#!/usr/bin/env python3
"""A disk image as clouds have them, imported and run in the lab: its guest answers, and what is wrong starts none.

VIRGA_BUILD names the build folder; VIRGA_PACKAGES a folder for the tiny guest's Debian packages.
"""

import json
import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
from boot_disk import boot_disk  # noqa: E402
from cloud import Cloud  # noqa: E402
from cloud_case import NETWORK, LabCase  # noqa: E402

ADDRESS = "10.50.0.10"  # the first of the network's; the disk brings it along, as nobody tells its guest


def read(path):
    with open(path, "rb") as file:
        return file.read()


class ImportedImage(LabCase):
    @classmethod
    def make_cloud(cls):
        return Cloud(os.environ["VIRGA_BUILD"], "import", hosts=2)

    @classmethod
    def furnish(cls):
        cls.cloud.wait_hosts(2, 90)
        cls.images = os.path.join(cls.cloud.data, "shared", "images")
        cls.disk = cls.make_disk(os.path.join(cls.cloud.data, "cloud"))
        cls.cloud.apply(NETWORK)

    @classmethod
    def make_disk(cls, path):
        """The tiny guest on a compressed qcow2 that boots from its own first sector."""
        cls.cloud.cli("image", "build", "tiny", "--output", path, "--packages", os.environ["VIRGA_PACKAGES"],
                      text=True, deadline=300)
        with open(os.path.join(path, "manifest.json"), encoding="utf-8") as file:
            command_line = json.load(file)["command_line"]
        kernel, ram_disk = (read(os.path.join(path, name)) for name in ("kernel", "initrd"))
        with open(path + ".raw", "wb") as file:
            file.write(boot_disk(kernel, ram_disk, f"{command_line} virga.name=cloud virga.ip={ADDRESS}/24"))
        subprocess.run(["qemu-img", "convert", "-c", "-O", "qcow2", path + ".raw", path + ".qcow2"],
                       check=True, timeout=60)
        return path + ".qcow2"

    def import_as(self, name, check=True):
        return self.cloud.cli("image", "import", self.disk, "--images-folder", self.images, "--as", name, check=check)

    def start(self, name, image):
        self.cloud.cli("vm", "create", name, "--image", image, "--network", "front", "--memory-mib", "256")

    def test_1_F_B5_the_guest_of_an_imported_disk_runs_and_answers(self):
        image = self.import_as("cloud")
        self.assertEqual(image["spec"]["file_bytes"], os.path.getsize(self.disk))
        self.start("acme/cloud", "cloud")
        self.cloud.wait_answering(["acme/cloud"], 180)
        self.assertEqual(self.cloud.address("acme/cloud"), ADDRESS)
        client = type(self).client = self.cloud.attach_client("acme/front", "10.50.0.250/24")
        answer = self.cloud.wait("the guest answers HTTP", lambda: self.cloud.http(client, ADDRESS), 60)
        self.assertEqual(answer["name"], "cloud")
        root = os.path.join(self.cloud.data, "shared", "vms", "acme", "cloud", "root.qcow2")
        self.assertTrue(os.path.exists(root), "it writes onto a disk of its own")
        self.assertEqual(read(os.path.join(self.images, "cloud", "disk.qcow2")), read(self.disk))

    def test_2_F_B5_a_disk_that_is_not_as_it_was_registered_starts_no_guest(self):
        """R-F7: the image is damaged after it was registered."""
        self.import_as("damaged")
        with open(os.path.join(self.images, "damaged", "disk.qcow2"), "r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last[0] ^ 1]))
        self.start("acme/damaged", "damaged")
        said = self.cloud.wait("the refusal of the host", lambda: next(
            (e["text"] for e in self.cloud.events() if e["subject"] == "vm/acme/damaged" and "SHA-256" in e["text"]),
            None), 60)
        self.assertIn("was registered", said)
        self.assertNotIn("acme/damaged", self.cloud.copies())
        self.cloud.cli("--wait", "vm", "delete", "acme/damaged", text=True)

    def test_3_R_B11_a_vm_of_another_system_is_taken_over_and_answers(self):
        self.cloud.cli("--wait", "vm", "delete", "acme/cloud", text=True)  # the disk knows one address
        description = os.path.join(self.cloud.data, "old.xml")
        with open(description, "w", encoding="utf-8") as file:
            file.write(f"""<domain type='kvm'><name>old</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
                <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os><devices>
                <disk type='file' device='disk'><source file='{self.disk}'/><target dev='vda' bus='virtio'/></disk>
                <interface type='network'><mac address='52:54:00:aa:bb:cc'/><source network='default'/>
                <model type='virtio'/></interface><tpm model='tpm-crb'/></devices></domain>""")
        asked = ["vm", "import", "acme/old", "--domain", description, "--network", "default=front",
                 "--images-folder", self.images]
        plan = self.cloud.cli("--dry-run", *asked)
        self.assertEqual({one["what"] for one in plan["differences"] if one["is_loss"]}, {"tpm"})
        self.assertEqual(plan["vm"]["spec"]["memory_mib"], 256)
        code, said = self.cloud.cli(*asked, check=False)
        self.assertNotEqual(code, 0)
        self.assertIn("--accept-losses", said)
        self.assertNotIn("old", os.listdir(self.images), "nothing was copied")
        self.cloud.cli("--wait", *asked, "--accept-losses")
        self.cloud.wait_answering(["acme/old"], 180)
        self.cloud.wait("the guest answers HTTP", lambda: self.cloud.http(self.client, ADDRESS), 60)
        code, said = self.cloud.cli(*asked, "--accept-losses", check=False)
        self.assertIn("is there already", said)

    def test_3_x_R_B1_R_B4_the_root_disk_is_a_volume_and_its_guest_moves_and_outlives_its_host(self):
        """R-B2: all that it can write lies on volumes: their word lets it start elsewhere."""
        self.cloud.cli("--wait", "vm", "delete", "acme/old", text=True)
        self.cloud.cli("device", "create", "ssd", "--host", "host-2", "--directory",
                       os.path.join(self.cloud.data, "device"), "--capacity-mib", "1000")
        volume = self.cloud.cli("--wait", "volume", "create", "acme/root", "--image", "cloud")
        self.assertEqual(volume["spec"]["size_mib"], self.cloud.api("GET", "images/cloud")["spec"]["size_mib"])
        self.cloud.cli("vm", "create", "acme/rooted", "--image", "cloud", "--root-volume", "root", "--network", "front",
                       "--memory-mib", "256")
        self.cloud.wait_answering(["acme/rooted"], 180)
        boot = self.cloud.wait("it answers HTTP", lambda: self.cloud.http(self.client, ADDRESS), 60)["boot_id"]
        self.assertFalse(os.path.exists(os.path.join(self.cloud.data, "shared", "vms", "acme", "rooted", "root.qcow2")))
        status = lambda: self.cloud.vms()["acme/rooted"]["status"]
        for target in ("host-2", "host-1"):
            if status()["host"] != target:
                self.cloud.cli("--wait", "vm", "migrate", "acme/rooted", "--host", target)
        self.assertEqual(self.cloud.http(self.client, ADDRESS)["boot_id"], boot, "it moved alive")
        after = self.cloud.last_event()
        self.cloud.lab("fail", "host-1", "--how", "power", "--bmc", "silent")
        placed = self.cloud.wait_event(after, ["vm.placed"], "vm/acme/rooted", 60)
        self.assertEqual(placed["facts"]["proof"], "storage_revoked")
        self.cloud.lab("heal")
        again = self.cloud.wait("it boots again from its volume", lambda: next(
            (a for a in [self.cloud.http(self.client, ADDRESS)] if a and a["boot_id"] != boot), None), 180)
        self.assertEqual(again["name"], "cloud")
        self.cloud.wait_hosts(2, 90)

    def test_4_F_B5_what_is_larger_than_the_cluster_takes_is_refused_and_leaves_nothing(self):
        self.cloud.api("PATCH", "clusters/lab", {"spec": {"policy": {"image_mib_max": 5}}})
        code, said = self.import_as("large", check=False)
        self.assertNotEqual(code, 0)
        self.assertIn(f"has {os.path.getsize(self.disk)} bytes; at most {5 << 20} are taken (image_mib_max)", said)
        self.assertNotIn("large", os.listdir(self.images))


if __name__ == "__main__":
    unittest.main()
