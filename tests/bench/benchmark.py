#!/usr/bin/env python3
"""Measures distributed cron against its goals, and prints one table.

    tests/.venv/bin/python tests/bench/benchmark.py [--quick] [--peers] [--only NAME]...

It starts a MariaDB of its own (a commit is flushed to the disk), and runs real workers
on it. Machines differ, and others may be at work on them: so beside each rate stands
what limits it, measured in turns with it, and what counts is the ratio. Each number is
the median of several rounds. With --peers other crons start the same commands.
"""

import argparse
import collections
import contextlib
import os
import py_compile
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from datetime import datetime, timezone
from statistics import median

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from bench import peers
from bench.picture import picture
from conftest import SCRIPT, Place, dc
from servers import MariaDB, PostgreSQL, open_folder, wait_until

ROWS = {}  # name: the function that measures
Row = collections.namedtuple('Row', 'what measured beside ratio goal reached')


def row(function):
    """Register what measures a row of the table, or some: a generator of Row."""
    ROWS[function.__name__.strip('_')] = function
    return function


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all is cleaned up
    rows, names = (
        [],
        options.only or [name for name in ROWS if name != 'peers' or options.peers],
    )
    with open_folder('dc-bench-') as folder:
        bench = Bench(folder, options.quick)
        try:
            for name in names:
                for row in rows_of(name, bench):
                    print('%s: %s' % (row.what, row.measured), file=sys.stderr)
                    rows.append(row)
        finally:
            bench.close()
            print(table(rows), flush=True)
    if options.svg:
        with open(options.svg, 'w') as file:
            file.write(picture(rows))
    return int(any(row.reached is False for row in rows))


def rows_of(name, bench):
    """The rows that one measurement gives; one that fails does not end the others."""
    try:
        yield from ROWS[name](bench)
    except (AssertionError, OSError, subprocess.SubprocessError, dc.Problem) as error:
        yield Row(name, 'failed: %s' % str(error).split('\n')[0], '', None, '', False)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--quick', action='store_true', help='small, in few rounds')
    parser.add_argument('--peers', action='store_true', help='other crons too')
    parser.add_argument('--svg', metavar='FILE', help='draw a picture of the table')
    parser.add_argument(
        '--only',
        action='append',
        choices=ROWS,
        metavar='NAME',
        help='one of: ' + ', '.join(ROWS),
    )
    return parser.parse_args()


def table(rows):
    """The rows as a table, which Markdown understands as well."""
    lines = [
        Row('what', 'measured', 'beside it', 'ratio', 'goal', 'reached'),
        Row(*['---'] * 6),
    ]
    for row in rows:
        ratio = '' if row.ratio is None else '%.2f' % row.ratio
        reached = {True: 'yes', False: '**no**', None: ''}[row.reached]
        lines.append(row._replace(ratio=ratio, reached=reached))
    widths = [max(map(len, column)) for column in zip(*lines)]
    return '\n'.join(
        '| %s |' % ' | '.join(map(str.ljust, line, widths)) for line in lines
    )


# ------------------------------------------------------------- what the rows stand on


class Bench:
    """A private server, and the places on it that the rows work at."""

    def __init__(self, folder, quick):
        self.folder, self.quick = folder, quick
        py_compile.compile(SCRIPT)
        self.server = MariaDB(
            folder,
            '--innodb-flush-log-at-trx-commit=1',
            '--innodb-buffer-pool-size=1G',
            '--max-connections=1200',
            '--innodb-log-file-size=512M',
            '--skip-log-bin',
        )
        self.server.start().make_account()
        self.servers = [self.server]

    def postgresql(self):
        """A server of PostgreSQL, which is started when one is needed first."""
        if len(self.servers) == 1:
            folder = os.path.join(self.folder, 'postgresql')
            os.mkdir(folder)
            server = PostgreSQL(folder, connections=200)
            self.servers.append(server.start().make_account())
        return self.servers[1]

    def count(self, full, quick):
        return quick if self.quick else full

    def beside(self, rounds, measure, other):
        """Measure in turns with another thing, which is taken before and after; returns
        the medians of both, and of their ratio."""
        found = []
        for _ in range(self.count(rounds, 2)):
            before, value, after = other(), measure(), other()
            found.append((value, (before + after) / 2, 2 * value / (before + after)))
        return map(median, zip(*found))

    @contextlib.contextmanager
    def place(self, server=None, **more):
        """A place with empty tables; its workers end with it."""
        folder = tempfile.mkdtemp(dir=self.folder)
        name = os.path.basename(folder)
        server = server or self.server
        if server is not self.server:
            server.settings('CREATE DATABASE "%s"' % name)
        place = BenchPlace(
            folder,
            server.engine,
            server,
            name,
            **{'poll_seconds': 1, 'kill_grace': 10, **more},
        )
        try:
            yield place.init()
        finally:
            place.leave()
            drop = 'DROP DATABASE `%s`'
            if server is not self.server:  # a session may not have gone yet
                drop = 'DROP DATABASE "%s" WITH (FORCE)'
            server.settings(drop % name)

    def close(self):
        for server in self.servers:
            server.stop()


class BenchPlace(Place):
    """A place where many jobs are due at once."""

    program = ('-m', 'distributed_cron')  # compiled once, as by the README's lines
    took = 0  # seconds, by the last round
    costs = ()  # ms of CPU for a run: of the server, and of the first worker; by rounds

    def worker(self, name='one', *args, **how):
        return super().worker(name, *args, cwd=os.path.dirname(SCRIPT), **how)

    def new_store(self, name='here'):
        """Of ours; a million rows take longer than a worker would wait."""
        store = dc.Store(self.config(name))
        store.config.db_timeout = 600
        store.connect()
        return store

    def fill(self, count, command=':', when=None, run_on=None):
        """So many jobs, not due before an hour has passed; or when it is said."""
        numbers = 'seq_1_to_%d' % count
        if self.engine == 'postgresql':
            numbers = 'generate_series(1, %d)' % count
        self.store.execute(
            '''INSERT INTO job
            (description, command, max_run_time, next_run_utc, run_on)
            SELECT 'benchmark', :command, 5, CAST(:due AS %s), :run_on FROM %s'''
            % ('timestamp' if self.engine == 'postgresql' else 'datetime', numbers),
            command=command,
            due=utc(when or time.time() + 3600),
            run_on=run_on,
        )

    def workers(self, count):
        """Start workers; returns when they are up and idle."""
        workers = [self.worker('host%d' % number) for number in range(count)]
        wait_until(lambda: len(self.sql('SELECT 1 FROM host')) == count, 60, 'workers')
        return workers

    def due_soon(self, seconds=2, early=0):
        """Make all jobs for any host due in the same second, soon, with no history;
        sleeps until then, or until a bit earlier, and returns when it is."""
        self.store.execute('TRUNCATE run')
        due = int(time.time() + seconds)
        self.store.execute(
            'UPDATE job SET next_run_utc = :due WHERE run_on IS NULL', due=utc(due)
        )
        assert time.time() < due, 'the database is too slow'
        time.sleep(due - early - time.time())
        return due

    def wait_all(self, count, seconds=120):
        """Wait until all are recorded, which is looked at each 5 ms. None may be lost,
        none run twice, all must be well."""
        wait_until(
            lambda: self.sql('SELECT COUNT(*) FROM run')[0][0] >= count,
            seconds,
            '%d runs' % count,
            0.005,
        )
        now = time.time()
        found = self.sql('''SELECT COUNT(*), COUNT(DISTINCT job_id), COUNT(DISTINCT
            run_no), COUNT(CASE WHEN status = 'Success' THEN 1 END) FROM run''')[0]
        assert tuple(map(int, found)) == (count, count, 1, count), found
        return now

    def rate(self, count):
        """Runs per second, from the due second until all are recorded. To ask for that
        takes from what is measured: so not before it can be."""
        due = self.due_soon(2 + count // 2500)
        before = self.used()
        time.sleep(0.7 * self.took)
        self.took = self.wait_all(count) - due
        costs = [1000 * (b - a) / count for a, b in zip(before, self.used())]
        self.costs = [*self.costs, costs]
        return count / self.took

    def used(self):
        """Seconds of CPU that the server has used, and the first worker."""
        return server_cpu(self.server), cpu_of(self.started[0].pid)

    def status(self, name):
        return int(self.sql('SHOW GLOBAL STATUS LIKE :name', name=name)[0][1])

    def unusual(self):
        """Lines of the workers' logs that tell of no usual step."""
        lines = [
            line.split('] ', 1)[1]
            for name in os.listdir(self.folder + '/log')
            if name.startswith('host')
            for line in self.read('log/' + name).splitlines()
        ]
        return [
            line
            for line in lines
            if not re.match(
                'worker starts|worker leaves|start: |end: .* Success$|SIGTERM: ', line
            )
        ]

    def leave(self):
        for process in self.started:
            process.terminate()
        for process in self.started:
            process.communicate(timeout=60)
        self.close()
        self.store.close()


def server_cpu(server):
    """Seconds of CPU that a server has used, with its children that live or have
    ended."""
    ticks = 0
    processes = children(server.process.pid, 0) + children(server.process.pid, 1)
    for number, process in enumerate(processes):
        with contextlib.suppress(OSError):  # it has just ended
            used = list(map(int, dc.stat_of(process)[11:15]))
            ticks += sum(used[: 2 if number else 4])
    return ticks / os.sysconf('SC_CLK_TCK')


def utc(when):
    """A time as the tables have it."""
    return dc.text_of(
        datetime.fromtimestamp(int(when), timezone.utc).replace(tzinfo=None)
    )


def percentile(values, percent):
    return sorted(values)[-(-len(values) * percent // 100) - 1]


def reference(code, *arguments):
    """What a small program of Python, in a process of its own, says: a number."""
    return float(
        subprocess.run(
            [sys.executable, '-I', '-c', code, *map(str, arguments)],
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
    )


SPAWN = '''if True:
    import os, sys, time
    count, most, live = int(sys.argv[1]), int(sys.argv[2]), 0
    command = sys.argv[3]
    begun = time.monotonic()
    for _ in range(count):
        if live == most:
            live -= bool(os.wait())
        os.posix_spawn('/bin/sh', ['/bin/sh', '-c', command], os.environ)
        live += 1
    while live:
        live -= bool(os.wait())
    print(count / (time.monotonic() - begun))'''


def limit(count=500, outstanding=8, command=':'):
    """The machine's limit: how many commands per second posix_spawn of Python starts
    and wait buries, with so many outstanding."""
    return reference(SPAWN, count, outstanding, command)


# ---------------------------------------------------------------------------- rates


@row
def slots(bench):
    """As people run it: by default, there are as many slots as CPUs."""
    for count, least, dearest in ((2, 0.3, 1), (8, 0.5, 0.6), (128, 0.75, 0.25)):
        with bench.place(max_tasks=count) as place:
            place.fill(500)
            place.workers(1)
            rate, most, ratio = bench.beside(
                5,
                lambda: place.rate(500),
                lambda: limit(500, count),  # noqa: B023
            )
            cost, own = map(median, zip(*place.costs))
        yield Row(
            '500 due at once, %d slots' % count,
            '%.0f runs/s' % rate,
            'posix_spawn, %d at a time %.0f/s' % (count, most),
            ratio,
            '≥ %s' % least,
            ratio >= least,
        )
        yield Row(
            "a run's CPU of the database, %d slots" % count,
            '%.2f ms' % cost,
            "the worker's %.2f ms" % own,
            None,
            '≤ %s ms' % dearest,
            cost <= dearest,
        )


@row
def throughput(bench):
    """With a slot for each, as the other crons have."""
    with bench.place(max_tasks=500) as place:
        place.fill(500)
        place.workers(1)
        rate, most, ratio = bench.beside(11, lambda: place.rate(500), limit)
    yield Row(
        '500 due at once, one worker',
        '%.0f runs/s' % rate,
        'posix_spawn %.0f/s' % most,
        ratio,
        '≥ 0.65',
        ratio >= 0.65,
    )


@row
def signed(bench):
    """Beside a worker that does not ask for signatures. The first time, ssh-keygen is
    asked for each; after that they are remembered, also by the next worker."""
    count = bench.count(500, 60)
    with bench.place(max_tasks=500) as plain, bench.place(max_tasks=500) as place:
        key = os.path.join(place.folder, 'key')
        subprocess.run(
            ['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', key], check=True
        )
        with open(os.path.join(place.folder, 'signers'), 'w') as file:
            file.write('bench ' + dc.read_text(key + '.pub'))
        signing = {'required': True, 'signers': 'signers', 'cluster': 'bench'}
        place.write(sign=signing)
        for one in (plain, place):
            one.fill(count)
        place.run('sign', '--all', '--key', key, '--yes')
        for one in (plain, place):
            one.workers(1)
        first = place.rate(count)
        place.took = 0  # the next rounds are not to wait for so long
        rate, other, ratio = bench.beside(
            11, lambda: place.rate(count), lambda: plain.rate(count)
        )
    yield Row(
        '%d signed due at once, for the first time' % count,
        '%.0f runs/s' % first,
        'each asks ssh-keygen',
        None,
        '',
        None,
    )
    yield Row(
        'the same, remembered',
        '%.0f runs/s' % rate,
        'unsigned %.0f/s' % other,
        ratio,
        '≥ 0.9',
        ratio >= 0.9,
    )


@row
def many(bench):
    """Each of the four is as the one."""
    count = bench.count(10000, 1000)
    with bench.place(max_tasks=128) as place, bench.place(max_tasks=128) as four:
        place.fill(500)
        four.fill(count)
        place.workers(1)
        four.workers(4)
        rate, one, ratio = bench.beside(
            3,
            lambda: four.rate(count),
            lambda: median(place.rate(500) for _ in range(3)),
        )
        lost = four.unusual()
    yield Row(
        '%d due at once, four workers' % count,
        '%.0f runs/s' % rate,
        '500, one worker: %.0f/s' % one,
        ratio,
        '≥ 0.9; none lost, none twice',
        ratio >= 0.9 and not lost,
    )


@row
def statements(bench):
    """With two slots, two quick commands share a claim and a report: each alone would
    take eight statements, and two more look for what else there is."""
    for slots, most in ((60, 2.5), (2, 6)):
        counts = []
        with bench.place(max_tasks=slots) as place:
            place.fill(60)
            place.workers(1)
            for _ in range(bench.count(7, 3)):
                place.due_soon(2, 0.1)
                before = place.status('Questions')
                time.sleep(0.9)  # all the while nobody asks but the worker
                counts.append((place.status('Questions') - before - 1) / 60)
                place.wait_all(60)
        count = median(counts)
        yield Row(
            'statements per run, 60 due, %d slots' % slots,
            '%.2f' % count,
            '',
            None,
            '≤ %s' % most,
            count <= most,
        )


@row
def contention(bench):
    """Of a claim all that it asks for may have been taken by others: a wasted one."""
    count, workers = bench.count(2000, 600), bench.count(20, 8)
    with bench.place(max_tasks=8) as place:
        place.fill(count)
        place.workers(workers)
        log = os.path.join(place.folder, 'general.log')
        place.store.execute('SET GLOBAL general_log_file = :log', log=log)
        due = place.due_soon(5)
        place.store.execute('SET GLOBAL general_log = 1')
        took = place.wait_all(count) - due
        place.store.execute('SET GLOBAL general_log = 0')
        text = dc.read_text(log)
        claims = re.findall(
            r"SET run_token = '\w+'.*?\n?.*?WHERE id IN \(([\d, ]+)\)",
            re.sub(r'\n\s+', ' ', text),
        )
        landed = len(re.findall(r"FROM job WHERE run_token = '\w+'", text))
        asked = sum(claim.count(',') + 1 for claim in claims)
        wasted, in_vain = 1 - landed / len(claims), 1 - count / asked
        unusual = place.unusual()
    yield Row(
        '%d workers, %d due at once' % (workers, count),
        'wasted claims %.0f %%' % (100 * wasted),
        '%.0f %% of the rows asked for' % (100 * in_vain),
        None,
        '≤ 20 %, no error in the logs',
        wasted <= 0.2 and not unusual,
    )
    yield Row(
        'the same, until all are recorded',
        '%.0f runs/s' % (count / took),
        '',
        None,
        '',
        None,
    )


@row
def filled(bench):
    """Commands that take a while: how much of the time are all slots taken? As many as
    that asks for can't be started where the limit is lower."""
    for seconds, count in ((1, 512), (0.05, bench.count(4000, 1500))):
        command = 'exec sleep %s' % seconds
        with bench.place(max_tasks=128) as place:
            place.fill(count, command)
            place.workers(1)
            rate, most, ratio = bench.beside(
                3,
                lambda: place.rate(count),  # noqa: B023
                lambda: limit(count, 128, command),  # noqa: B023
            )
        share = rate * seconds / 128
        yield Row(
            '128 slots, commands of %s s: full' % seconds,
            '%.2f of the time' % share,
            'posix_spawn %.2f' % (most * seconds / 128),
            ratio,
            '≥ 0.9',
            share >= 0.9,
        )


@row
def hosts(bench):
    """So many workers with the same slots, each as a host of its own. Share of time:
    how much of the workers' time somebody waits for a lock."""
    for server in (bench.server, bench.postgresql()):
        for slots in bench.count((8, 128), (8,)):
            for workers in bench.count((20, 60), (20,)):
                yield hosts_row(bench, server, slots, workers)


def hosts_row(bench, server, slots, workers):
    waits, count = [], bench.count(2000, 600)
    with bench.place(server, max_tasks=slots) as place:
        place.fill(count)
        place.workers(1)
        one = median(place.rate(count) for _ in range(bench.count(3, 2)))
    with bench.place(server, max_tasks=slots) as place:
        place.fill(count)
        place.workers(workers)

        def rate():
            with lock_waits(place) as seconds:
                found = place.rate(count)
            waits.append(sum(seconds) / place.took / workers)
            return found

        many = median(rate() for _ in range(bench.count(3, 2)))
        unusual = place.unusual()
    share = median(waits)
    return Row(
        '%s, %d workers of %d slots' % (type(server).__name__, workers, slots),
        '%.0f runs/s' % many,
        'one worker %.0f/s; waits for locks %.1f %%' % (one, 100 * share),
        many / one,
        '≥ 0.8; < 5 %; no error in the logs',
        many >= 0.8 * one and share < 0.05 and not unusual,
    )


@contextlib.contextmanager
def lock_waits(place):
    """A list that gets the seconds which sessions have waited for locks meanwhile:
    MariaDB counts them, PostgreSQL is asked every 20 ms."""
    seconds = []
    if place.engine == 'mysql':
        before = place.status('Innodb_row_lock_time')
        yield seconds
        seconds.append((place.status('Innodb_row_lock_time') - before) / 1000)
        return
    over = threading.Event()

    def sample():
        with contextlib.closing(place.server.connect()) as connection:
            while not over.wait(0.02):
                (waiting,) = connection.execute(
                    "SELECT COUNT(*) FROM pg_stat_activity"
                    " WHERE wait_event_type = 'Lock'"
                ).fetchone()
                seconds.append(0.02 * waiting)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield seconds
    finally:
        over.set()
        thread.join()


@row
def away(bench):
    """Among jobs of other hosts, of which many are due, and nobody takes them."""
    others, due = bench.count((1000000, 10000), (100000, 10000))
    with bench.place(max_tasks=128) as few, bench.place(max_tasks=128) as crowd:
        few.fill(500)
        crowd.fill(500)
        crowd.fill(others - due, run_on='gone')
        crowd.fill(due, run_on='gone', when=time.time() - 60)
        crowd.store.execute('ANALYZE TABLE job')
        few.workers(1)
        crowd.workers(1)
        flush(few)
        rate, alone, ratio = bench.beside(
            7, lambda: crowd.rate(500), lambda: few.rate(500)
        )
    yield Row(
        '500 due at once among %d jobs, %d due elsewhere' % (others, due),
        '%.0f runs/s' % rate,
        'without them %.0f/s' % alone,
        ratio,
        '≥ 0.8',
        ratio >= 0.8,
    )


@row
def spread(bench):
    """Three workers that could each take all."""
    rounds = even = 0
    with bench.place(max_tasks=30) as place:
        place.fill(30, 'sleep 0.5')
        place.workers(3)
        for _ in range(bench.count(20, 10)):
            place.due_soon()
            place.wait_all(30)
            shares = place.sql('SELECT worker, COUNT(*) AS n FROM run GROUP BY worker')
            rounds += 1
            even += len(shares) == 3 and all(7 <= share.n <= 13 for share in shares)
    yield Row(
        'three idle workers, 30 due',
        'each got 7 to 13 in %d of %d rounds' % (even, rounds),
        '',
        even / rounds,
        '≥ 0.9',
        even / rounds >= 0.9,
    )
    with bench.place(max_tasks=128) as place, bench.place(max_tasks=128) as three:
        place.fill(500)
        three.fill(500)
        place.workers(1)
        three.workers(3)
        rate, one, ratio = bench.beside(
            7, lambda: three.rate(500), lambda: place.rate(500)
        )
    yield Row(
        '500 due at once, three workers',
        '%.0f runs/s' % rate,
        'one worker %.0f/s' % one,
        ratio,
        '≥ 0.9',
        ratio >= 0.9,
    )


# ---------------------------------------------------------------------------- delays


@row
def latency(bench):
    """At two places, of which one has a million other jobs, a job is due each second;
    and half a second after it a process that only slept starts a command."""
    count, others = bench.count(100, 8), bench.count(1000000, 20000)
    with bench.place(max_tasks=8) as few, bench.place(max_tasks=8) as crowd:
        crowd.fill(others)
        base, small, large = start_delays((few, crowd), count)
    p50, p99 = percentile(small, 50), percentile(small, 99)
    bare = 'sleep and posix_spawn %.1f ms'
    yield Row(
        'start after the due time, p50',
        '%.1f ms' % p50,
        bare % percentile(base, 50),
        None,
        '≤ 4 ms',
        p50 <= 4,
    )
    yield Row(
        'start after the due time, p99',
        '%.1f ms' % p99,
        bare % percentile(base, 99),
        None,
        '≤ 10 ms',
        p99 <= 10,
    )
    ratio = percentile(large, 50) / p50
    yield Row(
        'the same with %d other jobs, p50' % others,
        '%.1f ms' % percentile(large, 50),
        'without them %.1f ms' % p50,
        ratio,
        '≤ 1.2',
        ratio <= 1.2,
    )


@row
def latency_beside(bench):
    """The same with 20 workers more, which could take each job as well."""
    with bench.place(max_tasks=8) as place:
        base, times = start_delays([place], bench.count(100, 15), 21)
    for percent, most in ((50, 6), (99, 20)):
        found = percentile(times, percent)
        yield Row(
            'start after the due time, 21 workers, p%d' % percent,
            '%.1f ms' % found,
            'sleep and posix_spawn %.1f ms' % percentile(base, percent),
            None,
            '≤ %d ms' % most,
            found <= most,
        )


def start_delays(places, count, workers=1):
    """Milliseconds from the due time to the start: of commands by posix_spawn, and of
    as many jobs at each place. They say by a FIFO that they have started."""
    path = os.path.join(places[0].folder, 'started')
    os.mkfifo(path)
    fifo, delays = os.open(path, os.O_RDWR), collections.defaultdict(list)
    for place in places:
        place.workers(workers)
    first = int(time.time()) + 3
    for number in range(count):
        for offset, place in enumerate(places):
            when = first + number * len(places) + offset
            place.fill(1, 'echo %d:%d > %s' % (offset + 1, when, path), when)
    for number in range(count * len(places)):
        for due in first + number, first + number + 0.5:
            time.sleep(max(0, due - time.time()))
            if due % 1:
                os.waitpid(
                    os.posix_spawn(
                        '/bin/sh',
                        ['/bin/sh', '-c', 'echo 0:%r > %s' % (due, path)],
                        os.environ,
                    ),
                    0,
                )
            assert select.select([fifo], [], [], 20)[0], 'no start'
            now = time.time()
            for word in os.read(fifo, 4096).split():
                kind, _, when = word.partition(b':')
                delays[int(kind)].append(1000 * (now - float(when)))
    os.close(fifo)
    return [delays[kind] for kind in range(len(places) + 1)]


@row
def idle(bench):
    for count in bench.count((1000, 1000000), (1000, 100000)):
        with bench.place() as place:
            place.fill(count)
            (worker,) = place.workers(1)
            place.store.execute('ANALYZE TABLE job')
            rows, took = look_costs(place)
            time.sleep(1)
            seconds = bench.count(30, 5)
            asked, used = place.status('Questions'), cpu_of(worker.pid)
            time.sleep(seconds)
            asked = place.status('Questions') - asked - 1
            used = cpu_of(worker.pid) - used
        good = rows < 50 and took < 1 and asked <= seconds + 1 + 4  # 4: the host's row
        yield Row(
            'idle poll, %d jobs' % count,
            '%.2f ms, %d rows read' % (took, rows),
            '%d statements in %d polls' % (asked, seconds),
            None,
            '< 1 ms, < 50 rows, one statement',
            good,
        )
        yield Row(
            'idle worker, %d jobs' % count,
            '%.2f %% of a core' % (100 * used / seconds),
            '',
            None,
            '< 0.3 %',
            used / seconds < 0.003,
        )


POLLS = '''if True:
    import os, sys, time
    sys.path.insert(0, sys.argv[1])
    import distributed_cron as dc
    server, count, seconds = map(int, sys.argv[3:])
    def used():
        return sum(map(int, dc.stat_of(server)[11:13])) / os.sysconf('SC_CLK_TCK')
    stores = []
    for number in range(count):
        store = dc.Store(dc.load_config(sys.argv[2], 'host%d' % number)).connect()
        store.execute('SET SESSION wait_timeout = 600')
        store.look()
        stores.append(store)
    times, before, begun = [], used(), time.monotonic()
    for number in range(count * seconds):
        time.sleep(max(0, begun + number / count - time.monotonic()))
        asked = time.monotonic()
        stores[number % count].look()
        times.append(time.monotonic() - asked)
    polls = sorted(times)
    print(1000 * polls[len(polls) * 99 // 100], 1000 * (used() - before) / len(polls))'''


@row
def loops(bench):
    """Connections that poll as idle workers do; they take turns in one process, which
    measures each poll."""
    count, seconds = 1000, bench.count(20, 5)
    with bench.place() as place:
        place.fill(10000)
        place.store.execute('ANALYZE TABLE job')
        paths = os.path.dirname(SCRIPT), place.file
        numbers = bench.server.process.pid, count, seconds
        command = [sys.executable, '-c', POLLS, *paths, *map(str, numbers)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    p99, cost = map(float, done.stdout.split())
    share = count * cost / 1000  # one poll each a second
    yield Row(
        'idle loops, %d' % count,
        '%.0f %% of a core of the server' % (100 * share),
        'a poll %.2f ms of its CPU; p99 of the answers %.1f ms' % (cost, p99),
        None,
        '≤ 20 %, p99 ≤ 1 ms',
        share <= 0.2 and p99 <= 1,
    )


def look_costs(place):
    """Rows that a poll reads, and the milliseconds that it takes."""

    def rows_read():
        return sum(
            int(row[1]) for row in place.sql("SHOW SESSION STATUS LIKE 'Handler_read%'")
        )

    before = rows_read()
    own = rows_read() - before  # what asking for it adds
    before = rows_read()
    place.store.look()
    rows, times = rows_read() - before - own, []
    for _ in range(200):
        begun = time.monotonic()
        place.store.look()
        times.append(1000 * (time.monotonic() - begun))
    return rows, median(times)


def cpu_of(process):
    """Seconds of CPU that a process has used."""
    return int(dc.read_text('/proc/%d/schedstat' % process).split()[0]) / 1e9


@row
def startup(bench):
    """Connections that do what a worker does at its start; then workers that see a
    database which hangs up: they must not come back all at once."""
    count = bench.count(500, 100)
    with bench.place() as place:
        place.fill(1000)
        connect = '''if True:
            import sys, threading, time
            sys.path.insert(0, sys.argv[1])
            import distributed_cron as dc
            stores = [dc.Store(dc.load_config(sys.argv[2], 'host%%d' %% number))
                      for number in range(%d)]
            def start(store):
                store.connect()
                dc.update_host(store, store.config.name, 0, store.look().now)
            def bare(store):
                store.dialect.connect()
            threads = [threading.Thread(target=%s, args=[store]) for store in stores]
            failed = []
            threading.excepthook = failed.append
            begun = time.monotonic()
            for number, thread in enumerate(threads):  # all within a second
                time.sleep(max(0, begun + number / len(threads) - time.monotonic()))
                thread.start()
            for thread in threads:
                thread.join()
            print(-1 if failed else time.monotonic() - begun)'''
        paths = os.path.dirname(SCRIPT), place.file
        took, bare, ratio = bench.beside(
            3,
            lambda: reference(connect % (count, 'start'), *paths),
            lambda: reference(connect % (count, 'bare'), *paths),
        )
        there = len(place.sql('SELECT 1 FROM host'))
    yield Row(
        '%d workers start in one second' % count,
        'served after %.2f s' % took,
        'connections alone %.2f s' % bare,
        ratio,
        'all are served',
        0 < took < 10 and there == count,
    )
    least, most = pauses(bench.folder, bench.count(20, 8))
    yield Row(
        'back-off of workers, third pause',
        '%.2f to %.2f s' % (least, most),
        '',
        most / least,
        'jittered: ≥ 1.3',
        most / least >= 1.3,
    )


def pauses(folder, count):
    """The shortest and the longest of workers' third pauses, at a server that takes
    connections only to close them."""
    folder = tempfile.mkdtemp(dir=folder)
    seen = collections.defaultdict(list)
    with contextlib.ExitStack() as stack:
        listeners = {}
        for number in range(count):
            listener = stack.enter_context(socket.create_server(('127.0.0.1', 0)))
            name, server = (
                'host%d' % number,
                types.SimpleNamespace(port=listener.getsockname()[1]),
            )
            place = BenchPlace(folder, 'mysql', server)
            place.file = os.path.join(folder, name)
            place.write()
            process = place.worker(name)
            stack.callback(process.communicate)
            stack.callback(process.kill)
            listeners[listener] = number
        limit = time.monotonic() + 60
        while len(seen) < count or min(map(len, seen.values())) < 4:
            assert time.monotonic() < limit, 'no fourth attempt'
            for listener in select.select(list(listeners), [], [], 1)[0]:
                listener.accept()[0].close()
                seen[listeners[listener]].append(time.monotonic())
    third = [times[3] - times[2] for times in seen.values()]
    return min(third), max(third)


# ------------------------------------------------------------------------- resources


@row
def pass_(bench):
    """A worker of the crontab's that finds nothing due; its line has no arguments. As
    a module, which README's line has and pip installs, Python compiles it once; as a
    script each time. Beside it the Perl program, or its like, where its modules are."""
    module = 'import sys; sys.path[0] = %r; import distributed_cron as dc; %s'
    with bench.place() as place:
        place.fill(1000)
        shutil.copy(SCRIPT, place.folder)
        env = dict(os.environ, DISTRIBUTED_CRON_CONFIG=place.file)
        env.pop('PYTHONDONTWRITEBYTECODE', None)
        run = module % (place.folder, 'sys.argv[1:] = []; sys.exit(dc.main())')
        a_pass = [sys.executable, '-c', run]
        libraries = [sys.executable, '-c', 'import yaml, pymysql']
        little = [sys.executable, '-c', 'import sqlite3, argparse']
        for name, most, command in (
            ('a crontab pass with nothing due', 2.2, a_pass),
            ('the same, as a script', None, [sys.executable, SCRIPT]),
            ('of it its two libraries alone', None, libraries),
        ):
            cpu_time(command, env)
            cpu, bare, ratio = bench.beside(
                15,
                lambda: cpu_time(command, env),  # noqa: B023
                lambda: cpu_time(little, env),
            )
            yield Row(
                name,
                '%.0f ms of CPU' % (1000 * cpu),
                'import sqlite3, argparse %.0f ms' % (1000 * bare),
                ratio,
                '≤ %s' % most if most else '',
                most and ratio <= most,
            )
        perl = peers.perl_pass(place.file)
        if perl:
            cpu, other, ratio = bench.beside(
                15, lambda: cpu_time(a_pass, env), lambda: cpu_time(perl, env)
            )
            yield Row(
                'a crontab pass beside the Perl program',
                '%.0f ms of CPU' % (1000 * cpu),
                'its modules, and its two statements %.0f ms' % (1000 * other),
                ratio,
                '≤ 1',
                ratio <= 1,
            )


def cpu_time(command, env):
    """Seconds of CPU that a process uses."""
    process = os.posix_spawn(command[0], command, env)
    _, status, usage = os.wait4(process, 0)
    assert status == 0, command
    return usage.ru_utime + usage.ru_stime


@row
def memory(bench):
    for count, most in bench.count(((60, 28), (1000, 40)), ((60, 28), (200, 40))):
        with bench.place(max_tasks=count) as place:
            place.fill(count, 'exec sleep 20')
            (worker,) = place.workers(1)
            place.due_soon(3)
            held = 'SELECT COUNT(*) FROM job WHERE run_token IS NOT NULL'
            wait_until(lambda: place.sql(held)[0][0] == count, 20)  # noqa: B023
            wait_until(lambda: len(children(worker.pid, 2)) == count, 20)  # noqa: B023
            processes = children(worker.pid, 0) + children(worker.pid, 1)
            used = sum(map(pss, processes))
        yield Row(
            'memory, %d running' % count,
            '%.0f MB' % used,
            '%d processes' % len(processes),
            None,
            '≤ %d MB' % most,
            used <= most,
        )


def children(process, generation):
    """The process, its children, or theirs."""
    found = [process]
    for _ in range(generation):
        found = [
            int(child)
            for parent in found
            for child in dc.read_text(
                '/proc/%d/task/%d/children' % (parent, parent)
            ).split()
        ]
    return found


def pss(process):
    """Megabytes of memory, what is shared by several counted in parts."""
    text = dc.read_text('/proc/%d/smaps_rollup' % process)
    return int(re.search(r'(?m)^Pss: +(\d+)', text)[1]) / 1024


@row
def output(bench):
    size = bench.count(200, 40)
    write = 'yes %s | head -c %d000000' % ('x' * 70, size)
    bare = '''if True:
        import subprocess, sys, time
        begun = time.monotonic()
        with subprocess.Popen(sys.argv[1], shell=True, stdout=-1) as process:
            while process.stdout.read1(65536):
                pass
        print(int(sys.argv[2]) / (time.monotonic() - begun))'''
    with bench.place(max_tasks=8) as place:
        place.fill(1, write)
        (worker,) = place.workers(1)
        grown = []

        def speed():
            place.due_soon()
            grown.append(growth(worker.pid))
            place.wait_all(1)
            return size / (place.sql('SELECT duration_ms FROM run')[0][0] / 1000)

        speed, most, ratio = bench.beside(
            5, speed, lambda: reference(bare, write, size)
        )
        (job,) = place.sql('SELECT id FROM job')[0]
        logs = [
            os.path.getsize('%s/log/%d.log%s' % (place.folder, job, end))
            for end in ('', '.1')
        ]
    good = max(logs) < 11.5e6  # the last piece may be a pipe's content longer
    yield Row(
        '%d MB of output from one job' % size,
        '%.0f MB/s' % speed,
        'read and dropped %.0f MB/s' % most,
        ratio,
        '≥ 0.4, rotated',
        ratio >= 0.4 and good,
    )
    yield Row(
        'the same, growth of memory',
        '%.1f MB' % median(grown),
        '',
        None,
        '≤ 4 MB',
        median(grown) <= 4,
    )


def growth(worker):
    """How much more memory than at first a worker and its runner have, at most, while
    the runner lives."""
    wait_until(lambda: children(worker, 1), 10, 'the runner')
    sizes = []
    with contextlib.suppress(OSError, IndexError, TypeError):  # it has just ended
        while True:
            sizes.append(pss(worker) + pss(children(worker, 1)[0]))
            time.sleep(0.02)
    return max(sizes) - sizes[0]


# --------------------------------------------------------------------------- history


@row
def history(bench):
    """What a report, the page of a job and the purge take, by the length of history;
    measured in turns at two places."""
    counts, times = bench.count((10000, 10000000), (10000, 200000)), {}
    with bench.place() as small, bench.place() as large:
        for place, count in zip((small, large), counts):
            fill_history(place, count)
            times[place] = collections.defaultdict(list)
        flush(small)
        for number in range(bench.count(25, 7)):
            for place, found in times.items():
                report(place, found, number)
        for _ in range(4):  # of 2,000 runs each
            for place, found in times.items():
                place.store.config.history_days = 0
                place.store.recorded_runs.clear()
                clock(
                    found['purge'],
                    place.store.hello,
                    'host0-1',
                    0,
                    place.store.look().now,
                )
        for what in times[small]:
            short, long = median(times[small][what]), median(times[large][what])
            yield Row(
                '%s, %d runs in the history' % (what, counts[1]),
                '%.1f ms' % long,
                '%d runs: %.1f ms' % (counts[0], short),
                long / short,
                '≤ 1.3',
                long / short <= 1.3,
            )


def fill_history(place, count):
    """So many runs: up to 1,000 for each job, one of them each 50 minutes."""
    jobs = max(100, count // 1000)
    place.fill(jobs)
    place.store.execute('UPDATE job SET run_no = 1000')
    place.store.execute('ALTER TABLE run DROP INDEX run_ended')  # made at once
    place.store.execute(
        '''INSERT INTO run (job_id, run_no, due_utc, started_at, ended_at, duration_ms,
            worker, status, exit_code, output)
        SELECT MOD(seq, %d) + 1, seq DIV %d + 1, NULL, NULL,
        NOW() - INTERVAL (seq DIV %d) * 50 MINUTE, 12, 'host0-1', 'Success', 0,
        'what a job says in a line or two, as jobs do' FROM seq_0_to_%d
        '''
        % (jobs, jobs, jobs, count - 1)
    )
    place.store.execute('ALTER TABLE run ADD INDEX run_ended (ended_at)')
    place.store.execute('ANALYZE TABLE run')


def flush(place):
    """Have the server write to its files what it was filled with, before it counts."""
    place.store.execute('SET GLOBAL innodb_max_dirty_pages_pct = 0')
    wait_until(lambda: place.status('Innodb_buffer_pool_pages_dirty') < 500, 300)
    place.store.execute('SET GLOBAL innodb_max_dirty_pages_pct = 90')


def report(place, times, number):
    """Run 64 jobs, as far as the database can tell, and look at one."""
    token, store = '%032d' % number, place.store
    jobs = [row.id for row in place.sql('SELECT id FROM job ORDER BY id LIMIT 64')]
    store.execute('UPDATE job SET next_run_utc = {utc} WHERE id <= 64')
    clock(
        times['report of 64 runs'],
        store.end,
        [
            dc.Ending(token, row.id, 'done', row.run_no, 'Success', 0, 'x', 5)
            for row in store.claim(jobs, token, 'host0-1')
        ],
    )
    clock(
        times['page of a job'],
        place.sql,
        'SELECT * FROM run WHERE job_id = 3 ORDER BY run_no DESC LIMIT 50',
    )


def clock(times, step, *args):
    """Note the milliseconds that a step takes."""
    begun = time.monotonic()
    step(*args)
    times.append(1000 * (time.monotonic() - begun))


# ----------------------------------------------------------------------------- peers


@row
def peers_(bench):
    """Other crons, each at the same 500 commands: what they start in a second, beside
    a worker that has a slot for each, as they have."""
    with bench.place(max_tasks=500) as place:
        place.fill(500)
        place.workers(1)
        for name, start, keeps in peers.PEERS:
            found = []
            for _ in range(bench.count(2, 1)):
                folder = tempfile.mkdtemp(dir=bench.folder)
                ours = place.rate(500)
                rate, last = start(folder, bench.server)
                found.append((rate, last, 2 * rate / (ours + place.rate(500))))
            rate, last, ratio = map(median, zip(*found))
            yield Row(
                '%s, 500 due at once' % name,
                '%.0f starts/s' % rate,
                'last one %.1f s after the due time; it %s' % (last, keeps),
                ratio,
                'of ours: < 1',
                ratio < 1,
            )


if __name__ == '__main__':
    sys.exit(main())
