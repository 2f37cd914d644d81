#!/usr/bin/env python3
"""The web page of distributed cron: under any CGI web server, or alone with --serve."""

import argparse
import os
import re
import socket
import sys
from socketserver import TCPServer, ThreadingMixIn
from wsgiref.handlers import CGIHandler, SimpleHandler
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
import distributed_cron as dc
from web.pages import Application


class Server(ThreadingMixIn, WSGIServer):
    """A thread for each request, because browsers open connections and leave them
    idle."""

    daemon_threads = True
    server_name = ''  # both are set when it is bound
    server_port = 0

    def server_bind(self):
        """Bind to the address, without asking DNS for our name as WSGIServer does."""
        TCPServer.server_bind(self)
        self.server_name = self.server_address[0]
        self.server_port = self.server_address[1]
        self.setup_environ()

    def handle_error(self, *_):
        log_exception(self, sys.exc_info())


class Handler(WSGIRequestHandler):
    timeout = 15  # seconds that a client may be silent

    def address_string(self):
        """The client's address, without asking DNS for its name."""
        return self.client_address[0]

    def log_message(self, *_):
        """Log no requests."""


def log_exception(_, exc_info):
    """A line instead of a traceback: a client that went away is no mistake of ours."""
    complain(repr(exc_info[1]))


def complain(text):
    print('index.cgi: %s' % text, file=sys.stderr)


def serve(where, file):
    """Listen until interrupted; returns the exit status."""
    address = address_of(where)
    if address is None:
        allowed = 'PORT, HOST:PORT or [ADDRESS]:PORT'
        complain('--serve %r; allowed: %s' % (where, allowed))
        return 2
    try:
        Server.address_family = socket.getaddrinfo(*address)[0][0]
        server = Server(address, Handler)
    except OSError as error:
        complain('--serve %r: %s' % (where, error.strerror))
        return 1
    server.set_app(Application(file, alone=server.server_name))
    print(url_of(server), flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return 130


def address_of(where):
    """The host and port of a value of --serve; None if it is neither."""
    match = re.fullmatch(r'(?:\[([0-9a-fA-F:.]+)\]:|([^][:/\s]+):)?([0-9]{1,5})', where)
    if not match or int(match[3]) > 65535:
        return None
    host = match[1] or match[2] or '127.0.0.1'
    return host, int(match[3])


def url_of(server):
    host = server.server_name
    if ':' in host:
        host = '[%s]' % host
    return 'http://%s:%d/' % (host, server.server_port)


def main():
    """Answer by CGI where a web server has started this; else by the command line."""
    SimpleHandler.log_exception = log_exception
    if 'GATEWAY_INTERFACE' in os.environ:  # arguments may be those of a query
        CGIHandler().run(Application())
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--serve',
        metavar='[HOST:]PORT',
        required=True,
        help='listen there; HOST is 127.0.0.1 unless given',
    )
    parser.add_argument('--config', metavar='FILE')
    args = parser.parse_args()
    try:
        return serve(args.serve, args.config or dc.find_config())
    except dc.BadConfig as problem:
        complain(problem)
        return 2


if __name__ == '__main__':
    sys.exit(main())
