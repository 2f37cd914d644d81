#!/usr/bin/env python3
"""Measures distributed cron against its goals, and prints one table.

    tests/.venv/bin/python tests/benchmark.py [--quick] [--peers] [--only NAME]...

It starts a MariaDB of its own (a commit is flushed to the disk), and runs real workers
on it. Machines differ, and others may be at work on them: so beside each rate stands
what limits it, measured in turns with it, and what counts is the ratio. Each number is
the median of several rounds. With --peers other crons start the same commands.
"""
import argparse
import collections
import contextlib
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone

from conftest import MariaDB, Place, dc, wait_until

ROWS = {}  # name: (function, goals in words)
Row = collections.namedtuple('Row', 'what measured beside ratio goal reached')


def row(function):
    """A row of the table, or some: a generator of Row, under its function's name."""
    ROWS[function.__name__] = function
    return function


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all is cleaned up
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix='dc-bench-'))
        bench = Bench(folder, options.quick)
        stack.callback(bench.close)
        rows = []
        for name in options.only or ROWS:
            if name != 'peers' or options.peers:
                for row in ROWS[name](bench):
                    rows.append(row)
                    print('%s: %s' % (row.what, row.measured), file=sys.stderr)
    print(table(rows))
    return 0 if all(row.reached is not False for row in rows) else 1


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--quick', action='store_true', help='fewer rounds, fewer rows')
    parser.add_argument('--peers', action='store_true', help='other crons too')
    parser.add_argument('--only', action='append', choices=ROWS, metavar='NAME',
                        help='one of: ' + ', '.join(ROWS))
    return parser.parse_args()


def table(rows):
    """The rows as a table, which Markdown understands as well."""
    lines = [Row('what', 'measured', 'limit, peer', 'ratio', 'goal', 'reached')]
    lines.append(Row(*['---'] * 6))
    for row in rows:
        ratio = '' if row.ratio is None else '%.2f' % row.ratio
        reached = {True: 'yes', False: 'no', None: ''}[row.reached]
        lines.append(row._replace(ratio=ratio, reached=reached))
    widths = [max(map(len, column)) for column in zip(*lines)]
    return '\n'.join('| %s |' % ' | '.join(map(str.ljust, line, widths))
                     for line in lines)


class Bench:
    """A private server, and the places on it that the rows work at."""

    def __init__(self, folder, quick):
        self.folder, self.quick, self.places = folder, quick, []
        self.server = MariaDB(folder, '--innodb-flush-log-at-trx-commit=1',
                              '--innodb-buffer-pool-size=1G', '--max-connections=700')

    def rounds(self, count):
        return min(count, 2) if self.quick else count

    @contextlib.contextmanager
    def place(self, **more):
        """A place with empty tables; its workers end with it."""
        folder = tempfile.mkdtemp(dir=self.folder)
        place = BenchPlace(folder, 'mysql', self.server, os.path.basename(folder),
                           **{'poll_seconds': 1, 'kill_grace': 10, **more})
        try:
            yield place.init()
        finally:
            place.leave()
            self.server.client('DROP DATABASE `%s`' % place.values['db']['database'])

    def close(self):
        self.server.stop()


class BenchPlace(Place):
    """A place where many jobs are due at once."""

    def fill(self, count, command=':', when=None):
        """So many jobs, not due before an hour has passed; or when it is said."""
        self.store.execute(
            '''INSERT INTO job (description, command, max_run_time, next_run_utc)
            SELECT 'benchmark', ?, 5, ? FROM seq_1_to_%d''' % count,
            [command, utc(when or time.time() + 3600)])

    def workers(self, count):
        """Start workers; returns when they have been up for a second."""
        workers = [self.worker('host%d' % number) for number in range(count)]
        wait_until(lambda: len(self.sql('SELECT 1 FROM host')) == count, 60, 'workers')
        return workers

    def due_at_once(self, count, seconds=60):
        """Make all jobs due in the same second, soon; returns how long it takes from
        then until all are recorded, which is seen each 5 ms."""
        self.store.execute('TRUNCATE run')
        due = int(time.time()) + 2 + count // 2500
        self.store.execute('UPDATE job SET next_run_utc = ?', [utc(due)])
        assert time.time() < due
        time.sleep(due - time.time())
        wait_until(lambda: self.sql('SELECT COUNT(*) FROM run')[0][0] >= count,
                   seconds, '%d runs' % count, 0.005)
        return time.time() - due

    def leave(self):
        for process in self.started:
            process.terminate()
        for process in self.started:
            process.communicate(timeout=60)
        self.close()
        self.store.close()


def utc(when):
    """A time as the tables have it."""
    return dc.text_of(datetime.fromtimestamp(int(when), timezone.utc).replace(
        tzinfo=None))


LIMIT = '''if True:
    import os, sys, time
    count, outstanding, live = *map(int, sys.argv[1:]), 0
    begun = time.monotonic()
    for _ in range(count):
        if live == outstanding:
            live -= bool(os.wait())
        os.posix_spawn('/bin/sh', ['/bin/sh', '-c', ':'], os.environ)
        live += 1
    while live:
        live -= bool(os.wait())
    print(count / (time.monotonic() - begun))'''


def limit(count=500, outstanding=8):
    """Python's own: commands per second that posix_spawn starts and wait buries."""
    return float(subprocess.run(
        [sys.executable, '-I', '-c', LIMIT, str(count), str(outstanding)],
        stdout=subprocess.PIPE, check=True).stdout)


# ---------------------------------------------------------------------------- rates

@row
def throughput(bench):
    rates, limits = [], []
    with bench.place(max_tasks=128) as place:
        place.fill(500)
        place.workers(1)
        for _ in range(bench.rounds(9)):
            limits.append(limit())
            rates.append(500 / place.due_at_once(500))
            limits.append(limit())
            check_runs(place, 500)
    rate, most = statistics.median(rates), statistics.median(limits)
    yield Row('500 due at once, one worker', '%.0f runs/s' % rate,
              'posix_spawn: %.0f/s' % most, rate / most, '>= 0.65', rate / most >= 0.65)


@row
def many(bench):
    count = 1000 if bench.quick else 10000
    rates, limits = [], []
    with bench.place(max_tasks=64) as place:
        place.fill(count)
        place.workers(4)
        for _ in range(bench.rounds(3)):
            limits.append(limit(2000))
            rates.append(count / place.due_at_once(count))
            limits.append(limit(2000))
            check_runs(place, count)
    rate, most = statistics.median(rates), statistics.median(limits)
    yield Row('%d due at once, four workers' % count, '%.0f runs/s' % rate,
              'posix_spawn: %.0f/s' % most, rate / most, '>= 0.9 of above', None)


def check_runs(place, count):
    """None lost, none twice, all well."""
    rows = place.sql('''SELECT COUNT(*), COUNT(DISTINCT job_id), COUNT(DISTINCT run_no),
                     SUM(status = 'Success') FROM run''')
    assert tuple(map(int, rows[0])) == (count, count, 1, count), rows


# ---------------------------------------------------------------------------- delays

@row
def latency(bench):
    count = 10 if bench.quick else 100
    with bench.place(max_tasks=8) as place:
        delays = start_delays(place, count)
    yield from delay_rows('', delays)


def start_delays(place, count):
    """Seconds from the due second to the command's start, of so many jobs, each due
    a second after the other; a command says that it has started by a FIFO."""
    path = os.path.join(place.folder, 'started')
    os.mkfifo(path)
    fifo = os.open(path, os.O_RDWR)
    place.workers(1)
    first = int(time.time()) + 3
    for number in range(count):
        place.fill(1, 'echo %d > %s' % (number, path), first + number)
    delays = []
    while len(delays) < count:
        assert select.select([fifo], [], [], 20)[0], 'no start'
        now = time.time()
        for number in os.read(fifo, 4096).split():
            delays.append(now - first - int(number))
    os.close(fifo)
    return delays


def delay_rows(what, delays):
    for percent, most in (50, 8), (99, 40):
        delay = 1000 * percentile(delays, percent)
        yield Row('start after the due time, p%d%s' % (percent, what),
                  '%.1f ms' % delay, '', None, '<= %d ms' % most, delay <= most)


def percentile(values, percent):
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


# ------------------------------------------------------------------------ statements

@row
def statements(bench):
    with bench.place(max_tasks=60) as place:
        place.fill(60)
        place.workers(1)
        time.sleep(0.5)
        counts = []
        for _ in range(bench.rounds(5)):
            place.store.execute('TRUNCATE run')
            due = int(time.time()) + 2
            place.store.execute('UPDATE job SET next_run_utc = ?', [utc(due)])
            time.sleep(due - 0.1 - time.time())
            before = questions(place)
            time.sleep(0.6)  # of which nothing asks but the worker
            counts.append((questions(place) - before - 1) / 60)
            check_runs(place, 60)
    count = statistics.median(counts)
    yield Row('statements per run, 60 due', '%.2f' % count, '', None, '<= 2.5',
              count <= 2.5)


def questions(place):
    return int(place.sql("SHOW GLOBAL STATUS LIKE 'Questions'")[0][1])


if __name__ == '__main__':
    sys.exit(main())
