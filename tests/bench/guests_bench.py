#!/usr/bin/env python3
"""How long a new VM takes from the API to a QEMU that runs, and whether guests that spin make hosts look dead.

First a VM is posted to the API of an idle cloud, waited for and deleted, again and again. Then 12 guests spin on all
their processors while the journal is read: hosts that are suspected or declared dead meanwhile are counted.
"""

import os
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
import bench  # noqa: E402
from bench import figure, median_figure, percentile, say, wall  # noqa: E402
from cloud import CloudError  # noqa: E402

HOSTS = ["host-1", "host-2", "host-3"]
DOUBTS = ("host.suspect", "host.dead", "host.fenced")


def body(name, parameters):
    spec = {"cluster": "lab", "image": "tiny", "memory_mib": 128, "disks": [{"name": "data", "size_mib": 16}],
            "nics": [{"network": "front"}], "parameters": parameters}
    return {"meta": {"name": name, "tenant": "acme"}, "spec": spec}


def remove(cloud, vm):
    cloud.api("DELETE", f"vms/{vm}")

    def gone():
        return not any(f"{v['meta']['tenant']}/{v['meta']['name']}" == vm for v in cloud.api("GET", "vms")["items"])
    cloud.wait(f"{vm} is deleted", gone, 60)


def start_once(cloud, turn):
    """Seconds from the POST to vm.started, and the parts: POST -> start sent -> QEMU runs.

    The event is stored after the agent has answered, which it does when QEMU has answered QMP's "cont": it comes a
    little later than the moment that is promised, never earlier.
    """
    vm = f"acme/new-{turn + 1}"
    after = cloud.last_event()
    time.sleep(1 + turn * 0.37 % 1.0)  # idle again, and not in step with the heartbeats
    began = time.time()
    cloud.api("POST", "vms", body(vm.split("/")[1], {}))
    answered = time.time() - began
    event = cloud.wait_event(after, ["vm.started", "vm.start_failed"], f"vm/{vm}", 60)
    if event["kind"] != "vm.started":
        raise CloudError(f"{vm} was not started: {event['text']}")
    step = cloud.api("GET", f"operations/{event['facts']['operation']}")["steps"][0]
    times = {"answered": answered, "sent": wall(step["began_at"]) - began, "ready": wall(event["at"]) - began}
    remove(cloud, vm)
    say(f"  start {turn + 1:2}: " + "  ".join(f"{name} {value:.3f}" for name, value in times.items()))
    return times


def starts(cloud, runs):
    if not runs:
        return
    say(f"== {runs} starts of a new VM, seconds after the POST")
    lines = []
    for turn in range(runs):
        try:
            lines.append(start_once(cloud, turn))
        except CloudError as problem:
            raise CloudError(f"start {turn + 1}: {problem}") from problem
    median_figure("api_to_qmp_ready", [line["ready"] for line in lines], "s")
    figure("api_to_qmp_ready_p95", percentile([line["ready"] for line in lines], 95), "s")
    median_figure("api_to_answer_median", [line["answered"] for line in lines], "s")
    median_figure("api_to_start_sent_median", [line["sent"] for line in lines], "s")


def processor_seconds(cloud):
    """What all QEMU processes of the lab have used so far."""
    ticks = 0
    for places in cloud.copies().values():
        for pid in (pid for pids in places.values() for pid in pids):
            with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def doubts(cloud, after):
    return [event for event in cloud.events(after) if event["kind"] in DOUBTS]


def spin(cloud, options):
    if not options.seconds:
        return
    say(f"== {options.guests} guests spin for {options.seconds} s")
    names = [f"acme/spin-{number + 1}" for number in range(options.guests)]
    # Room for all of them though one host's loss is kept free: 12 processors on the 2 that are left, of one core each.
    percent = max(400, 100 * -(-options.guests // (len(HOSTS) - 1)))
    cloud.api("PATCH", "clusters/lab", {"spec": {"policy": {"cpu_overcommit_percent": percent}}})
    booting = cloud.last_event()
    for vm in names:
        cloud.api("POST", "vms", body(vm.split("/")[1], {"spin": "1"}))

    def beat():
        vms = {vm["meta"]["name"]: vm["status"]["power"] for vm in cloud.api("GET", "vms")["items"]}
        beating = {event["subject"] for event in cloud.events(booting) if event["kind"] == "vm.answering"}
        return all(vms.get(vm.split("/")[1]) == "running" and f"vm/{vm}" in beating for vm in names)
    cloud.wait(f"{options.guests} guests have booted", beat, 300, pause=1)
    time.sleep(5)  # the guest begins to spin when it has shown its first sign of life
    figure("spinning_guests_boot_suspected", len(doubts(cloud, booting)), "hosts")
    after, used, began = cloud.last_event(), processor_seconds(cloud), time.monotonic()
    time.sleep(options.seconds)
    busy = (processor_seconds(cloud) - used) / (time.monotonic() - began)
    seen = doubts(cloud, after)
    for event in seen:
        say(f"  {event['at']} {event['kind']} {event['subject']} {event['text']}")
    copies = cloud.copies()
    if sorted(copies) != sorted(names):
        raise CloudError(f"the guests {sorted(set(names) - set(copies))} do not run: {cloud.tail(30)}")
    figure("spinning_guests_suspected", sum(event["kind"] != "host.fenced" for event in seen), "hosts")
    figure("spinning_guests_fenced", sum(event["kind"] == "host.fenced" for event in seen), "hosts")
    figure("spinning_guests_processors", busy, "cores")
    if busy < 0.5 * min(len(HOSTS), os.cpu_count() or 1) and not options.loaded:
        raise CloudError(f"the guests used {busy:.2f} cores: they did not spin, or others use the machine (--loaded)")


def measure(cloud, options):
    cloud.apply(bench.NETWORK)
    bench.wait_all_well(cloud, HOSTS, [])
    starts(cloud, options.runs)
    spin(cloud, options)


def main():
    parser = bench.arguments("gstbench", __doc__)
    parser.add_argument("--runs", type=int, default=10, help="starts of a new VM (default: %(default)s)")
    parser.add_argument("--guests", type=int, default=12, help="guests that spin (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=60, help="how long they spin; 0 = not (default: %(default)s)")
    parser.add_argument("--loaded", action="store_true", help="others use the machine: do not ask for its processors")
    options = parser.parse_args()
    return bench.run(options, len(HOSTS), measure)


if __name__ == "__main__":
    sys.exit(main())
