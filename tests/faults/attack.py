"""An attack: a cluster at work, faults, and the verdict over what was seen."""

import contextlib
import glob
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from datetime import datetime, timezone

from faults import checker, features
from faults.cluster import (
    CHILDREN,
    HERE,
    PRIVILEGES,
    Cluster,
    is_refusal,
    now,
)
from faults.nemesis import FAULTS
from servers import open_folder, wait_until, within

# What a command takes at most, in seconds, if it does not hang: a run starts as long as half of
# its short minute is left, so it has two.
SLOWEST = 1.5
YEAR = 525600  # minutes: a job that is due once
# What is done to hosts while some run version 1.0: what it promises nothing of is not.
UPGRADE = ['other-version'] * 4 + [
    'kill-worker',
    'kill-runner',
    'kill-both',
    'kill-host',
    'lose-host',
]


class Attack:
    """Jobs on a cluster while faults come and go. Afterwards `verdict`."""

    def __init__(self, cluster, seed, say=print, rate=4):
        self.cluster, self.say, self.rate = cluster, say, rate
        self.random = random.Random(seed)
        self.jobs, self.faults, self.failures = {}, [], []
        self.is_mixed = False
        self.slow, self.settled = [], threading.Event()
        threading.Thread(target=self.watch_machine, daemon=True).start()
        self.lock, self.loading = threading.Lock(), threading.Event()
        self.folder = tempfile.mkdtemp(dir=cluster.folder, prefix='runs-')
        self.first = self.next = 1 + (
            cluster.query('SELECT MAX(id) FROM job WHERE id < ?', CHILDREN)[0][0] or 0
        )
        self.pauses = []
        self.templates = {}  # what its jobs write: (run_on, since, id)
        self.children = features.Children(self)
        self.numbers = iter(range(100 + 100 * len(os.listdir(cluster.folder)), 10**9))

    def fail(self, text):
        self.failures.append(text)

    def next_host(self):
        return next(self.numbers)

    # Jobs

    def next_job(self):
        with self.lock:
            job, self.next = self.next, self.next + 1
        return job

    def command(self, seconds, code, fails=99, template=0):
        values = HERE, self.folder, seconds, code, fails, template
        return '%s/command.sh %s %s %d %d %d' % values

    @staticmethod
    def wall():
        return wall()

    @staticmethod
    def whole(when):
        """The next whole second of the wall clock."""
        return (when + wall()) // 1 + 1 - wall()

    @staticmethod
    def utc(when):
        return utc_of(when)

    def add_job(
        self,
        seconds=1.0,
        code=0,
        kind='once',
        active=1,
        due=None,
        minutes=1,
        columns=None,
        facts=None,
    ):
        """One row by a plain INSERT; returns its id. due: when, on the clock of now().
        columns: more of the row. facts: more of the checker's Job."""
        facts = facts or {}
        job = self.next_job()
        begin, hangs = now(), seconds > SLOWEST and minutes == 1
        limit = self.cluster.deadline + (minutes - 1) * self.cluster.minute
        frequency = {'every': 1, 'minute': 60}.get(kind, YEAR)
        row = {
            'id': job,
            'description': kind,
            'command': self.command(seconds, code, facts.get('fails', 99)),
            'frequency': frequency,
            'max_run_time': minutes,
            'schedule': '* * * * *' if kind == 'minute' else None,
            'active': active,
            'next_run_utc': due and utc_of(due),
            **(columns or {}),
        }
        try:
            self.insert(row)
        except Exception as error:
            if not is_refusal(error):  # it was there already: a cut COMMIT had landed
                raise
        made = checker.Job(
            job, kind, [due or begin], limit=limit, code=code, hangs=hangs
        )
        self.jobs[job] = made._replace(**facts)
        return job

    def insert(self, row):
        text = 'INSERT INTO job (%s) VALUES (%s)'
        self.cluster.query(
            text % (', '.join(row), ', '.join('?' * len(row))), *row.values()
        )

    def add_template(self, word):
        """A job on each host that has the word; None: on all. Returns its id."""
        job = self.next_job()
        row = {
            'id': job,
            'description': 'each',
            'command': self.command(0.3, 0, template=job),
            'schedule': '* * * * *',
            'run_on': word,
            'each_host': 1,
        }
        self.insert(row)
        self.templates[job] = word, now(), job
        return job

    def add_jobs(self, count, kind='once'):
        for _ in range(count):
            self.add_job(round(self.random.uniform(0.05, SLOWEST), 2), kind=kind)

    def load(self):
        """Add jobs that run once, some a second, until told to stop."""
        chance = random.Random(self.random.random())
        try:
            while not self.loading.wait(chance.expovariate(self.rate)):
                hangs, fails = chance.random() < 0.06, chance.random() < 0.1
                seconds = round(chance.uniform(0.05, SLOWEST), 2)
                self.add_job(300 if hangs else seconds, 3 if fails else 0)
                if chance.random() < 0.4 and not self.cluster.old_script:
                    features.some(self, chance)
                if chance.random() < 0.5 / self.rate:  # all wake at the same moment
                    due = (now() + wall()) // 1 + 3 - wall()
                    for _ in range(10):
                        self.add_job(round(chance.uniform(0.05, 1), 2), due=due)
        except Exception as error:
            self.fail('the load: %r' % error)

    @contextlib.contextmanager
    def loaded(self):
        thread = threading.Thread(target=self.load)
        self.loading.clear()
        thread.start()
        try:
            yield
        finally:
            self.loading.set()
            thread.join()

    def watch_machine(self):
        """Note when a shell takes some thirty times as long to start as it should."""
        while not self.settled.wait(0.5):
            begin = now()
            subprocess.run(['/bin/sh', '-c', ':'])
            took = now() - begin
            if took > 0.1:
                self.slow.append(
                    checker.Fault(checker.SLOW, [], begin, now(), now() + 5 + 20 * took)
                )

    def has_started(self, job):
        return bool(glob.glob('%s/%d.[0-9]*' % (self.folder, job)))

    def has_ended(self, job):
        return any(
            open(path).read().count('end')
            for path in glob.glob('%s/%d.[0-9]*' % (self.folder, job))
        )

    # Hosts and nodes

    def drain(self, host):
        """Have a host leave, and remove it."""
        self.leave_clean(host)
        self.look_at_errors(host)
        host.close()

    def leave_clean(self, host):
        """Have a host leave. A drain does not wait for the database: what waits for the
        host's next worker gets one."""
        limit = now() + 90
        while self.leave(host) and now() < limit:
            time.sleep(1)
            host.start_again()

    def leave(self, host):
        """End a worker in good order; whether it left results behind."""
        log = os.path.join(host.folder, 'stderr')
        before = os.path.getsize(log)
        host.worker.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            host.worker.wait(self.cluster.deadline + 10)
        if host.worker.poll() not in (0, 1):
            self.fail('%s left with %s' % (host.label, host.worker.poll()))
        with open(log, errors='replace') as file:
            file.seek(before)
            return "this host's next worker" in file.read()

    def busy_host(self):
        """A host on which something runs."""
        hosts = self.cluster.hosts
        return wait_until(
            lambda: next(
                (
                    host
                    for host in self.random.sample(hosts, len(hosts))
                    if host.runners()
                ),
                None,
            ),
            10,
            'a run on any host',
        )

    def look_at_errors(self, host):
        with open(os.path.join(host.folder, 'stderr'), errors='replace') as file:
            text = file.read()
        if 'Traceback' in text:
            self.fail('%s: %s' % (host.label, text[-2000:]))
        if os.environ.get('FAULTS_SHOW'):
            self.say('%s says:\n%s' % (host.label, text[-3000:]))

    def node_in_use(self):
        """The server to which most connections go."""
        links = Counter()
        for host in self.cluster.hosts:
            for server, proxy in zip(self.cluster.servers, host.proxies):
                links[server] += len(proxy.links)
        return links.most_common(1)[0][0]

    # Faults

    def fault(self, name, host=None):
        host = host or self.random.choice(self.cluster.hosts)
        return FAULTS[name](self, host, random.Random(self.random.random()))

    def inflict(self, fault, length=None, has_bitten=None):
        """One fault, from its start until it is healed. has_bitten: it lasts until then."""
        length = fault.length() if length is None else length
        what = '%s%s' % (fault.name, ' ' + fault.host.label * (fault.of == 'host'))
        self.say('%8.2f %s for %.1f s' % (now(), what, length))
        fault.inflict(length)
        time.sleep(length)
        if has_bitten:
            within(has_bitten, 20)
        self.faults.append(fault.end())
        self.say('%8.2f %s is healed' % (now(), what))

    def alone(self, name, length=None):
        """One fault alone, under load."""
        if FAULTS[name].mounts and not PRIVILEGES['own mounts']:
            self.say('not done: %s needs mounts, which root may have' % name)
            return self.settle()
        with self.loaded() if FAULTS[name].loaded else contextlib.nullcontext():
            time.sleep(1.5)
            fault = self.fault(
                name,
                self.cluster.hosts[-1]
                if name == 'cut-off'
                else FAULTS[name].loaded and self.busy_host(),
            )
            before = self.complaints()

            def has_bitten():
                return self.complaints() > before

            # On a full disk a claim may take the room of the one that was just removed.
            self.inflict(fault, length, has_bitten if fault.bites else None)
            # A worker that sleeps learns of it at its next poll.
            if fault.bites and not within(has_bitten, 5):
                self.fail('%s did not bite' % name)
            time.sleep(1.5)
        self.settle()

    def complaints(self):
        """How much the workers have complained."""
        return sum(
            os.path.getsize(os.path.join(host.folder, 'stderr'))
            for host in self.cluster.hosts
        )

    def mixed(self, seconds):
        """Faults of hosts, of the database and of the table at random, side by side."""
        end, self.is_mixed = now() + seconds, True
        self.add_jobs(20, 'minute')
        self.add_jobs(10, 'every')
        done = threading.Event()
        if not self.cluster.old_script:
            features.planned(self, random.Random(self.random.random()), seconds)
            threading.Thread(
                target=self.children.watch, args=[done], daemon=True
            ).start()
        threads = [
            threading.Thread(
                target=self.nemesis,
                args=(names, end - 15, random.Random(self.random.random())),
            )
            for names in self.names_to_draw_from()
        ]
        with self.loaded():
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            time.sleep(max(0, end - now()))
        done.set()
        self.settle()

    def names_to_draw_from(self):
        """Names of faults: a list for each thread that inflicts them."""
        if self.cluster.old_script:
            return [UPGRADE]
        return [
            [
                name
                for name, fault in FAULTS.items()
                if fault.mixed
                and fault.of in of
                and fault.mounts <= PRIVILEGES['own mounts']
                and self.cluster.database in fault.databases
            ]
            for of in ('host', 'database node', 'table')
        ]

    def nemesis(self, names, end, chance):
        try:
            while True:
                time.sleep(chance.uniform(2, 12) * (1 if len(names) > 2 else 3))
                fault = FAULTS[chance.choice(names)](
                    self, chance.choice(self.cluster.hosts), chance
                )
                length = fault.length()
                if now() + length > end:
                    return
                self.inflict(fault, length)
        except Exception as error:
            self.fail('the nemesis: %r' % error)

    # The end

    def settle(self):
        """Wait until all that was due has run and is recorded."""
        self.stop_ticks()
        limit = now() + 2 * self.cluster.deadline + 60
        due = max((due for job in self.jobs.values() for due in job.due[:1]), default=0)
        while now() < limit:
            if now() > due + 1 and not self.unsettled():
                self.end = now()
                time.sleep(0.3)
                return
            time.sleep(0.3)
        self.end = now()
        self.fail('not settled: %s' % self.unsettled()[:5])

    def unsettled(self):
        return self.cluster.query(
            "SELECT id, run_no, run_token, next_run_utc, last_status, last_worker FROM job "
            "WHERE id >= ? AND (run_token IS NOT NULL OR active = 1 AND "
            "description <> 'maybe' AND each_host = 0 AND (attempt > 0 OR "
            "followers_due IS NOT NULL OR next_run_utc IS NULL OR next_run_utc <= %s))"
            % features.UTC[self.cluster.servers[0].engine],
            self.first,
        )

    def stop_ticks(self):
        """Disable the jobs that would go on, and work out when they were due."""
        self.cluster.query(
            'UPDATE job SET active = 0 '
            "WHERE description NOT IN ('once', 'after') AND id >= ?",
            self.first,
        )
        until = now()
        if self.templates:
            self.children.look()
            self.jobs.update((job.id, job) for job in self.children.jobs())
        for id, job in list(self.jobs.items()):
            if job.kind == 'minute':
                # It is planned by the first poll that sees it, from then on.
                first = (job.due[0] + checker.LATE + wall()) // 60 * 60 + 60 - wall()
                due = [first + 60 * n for n in range(int((until - first) // 60) + 1)]
                job = job._replace(due=due)
            if job.kind not in ('once', 'after'):
                self.jobs[id] = job._replace(until=min(until, job.until))

    def verdict(self):
        """What the checker finds, in lines; and says what was done."""
        self.settled.set()
        runs, records = self.read_runs(), self.read_records()
        names = [host.name for host in self.cluster.hosts]
        finds, costs = checker.check(
            self.jobs.values(),
            runs,
            records,
            self.faults + self.slow,
            names,
            self.end,
            self.pauses,
            self.cluster.words,
        )
        self.failures += self.children.missing(runs, self.end)
        if os.environ.get('FAULTS_SHOW'):
            for cost in costs:
                self.say('explained: %s: job %s run %s: %s' % cost)
        for host in self.cluster.hosts:
            self.look_at_errors(host)
            if host.worker.poll() is not None:
                self.fail(
                    '%s: its worker left with %s' % (host.name, host.worker.poll())
                )
            left = host.processes() - {host.worker.pid}
            if left:
                self.fail('%s: processes are left: %s' % (host.name, sorted(left)))
        self.say(
            '%d jobs, %d runs, %d records, %d faults; explained by them: %s'
            % (
                len(self.jobs),
                len(runs),
                len(records),
                len(self.faults),
                ', '.join(
                    '%d %s' % (count, kind)
                    for kind, count in sorted(
                        Counter(cost.kind for cost in costs).items()
                    )
                )
                or 'nothing',
            )
        )
        self.say_notes(records)
        if self.slow:
            self.say(
                '%d times the machine was too busy: some starts may be late'
                % len(self.slow)
            )
        lines = self.failures + ['%s: job %s run %s: %s' % find for find in finds]
        for fault in self.faults:
            if fault.kind == 'failover-that-loses-claims' and not {
                'duplicate',
                'overlap',
            } & {cost.kind for cost in costs}:
                lines.append('no claim was lost by the failover')
        for line in lines:
            self.say(line)
        self.say(
            '%d finds' % len(lines)
            if lines
            else 'nothing lost, no duplicate, no overlap, no run without its record'
        )
        return lines

    def say_notes(self, records):
        """How many late starts are explained; with FAULTS_SHOW, how."""
        noted = [record for record in records if record.note]
        unknown = sum('late: unknown' in record.note for record in noted)
        self.say('%d late starts have a note, %d times unknown' % (len(noted), unknown))
        for record in noted if os.environ.get('FAULTS_SHOW') else ():
            self.say('note: job %s: %s' % (record.job, record.note))

    def read_runs(self):
        runs = []
        for name in os.listdir(self.folder):
            if name.endswith('.lock'):
                continue
            with open(os.path.join(self.folder, name)) as file:
                lines = [line.split() for line in file.read().splitlines()]
            job, number = map(int, name.split('.')[:2])
            if not lines:  # killed between creation and writing
                lines = [
                    f'start {os.path.getmtime(file.name) - wall()} 1 - 0 - - 0'.split()
                ]
            _, start, alone, host, attempt, due, place, template = lines[0]
            run = checker.Run(
                job,
                number,
                host,
                float(start),
                busy=alone == '0',
                attempt=int(attempt),
                due=None if due == '-' else seconds_of(due) - wall(),
                place=place,
                template=int(template),
            )
            if len(lines) > 1:
                run = run._replace(end=float(lines[1][1]), code=int(lines[1][2]))
            runs.append(run)
        return runs

    def read_records(self):
        rows = self.cluster.query(
            'SELECT job_id, run_no, worker, status, started_at, due_utc, attempt, note '
            'FROM run WHERE job_id >= ?',
            self.first,
        )
        return [
            checker.Record(
                job,
                number,
                worker.rpartition('-')[0],
                status,
                started and seconds_of(started) - wall(),
                due and seconds_of(due) - wall(),
                attempt,
                note,
            )
            for job, number, worker, status, started, due, attempt, note in rows
        ]


def wall():
    """What is to be added to now() for the seconds since 1970."""
    return time.time() - now()


def utc_of(when):
    return datetime.fromtimestamp(round(when + wall()), timezone.utc).strftime(
        '%Y-%m-%d %H:%M:%S'
    )


def seconds_of(when):
    """A time of the history, which is UTC here, as seconds since 1970."""
    return datetime.fromisoformat(str(when)).replace(tzinfo=timezone.utc).timestamp()


@contextlib.contextmanager
def cluster_of(database, at_work=True, **how):
    """A cluster whose hosts are at work, in a folder of its own."""
    os.environ['TZ'] = 'UTC'
    time.tzset()
    with open_folder('faults-') as folder:
        cluster = Cluster(database, folder, **how)
        try:
            for host in cluster.hosts if at_work else ():
                host.start()
            yield cluster
        finally:
            cluster.close()


def end_by_signals():
    """A SIGTERM ends the harness as Ctrl-C does: its processes end with it."""

    def stop(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
