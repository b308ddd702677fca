"""Serves a web application on loopback, a thread for each connection: wsgi.py MODULE:FACTORY PORT"""

import importlib
import sys
from socketserver import TCPServer, ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128

    def server_bind(self):
        # The inherited one asks for this machine's name, which may take seconds where there is no name server.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address
        self.setup_environ()


class Handler(WSGIRequestHandler):
    def log_message(self, *_):
        pass


def main():
    factory, port = sys.argv[1:]
    # The application reads the options of its process.
    sys.argv = [factory]
    module, function = factory.split(":")
    application = getattr(importlib.import_module(module), function)()
    make_server("127.0.0.1", int(port), application, Server, Handler).serve_forever()


main()
