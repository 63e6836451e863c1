#!/usr/bin/env python3
"""A kill in the middle of a live move, on real guests: of a single one and of an evacuation.

One cloud serves all tests. A watcher counts the processes of each VM over all hosts, as they really are.
VIRGA_BUILD names the build folder; VIRGA_PACKAGES a folder for the tiny guest's Debian packages.
"""

import itertools
import os
import signal
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
from cloud import CloudError  # noqa: E402
from cloud_case import CloudCase, kill  # noqa: E402

ENDS = ["vm.moved", "vm.move_failed"]
TRIES_MAX = 16
SEND_STEP = 1         # of a move: 0 prepare, 1 send, 2 switch, 3 clean
CONNECTED_S = (0.02, 0.04, 0.08, 0.16)  # from the begin of the send until the destination's agent has the connection
HELD_S = 1.5          # far below the lease
VICTIMS = ("server", "source agent", "destination agent", "source leash", "source qemu", "destination leash",
           "destination qemu")


class Moves(CloudCase):
    INSTANCE = "moves"

    def phase(self, vm):
        found = self.ask(f"/v1/vms/{vm}")
        return found["status"]["migration"]["phase"] if found else ""

    def sends(self, vm):
        operation = (self.ask(f"/v1/vms/{vm}") or {"status": {"operation": ""}})["status"]["operation"]
        found = self.ask(f"/v1/operations/{operation}") if operation else None
        return bool(found) and found.get("cursor") == SEND_STEP

    def over(self, vm, after):
        return any(e["kind"] in ENDS and e["subject"] == f"vm/{vm}" for e in self.cloud.events(after))

    def caught(self, vm, moment, destination, agent, after, patience):
        """The pid of the incoming copy at that moment; None when the move was over before anybody looked.

        The switch takes some tens of milliseconds. It lasts until the destination's agent acts: that one is stopped
        while the memory goes over, and stays so until the caller lets it go on."""
        _, pid = self.catch_copy(vm, lambda host: host == destination)
        if moment == "prepared":
            return pid
        self.catch("the memory goes over", lambda: self.sends(vm) or self.over(vm, after))
        time.sleep(patience)
        kill(agent, signal.SIGSTOP)
        end = time.monotonic() + HELD_S
        while time.monotonic() < end:
            if self.phase(vm) == "switching":
                return pid
        return None

    def move_and_kill(self, vm, victim, moment, turn):
        """False when the kill came too early or too late."""
        before, after = self.status(vm), self.cloud.last_event()
        pids, boots = self.pids(), self.host_boots()
        source = before["host"]
        destination = next(host for host in sorted(self.cloud.hosts()) if host != source)
        source_pid = self.cloud.copies()[vm][source][0]
        boot = self.answer(vm)["boot_id"]
        watcher = self.watch()
        self.cloud.cli("vm", "migrate", vm, "--host", destination)
        agent = pids[destination + ".agent"]
        killed_ms = None
        try:
            pid = self.caught(vm, moment, destination, agent, after, CONNECTED_S[turn % len(CONNECTED_S)])
            if pid:
                ends = {"source": source, "destination": destination, "source qemu": source_pid,
                        "destination qemu": pid}
                killed_ms = self.hit(victim, pids, ends)
        finally:
            kill(agent, signal.SIGCONT)
        answers = self.settle()
        self.assert_no_host_was_switched_off(boots)
        self.assertLessEqual(watcher.stop().most[vm], 2, watcher.history)
        if killed_ms is None or self.ended_before(killed_ms, after, ENDS, vm):
            return False
        if not victim.endswith("qemu"):
            self.assertEqual(answers[vm]["boot_id"], boot, "the guest did not live through it")
        return True

    def test_F_F6_a_kill_in_the_middle_of_a_migration(self):
        # Another VM each time: one whose move failed rests for half a minute.
        vms = itertools.cycle(self.vms)
        for moment, victim in itertools.product(("prepared", "switching"), VICTIMS):
            with self.subTest(victim=victim, moment=moment):
                self.assertTrue(any(self.move_and_kill(next(vms), victim, moment, turn) for turn in range(TRIES_MAX)),
                                f"no kill of {TRIES_MAX} came in the middle")

    def cancelled(self, vm):
        """False when the move had switched before the cancel reached it."""
        before, after = self.status(vm), self.cloud.last_event()
        boot = self.answer(vm)["boot_id"]
        destination = next(host for host in sorted(self.cloud.hosts()) if host != before["host"])
        self.cloud.cli("vm", "migrate", vm, "--host", destination)
        self.catch("the memory goes over", lambda: self.sends(vm) or self.over(vm, after))
        operation = self.status(vm)["operation"]
        try:
            self.cloud.api("POST", f"operations/{operation}/cancel")
        except CloudError as late:
            self.assertIn("409" if operation else "404", str(late))
        ended = self.cloud.wait_event(after, ENDS, f"vm/{vm}")
        self.settle()
        self.assertEqual(self.answer(vm)["boot_id"], boot, "the guest did not live through it")
        if ended["kind"] == "vm.moved":
            return False
        self.assertIn("cancelled on request", ended["text"])
        self.assertEqual(self.cloud.api("GET", f"operations/{operation}")["state"], "cancelled")
        self.assertEqual(self.status(vm)["host"], before["host"])
        self.assertEqual(list(self.cloud.copies()[vm]), [before["host"]], "the half made copy is gone")
        self.assertEqual(self.status(vm)["epoch"], before["epoch"])
        return True

    def test_F_B9_a_move_under_way_is_cancelled_and_its_guest_runs_on(self):
        self.assertTrue(any(self.cancelled(vm) for vm in self.vms), "every move was over before its cancel")

    def test_F_F8_a_kill_in_the_middle_of_an_evacuation(self):
        for victim in VICTIMS:
            with self.subTest(victim=victim):
                after, pids, boots = self.cloud.last_event(), self.pids(), self.host_boots()
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
                self.assert_in_the_middle(killed_ms, after, ENDS, vm)
                self.assert_no_host_was_switched_off(boots)
                self.assertLessEqual(max(watcher.stop().most.values()), 2, watcher.history)
                self.assertTrue(all(now["status"]["host"] != source for now in self.cloud.vms().values()))
                self.cloud.cli("host", "activate", source, text=True)


if __name__ == "__main__":
    unittest.main(verbosity=2)
