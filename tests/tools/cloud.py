"""A whole cloud on this machine for the demo and the walk-through tests: `virgad dev`, the CLI, probes of guests."""

import glob
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

PROBER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "prober.py")


class CloudError(Exception):
    """What was tried and what came back."""


def free_port():
    import socket
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Prober:
    """Asks guests from the lab's client namespace; stop() returns what each of them missed."""

    def __init__(self, namespace, targets, kinds, enter=(), pause=0.05, rate=0):
        python = "/usr/bin/python3" if enter else sys.executable  # another user may have no access to ours
        command = [*enter, "ip", "netns", "exec", namespace, python, "-", "--kinds", kinds,
                   "--pause", str(pause), "--rate", str(rate)]
        # The program comes by its input, for who may not read it; a group of its own, because `nsenter` hands no signal
        # on to the program that it starts.
        with open(PROBER, encoding="utf-8") as program:
            self.process = subprocess.Popen(command + targets, stdin=program, stdout=subprocess.PIPE, text=True,
                                            start_new_session=True)

    def stop(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        out, _ = self.process.communicate(timeout=30)
        return [json.loads(line) for line in out.splitlines() if line.strip()]


class Cloud:
    """Bounded in time: every wait has a deadline, close() ends all that was begun."""

    def __init__(self, build, instance, hosts=3, data=None, options=(), prefix=()):
        """`prefix` begins each command of the cloud's user, as `setpriv ...` for one who is not root."""
        self.bin = os.path.join(os.path.abspath(build), "bin")
        self.instance = instance
        self.own_data = data is None
        self.data = data or tempfile.mkdtemp(prefix="virga-" + instance + "-")
        self.port = free_port()
        self.log = open(os.path.join(self.data, "dev.log"), "w", encoding="utf-8")
        self.probers = []
        self.prefix = list(prefix)
        self.enter = []  # begins a command that is to run where the lab's network namespaces are
        self.process = subprocess.Popen(
            [*self.prefix, os.path.join(self.bin, "virgad"), "dev", "--hosts", str(hosts), "--instance", instance,
             "--data", self.data, "--listen", f"127.0.0.1:{self.port}", *options],
            stdout=self.log, stderr=subprocess.STDOUT)

    def cli(self, *arguments, check=True, text=False, deadline=150):
        """Runs `virga`; returns its JSON (or text). With check=False: (exit code, output)."""
        command = [*self.prefix, os.path.join(self.bin, "virga"), "--server", f"http://127.0.0.1:{self.port}"]
        command += [*arguments] if text else ["-o", "json", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=deadline, check=False)
        if not check:
            return done.returncode, done.stdout + done.stderr
        if done.returncode != 0:
            raise CloudError(f"virga {' '.join(arguments)}: exit {done.returncode}: {done.stderr}")
        return done.stdout if text else json.loads(done.stdout or "null")

    def api(self, method, path, body=None, headers=None):
        """One request of the HTTP API; returns its JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, "/v1/" + path, text, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as problem:
            raise CloudError(f"{method} {path}: {problem}") from problem
        finally:
            connection.close()
        if answer.status >= 300:
            raise CloudError(f"{method} {path}: status {answer.status}: {content.decode(errors='replace')}")
        return json.loads(content or b"null")

    def lab(self, *arguments):
        return self.cli("lab", *arguments, "--instance", self.instance)

    def wait(self, what, condition, deadline=60.0, pause=0.1):
        """Polls until `condition` gives something true and returns it."""
        end = time.monotonic() + deadline
        while True:
            if self.process.poll() is not None:
                raise CloudError(f"{what}: the lab ended with {self.process.returncode}:\n{self.log_tail()}")
            try:
                value = condition()
            except (CloudError, json.JSONDecodeError):
                value = None
            if value:
                return value
            if time.monotonic() > end:
                raise CloudError(f"{what}: not within {deadline} s; events: {self.tail()}")
            time.sleep(pause)

    def log_tail(self, lines=20):
        with open(self.log.name, encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-lines:])

    def tail(self, count=12):
        try:
            newest = self.api("GET", f"events?newest=true&limit={count}")["items"]
        except CloudError as problem:
            return str(problem)
        return "\n".join(f"{e['at']} {e['kind']} {e['subject']} {e['text']}" for e in reversed(newest))

    def hosts(self):
        return {host["meta"]["name"]: host for host in self.cli("host", "list")}

    def vms(self):
        return {vm["meta"]["tenant"] + "/" + vm["meta"]["name"]: vm for vm in self.cli("vm", "list")}

    def events(self, after=0):
        """All events after that number: the journal gives them a page at a time, the oldest first."""
        found = []
        while True:
            page = self.api("GET", f"events?after={after}&limit=1000")["items"]
            found += page
            if len(page) < 1000:
                return found
            after = page[-1]["sequence"]

    def last_event(self):
        newest = self.api("GET", "events?newest=true&limit=1")["items"]
        return newest[0]["sequence"] if newest else 0

    def wait_event(self, after, kinds, subject, deadline=60.0):
        """The first event of one of these kinds about the subject."""
        def found():
            return next((e for e in self.events(after) if e["kind"] in kinds and e["subject"] == subject), None)
        return self.wait(f"{' or '.join(kinds)} of {subject}", found, deadline, pause=0.05)

    def address(self, vm):
        ports = self.cli("port", "list")
        return next(p["spec"]["address"].split("/")[0] for p in ports if p["spec"]["vm"] == vm)

    def wait_hosts(self, count, deadline=60.0):
        def alive():
            return sum(h["status"]["health"] == "alive" for h in self.hosts().values()) >= count
        self.wait(f"{count} hosts alive", alive, deadline)

    def wait_answering(self, names, deadline=120.0):
        """Waits until the guests' own heartbeats arrive."""
        def healthy():
            vms = self.vms()
            return all(vms[name]["status"]["health"] == "healthy" for name in names)
        self.wait("guests answering: " + ", ".join(names), healthy, deadline)

    def build_image(self, packages):
        """The tiny guest, into the cluster's shared directory."""
        shared = os.path.join(self.data, "shared", "images", "tiny")
        subprocess.run([*self.prefix, "mkdir", "-p", os.path.dirname(shared)], check=True, timeout=10)
        self.cli("image", "build", "tiny", "--output", shared, "--packages", packages, text=True, deadline=300)
        self.cli("image", "create", "tiny", "--folder", shared)

    def apply(self, manifest):
        path = os.path.join(self.data, "manifest.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(manifest)
        return self.cli("apply", "-f", path, text=True)

    def restore(self, name, while_down=lambda: None):
        """A backup, as an operator would: verify, stop the server, put the restored store in place, start."""
        folder = os.path.join(self.data, "server")
        backup = os.path.join(folder, "backups", name + ".db")
        self.cli("restore", backup, "--verify")
        self.lab("fail", "server", "--how", "power", "--hold")
        self.wait("the server has ended", lambda: not self.lab("status")["server_pid"], 30)
        while_down()
        aside = tempfile.mkdtemp(prefix="aside-", dir=self.data)
        for file in ("state.db", "state.db-wal", "state.db-shm"):
            if os.path.exists(os.path.join(folder, file)):
                shutil.move(os.path.join(folder, file), aside)
        self.cli("restore", backup, "--to", os.path.join(folder, "state.db"))
        self.lab("heal", "server")

    def attach_client(self, network, address):
        made = self.lab("client", network, "--address", address)
        enter = self.lab("status")["enter"]
        self.enter = [*self.prefix, *enter.split()] if enter else []
        return made["namespace"]

    def http(self, namespace, address):
        """One GET from the client namespace: the guest's answer, or None."""
        command = [*self.enter, "ip", "netns", "exec", namespace, "curl", "-s", "-m", "2", f"http://{address}/"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        try:
            return json.loads(done.stdout)
        except json.JSONDecodeError:
            return None

    def probe(self, namespace, targets, kinds="http", pause=0.05, rate=0):
        """`rate`: requests a second of each target; 0 = each when the answer before it is `pause` seconds old."""
        prober = Prober(namespace, targets, kinds, self.enter, pause, rate)
        self.probers.append(prober)
        return prober

    def copies(self):
        """QEMU processes that really exist, by VM and host of the lab: {"acme/web": {"host-1": [pid]}}."""
        found = {}
        for root in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup"):
            top = os.path.join(root, "virga-lab", self.instance)
            for path in glob.iglob(os.path.join(top, "*", "virga", "*", "*", "cgroup.procs")):
                host, _, tenant, vm, _ = os.path.relpath(path, top).split("/")
                try:
                    with open(path, encoding="utf-8") as procs:
                        pids = [int(pid) for pid in procs.read().split()]
                except OSError:  # the group has just been removed
                    continue
                if pids:
                    found.setdefault(f"{tenant}/{vm}", {})[host] = pids
            if os.path.isdir(top):
                break
        return found

    def guests_on(self, host):
        """Pids of the QEMU processes that really exist on a host of the lab."""
        return [pid for places in self.copies().values() for pid in places.get(host, [])]

    def close(self):
        for prober in self.probers:
            if prober.process.poll() is None:
                os.killpg(prober.process.pid, signal.SIGKILL)
                prober.process.wait(timeout=10)
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(timeout=10)
                subprocess.run([*self.prefix, os.path.join(self.bin, "virgad"), "dev", "--clean", "--instance",
                                self.instance, "--data", self.data], timeout=60, check=False)
        self.log.close()
        if self.own_data:
            shutil.rmtree(self.data, ignore_errors=True)
