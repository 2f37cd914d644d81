#!/usr/bin/env python3
"""The web page of distributed cron: under any CGI web server, or alone with --serve."""

import argparse
import os
import re
import socket
import sys
import time
from contextlib import suppress
from socketserver import TCPServer, ThreadingMixIn
from wsgiref.handlers import CGIHandler, SimpleHandler
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
import distributed_cron as dc
from web.pages import Application
from web.request import Alone, is_loopback

MOST_CONNECTIONS = 64
SECONDS = 30  # that a connection may last
NAME = 'distributed_cron'  # as the header Server
BREATH = 0.1  # seconds until it looks again whether it can open a connection


class Server(ThreadingMixIn, WSGIServer):
    """A thread for each request, because browsers open connections and leave them
    idle."""

    daemon_threads = True
    request_queue_size = 128  # connections that are not yet accepted
    server_name = ''  # both are set when it is bound
    server_port = 0

    def __init__(self, address):
        self.deadlines = {}  # until when each connection may last, monotonic
        super().__init__(address, Handler)

    def server_bind(self):
        """Bind to the address, without asking DNS for our name as WSGIServer does."""
        TCPServer.server_bind(self)
        self.server_name = self.server_address[0]
        self.server_port = self.server_address[1]
        self.setup_environ()

    def get_request(self):
        """Accept a connection. Without a free descriptor it would be tried, in vain, as
        fast as possible."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(BREATH)
            raise

    def process_request(self, request, client_address):
        """Answer in a thread, if there are not too many."""
        if len(self.deadlines) >= MOST_CONNECTIONS:
            self.shutdown_request(request)
            return
        self.deadlines[request] = time.monotonic() + SECONDS
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self.deadlines.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self):
        """Twice a second: end the connections that have lasted too long."""
        now = time.monotonic()
        for request, deadline in list(self.deadlines.items()):
            if deadline < now:
                with suppress(OSError):  # it may end at the same time
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_):
        log_exception(self, sys.exc_info())


class Handler(WSGIRequestHandler):
    timeout = 15  # seconds that a client may be silent

    def address_string(self):
        """The client's address, without asking DNS for its name."""
        return self.client_address[0]

    def log_message(self, *_):
        """Log no requests."""

    def version_string(self):
        return NAME


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
    config = dc.load_config(file)
    try:
        Server.address_family = socket.getaddrinfo(*address)[0][0]
        server = Server(address)
    except OSError as error:
        complain('--serve %r: %s' % (where, error.strerror))
        return 1
    key = ''
    if is_loopback(server.server_name):
        key = os.urandom(16).hex()
    alone = Alone(address[0], server.server_name, key)
    server.set_app(Application(file, alone=alone))
    try:
        tell_address(url_of(server), key, config)
        server.serve_forever()
    except OSError as error:
        complain(dc.line_of(error))
        return 1


def tell_address(url, key, config):
    """Print the address, with the key only to a terminal, because others may read a
    file or a journal. Raises OSError."""
    with_key = '%s?key=%s' % (url, key)
    if not key:
        print(url, flush=True)
    elif sys.stdout.isatty():
        print(with_key, flush=True)
    else:
        path = os.path.join(config.log_location, 'web.key')
        write_secret(path, with_key + '\n')
        print('%s; the address with the key is in %s' % (url, path), flush=True)


def write_secret(path, text):
    """Make a new file that only its owner can read."""
    os.makedirs(os.path.dirname(path), 0o750, exist_ok=True)
    with suppress(FileNotFoundError):
        os.unlink(path)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(handle, 'w') as file:
        file.write(text)


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
    ServerHandler.server_software = NAME
    if 'GATEWAY_INTERFACE' in os.environ:  # arguments may be those of a query
        CGIHandler().run(Application())
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--serve',
        metavar='[HOST:]PORT',
        required=True,
        help='listen there; HOST is 127.0.0.1 unless given. Only who opens the address '
        'with the key, which is printed, may change jobs; on a network address nobody',
    )
    parser.add_argument('--config', metavar='FILE')
    args = parser.parse_args()
    try:
        return serve(args.serve, args.config or dc.find_config())
    except dc.BadConfig as problem:
        complain(problem)
        return 2
    except KeyboardInterrupt:  # also before it serves
        return 130


if __name__ == '__main__':
    sys.exit(main())
