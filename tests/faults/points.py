#!/usr/bin/env python3
"""Crash points: kill a worker, a runner or the host at each of their system calls.

A worker runs a small table once, under a tracer that notes each call of it and its runners
that others can see: each write, fsync, fork, unlink and statement. Then, for each of them, all
is done anew, and the worker, the runner or the whole host dies right before or right after
that call. The host's next worker does the rest; then all is judged: nothing may be lost, twice
or left over.
"""

import argparse
import contextlib
import fcntl
import glob
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict, namedtuple

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

import yaml  # noqa: E402

from faults.points_judge import LEFT, Judge  # noqa: E402
from faults.tracer import INTERRUPT, OPTIONS, SEIZE, Tracer, claims_in, ptrace, why_not  # noqa: E402
from faults.worker import SCRIPT  # noqa: E402
from servers import MariaDB, PostgreSQL, SQLite, open_folder  # noqa: E402

MINUTE, MARGIN, GRACE = 6, 1, 1  # seconds: of max_run_time; before and after a SIGKILL
BOOTING = 10  # seconds from the start of a machine to that of its worker
PASSES = 8  # of the host's next worker, by which all must be at rest
VICTIMS = {
    'process': 'the worker or the runner whose call it is',
    'host': 'all processes at once; the next worker sees another boot of the machine',
    'disk': 'as host; of the state folder is left only what fsync has put on the disk',
}
# Name of a job: (command.sh's SECONDS EXIT FAILS, how often it is tried again)
JOBS = {
    'plain': ('0.1 0', 0),
    'follower': ('0.1 0', 0),  # of plain
    'retried': ('0.1 3 1', 1),
    'long': ('1 0', 0),
}
TABLES = ('run', 'job', 'host', 'live', 'pause', 'trouble')
Run = namedtuple('Run', 'job run_no status attempt started worker')
Case = namedtuple('Case', 'role what count phase victim')


class Place:
    """A host and a database of its own."""

    def __init__(self, server, folder, number, script):
        self.server = server
        self.folder = os.path.join(folder, 'place%d' % number)
        self.state = os.path.join(self.folder, 'log', 'state')
        self.script = script
        self.database = 'dc%d' % number
        os.makedirs(self.folder)
        self.file = os.path.join(self.folder, 'dc.yml')
        self.made = os.path.join(self.folder, 'made.db')  # SQLite: with empty tables
        self.path = os.path.join(self.folder, 'd.db')
        self.configure()
        self.run(['init'])
        if self.server is None:
            os.rename(self.path, self.made)
        self.ids = {}  # name of a job -> its id

    def configure(self):
        db = {'engine': 'sqlite', 'path': self.path}
        if self.server:
            db = self.server.access(self.database)
        log = {'location': os.path.join(self.folder, 'log')}
        with open(self.file, 'w') as file:
            yaml.safe_dump(
                {
                    'db': db,
                    'log': log,
                    'state': {'location': self.state},
                    'kill_grace': GRACE,
                    'max_tasks': 8,
                    'poll_seconds': 0.2,
                },
                file,
            )

    def connect(self):
        if self.server:
            return self.server.connect(self.database)
        sqlite = SQLite(self.folder)
        return sqlite.connect()

    def sql(self, *statements):
        """Run statements; returns the rows of the last one."""
        with contextlib.closing(self.connect()) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def reset(self):
        """Empty folders, and a table of four new jobs."""
        for name in ('log', 'evidence'):
            shutil.rmtree(os.path.join(self.folder, name), ignore_errors=True)
        os.makedirs(os.path.join(self.folder, 'evidence'))
        if self.server is None:
            for path in glob.glob(self.path + '*'):
                os.unlink(path)
            shutil.copy(self.made, self.path)
        else:
            self.sql(*('DELETE FROM ' + table for table in TABLES))
        self.ids = {}
        for name, (arguments, retries) in JOBS.items():
            self.ids[name] = self.add(name, arguments, retries)

    def add(self, name, arguments, retries):
        command = '%s %s %s' % (
            os.path.join(HERE, 'command.sh'),
            os.path.join(self.folder, 'evidence'),
            arguments,
        )
        parent = self.ids['plain'] if name == 'follower' else 'NULL'
        self.sql(
            'INSERT INTO job (description, command, retries, retry_delay, after_job) '
            "VALUES ('%s', '%s', %d, 0, %s)" % (name, command, retries, parent)
        )
        return self.sql("SELECT id FROM job WHERE description = '%s'" % name)[0][0]

    def settings(self, boot=0, **constants):
        return {
            'script': self.script,
            'minute': MINUTE,
            'margin': MARGIN,
            'set': {'OTHERS_FIRST': 0.1, **constants},
            'boot': boot,
            'driver': {'mysql': 'pymysql', 'postgresql': 'psycopg'}.get(
                self.server and self.server.engine
            ),
        }

    def command(self, settings, arguments):
        return [
            sys.executable,
            os.path.join(HERE, 'victim.py'),
            json.dumps(settings),
            '--config',
            self.file,
            '--name',
            'host',
            *arguments,
        ]

    def environment(self):
        return dict(os.environ, FAULTS_HOST=self.folder, TZ='UTC')

    def run(self, arguments, **settings):
        """The program, to its end; returns what it wrote to stderr."""
        done = subprocess.run(
            self.command(self.settings(**settings), arguments),
            env=self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=60,
        )
        errors = done.stderr.decode('utf-8', 'replace')
        return errors + 'exit %d\n' % done.returncode if done.returncode else errors

    def processes(self, *marks):
        """All of this host that live, and have marks in their environment."""
        found, marks = set(), {b'FAULTS_HOST=' + self.folder.encode(), *marks}
        for name in filter(str.isdigit, os.listdir('/proc')):
            with contextlib.suppress(OSError):
                with open('/proc/%s/environ' % name, 'rb') as file:
                    if marks <= set(file.read().split(b'\0')):
                        found.add(int(name))
        return found - {os.getpid()}

    def kill_all(self):
        while found := self.processes():
            for process in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    def trace(self, case=None):
        """Run a worker under the tracer. Returns what the tracer saw."""
        result = os.path.join(self.folder, 'traced')
        child = os.fork()
        if not child:
            signal.alarm(60)
            try:
                traced = self.traced(case)
                with open(result, 'w') as file:
                    json.dump(traced, file)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        with open(result) as file:
            traced = json.load(file)
        os.unlink(result)
        return traced

    def traced(self, case):
        """The same, in a process of its own."""
        ready, is_ready = os.pipe()
        is_going, go = os.pipe()
        settings = {**self.settings(), 'ready': is_ready, 'go': is_going}
        with open(os.path.join(self.folder, 'stderr'), 'wb') as errors:
            worker = subprocess.Popen(
                self.command(settings, ['run']),
                env=self.environment(),
                pass_fds=[is_ready, is_going],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            ).pid
        os.read(ready, 1)
        os.makedirs(self.state, exist_ok=True)
        os.rmdir(self.state)
        point, phase, victim = None, 'before', 'process'
        if case:
            point, phase, victim = case[:3], case.phase, case.victim
        tracer = Tracer(worker, self.state, point, phase, victim)
        ptrace(SEIZE, worker, 0, OPTIONS)
        ptrace(INTERRUPT, worker)
        os.write(go, b'.')
        tracer.run()
        if victim != 'process' and tracer.killed:
            self.kill_all()
        tracer.release()
        return {
            'points': tracer.points,
            'worker': worker,
            'killed': tracer.killed,
            'runner': tracer.runner,
            'tokens': {name: sorted(has) for name, has in tracer.tokens.items()},
            'claims': tracer.claims,
            'synced': tracer.synced,
            'removed': tracer.removed,
        }

    def lose(self, traced):
        """Leave of the claims' files only what was on the disk."""
        for name in os.listdir(self.state) if os.path.isdir(self.state) else ():
            path = os.path.join(self.state, name)
            if re.fullmatch('[0-9a-f]{32}', name):
                size = traced['synced'].get(path, 0)
                os.truncate(path, size) if size else os.unlink(path)
        for path, copy in traced['removed'].items():
            if os.path.getsize(copy):
                os.rename(copy, path)

    # What it did, and what came of it.

    def experiment(self, case):
        """Do all anew, with a death. Returns (what the tracer saw, finds)."""
        self.reset()
        traced = self.trace(case)
        finds = []
        if not traced['killed'] and case.count:
            return traced, None
        before = {(run.job, run.run_no): run for run in self.runs()}
        boot = 0
        if case.victim != 'process' and traced['killed']:
            boot = time.clock_gettime(time.CLOCK_BOOTTIME) - BOOTING
        if case.victim == 'disk':
            self.lose(traced)
            traced['claims'] = claims_in(self.state)
        self.wait_for_worker(finds)
        said = self.rest(boot, finds)
        finds += Judge(self, case, traced, before, said).finds()
        self.kill_all()
        return traced, finds

    def wait_for_worker(self, finds):
        """Wait until a worker whose runner was killed has left."""
        with open(os.path.join(self.folder, 'stderr'), errors='replace') as file:
            errors = file.read()
        limit = time.monotonic() + 30
        while self.workers():
            if time.monotonic() > limit:
                finds.append('the first worker does not leave')
                return
            self.look_at_lost(finds)
            time.sleep(0.05)
        if errors:
            finds.append('the first worker said: ' + errors)

    def look_at_lost(self, finds):
        """While runs are recorded as lost: nothing of them may be there any more."""
        rows = self.sql(
            "SELECT job_id, run_no FROM run WHERE status LIKE 'ERROR: lost%'"
        )
        for row in rows:
            marks = [
                b'DISTRIBUTED_CRON_JOB_ID=%d' % row[0],
                b'DISTRIBUTED_CRON_RUN_NO=%d' % row[1],
            ]
            text = 'job %d run %d is recorded as lost, and goes on' % tuple(row)
            if text not in finds and self.processes(*marks):
                finds.append(text)

    def workers(self):
        """Whether a worker holds the lock."""
        path = os.path.join(self.state, 'worker.lock')
        if not os.path.exists(path):
            return False
        with open(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def rest(self, boot, finds):
        """Start the host's next workers, as cron does, until all is at rest. Returns what
        they wrote to stderr."""
        said = ''
        for _ in range(PASSES):
            said += self.run(['run'], boot=boot)
            busy = self.sql('SELECT 1 FROM job WHERE run_token IS NOT NULL')
            if not busy:
                break
            time.sleep(1.5)
        else:
            finds.append('jobs still run')
        # What may still land is kept for an hour; nothing of it is in the database.
        if set(os.listdir(self.state)) - LEFT:
            said += self.run(['run'], boot=boot, OPEN_CLAIM=0)
        return said

    def runs(self):
        """The history, as Runs."""
        names = {number: name for name, number in self.ids.items()}
        rows = self.sql(
            'SELECT job_id, run_no, status, attempt, started_at, worker FROM run '
            "WHERE status NOT LIKE 'SKIPPED%' ORDER BY job_id, run_no"
        )
        return [Run(names[row[0]], *row[1:]) for row in rows]

    def evidence(self):
        """What the commands wrote: {(name of a job, run_no): [[line, …], …]}."""
        names = {str(number): name for name, number in self.ids.items()}
        found = defaultdict(list)
        for path in glob.glob(os.path.join(self.folder, 'evidence', '*.*.*')):
            job, run_no, _ = os.path.basename(path).split('.')
            with open(path) as file:
                found[names[job], int(run_no)].append(file.read().splitlines())
        return dict(found)


# ------------------------------------------------------------------------ all points


def serve(place, tasks, results):
    """A process of its own: does experiments until there are no more."""
    for case in iter(tasks.get, None):
        try:
            results.put((case, *place.experiment(case)))
        except Exception as error:
            results.put((case, None, ['the harness failed: %r' % error]))


def cases_of(points, known, every):
    """The Cases of points that are not known yet."""
    for role, what, count, is_quiet in points:
        if (role, what, count) in known:
            continue
        known.add((role, what, count))
        if what != 'exit':
            yield Case(role, what, count, 'after', 'process')
        if not is_quiet:
            yield Case(role, what, count, 'before', 'process')
        repeats = is_quiet and count > 1 and what.startswith('pwrite')
        if (every or not repeats) and what != 'exit':
            yield Case(role, what, count, 'after', 'disk')
        if every or not is_quiet:
            yield Case(role, what, count, 'before', 'host')


class Round:
    """All experiments on one database."""

    def __init__(self, places, options):
        self.places = places
        self.options = options
        self.known = set()  # points
        self.waiting = []  # Cases
        self.done = Counter()
        self.missed = Counter()  # Case -> how often its point did not come
        self.found = []
        context = multiprocessing.get_context('fork')
        self.tasks, self.results = context.Queue(), context.Queue()
        self.slots = [
            context.Process(target=serve, args=(place, self.tasks, self.results))
            for place in places
        ]

    def run(self):
        for _ in range(3):  # no two runs are quite alike
            case = Case('', '', 0, 'before', 'process')
            traced, finds = self.places[0].experiment(case)
            if finds:
                print('undisturbed: %s' % finds)
                self.found.append((case, finds))
                return
            self.learn(traced)
        for slot in self.slots:
            slot.start()
        self.choose()
        running = 0
        while self.waiting or running:
            while self.waiting and running < 2 * len(self.slots):
                self.tasks.put(self.waiting.pop())
                running += 1
            self.take(*self.results.get())
            running -= 1
        for _ in self.slots:
            self.tasks.put(None)
        for slot in self.slots:
            slot.join()

    def learn(self, traced):
        self.waiting += cases_of(traced['points'], self.known, self.options.every)

    def choose(self):
        """The order, and which, by the seed."""
        options = self.options
        self.waiting = [
            case
            for case in self.waiting
            if not options.only or re.search(options.only, text_of(case))
        ]
        options.random.shuffle(self.waiting)
        if options.sample:
            del self.waiting[options.sample :]

    def take(self, case, traced, finds):
        if finds is None:  # this time its point did not come
            self.missed[case] += 1
            if self.missed[case] < 3:
                self.waiting.insert(0, case)
            return
        self.missed.pop(case, None)
        self.done[case.victim] += 1
        if self.options.verbose or finds:
            print('%s%s' % (text_of(case), ''.join('\n    ' + find for find in finds)))
            sys.stdout.flush()
        if finds:
            self.found.append((case, finds))
        if traced and not (self.options.sample or self.options.only):
            self.learn(traced)


def text_of(case):
    whom = {'process': case.role, 'host': 'host', 'disk': 'host and disk'}[case.victim]
    return 'kill %s %s %s: %s #%d' % (
        whom.replace("'s child", ''),
        case.phase,
        case.role,
        case.what,
        case.count,
    )


@contextlib.contextmanager
def server_of(database, folder, count):
    """A server with so many databases; None for SQLite."""
    if database == 'sqlite':
        yield None
        return
    folder = os.path.join(folder, 'server')
    os.makedirs(folder)
    server = {'mariadb': MariaDB, 'postgresql': PostgreSQL}[database](folder).start()
    try:
        server.make_account('dc0')
        for number in range(1, count):
            more = 'CREATE DATABASE dc%d' % number
            if database == 'mariadb':
                server.settings(more, 'GRANT ALL ON dc%d.* TO dc' % number)
            else:
                server.settings(more + ' OWNER dc')
        yield server
    finally:
        server.discard()


def main():
    options = parser().parse_args()
    options.random = random.Random(options.seed)
    problem = why_not()
    if problem:
        print('not done: ' + problem)
        return 0
    print('--database %s --seed %d' % (options.database, options.seed), flush=True)
    began = time.monotonic()
    with open_folder('points-') as folder:
        with server_of(options.database, folder, options.places) as server:
            places = [
                Place(server, folder, number, options.script)
                for number in range(options.places)
            ]
            all_points = Round(places, options)
            try:
                all_points.run()
            finally:
                for place in places:
                    place.kill_all()
    return report(all_points, time.monotonic() - began)


def report(done, seconds):
    """Print what was done; returns the exit status."""
    print(
        '%d points, %d deaths (%s) in %d s; %d did not come in three runs'
        % (
            len(done.known),
            sum(done.done.values()),
            ', '.join('%s %d' % pair for pair in sorted(done.done.items())),
            seconds,
            len(done.missed),
        )
    )
    for case in done.missed:
        print('did not come: ' + text_of(case))
    if done.found:
        print('%d FINDS' % len(done.found))
        return 1
    print('nothing lost, nothing twice, nothing left over')
    return 0


def parser():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument(
        '--database', default='sqlite', choices=['sqlite', 'mariadb', 'postgresql']
    )
    parser.add_argument('--sample', type=int, help='so many deaths, drawn by the seed')
    parser.add_argument(
        '--seed', type=int, default=random.SystemRandom().randrange(10**6)
    )
    parser.add_argument('--only', metavar='TEXT', help='those deaths that it matches')
    parser.add_argument(
        '--every', action='store_true', help='all victims at all points'
    )
    parser.add_argument('--places', type=int, default=6, help='so many at a time')
    parser.add_argument('--script', default=SCRIPT, help='another program')
    parser.add_argument('--verbose', action='store_true', help='print each death')
    return parser


if __name__ == '__main__':
    sys.exit(main())
