"""A small server for the page alone: wsgiref's, a thread for each request."""
import re
import socket
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer

from .pages import Application


class Server(ThreadingMixIn, WSGIServer):
    """Threads, since browsers open connections in advance and leave them idle."""

    daemon_threads = True

    def server_bind(self):
        super(WSGIServer, self).server_bind()  # without asking DNS for our name
        self.server_name, self.server_port = self.server_address[:2]
        self.setup_environ()

    def handle_error(self, request, client_address):
        print('index.cgi: %r' % sys.exc_info()[1], file=sys.stderr)


class Handler(WSGIRequestHandler):
    timeout = 15  # seconds that a client may say nothing

    def address_string(self):
        return self.client_address[0]

    def log_request(self, code='-', size='-'):
        pass

    def log_message(self, format, *args):
        pass  # what a client did wrong, in its own words


def serve(where, file):
    """Listen until interrupted; returns the exit status."""
    match = re.fullmatch(r'(?:\[([0-9a-fA-F:.]+)\]:|([^][:/\s]+):)?([0-9]{1,5})', where)
    if not match or int(match[3]) > 65535:
        print('index.cgi: --serve %r; allowed: PORT, HOST:PORT, [ADDRESS]:PORT'
              % where, file=sys.stderr)
        return 2
    host, port = match[1] or match[2] or '127.0.0.1', int(match[3])
    try:
        Server.address_family = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM)[0][0]
        server = Server((host, port), Handler)
    except OSError as error:
        print('index.cgi: --serve %s: %s' % (where, error.strerror), file=sys.stderr)
        return 1
    address, port = server.server_address[:2]
    server.set_app(Application(file, alone=address))
    print('http://%s:%d/' % ('[%s]' % address if ':' in address else address, port),
          flush=True)
    ServerHandler.log_exception = lambda self, info: print(
        'index.cgi: %r' % info[1], file=sys.stderr)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return 130
