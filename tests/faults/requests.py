"""Random requests against the page as `--serve` shows it, well formed and not: each gets
a plain answer or a closed connection, and the page goes on.

    tests/.venv/bin/python tests/faults/requests.py [--requests 1000000] [--seed 1]

Exit status 0: nothing found; else the request that was found, and what became of it, is
printed. Half of the requests know the key, so that they may change jobs; no worker runs
them. It prints how many answers of each status there were.
"""

import argparse
import contextlib
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [ROOT, os.path.join(ROOT, 'tests')]
import distributed_cron as dc  # noqa: E402
from servers import free_port, is_listening, wait_until  # noqa: E402

SENDERS = 8
ANSWERS = {
    200,
    303,
    400,
    403,
    404,
    405,
    408,
    411,
    413,
    414,
    415,
    421,
    422,
    431,
    501,
    503,
    505,
}
METHODS = (5 * 'GET POST ' + 'HEAD PUT DELETE OPTIONS get TRACE X').split()
PATHS = (
    '/ /job/add /job/1 /job/1/edit /job/1/delete /job/1/run-now /job/1/stop '
    '/job/1/enable /job/1/disable /job/1/pause /job/1/resume /job/2/edit /jobs/pause '
    '/jobs/resume /jobs/stop /jobs/disable /run/1/1 /run/1/1/log /runs /ahead /hosts '
    '/hosts/pause /hosts/resume /preview /metrics /healthz /static/style.css '
    '/static/script.js /nowhere'
).split()
NAMES = (
    'csrf action description command schedule frequency start_anchor stop_anchor kind '
    'max_run_time active search_string state sort order page id key job host for note '
    'result since without copy name run_on each_host time_zone start_within retries '
    'retry_delay after_job alert_after alert_to'
).split()
WORDS = [
    *'save preview id desc asc running error 1 0 -1 99999999999999999999 1e9 60'.split(),
    *'* @daily 23:59 24:00 %00 %ff %u0041 .. ../../etc/passwd <xss> " ; & = {utc}'.split(),
    "' OR 1=1 --",
    '*/5 * * * *',
    'H(0-59)/7 H * * *',
    '@at 2026-12-24 18:00',
    'Europe/Berlin',
    '2h',
    '\u202e\u200b',
    'a' * 300,
    '',
]


class Dice:
    """What a request is made of."""

    def __init__(self, source):
        """source: a random.Random."""
        self.choice, self.random, self.randrange = (
            source.choice,
            source.random,
            source.randrange,
        )

    def word(self):
        return self.choice(WORDS)

    def method(self):
        return self.choice(METHODS)

    def fields(self):
        pairs = [
            '%s=%s' % (self.choice(NAMES), self.word().replace(' ', '+'))
            for _ in range(self.randrange(6))
        ]
        return '&'.join(pairs)

    def path(self):
        path = self.choice(PATHS)
        if self.random() < 0.2:
            path += '/' + self.word().replace(' ', '%20')
        if self.random() < 0.4:
            path += '?' + self.fields()
        return path

    def headers(self, port, cookies, body):
        origin = 'http://127.0.0.1:%d' % port
        cookies = [*cookies, 'a=' + self.word(), 'b', ';=']
        form = 'application/x-www-form-urlencoded'
        values = {
            'Host': self.choice(['127.0.0.1:%d' % port] * 30 + ['evil.example', '']),
            'Cookie': '; '.join(cookies[self.choice([0, 0, 1, 2]) :]),
            'Origin': self.choice([origin] * 8 + ['null', 'http://evil.example']),
            'Content-Type': self.choice([form] * 9 + ['text/plain', '']),
            'Content-Length': self.choice([len(body)] * 9 + [-1, 10**9, 'x', 0]),
            'Transfer-Encoding': 'chunked',
            'Accept-Language': self.word(),
        }
        names = [name for name in values if self.random() < 0.97]
        if self.random() < 0.95 and 'Transfer-Encoding' in names:
            names.remove('Transfer-Encoding')
        return ['%s: %s' % (name, values[name]) for name in names]

    def request(self, port, cookies, token):
        """The bytes of one request."""
        body = self.fields().encode('utf-8', 'replace')
        if self.random() < 0.7:
            body = b'csrf=%s&' % token.encode() + body
        line = '%s %s HTTP/1.%d' % (
            self.method(),
            self.path(),
            self.randrange(2),
        )
        head = '\r\n'.join([line, *self.headers(port, cookies, body)])
        data = bytearray(head.encode('utf-8') + b'\r\n\r\n' + body)
        if self.random() < 0.1:
            for _ in range(self.randrange(1, 9)):
                data[self.randrange(len(data))] = self.randrange(256)
        return bytes(data)


def answer_to(port, data):
    """All that the server answers; it closes each connection."""
    with contextlib.closing(
        socket.create_connection(('127.0.0.1', port), 60)
    ) as sender:
        pieces = []
        with contextlib.suppress(ConnectionError):
            sender.sendall(data)
            sender.shutdown(socket.SHUT_WR)
            while piece := sender.recv(65536):
                pieces.append(piece)
        return b''.join(pieces)


def status_of(data, answer):
    """The status of an answer; 0 for a closed connection. Raises AssertionError."""
    if not answer:
        return 0
    found = re.match(rb'HTTP/1\.[01] ([0-9]{3}) ', answer)
    if not found:  # HTTP/0.9 has no status line
        assert b'Traceback' not in answer, (data, answer)
        return 9
    status = int(found[1])
    assert status in ANSWERS and b'Traceback' not in answer, (data, answer[:2000])
    body = answer.partition(b'\r\n\r\n')[2]  # http.server quotes a request before it
    assert b'<xss>' not in body, (data, answer)
    return status


def attack(port, key, count, seed):
    """Send so many requests, one after the other; returns how often each status came."""
    dice = Dice(random.Random(seed))
    cookies = ['distributed_cron_key_%d=%s' % (port, key)]
    form = 'GET /job/add HTTP/1.0\r\nHost: 127.0.0.1:%d\r\nCookie: %s\r\n\r\n'
    answer = answer_to(port, (form % (port, cookies[0])).encode()).decode()
    cookies += re.findall('(?mi)^Set-Cookie: ([^;]+)', answer)
    token = re.search('name="csrf" value="([^"]+)"', answer)[1]
    found = Counter()
    for _ in range(count):
        data = dice.request(port, cookies, token)
        found[status_of(data, answer_to(port, data))] += 1
    return found


@contextlib.contextmanager
def page(folder):
    """The page of a new database, served alone: (its process, port, key)."""
    file = os.path.join(folder, 'dc.yml')
    with open(file, 'w') as stream:
        stream.write('db: {path: d.db}\nlog: {location: log}\n')
    store = dc.Store(dc.load_config(file, 'here'))
    dc.create_tables(store)
    store.insert('job', {'command': 'true', 'run_no': 1})
    store.close()
    port = free_port()
    script = os.path.join(ROOT, 'web', 'index.cgi')
    with open(os.path.join(folder, 'errors'), 'wb') as errors:
        process = subprocess.Popen(
            [sys.executable, script, '--config', file, '--serve', str(port)],
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    try:
        key = os.path.join(folder, 'log', 'web.key')
        wait_until(lambda: dc.read_text(key), what='the key')
        wait_until(lambda: is_listening(port), what='the page')
        yield process, port, re.search(r'key=(\S+)', dc.read_text(key) + 'key=x')[1]
    finally:
        process.kill()
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--requests', type=int, default=1000000)
    parser.add_argument('--seed', type=int, default=random.randrange(10**6))
    args = parser.parse_args()
    print('%d requests, seed %d' % (args.requests, args.seed), flush=True)
    with tempfile.TemporaryDirectory() as folder, page(folder) as (process, port, key):
        with ThreadPoolExecutor(SENDERS) as senders:
            each = args.requests // SENDERS
            seeds = range(SENDERS * args.seed, SENDERS * (args.seed + 1))
            found = sum(
                senders.map(lambda seed: attack(port, key, each, seed), seeds),
                Counter(),
            )
        print(dict(sorted(found.items())))
        assert process.poll() is None, 'the page has ended'
        assert (
            b'200'
            in answer_to(
                port,
                b'GET /static/style.css HTTP/1.0\r\nHost: 127.0.0.1:%d\r\n\r\n' % port,
            )[:20]
        )
        errors = dc.read_text(os.path.join(folder, 'errors'))
        assert 'Traceback' not in errors, errors[-3000:]
        assert {200, 303, 403, 404} <= set(found), 'the requests reach little'


if __name__ == '__main__':
    main()
