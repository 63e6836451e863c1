#!/usr/bin/env python3
"""Stands in for `virgad server` where only the lab is under test: remembers what is registered."""

import http.server
import json
import pathlib
import sys

options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
log = pathlib.Path(options["--data"]) / "requests"


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        self.answer(200 if self.path == "/readyz" else 404, {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        with log.open("a") as file:
            file.write(json.dumps({"path": self.path, "body": json.loads(body)}) + "\n")
        self.answer(201, {"token": "once"} if self.path.endswith("/join-token") else {})

    do_PUT = do_POST

    def log_message(self, *_):
        pass


address, port = options["--listen"].rsplit(":", 1)
http.server.ThreadingHTTPServer((address, int(port)), Handler).serve_forever()
