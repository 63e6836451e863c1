#!/usr/bin/env python3
"""Services on real guests: copies behind one address, relocated under constant requests, none of which may fail.

One cloud of three hosts serves all tests, in the order of their numbers. VIRGA_BUILD names the build folder;
VIRGA_PACKAGES a folder for the guest's packages.
"""

import contextlib
import glob
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
from cloud import Cloud  # noqa: E402
from cloud_case import LabCase, kill  # noqa: E402

SERVICE = "acme/web"
CONSUMERS = 12
RUNS = int(os.environ.get("VIRGA_LOAD_RUNS", "5"))  # of each mode under load
MANIFEST = """
kind: network
meta: {name: front, tenant: acme}
spec: {cluster: lab, subnet: 10.50.0.0/24, gateway: nat}
"""


class ServicesTest(LabCase):
    @classmethod
    def make_cloud(cls):
        return Cloud(os.environ["VIRGA_BUILD"], "svc")

    @classmethod
    def furnish(cls):
        cls.cloud.wait_hosts(3, 90)
        cls.bring_in(MANIFEST, [], os.environ["VIRGA_PACKAGES"])
        cls.cloud.cli("service", "create", SERVICE, "--image", "tiny", "--network", "front", "--replicas", "2",
                      "--port", "80", "--guest-port", "80", "--protocol", "http", "--check", "http")
        cls.promise("99.9")
        cls.cloud.wait("the service is available", lambda: cls.service()["status"]["available"]
                       and cls.states() == ["serving", "serving"], 180)
        cls.address = cls.cloud.api("GET", "ports/acme/web-frontend")["spec"]["address"].partition("/")[0]
        cls.cloud.wait("it answers", lambda: cls.cloud.http(cls.client, cls.address), 60)
        outside = cls.cloud.hosts()["host-1"]["status"]["address"].rsplit(".", 2)[0] + ".4.128"
        cls.cloud.cli("cluster", "floating-ranges", "lab", "--range", outside)
        cls.cloud.cli("floating-address", "create", "acme/ip", "--service", "web")
        cls.outside = outside
        cls.cloud.wait("it answers outside", lambda: cls.cloud.http(cls.client, outside), 30)

    @classmethod
    def promise(cls, availability):
        cls.cloud.cli("service", "objective", SERVICE, "--availability", availability, "--blackout-ms", "1000",
                      "--window-days", "2")

    @classmethod
    def service(cls):
        return cls.cloud.api("GET", f"services/{SERVICE}")

    @classmethod
    def copies(cls):
        return [copy["vm"] for copy in cls.service()["status"]["copies"]]

    @classmethod
    def states(cls):
        return [copy["state"] for copy in cls.service()["status"]["copies"]]

    def settled(self):
        status = self.service()["status"]
        return status["available"] and not status.get("relocation") and self.states() == ["serving", "serving"]

    def under_requests(self, what, done, deadline):
        """What consumers see while `what` happens, until done(): in the tenant's network, and outside."""
        prober = self.cloud.probe(self.client, [self.address, self.outside], "http")
        time.sleep(2)
        what()
        self.cloud.wait("it is done", done, deadline)
        time.sleep(2)
        for where, line in zip(("inside", "outside"), prober.stop()):
            self.assertEqual(line["failures"], 0, line)
            self.assertGreater(line["answers"], 20)
            print(f"{where}: {line['answers']} requests, 0 failed, longest silence {line['longest_silence_ms']:.0f} ms")

    def test_01_one_address_is_answered_by_all_copies(self):
        """A3-17 R-B5 R-B6: two guests behind a balancer in the tenant's network."""
        names = set()
        for _ in range(20):
            names.add(self.cloud.http(self.client, self.address)["name"])
        self.assertEqual(len(names), 2, names)

    def test_01_w_a_copy_gets_the_share_of_requests_that_was_asked_for(self):
        """R-B6: weights 10 to 100 of two copies; and back."""
        heavy, light = self.copies()

        def share(count):
            names = [self.cloud.http(self.client, self.address)["name"] for _ in range(count)]
            return sum(f"acme/{name}" == light for name in names) / count
        self.cloud.cli("service", "weigh", SERVICE, "--copy", light.partition("/")[2], "--weight", "10")
        self.cloud.wait("its weight is in force", lambda: share(22) < 0.3, 30)
        self.assertAlmostEqual(share(110), 1 / 11, delta=0.05)
        self.cloud.cli("service", "weigh", SERVICE, "--copy", light.partition("/")[2], "--weight", "100")
        self.cloud.wait("both have the same again", lambda: abs(share(20) - 0.5) < 0.2, 30)
        self.assertEqual([copy["weight"] for copy in self.service()["status"]["copies"]], [100, 100])
        self.assertNotEqual(heavy, light)

    def make_certificate(self, number):
        """A self-signed one of shop.example: (file for consumers, file for the service)."""
        folder = tempfile.mkdtemp(dir=self.cloud.data)
        key, shown, both = (os.path.join(folder, name) for name in ("key.pem", "certificate.pem", "both.pem"))
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-keyout", key, "-out", shown, "-days", "2", "-subj", "/CN=shop", "-set_serial", str(number),
                        "-addext", "subjectAltName=DNS:shop.example"], check=True, capture_output=True, timeout=30)
        with open(both, "w", encoding="utf-8") as file:
            for part in (shown, key):
                with open(part, encoding="utf-8") as text:
                    file.write(text.read())
        return shown, both

    def test_01_t_tls_ends_at_the_balancer_and_its_certificate_is_renewed_under_requests(self):
        """R-B6 R-B9: consumers check the certificate, so does the service's monitor; its renewal fails no request."""
        first, first_pem = self.make_certificate(101)
        second, second_pem = self.make_certificate(102)
        self.cloud.cli("service", "create", "acme/shop", "--image", "tiny", "--network", "front", "--replicas", "1",
                       "--port", "443", "--guest-port", "80", "--protocol", "http", "--check", "http",
                       "--certificate", first_pem)
        self.assertNotIn("BEGIN", json.dumps(self.cloud.api("GET", "services/acme/shop")))
        self.cloud.cli("service", "objective", "acme/shop", "--availability", "99.9")
        address = self.cloud.api("GET", "ports/acme/shop-frontend")["spec"]["address"].partition("/")[0]

        def get(url, *more):
            done = subprocess.run([*self.cloud.enter, "ip", "netns", "exec", self.client, "curl", "-sS", "-m", "3",
                                   "--resolve", f"shop.example:443:{address}", *more, url],
                                  capture_output=True, text=True, timeout=10, check=False)
            return done.stdout if done.returncode == 0 else ""
        secure = "https://shop.example/"
        self.cloud.wait("it answers by TLS", lambda: "shop-c1" in get(secure, "--cacert", first), 120)
        self.assertEqual(get(secure, "--cacert", second), "", "another certificate is refused by the consumer")
        self.assertNotIn("shop-c1", get(f"http://{address}:443/"), "nothing is told without TLS")
        failed = []
        stop = threading.Event()

        def consume():
            while not stop.is_set():
                if not any("shop-c1" in get(secure, "--cacert", shown) for shown in (first, second)):
                    failed.append(time.time())
        consumer = threading.Thread(target=consume)
        consumer.start()
        try:
            time.sleep(1)
            self.cloud.cli("service", "certificate", "acme/shop", "--file", second_pem)
            self.cloud.wait("the new one is shown", lambda: "shop-c1" in get(secure, "--cacert", second), 30)
            time.sleep(1)
        finally:
            stop.set()
            consumer.join()
        self.assertEqual(failed, [])
        level = self.cloud.wait("its monitor has asked", lambda: (
            lambda seen: seen["asked"] > 5 and seen)(self.cloud.cli("service", "level", "acme/shop")), 60)
        self.assertEqual((level["failed"], level["failing"]), (0, ""), level)
        self.cloud.cli("service", "delete", "acme/shop", text=True)
        self.cloud.wait("it is gone", lambda: "acme/shop-c1" not in self.cloud.vms(), 60)

    def test_02_a_copy_is_relocated_by_command_and_no_request_fails(self):
        """A3-03 A3-06 A3-09 A3-10 A3-20: duplicated at the destination, redirected, drained, retired."""
        original = self.copies()[0]
        after = self.cloud.last_event()
        self.under_requests(
            lambda: self.cloud.cli("service", "relocate", SERVICE, "--copy", original.partition("/")[2]),
            lambda: original not in self.copies() and self.settled(), 150)
        kinds = [e["kind"] for e in self.cloud.events(after) if e["subject"] == f"service/{SERVICE}"]
        self.assertEqual([k for k in kinds if k.startswith("service.re") and k != "service.relocation_requested"],
                         ["service.relocation_started", "service.redirected", "service.relocated"])
        self.assertNotIn("service.unavailable", kinds)
        self.assertNotIn(original, self.cloud.vms())

    def test_03_a_host_goes_into_maintenance_and_no_request_fails(self):
        """A3-02 A3-05 A3-07 A3-08: its copy is duplicated elsewhere before it goes."""
        copy = self.copies()[0]
        host = self.cloud.vms()[copy]["status"]["host"]
        self.under_requests(
            lambda: self.cloud.cli("host", "maintenance", host),
            lambda: self.cloud.guests_on(host) == [] and self.settled(), 180)
        self.cloud.cli("host", "activate", host)
        self.cloud.wait_hosts(3, 60)

    def test_03_w_a_window_of_the_calendar_empties_a_host_and_gives_it_back(self):
        """A3-02 A3-06 A3-08 R-B5: nobody commands it; what was there is elsewhere first."""
        after, copy = self.cloud.last_event(), self.copies()[0]
        host = self.cloud.vms()[copy]["status"]["host"]
        self.under_requests(
            lambda: self.cloud.cli("host", "window", host, "--from", time.strftime("%H:%M", time.gmtime())),
            lambda: self.cloud.guests_on(host) == [] and self.settled(), 180)
        self.cloud.wait_event(after, ["host.window_opened"], f"host/{host}", 5)
        self.cloud.cli("host", "window", host)
        self.cloud.wait_event(after, ["host.window_closed"], f"host/{host}", 20)
        self.assertFalse(self.cloud.api("GET", f"hosts/{host}")["spec"]["maintenance"])

    def test_03_x_what_consumers_had_of_these_moves_was_measured(self):
        """A3-21 A3-22 R-B9: from another host, through the address, during each move and after it."""
        level = self.cloud.cli("service", "level", SERVICE)
        status = self.service()["status"]
        self.assertEqual((level["failing"], level["monitor"]), ("", status["monitor"]))
        self.assertNotEqual(status["monitor"], status["balancer"])
        moves = level["moves"]
        self.assertEqual([move["cause"].split()[-1] for move in moves],
                         ["maintenance", "maintenance", "it"], "newest first: the calendar, the host, an operator")
        for move in moves:
            self.assertEqual(move["failed"], 0, f"{move}\n{self.cloud.tail(60)}")
            self.assertGreater(move["asked"], 50, "ten times a second while it lasts")
            self.assertLessEqual(move["waited_ms"], 1000, move)
        told = [e for e in self.cloud.events(0) if e["kind"] == "service.blackout_measured"]
        self.assertGreaterEqual(len(told), 2, "each is told when its aftermath is over, or the next begins")
        self.assertEqual(level["failed"], 0, level)
        print(f"monitor: {level['asked']} requests, 0 failed; longest waits of three moves "
              f"{[move['waited_ms'] for move in moves]} ms")

    def balancers(self):
        """Processes of HAProxy that this cloud has started."""
        found = []
        for path in glob.iglob("/proc/[0-9]*/cmdline"):
            folder = os.path.dirname(path)
            with contextlib.suppress(OSError), open(path, encoding="utf-8") as file:
                ours = os.readlink(os.path.join(folder, "cwd")).startswith(self.cloud.data)
                if ours and file.read().split("\0")[0].endswith("haproxy"):
                    found.append(int(os.path.basename(folder)))
        return found

    def kill_balancer(self):
        pids = self.cloud.wait("HAProxy runs", self.balancers, 30)
        for pid in pids:
            kill(pid)
        self.cloud.wait("it runs again", lambda: any(pid not in pids for pid in self.balancers()), 30)

    def test_03_z_the_balancer_is_killed_while_a_copy_is_relocated(self):
        """R-F1 R-B6 A3-10: HAProxy dies before its copy is there, as it serves and as the original goes; each time it
        is there again at once and the relocation comes to its end."""
        original, after = self.copies()[0], self.cloud.last_event()
        prober = self.cloud.probe(self.client, [self.address], "http")
        self.cloud.cli("service", "relocate", SERVICE, "--copy", original.partition("/")[2])
        for kind in ("service.relocation_started", "service.copy_serving", "service.redirected"):
            self.cloud.wait(kind, lambda kind=kind: self.events_of(after, kind), 120)
            self.kill_balancer()
        self.cloud.wait("it is relocated", lambda: original not in self.copies() and self.settled(), 120)
        self.cloud.wait("it answers", lambda: self.cloud.http(self.client, self.address), 30)
        line = prober.stop()[0]
        self.assertLess(line["longest_silence_ms"], 15000, line)
        self.assertNotIn(original, self.cloud.vms())
        print(f"3 kills, {line['failures']} of {line['answers']} requests failed, "
              f"longest silence {line['longest_silence_ms']:.0f} ms")

    def test_04_the_host_of_a_copy_is_lost_and_the_service_answers_on(self):
        """A3-05 R-F1: the other copy serves; the lost one is restarted elsewhere."""
        balancer = self.service()["status"]["balancer"]
        vms = self.cloud.vms()
        lost = next((vms[c]["status"]["host"] for c in self.copies() if vms[c]["status"]["host"] != balancer), None)
        if lost is None:
            lost = next(host for host in ("host-1", "host-2", "host-3") if host != balancer)
            self.cloud.cli("--wait", "service", "relocate", SERVICE, "--copy", self.copies()[0].partition("/")[2],
                           "--host", lost)
        self.cloud.lab("fail", lost, "--how", "power")
        self.cloud.wait("a consumer is answered", lambda: self.cloud.http(self.client, self.address), 20)
        self.cloud.wait("both copies serve again", lambda: self.settled() and lost not in
                        [self.cloud.vms()[c]["status"]["host"] for c in self.copies()], 120)
        self.cloud.lab("heal")
        self.cloud.wait_hosts(3, 90)

    def test_05_the_host_of_the_balancer_is_lost_and_its_address_moves(self):
        """R-B6 R-F1: another host carries the balancer; the address stays."""
        lost = self.service()["status"]["balancer"]
        self.cloud.lab("fail", lost, "--how", "power")
        self.cloud.wait("another host has the balancer", lambda: self.service()["status"]["balancer"] != lost, 60)
        self.cloud.wait("a consumer is answered", lambda: self.cloud.http(self.client, self.address), 60)
        self.cloud.wait("one outside, too", lambda: self.cloud.http(self.client, self.outside), 60)
        self.cloud.lab("heal")
        self.cloud.wait_hosts(3, 90)
        self.cloud.wait("both copies serve again", self.settled, 120)

    def test_05_x_an_outage_breaks_a_promise_and_is_told_once(self):
        """A3-21 A3-22 R-B9: that time without a balancer is more than 99.9995 % of two days allow, less than 99.9 %."""
        level = self.cloud.wait("it was measured", lambda: (lambda now: now["failed"] > 0 and now)(
            self.cloud.cli("service", "level", SERVICE)), 30)
        lost_ms = level["budget_ms"] - level["budget_left_ms"]
        self.assertGreater(lost_ms, 864, level)
        self.assertGreater(level["budget_left_ms"], 0, level)
        after = self.cloud.last_event()
        self.promise("99.9995")
        told = self.cloud.wait_event(after, ["service.level_breached"], f"service/{SERVICE}", 20)
        self.assertEqual(told["facts"]["budget_ms"], 864)
        after = self.cloud.last_event()
        self.promise("99.9")
        self.cloud.wait_event(after, ["service.level_restored"], f"service/{SERVICE}", 20)
        self.assertEqual(self.events_of(after, "service.level_breached"), [])
        print(f"without answers when the balancer's host was lost: {lost_ms} ms")

    def events_of(self, after, kind):
        return [event for event in self.cloud.events(after) if event["kind"] == kind]

    def autoscale(self, action, *limits):
        self.cloud.cli("service", "autoscale", SERVICE, "--action", action, "--sustained-ms", "3000",
                       "--calm-ms", "5000", "--cooldown-ms", "3000", *limits)

    def under_demand(self, clients, pause, done, deadline):
        """Demand of so many consumers until `done`; none of their requests fails."""
        prober = self.cloud.probe(self.client, [self.address] * clients, "http", pause)
        try:
            self.cloud.wait("the demand is met", done, deadline)
        finally:
            lines = prober.stop()
        self.assertEqual(sum(line["failures"] for line in lines), 0, lines)
        print(f"{sum(line['answers'] for line in lines)} requests of {clients} consumers, 0 failed, longest silence "
              f"{max(line['longest_silence_ms'] for line in lines):.0f} ms")

    def demand(self, after):
        """How the first demand was noticed: by whom, by which measure."""
        event = self.cloud.wait_event(after, ["service.demand_high"], f"service/{SERVICE}", 60)
        return event["facts"]["initiator"], event["facts"]["measure"]

    def test_06_demand_adds_a_copy_and_withdraws_it(self):
        """A3-01 A3-07 A3-12 R-B7: the scaling listener sees more requests than two copies are to carry."""
        after = self.cloud.last_event()
        self.autoscale("scale", "--replicas-max", "3", "--requests-max", "5")
        self.under_demand(2, 0.05, lambda: self.states() == ["serving"] * 3, 120)
        self.assertEqual(self.demand(after), ("scaling_listener", "requests_max"))
        self.assertEqual(self.service()["spec"]["replicas"], 2)
        self.cloud.wait("it is withdrawn", self.settled, 60)
        self.cloud.wait_event(after, ["service.demand_low"], f"service/{SERVICE}", 10)

    def test_07_a_queue_at_the_balancer_relocates_the_busiest_copy(self):
        """A3-12 R-B7: the load balancer's own signal: it may open one connection to each copy, and more wait."""
        after, before = self.cloud.last_event(), self.copies()
        self.autoscale("duplicate", "--requests-max", "0", "--queue-max", "2", "--copy-connections-max", "1")
        self.under_demand(12, 0, lambda: self.copies() != before and self.settled(), 150)
        self.assertEqual(self.demand(after), ("load_balancer", "queue_max"))
        self.autoscale("none", "--queue-max", "0", "--copy-connections-max", "0")
        self.cloud.wait("it is settled", self.settled, 60)

    def test_08_load_of_its_guests_moves_one_alive(self):
        """A3-11 A3-13 A3-16 A3-F1 A3-F2 A3-F3 R-B7: by the processor time of its VMs; the address goes along."""
        after = self.cloud.last_event()
        homes = {copy: self.cloud.vms()[copy]["status"]["host"] for copy in self.copies()}
        self.autoscale("live_migration", "--cpu-percent-max", "25")
        self.under_demand(6, 0, lambda: self.settled() and any(
            e["kind"] == "service.relocated" and e["facts"]["mode"] == "live_migration"
            for e in self.cloud.events(after)), 150)
        self.autoscale("none", "--cpu-percent-max", "0")
        self.assertEqual(self.demand(after), ("scaling_listener", "cpu_percent_max"))
        self.cloud.wait("it is settled", self.settled, 60)
        moved = [copy for copy, home in homes.items() if self.cloud.vms()[copy]["status"]["host"] != home]
        self.assertGreaterEqual(len(moved), 1, "the same copies, one of them elsewhere")

    def sustained(self):
        """Requests a second that its copies answer to consumers who do not pause."""
        prober = self.cloud.probe(self.client, [self.address] * CONSUMERS, "http", 0)
        time.sleep(8)
        lines = prober.stop()
        self.assertEqual(sum(line["failures"] for line in lines), 0, lines)
        return sum(line["answers"] for line in lines) / 8

    def under_load(self, mode, rate, relocate):
        """RUNS relocations while consumers ask so many times a second; none of their requests fails."""
        prober = self.cloud.probe(self.client, [self.address] * CONSUMERS, "http", rate=rate / CONSUMERS)
        began = time.monotonic()
        try:
            for _ in range(RUNS):
                relocate()
                self.cloud.wait("it is settled", self.settled, 90)
        finally:
            took = time.monotonic() - began
            lines = prober.stop()
        answers = sum(line["answers"] for line in lines)
        self.assertEqual(sum(line["failures"] for line in lines), 0, lines)
        silence = max(line["longest_silence_ms"] for line in lines)
        print(f"{mode}: {RUNS} relocations, {took:.0f} s, {answers} requests, {answers / took:.0f} of {rate:.0f} "
              f"asked a second, 0 failed, longest silence {silence:.0f} ms")

    def home(self, copy):
        return self.cloud.vms()[copy]["status"]["host"]

    def relocate(self, *options):
        copy = self.copies()[0]
        self.cloud.cli("--wait", "service", "relocate", SERVICE, "--copy", copy.partition("/")[2], *options)
        return copy

    def duplicate(self):
        original = self.relocate("--mode", "duplicate")
        self.cloud.wait("it is replaced", lambda: original not in self.copies(), 90)

    def migrate(self):
        homes = {copy: self.home(copy) for copy in self.copies()}
        copy = self.relocate("--mode", "live_migration")
        self.cloud.wait("it is elsewhere", lambda: self.home(copy) != homes[copy], 60)

    def visit(self):
        homes = {copy: self.home(copy) for copy in self.copies()}
        after = self.cloud.last_event()
        copy = self.relocate("--mode", "live_migration", "--for-ms", "1000")
        self.cloud.wait("it was elsewhere and is back", lambda: self.home(copy) == homes[copy] and len(
            [e for e in self.events_of(after, "vm.moved") if e["subject"] == f"vm/{copy}"]) == 2, 90)

    def test_08_y_at_60_percent_of_what_it_sustains_it_is_relocated_by_each_mode(self):
        """A3-06 A3-09 A3-14 A3-20 R-B5: for good by a duplicate, for good and for a while by live migration."""
        sustained = self.sustained()
        print(f"sustained: {sustained:.0f} requests a second of {CONSUMERS} consumers")
        self.under_load("duplicate", 0.6 * sustained, self.duplicate)
        self.under_load("live migration", 0.6 * sustained, self.migrate)
        self.under_load("live migration and back", 0.6 * sustained, self.visit)

    def test_09_a_service_that_is_deleted_leaves_nothing(self):
        """R-B5: its copies, its balancer and its address go with it."""
        self.cloud.cli("service", "delete", SERVICE, text=True)
        self.cloud.wait("it is gone", lambda: self.cloud.cli("service", "list") == [] and self.cloud.vms() == {}, 90)
        self.cloud.wait("its address is free", lambda: self.cloud.cli("port", "list") == [], 30)


if __name__ == "__main__":
    unittest.main(verbosity=2)
