#!/usr/bin/env python3
"""A kill in the middle of work, on real guests: of a create, a live move, a restart after a power cut, an evacuation.

One cloud serves all tests. A watcher counts the processes of each VM over all hosts, as they really are.
VIRGA_BUILD names the build folder; VIRGA_PACKAGES a folder for the tiny guest's Debian packages.
"""

import os
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
from cloud_case import CloudCase, kill, manifest_of, wall_ms  # noqa: E402


class Kills(CloudCase):
    INSTANCE = "ftk"

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

    def assert_in_the_middle(self, killed_ms, after, kinds, vm):
        """The work had begun and no event says that it had been done before the kill."""
        done = [e for e in self.cloud.events(after) if e["kind"] in kinds and e["subject"] == f"vm/{vm}"]
        early = [e for e in done if wall_ms(e["at"]) < killed_ms]
        self.assertEqual(early, [], f"killed at {killed_ms}, too late:\n{self.cloud.tail(20)}")

    def test_F_F7_a_kill_in_the_middle_of_a_restart_elsewhere(self):
        vm = self.vms[0]
        for victim in ("server", "destination agent", "destination qemu"):
            with self.subTest(victim=victim):
                before, after, pids = self.status(vm), self.cloud.last_event(), self.pids()
                watcher = self.watch()
                self.cloud.lab("fail", before["host"], "--how", "power")
                host, pid = self.catch_copy(vm, lambda host, old=before["host"]: host != old)
                killed_ms = self.hit(victim, pids, {"destination": host, "destination qemu": pid})

                def recovered(epoch=before["epoch"]):
                    now = self.cloud.vms()[vm]["status"]
                    return now["epoch"] != epoch and now["health"] == "healthy"
                self.cloud.wait(f"{vm} runs again", recovered, 120)
                self.cloud.lab("heal", before["host"])
                self.settle()
                self.assertNotEqual(self.status(vm)["host"], before["host"])
                self.assert_in_the_middle(killed_ms, after, ["vm.started"], vm)
                self.assertEqual(set(watcher.stop().most.values()), {1}, watcher.history)
                self.assert_recovery_ended(vm)

    def test_F_F5_a_kill_in_the_middle_of_a_create(self):
        for index, victim in enumerate(("server", "destination agent", "destination leash", "destination qemu")):
            with self.subTest(victim=victim):
                name, after, pids = f"new-{index}", self.cloud.last_event(), self.pids()
                watcher = self.watch()
                self.cloud.apply(manifest_of(name))
                vm = "acme/" + name
                host, pid = self.catch_copy(vm, lambda host: True)
                killed_ms = self.hit(victim, pids, {"destination": host, "destination qemu": pid})
                self.settle([*self.vms, vm])
                self.assert_in_the_middle(killed_ms, after, ["vm.started"], vm)
                self.assert_no_host_was_lost(after)
                self.assertEqual(set(watcher.stop().most.values()), {1}, watcher.history)
                self.cloud.cli("vm", "delete", vm, text=True)
                self.cloud.wait(f"{vm} is gone", lambda vm=vm: vm not in self.cloud.vms(), 60)
                self.assertNotIn(vm, self.cloud.copies())

    def switching(self, vm):
        found = self.ask(f"/v1/vms/{vm}")
        return found and found["status"]["migration"]["phase"] == "switching"

    def move_and_kill(self, vm, victim, moment):
        before, after, pids = self.status(vm), self.cloud.last_event(), self.pids()
        source = before["host"]
        destination = next(host for host in sorted(self.cloud.hosts()) if host != source)
        source_pid = self.cloud.copies()[vm][source][0]
        boot = self.answer(vm)["boot_id"]
        watcher = self.watch()
        self.cloud.cli("vm", "migrate", vm, "--host", destination)
        _, pid = self.catch_copy(vm, lambda host: host == destination)
        if moment == "switching":
            self.catch("the move is switching", lambda: self.switching(vm), 10)
        ends = {"source": source, "destination": destination, "source qemu": source_pid, "destination qemu": pid}
        killed_ms = self.hit(victim, pids, ends)
        answers = self.settle()
        self.assert_in_the_middle(killed_ms, after, ["vm.moved", "vm.move_failed"], vm)
        self.assert_no_host_was_lost(after)
        self.assertLessEqual(watcher.stop().most[vm], 2, watcher.history)
        return answers[vm]["boot_id"] == boot

    def test_F_F6_a_kill_in_the_middle_of_a_migration(self):
        victims = ("server", "source agent", "destination agent", "source leash", "source qemu", "destination qemu")
        for moment in ("prepared", "switching"):
            for victim in victims:
                with self.subTest(victim=victim, moment=moment):
                    began = time.monotonic()
                    same = self.move_and_kill(self.vms[1], victim, moment)
                    print(moment, victim, "same boot" if same else "restarted", round(time.monotonic() - began, 1))

    def test_F_F8_a_kill_in_the_middle_of_an_evacuation(self):
        for victim in ("server", "source agent", "destination agent", "source leash", "source qemu",
                       "destination qemu"):
            with self.subTest(victim=victim):
                began = time.monotonic()
                after, pids = self.cloud.last_event(), self.pids()
                copies = self.cloud.copies()
                source = max(sorted(self.cloud.hosts()), key=lambda host: sum(host in on for on in copies.values()))
                vm = next(vm for vm in self.vms if source in copies[vm])
                watcher = self.watch()
                self.cloud.cli("host", "maintenance", source, text=True)
                host, pid = self.catch_copy(vm, lambda host, old=source: host != old)
                ends = {"source": source, "destination": host,
                        "source qemu": copies[vm][source][0], "destination qemu": pid}
                killed_ms = self.hit(victim, pids, ends)
                self.cloud.wait(f"{source} is empty",
                                lambda old=source: all(old not in on for on in self.cloud.copies().values()), 120)
                self.settle()
                self.assert_in_the_middle(killed_ms, after, ["vm.moved", "vm.move_failed"], vm)
                self.assert_no_host_was_lost(after)
                self.assertLessEqual(max(watcher.stop().most.values()), 2, watcher.history)
                self.assertTrue(all(now["status"]["host"] != source for now in self.cloud.vms().values()))
                self.cloud.cli("host", "activate", source)
                print(victim, round(time.monotonic() - began, 1))


if __name__ == "__main__":
    unittest.main(verbosity=2)
