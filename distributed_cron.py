#!/usr/bin/env python3
"""Cron for several machines: one script, with a SQL database as all that they share.

Every host runs this script, each minute from its crontab or as a loop (--forever).
Each copy, a worker, takes due jobs from the table `job`, runs them, and writes back
how they ended. Any host can run any job; a job never runs twice at once.

Exact behaviour
 1. A job is due when next_run_utc has come by the database's clock. No host's clock
    decides anything. Windows and cron expressions are in the database's time zone.
 2. A frequency job runs `frequency` minutes after its last start, and at once when it
    never ran. A job with a `schedule` runs when the cron expression says so.
 3. A window is [start_anchor, stop_anchor). One anchor alone means until, or from,
    midnight; a start after the stop crosses midnight. Outside it no run starts.
 4. One run of a job at a time. A worker claims it by one conditional UPDATE that sets
    a fresh token; who does not find its token in the row does not run it.
 5. A run that takes longer than max_run_time, counted from its claim, is ended with
    all that it started: SIGTERM, and SIGKILL after kill_grace seconds.
 6. A run has a deadline, max_run_time + kill_grace + 20 seconds after its claim. Its
    host has ended it by then, with or without worker and database. Past it, any worker
    records it as lost, and the job goes on. A job that was claimed and not started is
    given back: it is due again at once.
 7. Missed while nobody was up: run once, late, if the window allows. Missed because
    the last run still ran: not made up for.
 8. The command's exit status counts: 0 is 'Success', all else 'ERROR: …'. The run ends
    when the command itself ends; what it left in the background goes on.
 9. Daylight saving: a time that is skipped runs once, at the jump; one that comes
    twice runs the first time. Expressions whose hour begins with * go on by elapsed
    time. (Debian's cron does the same.)
10. Whoever edits a job wins over what was computed from the row as it was before. A
    run that goes on keeps the command that it began with.
11. A worker may die at any moment: its runners go on, and the next worker on the host
    reports what they wrote into the state folder. So may the database.
"""
import fcntl
import json
import os
import random
import re
import select
import selectors
import signal
import sys
import time
from collections import deque, namedtuple
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import lru_cache

VERSION = '1.0'
HERE = os.path.dirname(os.path.abspath(__file__))
SECOND, MINUTE, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)
PARKED = datetime(9999, 12, 31)  # next_run_utc of a job that never comes due
CLAIM_SIZE = 64  # runs that one claim takes, and one runner holds, at most
MARGIN = 20  # seconds from the last SIGKILL of a run to its deadline
STAY = 5  # a worker of the crontab stays for what is due within these seconds
OPEN_CLAIM = 3600  # seconds in which a claim whose answer was lost may still land


class Problem(Exception):
    """What a person can cause or mend: one line that says what to do."""


class BadConfig(Problem):
    """The command line or the configuration is wrong (exit status 2)."""


class Away(Problem):
    """The database can't be used now; connect again, to the next host of the list."""


class Again(Problem):
    """The statement lost against another one (deadlock, lock wait): repeat the step."""


class BadData(Problem):
    """The database refuses a row for what is in it."""


# --------------------------------------------------------------------------- worker

def work(config, forever=False):
    """Run what is due; returns the exit status.

    From the crontab: until nothing runs and nothing falls due within 5 seconds. With
    forever: until SIGTERM. A second worker on a host logs 'Already running', returns 0.
    """
    worker = Worker(config, forever)
    if not worker.state.lock():
        worker.log.line('Already running.')
        return 0
    worker.log.line('worker starts: version %s, %d slots' % (VERSION, config.max_tasks))
    status = worker.loop()
    worker.log.line('worker leaves')
    return status


class Worker:
    """The process that claims, forks and reports. All that it must not forget is in
    the state folder; what it holds in memory is a copy."""

    def __init__(self, config, forever):
        self.forever = forever
        self.claims = {}  # token -> the jobs of it that have not been reported
        self.open = {}  # token of which more rows may turn up -> seconds to wait
        self.endings = {}  # (token, job id) -> Ending, to be reported
        self.dying = {}  # (token, job id) -> when the SIGTERM was sent (boottime)
        self.runners = {}  # process id -> token
        self.woken = set()  # tokens to look at
        self.signals = []  # numbers of signals that came; the handler only appends
        self.stopping = self.misses = self.failures = 0
        self.next_scan = self.next_mine = 0
        self.seen = None
        self.configure(config)
        self.state = State(config)

    def configure(self, config):
        """Take a configuration, at the start or on SIGHUP."""
        self.config = config
        self.name = '%s-%d' % (config.name, os.getpid())
        self.log = Log(config.worker_log, self.name, config.log_max_bytes)
        self.store = Store(config)
        self.next_hello = 0

    def loop(self):
        """Turn after turn until there is nothing to do; returns the exit status."""
        self.listen()
        while True:
            try:
                pause = self.turn()
            except Problem as problem:
                pause = self.back_off(problem)
            except OSError as error:
                pause = self.back_off(Problem('%s: %s' % (
                    error.filename or 'operating system', error.strerror)))
            if self.stopping >= 2:
                self.complain('left at once: %d runs go on, the next worker on this '
                              'host reports them' % self.running())
                return 0
            if pause and self.finished():  # without a pause there is more to do
                return 1 if self.failures else 0
            self.sleep(pause)

    def turn(self):
        """One round of the steps; returns the seconds to sleep after it."""
        self.obey_signals()
        self.settle()
        self.store.connect()
        self.end()
        seen = self.seen = self.store.look()
        self.look_after_mine()
        self.hello()
        if seen.overdue:
            self.recover()
        moved = self.store.plan(seen.now) if seen.unplanned else 0
        if seen.due_in <= 0 and self.free_slots() > 0:
            moved += self.start_due()
        self.failures = 0
        if moved:
            self.misses = 0
            return 0
        return self.pause(seen)

    def pause(self, seen):
        """Seconds until the next turn: the next due job or poll_seconds."""
        wait = self.config.poll_seconds
        if self.dying:
            wait = min(wait, 0.1)
        if self.free_slots() <= 0:
            return wait
        if seen.due_in > 0:
            self.misses = 0
            return min(wait, seen.due_in + 0.001)
        # Due, but others were faster or the row can't be had: never a busy loop.
        self.misses += 1
        return min(wait, 0.01 * 2 ** min(self.misses, 9) * random.uniform(0.5, 1))

    def back_off(self, problem):
        """Say what is wrong, once; returns the seconds until the next try."""
        if isinstance(problem, Again):
            return random.uniform(0.005, 0.1)
        self.store.close()
        if not self.failures or self.failures & (self.failures - 1) == 0:
            self.complain(str(problem))
        self.failures += 1
        ceiling = min(5, 0.25 * 2 ** min(self.failures, 6))
        return ceiling * random.uniform(0.5, 1)

    def finished(self):
        """Whether the worker may leave."""
        if self.dying or any(jobs or not self.open.get(token)
                             for token, jobs in self.claims.items()):
            # A drain does not wait for the database: the next worker reports.
            return self.stopping and self.failures and not self.running()
        if self.stopping:
            return True
        if self.forever:
            return False
        return bool(self.failures) or (self.seen and self.seen.due_in > STAY)

    def running(self):
        """The number of runs that have not ended."""
        return sum(map(len, self.claims.values())) - len(self.endings)

    def free_slots(self):
        """How many more runs may start now."""
        return 0 if self.stopping else self.config.max_tasks - self.running()

    def complain(self, text):
        """Into the worker's log, and to stderr: cron mails it, systemd keeps it."""
        self.log.line(text)
        print('distributed_cron: %s' % text, file=sys.stderr, flush=True)

    def listen(self):
        """Have signals and runners wake the select in sleep()."""
        self.wakeup, waker = os.pipe()
        for end in (self.wakeup, waker):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda number, _: self.signals.append(number))

    def sleep(self, seconds):
        """Sleep, or until a signal comes or a runner has written a result."""
        if self.signals:
            return
        fifo = self.state.fifo
        for ready in select.select([self.wakeup, fifo], [], [], max(0, seconds))[0]:
            data = os.read(ready, 65536)
            if ready == fifo:
                self.woken.update(data.decode('ascii', 'replace').split())

    def obey_signals(self):
        """Do what the signals since the last turn ask for."""
        while self.signals:
            number = self.signals.pop(0)
            if number == signal.SIGHUP:
                self.reload()
            elif number != signal.SIGCHLD:
                self.stopping += 1
                self.log.line('%s: drain, %d runs go on' % (
                    signal.Signals(number).name, self.running()))
        while self.runners:
            process = os.waitpid(-1, os.WNOHANG)[0]
            if not process:
                break
            self.woken.add(self.runners.pop(process, None))

    def reload(self):
        """SIGHUP: read the configuration again; a bad one changes nothing."""
        try:
            config = load_config(self.config.file, self.config.name)
            if config.state_location != self.config.state_location:
                raise BadConfig('%s: state.location: can change at a restart only'
                                % config.file)
        except Problem as problem:
            self.complain('%s; the old configuration stays' % problem)
            return
        self.store.close()
        self.configure(config)
        self.log.line('configuration read again')

    # The steps in the life of a run, in order. Those that are one statement or one
    # transaction stand in Store under the same name.

    def start_due(self):
        """find, claim, collect, start: returns the number of runs started."""
        jobs = self.store.find(self.free_slots())
        if not jobs:  # due by time, but for the window or a Perl worker's run
            self.store.plan(self.seen.now, due=True)
            return 0
        token = '%032x' % random.SystemRandom().getrandbits(128)
        claim = self.state.claim(token)
        lock = claim.create()
        try:
            sent = boottime()
            count = self.store.claim(jobs, token, self.name)
            asked = boottime()
            rows = self.store.collect(token) if count else []
            if rows:
                self.claims[token] = {row.id for row in rows}
                self.start(claim, lock, rows, sent, asked)
            else:
                claim.remove()
            return len(rows)
        except Again:
            claim.remove()  # the answer was no: nothing can land
            raise
        finally:
            os.close(lock)  # never unlocked: from here on the runner alone holds it
            self.woken.add(token)  # if an answer was lost, the claim is looked after

    def start(self, claim, lock, rows, sent, asked):
        """Fork one runner for the claim."""
        runs = [Run(row, claim.token, sent, asked, self.config) for row in rows]
        process = os.fork()
        if process:
            self.runners[process] = claim.token
            self.log.line('start: ' + ', '.join('job %d run %d' % (row.id, row.run_no)
                                                for row in rows))
            return
        try:
            become_runner(lock)
            Runner(self.config, self.name, claim, runs).loop()
        except BaseException as error:
            Log(self.config.worker_log, self.name, self.config.log_max_bytes).line(
                'runner: %r' % error)
        finally:
            os._exit(0)

    def settle(self):
        """Learn from the state folder what has ended, without the database."""
        if boottime() >= self.next_scan:
            self.next_scan = boottime() + 5
            self.woken.update(self.state.tokens(), (token for token, _ in self.dying))
        for token, _ in self.dying:
            self.woken.add(token)
        while self.woken:
            token = self.woken.pop()
            if token and self.state.claim(token).exists():
                self.settle_claim(token)

    def settle_claim(self, token):
        """Queue the endings of one claim; its folder goes when all are reported."""
        claim = self.state.claim(token)
        free = claim.free()  # asked first: so all that its runner wrote is seen below
        started, results = claim.files()
        if token not in self.claims:  # a predecessor's, or one whose answer was lost
            self.claims[token] = started | results
            self.open[token] = 0 if started | results else OPEN_CLAIM
            self.next_mine = 0
        jobs = self.claims[token]
        for job in results & jobs:
            self.queue(claim.ending(job))
        if not free:
            return
        for job in (started - results) & jobs:
            if self.is_gone(token, job):
                self.queue(claim.ending(job))
        if token not in self.open:
            for job in jobs - started - results:
                self.queue(Ending(token, job, 'back'))
            if not jobs:
                del self.claims[token]
                claim.remove()

    def queue(self, ending):
        """Keep an ending for the next report."""
        self.dying.pop((ending.token, ending.job), None)
        self.endings.setdefault((ending.token, ending.job), ending)

    def is_gone(self, token, job):
        """End what is left of a command whose runner died; whether nothing is left."""
        left = marked_processes().get('%s.%d' % (token, job), ())
        if not left:
            return True
        first = self.dying.setdefault((token, job), boottime())
        late = boottime() - first > self.config.kill_grace
        for process in left:
            send_signal(os.kill, process, signal.SIGKILL if late else signal.SIGTERM)
        return False

    def end(self):
        """Report all that has ended, and forget it."""
        if not self.endings:
            return
        endings = list(self.endings.values())
        self.store.end(endings)
        self.log.lines('end: job %d run %s: %s' % (
            ending.job, ending.run_no, ending.status) for ending in endings)
        for ending in endings:
            del self.endings[ending.token, ending.job]
            self.state.claim(ending.token).forget(ending.job)
            self.claims[ending.token].discard(ending.job)
            self.woken.add(ending.token)

    def look_after_mine(self):
        """Pass on stop requests; give back what landed late for the open claims."""
        if not self.claims or boottime() < self.next_mine:
            return
        self.next_mine = boottime() + self.config.poll_seconds
        seen = set()
        for row in self.store.mine(self.claims, self.open):
            claim = self.state.claim(row.run_token)
            if row.stop_requested == row.run_no:
                claim.request_stop(row.id)
            seen.add(row.run_token)
            started, results = claim.files()
            if claim.free() and row.id not in started | results:
                self.claims[row.run_token].add(row.id)
                kind = 'back' if claim.same_boot() else 'lost'
                self.queue(Ending(row.run_token, row.id, kind, row.run_no))
        for token in self.open.keys() - seen:
            claim = self.state.claim(token)
            if (not self.claims[token] and claim.free()
                    and claim.age() > self.open[token]):
                del self.open[token], self.claims[token]
                claim.remove()

    def recover(self):
        """End the runs, of whichever host, that are past their deadline."""
        endings = [
            Ending(row.run_token, row.id, 'overdue', row.run_no, worker=row.last_worker,
                   status='ERROR: lost: no word of %s by the deadline' % row.last_worker)
            for row in self.store.overdue()]
        self.store.end(endings)
        self.log.lines('recover: job %d run %d: %s' % (
            ending.job, ending.run_no, ending.status) for ending in endings)

    def hello(self):
        """Once a minute: say who is there, and throw away old history."""
        if boottime() < self.next_hello:
            return
        self.next_hello = boottime() + 60
        skew = (self.seen.wall - (self.seen.now - datetime(1970, 1, 1)).total_seconds())
        self.store.hello(self.name, self.running(), round(1000 * skew))
        self.store.purge()


# --------------------------------------------------------------------- state folder

# How a run ended. kind: 'done'; 'lost': its runner died; 'overdue': past its deadline,
# on whichever host; 'back': claimed and never started. ended: boottime, of that boot.
Ending = namedtuple('Ending', 'token job kind run_no status exit_code output duration_ms'
                    ' ended boot due started worker', defaults=(None,) * 10)
LOST = 'ERROR: lost: its runner was killed or its host restarted'


class State:
    """The folder in which a host remembers its runs, whatever dies: `worker.lock`,
    `machine`, the FIFO `wake`, and a folder for each claim, named by its token."""

    def __init__(self, config):
        self.folder = config.state_location
        try:
            os.makedirs(config.log_location, exist_ok=True)
            with open(config.worker_log, 'ab'):
                pass
        except OSError as error:
            raise BadConfig('%s: log.location: %s: %s' % (
                config.file, error.filename, error.strerror)) from None
        try:
            os.makedirs(self.folder, 0o700, exist_ok=True)
            self.check_machine()
            self.lock_fd = os.open(self.path('worker.lock'), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise BadConfig('%s: state.location: %s: %s' % (
                config.file, error.filename, error.strerror)) from None

    def path(self, *names):
        """A path in the folder."""
        return os.path.join(self.folder, *names)

    def check_machine(self):
        """A folder of another machine is left alone: its runs can't be seen here."""
        mine = read_text('/etc/machine-id').strip() or os.uname().nodename
        theirs = read_text(self.path('machine')).strip()
        if not theirs:
            write_durably(self.path('machine'), mine)
        elif theirs != mine:
            raise BadConfig('%s: state.location: is the folder of another machine (%s); '
                            'each machine needs its own' % (self.folder, theirs))

    def lock(self):
        """Become the host's one worker; False when there is one."""
        try:
            fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if not os.path.exists(self.path('wake')):
            os.mkfifo(self.path('wake'), 0o600)
        self.fifo = os.open(self.path('wake'), os.O_RDWR | os.O_NONBLOCK)
        return True

    def tokens(self):
        """The tokens of all claims that have a folder."""
        return [name for name in os.listdir(self.folder) if len(name) == 32]

    def claim(self, token):
        """The folder of one claim."""
        return Claim(self.folder, token)


class Claim:
    """The folder of one claim: `lock`, held as long as its runner lives; for each job
    `<job>.run`, written before its start, `<job>.done`, its result, `<job>.stop`."""

    def __init__(self, state_dir, token):
        self.token = token
        self.folder = os.path.join(state_dir, token)

    def path(self, job, kind):
        """The file of a job."""
        return os.path.join(self.folder, '%s.%s' % (job, kind))

    def create(self):
        """Make the folder, before the claim is sent; returns the held lock."""
        os.mkdir(self.folder, 0o700)
        lock = os.open(os.path.join(self.folder, 'lock'), os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.write(lock, ('%s %d' % (boot_id(), boottime())).encode())
        return lock

    def exists(self):
        """Whether there is such a claim."""
        return os.path.isdir(self.folder)

    def free(self):
        """Whether no runner holds the claim."""
        try:
            probe = os.open(os.path.join(self.folder, 'lock'), os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        finally:
            os.close(probe)

    def same_boot(self):
        """Whether the machine has not restarted since the claim."""
        return read_text(os.path.join(self.folder, 'lock')).startswith(boot_id() + ' ')

    def age(self):
        """Seconds since the claim, or since the machine's restart."""
        text = read_text(os.path.join(self.folder, 'lock'))
        return boottime() - (int(text.split()[1]) if self.same_boot() else 0)

    def files(self):
        """Two sets of job ids: those that were to be started, those with a result."""
        found = {'run': set(), 'done': set()}
        for name in os.listdir(self.folder):
            job, _, kind = name.partition('.')
            if kind in found:
                found[kind].add(int(job))
        return found['run'], found['done']

    def ending(self, job):
        """How a job's run ended, by its files: its result, or lost if it has none."""
        facts = {'status': LOST, 'kind': 'lost'}
        for kind in ('run', 'done'):
            try:
                facts.update(json.loads(read_text(self.path(job, kind)) or '{}'))
            except ValueError:
                pass  # cut off by a crash of the machine: the facts that there are
        return Ending(token=self.token, job=job, **facts)

    def starting(self, run, worker):
        """Note that a run is to be started: from here on it is never given back."""
        facts = {'run_no': run.run_no, 'due': run.due, 'started': run.started,
                 'worker': worker}
        write_durably(self.path(run.job, 'run'), json.dumps(facts), durable=False)

    def done(self, run, kind='done', **result):
        """Keep the result of a run over crashes, and wake the worker there is."""
        result.update(kind=kind, ended=boottime(), boot=boot_id())
        write_durably(self.path(run.job, 'done'), json.dumps(result))
        try:
            fifo = os.open(os.path.join(self.folder, '..', 'wake'),
                           os.O_WRONLY | os.O_NONBLOCK)
            os.write(fifo, self.token.encode() + b'\n')
            os.close(fifo)
        except OSError:
            pass  # no worker at the moment, or one that has enough to read

    def request_stop(self, job):
        """Ask the runner, of whichever worker, to end a run."""
        with open(self.path(job, 'stop'), 'w'):
            pass

    def forget(self, job):
        """Remove the files of a run that has been reported; its result goes last."""
        for kind in ('stop', 'run', 'done'):
            remove(self.path(job, kind))

    def remove(self):
        """Remove the folder; the lock goes last."""
        for name in sorted(os.listdir(self.folder), key='lock'.__eq__):
            remove(os.path.join(self.folder, name))
        os.rmdir(self.folder)


def boottime():
    """Seconds since the machine's start, sleep included: no clock change moves it."""
    return time.clock_gettime(getattr(time, 'CLOCK_BOOTTIME', time.CLOCK_MONOTONIC))


@lru_cache(None)
def boot_id():
    """What names this boot of the machine; empty where the system has no such name."""
    return read_text('/proc/sys/kernel/random/boot_id').strip()


def read_text(path):
    """A file's text; empty when there is none."""
    try:
        with open(path, encoding='utf-8', errors='replace') as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return ''


def write_durably(path, text, durable=True):
    """Write a file so that it is there whole or not at all, also after a crash."""
    with open(path + '.tmp', 'w', encoding='utf-8') as file:
        file.write(text)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.rename(path + '.tmp', path)


def remove(path):
    """Remove a file, if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


# --------------------------------------------------------------------------- runner

class Run:
    """One execution of a job, as its runner sees it."""

    def __init__(self, row, token, sent, asked, config):
        self.job, self.run_no, self.command = row.id, row.run_no, row.command
        self.mark = '%s.%d' % (token, row.id)  # in the environment of all it starts
        self.due, self.started = text_of(row.next_run_utc), text_of(row.last_start)
        spare = config.kill_grace + MARGIN
        # Counted from before the question was sent: never later than the deadline.
        self.limit = asked + row.left - spare
        # max_run_time, in seconds, by what was left: at most too long by the way there.
        self.allowed = row.left - spare + asked - sent
        self.process = self.pipe = self.log = None
        self.exit = None  # the wait status, once the command itself has ended
        self.cause = None  # why we end it: 'timed out …' or 'stopped'
        self.kill_at = 0
        self.tail = b''


class Runner:
    """The forked child that owns the runs of one claim. It needs neither the worker
    nor the database: it starts, limits and stops them, and writes their results."""

    def __init__(self, config, worker, claim, runs):
        self.config, self.worker, self.claim = config, worker, claim
        self.waiting = deque(runs)
        self.live = {}  # process id -> Run
        self.unwritten = []  # (run, result) that the disk did not take
        self.selector = selectors.DefaultSelector()
        self.children, waker = os.pipe()
        for end in (self.children, waker):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        self.selector.register(self.children, selectors.EVENT_READ)
        self.next_check = 0

    def loop(self):
        """Start the commands, and stay until each has its result on the disk."""
        while self.waiting or self.live or self.unwritten:
            # A few at a time, so that the first are reaped while the last start.
            for _ in range(min(8, len(self.waiting))):
                self.start(self.waiting.popleft())
            self.watch(0 if self.waiting else 0.05 if self.ending() else 1)
            self.reap()
            self.limit()
            self.write_again()

    def ending(self):
        """Whether a tree is just being ended."""
        return any(run.cause for run in self.live.values())

    def start(self, run):
        """Start one command, unless too little of its time is left."""
        try:
            if run.limit - boottime() < run.allowed / 2:
                self.claim.done(run, 'back')
                return
            self.claim.starting(run, self.worker)
        except OSError:
            return  # a full disk: without a file it is given back when this ends
        run.log = Log(self.config.job_log(run.job), self.worker, self.config.log_max_bytes)
        run.begun = time.monotonic()
        run.pipe, end = os.pipe()
        try:
            run.process = spawn(run.command, end, self.environment(run))
        except (OSError, ValueError) as error:
            os.close(run.pipe)
            reason = getattr(error, 'strerror', None) or str(error)
            self.result(run, 'ERROR: could not start: %s' % reason, None)
            return
        finally:
            os.close(end)
        os.set_blocking(run.pipe, False)
        self.selector.register(run.pipe, selectors.EVENT_READ, run)
        self.live[run.process] = run

    def environment(self, run):
        """What the command sees: the worker's environment and who it is."""
        facts = {'JOB_ID': run.job, 'RUN_NO': run.run_no, 'WORKER': self.worker,
                 'DUE': (run.due or '').replace(' ', 'T') + 'Z',
                 'RUN': run.mark}
        return dict(os.environ, **{'DISTRIBUTED_CRON_' + name: str(value)
                                   for name, value in facts.items()})

    def watch(self, seconds):
        """Copy output to the logs, until there is none or a command has ended."""
        for key, _ in self.selector.select(seconds):
            if key.data:
                self.copy(key.data)
            else:
                os.read(self.children, 4096)

    def copy(self, run):
        """Copy one piece of output; returns its length, 0 when there is none."""
        try:
            data = os.read(run.pipe, 65536)
        except BlockingIOError:
            return 0
        if data:
            run.log.feed(data)
            run.tail = (run.tail + data)[-4096:]
        else:
            self.selector.unregister(run.pipe)
            os.close(run.pipe)
            run.pipe = None
        return len(data)

    def reap(self):
        """Note which commands have ended; a run has ended when its command has."""
        while self.live:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break  # all have ended; what is left of their trees is being ended
            if not process:
                break
            run = self.live[process]
            run.exit = os.waitstatus_to_exitcode(status)
            if not run.cause:
                self.finish(run)

    def limit(self):
        """Each second: end what ran out of time or is to be stopped."""
        now = boottime()
        if now < self.next_check and not self.ending():
            return
        self.next_check = now + 1
        marked = marked_processes() if self.ending() else {}
        for run in list(self.live.values()):
            if run.cause:
                self.end_tree(run, marked)
            elif now >= run.limit:
                minutes = run.allowed / self.config.minute
                self.begin_end(run, 'timed out after %.3g min' % max(round(minutes), 1))
            elif os.path.exists(self.claim.path(run.job, 'stop')):
                self.begin_end(run, 'stopped')

    def begin_end(self, run, cause):
        """SIGTERM to the whole tree."""
        run.cause, run.kill_at = cause, boottime() + self.config.kill_grace
        signal_tree(run, marked_processes(), signal.SIGTERM)

    def end_tree(self, run, marked):
        """Wait for the tree to be gone; SIGKILL after the grace."""
        late = boottime() > run.kill_at
        left = signal_tree(run, marked, signal.SIGKILL if late else 0)
        if run.exit is not None and not left:
            send_signal(os.killpg, run.process, signal.SIGKILL)  # who shed the mark
            self.finish(run)

    def finish(self, run):
        """The run has ended: read what is in its pipe, write its result."""
        room = 1 << 20  # a background process may write for ever
        while run.pipe is not None and room > 0:
            room -= self.copy(run) or room
        run.log.finish()
        del self.live[run.process]
        if run.cause:
            status = 'ERROR: ' + run.cause
        else:
            status = status_of(run.exit)
        self.result(run, status, run.exit)

    def result(self, run, status, exit_code):
        """Write the result of a run, or keep it until the disk takes it."""
        output = run.tail.decode('utf-8', 'replace').replace('\0', '\ufffd')
        result = {'status': status[:255], 'exit_code': exit_code, 'output': output,
                  'duration_ms': round(1000 * (time.monotonic() - run.begun))}
        try:
            self.claim.done(run, **result)
        except OSError:
            self.unwritten.append((run, result))

    def write_again(self):
        """Try to write what the disk did not take; the lock is kept till then."""
        kept, self.unwritten = self.unwritten, []
        for run, result in kept:
            self.result(run, result['status'], result['exit_code'])
        if self.unwritten:
            time.sleep(1 if not self.live else 0)


def become_runner(lock):
    """Make the forked child independent of its worker: no descriptor but the claim's
    lock, a session of its own, and no signal but SIGKILL ends it."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    os.closerange(3, lock)
    os.closerange(lock + 1, max(map(int, os.listdir('/dev/fd'))) + 1)


def spawn(command, output, environment):
    """Start a command as cron does, in a session of its own; returns its process id.

    posix_spawn, since it does not copy the runner's memory as a fork would."""
    actions = [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
    default = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE,
               signal.SIGXFSZ, signal.SIGCHLD} & signal.valid_signals()
    return os.posix_spawn('/bin/sh', ['/bin/sh', '-c', command], environment,
                          file_actions=actions, setsid=True, setsigdef=default)


def marked_processes():
    """The processes that carry a run's mark, by mark; empty where there is no /proc."""
    found = {}
    mark = b'\0DISTRIBUTED_CRON_RUN='
    for name in os.listdir('/proc') if os.path.isdir('/proc/self') else ():
        if not name.isdigit():
            continue
        try:
            with open('/proc/%s/environ' % name, 'rb') as file:
                _, there, rest = (b'\0' + file.read()).partition(mark)
        except OSError:
            continue  # ended since, or another user's
        if there:
            found.setdefault(rest.split(b'\0')[0].decode('ascii', 'replace'),
                             []).append(int(name))
    return found


def signal_tree(run, marked, number):
    """Signal a run's process group and all that carry its mark; whether any is left."""
    left = send_signal(os.killpg, run.process, number)
    for process in marked.get(run.mark, ()):
        send_signal(os.kill, process, number)
    # A group may be left that only holds zombies; these carry no mark.
    return run.mark in marked if os.path.isdir('/proc/self') else left


def send_signal(send, target, number):
    """Send a signal; False when there is nobody who could get it."""
    try:
        send(target, number)
        return True
    except (ProcessLookupError, PermissionError):
        return False


def status_of(code):
    """The last_status for an exit status, or for a signal as a negative number."""
    if code == 0:
        return 'Success'
    if code < 0:
        try:
            return 'ERROR: signal %d (%s)' % (-code, signal.Signals(-code).name)
        except ValueError:
            return 'ERROR: signal %d' % -code
    meaning = {126: ' (not executable)', 127: ' (command not found)'}.get(code, '')
    return 'ERROR: exit %d%s' % (code, meaning)


class Log:
    """A log file, each line led by the worker's name and the host's local time. At
    max_bytes it becomes FILE.1, also during a run."""

    def __init__(self, path, name, max_bytes):
        self.path, self.name, self.max_bytes = path, name, max_bytes
        self.file = None
        self.at_start = True  # of a line

    def line(self, text):
        """Write one line."""
        self.lines([text])

    def lines(self, texts):
        """Write several lines, at once."""
        data = ''.join(text.replace('\n', ' ') + '\n' for text in texts)
        self.feed(data.encode('utf-8', 'replace'))

    def feed(self, data):
        """Write a piece of a stream, wherever its lines begin and end."""
        if not data:
            return
        stamp = ('%s: [%s] ' % (self.name, time.ctime())).encode('utf-8', 'replace')
        try:
            self.open()
            ends = data.endswith(b'\n')
            body = data[:-1].replace(b'\n', b'\n' + stamp) + data[-1:]
            self.file.write(stamp + body if self.at_start else body)
            self.at_start = ends
        except OSError:
            self.file = None  # a full disk: the run goes on without its log

    def open(self):
        """Open the file, or the next one when it is full."""
        if self.file and self.file.tell() >= self.max_bytes:
            self.finish()
            os.rename(self.path, self.path + '.1')
            self.file = None
        if not self.file:
            self.file = open(self.path, 'ab', buffering=0)

    def finish(self):
        """End a line that its writer did not end."""
        if not self.at_start:
            try:
                self.file.write(b'\n')
            except (OSError, AttributeError):
                pass
            self.at_start = True


# ---------------------------------------------------------------------------- store

PLANNED_FROM = ('schedule', 'frequency', 'start_anchor', 'stop_anchor', 'active')
CLEAN_PLAN = 'Planned.'  # the status of a job whose bad schedule was mended


class Store:
    """The database, as the steps in the life of a run; each is one statement or one
    transaction. Raises Away, Again, BadData or Problem."""

    def __init__(self, config):
        self.config = config
        self.dialect = DIALECTS[config.db_engine](config)
        self.connection = None

    def look(self):
        """What a poll needs to know, in one statement."""
        wall = time.time()
        now, due, unplanned, overdue = self.query('''
            SELECT {utc_exact}, (SELECT next_run_utc FROM job
                WHERE run_token IS NULL AND next_run_utc IS NOT NULL
                ORDER BY next_run_utc LIMIT 1),
            EXISTS (SELECT 1 FROM job WHERE run_token IS NULL AND next_run_utc IS NULL),
            EXISTS (SELECT 1 FROM job WHERE run_deadline_utc <= {utc})''')[0]
        now = moment(now)
        due_in = (moment(due) or PARKED) - now
        return Look(now, wall, due_in.total_seconds(), unplanned, overdue)

    def plan(self, now, due=False):
        """Give jobs that have none their next_run_utc, or park them; with due: those
        whose time has come, but not their window. Returns how many."""
        rows = self.query('''SELECT * FROM job WHERE run_token IS NULL
            AND %s ORDER BY id LIMIT 500''' % (
                'next_run_utc <= {utc} AND NOT {allowed}' if due
                else 'next_run_utc IS NULL'))
        planned = 0
        with self.transaction():
            for job in rows:
                when, status = self.plan_of(job, now)
                planned += self.change(
                    '''UPDATE job SET next_run_utc = ?, last_status = ? WHERE id = ?
                    AND run_token IS NULL AND run_requested = ? AND {as_read}
                    AND next_run_utc {same} ?''', text_of(when), status[:255], job.id,
                    job.run_requested, *self.as_read(job), job.next_run_utc)
        return planned

    def plan_of(self, job, now):
        """When a job is due next, and its last_status: bad schedules are parked."""
        status = job.last_status
        if job.run_requested:
            return now, status
        try:
            when = next_run(job, now, now, self.zone)
        except BadSchedule as error:
            return PARKED, 'ERROR: schedule: %s' % error
        return when, CLEAN_PLAN if status.startswith('ERROR: schedule:') else status

    def as_read(self, job):
        """The values for {as_read}: an edit since then wins."""
        return [getattr(job, column) for column in PLANNED_FROM]

    def find(self, slots):
        """Ids of due jobs, for so many slots: at random among the first that are due."""
        limit = min(slots, CLAIM_SIZE)
        found = [row[0] for row in self.query(
            'SELECT id FROM job WHERE {due} ORDER BY next_run_utc LIMIT ?',
            limit + max(16, limit))]
        return sorted(random.sample(found, min(limit, len(found))))

    def claim(self, jobs, token, worker):
        """Take those of the jobs that are still due; returns how many."""
        return self.change(
            '''UPDATE job SET run_token = ?, run_no = run_no + 1, last_start = {local},
            claimed_start = {local}, last_worker = ?, run_deadline_utc = {deadline},
            run_requested = 0, stop_requested = NULL
            WHERE id IN ({list}) AND {due}''', token, worker,
            self.config.minute, self.config.kill_grace + MARGIN, in_list=jobs)

    def collect(self, token):
        """What a claim took, and the seconds that each has until its deadline."""
        rows = self.query('''SELECT id, run_no, command, next_run_utc, last_start,
            run_deadline_utc, {utc_exact} AS now FROM job WHERE run_token = ?
            ORDER BY next_run_utc, id''', token)
        return [Collected(row.id, row.run_no, row.command, moment(row.next_run_utc),
                          moment(row.last_start), (moment(row.run_deadline_utc)
                                                   - moment(row.now)).total_seconds())
                for row in rows]

    def end(self, endings):
        """Write how runs ended, in one transaction. A row that the database refuses is
        tried alone, at worst without output, and never holds up the others."""
        try:
            self.end_all(endings)
        except BadData:
            for ending in endings:
                try:
                    self.end_all([ending])
                except BadData:
                    self.end_all([ending._replace(output=None)])

    def end_all(self, endings):
        """end, of all or of none."""
        with self.transaction():
            now, = self.query('SELECT {utc_exact}')[0]
            rows = {(row.run_token, row.id): row for row in self.query(
                'SELECT * FROM job WHERE run_token IN ({list})',
                in_list={ending.token for ending in endings})}
            history = []
            for ending in sorted(endings, key=lambda ending: ending.job):
                history += self.end_one(ending, rows.get((ending.token, ending.job)),
                                        moment(now))
            self.write_history(history)

    def end_one(self, ending, job, now):
        """End one run in its job; returns its row for the history, if it has one."""
        if ending.kind == 'back':
            if job:
                self.give_back(job, now)
            return []
        ended = self.ended_utc(ending, job, now)
        local = self.zone.local(ended)
        if job:
            try:
                when = next_run(job, ended, now, self.zone)
            except BadSchedule:
                when = None  # plan says what is wrong with it
            started = moment(job.last_start)
            changed = self.change(
                '''UPDATE job SET last_end = ?, last_status = ?, run_token = NULL,
                run_deadline_utc = NULL, stop_requested = NULL, next_run_utc = CASE
                WHEN run_requested = 1 THEN next_run_utc
                WHEN next_run_utc IS NOT NULL AND {as_read} THEN ? ELSE NULL END
                WHERE id = ? AND run_token = ?''', text_of(max(local, started)),
                ending.status, *self.as_read(job), text_of(when), job.id, ending.token)
            if not changed and ending.kind == 'overdue':
                return []  # its own worker, or another, was faster
        elif ending.kind == 'done':  # another host took it for lost, or it was deleted
            started = moment(ending.started)
            self.change('''UPDATE job SET last_end = ?, last_status = ?
                WHERE id = ? AND run_no = ? AND run_token IS NULL''',
                        text_of(max(local, started or local)), ending.status, ending.job,
                        ending.run_no)
        return [(ending, job, local)] if job or ending.kind != 'overdue' else []

    def ended_utc(self, ending, job, now):
        """When a run ended: by its age on this boot's clock; a lost one by now, or at
        its deadline, so that an outage eats no tick."""
        if ending.ended is not None and ending.boot == boot_id():
            return now - timedelta(seconds=max(0, boottime() - ending.ended))
        deadline = moment(job.run_deadline_utc) if job else None
        return min(now, deadline or now)

    def give_back(self, job, now):
        """A run that never started: it is due again at once, with its old due time."""
        due = moment(job.next_run_utc)
        requested = bool(due and not (job.active and in_window(
            job, self.zone.local(due).time())))  # only a request made this due
        self.change('''UPDATE job SET last_end = {local}, run_token = NULL,
            run_deadline_utc = NULL, stop_requested = NULL,
            run_requested = CASE WHEN run_requested = 1 THEN 1 ELSE ? END
            WHERE id = ? AND run_token = ?''', int(requested), job.id, job.run_token)

    def write_history(self, history):
        """Runs into `run`: a result replaces 'lost', and never the other way round."""
        for lost in (False, True):
            rows = []
            for ending, job, local in history:
                if lost == (job is None and ending.kind != 'done'):
                    run_no = ending.run_no or (job and job.run_no) or 0
                    self.reported[ending.job] = run_no
                    rows.append((
                        ending.job, run_no,
                        ending.due or (job and job.next_run_utc),
                        ending.started or (job and job.last_start), text_of(local),
                        ending.duration_ms, ending.worker or (job and job.last_worker)
                        or '', ending.status, ending.exit_code, ending.output))
            self.upsert('run', 2, RUN_COLUMNS, rows, keep=lost)

    def mine(self, tokens, open_tokens):
        """Rows of my claims that I must look at: to be stopped, or of open claims."""
        return self.query('''SELECT id, run_token, run_no, stop_requested FROM job
            WHERE run_token IN ({list}) AND (stop_requested = run_no OR run_token IN
            (%s))''' % ', '.join("'%s'" % token for token in open_tokens or ['']),
                          in_list=tokens)

    def overdue(self):
        """Runs, of whichever host, that are past their deadline."""
        return self.query('''SELECT id, run_no, run_token, last_worker FROM job
            WHERE run_deadline_utc <= {utc} ORDER BY run_deadline_utc LIMIT 200''')

    def hello(self, worker, running, skew_ms):
        """Say that this host is there."""
        now, = self.query('SELECT {local}')[0]
        self.upsert('host', 1, HOST_COLUMNS, [(
            self.config.name, now, worker, VERSION, self.config.max_tasks, running,
            skew_ms)])

    def purge(self):
        """Throw away history: a small batch by age, and what is over history.runs."""
        oldest = self.zone.local(self.now() - timedelta(days=self.config.history_days))
        rows = self.query('''SELECT job_id, run_no FROM run WHERE ended_at < ?
            ORDER BY ended_at LIMIT 2000''', text_of(oldest))
        with self.transaction():
            for row in rows:
                self.change('DELETE FROM run WHERE job_id = ? AND run_no = ?', *row)
        for job, run_no in sorted(self.reported.items()):
            self.change('DELETE FROM run WHERE job_id = ? AND run_no <= ?', job,
                        run_no - self.config.history_runs)
        self.reported.clear()

    # What the steps stand on.

    def connect(self):
        """Connect, if there is no connection; then the tables are looked at too."""
        if self.connection is not None:
            return
        try:
            self.connection = self.dialect.connect()
            self.zone = Zone(self.local_time)
            self.reported = {}
            self.query('SELECT %s FROM job WHERE 1 = 0' % ', '.join(JOB_COLUMNS))
            for table, columns in (('run', RUN_COLUMNS), ('host', HOST_COLUMNS)):
                self.query('SELECT %s FROM %s WHERE 1 = 0' % (', '.join(columns), table))
            self.dialect.check(self)
        except Problem:
            self.close()
            raise

    def close(self):
        """Close the connection, if there is one."""
        if self.connection is not None:
            connection, self.connection = self.connection, None
            try:
                connection.close()
            except self.dialect.driver.Error:
                pass

    def query(self, text, *args, **more):
        """The rows of one statement, fetched at once; times are text."""
        cursor = self.execute(text, args, **more)
        names = [column[0] for column in cursor.description]
        make = row_type(*names)._make
        return [make(row) for row in cursor.fetchall()]

    def change(self, text, *args, **more):
        """The number of rows that one statement matched."""
        return self.execute(text, args, **more).rowcount

    def execute(self, text, args=(), in_list=()):
        """One statement. {list} stands for the values of in_list."""
        text, before = rendered(text, type(self.dialect), len(in_list))
        try:
            cursor = self.connection.cursor()
            cursor.execute(text, (*args[:before], *in_list, *args[before:]))
            return cursor
        except self.dialect.driver.Error as error:
            raise self.trouble(error) from None

    def trouble(self, error):
        """A driver's error as one of ours; a connection that is gone is closed."""
        problem = self.dialect.problem(error)
        if isinstance(problem, Away):
            self.close()
        return problem

    @contextmanager
    def transaction(self):
        """All statements in it, or none."""
        self.execute(self.dialect.begin)
        try:
            yield
            self.execute('COMMIT')
        except BaseException:
            if self.connection is not None:
                try:
                    self.execute('ROLLBACK')
                except Problem:
                    self.close()
            raise

    def upsert(self, table, keys, columns, rows, keep=False):
        """Insert rows, or change those that are there; with keep they stay as they
        are. The first `keys` of the columns are the primary key."""
        if not rows:
            return
        row = '(%s)' % ', '.join('?' * len(columns))
        text = 'INSERT INTO %s (%s) VALUES %s %s' % (
            table, ', '.join(columns), ', '.join([row] * len(rows)),
            self.dialect.on_conflict(columns[:keys], [] if keep else columns[keys:]))
        self.execute(text, [value for row in rows for value in row])

    def now(self):
        """The database's time, UTC."""
        return moment(self.query('SELECT {utc_exact}')[0][0])

    def local_time(self, when):
        """A UTC time as wall-clock time of the database's zone: it alone knows."""
        return moment(self.query('SELECT {to_local}', text_of(when))[0][0])


Look = namedtuple('Look', 'now wall due_in unplanned overdue')
Collected = namedtuple('Collected', 'id run_no command next_run_utc last_start left')
JOB_COLUMNS = (
    'id', 'description', 'command', 'active', 'start_anchor', 'stop_anchor',
    'frequency', 'max_run_time', 'last_start', 'last_end', 'last_status', 'last_worker',
    'schedule', 'next_run_utc', 'run_no', 'run_token', 'run_deadline_utc',
    'claimed_start', 'run_requested', 'stop_requested')
RUN_COLUMNS = ('job_id', 'run_no', 'due_utc', 'started_at', 'ended_at', 'duration_ms',
               'worker', 'status', 'exit_code', 'output')
HOST_COLUMNS = ('name', 'last_seen', 'worker', 'version', 'max_tasks', 'running',
                'skew_ms')


@lru_cache(None)
def row_type(*names):
    """The type of a row with these columns."""
    return namedtuple('Row', names, rename=True)


@lru_cache(1000)
def rendered(text, dialect, count):
    """A statement in one database's words, with room for a list of so many values, and
    the number of values that stand before the list."""
    text = text.format(list='{list}', **dialect.pieces)
    before = text.partition('{list}')[0].count('?')
    text = text.replace('{list}', ', '.join('?' * count))
    if dialect.mark != '?':
        text = text.replace('%', '%%').replace('?', dialect.mark)
    return text, before


def moment(value):
    """A time as the database says it: text, to a datetime; None for none."""
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None


def text_of(value):
    """A datetime as the database reads it, to the second; None for none."""
    return value and value.strftime('%Y-%m-%d %H:%M:%S')


# ------------------------------------------------------------------------- dialects

def pieces_of(words):
    """The SQL that differs between databases, and the conditions built of it."""
    rule = '''CASE WHEN schedule IS NOT NULL THEN {greatest}(max_run_time, 1)
        WHEN max_run_time >= 1 AND max_run_time < frequency THEN max_run_time
        ELSE {greatest}((frequency - frequency % 2) / 2, 1) END'''
    rule = '{least}(%s, 525600)' % rule  # a year, so that no time overflows
    wait = '60 * {greatest}({least}(frequency, 5256000), {least}(max_run_time, 525600))'
    conditions = {
        'as_read': ' AND '.join(column + ' {same} ?' for column in PLANNED_FROM),
        'deadline': words['later'] % ('{utc}', '(%s) * ? + ?' % rule),
        'in_window': '''CASE WHEN start_anchor > stop_anchor
            THEN {time} >= start_anchor OR {time} < stop_anchor
            ELSE COALESCE({time} >= start_anchor, 1 = 1)
             AND COALESCE({time} < stop_anchor, 1 = 1) END''',
        # Where last_start is not ours, a worker of the Perl program may be at it.
        'not_perls': '''(schedule IS NOT NULL OR last_start IS NULL
            OR (claimed_start IS NOT NULL AND claimed_start = last_start)
            OR %s <= {local})''' % (words['later'] % ('last_start', wait)),
    }
    conditions['allowed'] = ('((run_requested = 1 OR (active = 1 AND %(in_window)s))'
                             ' AND %(not_perls)s)' % conditions)
    conditions['due'] = ('run_token IS NULL AND next_run_utc <= {utc} AND '
                         + conditions['allowed'])
    return dict(words, **{name: text.format(**words)
                          for name, text in conditions.items()})


class SQLite:
    """One file, for one host. Its time zone is the process's."""

    mark, begin = '?', 'BEGIN IMMEDIATE'
    pieces = pieces_of({
        'utc': "datetime('now')",
        'utc_exact': "strftime('%Y-%m-%d %H:%M:%f', 'now')",
        'local': "datetime('now', 'localtime')", 'time': "time('now', 'localtime')",
        'to_local': "datetime(?, 'localtime')",
        'later': "datetime(%s, '+' || (%s) || ' seconds')",
        'same': 'IS', 'greatest': 'MAX', 'least': 'MIN'})

    def __init__(self, config):
        import sqlite3
        self.config, self.driver = config, sqlite3

    def connect(self, create=False):
        """Open the file; only init makes one."""
        path = self.config.db_path
        if not create and not os.path.exists(path):
            raise Problem('%s: no such database; run: distributed_cron.py init' % path)
        try:
            connection = self.driver.connect(
                path, timeout=self.config.db_timeout, isolation_level=None)
            connection.execute('PRAGMA journal_mode = WAL').fetchall()
            connection.execute('PRAGMA synchronous = FULL')
            return connection
        except self.driver.Error as error:
            raise self.problem(error) from None

    def check(self, store):
        """Nothing can be wrong with tables that have the right columns."""

    def init(self, store, tables, triggers):
        """Make what is not there yet; returns notes."""
        for name, columns, indexes in tables:
            rows = [' '.join(pair).replace('INT UNSIGNED NOT NULL AUTO_INCREMENT',
                                           'INTEGER').replace(
                'PRIMARY KEY', 'PRIMARY KEY AUTOINCREMENT' if 'AUTO_INC' in pair[1]
                else 'PRIMARY KEY') for pair in columns.items()]
            store.execute('CREATE TABLE IF NOT EXISTS %s (%s)' % (name, ', '.join(rows)))
            for index, keys in indexes.items():
                store.execute('CREATE INDEX IF NOT EXISTS %s ON %s %s' % (
                    index, name, keys))
        for name, event, values in triggers:
            of = ' OF ' + ', '.join((*PLANNED_FROM, 'max_run_time'))
            text = ', '.join(' = '.join(pair) for pair in values.items())
            for here, there in (('<=>', 'IS'), ('GREATEST', 'MAX'), ('FLOOR', '')):
                text = text.replace(here, there)
            store.execute('DROP TRIGGER IF EXISTS ' + name)
            store.execute('CREATE TRIGGER %s AFTER %s ON job BEGIN '
                          'UPDATE job SET %s WHERE id = NEW.id; END' % (
                              name, event + of * (event == 'UPDATE'), text))
        return []

    def problem(self, error):
        """What an error of the driver means."""
        text = '%s: %s' % (self.config.db_path, error)
        if 'locked' in text or 'busy' in text:
            return Again(text)
        if 'no such table' in text or 'no such column' in text:
            return Problem('%s; run: distributed_cron.py init' % text)
        if isinstance(error, (self.driver.IntegrityError, self.driver.DataError)):
            return BadData(text)
        return Away(text)

    @staticmethod
    def on_conflict(keys, columns):
        """The end of an INSERT that changes the row that is there."""
        return 'ON CONFLICT (%s) DO %s' % (', '.join(keys), 'UPDATE SET ' + ', '.join(
            '%s = excluded.%s' % (name, name) for name in columns)
            if columns else 'NOTHING')


class MySQL:
    """MySQL and MariaDB, by PyMySQL."""

    mark, begin = '%s', 'BEGIN'
    pieces = pieces_of({
        'utc': 'UTC_TIMESTAMP()', 'utc_exact': 'UTC_TIMESTAMP(6)', 'local': 'NOW()',
        'time': 'CURRENT_TIME()',
        'to_local': "CONVERT_TZ(?, '+00:00', @@session.time_zone)",
        'later': '(%s + INTERVAL (%s) SECOND)',
        'same': '<=>', 'greatest': 'GREATEST', 'least': 'LEAST'})
    # https://mariadb.com/kb/en/mariadb-error-codes/, by what is to be done about them
    again = {1205, 1213, 1020}
    data = {1048, 1264, 1265, 1292, 1366, 1406, 1690, 3140}
    setup = {1054: 'old tables; run: distributed_cron.py init',
             1146: 'no tables yet; run: distributed_cron.py init',
             1049: 'no such database; run: distributed_cron.py init',
             1044: 'the account needs rights on the database; see GRANT',
             1045: 'look at db.username and db.password',
             1142: 'the account needs rights on the table; see GRANT'}

    def __init__(self, config):
        try:
            import pymysql
            from pymysql.constants import CLIENT, FIELD_TYPE
            from pymysql.converters import conversions
        except ImportError:
            raise BadConfig('%s: db.engine: mysql needs PyMySQL; install python3-pymysql'
                            ' or run: pip install PyMySQL' % config.file) from None
        self.config, self.driver, self.flags = config, pymysql, CLIENT.FOUND_ROWS
        self.turn = 0  # which host of the list is in use
        times = (FIELD_TYPE.DATETIME, FIELD_TYPE.TIMESTAMP, FIELD_TYPE.TIME)
        self.conversions = {key: value for key, value in conversions.items()
                            if key not in times}

    def connect(self, create=False):
        """Connect to the first host of the list, from where we are, that will do."""
        trouble = None
        for _ in self.config.hosts:
            host = self.config.hosts[self.turn % len(self.config.hosts)]
            try:
                return self.connect_to(*host, create)
            except self.driver.Error as error:
                problem = self.problem(error)
                if not isinstance(problem, Away):
                    raise problem from None
                trouble = trouble or problem
                self.turn += 1
        raise trouble

    def connect_to(self, host, port, socket, create):
        """Connect to one host, and set the session up."""
        config = self.config
        connection = self.driver.connect(
            host=host, port=port, unix_socket=socket, user=config.db_username,
            password=config.db_password, database=None if create else config.db_database,
            charset='utf8mb4', autocommit=True, client_flag=self.flags,
            connect_timeout=max(1, round(config.db_timeout)), conv=self.conversions,
            read_timeout=None if create else config.db_timeout,
            write_timeout=None if create else config.db_timeout,
            ssl=config.db_tls or None)
        cursor = connection.cursor()
        cursor.execute('SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED')
        # A lock is waited for less long than an answer: so a claim is never in doubt.
        cursor.execute("SET SESSION sql_mode = 'STRICT_ALL_TABLES', "
                       'innodb_lock_wait_timeout = %d' % max(1, config.db_timeout - 1))
        cursor.execute('SELECT @@global.read_only')
        if cursor.fetchone()[0]:
            connection.close()
            raise self.driver.OperationalError(1290, 'the server is read-only')
        if create:
            self.use(cursor)
        return connection

    def use(self, cursor):
        """Take the configured database; make it, if it is not there."""
        name = '`%s`' % self.config.db_database.replace('`', '``')
        try:
            cursor.execute('USE ' + name)
        except self.driver.Error as error:
            if error.args[0] != 1049:
                raise
            cursor.execute('CREATE DATABASE %s DEFAULT CHARACTER SET utf8mb4' % name)
            cursor.execute('USE ' + name)

    def check(self, store):
        """A claim is safe only where a statement is atomic."""
        for table, engine in store.query(
                '''SELECT table_name, engine FROM information_schema.tables
                WHERE table_schema = DATABASE()
                AND table_name IN ('job', 'run', 'host')'''):
            if engine != 'InnoDB':
                raise Problem('table %s is %s and must be InnoDB; run: '
                              'distributed_cron.py init' % (table, engine))

    def init(self, store, tables, triggers):
        """Make what is not there yet, upgrade what is old; returns notes."""
        for name, columns, indexes in tables:
            keys = ['INDEX %s %s' % pair for pair in indexes.items()]
            store.execute('CREATE TABLE IF NOT EXISTS %s (%s) ENGINE=InnoDB '
                          'DEFAULT CHARACTER SET utf8mb4' % (name, ', '.join(
                              [' '.join(pair) for pair in columns.items()] + keys)))
            there = {row[0]: row[1] for row in store.query('SHOW COLUMNS FROM ' + name)}
            keyed = {row[2] for row in store.query('SHOW INDEX FROM ' + name)}
            engine, collation = store.query(
                '''SELECT engine, table_collation FROM information_schema.tables
                WHERE table_schema = DATABASE() AND table_name = ?''', name)[0]
            changes = ['%s %s %s' % (
                'MODIFY' if column in there else 'ADD COLUMN', column, rule)
                for column, rule in columns.items() if column != 'PRIMARY'
                and (column not in there or rule.startswith('VARCHAR')
                     and not rule.lower().startswith(there[column]))]
            changes += ['ADD INDEX %s %s' % pair for pair in indexes.items()
                        if pair[0] not in keyed]
            changes += ['ENGINE=InnoDB'] * (engine != 'InnoDB')
            changes += ['CONVERT TO CHARACTER SET utf8mb4'] * (
                not collation.startswith('utf8mb4'))
            if changes:
                store.execute('ALTER TABLE %s %s' % (name, ', '.join(changes)))
        try:
            for name, event, values in triggers:
                store.execute('DROP TRIGGER IF EXISTS ' + name)
                store.execute('CREATE TRIGGER %s BEFORE %s ON job FOR EACH ROW SET %s' % (
                    name, event, ', '.join('NEW.%s = %s' % pair
                                           for pair in values.items())))
        except Problem as problem:
            return ['note: no trigger (%s); the workers keep the rules, but after a '
                    'change by hand set next_run_utc to NULL' % problem]
        return []

    def problem(self, error):
        """What an error of the driver means."""
        number = error.args[0] if error.args else 0
        text = str(error.args[1] if len(error.args) > 1 else error).split(' (')[0]
        where = '%s: error %s: %s' % (
            ', '.join(host[2] or '%s:%d' % host[:2] for host in self.config.hosts),
            number, text)
        if number in self.again:
            return Again(where)
        if number in self.data:
            return BadData(where)
        if number in self.setup:
            return Problem('%s; %s' % (where, self.setup[number]))
        advice = '; is it up? look at db.host' if number == 2003 else ''
        return Away('database: ' + where + advice)

    @staticmethod
    def on_conflict(keys, columns):
        """The end of an INSERT that changes the row that is there."""
        return 'ON DUPLICATE KEY UPDATE ' + (', '.join(
            '%s = VALUES(%s)' % (name, name) for name in columns)
            or '%s = %s' % (keys[0], keys[0]))


DIALECTS = {'sqlite': SQLite, 'mysql': MySQL}


# ------------------------------------------------------------------------- schedule

class BadSchedule(Problem):
    """A cron expression or a window that is wrong, or that can never match."""


def next_run(job, after, now, zone):
    """When a job runs next, UTC; PARKED for one that is disabled.

    job: a row of `job`. after: an expression's next time is strictly after this UTC
    time; frequency counts from the last start. now: what is before it, and outside the
    window by now, is past. Raises BadSchedule.
    """
    if not job.active:
        return PARKED
    start, stop = window_of(job)
    if job.schedule is not None:
        expression = parse(job.schedule)
        if not any(in_window(job, at) for at in expression.clock_times()):
            raise BadSchedule('%r has no time from %s to %s' % (
                job.schedule, start or 'midnight', stop or 'midnight'))
        while True:
            when = expression.next_utc(after, zone)
            if when is None or in_window(job, zone.local(when).time()):
                return when or PARKED
            after = max(when, opening(start, when, zone) - SECOND)
    when = frequency_due(job, now, zone)
    if when < now and not in_window(job, zone.local(now).time()):
        when = now
    return when if in_window(job, zone.local(when).time()) else opening(start, when, zone)


def frequency_due(job, now, zone):
    """When a frequency job is due by its last start alone."""
    started = moment(job.last_start)
    if started is None:
        return now
    minutes = min(max(job.frequency, 1), 5256000)
    if job.last_start != job.claimed_start:  # a worker of the Perl program's
        minutes = max(minutes, min(job.max_run_time, 525600))
    return zone.utc_before(started, now) + timedelta(minutes=minutes)


def window_of(job):
    """The window of a job as two times of day, None where it has no such end."""
    window = []
    for name in ('start_anchor', 'stop_anchor'):
        value = getattr(job, name)
        if value is not None and not re.fullmatch(r'([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?',
                                                  value):
            raise BadSchedule('%s %r; allowed: 00:00 to 23:59' % (name, value))
        window.append(value and datetime(1, 1, 1, *map(int, value.split(':'))).time())
    if window[0] is not None and window[0] == window[1]:
        raise BadSchedule('start_anchor and stop_anchor are equal; allowed: a window '
                          '[start, stop) that is not empty')
    return window


def in_window(job, at):
    """Whether a time of day is in a job's window, [start, stop)."""
    start, stop = window_of(job)
    if start is not None and stop is not None and start > stop:
        return at >= start or at < stop
    return (start is None or at >= start) and (stop is None or at < stop)


def opening(start, after, zone):
    """When a window opens next, UTC, not before `after`."""
    date = zone.local(after).date() - DAY
    start = start or datetime.min.time()
    while True:
        when = zone.utc(datetime.combine(date, start))
        if when >= after and zone.local(when).time() >= start:
            return when
        date += DAY


class Expression:
    """A cron expression: five fields, or a macro such as @daily (crontab(5))."""

    MACROS = {'@yearly': '0 0 1 1 *', '@annually': '0 0 1 1 *',
              '@monthly': '0 0 1 * *', '@weekly': '0 0 * * 0', '@daily': '0 0 * * *',
              '@midnight': '0 0 * * *', '@hourly': '0 * * * *'}
    MONTHS = 'jan feb mar apr may jun jul aug sep oct nov dec'.split()
    DAYS = 'sun mon tue wed thu fri sat'.split()
    FIELDS = (('minute', 0, 59, ()), ('hour', 0, 23, ()), ('day-of-month', 1, 31, ()),
              ('month', 1, 12, MONTHS), ('day-of-week', 0, 7, DAYS))

    def __init__(self, text):
        fields = self.MACROS.get(text.strip().lower(), text).split()
        if text.strip().lower() == '@reboot':
            raise BadSchedule('@reboot: a job belongs to no machine whose start could '
                              'count; allowed: five fields, or ' + self.macros())
        if len(fields) != 5:
            raise BadSchedule('%r: %d fields; allowed: five (minute hour day-of-month '
                              'month day-of-week), or %s' % (
                                  text, len(fields), self.macros()))
        parsed = [self.field(index, value.lower()) for index, value in enumerate(fields)]
        minutes, hours, self.month_days, self.months, self.week_days = parsed
        self.minutes = sorted(60 * hour + minute for hour in hours for minute in minutes)
        # Debian's cron: a field that begins with * counts as unrestricted.
        self.either = not (fields[2].startswith('*') or fields[4].startswith('*'))
        self.elapsed = fields[1].startswith('*')
        if self.next_local(datetime(2000, 1, 1)) is None:
            raise BadSchedule('%r never matches: no such day in the calendar' % text)

    def macros(self):
        """The macros, for messages."""
        return ' '.join(self.MACROS)

    def field(self, index, text):
        """The values of one field; those of day fields that depend on the month are
        tuples such as ('L',) or ('W', 15) or (5, 'L') or (5, '#', 2)."""
        values = set()
        for part in text.split(','):
            special = self.special(index, part)
            values.update([special] if special else self.span(index, text, part))
        if index == 4 and 7 in values:
            values = values - {7} | {0}
        return values

    def special(self, index, part):
        """L, LW and 15W of day-of-month; 5L and 5#2 of day-of-week."""
        if index == 2:
            if part in ('l', 'lw'):
                return (part.upper(),)
            near = re.fullmatch(r'(\d{1,2})w', part)
            if near and 1 <= int(near[1]) <= 31:
                return ('W', int(near[1]))
        elif index == 4:
            last = re.fullmatch(r'([0-7]|[a-z]{3})l', part)
            nth = re.fullmatch(r'([0-7]|[a-z]{3})#([1-5])', part)
            day = self.number(4, (last or nth)[1]) if last or nth else None
            if day is not None:
                return (day % 7, 'L') if last else (day % 7, '#', int(nth[2]))
        return None

    def span(self, index, field, part):
        """The values of `*`, a value, or a range, each perhaps with a step."""
        name, low, high, _ = self.FIELDS[index]
        span, slash, step = part.partition('/')
        first, dash, last = span.partition('-')
        begin, end = self.number(index, first), self.number(index, last)
        if span == '*':
            begin, end = low, 6 if index == 4 else high
        elif not dash:
            end = begin if not slash else high if index != 4 else 6
        elif index == 4 and begin is not None and end is not None and begin > end == 0:
            end = 7  # FRI-SUN
        if (begin is None or end is None or not low <= begin <= end <= high
                or slash and not (step.isdecimal() and step.isascii() and int(step))):
            raise BadSchedule('%s %r: bad value %r; allowed: %s' % (
                name, field, part, self.allowed(index)))
        return range(begin, end + 1, int(step or 1))

    def number(self, index, text):
        """A number or a name as a number; None if it is neither."""
        _, low, _, names = self.FIELDS[index]
        if text in names:
            return names.index(text) + low
        return int(text) if re.fullmatch('[0-9]{1,2}', text) else None

    def allowed(self, index):
        """What a field may hold, for messages."""
        _, low, high, names = self.FIELDS[index]
        return '%d-%d%s, *, lists, ranges a-b, steps /n%s' % (
            low, high, ' or %s-%s' % (names[0], names[-1]) if names else '',
            ', L, LW, 15W' if index == 2 else ', 5L, 5#2' if index == 4 else '')

    def clock_times(self):
        """The times of day at which it may run."""
        return [datetime(2000, 1, 1, *divmod(minute, 60)).time()
                for minute in self.minutes]

    def days(self, year, month):
        """The days of a month that match, in order."""
        first = datetime(year, month, 1)
        count = ((first + 31 * DAY).replace(day=1) - first).days
        week_day = first.isoweekday()  # % 7: 0 is Sunday
        by_month, by_week = set(), set()
        for day in range(1, count + 1):
            today = (week_day + day - 1) % 7
            if self.week_days & {today, (today, '#', (day + 6) // 7),
                                 (today, 'L') if day + 7 > count else None}:
                by_week.add(day)
        for value in self.month_days:
            if isinstance(value, int):
                by_month.add(value)
            elif value == ('L',):
                by_month.add(count)
            else:
                target = value[1] if value[0] == 'W' else count
                by_month.add(self.near_week_day(target, count, week_day))
        both = by_month | by_week if self.either else by_month & by_week
        return sorted(day for day in both if day and day <= count)

    def near_week_day(self, day, count, week_day):
        """The weekday nearest to a day, within its month (Quartz's W)."""
        if day > count:
            return None
        today = (week_day + day - 1) % 7
        if today == 6:
            return day - 1 if day > 1 else day + 2
        if today == 0:
            return day + 1 if day < count else day - 2
        return day

    def next_local(self, after):
        """The first wall-clock time strictly after this one; None if there is none."""
        for month in range(12 * after.year + after.month - 1,
                           12 * min(after.year + 50, 9998)):
            year, month = divmod(month, 12)
            if month + 1 not in self.months:
                continue
            for day in self.days(year, month + 1):
                midnight = datetime(year, month + 1, day)
                if midnight + DAY <= after:
                    continue
                for minute in self.minutes:
                    if midnight + minute * MINUTE > after:
                        return midnight + minute * MINUTE
        return None

    def next_utc(self, after, zone):
        """The first UTC time strictly after this one, through daylight saving."""
        if self.elapsed:
            return self.next_elapsed(after, zone)
        local = zone.local(after)
        while True:
            local = self.next_local(local)
            if local is None:
                return None
            # In the hour that comes twice this may be past: then it has run.
            when = zone.utc(local)
            if when > after:
                return when

    def next_elapsed(self, after, zone):
        """The same for a * in the hour: what the clock shows twice, runs twice, what
        it skips does not run."""
        local = self.next_local(zone.local(after))
        if local is None:
            return None
        change = zone.change(after)
        when = local - zone.offset(after)
        if change and when >= change:
            local = self.next_local(zone.local(change) - SECOND)
            when = local and local - zone.offset(change)
        if when is None or zone.local(when) == local:
            return when
        when = zone.utc(local)  # beyond a change that is far away
        return when if zone.local(when) == local else self.next_elapsed(
            when - SECOND, zone)


@lru_cache(4096)
def parse(text):
    """The Expression of a text; raises BadSchedule."""
    return Expression(text)


class Zone:
    """The database's time zone, learned by asking for UTC times as wall-clock times:
    the databases differ in turning them back, so here is the one rule for that."""

    SLOT = timedelta(minutes=15)  # offsets change on the quarter hour

    def __init__(self, ask):
        """ask: a function from a UTC datetime to a wall-clock one."""
        self.ask = lru_cache(10000)(ask)

    def offset(self, when):
        """The offset of wall-clock time from UTC at a UTC time."""
        if when.year > 2037:  # databases end there; years repeat after 28
            when = when.replace(year=2010 + (when.year - 2010) % 28)
        slot = when - (when - datetime.min) % self.SLOT
        return self.ask(slot) - slot

    def local(self, when):
        """A UTC time as wall-clock time."""
        return when + self.offset(when)

    def change(self, after):
        """When the offset changes within two days after a UTC time; None if not."""
        after -= (after - datetime.min) % self.SLOT
        low, high = 0, 2 * DAY // self.SLOT
        if self.offset(after) == self.offset(after + high * self.SLOT):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if self.offset(after) == self.offset(after + middle * self.SLOT):
                low = middle
            else:
                high = middle
        return after + high * self.SLOT

    def utc(self, local):
        """A wall-clock time as UTC: the first, where it comes twice; the moment of the
        jump, where it is skipped."""
        start = local - 1.5 * DAY  # before it in any zone
        before, change = self.offset(start), self.change(start)
        if not change or local < change + before:
            return local - before
        return max(change, local - self.offset(change))

    def utc_before(self, local, now):
        """The last UTC time not after `now` at which the clock showed this."""
        times = {local - self.offset(local + days * DAY) for days in (-1, 1)}
        return max([when for when in times if when <= now] or [min(times)])


# --------------------------------------------------------------------------- config

TEXT, TEXTS, FLAG = 'text', 'text, or a list of texts', 'yes or no'
ENGINES, TLS = ('sqlite', 'mysql', 'postgresql'), 'ca, cert and key, each a path'
SHARES = {'cpu_full': 1, 'cpu_half': 2, 'cpu_quarter': 4}  # of the processors
SLOTS = 'a whole number from 1, or %s' % ', '.join(SHARES)
KEYS = {  # key: (default, what is allowed: a kind, a choice or a range of numbers)
    'db.engine': (None, ENGINES),
    'db.path': ('distributed_cron.db', TEXT),
    'db.connect_string': (None, TEXT),
    'db.host': (None, TEXTS),
    'db.database': (None, TEXT),
    'db.username': (None, TEXT),
    'db.password': (None, TEXT),
    'db.password_file': (None, TEXT),
    'db.timeout': (None, (1.0, 60.0)),
    'db.tls': (None, TLS),
    'log.location': ('/tmp/distributed_cron', TEXT),
    'log.max_bytes': (10000000, (1000, 1 << 50)),
    'state.location': (None, TEXT),
    'max_tasks': ('cpu_full', SLOTS),
    'clear_old_on_start': (True, FLAG),
    'poll_seconds': (1.0, (0.1, 60.0)),
    'kill_grace': (10.0, (0.0, 30.0)),
    'history.days': (30, (1, 36500)),
    'history.runs': (1000, (1, 1 << 50)),
}


class Config:
    """The configuration, checked: `log.max_bytes` is log_max_bytes, and so on. Times
    are in seconds, paths absolute."""

    minute = 60  # seconds that a minute of max_run_time lasts; the demo has short ones

    def __init__(self, values, file, name=None):
        """values: the file's keys, nested or dotted. Raises BadConfig."""
        self.file = file
        given = {key: default for key, (default, _) in KEYS.items()}
        for key, value in flat(values, file).items():
            if key not in KEYS:
                raise self.bad('unknown key %s; the nearest known is %s' % (
                    key, nearest(key, KEYS)))
            if value is not None:
                if not fits(value, KEYS[key][1]):
                    shown = '' if 'password' in key else ' %r' % (value,)
                    raise self.bad('%s:%s is not allowed; allowed: %s' % (
                        key, shown, words_for(KEYS[key][1])))
                given[key] = str(value) if KEYS[key][1] == TEXT else value
        self.__dict__.update((key.replace('.', '_'), given[key]) for key in given)
        self.name = name or os.uname().nodename
        if not re.fullmatch(r'[^/.\s][^/\s]{0,190}', self.name):
            raise BadConfig('--name %r: allowed: 1 to 191 characters without / and '
                            'space' % self.name)
        if self.max_tasks in SHARES:
            self.max_tasks = max(1, (os.cpu_count() or 1) // SHARES[self.max_tasks])
        self.find_database()
        self.log_location = self.path_of(self.log_location)
        self.state_location = self.path_of(self.state_location or os.path.join(
            self.log_location, 'state-' + self.name))
        self.worker_log = os.path.join(self.log_location, self.name + '.log')

    def bad(self, text):
        """An error that names the file."""
        return BadConfig('%s: %s' % (self.file, text))

    def path_of(self, path):
        """A path in the file is relative to the file's folder."""
        return os.path.join(os.path.dirname(os.path.abspath(self.file)), path)

    def find_database(self):
        """Where the database is, by db.connect_string and the keys beside it."""
        found = self.parsed(self.db_connect_string or '')
        self.db_engine = self.db_engine or found.get('engine') or (
            'mysql' if self.db_host or self.db_database else 'sqlite')
        if self.db_engine not in DIALECTS:
            raise self.bad('db.engine: %s is not there yet; allowed: %s' % (
                self.db_engine, ', '.join(DIALECTS)))
        self.db_database = self.db_database or found.get('database', 'distributed_cron')
        if self.db_engine == found.get('engine') == 'sqlite':
            self.db_path = self.db_database
        self.db_path = self.path_of(self.db_path)
        hosts = self.db_host or found.get('host', 'localhost')
        self.hosts = [self.host_of(host, found.get('port', 3306)) for host in
                      (hosts if isinstance(hosts, list) else [hosts])]
        self.db_timeout = float(self.db_timeout or found.get('timeout', 2))
        if self.db_password_file:
            try:
                with open(self.path_of(self.db_password_file)) as stream:
                    self.db_password = stream.readline().rstrip('\r\n')
            except OSError as error:
                raise self.bad('db.password_file: %s' % error.strerror) from None

    def parsed(self, text):
        """A Perl DBI string, such as dbi:mysql:database=…;host=…;mysql_read_timeout=2,
        as engine, host, port, database and timeout."""
        drivers = {'mysql': 'mysql', 'mariadb': 'mysql', 'pg': 'postgresql',
                   'sqlite': 'sqlite'}
        names = {'database': 'database', 'dbname': 'database', 'db': 'database',
                 'host': 'host', 'port': 'port', 'mysql_socket': 'host',
                 'mysql_read_timeout': 'timeout'}
        head = re.match('(?i)dbi:(%s):' % '|'.join(drivers), text)
        if not head:
            if text:
                raise self.bad('db.connect_string: allowed: dbi:DRIVER:database=…;host=…'
                               ' with one of the drivers %s' % ', '.join(drivers))
            return {}
        found, rest = {'engine': drivers[head[1].lower()]}, text[head.end():]
        if '=' not in rest:  # database:host:port
            rest = ';'.join(map('='.join, zip(('db', 'host', 'port'), rest.split(':'))))
        for pair in filter(None, rest.split(';')):
            key, _, value = pair.partition('=')
            if key in names:
                found[names[key]] = value
            elif not re.match('mysql_|mariadb_|pg_|sqlite_', key):
                raise self.bad('db.connect_string: unknown %r; the nearest known is %s'
                               % (key, nearest(key, names)))
        for key, high in (('port', 65535), ('timeout', 60)):
            if not (re.fullmatch('[0-9]{1,5}', found.get(key, '1'))
                    and 1 <= int(found.get(key, 1)) <= high):
                raise self.bad('db.connect_string: %s %r; allowed: 1 to %d' % (
                    key, found[key], high))
        return found

    def host_of(self, text, port):
        """`host`, `host:port`, `[address]:port` or `/socket`: (host, port, socket)."""
        # localhost is the socket where there is one, as MySQL's own clients take it
        sockets = ['/run/mysqld/mysqld.sock', '/var/lib/mysql/mysql.sock'] * (
            text == 'localhost') + [text] * text.startswith('/')
        for socket in filter(os.path.exists, sockets):
            return 'localhost', 0, socket
        match = re.fullmatch(r'(/.*|\[[^][]+\]|[^/:\s]+)(?::([0-9]{1,5}))?', text)
        if not match or not 0 < int(match[2] or port) < 65536:
            raise self.bad('db.host: %r; allowed: host, host:port, [address]:port or '
                           '/socket' % text)
        return match[1].strip('[]'), int(match[2] or port), None

    def job_log(self, job):
        """The path of a job's log."""
        return os.path.join(self.log_location, '%d.log' % job)


def fits(value, rule):
    """Whether a value of the configuration file is what a key allows."""
    if isinstance(value, bool) or rule == FLAG:
        return rule == FLAG and isinstance(value, bool)
    if rule == SLOTS:
        return isinstance(value, str) and value in SHARES or fits(value, (1, 100000))
    if rule == TLS:
        return isinstance(value, dict) and set(value) <= {'ca', 'cert', 'key'}
    if rule == TEXTS and isinstance(value, list):
        return value and all(isinstance(item, str) for item in value)
    if rule in (TEXT, TEXTS):
        return isinstance(value, (str, int, float))
    if isinstance(rule[0], str):
        return value in rule
    return isinstance(value, (int, type(rule[0]))) and rule[0] <= value <= rule[1]


def words_for(rule):
    """What a key allows, for messages."""
    if isinstance(rule, str):
        return rule
    if isinstance(rule[0], str):
        return ', '.join(rule)
    return '%s from %s to %s' % (
        'a whole number' if isinstance(rule[0], int) else 'a number', *rule)


def flat(values, file):
    """Nested keys as dotted ones."""
    if not isinstance(values or {}, dict):
        raise BadConfig('%s: must be lines of `key: value`' % file)
    found = {}
    for key, value in (values or {}).items():
        if isinstance(value, dict):
            found.update(('%s.%s' % (key, name), item) for name, item in value.items())
        else:
            found[str(key)] = value
    return found


def nearest(word, words):
    """The known word that is most like this one."""
    import difflib
    return max(words, key=lambda known: difflib.SequenceMatcher(
        None, word, known).ratio())


def load_config(file, name=None):
    """Read a YAML configuration file. Raises BadConfig, one line."""
    try:
        import yaml
    except ImportError:
        raise BadConfig('PyYAML is missing; install python3-yaml, or: pip install '
                        'PyYAML') from None
    try:
        with open(file, encoding='utf-8') as stream:
            # The Perl program's own file is indented by tabs, which YAML forbids.
            text = re.sub(r'(?m)^[ \t]+', lambda white: white[0].expandtabs(4),
                          stream.read())
        return Config(yaml.safe_load(text), file, name)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, 'strerror', None) or 'is not UTF-8'
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, 'problem_mark', None)
        reason = '%sis not YAML: %s' % (
            'line %d: ' % (mark.line + 1) if mark else '',
            getattr(error, 'problem', None) or 'bad value')
    raise BadConfig('%s: %s' % (file, reason))


# =========================================================================== banner
# What crontab runs ends here. Below stand the commands that people type.

def main(arguments=None):
    """The command line; returns the exit status: 1 for what failed, 2 for bad usage."""
    try:
        args = parser().parse_args(arguments)
        if args.function is demo:
            return demo(args)
        config = load_config(args.config, args.name)
        return args.function(args, config)
    except Problem as problem:
        print('distributed_cron: %s' % ' '.join(str(problem).split()), file=sys.stderr)
        return 2 if isinstance(problem, (BadConfig, BadSchedule)) else 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # `… list | head` is no mistake
        return 0
    except KeyboardInterrupt:
        return 130


def parser():
    """The command line's grammar."""
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message):
            raise BadConfig('%s; see %s --help' % (message, self.prog))

    def whole(text):
        if re.fullmatch('[0-9]{1,9}', text):
            return int(text)
        raise argparse.ArgumentTypeError('%r; allowed: a whole number' % text)

    top = Parser(prog='distributed_cron.py', description=__doc__.split('\n\n')[0] + (
        ' Without a command it runs what is due and exits: the crontab line.'))
    top.add_argument('--config', metavar='FILE', help='the configuration file', default=(
        os.environ.get('DISTRIBUTED_CRON_CONFIG')
        or os.path.join(HERE, 'distributed_cron.yml')))
    top.add_argument('--name', metavar='HOST', help="this host's name, if not its own")
    top.set_defaults(function=run, forever=False)
    commands = top.add_subparsers(title='commands', metavar='COMMAND')
    number, numbers = dict(type=whole), dict(type=whole, nargs='+')
    options = {
        '--every': dict(number, metavar='MINUTES', dest='frequency'),
        '--schedule': dict(metavar='EXPR', help='a cron expression'),
        '--start': dict(metavar='HH:MM', dest='start_anchor', help='not before'),
        '--stop': dict(metavar='HH:MM', dest='stop_anchor', help='not from then on'),
        '--max-run-time': dict(number, metavar='MINUTES', help='then it is ended'),
        '--description': dict(metavar='TEXT'),
        '--inactive': dict(action='store_const', const=0, dest='active')}
    json_option = {'--json': dict(action='store_true', help='for programs')}
    for function, text, *specs in (
            (run, 'run what is due', {'--forever': dict(action='store_true')}),
            (init, 'create or upgrade the tables; keeps all data'),
            (add, 'add a job', options, {'command': {}}),
            (edit, 'change a job', {'id': number}, options, {'--command': {}}),
            (remove_jobs, 'delete jobs', {'id': numbers}),
            (enable, 'have jobs run', {'id': numbers}),
            (disable, 'have jobs not run', {'id': numbers}),
            (list_jobs, 'all jobs', json_option),
            (show, 'all about a job', {'id': number}, json_option),
            (run_now, 'run jobs at once, on any host', {'id': numbers}),
            (stop, 'end runs, on whichever host', {'id': numbers}),
            (next_times, 'the next times of a cron expression or a job', {
                'what': dict(metavar='EXPR|ID'), '-n': dict(number, default=5),
                '--from': dict(metavar="'YYYY-MM-DD HH:MM:SS'", dest='after')}),
            (history, 'the last runs', {'id': dict(number, nargs='?')},
             {'-n': dict(number, default=20)}, json_option),
            (log, 'what a job wrote', {'id': number, '-n': dict(number, default=20)},
             {'--follow': dict(action='store_true')}),
            (hosts, 'the machines', json_option),
            (import_crontab, 'take the entries of a crontab', {'file': {}}, {
                '--system': dict(action='store_true', help='with a user column'),
                '--max-run-time': dict(number, default=1440, metavar='MINUTES')}),
            (export, 'all jobs as a crontab'),
            (check, 'is all well? a line each'),
            (demo, 'three workers in a temporary folder')):
        name = {'list_jobs': 'list', 'remove_jobs': 'remove', 'next_times': 'next',
                'import_crontab': 'import'}.get(function.__name__, function.__name__)
        command = commands.add_parser(name.replace('_', '-'), help=text,
                                      description=text)
        command.set_defaults(function=function)
        for spec in specs:
            for flag, how in spec.items():
                command.add_argument(flag, **how)
    return top


def run(args, config):
    """run [--forever]"""
    return work(config, args.forever)


def opened(config):
    """A connected store."""
    store = Store(config)
    store.connect()
    return store


# Jobs, as the commands and the web page change them.

LIMITS = {'command': 12000, 'description': 255, 'schedule': 255}  # characters


def job_of(store, id):
    """The row of a job; Problem if there is none."""
    rows = store.query('SELECT * FROM job WHERE id = ?', id)
    if not rows:
        raise Problem('job %s does not exist; see: list' % id)
    return rows[0]


def checked_job(store, job, values):
    """A job's row with changed values, and its next run. Raises BadConfig."""
    job = job._replace(**values)
    for column, limit in LIMITS.items():
        size = len(getattr(job, column) or '')
        if size > limit or not size and column == 'command':
            raise BadConfig('%s: %d characters; allowed: 1 to %d' % (column, size, limit))
    if job.schedule is None and not 1 <= job.frequency <= 5256000:
        raise BadConfig('--every %d; allowed: 1 to 5256000 minutes' % job.frequency)
    most = 525600 if job.schedule is not None else max(1, job.frequency - 1)
    if not 1 <= job.max_run_time <= most:
        raise BadConfig('--max-run-time %d; allowed: 1 to %d minutes%s' % (
            job.max_run_time, most, '' if job.schedule is not None
            else ', less than --every'))
    now = store.now()
    return job, next_run(job, now, now, store.zone)


def values_of(args):
    """The columns that the options of add and edit set."""
    values = {name: getattr(args, name) for name in (
        'command', 'frequency', 'schedule', 'start_anchor', 'stop_anchor',
        'max_run_time', 'description', 'active') if getattr(args, name) is not None}
    if 'frequency' in values and 'schedule' in values:
        raise BadConfig('--every and --schedule: allowed: one of them')
    if 'frequency' in values:
        values['schedule'] = None
    for name in ('start_anchor', 'stop_anchor'):
        values.update({name: values.get(name) or None} if name in values else {})
    return values


def add_job(store, values):
    """Insert a job; returns its id and its next run, UTC. Raises BadConfig."""
    frequency = values.get('frequency', 60)
    blank = row_type(*JOB_COLUMNS)(
        0, 'Yet another cron', '', 1, None, None, frequency, max(1, frequency // 2),
        None, None, 'Never ran.', 'Never ran.', None, None, 0, None, None, None, 0, None)
    job, when = checked_job(store, blank, values)
    values = dict(values, max_run_time=job.max_run_time, next_run_utc=text_of(when))
    cursor = store.execute('INSERT INTO job (%s) VALUES (%s)' % (
        ', '.join(values), ', '.join('?' * len(values))), list(values.values()))
    return cursor.lastrowid, when


def edit_job(store, id, values):
    """Change a job; returns its next run, UTC. Raises BadConfig."""
    job = job_of(store, id)
    if 'frequency' in values and 'max_run_time' not in values:
        values = dict(values, max_run_time=max(1, min(
            job.max_run_time, values['frequency'] // 2)))
    _, when = checked_job(store, job, values)
    values = dict(values, next_run_utc=None)  # to be planned, by whichever worker
    store.execute('UPDATE job SET %s WHERE id = ?' % ', '.join(
        '%s = ?' % name for name in values), [*values.values(), id])
    return when


def when_text(store, when, now=None):
    """A UTC time in the database's zone, and how far away it is."""
    if when is None or when == PARKED:
        return 'to be planned' if when is None else 'never'
    seconds = (when - (now or store.now())).total_seconds()
    if seconds <= 0:
        return '%s, now' % text_of(store.zone.local(when))
    for size, unit in ((86400, 'days'), (3600, 'h'), (60, 'min'), (1, 's')):
        if seconds >= 2 * size or unit == 's':
            break
    return '%s, in %d %s' % (text_of(store.zone.local(when)), seconds / size, unit)


def add(args, config):
    """add"""
    store = opened(config)
    values = values_of(args)
    if 'max_run_time' not in values and values.get('schedule'):
        values['max_run_time'] = 60
    id, when = add_job(store, values)
    print('job %d, next run %s' % (id, when_text(store, when)))


def edit(args, config):
    """edit"""
    store = opened(config)
    print('job %d, next run %s' % (args.id, when_text(
        store, edit_job(store, args.id, values_of(args)))))


def for_each(args, config, sql, done):
    """One statement for each job named; the first that does not exist is an error."""
    store = opened(config)
    for id in args.id:
        job_of(store, id)
    for id in args.id:
        changed = store.change(sql, id)
        print('job %d: %s' % (id, done if changed else 'is not running'))


def remove_jobs(args, config):
    """remove"""
    for_each(args, config, 'DELETE FROM job WHERE id = ?', 'removed')


def enable(args, config):
    """enable"""
    for_each(args, config, 'UPDATE job SET active = 1, next_run_utc = NULL WHERE id = ?',
             'enabled')


def disable(args, config):
    """disable"""
    for_each(args, config, 'UPDATE job SET active = 0, next_run_utc = NULL WHERE id = ?',
             'disabled')


RUN_NOW = 'UPDATE job SET run_requested = 1, next_run_utc = {utc} WHERE id = ?'
STOP = '''UPDATE job SET stop_requested = run_no
          WHERE run_token IS NOT NULL AND id = ?'''


def run_now(args, config):
    """run-now"""
    for_each(args, config, RUN_NOW, 'will run now')


def stop(args, config):
    """stop"""
    for_each(args, config, STOP, 'will be ended')


def state_of(job, now):
    """A job's status in a word: running, overdue, disabled, lost, error, not due."""
    due, deadline = moment(job.next_run_utc), moment(job.run_deadline_utc)
    if job.run_token is not None:
        return 'overdue' if deadline and deadline < now else 'running'
    if not job.active and not job.run_requested:
        return 'disabled'
    if due and due < now - MINUTE:
        return 'overdue'
    if job.last_status.startswith('ERROR: lost'):
        return 'lost'
    return 'error' if job.last_status.startswith('ERROR') else 'not due'


def describe(job):
    """A job's schedule in words, with its window."""
    words = job.schedule
    if words is None:
        count, unit = next((job.frequency // size, unit) for size, unit in (
            (1440, 'day'), (60, 'hour'), (1, 'minute'))
            if job.frequency % size == 0)
        words = 'every ' + (unit if count == 1 else '%d %ss' % (count, unit))
    elif not words.startswith('@') and len(words.split()) == 5:
        words = words_of(*words.split())
    if job.start_anchor or job.stop_anchor:
        words += ', %s to %s' % ((job.start_anchor or '00:00')[:5],
                                 (job.stop_anchor or '24:00')[:5])
    return words


def words_of(minute, hour, day, month, week_day):
    """Five fields in words."""
    times = ['%02d:%02d' % (int(h), int(m)) for h in hour.split(',')
             for m in minute.split(',') if (h + m).isdecimal()]
    every = re.fullmatch(r'\*(?:/(\d+))?', minute)
    if times and len(times) == len(hour.split(',')) * len(minute.split(',')):
        words = 'at ' + ', '.join(times)
    elif every and hour == '*':
        words = 'every %s minutes' % every[1] if every[1] else 'every minute'
    else:
        words = 'at minute %s of %s' % (minute, 'each hour' if hour == '*'
                                        else 'hour ' + hour)
    for value, text in ((day, 'on day %s'), (week_day, 'on %s'), (month, 'in month %s')):
        words += ', ' + text % value if value != '*' else ''
    return words


def table(headings, rows):
    """Print a table for people: columns as wide as they need to be."""
    rows = [[' '.join(str('' if cell is None else cell).split()) for cell in row]
            for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *rows)]
    for row in [headings, *rows]:
        print('  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def short(text, most=40):
    """A text that fits a table."""
    return text if len(text) <= most else text[:most - 1] + '…'


def as_json(rows):
    """Print rows for programs."""
    print(json.dumps([row._asdict() for row in rows], indent=1, default=str))


def list_jobs(args, config):
    """list"""
    store = opened(config)
    jobs, now = store.query('SELECT * FROM job ORDER BY id'), store.now()
    if args.json:
        return as_json(jobs)
    table(['ID', 'STATUS', 'DESCRIPTION', 'COMMAND', 'SCHEDULE', 'LAST RUN',
           'LAST STATUS', 'NEXT RUN'],
          [(job.id, state_of(job, now), short(job.description, 30), short(job.command, 30),
            describe(job), job.last_start or 'never', short(job.last_status, 30),
            when_text(store, moment(job.next_run_utc), now)) for job in jobs])


def show(args, config):
    """show"""
    store = opened(config)
    job, now = job_of(store, args.id), store.now()
    if args.json:
        return as_json([job])
    facts = dict(job._asdict(), status=state_of(job, now), in_words=describe(job),
                 next_run=when_text(store, moment(job.next_run_utc), now))
    for name, value in facts.items():
        print('%-17s %s' % (name, '' if value is None else value))


def next_times(args, config):
    """next"""
    store = opened(config)
    now = store.now()
    if args.what.isdecimal():
        job = job_of(store, int(args.what))
    else:
        job = row_type(*JOB_COLUMNS)(*[None] * 3, 1, None, None, *[None] * 6, args.what,
                                     *[None] * 7)
    after = now
    if args.after:
        if not moment(args.after):
            raise BadConfig("--from %r; allowed: 'YYYY-MM-DD HH:MM:SS'" % args.after)
        after = store.zone.utc(moment(args.after))
    for _ in range(args.n):
        when = next_run(job, after, after, store.zone)
        if when == PARKED:
            break
        print(text_of(store.zone.local(when)))
        started = text_of(store.zone.local(when))
        job = job._replace(last_start=started, claimed_start=started)
        after = when


def history(args, config):
    """history"""
    store = opened(config)
    if args.id is not None:
        job_of(store, args.id)
    rows = store.query('SELECT * FROM run %s ORDER BY %s DESC LIMIT ?' % (
        ('WHERE job_id = %d' % args.id, 'run_no') if args.id is not None
        else ('', 'ended_at')), args.n)
    if args.json:
        return as_json(rows)
    table(['JOB', 'RUN', 'STARTED', 'SECONDS', 'WORKER', 'STATUS', 'OUTPUT'],
          [(row.job_id, row.run_no, row.started_at,
            '' if row.duration_ms is None else '%.1f' % (row.duration_ms / 1000),
            row.worker, row.status, short(row.output or '')) for row in rows])


def log(args, config):
    """log"""
    path = config.job_log(args.id)
    if not os.path.exists(path):
        store = opened(config)
        job_of(store, args.id)
        rows = store.query('''SELECT worker, output FROM run WHERE job_id = ?
                           ORDER BY run_no DESC LIMIT 1''', args.id)
        print('no log on this host; %s' % ('the last run, by %s, wrote:\n%s' % (
            rows[0].worker, rows[0].output or '') if rows else 'it never ran'))
        return
    with open(path, encoding='utf-8', errors='replace') as file:
        for line in deque(file, args.n):
            print(line, end='', flush=True)
        while args.follow:
            line = file.readline()
            print(line, end='', flush=True)
            if not line:
                time.sleep(0.2)
                if os.path.exists(path) and os.stat(path).st_ino != os.fstat(
                        file.fileno()).st_ino:
                    file = open(path, encoding='utf-8', errors='replace')


def hosts(args, config):
    """hosts"""
    store = opened(config)
    rows = store.query('SELECT * FROM host ORDER BY name')
    if args.json:
        return as_json(rows)
    table(['NAME', 'LAST SEEN', 'WORKER', 'VERSION', 'SLOTS', 'RUNNING', 'CLOCK SKEW'],
          [(*row[:-1], '%d ms' % row.skew_ms) for row in rows])


# The tables.

def schema():
    """distributed_cron.sql as [(table, {column: definition}, {index: columns})] and
    [(trigger, 'INSERT' or 'UPDATE', {column: expression})]."""
    with open(os.path.join(HERE, 'distributed_cron.sql'), encoding='utf-8') as file:
        text = re.sub('(?m)--.*$', '', file.read())
    tables, triggers = [], []
    for name, body in re.findall(r'(?s)CREATE TABLE IF NOT EXISTS (\w+) \((.*?)\n\)',
                                 text):
        columns, indexes = {}, {}
        for line in re.split(r',\n', body):
            word, rest = line.split(None, 1)
            if word == 'INDEX':
                indexes.update([rest.split(None, 1)])
            else:
                columns[word] = ' '.join(rest.split())
        tables.append((name, columns, indexes))
    for name, event, body in re.findall(
            r'(?s)CREATE TRIGGER (\w+) BEFORE (\w+) ON job FOR EACH ROW SET(.*?);', text):
        triggers.append((name, event, dict(
            re.findall(r'(?s)NEW\.(\w+) = (.*?)(?:,\n    (?=NEW)|$)', body.strip()))))
    return tables, triggers


def init(args, config):
    """init"""
    store = Store(config)
    store.connection = store.dialect.connect(create=True)
    for line in store.dialect.init(store, *schema()):
        print(line)
    store.close()
    opened(config)
    print('tables ready')


# Moving to and from crontab(5).

def quote(text):
    """A word of sh."""
    import shlex
    return shlex.quote(text)


def import_crontab(args, config):
    """import"""
    try:
        with open(args.file, encoding='utf-8', errors='surrogateescape') as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise BadConfig('%s: %s' % (args.file, error.strerror)) from None
    path = os.path.abspath(args.file)
    system = args.system or path == '/etc/crontab' or os.path.basename(
        os.path.dirname(path)) == 'cron.d'
    store = opened(config)
    there = {(job.schedule, job.frequency if job.schedule is None else 0, job.command)
             for job in store.query('SELECT schedule, frequency, command FROM job')}
    added = known = bad = 0
    for number, entry in entries(lines, system):
        try:
            if isinstance(entry, BadSchedule):
                raise entry
            values = dict({'max_run_time': args.max_run_time}, **entry)
            key = (values.get('schedule'), values.get('frequency', 0), values['command'])
            if key in there:
                known += 1
                continue
            add_job(store, values)
            there.add(key)
            added += 1
        except (BadConfig, BadSchedule, BadData) as problem:
            bad += 1
            print('%s: line %d: %s' % (args.file, number, problem), file=sys.stderr)
    print('%d added, %d were there, %d not taken' % (added, known, bad))
    return 1 if bad else 0


def entries(lines, system):
    """The entries of a crontab as (line number, columns or BadSchedule)."""
    variables, comment, options = {}, '', {}
    for number, line in enumerate(lines, 1):
        line = line.strip(' \t')
        assignment = re.fullmatch(r'''(["']?)(\w+)\1\s*=\s*(["']?)(.*?)\3''', line)
        try:
            if line.startswith('#:'):
                options = json.loads(line[2:])
                continue
            if options:
                line = line.lstrip('#')  # an inactive entry, as export writes it
            if line.startswith('#'):
                comment = line.lstrip('# ')
                continue
            if assignment:
                variables[assignment[2]] = assignment[4]
            elif line:
                values = entry_of(line, variables, system)
                if comment and not re.match(r'[\d*@]', comment):
                    values['description'] = comment[:255]
                yield number, dict(values, **options)
        except ValueError:
            yield number, BadSchedule('%r: is not what export writes' % line)
        except BadSchedule as problem:
            yield number, problem
        comment, options = '', {}


def entry_of(line, variables, system):
    """One entry of a crontab as columns of a job. Raises BadSchedule."""
    count = (1 if line.startswith('@') else 5) + system
    words = line.split(None, count)
    if len(words) <= count:
        raise BadSchedule('%r: allowed: %s, %sa command' % (
            line, 'five fields or a macro', 'a user, ' if system else ''))
    schedule, command = ' '.join(words[:count - system]), words[count]
    if {'CRON_TZ', 'TZ'} & set(variables):
        raise BadSchedule('under CRON_TZ: the time zone is the database\'s')
    parse(schedule)
    # crontab(5): the first bare % ends the command, its standard input follows.
    command, *stdin = [part.replace('\\%', '%')
                       for part in re.split(r'(?<!\\)%', command)]
    description = short(command, 255)
    if stdin:
        command = "printf '%%s\\n' %s | (%s\n)" % (' '.join(map(quote, stdin)), command)
    shell = variables.get('SHELL', '/bin/sh')
    if shell != '/bin/sh':
        command = 'exec %s -c %s' % (quote(shell), quote(command))
    exports = ' '.join('%s=%s' % (name, quote(value)) for name, value in
                       variables.items() if name not in ('SHELL', 'MAILTO'))
    if exports:
        command = 'export %s; %s' % (exports, command)
    if system and words[count - 1] != user_name():
        command = 'sudo -n -u %s -- /bin/sh -c %s' % (quote(words[count - 1]),
                                                      quote(command))
    return {'schedule': schedule, 'command': command, 'description': description}


def user_name():
    """The name of the user who runs this."""
    import pwd
    return pwd.getpwuid(os.getuid()).pw_name


def export(args, config):
    """export"""
    defaults = {'active': 1, 'start_anchor': None, 'stop_anchor': None}
    for job in opened(config).query('SELECT * FROM job ORDER BY id'):
        facts = {name: getattr(job, name) for name, default in defaults.items()
                 if getattr(job, name) != default}
        facts['max_run_time'] = job.max_run_time
        facts['description'] = job.description
        schedule, minutes = job.schedule, job.frequency
        if schedule is None:
            # What a crontab can say; `import` goes by the line of facts.
            facts.update(schedule=None, frequency=minutes)
            schedule = ('*/%d * * * *' % minutes if minutes < 60 else '0 */%d * * *' % (
                minutes // 60) if minutes < 1440 else '0 0 * * *')
        command = job.command.replace('%', '\\%')
        if '\n' in command:
            facts['command'] = job.command
            command = command.replace('\n', '; ')
        print('#: %s\n%s%s %s\n' % (json.dumps(facts), '' if job.active else '#',
                                    schedule, command))


def check(args, config):
    """check"""
    bad = 0

    def report(what, look):
        nonlocal bad
        try:
            print('ok   %s: %s' % (what, look()))
        except (Problem, OSError) as problem:
            bad = 1
            print('bad  %s: %s' % (what, problem))

    store = Store(config)
    report('config', lambda: config.file)
    report('folders', lambda: '%s, %s' % (
        config.log_location, State(config).folder))
    report('database', lambda: store.connect() or config.db_engine)
    if store.connection:
        report('schema', lambda: '%d jobs' % store.query('SELECT COUNT(*) FROM job')[0])
        report('time zone', lambda: 'UTC%+g h' % (
            store.zone.offset(store.now()).total_seconds() / 3600))
        report('clock skew', lambda: '%d ms' % (1000 * (time.time() - (
            store.now() - datetime(1970, 1, 1)).total_seconds())))
    return bad


# The demonstration.

def demo(args):
    """Three workers under three names on an embedded database; needs only Python."""
    import tempfile
    folder = tempfile.mkdtemp(prefix='distributed_cron_demo.')
    values = {'db.path': 'demo.db', 'log.location': 'log', 'max_tasks': 4,
              'kill_grace': 1, 'poll_seconds': 0.2}
    configs = [Config(values, os.path.join(folder, 'demo'), name)
               for name in ('alpha', 'beta', 'gamma')]
    for config in configs:
        config.minute = 1.5  # seconds: a job that runs out of time does so soon
    print('An embedded database and the logs of three workers are in %s\n' % folder)
    init(args, configs[0])
    store = opened(configs[0])
    add_job(store, {'description': 'left behind by a killed worker', 'max_run_time': 9,
                    'command': 'sleep 3; echo still here'})
    killed = start_worker(configs[2])
    wait_for(store, 'SELECT 1 FROM job WHERE run_token IS NOT NULL')
    time.sleep(0.5)
    os.kill(killed, signal.SIGKILL)
    os.waitpid(killed, 0)
    print('gamma-%d took job 1 and was killed; gamma starts again' % killed)
    for command in ('echo hello', 'date', 'uname -a', 'ls / | wc -l', 'sleep 1', 'id',
                    'echo to stderr >&2', 'seq 1000 | tail -1', 'printf "no newline"'):
        add_job(store, {'command': command, 'description': command})
    add_job(store, {'command': 'exit 3', 'description': 'fails'})
    add_job(store, {'command': 'sleep 60', 'description': 'runs out of time',
                    'frequency': 2, 'max_run_time': 1})
    workers = [start_worker(config) for config in configs]
    wait_for(store, 'SELECT 1 FROM run', 12)
    for worker in workers:
        os.kill(worker, signal.SIGTERM)
        os.waitpid(worker, 0)
    rows = store.query('''SELECT job_id, description, started_at, duration_ms, worker,
                       status FROM run JOIN job ON id = job_id ORDER BY job_id, run.run_no''')
    table(['JOB', 'DESCRIPTION', 'STARTED', 'MS', 'WORKER', 'STATUS'], rows)
    once = len(rows) == len({row.job_id for row in rows}) == 12
    print('\n%s\n' % ('Each of the 12 jobs ran once.' if once else 'NOT each ran once!'))
    print('Next: write your database into distributed_cron.yml, then\n'
          '  distributed_cron.py init\n  distributed_cron.py add --every 5 "date"\n'
          '  distributed_cron.py run --forever')
    return 0 if once else 1


def start_worker(config):
    """Fork a worker that loops; returns its process id."""
    process = os.fork()
    if not process:
        try:
            os._exit(work(config, forever=True))
        finally:
            os._exit(1)
    return process


def wait_for(store, sql, count=1):
    """Wait until a query has so many rows."""
    limit = time.monotonic() + 14
    while len(store.query(sql)) < count:
        if time.monotonic() > limit:
            raise Problem('demo: took too long')
        time.sleep(0.05)


if __name__ == '__main__':
    sys.exit(main())
