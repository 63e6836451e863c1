"""QEMU without Virga: copies of a running guest's machine, moved alive by the bare QMP sequence.

The command line is the one that Virga gave to a QEMU that runs, with descriptors of the same numbers; only the network
card's other end is a socket that nobody reads, and the disks are own files in the same folder.
"""

import array
import contextlib
import ctypes
import json
import os
import re
import select
import signal
import socket
import subprocess
import time

CAPABILITIES = ("events", "return-path", "pause-before-switchover", "late-block-activate")
DEADLINE_S = 20.0


class QmpError(Exception):
    pass


class Qmp:
    """One QMP connection; every wait has a deadline, events are kept until somebody waits for them."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)
        self.buffer = b""
        self.events = []
        self.next(time.monotonic() + DEADLINE_S)  # the greeting
        self.execute("qmp_capabilities", {"enable": ["oob"]})

    def next(self, end):
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.socket], [], [], max(0.0, end - time.monotonic()))
            piece = self.socket.recv(65536) if ready else b""
            if not piece:
                raise QmpError("QEMU does not answer" if not ready else "QEMU closed the connection")
            self.buffer += piece
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def execute(self, command, arguments=None, descriptor=None):
        text = json.dumps({"execute": command, "arguments": arguments or {}}).encode()
        rights = [] if descriptor is None else [
            (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        self.socket.sendmsg([text], rights)
        end = time.monotonic() + DEADLINE_S
        while True:
            message = self.next(end)
            if "error" in message:
                raise QmpError(f"{command}: {message['error']['desc']}")
            if "return" in message:
                return message["return"]
            self.events.append(message)

    def wait_migration(self, *states):
        """Until the migration says one of these states; failed and cancelled are errors."""
        end = time.monotonic() + DEADLINE_S
        while True:
            while self.events:
                event = self.events.pop(0)
                status = event.get("data", {}).get("status") if event["event"] == "MIGRATION" else None
                if status in states:
                    return
                if status in ("failed", "cancelled"):
                    raise QmpError(f"the migration ended as {status}")
            self.events.append(self.next(end))


class Template:
    """A running QEMU's arguments and the files behind its descriptors, which the VM's vm.json names."""

    def __init__(self, pid, shared, vm):
        with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
            self.arguments = file.read().rstrip("\0").split("\0")
        for at, word in enumerate(self.arguments):
            if '"id":"migration-keys"' in word:  # it came by a migration, whose key is gone
                del self.arguments[at - 1:at + 1]
                break
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
            self.cgroups = [line.split(":", 2)[1:] for line in file.read().splitlines()]
        with open(os.path.join(shared, "vms", vm, "vm.json"), encoding="utf-8") as file:
            launch = json.load(file)
        text = "\0".join(self.arguments)
        self.sockets = {name: int(n) for name, n in re.findall(r"socket,id=([\w-]+),fd=(\d+)", text)}
        self.taps = [int(n) for n in re.findall(r"tap,id=net\d+,fd=(\d+)", text)]
        self.console = int(re.search(r"file,id=console,path=/dev/fdset/(\d+)", text).group(1))
        self.fixed, self.disks = {}, {}  # descriptor -> path of what is only read, and of what is written
        for option, key in (("-kernel", "kernel"), ("-initrd", "initrd")):
            if option in self.arguments:
                number = self.arguments[self.arguments.index(option) + 1].rsplit("/", 1)[1]
                self.fixed[int(number)] = os.path.join(shared, launch[key])
        nodes = [json.loads(word) for word in self.arguments if word.startswith('{"driver":"file"')]
        for node in nodes:
            disk, base = re.fullmatch(r"disk(\d+)(-base\d+)?-file", node["node-name"]).groups()
            place = self.fixed if base else self.disks
            path = launch["disks"][int(disk)]["backing" if base else "path"]
            place[int(node["filename"].rsplit("/", 1)[1])] = os.path.join(shared, path)

    def command(self, incoming):
        words = [re.sub(r"^tap,(id=net\d+),fd=(\d+),vhost=off$", r"dgram,\1,local.type=fd,local.str=\2", word)
                 for word in self.arguments]
        if "-incoming" in words:
            at = words.index("-incoming")
            del words[at:at + 2]
        return words + ["-incoming", "defer"] if incoming else words


class RawQemu:
    """One process; close() ends it. `folder` holds its sockets, `disks` maps the disks' descriptors to own files,
    `groups` are the cgroup.procs files that it joins.
    """

    def __init__(self, template, folder, disks, incoming, groups=()):
        os.makedirs(folder, exist_ok=True)
        self.folder, self.owned = folder, []
        lent = {}
        for number, path in template.fixed.items():
            lent[number] = self.keep(os.open(path, os.O_RDONLY))
        for number in template.disks:
            lent[number] = self.keep(os.open(disks[number], os.O_RDWR))
        console = os.path.join(folder, "console.log")
        lent[template.console] = self.keep(os.open(console, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        for name, number in template.sockets.items():
            lent[number] = self.listen(os.path.join(folder, name + ".sock"))
        for number in template.taps:
            near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            lent[number] = self.keep(near.detach())
            self.keep(far.detach())
        self.log = open(os.path.join(folder, "qemu.log"), "ab")
        self.process = subprocess.Popen(template.command(incoming), stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log, preexec_fn=lambda: self.place(lent, groups), close_fds=False)
        try:
            self.qmp = Qmp(os.path.join(folder, "qmp.sock"))
        except BaseException:
            self.close()
            raise

    def keep(self, descriptor):
        self.owned.append(descriptor)
        return descriptor

    def listen(self, path):
        if os.path.exists(path):
            os.unlink(path)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.bind(path)
        made.listen(1)
        return self.keep(made.detach())

    @staticmethod
    def place(lent, groups):
        """In the child: joins the cgroups; each descriptor gets its number, after all moved out of the way."""
        for path in groups:
            with open(path, "w", encoding="utf-8") as file:
                file.write(str(os.getpid()))
        high = {number: os.dup2(here, 200 + number) for number, here in lent.items()}
        for number, here in high.items():
            os.dup2(here, number)
            os.close(here)

    def prepare(self):
        """Capabilities and limits as the agent sets them, on either side."""
        self.qmp.execute("migrate-set-capabilities", {"capabilities": [
            {"capability": name, "state": True} for name in CAPABILITIES]})
        self.qmp.execute("migrate-set-parameters", {
            "max-bandwidth": 1 << 30, "downtime-limit": 100, "announce-initial": 20, "announce-max": 100,
            "announce-rounds": 6, "announce-step": 30})

    def wait_heartbeat(self, seconds):
        """Until the guest sends a sign of life; False when the time is over. Asks anew every 2 s."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as signs:
                signs.connect(os.path.join(self.folder, "heartbeat.sock"))
                if select.select([signs], [], [], 2)[0]:
                    return True
        return False

    def quit(self):
        self.qmp.execute("quit")
        self.process.wait(timeout=DEADLINE_S)
        self.close()

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(timeout=DEADLINE_S)
        while self.owned:
            os.close(self.owned.pop())
        self.log.close()


@contextlib.contextmanager
def inside(namespace):
    """This thread in a network namespace of /run/netns."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net", "rb") as home, open("/run/netns/" + namespace, "rb") as there:
        if libc.setns(there.fileno(), 0) != 0:
            raise OSError(ctypes.get_errno(), f"enter {namespace}")
        try:
            yield
        finally:
            if libc.setns(home.fileno(), 0) != 0:
                os._exit(1)  # what came now would be in the wrong network


def connected_pair(near_namespace, far_namespace, far_address):
    """Both ends of a TCP connection between two hosts of the lab."""
    with inside(far_namespace):
        listener = socket.create_server((far_address, 0))
    with listener:
        with inside(near_namespace):
            near = socket.create_connection(listener.getsockname(), timeout=5)
        far, _ = listener.accept()
    for end in (near, far):
        end.setblocking(True)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


def relayed(virgad, near, far):
    """The same pair behind relays that encrypt what passes between them, as the agents' do; and their processes."""
    ends, relays = [], []
    for role, wire in (("client", near), ("server", far)):
        mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        key, key_in = os.pipe()
        os.write(key_in, b"a key of the benchmark, not secret")
        os.close(key_in)
        lent = {3: wire.fileno(), 4: mine.fileno(), 5: key}
        relays.append(subprocess.Popen([virgad, "relay", role], stdin=subprocess.DEVNULL, close_fds=False,
                                       preexec_fn=lambda lent=lent: RawQemu.place(lent, ())))
        for end in (wire, mine):
            end.close()
        os.close(key)
        ends.append(other)
    return ends, relays


def move(source, start_destination, connect):
    """The bare sequence, timed: returns the new QEMU and the milliseconds of its parts, as Virga's steps are called.
    `connect` makes both ends of the connection that the state goes through."""
    marks = [time.monotonic()]
    destination = start_destination()
    try:
        destination.prepare()
        marks.append(time.monotonic())
        near, far = connect()
        destination.qmp.execute("getfd", {"fdname": "migration"}, far.fileno())
        destination.qmp.execute("migrate-incoming", {"uri": "fd:migration"})
        source.prepare()
        source.qmp.execute("getfd", {"fdname": "migration"}, near.fileno())
        source.qmp.execute("migrate", {"uri": "fd:migration"})
        near.close()
        far.close()
        source.qmp.wait_migration("pre-switchover")
        marks.append(time.monotonic())
        source.qmp.execute("migrate-continue", {"state": "pre-switchover"})
        source.qmp.wait_migration("completed")
        destination.qmp.wait_migration("completed")
        destination.qmp.execute("cont")
        marks.append(time.monotonic())
        source.quit()
        marks.append(time.monotonic())
    except BaseException:
        destination.close()
        raise
    names = ("prepare", "send", "switch", "clean")
    parts = {name: (end - begin) * 1000 for name, begin, end in zip(names, marks, marks[1:])}
    return destination, {**parts, "total": (marks[-1] - marks[0]) * 1000}
