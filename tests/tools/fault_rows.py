"""Rows of the fault table that the lab can do, and how it does them."""

import json
import os
import signal
import subprocess
import time

from cloud_case import kill

ONLY = os.environ.get("VIRGA_FAULT_ROWS", "").split()  # names as "agent/silent"; none = all


def rows_of_the_lab(*storage):
    """As `virgad sim --fault-table` prints them."""
    program = os.path.join(os.environ["VIRGA_BUILD"], "bin", "virgad")
    listed = subprocess.run([program, "sim", "--fault-table"], capture_output=True, text=True, check=True, timeout=20)
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    return [row for row in rows if row["lab"] and row["storage"] in storage]


def name_of(row):
    return row["fault"] + "/" + row["bmc"]


def strike(cloud, host, row):
    """Brings the row's fault about; from then on its BMC does as the row says. What it returns is for heal()."""
    words = ["--how", row["fault"].replace("_", "-"), "--bmc", row["bmc"]]
    if row["fault"].startswith("link"):
        words += ["--network", "management"]
    elif row["fault"] in ("agent", "leash"):
        words += ["--hold"]
    elif row["fault"] == "agent_stop":
        words[1] = "none"
    cloud.lab("fail", host, *words)
    if row["fault"] != "agent_stop":
        return None
    agent = next(one["agent_pid"] for one in cloud.lab("status")["hosts"] if one["name"] == host)
    kill(agent, signal.SIGSTOP)
    return agent


def heal(cloud, agent):
    kill(agent, signal.SIGCONT)
    cloud.lab("heal")


def go_through(case, rows):
    """Each of the rows, or of those that are asked for, by case.go_through(row)."""
    names = {name_of(row) for row in rows}
    case.assertTrue(names)
    case.assertLessEqual(set(ONLY), names, "VIRGA_FAULT_ROWS")
    for row in rows:
        if ONLY and name_of(row) not in ONLY:
            continue
        began = time.monotonic()
        with case.subTest(row=name_of(row)):
            case.go_through(row)
        print(f"{name_of(row)}: {time.monotonic() - began:.1f} s", flush=True)
