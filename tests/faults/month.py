#!/usr/bin/env python3
"""A month in an hour: real workers on a real database, whose time passes faster.

    python tests/faults/month.py --jobs 200 --days 30 --speed 720 --period 15

Three workers on one MariaDB, all under libfaketime from 20 March 2026 on: Europe springs
forward on the 29th, Sydney falls back on 5 April. `--often` jobs run each `--period`
minutes, the others once a day between 02:00 and 03:59, in turn in four time zones. Each
command adds a byte to a file of its job: afterwards each file must have as many as the job
had times, which are counted here by zoneinfo. Once a simulated day it prints what a worker
and the database take. Exits 1 if a time is missing or one too many came.

A minute of max_run_time, the margin before a deadline and a host's reports last ten
minutes of simulated time, and answers may take an hour of it: less is too short at this speed.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from datetime import time as clock
from zoneinfo import ZoneInfo

import yaml

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from faults.attack import end_by_signals
from faults.cluster import FAKETIME, HERE, forget_clock
from servers import MariaDB, open_folder, within

BEGIN = datetime(2026, 3, 20, tzinfo=timezone.utc)
ZONES = (None, 'Europe/Berlin', 'Australia/Sydney', 'America/New_York')
NAMES = ('host0', 'host1', 'host2')
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
KEEPER = (
    'import os, sys; print(os.environ["FAKETIME_SHARED"], flush=True); sys.stdin.read()'
)

OPTIONS = (
    '--innodb-flush-log-at-trx-commit=2',
    '--connect-timeout=86400',
    '--net-read-timeout=86400',
    '--net-write-timeout=86400',
)


class Job:
    """A job: when it is due, and in which zone."""

    def __init__(self, number, period):
        """period: minutes from one time to the next; None: once a day."""
        self.id = number
        self.period = period
        zone = number // 5 % len(ZONES)
        self.zone = ZONES[zone]
        self.minute = 7 * number % 60
        self.hour = 2 + number // 20 % 2  # which some zone skips or has twice

    @property
    def schedule(self):
        if self.period is None:
            return '%d %d * * *' % (self.minute, self.hour)
        if self.period == 60:
            return '%d * * * *' % self.minute
        return '%d-59/%d * * * *' % (self.minute % self.period, self.period)

    def times(self, begin, end):
        """How many times it has after `begin` and until `end`. Once a day: one for each date,
        whatever the clock did to the hour."""
        if self.period is not None:
            period = timedelta(minutes=self.period)
            first = begin.replace(minute=self.minute % self.period, second=0)
            while first <= begin:
                first += period
            count = 1 + (end - first) // period
            return max(0, count)
        zone = ZoneInfo(self.zone or 'UTC')
        count = 0
        date = begin.astimezone(zone).date()
        while date <= end.astimezone(zone).date():
            count += begin < self.time_of(date, zone) <= end
            date += DAY
        return count

    def time_of(self, day, zone):
        """Its time on a date: the first of two; the jump, if the clock skips it."""
        local = datetime.combine(day, clock(self.hour, self.minute))
        found = local.replace(tzinfo=zone).astimezone(timezone.utc)
        if found.astimezone(zone).replace(tzinfo=None) == local:
            return found
        return found.replace(minute=0)  # the jumps of these zones are at full hours


class Month:
    """Workers, their database, and the clock that they share."""

    def __init__(self, folder, jobs, often, period, speed):
        self.folder = folder
        self.jobs = []
        for number in range(1, jobs + 1):
            self.jobs.append(Job(number, period if number <= often else None))
        self.server = None
        self.workers = []
        self.keeper = None
        self.fake = {
            'LD_PRELOAD': FAKETIME,
            'FAKETIME': '@%s x%d' % (BEGIN.strftime('%Y-%m-%d %H:%M:%S'), speed),
            'FAKETIME_DONT_RESET': '1',
            'FAULTS_TIMEOUT': '3600',
            'TZ': 'UTC',
        }
        for name in ('runs', 'database'):
            os.makedirs(os.path.join(folder, name))

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def start(self):
        """Start the clock, and all that goes by it."""
        place = self.path('database')
        self.server = MariaDB(place, *OPTIONS).start()
        self.server.make_account('dc').load_time_zones()
        self.server.stop()
        self.keeper = subprocess.Popen(
            [sys.executable, '-c', KEEPER],
            env={**os.environ, **self.fake},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        shared = self.keeper.stdout.readline()
        self.fake['FAKETIME_SHARED'] = shared.decode().strip()
        os.environ.update(self.fake)  # for what is started now
        self.server.launch()
        within(self.server.is_up, 30)
        for name in NAMES:
            self.configure(name)
            if not self.workers:
                subprocess.run(self.program(name, 'init'), check=True)
            self.workers.append(self.start_worker(name))
        for name in self.fake:
            del os.environ[name]

    def make_jobs(self):
        """Returns when each was made, by its id."""
        with contextlib.closing(self.server.connect('dc')) as connection:
            connection.begin()
            connection.cursor().executemany(
                'INSERT INTO job (id, command, schedule, time_zone, max_run_time) '
                'VALUES (%s, %s, %s, %s, 6)',
                [
                    (job.id, self.command(job), job.schedule, job.zone)
                    for job in self.jobs
                ],
            )
            cursor = connection.cursor()
            cursor.execute('SELECT id, changed_utc FROM job')
            begins = {
                job: begin.replace(tzinfo=timezone.utc)
                for job, begin in cursor.fetchall()
            }
            connection.commit()
        return begins

    def command(self, job):
        return 'printf . >>' + self.file(job)

    def configure(self, name):
        place = self.path(name)
        for part in ('log', 'state'):
            os.makedirs(os.path.join(place, part))
        config = {
            'db': self.server.access('dc'),
            'log': {'location': place + '/log'},
            'state': {'location': place + '/state'},
            'poll_seconds': 60,
            'max_tasks': 20,
            'history': {'runs': 100},
        }
        with open(place + '/dc.yml', 'w') as file:
            yaml.safe_dump(config, file)

    def program(self, name, *arguments):
        file = self.path(name, 'dc.yml')
        script = os.path.join(HERE, 'worker.py')
        start = [sys.executable, script, '600', '600', '--config', file]
        return [*start, '--name', name, *arguments]

    def file(self, job):
        return self.path('runs', str(job.id))

    def ask(self, text, *values):
        with contextlib.closing(self.server.connect('dc')) as connection:
            cursor = connection.cursor()
            cursor.execute(text, values)
            return cursor.fetchall()

    def start_worker(self, name):
        with open(self.path(name, 'stderr'), 'ab') as errors:
            return subprocess.Popen(
                self.program(name, 'run', '--forever'),
                stdin=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )

    def now(self):
        """The simulated time."""
        found = self.ask('SELECT UTC_TIMESTAMP()')[0][0]
        return found.replace(tzinfo=timezone.utc)

    def wait_for(self, moment):
        while self.now() < moment:
            time.sleep(0.2)
            for worker in self.workers:
                if worker.poll() is not None:
                    raise RuntimeError('a worker ended with %d' % worker.returncode)

    def runs(self):
        return sum(self.count(job) for job in self.jobs)

    def count(self, job):
        with contextlib.suppress(FileNotFoundError):
            return os.path.getsize(self.file(job))
        return 0

    def figures(self):
        """What a worker takes at most, and the database."""
        memory = max(resident(worker.pid) for worker in self.workers)
        descriptors = max(
            count_files('/proc/%d/fd' % worker.pid) for worker in self.workers
        )
        files = max(count_files(self.path(name, 'state')) for name in NAMES)
        size, rows = self.ask(
            'SELECT SUM(data_length + index_length) / 1048576, SUM(table_rows) '
            "FROM information_schema.tables WHERE table_schema = 'dc'"
        )[0]
        return memory, descriptors, files, size, rows

    def close(self):
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            within(lambda worker=worker: worker.poll() is not None, 20)
            worker.kill()
            worker.wait()
        if self.server:
            self.server.discard()
        if self.keeper:
            self.keeper.kill()
            self.keeper.wait()
            forget_clock(self.keeper.pid)


def resident(process):
    """Its memory in MiB."""
    with open('/proc/%d/statm' % process) as file:
        pages = int(file.read().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


def count_files(folder):
    return len(os.listdir(folder))


def simulate(month, days):
    """Let days pass; returns a text for each job that did not run as often as it had to."""
    month.start()
    begins = month.make_jobs()
    print('| day | runs | MiB | descriptors | state files | database MiB | rows |')
    print('|---|---|---|---|---|---|---|', flush=True)
    for day in range(1, days + 1):
        month.wait_for(BEGIN + day * DAY)
        row = (day, month.runs(), *month.figures())
        print('| %d | %d | %.1f | %d | %d | %.1f | %d |' % row, flush=True)
    until = BEGIN + days * DAY - HOUR  # what was due by then has run
    counts = [month.count(job) for job in month.jobs]
    end = month.now()
    wrong = []
    for job, count in zip(month.jobs, counts):
        least = job.times(begins[job.id], until)
        most = job.times(begins[job.id], end)
        if not least <= count <= most:
            what = (job.id, job.schedule, job.zone)
            text = 'job %d, %s in %s' % what
            wrong.append(text + ': %d runs, %d to %d times' % (count, least, most))
    total = sum(counts)
    print('%d runs, %d jobs wrong' % (total, len(wrong)))
    return wrong


def main():
    args = parser().parse_args()
    end_by_signals()
    with open_folder('month-') as folder:
        sizes = (args.jobs, args.often, args.period, args.speed)
        month = Month(folder, *sizes)
        try:
            wrong = simulate(month, args.days)
        finally:
            month.close()
    print('\n'.join(wrong))
    return 1 if wrong else 0


def parser():
    summary = __doc__.partition('\n\n')[0]
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument('--jobs', type=int, default=200)
    parser.add_argument('--often', type=int, default=160, help='so many of the jobs')
    parser.add_argument('--period', type=int, default=60, help='in minutes, up to 60')
    parser.add_argument('--days', type=int, default=30)
    parser.add_argument('--speed', type=int, default=720, help='720: two minutes a day')
    return parser


if __name__ == '__main__':
    sys.exit(main())
