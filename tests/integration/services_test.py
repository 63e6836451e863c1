#!/usr/bin/env python3
"""Services on real guests: copies behind one address, relocated under constant requests, none of which may fail.

One cloud of three hosts serves all tests, in the order of their numbers. VIRGA_BUILD names the build folder;
VIRGA_PACKAGES a folder for the guest's packages.
"""

import os
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
from cloud import Cloud  # noqa: E402
from cloud_case import LabCase  # noqa: E402

SERVICE = "acme/web"
MANIFEST = """
kind: network
meta: {name: front, tenant: acme}
spec: {cluster: lab, subnet: 10.50.0.0/24}
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
        cls.cloud.wait("the service is available", lambda: cls.service()["status"]["available"]
                       and cls.states() == ["serving", "serving"], 180)
        cls.address = cls.cloud.api("GET", "ports/acme/web-frontend")["spec"]["address"].partition("/")[0]
        cls.cloud.wait("it answers", lambda: cls.cloud.http(cls.client, cls.address), 60)

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
        """What the consumer sees while `what` happens, until done()."""
        prober = self.cloud.probe(self.client, [self.address], "http")
        time.sleep(2)
        what()
        self.cloud.wait("it is done", done, deadline)
        time.sleep(2)
        line = prober.stop()[0]
        self.assertEqual(line["failures"], 0, line)
        self.assertGreater(line["answers"], 20)
        print(f"{line['answers']} requests, 0 failed, longest silence {line['longest_silence_ms']:.0f} ms")

    def test_01_one_address_is_answered_by_all_copies(self):
        """A3-17 R-B5 R-B6: two guests behind a balancer in the tenant's network."""
        names = set()
        for _ in range(20):
            names.add(self.cloud.http(self.client, self.address)["name"])
        self.assertEqual(len(names), 2, names)

    def test_02_a_copy_is_relocated_by_command_and_no_request_fails(self):
        """A3-03 A3-06 A3-09 A3-10: duplicated, redirected, drained, retired."""
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
        self.cloud.lab("heal")
        self.cloud.wait_hosts(3, 90)
        self.cloud.wait("both copies serve again", self.settled, 120)

    def test_06_a_service_that_is_deleted_leaves_nothing(self):
        """R-B5: its copies, its balancer and its address go with it."""
        self.cloud.cli("service", "delete", SERVICE, text=True)
        self.cloud.wait("it is gone", lambda: self.cloud.cli("service", "list") == [] and self.cloud.vms() == {}, 90)
        self.cloud.wait("its address is free", lambda: self.cloud.cli("port", "list") == [], 30)


if __name__ == "__main__":
    unittest.main(verbosity=2)
