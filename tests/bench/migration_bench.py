#!/usr/bin/env python3
"""What a live move costs its users, and what Virga adds to the bare QMP sequence.

First moves of a tiny guest between two hosts while a client asks it by ping each 10 ms, by a TCP echo on one connection
and by HTTP. Then pairs, interleaved: a move by Virga (from the stored operation's birth to the end of its last step)
and one of an equal guest by the benchmark's own QMP commands (from the start of the second QEMU to the end of the
first): same command line, same processor quotas, disks in the same folder, the same cables between the hosts; first as
plain as these commands are, then behind the same relays that encrypt Virga's.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
import bench  # noqa: E402
from bench import figure, median_figure, percentile, say, wall  # noqa: E402
from cloud import CloudError  # noqa: E402
from raw_qemu import QmpError, RawQemu, Template, connected_pair, move, relayed  # noqa: E402

HOSTS = ["host-1", "host-2"]
VM = "acme/one"
STEPS = ("prepare", "send", "switch", "clean")


def virga_move(cloud):
    """One move to the other host; milliseconds of its steps, of what lies between them, and of all."""
    source = bench.vm_status(cloud, VM)["host"]
    target = next(host for host in HOSTS if host != source)
    after = cloud.last_event()
    cloud.api("POST", f"vms/{VM}/migrate", {"host": target})
    ended = cloud.wait_event(after, ["vm.moved", "vm.move_failed"], f"vm/{VM}", 60)
    operation = cloud.api("GET", f"operations/{ended['facts']['operation']}")
    if operation["state"] != "succeeded":
        raise CloudError(f"the move to {target} {operation['state']}: {operation['error']}")
    parts = {step["name"]: (wall(step["ended_at"]) - wall(step["began_at"])) * 1000 for step in operation["steps"]}
    total = (wall(operation["steps"][-1]["ended_at"]) - wall(operation["meta"]["created_at"])) * 1000
    return {**parts, "between": total - sum(parts.values()), "total": total}


def wait_at_rest(cloud):
    def rests():
        status = bench.vm_status(cloud, VM)
        return status["health"] == "healthy" and not status["operation"]
    cloud.wait(f"{VM} is healthy and at rest", rests, 60)


def probed_moves(cloud, options, client, address):
    """Lines of the prober, one dictionary by kind a move."""
    say(f"== {options.runs} moves under ping, TCP echo and HTTP; longest silence in ms")
    moves = []
    for turn in range(options.runs):
        try:
            wait_at_rest(cloud)
            prober = cloud.probe(client, [address], "ping,echo,http")
            time.sleep(1)
            parts = virga_move(cloud)
            time.sleep(1)
            lines = {line["kind"]: line for line in prober.stop()}
            if any(lines[kind]["answers"] < 5 for kind in ("ping", "echo", "http")):
                raise CloudError(f"too few answers: {lines}")
        except CloudError as problem:
            raise CloudError(f"move {turn + 1}: {problem}") from problem
        moves.append(lines)
        say(f"  move {turn + 1:2}: " + "  ".join(
            f"{kind} {lines[kind]['longest_silence_ms']:6.1f}" for kind in ("ping", "echo", "http"))
            + f"  lost {lines['echo']['connections_lost']}  took {parts['total']:.0f}")
    return moves


class OverlayWatch:
    """When the hosts lead elsewhere, by `ip monitor` in their namespaces. Of a place's entries the neighbour of the
    network's bridge changes last."""

    CHANGE = re.compile(r"^\[(\S+)\] .*\bvgbr\d+\b")

    def __init__(self, instance, hosts):
        self.monitors = [subprocess.Popen(
            ["ip", "netns", "exec", f"vg-{instance}-h{number}", "ip", "-ts", "monitor", "neigh"],
            stdout=subprocess.PIPE, text=True) for number in range(1, len(hosts) + 1)]

    def changes(self):
        """Ends the watch; the times of all changes of each host, in seconds."""
        found = []
        for monitor in self.monitors:
            monitor.terminate()
            out, _ = monitor.communicate(timeout=10)
            times = [self.CHANGE.match(line) for line in out.splitlines()]
            found.append([datetime.fromisoformat(time[1]).astimezone(timezone.utc).timestamp()
                          for time in times if time])
        return found


def switch_times(cloud, watch):
    """Milliseconds from the source's pause until the last host had switched, of each move."""
    pauses = []
    for host in HOSTS:
        with open(os.path.join(cloud.data, "log", host + ".agent.log"), encoding="utf-8") as log:
            pauses += [wall(line.split(" ", 1)[0]) for line in log if re.search(r"epoch \S+: paused ", line)]
    hosts = watch.changes()
    took = []
    for pause in pauses:
        after = [[time for time in times if pause - 0.002 <= time < pause + 1] for times in hosts]
        if all(after):
            took.append((max(times[0] for times in after) - pause) * 1000)
    return took


def control(cloud, client, address):
    """The same probe for 4 s without a move: what the machine itself does."""
    prober = cloud.probe(client, [address], "ping,echo,http")
    time.sleep(4)
    for line in prober.stop():
        figure(f"migration_without_{line['kind']}_max", line["longest_silence_ms"], "ms")


def cgroup_folders(template):
    """The folders of the template's cgroups that limit its processors: (mount, path)."""
    found = []
    for controllers, path in template.cgroups:
        names = controllers.split(",") if controllers else [""]
        for name in {"cpu", "cpuacct", ""} & set(names):
            mount = os.path.join("/sys/fs/cgroup", name)
            if "virga-lab" in path and os.path.isdir(mount + path):
                found.append((mount, path))
    return found


class RawHosts:
    """Two cgroups with the quotas of the lab's hosts and of the VM in them, and the raw guest that moves between.

    They stand beside the lab's, so that both sides have the same weight against the rest of the machine. This process
    drives the raw moves and therefore joins them, as the agents do.
    """

    def __init__(self, cloud, template, instance, encrypted):
        self.template, self.encrypted, self.relays = template, encrypted, []
        self.virgad = os.path.join(cloud.bin, "virgad")
        self.top = "/virga-lab/" + instance + "raw"
        self.folders = []
        self.homes = []  # cgroup.procs files that this process came from
        self.data = os.path.join(cloud.data, "shared", "vms", "raw")
        os.makedirs(self.data, exist_ok=True)
        self.disks = {}
        for number, path in template.disks.items():
            self.disks[number] = os.path.join(self.data, os.path.basename(path))
            shutil.copyfile(path, self.disks[number])
        self.turn, self.guest = 0, None
        self.namespaces = {host["name"]: host["network_namespace"] for host in cloud.lab("status")["hosts"]}
        self.addresses = {name: host["status"]["address"] for name, host in cloud.hosts().items()}

    def groups(self, side):
        """cgroup.procs files of one side, made with the template's limits."""
        procs = []
        for mount, path in cgroup_folders(self.template):
            _, lab, instance, host, *rest = path.split("/")
            here, origin = mount + self.top, os.path.join(mount, lab, instance)
            for name, twin in [("", ""), (side, host)] + [
                    ("/".join([side, *rest[:n]]), "/".join([host, *rest[:n]])) for n in range(1, len(rest) + 1)]:
                self.copy_group(os.path.join(here, name), os.path.join(origin, twin))
            procs.append(os.path.join(here, side, *rest, "cgroup.procs"))
        return procs

    def join(self):
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            lines = [line.split(":", 2) for line in file.read().splitlines()]
        mine = {name: path for _, names, path in lines for name in names.split(",")}
        for mount, _ in cgroup_folders(self.template):
            self.copy_group(mount + self.top + "/system", "")
            self.homes.append(mount + mine[os.path.basename(mount)] + "/cgroup.procs")
            self.enter(mount + self.top + "/system/cgroup.procs")

    @staticmethod
    def enter(procs):
        with open(procs, "w", encoding="utf-8") as file:
            file.write(str(os.getpid()))

    def copy_group(self, folder, twin):
        if not os.path.isdir(folder):
            os.mkdir(folder)
            self.folders.append(folder)
        for knob in ("cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.shares", "cpu.max", "cpu.weight"):
            source = os.path.join(twin, knob)
            if os.path.exists(source) and os.path.exists(os.path.join(folder, knob)):
                with open(source, encoding="utf-8") as have, open(os.path.join(folder, knob), "w",
                                                                  encoding="utf-8") as knob_file:
                    knob_file.write(have.read())

    def start(self, incoming):
        self.turn += 1
        side = f"h{self.turn % 2}"
        return RawQemu(self.template, os.path.join(self.data, side), self.disks, incoming, self.groups(side))

    def boot(self):
        self.guest = self.start(False)
        self.join()
        self.guest.qmp.execute("cont")
        if not self.guest.wait_heartbeat(120):
            raise CloudError("the raw guest did not boot within 120 s")

    def connect(self):
        """As Virga does it: from host to host."""
        far = HOSTS[self.turn % 2]
        near = next(host for host in HOSTS if host != far)
        ends = connected_pair(self.namespaces[near], self.namespaces[far], self.addresses[far])
        if self.encrypted:
            ends, self.relays = relayed(self.virgad, *ends)
        return ends

    def move(self):
        self.guest, parts = move(self.guest, lambda: self.start(True), self.connect)
        while self.relays:
            self.relays.pop().wait(timeout=10)
        return parts

    def close(self):
        if self.guest is not None:
            self.guest.close()
        for relay in self.relays:
            relay.kill()
            relay.wait(timeout=10)
        for procs in self.homes:
            self.enter(procs)
        for folder in reversed(self.folders):
            self.remove(folder)

    @staticmethod
    def remove(folder):
        for _ in range(50):
            try:
                return os.rmdir(folder)
            except OSError:  # the kernel still counts a process that has just ended
                time.sleep(0.1)
        return say(f"the cgroup {folder} is left behind")


def pairs(cloud, options, encrypted):
    """Both sides' moves, taken in turns, the order changing from pair to pair. `encrypted`: the raw ones too."""
    status = bench.vm_status(cloud, VM)
    template = Template(cloud.copies()[VM][status["host"]][0], os.path.join(cloud.data, "shared"), VM)
    raw = RawHosts(cloud, template, options.instance, encrypted)
    made = {"virga": [], "raw": []}
    say(f"== {options.pairs} pairs of moves, {'both' if encrypted else 'those of Virga'} encrypted, ms")
    try:
        raw.boot()
        time.sleep(2)
        for turn in range(options.pairs):
            for side in ("virga", "raw") if turn % 2 == 0 else ("raw", "virga"):
                wait_at_rest(cloud)
                time.sleep(0.5)
                made[side].append(virga_move(cloud) if side == "virga" else raw.move())
            say(f"  pair {turn + 1:2}: " + "  ".join(
                f"{side} " + " ".join(f"{part} {value:.0f}" for part, value in made[side][-1].items())
                for side in ("virga", "raw")))
        if not raw.guest.wait_heartbeat(30):
            raise CloudError("the raw guest did not survive its moves")
    except (CloudError, QmpError, OSError, subprocess.SubprocessError) as problem:
        raise CloudError(f"pair {len(made['raw']) + 1}: {type(problem).__name__} {problem}") from problem
    finally:
        raw.close()
    return made


def balanced(lines):
    """The mean of two medians: of the moves that were their pair's first, and of the others. Memory that nobody has
    used for a while costs more to use; the second move of a pair gets what the first has just freed. Which of the two a
    side is changes from pair to pair; a median over both kinds would lie in one or the other by chance."""
    halves = [lines[0::2], lines[1::2] or lines[0::2]]
    return statistics.mean(statistics.median(half) for half in halves)


def report_overhead(made, begin):
    for side in ("virga", "raw"):
        for part in made[side][0]:
            name = begin + side + ("" if part == "total" else "_" + part)
            figure(name, balanced([line[part] for line in made[side]]), "ms")
    virga, raw = (balanced([line["total"] for line in made[side]]) for side in ("virga", "raw"))
    figure(begin + "overhead", virga - raw, "ms")
    figure(begin + "overhead_percent", (virga - raw) / raw * 100, "percent")
    figure(begin + "overhead_excess_ms", max(0.0, virga - raw - max(60.0, raw / 10)), "ms")


def measure(cloud, options):
    cloud.apply(bench.NETWORK + bench.vm_manifest("one"))
    bench.wait_all_well(cloud, HOSTS, [VM], 180)
    client = cloud.attach_client("acme/front", bench.CLIENT)
    address = cloud.address(VM)
    cloud.wait(f"{VM} answers HTTP", lambda: cloud.http(client, address), 60)
    boot = cloud.http(client, address)["boot_id"]
    if options.runs:
        control(cloud, client, address)
        watch = OverlayWatch(options.instance, HOSTS)
        moves = probed_moves(cloud, options, client, address)
        switched = switch_times(cloud, watch)
        if len(switched) < options.runs * 9 // 10:
            raise CloudError(f"only {len(switched)} of {options.runs} switches of the overlay were seen")
    if options.pairs:
        made = {begin: pairs(cloud, options, encrypted)
                for begin, encrypted in (("migration_", False), ("migration_encrypted_", True))}
    answer = cloud.wait(f"{VM} answers HTTP", lambda: cloud.http(client, address), 60)
    if answer["boot_id"] != boot or answer["disk_foreign_writes"] != 0:
        raise CloudError(f"the guest was not moved whole: {answer}, booted as {boot}")
    if options.runs:
        silence = {kind: [m[kind]["longest_silence_ms"] for m in moves] for kind in ("ping", "echo", "http")}
        for kind, name in (("ping", "silence"), ("echo", "tcp_echo"), ("http", "http")):
            figure(f"migration_{name}_p95", percentile(silence[kind], 95), "ms")
            median_figure(f"migration_{name}_median", silence[kind], "ms")
        figure("overlay_switch_p95", round(percentile(switched, 95), 1), "ms")
        median_figure("overlay_switch_median", [round(one, 1) for one in switched], "ms")
        figure("migration_http_failed", sum(m["http"]["failures"] for m in moves), "requests")
        figure("migration_connections_lost", sum(m["echo"]["connections_lost"] for m in moves), "connections")
    if options.pairs:
        for begin, moves in made.items():
            report_overhead(moves, begin)


def main():
    parser = bench.arguments("movbench", __doc__)
    parser.add_argument("--runs", type=int, default=40, help="moves under the probes (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=20, help="pairs of moves (default: %(default)s)")
    options = parser.parse_args()
    return bench.run(options, len(HOSTS), measure)


if __name__ == "__main__":
    sys.exit(main())
