#!/usr/bin/env python3
"""Stands in for `virgad agent` where only the lab is under test: runs one guest under the leash and renews its lease.

The guest is a sleeping process whose name begins as QEMU's does; it outlives the agent. The lease is 3 s.
"""

import array
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

LEASE_S = 3
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
data = pathlib.Path(options["--data"])
with (data / "boots").open("a") as file:
    file.write(json.dumps({"boot_id": os.environ["VIRGA_BOOT_ID"], "pid": os.getpid(), **options}) + "\n")
program = data / "qemu-system-standin"
if not program.exists():
    shutil.copy("/bin/sleep", program)

guest = data / "guest.pid"
boot = data / "guest.boot"
if not guest.exists() or boot.read_text() != os.environ["VIRGA_BOOT_ID"]:
    child = subprocess.Popen([program, "3600"], start_new_session=True)
    guest.write_text(str(child.pid))
    boot.write_text(os.environ["VIRGA_BOOT_ID"])


def connect():
    while True:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            link.connect(options["--leash"])
            return link
        except OSError:
            link.close()
            time.sleep(0.05)


def renew(link):
    deadline = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + LEASE_S * 10**9
    link.send(json.dumps({"kind": "extend", "deadline_ns": deadline}).encode())
    link.recv(65536)


while True:
    link = connect()
    try:
        renew(link)
        try:
            pidfd = os.pidfd_open(int(guest.read_text()))
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))]
            link.sendmsg([json.dumps({"kind": "guard", "name": "acme/web"}).encode()], rights)
            link.recv(65536)
            os.close(pidfd)
        except ProcessLookupError:
            pass
        while True:
            time.sleep(0.3)
            renew(link)
    except OSError:
        link.close()
