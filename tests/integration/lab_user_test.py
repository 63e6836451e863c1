#!/usr/bin/env python3
"""The lab of a user without any right: namespaces of its own, real QEMU guests, faults, and nothing left at the end.

One cloud serves all tests, in the order of their numbers. VIRGA_BUILD names the build folder; VIRGA_PACKAGES a folder
for the tiny guest's Debian packages. The test itself runs as root, to become that user and to look at everything.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
from cloud import Cloud  # noqa: E402
from cloud_case import LabCase  # noqa: E402

USER = 65534
AS_USER = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--bounding-set=-all",
           "--inh-caps=-all"]
INSTANCE = "uns"
PROGRAMS = ("virgad", "virga", "virga-guest")
OPEN_TO_ALL = "/tmp"  # the tests' own folder for such files may be closed to that user
CONTROL = f"/dev/shm/virga-lab-of-{USER}"
MANIFEST = """
kind: network
meta: {name: front, tenant: acme}
spec: {cluster: lab, subnet: 10.50.0.0/24}
---
kind: vm
meta: {name: one, tenant: acme}
spec: {cluster: lab, image: tiny, memory_mib: 128, disks: [{name: data, size_mib: 16}], nics: [{network: front}]}
---
kind: vm
meta: {name: two, tenant: acme}
spec: {cluster: lab, image: tiny, memory_mib: 128, disks: [{name: data, size_mib: 16}], nics: [{network: front}]}
"""
VMS = ["acme/one", "acme/two"]


def until(what, condition, deadline=30):
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {deadline} s: {what}")


def namespace_of(pid, kind="pid"):
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except OSError:  # it has ended
        return None


def is_alive(pid):
    """Not so one that has ended and that its adopter has not yet asked for its exit code."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


def processes_in(pid_namespace):
    return [int(name) for name in os.listdir("/proc")
            if name.isdigit() and namespace_of(name) == pid_namespace and is_alive(name)]


def things_on_the_machine():
    """What a lab of this name could have left outside its data folder."""
    places = {"/run/netns": f"vg-{INSTANCE}-", "/sys/class/net": f"vg-{INSTANCE}", "/run/virga-lab": INSTANCE,
              "/dev/shm": f"virga-lab-{INSTANCE}", "/sys/fs/cgroup/freezer/virga-lab": INSTANCE, CONTROL: INSTANCE}
    found = []
    for folder, start in places.items():
        if os.path.isdir(folder):
            found += [os.path.join(folder, name) for name in os.listdir(folder) if name.startswith(start)]
    return found


def kernel_allows():
    """Whether that user may make a user namespace here: a container, a chroot or a switch may forbid it."""
    return subprocess.run([*AS_USER, "unshare", "--user", "--map-root-user", "true"], capture_output=True, timeout=10,
                          check=False).returncode == 0


class UserCloud(Cloud):
    """A cloud of the user, with the pid namespace in which all of it lives."""

    def __init__(self):
        data = tempfile.mkdtemp(prefix=f"virga-{INSTANCE}-", dir=OPEN_TO_ALL)
        # Programs and packages where the user can read them: the tree may stand in root's own folder.
        self.build = os.path.join(data, "build")
        os.makedirs(os.path.join(self.build, "bin"))
        for program in PROGRAMS:
            shutil.copy2(os.path.join(os.environ["VIRGA_BUILD"], "bin", program), os.path.join(self.build, "bin"))
        self.packages = os.path.join(self.build, "packages")
        shutil.copytree(os.environ["VIRGA_PACKAGES"], self.packages)
        for folder, _, files in os.walk(data):
            for path in [folder, *(os.path.join(folder, name) for name in files)]:
                os.chown(path, USER, USER)
        super().__init__(self.build, INSTANCE, data=data, prefix=AS_USER,
                         options=("--host-cpus", "0.5", "--host-memory-mib", "1024"))
        self.own_data = True
        self.pid_namespace = None

    def wait_up(self):
        self.wait_hosts(3, 90)
        entered = self.lab("status")["enter"].split()
        self.pid_namespace = namespace_of(entered[entered.index("--target") + 1])


class LabOfAUser(LabCase):
    @classmethod
    def make_cloud(cls):
        return UserCloud()

    @classmethod
    def furnish(cls):
        cls.cloud.wait_up()
        cls.bring_in(MANIFEST, VMS, cls.cloud.packages)

    def host_status(self, host):
        return next(one for one in self.cloud.lab("status")["hosts"] if one["name"] == host)

    def status(self, vm):
        return self.cloud.vms()[vm]["status"]

    def answer(self, vm):
        return self.cloud.wait(f"{vm} answers HTTP", lambda: self.cloud.http(self.client, self.addresses[vm]), 60)

    def wait_recovered(self, vm, before):
        def recovered():
            now = self.status(vm)
            return now if now["epoch"] != before["epoch"] and now["health"] == "healthy" else None
        now = self.cloud.wait(f"{vm} answers again", recovered, 120)
        self.answer(vm)
        return now

    def test_1_F_B10_a_user_without_rights_has_a_lab_of_real_guests(self):
        status = self.cloud.lab("status")
        self.assertEqual(status["limits"], "not enforced")
        self.assertEqual({host["cgroup"] for host in status["hosts"]}, {""})
        for host in self.cloud.hosts().values():
            self.assertEqual(host["status"]["capacity"]["cpu_millicores"], 500)
            self.assertEqual(host["status"]["capacity"]["memory_mib"], 1024)
        for vm in VMS:
            self.assertEqual(self.answer(vm)["name"], vm.split("/")[1])
        inside = processes_in(self.cloud.pid_namespace)
        self.assertGreaterEqual(len(inside), 13, "a server, and agent, leash and BMC of three hosts, two guests")
        self.assertEqual({os.stat(f"/proc/{pid}").st_uid for pid in inside}, {USER})
        self.assertEqual([path for path in things_on_the_machine() if not path.startswith(CONTROL)], [])
        self.assertIn("is not enforced", self.cloud.log_tail())

    def test_2_F_B10_a_guest_moves_alive_and_keeps_its_connections(self):
        vm = VMS[0]
        before = self.status(vm)
        boot = self.answer(vm)["boot_id"]
        prober = self.cloud.probe(self.client, [self.addresses[vm]], "ping,echo")
        time.sleep(1)
        self.cloud.cli("vm", "migrate", vm, "--wait")
        time.sleep(2)
        lines = {line["kind"]: line for line in prober.stop()}
        now = self.status(vm)
        self.assertNotEqual(now["host"], before["host"])
        self.assertEqual(self.answer(vm)["boot_id"], boot)
        self.assertEqual(lines["echo"]["connections_lost"], 0)
        self.assertGreater(lines["echo"]["answers"], 50)

    def test_3_F_B10_the_power_of_a_host_is_cut_and_its_guest_answers_elsewhere(self):
        vm = VMS[0]
        before, after = self.status(vm), self.cloud.last_event()
        self.cloud.lab("fail", before["host"], "--how", "power")
        self.assertFalse(self.host_status(before["host"])["powered"])
        now = self.wait_recovered(vm, before)
        self.assertNotEqual(now["host"], before["host"])
        placed = self.cloud.wait_event(after, ["vm.placed"], f"vm/{vm}")
        self.assertEqual(placed["facts"]["proof"], "bmc_power_off")
        self.cloud.lab("heal", before["host"])
        self.cloud.wait_hosts(3, 90)
        self.cloud.wait_answering(VMS)

    def test_4_F_B10_a_stopped_host_is_ended_by_its_watchdog(self):
        vm = VMS[1]
        before = self.status(vm)
        self.cloud.lab("fail", before["host"], "--how", "hang")
        self.assertTrue(self.host_status(before["host"])["frozen"])
        until("the watchdog has fired", lambda: not self.host_status(before["host"])["powered"], 60)
        self.assertNotEqual(self.wait_recovered(vm, before)["host"], before["host"])
        self.cloud.lab("heal", before["host"])
        self.cloud.wait_hosts(3, 90)
        self.cloud.wait_answering(VMS)

    def test_5_F_B10_guests_survive_a_killed_agent(self):
        vm = VMS[1]
        before = self.status(vm)
        boot = self.answer(vm)["boot_id"]
        agent = self.host_status(before["host"])["agent_pid"]
        self.cloud.lab("fail", before["host"], "--how", "agent")
        until("another agent runs", lambda: self.host_status(before["host"])["agent_pid"] not in (0, agent))
        self.cloud.wait_hosts(3, 90)
        self.cloud.wait_answering(VMS)
        self.assertEqual(self.status(vm)["epoch"], before["epoch"])
        self.assertEqual(self.answer(vm)["boot_id"], boot)

    def test_6_F_B10_another_lab_of_that_name_is_refused_and_does_no_harm(self):
        words = [*AS_USER, os.path.join(self.cloud.bin, "virgad"), "dev", "--instance", INSTANCE, "--data",
                 self.cloud.data, "--listen", "127.0.0.1:0"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("runs already", done.stderr)
        self.assertEqual(self.cloud.lab("status")["phase"], "running")

    def test_7_F_B10_its_end_leaves_only_the_data(self):
        self.cloud.process.terminate()
        self.assertEqual(self.cloud.process.wait(60), 0, self.cloud.log_tail())
        self.assertEqual(processes_in(self.cloud.pid_namespace), [])
        self.assertEqual(things_on_the_machine(), [])
        self.assertTrue(os.path.isdir(os.path.join(self.cloud.data, "server")))


class CrashOfAUsersLab(unittest.TestCase):
    def test_F_B10_all_processes_end_with_the_lab_and_clean_removes_the_rest(self):
        cloud = UserCloud()
        try:
            cloud.wait_up()
            self.assertNotEqual(processes_in(cloud.pid_namespace), [])
            cloud.process.send_signal(signal.SIGKILL)
            cloud.process.wait(10)
            until("no process is left", lambda: not processes_in(cloud.pid_namespace))
            words = [*AS_USER, os.path.join(cloud.bin, "virgad"), "dev", "--instance", INSTANCE, "--data", cloud.data,
                     "--clean"]
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(things_on_the_machine(), [])
        finally:
            cloud.close()
            shutil.rmtree(cloud.data, ignore_errors=True)


class WhereTheKernelAllowsNone(unittest.TestCase):
    def test_F_B10_it_says_what_is_missing_and_how_to_get_it(self):
        with tempfile.TemporaryDirectory(prefix=f"virga-{INSTANCE}-", dir=OPEN_TO_ALL) as folder:
            os.chmod(folder, 0o755)
            program = shutil.copy2(os.path.join(os.environ["VIRGA_BUILD"], "bin", "virgad"), folder)
            done = subprocess.run([*AS_USER, program, "dev", "--instance", INSTANCE], capture_output=True, text=True,
                                  timeout=30, check=False)
        self.assertEqual(done.returncode, 1)
        for expected in ("CAP_SYS_ADMIN", "CAP_NET_ADMIN", "user namespace"):
            self.assertIn(expected, done.stderr)


def load_tests(loader, _tests, _pattern):
    cases = (LabOfAUser, CrashOfAUsersLab) if kernel_allows() else (WhereTheKernelAllowsNone,)
    return unittest.TestSuite(loader.loadTestsFromTestCase(case) for case in cases)


if __name__ == "__main__":
    unittest.main()
