"""Stands in for Neutron where servers have no network: network_stub.py PORT

Nova asks for ports and security groups even then, and is told that there are none. Whatever would change something is
refused, so that nobody takes this for a network: what Reeve makes in Neutron is tested with NEUTRON=real.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        parts = self.path.partition("?")[0].strip("/").removesuffix(".json").split("/")
        match parts:
            case [""] | ["v2.0"]:
                link = {"rel": "self", "href": f"http://{self.headers['Host']}/v2.0/"}
                self.answer(200, {"versions": [{"id": "v2.0", "status": "CURRENT", "links": [link]}]})
            case ["v2.0", collection]:
                self.answer(200, {collection.replace("-", "_"): []})
            case _:
                self.refuse(404, "NotFound")

    def refuse(self, status=501, kind="NotImplemented"):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        what = f"there is no network here: {self.command} {self.path} (NEUTRON=real has them)"
        self.answer(status, {"NeutronError": {"type": kind, "message": what, "detail": ""}})

    do_POST = do_PUT = do_DELETE = refuse


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
