#!/usr/bin/env python3
"""The web page of distributed cron: under any CGI web server, or alone by --serve."""

import argparse
import os
import re
import socket
import sys
from socketserver import ThreadingMixIn
from wsgiref.handlers import CGIHandler, SimpleHandler
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
from web.pages import ROOT, Application


class Server(ThreadingMixIn, WSGIServer):
    """A thread for each request, as browsers open connections and leave them idle."""

    daemon_threads = True

    def server_bind(self):
        super(WSGIServer, self).server_bind()  # without asking DNS for our name
        self.server_name, self.server_port = self.server_address[:2]
        self.setup_environ()

    def handle_error(self, *_):
        log_exception(self, sys.exc_info())


class Handler(WSGIRequestHandler):
    timeout = 15  # seconds that a client may say nothing

    def address_string(self):
        return self.client_address[0]  # without asking DNS for its name

    def log_message(self, *_):
        pass


def log_exception(_, exc_info):
    print('index.cgi: %r' % exc_info[1], file=sys.stderr)


def serve(where, file):
    """Listen until interrupted; returns the exit status."""
    match = re.fullmatch(r'(?:\[([0-9a-fA-F:.]+)\]:|([^][:/\s]+):)?([0-9]{1,5})', where)
    try:
        if not match or int(match[3]) > 65535:
            raise OSError(0, 'allowed: PORT, HOST:PORT or [ADDRESS]:PORT')
        address = match[1] or match[2] or '127.0.0.1', int(match[3])
        Server.address_family = socket.getaddrinfo(*address)[0][0]
        server = Server(address, Handler)
    except OSError as error:
        print('index.cgi: --serve %r: %s' % (where, error.strerror), file=sys.stderr)
        return 1 if error.errno else 2
    host, port = server.server_address[:2]
    server.set_app(Application(file, alone=host))
    print('http://%s:%d/' % ('[%s]' % host if ':' in host else host, port), flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return 130


def main():
    """By CGI where a web server has started this; else by the command line."""
    SimpleHandler.log_exception = log_exception  # of a client that went away
    file = os.environ.get('DISTRIBUTED_CRON_CONFIG') or ROOT + '/distributed_cron.yml'
    if 'GATEWAY_INTERFACE' in os.environ:  # arguments may be those of a query
        return CGIHandler().run(Application(file))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--serve',
        metavar='[HOST:]PORT',
        required=True,
        help='listen there; HOST is 127.0.0.1 unless given',
    )
    parser.add_argument('--config', metavar='FILE', default=file)
    args = parser.parse_args()
    return serve(args.serve, args.config)


if __name__ == '__main__':
    sys.exit(main())
