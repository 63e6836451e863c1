"""Rows of the fault table that the lab can do, and how it does them."""

import json
import os
import signal
import subprocess

from cloud_case import kill


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
