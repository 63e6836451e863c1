"""What tests of faults share: a cloud of three guests, a watcher of their processes, the state that must come back."""

import datetime
import http.client
import json
import os
import signal
import threading
import time
import unittest

from cloud import Cloud, CloudError

LOOK_EVERY_S = 0.002

NETWORK = """
kind: network
meta: {name: front, tenant: acme}
spec: {cluster: lab, subnet: 10.50.0.0/24}
"""
VM = """---
kind: vm
meta: {{name: {name}, tenant: acme}}
spec: {{cluster: lab, image: tiny, memory_mib: 128, disks: [{{name: data, size_mib: 16}}],
       nics: [{{network: front}}]{more}}}
"""


def manifest_of(name, **more):
    return VM.format(name=name, more="".join(f", {key}: {value}" for key, value in more.items()))


def wall_ms(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000


def state_of(pid):
    """The kernel's letter for a process; "" when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def fill_up(path):
    """Writes to a file until its file system has no byte left."""
    with open(path, "wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            pass


def is_hypervisor(pid):
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
            return file.read().startswith("qemu-system")
    except OSError:
        return False


def kill(pid, number=signal.SIGKILL):
    if pid:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


class Watcher(threading.Thread):
    """Looks at the processes of all VMs on all hosts until stop(); notes when each appeared and went."""

    def __init__(self, cloud):
        super().__init__(daemon=True)
        self.cloud = cloud
        self.ended = threading.Event()
        self.looks = 0
        self.hosts = {}     # vm: the hosts where a process of it was at the last look
        self.most = {}      # vm: the most hosts that had a living process of it at one moment
        self.history = []   # (wall clock in ms, vm, hosts)
        self.start()

    def run(self):
        while not self.ended.wait(0.02):
            self.look()

    def look(self):
        copies = self.cloud.copies()
        now_ms = time.time() * 1000
        # Read one after the other: a process that went meanwhile does not count.
        seen = {vm: {host for host, pids in hosts.items() if any(state_of(pid) not in ("", "Z", "X") for pid in pids)}
                for vm, hosts in copies.items()}
        self.looks += 1
        for vm in set(seen) | set(self.hosts):
            hosts = seen.get(vm, set())
            if hosts != self.hosts.get(vm, set()):
                self.history.append((now_ms, vm, sorted(hosts)))
            self.most[vm] = max(self.most.get(vm, 0), len(hosts))
        self.hosts = seen

    def stop(self):
        self.ended.set()
        self.join(timeout=10)
        return self

    def gone_ms(self, vm, host):
        """When the last process of the VM on this host had gone."""
        times = [at for (at, name, hosts), before in self._steps(vm) if host in before and host not in hosts]
        return times[-1] if times else None

    def appeared_ms(self, vm, host):
        """When a process of the VM was first seen on this host after there was none."""
        times = [at for (at, name, hosts), before in self._steps(vm) if host in hosts and host not in before]
        return times[0] if times else None

    def _steps(self, vm):
        before = []
        for entry in list(self.history):
            if entry[1] == vm:
                yield entry, before
                before = entry[2]


class LabCase(unittest.TestCase):
    """One cloud a class, gone with it: make_cloud() begins it, furnish() brings in what the tests need."""

    @classmethod
    def setUpClass(cls):
        cls.cloud = cls.make_cloud()
        try:
            cls.furnish()
        except BaseException:
            cls.cloud.close()
            raise

    @classmethod
    def tearDownClass(cls):
        cls.cloud.close()

    @classmethod
    def bring_in(cls, manifest, vms, packages):
        """The tiny image, the guests of a manifest, and a client on their network who knows their addresses."""
        cls.cloud.build_image(packages)
        cls.cloud.apply(manifest)
        cls.cloud.wait_answering(vms, 180)
        cls.client = cls.cloud.attach_client("acme/front", "10.50.0.250/24")
        cls.addresses = {vm: cls.cloud.address(vm) for vm in vms}


class DiskCase(LabCase):
    """One guest, acme/db, whose witness writes to its volume, acme/data; place() is the test's own."""

    VM = "acme/db"

    def tearDown(self):
        self.cloud.lab("heal")
        self.cloud.wait_hosts(3, 90)

    def status(self):
        return self.cloud.vms()[self.VM]["status"]

    def answer(self, deadline=60):
        return self.cloud.wait(f"{self.VM} answers",
                               lambda: self.cloud.http(self.client, self.addresses[self.VM]), deadline)

    def place(self, name, device=None):
        """A file of the volume on one of its devices."""
        raise NotImplementedError

    def server_pid(self, device=None):
        with open(self.place("server.json", device), encoding="utf-8") as file:
            return json.load(file)["pid"]

    def assert_writes_on(self, acknowledged):
        """Nothing that was acknowledged is missing, nobody else has written, and the disk takes more."""
        answer = self.answer()
        self.assertGreaterEqual(answer["disk_sequence"], acknowledged)
        self.assertEqual(answer["disk_foreign_writes"], 0)
        self.cloud.wait("the disk takes writes",
                        lambda: self.answer()["disk_sequence"] > answer["disk_sequence"], 60)


class VolumeCase(DiskCase):
    """The volume's device is on host-3, which has no guests: it is in maintenance."""

    MANIFEST = """
kind: network
meta: {{name: front, tenant: acme}}
spec: {{cluster: lab, subnet: 10.50.0.0/24}}
---
kind: device
meta: {{name: ssd}}
spec: {{host: host-3, directory: {directory}, capacity_mib: 1000}}
---
kind: volume
meta: {{name: data, tenant: acme}}
spec: {{cluster: lab, size_mib: 64}}
---
kind: vm
meta: {{name: db, tenant: acme}}
spec: {{cluster: lab, image: tiny, memory_mib: 128, disks: [{{name: data, volume: data}}], nics: [{{network: front}}]}}
"""

    @classmethod
    def furnish(cls):
        cls.cloud.wait_hosts(3, 90)
        cls.cloud.cli("host", "maintenance", "host-3")
        cls.directory = os.path.join(cls.cloud.data, "device")
        cls.bring_in(cls.MANIFEST.format(directory=cls.directory), [cls.VM], os.environ["VIRGA_PACKAGES"])


class CloudCase(LabCase):
    """Three guests; settle() is the state from which each test starts and to which it returns."""

    INSTANCE = "case"
    NAMES = ("one", "two", "three")

    @classmethod
    def make_cloud(cls):
        return Cloud(os.environ["VIRGA_BUILD"], cls.INSTANCE)

    @classmethod
    def furnish(cls):
        cls.vms = ["acme/" + name for name in cls.NAMES]
        cls.watcher = None
        cls.cloud.wait_hosts(3, 90)
        cls.bring_in(NETWORK + "".join(manifest_of(name) for name in cls.NAMES), cls.vms, os.environ["VIRGA_PACKAGES"])

    def tearDown(self):
        if self.watcher is not None:
            self.watcher.stop()
        self.cloud.lab("heal")

    # What is

    def status(self, vm):
        return self.cloud.wait(f"the state of {vm}", lambda: self.cloud.vms()[vm]["status"], 30)

    def lab_status(self):
        return self.cloud.lab("status")

    def pids(self):
        """{"server": pid, "host-1.agent": pid, "host-1.leash": pid, ...} as they are now."""
        status = self.lab_status()
        found = {"server": status["server_pid"]}
        for host in status["hosts"]:
            found[host["name"] + ".agent"] = host["agent_pid"]
            found[host["name"] + ".leash"] = host["leash_pid"]
        return found

    def watch(self):
        self.watcher = Watcher(self.cloud)
        return self.watcher

    def events(self, after, kind, subject=None):
        return [e for e in self.cloud.events(after)
                if e["kind"] == kind and subject in (None, e["subject"])]

    def ask(self, path):
        """One GET of the API without the command line, to see states that last a tenth of a second."""
        link = http.client.HTTPConnection("127.0.0.1", self.cloud.port, timeout=2)
        try:
            link.request("GET", path)
            return json.loads(link.getresponse().read())
        except (OSError, http.client.HTTPException, json.JSONDecodeError):
            return None
        finally:
            link.close()

    # What is waited for

    def catch(self, what, condition, deadline=60.0):
        """Like Cloud.wait, with looks close enough to act in the middle of something."""
        end = time.monotonic() + deadline
        while time.monotonic() < end:
            value = condition()
            if value:
                return value
            time.sleep(LOOK_EVERY_S)
        raise CloudError(f"{what}: not within {deadline} s; events: {self.cloud.tail()}")

    def catch_copy(self, vm, wanted, deadline=60.0):
        """Waits until a hypervisor of the VM exists on a host that `wanted` accepts: (host, pid)."""
        def there():
            for host, pids in self.cloud.copies().get(vm, {}).items():
                if wanted(host) and is_hypervisor(pids[0]):
                    return host, pids[0]
            return None
        return self.catch(f"{vm} comes up", there, deadline)

    def http(self, vm):
        if vm not in self.addresses:
            self.addresses[vm] = self.cloud.address(vm)
        return self.cloud.http(self.client, self.addresses[vm])

    def answer(self, vm):
        return self.cloud.wait(f"{vm} answers HTTP", lambda: self.http(vm), 60)

    def unsettled(self, vms):
        """Why the cloud is not at rest; empty: each VM runs once, where it is believed, and nothing is under way."""
        stored, copies = self.cloud.vms(), self.cloud.copies()
        reasons = []
        for vm in vms:
            now = stored[vm]["status"]
            if (now["power"], now["health"]) != ("running", "healthy"):
                reasons.append(f"{vm} is {now['power']} and {now['health']} {now['unplaced_reason']}")
            if now["operation"] or now["migration"]["phase"] != "none":
                reasons.append(f"{vm} is at work: {now['operation']}")
            if list(copies.get(vm, {})) != [now["host"]] or len(copies[vm][now["host"]]) != 1:
                reasons.append(f"{vm} shall be on {now['host']} and is {copies.get(vm)}")
        under_way = [o["meta"]["name"] for o in self.cloud.cli("operation", "list")
                     if o["state"] in ("running", "undoing")]
        hosts = {n: h["status"]["health"] for n, h in self.cloud.hosts().items() if h["status"]["health"] != "alive"}
        return reasons + [f"operation {name} runs" for name in under_way] + [f"{n} is {h}" for n, h in hosts.items()]

    def settle(self, vms=None, deadline=150.0):
        """Waits for rest with all hosts alive; then each VM answers, and its disk had one writer at a time."""
        vms = list(vms or self.vms)
        reasons = ["nothing was seen yet"]

        def at_rest():
            reasons[:] = self.unsettled(vms)
            return not reasons
        try:
            self.cloud.wait("the cloud is at rest", at_rest, deadline)
        except CloudError as problem:
            self.fail(f"{problem}\n" + "\n".join(reasons))
        answers = {vm: self.answer(vm) for vm in vms}
        for vm, answer in answers.items():
            self.assertEqual(answer["disk_foreign_writes"], 0, f"{vm}: {answer}")
        return answers

    def assert_recovery_ended(self, vm):
        """What was remembered of lost copies holds only until the VM runs again."""
        self.cloud.wait(f"the recovery of {vm} has ended", lambda: not self.cloud.vms()[vm]["status"]["recovering"], 15)

    def host_boots(self):
        return {host["name"]: host["boot_id"] for host in self.lab_status()["hosts"]}

    def assert_no_host_was_switched_off(self, boots):
        self.assertEqual(self.host_boots(), boots, self.cloud.tail(40))

    # What is broken

    def hit(self, victim, pids, ends):
        """Kills the victim; `ends` names the hosts: {"source": ..., "destination": ...} and pids of their guests."""
        role, _, program = victim.partition(" ")
        if victim == "server":
            kill(pids["server"])
        elif program == "qemu":
            kill(ends[role + " qemu"])
        else:
            kill(pids[f"{ends[role]}.{program}"])
        return time.time() * 1000

    def ended_before(self, killed_ms, after, kinds, vm):
        """The events which say that the work had been done before the kill."""
        done = [e for e in self.cloud.events(after) if e["kind"] in kinds and e["subject"] == f"vm/{vm}"]
        return [e for e in done if wall_ms(e["at"]) < killed_ms]

    def assert_in_the_middle(self, killed_ms, after, kinds, vm):
        """The work had begun and no event says that it had been done before the kill."""
        early = self.ended_before(killed_ms, after, kinds, vm)
        self.assertEqual(early, [], f"killed at {killed_ms}, too late:\n{self.cloud.tail(20)}")
