#!/usr/bin/env python3
"""Asks guests by ping, TCP echo and HTTP until SIGTERM; then prints one JSON line per target and kind.

Runs inside the lab's client namespace. Every request has a deadline; the whole run ends after --seconds.
"""

import argparse
import json
import os
import signal
import socket
import struct
import threading
import time

STOP = threading.Event()


class Record:
    """Answers and silences of one target; the times are of the wall clock in milliseconds."""

    def __init__(self, target, kind, pause, rate):
        self.pause = pause
        self.rate = rate
        self.line = {"target": target, "kind": kind, "answers": 0, "failures": 0, "longest_silence_ms": 0.0,
                     "silence_began_ms": 0, "connections_lost": 0, "boots": []}
        self.last = time.time()

    def answer(self, boot=None):
        now = time.time()
        if self.line["answers"] and (now - self.last) * 1000 > self.line["longest_silence_ms"]:
            self.line["longest_silence_ms"] = round((now - self.last) * 1000, 1)
            self.line["silence_began_ms"] = int(self.last * 1000)
        self.line["answers"] += 1
        if boot and (not self.line["boots"] or self.line["boots"][-1]["boot_id"] != boot):
            self.line["boots"].append({"boot_id": boot, "first_answer_ms": int(now * 1000)})
        self.last = now


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff


def ping(target, record):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(0.01)
        sock.connect((target, 0))
        sequence = 0
        while not STOP.is_set():
            sequence = (sequence + 1) & 0xffff
            head = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xffff, sequence)
            head = struct.pack("!BBHHH", 8, 0, checksum(head), os.getpid() & 0xffff, sequence)
            began = time.monotonic()
            try:
                sock.send(head)
                sock.recv(256)
                record.answer()
            except OSError:
                record.line["failures"] += 1
            time.sleep(max(0.0, 0.01 - (time.monotonic() - began)))


def echo(target, record):
    sock = None
    while not STOP.is_set():
        try:
            if sock is None:
                sock = socket.create_connection((target, 7), timeout=2)
                sock.settimeout(5)
            sock.sendall(b"virga---")
            if not sock.recv(64):
                raise OSError("closed")
            record.answer()
        except OSError:
            record.line["failures"] += 1
            if sock is not None:
                record.line["connections_lost"] += 1
                sock.close()
            sock = None
        time.sleep(0.01)


def http(target, record):
    due = time.monotonic()
    while not STOP.is_set():
        try:
            # As patient as an ordinary client: what TCP mends by sending again is no failed request.
            with socket.create_connection((target, 80), timeout=3) as sock:
                sock.settimeout(3)
                sock.sendall(b"GET / HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n")
                body = b""
                while piece := sock.recv(4096):
                    body += piece
            answer = json.loads(body.split(b"\r\n\r\n", 1)[1])
            record.answer(answer["boot_id"])
        except (OSError, ValueError, IndexError, KeyError):
            record.line["failures"] += 1
        if record.rate:  # what an answer that came late has held up is not asked for in a rush
            due = max(due + 1 / record.rate, time.monotonic())
            STOP.wait(due - time.monotonic())
        else:
            STOP.wait(record.pause)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", default="http", help="of ping, echo and http, joined by commas")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between an answer and the next HTTP request")
    parser.add_argument("--rate", type=float, default=0,
                        help="HTTP requests a second of each target, instead of --pause")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("targets", nargs="+")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: STOP.set())
    kinds = {"ping": ping, "echo": echo, "http": http}
    records, threads = [], []
    for target in options.targets:
        for kind in options.kinds.split(","):
            records.append(Record(target, kind, options.pause, options.rate))
            threads.append(threading.Thread(target=kinds[kind], args=(target, records[-1]), daemon=True))
            threads[-1].start()
    STOP.wait(options.seconds)
    STOP.set()
    for thread in threads:
        thread.join(timeout=6)
    for record in records:
        print(json.dumps(record.line), flush=True)


if __name__ == "__main__":
    main()
