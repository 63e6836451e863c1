#!/usr/bin/env python3
"""The lab with real namespaces, cgroups, leashes and BMCs; server and agents are stand-ins."""

import base64
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
VIRGAD = pathlib.Path(os.environ.get("VIRGA_BIN", HERE.parent.parent / "build/dev/bin")) / "virgad"
INSTANCE = "t" + str(os.getpid())[-7:]
CGROUPS = pathlib.Path("/sys/fs/cgroup")
PATIENCE_S = 30


def until(what, condition):
    """Waits for the condition, with a deadline; returns its value."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {PATIENCE_S} s: {what}")


def ask(**request):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
        link.settimeout(PATIENCE_S)
        link.connect(f"/run/virga-lab/{INSTANCE}/control.sock")
        link.send(json.dumps(request).encode())
        reply = json.loads(link.recv(65536))
    if reply["error_code"]:
        raise RuntimeError(f"{reply['error_code']}: {reply['error']}")
    return reply["result"]


def fail(host, how, **more):
    return ask(kind="fail", host=host, how=how, **more)


def status(host):
    return next(one for one in ask(kind="status")["hosts"] if one["name"] == host)


def freezer(host=""):
    v1 = CGROUPS / "freezer" / "virga-lab" / INSTANCE / host
    return v1 if (CGROUPS / "freezer").exists() else CGROUPS / "virga-lab" / INSTANCE / host


def processes(host):
    found = []
    for file in freezer(host).rglob("cgroup.procs"):
        found += [int(pid) for pid in file.read_text().split()]
    return found


def namespaces():
    folder = pathlib.Path("/run/netns")
    return sorted(one.name for one in folder.glob(f"vg-{INSTANCE}-*")) if folder.exists() else []


def leftovers():
    links = [name for name in os.listdir("/sys/class/net") if name.startswith(f"vg-{INSTANCE}")]
    groups = [str(path) for path in CGROUPS.glob(f"*/virga-lab/{INSTANCE}")]
    run = f"/run/virga-lab/{INSTANCE}"
    files = [path for path in (run, run + ".lock", f"/dev/shm/virga-lab-{INSTANCE}") if os.path.exists(path)]
    return namespaces() + links + groups + files


def reaches(name_space, address):
    words = ["ip", "netns", "exec", name_space, "ping", "-c", "1", "-W", "1", address]
    return subprocess.run(words, capture_output=True, timeout=10).returncode == 0


def alive(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rsplit(")", 1)[1].split()[0] != "Z"


class Lab:
    """One `virgad dev`."""

    def __init__(self, data):
        self.data = pathlib.Path(data)
        words = [VIRGAD, "dev", "--hosts", "3", "--instance", INSTANCE, "--data", data, "--listen", "127.0.0.1:0",
                 "--host-cpus", "0.5", "--host-memory-mib", "1024", "--watchdog-s", "3",
                 "--server-program", HERE / "stand_in_server.py", "--agent-program", HERE / "stand_in_agent.py"]
        self.log = open(self.data.parent / "dev.log", "ab")
        self.process = subprocess.Popen(words, stdout=self.log, stderr=self.log, start_new_session=True)
        self.log.close()

    def wait_until_up(self):
        def up():
            if self.process.poll() is not None:
                raise AssertionError("virgad dev ended:\n" + (self.data.parent / "dev.log").read_text())
            try:
                return ask(kind="status")["phase"] == "running"
            except OSError:
                return False
        until("the lab runs", up)
        for host in ("host-1", "host-2", "host-3"):
            self.wait_for_guest(host)
        return self

    def boots(self, host):
        file = self.data / "hosts" / host / "boots"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def guest(self, host):
        """Pid of the host's running guest that belongs to its present boot, once its leash holds it; else 0."""
        folder = self.data / "hosts" / host
        try:
            pid = int((folder / "guest.pid").read_text())
            state = pathlib.Path(f"/dev/shm/virga-lab-{INSTANCE}/{host}/leash.state").read_bytes()
            same = (folder / "guest.boot").read_text() == status(host)["boot_id"]
        except (OSError, ValueError):
            return 0
        return pid if same and alive(pid) and b"acme/web" in state else 0

    def wait_for_guest(self, host):
        return until(f"{host} runs its guest", lambda: self.guest(host))

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


class LabTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="virga-lab-test-")
        cls.lab = Lab(os.path.join(cls.folder, "data"))
        os.makedirs(cls.lab.data, exist_ok=True)
        try:
            cls.lab.wait_until_up()
        except BaseException:
            cls.tearDownClass()
            raise

    @classmethod
    def tearDownClass(cls):
        if cls.lab.process.poll() is None:
            cls.lab.stop()
        subprocess.run([VIRGAD, "dev", "--instance", INSTANCE, "--data", cls.lab.data, "--clean"], timeout=60)
        shutil.rmtree(cls.folder, ignore_errors=True)

    def tearDown(self):
        ask(kind="heal")
        for host in ("host-1", "host-2", "host-3"):
            until(f"{host} is healed", lambda: status(host)["agent_pid"] and status(host)["leash_pid"])

    def assert_reaches(self, name_space, address):
        """One answer is enough: on a busy machine the first may come late."""
        until(f"{name_space} reaches {address}", lambda: reaches(name_space, address))

    def redfish(self, number, reset=None, timeout=5):
        host = f"host-{number}"
        prefix = json.loads((self.lab.data / "lab.json").read_text())["prefix"]
        url = f"http://{prefix}.3.{10 + number}:8000/redfish/v1/Systems/{host}"
        secret = "virga:" + (self.lab.data / "bmc-password").read_text().strip()
        headers = {"Authorization": "Basic " + base64.b64encode(secret.encode()).decode()}
        body = None
        if reset:
            url += "/Actions/ComputerSystem.Reset"
            body = json.dumps({"ResetType": reset}).encode()
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=timeout) as answer:
            text = answer.read()
        return json.loads(text)["PowerState"] if not reset else None

    def test_F_B10_hosts_are_namespaces_with_three_networks_of_their_own(self):
        self.assertEqual(namespaces(), [f"vg-{INSTANCE}-{end}" for end in ("bmc", "client", "h1", "h2", "h3", "sw")])
        prefix = status("host-1")["address"].rsplit(".", 2)[0]
        for network in (0, 1, 2):
            for other in (2, 3):
                self.assert_reaches(f"vg-{INSTANCE}-h1", f"{prefix}.{network}.{10 + other}")
        self.assert_reaches(f"vg-{INSTANCE}-h1", f"{prefix}.0.1")
        self.assertFalse(reaches(f"vg-{INSTANCE}-h1", f"{prefix}.3.11"), "a host must not reach a BMC")
        routes = subprocess.run(["ip", "-4", "route"], capture_output=True, text=True, timeout=10).stdout
        ours = sorted(line.split()[2] for line in routes.splitlines() if line.startswith(prefix + "."))
        self.assertEqual(ours, [f"vg-{INSTANCE}-b", f"vg-{INSTANCE}-m"])

    def test_F_B10_hosts_are_cgroups_with_what_they_declare(self):
        pids = processes("host-1")
        self.assertIn(status("host-1")["agent_pid"], pids)
        self.assertIn(status("host-1")["leash_pid"], pids)
        self.assertIn(self.lab.guest("host-1"), pids)
        if (CGROUPS / "cpu").exists():
            folder = f"virga-lab/{INSTANCE}/host-1"
            quota = int((CGROUPS / "cpu" / folder / "cpu.cfs_quota_us").read_text())
            period = int((CGROUPS / "cpu" / folder / "cpu.cfs_period_us").read_text())
            self.assertEqual(quota * 2, period)
            limit = int((CGROUPS / "memory" / folder / "memory.limit_in_bytes").read_text())
            self.assertEqual(limit, 1024 << 20)
        self.assertEqual(self.lab.boots("host-1")[0]["--cgroup-base"], f"virga-lab/{INSTANCE}/host-1")

    def test_F_B10_hosts_are_registered_as_machines(self):
        lines = (self.lab.data / "server" / "requests").read_text().splitlines()
        requests = [json.loads(line) for line in lines]
        machines = [one["body"] for one in requests if one["path"].startswith("/v1/machines/")][:3]
        self.assertEqual([one["meta"]["name"] for one in machines], ["host-1", "host-2", "host-3"])
        self.assertTrue(machines[0]["spec"]["bmc"]["url"].endswith(":8000/redfish/v1/Systems/host-1"))
        clusters = [one["body"] for one in requests if one["path"] == "/v1/clusters"]
        self.assertEqual(clusters[0]["spec"]["shared_directory"], str(self.lab.data / "shared"))
        token = self.lab.data / "hosts" / "host-2" / "join-token"
        self.assertEqual((token.read_text(), token.stat().st_mode & 0o777), ("once\n", 0o600))

    def test_F_B10_a_power_cut_leaves_nothing_of_the_host_and_healing_is_another_boot(self):
        before = status("host-2")
        guest = self.lab.wait_for_guest("host-2")
        fail("host-2", "power")
        self.assertEqual(processes("host-2"), [])
        self.assertFalse(alive(guest))
        self.assertNotIn(f"vg-{INSTANCE}-h2", namespaces())
        self.assertEqual(self.redfish(2), "Off")
        self.assertFalse(status("host-2")["powered"])
        ask(kind="heal", host="host-2")
        self.assertNotEqual(status("host-2")["boot_id"], before["boot_id"])
        self.lab.wait_for_guest("host-2")
        self.assertEqual(self.redfish(2), "On")

    def test_F_B10_the_bmc_switches_the_host(self):
        before = status("host-3")
        guest = self.lab.wait_for_guest("host-3")
        self.redfish(3, "ForceOff")
        until("host-3 is off", lambda: self.redfish(3) == "Off")
        self.assertEqual(processes("host-3"), [])
        self.assertFalse(alive(guest))
        until("its namespace has ended", lambda: f"vg-{INSTANCE}-h3" not in namespaces())
        self.redfish(3, "On")
        until("host-3 is on", lambda: self.redfish(3) == "On")
        self.assertNotEqual(status("host-3")["boot_id"], before["boot_id"])

    def test_F_B10_the_bmc_lies_or_is_silent_on_demand(self):
        guest = self.lab.wait_for_guest("host-1")
        fail("host-1", "none", bmc="lies")
        self.redfish(1, "ForceOff")
        self.assertEqual(self.redfish(1), "Off")
        self.assertTrue(alive(guest))
        fail("host-1", "none", bmc="silent")
        with self.assertRaises((TimeoutError, urllib.error.URLError)):
            self.redfish(1, timeout=1)
        ask(kind="heal", host="host-1")
        self.assertEqual(self.redfish(1), "On")

    def test_F_B10_a_frozen_host_is_stopped_by_its_watchdog(self):
        guest = self.lab.wait_for_guest("host-1")
        fail("host-1", "hang")
        self.assertTrue(alive(guest))
        self.assertTrue(status("host-1")["frozen"])
        until("the watchdog has fired", lambda: not alive(guest))
        until("nothing of it is left", lambda: not processes("host-1"))

    def test_F_B10_a_host_that_is_healed_while_it_is_switched_off_comes_back(self):
        self.lab.wait_for_guest("host-1")
        before = status("host-1")["boot_id"]
        with open(f"/dev/shm/virga-lab-{INSTANCE}/host-1/power", "w", encoding="utf-8") as switch:
            switch.write("off\n")  # as its BMC does, before it ends the processes and says so
        ask(kind="heal", host="host-1")
        ask(kind="powered_off", host="host-1")
        until("host-1 has booted again", lambda: status("host-1")["boot_id"] != before and status("host-1")["powered"])
        self.lab.wait_for_guest("host-1")
        self.assertEqual(self.redfish(1), "On")

    def test_F_B10_links_are_cut_and_mended(self):
        prefix = status("host-1")["address"].rsplit(".", 2)[0]
        h1, storage, management = f"vg-{INSTANCE}-h1", f"{prefix}.1.12", f"{prefix}.0.12"
        fail("host-2", "link", network="storage")
        self.assertFalse(reaches(h1, storage))
        self.assert_reaches(h1, management)
        ask(kind="heal", host="host-2")
        tenant = f"{prefix}.2.12"
        self.assert_reaches(h1, tenant)
        fail("host-2", "link", network="tenant")
        self.assertFalse(reaches(h1, tenant))
        self.assert_reaches(h1, storage)
        self.assert_reaches(h1, management)
        self.assertEqual(status("host-2")["cut"], ["tenant"])
        fail("host-2", "link", network="all")
        self.assertFalse(reaches(h1, management))
        self.assertEqual(status("host-2")["cut"], ["management", "storage", "tenant", "outside"])
        ask(kind="heal", host="host-2")
        self.assert_reaches(h1, storage)
        self.assert_reaches(h1, management)

    def assert_loses_one_way(self, how, silent, hears):
        """`silent` and `hears` are hosts: of a ping to the other the request or the answer arrives there, no more."""
        prefix = status("host-1")["address"].rsplit(".", 2)[0]
        spaces = {name: f"vg-{INSTANCE}-h{name[-1]}" for name in (silent, hears)}
        addresses = {name: f"{prefix}.0.{10 + int(name[-1])}" for name in (silent, hears)}
        self.assert_reaches(spaces[hears], addresses[silent])
        fail("host-3", how, network="management")
        self.assertFalse(reaches(spaces[hears], addresses[silent]))

        def received():
            words = ["ip", "netns", "exec", spaces[hears], "cat", "/proc/net/snmp"]
            text = subprocess.run(words, capture_output=True, text=True, timeout=10).stdout
            return int([line for line in text.splitlines() if line.startswith("Icmp:")][1].split()[1])

        before = received()
        # Their neighbour is still known to both, so that packets leave; those in one direction are what is lost.
        self.assertFalse(reaches(spaces[silent], addresses[hears]))
        self.assertGreater(received(), before)
        key, other = ("deaf", "mute") if how == "link_in" else ("mute", "deaf")
        self.assertEqual((status("host-3")[key], status("host-3")[other]), (["management"], []))
        ask(kind="heal", host="host-3")
        self.assert_reaches(spaces[hears], addresses[silent])

    def test_F_B10_a_one_way_link_loses_frames_to_the_host_only(self):
        self.assert_loses_one_way("link_in", silent="host-3", hears="host-1")

    def test_F_B10_a_one_way_link_loses_frames_from_the_host_only(self):
        self.assert_loses_one_way("link_out", silent="host-1", hears="host-3")

    def test_F_F2_a_killed_agent_comes_back_and_its_guest_never_noticed(self):
        guest = self.lab.wait_for_guest("host-1")
        before = status("host-1")
        fail("host-1", "agent")
        until("another agent runs", lambda: status("host-1")["agent_pid"] not in (0, before["agent_pid"]))
        until("it has joined the leash", lambda: len(self.lab.boots("host-1")) >= 2)
        self.assertEqual(self.lab.boots("host-1")[-1]["boot_id"], before["boot_id"])
        self.assertTrue(alive(guest))

    def test_F_B6_an_agent_that_stays_down_loses_its_guest_to_the_leash(self):
        guest = self.lab.wait_for_guest("host-2")
        begin = time.monotonic()
        fail("host-2", "agent", hold=True)
        until("the leash has killed the guest", lambda: not alive(guest))
        self.assertLess(time.monotonic() - begin, 4.5)
        self.assertEqual(status("host-2")["held_down"], ["host-2.agent"])
        self.assertEqual(status("host-2")["agent_pid"], 0)
        ask(kind="fail", host="host-2", how="power")

    def test_F_F3_a_killed_leash_comes_back_and_still_holds_the_guest(self):
        guest = self.lab.wait_for_guest("host-3")
        before = status("host-3")["leash_pid"]
        fail("host-3", "leash")
        until("another leash runs", lambda: status("host-3")["leash_pid"] not in (0, before))
        self.assertTrue(alive(guest))
        fail("host-3", "agent", hold=True)
        until("the leash has killed the guest", lambda: not alive(guest))
        fail("host-3", "power")

    def test_F_B10_qemu_is_killed_alone(self):
        guest = self.lab.wait_for_guest("host-1")
        before = status("host-1")
        fail("host-1", "qemu")
        until("the guest is gone", lambda: not alive(guest))
        self.assertEqual(status("host-1")["agent_pid"], before["agent_pid"])
        fail("host-1", "power")

    def test_F_B10_the_server_can_be_killed_and_frozen(self):
        before = ask(kind="status")["server_pid"]
        fail("server", "power")
        until("another server runs", lambda: ask(kind="status")["server_pid"] not in (0, before))
        fail("server", "hang")
        self.assertTrue(ask(kind="status")["server_frozen"])
        ask(kind="heal", host="server")
        self.assertFalse(ask(kind="status")["server_frozen"])

    def test_F_B10_the_client_reaches_guests_of_a_tenant_network(self):
        host = f"vg-{INSTANCE}-h1"
        client = status("host-1")["tenant_address"].rsplit(".", 1)[0] + ".250"
        subprocess.run(f"ip -n {host} link add vx77 type vxlan id 77 local {status('host-1')['tenant_address']} "
                       f"dstport 4789 && ip -n {host} addr add 10.50.0.10/24 dev vx77 && "
                       f"ip -n {host} link set vx77 up && "
                       f"bridge -n {host} fdb append 00:00:00:00:00:00 dev vx77 dst {client} self permanent",
                       shell=True, check=True, timeout=20)
        made = ask(kind="attach_client", vni=77, address="10.50.0.250/24")
        self.assertEqual(made, {"namespace": f"vg-{INSTANCE}-client", "device": "vx77", "mac": "52:54:ff:00:00:4d",
                                "tunnel_address": client})
        self.assert_reaches(made["namespace"], "10.50.0.10")

    def test_F_B10_wrong_requests_are_refused_with_what_would_be_right(self):
        for request, words in (({"kind": "fail", "host": "host-9", "how": "power"}, "host-1 to host-3"),
                               ({"kind": "fail", "host": "host-1", "how": "melt"}, "power, hang, link"),
                               ({"kind": "fail", "host": "host-1", "how": "none", "bmc": "x"}, "silent"),
                               ({"kind": "attach_client", "vni": 0, "address": "1.2.3.4/24"}, "16777215"),
                               ({"kind": "status", "surprise": 1}, "surprise")):
            with self.assertRaisesRegex(RuntimeError, words):
                ask(**request)

    def test_a_second_lab_of_that_name_is_refused(self):
        words = [VIRGAD, "dev", "--instance", INSTANCE, "--data", self.lab.data]
        done = subprocess.run(words, capture_output=True, text=True, timeout=30)
        self.assertEqual(done.returncode, 1)
        self.assertIn("runs already", done.stderr)


class LabCrashTest(unittest.TestCase):
    def test_F_B10_the_next_start_cleans_up_after_a_crash_and_the_end_leaves_nothing(self):
        with tempfile.TemporaryDirectory(prefix="virga-lab-test-") as folder:
            data = os.path.join(folder, "data")
            os.makedirs(data)
            lab = Lab(data).wait_until_up()
            guest = lab.wait_for_guest("host-1")
            boot = status("host-1")["boot_id"]
            fail("host-2", "hang")
            lab.stop(signal.SIGKILL)
            self.assertTrue(alive(guest))
            again = Lab(data)
            try:
                again.wait_until_up()
                self.assertFalse(alive(guest))
                self.assertNotEqual(status("host-1")["boot_id"], boot)
            finally:
                code = again.stop()
            self.assertEqual(code, 0)
            self.assertEqual(leftovers(), [])

    def test_F_B10_clean_removes_what_a_crash_left(self):
        with tempfile.TemporaryDirectory(prefix="virga-lab-test-") as folder:
            data = os.path.join(folder, "data")
            os.makedirs(data)
            lab = Lab(data).wait_until_up()
            lab.stop(signal.SIGKILL)
            self.assertNotEqual(leftovers(), [])
            words = [VIRGAD, "dev", "--instance", INSTANCE, "--data", data, "--clean"]
            self.assertEqual(subprocess.run(words, timeout=60).returncode, 0)
            self.assertEqual(leftovers(), [])

    def test_F_B10_says_what_rights_are_missing(self):
        # The limit holds in the user namespace that unshare makes, and so for the lab alone.
        forbid = "echo 0 > /proc/sys/user/max_user_namespaces && exec "
        words = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", str(VIRGAD), "dev", "--instance", INSTANCE]
        done = subprocess.run(["unshare", "--user", "--map-root-user", "sh", "-c", forbid + " ".join(words)],
                              capture_output=True, text=True, timeout=30)
        self.assertEqual(done.returncode, 1)
        for expected in ("CAP_SYS_ADMIN", "CAP_NET_ADMIN", "sudo", "make a user namespace: No space left",
                         "sysctl user.max_user_namespaces=1000"):
            self.assertIn(expected, done.stderr)


if __name__ == "__main__":
    unittest.main()
