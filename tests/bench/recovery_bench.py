#!/usr/bin/env python3
"""How long it takes until a lost VM runs again: power cut with a BMC that answers, all links cut with a silent BMC,
QEMU killed. All runs on real guests in a lab of three hosts with default settings.

A host is broken, its VMs run elsewhere, the host is healed, all is waited for; the hosts take turns. Meanwhile a
thread looks many times a second at the processes that really exist: a VM at two places at once is a second copy.
"""

import os
import signal
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
import bench  # noqa: E402
from bench import figure, median_figure, percentile, say, wall  # noqa: E402
from cloud import CloudError  # noqa: E402

HOSTS = ["host-1", "host-2", "host-3"]
VMS = ["acme/one", "acme/two"]
PHASES = ("detect", "fence", "place", "send", "start", "boot")


class Watch(threading.Thread):
    """Looks at the QEMU processes of all hosts; knows when each was last seen and which VMs were at two places."""

    def __init__(self, cloud):
        super().__init__(daemon=True)
        self.cloud = cloud
        self.ending = threading.Event()
        self.seen = {}  # (vm, host, pid) -> wall clock of the last look that found it
        self.doubles = set()
        self.looks = 0

    def run(self):
        while not self.ending.wait(0.015):
            found = self.cloud.copies()
            now = time.time()
            self.looks += 1
            for vm, places in found.items():
                self.seen.update({(vm, host, pid): now for host, pids in places.items() for pid in pids})
                if len(places) > 1:
                    self.look_again(vm, places)

    def look_again(self, vm, places):
        """A look takes time: only processes that a second look finds again existed together."""
        again = self.cloud.copies().get(vm, {})
        both = {host: set(pids) & set(again.get(host, [])) for host, pids in places.items()}
        if sum(bool(pids) for pids in both.values()) > 1:
            self.doubles.add((vm, tuple(sorted(pid for pids in both.values() for pid in pids))))

    def last_seen(self, vm, host):
        return max((at for (v, h, _), at in list(self.seen.items()) if (v, h) == (vm, host)), default=0.0)

    def end(self):
        self.ending.set()
        self.join(timeout=10)


class Bench:
    def __init__(self, cloud):
        self.cloud = cloud
        self.watch = Watch(cloud)
        self.late_ends = 0  # copies that still existed when their successor's start was sent
        self.client, self.addresses = "", {}

    def prepare(self):
        self.cloud.apply(bench.NETWORK + "".join(bench.vm_manifest(vm.split("/")[1]) for vm in VMS))
        bench.wait_all_well(self.cloud, HOSTS, VMS, 180)
        self.client = self.cloud.attach_client("acme/front", bench.CLIENT)
        self.addresses = {vm: self.cloud.address(vm) for vm in VMS}
        self.watch.start()

    def second_copies(self):
        return len(self.watch.doubles) + self.late_ends

    def timeline(self, vm, host, began, after):
        """Moments of one VM's recovery in seconds after the fault.

        "Sent" is the stored begin of the start operation's only step: the server's clock in the very call that hands
        the command to the agent's session. Nothing tells of it earlier in the journal or in the logs.
        """
        def at(kind, subject, otherwise=None):
            found = [e for e in self.cloud.events(after) if e["kind"] == kind and e["subject"] == subject]
            if not found and otherwise is None:
                raise CloudError(f"no {kind} of {subject}; events:\n{self.cloud.tail(30)}")
            return wall(found[0]["at"]) - began if found else otherwise
        started = self.cloud.wait_event(after, ["vm.started"], f"vm/{vm}", 60)
        operation = self.cloud.api("GET", f"operations/{started['facts']['operation']}")
        line = {"placed": at("vm.placed", f"vm/{vm}"), "sent": wall(operation["steps"][0]["began_at"]) - began,
                "started": wall(started["at"]) - began, "proof": started["facts"].get("proof", "none"),
                "answering": at("vm.answering", f"vm/{vm}", 0.0)}
        if host is not None:
            line["dead"] = at("host.dead", f"host/{host}")
            line["fenced"] = at("host.fenced", f"host/{host}", line["placed"])
        return line

    def wait_running(self, vms, before):
        def back():
            now = {vm: bench.vm_status(self.cloud, vm) for vm in vms}
            return all(s["epoch"] != before[vm]["epoch"] and s["health"] == "healthy" for vm, s in now.items())
        self.cloud.wait(f"{', '.join(vms)} run again", back, 120)

    def check_guests(self):
        for vm in VMS:
            answer = self.cloud.wait(f"{vm} answers HTTP",
                                     lambda vm=vm: self.cloud.http(self.client, self.addresses[vm]), 60)
            if answer["disk_foreign_writes"] != 0:
                raise CloudError(f"the disk of {vm} was written by another copy: {answer}")

    def break_host(self, turn, how, proof):
        """One run: breaks the host of a VM; returns the timelines of the VMs that it carried."""
        before = {vm: bench.vm_status(self.cloud, vm) for vm in VMS}
        host = before[VMS[turn % len(VMS)]]["host"]
        lost = [vm for vm in VMS if before[vm]["host"] == host]
        after = self.cloud.last_event()
        time.sleep(turn * 0.37 % 1.0)  # spreads the faults over the heartbeat's second
        began = time.time()
        self.cloud.lab("fail", host, "--how", *how)
        self.wait_running(lost, before)
        lines = {vm: self.timeline(vm, host, began, after) for vm in lost}
        for vm, line in lines.items():
            line["gone"] = self.watch.last_seen(vm, host) - began
            self.late_ends += line["gone"] > line["sent"] + 0.001
            if line["proof"] != proof:
                raise CloudError(f"{vm} was started on the proof {line['proof']}, not {proof}")
        self.cloud.lab("heal", host)
        healed = bench.wait_all_well(self.cloud, HOSTS, VMS)
        self.check_guests()
        for vm in VMS:
            if vm not in lost and bench.vm_status(self.cloud, vm)["epoch"] != before[vm]["epoch"]:
                raise CloudError(f"{vm} was on another host and did not stay: {self.cloud.tail(30)}")
        for vm, line in lines.items():
            say(f"  run {turn + 1:2} {host} {vm}: last seen {line['gone']:6.3f}  dead {line['dead']:6.3f}  "
                f"fenced {line['fenced']:6.3f}  placed {line['placed']:6.3f}  sent {line['sent']:6.3f}  "
                f"started {line['started']:6.3f}  answering {line['answering']:6.3f}  healed in {healed:.1f}")
        return list(lines.values())

    def kill_qemu(self, turn):
        vm = VMS[turn % len(VMS)]
        before = bench.vm_status(self.cloud, vm)
        pids = self.cloud.copies().get(vm, {}).get(before["host"], [])
        if len(pids) != 1:
            raise CloudError(f"{vm} has the processes {pids} on {before['host']}; one is right")
        after = self.cloud.last_event()
        time.sleep(turn * 0.37 % 1.0)
        began = time.time()
        os.kill(pids[0], signal.SIGKILL)
        self.wait_running([vm], {vm: before})
        line = self.timeline(vm, None, began, after)
        if bench.vm_status(self.cloud, vm)["host"] != before["host"]:
            raise CloudError(f"{vm} was not restarted in place: {self.cloud.tail(30)}")
        bench.wait_all_well(self.cloud, HOSTS, VMS)
        self.check_guests()
        say(f"  run {turn + 1:2} {before['host']} {vm}: placed {line['placed']:6.3f}  sent {line['sent']:6.3f}  "
            f"started {line['started']:6.3f}  answering {line['answering']:6.3f}")
        return line


def repeated(title, runs, once):
    """The timelines of all runs; the error of one that failed names it."""
    lines = []
    say(f"== {title}: {runs} runs, seconds after the fault")
    for turn in range(runs):
        try:
            made = once(turn)
        except CloudError as problem:
            raise CloudError(f"{title}, run {turn + 1}: {problem}") from problem
        lines += made if isinstance(made, list) else [made]
    return lines


def report(name, lines):
    """p95 and median of fault -> start sent, and the median of each phase."""
    if not lines:
        return
    marks = ("dead", "fenced", "placed", "sent", "started", "answering")
    figure(f"{name}_p95", percentile([line["sent"] for line in lines], 95), "s")
    median_figure(f"{name}_median", [line["sent"] for line in lines], "s")
    for index, phase in enumerate(PHASES):
        ends = [line[marks[index]] for line in lines]
        begins = [line[marks[index - 1]] if index else 0.0 for line in lines]
        median_figure(f"{name}_{phase}_median", [end - begin for end, begin in zip(ends, begins)], "s")


def measure(cloud, options):
    made = Bench(cloud)
    made.prepare()
    try:
        power = repeated("power cut, the BMC answers", options.runs,
                         lambda turn: made.break_host(turn, ["power"], "bmc_power_off"))
        lease = repeated("links cut, the BMC is silent", options.runs_lease,
                         lambda turn: made.break_host(turn, "link --network all --bmc silent".split(),
                                                      "lease_and_leash"))
        killed = repeated("QEMU killed", options.runs, made.kill_qemu)
    finally:
        made.watch.end()
    report("recovery_bmc", power)
    report("recovery_lease", lease)
    if killed:
        figure("qemu_killed_restart_p95", percentile([line["started"] for line in killed], 95), "s")
        median_figure("qemu_killed_restart_median", [line["started"] for line in killed], "s")
        median_figure("qemu_killed_placed_median", [line["placed"] for line in killed], "s")
    figure("recovery_second_copies", made.second_copies(), "copies")
    say(f"{made.watch.looks} looks at the processes; doubles: {sorted(made.watch.doubles)}")


def main():
    parser = bench.arguments("recbench", __doc__)
    parser.add_argument("--runs", type=int, default=20, help="power cuts, and QEMUs killed (default: %(default)s)")
    parser.add_argument("--runs-lease", type=int, default=3, help="cut links with a silent BMC (default: %(default)s)")
    options = parser.parse_args()
    return bench.run(options, len(HOSTS), measure)


if __name__ == "__main__":
    sys.exit(main())
