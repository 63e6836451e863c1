"""What the benchmarks on real guests share: options, figures, a lab that is cleaned up however the program ends."""

import argparse
import datetime
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time

from cloud import Cloud, CloudError

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NETWORK = "kind: network\nmeta: {name: front, tenant: acme}\nspec: {cluster: lab, subnet: 10.50.0.0/24}\n"
CLIENT = "10.50.0.250/24"


def say(text=""):
    print(text, flush=True)


def percentile(values, percent):
    """Nearest rank: a value that was really measured."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def figure(name, value, unit):
    say(f"{name} {value:.6g} {unit}")


def median_figure(name, values, unit):
    figure(name, statistics.median(values), unit)


def wall(text):
    """Seconds since 1970 of a time as the API writes it."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def arguments(instance, description):
    """A parser with the options that all these programs have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--instance", default=instance,
                        help="name of the lab, at most 8 of a-z and 0-9 (default: %(default)s)")
    parser.add_argument("--build", default=os.environ.get("VIRGA_BUILD", os.path.join(TOP, "build", "release")),
                        help="build folder with bin/virgad; also VIRGA_BUILD (default: build/release)")
    parser.add_argument("--packages", default=os.environ.get("VIRGA_PACKAGES", os.path.join(TOP, "build", "packages")),
                        help="folder for the tiny guest's Debian packages; also VIRGA_PACKAGES")
    return parser


def vm_manifest(name, **spec):
    fields = {"cluster": "lab", "image": "tiny", "memory_mib": "128", "disks": "[{name: data, size_mib: 16}]",
              "nics": "[{network: front}]", **spec}
    words = ", ".join(f"{key}: {value}" for key, value in fields.items())
    return f"---\nkind: vm\nmeta: {{name: {name}, tenant: acme}}\nspec: {{{words}}}\n"


def wait_all_well(cloud, hosts, vms, deadline=120.0):
    """All hosts alive to the server and to their peers, all VMs healthy and at rest; returns how long it took."""
    began = time.monotonic()

    def well():
        if any(host["status"]["health"] != "alive" for host in cloud.api("GET", "hosts")["items"]):
            return False
        seen = [cloud.api("GET", f"hosts/{host}/live")["peers"] for host in hosts]
        if any(peer["health"] != "alive" for peers in seen for peer in peers):
            return False
        states = [vm["status"] for vm in cloud.api("GET", "vms")["items"]]
        resting = [s for s in states if s["health"] == "healthy" and not s["operation"]]
        return len(resting) == len(states) == len(vms)
    cloud.wait("all hosts alive and all guests healthy", well, deadline)
    return time.monotonic() - began


def vm_status(cloud, vm):
    return cloud.api("GET", f"vms/{vm}")["status"]


def keep_logs(cloud, instance):
    """The logs of a run that failed outlive the lab's folder."""
    if cloud is None:
        return
    kept = os.path.join(TOP, "build", "bench", "failed-" + instance)
    shutil.rmtree(kept, ignore_errors=True)
    os.makedirs(kept)
    if os.path.isdir(os.path.join(cloud.data, "log")):
        shutil.copytree(os.path.join(cloud.data, "log"), kept, dirs_exist_ok=True)
    shutil.copy(cloud.log.name, kept)
    say(f"the logs are kept: {os.path.relpath(kept, TOP)}")


def run(options, hosts, measure):
    """Calls measure(cloud, options) on a new lab; returns the program's exit code. SIGTERM ends it cleanly too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    cloud, outcome = None, 1
    try:
        cloud = Cloud(options.build, options.instance, hosts=hosts)
        cloud.wait_hosts(hosts, 90)
        cloud.build_image(options.packages)
        outcome = measure(cloud, options) or 0
    except (CloudError, OSError, subprocess.SubprocessError, KeyboardInterrupt) as problem:
        say(f"{options.instance}: {type(problem).__name__}: {problem}")
        keep_logs(cloud, options.instance)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if cloud is not None:
            cloud.close()
    say(f"done in {time.monotonic() - began:.0f} s")
    return outcome
