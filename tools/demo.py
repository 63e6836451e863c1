#!/usr/bin/env python3
"""The main job on real guests: three hosts, a service, six VMs of two tenants, a live move, lost hosts, a volume.

Called by scripts/demo after the build. Prints a timeline and measured figures; ends with 1 if anything that it shows
did not happen.
"""

import argparse
import datetime
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests", "tools"))
from cloud import Cloud, CloudError  # noqa: E402

TENANTS = {"acme": ("front", "10.50.0.0/24", "10.50.0.250/24"), "umbra": ("back", "10.60.0.0/24", "10.60.0.250/24")}
NAMES = [f"{tenant}/web-{index}" for tenant in TENANTS for index in (1, 2, 3)]


def say(text=""):
    print(text, flush=True)


def title(text):
    say()
    say(f"== {text}")


def networks():
    return "---\n".join(f"kind: network\nmeta: {{name: {network}, tenant: {tenant}}}\n"
                        f"spec: {{cluster: lab, subnet: {subnet}}}\n"
                        for tenant, (network, subnet, _) in TENANTS.items())


def guests():
    parts = []
    for tenant, (network, _, _) in TENANTS.items():
        for index in (1, 2, 3):
            priority = "high" if index == 1 else "normal"
            parts.append(f"kind: vm\nmeta: {{name: web-{index}, tenant: {tenant}}}\n"
                         f"spec: {{cluster: lab, image: tiny, memory_mib: 128, restart_priority: {priority}, "
                         f"disks: [{{name: data, size_mib: 16}}], nics: [{{network: {network}}}]}}\n")
    return "---\n".join(parts)


def wall_ms(text):
    moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return moment.timestamp() * 1000


def show_inventory(cloud):
    say(cloud.cli("vm", "list", text=True).rstrip())


def show_answers(cloud, namespace, addresses):
    """Each guest's own answer over HTTP, through its address."""
    for name, address in addresses.items():
        said = cloud.wait(f"{name} answers HTTP", lambda at=address: cloud.http(namespace, at), 60)
        say(f"{name} answers at {address}: boot {said['boot_id'][:8]}, up {said['uptime_ms'] / 1000:.1f} s, "
            f"request {said['counter']}")


def recovery(cloud, host, lost, began_ms, after, answers):
    """Prints when each VM of a lost host was noticed, fenced, placed, started and answering; returns the slowest."""
    def of(kind, subject):
        found = [e for e in cloud.events(after) if e["kind"] == kind and e["subject"] == subject]
        return wall_ms(found[0]["at"]) - began_ms if found else None

    def shown(value):
        return "-" if value is None else f"{value / 1000:7.2f}"

    detected = of("host.dead", f"host/{host}") or of("host.suspect", f"host/{host}")
    fenced = of("host.fenced", f"host/{host}")
    say(f"{'seconds after the cut':24} detected  fenced   placed  started  answering  proof")
    slowest = 0.0
    for vm in lost:
        placed = [e for e in cloud.events(after) if e["kind"] == "vm.placed" and e["subject"] == f"vm/{vm}"][0]
        answered = answers.get(vm)
        proven = of("vm.fenced", f"vm/{vm}") or fenced
        say(f"{vm:24} {shown(detected):>8} {shown(proven):>8} {shown(wall_ms(placed['at']) - began_ms):>8} "
            f"{shown(of('vm.started', f'vm/{vm}')):>8} {shown(answered):>9}   {placed['facts'].get('proof')}")
        slowest = max(slowest, wall_ms(placed["at"]) - began_ms)
    return slowest


def first_answers(lines, addresses, began_ms):
    """From the prober's lines: when the new boot of each VM first answered, in ms after the cut."""
    names = {address: name for name, address in addresses.items()}
    answers = {}
    for line in lines:
        later = [b for b in line["boots"] if b["first_answer_ms"] > began_ms]
        if later:
            answers[names[line["target"]]] = later[0]["first_answer_ms"] - began_ms
    return answers


def vms_by_host(cloud):
    on = {}
    for name, vm in cloud.vms().items():
        on.setdefault(vm["status"]["host"], []).append(name)
    return on


def fullest(on):
    return max(sorted(on), key=lambda candidate: len(on[candidate]))


def break_host(cloud, namespace, addresses, how, watch_guests, host=None):
    """Breaks a host, or the one with the most VMs; waits until all answer again; prints the timeline."""
    vms = cloud.vms()
    on = vms_by_host(cloud)
    host = host or fullest(on)
    lost = sorted(on[host])
    after = cloud.last_event()
    boots = {name: vm["status"]["epoch"] for name, vm in vms.items()}
    prober = cloud.probe(namespace, [addresses[name] for name in lost])
    time.sleep(1)
    say(f"{host} carries {', '.join(lost)}; now: {how}")
    began_ms = time.time() * 1000
    cloud.lab("fail", host, "--how", *how.split())
    gone_ms = None
    end = time.monotonic() + 30
    while watch_guests and gone_ms is None and time.monotonic() < end:
        if not cloud.guests_on(host):
            gone_ms = time.time() * 1000 - began_ms
        time.sleep(0.05)

    def back():
        now = cloud.vms()
        return all(now[name]["status"]["health"] == "healthy" and now[name]["status"]["epoch"] != boots[name]
                   for name in lost)
    cloud.wait(f"VMs of {host} run elsewhere", back, 150)
    for name in lost:
        cloud.wait(f"{name} answers HTTP", lambda name=name: cloud.http(namespace, addresses[name]), 60)
    time.sleep(1)
    answers = first_answers(prober.stop(), addresses, began_ms)
    slowest = recovery(cloud, host, lost, began_ms, after, answers)
    return host, slowest, gone_ms, began_ms


def migrate(cloud, namespace, addresses):
    name = NAMES[0]
    source = cloud.vms()[name]["status"]["host"]
    prober = cloud.probe(namespace, [addresses[name]], "ping,echo,http")
    time.sleep(2)
    began = time.monotonic()
    cloud.cli("vm", "migrate", name, "--wait")
    took = time.monotonic() - began
    time.sleep(2)
    lines = {line["kind"]: line for line in prober.stop()}
    destination = cloud.vms()[name]["status"]["host"]
    say(f"{name} moved alive from {source} to {destination} in {took:.2f} s (command to done)")
    for kind in ("ping", "echo", "http"):
        line = lines[kind]
        say(f"  {kind:5} {line['answers']:5} answers, longest silence {line['longest_silence_ms']:.0f} ms, "
            f"connections lost {line['connections_lost']}")
    if source == destination:
        raise CloudError(f"{name} is still on {source}")
    if lines["echo"]["connections_lost"]:
        raise CloudError("the echo connection was lost by the move")


def move_with_disk(cloud, namespace):
    """A VM whose disk is on its own host moves alive; the disk follows, and nothing of it stays behind."""
    folders = {host: os.path.join(cloud.data, "near", host) for host in cloud.hosts()}
    for host, folder in folders.items():
        cloud.cli("device", "create", "near-" + host, "--host", host, "--directory", folder, "--capacity-mib", "200",
                  "--class", "near")
    cloud.cli("--wait", "volume", "create", "acme/near", "--size-mib", "64", "--local", "--class", "near")
    cloud.cli("--wait", "vm", "create", "acme/near", "--image", "tiny", "--memory-mib", "128", "--network", "front",
              "--volume", "near")
    address = cloud.address("acme/near")
    cloud.wait_answering(["acme/near"], 120)
    before = cloud.wait("acme/near answers HTTP", lambda: cloud.http(namespace, address), 60)

    def holders():
        return [host for host, folder in folders.items() if os.path.exists(os.path.join(folder, "acme", "near"))]
    source, was_on = cloud.vms()["acme/near"]["status"]["host"], holders()
    prober = cloud.probe(namespace, [address], "echo")
    began = time.monotonic()
    cloud.cli("--wait", "vm", "migrate", "acme/near")
    took = time.monotonic() - began
    time.sleep(2)
    line = prober.stop()[0]
    after, destination = cloud.http(namespace, address), cloud.vms()["acme/near"]["status"]["host"]
    say(f"acme/near and its disk of 64 MiB moved alive from {source} to {destination} in {took:.2f} s: longest silence "
        f"{line['longest_silence_ms']:.0f} ms, connections lost {line['connections_lost']}, foreign writes "
        f"{after['disk_foreign_writes']}; its disk was on {', '.join(was_on)} and is on {', '.join(holders())}")
    moved = source != destination and was_on == [source] and holders() == [destination]
    if not moved or after["boot_id"] != before["boot_id"] or line["connections_lost"] or after["disk_foreign_writes"]:
        raise CloudError("acme/near did not move with its disk")
    cloud.cli("--wait", "vm", "delete", "acme/near", text=True)
    cloud.cli("--wait", "volume", "delete", "acme/near", text=True)
    for host in folders:
        cloud.cli("device", "delete", "near-" + host, text=True)


def move_volume(cloud, namespace, address, storage):
    """The volume goes to another device while its guest writes to it."""
    cloud.cli("device", "create", "ssd-2", "--host", storage, "--directory", os.path.join(cloud.data, "volumes-2"),
              "--capacity-mib", "1000")
    before = cloud.http(namespace, address)
    prober = cloud.probe(namespace, [address], "echo")
    began = time.monotonic()
    cloud.cli("--wait", "volume", "move", "acme/data", "--device", "ssd-2")
    took = time.monotonic() - began
    time.sleep(2)
    line = prober.stop()[0]
    after = cloud.http(namespace, address)
    say(f"acme/data moved from ssd to ssd-2 in {took:.2f} s under its guest: longest silence "
        f"{line['longest_silence_ms']:.0f} ms, connections lost {line['connections_lost']}, writes acknowledged "
        f"meanwhile {after['disk_sequence'] - before['disk_sequence']}, foreign writes {after['disk_foreign_writes']}")
    if after["boot_id"] != before["boot_id"] or after["disk_foreign_writes"] or line["connections_lost"]:
        raise CloudError("the move of its volume was seen by the guest")


def under_requests(cloud, namespace, address, what, done):
    """Does `what` under constant requests of one consumer and waits until done(): the consumer's line, the seconds."""
    prober = cloud.probe(namespace, [address], "http")
    began = time.monotonic()
    what()
    cloud.wait("it is done", done, 180)
    took = time.monotonic() - began
    time.sleep(1)
    line = prober.stop()[0]
    if line["failures"]:
        raise CloudError("requests failed while the service was relocated")
    seen = f"{line['answers']} requests, 0 failed, longest silence {line['longest_silence_ms']:.0f} ms"
    return seen, took


def relocate_service(cloud, namespace):
    """Two guests behind one address; one is replaced by command, one because its host goes into maintenance."""
    def status():
        return cloud.api("GET", "services/acme/shop")["status"]

    def settled():
        now = status()
        states = [copy["state"] for copy in now["copies"]]
        return now["available"] and not now.get("relocation") and states == ["serving", "serving"]

    cloud.cli("service", "create", "acme/shop", "--image", "tiny", "--network", "front", "--replicas", "2",
              "--port", "80", "--guest-port", "80", "--protocol", "http", "--check", "http")
    cloud.cli("service", "objective", "acme/shop", "--availability", "99.9")
    cloud.wait("the service is available", settled, 120)
    address = cloud.api("GET", "ports/acme/shop-frontend")["spec"]["address"].partition("/")[0]
    original = status()["copies"][0]["vm"]
    say(f"acme/shop answers at {address}, balanced by HAProxy on {status()['balancer']} over "
        + " and ".join(f"{copy['vm']} on {cloud.vms()[copy['vm']]['status']['host']}" for copy in status()["copies"]))
    seen, took = under_requests(
        cloud, namespace, address,
        lambda: cloud.cli("service", "relocate", "acme/shop", "--copy", original.partition("/")[2]),
        lambda: original not in [copy["vm"] for copy in status()["copies"]] and settled())
    say(f"{original} was duplicated, redirected, drained and retired in {took:.0f} s: {seen}")
    host = cloud.vms()[status()["copies"][0]["vm"]]["status"]["host"]
    seen, took = under_requests(cloud, namespace, address, lambda: cloud.cli("host", "maintenance", host),
                                lambda: not cloud.guests_on(host) and settled())
    say(f"{host} went into maintenance and was empty in {took:.0f} s: {seen}")
    cloud.cli("host", "activate", host)
    level = cloud.cli("service", "level", "acme/shop")
    say(f"its monitor on {level['monitor']}: {level['asked']} requests, {level['failed']} failed; longest waits of the "
        f"two moves {' and '.join(str(move['waited_ms']) for move in reversed(level['moves']))} ms")
    cloud.cli("service", "delete", "acme/shop", text=True)
    cloud.wait("it is gone", lambda: cloud.cli("service", "list") == [], 60)
    cloud.wait_hosts(3, 60)


def restart_storage(cloud, namespace, address, storage):
    """The host of the volume loses its power and comes back; the guest waits for its disk and goes on."""
    before, after = cloud.http(namespace, address), cloud.last_event()
    began = time.monotonic()
    cloud.lab("fail", storage, "--how", "power")
    cloud.wait_event(after, ["host.fenced"], f"host/{storage}", 60)
    cloud.lab("heal", storage)
    cloud.wait_event(after, ["device.available"], "device/ssd-2", 90)
    now = cloud.wait("the guest writes again", lambda: (lambda said: said if said and said["disk_sequence"] >
                     before["disk_sequence"] + 2 else None)(cloud.http(namespace, address)), 60)
    took = time.monotonic() - began
    say(f"{storage}, which holds acme/data, was without power and back after {took:.0f} s: the guest of acme/db went "
        f"on, writes acknowledged {now['disk_sequence']}, foreign writes {now['disk_foreign_writes']}")
    if now["boot_id"] != before["boot_id"] or now["disk_foreign_writes"]:
        raise CloudError("the restart of its storage was more than a pause for the guest")
    cloud.wait_hosts(3, 90)
    cloud.wait_answering(NAMES, 120)


def recover_by_storage(cloud, namespace, addresses):
    """A VM whose disk is a volume of another host loses its own, and no BMC answers: storage alone proves the loss."""
    storage = fullest(vms_by_host(cloud))
    cloud.cli("device", "create", "ssd", "--host", storage, "--directory", os.path.join(cloud.data, "volumes"),
              "--capacity-mib", "1000")
    cloud.cli("--wait", "volume", "create", "acme/data", "--size-mib", "64")
    cloud.cli("--wait", "vm", "create", "acme/db", "--image", "tiny", "--memory-mib", "128", "--network", "front",
              "--volume", "data")
    addresses["acme/db"] = cloud.address("acme/db")
    cloud.wait_answering(["acme/db"], 120)
    show_answers(cloud, namespace, {"acme/db": addresses["acme/db"]})
    say(cloud.cli("volume", "list", text=True).rstrip())
    move_volume(cloud, namespace, addresses["acme/db"], storage)
    restart_storage(cloud, namespace, addresses["acme/db"], storage)
    lost = cloud.vms()["acme/db"]["status"]["host"]
    if lost == storage:
        raise CloudError(f"acme/db runs on {storage}, where its volume is")
    after = cloud.last_event()
    host, _, _, began_ms = break_host(cloud, namespace, addresses, "power --bmc silent", False, lost)
    placed = next(e for e in cloud.events(after) if e["kind"] == "vm.placed" and e["subject"] == "vm/acme/db")
    if placed["facts"].get("proof") != "storage_revoked":
        raise CloudError(f"acme/db was placed with proof {placed['facts'].get('proof')}")
    say(f"acme/db: its volume cut the lost copy off, start decided {(wall_ms(placed['at']) - began_ms) / 1000:.2f} s "
        "after the cut; VMs with files of their own had to wait for the lease")
    return host


def run(cloud, packages, keep):
    title("a cloud of three hosts")
    cloud.wait_hosts(3)
    cloud.build_image(packages)
    say(cloud.cli("host", "list", text=True).rstrip())
    cloud.apply(networks())
    namespace = None
    for tenant, (network, _, client) in TENANTS.items():
        namespace = cloud.attach_client(f"{tenant}/{network}", client)

    title("a service of two guests: one is relocated under constant requests")
    relocate_service(cloud, namespace)

    title("six VMs of two tenants")
    cloud.apply(guests())
    cloud.wait_answering(NAMES, 240)
    addresses = {name: cloud.address(name) for name in NAMES}
    show_inventory(cloud)
    show_answers(cloud, namespace, addresses)

    title("live migration under ping, TCP echo and HTTP")
    migrate(cloud, namespace, addresses)

    title("a VM moves with the disk of its host")
    move_with_disk(cloud, namespace)

    title("power loss of a host; its BMC answers")
    host, placed_ms, _, _ = break_host(cloud, namespace, addresses, "power", False)
    say(f"start decided {placed_ms / 1000:.2f} s after the cut")
    cloud.lab("heal", host)
    cloud.wait_hosts(3, 90)

    title("all links of a host are cut; its BMC is silent")
    host, placed_ms, gone_ms, _ = break_host(cloud, namespace, addresses, "link --network all --bmc silent", True)
    if gone_ms is None or gone_ms >= placed_ms:
        raise CloudError(f"the guests of {host} were not seen to end before they were started elsewhere")
    say(f"{host} stopped its own guests {gone_ms / 1000:.2f} s after the cut; "
        f"the first start elsewhere was decided at {placed_ms / 1000:.2f} s: no VM ran twice")
    cloud.lab("heal", host)
    cloud.wait_hosts(3, 90)

    title("a volume moves under its guest, and cuts off the copy on a lost host whose BMC is silent")
    cloud.lab("heal", recover_by_storage(cloud, namespace, addresses))
    cloud.wait_hosts(3, 90)
    title("all hosts are back")
    show_inventory(cloud)
    if keep:
        title(f"kept: virga --server http://127.0.0.1:{cloud.port} host list; Ctrl-C ends it")
        try:
            cloud.process.wait()
        except KeyboardInterrupt:
            say("ending")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", required=True, help="build folder of the release preset")
    parser.add_argument("--packages", required=True, help="folder for Debian packages of the tiny image")
    parser.add_argument("--instance", default="demo", help="name of the lab; labs of different names run side by side")
    parser.add_argument("--keep", action="store_true", help="keep the cloud up until Ctrl-C")
    options = parser.parse_args()
    began = time.monotonic()
    cloud = Cloud(options.build, options.instance)
    try:
        run(cloud, options.packages, options.keep)
    except (CloudError, KeyboardInterrupt) as problem:
        say(f"demo: {problem}")
        return 1
    finally:
        cloud.close()
    say()
    say(f"done in {time.monotonic() - began:.0f} s; nothing is left behind")
    return 0


if __name__ == "__main__":
    sys.exit(main())
