"""Servers that are none: whoever answers in a database's place, and what it is told."""

import contextlib
import os
import re
import socket
import struct
import subprocess
import threading

from pymysql.constants import CLIENT, FIELD_TYPE

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
README = os.path.join(ROOT, 'README.md')
PLAIN = (
    CLIENT.LONG_PASSWORD
    | CLIENT.CONNECT_WITH_DB
    | CLIENT.PROTOCOL_41
    | CLIENT.SECURE_CONNECTION
    | CLIENT.PLUGIN_AUTH
)


def make_certificate(folder, host='127.0.0.1'):
    """As README.md has it: a server's certificate, which is its own CA. Returns the paths
    of certificate and key."""
    with open(README, encoding='utf-8') as file:
        text = file.read()
    command = re.search(r'(?m)^    (openssl req (?:.*\\\n)*.*)', text)[1]
    name = ('IP:' if host[0].isdigit() else 'DNS:') + host
    command = command.replace('DNS:db.example.com', name).replace(
        'db.example.com', host
    )
    subprocess.run(
        command, shell=True, check=True, cwd=folder, stderr=subprocess.DEVNULL
    )
    files = [os.path.join(folder, name) for name in ('ca.pem', 'server.key')]
    os.chmod(files[1], 0o644)  # the servers run as other users
    return files


class Fake:
    """A server in this process, until it is closed. said: all that clients sent to it,
    without what they encrypted for it."""

    def __init__(self, path=None):
        """path: of a Unix socket; None: it listens on a port of loopback."""
        self.said = b''
        if path:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(path)
            self.listener.listen()
        else:
            self.listener = socket.create_server(('127.0.0.1', 0))
            self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.listen, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def listen(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self.talk, args=(client,), daemon=True).start()

    def talk(self, client):
        """Until the client has had enough."""
        with client, contextlib.suppress(OSError, struct.error):
            client.settimeout(10)
            self.serve(client)

    def serve(self, client):
        """Answer one client."""
        raise NotImplementedError

    def receive(self, client, size):
        data = b''
        while len(data) < size:
            piece = client.recv(size - len(data))
            if not piece:
                raise OSError('it has gone')
            self.said += piece
            data += piece
        return data


class FakeMySQL(Fake):
    """plugin: the one by which the password is asked for. context: for TLS, which is not
    offered without one. A file that it asks for answers each question but the first."""

    def __init__(self, plugin=b'mysql_clear_password', context=None, path=None):
        self.plugin = plugin
        self.context = context
        self.sequence = 0  # the number of the next packet
        super().__init__(path)

    def serve(self, client):
        flags = PLAIN | (CLIENT.SSL if self.context else 0)
        self.sequence = 0
        self.send(
            client,
            b'\x0a8.0.0\0' + struct.pack('<I', 1) + b'saltsalt\0',
            struct.pack('<HBHHB', flags & 0xFFFF, 45, 2, flags >> 16, 21) + bytes(10),
            b'saltsaltsalt\0mysql_native_password\0',
        )
        self.read(client)
        if self.context:
            client = self.context.wrap_socket(client, server_side=True)
            self.read(client)
        prompt = b'\x04Password: ' if self.plugin == b'dialog' else b''
        self.send(client, b'\xfe', self.plugin, b'\0', prompt)
        self.read(client)
        self.send(client, b'\0\0\0\x02\0\0\0')
        while True:
            self.answer(client, self.read(client)[1:])

    def answer(self, client, question):
        """As a server does while a client logs in; then ask for a file."""
        if question.startswith(b'SET'):
            self.send(client, b'\0\0\0\x02\0\0\0')
        elif question.startswith(b'SHOW'):
            self.table(client, b'name', b'value')
        elif b'@@' in question:
            self.table(client, b'read_only', b'packet', row=[b'0', b'16777216'])
        else:
            self.send(client, b'\xfb/etc/passwd')

    def table(self, client, *columns, row=()):
        """A result with one row or none."""
        self.send(client, bytes([len(columns)]))
        for name in columns:
            texts = b'\3def\0\0\0' + bytes([len(name)]) + name + b'\0'
            kind = FIELD_TYPE.VAR_STRING
            about = struct.pack('<BHIBHB', 12, 45, 99, kind, 0, 0)
            self.send(client, texts, about, b'\0\0')
        self.send(client, b'\xfe\0\0\x02\0')
        if row:
            self.send(client, *[bytes([len(value)]) + value for value in row])
        self.send(client, b'\xfe\0\0\x02\0')

    def send(self, client, *parts):
        data = b''.join(parts)
        client.sendall(struct.pack('<I', len(data))[:3] + bytes([self.sequence]) + data)
        self.sequence += 1

    def read(self, client):
        """A packet of the client's."""
        size, self.sequence = struct.unpack('<I', self.receive(client, 4))[0], 0
        self.sequence = (size >> 24) + 1
        return self.receive(client, size & 0xFFFFFF)


class FakePostgreSQL(Fake):
    """It has no TLS, and asks for the password in clear."""

    def serve(self, client):
        code = 0
        while code != 3 << 16:  # the version of the protocol; else it asks for TLS
            size, code = struct.unpack('>II', self.receive(client, 8))
            self.receive(client, size - 8)
            if code >> 16 == 1234:
                client.sendall(b'N')
            elif code >> 16 == 3:
                code = 3 << 16
        client.sendall(b'R' + struct.pack('>II', 8, 3))
        self.receive(client, 5)
        client.recv(1000)
