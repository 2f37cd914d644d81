"""Hosts with short minutes, and commands that note when they began."""

import contextlib
import os
import shlex
import subprocess
import sys
import time

import pymysql
import yaml
from conftest import ROOT, wait_until
from faults.proxy import Proxy

WORKER = os.path.join(ROOT, 'tests', 'faults', 'worker.py')
LATE = 3  # seconds by which a start may be later than it is without a fault
PATIENCE = 12  # seconds in which all jobs of a tick have started, on a busy machine too


def start_worker(
    place, name, *arguments, minute=60, margin=20, file=None, before=(), **how
):
    """Start a worker with short minutes of max_run_time, as a loop unless told otherwise;
    returns when it is at work.

    minute, margin: whole seconds; file: its configuration, the place's by default;
    before: a command that becomes it.
    """
    command = [*before, sys.executable, WORKER, str(minute), str(margin)]
    command += ['--config', file or place.file, '--name', name, 'run']
    process = subprocess.Popen(
        [*command, *(arguments or ['--forever'])], stderr=subprocess.DEVNULL, **how
    )
    place.started.append(process)
    log = os.path.join(place.folder, place.values['log']['location'], name + '.log')

    def is_at_work():
        with contextlib.suppress(FileNotFoundError), open(log) as file:
            return '%s-%d: ' % (name, process.pid) in file.read()

    wait_until(lambda: is_at_work() or process.poll() is not None)
    return process


def proxy_of(place):
    """A way of one host's own to the place's server, and a configuration that takes it."""
    proxy = Proxy(place.server.port)
    values = dict(place.values)
    values['db'] = dict(values['db'], host='127.0.0.1:%d' % proxy.port)
    file = os.path.join(place.folder, 'proxy.yml')
    with open(file, 'w') as stream:
        yaml.safe_dump(values, stream)
    return proxy, file


@contextlib.contextmanager
def row_lock(place, job):
    """Somebody's open transaction, in which a job's row was changed; by a connection of
    a person's, without the limits of ours."""
    database = place.values['db']['database']
    if place.engine == 'postgresql':
        connection = place.server.connect(database)
    else:
        connection = pymysql.connect(
            host='127.0.0.1',
            port=place.server.port,
            user='dc',
            password='secret',
            database=database,
        )
    with contextlib.closing(connection):
        cursor = connection.cursor()
        cursor.execute('BEGIN')
        cursor.execute("UPDATE job SET description = 'mine' WHERE id = %d" % job)
        yield
        cursor.execute('ROLLBACK')


class Ticks:
    """Jobs that are due again and again, and note their starts by the machine's clock."""

    def __init__(self, place, count):
        self.place, self.file = place, os.path.join(place.folder, 'ticks')
        command = (
            'read up rest < /proc/uptime; echo $DISTRIBUTED_CRON_JOB_ID $up '
            '$DISTRIBUTED_CRON_WORKER >> ' + shlex.quote(self.file)
        )
        self.jobs = [
            place.add(command, frequency=1000, next_run_utc='9999-12-31 00:00:00')
            for _ in range(count)
        ]
        self.ticks = 0

    def tick(self):
        """Have all of them due now, and wait until each has started once more; returns
        by how many seconds the last one was late."""
        begin = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.ticks += 1
        self.place.store.change(
            'UPDATE job SET next_run_utc = {utc} WHERE id IN (:jobs)', jobs=self.jobs
        )
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.missing(), PATIENCE)
        missing = self.missing()
        assert not missing, '%d of %d jobs missed tick %d' % (
            missing,
            len(self.jobs),
            self.ticks,
        )
        wait_until(lambda: not self.held(), what='the records of a tick')
        starts = self.starts().values()
        assert all(len(times) == self.ticks for times in starts), 'a job ran twice'
        return max(times[-1] for times in starts) - begin

    def lateness(self, count):
        """By how many seconds a start was late in so many ticks. A machine that is busy
        with other tests may be late by itself: then the better of two tries."""
        late = max(self.tick() for _ in range(count))
        if late > LATE:
            late = min(late, max(self.tick() for _ in range(count)))
        return late

    def missing(self):
        """How many have not started at the last tick."""
        return sum(len(times) < self.ticks for times in self.starts().values())

    def held(self):
        """How many are not recorded."""
        return self.place.sql(
            'SELECT COUNT(*) FROM job WHERE id IN (:jobs) AND run_token IS NOT NULL',
            jobs=self.jobs,
        )[0][0]

    def lines(self):
        with contextlib.suppress(FileNotFoundError), open(self.file) as stream:
            return [line.split() for line in stream.read().splitlines()]
        return []

    def starts(self):
        """The times of each job's starts."""
        found = {job: [] for job in self.jobs}
        for job, up, _ in self.lines():
            found[int(job)].append(float(up))
        return found

    def hosts(self):
        """Names of the hosts on which they ran."""
        return {worker.rpartition('-')[0] for _, _, worker in self.lines()}


def is_alive(process):
    """Whether a process, by its id, is there and no zombie."""
    with contextlib.suppress(OSError), open('/proc/%d/stat' % process) as file:
        return file.read().rpartition(') ')[2][0] not in 'XZ'
    return False
