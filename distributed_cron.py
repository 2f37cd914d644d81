#!/usr/bin/env python3
"""Cron for several machines: one script, with a SQL database as all that they share.

Each host runs this, by its crontab every minute or as a loop (--forever). Each copy, a
worker, takes due jobs from the table `job`, runs them, and writes back how they ended.

Exact behaviour
 1. A job is due when next_run_utc has come by the database's clock; no host's decides
    anything. Windows and cron expressions are in the database's time zone.
 2. A frequency job runs `frequency` minutes after its last start, at once if it never
    ran; a job with a `schedule` when the cron expression says so.
 3. A window is [start_anchor, stop_anchor); one anchor alone: until, or from, midnight;
    a start after the stop crosses midnight. Outside it no run starts.
 4. One run of a job at a time, on any host. A worker claims it by one conditional
    UPDATE with a fresh token; who does not find its token in the row does not run it.
 5. A run longer than max_run_time, from its claim on, is ended with all that it
    started: SIGTERM, and SIGKILL after kill_grace seconds.
 6. Its deadline is max_run_time + kill_grace + 20 seconds after the claim: its host has
    ended it by then, with or without worker and database. Past it, any worker records
    it as lost. What was claimed and never started is due again at once.
 7. Missed while nobody was up: run once, late, if the window allows. Missed because
    the last run still ran: not made up for.
 8. Exit status 0 is 'Success', all else 'ERROR: …'. A run ends when the command
    itself ends; what it left in the background goes on.
 9. Daylight saving: a skipped time runs once, at the jump; one that comes twice, the
    first time. Expressions whose hour begins with * go on by elapsed time.
10. An edit wins over what was computed from the row before; a run keeps its command.
11. Worker and database may die at any moment: runners go on, and the host's next worker
    reports what they wrote into the state folder.
"""

import errno
import fcntl
import gc
import io
import json
import os
import re
import select
import selectors
import signal
import sys
import time
from collections import defaultdict, namedtuple
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import lru_cache, partial
from types import SimpleNamespace


########################################################################################
# words: constants, errors, times and records that all sections share
########################################################################################

VERSION = '1.0'
HERE = os.path.dirname(os.path.realpath(__file__))
CONFIG = os.environ.get('DISTRIBUTED_CRON_CONFIG') or HERE + '/distributed_cron.yml'
SECOND, MINUTE, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)
EPOCH, PARKED = datetime(1970, 1, 1), datetime(9999, 12, 31)  # PARKED is never due
CLAIM_SIZE = 128  # runs that one claim takes, and one runner holds, at most
SHARED = 4  # claims by which a worker takes but a share of what has fallen due
MARGIN = 20  # seconds from the last SIGKILL of a run to its deadline
STAY = 5  # a worker of the crontab stays for what is due within these seconds
OPEN_CLAIM = 3600  # seconds in which a claim whose answer was lost may still land
LOST = 'ERROR: lost: its runner was killed or its host restarted'


class Problem(Exception):
    """What a person can cause or mend: one line that says what to do."""


class BadConfig(Problem):
    """The command line or the configuration is wrong (exit status 2)."""


class BadSchedule(Problem):
    """A cron expression or a window that is wrong, or that can never match."""

    def __init__(self, text, column='schedule'):
        super().__init__(text)
        self.column = column


class Away(Problem):
    """The database can't be used now; connect again, to the next host of the list."""


class Again(Problem):
    """The statement lost against another one (deadlock, lock wait): repeat the step."""


class BadData(Problem):
    """The database refuses a row for what is in it."""


def command_line():
    """This program as it was typed, for messages that say what to type."""
    if __name__ == '__main__' and __spec__ is not None:
        return 'python3 -m ' + __spec__.name
    typed = os.path.basename(sys.argv[0])
    if __name__ == '__main__' or typed == 'distributed_cron':  # as pip installs it
        return typed
    return 'distributed_cron.py'


RUN_INIT = '; run: %s init' % command_line()  # at the end of messages


def line_of(problem):
    """What a Problem, or an error of the system, says, in one line."""
    if isinstance(problem, OSError):
        return '%s: %s' % (problem.filename or 'output', problem.strerror)
    return ' '.join(str(problem).split())


JOB_COLUMNS = (
    'id',
    'description',
    'command',
    'active',
    'start_anchor',
    'stop_anchor',
    'frequency',
    'max_run_time',
    'last_start',
    'last_end',
    'last_status',
    'last_worker',
    'schedule',
    'next_run_utc',
    'run_no',
    'run_token',
    'run_deadline_utc',
    'claimed_start',
    'run_requested',
    'stop_requested',
)
RUN_COLUMNS = (
    'job_id',
    'run_no',
    'due_utc',
    'started_at',
    'ended_at',
    'duration_ms',
    'worker',
    'status',
    'exit_code',
    'output',
)
HOST_COLUMNS = (
    'name',
    'last_seen',
    'worker',
    'version',
    'max_tasks',
    'running',
    'skew_ms',
)
# A row of `job`; as it stands, one that is not there.
Job = namedtuple('Job', JOB_COLUMNS, defaults=(None,) * len(JOB_COLUMNS))
# How a run ended. kind: 'done'; 'lost': its runner died; 'overdue': past its deadline,
# on whichever host; 'back': claimed and never started. ended: boottime, of that boot.
Ending = namedtuple(
    'Ending',
    'token job kind run_no status exit_code output '
    'duration_ms ended boot due started worker',
    defaults=(None, LOST, *(None,) * 8),
)
Look = namedtuple('Look', 'now due_in unplanned overdue')


def moment(value):
    """A time as the database says it: text, to a datetime; None for none."""
    with suppress(TypeError, ValueError):
        return datetime.fromisoformat(value)


def text_of(when):
    """A datetime as the database reads it, to the second; None for none."""
    return when and when.isoformat(' ', 'seconds')


def boottime():
    """Seconds since the machine's start, sleep included: no clock change moves it."""
    return time.clock_gettime(getattr(time, 'CLOCK_BOOTTIME', time.CLOCK_MONOTONIC))


@lru_cache(None)
def boot_id():
    """What names this boot of the machine; empty where the system has no such name."""
    return read_text('/proc/sys/kernel/random/boot_id').strip()


def read_text(path):
    """A file's text; empty when there is none."""
    with suppress(FileNotFoundError, NotADirectoryError):
        with open(path, encoding='utf-8', errors='replace') as file:
            return file.read()
    return ''


########################################################################################
# worker: the loop: report what ended, look, plan, start, pause
########################################################################################


def work(config, forever=False):
    """Run what is due; returns the exit status. From the crontab: until nothing runs or
    falls due within 5 seconds. With forever: until SIGTERM. One worker a host."""
    while os.open(os.devnull, os.O_RDWR) < 2:
        pass  # were 0 to 2 closed, a lock would be opened as one of them
    return Worker(config, forever).loop()


class Worker:
    """The process that claims, forks and reports. All that it must not forget is in
    the state folder; what it holds in memory is a copy."""

    def __init__(self, config, forever):
        self.forever, self.state, self.signals = forever, State(config), []
        self.claims = {}  # token -> Claim, for each file of the state folder
        self.stopping = self.misses = self.burst = self.failures = self.due_at = 0
        self.configure(config)

    def configure(self, config):
        self.config, self.store, self.next_hello = config, Store(config), 0
        self.name = '%s-%d' % (config.name, os.getpid())
        self.log = Log(config.worker_log, self.name, config.log_max_bytes)

    def loop(self):
        """Turn after turn until there is nothing to do; returns the exit status."""
        if not self.state.lock():
            self.log.write('Already running.')
            return 0
        self.log.write('worker starts: version %s' % VERSION)
        self.listen()
        pause = 0
        while not (self.stopping > 1 or pause and self.finished()):
            self.sleep(pause)
            try:
                pause = self.turn()
            except (Problem, OSError) as problem:
                pause = self.back_off(problem)
        left = sum(len(claim.runs) for claim in self.claims.values())
        if left:
            self.complain("%d runs go on, or wait for this host's next worker" % left)
        self.log.write('worker leaves')
        return 1 if self.failures else 0

    def turn(self):
        """One round of the steps; returns the seconds to sleep after it."""
        endings = self.settle()
        self.store.connect()
        self.end('end', endings)
        for token in {ending.token for ending in endings}:
            self.claims[token].reported()
        self.look_after_mine()
        asked, seen = boottime(), self.store.look()
        self.due_at = asked + seen.due_in
        done = self.store.reported and not self.forever and not self.running()
        if boottime() >= self.next_hello or done:  # the crontab's leaves soon
            self.next_hello = boottime() + 60
            self.store.hello(self.name, self.running(), seen.now)
        if seen.overdue:
            self.end('recover', self.store.overdue())
        moved = self.store.plan(seen.now) if seen.unplanned else 0
        slots = min(CLAIM_SIZE, self.config.max_tasks - self.running())
        startable = seen.due_in <= 0 < slots and not self.stopping
        self.burst = self.burst + startable if seen.due_in <= 0 else 0
        if startable:
            moved += self.start_due(slots, seen.now)
        self.failures = 0
        self.misses = self.misses + 1 if startable and not moved else 0
        if moved:  # go on; first with a pause in which other hosts take their share
            return 0.02 if 0 < self.burst <= SHARED and moved < slots else 0
        dying = any(claim.free and claim.runs for claim in self.claims.values())
        wait = 0.1 if dying else self.config.poll_seconds
        if startable:  # others were faster or the row can't be had: never a busy loop
            return min(wait, jitter(0.01 * 2 ** min(self.misses, 9)))
        left = max(0, self.due_at - boottime()) + 0.0005
        return wait if seen.due_in <= 0 else min(wait, left)

    def back_off(self, problem):
        """Say what is wrong, more and more seldom; returns the seconds to sleep."""
        if isinstance(problem, Again):
            return jitter(0.05)
        self.store.close()
        if self.failures & (self.failures - 1) == 0:
            self.complain(line_of(problem))
        self.failures += 1
        return jitter(min(4, 0.25 * 2 ** min(self.failures, 4)))

    def finished(self):
        if any(claim.landed for claim in self.claims.values()):
            # A drain does not wait for the database.
            return self.stopping and self.failures and not self.running()
        return (
            self.stopping
            or not self.forever
            and (self.failures or self.due_at - boottime() > STAY)
        )

    def running(self):
        return sum(len(claim.running()) for claim in self.claims.values())

    def complain(self, text):
        """Into the worker's log, and to stderr: cron mails it, systemd keeps it."""
        self.log.write(text)
        with suppress(OSError):  # a terminal that has gone
            print('distributed_cron: %s' % text, file=sys.stderr, flush=True)

    def listen(self):
        """Have signals end the sleep by the FIFO, as results do."""
        signal.set_wakeup_fd(self.state.fifo, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda number, _: self.signals.append(number))

    def sleep(self, seconds):
        """Sleep, or until a signal comes, which is obeyed, or a result is written. A
        turn costs the same for many: so then wait a bit for a quarter of them."""
        until, woken, running = boottime() + seconds, 0, self.running()
        while 4 * woken < max(1, running):
            left = until - boottime()  # of which Linux may be late by a thousandth
            if select.select([self.state.fifo], [], [], max(0, 0.998 * left))[0]:
                woken += len(os.read(self.state.fifo, 65536))
                until = min(until, boottime() + 0.02)
            elif left < 0.0001:
                break
        while self.signals:
            number = signal.Signals(self.signals.pop(0))
            if number == signal.SIGHUP:
                self.reload()
            elif number == signal.SIGCHLD:
                list(dead_children())  # buries them
            else:
                self.stopping += 1
                self.log.write(
                    '%s: drain, %d runs go on' % (number.name, self.running())
                )

    def reload(self):
        """Read the configuration again; a bad one changes nothing."""
        try:
            config = load_config(self.config.file, self.config.name)
            if config.state_location != self.config.state_location:
                raise config.bad('state.location: can change at a restart only')
            State(config)  # makes the folders, or says what is wrong with them
            self.store.close()
            self.configure(config)
            self.log.write('configuration read again')
        except Problem as problem:
            self.complain('%s; the old configuration stays' % problem)

    # The steps in the life of a run, in order. Those that are one statement or one
    # transaction stand in Store under the same name.

    def start_due(self, slots, now):
        """find, claim, collect, start: returns the number of runs started."""
        jobs = self.store.find(slots, share=self.burst <= SHARED)
        if not jobs:  # due by time, but for the window or a Perl worker's run
            self.store.plan(now, due=True)
            return 0
        claim = Claim(self.state.folder, os.urandom(16).hex())
        claim.create()
        self.claims[claim.token] = claim
        try:
            sent = boottime()
            rows = self.store.claim(jobs, claim.token, self.name)
            claim.landed = True
            claim.runs = {row.id: {} for row in rows}
            if rows:
                self.start(claim, [Run(row, claim, sent, self.config) for row in rows])
            return len(rows)
        except Again:
            claim.landed = True  # or never will
            raise
        finally:
            os.close(claim.file)  # never unlocked: the runner alone holds it now

    def start(self, claim, runs):
        """Fork one runner for the claim."""
        if os.fork():
            return self.log.write(
                'start: '
                + ', '.join('job %d run %d' % (run.job, run.run_no) for run in runs)
            )
        try:
            gc.freeze()  # the worker's garbage would close numbers that are ours now
            become_runner(claim.file)
            Runner(self.config, self.name, claim, runs).loop()
        except BaseException as error:
            Log(self.config.worker_log, self.name, 1 << 50).write('runner: %r' % error)
        finally:
            os._exit(0)

    def settle(self):
        """Learn from the state folder, without the database, what has ended; returns
        the Endings that are to be reported."""
        endings, folder = [], self.state.folder
        self.claims = {
            token: self.claims.get(token) or Claim(folder, token)
            for token in os.listdir(folder)
            if len(token) == 32
        }
        for claim in self.claims.values():
            claim.read()
            if claim.free and claim.running():
                self.end_orphans(claim)
            endings += [
                Ending(claim.token, job, **facts)
                for job, facts in claim.runs.items()
                if 'kind' in facts
            ]
        return endings

    def end_orphans(self, claim):
        """End what is left of the commands whose runner died; what is gone is lost."""
        marked, now = marked_processes(), boottime()
        claim.kill_at = claim.kill_at or now + self.config.kill_grace
        number = signal.SIGKILL if now > claim.kill_at else signal.SIGTERM
        for job in claim.running():
            left = marked.get('%s.%d' % (claim.token, job), ())
            for process in left:
                send_signal(os.kill, process, number)
            if not left:
                claim.runs[job]['kind'] = 'lost'

    def end(self, step, endings):
        """Report how runs have ended."""
        if endings:
            for refusal in self.store.end(endings):
                self.complain(refusal)
            self.log.write(
                *(
                    '%s: job %d run %s: %s'
                    % (step, ending.job, ending.run_no, ending.status)
                    for ending in endings
                )
            )

    def look_after_mine(self):
        """Pass on requests to stop; give back what was claimed and never started, also
        where the claim landed late; remove the files of claims that are done."""
        free = {token: claim for token, claim in self.claims.items() if claim.free}
        back = []
        for row in self.store.mine(self.claims, free) if self.claims else ():
            claim = self.claims[row.run_token]
            claim.landed = True
            if row.stop_requested == row.run_no:
                claim.stop(row.id)
            if claim.free and row.id not in claim.runs:
                ending = Ending(claim.token, row.id, 'lost', row.run_no)
                if claim.born:  # in this boot: what has no line of its start had none
                    ending = ending._replace(kind='back', status='never started')
                back.append(ending)
        self.end('give back', back)
        for token, claim in free.items():
            old = boottime() > claim.born + OPEN_CLAIM
            if not claim.runs and (claim.landed or old):
                self.claims.pop(token).remove()


def jitter(seconds):
    """From half of the seconds to all of them: so that workers don't keep step."""
    from random import uniform  # here, as a pass that finds nothing does without

    return uniform(seconds / 2, seconds)


########################################################################################
# runner: starts, limits and ends commands
########################################################################################


class Run:
    """One execution of a job, as its runner sees it."""

    def __init__(self, row, claim, sent, config):
        self.job, self.run_no, self.command = row.id, row.run_no, row.command
        self.due, self.started = row.next_run_utc, row.last_start
        self.mark = '%s.%d' % (claim.token, row.id)  # in the environment of its tree
        left = (moment(row.run_deadline_utc) - moment(row.now)).total_seconds()
        self.max_run_time = left - config.kill_grace - MARGIN  # in seconds
        # Counted from before the claim was sent: never later than the deadline.
        self.limit = sent + self.max_run_time
        self.process = self.exit = None  # exit: once the command has ended
        self.cause = self.kill_at = None  # why we end it, and when by SIGKILL
        self.tail = b''  # of its output


class Runner:
    """The forked child that owns the runs of one claim. It needs neither the worker
    nor the database: it starts, limits and stops them, and writes their results."""

    def __init__(self, config, worker, claim, runs):
        self.config, self.worker, self.claim = config, worker, claim
        self.waiting, self.live = runs, {}  # live: process id -> Run
        self.results = []  # until the disk has taken them
        self.wake = os.open(config.state_location + '/wake', os.O_RDWR | os.O_NONBLOCK)
        self.selector = selectors.DefaultSelector()
        signals, wakeup = os.pipe()  # readable when a signal comes
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        self.selector.register(
            signals, selectors.EVENT_READ, partial(os.read, signals, 4096)
        )
        self.next_check, self.environment = 0, dict(os.environ)

    def loop(self):
        """Start the commands, and stay until each has its result on the disk."""
        while self.waiting or self.live or self.results:
            # A few at a time, so that the first are reaped while the last start.
            for run in self.waiting[:8]:
                self.start(run)
            del self.waiting[:8]
            pause = 0 if self.waiting else max(0, self.next_check - boottime())
            for key, _ in self.selector.select(pause):
                key.data()  # copies output, or empties the pipe of signals
            for process, status in dead_children():
                run = self.live[process]
                run.exit = os.waitstatus_to_exitcode(status)
                if not run.cause:
                    self.finish(run, status_of(run.exit))
            if boottime() >= self.next_check:
                self.next_check = boottime() + (0.05 if self.limit() else 1)
            if self.results:
                self.keep()

    def keep(self):
        """Keep results over crashes, and wake whichever worker there is."""
        with suppress(OSError):  # a full disk: keep them, and the lock
            wake = b'.' * len(self.results)
            append(self.claim.file, *self.results)
            os.fsync(self.claim.file)
            self.results.clear()
            os.write(self.wake, wake)

    def start(self, run):
        """Start one command, unless too little of its time is left."""
        if run.limit - boottime() < run.max_run_time / 2:
            self.results.append(
                {
                    'job': run.job,
                    'kind': 'back',
                    'run_no': run.run_no,
                    'status': 'given back: its time is nearly over',
                }
            )
            return
        try:
            append(
                self.claim.file,
                {
                    'job': run.job,
                    'run_no': run.run_no,
                    'due': run.due,
                    'started': run.started,
                    'worker': self.worker,
                },
            )
        except OSError:
            return  # a full disk: without a file it is given back when this ends
        environment = dict(
            self.environment,
            DISTRIBUTED_CRON_JOB_ID=str(run.job),
            DISTRIBUTED_CRON_RUN_NO=str(run.run_no),
            DISTRIBUTED_CRON_RUN=run.mark,
            DISTRIBUTED_CRON_DUE=run.due.replace(' ', 'T') + 'Z' if run.due else '',
            DISTRIBUTED_CRON_WORKER=self.worker,
        )
        run.log = Log(
            self.config.job_log(run.job), self.worker, self.config.log_max_bytes
        )
        run.begun = time.monotonic()
        reader, output = os.pipe()
        os.set_blocking(reader, False)
        run.pipe = os.fdopen(reader, 'rb', buffering=0)
        self.selector.register(run.pipe, selectors.EVENT_READ, partial(self.copy, run))
        try:  # posix_spawn does not copy the runner's memory as a fork would
            run.process = os.posix_spawn(
                '/bin/sh',
                ['/bin/sh', '-c', run.command],
                environment,
                setsid=True,
                file_actions=[(os.POSIX_SPAWN_DUP2, output, to) for to in (1, 2)],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )  # which Python ignores
            self.live[run.process] = run
        except (OSError, ValueError) as error:
            self.finish(
                run,
                'ERROR: could not start: %s'
                % (getattr(error, 'strerror', None) or error),
            )
        finally:
            os.close(output)

    def copy(self, run):
        """Copy what is in a run's pipe to its log, in one read."""
        data = run.pipe.read(1 << 20)  # more than a pipe holds; None: nothing now
        if data:
            run.log.feed(data)
            run.tail = (run.tail + data[-4096:])[-4096:]
        elif data is not None:
            self.selector.unregister(run.pipe)
            run.pipe.close()

    def limit(self):
        """End what ran out of time or is to be stopped: SIGTERM to the whole tree, and
        SIGKILL after the grace. Returns the runs that are just being ended."""
        now, to_stop = boottime(), read_text(self.claim.path + '.stop').split()
        for run in self.live.values():
            minutes = max(1, round(run.max_run_time / self.config.minute))
            if not run.cause and now >= run.limit:
                run.cause = 'timed out after %d min' % minutes
            elif not run.cause and str(run.job) in to_stop:
                run.cause = 'stopped'
        ending = [run for run in self.live.values() if run.cause]
        marked = marked_processes() if ending else {}
        for run in ending:
            if run.kill_at is None:
                run.kill_at, number = now + self.config.kill_grace, signal.SIGTERM
            else:
                number = signal.SIGKILL if now > run.kill_at else 0  # 0: only look
            left = send_signal(os.killpg, run.process, number)
            for process in marked.get(run.mark, ()):
                send_signal(os.kill, process, number)
            # A group may be left that only holds zombies: these carry no mark.
            if run.exit is not None and not (run.mark in marked if HAS_PROC else left):
                send_signal(os.killpg, run.process, signal.SIGKILL)  # shed the mark
                self.finish(run, 'ERROR: ' + run.cause)
        return ending

    def finish(self, run, status):
        """The run has ended: read what is in its pipe, and keep its result."""
        if not run.pipe.closed:
            self.copy(run)  # once: a background process may write for ever
        if not run.log.at_start:
            run.log.feed(b'\n')
        self.live.pop(run.process, None)
        self.results.append(
            {
                'job': run.job,
                'kind': 'done',
                'status': status[:255],
                'exit_code': run.exit,
                'ended': boottime(),
                'boot': boot_id(),
                'output': run.tail.decode('utf-8', 'replace').replace('\0', '\ufffd'),
                'duration_ms': round(1000 * (time.monotonic() - run.begun)),
            }
        )


def become_runner(lock):
    """Make the forked child independent of its worker: no descriptor but the claim's
    lock, a session of its own, and no signal but SIGKILL ends it."""
    signal.set_wakeup_fd(-1)
    # Handlers, since commands would inherit SIG_IGN.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    os.closerange(3, lock)
    os.closerange(lock + 1, max(map(int, os.listdir('/dev/fd'))) + 1)


def dead_children():
    """Bury the children that have ended: (process id, wait status) of each."""
    with suppress(ChildProcessError):
        while (child := os.waitpid(-1, os.WNOHANG))[0]:
            yield child


HAS_PROC = os.path.exists('/proc/self/environ')


def marked_processes():
    """The processes that carry a run's mark, by mark; empty where there is no /proc."""
    found = {}
    for process in filter(str.isdigit, os.listdir('/proc') if HAS_PROC else ()):
        # OSError: it has ended since, or is another user's.
        with suppress(OSError), open('/proc/%s/environ' % process, 'rb') as file:
            text = b'\0' + file.read()
            for mark in re.findall(rb'\0DISTRIBUTED_CRON_RUN=([\w.]+)', text):
                found.setdefault(mark.decode(), []).append(int(process))
    return found


def send_signal(send, target, number):
    """Send a signal; False when there is nobody who could get it."""
    with suppress(ProcessLookupError, PermissionError):
        send(target, number)
        return True
    return False


@lru_cache(None)
def status_of(code):
    """The last_status for an exit status, or for a signal as a negative number."""
    names = {-number: ' (%s)' % number.name for number in signal.Signals}
    names.update({126: ' (not executable)', 127: ' (command not found)'})
    text = 'ERROR: %s %d' % ('signal' if code < 0 else 'exit', abs(code))
    return text + names.get(code, '') if code else 'Success'


class Log:
    """A log file, each line led by the worker's name and the host's local time. At
    max_bytes it becomes FILE.1, also during a run. A full disk loses lines, no run."""

    def __init__(self, path, name, max_bytes):
        self.path, self.name, self.max_bytes = path, name, max_bytes
        self.at_start = True  # of a line

    def write(self, *lines):
        self.feed(
            ''.join(line.replace('\n', ' ') + '\n' for line in lines).encode(
                'utf-8', 'replace'
            )
        )

    def feed(self, data):
        """Write a piece of a stream, wherever its lines begin and end."""
        stamp = ('%s: [%s] ' % (self.name, time.ctime())).encode('utf-8', 'replace')
        # Opened for each piece, so that it does not matter who else rotates it.
        with suppress(OSError), open(self.path, 'ab', buffering=0) as file:
            if file.tell() >= self.max_bytes:
                file.write(b'\n' * (not self.at_start))
                os.rename(self.path, self.path + '.1')
                self.at_start = True
                return self.feed(data)
            file.write(
                stamp * self.at_start
                + data[:-1].replace(b'\n', b'\n' + stamp)
                + data[-1:]
            )
            self.at_start = data.endswith(b'\n')


########################################################################################
# state: what a host remembers: the lock, and the lines of each claim
########################################################################################


class State:
    """The folder in which a host remembers its runs, whatever dies: `worker.lock`,
    `machine`, the FIFO `wake`, and a file for each claim, named by its token."""

    def __init__(self, config):
        key, self.folder = 'log.location', config.state_location
        self.wake = os.path.join(self.folder, 'wake')
        machine = os.path.join(self.folder, 'machine')
        self.mine = mine = read_text('/etc/machine-id').strip() or os.uname().nodename
        try:
            os.makedirs(config.log_location, exist_ok=True)
            open(config.worker_log, 'ab').close()
            key = 'state.location'
            os.makedirs(self.folder, 0o700, exist_ok=True)
            if (read_text(machine) or mine) != mine:  # its runs can't be seen here
                raise config.bad(
                    'state.location: %s is the folder of another machine; '
                    'each needs its own' % self.folder
                )
            self.lock_file = open(os.path.join(self.folder, 'worker.lock'), 'a')
        except OSError as error:
            raise config.bad('%s: %s' % (key, line_of(error))) from None

    def lock(self):
        """Become the host's one worker; False when there is one."""
        try:
            fcntl.flock(self.lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if not os.path.exists(self.wake):  # here, as two may start first at once
            with open(os.path.join(self.folder, 'machine'), 'wb', 0) as file:
                file.write(self.mine.encode())
                os.fsync(file.fileno())
            os.mkfifo(self.wake, 0o600)
        self.fifo = os.open(self.wake, os.O_RDWR | os.O_NONBLOCK)
        return True


class Claim:
    """The file of one claim, locked as long as its runner lives. Lines of JSON, only
    appended: when it was made; what a run is, before its start; and its end."""

    def __init__(self, folder, token):
        self.path, self.token = os.path.join(folder, token), token
        self.size = 0  # of what was read
        self.runs = {}  # job id -> facts, none before its start; until it is reported
        self.born = 0  # by boottime; at the machine's start, if that came later
        self.landed = self.free = False  # answered; held by no runner
        self.kill_at = 0  # when what a dead runner left gets SIGKILL

    def create(self):
        """Make the file, before the claim is sent, and lock it."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL
        self.file = os.open(self.path, flags, 0o600)
        fcntl.flock(self.file, fcntl.LOCK_EX)
        try:
            append(self.file, {'boot': boot_id(), 'born': boottime()})
        except OSError:  # a full disk: nothing is claimed
            os.close(self.file)
            self.remove()
            raise

    def read(self):
        """Learn what was appended since, and whether a runner holds the claim."""
        with open(self.path, 'rb') as file:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.free = True  # asked first: so what its runner wrote is seen below
            file.seek(self.size)
            lines = file.read().rpartition(b'\n')[0]
        self.size += len(lines)
        for line in lines.split(b'\n'):
            with suppress(ValueError):  # cut off by a crash, or by a full disk
                facts = json.loads(line)
                for job in facts.get('reported', ()):
                    self.runs.pop(job, None)
                if 'job' in facts:
                    self.runs.setdefault(facts.pop('job'), {}).update(facts)
                    self.landed = True
                elif facts.get('boot') == boot_id():
                    self.born = facts['born']
        if self.free:
            self.runs = {job: facts for job, facts in self.runs.items() if facts}

    def running(self):
        """The jobs whose runs have no end yet."""
        return [job for job, facts in self.runs.items() if 'kind' not in facts]

    def reported(self):
        """Forget what has ended; a line keeps the next worker from reporting it."""
        jobs = [job for job, facts in self.runs.items() if 'kind' in facts]
        for job in jobs:
            del self.runs[job]
        with suppress(OSError), open(self.path, 'ab', buffering=0) as file:
            append(file.fileno(), {'reported': jobs})

    def stop(self, job):
        """Ask the runner to end a run."""
        with open(self.path + '.stop', 'a') as file:
            file.write('%d\n' % job)

    def remove(self):
        for path in self.path + '.stop', self.path:
            with suppress(FileNotFoundError):
                os.unlink(path)


def append(file, *lines):
    """Add lines to a claim's file; the one before may have been cut off."""
    data = ''.join('\n%s\n' % json.dumps(line) for line in lines).encode()
    if os.write(file, data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


########################################################################################
# store: the steps in the life of a run, a statement or a transaction each
########################################################################################

PLANNED_FROM = ('schedule', 'frequency', 'start_anchor', 'stop_anchor', 'active')
CLAIMED = '''id, run_no, command, next_run_utc, last_start, run_deadline_utc,
    {utc_exact} AS now'''


class Store:
    """The database, as the steps in the life of a run; each is one statement or one
    transaction. Times are text, as in the tables, unless a docstring says otherwise.
    Raises Away, Again, BadData or Problem."""

    def __init__(self, config):
        self.config, self.dialect = config, DIALECTS[config.db_engine](config)
        self.connection, self.reported = None, {}  # reported: job id -> run_no

    def look(self):
        """What a poll needs to know, in one statement; now is a datetime, UTC."""
        now, due, unplanned, overdue = self.query('''
            SELECT {utc_exact}, (SELECT next_run_utc FROM job
                WHERE run_token IS NULL AND next_run_utc IS NOT NULL
                ORDER BY {by_due} LIMIT 1),
            EXISTS (SELECT 1 FROM job WHERE run_token IS NULL AND next_run_utc IS NULL),
            EXISTS (SELECT 1 FROM job WHERE run_deadline_utc <= {utc})''')[0]
        due_in = (moment(due) or PARKED) - moment(now)
        return Look(moment(now), due_in.total_seconds(), unplanned, overdue)

    def plan(self, now, due=False):
        """Give jobs that have none their next_run_utc, or park them; with due: those
        whose time has come, but not their window. Returns how many."""
        planned, which = 0, '<= {utc} AND NOT {allowed}' if due else 'IS NULL'
        read = (*PLANNED_FROM, 'run_requested', 'next_run_utc')
        unedited = ' AND '.join('%s {same} :%s' % (name, name) for name in read)
        rows = self.query(
            '''SELECT * FROM job WHERE run_token IS NULL
            AND next_run_utc %s LIMIT 500'''
            % which
        )
        with self.transaction():
            for job in sorted(rows):
                when, status = self.plan_of(job, now)
                planned += self.change(
                    '''UPDATE job SET next_run_utc = :when, last_status = :status
                    WHERE id = :id AND run_token IS NULL AND '''
                    + unedited,
                    when=text_of(when),
                    status=status[:255],
                    id=job.id,
                    **{name: getattr(job, name) for name in read},
                )
        return planned

    def plan_of(self, job, now):
        """When a job is due next, and its last_status: bad schedules are parked."""
        try:
            when = now if job.run_requested else next_run(job, now, now, self.zone)
        except UNPLANNABLE as error:
            return PARKED, 'ERROR: schedule: %s' % error
        mended = job.last_status.startswith('ERROR: schedule:')
        return when, 'Planned.' if mended else job.last_status

    def find(self, count, share=False):
        """Ids of so many due jobs, at random among the first of them; with share: of
        an eighth, where all could be had."""
        found = self.query(
            'SELECT id FROM job WHERE {due} ORDER BY {by_due} LIMIT :count',
            count=count + CLAIM_SIZE,
        )
        if share and len(found) <= count:
            count = max(3, len(found) // 8)
        from random import sample

        return sorted(row.id for row in sample(found, min(count, len(found))))

    def claim(self, jobs, token, worker):
        """Take those of the jobs that are still due; returns what it took."""
        # stop_requested 0: the run was requested, and is again if it is given back
        update = '''UPDATE job SET run_token = :token, run_no = run_no + 1,
            last_start = {local}, claimed_start = {local}, last_worker = :worker,
            run_deadline_utc = {deadline},
            stop_requested = CASE WHEN run_requested = 1 THEN 0 END, run_requested = 0
            WHERE id IN (:jobs) AND {due}'''
        values = {
            'token': token,
            'worker': worker,
            'minute': self.config.minute,
            'slack': self.config.kill_grace + MARGIN,
            'jobs': jobs,
        }
        if self.dialect.returning:
            return self.query('%s RETURNING %s' % (update, CLAIMED), **values)
        return self.collect(token) if self.change(update, **values) else []

    def collect(self, token):
        """What a claim took, and the time, by which one knows what is left of it."""
        return self.query(
            'SELECT %s FROM job WHERE run_token = :token' % CLAIMED, token=token
        )

    def end(self, endings):
        """Write how runs ended, in one transaction. A row that the database refuses is
        tried alone, then without output, and never holds up the others; returns what is
        to be said of those that it does not take at all."""
        try:
            with self.transaction():
                self.end_all(endings)
            return []
        except BadData as problem:
            if len(endings) > 1:
                return sum((self.end([ending]) for ending in endings), [])
            if endings[0].output is not None:
                return self.end([endings[0]._replace(output=None)])
            return ['job %d: its end is not recorded: %s' % (endings[0].job, problem)]

    def end_all(self, endings):
        # The rows are locked, in order: no edit comes between, and none can deadlock.
        ids, history, alike = {ending.job for ending in endings}, [], defaultdict(list)
        jobs = {
            row.id: row
            for row in self.query(
                'SELECT * FROM job WHERE id IN (:ids) ORDER BY id {lock}', ids=list(ids)
            )
        }
        now = self.now()
        for ending in sorted(endings, key=lambda ending: ending.job):
            job = jobs.get(ending.job, Job())
            held, done = job.run_token == ending.token, ending.kind == 'done'
            late = done and not job.run_token and job.run_no == ending.run_no
            run, values = self.end_one(ending, job, now, held)
            if held or late:  # late: it was taken for lost, and no run came after
                alike[values].append(job.id)
            elif not done and (
                ending.kind != 'lost'
                or self.query(
                    'SELECT 1 FROM run WHERE job_id = :job AND run_no = :run_no',
                    job=run[0],
                    run_no=run[1],
                )
            ):
                continue  # its own worker, or another, was faster
            if ending.kind != 'back' and run[1] is not None:
                self.reported[ending.job] = run[1]
                history.append(run)
        for values, ids in alike.items():
            last_end, last_status, next_run_utc, run_requested = values
            self.change(
                '''UPDATE job SET last_end = :last_end, last_status = :last_status,
                next_run_utc = :next_run_utc, run_requested = :run_requested,
                run_token = NULL, run_deadline_utc = NULL, stop_requested = NULL
                WHERE id IN (:ids)''',
                last_end=last_end,
                last_status=last_status,
                next_run_utc=next_run_utc,
                run_requested=run_requested,
                ids=ids,
            )
        self.upsert('run', RUN_COLUMNS, history)

    def end_one(self, ending, job, now, held):
        """What to write of the end of one run: its row of the history, and what its job
        gets of last_end, last_status, next_run_utc and run_requested."""
        run_no, started = ending.run_no or job.run_no, ending.started or job.last_start
        ended = min(now, moment(job.run_deadline_utc) or now)  # if it is lost
        if ending.ended is not None and ending.boot == boot_id():
            ended = now - max(0, boottime() - ending.ended) * SECOND
        local, when = max(text_of(self.zone.local(ended)), started or ''), None
        run = (
            ending.job,
            run_no,
            ending.due or job.next_run_utc,
            started,
            local,
            ending.duration_ms,
            ending.worker or job.last_worker or '',
            ending.status,
            ending.exit_code,
            ending.output,
        )
        if ending.kind == 'back':  # due again at once, with its old due time
            return run, (
                local,
                job.last_status,
                job.next_run_utc,
                int(job.run_requested == 1 or job.stop_requested == 0),
            )
        if job.run_requested or job.next_run_utc is None or not held:
            return run, (local, ending.status, job.next_run_utc, job.run_requested)
        # Not before it was due, should the database's clock have been set back.
        after = max(ended, min(now, moment(job.next_run_utc) or ended))
        with suppress(*UNPLANNABLE):  # plan will say what is wrong with it
            when = text_of(next_run(job, after, now, self.zone))
        return run, (local, ending.status, when, 0)

    def mine(self, tokens, free):
        """Rows of my claims that are to be stopped, or that no runner holds (free)."""
        return self.query(
            '''SELECT id, run_token, run_no, stop_requested FROM job
            WHERE run_token IN (:tokens)
            AND (stop_requested = run_no OR run_token IN (:free))''',
            tokens=list(tokens),
            free=list(free),
        )

    def overdue(self):
        """Endings of runs, of whichever host, that are past their deadline."""
        lost = 'ERROR: lost: no word of %s by the deadline'
        return [
            Ending(
                row.run_token,
                row.id,
                'overdue',
                row.run_no,
                lost % row.last_worker[:200],
            )
            for row in self.query(
                '''SELECT id, run_no, run_token, last_worker FROM job
            WHERE run_deadline_utc <= {utc} ORDER BY run_deadline_utc LIMIT 200'''
            )
        ]

    def hello(self, worker, running, now):
        """Say that this host is there; throw away history, a small batch at a time."""
        config, local = self.config, self.zone.local(now)
        skew = time.time() - (now - EPOCH).total_seconds()
        self.upsert(
            'host',
            HOST_COLUMNS,
            [
                (
                    config.name,
                    text_of(local),
                    worker,
                    VERSION,
                    config.max_tasks,
                    running,
                    round(1000 * skew),
                )
            ],
        )
        old = self.query(
            '''SELECT job_id, run_no FROM run WHERE ended_at < :before
            ORDER BY ended_at LIMIT 2000''',
            before=text_of(local - config.history_days * DAY),
        )
        many = [
            {'job_id': job, 'run_no': run_no - config.history_runs}
            for job, run_no in sorted(self.reported.items())
        ]
        delete = 'DELETE FROM run WHERE job_id = :job_id AND run_no %s :run_no'
        with self.transaction():
            self.execute_many(delete % '=', [row._asdict() for row in sorted(old)])
            self.execute_many(delete % '<=', many)
        self.reported.clear()

    # What the steps stand on.

    def connect(self):
        """Connect, if there is no connection; then look at its tables. Returns self."""
        if self.connection is None:
            self.connection = self.dialect.connect()
            self.zone = Zone(self.local_time)
            self.query('SELECT stop_requested FROM job, run, host WHERE 1 = 0')
            for unsafe in self.query(self.dialect.unsafe):
                raise Problem(
                    'table %s is %s and must be InnoDB%s' % (*unsafe, RUN_INIT)
                )
        return self

    def close(self):
        """Close the connection, if there is one."""
        connection, self.connection = self.connection, None
        if connection is not None:
            with suppress(self.dialect.driver.Error):  # it was gone already
                connection.close()

    def query(self, text, **values):
        """The rows of one statement, fetched at once."""
        cursor = self.execute(text, **values)
        make = row_type(*[column[0] for column in cursor.description])._make
        with self.translated_errors():
            return [make(row) for row in cursor.fetchall()]

    def change(self, text, **values):
        """The number of rows that one statement matched."""
        return self.execute(text, **values).rowcount

    def upsert(self, table, columns, rows):
        """Insert rows, instead of those that have their keys."""
        text = self.dialect.upsert.format(
            table=table,
            columns=', '.join(columns),
            marks=marks(columns),
            new=', '.join('%s = excluded.%s' % (name, name) for name in columns),
        )
        self.execute_many(text, [dict(zip(columns, row)) for row in rows])

    def insert(self, table, values):
        """Insert a row of these columns; returns its id."""
        text = 'INSERT INTO %s (%s) VALUES (%s)' % (
            table,
            ', '.join(values),
            marks(values),
        )
        if self.dialect.returning:
            return self.query(text + ' RETURNING id', **values)[0].id
        return self.execute(text, **values).lastrowid

    def execute(self, text, **values):
        """One statement, in which `:name` is a value; a list is as many values."""
        lists = {
            name: value
            for name, value in values.items()
            if isinstance(value, (list, tuple))
        }
        for name, items in lists.items():
            values.update(zip(marks_of_list(name, len(items)), items))
        sizes = tuple((name, len(items)) for name, items in lists.items())
        text = self.dialect.statement(text, sizes)
        with self.translated_errors():
            cursor = self.connection.cursor()
            cursor.execute(text, values)
            return cursor

    def execute_many(self, text, rows):
        """One statement for each of many rows, which are dictionaries of its values."""
        if rows:
            text = self.dialect.statement(text, ())
            with self.translated_errors():
                self.connection.cursor().executemany(text, rows)

    @contextmanager
    def translated_errors(self):
        """A driver's errors as ours; a connection that is gone is closed."""
        try:
            yield
        except self.dialect.driver.Error as error:
            problem = self.dialect.problem(error)
            if isinstance(problem, Away):
                self.close()
            raise problem from None
        except (UnicodeError, OverflowError) as error:  # of an argument
            raise BadData(str(error)) from None

    @contextmanager
    def transaction(self):
        """All statements in it, or none."""
        self.execute(self.dialect.begin)
        try:
            yield
            self.execute('COMMIT')
        except BaseException:
            if self.connection is not None:
                self.execute('ROLLBACK')
            raise

    def now(self):
        """The database's time, a datetime, UTC."""
        return moment(self.query('SELECT {utc_exact}')[0][0])

    def local_time(self, when):
        """A UTC datetime as wall-clock time of the database's zone: it alone knows."""
        return moment(self.query('SELECT {to_local}', when=text_of(when))[0][0])


def marks(names):
    """A mark for each of the names of values."""
    return ', '.join(':' + name for name in names)


def marks_of_list(name, size):
    """The names under which the values of a list are sent."""
    return ['%s_%d' % (name, number) for number in range(size)]


@lru_cache(None)
def row_type(*names):
    """The type of a row with these columns."""
    return namedtuple('Row', names, rename=True)


########################################################################################
# schedule: windows, cron expressions, time zones, and the next run
########################################################################################

# SQLite takes any text as a number; and last_start may be the calendar's first day.
UNPLANNABLE = BadSchedule, ArithmeticError, TypeError, ValueError


def next_run(job, after, now, zone):
    """When a job, a row of `job`, runs next, a UTC datetime; PARKED if never. after: an
    expression's next time is strictly after it. now: where it is outside the window, a
    time before it is past. Raises BadSchedule."""
    if not job.active:
        return PARKED
    start, stop = window_of(job)
    if job.schedule is None:
        when, minutes = now, min(max(job.frequency, 1), 5256000)
        if job.last_start != job.claimed_start:  # a worker of the Perl program's
            minutes = max(minutes, min(job.max_run_time, 525600))
        if moment(job.last_start):
            when = zone.utc_before(moment(job.last_start), now) + minutes * MINUTE
        if when < now and not in_window(zone.local(now), start, stop):
            when = now
        return opening(when, start, stop, zone)
    expression = parse(job.schedule)
    if not any(in_window(EPOCH + at, start, stop) for at in expression.day_times):
        raise BadSchedule(
            '%r has no time from %s to %s'
            % (job.schedule, start, stop.replace('24:00:00', 'midnight'))
        )
    while when := expression.next_utc(after, zone):
        opens = opening(when, start, stop, zone)
        if opens == when:
            return when
        after = opens - SECOND
    return PARKED


def window_of(job):
    """The ends of a job's window, as text, from 00:00:00 to 24:00:00."""
    ends = []
    for name, default in (('start_anchor', '00:00'), ('stop_anchor', '24:00')):
        value = getattr(job, name) or default
        if value != default and not re.fullmatch(
            '([01][0-9]|2[0-3])(:[0-5][0-9]){1,2}', value
        ):
            raise BadSchedule('%r; allowed: 00:00 to 23:59' % value, name)
        ends.append((value + ':00')[:8])
    if ends[0] == ends[1]:
        raise BadSchedule(
            '%r is equal to start_anchor: an empty window' % job.stop_anchor,
            'stop_anchor',
        )
    return ends


def in_window(local, start, stop):
    """Whether a wall-clock time is in a window, [start, stop)."""
    at = local.time().isoformat()
    return start <= at < stop if start < stop else not stop <= at < start


def opening(after, start, stop, zone):
    """The first time in a window, UTC, not before `after`."""
    when, date = after, zone.local(after)
    while when < after or not in_window(zone.local(when), start, stop):
        when = zone.utc(datetime.fromisoformat('%s %s' % (date.date(), start)))
        date += DAY
    return when


class Expression:
    """A cron expression: five fields, or a macro such as @daily; see crontab(5)."""

    MACROS = {
        '@yearly': '0 0 1 1 *',
        '@annually': '0 0 1 1 *',
        '@monthly': '0 0 1 * *',
        '@weekly': '0 0 * * 0',
        '@daily': '0 0 * * *',
        '@midnight': '0 0 * * *',
        '@hourly': '0 * * * *',
    }
    # name, lowest, highest, the names of values, what else is allowed
    FIELDS = (
        ('minute', 0, 59, [], ''),
        ('hour', 0, 23, [], ''),
        ('day-of-month', 1, 31, [], ', L, LW, 15W'),
        (
            'month',
            1,
            12,
            [
                'jan',
                'feb',
                'mar',
                'apr',
                'may',
                'jun',
                'jul',
                'aug',
                'sep',
                'oct',
                'nov',
                'dec',
            ],
            ' or jan-dec',
        ),
        (
            'day-of-week',
            0,
            7,
            ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'],
            ' or sun-sat, 5L, 5#2',
        ),
    )

    def __init__(self, text):
        fields = self.MACROS.get(text.strip().lower(), text).lower().split()
        if len(fields) != 5:
            raise BadSchedule(
                '%r: %s; allowed: five fields, or %s'
                % (
                    text,
                    'a job belongs to no machine whose start could count'
                    if fields == ['@reboot']
                    else '%d fields' % len(fields),
                    ' '.join(self.MACROS),
                )
            )
        minutes, hours, self.month_days, self.months, self.week_days = map(
            self.field, range(5), fields
        )
        self.day_times = [
            (60 * hour + minute) * MINUTE
            for hour in sorted(hours)
            for minute in sorted(minutes)
        ]
        # Debian's cron: a field that begins with * counts as unrestricted.
        self.either = not (fields[2].startswith('*') or fields[4].startswith('*'))
        self.elapsed = fields[1].startswith('*')
        if self.next_local(datetime(2000, 1, 1)) is None:
            raise BadSchedule('%r never matches: the calendar has no such day' % text)

    def field(self, index, text):
        name, low, high, names, more = self.FIELDS[index]
        number = {
            form % value: value
            for value in range(low, high + 1)
            for form in ('%d', '%02d')
        }
        number.update((name, low + value) for value, name in enumerate(names))
        special = {}  # what depends on the month stays text: l, lw, 15w; 5l, 5#2
        if name == 'day-of-month':
            special = {word + 'w': '%dw' % number[word] for word in number}
            special.update(l='l', lw='lw')
        elif name == 'day-of-week':
            special = {
                word + end: '%d%s' % (number[word] % 7, end)
                for word in number
                for end in ('l', '#1', '#2', '#3', '#4', '#5')
            }
        top, values = 6 if high == 7 else high, set()
        for part in text.split(','):
            if part in special:
                values.add(special[part])
                continue
            span, slash, step = part.partition('/')
            span = '%d-%d' % (low, top) if span == '*' else span
            first, dash, last = span.partition('-')
            begin = number.get(first)
            end = number.get(last) if dash else top if slash else begin
            if high == 7 and begin and end == 0:
                end = 7  # FRI-SUN
            if (
                begin is None
                or end is None
                or begin > end
                or not re.fullmatch('0*[1-9][0-9]{0,3}', step if slash else '1')
            ):
                raise BadSchedule(
                    '%s %r: bad value %r; allowed: %d-%d%s, *, a-b, '
                    'steps /n' % (name, text, part, low, high, more)
                )
            values.update(range(begin, end + 1, int(step or 1)))
        return {0 if (high, value) == (7, 7) else value for value in values}

    def days(self, year, month):
        """The days of a month that match, in order."""
        first = datetime(year, month, 1)
        count = ((first + 31 * DAY).replace(day=1) - first).days
        week_day = {day: (first.weekday() + day) % 7 for day in range(1, count + 1)}
        working = [day for day in week_day if 1 <= week_day[day] <= 5]
        named = {'l': count, 'lw': working[-1], **{day: day for day in week_day}}
        for day in week_day:  # W, as in Quartz: the nearest weekday within the month
            named['%dw' % day] = min((abs(one - day), one) for one in working)[1]
        by_month = {named[value] for value in self.month_days & set(named)}
        by_week = {
            day
            for day in week_day
            if self.week_days
            & {
                week_day[day],
                '%d#%d' % (week_day[day], (day + 6) // 7),
                '%dl' % week_day[day] if day + 7 > count else '',
            }
        }
        return sorted(by_month | by_week if self.either else by_month & by_week)

    def next_local(self, after):
        """The first wall-clock time strictly after this one; None if there is none."""
        start = 12 * after.year + after.month - 1
        for number in range(start, start + 600):
            year, month = divmod(number, 12)
            if month + 1 in self.months and year < 9999:
                for day in self.days(year, month + 1):
                    midnight = datetime(year, month + 1, day)
                    for at in self.day_times if midnight + DAY > after else ():
                        if midnight + at > after:
                            return midnight + at
        return None

    def next_utc(self, after, zone):
        """The first UTC time strictly after this one, through daylight saving as
        Debian's cron: a skipped time runs at the jump, one that comes twice the first
        time. For a * in the hour by elapsed time: what the clock shows twice runs
        twice, what it skips does not run."""
        local = shown = zone.local(after)
        found = []
        if self.elapsed:  # if the clock is put back soon: what it will show again
            local = min(shown, after + zone.offset(after + DAY / 8))
        while not (found and local > shown) and (local := self.next_local(local)):
            times = zone.times(local) if self.elapsed else [zone.utc(local)]
            found += [when for when in times if when > after]
        return min(found, default=None)


@lru_cache(4096)
def parse(text):
    """The Expression of a text; raises BadSchedule."""
    return Expression(text)


class Zone:
    """The database's time zone, learned by asking for UTC times as wall-clock times:
    the databases differ in turning them back, so here is the one rule for that."""

    SLOT = timedelta(minutes=15)  # offsets change on the quarter hour

    def __init__(self, ask):
        self.ask = lru_cache(10000)(ask)  # from a UTC datetime to a wall-clock one

    def offset(self, when):
        """The offset of wall-clock time from UTC at a UTC time."""
        if when.year > 2037:  # databases end there; years repeat after 28
            when = when.replace(year=2010 + (when.year - 2010) % 28)
        slot = when - (when - EPOCH) % self.SLOT
        return self.ask(slot) - slot

    def local(self, when):
        return when + self.offset(when)

    def times(self, local):
        """The UTC times at which the clock shows this: none, one or two."""
        found = {local - self.offset(local + days * DAY) for days in (-1, 1)}
        return sorted(when for when in found if self.local(when) == local)

    def utc(self, local):
        """A wall-clock time as UTC: the first, where it comes twice; the moment of the
        jump, where it is skipped."""
        while not (times := self.times(local)):
            local += self.SLOT - (local - EPOCH) % self.SLOT  # the clock jumped to one
        return times[0]

    def utc_before(self, local, now):
        """The last UTC time not after `now` at which the clock showed this."""
        times = self.times(local) or [self.utc(local)]
        return max([when for when in times if when <= now] or times[:1])


########################################################################################
# dialects: the databases: their words, connections and errors
########################################################################################


def pieces_of(**words):
    """The SQL that differs between databases, and the conditions built of it."""
    # The rules on rows, as the triggers have them; a year, so that no time overflows.
    limit = '''{least}(525600, CASE
        WHEN schedule IS NOT NULL THEN {greatest}(max_run_time, 1)
        WHEN max_run_time >= 1 AND max_run_time < frequency THEN max_run_time
        ELSE {greatest}(frequency >> 1, 1) END)'''
    words['deadline'] = words['later'] % ('{utc}', '(%s) * :minute + :slack' % limit)
    wait = '60 * {greatest}({least}(frequency, 5256000), {least}(max_run_time, 525600))'
    # Where last_start is not ours, a worker of the Perl program may be at it.
    words['allowed'] = '''((run_requested = 1 OR (active = 1
        AND CASE WHEN start_anchor > stop_anchor
            THEN {time} >= start_anchor OR {time} < stop_anchor
            ELSE COALESCE({time} >= start_anchor, 1 = 1)
             AND COALESCE({time} < stop_anchor, 1 = 1) END))
        AND (schedule IS NOT NULL OR last_start IS NULL OR %s <= {local}
             OR COALESCE(claimed_start = last_start, 1 = 0)))''' % (
        words['later'] % ('last_start', wait)
    )
    words['due'] = 'run_token IS NULL AND next_run_utc <= {utc} AND ' + words['allowed']
    return {name: text.format(**words) for name, text in words.items()}


class Dialect:
    """A database: its words, as data, and what it alone does."""

    mark, begin, returning, other_words = '%%(%s)s', 'BEGIN', False, ()
    upsert = 'REPLACE INTO {table} ({columns}) VALUES ({marks})'
    port = 3306  # unless the configuration says another
    unsafe = 'SELECT 1 WHERE 1 = 0'  # tables that are not transactional

    def __init__(self, config):
        self.statement = lru_cache(1000)(self.translated)
        try:
            self.config, self.driver = config, __import__(self.module)
        except ImportError:
            raise BadConfig(
                '%s: db.engine: %s needs %s; install python3-%s, or: pip install %s'
                % (config.file, config.db_engine, *[self.module] * 3)
            ) from None

    def translated(self, text, sizes):
        """A statement in this database's words and its driver's marks. sizes: the
        (name, length) of values that are lists; an empty one is NULL."""

        def mark(found):
            names = [found[1]]
            if found[1] in lists:
                names = marks_of_list(found[1], lists[found[1]])
            return ', '.join(self.mark % name for name in names) or 'NULL'

        lists = dict(sizes)
        text = text.format(**self.pieces)
        if self.mark.startswith('%'):
            text = text.replace('%', '%%')
        return re.sub(r'(?<![\w:]):([a-z]\w*)', mark, text)

    def connect(self, create=False):
        """Connect to the first host that will do; create: make the database too."""
        for host in list(self.config.hosts):
            try:
                return self.open(create, *host)
            except (self.driver.Error, RuntimeError) as error:
                problem = self.problem(error)
            if not isinstance(problem, Away):
                break
            self.config.hosts.append(self.config.hosts.pop(0))
        raise problem

    def problem(self, error):
        """An error by how its code begins; the databases' manuals list them."""
        code, text = self.code_and_text(error)
        for codes, kind, advice in self.errors:
            if re.match('(?s)' + codes, code):
                return kind(text + advice)
        return Away(text)

    def init(self, store, statement):
        """Execute one statement of distributed_cron.sql, in the database's words. A
        table that was there gets what it lacks."""
        tables = re.findall(r'(?s) EXISTS (\w+) \((.*)\)', statement)
        for theirs, ours in self.other_words:
            statement = re.sub(theirs, ours, statement)
        try:
            store.execute(statement)
        except Problem as problem:
            if 'TRIGGER' not in statement:
                raise
            if 'CREATE TRIGGER job_changes' in statement:
                print(
                    'note: no trigger (%s); the workers keep the rules, but after a '
                    'change by hand set next_run_utc to NULL' % problem
                )
        for table, rules in tables:
            self.upgrade(store, table, [rule.strip() for rule in rules.split(',\n')])

    def upgrade(self, store, table, rules):
        there = store.execute('SELECT * FROM %s WHERE 1 = 0' % table).description
        for rule in rules:
            kind, name, more = rule.split(None, 2)
            if kind == 'INDEX':
                store.execute(
                    'CREATE INDEX IF NOT EXISTS %s ON %s %s' % (name, table, more)
                )
            elif kind not in ('PRIMARY', *(column[0] for column in there)):
                self.init(store, 'ALTER TABLE %s ADD COLUMN %s' % (table, rule))


class SQLite(Dialect):
    """One file, for one host. Its time zone is the process's."""

    module, mark, begin = 'sqlite3', ':%s', 'BEGIN IMMEDIATE'
    pieces = pieces_of(
        utc="datetime('now')",
        utc_exact="strftime('%Y-%m-%d %H:%M:%f', 'now')",
        local="datetime('now', 'localtime')",
        time="time('now', 'localtime')",
        to_local="datetime(:when, 'localtime')",
        same='IS',
        greatest='MAX',
        least='MIN',
        lock='',
        by_due='next_run_utc',
        later="datetime(%s, '+' || (%s) || ' seconds')",
    )
    errors = (
        (r'\w+: no such (table|column)', Problem, RUN_INIT),
        ('IntegrityError|DataError', BadData, ''),
        ('.*locked', Again, ''),
    )
    other_words = (  # than distributed_cron.sql
        (
            'INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY',
            'INTEGER PRIMARY KEY AUTOINCREMENT',
        ),
        (r',\s+INDEX \w+ \(.*?\)| ENGINE=.*', ''),
        ('<=>', 'IS'),
        ('GREATEST', 'MAX'),
        ('BEFORE', 'AFTER'),
        (r'NEW\.(\w+) = ', r'\1 = '),
        ('UPDATE ON', 'UPDATE OF max_run_time, %s ON' % ', '.join(PLANNED_FROM)),
        (r'(?s)FOR EACH ROW SET(.*)', r'BEGIN UPDATE job SET\1 WHERE id = NEW.id; END'),
    )

    def open(self, create, *_):
        path = self.config.db_path
        if not create and not os.path.exists(path):
            raise Problem('%s: no such database%s' % (path, RUN_INIT))
        connection = self.driver.connect(
            path, timeout=self.config.db_timeout, isolation_level=None
        )
        connection.execute('PRAGMA journal_mode = WAL').fetchall()
        connection.execute('PRAGMA synchronous = FULL')
        connection.text_factory = lambda text: text.decode('utf-8', 'replace')
        return connection

    def code_and_text(self, error):
        return '%s: %s' % (type(error).__name__, error), '%s: %s' % (
            self.config.db_path,
            error,
        )


class MySQL(Dialect):
    """MySQL and MariaDB, by PyMySQL."""

    module = 'pymysql'
    unsafe = '''SELECT table_name, engine FROM information_schema.tables
        WHERE table_schema = DATABASE() AND table_name IN ('job', 'run', 'host')
        AND engine <> 'InnoDB' '''
    pieces = pieces_of(
        utc='UTC_TIMESTAMP()',
        utc_exact='UTC_TIMESTAMP(6)',
        local='NOW()',
        time='CURRENT_TIME()',
        to_local="CONVERT_TZ(:when, '+00:00', @@session.time_zone)",
        same='<=>',
        greatest='GREATEST',
        least='LEAST',
        lock='FOR UPDATE',
        by_due='next_run_utc',
        later='(%s + INTERVAL (%s) SECOND)',
    )
    errors = (
        ('1020|1205|1213', Again, ''),
        ('1048|1062|126|1292|1366|1406|1690', BadData, ''),
        ('1049|1054|1146', Problem, RUN_INIT),
        ('1044|1142|1419', Problem, '; the account needs more rights'),
        ('1045', Problem, '; look at db.username and db.password'),
        ('2003', Away, '; is it up? look at db.host'),
    )

    def open(self, create, host, port, socket):
        config, types = self.config, self.driver.constants.FIELD_TYPE
        timeout = None if create else config.db_timeout
        local = socket or host in ('localhost', '127.0.0.1', '::1')
        connect = partial(
            self.driver.connect,
            host=host,
            port=port,
            unix_socket=socket,
            user=config.db_username,
            password=config.db_password,
            ssl=config.db_tls,
            database=None if create else config.db_database,
            charset='utf8mb4',
            autocommit=True,
            connect_timeout=config.db_timeout,
            read_timeout=timeout,
            write_timeout=timeout,
            client_flag=self.driver.constants.CLIENT.FOUND_ROWS,
            conv={
                **self.driver.converters.conversions,
                types.TIME: str,  # stay text
                types.DATETIME: str,
                types.TIMESTAMP: str,
            },
        )
        try:  # without TLS, for which PyMySQL reads all certificates, where it may be
            connection = connect(ssl_disabled=bool(local and not config.db_tls))
        except RuntimeError:  # MySQL 8 takes a password by TLS, or by `cryptography`
            connection = connect()
        cursor = connection.cursor()
        cursor.execute('SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED')
        # A lock is waited for less long than an answer: so a claim is never in doubt.
        cursor.execute(
            "SET SESSION sql_mode = 'STRICT_ALL_TABLES', "
            'innodb_lock_wait_timeout = %d' % max(1, config.db_timeout - 1)
        )
        if cursor.execute("SHOW VARIABLES LIKE 'wsrep_sync_wait'"):
            cursor.execute('SET SESSION wsrep_sync_wait = 7')  # Galera: no stale reads
        cursor.execute('SELECT @@global.read_only')
        if cursor.fetchone()[0]:
            raise self.driver.OperationalError(1290, 'the server is read-only')
        if create:
            make = 'CREATE DATABASE IF NOT EXISTS `%s` CHARACTER SET utf8mb4'
            cursor.execute(make % config.db_database.replace('`', '``'))
            connection.select_db(config.db_database)
        return connection

    def code_and_text(self, error):
        number, text = (*error.args, '', '')[:2]
        where = ', '.join(host[2] or '%s:%d' % host[:2] for host in self.config.hosts)
        return str(number), 'database %s: error %s: %s' % (
            where,
            number,
            str(text).split(' (')[0],
        )

    def upgrade(self, store, table, rules):
        modernize(store, table, rules)


def modernize(store, table, rules):
    """Bring an old table of MySQL, such as the Perl program's, to these rules."""
    there = {row[0] for row in store.query('SHOW COLUMNS FROM ' + table)}.union(
        row[2] for row in store.query('SHOW INDEX FROM ' + table)
    )
    new = [
        rule for rule in rules if rule.removeprefix('INDEX ').split()[0] not in there
    ]
    if new or table in dict(store.query(store.dialect.unsafe)):
        changes = [
            'MODIFY ' + rule
            for rule in rules  # texts, as wide as they are now
            if 'VARCHAR' in rule and 'KEY' not in rule and rule not in new
        ]
        changes += ['ADD ' + rule for rule in new]
        store.execute(
            'ALTER TABLE %s ENGINE=InnoDB, CONVERT TO CHARACTER SET '
            'utf8mb4, %s' % (table, ', '.join(changes))
        )


class PostgreSQL(Dialect):
    """PostgreSQL, by psycopg 3. With clock_timestamp() it would use no index."""

    module, port, returning = 'psycopg', 5432, True
    upsert = (
        'INSERT INTO {table} ({columns}) VALUES ({marks}) '
        'ON CONFLICT ON CONSTRAINT {table}_pkey DO UPDATE SET {new}'
    )
    pieces = pieces_of(
        utc="date_trunc('second', statement_timestamp() AT TIME ZONE 'UTC')",
        utc_exact="to_char(statement_timestamp() AT TIME ZONE 'UTC', "
        "'YYYY-MM-DD HH24:MI:SS.US')",
        local="date_trunc('second', CAST(statement_timestamp() AS timestamp))",
        time="CAST(date_trunc('second', statement_timestamp()) AS time)",
        to_local="CAST(CAST(:when AS timestamp) AT TIME ZONE 'UTC' AS timestamp)",
        same='IS NOT DISTINCT FROM',
        greatest='GREATEST',
        least='LEAST',
        lock='FOR UPDATE',
        later="(%s + (%s) * INTERVAL '1 second')",
        by_due='run_token, next_run_utc',
    )  # all of the index, or it sorts all rows
    other_words = (
        ('NOT NULL AUTO_INCREMENT', 'GENERATED BY DEFAULT AS IDENTITY'),
        ('INT UNSIGNED', 'BIGINT'),
        (r'TINYINT\(1\)', 'SMALLINT'),
        ('DATETIME', 'TIMESTAMP(0)'),
        (r',\s+INDEX \w+ \(.*?\)| ENGINE=.*', ''),
        (r'\bTIME NULL', 'TIME(0) NULL'),
        ('<=>', 'IS NOT DISTINCT FROM'),
        (r'(DROP TRIGGER .*)', r'\1 ON job'),
        (r',\n    NEW\.', r';\n    NEW.'),
        (
            r'(?s)CREATE TRIGGER (\w+) (.*) SET(.*)',
            r'CREATE OR REPLACE FUNCTION \1() RETURNS trigger LANGUAGE plpgsql AS $$ '
            r'BEGIN\3; RETURN NEW; END $$; CREATE TRIGGER \1 \2 EXECUTE FUNCTION \1()',
        ),
    )
    errors = (
        ('40|55P03|57014', Again, ''),  # None: the driver knows no SQLSTATE
        ('42P01|42703', Problem, RUN_INIT),
        ('42501', Problem, '; the account needs more rights'),
        ('28|None.*authentication', Problem, '; look at db.username and db.password'),
        ('3D000|None.*database "', Problem, '; make it: createdb'),
        ('22|23|None.*NUL', BadData, ''),
    )

    def open(self, create, host, port, socket):
        config, limit = self.config, 0 if create else int(1000 * self.config.db_timeout)
        os.environ.pop('PGTZ', None)  # it would be this host's time zone
        tls = {
            'sslrootcert' if key == 'ca' else 'ssl' + key: path
            for key, path in (config.db_tls or {'mode': 'prefer'}).items()
        }
        connection = self.driver.connect(
            host=socket or host,
            port=port,
            user=config.db_username,
            autocommit=True,
            password=config.db_password,
            dbname=config.db_database,
            keepalives_idle=1,
            connect_timeout=max(2, int(config.db_timeout)),
            tcp_user_timeout=limit,
            options='-c datestyle=ISO -c client_encoding=utf8 -c lock_timeout=%d '
            '-c statement_timeout=%d' % (limit // 2, limit),
            **{'sslmode': 'verify-full', **tls},
            keepalives_interval=1,
        )
        for kind in ('timestamp', 'time'):  # which stay text
            connection.adapters.register_loader(
                kind, self.driver.types.string.TextLoader
            )
        if connection.execute('SELECT pg_is_in_recovery()').fetchone()[0]:
            raise self.driver.OperationalError('the server is a standby, read-only')
        return connection

    def code_and_text(self, error):
        code, text = getattr(error, 'sqlstate', None), str(error).strip()
        return '%s: %s' % (code, text), 'database: ' + text.split('\n')[0]


DIALECTS = {'sqlite': SQLite, 'mysql': MySQL, 'postgresql': PostgreSQL}


########################################################################################
# config: the configuration file, and what it allows
########################################################################################

KEYS = {  # key: (default, what is allowed)
    **dict.fromkeys(
        (
            'db.connect_string',
            'db.username',
            'db.password',
            'db.password_file',
            'state.location',
        ),
        (None, 'text'),
    ),
    'db.engine': (None, 'one of: sqlite, mysql, postgresql'),
    'db.path': ('distributed_cron.db', 'text'),
    'db.host': ('localhost', 'text, or a list of texts'),
    'db.database': ('distributed_cron', 'text'),
    'db.timeout': (2, 'a number from 1 to 60'),
    'db.tls': (None, 'keys among: ca, cert, key'),
    'log.location': ('/tmp/distributed_cron', 'text'),
    'log.max_bytes': (10000000, 'a whole number from 1000 to 1e15'),
    'max_tasks': (
        'cpu_full',
        'a whole number from 1 to 1e5, or one of: cpu_full, cpu_half, cpu_quarter',
    ),
    'clear_old_on_start': (True, 'yes or no'),
    'poll_seconds': (1, 'a number from 0.1 to 60'),
    'kill_grace': (10, 'a number from 0 to 30'),
    'history.days': (30, 'a whole number from 1 to 36500'),
    'history.runs': (1000, 'a whole number from 1 to 1e15'),
    'web.readonly': (False, 'yes or no'),
    'web.editors': ((), 'a list of texts'),
}
PERL_KEYS = {  # of a DBI string, such as dbi:mysql:database=…;mysql_read_timeout=2
    'database': 'db.database',
    'dbname': 'db.database',
    'db': 'db.database',
    'host': 'db.host',
    'mysql_socket': 'db.host',
    'port': 'port',
    'mysql_read_timeout': 'db.timeout',
}


def fits(value, allowed):
    """Whether a value of the configuration file is what its key allows."""
    number = re.match(r'a( whole)? number from (\S+) to ([^\s,]+)', allowed)
    names = allowed.rpartition(': ')[2].split(', ')
    if isinstance(value, bool):
        return allowed == 'yes or no'
    if number and isinstance(value, int if number[1] else (int, float)):
        return float(number[2]) <= value <= float(number[3])
    if isinstance(value, dict):
        return allowed.startswith('keys') and set(value) <= set(names)
    if isinstance(value, list):
        return 'list' in allowed and {*map(type, value)} == {str}
    return allowed.startswith('text') or ('one of' in allowed and value in names)


class Config:
    """The configuration, checked: `log.max_bytes` is log_max_bytes, and so on. Times
    are in seconds, paths absolute."""

    minute = 60  # seconds that a minute of max_run_time lasts; the demo has short ones

    def __init__(self, values, file, name=None):
        """values: the file's keys, nested or dotted. Raises BadConfig."""
        self.file, self.name = file, name or os.uname().nodename
        if not re.fullmatch(r'[^/.\s][^/\s]{0,190}', self.name):
            raise BadConfig(
                '--name %r; allowed: 1 to 191 characters without / and '
                'space' % self.name
            )
        flat = dict(self.flat(values or {}))
        given = self.perls(str(flat.get('db.connect_string', '')))
        port = given.pop('port', None)
        given.update(flat)
        for key, value in given.items():
            if key not in KEYS:
                raise self.unknown('key', key, KEYS)
            allowed = KEYS[key][1]
            if not fits(value, allowed):
                raise self.bad(
                    '%s: %s is not allowed; allowed: %s'
                    % (key, 'this' if 'password' in key else repr(value), allowed)
                )
            given[key] = str(value) if allowed == 'text' else value
        given.setdefault(
            'db.engine',
            'mysql' if {'db.host', 'db.database'} & set(given) else 'sqlite',
        )
        for key, (default, _) in KEYS.items():
            setattr(self, key.replace('.', '_'), given.get(key, default))
        hosts = self.db_host if isinstance(self.db_host, list) else [self.db_host]
        port = port or DIALECTS[self.db_engine].port
        self.hosts = [self.host_of(str(host), port) for host in hosts]
        share = {'cpu_full': 1, 'cpu_half': 2, 'cpu_quarter': 4}.get(self.max_tasks)
        if share:
            self.max_tasks = max(1, (os.cpu_count() or 1) // share)
        self.db_path = self.path_of(self.db_path)
        self.log_location = self.path_of(self.log_location)
        self.state_location = self.path_of(
            self.state_location or os.path.join(self.log_location, 'state-' + self.name)
        )
        self.worker_log = os.path.join(self.log_location, self.name + '.log')
        self.db_tls = self.db_tls and {
            key: self.path_of(str(path)) for key, path in self.db_tls.items()
        }
        if self.db_password_file:
            self.db_password = self.first_line(self.path_of(self.db_password_file))

    def first_line(self, path):
        try:
            with open(path) as stream:
                return stream.readline().rstrip('\r\n')
        except OSError as error:
            raise self.bad('db.password_file: %s' % error.strerror) from None

    def bad(self, text):
        return BadConfig('%s: %s' % (self.file, text))

    def unknown(self, what, word, words):
        import difflib

        return self.bad(
            'unknown %s %r; the nearest known is %s'
            % (what, word, difflib.get_close_matches(word, words, 1, 0)[0])
        )

    def path_of(self, path):
        """A path in the file is relative to the file's folder."""
        return os.path.join(os.path.dirname(os.path.abspath(self.file)), path)

    def job_log(self, job):
        return os.path.join(self.log_location, '%d.log' % job)

    def flat(self, values, section=''):
        """Nested keys as dotted ones, with their values; without what is empty."""
        if not isinstance(values, dict):
            raise self.bad('must be lines of `key: value`')
        for key, value in values.items():
            if isinstance(value, dict) and not section:
                yield from self.flat(value, '%s.' % key)
            elif value not in (None, ''):
                yield '%s%s' % (section, key), value

    def perls(self, text):
        """The keys that a Perl DBI string stands for."""
        _, driver, rest = re.match(
            '(?i)(dbi:(mysql|mariadb|pg|sqlite):(.*))?', text
        ).groups(default='')
        if text and not driver:
            raise self.bad(
                'db.connect_string; allowed: dbi:DRIVER:database=D;host=H '
                'with a DRIVER of mysql, mariadb, pg, sqlite'
            )
        names = {'mariadb': 'mysql', 'pg': 'postgresql', '': None}
        found = {'db.engine': names.get(driver.lower(), driver.lower())}
        for pair in filter(None, rest.split(';')):
            name, _, value = pair.partition('=')
            if name in PERL_KEYS:
                found[PERL_KEYS[name]] = value
            elif not name.startswith(('mysql_', 'mariadb_', 'pg_', 'sqlite_')):
                raise self.unknown('key in db.connect_string:', name, PERL_KEYS)
        if re.fullmatch('[0-9]+', found.get('db.timeout', '')):
            found['db.timeout'] = int(found['db.timeout'])
        if found['db.engine'] == 'sqlite':
            found['db.path'] = found.pop('db.database', None)
        return {key: value for key, value in found.items() if value is not None}

    def host_of(self, text, port):
        """`host`, `host:port`, `[address]:port` or `/socket`: (host, port, socket)."""
        if text.startswith('/'):
            return 'localhost', 0, text
        full = text if ':' in text.rpartition(']')[2] else '%s:%s' % (text, port)
        match = re.fullmatch(r'(\[[^][]+\]|[^/:\s]+):([0-9]{1,5})', full)
        if not match or '..' in text or not 0 < int(match[2]) < 65536:
            raise self.bad(
                'db.host: %r; allowed: host, host:port, [address]:port or '
                '/socket, with a port of 1 to 65535' % full
            )
        # localhost is the socket where there is one, as MySQL's own clients take it
        for socket in '/run/mysqld/mysqld.sock', '/var/lib/mysql/mysql.sock':
            if full == 'localhost:3306' and os.path.exists(socket):
                return text, 0, socket
        return match[1].strip('[]'), int(match[2]), None


def load_config(file, name=None):
    """Read a YAML configuration file. Raises BadConfig, one line."""
    try:
        import yaml
    except ImportError:
        raise BadConfig(
            'PyYAML is missing; install python3-yaml, or: pip install PyYAML'
        ) from None
    try:
        with open(file, encoding='utf-8') as stream:
            # The Perl program's own file has tabs before values, which YAML forbids.
            text = re.sub(
                r'(?m)^[ \t]*([\w.]+:[ \t]+)?',
                lambda before: before[0].expandtabs(4),
                stream.read(),
            )
        # Of a stream an error quotes no line, which may be that of the password.
        return Config(yaml.safe_load(io.StringIO(text)), file, name)
    except OSError as error:
        raise BadConfig('%s: %s' % (file, error.strerror)) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadConfig('%s: is not YAML: %s' % (file, line_of(error))) from None


# ======================================================================================
# = banner: what crontab runs ends here; below are the commands that people type
# ======================================================================================


########################################################################################
# jobs: what the commands and the web page share: columns, checks, changes and words
########################################################################################


def whole_number(text):
    """An argument of the command line as an int; argparse reports what is wrong."""
    if not re.fullmatch('[0-9]{1,9}', text):
        from argparse import ArgumentTypeError

        raise ArgumentTypeError('%r; allowed: a whole number, up to 9 digits' % text)
    return int(text)


# What a column holds. json: its types in a fact of an exported crontab. argument: what
# argparse must know to read its option.
Kind = namedtuple('Kind', 'json argument')
TEXT = Kind((str,), {})
MINUTES = Kind((int,), {'type': whole_number, 'metavar': 'MINUTES'})
ACTIVE = Kind((int,), {'action': 'store_const', 'const': 0, 'help': 'save it disabled'})
CLOCK = Kind((str, type(None)), {'metavar': 'HH:MM'})
EXPRESSION = Kind((str, type(None)), {'metavar': 'EXPR'})

# A column of `job` that people may change. Options, checks, import and export, the form
# of the page and the table in the README follow from it.
#   type      a Kind
#   default   of a new job; None: empty; max_run_time: see default_run_time
#   plans     whether the next run is computed from it
#   option    of the commands `add` and `edit`
#   exported  whether it is a fact above each exported line, which does not tell it
#   label     on the page, and as help of its option
Column = namedtuple(
    'Column',
    'name type default plans option exported label',
    defaults=(None, False, None, False, ''),
)
COLUMNS = (
    Column(
        'description',
        TEXT,
        default='Yet another cron',
        option='--description',
        exported=True,
        label='Description',
    ),
    Column('command', TEXT, option='--command', label='Command'),
    Column(
        'active',
        ACTIVE,
        default=1,
        plans=True,
        option='--inactive',
        exported=True,
        label='Active: it runs when it is due',
    ),
    Column(
        'start_anchor',
        CLOCK,
        plans=True,
        option='--start',
        exported=True,
        label='No start before this time',
    ),
    Column(
        'stop_anchor',
        CLOCK,
        plans=True,
        option='--stop',
        exported=True,
        label='No start at or after this time',
    ),
    Column(
        'frequency',
        MINUTES,
        default=60,
        plans=True,
        option='--every',
        label='Minutes from start to start',
    ),
    Column(
        'max_run_time',
        MINUTES,
        option='--max-run-time',
        exported=True,
        label='Minutes after which a run is killed',
    ),
    Column(
        'schedule',
        EXPRESSION,
        plans=True,
        option='--schedule',
        label='Minute, hour, day of month, month, day of week',
    ),
)

LENGTHS = {  # fewest and most characters
    'description': (0, 255),
    'command': (1, 12000),
    'schedule': (0, 255),
}
LONGEST_FREQUENCY = 5256000  # minutes: ten years
LONGEST_RUN = 525600  # minutes: a year
ALLOWED_MINUTES = '%s; allowed: 1 to %d minutes'

# What people may do to a job. sql: one statement, which changes no row if there is
# nothing to do. help: for --help. done: what is said of a job to which it was done.
Action = namedtuple('Action', 'sql help done')
ACTIONS = {
    'remove': Action('DELETE FROM job WHERE id = :id', 'delete jobs', 'removed'),
    'enable': Action(
        'UPDATE job SET active = 1, next_run_utc = NULL WHERE id = :id',
        'enable jobs',
        'enabled',
    ),
    'disable': Action(
        'UPDATE job SET active = 0, next_run_utc = NULL WHERE id = :id',
        'disable jobs',
        'disabled',
    ),
    'run-now': Action(
        'UPDATE job SET run_requested = 1, next_run_utc = {utc} WHERE id = :id',
        'run jobs at once, on any host',
        'will run now',
    ),
    'stop': Action(
        '''UPDATE job SET stop_requested = run_no
            WHERE id = :id AND run_token IS NOT NULL''',
        'end runs, on whichever host they are',
        'will be ended',
    ),
}

# An argument of a command: its name or option, and what argparse must know of it.
Option = namedtuple('Option', 'flag argument')
# A command of the command line. function: of its arguments and the configuration; it
# returns the exit status, None for 0. config_of: gets the configuration.
Command = namedtuple('Command', 'function summary options config_of')
COMMANDS = {}  # by name, in the order of --help


def given_config(args):
    """The configuration that the command line names, or the usual one."""
    return load_config(args.config or CONFIG, args.name)


def command(name, *options, summary=None, config_of=given_config):
    """Register a function as a command. Without a summary, its docstring is that."""

    def register(function):
        text = summary or function.__doc__
        COMMANDS[name] = Command(function, text, options, config_of)
        return function

    return register


def run_command(name, config):
    """Run a command as if it were typed without options."""
    chosen = COMMANDS[name]
    values = {
        option.flag.strip('-').replace('-', '_'): option.argument.get('default')
        for option in chosen.options
    }
    return chosen.function(SimpleNamespace(**values), config)


class BadJob(BadConfig):
    """A job that is not saved. wrong: {column: what is wrong}, without its name."""

    def __init__(self, wrong, names=None):
        """names: {column: what to call it in the message}; None: by its own name."""
        self.wrong = wrong
        names = names or {}
        super().__init__(
            '; '.join(
                '%s %s' % (names.get(column, column), text)
                for column, text in wrong.items()
            )
        )


def check_job(job, now, zone):
    """What is wrong with a job, as {column: text}; the text does not name the column.
    An inactive job is checked like an active one. now: a UTC datetime."""
    wrong = {}
    for column, (fewest, most) in LENGTHS.items():
        size = len(getattr(job, column) or '')
        if not fewest <= size <= most:
            text = '%d characters; allowed: %d to %d' % (size, fewest, most)
            wrong[column] = text
    if not is_minutes(job.frequency, LONGEST_FREQUENCY):
        wrong['frequency'] = ALLOWED_MINUTES % (job.frequency, LONGEST_FREQUENCY)
        return wrong
    most = longest_run(job)
    if not is_minutes(job.max_run_time, most):
        wrong['max_run_time'] = ALLOWED_MINUTES % (job.max_run_time, most)
    try:
        next_run(job._replace(active=1), now, now, zone)
    except BadSchedule as problem:
        wrong.setdefault(problem.column, str(problem))
    return wrong


def is_minutes(value, most):
    return isinstance(value, int) and 1 <= value <= most


def longest_run(job):
    """The most minutes that max_run_time may be: fewer than the frequency, so that a
    run whose host died has ended before the next one is due."""
    if job.schedule is not None:
        return LONGEST_RUN
    return max(1, job.frequency - 1)


def default_run_time(job):
    """max_run_time, in minutes, of a job for which none is given."""
    if job.schedule is not None:
        return 60
    return max(1, job.frequency // 2)


def job_of(store, id):
    """The row of a job. Raises Problem if there is none."""
    rows = store.query('SELECT * FROM job WHERE id = :id', id=id)
    if not rows:
        raise Problem('job %s does not exist; see: list' % id)
    return rows[0]


def save_job(store, id, values):
    """Insert a job (id None), or change columns of one. Returns its id and its next
    run, a UTC datetime. Raises BadJob."""
    if id is None:
        job = Job(**{column.name: column.default for column in COLUMNS})
    else:
        job = job_of(store, id)
    job = with_run_time(job._replace(**values), values)
    when = checked_next_run(store, job, values)
    values = dict(values, max_run_time=job.max_run_time)
    if id is None:
        values['next_run_utc'] = text_of(when)
        return store.insert('job', values), when
    if any(column.plans for column in COLUMNS if column.name in values):
        values['next_run_utc'] = None
    changes = ', '.join('%s = :%s' % (name, name) for name in values)
    store.change('UPDATE job SET %s WHERE id = :id' % changes, id=id, **values)
    return id, when


def checked_next_run(store, job, values):
    """When a job to which values were given runs next. Raises BadJob."""
    now = store.now()
    checked = job
    if job.schedule is not None and 'frequency' not in values:
        checked = job._replace(frequency=60)  # what the row has is not used
    wrong = check_job(checked, now, store.zone)
    if wrong:
        raise BadJob(wrong)
    return next_run(job, now, now, store.zone)


def with_run_time(job, values):
    """A job to which values were given, with a max_run_time that fits: a new frequency
    shortens one that was not given with it."""
    if job.max_run_time is None:
        return job._replace(max_run_time=default_run_time(job))
    by_frequency = 'frequency' in values and job.schedule is None
    if by_frequency and 'max_run_time' not in values:
        fitting = min(job.max_run_time, default_run_time(job))
        return job._replace(max_run_time=fitting)
    return job


def upcoming(job, after, zone):
    """The next times of a job after a UTC datetime, as pairs (local, UTC), until never.
    Each run is taken to start at its time. Raises BadSchedule."""
    while True:
        after = next_run(job, after, after, zone)
        if after == PARKED:
            return
        local = zone.local(after)
        yield local, after
        start = text_of(local)
        job = job._replace(last_start=start, claimed_start=start)


########################################################################################
# display: states, schedules and times in words, and tables for the terminal
########################################################################################


def when_text(store, when, now):
    """A UTC time in the database's zone, and how far away it is."""
    if when is None:
        return 'to be planned'
    if when == PARKED:
        return 'never'
    distance = how_far((when - now).total_seconds())
    return '%s, %s' % (text_of(store.zone.local(when)), distance)


def how_far(seconds):
    """A distance in time in words: `in 3 h`; now, if it is none."""
    if seconds <= 0:
        return 'now'
    for size, unit in ((86400, 'days'), (3600, 'h'), (60, 'min')):
        if seconds >= 2 * size:
            return 'in %d %s' % (seconds / size, unit)
    return 'in %d s' % seconds


def state_of(job, now):
    """A job's status in a word: running, overdue, disabled, lost, error, not due."""
    due = moment(job.next_run_utc)
    deadline = moment(job.run_deadline_utc)
    if job.run_token is not None:
        return 'overdue' if deadline and deadline < now else 'running'
    if not job.active and not job.run_requested:
        return 'disabled'
    if due and due < now - MINUTE:
        return 'overdue'
    if job.last_status.startswith('ERROR: lost'):
        return 'lost'
    if job.last_status.startswith('ERROR'):
        return 'error'
    return 'not due'


def describe(job):
    """A job's schedule and window in words."""
    parts = (schedule_in_words(job), window_in_words(job))
    return ', '.join(part for part in parts if part)


def schedule_in_words(job):
    """When a job runs, without its window; a macro such as @daily stays as it is."""
    if job.schedule is None:
        return frequency_in_words(job.frequency)
    fields = job.schedule.split()
    if len(fields) != 5:
        return job.schedule
    minute, hour, *days = fields
    words = clock_in_words(minute, hour)
    for value, text in zip(days, (', on day %s', ', in month %s', ', on %s')):
        if value != '*':
            words += text % value
    return words


def frequency_in_words(minutes):
    if not isinstance(minutes, int):
        return str(minutes)  # SQLite takes any text as a number
    for size, unit in ((1440, 'day'), (60, 'hour'), (1, 'minute')):
        if minutes == size:
            return 'every ' + unit
        if minutes % size == 0:
            return 'every %d %ss' % (minutes // size, unit)


def clock_in_words(minute, hour):
    """The first two fields of a cron expression in words."""
    if minute.isdecimal() and hour.isdecimal():
        return 'at %s:%s' % (hour.zfill(2), minute.zfill(2))
    if hour != '*':
        return 'at minute %s of hour %s' % (minute, hour)
    if minute == '*':
        return 'every minute'
    if re.fullmatch(r'\*/\d+', minute):
        return 'every %s minutes' % minute[2:]
    return 'at minute %s of each hour' % minute


def window_in_words(job):
    """A job's daily window in words; empty without one."""
    if not job.start_anchor and not job.stop_anchor:
        return ''
    return '%.5s to %.5s' % (job.start_anchor or '00:00', job.stop_anchor or '24:00')


def print_rows(rows, as_json, *columns):
    """Print rows: as JSON, or as a table of columns (heading, function of a row)."""
    if as_json:
        print(json.dumps([row._asdict() for row in rows], indent=1))
        return
    table = [[heading for heading, _ in columns]]
    for row in rows:
        table.append([one_line(text_in(row)) for _, text_in in columns])
    widths = [max(map(len, texts)) for texts in zip(*table)]
    for texts in table:
        line = '  '.join(map(str.ljust, texts, widths))
        print(line.rstrip())


def one_line(value):
    """A value as a text without line breaks; empty for None."""
    if value is None:
        return ''
    return ' '.join(str(value).split())


def cell(name, most=1000):
    """A column of print_rows: a value of the row, cut to so many characters."""

    def text_in(row):
        value = getattr(row, name)
        if len(str(value)) > most:
            return value[: most - 1] + '…'
        return value

    return name.upper().replace('_', ' '), text_in


########################################################################################
# schema: the tables
########################################################################################


@command('init')
def cmd_init(args, config):
    """create or upgrade the tables; keeps all data"""
    store = Store(config)
    store.connection = store.dialect.connect(create=True)
    with open(os.path.join(HERE, 'distributed_cron.sql'), encoding='utf-8') as file:
        statements = re.sub('(?m)--.*$', '', file.read()).split(';')
    for statement in map(str.strip, statements):
        if statement and not re.match('CREATE DATABASE|USE', statement):
            store.dialect.init(store, statement)
    store.close()
    Store(config).connect().close()  # it looks at them
    print('tables ready')


########################################################################################
# commands: what people type
########################################################################################


def main(arguments=None):
    """The command line. Returns the exit status: 0, 1 for what failed, 2 for bad usage
    or configuration."""
    if sys.stdout:  # a terminal that is not UTF-8
        sys.stdout.reconfigure(errors='replace')
    if arguments is None:
        arguments = sys.argv[1:]
    try:
        if not arguments:  # the crontab line: importing argparse would take its time
            return work(load_config(CONFIG))
        args = parser().parse_args(arguments)
        chosen = COMMANDS[args.action]
        return chosen.function(args, chosen.config_of(args))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # `… list | head` is no mistake
        return 0
    except (Problem, OSError, UnicodeError) as problem:
        print('distributed_cron: %s' % line_of(problem), file=sys.stderr)
        return 1 if type(problem) in (Problem, Away, Again, BadData) else 2
    except KeyboardInterrupt:
        return 130


def parser():
    """The command line's grammar: what has been registered as a command."""
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message):
            message = message.removeprefix('argument ')
            raise BadConfig('%s; see: %s --help' % (message, self.prog))

    paragraphs = __doc__.split('\n\n')
    behaviour = [text for text in paragraphs if text.startswith('Exact behaviour')]
    top = Parser(
        prog=command_line(),
        description=paragraphs[0]
        + '\n\nWithout a command: run what is due and exit (the crontab line).',
        epilog=behaviour[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument('--config', metavar='FILE', help='the configuration file')
    top.add_argument('--name', metavar='HOST', help="this host's name, if not its own")
    commands = top.add_subparsers(title='commands', metavar='COMMAND', dest='action')
    for name, registered in COMMANDS.items():
        text = registered.summary
        sub = commands.add_parser(name, help=text, description=text)
        for option in registered.options:
            sub.add_argument(option.flag, **option.argument)
    top.set_defaults(action='run', forever=False)
    return top


WHOLE = {'type': whole_number}
FLAG = {'action': 'store_true'}
JOB = Option('id', WHOLE)
JOB_OR_ALL = Option('id', {**WHOLE, 'nargs': '?'})
JOBS = Option('id', {**WHOLE, 'nargs': '+'})
COUNT = Option('-n', {**WHOLE, 'default': 20, 'metavar': 'COUNT'})
JSON = Option('--json', {**FLAG, 'help': 'for programs'})
JOB_OPTIONS = {
    column.name: Option(
        column.option,
        {'dest': column.name, 'help': column.label.lower(), **column.type.argument},
    )
    for column in COLUMNS
}


@command('run', Option('--forever', {**FLAG, 'help': 'keep running, until SIGTERM'}))
def cmd_run(args, config):
    """run what is due, until nothing is"""
    return work(config, args.forever)


@command(
    'add',
    *[option for name, option in JOB_OPTIONS.items() if name != 'command'],
    Option('command', {'help': 'run by /bin/sh'}),
)
def cmd_add(args, config):
    """add a job"""
    save(args, config, None)


@command('edit', *JOB_OPTIONS.values(), JOB)
def cmd_edit(args, config):
    """change a job"""
    save(args, config, args.id)


def save(args, config, id):
    """Save the columns that were given as options, and report the next run."""
    values = {
        column.name: getattr(args, column.name)
        for column in COLUMNS
        if getattr(args, column.name) is not None
    }
    if 'frequency' in values and 'schedule' in values:
        raise BadConfig('--every and --schedule; allowed: one of them')
    if 'frequency' in values:
        values['schedule'] = None
    for name in ('start_anchor', 'stop_anchor'):
        if values.get(name) == '':  # --start '' removes it
            values[name] = None
    store = Store(config).connect()
    try:
        id, when = save_job(store, id, values)
    except BadJob as problem:
        names = {column.name: column.option for column in COLUMNS}
        raise BadJob(problem.wrong, names) from None
    print('job %d, next run %s' % (id, when_text(store, when, store.now())))


def cmd_act(args, config):
    """Do one of ACTIONS to some jobs; to none, if one of them does not exist."""
    store = Store(config).connect()
    jobs = [job_of(store, id) for id in args.id]
    action = ACTIONS[args.action]
    for job in jobs:
        changed = store.change(action.sql, id=job.id)
        text = action.done if changed else 'is not running'
        print('job %d: %s' % (job.id, text))


for name, action in ACTIONS.items():
    command(name, JOBS, summary=action.help)(cmd_act)


@command('list', JSON)
def cmd_list(args, config):
    """list all jobs"""
    store = Store(config).connect()
    now = store.now()
    print_rows(
        store.query('SELECT * FROM job ORDER BY id'),
        args.json,
        cell('id'),
        ('STATUS', lambda job: state_of(job, now)),
        cell('description', 30),
        cell('command', 30),
        ('SCHEDULE', describe),
        ('LAST RUN', lambda job: job.last_start or 'never'),
        cell('last_status', 30),
        ('NEXT RUN', lambda job: next_in_words(store, job, now)),
    )


def next_in_words(store, job, now):
    if job.run_token is not None:
        return 'running'
    return when_text(store, moment(job.next_run_utc), now)


@command('show', JSON, JOB)
def cmd_show(args, config):
    """show all about a job"""
    store = Store(config).connect()
    job = job_of(store, args.id)
    now = store.now()
    facts = dict(
        job._asdict(),
        status=state_of(job, now),
        in_words=describe(job),
        next_run=when_text(store, moment(job.next_run_utc), now),
    )
    if args.json:
        print(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        print('%-17s %s' % (name, '' if value is None else value))


@command(
    'next',
    Option('what', {'metavar': 'EXPR|ID', 'help': 'a cron expression, or a job'}),
    Option('--from', {'metavar': "'YYYY-MM-DD HH:MM:SS'", 'dest': 'after'}),
    COUNT,
)
def cmd_next(args, config):
    """list the next times of a cron expression or of a job"""
    from itertools import islice

    store = Store(config).connect()
    job = job_or_expression(store, args.what)
    after = store.now()
    if args.after is not None:
        after = store.zone.utc(time_given(args.after))
    times = upcoming(job, after, store.zone)
    for local, _ in islice(times, args.n):
        print(text_of(local))


def job_or_expression(store, text):
    """The job whose id was typed, or one with the expression that was typed."""
    if re.fullmatch('[0-9]{1,9}', text):
        return job_of(store, int(text))
    return Job(active=1, schedule=text)


def time_given(text):
    """What was typed after --from, as a datetime."""
    form = r'(19[7-9]|[2-8][0-9]{2})[0-9][-0-9 :]+'  # the years 1970 to 8999
    when = moment(text)
    if when is None or not re.fullmatch(form, text):
        raise BadConfig("--from %r; allowed: 'YYYY-MM-DD HH:MM:SS'" % text)
    return when


@command('history', JOB_OR_ALL, COUNT, JSON)
def cmd_history(args, config):
    """list the last runs of all jobs, or of one"""
    store = Store(config).connect()
    if args.id is None:
        which = 'ORDER BY ended_at DESC'
    else:
        job_of(store, args.id)
        which = 'WHERE job_id = :id ORDER BY run_no DESC'
    text = 'SELECT * FROM run %s LIMIT :count' % which
    print_rows(
        store.query(text, id=args.id, count=args.n),
        args.json,
        cell('job_id'),
        cell('run_no'),
        cell('started_at'),
        ('SECONDS', seconds_of),
        cell('worker'),
        cell('status'),
        cell('output', 40),
    )


def seconds_of(run):
    if run.duration_ms is None:
        return ''
    return '%.1f' % (run.duration_ms / 1000)


@command('log', JOB, COUNT, Option('--follow', FLAG))
def cmd_log(args, config):
    """show what a job wrote on this host"""
    path = config.job_log(args.id)
    if os.path.exists(path):
        follow = ['-F'] if args.follow else []
        os.execvp('tail', ['tail', *follow, '-n', str(args.n), path])
    store = Store(config).connect()
    job = job_of(store, args.id)
    runs = store.query(
        '''SELECT worker, output FROM run WHERE job_id = :id
            ORDER BY run_no DESC LIMIT 1''',
        id=job.id,
    )
    if runs:
        text = 'no log on this host; the last run, by %s, wrote:\n%s'
        print(text % runs[0])
    else:
        print('no log on this host; it never ran')


@command('hosts', JSON)
def cmd_hosts(args, config):
    """list the hosts, as of their last minute"""
    rows = Store(config).connect().query('SELECT * FROM host ORDER BY name')
    print_rows(rows, args.json, *map(cell, HOST_COLUMNS))


@command('check')
def cmd_check(args, config):
    """check configuration and database, one line each"""
    store = Store(config)
    status = 0
    for what, result_of, needs_database in (
        ('config', lambda store: store.config.file, False),
        ('folders', folders_of, False),
        ('database', lambda store: store.connect().config.db_engine, False),
        ('schema', count_jobs, True),
        ('time zone', zone_in_words, True),
        ('clock skew', skew_in_words, True),
    ):
        if needs_database and not store.connection:
            continue
        try:
            print('ok   %s: %s' % (what, result_of(store)))
        except Problem as problem:
            print('bad  %s: %s' % (what, problem))
            status = 1
    return status


def folders_of(store):
    config = store.config
    return '%s, %s' % (config.log_location, State(config).folder)


def count_jobs(store):
    return 'jobs: %d' % store.query('SELECT COUNT(*) FROM job')[0]


def zone_in_words(store):
    offset = store.zone.offset(store.now())
    return 'UTC%+g h' % (offset.total_seconds() / 3600)


def skew_in_words(store):
    """How far this host's clock is ahead of the database's."""
    database = (store.now() - EPOCH).total_seconds()
    return '%d ms' % (1000 * (time.time() - database))


########################################################################################
# crontab: import and export
########################################################################################


@command(
    'import',
    Option('file', {}),
    Option('--system', {'action': 'store_true', 'help': 'the file has a user column'}),
    Option(
        '--max-run-time',
        {'type': whole_number, 'metavar': 'MINUTES', 'help': 'default: 1440'},
    ),
)
def cmd_import(args, config):
    """add the entries of a crontab as jobs"""
    with open(args.file, encoding='utf-8', errors='replace') as file:
        lines = file.read().split('\n')  # not by splitlines: a form feed ends no line
    path = os.path.abspath(args.file)
    system = args.system or path == '/etc/crontab' or '/cron.d/' in path
    store = Store(config).connect()
    present = {
        (job.command, job.schedule or job.frequency)
        for job in store.query('SELECT * FROM job')
    }
    added = known = skipped = 0
    for number, entry in entries(lines, system):
        try:
            if isinstance(entry, Problem):
                raise entry
            key = entry['command'], entry['schedule'] or entry.get('frequency', 60)
            if key in present:
                known += 1
                continue
            save_job(store, None, {'max_run_time': args.max_run_time or 1440, **entry})
            present.add(key)
            added += 1
        except (BadConfig, BadSchedule, BadData) as problem:
            skipped += 1
            print('%s: line %d: %s' % (args.file, number, problem), file=sys.stderr)
    print('%d added, %d already present, %d skipped' % (added, known, skipped))
    return 1 if skipped else 0


def entries(lines, system):
    """The entries of a crontab, as pairs of a line number and the columns of a job, or
    the BadSchedule that says why it is none."""
    variables = {}
    about = {}  # what the lines right above an entry say of it
    for number, line in enumerate(lines, 1):
        line = line.strip(' \t')
        above, about = about, {}
        disabled = above.get('active') == 0  # then export has put a # before the entry
        assignment = re.fullmatch(r'''(["']?)(\w+)\1\s*=\s*(["']?)(.*?)\3''', line)
        try:
            if line.startswith('#:'):
                about = {**above, **facts_of(line)}
            elif line.startswith('#') and not disabled:
                about = description_in(line)
            elif assignment:
                variables[assignment[2]] = assignment[4]
            elif line:
                yield number, {**entry_of(line.lstrip('#'), variables, system), **above}
        except BadSchedule as problem:
            yield number, problem


def facts_of(line):
    """What export says of the next entry, as columns. Raises BadSchedule."""
    types = {column.name: column.type.json for column in COLUMNS}
    try:
        facts = json.loads(line.removeprefix('#:'))
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict) or not all(
        type(value) in types.get(name, ()) for name, value in facts.items()
    ):
        raise BadSchedule('%r is not what export writes' % line)
    return facts


def description_in(line):
    """The description that a comment is for the next entry, but not a commented-out
    entry."""
    comment = re.match(r'#[# ]*([^# \d*@].*)', line)
    if comment is None:
        return {}
    return {'description': comment[1][:255]}


def entry_of(line, variables, system):
    """One entry of a crontab as columns of a job. Raises BadSchedule."""
    time_words = 1 if line.startswith('@') else 5
    user_words = 1 if system else 0
    words = line.split(None, time_words + user_words)
    if len(words) <= time_words + user_words or 'CRON_TZ' in variables:
        raise BadSchedule(
            '%r; allowed: five fields or a macro%s, and a command; not under CRON_TZ'
            % (line, ', a user' if system else '')
        )
    schedule = ' '.join(words[:time_words])
    parse(schedule)
    # crontab(5): the first bare % ends the command, its standard input follows.
    parts = re.split(r'(?<!\\)%', words[-1])
    script, *stdin = [part.replace('\\%', '%') for part in parts]
    values = {'schedule': schedule, 'description': script[:255]}
    script = with_variables(with_stdin(script, stdin), variables)
    if system:
        script = as_user(script, words[time_words])
    return dict(values, command=script)


def with_stdin(script, lines):
    """A command that reads these lines."""
    if not lines:
        return script
    quoted = ' '.join(map(shell_word, lines))
    return "printf '%%s\\n' %s | (%s\n)" % (quoted, script)


def with_variables(script, variables):
    """A command with the variables of a crontab, in the shell that they name."""
    shell = variables.get('SHELL', '/bin/sh')
    if shell != '/bin/sh':
        script = 'exec %s -c %s' % (shell_word(shell), shell_word(script))
    for name in sorted(variables, reverse=True):
        if name not in ('SHELL', 'MAILTO'):
            value = shell_word(variables[name])
            script = 'export %s=%s; %s' % (name, value, script)
    return script


def shell_word(text):
    """A text quoted for the shell."""
    import shlex

    return shlex.quote(text)


def as_user(script, user):
    """A command that sudo runs as another user, if it is not the user who imports."""
    import pwd

    try:
        if pwd.getpwnam(user).pw_uid == os.getuid():
            return script
    except KeyError:
        pass  # not known on this host
    quoted = shell_word(user), shell_word(script)
    return 'sudo -n -u %s -- /bin/sh -c %s' % quoted


@command('export')
def cmd_export(args, config):
    """print all jobs as a crontab"""
    for job in Store(config).connect().query('SELECT * FROM job ORDER BY id'):
        facts = {
            column.name: getattr(job, column.name)
            for column in COLUMNS
            if column.exported
        }
        schedule = job.schedule
        if schedule is None:  # import goes by the facts
            facts.update(schedule=None, frequency=job.frequency)
            schedule = nearest_expression(job.frequency)
        if '\n' in job.command:
            facts['command'] = job.command
        line = job.command.replace('%', '\\%').replace('\n', '; ')
        disabled = '' if job.active else '#'
        print('#: ' + json.dumps(facts))
        print('%s%s %s\n' % (disabled, schedule, line))


def nearest_expression(minutes):
    """The cron expression that comes nearest to a frequency."""
    if minutes < 60:
        return '*/%d * * * *' % minutes
    if minutes < 1440:
        return '0 */%d * * *' % (minutes // 60)
    return '0 0 * * *'


########################################################################################
# demo: three workers on an embedded database
########################################################################################

DEMO = [  # commands, and other columns
    (
        'sleep 3; echo here',
        {'description': 'left behind by a killed worker', 'max_run_time': 9},
    ),
    ('echo hello', {}),
    ('date', {}),
    ('uname -a', {}),
    ('ls / | wc -l', {}),
    ('sleep 1', {}),
    ('id', {}),
    ('echo oh >&2', {}),
    ('seq 9 | tail -1', {}),
    ('printf "no newline"', {}),
    ('echo this one fails; exit 3', {}),
    ('sleep 60', {'description': 'runs out of time', 'frequency': 2}),
]
NEXT = '''
Each of the 12 jobs ran once. Next: write your database into distributed_cron.yml, then
  %(program)s init
  %(program)s add --every 5 "date"
  %(program)s run --forever'''
DEMO_SECONDS = 14  # after which it gives up


@command('demo', config_of=lambda args: None)
def cmd_demo(args, _):
    """run three workers on an embedded database; needs only Python"""
    import tempfile

    folder = tempfile.mkdtemp(prefix='distributed_cron_demo.')
    print('An embedded database and the logs of three workers: %s' % folder)
    configs = [demo_config(folder, name) for name in ('gamma', 'alpha', 'beta')]
    run_command('init', configs[0])
    store = Store(configs[0]).connect()
    limit = time.monotonic() + DEMO_SECONDS
    add_demo_jobs(store, DEMO[:1])
    kill_a_worker(store, configs[0])
    add_demo_jobs(store, DEMO[1:])
    for config in configs:
        worker_of(config).start()
    while len(store.query('SELECT 1 FROM run')) < len(DEMO):
        if time.monotonic() > limit:
            break
        time.sleep(0.05)
    show_demo_runs(store, folder)
    print(NEXT % {'program': command_line()})


def demo_config(folder, host):
    """The configuration of one of the demo's hosts."""
    values = {
        'db.path': 'demo.db',
        'log.location': 'log',
        'max_tasks': 4,
        'kill_grace': 1,
    }
    config = Config(values, os.path.join(folder, 'demo'), host)
    config.minute = 1.5  # seconds, so that a job soon runs out of time
    return config


def worker_of(config):
    """A process that works for ever, but not longer than this one."""
    from multiprocessing import get_context

    process = get_context('fork').Process
    return process(target=work, args=(config, True), daemon=True)


def add_demo_jobs(store, jobs):
    for script, more in jobs:
        save_job(store, None, {'description': script, 'command': script, **more})


def kill_a_worker(store, config):
    """Start a worker, and kill it when it has claimed a job."""
    worker = worker_of(config)
    worker.start()
    while not store.query('SELECT 1 FROM job WHERE run_token IS NOT NULL'):
        time.sleep(0.05)
    worker.kill()
    worker.join()
    print('gamma took job 1 and was killed; now gamma starts again')


def show_demo_runs(store, folder):
    """Print what ran. Raises Problem if not each job ran once."""
    rows = store.query('SELECT * FROM run JOIN job ON id = job_id ORDER BY job_id')
    names = ('job_id', 'description', 'started_at', 'duration_ms', 'worker', 'status')
    print_rows(rows, False, *map(cell, names))
    if [row.job_id for row in rows] != list(range(1, len(DEMO) + 1)):
        raise Problem('demo: not each of the 12 jobs ran once; see %s' % folder)


if __name__ == '__main__':
    sys.exit(main())
