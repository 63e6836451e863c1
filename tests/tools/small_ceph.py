#!/usr/bin/env python3
"""A Ceph of one monitor and one OSD in memory, on loopback, for tests of the rbd store.

usage: small_ceph.py FOLDER

Writes FOLDER/ceph.conf (with FOLDER/keyring for client.admin), starts the daemons, makes the pool "rbd", and writes the
monitor's ADDRESS:PORT to FOLDER/ready when an image was made there. Runs until it is told to end or the program that
started it does; its daemons end with it, also when it is killed. Ends with 1 and words when Ceph is not ready in 90 s.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid

READY_WITHIN_S = 90
CALL_WITHIN_S = 30

CONFIGURATION = """[global]
fsid = {fsid}
mon_host = [v2:{monitor}]
mon_initial_members = a
public_addr = 127.0.0.1
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
auth_allow_insecure_global_id_reclaim = false
keyring = {folder}/keyring
run_dir = {folder}
admin_socket = {folder}/$name.$pid.asok
pid_file =
log_file = {folder}/$name.log
mon_data = {folder}/mon
mon_data_avail_warn = 2
mon_data_avail_crit = 1
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = 1073741824
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
osd_op_num_shards = 1
osd_op_num_threads_per_shard = 2
ms_async_op_threads = 1
"""


class SmallCeph:
    def __init__(self, folder):
        self.folder = folder
        self.until = time.monotonic() + READY_WITHIN_S
        self.daemons = []

    def path(self, name):
        return os.path.join(self.folder, name)

    def run(self, *words, **options):
        """The output of a tool that has to succeed."""
        left = min(CALL_WITHIN_S, self.until - time.monotonic())
        done = subprocess.run(words, capture_output=True, text=True, timeout=max(left, 1), check=False, **options)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(words[:4])} ...: {done.stderr.strip()}")
        return done.stdout

    def ceph(self, *words, **options):
        return self.run("ceph", "-c", self.path("ceph.conf"), *words, **options)

    def start(self, *words):
        def end_with_parent():
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)

        with open(self.path("daemons.log"), "ab") as log:
            self.daemons.append(
                subprocess.Popen([*words, "-c", self.path("ceph.conf"), "-f"], stdin=subprocess.DEVNULL, stdout=log,
                                 stderr=log, preexec_fn=end_with_parent))

    def configure(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.monitor = f"127.0.0.1:{free.getsockname()[1]}"
        self.fsid = str(uuid.uuid4())
        os.makedirs(self.path("mon"))
        os.makedirs(self.path("osd"))
        with open(self.path("ceph.conf"), "w", encoding="ascii") as out:
            out.write(CONFIGURATION.format(fsid=self.fsid, monitor=self.monitor, folder=self.folder))
        keyring = self.path("keyring")
        self.run("ceph-authtool", "-C", keyring, "--gen-key", "-n", "client.admin", "--cap", "mon", "allow *", "--cap",
                 "osd", "allow *", "--cap", "mgr", "allow *")
        self.run("ceph-authtool", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")

    def start_monitor(self):
        conf = self.path("ceph.conf")
        self.run("monmaptool", "--create", "--fsid", self.fsid, "--addv", "a", f"[v2:{self.monitor}]",
                 self.path("monmap"))
        self.run("ceph-mon", "-c", conf, "-i", "a", "--mkfs", "--monmap", self.path("monmap"), "--keyring",
                 self.path("keyring"))
        self.start("ceph-mon", "-i", "a")

    def start_osd(self):
        number = str(uuid.uuid4())
        key = self.run("ceph-authtool", "--gen-print-key").strip()
        self.ceph("osd", "new", number, "0", "-i", "-", input=json.dumps({"cephx_secret": key}))
        self.run("ceph-authtool", "-C", self.path("osd/keyring"), "-n", "osd.0", "--add-key", key)
        self.run("ceph-osd", "-c", self.path("ceph.conf"), "-i", "0", "--mkfs", "--osd-uuid", number, "--keyring",
                 self.path("osd/keyring"))
        self.start("ceph-osd", "-i", "0", "--keyring", self.path("osd/keyring"))

    def make_pool(self):
        self.ceph("osd", "pool", "create", "rbd", "8")
        self.ceph("osd", "pool", "application", "enable", "rbd", "rbd")
        rbd = ("rbd", "-c", self.path("ceph.conf"))
        self.run(*rbd, "create", "--size", "1M", "rbd/probe")
        self.run(*rbd, "rm", "--no-progress", "rbd/probe")
        with open(self.path("ready.new"), "w", encoding="ascii") as out:
            out.write(self.monitor)
        os.rename(self.path("ready.new"), self.path("ready"))

    def serve(self):
        self.configure()
        self.start_monitor()
        self.start_osd()
        self.make_pool()
        while all(one.poll() is None for one in self.daemons):
            time.sleep(0.5)
        raise RuntimeError(f"a daemon has ended; see {self.path('daemons.log')}")

    def end(self):
        for one in self.daemons:
            one.kill()
        for one in self.daemons:
            one.wait(timeout=10)


def main():
    cluster = SmallCeph(os.path.abspath(sys.argv[1]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        cluster.serve()
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        print(f"small_ceph: {error}", file=sys.stderr)
        return 1
    finally:
        cluster.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
