"""A guest made of the tiny image's kernel and modules and of programs of this machine: for what only another kernel, or
a program in a guest, can show.

The kernel unpacks several archives one after the other, later files replace earlier ones: the image is the tiny one's
initial RAM disk and an archive behind it with the programs, the libraries that they need, and another first program.
"""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs devtmpfs /dev
exec </dev/console >/dev/console 2>&1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /tmp
for module in $(cat /etc/modules-early /etc/modules-late); do insmod $module 2>/dev/null; done
"""


def libraries(program):
    """Files that the loader needs for a program, by its own word, and the loader."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True, timeout=30).stdout
    return sorted(set(re.findall(r"(?:=> |^\s)(/\S+) \(0x", said, re.MULTILINE)))


def bare(program):
    """A program or library without what only a debugger reads: a guest has little memory."""
    with tempfile.TemporaryDirectory() as folder:
        made = os.path.join(folder, "program")
        subprocess.run(["strip", "-o", made, program], check=True, timeout=30)
        with open(made, "rb") as file:
            return file.read()


def archive(entries):
    """cpio "newc" of (path, mode, bytes), folders before what is in them."""
    out = bytearray()
    for number, (path, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        name = path.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def make(tiny, folder, programs, script):
    """Writes the image to `folder`, with `script` (of a shell) after the file systems and modules of the first program.

    `programs` are paths of this machine; in the guest they are in /bin.
    """
    wanted = {os.path.join("bin", os.path.basename(program)): program for program in programs}
    wanted.update({path.lstrip("/"): path for program in programs for path in libraries(program)})
    folders = sorted({os.path.join(*parts[:n]) for parts in (path.split("/") for path in wanted)
                      for n in range(1, len(parts))})
    entries = [(path, stat.S_IFDIR | 0o755, b"") for path in folders]
    for path, source in sorted(wanted.items()):
        entries.append((path, stat.S_IFREG | 0o755, bare(source)))
    entries.append(("init", stat.S_IFREG | 0o755, (INIT + script).encode()))
    os.makedirs(folder)
    shutil.copyfile(os.path.join(tiny, "kernel"), os.path.join(folder, "kernel"))
    with open(os.path.join(tiny, "initrd"), "rb") as file:
        initrd = file.read()
    initrd += b"\0" * (-len(initrd) % 4) + archive(entries)
    with open(os.path.join(folder, "initrd"), "wb") as file:
        file.write(initrd)
    with open(os.path.join(tiny, "manifest.json"), encoding="utf-8") as file:
        manifest = json.load(file)
    with open(os.path.join(folder, "kernel"), "rb") as file:
        kernel = file.read()
    manifest.update(sha256=hashlib.sha256(kernel + initrd).hexdigest(), file_bytes=len(kernel) + len(initrd))
    with open(os.path.join(folder, "manifest.json"), "w", encoding="utf-8") as file:
        json.dump(manifest, file)
