#!/usr/bin/env python3
"""Losses on real guests: the server while a host dies, a frozen server, an old backup, hosts, agents, room on a disk,
ten thousand silent clients.

One cloud serves all tests. A watcher counts the processes of each VM over all hosts, as they really are.
VIRGA_BUILD names the build folder; VIRGA_PACKAGES a folder for the tiny guest's Debian packages.
"""

import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
from cloud_case import CloudCase, fill_up, kill, manifest_of, wall_ms  # noqa: E402

FROZEN_S = 30
IDLE = 10_000
HELD_S = 8  # far longer than a server needs to notice a dead host and to switch it off


class Outages(CloudCase):
    INSTANCE = "outage"

    def host_of(self, vm):
        return self.status(vm)["host"]

    def assert_one_copy_each(self):
        """At no moment had two hosts a process of the same VM."""
        watcher = self.watcher.stop()
        self.assertGreater(watcher.looks, 10)
        self.assertEqual(max(watcher.most.values()), 1, watcher.history)

    def cut_power(self, hosts):
        """Of all these hosts within the same moment."""
        cuts = [threading.Thread(target=self.cloud.lab, args=("fail", host, "--how", "power")) for host in hosts]
        for cut in cuts:
            cut.start()
        return cuts

    def heal_and_settle(self):
        self.cloud.lab("heal")
        return self.settle()

    def test_F_F10_the_server_dies_while_a_host_dies(self):
        vm = self.vms[0]
        before, server = self.status(vm), self.pids()["server"]
        self.watch()
        cuts = self.cut_power([before["host"]])
        kill(server)
        for cut in cuts:
            cut.join()
        now = self.cloud.wait(f"{vm} runs elsewhere", lambda: self.restarted(vm, before), 120)
        self.assertNotEqual(now["host"], before["host"])
        self.heal_and_settle()
        self.assert_one_copy_each()
        self.assert_recovery_ended(vm)

    def restarted(self, vm, before):
        now = self.cloud.vms()[vm]["status"]
        return now if now["epoch"] != before["epoch"] and now["health"] == "healthy" else None

    def test_F_F12_the_server_stands_still_for_30_s(self):
        before, boots = {vm: self.status(vm) for vm in self.vms}, self.host_boots()
        self.watch()
        began = time.monotonic()
        self.cloud.lab("fail", "server", "--how", "hang")
        # Leases end while nobody grants them: each host stops its guests by itself.
        self.catch("all hosts have stopped their guests", lambda: not self.cloud.copies(), FROZEN_S)
        time.sleep(max(0.0, began + FROZEN_S - time.monotonic()))
        self.assertEqual(self.cloud.copies(), {}, "started without a lease")
        self.cloud.lab("heal", "server")
        for vm in self.vms:
            self.cloud.wait(f"{vm} runs again", lambda vm=vm: self.restarted(vm, before[vm]), 120)
        self.settle()
        self.assert_no_host_was_switched_off(boots)
        self.assert_one_copy_each()

    def test_F_F16_two_hosts_are_lost_at_once(self):
        vm = self.vms[0]
        kept = next(host for host in sorted(self.cloud.hosts()) if host != self.host_of(vm))
        lost = [host for host in self.cloud.hosts() if host != kept]
        self.watch()
        for cut in self.cut_power(lost):
            cut.join()

        def all_there():
            return all(list(self.cloud.copies().get(vm, {})) == [kept] for vm in self.vms) and not self.running_ones()
        self.cloud.wait(f"all VMs run on {kept}", all_there, 120)
        for vm in self.vms:
            self.answer(vm)
        self.heal_and_settle()
        self.assert_one_copy_each()

    def running_ones(self):
        """VMs that are not yet what they shall be."""
        return [name for name, vm in self.cloud.vms().items() if vm["status"]["health"] != "healthy"]

    def test_F_F17_all_hosts_are_lost_at_once(self):
        before = {vm: self.status(vm) for vm in self.vms}
        self.watch()
        for cut in self.cut_power(sorted(self.cloud.hosts())):
            cut.join()
        self.assertEqual(self.cloud.copies(), {})
        self.cloud.wait("all hosts are missed",
                        lambda: all(h["status"]["health"] != "alive" for h in self.cloud.hosts().values()), 60)
        self.cloud.lab("heal")
        for vm in self.vms:
            self.cloud.wait(f"{vm} runs again", lambda vm=vm: self.restarted(vm, before[vm]), 150)
        self.settle()
        self.assert_one_copy_each()

    def peers_by_file(self, host):
        path = os.path.join(self.cloud.data, "hosts", host, "run", "status.json")
        return {p["host"]: p for p in self.cloud.cli("host", "peers", host, "--agent-status", path)}

    def test_F_B7_hosts_see_one_another_without_a_server(self):
        hosts = sorted(self.cloud.hosts())
        for host in hosts:
            self.cloud.wait(f"{host} sees all others", lambda host=host: {"alive"} == {
                peer["health"] for peer in self.cloud.cli("host", "peers", host)}, 30)
        self.cloud.lab("fail", "server", "--how", "power", "--hold")
        code, words = self.cloud.cli("host", "list", check=False)
        self.assertNotEqual(code, 0, words)
        listed = subprocess.run([os.path.join(self.cloud.bin, "virgad"), "agent", "list", "-o", "json", "--shared",
                                 os.path.join(self.cloud.data, "shared")], capture_output=True, check=True, timeout=20)
        self.assertEqual([launch["vm"] for launch in json.loads(listed.stdout)], sorted(self.vms))
        for host in hosts:
            alive = {name: "alive" for name in hosts if name != host}
            self.cloud.wait(f"{host} shows all others", lambda host=host, alive=alive: alive == {
                name: peer["health"] for name, peer in self.peers_by_file(host).items()}, 20)
        self.cloud.lab("fail", hosts[2], "--how", "power")
        for host in hosts[:2]:
            self.cloud.wait(f"{host} misses {hosts[2]}",
                            lambda host=host: self.peers_by_file(host)[hosts[2]]["health"] != "alive", 30)
        other = self.peers_by_file(hosts[0])[hosts[1]]
        self.assertEqual(other["health"], "alive")
        self.heal_and_settle()

    def stand_still(self, vm, stop, proof):
        """The agent under a VM stops and its BMC is silent: the leash ends the guest before it starts elsewhere."""
        before, after = self.status(vm), self.cloud.last_event()
        host = before["host"]
        watcher = self.watch()
        self.cloud.lab("fail", host, "--how", "none", "--bmc", "silent")
        stop(host)
        now = self.cloud.wait(f"{vm} runs elsewhere", lambda: self.restarted(vm, before), 120)
        self.assertNotEqual(now["host"], host)
        placed = next(e for e in self.events(after, "vm.placed", f"vm/{vm}"))
        self.assertEqual(placed["facts"]["proof"], proof)
        gone_ms, appeared_ms = watcher.gone_ms(vm, host), watcher.appeared_ms(vm, now["host"])
        self.assertLess(gone_ms, wall_ms(placed["at"]))
        self.assertLess(gone_ms, appeared_ms)
        self.assert_one_copy_each()

    def test_F_F2_F_F9_a_killed_agent_that_stays_away_loses_its_guests_to_the_leash(self):
        def stop(host):
            self.cloud.lab("fail", host, "--how", "agent", "--hold")
        self.stand_still(self.vms[1], stop, "lease_and_leash")
        self.heal_and_settle()

    def test_F_F9_a_stopped_agent_loses_its_guests_to_the_leash_and_finds_them_moved(self):
        agents = []

        def stop(host):
            agents.append(self.pids()[host + ".agent"])
            kill(agents[0], signal.SIGSTOP)
        try:
            self.stand_still(self.vms[2], stop, "lease_and_leash")
            watcher = self.watch()
        finally:
            kill(agents[0], signal.SIGCONT)
        self.heal_and_settle()
        self.assertEqual(max(watcher.stop().most.values()), 1, watcher.history)

    def test_F_B6_F_F9_a_host_that_is_back_while_it_may_still_be_switched_off_keeps_its_guests(self):
        vm = self.vms[2]
        before, boot, after = self.status(vm), self.answer(vm)["boot_id"], self.cloud.last_event()
        host, agent = before["host"], self.pids()[before["host"] + ".agent"]
        self.cloud.lab("fail", host, "--how", "none", "--bmc", "silent")
        kill(agent, signal.SIGSTOP)
        try:
            self.cloud.wait(f"{host} is taken for dead", lambda: self.events(after, "host.dead", f"host/{host}"), 8)
        finally:
            kill(agent, signal.SIGCONT)
        self.cloud.wait(f"{host} is back", lambda: self.cloud.hosts()[host]["status"]["health"] == "alive", 10)
        # Its controller has not answered yet; when its time is over, the lease of before would be as well.
        self.cloud.wait("the controller's time is over",
                        lambda: self.events(after, "host.fence_failed", f"host/{host}"), 30)
        self.assertEqual(self.answer(vm)["boot_id"], boot, "its guest ran on all the time")
        self.assertEqual(self.status(vm)["epoch"], before["epoch"])
        self.heal_and_settle()

    def test_F_F11_an_old_backup_is_restored_under_running_vms(self):
        moved, rests, lost = self.vms
        self.cloud.cli("backup", "old")
        self.cloud.cli("vm", "migrate", moved, "--wait")
        self.cloud.apply(manifest_of("late"))
        self.addCleanup(self.end_stray, "acme/late")
        self.settle([*self.vms, "acme/late"])
        before = {vm: self.status(vm) for vm in [*self.vms, "acme/late"]}
        boots = {vm: self.answer(vm)["boot_id"] for vm in (moved, rests)}
        after = self.cloud.last_event()
        dark = before[lost]["host"]
        self.watch()
        self.cloud.restore("old", lambda: self.cloud.lab("fail", dark, "--how", "power"))
        self.cloud.wait(f"{moved} is adopted", lambda: self.events(after, "vm.adopted", f"vm/{moved}"), 60)
        self.stays("nothing is started or switched off while a host has not reported",
                   lambda: not self.events(after, "vm.placed") and not self.fences())
        self.cloud.cli("cluster", "arm", "lab", text=True)
        self.cloud.wait(f"{lost} runs elsewhere", lambda: self.restarted(lost, before[lost]), 120)
        self.heal_and_settle()
        for vm in (moved, rests):
            if before[vm]["host"] != dark:
                self.assertEqual(self.answer(vm)["boot_id"], boots[vm])
                self.assertEqual(self.status(vm)["epoch"], before[vm]["epoch"])
        self.assertNotIn("acme/late", self.cloud.vms())
        self.assertEqual(len(self.cloud.copies()["acme/late"]), 1)

    def fences(self):
        return [o for o in self.cloud.cli("operation", "list")
                if o["kind"] == "fence_host" and o["state"] in ("running", "undoing")]

    def stays(self, what, condition):
        end = time.monotonic() + HELD_S
        while time.monotonic() < end:
            self.assertTrue(condition(), f"{what}:\n{self.cloud.tail()}")
            time.sleep(0.2)

    def end_stray(self, vm):
        """A guest that the store does not know is left alone; whoever vouches for it ends it."""
        for pids in self.cloud.copies().get(vm, {}).values():
            for pid in pids:
                kill(pid)
        self.cloud.wait(f"{vm} has ended", lambda: vm not in self.cloud.copies(), 30)

    def test_F_F13_a_full_disk_pauses_the_guest_and_says_so(self):
        vm = "acme/full"
        folder = os.path.join(self.cloud.data, "shared", "vms", vm)
        os.makedirs(folder)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", folder], check=True, timeout=20)
        self.addCleanup(subprocess.run, ["umount", "-l", folder], check=False, capture_output=True, timeout=20)
        filler = os.path.join(folder, "filler")
        self.cloud.apply(manifest_of("full"))
        host, pid = self.catch_copy(vm, lambda host: True)
        fill_up(filler)

        def paused():
            now = self.status(vm)
            return now if (now["power"], now["health"]) == ("paused", "failing") else None
        now = self.cloud.wait(f"{vm} is paused", paused, 120)
        self.assertEqual(now["health_reason"], "disk data: no space left")
        self.assertEqual(self.cloud.copies()[vm], {host: [pid]})
        self.cloud.wait_answering(self.vms)
        os.remove(filler)
        # Its writes have waited; with room again they are made, and the guest goes on by itself.
        answer = self.settle([*self.vms, vm])[vm]
        self.assertEqual(self.cloud.copies()[vm], {host: [pid]})
        self.assertEqual(answer["disk_errors"], 0)
        self.cloud.cli("vm", "stop", vm, "--wait", text=True)
        subprocess.run(["umount", folder], check=True, timeout=20)
        self.cloud.cli("vm", "delete", vm, text=True)
        self.cloud.wait(f"{vm} is gone", lambda: vm not in self.cloud.vms() and vm not in self.cloud.copies(), 60)

    def test_F_F29_ten_thousand_connections_that_say_nothing(self):
        """They take nothing from others: the API answers, hosts keep their leases, a VM is made and answers."""
        self.settle()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.assertGreaterEqual(hard, IDLE + 200, "raise the hard limit of open files (ulimit -Hn)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (IDLE + 200, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        server, after = self.pids()["server"], self.cloud.last_event()
        idle = []
        self.addCleanup(lambda: [link.close() for link in idle])
        for _ in range(IDLE):
            idle.append(socket.create_connection(("127.0.0.1", self.cloud.port), timeout=10))
            self.ask_health(idle[-1])  # who says nothing at all is a client for 10 s only
        self.hear(idle)
        self.assertGreater(len(os.listdir(f"/proc/{server}/fd")), IDLE)
        waits = []
        for _ in range(100):
            begun = time.monotonic()
            self.cloud.api("GET", "vms")
            waits.append(time.monotonic() - begun)
        print(f"{IDLE} idle connections: GET vms median {statistics.median(waits) * 1000:.1f} ms")
        for link in idle:
            self.ask_health(link)
        self.hear(idle)
        self.addCleanup(self.cloud.cli, "vm", "delete", "acme/beside", check=False)
        self.cloud.apply(manifest_of("beside"))
        self.cloud.wait_answering(["acme/beside"], 45)
        self.assertGreater(len(os.listdir(f"/proc/{server}/fd")), IDLE, "all were there until now")
        self.assertEqual(self.events(after, "host.suspect"), [])
        for link in idle:
            link.close()
        self.cloud.wait("they are forgotten", lambda: len(os.listdir(f"/proc/{server}/fd")) < 1000, 60)
        self.cloud.cli("vm", "stop", "acme/beside", "--wait", text=True)
        self.cloud.cli("vm", "delete", "acme/beside", text=True)
        self.cloud.wait("acme/beside is gone", lambda: "acme/beside" not in self.cloud.vms(), 60)

    def ask_health(self, link):
        """After its answer it is a client that may be silent for a minute."""
        link.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")

    def hear(self, links):
        refused = [answer for answer in (link.recv(4096) for link in links) if b" 200 " not in answer]
        self.assertEqual((len(refused), refused[:1]), (0, []))


if __name__ == "__main__":
    unittest.main(verbosity=2)
