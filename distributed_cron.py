#!/usr/bin/env python3
"""Cron for several machines, in one script. The machines share only a SQL database.

Each host runs this script, from its crontab every minute or as a loop (--forever). Each
running copy, a worker, claims due jobs from the table `job`, runs them, and records how
they ended.

Exact behaviour
 1. A job is due when next_run_utc has come by the database's clock; no host's clock
    decides anything. Windows and schedules are in the job's time zone, which is the
    database's unless the job has its own; all other local times are in the database's,
    which with SQLite is the host's. Where there are several servers, a worker leaves
    out one whose clock is 5 seconds off, while another one answers.
 2. A frequency job runs `frequency` minutes after its last start, and at once if it
    never ran; a job with a `schedule` runs when its cron expression says so, or once,
    at the time of its `@at`. In an expression, H stands for a number that the job's id
    fixes for ever.
 3. A window is [start_anchor, stop_anchor). With only a start it lasts until midnight,
    with only a stop it begins at midnight, and with a start after the stop it crosses
    midnight. No run starts outside the window.
 4. One run of a job at a time, on any host. A worker claims it by one conditional
    UPDATE with a fresh token. A worker that does not find its token in the row does not
    run the job.
 5. A run that takes longer than max_run_time, counted from its claim, is ended with all
    that it started: SIGTERM, then SIGKILL after kill_grace seconds.
 6. The deadline of a run is max_run_time + kill_grace + 21 seconds after its claim. Its
    host has ended it by then: its runner, without worker and database, or its host's
    worker, if the runner is stuck or dead. After the deadline any worker records the
    run as lost. A run that was claimed and never started is due again at once when its
    host's worker gives it back; after a reboot, or past its deadline, it is recorded as
    lost.
 7. A time that was missed because no worker was up, or in a pause: the job runs once,
    late, if its window and start_within allow. A time that was missed because the last
    run was still running is not made up for. Each gap is a row of the history, with
    the status 'SKIPPED: …'.
 8. Exit status 0 is 'Success', everything else is 'ERROR: …'. A run ends when its
    command itself ends. Processes that it left in the background keep running, without
    a limit; their output goes to the job's log as long as they keep it open.
 9. Daylight saving: a time that the clock skips runs once, at the jump, if that is in
    its window; a time that comes twice runs the first time. Expressions whose minute or
    hour field begins with * follow elapsed time: minutes that do not exist are left
    out, and the hour that comes twice counts twice. A host that does not know a job's
    time zone leaves the job to other hosts.
10. If a job is edited while a worker plans it, the edit wins. A run in progress keeps
    the command with which it started.
11. Worker and database may die at any moment: runners keep running, and the host's next
    worker reports what they wrote into the state folder.
12. A run that fails or is lost, but not one that was stopped, is tried again
    retry_delay seconds later, doubled each time, up to `retries` times, if its window
    and its next regular time allow. Other hosts have 10 seconds to take it first. Only
    the last try counts as a failure. Exit status 75 is shown as 'not now'. A pause in
    which a try would be due, and a change of the schedule, cancel it.
13. A job with after_job is due when that job has succeeded. If it still runs then, it
    runs once more afterwards.
14. In a pause nothing starts but what run-now asks for; each claim looks at it.
15. A job with run_on runs only on the host of that name, or on hosts with that tag. One
    with each_host, a template, never runs; each host that run_on allows has a copy that
    does, its child. Children follow a change of their template within a minute, do not
    change without it, and are deleted when their host is gone for a week.
16. With sign.required, a host starts only jobs that are as a signer whom it trusts
    has signed them. A run of any other job ends at once as 'ERROR: refused: …', and is
    not tried again.

Examples
  %(prog)s add --schedule '30 2 * * mon-fri' --max-run-time 120 backup --all
  %(prog)s import - < crontab
  %(prog)s log -f 1

Sections
    words      constants, errors, times and records that all sections share
    worker     the loop: report what ended, look, plan, start, pause
    memory     what a worker learns in passing: locked rows, the database's clock
    runner     starts, limits and ends commands
    state      the folder in which a host remembers its runs, and its lock
    signature  is a job what somebody has signed whom this host trusts?
    claims     the file of each claim, and what it tells of the runs
    processes  their start, signals, marks and logs
    live       what a run has written so far, for those who watch it
    store      the steps in the life of a run, a statement or a transaction each
    endings    what the end of a run writes into its job and into the history
    notes      why a run starts late, by evidence
    plans      when a job is due and until when, what it skipped, jobs after jobs
    hosts      a host says hello, and follows the jobs that run on each host
    schedule   the next run of a job, its window, and the time zone
    fields     cron expressions: their five fields, and the times that match them
    dialects   the databases: their words, connections and errors
    sql        the conditions in statements, made of the words of a database
    drivers    the modules that talk to the databases, and what they may not write
    trust      who may answer as the database, what it is told, whose functions run
    config     the configuration file
    keys       its keys, and what each allows
    options    what the commands take: their register, and arguments that many have
    columns    what people may set of a job, and the limits of that
    jobs       what the commands and the web page share: actions, checks, changes
    status     which jobs have some words, and how they are doing, in words
    display    schedules and times in words, and tables for the terminal
    setup      init: the first configuration, and the tables
    schema     the SQL that makes the tables, for each database
    tables     their columns and indexes, and what the triggers set
    commands   what people type
    lists      jobs, runs and hosts at a glance, for people and programs
    reports    all about a job, its times, and what it writes
    why        why a job did, does or does not run
    pausing    jobs and hosts that start nothing for a while
    alert      what is wrong is told, and again when it is over
    messages   what is told of troubles, and how it is sent
    troubles   what is wrong now, by what the tables say
    check      does everything work that a worker needs?
    crontab    import and export
    apply      jobs as code: the table is made as a file says
    files      a file of jobs, as apply reads it and export writes it
    sign       jobs are signed, and their signatures looked at
    demo       three workers on an embedded database
A section calls only sections below it; all may use words. Sections from options on
may also use those from options to display, and what stands above these.
"""

import codecs
import errno
import fcntl
import gc
import io
import os
import re
import select
import signal
import stat
import sys
import time
from collections import defaultdict, deque, namedtuple
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from functools import lru_cache, partial
from types import SimpleNamespace

########################################################################################
# words: constants, errors, times and records that all sections share
########################################################################################

VERSION = '2.0'
HERE = os.path.dirname(os.path.realpath(__file__))
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
EPOCH = datetime(1970, 1, 1)
PARKED = datetime(9999, 12, 31)  # as next_run_utc: never due
YEARS = '(19[7-9]|[2-8][0-9]{2})[0-9]'  # that people may type: 1970 to 8999
LONGEST_FREQUENCY = 5256000  # minutes: ten years
LONGEST_RUN = 525600  # minutes: a year, the longest max_run_time
CLAIM_SIZE = 128  # runs that one claim takes, and one runner holds, at most
MARGIN = 20  # seconds from the last SIGKILL of a run to its deadline
STOPPED = 'ERROR: stopped'
LOST = 'ERROR: lost: its runner was killed or its host restarted'
ALERT = 'alert'  # the name of the job that tells of troubles


class Problem(Exception):
    """An error that a user can cause or fix; its text, one line, says what to do."""

    exit_status = 1


class BadConfig(Problem):
    """The command line or the configuration is wrong."""

    exit_status = 2


class BadSchedule(Problem):
    """A job that can't be planned, for instance with an expression that never matches.
    column: the column of `job` that is wrong; the message does not name it."""

    exit_status = 2

    def __init__(self, text, column='schedule'):
        super().__init__(text)
        self.column = column


class NoSuchZone(BadSchedule):
    """A job's time zone has a proper name, but this host's tzdata does not know it.
    Another host's may: leave the planning of the job to others."""


class Away(Problem):
    """The database can't be used now; connect again, to the next host of the list."""


class Again(Problem):
    """The statement lost against another one (deadlock, lock wait): repeat the step.
    jobs: ids of the jobs whose rows it wanted."""

    jobs = ()


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


# Control characters but tab and newline, and all that is invisible or turns the
# direction of writing: with it a command could look like another one.
UNSEEN = (
    r'[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890'
    r'\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e'
    r'\u2060-\u206f\u2800\u3164\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd'
    r'\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-'
    r'\U000e0fff]'
)


def visible(text):
    """A text of others as people may see it, with a sign for each of UNSEEN."""
    return re.sub(UNSEEN, sign_for, text)  # compiled here: an idle pass does without


def sign_for(match):
    """The picture of a control character, or the sign for an unknown one."""
    if match[0] < ' ':
        return chr(0x2400 + ord(match[0]))
    return '\ufffd'


def line_of(problem):
    """The text of a Problem or an OSError, in one line."""
    text = str(problem)
    if isinstance(problem, OSError):
        text = '%s: %s' % (problem.filename or 'output', problem.strerror)
    return visible(' '.join(text.split()))


JOB_COLUMNS = (
    # those of the Perl program, in its order
    'id description command active start_anchor stop_anchor frequency max_run_time '
    'last_start last_end last_status last_worker '
    # ours
    'schedule next_run_utc run_no run_token run_deadline_utc claimed_start '
    'run_requested stop_requested '
    # since version 2.0
    'start_before_utc run_was_requested changed_utc name run_on each_host parent_id '
    'time_zone start_within retries retry_delay attempt after_job after_run '
    'followers_due failures paused_from_utc paused_until_utc paused_by '
    'alert_after alert_to rev signature not_after applied_by'
).split()
# An edit of one of these columns has the job planned anew.
PLANNED_FROM = (
    'schedule frequency start_anchor stop_anchor active '
    'time_zone start_within each_host after_job paused_until_utc'
).split()
# Rows of the tables. A Job without arguments is one that no longer exists.
Job = namedtuple('Job', JOB_COLUMNS, defaults=[None] * len(JOB_COLUMNS))
Run = namedtuple(
    'Run',
    'job_id run_no due_utc started_at ended_at duration_ms worker status exit_code '
    'output cpu_ms max_rss_kb attempt note',
    defaults=[None] * 11 + [0, None],
)
Host = namedtuple(
    'Host',
    'name last_seen worker version max_tasks running skew_ms tags',
    defaults=[None],
)


def extended(row, **more):
    """A row with more columns."""
    kind = row_type(*row._fields, *more)
    return kind(*row, *more.values())


class Kind:
    """The ways in which a run can end. What each may write is fate()'s table."""

    DONE = 'done'  # its runner saw the end
    LOST = 'lost'  # its runner died
    OVERDUE = 'overdue'  # it is past its deadline, on whichever host it was
    GIVEN_BACK = 'back'  # it was claimed and never started


MORE_OF_ENDING = {  # fields and their defaults
    'run_no': None,  # None: only the row of the job knows it
    'status': '',
    'exit_code': None,  # of the command; a signal as a negative number
    'output': None,  # the last of it
    'duration_ms': None,
    'ended': None,  # when, as boottime ...
    'boot': None,  # ... of this boot
    'due': None,  # for when it was due, UTC, as text
    'started': None,  # when it was claimed, the database's local time, as text
    'worker': None,  # that claimed it
    'attempt': None,  # which try it was
    'note': None,  # why it was late
    'cpu_ms': None,  # what it took of the processor
    'max_rss_kb': None,  # and, at most, of the memory
    'last_start': '',  # of its job before the run was claimed; '': not known
}


class Ending(
    namedtuple(
        'Ending',
        (
            'token',  # of its claim
            'job',  # its id
            'kind',  # see Kind
            *MORE_OF_ENDING,
        ),
        defaults=MORE_OF_ENDING.values(),
    )
):
    """How a run ended. What is None is not known, and taken from the row of its job."""

    __slots__ = ()


def placeholders(names):
    """`:name, :name, …` for a statement."""
    return ', '.join(':' + name for name in names)


def names_of_list(name, size):
    """The names under which the values of a list are sent."""
    return ['%s_%d' % (name, number) for number in range(size)]


@lru_cache(None)
def row_type(*names):
    """The type of a row with these columns, kept for ever: so no name holds a value."""
    return namedtuple('Row', names, rename=True)


def moment(value):
    """A database's text as a datetime; None if it is no time, or has an offset."""
    with suppress(TypeError, ValueError):
        when = datetime.fromisoformat(value)
        return when if when.tzinfo is None else None


def with_numbers(job):
    """A job whose tries can be counted: SQLite stores any text in a number's column."""
    values = {}
    for name in ('attempt', 'retries', 'retry_delay'):
        if isinstance(getattr(job, name, None), (str, bytes)):
            values[name] = 0
    return job._replace(**values)


def text_of(when):
    """A datetime as text for the database, to the second; None for None."""
    return when and when.isoformat(' ', 'seconds')


def host_of(worker):
    """The host of a worker, which is called HOST-PID; '' where there is none."""
    return worker.rpartition('-')[0]


def how_long(seconds):
    """A span of time in words: `3 h`."""
    for size, unit in ((86400, 'days'), (3600, 'h'), (60, 'min')):
        if seconds >= 2 * size:
            return '%d %s' % (seconds / size, unit)
    return '%d s' % seconds


def counted(number, noun):
    """A number of things in words: `1 run`, `2 runs`."""
    return '%s %s%s' % (number, noun, '' if number == 1 else 's')


def to_json(value, **how):
    import json  # imported here: an idle pass does not need it

    return json.dumps(value, **how)


def from_json(text):
    import json

    return json.loads(text)


def server_name(host, port, socket):
    """One of db.host, for messages."""
    return socket or '%s:%d' % (host, port)


def boottime():
    """Seconds since the machine's start, sleep included: no clock change moves it."""
    return time.clock_gettime(getattr(time, 'CLOCK_BOOTTIME', time.CLOCK_MONOTONIC))


def skew_of(now):
    """Milliseconds by which this host's clock is ahead of the database's, which shows
    now, a datetime, UTC."""
    return round(1000 * (time.time() - (now - EPOCH).total_seconds()))


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


def user_name(id):
    """The name of a user; its number, if there is no such user here."""
    from pwd import getpwuid

    try:
        return getpwuid(id).pw_name
    except KeyError:
        return str(id)


@contextmanager
def naming(path):
    """An OSError of a file that is open does not name it: in here, it does."""
    try:
        yield
    except OSError as error:
        error.filename = path
        raise


def no_link(path, flags):
    """As `opener`: open a file of ours. A link that somebody put there is an error."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o640)


def is_own_file(path):
    """Whether a path is a file of this user alone, and no link to another one."""
    about = os.lstat(path)
    mine = about.st_uid == os.geteuid() and about.st_nlink == 1
    return mine and stat.S_ISREG(about.st_mode)


def refuse_others(path):
    """Raise BadConfig if a file or folder belongs to somebody else, or others may write
    there."""
    about = os.stat(path)
    for owner in (os.lstat(path).st_uid, about.st_uid):
        if owner not in (0, os.geteuid()):  # as root we would run all jobs as root
            raise BadConfig(
                '%s belongs to %s; run as that user' % (path, user_name(owner))
            )
    by_all = about.st_mode & stat.S_IWOTH
    by_group = about.st_mode & stat.S_IWGRP
    if by_all or (by_group and not is_private(about.st_gid, about.st_uid)):
        raise BadConfig(
            '%s: others can write there; allowed: its owner alone; run: chmod go-w %s'
            % (path, path)
        )


def is_private(group, user):
    """Whether a group is a user's own: it has the user's name and no other members."""
    from grp import getgrgid

    name = user_name(user)
    with suppress(KeyError):
        found = getgrgid(group)
        return found.gr_name == name and set(found.gr_mem) <= {name}
    return False


########################################################################################
# worker: the loop: report what ended, look, plan, start, pause
########################################################################################


def work(config, forever=False):
    """Run what is due, one worker on a host; returns the exit status. From cron: until
    nothing runs or falls due within 5 seconds; with `forever`: until SIGTERM."""
    while os.open(os.devnull, os.O_RDWR) < 2:
        pass  # keep fds 0 to 2 in use: a lock file opened as fd 1 would get our output
    return Worker(config, forever).loop()


class Worker:
    """The process that claims, forks and reports. Everything that must survive it is in
    the state folder; what it holds in memory is a copy."""

    def __init__(self, config, forever):
        self.config = config
        self.forever = forever  # False: started by cron, leaves when nothing is to do
        self.name = '%s-%d' % (config.name, os.getpid())
        self.state = State(config)
        self.store = Store(config)
        self.log = Log(config.worker_log, self.name, config.log_max_bytes)
        self.claims = Claims(self.state.folder)
        self.signals = []  # came, and are not obeyed yet
        self.stopping = 0  # how often we were told to stop: once drains, twice leaves
        self.failures = 0  # turns in a row that failed
        self.pace = Pace()
        self.locked = LockedJobs(self.log, has_others=config.db_engine != 'sqlite')
        self.conflict = False  # this turn, a step lost against another transaction
        self.gave_back = False  # this turn, a run was given back
        self.seen = None  # the last Look
        self.look_at = 0  # boottime from which that is too old to go by
        self.due_at = 0  # boottime at which the next job is due
        self.foreseen = 0  # the same, as long as no turn has gone by it
        self.next_hello = 0  # boottime
        self.clock = DatabaseClock(self.state.folder)

    def loop(self):
        """Turn after turn until there is nothing to do; returns the exit status."""
        gc.freeze()  # what was imported stays: don't look for garbage in it
        gc.enable()
        if not self.state.lock():
            self.log.write('Already running.')
            return 0
        self.log.write('worker starts: version %s' % VERSION)
        self.listen()
        unwatch(self.state.folder)
        pause = 0
        while not (pause and self.finished()):
            # For so long, or until a signal comes or some runs end.
            enough = self.pace.enough(self.claims.running_count())
            wait_for(self.state.fifo, enough, pause)
            self.obey_signals()
            if self.stopping > 1:
                break
            try:
                pause = self.turn()
            except (Problem, OSError) as problem:
                pause = self.back_off(problem)
        unreported = self.claims.unreported_count()
        if unreported:
            complain(self.log, UNREPORTED % unreported)
        self.store.close()  # or MariaDB logs an aborted connection
        self.log.write('worker leaves')
        return 1 if self.failures else 0

    def turn(self):
        """One round of the steps in the life of a run; returns the seconds to wait."""
        self.conflict = False
        self.gave_back = False
        if self.state.make_wake():
            self.listen()
        self.claims.settle(self.config.kill_grace)  # needs no database
        connect(self.store, self.claims, self.clock, self.log)
        if 0 < self.foreseen <= boottime():  # the last look has told all there is
            self.foreseen = 0
            self.seen = self.seen._replace(due_in=0)
        elif boottime() >= self.look_at:
            self.report_ended()
            self.look_after_claims()
            self.look()
        seen = self.seen
        self.say_hello(seen)
        self.end_overdue(seen)
        if seen.watched or self.claims.watched:
            self.try_twice(show_output, self.store, self.claims)
        slots = self.slots_for(seen)
        self.pace.count(seen.due_in <= 0, slots)
        planned = self.plan(seen)
        started = self.start_due(seen, slots)
        self.report_ended()  # in a queue it was not done above
        self.claims.remove_done()
        if planned or started < slots or seen.due_in > 0:  # else there is a queue
            self.look_at = 0
        self.failures = 0
        return self.pause(seen, slots, planned, started)

    def pause(self, seen, slots, planned, started):
        """Seconds to wait after a turn. slots: how many due jobs could be started;
        planned, started: how many were."""
        if self.gave_back:  # whatever the reason is, it may still be there
            return min(1, self.config.poll_seconds)
        if self.conflict:
            return jitter(0.05)
        if planned or (started and self.slots_for(seen)):  # there may be more to do
            return self.pace.after_success(slots, planned + started)
        longest = self.config.poll_seconds
        if self.claims.any_orphaned():
            longest = ORPHAN_PAUSE
        if slots and not started:  # others were faster, or the row can't be had
            return min(longest, self.pace.after_miss())
        if slots or seen.due_in <= 0:  # no slot is free, or this worker drains
            return longest
        seconds_left = max(0, self.due_at - boottime())
        return min(longest, seconds_left + 0.0005)  # then it is due for certain

    def back_off(self, problem):
        """Log a failed turn, more and more seldom; returns the seconds to wait."""
        self.failures += 1
        self.pace.note_failure(problem)
        if isinstance(problem, Again) and self.failures < 8:
            self.due_at = 0  # try again, before leaving
            return jitter(0.05)
        self.store.close()
        self.look_at = 0
        self.foreseen = 0
        if self.failures in (1, 2, 4, 8, 16, 32) or self.failures % 64 == 0:
            complain(self.log, line_of(problem))
        return jitter(min(4, 0.25 * 2 ** min(self.failures, 4)))

    def finished(self):
        """Whether there is nothing left to do for this worker."""
        if any(claim.landed for claim in self.claims.values()):
            # Runs go on or wait to be reported. A drain does not wait for a database.
            return self.stopping and self.failures and not self.claims.running_count()
        if self.stopping:
            return True
        if self.forever:
            return False
        return self.store.connection is None or self.due_at - boottime() > STAY

    def listen(self):
        """Make signals end the wait through the FIFO, as results do."""
        signal.set_wakeup_fd(self.state.fifo, warn_on_full_buffer=False)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(signum, lambda signum, _: self.signals.append(signum))

    def obey_signals(self):
        """Do what the signals ask for that have come."""
        while self.signals:
            signum = signal.Signals(self.signals.pop(0))
            if signum == signal.SIGHUP:
                self.reload()
            elif signum == signal.SIGCHLD:
                list(dead_children())  # buries them
            else:
                self.stopping += 1
                running = self.claims.running_count()
                self.log.write('%s: drain, %d runs go on' % (signum.name, running))

    def reload(self):
        """Read the configuration again; a bad one changes nothing."""
        try:
            config = reload_config(self.config)
            store = Store(config)
            self.state.signatures = State(config).signatures  # or it says what is wrong
        except Problem as problem:
            complain(self.log, '%s; the old configuration stays' % problem)
            return
        self.store.close()
        self.config = config
        self.store = store
        self.log = Log(config.worker_log, self.name, config.log_max_bytes)
        self.locked.log = self.log
        self.next_hello = 0
        self.log.write('configuration read again')

    # The steps. Before a docstring's colon: a step's word in the log, or in Store.

    def report_ended(self):
        """end: report how runs have ended; the folder then forgets them."""
        self.claims.forget(self.record('end', self.claims.endings()))

    def record(self, step, endings):
        """Write Endings into the database, and into the log. Returns those that were
        written; the others wait for a later turn."""
        written = self.try_twice(self.write_ends, endings, otherwise=None)
        if written is None:
            written = self.write_one_by_one(endings)
        for ending in written:
            if ending.kind == Kind.GIVEN_BACK:
                self.gave_back = True
            facts = step, ending.job, ending.run_no, ending.status
            self.log.write('%s: job %d run %s: %s' % facts)
        return written

    def write_ends(self, endings):
        locked = self.locked.jobs()
        unlocked = [ending for ending in endings if ending.job not in locked]
        for refusal in self.store.end(unlocked) if unlocked else ():
            complain(self.log, refusal)
        self.locked.leave_to_others(self.store.failed)
        self.pace.note_ends(unlocked)
        return unlocked

    def write_one_by_one(self, endings):
        """Something else than a row of `job` is locked, or a row takes no change: leave
        alone the jobs that need it. Each costs a wait, so not too many in a turn."""
        written = []
        for ending in endings:
            try:
                written += self.write_ends([ending])
            except Again as problem:
                self.locked.leave_alone([ending.job], END_LOCKED % problem)
                if len(self.locked.jobs()) > 3:
                    break
        return written

    def try_twice(self, step, *args, otherwise=0):
        """Do a step. When it loses against another transaction, leave alone the jobs
        whose rows are locked, and do it once more. If that fails too, the answer is
        `otherwise`: no step keeps the turn from the next one."""
        for _ in range(2):
            try:
                return step(*args)
            except Again as problem:
                locked = self.store.locked(problem.jobs)
                self.locked.leave_alone(locked, ROW_LOCKED)
        self.conflict = True
        return otherwise

    def look_after_claims(self):
        """mine: pass on requests to stop; give back claims that never started."""
        if self.claims:
            rows = self.store.mine(list(self.claims), self.claims.unheld_tokens())
            self.claims.pass_on_stops(rows)
            self.record('give back', self.claims.never_started(rows))

    def look(self):
        """look: what there is to do, and when the next job is due."""
        asked = boottime()
        seen = self.store.look()
        if self.clock.was_set_back(seen.now, asked):
            self.log.write("the database's clock was set back: planning all jobs anew")
            self.try_twice(self.store.forget_plans)
            seen = self.store.look()
        self.seen = seen
        self.look_at = asked + LOOK_KEPT
        # In a pause, a worker started by cron does not stay for what is due.
        self.due_at = asked + (STAY + 1 if seen.paused else seen.due_in)
        self.foreseen = self.due_at if seen.due_in > 0 and not seen.paused else 0

    def say_hello(self, seen):
        """hello, purge: each minute, and before a worker started by cron leaves."""
        running = self.claims.running_count()
        may_leave = self.store.recorded_runs and not self.forever and not running
        if boottime() >= self.next_hello or may_leave:
            self.next_hello = boottime() + HELLO
            self.clock.save()
            running = slots_taken(self.claims, seen.alert)
            self.try_twice(update_host, self.store, self.name, running, seen.now)
            self.try_twice(follow_templates, self.store, seen.now)
            self.try_twice(purge_history, self.store, seen.now)

    def end_overdue(self, seen):
        """recover: end runs, of whichever host, that are past their deadline."""
        if seen.overdue:
            overdue = self.store.overdue()
            here = self.claims.here()
            if self.record('recover', [run for run in overdue if run.job not in here]):
                self.due_at = 0  # they may be tried again at once: look, before leaving
            self.try_twice(note_stuck, self.store, overdue, self.claims, self.log)

    def plan(self, seen):
        """plan, tell followers: returns how many jobs got a time, or were parked. A job
        that a bug of ours keeps from it is left alone, and the log says why."""
        steps = (
            (seen.unplanned, self.store.plan),
            (seen.late, self.store.plan_late),
            (seen.followed, self.store.tell_followers),
        )
        planned = 0
        for is_needed, step in steps:
            if is_needed:
                planned += self.try_twice(self.skip_locked, step, seen.now)
        for job, text in self.store.bugs.items():
            self.locked.leave_alone([job], 'it could not be planned: ' + text)
        self.store.bugs.clear()
        return planned

    def skip_locked(self, step, now):
        return step(now, skip=self.locked.jobs())

    def slots_for(self, seen):
        """How many of the due jobs this worker may start now; 0 when none is due."""
        if seen.due_in > 0 or self.stopping:
            return 0
        taken = slots_taken(self.claims, seen.alert)
        return max(0, min(CLAIM_SIZE, self.config.max_tasks - taken))

    def start_due(self, seen, slots):
        """find, claim, collect, start: returns how many runs were started."""
        if self.stopping or not (slots or seen.alert_due):
            return 0
        return self.try_twice(self.claim_and_start, seen, slots)

    def claim_and_start(self, seen, slots):
        skip = self.locked.jobs() | self.claims.here()
        jobs = jobs_to_start(self.store, self.pace, seen, slots, skip)
        if not jobs:
            return 0
        claim = self.claims.new(self.store.identity, jobs)
        try:
            sent = boottime()
            rows = self.store.claim(jobs, claim.token, self.name)
            claim.landed = True
            if len(rows) < len(jobs):
                self.store.found = []  # others are as fast
            claim.learn({'event': 'collected', 'jobs': [row.id for row in rows]})
            noted = with_notes(self.store, rows, jobs, self.pace, self.log)
            good = self.state.signatures.allowed(noted, claim, self.store)
            if good:
                commands = [Command(row, claim, sent, self.config) for row in good]
                start_runner(self.config, self.name, claim, commands)
                self.log.write('start: ' + ', '.join(map(str, commands)))
            return len(rows)
        except Away:
            raise  # it may land yet
        except BadData as problem:
            claim.landed = True  # it failed for certain
            return self.claim_refused(list(jobs), problem)
        except Problem:
            claim.landed = True
            raise
        finally:
            os.close(claim.file)  # never unlocked: the runner alone holds it now

    def claim_refused(self, jobs, problem):
        """A row is refused: find out which, and leave it alone. Returns 0: no start."""
        self.pace.one_by_one = len(jobs) > 1
        self.conflict = True
        if not self.pace.one_by_one:
            self.locked.leave_alone(jobs, str(problem))
        return 0


########################################################################################
# memory: what a worker learns in passing: locked rows, the database's clock
########################################################################################

CLOCK_KEPT = 3600  # seconds for which a worker goes by what the last one saw
CLOCK_STEP = 5 * SECOND  # by which a clock that goes wrong differs from a slow answer
STAY = 5  # seconds: a worker started by cron stays for what is due within them
HELLO = 60  # seconds between two reports that this host is there
ORPHAN_PAUSE = 0.1  # seconds between two looks at commands whose runner died
ROW_LOCKED = 'another transaction keeps its row locked'
END_LOCKED = "its end can't be written: %s"
LOOK_KEPT = 0.1  # seconds for which a look holds while more is due than can start
QUICK = 20  # ms, as long as a worker waits for more results
SHARED = 4  # the first claims of a burst take only a share: other hosts get some too
SHARE_PAUSE = 0.02  # seconds after such a claim
FIRST_RETRY = 0.01  # seconds until the next try for due jobs that others got
UNREPORTED = (
    "%d runs are still running or unreported; this host's next worker will report them"
)
OTHERS_FIRST = 10  # seconds for which a retry is left to other hosts
LOCKED = 2, 30  # seconds for which a locked row is left alone: at first, and at most


def complain(log, text):
    """Into the worker's log, and to stderr: cron mails it, systemd keeps it."""
    log.write(text)
    with suppress(OSError):  # a terminal that has gone
        print('distributed_cron: %s' % text, file=sys.stderr, flush=True)


def slots_taken(claims, alert):
    """How many slots of this host are taken. alert: the id of the alert job, which
    takes none of them."""
    running = [job for claim in claims.values() for job in claim.running_jobs()]
    return len(running) - running.count(alert)


def jobs_to_start(store, pace, seen, slots, skip):
    """find: first the alert job, which has a slot of its own. skip: as in plan."""
    jobs = find_alert(store, skip) if seen.alert_due else {}
    if slots and not jobs:
        count = 1 if pace.one_by_one else slots
        jobs = store.find(count, pace.is_shared(), skip)
        if not jobs and not seen.paused:  # a Perl worker may be running it
            store.plan_due(seen.now, skip=skip)
    return jobs


def jitter(seconds):
    """From half of the seconds to all of them, so that workers don't keep step."""
    from random import uniform  # imported here: an idle pass does not need it

    return uniform(seconds / 2, seconds)


def wait_for(fifo, enough, seconds):
    """Wait so long; after the first byte from a FIFO, until enough runs have ended, for
    each of which it has a point. Signals put their numbers there."""
    until = boottime() + seconds
    woken = 0
    while woken < enough:
        seconds_left = until - boottime()
        # select() may oversleep by 0.1 % (timer slack).
        if select.select([fifo], [], [], max(0, 0.998 * seconds_left))[0]:
            woken += os.read(fifo, 65536).count(b'.')
            until = min(until, boottime() + 0.02)
        elif seconds_left < 0.0001:
            break


class Pace:
    """How fast a worker takes what is due, so that other hosts get their share."""

    def __init__(self):
        self.misses = 0  # turns in a row that found due jobs and could claim none
        self.burst = 0  # turns in a row in which something was due and a slot was free
        self.one_by_one = False  # claim one job a time: one of many was refused
        self.quick = False  # the last runs that ended took less than a turn
        # What kept it from starting jobs: boottimes, from when until when.
        self.full = None  # while jobs were due, all slots were taken
        self.outage = None  # its turns failed; None as the end: they still do
        self.failure = ''  # in words

    def count(self, is_due, slots):
        """Count the turns since jobs fell due."""
        if self.outage and self.outage[1] is None:
            self.outage = (self.outage[0], boottime())
        if not is_due:
            self.burst = 0
            self.misses = 0
            self.one_by_one = False
            self.full = None
        elif slots:
            self.burst += 1
        else:
            self.full = ((self.full or [boottime()])[0], boottime())

    def note_ends(self, endings):
        """Note how long the runs took that have ended."""
        durations = [ending.duration_ms or 0 for ending in endings]
        if durations:
            self.quick = max(durations) < QUICK

    def enough(self, running):
        """After how many ends, of so many runs, a turn is worth while. One report can
        carry many: a quarter of the runs, or some more if all end within a turn."""
        enough = max(1, running / 4)
        if self.quick:
            enough = max(enough, min(running, AT_ONCE))
        return enough

    def note_failure(self, problem):
        """Note a turn that failed."""
        text = 'failed: ' + line_of(problem)
        if isinstance(problem, Away):
            text = 'could not reach the database'
        goes_on = self.outage and self.outage[1] is None and text == self.failure
        if not goes_on:
            self.outage = (boottime(), None)
        self.failure = text

    def is_shared(self):
        """Whether to claim only a share of what is due."""
        return self.burst <= SHARED

    def after_success(self, slots, moved):
        """Seconds to wait when so many jobs were planned or started in the slots."""
        self.misses = 0
        others_first = 0 < self.burst <= SHARED and moved < slots
        return SHARE_PAUSE if others_first else 0

    def after_miss(self):
        """Seconds to wait when all that was due could not be had."""
        self.misses = min(self.misses + 1, 9)
        return jitter(FIRST_RETRY * 2**self.misses)


class LockedJobs:
    """The jobs whose rows somebody else keeps locked. Each is left alone for a while,
    so that it delays no other: 2 seconds, then twice as long each time, up to 30."""

    def __init__(self, log, has_others):
        """log: a Log; has_others: whether the database may have other hosts."""
        self.log = log
        self.has_others = has_others
        self.until = {}  # job id -> the boottime until which it is left alone
        self.seconds = {}  # job id -> for how long that was, if its row was locked

    def jobs(self):
        """The jobs that are left alone now."""
        now = boottime()
        return {job for job, until in self.until.items() if until > now}

    def leave_to_others(self, failed):
        """Leave alone the jobs that have failed here and are to be tried again: another
        host may do better. Empties the set."""
        while failed:
            job = failed.pop()
            if self.has_others:
                self.until[job] = boottime() + OTHERS_FIRST
                self.seconds.pop(job, None)

    def leave_alone(self, jobs, why):
        """Leave jobs alone for a while, and log that when it begins."""
        first, *more = why.splitlines()
        for job in jobs:
            if self.add(job):
                self.log.write('job %d is left alone: %s' % (job, first), *more)

    def add(self, job):
        """Leave a job alone. Returns whether it was not locked a while ago."""
        first, longest = LOCKED
        now = boottime()
        is_new = job not in self.seconds or self.until[job] < now - longest
        seconds = first if is_new else min(longest, 2 * self.seconds[job])
        self.seconds[job] = seconds
        self.until[job] = now + seconds
        return is_new


def connect(store, claims, clock, log):
    """Connect, and set the claims of other databases aside. A server whose clock does
    not go with that of the last one is passed over while there is another: runs that
    go on would be past their deadline for it, or new ones not due."""
    before = store.connection
    servers = store.config.hosts
    for others in reversed(range(len(servers))):
        store.connect()
        if store.connection is before:
            break
        if not others or clock.agrees(store.now(), boottime(), servers[0]):
            clock.server = server_name(*servers[0])
            break
        log.write("%s is passed over: its clock is another" % server_name(*servers[0]))
        store.close()
        servers.append(servers.pop(0))
    set_aside = claims.set_aside(store.identity)
    if set_aside > 0:
        log.write('%d claims of another database are left alone' % set_aside)


class DatabaseClock:
    """The database's clock, held against this host's time since its start. The state
    folder keeps what was seen last."""

    def __init__(self, folder):
        self.path = os.path.join(folder, 'clock')
        self.asked = None  # the boottime of the last look
        self.now = None  # what the database said then, a UTC datetime
        self.server = None  # which of db.host said so
        with suppress(ValueError):  # there is none, or it was cut off
            boot, asked, now, server, _ = read_text(self.path).split('\n')
            if boot == boot_id() and boottime() < float(asked) + CLOCK_KEPT:
                self.asked = float(asked)
                self.now = moment(now)
                self.server = server

    def save(self):
        """Keep what was seen last for the host's next worker."""
        lines = (boot_id(), self.asked, self.now, self.server, '')
        with suppress(OSError):
            with open(self.path, 'w', encoding='utf-8', opener=no_link) as file:
                file.write('\n'.join(map(str, lines)))

    def agrees(self, now, asked, server):
        """Whether a server's time, a UTC datetime, goes with what another one said."""
        if self.now is None or self.server == server_name(*server):
            return True
        return abs(now - self.expected(asked)) < CLOCK_STEP

    def expected(self, asked):
        """What the database should say at a boottime, a UTC datetime."""
        return self.now + (asked - self.asked) * SECOND

    def was_set_back(self, now, asked):
        """Whether it says less than it should, by the look before. Keeps this look for
        the next one."""
        was = self.now is not None and now < self.expected(asked) - CLOCK_STEP
        self.asked = boottime()  # not `asked`, as the answer may have been slow
        self.now = now
        return was


########################################################################################
# runner: starts, limits and ends commands
########################################################################################

AT_ONCE = 8  # commands that are started before the runner looks at what has ended


class Command:
    """The command of one run, as its runner sees it."""

    def __init__(self, row, claim, sent, config):
        """row: what collect read; sent: the boottime before the claim was sent."""
        self.job = row.id
        self.name = row.name or ''
        self.run_no = row.run_no
        self.attempt = with_numbers(row).attempt
        self.note = row.note  # why it starts late
        self.text = alert_command(config) if row.name == ALERT else row.command
        self.due = row.next_run_utc
        self.started = row.last_start
        self.mark = mark_of(claim.token, row.id)
        time_left = moment(row.run_deadline_utc) - moment(row.now)
        slack = config.kill_grace + MARGIN
        self.max_run_time = time_left.total_seconds() - slack  # seconds
        # Counted from before the claim was sent, so never later than the deadline.
        self.limit = sent + self.max_run_time  # boottime
        self.log = None  # once it is started, like the next four
        self.pipe = None  # the end from which its output is read
        self.begun = None  # time.monotonic()
        self.process = None  # process id
        self.born = None  # the boottime at which that process was started
        self.exit = None  # its exit status, once it has ended
        self.usage = None  # what it took, as os.wait4() says
        self.cause = None  # why we end it
        self.kill_at = None  # the boottime at which it gets SIGKILL
        self.tail = b''  # the last of its output
        self.watch = claim.watch_file(row.id)

    def __str__(self):
        return 'job %d run %d' % (self.job, self.run_no)


def alert_command(config):
    """The command of the alert job. What its row has for one is for people: whoever may
    change that runs nothing by it."""
    from shlex import quote

    words = (
        sys.executable,
        os.path.realpath(__file__),
        '--config',
        os.path.abspath(config.file),
        '--name',
        config.name,
        'alert',
    )
    return 'exec ' + ' '.join(map(quote, words))


def start_runner(config, worker, claim, commands):
    """start: fork one runner for the claim. worker: its name."""
    for name in ('queue', 'resource', 'selectors', 'threading'):
        __import__(name)  # once: an idle pass does without
    if not os.fork():
        become_runner(config, worker, claim, commands)


def become_runner(config, worker, claim, commands):
    """The child's half of the fork; never returns. worker: its name."""
    try:
        # Collecting the worker's garbage would close fds that we use again.
        gc.freeze()
        leave_worker(claim.file)
        Runner(config, worker, claim, commands).loop()
    except BaseException as error:
        Log(config.worker_log, worker, config.log_max_bytes).write('runner: %r' % error)
    finally:
        os._exit(0)


class Runner:
    """The forked child that owns the runs of one claim. It needs neither the worker
    nor the database: it starts, limits and stops them, and writes their results."""

    def __init__(self, config, worker, claim, commands):
        from selectors import DefaultSelector

        self.config = config
        self.worker = worker  # its name
        self.claim = claim
        self.waiting = commands  # to be started
        self.live = {}  # process id -> Command
        self.results = []  # lines for the claim's file, until the disk has taken them
        self.next_check = 0  # boottime at which limits are looked at again
        self.environment = dict(os.environ)
        self.selector = DefaultSelector()
        self.wakeup = self.listen_to_signals()
        # What may block is done elsewhere, so that it delays no limit.
        self.logs = Errands(self.wakeup)
        self.disk = Errands(self.wakeup)

    def listen_to_signals(self):
        """Make the end of a child end the wait, as a byte into this descriptor does."""
        signals, wakeup = os.pipe()
        os.set_blocking(signals, False)
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        drain = partial(os.read, signals, 4096)
        self.listen_to(signals, drain)
        return wakeup

    def listen_to(self, file, function):
        """Have a function called when there is something to read."""
        from selectors import EVENT_READ

        self.selector.register(file, EVENT_READ, function)

    def loop(self):
        """Start the commands, and stay until each has its result on the disk; then as
        long as somebody has a pipe of theirs, who would die of SIGPIPE without us."""
        while self.waiting or self.live or self.results or self.disk.is_busy():
            self.start_some()
            self.wait(0 if self.waiting else max(0, self.next_check - boottime()))
            self.bury()
            if boottime() >= self.next_check:
                self.show_output()
                self.next_check = boottime() + (0.05 if self.enforce_limits() else 1)
            if self.results and not self.disk.is_busy():
                self.disk.do(self.keep_results)
        os.close(self.claim.file)  # it holds no run any more
        while len(self.selector.get_map()) > 1:
            self.wait(None)
        self.logs.finish()

    def wait(self, seconds):
        """Until somebody writes, or a command ends: copy output."""
        ready = self.selector.select(seconds)
        until = boottime() + 1  # a slow disk may delay limits no longer
        for key, _ in ready:
            with suppress(OSError):  # no error of one run may end the others
                key.data()
            if boottime() > until:
                break

    def bury(self):
        """Note the commands that have ended."""
        for process, status, usage in dead_children():
            command = self.live.get(process)
            if command is None:
                continue
            command.usage = usage
            command.exit = os.waitstatus_to_exitcode(status)
            if not command.cause:  # else its tree has to end too
                self.finish(command, status_of(command.exit))

    def keep_results(self):
        """Make results survive crashes, and wake whichever worker there is. On a full
        disk, keep them and the lock, and try again."""
        results = list(self.results)
        try:
            append(self.claim.file, *results)
            os.fsync(self.claim.file)
        except OSError:
            time.sleep(1)
            return
        del self.results[: len(results)]
        with suppress(OSError):
            wake = no_link(self.claim.wake, os.O_WRONLY | os.O_NONBLOCK)
            with open(wake, 'wb', 0) as file:
                file.write(b'.' * len(results))

    # Starting.

    def start_some(self):
        """Start a few of the commands, and note their processes."""
        some = self.waiting[:AT_ONCE]
        del self.waiting[:AT_ONCE]
        for command in some:
            self.start(command)
        spawned = [spawned_line(command) for command in some if command.process]
        with suppress(OSError):  # a full disk
            if spawned:
                append(self.claim.file, *spawned)

    def start(self, command):
        """Start one command, unless too little of its time is left."""
        if command.limit - boottime() < command.max_run_time / 2:
            self.give_back(command, 'too little time left before its deadline')
            return
        try:
            append(self.claim.file, self.start_line(command))
        except OSError as error:  # a full disk
            self.give_back(command, error.strerror)
            return
        command.log = Log(
            self.config.job_log(command.job),
            self.worker,
            self.config.log_max_bytes,
            Log(self.config.worker_log, self.worker, self.config.log_max_bytes).write,
        )
        command.begun = time.monotonic()
        try:
            self.spawn(command)
        except (OSError, ValueError) as error:
            reason = getattr(error, 'strerror', None) or error
            self.finish(command, 'ERROR: could not start: %s' % reason)

    def give_back(self, command, reason):
        self.results.append(
            ending_line(
                command.job,
                Kind.GIVEN_BACK,
                'given back: %s' % reason,
                run_no=command.run_no,
            )
        )

    def spawn(self, command):
        """Start the process of a command, whose output goes into a pipe."""
        reader, output = os.pipe()
        os.set_blocking(reader, False)
        command.pipe = os.fdopen(reader, 'rb', 0)
        self.listen_to(command.pipe, partial(self.copy, command))
        try:
            command.process = spawn(command.text, self.environment_of(command), output)
        finally:
            os.close(output)
        self.live[command.process] = command
        command.born = boottime()

    def start_line(self, command):
        return {
            'event': 'started',
            'job': command.job,
            'run_no': command.run_no,
            'due': command.due,
            'started': command.started,
            'worker': self.worker,
            'attempt': command.attempt,
            'note': command.note,
            'limit': command.limit,
        }

    def environment_of(self, command):
        due = str(command.due).replace(' ', 'T') + 'Z' if command.due else ''
        return {
            **self.environment,
            'DISTRIBUTED_CRON_JOB_ID': str(command.job),
            'DISTRIBUTED_CRON_JOB_NAME': command.name,
            'DISTRIBUTED_CRON_RUN_NO': str(command.run_no),
            'DISTRIBUTED_CRON_ATTEMPT': str(command.attempt),
            'DISTRIBUTED_CRON_RUN': command.mark,
            'DISTRIBUTED_CRON_DUE': due,
            'DISTRIBUTED_CRON_WORKER': self.worker,
        }

    # While they run.

    def copy(self, command):
        """Copy what is in a command's pipe to its log, in one read."""
        data = command.pipe.read(1 << 20)  # more than a pipe holds; None: nothing now
        if data:
            self.logs.do(command.log.feed, data)
            command.tail = (command.tail + data)[-MOST_SHOWN:]
        elif data is not None:
            self.selector.unregister(command.pipe)
            command.pipe.close()

    def show_output(self):
        """Write what watched runs have written so far; see live."""
        for command in self.live.values():
            if command.tail and os.path.exists(command.watch):
                self.disk.do(overwrite, command.watch, command.tail)

    def enforce_limits(self):
        """End what ran out of time or is to be stopped. Returns the commands that are
        just being ended."""
        to_stop = ()
        with suppress(OSError):  # try again
            to_stop = read_text(self.claim.path + '.stop').split()
        for command in self.live.values():
            if not command.cause:
                command.cause = self.cause_to_end(command, to_stop)
        condemned = [command for command in self.live.values() if command.cause]
        with suppress(OSError):  # try again
            processes = living_processes() if condemned else ()
            for command in condemned:
                self.end_tree(command, processes)
        return condemned

    def cause_to_end(self, command, to_stop):
        """Why a command is to be ended now; None if it may go on."""
        if boottime() >= command.limit:
            # Rounded down: up to a second of it is the database's, see pieces_of.
            minutes = max(1, int(command.max_run_time / self.config.minute))
            return 'timed out after %d min' % minutes
        return 'stopped' if str(command.job) in to_stop else None

    def end_tree(self, command, processes):
        """Send SIGTERM to the whole tree, and SIGKILL after the grace; when nothing is
        left of it, the run has ended. processes: all that live."""
        now = boottime()
        signum = 0  # only look whether somebody is there
        if command.kill_at is None:
            command.kill_at = now + self.config.kill_grace
            signum = signal.SIGTERM
        elif now > command.kill_at:
            signum = signal.SIGKILL
        tree = tree_of(processes, command.mark, command.process, command.born)
        is_left = signal_tree(tree, command.process, signum)
        if command.exit is not None and not is_left:
            self.finish(command, 'ERROR: ' + command.cause)

    def finish(self, command, status):
        """The run has ended: read what is in its pipe, and keep its result."""
        if command.pipe and not command.pipe.closed:
            with suppress(OSError):
                self.copy(command)  # once: a background process may write for ever
        if command.tail:
            self.logs.do(command.log.end_line)
        self.live.pop(command.process, None)
        beginning = max(0, len(command.tail) - self.config.history_output_bytes)
        self.results.append(
            ending_line(
                command.job,
                Kind.DONE,
                status[:255],
                exit_code=command.exit,
                ended=boottime(),
                boot=boot_id(),
                output=plain_text(command.tail[beginning:]),
                duration_ms=round(1000 * (time.monotonic() - command.begun)),
                **cost_of(command.usage),
            )
        )


########################################################################################
# state: the folder in which a host remembers its runs, and its lock
########################################################################################

# The state folder makes runs survive their worker. It holds `worker.lock`, which a
# worker keeps locked as long as it lives, `machine`, `clock`, `signed`, the FIFO
# `wake`, and for each claim a file, named by its token; beside that, `<token>.stop`
# names the jobs whose runs are to end, and `<token>.<job>.watch` is for live.


class State:
    """The state folder of this host."""

    def __init__(self, config):
        """Make the folders, or raise BadConfig that says what is wrong with them."""
        self.folder = config.state_location
        self.wake = os.path.join(self.folder, 'wake')
        self.machine = os.path.join(self.folder, 'machine')
        name = os.uname().nodename
        self.id = read_text('/etc/machine-id').strip() or name
        self.fifo = None  # its descriptor; signals and results end a wait through it
        self.signatures = Signatures(config, self.folder)
        key = 'log.location'  # in the message, if what follows fails
        try:
            make_folder(config.log_location, 0o750)
            open(config.worker_log, 'ab', opener=no_link).close()
            key = 'state.location'
            make_folder(self.folder, 0o700)
            # The runs of another machine can't be seen from here. This one's name was
            # written if it had no id then.
            if (read_text(self.machine) or name) not in (self.id, name):
                raise BadConfig(
                    '%s is the folder of another machine; each needs its own'
                    % self.folder
                )
            key = 'sign'
            self.signatures.check()
            lock = os.path.join(self.folder, 'worker.lock')
            self.lock_file = open(lock, 'a', opener=no_link)
        except (OSError, BadConfig) as problem:
            raise config.bad('%s: %s' % (key, line_of(problem))) from None

    def lock(self):
        """Become the host's one worker; False when there is one."""
        try:
            fcntl.flock(self.lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if not os.path.exists(self.machine):  # under the lock: two may start at once
            with naming(self.machine), open(self.machine, 'xb', 0) as file:
                file.write(self.id.encode())
                os.fsync(file.fileno())
        self.make_wake()
        return True

    def make_wake(self):
        """Make and open the FIFO, if it is not there. Returns whether it was opened."""
        try:
            os.mkfifo(self.wake, 0o600)
        except FileExistsError:
            if self.fifo is not None:
                return False
        fifo = no_link(self.wake, os.O_RDWR | os.O_NONBLOCK)
        if self.fifo is not None:
            os.close(self.fifo)  # it was removed
        self.fifo = fifo
        return True


def make_folder(path, mode):
    """Make a folder, if it is not there. Raises BadConfig if others could put files of
    theirs into it, through which we would write."""
    os.makedirs(path, mode, exist_ok=True)
    refuse_others(path)


########################################################################################
# signature: is a job what somebody has signed whom this host trusts?
########################################################################################

# Of a job are signed: the line `distributed_cron job 1`, and the JSON list of the texts
# of SIGNED as its row has them, null for NULL. Numbers are decimal, times of day are
# HH:MM:SS, not_after is YYYY-MM-DD HH:MM:SS, UTC. The JSON is UTF-8, has no blank after
# `,`, and escapes only what it must. The signature is OpenSSH's, see PROTOCOL.sshsig
# there, in the namespace distributed_cron. In the column `signature` stand the signer,
# that list, and the armored signature, each from a new line on. A job that a template
# has on a host has the list and the signature of the template.

NAMESPACE = 'distributed_cron'
SIGNED = (
    'cluster id rev name command run_on each_host schedule frequency start_anchor '
    'stop_anchor time_zone start_within max_run_time retries retry_delay after_job '
    'not_after'
).split()
NO_SIGNERS = 'sign.signers is missing: a file with who may sign'
ANSWER = 10  # seconds in which ssh-keygen has to verify a signature
NO_CLUSTER = 'sign.cluster is missing: a word that no other installation has'
LONGEST_ARMOR = 4096  # bytes: what a pipe holds at least
# texts: {of SIGNED: its text}; rev: that of the texts as an int
Signature = namedtuple('Signature', 'signer texts armor rev')


class Signatures:
    """What a host requires of jobs, and the good signatures that it remembers in a file
    of the state folder: of each job the newest."""

    def __init__(self, config, folder):
        self.config = config
        self.path = os.path.join(folder, 'signed')
        self.ground = None  # what ground_of() says; None: it can't be read
        self.known = None  # 'cluster id' of a job -> [rev, digest], once it is read
        self.is_saved = True  # whether the file has all of that

    def check(self):
        """Raise BadConfig or OSError if this host can't be sure who may sign."""
        if not self.config.sign_required:
            return
        from shutil import which

        if not self.config.sign_signers:
            raise BadConfig(NO_SIGNERS)
        if not self.config.sign_cluster:  # the database's identity is in a table
            raise BadConfig(NO_CLUSTER)
        if not which('ssh-keygen'):
            raise BadConfig('there is no ssh-keygen; install openssh-client')
        for path in files_of(self.config):
            for file in (path, os.path.realpath(path)):
                refuse_others(os.path.dirname(file))
                refuse_others(file)

    def allowed(self, rows, claim, store):
        """Those of the rows of a claim that may start. The runs of the others have
        ended: the claim's file says so."""
        if not rows or not self.config.sign_required:
            return rows
        self.prepare()
        good = []
        for row in rows:
            flaw = self.flaw_of_run(row, store.config.sign_cluster)
            if flaw is None:
                good.append(row)
            elif self.config.sign_required == 'warn':
                note = ('not as signed: ' + flaw)[:255]
                good.append(row._replace(note=note))
            else:
                status = (REFUSED + flaw)[:255]
                line = ending_line(row.id, Kind.DONE, status, run_no=row.run_no)
                append(claim.file, line)
        if not self.is_saved:
            self.save()
        return good

    def prepare(self):
        """Read by what signatures are judged now, and what is remembered."""
        self.ground = None
        with suppress(OSError):
            self.ground = ground_of(self.config)
        if self.known is None:
            self.known = {}
            with suppress(OSError, ValueError):
                self.known.update(from_json(read_text(self.path)))

    def flaw_of_run(self, row, cluster):
        """Why a run may not start; None if it may. What its environment tells must be
        what it seems, too."""
        numbers = row.id, row.run_no, row.attempt
        if not all(isinstance(number, int) for number in numbers):
            return 'a number of it is none'
        if moment(row.next_run_utc) is None:
            return 'the time at which it is due is none'
        if row.name == ALERT:
            return None  # its command is built in
        return flaw_of(row, cluster, self.doubt, self.config.words)

    def doubt(self, signature):
        """As doubt_of(), but ssh-keygen is asked once, and an older version than one
        that was good is not."""
        if self.ground is None:
            return 'who may sign can not be read'
        from hashlib import sha256

        job = '%(cluster)s %(id)s' % signature.texts
        newest, good = self.known.get(job, (0, ''))
        if signature.rev < newest:
            return 'this host knows a newer version of it'
        judged_by = repr((self.ground, signature))
        digest = sha256(judged_by.encode()).hexdigest()
        if digest == good:
            return None
        text = doubt_of(self.config, signature)
        if text is None:
            self.known[job] = [signature.rev, digest]
            self.is_saved = False
        return text

    def save(self):
        """Write the file. Where that fails, ssh-keygen will be asked again."""
        new = self.path + '.new'
        with suppress(OSError):
            with open(new, 'wb', 0, opener=no_link) as file:
                file.write(to_json(self.known).encode())
                os.fsync(file.fileno())
            os.replace(new, self.path)
            self.is_saved = True


def files_of(config):
    """The files that say who may sign."""
    return [path for path in (config.sign_signers, config.sign_revoked) if path]


def ground_of(config):
    """By what signatures are judged: what the files hold, and, where keys are valid for
    a time, the day."""
    ground = []
    for path in files_of(config):
        with open(path, 'rb') as file:
            ground.append(file.read())
    if re.search(b'(?i)valid-|cert-authority', ground[0]):
        ground.append(time.strftime('%Y-%m-%d', time.gmtime()))
    return ground


def texts_of(job, cluster):
    """What is to be signed of a job: {of SIGNED: text}."""
    values = {**job._asdict(), 'cluster': cluster}
    texts = {name: values[name] for name in SIGNED}
    for name, value in texts.items():
        if value is not None:
            texts[name] = str(value)
        if name.endswith('_anchor') and re.fullmatch(r'\d\d:\d\d', texts[name] or ''):
            texts[name] += ':00'  # SQLite keeps a time as it was written
    return texts


def list_of(texts):
    """The texts that are signed, as a JSON list."""
    values = [texts[name] for name in SIGNED]
    return to_json(values, ensure_ascii=False, separators=(',', ':'))


def signed_bytes(texts):
    return ('distributed_cron job 1\n' + list_of(texts)).encode()


def signature_of(job):
    """The Signature of a job; None if there is none that can be read."""
    with suppress(Exception):  # somebody may have written there what he likes
        signer, line, armor = job.signature.split('\n', 2)
        texts = dict(zip(SIGNED, from_json(line)))
        types = set(map(type, texts.values()))
        is_list = types <= {str, type(None)} and list_of(texts) == line
        if is_list and re.fullmatch('[!-~]{1,255}', signer):
            return Signature(signer, texts, armor, rev=int(texts['rev']))
    return None


def flaw_of(job, cluster, doubt, words=None):
    """Why a job is not what was signed; None if it is. doubt: a function that says why
    a signature does not hold. words: of the host on which it is to run."""
    signature = signature_of(job)
    if signature is None:
        return 'it is not signed'
    texts = signature.texts
    own = texts_of(job, cluster)
    if job.parent_id is not None:  # it is what a template has on a host
        of_template = {'id': str(job.parent_id), 'each_host': '1'}
        own.update(of_template, run_on=texts['run_on'])
        if job.name is None:  # or its environment would have what nobody signed
            own['name'] = texts['name']
    changed = [name for name in SIGNED if own[name] != texts[name]]
    if changed:
        names = ', '.join(changed)
        return 'it is not what %s signed: %s' % (signature.signer, names)
    for run_on in (texts['run_on'], job.run_on):
        if words and run_on not in (None, *words):
            return 'it was signed for other hosts'
    if texts['not_after'] is not None and is_over(texts['not_after']):
        return 'its signature was good until ' + texts['not_after']
    return doubt(signature)


def is_over(when):
    """Whether a UTC time, as text, has passed by this host's clock. The database's is
    not asked: whoever writes into it may set that, too."""
    end = moment(when)
    if text_of(end) != when:  # no text of ours
        return True
    return time.time() >= (end - EPOCH).total_seconds()


def doubt_of(config, signature):
    """Why a signature of these texts does not hold; None if it does."""
    if not config.sign_signers:
        return NO_SIGNERS
    options = ['-I', signature.signer]
    if config.sign_revoked:
        options += ['-r', config.sign_revoked]
    text = signed_bytes(signature.texts)
    try:
        done = ask_ssh(config, 'verify', signature.armor, text, *options)
    except Problem as problem:
        return str(problem)
    if done.returncode == 0:
        return None
    said = done.stderr or done.stdout
    said = said.decode('utf-8', 'replace')
    reason = visible(said.split('\n')[0])
    return 'the signature of %s does not hold: %s' % (signature.signer, reason)


def ask_ssh(config, what, armor, text, *options):
    """Have ssh-keygen verify a signature, or find whose it is. Raises Problem."""
    import subprocess

    reader, writer = os.pipe()  # a file that nobody has to remove
    os.write(writer, armor.encode()[:LONGEST_ARMOR])
    os.close(writer)
    command = ['ssh-keygen', '-q', '-Y', what, '-n', NAMESPACE]
    command += ['-f', config.sign_signers, '-s', '/dev/fd/%d' % reader, *options]
    try:
        return subprocess.run(
            command,
            input=text,
            capture_output=True,
            pass_fds=[reader],
            timeout=ANSWER,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Problem('ssh-keygen: %s' % error) from None
    finally:
        os.close(reader)


def judged(store, job, doubt=None):
    """(Who signed a job, None if it is not as signed; that in words). doubt: as in
    flaw_of()."""
    if doubt is None:
        doubt = partial(doubt_of, store.config)
    flaw = flaw_of(job, store.config.sign_cluster, doubt)
    if flaw is not None:
        return None, flaw
    signer = signature_of(job).signer
    return signer, 'signed by ' + signer


########################################################################################
# claims: the file of each claim, and what it tells of the runs
########################################################################################

# A claim's file is made and locked before the claim is sent. The worker forks the
# runner and closes its own copy without unlocking it, so the file is locked exactly as
# long as the runner lives. Lines of JSON are only appended to it, in this order:
#
#     event      what it holds                         written
#     claimed    boot, born (boottime), database,      before the claim is sent
#                starts (of the jobs, before)
#     started    job, run_no, due, started, worker,    before a command is started
#                attempt, note, limit (boottime)
#     spawned    job, process, born (boottime)         after that
#     ended      job, kind, status, exit_code, …       after its end, then fsync
#     reported   jobs                                  when the database has their ends
#
# A worker reads the file in each turn, its own and those of its predecessors alike:
#
#     an end                             report it; the lock may be held for others
#     lock held, no end                  the run goes on, or is about to start; what
#                                        is past its limit is ended here too
#     lock free, start without an end    the runner died: end what is left of the
#                                        command, then report the run as lost
#     lock free, no start, this boot     it never started: give the run back
#     lock free, no start, other boot    the line may not have reached the disk: lost
#
# A claim whose answer never came may still land in the database for a while, so its
# file stays for OPEN_CLAIM seconds. A reader skips events and keys that it does not
# know: another version's worker may have written them.

OPEN_CLAIM = 3600  # seconds in which a claim whose answer was lost may still land


class Claims(dict):
    """The claims of this host by token: one for each such file of the state folder."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder
        self.others = {}  # of other databases: orphans end, but nothing is reported
        self.watched = {}  # (claim, job id) -> what was shown of its output

    def new(self, database, starts):
        """A new claim, whose file is made and locked. database: its identity; starts:
        {job id: last_start}."""
        claim = Claim(self.folder, os.urandom(16).hex())
        claim.create(database, starts)
        self[claim.token] = claim
        return claim

    def settle(self, grace):
        """Read the files, and end what is left of commands whose runner died, which get
        so many seconds from SIGTERM to SIGKILL."""
        # Not worker.lock, machine, …, *.stop and *.watch, nor what is not ours.
        tokens = [
            name
            for name in os.listdir(self.folder)
            if len(name) == 32 and is_own_file(os.path.join(self.folder, name))
        ]
        for token in set(self).difference(tokens):
            del self[token]
        for token in tokens:
            claim = self.others.get(token) or self.setdefault(
                token, Claim(self.folder, token)
            )
            claim.read()
            claim.end_left(grace)

    def set_aside(self, database):
        """Keep only the claims of this database, by its identity, and those without
        one, of version 1.0: in another database, a job of that id is another job.
        Returns how many more were set aside."""
        before = len(self.others)
        claims = {**self, **self.others}
        self.clear()
        self.others.clear()
        for token, claim in claims.items():
            ours = claim.database in ('', database)
            (self if ours else self.others)[token] = claim
        return len(self.others) - before

    def endings(self):
        """The Endings that are to be reported."""
        return [ending for claim in self.values() for ending in claim.endings()]

    def forget(self, endings):
        """Forget runs whose Endings are reported."""
        jobs = defaultdict(list)
        for ending in endings:
            jobs[ending.token].append(ending.job)
        for token in jobs:
            self[token].forget(jobs[token])

    def pass_on_stops(self, rows):
        """Pass on the requests to stop in rows that our claims hold."""
        for row in rows:
            if row.stop_requested == row.run_no:
                self[row.run_token].ask_to_stop(row.id)

    def never_started(self, rows):
        """Endings of those rows that our claims hold, but whose runs never started. It
        also notes which claims have rows."""
        endings = []
        for token in self.unheld_tokens():
            self[token].empty = True
        for row in rows:
            claim = self[row.run_token]
            claim.landed = True  # its answer may have been lost
            claim.empty = False
            if claim.unheld and not claim.runs.get(row.id):
                endings.append(claim.ending_without_start(row))
        return endings

    def remove_done(self):
        """Remove the files of claims that hold nothing, here and in the database, and
        can't land any more."""
        for token in self.unheld_tokens():
            claim = self[token]
            may_land = not claim.landed and boottime() < claim.born + OPEN_CLAIM
            if claim.empty and not claim.unreported_count() and not may_land:
                self.pop(token).remove()

    def unheld_tokens(self):
        """Tokens of the claims that no runner holds."""
        return [token for token, claim in self.items() if claim.unheld]

    def any_orphaned(self):
        """Whether a runner died before the ends of its commands."""
        return any(claim.unheld and claim.running_jobs() for claim in self.values())

    def here(self):
        """The jobs that may not be started on this host, whatever the database says:
        something is left of a run that is past its limit, or that has no runner."""
        return {job for claim in self.values() for job in claim.survivors}

    def running_count(self):
        """How many runs have not ended."""
        return sum(len(claim.running_jobs()) for claim in self.values())

    def unreported_count(self):
        """How many runs have not ended, or are not reported."""
        return sum(claim.unreported_count() for claim in self.values())


class Claim:
    """The file of one claim, and what was learned from it."""

    def __init__(self, folder, token):
        self.path = os.path.join(folder, token)
        self.wake = os.path.join(folder, 'wake')
        self.token = token
        self.file = None  # descriptor of the worker that made it
        self.size = 0  # bytes that were read
        self.runs = {}  # job id -> what its lines say; until it is reported
        self.born = 0  # boottime of its making; 0 if that was in another boot
        self.database = ''  # the identity of the database that it was sent to
        self.starts = {}  # job id, as text -> its last_start before the claim
        self.landed = False  # the database has answered
        self.unheld = False  # no runner holds it
        self.empty = False  # the database has no run of it, as far as is known
        self.kill_at = {}  # job id -> the boottime from which an orphan gets SIGKILL
        self.survivors = set()  # jobs of whose late or orphaned runs some is left
        self.killed = set()  # ids of those that have got SIGKILL
        self.stuck = {}  # job id -> the process that is there in spite of it

    def create(self, database, starts):
        """Make the file, before the claim is sent, and lock it."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL
        self.file = os.open(self.path, flags, 0o600)
        fcntl.flock(self.file, fcntl.LOCK_EX)
        line = {
            'event': 'claimed',
            'boot': boot_id(),
            'born': boottime(),
            'database': database,
            'starts': starts,
        }
        try:
            append(self.file, line)
        except OSError as error:  # a full disk: nothing is claimed
            os.close(self.file)
            self.remove()
            raise OSError(error.errno, error.strerror, self.path) from None

    def read(self):
        """Learn what was appended since, and whether a runner holds the claim."""
        with open(self.path, 'rb', opener=no_link) as file:
            # Test the lock before reading, so that we see all that its runner wrote.
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.unheld = True
            file.seek(self.size)
            lines = file.read().rpartition(b'\n')[0]
        self.size += len(lines)
        for text in lines.split(b'\n'):
            with suppress(ValueError):  # cut off by a crash, or by a full disk
                line = from_json(text)
                if isinstance(line, dict):
                    self.learn(line)

    def learn(self, line):
        """Take in one line; the only place where `runs` changes."""
        event = event_of(line)
        if event == 'claimed':
            self.starts = line.get('starts', {})
            self.database = line.get('database', '')
            if line.get('boot') == boot_id():
                self.born = line.get('born', 0)
        elif event == 'collected':  # in memory only: the database has answered
            self.runs = {job: {} for job in line['jobs']}
        elif event in ('started', 'ended') and isinstance(line.get('job'), int):
            self.runs.setdefault(line['job'], {}).update(line)
            self.landed = True
        elif event == 'spawned' and line.get('job') in self.runs:
            self.runs[line['job']].update(line)
        elif event == 'reported':
            for job in line.get('jobs', ()):
                self.runs.pop(job, None)

    def running_jobs(self):
        """The jobs whose runs have no end yet."""
        return [
            job
            for job, facts in self.runs.items()
            if 'kind' not in facts and (facts or not self.unheld)
        ]

    def unreported_count(self):
        """How many runs have not ended, or are not reported."""
        return len([facts for facts in self.runs.values() if facts or not self.unheld])

    def end_left(self, grace):
        """End what is left of commands whose runner died, and of those that their
        runner should have ended by now. Once nothing is left of an orphan, its run is
        lost."""
        now = boottime()
        late = now - grace - MARGIN / 4
        jobs = [
            job
            for job in self.running_jobs()
            if self.unheld or self.runs[job].get('limit', now) < late
        ]
        self.survivors = set()
        self.stuck = {}
        processes = living_processes() if jobs else ()
        for job in jobs:
            facts = self.runs[job]
            # In another boot, that is the id of another process.
            leader = facts.get('process') if self.born else None
            mark = mark_of(self.token, job)
            tree = tree_of(processes, mark, leader, facts.get('born'))
            if tree:
                self.survivors.add(job)
                signum = self.signal_for(job, grace, now)
                signal_tree(tree, leader, signum)
                if job in self.killed:
                    self.stuck[job] = tree[0].id
                elif signum == signal.SIGKILL:
                    self.killed.add(job)
            elif self.unheld:
                self.learn(ending_line(job, Kind.LOST, LOST))

    def signal_for(self, job, grace, now):
        """SIGTERM once, then nothing, and SIGKILL after the grace; at once if the run
        is past its limit."""
        limit = self.runs[job].get('limit', now + grace)
        if now > min(limit, self.kill_at.get(job, limit)):
            return signal.SIGKILL
        if job in self.kill_at:
            return 0
        self.kill_at[job] = now + grace
        return signal.SIGTERM

    def ending_without_start(self, row):
        """The Ending of a run that has no line of its start. In this boot it had no
        start; in another one the line may not have reached the disk."""
        facts = {'run_no': row.run_no, 'kind': Kind.LOST, 'status': LOST}
        if self.born:
            facts.update(kind=Kind.GIVEN_BACK, status='never started')
        return self.ending_of(row.id, facts)

    def endings(self):
        """The Endings that are to be reported."""
        return [
            self.ending_of(job, facts)
            for job, facts in self.runs.items()
            if 'kind' in facts
        ]

    def ending_of(self, job, facts):
        known = {name: facts[name] for name in Ending._fields[2:] if name in facts}
        start = self.starts.get(str(job), '')
        return Ending(self.token, job, **known)._replace(last_start=start)

    def forget(self, jobs):
        """Forget what is reported; a line keeps the next worker from reporting it."""
        line = {'event': 'reported', 'jobs': jobs}
        self.learn(line)
        # Its maker knows of all its runs, also of those that never started.
        self.empty = self.file is not None and not self.runs
        with suppress(OSError), open(self.path, 'ab', 0, opener=no_link) as file:
            append(file.fileno(), line)

    def ask_to_stop(self, job):
        """Ask the runner to end a run."""
        with open(self.path + '.stop', 'a', opener=no_link) as file:
            file.write('%d\n' % job)

    def watch_file(self, job):
        """The file into which a run's output is written while it is watched."""
        return '%s.%d.watch' % (self.path, job)

    def remove(self):
        for path in (self.path + '.stop', self.path):
            with suppress(FileNotFoundError):
                os.unlink(path)


def event_of(line):
    """What a line of a claim's file tells. Version 1.0 wrote no `event`."""
    if 'event' in line:
        return line['event']
    if 'reported' in line:
        line['jobs'] = line['reported']
        return 'reported'
    if 'job' in line:
        return 'ended' if 'kind' in line else 'started'
    return 'claimed'


def ending_line(job, kind, status, **facts):
    """The line of a claim's file that tells the end of a run."""
    return {'event': 'ended', 'job': job, 'kind': kind, 'status': status, **facts}


def spawned_line(command):
    """The line of a claim's file that tells by which process a run was begun."""
    return {
        'event': 'spawned',
        'job': command.job,
        'process': command.process,
        'born': command.born,
    }


########################################################################################
# processes: their start, signals, marks and logs
########################################################################################


def leave_worker(lock):
    """Make the forked child independent of its worker: no descriptor but the claim's
    lock, a session of its own, and no signal but SIGKILL ends it."""
    signal.set_wakeup_fd(-1)
    # Handlers, because commands would inherit SIG_IGN.
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(signum, lambda *_: None)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    os.closerange(3, lock)
    os.closerange(lock + 1, highest_descriptor(lock) + 1)


def highest_descriptor(lock):
    """The highest that may be open. lock: one that is."""
    with suppress(OSError):
        found = max(map(int, os.listdir('/dev/fd')))
        if found >= lock:  # without fdescfs, BSD shows 0 to 2 only
            return found
    return os.sysconf('SC_OPEN_MAX')


def spawn(text, environment, output):
    """Start a shell command in a session of its own; returns its process id.
    posix_spawn does not copy the runner's memory as a fork would."""
    return os.posix_spawn(
        '/bin/sh',
        ['/bin/sh', '-c', text],
        environment,
        setsid=True,
        file_actions=[(os.POSIX_SPAWN_DUP2, output, to) for to in (1, 2)],
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
    )


def dead_children():
    """Bury the children that have ended: (process id, wait status, usage) of each."""
    with suppress(ChildProcessError):
        while (child := os.wait4(-1, os.WNOHANG))[0]:
            yield child


def cost_of(usage):
    """What a process and its buried children took: of the processor in ms, and of the
    memory, at most, in KiB; see getrusage(2). usage: None if it was not started."""
    from resource import RUSAGE_SELF, getrusage

    if usage is None:
        return {}
    cost = {'cpu_ms': round(1000 * (usage.ru_utime + usage.ru_stime))}
    # Linux counts what its runner had at its start, too: no more than that is unknown.
    if usage.ru_maxrss > getrusage(RUSAGE_SELF).ru_maxrss:
        unit = 1024 if sys.platform == 'darwin' else 1  # bytes there, KiB elsewhere
        cost['max_rss_kb'] = usage.ru_maxrss // unit
    return cost


HAS_PROC = os.path.exists('/proc/self/environ')


def mark_of(token, job):
    """What a run's processes carry as DISTRIBUTED_CRON_RUN in their environment."""
    return '%s.%d' % (token, job)


# id; ids of its group and session; the boottime of its start; the marks in its
# environment, as far as that can be read.
Process = namedtuple('Process', 'id group session born marks')


SAME_START = 5  # seconds between a start and our note of it, on a very busy machine


def living_processes():
    """All processes but zombies; none where there is no /proc."""
    found = []
    for name in filter(str.isdigit, os.listdir('/proc') if HAS_PROC else ()):
        with suppress(OSError, IndexError, ValueError):  # it has ended since
            process = process_of(name)
            if process:
                found.append(process._replace(marks=marks_of(name)))
    return found


def process_of(id):
    """The Process that has an id, without its marks; None for a zombie."""
    state, _, group, session, *more = stat_of(id)
    if state in 'ZX':
        return None
    ticks = os.sysconf('SC_CLK_TCK')  # in a second
    born = int(more[15]) / ticks  # `starttime` of proc(5), since the boot
    return Process(int(id), int(group), int(session), born, [])


def is_there(process):
    """Whether a Process lives, and is in its group, and its id is no other's by now."""
    with suppress(OSError):
        return process_of(process.id) == process._replace(marks=[])
    return False


def stat_of(id):
    """The fields of /proc/PID/stat from the state on; see proc(5)."""
    with open('/proc/%s/stat' % id, encoding='latin-1') as file:
        return file.read().rpartition(') ')[2].split()


def marks_of(id):
    with suppress(OSError), open('/proc/%s/environ' % id, 'rb') as file:
        text = b'\0' + file.read()
        marks = re.findall(rb'\0DISTRIBUTED_CRON_RUN=([\w.]+)', text)
        return [mark.decode() for mark in marks]
    return []  # another user's, or not to be dumped


def tree_of(processes, mark, leader, born):
    """Those of the processes that belong to a run: by its mark, or by the session that
    its first process, the leader, began. The leader's id may be another's by now."""
    for process in processes:
        if process.id == leader and abs(process.born - born) > SAME_START:
            leader = None
    return [
        process
        for process in processes
        if mark in process.marks or (leader and process.session == leader)
    ]


def signal_tree(tree, leader, signum):
    """Send a signal to the processes of a run, to each once; 0: none. Returns whether
    there are any; without /proc, whether there is anybody in the leader's group."""
    if HAS_PROC and not signum:
        return bool(tree)
    in_group = False
    with suppress(ProcessLookupError, PermissionError):
        # While one of its processes is there, a group's id is no other's.
        members = [process for process in tree if process.group == leader]
        if leader and (any(map(is_there, members)) or not HAS_PROC):
            os.killpg(leader, signum)
            in_group = True
    for process in tree:
        if process.group != leader:
            send_signal(process, signum)
    return bool(tree) or in_group


def send_signal(process, signum):
    """Send a signal to a Process, and to no other that may have got its id since."""
    handle = None
    with suppress(OSError, AttributeError):  # not on this system, or no descriptor left
        handle = os.pidfd_open(process.id)
    try:
        with suppress(ProcessLookupError, PermissionError):
            if is_there(process) and handle is None:
                os.kill(process.id, signum)
            elif is_there(process):
                signal.pidfd_send_signal(handle, signum)
    finally:
        if handle is not None:
            os.close(handle)


def append(file, *lines):
    """Add lines to a claim's file; the one before may have been cut off."""
    data = '\n'.join(['', *map(to_json, lines), '']).encode()
    if os.write(file, data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Errands:
    """A thread that does, in order, what may block for long, such as writing to a disk
    that hangs. While it hangs, errands that find no room are dropped."""

    ROOM = 64  # errands

    def __init__(self, wakeup):
        """wakeup: a descriptor that gets a byte after each errand."""
        from queue import Queue

        self.wakeup = wakeup
        self.queue = Queue(self.ROOM)
        self.thread = None  # until there is an errand
        self.hangs = False

    def do(self, function, *args):
        """Have it done; waits for room, but for a second at most."""
        from queue import Full
        from threading import Thread

        if self.thread is None:
            self.thread = Thread(target=self.run, daemon=True)
            self.thread.start()
        try:
            self.queue.put((function, args), block=not self.hangs, timeout=1)
        except Full:
            self.hangs = True

    def is_busy(self):
        return self.queue.unfinished_tasks > 0

    def run(self):
        while True:
            function, args = self.queue.get()
            with suppress(Exception):  # it must not end the thread
                function(*args)
            self.hangs = False
            self.queue.task_done()
            with suppress(OSError):  # the pipe is full: it wakes in any case
                os.write(self.wakeup, b'.')

    def finish(self):
        """Wait until all is done, or nothing has been done for a second."""
        left = self.queue.unfinished_tasks
        until = boottime() + 1
        while left and boottime() < until:
            time.sleep(0.01)
            if self.queue.unfinished_tasks < left:
                left = self.queue.unfinished_tasks
                until = boottime() + 1


def status_of(code):
    """The last_status for an exit status, or for a signal as a negative number."""
    if code == 0:
        return 'Success'
    names = {-signum: ' (%s)' % signum.name for signum in signal.Signals}
    names[75] = ' (not now)'  # EX_TEMPFAIL of sysexits.h
    names[126] = ' (not executable)'
    names[127] = ' (command not found)'
    kind = 'signal' if code < 0 else 'exit'
    return 'ERROR: %s %d%s' % (kind, abs(code), names.get(code, ''))


class Log:
    """A log file, each line led by the worker's name and the host's local time. At
    max_bytes it becomes FILE.1, also during a run. With a full disk, lines are lost,
    runs are not."""

    def __init__(self, path, name, max_bytes, tell=None):
        """tell: a function that gets the first error, as a line."""
        self.path = path
        self.name = name
        self.max_bytes = max_bytes
        self.tell = tell
        self.at_start = True  # of a line

    def write(self, *lines):
        text = ''.join(line.replace('\n', ' ') + '\n' for line in lines)
        self.feed(text.encode('utf-8', 'replace'))

    def feed(self, data):
        """Write a piece of a stream, wherever its lines begin and end."""
        try:
            # Opened for each piece, so that it does not matter who else rotates it.
            with open(self.path, 'ab', 0, opener=no_link) as file:
                if file.tell() < self.max_bytes:
                    self.write_stamped(file, data)
                    return
                if not self.at_start:
                    file.write(b'\n')
            os.rename(self.path, self.path + '.1')
            self.at_start = True
            self.feed(data)
        except OSError as error:
            if self.tell:
                self.tell(line_of(error))
                self.tell = None

    def write_stamped(self, file, data):
        leader = '%s: [%s] ' % (self.name, time.ctime())
        stamp = leader.encode('utf-8', 'replace')
        # The last byte begins no line, also when it is a line's end.
        text = data[:-1].replace(b'\n', b'\n' + stamp) + data[-1:]
        file.write(stamp + text if self.at_start else text)
        self.at_start = data.endswith(b'\n')

    def end_line(self):
        """Write the end of a line that a command left open."""
        if not self.at_start:
            self.feed(b'\n')


########################################################################################
# live: what a run has written so far, for those who watch it
########################################################################################

# Who watches a run says so in the table `live`, for a few seconds. The worker that has
# the run sees that in its look, and leaves a file `<token>.<job>.watch` in the state
# folder. The run's runner writes the end of the output into it each second, and the
# worker copies that into `live`. So nobody reads a log, and it costs nothing when
# nobody watches.

WATCHED = 15  # seconds for which a run is watched, if nobody asks again
ASK_AGAIN = 7  # seconds before that, at which somebody who still watches asks again
MOST_WATCHED = 8  # runs of one host
MOST_SHOWN = 65536  # bytes of a run's output


def output_so_far(store, job, run_no):
    """What a run in progress has written so far, and ask its host for more. Empty if
    that is not known yet."""
    run = {'job': job, 'run_no': run_no}
    rows = store.query(
        '''SELECT output, watched_until_utc, {utc_exact} AS now FROM live
        WHERE job_id = :job AND run_no = :run_no''',
        **run,
    )
    now = moment(rows[0].now) if rows else store.now()
    until = text_of(now + WATCHED * SECOND)
    if not rows:
        store.change(
            'DELETE FROM live WHERE watched_until_utc < :now', now=text_of(now)
        )
        with suppress(BadData):  # somebody else has just done so
            store.change(
                '''INSERT INTO live (job_id, run_no, watched_until_utc)
                VALUES (:job, :run_no, :until)''',
                until=until,
                **run,
            )
        return ''
    if moment(rows[0].watched_until_utc) < now + ASK_AGAIN * SECOND:
        store.change(
            '''UPDATE live SET watched_until_utc = :until
            WHERE job_id = :job AND run_no = :run_no''',
            until=until,
            **run,
        )
    return rows[0].output or ''


def show_output(store, claims):
    """Put into the database what watched runs of these claims have written so far."""
    shown = {}
    rows = store.query(
        '''SELECT job_id, live.run_no, run_token FROM live
        JOIN job ON job.id = job_id AND job.run_no = live.run_no
        WHERE watched_until_utc > {utc} AND run_token IN (:tokens)
        ORDER BY watched_until_utc LIMIT :most''',
        tokens=list(claims),
        most=MOST_WATCHED,
    )
    for row in rows:
        claim = claims[row.run_token]
        output = ''
        with suppress(BadData, OSError):  # not shown; but no job waits for that
            with open(claim.watch_file(row.job_id), 'ab+') as file:  # from now on
                file.seek(0)
                output = plain_text(file.read(), False)[-store.dialect.packet // 8 :]
            if output != claims.watched.get((claim, row.job_id), ''):
                store.change(
                    '''UPDATE live SET output = :output
                    WHERE job_id = :job AND run_no = :run_no''',
                    output=output,
                    job=row.job_id,
                    run_no=row.run_no,
                )
        shown[claim, row.job_id] = output
    for claim, job in set(claims.watched) - set(shown):
        with suppress(FileNotFoundError):
            os.unlink(claim.watch_file(job))
    claims.watched = shown


def unwatch(folder):
    """Remove what a worker that was killed left of watched runs."""
    for name in os.listdir(folder):
        if name.endswith('.watch'):
            os.unlink(os.path.join(folder, name))


def plain_text(data, whole=True):
    """Output as a text that each database takes. whole: nothing follows that could
    complete a character at its end."""
    text, _ = codecs.utf_8_decode(data, 'replace', whole)
    return text.replace('\0', '\ufffd')


def overwrite(path, data):
    """Replace what is in a file, which nobody has removed."""
    with open(path, 'r+b', 0) as file:
        file.write(data)
        file.truncate()


########################################################################################
# store: the steps in the life of a run, a statement or a transaction each
########################################################################################

NO_WORD = 'ERROR: lost: no word of %s by the deadline'
ALERT_DUE = 'EXISTS (SELECT 1 FROM job WHERE {is_alert} AND {due})'

# What a poll sees. Whether there is something to do is 0 or 1.
Look = namedtuple(
    'Look',
    (
        'now',  # a datetime, UTC
        'due_in',  # seconds until the next job is due that this host may take
        'paused',  # whether no host, or not this one, may start jobs
        'unplanned',  # jobs have no next_run_utc
        'late',  # it is too late for jobs to start
        'overdue',  # runs are past their deadline
        'watched',  # somebody watches a run
        'followed',  # jobs have succeeded whose followers are to be made due
        'alert',  # the id of the alert job; None: there is none
        'alert_due',  # this host may start it now
    ),
)


class Store:
    """The database, as the steps in the life of a run; each is one statement or one
    transaction. Times are text, as in the tables, unless a docstring says otherwise.
    Raises Away, Again, BadData or Problem."""

    def __init__(self, config):
        self.config = config
        self.dialect = DIALECTS[config.db_engine](config)
        self.connection = None  # the driver's
        self.zone = None  # the database's time zone, once connected
        self.identity = ''  # of the database, once connected
        self.used = 0  # the boottime of the last statement
        self.claimed = claimed_columns(config)
        self.bugs = {}  # job id -> why it could not be planned, as a traceback
        self.recorded_runs = {}  # job id -> run_no: the last since the last purge
        self.failed = set()  # jobs that are to be tried again, by another host first
        self.found = []  # rows of due jobs that find has read and not drawn
        self.perl_runs = set()  # of the drawn jobs, those that a Perl worker ran last
        self.me = {  # for statements
            'host': config.words[0],
            'words': config.words,
            'alerts': int(config.alerts),
        }

    def look(self):
        """What a poll needs to know, in one statement."""
        soonest = for_my_words(
            self.me['words'],
            '''SELECT next_run_utc FROM job {here}
            WHERE %s AND run_token IS NULL AND next_run_utc IS NOT NULL
            AND {may_alert}
            ORDER BY {by_due} LIMIT 1''',
        )
        self.found = []
        now, due, *found = self.query(
            '''SELECT {utc_exact}, (SELECT MIN(next_run_utc) FROM (%s) AS soonest),
            {paused},
            EXISTS (SELECT 1 FROM job WHERE run_token IS NULL AND next_run_utc IS NULL),
            EXISTS (SELECT 1 FROM job WHERE run_token IS NULL AND {late}),
            EXISTS (SELECT 1 FROM job WHERE run_deadline_utc <= {utc}),
            EXISTS (SELECT 1 FROM live WHERE watched_until_utc > {utc}),
            EXISTS (SELECT 1 FROM job WHERE followers_due IS NOT NULL),
            (SELECT id FROM job WHERE {is_alert}), %s'''
            % (soonest, ALERT_DUE if self.config.alerts else '0'),
            **self.me,
        )[0]
        now = moment(now)
        when = moment(due) or PARKED
        if due is not None and when == PARKED and str(due) < text_of(now):
            when = now  # a text that is no time and sorts first hides no other job
        return Look(now, (when - now).total_seconds(), *found)

    def plan(self, now, which='next_run_utc IS NULL', skip=()):
        """Plan the jobs that have no plan, or those that a condition chooses and that
        do not run. Returns how many. skip: jobs that are left alone."""
        unplanned = 'SELECT * FROM job WHERE run_token IS NULL AND %s LIMIT 500' % which
        rows = self.query(unplanned, **self.me)
        jobs = sorted(row for row in rows if row.id not in skip)  # by id: no deadlock
        return plan_jobs(self, jobs, now) if jobs else 0

    def plan_late(self, now, skip=()):
        """Plan the jobs anew that may not start any more; their times are skipped."""
        return self.plan(now, '{late}', skip)

    def plan_due(self, now, skip=()):
        """Plan the jobs anew that are due for this host, and can't be started."""
        return self.plan(
            now, 'next_run_utc <= {utc} AND NOT {startable} AND {mine}', skip
        )

    def tell_followers(self, now, skip=()):
        """Make the jobs due that run after jobs that have succeeded."""
        return tell_followers(self, now, skip)

    def forget_plans(self):
        """Have all jobs planned anew whose time is yet to come."""
        self.change(
            '''UPDATE job SET next_run_utc = NULL WHERE run_token IS NULL
            AND next_run_utc > {utc} AND next_run_utc < :parked''',
            parked=text_of(PARKED),
        )

    def find(self, count, share=False, skip=()):
        """Up to `count` due jobs but the alert job, drawn at random from the first
        ones, as {id: its last_start}. With `share`: an eighth of them, if `count` would
        take all. What it does not draw serves until the next look. skip: as in plan."""
        if len(self.found) < count:
            self.found = self.first_due_rows(count, skip)
        if share and len(self.found) <= count:
            count = max(3, len(self.found) // 8)
        from random import shuffle

        shuffle(self.found)
        drawn = sorted(self.found[:count])
        del self.found[:count]
        self.perl_runs = {
            row.id for row in drawn if row.last_start != row.claimed_start
        }
        return {row.id: row.last_start for row in drawn}

    def first_due_rows(self, count, skip):
        """Rows of due jobs, some more than `count`."""
        due = for_my_words(
            self.me['words'],
            'SELECT %s FROM job {here} WHERE %%s AND {due} AND NOT {is_alert} '
            'ORDER BY {by_due} LIMIT :most' % LIMITED_FROM,
        )
        most = min(4 * count + 8, count + CLAIM_SIZE)
        rows = self.query(due, most=most, **self.me)
        rows.sort(key=lambda row: str(row.next_run_utc))
        return with_limits(self, rows[:most], skip)

    def claim(self, jobs, token, worker):
        """Take those of the jobs that are still due; returns what collect says."""
        update = '''UPDATE job {by_key} SET run_token = :token, run_no = run_no + 1,
            last_start = {local}, claimed_start = {local}, last_worker = :worker,
            run_deadline_utc = {deadline},
            stop_requested = NULL, run_was_requested = run_requested,
            run_requested = 0 -- last, as MySQL assigns from left to right
            WHERE id IN (:jobs) AND {due}'''
        values = {
            'token': token,
            'worker': worker,
            'minute': self.config.minute,
            'slack': self.config.kill_grace + MARGIN,
            'jobs': list(jobs),
            **self.me,
        }
        with self.wanting(list(jobs)):
            if self.dialect.returning:
                return self.query('%s RETURNING %s' % (update, self.claimed), **values)
            claimed = self.change(update, **values)
        for _ in range(5):
            rows = self.collect(token) if claimed else []
            if len(rows) >= claimed:
                return rows
        raise Away(
            'the database shows fewer rows than were claimed: a replica that lags'
        )

    def collect(self, token):
        """What a claim took, and what time it is: the seconds to each deadline."""
        return self.query(
            'SELECT %s FROM job WHERE run_token = :token' % self.claimed, token=token
        )

    def end(self, endings):
        """Write how runs ended. Returns a message for each ending that could not be
        recorded whole."""
        return write_endings(self, endings)

    def mine(self, tokens, unheld_tokens):
        """Rows of my claims that are to be stopped, or that no runner holds."""
        return self.query(
            '''SELECT id, run_token, run_no, stop_requested FROM job
            WHERE run_token IN (:tokens)
            AND (stop_requested = run_no OR run_token IN (:unheld_tokens))''',
            tokens=tokens,
            unheld_tokens=unheld_tokens,
        )

    def overdue(self):
        """Endings of runs, of whichever host, that are past their deadline."""
        rows = self.query('''SELECT id, run_no, run_token, last_worker FROM job
            WHERE run_deadline_utc <= {utc} ORDER BY run_deadline_utc LIMIT 200''')
        return [
            Ending(
                row.run_token,
                row.id,
                Kind.OVERDUE,
                row.run_no,
                NO_WORD % row.last_worker[:200],
            )
            for row in rows
        ]

    def locked(self, jobs):
        """Those of the jobs whose rows another transaction has locked."""
        return [job for job in jobs if self.is_locked(job)]

    def is_locked(self, job):
        if self.dialect.locks_rows:
            try:
                self.query(
                    'SELECT id FROM job WHERE id = :job FOR UPDATE NOWAIT', job=job
                )
            except Again:
                return True
        return False

    # What the steps stand on.

    def connect(self):
        """Connect, if there is no connection, and look whether the tables are there.
        Returns self."""
        if boottime() > self.used + self.dialect.idle_limit():
            self.close()  # the server has done so, for instance while we were stopped
        if self.connection is None:
            self.open()
            self.identity = self.dialect.identity_of(self)
        return self

    def open(self):
        """Connect, to whatever tables there are."""
        self.connection = self.dialect.connect()
        self.zone = Zone(self.local_time)

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

    def upsert(self, table, rows):
        """Insert rows, instead of those that have their keys."""
        if rows:
            names = rows[0]._fields
            text = self.dialect.upsert.format(
                table=table,
                columns=', '.join(names),
                placeholders=placeholders(names),
                new=', '.join('%s = excluded.%s' % (name, name) for name in names),
            )
            self.execute_many(text, [row._asdict() for row in rows])

    def insert(self, table, values):
        """Insert a row of these columns; returns its id, if the table has ids."""
        text = 'INSERT INTO %s (%s) VALUES (%s)' % (
            table,
            ', '.join(values),
            placeholders(values),
        )
        if self.dialect.returning and table == 'job':
            return self.query(text + ' RETURNING id', **values)[0].id
        return getattr(self.execute(text, **values), 'lastrowid', None)

    def execute(self, text, **values):
        """One statement, in which `:name` is a value; a list is as many values."""
        sizes = []
        for name, value in list(values.items()):
            if isinstance(value, (list, tuple)):
                sizes.append((name, len(value)))
                values.update(zip(names_of_list(name, len(value)), value))
                del values[name]
        text = self.dialect.statement(text, tuple(sizes))
        self.used = boottime()
        with self.translated_errors():
            cursor = self.connection.cursor()
            cursor.execute(text, values)
            return cursor

    def execute_many(self, text, rows):
        """One statement for each of many rows, which are dictionaries of its values."""
        if rows:
            text = self.dialect.statement(text, ())
            with self.translated_errors():
                self.dialect.execute_many(self.connection, text, rows)

    @contextmanager
    def translated_errors(self):
        """A driver's errors as ours; a connection that is gone is closed."""
        try:
            yield
        except (self.dialect.driver.Error, RuntimeError) as error:
            problem = self.dialect.problem(error)
            if isinstance(problem, Away):
                self.close()
            raise problem from None
        except (UnicodeError, OverflowError) as error:  # of an argument
            raise BadData(str(error)) from None

    @contextmanager
    def wanting(self, jobs):
        """An Again in it names the jobs whose rows were wanted."""
        try:
            yield
        except Again as problem:
            problem.jobs = jobs
            raise

    @contextmanager
    def transaction(self, *begin):
        """All statements in it, or none. begin: the statements that begin it."""
        for statement in begin or (self.dialect.begin,):
            self.execute(statement)
        try:
            yield
            self.execute('COMMIT')
        except BaseException:
            if self.connection is not None:
                with suppress(Problem):  # it may have been rolled back already
                    self.execute('ROLLBACK')
            raise

    def now(self):
        """The database's time, a datetime, UTC."""
        return moment(self.query('SELECT {utc_exact}')[0][0])

    def local_time(self, when):
        """A UTC datetime as wall-clock time of the database's zone: it alone knows."""
        return moment(self.query('SELECT {to_local} AS t', when=text_of(when))[0][0])


########################################################################################
# endings: what the end of a run writes into its job and into the history
########################################################################################


def write_endings(store, endings):
    """Write how runs ended, in one transaction. A row that the database refuses is
    tried alone and never holds up the others. Returns a message for each ending
    that could not be recorded whole."""
    try:
        with store.wanting([ending.job for ending in endings]), store.transaction():
            end_all(store, endings)
        return []
    except BadData as problem:
        if len(endings) > 1:
            return sum((write_endings(store, [ending]) for ending in endings), [])
        return end_refused(store, endings[0], problem)


def end_refused(store, ending, problem):
    """Record as much of an ending as the database takes: without its output, or of
    the job alone, or at least that it runs no more; it must not run again."""
    if ending.output is not None:
        return write_endings(store, [ending._replace(output=None)])
    text = 'job %d: its end is not recorded: %s' % (ending.job, problem)
    try:
        with store.transaction():
            end_all(store, [ending], history=False)
    except BadData:
        free_job(store, ending, text)
    return [text]


def free_job(store, ending, text):
    """Have a job run no more. Raises Again, with the text, if even that is refused."""
    try:
        store.change(
            '''UPDATE job SET run_token = NULL, run_deadline_utc = NULL,
            next_run_utc = NULL, run_was_requested = 0
            WHERE id = :job AND run_token = :token''',
            job=ending.job,
            token=ending.token,
        )
    except BadData:
        raise Again(text) from None


def end_all(store, endings, history=True):
    """The transaction of `end`; history: whether to write that too."""
    ids = sorted({ending.job for ending in endings})
    # The rows are locked, in order: no edit comes between, and none can deadlock.
    rows = store.query(
        '''SELECT %s, {utc_exact} AS now, EXISTS (SELECT 1 FROM job AS follower
            WHERE follower.after_job = job.id) AS is_followed
        FROM job {by_key} WHERE id IN (:ids) ORDER BY id {lock}'''
        % ENDED,
        ids=ids,
    )
    jobs = {row.id: with_numbers(row) for row in rows}
    now = moment(rows[0].now) if rows else store.now()
    runs = []
    most = min(65535, store.dialect.packet // 3)  # of output; each byte may be escaped
    alike = defaultdict(list)  # what to write into job -> the jobs that get it
    for ending in sorted(endings, key=lambda ending: ending.job):
        job = jobs.get(ending.job, Job())
        ours = job.run_token == ending.token
        late = is_last_run(store, ending, job)
        recorded = not ours and is_recorded(store, ending, job)
        into_job, into_history = fate(ending.kind, ours, late, recorded)
        ended_at = end_of(ending, job, now)
        ended = text_of(store.zone.local(ended_at))
        run = history_row(ending, job, ended, most)
        if into_job and ending.kind == Kind.GIVEN_BACK:
            take_back_start(store, ending)
        if into_job:
            released = released_job(ending, job, ours, ended_at, now, store.zone)
            alike[run.ended_at, released].append(job)
        if into_history and run.run_no is not None:
            store.recorded_runs[run.job_id] = run.run_no
            runs.append(run)
    for (ended, released), released_jobs in alike.items():
        release(store, released_jobs, ended, released, now)
    if history:
        store.upsert('run', runs)


def release(store, jobs, ended, released, now):
    """Write the end of runs, Released, into their jobs, which then run no more."""
    values = released._asdict()
    passed = values.pop('passed')
    store.change(
        '''UPDATE job {by_key} SET last_end = :last_end, last_status = :last_status,
        next_run_utc = :next_run_utc, start_before_utc = :start_before_utc,
        changed_utc = NULL, run_requested = :run_requested, run_was_requested = 0,
        run_token = NULL, run_deadline_utc = NULL, stop_requested = NULL,
        attempt = :attempt, failures = CASE WHEN :outcome = 'success' THEN 0
            WHEN :outcome = 'failure' THEN failures + 1 ELSE failures END,
        followers_due = CASE WHEN :followed = 1 THEN run_no ELSE followers_due END,
        run_no = run_no + :skips -- last, as MySQL assigns from left to right
        WHERE id IN (:ids)''',
        last_end=ended,
        ids=[job.id for job in jobs],
        skips=int(bool(passed)),
        **values,
    )
    for job in jobs:
        if released.attempt > 0 and job.run_on != store.me['host']:
            store.failed.add(job.id)
        if passed:
            reason = 'run %d on %s still ran' % (job.run_no, host_of(job.last_worker))
            record_skip(store, job, job.run_no + 1, passed, reason, now)


def take_back_start(store, ending):
    """A run that was given back has not started: its job did so before."""
    if ending.last_start != '':
        store.change(
            '''UPDATE job SET last_start = :last_start, claimed_start = :last_start
            WHERE id = :job''',
            last_start=ending.last_start,
            job=ending.job,
        )


def is_last_run(store, ending, job):
    """For fate(): whether no run has begun since this one, whose job runs no more."""
    if job.run_token is not None or ending.run_no is None or job.run_no is None:
        return False
    return job.run_no == ending.run_no or not store.query(
        '''SELECT 1 FROM run WHERE job_id = :job AND run_no > :run_no
        AND {ran} LIMIT 1''',
        job=ending.job,
        run_no=ending.run_no,
    )


def is_recorded(store, ending, job):
    """Whether the history has this run, of which nobody saw the end."""
    return ending.kind == Kind.LOST and bool(
        store.query(
            'SELECT 1 FROM run WHERE job_id = :job AND run_no = :run_no',
            job=ending.job,
            run_no=ending.run_no or job.run_no,
        )
    )


def note_stuck(store, overdue, claims, log):
    """Say in their jobs, and once in a Log, which runs of our claims can't be ended."""
    for ending in overdue:
        process = ending.token in claims and claims[ending.token].stuck.get(ending.job)
        if not process:
            continue
        status = "ERROR: process %d can't be ended" % process
        is_new = store.change(
            '''UPDATE job SET last_status = :status
            WHERE id = :job AND run_token = :token AND last_status <> :status''',
            status=status,
            job=ending.job,
            token=ending.token,
        )
        if is_new:
            log.write('job %d run %s: %s' % (ending.job, ending.run_no, status))


def fate(kind, ours, late, recorded):
    """What one ending may write: (into its job, into the history).

                 token still ours   taken for lost,    else: it runs again,
                 (ours)             no run since       or is deleted
                                    (late)
    DONE         job, history       job, history       history
    LOST         job, history       nothing            history, unless recorded
    OVERDUE      job, history       nothing            nothing
    GIVEN_BACK   job                nothing            nothing
    """
    if ours:
        return True, kind != Kind.GIVEN_BACK
    if kind == Kind.DONE:
        return late, True
    return False, kind == Kind.LOST and not recorded


def end_of(ending, job, now):
    """When a run ended, a datetime, UTC. One whose end nobody saw has ended by its
    deadline."""
    if ending.ended is not None and ending.boot == boot_id():
        return now - max(0, boottime() - ending.ended) * SECOND
    return min(now, moment(job.run_deadline_utc) or now)


def next_plan(job, ended, now, zone):
    """The plan of a job whose run has ended, and the times at which that run kept it
    from starting. NULL: to be planned, which will also say what is wrong."""
    # Not before it was due, should the database's clock have been set back.
    due = moment(job.next_run_utc) or ended
    after = max(ended, min(now, due))
    job = job._replace(attempt=0)
    try:
        when = next_run(job, after, now, zone)
        return {
            'next_run_utc': text_of(when),
            'start_before_utc': limit_text(start_limit(job, when, zone)),
            'passed': tuple(passed_during(job, ended, zone)),
        }
    except (Away, Again):
        raise
    except Exception:  # a bad schedule, or a bug of ours: the end is recorded
        return {'next_run_utc': None, 'start_before_utc': None}


def history_row(ending, job, ended, most):
    """The row of the history for an ending. ended: local time, as text. most: bytes of
    output that its column and a statement take."""
    started = ending.started or job.last_start
    output = ending.output
    if output is not None:
        output = output.encode('utf-8', 'replace')[-most:].decode('utf-8', 'ignore')
    return Run(
        job_id=ending.job,
        run_no=ending.run_no or job.run_no,
        due_utc=ending.due or job.next_run_utc,
        started_at=started,
        ended_at=max(ended, started or ''),
        duration_ms=ending.duration_ms,
        worker=ending.worker or job.last_worker or '',
        status=ending.status,
        exit_code=ending.exit_code,
        output=output,
        cpu_ms=ending.cpu_ms,
        max_rss_kb=ending.max_rss_kb,
        attempt=(job.attempt or 0) if ending.attempt is None else ending.attempt,
        note=ending.note,
    )


def purge_history(store, now):
    """Delete one batch of the history that is older than history.days or beyond
    history.runs. now: a datetime, UTC."""
    oldest = store.zone.local(now) - store.config.history_days * DAY
    old = store.query(
        '''SELECT job_id, run_no FROM run WHERE ended_at < :oldest
        ORDER BY ended_at LIMIT 2000''',
        oldest=text_of(oldest),
    )
    too_many = [
        {'job_id': job, 'run_no': run_no - store.config.history_runs}
        for job, run_no in sorted(store.recorded_runs.items())
    ]
    delete = 'DELETE FROM run WHERE job_id = :job_id AND run_no %s :run_no'
    if old or too_many:
        with store.transaction():
            store.execute_many(delete % '=', [row._asdict() for row in sorted(old)])
            store.execute_many(delete % '<=', too_many)
    store.recorded_runs.clear()


# What a job gets when its run has ended.
Released = namedtuple(
    'Released',
    (
        'last_status',
        'next_run_utc',
        'start_before_utc',
        'run_requested',
        'attempt',  # which try the next run is
        'outcome',  # 'success', 'failure' if it is final, or ''
        'followed',  # 1: the jobs that run after it are to be told
        'passed',  # the times at which the run kept the job from starting, as a tuple
    ),
)


def released_job(ending, job, ours, ended, now, zone):
    """The Released of a job. ours: whether its row still has the run's token. ended,
    now: datetimes, UTC."""
    same = Released(
        job.last_status,
        job.next_run_utc,
        job.start_before_utc,
        job.run_requested,
        job.attempt,
        outcome='',
        followed=0,
        passed=(),
    )
    if ending.kind == Kind.GIVEN_BACK:  # due again at once, with its old due time
        wanted = job.run_requested == 1 or job.run_was_requested == 1
        return same._replace(run_requested=int(wanted))
    if not ours and ending.status != 'Success':
        return same._replace(last_status=ending.status)  # it was counted as lost
    same = same._replace(
        last_status=ending.status,
        outcome=OUTCOMES.get(ending.status, 'failure'),
        followed=int(ending.status == 'Success' and job.is_followed),
    )
    if job.run_requested:  # it is due at once
        return same._replace(
            next_run_utc=text_of(now), start_before_utc=None, attempt=0
        )
    planned_since = not ours and not job.attempt
    if planned_since or job.next_run_utc is None:
        return same._replace(attempt=0)
    again = retry_of(ending, job, ended, zone)
    if again is not None:
        return same._replace(**again)
    return same._replace(
        **next_plan(job, ended, now, zone),
        run_requested=0,
        attempt=0,
    )


OUTCOMES = {'Success': 'success', STOPPED: ''}  # of all else: failure
REFUSED = 'ERROR: refused: '  # so begins the status of a run that was not signed
RETRY_DELAY = 60  # seconds, where none is given
LONGEST_DELAY = 3600  # seconds: the delay doubles with each try, up to this


def retry_of(ending, job, ended, zone):
    """What a failed job gets to be tried again; None if it is not. Its own next time,
    and the close of its window, come first. ended: a datetime, UTC."""
    attempt = job.attempt if ending.attempt is None else ending.attempt
    if ending.status in OUTCOMES or not job.active or attempt >= job.retries:
        return None
    if ending.status.startswith(REFUSED):  # nothing would be different
        return None
    delay = RETRY_DELAY if job.retry_delay is None else job.retry_delay
    # After 12 doublings it is the longest in any case.
    when = ended + min(LONGEST_DELAY, delay * 2 ** min(attempt, 12)) * SECOND
    job = job._replace(attempt=attempt + 1)
    with suppress(BadSchedule):
        limit = start_limit(job, when, zone)
        first = moment(job.paused_until_utc) or when
        if first <= when < min(limit, next_regular(job, ended, ended, zone)):
            return {
                'attempt': job.attempt,
                'next_run_utc': text_of(when),
                'start_before_utc': limit_text(limit),
                'outcome': '',  # not yet known
            }
    return None


########################################################################################
# notes: why a run starts late, by evidence
########################################################################################

# A run that starts late is explained by spans of time in which it could not start, on
# any host that may take it: each is a fact on record. Where they don't cover the time
# from when it was due, the reason is unknown.

FIRST = EPOCH + DAY  # as the begin of a span: always until its end
SLOTS_TAKEN = '%s had all slots taken, %d of %d'
LATE = MINUTE  # a run that starts no later after its time needs no reason
Span = namedtuple('Span', 'begin end text')  # UTC datetimes; in words, what was then
# The evidence, in one statement: of hosts, of their pauses, and of the runs before. Of
# a run, `name` is its worker, `number` its run_no, and `most` the id of its job.
EVIDENCE = '''SELECT 'host' AS kind, name, gap_from AS begin_at, gap_until AS end_at,
        last_seen AS at, running AS number, max_tasks AS most,
        COALESCE(tags, '') AS text, tags_since AS since FROM host
    UNION ALL SELECT 'pause', target, from_utc, until_utc, until_utc, 0, 0, paused_by,
        until_utc FROM pause
    UNION ALL SELECT 'run', run.worker, run.started_at, run.ended_at, run.ended_at,
        run.run_no, run.job_id, run.status, run.ended_at
        FROM run JOIN job ON run.job_id = job.id
        AND run.run_no BETWEEN job.run_no - 2 AND job.run_no - 1
        WHERE job.id IN (:jobs) AND {ran}'''


def with_notes(store, rows, starts, pace, log):
    """What collect says, with a note on each run that starts late. starts: {job id:
    last_start before the claim}; pace: what hindered this worker; log: its Log."""
    if not rows:
        return rows
    now = moment(rows[0].now)
    notes = {}
    try:
        late = []
        for row in rows:
            job = row._replace(last_start=starts[row.id], claimed_start=starts[row.id])
            due = first_due(job, moment(row.next_run_utc) or now, store.zone)
            if now - due > LATE:
                late.append((job, due))
        if late:
            evidence = Evidence(store, [job.id for job, _ in late], pace, now)
            for job, due in late:
                notes[job.id] = evidence.note(job, due)
    except Exception as error:  # a bad row, or a bug of ours: a run starts in any case
        kind = type(error).__name__
        log.write('a late start gets no note: %s: %s' % (kind, line_of(error)))
    return [row._replace(note=notes.get(row.id)) for row in rows]


class Evidence:
    """What is on record of the time before now, in which jobs were due."""

    def __init__(self, store, jobs, pace, now):
        """jobs: their ids."""
        self.store = store
        self.pace = pace
        self.now = now
        rows = store.query(EVIDENCE, jobs=jobs)
        self.hosts = [row for row in rows if row.kind == 'host']
        self.pauses = [row for row in rows if row.kind == 'pause']
        self.runs = [row for row in rows if row.kind == 'run']

    def note(self, job, due):
        """Why a job, as it was before its claim, was due then and starts only now, and
        what it passed over."""
        late = how_long((self.now - due).total_seconds())
        text = '%s late: %s' % (late, self.reason(job, due)[:200])
        if job.attempt:
            text = 'retry %d of %d, %s' % (job.attempt, job.retries, text)
        passed = 0
        for when in times_after(job, due, self.store.zone):
            if when > self.now or passed == MOST_COUNTED or not job.active:
                break
            passed += 1
        if passed:
            text += '; %s passed' % counted(passed, 'more time')
        return text[:255]

    def reason(self, job, due):
        """The first reason for which there is evidence."""
        hosts = [host for host in self.hosts if may_take(job, host.name, host.text)]
        common = [*self.of_job(job, due), *self.of_tags(job, hosts, due)]
        texts = self.explained(common, due)
        if texts:
            return ' and '.join(texts)
        found = {}  # by text: what all hosts have in common is said once
        for host in hosts:
            texts = self.explained([*common, *self.of_host(host, due)], due)
            if texts is None:
                return 'unknown'
            # A host that was only silent is left out; nobody_seen() is of all of them.
            if texts != self.explained([*common, *self.silences(host)], due):
                found.update(dict.fromkeys(texts))
        if found:
            return ', '.join(found)
        texts = self.explained([*common, *self.nobody_seen(job, hosts)], due)
        return ' and '.join(texts or ['unknown'])

    def explained(self, spans, due):
        """The texts of the first spans that cover the time since then, but for a minute
        and at most half of it; None if they don't."""
        allowed = min(LATE, (self.now - due) / 2)
        rest = [(due, self.now)]
        found = []
        for span in spans:
            before = rest
            rest = []
            for begin, end in before:
                pieces = (begin, min(end, span.begin)), (max(begin, span.end), end)
                rest += [piece for piece in pieces if piece[0] < piece[1]]
            if rest != before:
                found.append(span.text)
            if sum([end - begin for begin, end in rest], 0 * DAY) <= allowed:
                return found
        return None

    def utc(self, local):
        """A local time on record as UTC; None for NULL."""
        local = moment(local)
        return local and self.store.zone.utc_before(local, self.now)

    def span_until(self, begin, end, what, more=''):
        """A Span, in words: until when something was so."""
        (until,) = clock_texts(self.store, self.now, end)
        return Span(begin, end, '%s until %s%s' % (what, until, more))

    def span_from(self, begin, end, what):
        """A Span, in words: from when to when something was so."""
        if begin == FIRST:
            return self.span_until(begin, end, what)
        times = clock_texts(self.store, self.now, begin, end)
        return Span(begin, end, '%s from %s to %s' % (what, *times))

    # What kept a job from starting on any host.

    def of_job(self, job, due):
        """Its pause, that of all hosts, and the run before."""
        spans = []
        begun = moment(job.paused_from_utc)
        until = moment(job.paused_until_utc)
        if begun and until and job.paused_by:
            spans.append(
                self.span_until(begun, until, 'paused', ' by ' + job.paused_by)
            )
        spans += self.of_pauses('*', 'all hosts were ')
        spans += self.of_runs(job, due)
        if job.id in self.store.perl_runs:
            minutes = max(job.frequency, job.max_run_time)
            begun = self.utc(job.last_start)
            until = begun + minutes * MINUTE
            text = 'a run of a Perl worker, since %s, could go on until %s'
            times = clock_texts(self.store, self.now, begun, until)
            spans.append(Span(begun, until, text % tuple(times)))
        return spans

    def of_runs(self, job, due):
        """The runs before that had not ended when a job was due."""
        spans = []
        for run in self.runs:
            until = self.utc(run.end_at)
            if run.most == job.id and until > due:
                what = 'run %d on %s had not ended' % (run.number, host_of(run.name))
                begun = self.utc(run.begin_at) or due
                spans.append(self.span_until(begun, until, what))
        return spans

    def of_pauses(self, target, subject):
        """The pauses of a host, or of all (*)."""
        spans = []
        for row in self.pauses:
            begin = moment(row.begin_at)
            end = moment(row.end_at)
            if row.name == target and begin and end:
                what = subject + 'paused'
                spans.append(self.span_until(begin, end, what, ' by ' + row.text))
        return spans

    def of_tags(self, job, hosts, due):
        """That no host had the tag of a job."""
        since = [
            self.utc(host.since) for host in hosts if host.name.lower() != job.run_on
        ]
        lost = [
            host
            for host in self.hosts
            if host not in hosts and (self.utc(host.since) or self.now) > due
        ]
        if not job.run_on or lost or len(since) < len(hosts) or not all(since):
            return []
        until = min(since, default=self.now)
        return [self.span_until(FIRST, until, 'no host had the tag %s' % job.run_on)]

    def nobody_seen(self, job, hosts):
        """The times in which no host was seen that may take a job."""
        what = 'no worker was seen'
        if job.run_on:
            what = 'no worker of %s was seen' % job.run_on
        common = [Span(FIRST, self.now, '')] if hosts else []
        for host in hosts:
            pairs = [
                (max(one.begin, other.begin), min(one.end, other.end))
                for one in common
                for other in self.silences(host)
            ]
            common = [Span(*pair, '') for pair in pairs if pair[0] < pair[1]]
        return [self.span_from(span.begin, span.end, what) for span in common]

    # What kept a host from starting any.

    def silences(self, host):
        """The times in which it was not seen."""
        spans = []
        what = host.name + ' not seen'
        begin, end, seen = map(self.utc, (host.begin_at, host.end_at, host.at))
        if end:
            spans.append(self.span_from(begin or FIRST, end, what))
        if seen and seen < self.now - SILENCE:
            spans.append(self.span_from(seen, self.now, what))
        return spans

    def of_host(self, host, due):
        spans = self.of_pauses(host.name.lower(), host.name + ' ')
        this_host = self.store.config.name
        if host.name == this_host:
            spans += self.of_this_host()
        elif host.number >= host.most > 0 and self.utc(host.at) >= due:
            what = SLOTS_TAKEN % (host.name, host.number, host.most)
            spans.append(Span(due, self.now, what))
        return [*spans, *self.silences(host)]

    def of_this_host(self):
        """What this worker has noted."""
        name = self.store.config.name
        most = self.store.config.max_tasks
        full = SLOTS_TAKEN % (name, most, most)
        failure = '%s %.80s' % (name, self.pace.failure)
        return [
            *self.own_span(self.pace.outage, failure),
            *self.own_span(self.pace.full, full + ','),
        ]

    def own_span(self, times, what):
        """A Span, as a list, of what this worker has noted; none for None."""
        if times is None:
            return []
        begin, end = [self.now - (boottime() - when) * SECOND for when in times]
        return [self.span_from(begin, end, what)]


def may_take(job, host, tags):
    """Whether a host may take a job. tags: the host's, in one text or None."""
    return job.run_on is None or job.run_on in words_of_host(host, tags)


def for_my_words(words, select):
    """A SELECT of jobs, united over what run_on of a job may be for a host with these
    words: one index range each. %s in it stands for the test. Each part is in another
    SELECT, because SQLite takes no LIMIT in a part itself."""
    names = names_of_list('words', len(words))
    tests = ['run_on IS NULL', *['run_on = :' + name for name in names]]
    parts = enumerate(select % test for test in tests)
    return ' UNION ALL '.join(
        'SELECT * FROM (%s) AS part_%d' % (text, number) for number, text in parts
    )


def words_of_host(name, tags):
    """What run_on of a job may be for a host to take it; see Config.words."""
    return [name.lower(), *(tags or '').split()]


########################################################################################
# plans: when a job is due and until when, what it skipped, and jobs after jobs
########################################################################################

# A plan is a pair: next_run_utc, from when a job is due, and start_before_utc, until
# when it may start. The claim looks at both. The second follows from the first. As a
# program of another version may leave it as it was, whoever reads a row mends it.

Plan = namedtuple(
    'Plan',
    (
        'when',  # a datetime, UTC
        'start_before',  # likewise; PARKED: no limit
        'status',  # last_status of the job
        'attempt',  # which try it will be
        'passed',  # the times that it skipped
        'reason',  # why it did
    ),
    defaults=((), ''),
)
# The columns from which start_limit() follows, and what find() needs.
LIMITED_FROM = '''id, last_start, claimed_start, next_run_utc, start_before_utc,
    run_requested, schedule, frequency, max_run_time, start_anchor, stop_anchor,
    time_zone, start_within, attempt, paused_until_utc, after_job, parent_id, run_on'''
# What the end of a run needs to know.
ENDED = (
    LIMITED_FROM
    + ''', run_no, run_token, run_deadline_utc, run_was_requested, active, each_host,
    last_status, last_worker, retries, retry_delay'''
)
# What a claim took, and what time it is.
CLAIMED = (
    LIMITED_FROM
    + ''', name, run_no, command, run_deadline_utc, active, retries,
    paused_from_utc, paused_by, NULL AS note, {utc_exact} AS now'''
)
# What has been written for a job is still what was read from it.
UNEDITED_NAMES = (*PLANNED_FROM, 'run_requested', 'next_run_utc')
UNEDITED = ' AND '.join('%s {same} :%s' % (name, name) for name in UNEDITED_NAMES)


def claimed_columns(config):
    """What a worker needs to know of a run that it has claimed."""
    if not config.sign_required:
        return CLAIMED
    return CLAIMED + ', each_host, retry_delay, rev, signature, not_after'


def plan_jobs(store, jobs, now):
    """Plan these rows in one transaction; where one is refused, each alone. Returns
    how many."""
    try:
        with store.wanting([job.id for job in jobs]), store.transaction():
            return sum(plan_one(store, job, now) for job in jobs)
    except BadData as problem:
        if len(jobs) > 1:
            return sum(plan_jobs(store, [job], now) for job in jobs)
        store.bugs[jobs[0].id] = str(problem)
        return 0


def plan_one(store, job, now):
    """Plan one job. Returns 1, or 0 if somebody has changed it, or if a bug of ours
    prevents it: then it stays as it is."""
    try:
        plan = plan_of(store, job, now)
    except NoSuchZone as error:  # another host may know it
        store.bugs[job.id] = 'time_zone %s' % error
        return 0
    except BadSchedule as error:
        column = '' if error.column == 'schedule' else error.column + ' '
        plan = Plan(PARKED, PARKED, 'ERROR: schedule: %s%s' % (column, error), 0)
    except Problem:
        raise
    except Exception:
        from traceback import format_exc

        store.bugs[job.id] = format_exc()
        return 0
    skipped = int(bool(plan.passed))
    planned = store.change(
        '''UPDATE job SET next_run_utc = :when, start_before_utc = :start_before,
        changed_utc = NULL, last_status = :status, attempt = :new_attempt,
        run_no = run_no + :skipped, failures = failures + :failed
        WHERE id = :id AND run_token IS NULL
        AND (:skipped = 0 OR run_no = :run_no) AND '''
        + UNEDITED,
        when=text_of(plan.when),
        start_before=limit_text(plan.start_before),
        status=plan.status[:255],
        new_attempt=plan.attempt,
        skipped=skipped,
        failed=int(bool(skipped and job.attempt)),  # the last try will not come
        id=job.id,
        run_no=job.run_no,
        **{name: getattr(job, name) for name in UNEDITED_NAMES},
    )
    if planned and skipped:
        record_skip(store, job, job.run_no + 1, plan.passed, plan.reason, now)
    return planned


def plan_of(store, job, now):
    """The Plan of a job that does not run. now: a datetime, UTC. Raises BadSchedule."""
    zone = store.zone
    due = moment(job.next_run_utc)
    status = job.last_status
    if status.startswith('ERROR: schedule:'):
        status = 'Planned.'
    if job.run_requested:
        return Plan(due or now, PARKED, status, job.attempt)
    if due and job.active and moment(job.start_before_utc):
        limit = start_limit(job, due, zone)
        if limit > now or limit_text(limit) != job.start_before_utc:
            return Plan(due, limit, status, job.attempt)  # it was out of date
        if is_time_of(job, due, zone):
            return plan_after_miss(store, job, due, now)
    after = now
    if due is None and job.changed_utc is not None:
        after = min(now, moment(job.changed_utc) or now)
    if job.after_job and job.active:
        check_parent(job, partial(parent_in, store))
    when = next_run(job, after, now, zone)
    job = job._replace(attempt=0)
    return Plan(when, start_limit(job, when, zone), status, attempt=0)


def is_time_of(job, due, zone):
    """Whether a job may have been due then; else somebody has written a time that is
    outside its window, and no time of its own was skipped."""
    opens = Window(job).closing(due, zone_of(job, zone)) > due
    return opens or is_pause_end(job, due)


def limit_text(limit):
    """A start_before_utc for the database; NULL for none."""
    return None if limit == PARKED else text_of(limit)


def with_limits(store, rows, skip):
    """Of rows that are due, those that may start by their start_limit(). Where it is
    not what the row says, it is written; an edit in between wins. skip: as in plan."""
    now = None
    found = []
    for row in rows:
        if row.id in skip:
            continue
        try:
            limit = start_limit(row, moment(row.next_run_utc), store.zone)
        except NoSuchZone:  # another host may know it
            continue
        except (BadSchedule, TypeError):  # the plan after the run says what is wrong
            found.append(row)
            continue
        if row.run_requested or limit_text(limit) == row.start_before_utc:
            found.append(row)
            continue
        now = now or store.now()
        with store.wanting([row.id]):
            store.change(
                '''UPDATE job SET start_before_utc = :limit
                WHERE id = :id AND run_token IS NULL AND next_run_utc = :due
                AND start_before_utc {same} :old''',
                limit=limit_text(limit),
                id=row.id,
                due=row.next_run_utc,
                old=row.start_before_utc,
            )
        if limit > now:
            found.append(row)
    return found


def find_alert(store, skip):
    """The alert job, if it is due, as Store.find() has jobs."""
    due = 'SELECT %s FROM job WHERE {is_alert} AND {due}' % LIMITED_FROM
    rows = with_limits(store, store.query(due, **store.me), skip)
    return {row.id: row.last_start for row in rows}


# Skips.


def plan_after_miss(store, job, due, now):
    """The Plan of a job for which it is too late to start, with what it skipped."""
    zone = store.zone
    reason = reason_for_skip(store, job, due)
    first = first_due(job, due, zone)
    job = job._replace(attempt=0)
    passed, when = passed_over(job, first, now, zone)
    limit = start_limit(job, when, zone)
    return Plan(when, limit, job.last_status, 0, passed, reason)


def first_due(job, due, zone):
    """When a job that is due at the end of its pause would have run without it; else
    when it is due."""
    begun = moment(job.paused_from_utc)
    if begun and is_pause_end(job, due):
        return min(due, next_regular(job, begun, begun, zone))
    return due


def reason_for_skip(store, job, due):
    """Why it is too late for a job that was due, in words."""
    if is_pause_end(job, due):
        return 'paused by %s' % job.paused_by
    for pause in store.query(
        '''SELECT target, paused_by FROM pause WHERE until_utc > :due
        AND from_utc < :limit AND target IN ('*', :host) ORDER BY until_utc DESC''',
        due=text_of(due),
        limit=job.start_before_utc,
        host=job.run_on or '*',
    ):
        what = 'all hosts' if pause.target == '*' else pause.target
        return '%s paused by %s' % (what, pause.paused_by)
    if job.attempt:
        return 'nobody was free for its retry'
    if job.start_within and Window(job).is_all_day():
        return 'not started within %d min' % job.start_within
    return 'not started in its window'


def record_skip(store, job, run_no, passed, reason, now):
    """Write the row of the history for times that a job has skipped."""
    first, last = clock_texts(store, now, passed[0], passed[-1])
    what = 'at %s' % first
    if len(passed) > 1:
        count = '%d' % len(passed)
        if len(passed) >= MOST_COUNTED:
            count = 'over ' + count
        what = '%s times from %s to %s' % (count, first, last)
    row = Run(
        job_id=job.id,
        run_no=run_no,
        due_utc=text_of(passed[0]),
        ended_at=text_of(store.zone.local(now)),
        worker='',
        status=('SKIPPED: %s: %s' % (what, reason))[:255],
    )
    store.recorded_runs[job.id] = run_no
    store.upsert('run', [row])


def clock_texts(store, now, *times):
    """UTC times in the database's zone, as texts; without the day where it is that of
    now and of the first one."""
    local = [store.zone.local(when) for when in times]
    form = '%H:%M'
    if local[0].date() != store.zone.local(now).date():
        form = '%Y-%m-%d %H:%M'
    return [when.strftime(form) for when in local]


def passed_during(job, ended, zone):
    """The regular times at which the run that has now ended kept its job from starting:
    [UTC datetime], at most MOST_COUNTED. A pause that goes on makes up for them."""
    begun = moment(job.last_start)
    paused = (moment(job.paused_until_utc) or ended) > ended
    if job.schedule is None or begun is None or paused:
        return []
    first = max(zone.utc_before(begun, ended), moment(job.next_run_utc) or EPOCH)
    passed = []
    for when in times_after(job, first, zone):
        if when > ended or len(passed) == MOST_COUNTED:
            break
        passed.append(when)
    return passed


# Jobs that run after another one.


def check_parent(job, find):
    """Raise BadSchedule if the job after which a job runs can't be one. find: a
    function of what after_job says; it returns that job, or None."""
    seen = {job.id}
    parent = job.after_job
    while parent:
        if parent in seen:
            raise BadSchedule('%s: a circle of jobs' % job.after_job, 'after_job')
        seen.add(parent)
        found = find(parent)
        if found is None:
            raise BadSchedule('%s: there is no such job' % parent, 'after_job')
        if found.each_host:
            raise BadSchedule('%s runs on each host' % parent, 'after_job')
        parent = found.after_job


def parent_in(store, id):
    """For check_parent(): the job in the table."""
    for row in store.query(
        'SELECT id, after_job, each_host FROM job WHERE id = :id', id=id
    ):
        return row


def tell_followers(store, now, skip=()):
    """Make the jobs due that run after jobs that have succeeded. One that runs, or that
    somebody has locked, is told later, and holds up no other. Returns how many."""
    told = 0
    parents = store.query(
        'SELECT id, followers_due FROM job WHERE followers_due IS NOT NULL LIMIT 100'
    )
    for parent in parents:
        behind = store.query(
            '''SELECT * FROM job WHERE after_job = :id AND active = 1
            AND COALESCE(after_run, 0) < :followers_due ORDER BY id''',
            **parent._asdict(),
        )
        ready = [job for job in behind if job.run_token is None and job.id not in skip]
        if ready:
            with store.wanting([job.id for job in ready]), store.transaction():
                told += sum(tell(store, job, parent, now) for job in ready)
        if len(ready) == len(behind) and parent.id not in skip:
            with store.wanting([parent.id]):
                store.change(
                    '''UPDATE job SET followers_due = NULL
                    WHERE id = :id AND followers_due = :followers_due''',
                    **parent._asdict(),
                )
    return told


def tell(store, job, parent, now):
    """Make one job due, or note that it can't be. Returns how many it was. One that is
    to run now is due already, whatever its window and pause."""
    when = moment(job.next_run_utc)
    limit = moment(job.start_before_utc) or PARKED
    if not job.run_requested:
        with suppress(BadSchedule):  # plan has parked it, and said why
            first = max(now, moment(job.paused_until_utc) or now)
            when = Window(job).opening(first, zone_of(job, store.zone))
            limit = start_limit(job, when, store.zone)
    return store.change(
        '''UPDATE job SET next_run_utc = :when, start_before_utc = :limit,
        changed_utc = NULL, after_run = :followers_due, attempt = 0
        WHERE id = :id AND run_token IS NULL AND after_job = :parent
        AND run_requested = :run_requested
        AND COALESCE(after_run, 0) < :followers_due''',
        when=text_of(when),
        limit=limit_text(limit),
        followers_due=parent.followers_due,
        id=job.id,
        parent=parent.id,
        run_requested=job.run_requested,
    )


########################################################################################
# hosts: a host says hello, and follows the jobs that run on each host
########################################################################################

# A job with each_host is a template: it never runs itself. Each host that its run_on
# allows has a job of its own, its child, which is an ordinary job: run_on is the name
# of the host, parent_id the template's id, and all else as in the template. A host's
# worker makes and follows the children of its host each minute.

SILENCE = 2 * MINUTE  # a host that says nothing for longer was away
ABSENCE = 7 * DAY  # after which the children of a host that nobody sees are deleted
# What a child takes over from its template.
INHERITED = (
    'description command active start_anchor stop_anchor frequency max_run_time '
    'schedule time_zone start_within retries retry_delay after_job paused_until_utc '
    'paused_by alert_after alert_to rev signature not_after'
).split()


def update_host(store, worker, running, now):
    """Update the row of this host. worker: its name. now: a datetime, UTC."""
    host = Host(
        name=store.config.name,
        last_seen=text_of(store.zone.local(now)),
        worker=worker,
        version=VERSION,
        max_tasks=store.config.max_tasks,
        running=running,
        skew_ms=skew_of(now),
        tags=' '.join(store.config.tags)[:255] or None,
    )
    # The columns for its last silence stay, unless a longer one is over.
    changed = store.change(
        '''UPDATE host SET
        gap_until = CASE WHEN last_seen < :silent THEN :last_seen ELSE gap_until END,
        gap_from = CASE WHEN last_seen < :silent THEN last_seen ELSE gap_from END,
        tags_since = CASE WHEN tags {same} :tags THEN tags_since ELSE :last_seen END,
        last_seen = :last_seen, worker = :worker, version = :version,
        max_tasks = :max_tasks, running = :running, skew_ms = :skew_ms, tags = :tags
        WHERE name = :name''',
        silent=text_of(store.zone.local(now) - SILENCE),
        **host._asdict(),
    )
    if not changed:
        seen = {'tags_since': host.last_seen, 'gap_until': host.last_seen}
        store.insert('host', {**host._asdict(), **seen})


ANY_TEMPLATE = '''SELECT id FROM job WHERE each_host = 1
    UNION ALL SELECT id FROM job WHERE parent_id IS NOT NULL LIMIT 1'''


def follow_templates(store, now):
    """Make, change and delete jobs by their templates. now: a datetime, UTC."""
    if not store.query(ANY_TEMPLATE):
        return
    templates = store.query('SELECT * FROM job WHERE each_host = 1')
    children = store.query(
        'SELECT * FROM job WHERE parent_id IS NOT NULL AND run_on = :host', **store.me
    )
    child_of = {child.parent_id: child for child in children}
    for template in templates:
        if template.run_on is None or template.run_on in store.me['words']:
            follow(store, template, child_of.pop(template.id, None))
    delete_children(store, [child.id for child in child_of.values()])
    delete_children(store, orphans(store, now))


def follow(store, template, child):
    """Make the child of a template for this host, or change it where it differs."""
    values = {name: getattr(template, name) for name in INHERITED}
    if child is None:
        with suppress(BadData):  # a worker of the same name has just done so
            store.insert(
                'job', {**values, 'parent_id': template.id, 'run_on': store.me['host']}
            )
        return
    values = {name: new for name, new in values.items() if getattr(child, name) != new}
    if values:
        with store.wanting([child.id]):
            update_job(store, child.id, values)


# The numbers of another job's runs may be lower for long. As a trigger has it.
AFTER_ANOTHER = '''after_run = CASE WHEN after_job {same} :after_job
    THEN after_run ELSE NULL END, '''


def update_job(store, id, values):
    """Write these columns of a job."""
    changes = ', '.join('%s = :%s' % (name, name) for name in values)
    if 'after_job' in values:  # first, as MySQL assigns from left to right
        changes = AFTER_ANOTHER + changes
    store.change('UPDATE job SET %s WHERE id = :id' % changes, id=id, **values)


def orphans(store, now):
    """Ids of the children that have no template, or whose host has gone for good."""
    rows = store.query(
        '''SELECT child.id FROM job AS child
        LEFT JOIN job AS template
            ON template.id = child.parent_id AND template.each_host = 1
        LEFT JOIN host ON LOWER(host.name) = child.run_on
        WHERE child.parent_id IS NOT NULL
        AND (template.id IS NULL OR host.name IS NULL OR host.last_seen < :gone)''',
        gone=text_of(store.zone.local(now) - ABSENCE),
    )
    return [row.id for row in rows]


def delete_children(store, ids):
    """Delete those of these jobs that do not run; the others later."""
    for id in ids:
        with store.wanting([id]):
            store.change('DELETE FROM job WHERE id = :id AND run_token IS NULL', id=id)


########################################################################################
# schedule: the next run of a job, its window, and the time zone
########################################################################################


MOST_COUNTED = 1000  # times that were passed over in one gap


def next_run(job, after, now, zone):
    """When a job, a row of `job`, runs next: a UTC datetime, or PARKED for never.

    zone: the database's. An expression's next time is strictly after `after`. A
    frequency job that is late is due at once if its window is open now, or else when it
    opens next. Raises only BadSchedule, whatever the row holds: SQLite stores any text
    in a number's column.
    """
    if not job.active or job.each_host:
        return PARKED
    when = next_regular(job, after, now, zone)
    return max(when, moment(job.paused_until_utc) or when)


def next_regular(job, after, now, zone):
    """When a job is due next by its schedule and its window alone, as next_run; PARKED
    for one that runs after another."""
    if job.after_job:
        return PARKED
    window = Window(job)
    if job.schedule is None:
        return next_by_frequency(job, now, window, zone)
    return next_by_expression(expression_of(job), after, window, zone_of(job, zone))


def times_after(job, due, zone):
    """The regular times of a job after one at which it was due, a UTC datetime."""
    window = Window(job)
    own_zone = zone_of(job, zone)
    while not job.after_job:
        if job.schedule is None:
            due = window.opening(due + minutes_between_starts(job) * MINUTE, own_zone)
        else:
            due = next_by_expression(expression_of(job), due, window, own_zone)
        if due == PARKED:
            break
        yield due


def next_by_frequency(job, now, window, zone):
    """`frequency` minutes after the last start, or now for a job that never ran. zone:
    the database's, in which last_start is; the window may be in another."""
    when = now
    minutes = minutes_between_starts(job)
    if job.last_start is not None:
        when = zone.utc_before(last_start_of(job), now) + minutes * MINUTE
        when = min(when, now + minutes * MINUTE)  # the clock may have been set back
    own_zone = zone_of(job, zone)
    clock = own_zone.local(now).time()
    if when < now and not window.contains(clock):
        when = now  # late, and the window in which it was due has closed
    return window.opening(when, own_zone)


def minutes_between_starts(job):
    minutes = minutes_of(job, 'frequency', LONGEST_FREQUENCY)
    if job.last_start != job.claimed_start:  # a Perl worker's run, which may go on
        minutes = max(minutes, minutes_of(job, 'max_run_time', LONGEST_RUN))
    return minutes


def start_limit(job, when, zone):
    """Until when a run that is due at `when` may start: a UTC datetime, or PARKED for
    any time later. The window's close, or the end of start_within if that is earlier;
    for a retry, the next regular time instead."""
    window = Window(job)
    no_limit = window.is_all_day() and not job.attempt and not job.start_within
    if when == PARKED or no_limit:
        return PARKED
    if is_pause_end(job, when):
        when = last_time_until(job, when, zone)
    limit = window.closing(when, zone_of(job, zone))
    if job.attempt:  # the next regular time, which may be now
        return min(limit, next_regular(job, when - SECOND, when, zone))
    if job.start_within:
        within = minutes_of(job, 'start_within', LONGEST_RUN)
        limit = min(limit, when + within * MINUTE)
    return limit


def is_pause_end(job, due):
    """Whether a job was put off until this time by its pause."""
    return due == moment(job.paused_until_utc)


def before_due(job, due, now):
    """The last UTC datetime, not after now, before a job was due; when its pause began,
    if that put it off. due: None if it is not due."""
    times = [now]
    if due is not None:
        times.append(due - SECOND)
        if is_pause_end(job, due):
            times.append(moment(job.paused_from_utc) or now)
    return min(times)


def last_time_until(job, until, zone):
    """The last regular time of a job at or before the end of its pause. EPOCH if that
    was so long before that the job may not start any more."""
    if job.schedule is None and (job.after_job or job.last_start is None):
        return until
    if job.schedule is None:
        return min(until, next_regular(job, until, until, zone))
    when = EPOCH
    within = job.start_within or DAY // MINUTE
    for later in times_after(job, until - min(DAY, within * MINUTE), zone):
        if later > until:
            break
        when = later
    return when


def passed_over(job, first, now, zone):
    """The regular times of a job from the first one on, at which it can't start any
    more, at most MOST_COUNTED, and the next one, at which it can: ([UTC datetime],
    UTC datetime)."""
    passed = [first]
    for when in times_after(job, first, zone):
        if start_limit(job, when, zone) > now:
            return passed, when
        passed.append(when)
        if len(passed) == MOST_COUNTED:
            return passed, next_regular(job, now, now, zone)
    return passed, PARKED


def minutes_of(job, column, longest):
    """A column of minutes, brought into 1 to `longest`. Raises BadSchedule."""
    minutes = getattr(job, column)
    if not isinstance(minutes, (int, float)):
        raise BadSchedule('%r; allowed: 1 to %d minutes' % (minutes, longest), column)
    return min(max(minutes, 1), longest)


def last_start_of(job):
    """The wall-clock time of the last start. Raises BadSchedule if it is no time, or
    is too close to the ends of the calendar to add years to it."""
    start = moment(job.last_start)
    if start is None or not 1000 <= start.year <= 9900:
        raise BadSchedule(
            '%r; allowed: a time from 1000-01-01 to 9900-12-31' % (job.last_start,),
            'last_start',
        )
    return start


def next_by_expression(expression, after, window, zone):
    """The first time after `after` that the expression and the window allow."""
    if not any(window.contains((EPOCH + at).time()) for at in expression.day_times):
        raise BadSchedule(
            '%r has no time from %s to %s'
            % (
                expression.text,
                window.start,
                window.stop.replace('24:00:00', 'midnight'),
            )
        )
    when = expression.next_utc(after, zone)
    while when is not None:
        opens = window.opening(when, zone)
        if opens == when:
            return when
        when = expression.next_utc(opens - SECOND, zone)
    return PARKED


class Window:
    """The part of the day in which a job may start: [start, stop) in wall-clock time. A
    start after the stop crosses midnight."""

    def __init__(self, job):
        """The window of a job; a missing end is midnight. Raises BadSchedule."""
        self.start = self.anchor(job, 'start_anchor', '00:00:00')
        self.stop = self.anchor(job, 'stop_anchor', '24:00:00')
        if self.start == self.stop:
            raise BadSchedule(
                '%r is equal to start_anchor: an empty window' % job.stop_anchor,
                'stop_anchor',
            )

    @staticmethod
    def anchor(job, column, default):
        """One end, as HH:MM:SS."""
        given = getattr(job, column)
        given = default if given is None else str(given)
        text = given + ':00' if len(given) == 5 else given
        if text != default and not re.fullmatch(
            '([01][0-9]|2[0-3])(:[0-5][0-9]){2}', text
        ):
            raise BadSchedule('%r; allowed: 00:00 to 23:59' % given, column)
        return text

    def contains(self, clock):
        """Whether the window has a time of day, a datetime.time."""
        clock = clock.isoformat()
        if self.start < self.stop:
            return self.start <= clock < self.stop
        return clock >= self.start or clock < self.stop

    def is_all_day(self):
        return (self.start, self.stop) == ('00:00:00', '24:00:00')

    def closing(self, when, zone):
        """The first UTC time after `when` that is outside the window; `when` itself if
        that is outside; PARKED for a window of all day."""
        if self.is_all_day():
            return PARKED
        local = zone.local(when)
        if not self.contains(local.time()):
            return when
        day = local.date()
        if local.time().isoformat() >= self.stop:  # it crosses midnight
            day += DAY
        hours, minutes, seconds = map(int, self.stop.split(':'))
        stop = datetime(day.year, day.month, day.day) + timedelta(
            hours=hours, minutes=minutes, seconds=seconds
        )
        for closing in zone.times(stop) or [zone.utc(stop)]:
            if closing > when:
                return closing
        return when

    def opening(self, after, zone):
        """The first UTC time in the window that is not before `after`."""
        local = zone.local(after)
        if self.contains(local.time()):
            return after
        day = local.date()
        while True:
            start = datetime.fromisoformat('%s %s' % (day, self.start))
            for when in zone.times(start) or [zone.utc(start)]:
                # A skipped start is the moment of the jump: a short window is over.
                if when >= after and self.contains(zone.local(when).time()):
                    return when
            day += DAY


def zone_of(job, zone):
    """The time zone in which a job's schedule and window are: its own, or the given
    one, the database's. Raises BadSchedule, or NoSuchZone."""
    if job.time_zone is None:
        return zone
    return named_zone(str(job.time_zone))


@lru_cache(1000)
def named_zone(name):
    """The NamedZone of a name such as Europe/Berlin. Raises BadSchedule for what can
    be no name of a zone, and NoSuchZone for one that this host does not know."""
    word = '[A-Z][A-Za-z0-9_+-]*'  # so it is never posix/…, right/… or a path
    if len(name) > 64 or not re.fullmatch('%s(/%s)*' % (word, word), name):
        raise BadSchedule(unknown_zone(name), 'time_zone')
    from zoneinfo import ZoneInfo  # imported here: an idle pass does without

    try:
        return NamedZone(ZoneInfo(name))
    except (KeyError, ValueError, OSError):  # a folder, or a file that holds no zone
        raise NoSuchZone(unknown_zone(name), 'time_zone') from None


@lru_cache(1000)
def unknown_zone(name):
    """What to say of a name that is no time zone here; to find the nearest takes 60 ms
    of CPU time."""
    from zoneinfo import available_timezones

    known = available_timezones() - {'localtime'}
    if not known:
        return '%.80r is unknown: this host has no tzdata; install it' % name
    return '%.80r is unknown; the nearest known is %s' % (name, nearest(name, known))


class Zone:
    """The database's time zone. The databases differ in how they turn wall-clock time
    into UTC near a change of the clock, so ask them for the other direction only, and
    derive this one by one rule for all."""

    SLOT = timedelta(minutes=15)  # clocks change on the quarter hour

    def __init__(self, ask):
        self.ask = lru_cache(10000)(ask)  # from a UTC datetime to a wall-clock one

    def offset(self, when):
        """The offset of wall-clock time from UTC at a UTC time."""
        # Not every database converts times after January 2038: see CONVERT_TZ in the
        # manuals of MySQL and MariaDB. So use an equivalent year, as SQLite does ("Date
        # And Time Functions"): rules such as "the last Sunday of March" repeat with the
        # calendar, every 28 years until 2100.
        if when.year > 2037:
            cycle = (when.year - 2010) % 28
            when = when.replace(year=2010 + cycle)
        slot = when - (when - EPOCH) % self.SLOT
        return self.ask(slot) - slot

    def local(self, when):
        """A UTC time as wall-clock time."""
        return when + self.offset(when)

    def times(self, local):
        """The UTC times at which the clock shows this: none, one or two, in order."""
        found = set()
        for days in (-1, 1):  # by the offset before a change, and by the one after it
            when = local - self.offset(local + days * DAY)
            if self.local(when) == local:
                found.add(when)
        return sorted(found)

    def utc(self, local):
        """A wall-clock time as UTC: the first, if the clock shows it twice; the moment
        of the jump, if the clock skips it."""
        times = self.times(local)
        while not times:  # skipped: on to the quarter hour to which the clock jumps
            local += self.SLOT - (local - EPOCH) % self.SLOT
            times = self.times(local)
        return times[0]

    def utc_before(self, local, now):
        """The last UTC time not after `now` at which the clock showed this; if it never
        did, the first at which it will."""
        times = self.times(local) or [self.utc(local)]
        past = [when for when in times if when <= now]
        return past[-1] if past else times[0]


class NamedZone(Zone):
    """A job's own time zone, from the host's tzdata: by the same rule, but it knows all
    years, and answers at once."""

    def __init__(self, info):
        self.info = info  # a ZoneInfo

    def offset(self, when):
        return self.info.fromutc(when.replace(tzinfo=self.info)).utcoffset()


########################################################################################
# fields: cron expressions: their five fields, and the times that match them
########################################################################################


class Field:
    """One of the five fields of a cron expression; see crontab(5)."""

    def __init__(self, name, low, high, allowed, names=''):
        self.name = name
        self.low = low
        self.high = high  # the highest number allowed: for day-of-week 7, Sunday again
        self.last = 6 if high == 7 else high  # where * and a/n end
        self.safe = 28 if high == 31 else self.last  # where H ends: in each month
        self.allowed = allowed  # the values, for messages
        self.names = names.split()  # of the values, from the lowest on

    def parse(self, text):
        """The set of a field's values: numbers, and words for what depends on the
        month: 'l', 'lw', '15w', '5l', '5#2'. Raises BadSchedule."""
        values = set()
        for part in text.split(','):
            found = self.special(part) or self.span(part)
            if not found:
                raise BadSchedule(
                    '%s %r: bad value %r; allowed: %s, *, a-b, steps /n, H, H(a-b), '
                    'a~b' % (self.name, text, part, self.allowed)
                )
            values.update(found)
        return values

    def resolved(self, part, seed):
        """H, H(a-b) and a~b, each also with a step /n, as numbers; see resolved().
        Any other part, also a wrong one, as it is."""
        span, slash, step = part.lower().partition('/')
        found = re.fullmatch(r'h(?:\((.+)-(.+)\))?|(.*)~(.*)', span)
        if not found:
            return part
        first, last = self.ends(
            found[1] or found[3] or str(self.low),
            found[2] or found[4] or str(self.safe),
        )
        step = self.step(step) if slash else self.high + 1  # one of all
        if None in (first, last, step) or first > last:
            return part
        drawn = first + drawn_number(seed, self.name) % min(step, last - first + 1)
        return '%d-%d/%d' % (drawn, last, step) if slash else str(drawn)

    def special(self, part):
        """L, LW and 15W in day-of-month, 5L and 5#2 in day-of-week, as a list of one
        word; empty for all else."""
        if self.name == 'day-of-month':
            if part in ('l', 'lw'):
                return [part]
            number = self.number(part[:-1])
            if part.endswith('w') and number is not None:
                return ['%dw' % number]
        if self.name == 'day-of-week':
            day, ending = re.fullmatch('(.*?)(l|#[1-5])?', part, re.DOTALL).groups()
            number = self.number(day)
            if ending and number is not None:
                return ['%d%s' % (number % 7, ending)]
        return []

    def span(self, part):
        """The numbers of *, a or a-b, each also with a step /n; a/n goes on to the
        highest value. Empty if the part is none of these."""
        span, slash, step = part.partition('/')
        if span == '*':
            first, last = self.low, self.last
        elif '-' in span:
            first, last = self.ends(*span.split('-', 1))
        else:
            first = self.number(span)
            last = self.last if slash else first
        step = self.step(step) if slash else 1
        if None in (first, last, step):
            return []
        numbers = range(first, last + 1, step)
        return [0 if number > self.last else number for number in numbers]

    def ends(self, first, last):
        """The values of the ends of a range; None for one that the field has not."""
        first = self.number(first)
        last = self.number(last)
        if self.name == 'day-of-week' and first and last == 0:
            last = 7  # FRI-SUN
        return first, last

    def number(self, text):
        """The value of a number or a name; None if the field has no such value."""
        if text in self.names:
            return self.low + self.names.index(text)
        digits = re.fullmatch('0*([0-9]{1,2})', text)
        if digits and self.low <= int(digits[1]) <= self.high:
            return int(digits[1])
        return None

    def step(self, text):
        """The number of a step, 1 to 9999; None if it is none."""
        digits = re.fullmatch('0*([1-9][0-9]{0,3})', text)
        return int(digits[1]) if digits else None


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
    FIELDS = (
        Field('minute', 0, 59, '0-59'),
        Field('hour', 0, 23, '0-23'),
        Field('day-of-month', 1, 31, '1-31, L, LW, 15W'),
        Field(
            'month',
            1,
            12,
            '1-12 or jan-dec',
            'jan feb mar apr may jun jul aug sep oct nov dec',
        ),
        Field(
            'day-of-week',
            0,
            7,
            '0-7 or sun-sat, 5L, 5#2',
            'sun mon tue wed thu fri sat',
        ),
    )
    AHEAD = 50  # years; 29 February on a given weekday comes within 40

    def __init__(self, text):
        self.text = text
        word = text.strip().lower()
        self.parts = self.MACROS.get(word, text).split()  # a text for each field
        if len(self.parts) != 5:
            found = '%d fields' % len(self.parts)
            if word == '@reboot':
                found = 'a job belongs to no machine whose start could count'
            raise BadSchedule(
                '%r: %s; allowed: five fields, or %s %s'
                % (text, found, ' '.join(self.MACROS), Once.FORM)
            )
        pairs = zip(self.FIELDS, self.parts)
        values = [field.parse(part.lower()) for field, part in pairs]
        minutes, hours, month_days, months, week_days = values
        self.month_days = month_days
        self.months = months
        self.week_days = week_days
        self.nearest = [  # words such as 15w
            word for word in month_days if re.fullmatch('[0-9]+w', str(word))
        ]
        self.day_times = [  # since midnight, in order
            timedelta(hours=hour, minutes=minute)
            for hour in sorted(hours)
            for minute in sorted(minutes)
        ]
        star = [part.startswith('*') for part in self.parts]
        # In Debian's cron only the first character of a field counts for both rules.
        self.either_day = not star[2] and not star[4]
        self.elapsed = star[0] or star[1]
        if self.next_local(datetime(2000, 1, 1)) is None:
            raise BadSchedule('%r never matches: the calendar has no such day' % text)

    def next_utc(self, after, zone):
        """The first UTC time strictly after this one; None if there is none. Daylight
        saving is treated as Debian's cron does."""
        if self.elapsed:
            return self.next_elapsed(after, zone)
        return self.next_fixed(after, zone)

    def next_fixed(self, after, zone):
        """Each time of day runs once: a time that daylight saving skips runs at the
        moment of the jump, and a time that comes twice runs the first time."""
        local = self.next_local(zone.local(after))
        while local is not None and zone.utc(local) <= after:
            local = self.next_local(local)
        return local and zone.utc(local)

    def next_elapsed(self, after, zone):
        """By elapsed time: it runs whenever the clock shows a matching time, so not at
        times that daylight saving skips, and twice at times that come twice."""
        shown = zone.local(after)
        # If the clock is put back within three hours, it will show earlier times again.
        local = min(shown, after + zone.offset(after + 180 * MINUTE))
        found = []
        while not found or local <= shown:
            local = self.next_local(local)
            if local is None:
                break
            found += [when for when in zone.times(local) if when > after]
        return min(found, default=None)

    def next_local(self, after):
        """The first wall-clock time strictly after this one; None if there is none."""
        day = datetime(after.year, after.month, after.day)
        while day.year < min(after.year + self.AHEAD, 9999):
            if day.month not in self.months:
                day = last_day(day) + DAY
                continue
            if self.matches(day):
                for at in self.day_times:
                    if day + at > after:
                        return day + at
            day += DAY
        return None

    def matches(self, day):
        """Whether a day of a matching month matches, a datetime. If both day fields are
        restricted, either is enough."""
        if self.either_day:
            return self.matches_month_day(day) or self.matches_week_day(day)
        return self.matches_month_day(day) and self.matches_week_day(day)

    def matches_month_day(self, day):
        if day.day in self.month_days:
            return True
        # L: the last day of the month.
        if 'l' in self.month_days and day == last_day(day):
            return True
        # LW: the last day of the month from Monday to Friday.
        if 'lw' in self.month_days and day == nearest_weekday(last_day(day)):
            return True
        # 15W: the day from Monday to Friday nearest to the 15th.
        for word in self.nearest:
            target = day + (int(word[:-1]) - day.day) * DAY
            if target.month == day.month and nearest_weekday(target) == day:
                return True
        return False

    def matches_week_day(self, day):
        week_day = day.isoweekday() % 7  # Sunday is 0
        if week_day in self.week_days:
            return True
        # 5L: the last Friday of the month.
        if '%dl' % week_day in self.week_days and day + 7 * DAY > last_day(day):
            return True
        # 5#2: the second Friday of the month.
        week = (day.day + 6) // 7
        return '%d#%d' % (week_day, week) in self.week_days


def last_day(day):
    """The last day of a day's month."""
    next_month = day.replace(day=1) + 31 * DAY
    return next_month.replace(day=1) - DAY


def nearest_weekday(day):
    """The day from Monday to Friday, of the same month, that is nearest to a day."""
    if day.isoweekday() == 6:
        return day - DAY if day.day > 1 else day + 2 * DAY
    if day.isoweekday() == 7:
        return day + DAY if day < last_day(day) else day - 2 * DAY
    return day


class Once:
    """`@at`: one time of the clock."""

    FORM = '@at YYYY-MM-DD HH:MM'
    ALLOWED = YEARS + '-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}(:[0-9]{2})?'

    def __init__(self, text):
        self.text = text
        at = ' '.join(text.split()[1:])
        self.at = moment(at)
        if self.at is None or not re.fullmatch(self.ALLOWED, at):
            raise BadSchedule('%r is no time; allowed: %s[:SS]' % (text, self.FORM))
        # As an Expression's.
        self.day_times = [self.at - datetime.combine(self.at, datetime.min.time())]

    def next_utc(self, after, zone):
        """The time, UTC, if it is after this one, or None. A time that daylight saving
        skips is the moment of the jump, and one that comes twice is the first."""
        when = zone.utc(self.at)
        return when if when > after else None


def is_once(schedule):
    """Whether the text of a schedule is an `@at`."""
    return schedule.lower().split()[:1] == ['@at']


@lru_cache(4096)
def parse(text):
    """The Expression of a text, or its Once. Raises BadSchedule."""
    return Once(text) if is_once(text) else Expression(text)


def expression_of(job):
    """The schedule of a job, resolved and parsed. Raises BadSchedule."""
    return parse(resolved(str(job.schedule), seed_of(job)))


def seed_of(job):
    """What fixes the numbers that H stands for in a job's schedule: its id; for a
    template's child the template's id, a blank, and the child's host; 0 for a job that
    has no id yet."""
    if job.parent_id is not None:
        return '%s %s' % (job.parent_id, job.run_on)
    return str(job.id or 0)


def has_spread(text):
    """Whether a schedule has an H or a ~, so that seed_of the job counts."""
    return re.search('(?i)(?<![a-z])h(?![a-z])|~', text) is not None


def resolved(text, seed):
    """A schedule in which each H and ~ is replaced by the number that it stands for:

        a~b, H(a-b)      a + N % size, with size = b - a + 1
        a~b/n, H(a-b)/n  from a + N % min(n, size) in steps of n, to b at most
        H, H/n           the same, from the lowest to the highest value of the field;
                         in day-of-month from 1 to 28, which each month has

    where the ends of a~b may be missing, and N is the SHA-256, as a number whose first
    byte is the highest, of the UTF-8 text `SEED FIELD`: seed_of() the job, a blank, and
    minute, hour, day-of-month, month or day-of-week. So it stays the same for ever."""
    if not has_spread(text):
        return text
    fields = text.split()
    if len(fields) != len(Expression.FIELDS):
        return text
    return ' '.join(
        ','.join(field.resolved(part, seed) for part in parts.split(','))
        for field, parts in zip(Expression.FIELDS, fields)
    )


def drawn_number(seed, name):
    """N in resolved(), for a field of this name."""
    from hashlib import sha256  # imported here: few schedules need it

    return int.from_bytes(sha256(('%s %s' % (seed, name)).encode()).digest(), 'big')


########################################################################################
# dialects: the databases: their words, connections and errors
########################################################################################

LOOK_AT_ACCOUNT = '; look at db.username and db.password or db.password_file'
LOOK_AT_HOST = '; is it up? look at db.host'


class Dialect:
    """A database: its words, as data, and what only it does."""

    module = None  # the driver's
    packet = 1 << 20  # bytes that the server takes in one statement, if known
    oldest = ()  # its version, at least
    words = {}  # the SQL in which databases differ; see pieces_of
    errors = ()  # (pattern for the beginning of the code, our error, what to do)
    placeholder = '%%(%s)s'  # a named value in a statement, for the driver
    begin = 'BEGIN'
    returning = False  # whether INSERT and UPDATE can return rows
    locks_rows = True  # and can say at once that somebody has locked one
    upsert = 'REPLACE INTO {table} ({columns}) VALUES ({placeholders})'

    def __init__(self, config):
        self.config = config
        self.pieces = pieces_of(**self.words)  # what stands for {name} in a statement
        self.statement = lru_cache(1000)(self.translated)
        self.driver = load_driver(config, self.module, self.oldest)

    def translated(self, text, sizes):
        """A statement in this database's words and its driver's placeholders. sizes:
        the (name, length) of values that are lists; an empty one is NULL."""
        lists = dict(sizes)

        def placeholder(found):
            name = found[1]
            names = [name]
            if name in lists:
                names = names_of_list(name, lists[name])
            return ', '.join(self.placeholder % name for name in names) or 'NULL'

        text = text.format(**self.pieces)
        if self.placeholder.startswith('%'):
            text = text.replace('%', '%%')
        # No placeholders: '%H:%M', HH24:MI and ::time.
        return re.sub(r'(?<![\w:]):([a-z]\w*)', placeholder, text)

    def connect(self, create=False):
        """Connect to the first host that will do; create: to make tables."""
        for host in list(self.config.hosts):
            try:
                return self.open(create, *host)
            except (self.driver.Error, RuntimeError) as error:
                problem = self.problem(error)
            except OSError as error:
                text = 'db.tls %s: %s' % (self.config.db_tls, error.strerror or error)
                problem = self.config.bad(text)
            if not isinstance(problem, Away):
                break
            self.config.hosts.append(self.config.hosts.pop(0))
        raise problem

    def open(self, create, host, port, socket):
        """A connection to one host. Raises the driver's errors."""
        raise NotImplementedError

    def execute_many(self, connection, text, rows):
        connection.cursor().executemany(text, rows)

    def idle_limit(self):
        """Seconds after which the server ends a session that says nothing. By this, a
        host that dies or stops inside a transaction keeps its locks no longer."""
        return max(10, int(self.config.poll_seconds + 3 * self.config.db_timeout))

    def identity_of(self, store):
        """The identity of the database. Raises Problem when tables are missing, or
        can't keep what is promised."""
        about = store.query(
            '''SELECT value, (SELECT COUNT(%s)
            FROM job, run, host, pause, live, trouble WHERE 1 = 0) AS tables_there
            FROM about WHERE name = 'identity' '''
            % JOB_COLUMNS[-1]  # the newest
        )
        return about[0].value if about else ''

    def problem(self, error):
        """An error by how its code begins; the databases' manuals list them."""
        code, text = self.code_and_text(error)
        for codes, kind, advice in self.errors:
            if re.match('(?s)' + codes, code):
                return kind(text + advice)
        return Away(text)

    def servers(self):
        """db.host, for messages."""
        return ', '.join(server_name(*host) for host in self.config.hosts)

    def code_and_text(self, error):
        """A driver's error as (what `errors` looks for, the message)."""
        raise NotImplementedError


class SQLite(Dialect):
    """One file, for one host. Its time zone is the process's."""

    module = 'sqlite3'
    placeholder = ':%s'
    begin = 'BEGIN IMMEDIATE'
    locks_rows = False
    words = {
        'utc': "datetime('now')",
        'utc_exact': "strftime('%Y-%m-%d %H:%M:%f', 'now')",
        'local': "datetime('now', 'localtime')",
        'to_local': "datetime(:when, 'localtime')",
        'same': 'IS',
        'greatest': 'MAX',
        'least': 'MIN',
        'lock': '',
        'by_key': '',
        'here': 'INDEXED BY job_here',
        'by_due': 'next_run_utc',
        'by_time': 'next_run_utc',  # this one is for the page
        'later': "datetime(%s, '+' || (%s) || ' seconds')",
    }
    errors = (
        (r'\w+: no such (table|column|index)', Problem, RUN_INIT),
        ('IntegrityError|DataError', BadData, ''),
        ('.*locked', Again, ''),
    )

    def open(self, create, *_):
        path = self.config.db_path
        if not create and not os.path.exists(path):
            raise Problem('%s: no such database%s' % (path, RUN_INIT))
        if create:
            # Only where there is none: to close a file that this process has open in
            # SQLite too would end SQLite's locks (sqlite.org/howtocorrupt.html, 2.2).
            with suppress(OSError):  # SQLite says what is wrong
                os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
        connection = self.driver.connect(
            path,
            timeout=self.config.db_timeout,
            isolation_level=None,
            cached_statements=20,  # each may know all columns of job
        )
        connection.execute('PRAGMA journal_mode = WAL').fetchall()
        connection.execute('PRAGMA synchronous = FULL')
        connection.text_factory = decoded
        connection.row_factory = lambda _, row: tuple(map(decoded, row))
        return connection

    def code_and_text(self, error):
        path = self.config.db_path
        code = '%s: %s' % (type(error).__name__, error)
        advice = ''
        if re.search('readonly|unable to open', code):
            advice = owner_advice(path, path + '-wal', path + '-shm')
        return code, '%s: %s%s' % (path, error, advice)


class MySQL(Dialect):
    """MySQL and MariaDB, by PyMySQL."""

    module = 'pymysql'
    packet = Dialect.packet  # until a server has said what it takes
    oldest = 1, 0
    words = {
        'utc': 'UTC_TIMESTAMP()',
        'utc_exact': 'UTC_TIMESTAMP(6)',
        'local': 'NOW()',
        'to_local': "CONVERT_TZ(:when, '+00:00', @@session.time_zone)",
        'same': '<=>',
        'greatest': 'GREATEST',
        'least': 'LEAST',
        'lock': 'FOR UPDATE',
        # or it may scan the table, and wait for a locked row that is not asked for
        'by_key': 'FORCE INDEX (PRIMARY)',
        'here': 'FORCE INDEX (job_here)',
        'by_due': 'next_run_utc',
        'by_time': 'next_run_utc',
        'later': '(%s + INTERVAL (%s) SECOND)',
        'backend': 'UUID()',  # no two sessions share one
    }
    errors = (
        ('1020|1205|1213|3572', Again, ''),
        ('1048|1062|126|1292|1366|1406|1644|1690|3819|4025', BadData, ''),
        ('1049|1054|1146|1176', Problem, RUN_INIT),
        ('1044|1142|1419', Problem, '; the account needs more rights'),
        ('1045', Problem, LOOK_AT_ACCOUNT),
        ('2003', Away, LOOK_AT_HOST),
    )

    def open(self, create, host, port, socket):
        connection = log_in(self.driver, self.config, create, host, port, socket)
        cursor = connection.cursor()
        for statement in self.settings():
            cursor.execute(statement)
        if cursor.execute("SHOW VARIABLES LIKE 'wsrep_sync_wait'"):
            cursor.execute('SET SESSION wsrep_sync_wait = 7')  # Galera: no stale reads
        cursor.execute('SELECT @@global.read_only, @@max_allowed_packet')
        read_only, self.packet = cursor.fetchone()
        # Since version 12, MariaDB says a word: OFF, ON, NO_LOCK, NO_LOCK_NO_ADMIN.
        if str(read_only).upper() not in ('0', 'OFF'):
            raise self.driver.OperationalError(1290, 'the server is read-only')
        return connection

    def translated(self, text, sizes):
        limit = max(2, self.config.db_timeout)
        return super().translated(bounded(text, limit), sizes)

    def settings(self):
        """Statements for each new session. Lock waits time out before reads do, so a
        claim that timed out has certainly failed."""
        lock_wait = max(1, self.config.db_timeout - 1)
        return (
            'SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED',
            "SET SESSION sql_mode = 'STRICT_ALL_TABLES', completion_type = 0, "
            'innodb_lock_wait_timeout = %d, lock_wait_timeout = %d, wait_timeout = %d'
            % (lock_wait, lock_wait, self.idle_limit()),
        )

    def execute_many(self, connection, text, rows):
        """PyMySQL sends many rows in one statement, which the server limits."""
        cursor = connection.cursor()
        cursor.max_stmt_length = min(cursor.max_stmt_length, self.packet // 2)
        cursor.executemany(text, rows)

    def identity_of(self, store):
        identity = super().identity_of(store)
        for table, engine in self.unsafe_tables(store):
            raise Problem(
                'table %s is %s and must be InnoDB%s' % (table, engine, RUN_INIT)
            )
        return identity

    def unsafe_tables(self, store):
        """The tables that have no transactions, with their engines."""
        return store.query('''SELECT table_name, engine FROM information_schema.tables
            WHERE table_schema = DATABASE() AND table_name IN ('job', 'run', 'host')
            AND engine <> 'InnoDB' ''')

    def code_and_text(self, error):
        number, text = (*error.args, '', '')[:2]
        text = 'database %s: error %s: %s' % (self.servers(), number, text)
        return str(number), text.rstrip(': ')  # a RuntimeError has a text alone


class PostgreSQL(Dialect):
    """PostgreSQL, by psycopg 3."""

    module = 'psycopg'
    oldest = 3, 1
    returning = True
    upsert = (
        'INSERT INTO {table} ({columns}) VALUES ({placeholders}) '
        'ON CONFLICT ON CONSTRAINT {table}_pkey DO UPDATE SET {new}'
    )
    # With clock_timestamp() it would use no index.
    words = {
        'utc': "date_trunc('second', statement_timestamp() AT TIME ZONE 'UTC')",
        'utc_exact': "to_char(statement_timestamp() AT TIME ZONE 'UTC', "
        "'YYYY-MM-DD HH24:MI:SS.US')",
        'local': "date_trunc('second', CAST(statement_timestamp() AS timestamp))",
        'to_local': "CAST(CAST(:when AS timestamp) AT TIME ZONE 'UTC' AS timestamp)",
        'same': 'IS NOT DISTINCT FROM',
        'greatest': 'GREATEST',
        'least': 'LEAST',
        'lock': 'FOR UPDATE',
        'by_key': '',
        'later': "(%s + (%s) * INTERVAL '1 second')",
        'here': '',
        # all of the index, or it sorts all rows
        'by_due': 'run_on, run_token, next_run_utc',
        'by_time': 'run_token, next_run_utc',
        'backend': 'CONCAT(pg_postmaster_start_time(), pg_backend_pid())',
    }
    errors = (
        ('40|55P03|57014', Again, ''),
        ('42P01|42703', Problem, RUN_INIT),
        # None: the driver knows no SQLSTATE.
        ('42501|None.*permission denied', Problem, '; the account needs more rights'),
        (
            r'None.*pg_hba\.conf',
            Problem,
            "; the server's pg_hba.conf needs a line that admits this host; reload it",
        ),
        ('28|None.*(authentication|role ")', Problem, LOOK_AT_ACCOUNT),
        ('3D000|None.*database "[^"]*" does not', Problem, '; make it: createdb'),
        ('None(?!.*FATAL).*(connection (failed|is bad)|resolve)', Away, LOOK_AT_HOST),
        ('22|23|P0001|None.*NUL', BadData, ''),
    )

    def open(self, create, host, port, socket):
        config = self.config
        limit = 0 if create else int(1000 * config.db_timeout)  # milliseconds
        os.environ.pop('PGTZ', None)  # it would be this host's time zone
        connection = self.driver.connect(
            host=socket or host,
            port=port or None,
            user=config.db_username,
            password=config.db_password,
            dbname=config.db_database,
            autocommit=True,
            connect_timeout=max(2, int(config.db_timeout)),
            keepalives_idle=1,
            keepalives_interval=1,
            tcp_user_timeout=limit,
            prepare_threshold=None,  # behind pgbouncer, sessions change under us
            **libpq_tls(config, self.driver, socket),
        )
        for kind in ('timestamp', 'time'):  # which stay text
            connection.adapters.register_loader(
                kind, self.driver.types.string.TextLoader
            )
        if connection.execute(ONLY_SCHEMA + self.settings(limit)).fetchone()[0]:
            raise self.driver.OperationalError('the server is a standby, read-only')
        return connection

    def settings(self, limit):
        """The settings of a session, as calls; limit: milliseconds to wait for an
        answer. pgbouncer takes no startup option, or ignores it."""
        return """,
            pg_catalog.set_config('datestyle', 'ISO', false),
            pg_catalog.set_config('client_encoding', 'utf8', false),
            -- a claim that is answered survives a crash
            pg_catalog.set_config('synchronous_commit', 'on', false),
            pg_catalog.set_config('lock_timeout', '%d', false),
            pg_catalog.set_config('statement_timeout', '%d', false),
            pg_catalog.set_config('idle_in_transaction_session_timeout', '%d', false)
            """ % (500 * self.config.db_timeout, limit, 1000 * self.idle_limit())

    def execute_many(self, connection, text, rows):
        """One statement after the other: after psycopg's executemany, the server takes
        a session for busy that has stopped, and does not end it."""
        cursor = connection.cursor()
        for row in rows:
            cursor.execute(text, row)

    def code_and_text(self, error):
        text = str(error).strip()
        code = '%s: %s' % (getattr(error, 'sqlstate', None), text)
        return code, 'database %s: %s' % (self.servers(), text.split('\n')[0])


DIALECTS = {'sqlite': SQLite, 'mysql': MySQL, 'postgresql': PostgreSQL}


########################################################################################
# sql: the conditions in statements, made of the words of a database
########################################################################################

# In a statement of Store, {name} is a word of the database, or one of these.
SQL_EXPRESSIONS = {
    # max_run_time in minutes, by the rules of the triggers, in case there are none; at
    # most a year, so that no time overflows
    'run_time': '''{least}({longest_run}, CASE
        WHEN schedule IS NOT NULL OR after_job IS NOT NULL
            THEN {greatest}(max_run_time, 1)
        WHEN max_run_time >= 1 AND max_run_time < frequency THEN max_run_time
        ELSE {greatest}(frequency >> 1, 1) END)''',
    # seconds in which a Perl worker may be running a job that it has started
    'perl_seconds': '''60 * {greatest}({least}(frequency, {longest_frequency}),
        {least}(max_run_time, {longest_run}))''',
}
CONDITIONS = {
    # whether a row of the history is of a run; of times that were skipped
    'ran': "status NOT LIKE 'SKIPPED%'",
    'was_skipped': "status LIKE 'SKIPPED%'",
    'failed': "(status LIKE 'ERROR%' AND status <> 'ERROR: stopped')",
    # whether the last run of a job failed, as is_failing()
    'is_failing': '''(last_status LIKE 'ERROR%'
        AND (last_status <> 'ERROR: stopped' OR failures <> 0))''',
    # whether all hosts, or this one, start nothing now
    'paused': '''EXISTS (SELECT 1 FROM pause
        WHERE target IN ('*', :host) AND until_utc > {utc})''',
    # whether a due job may be started now, but for a pause
    'startable': '''(each_host = 0 AND (run_requested = 1 OR (active = 1
            AND (start_before_utc IS NULL OR start_before_utc > {utc})))
        AND (schedule IS NOT NULL OR last_start IS NULL OR {perl_end} <= {local}
             OR COALESCE(claimed_start = last_start, 1 = 0)))''',
    'is_alert': "(name IS NOT NULL AND name = '%s')" % ALERT,
    # whether this host may take it; it is for hosts that are to tell of troubles
    'may_alert': '(NOT {is_alert} OR :alerts = 1)',
    'mine': '((run_on IS NULL OR run_on IN (:words)) AND {may_alert})',
    'late': '''start_before_utc <= {utc} AND next_run_utc <= {utc}
        AND run_requested = 0''',
    'waiting': 'run_token IS NULL AND next_run_utc <= {utc}',
    'due': '''{waiting} AND {startable} AND {mine}
        AND (run_requested = 1 OR {is_alert} OR NOT {paused})''',
}


def pieces_of(later, **words):
    """The dialect's pieces for {name}. later: time + seconds, with %s for each."""
    pieces = dict(words, longest_run=LONGEST_RUN, longest_frequency=LONGEST_FREQUENCY)
    for name, text in SQL_EXPRESSIONS.items():
        pieces[name] = text.format(**pieces)
    # A second more, as the claim may come late in the whole second that is `utc`.
    seconds = '%s * :minute + :slack + 1' % pieces['run_time']
    pieces['deadline'] = later % (pieces['utc'], seconds)
    pieces['perl_end'] = later % ('last_start', pieces['perl_seconds'])
    for name, text in CONDITIONS.items():
        pieces[name] = text.format(**pieces)
    return pieces


########################################################################################
# drivers: the modules that talk to the databases, and what they may not write
########################################################################################


def load_driver(config, name, oldest):
    """A database's driver, by the name of its module. oldest: the version that it must
    have, as numbers. Raises BadConfig."""
    needs = 'db.engine: %s needs %s' % (config.db_engine, name)
    try:
        driver = __import__(name)
    except ImportError:
        text = '%s; install python3-%s, or: pip install %s' % (needs, name, name)
        raise config.bad(text) from None
    version = getattr(driver, '__version__', '')
    found = tuple(map(int, re.findall('[0-9]+', version)))
    if found < oldest:
        at_least = '%d.%d' % oldest
        raise config.bad(
            "%s %s or later, but this is %s; pip install '%s>=%s'"
            % (needs, at_least, version or 'unknown', name, at_least)
        )
    return driver


def log_in(driver, config, create, host, port, socket):
    """PyMySQL's connection to a server. create: to make tables; then it waits for an
    answer as long as it takes."""
    # Longer than a lock is waited for: before 10.6, MariaDB waits up to a second more.
    timeout = None if create else max(3, config.db_timeout + 1)
    types = driver.constants.FIELD_TYPE
    times = {types.TIME: str, types.DATETIME: str, types.TIMESTAMP: str}
    connect = partial(
        connection_type(driver, config.db_tls, socket),
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
        client_flag=driver.constants.CLIENT.FOUND_ROWS,
        conv={**driver.converters.conversions, **times},  # times stay text
    )
    # With TLS, PyMySQL reads every CA certificate: skip it for a local server.
    try:
        return connect(ssl_disabled=not config.db_tls and is_local(host))
    except RuntimeError:  # MySQL 8 takes a password by TLS, or by `cryptography`
        return connect()


def owner_advice(*paths):
    """What to do about those of some files that this process may not write, and about
    their folder; empty if it may."""
    wrong = [
        path
        for path in (*paths, os.path.dirname(paths[0]))
        if os.path.exists(path) and not os.access(path, os.W_OK)
    ]
    if not wrong:
        return ''
    owner = user_name(os.stat(wrong[0]).st_uid)
    here = user_name(os.geteuid())
    files = ' '.join(wrong)
    if owner == here:
        return '; it may not be written: chmod u+w %s' % files
    return '; it belongs to %s, and this is %s; as root: chown %s %s' % (
        owner,
        here,
        here,
        files,
    )


########################################################################################
# trust: who may answer as the database, what it is told, and whose functions run in it
########################################################################################


def is_local(host):
    """Whether a host, but one with a socket, is this machine."""
    return host in ('localhost', '::1') or bool(re.fullmatch(r'127(\.[0-9]+){3}', host))


def connection_type(driver, tls, socket):
    """What makes PyMySQL's connections. With TLS, the server must have it: before it
    had _ssl_required, PyMySQL went on without. Otherwise the password is sent in clear
    to a socket alone."""

    class Verified(driver.connections.Connection):
        def _request_authentication(self):
            if not self.server_capabilities & driver.constants.CLIENT.SSL:
                raise driver.OperationalError(2026, 'the server has no TLS')
            super()._request_authentication()

    def refuse(connection):
        text = 'the server asks for the password in clear, which needs db.tls'
        raise driver.OperationalError(2061, text)

    if tls:
        return Verified
    if socket:
        return driver.connect
    plugins = {'mysql_clear_password': refuse, 'dialog': refuse}
    return partial(driver.connect, auth_plugin_map=plugins)


def libpq_tls(config, driver, socket):
    """db.tls as libpq names it. Without it, the password is sent in clear to a socket
    alone; but before version 16, libpq sends it to any server that asks."""
    if config.db_tls:
        names = {'ca': 'sslrootcert', 'cert': 'sslcert', 'key': 'sslkey'}
        files = {names[key]: file for key, file in config.db_tls.items()}
        return {'sslmode': 'verify-full', **files}
    if socket or driver.pq.version() < 160000:
        return {'sslmode': 'prefer'}
    return {'sslmode': 'prefer', 'require_auth': '!password'}


# Has names looked up in the schema of the tables alone. In another one, such as public,
# a role may have made an operator that fits better than pg_catalog's; it would run with
# our rights. So every name in here has its schema.
ONLY_SCHEMA = """SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.set_config(
    'search_path', pg_catalog.concat_ws(', ', COALESCE(
        (SELECT CAST(relnamespace AS pg_catalog.regnamespace) FROM pg_catalog.pg_class
            JOIN pg_catalog.pg_attribute ON attrelid OPERATOR(pg_catalog.=) pg_class.oid
            WHERE pg_class.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('job')
            AND attname OPERATOR(pg_catalog.=) 'run_token'),  -- or it is not ours
        CAST(pg_catalog.quote_ident(pg_catalog.current_schema())
            AS pg_catalog.regnamespace)), 'pg_temp'), false)"""


def bounded(text, seconds):
    """A SELECT that ends on the server, too, when nobody waits for it any more: MariaDB
    reads the first comment, MySQL the second. Other statements have no limit, because
    it would also end the wait for a replica that is to confirm a COMMIT."""
    limits = (
        r'/*M! SET STATEMENT max_statement_time = %d FOR */ '
        r'SELECT /*+ MAX_EXECUTION_TIME(%d) */'
    )
    return re.sub(r'^\s*SELECT\b', limits % (seconds, 1000 * seconds), text)


def decoded(value):
    """A BLOB as text: SQLite stores one in any column."""
    return value.decode('utf-8', 'replace') if isinstance(value, bytes) else value


########################################################################################
# config: the configuration file
########################################################################################

PORTS = {'mysql': 3306, 'postgresql': 5432, 'sqlite': 3306}  # sqlite uses none
MYSQL_SOCKETS = '/run/mysqld/mysqld.sock', '/var/lib/mysql/mysql.sock'

# A Perl DBI string is dbi:DRIVER:KEY=VALUE;KEY=VALUE…
DBI_DRIVERS = {
    'mysql': 'mysql',
    'mariadb': 'mysql',
    'pg': 'postgresql',
    'sqlite': 'sqlite',
}
DBI_KEYS = {
    'database': 'db.database',
    'dbname': 'db.database',
    'db': 'db.database',
    'host': 'db.host',
    'mysql_socket': 'db.host',
    'port': 'port',  # not a key of ours: the default for hosts without a port
    'mysql_read_timeout': 'db.timeout',
}


def config_places():
    """Where to look for the configuration when none is named, in this order."""
    return [
        os.path.join(HERE, 'distributed_cron.yml'),
        os.path.expanduser('~/.config/distributed_cron.yml'),
        '/etc/distributed_cron.yml',
    ]


def find_config():
    """The configuration file to use when --config names none. Raises BadConfig."""
    named = os.environ.get('DISTRIBUTED_CRON_CONFIG')
    if named:
        return named
    places = config_places()
    for file in places:
        if os.path.exists(file):
            return file
    raise BadConfig(
        'no configuration: there is no %s%s writes one' % (', '.join(places), RUN_INIT)
    )


def load_config(file, name=None):
    """Read a configuration file; name: of this host. Raises BadConfig, one line."""
    try:
        with open(file, encoding='utf-8') as stream:
            values = from_file(stream.read())
    except OSError as error:
        raise BadConfig('%s: %s' % (file, error.strerror)) from None
    except (UnicodeError, BadConfig) as problem:
        raise BadConfig('%s: %s' % (file, problem)) from None
    return Config(values, file, name)


def reload_config(config):
    """A configuration, read again. Raises BadConfig."""
    new = load_config(config.file, config.name)
    if new.state_location != config.state_location:
        raise new.bad(
            'state.location: can change at a restart only (unless it is given, it is '
            'in log.location)'
        )
    return new


def from_file(text):
    """What the YAML text of a configuration says. Raises BadConfig."""
    # The Perl program's file has tabs before keys and values, which YAML forbids.
    text = re.sub(
        r'(?m)^[ \t]*([\w.]+:[ \t]+)?',
        lambda before: before[0].expandtabs(4),
        text,
    )
    return from_yaml(io.StringIO(text), 'get_single_data')


def from_yaml(stream, method):
    """What one of PyYAML's loaders makes of a stream. Raises BadConfig."""
    try:
        import yaml
    except ImportError:
        raise BadConfig(
            'PyYAML is missing; install python3-yaml, or: pip install PyYAML'
        ) from None
    try:
        loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)  # ten times as fast
        return getattr(loader(stream), method)()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        # To YAML, a password that begins with * or ! is an alias or a tag, which the
        # error quotes.
        problem = re.split('[\'"]', error.problem)[0].strip()
        said = 'line %d, column %d: %s' % (mark.line + 1, mark.column + 1, problem)
    except (yaml.YAMLError, RecursionError):
        said = 'it has a character that YAML forbids, or is nested too deep'
    except (ValueError, LookupError, AttributeError):  # PyYAML's, for `!!bool maybe`
        said = 'a number, a date or a !! tag in it is wrong'
    raise BadConfig('is not YAML: %s' % said)


def dotted(values):
    """Nested keys as dotted ones, such as log.max_bytes. Empty values are left out, but
    for the page: an empty web.editors would let everybody change jobs."""
    if not isinstance(values, dict):
        raise BadConfig('must be lines of `key: value`')
    found = []
    for name, value in values.items():
        if isinstance(value, dict) and name not in KEYS:
            found += [('%s.%s' % (name, key), inner) for key, inner in value.items()]
        else:
            found.append((str(name), value))
    return {
        key: value
        for key, value in found
        if value not in (None, '') or key.startswith('web.')
    }


def from_dbi(string):
    """The keys that a Perl DBI string stands for. Raises BadConfig."""
    match = re.match('(?i)dbi:(%s):(.*)' % '|'.join(DBI_DRIVERS), string)
    if not match:
        raise BadConfig(
            'db.connect_string; allowed: dbi:DRIVER:database=D;host=H with a DRIVER of '
            + ', '.join(DBI_DRIVERS)
        )
    found = {'db.engine': DBI_DRIVERS[match[1].lower()]}
    for pair in filter(None, match[2].split(';')):
        name, _, value = pair.partition('=')
        if name in DBI_KEYS:
            found[DBI_KEYS[name]] = value
        elif not name.startswith(('mysql_', 'mariadb_', 'pg_', 'sqlite_')):
            raise unknown('key in db.connect_string:', name, DBI_KEYS)
    if re.fullmatch('[0-9]{1,9}', found.get('db.timeout', '')):
        found['db.timeout'] = int(found['db.timeout'])
    if found['db.engine'] == 'sqlite' and 'db.database' in found:
        found['db.path'] = found.pop('db.database')
    return found


def unknown(what, word, words):
    """The error for a word that is none of some words."""
    text = 'unknown %s %r; the nearest known is %s'
    return BadConfig(text % (what, word, nearest(word, words)))


def nearest(word, words):
    """The one of some words that is most like a word."""
    from difflib import get_close_matches

    return get_close_matches(word[:80], words, 1, 0)[0]


def short(value):
    """A value for a message; of one that is long or nested deep, only the beginning."""
    from reprlib import Repr

    shortener = Repr()
    shortener.maxlevel = 2
    shortener.maxstring = 80
    return shortener.repr(value)


def checked(given):
    """The value of each of KEYS: the given one, or the default. Raises BadConfig."""
    values = {key: default for key, (default, check) in KEYS.items()}
    for key, value in given.items():
        if key not in KEYS:
            raise unknown('key', key, KEYS)
        check = KEYS[key][1]
        if not check.allows(value):
            shown = 'this' if key in SECRET else short(value)
            raise BadConfig(
                '%s: %s is not allowed; allowed: %s' % (key, shown, check.words)
            )
        values[key] = str(value) if check is ANY_TEXT else value
    if not values['db.engine']:
        server = 'db.host' in given or 'db.database' in given
        values['db.engine'] = 'mysql' if server else 'sqlite'
    return values


def parse_host(text, port):
    """`host`, `host:port`, `[address]:port` or `/socket` as (host, port, socket); port
    is the default. Raises BadConfig."""
    if text.startswith('/'):
        return 'localhost', 0, text
    if ':' not in text.rpartition(']')[2]:
        text = '%s:%s' % (text, port)
    match = re.fullmatch(r'(\[[^][]+\]|[^/:\s]+):([0-9]{1,5})', text)
    if not match or '..' in text or not 0 < int(match[2]) < 65536:
        raise BadConfig(
            'db.host: %r; allowed: host, host:port, [address]:port or /socket, with a '
            'port of 1 to 65535' % re.sub('(?s).*@', '…@', text)  # USER:PASSWORD@HOST
        )
    for socket in MYSQL_SOCKETS:  # as MySQL's own clients connect to localhost
        if text == 'localhost:3306' and os.path.exists(socket):
            return 'localhost', 0, socket
    return match[1].strip('[]'), int(match[2]), None


def settings(said):
    """The value of each of KEYS, and `hosts`: each server's (host, port, socket) in the
    order to try. said: the keys of a file, nested or dotted; they win over what the
    db.connect_string among them says. Raises BadConfig."""
    given = dotted(said)
    from_string = {}
    if 'db.connect_string' in given:
        from_string = from_dbi(str(given['db.connect_string']))
    port = from_string.pop('port', None)
    values = checked({**from_string, **given})
    port = port or PORTS[values['db.engine']]
    hosts = values['db.host']
    if not isinstance(hosts, list):
        hosts = [str(hosts)]
    values['hosts'] = [parse_host(host, port) for host in hosts]
    return values


class Config:
    """The configuration, checked. Each of settings() is an attribute: `log.max_bytes`
    is log_max_bytes. Times are in seconds, paths absolute."""

    def __init__(self, said, file, name=None):
        """said: the keys of the file, nested or dotted. Raises BadConfig."""
        self.file = file
        self.name = name or os.uname().nodename  # of this host
        self.minute = 60  # seconds in a minute of max_run_time; fewer in the demo
        if not re.fullmatch(r'[^/.\s][^/\s]{0,190}', self.name):
            raise BadConfig(
                '--name %r; allowed: 1 to 191 characters without / and space, not '
                'starting with a dot' % self.name
            )
        try:
            values = settings(said or {})
        except BadConfig as problem:
            raise self.bad(problem) from None
        for key, value in values.items():
            setattr(self, key.replace('.', '_'), value)
        if self.max_tasks in CPU_SHARES:
            cpus = os.cpu_count() or 1
            self.max_tasks = max(1, cpus // CPU_SHARES[self.max_tasks])
        self.db_path = self.path_of(self.db_path)
        self.log_location = self.path_of(self.log_location)
        self.state_location = self.path_of(
            self.state_location or os.path.join(self.log_location, 'state-' + self.name)
        )
        # What run_on of a job may be for this host to take it.
        self.words = [self.name.lower(), *self.tags]
        self.worker_log = os.path.join(self.log_location, self.name + '.log')
        if self.db_tls:
            self.db_tls = {key: self.path_of(p) for key, p in self.db_tls.items()}
        if self.db_password_file:
            self.db_password = self.password_of('db.password_file')
        self.sign_signers = self.path_of(self.sign_signers)
        self.sign_revoked = self.path_of(self.sign_revoked)
        if isinstance(self.alert_mail, str):
            self.alert_mail = [self.alert_mail]
        # Whether this host is to tell of troubles.
        self.alerts = any(values[key] for key in TOLD_BY)

    def bad(self, text):
        """The error for a mistake in the file."""
        return BadConfig('%s: %s' % (self.file, text))

    def path_of(self, path):
        """A path in the file is relative to the file's folder. None for None."""
        return path and os.path.join(os.path.dirname(os.path.abspath(self.file)), path)

    def password_of(self, key):
        """The first line of the file that a key names."""
        path = self.path_of(getattr(self, key.replace('.', '_')))
        try:
            with open(path, encoding='utf-8') as stream:
                password = stream.readline().rstrip('\r\n')
        except OSError as error:
            raise self.bad('%s: %s' % (key, error.strerror)) from None
        except ValueError:
            raise self.bad('%s: is not UTF-8 text' % key) from None
        if not password:
            raise self.bad(
                '%s: %s: the first line is empty; allowed: the password' % (key, path)
            )
        return password

    def job_log(self, job):
        return os.path.join(self.log_location, '%d.log' % job)


########################################################################################
# keys: its keys, and what each allows
########################################################################################

# What a key allows: in words, and as a function of the value.
Check = namedtuple('Check', 'words allows')


def a_number(low, high, whole=False):
    """A check for numbers, to which True and False, ints of Python, don't belong."""
    kind = 'whole number' if whole else 'number'
    types = [int] if whole else [int, float]
    return Check(
        'a %s from %s to %s' % (kind, low, high),
        lambda value: type(value) in types and low <= value <= high,
    )


def one_of(*words):
    """A check for some words."""
    return Check('one of: ' + ', '.join(words), lambda value: value in words)


def is_tls(value):
    """Without ca, any server's certificate would do."""
    names = {'ca', 'cert', 'key'}
    return (
        isinstance(value, dict)
        and {'ca'} <= set(value) <= names
        and all(isinstance(file, str) for file in value.values())
    )


def either(first, second):
    """A check for values that one of two checks allows."""
    return Check(
        '%s, or %s' % (first.words, second.words),
        lambda value: first.allows(value) or second.allows(value),
    )


def is_text(value):
    """Whether a value is text, also if YAML made a number or a date of it."""
    return not isinstance(value, (bool, list, dict))


def is_texts(value):
    return isinstance(value, list) and {type(item) for item in value} == {str}


WORD = '[a-z0-9][a-z0-9_.-]{0,190}'  # a host's name or a tag, for run_on


def is_words(value):
    return isinstance(value, list) and all(
        isinstance(word, str) and re.fullmatch(WORD, word) for word in value
    )


def matches(pattern):
    """A function that tells whether a value is a text that a pattern matches whole."""
    return lambda value: isinstance(value, str) and bool(re.fullmatch(pattern, value))


ADDRESS = r'[^\s@,<>"()]+@[^\s@,<>"()]+'  # of mail


def is_addresses(value):
    return is_texts(value) and all(map(matches(ADDRESS), value))


ANY_TEXT = Check('text', is_text)
MAIL = Check('a mail address', matches(ADDRESS))
MAILS = Check('a list of mail addresses', is_addresses)
URL = Check('a URL that begins with http:// or https://', matches('https?://[!-~]+'))
SERVER = Check('host:port', matches(r'(\[[0-9A-Fa-f:.]+\]|[\w.-]+):[0-9]{1,5}'))
TEXTS = Check('a list of texts', is_texts)
WORDS = Check('a list of words such as db, in lower case', is_words)
TLS_FILES = Check('files by these keys, ca always: ca, cert, key', is_tls)
YES_OR_NO = Check('yes or no', lambda value: isinstance(value, bool))
MAIL_TLS = Check(  # to YAML, no is False
    'one of: starttls, tls, no',
    lambda value: value is False or value in ('starttls', 'tls', 'no'),
)
CPU_SHARES = {'cpu_full': 1, 'cpu_half': 2, 'cpu_quarter': 4}  # CPUs per run
KEYS = {  # key: (default, check)
    'db.engine': (None, one_of('sqlite', 'mysql', 'postgresql')),
    'db.path': ('distributed_cron.db', ANY_TEXT),
    'db.host': ('localhost', either(ANY_TEXT, TEXTS)),
    'db.database': ('distributed_cron', ANY_TEXT),
    'db.username': (None, ANY_TEXT),
    'db.password': (None, ANY_TEXT),
    'db.password_file': (None, ANY_TEXT),
    'db.tls': (None, TLS_FILES),
    'db.timeout': (2, a_number(1, 60)),
    'db.connect_string': (None, ANY_TEXT),
    'log.location': ('log', ANY_TEXT),
    'log.max_bytes': (10000000, a_number(1000, 10**15, whole=True)),
    'state.location': (None, ANY_TEXT),
    'max_tasks': (
        'cpu_full',
        either(a_number(1, 100000, whole=True), one_of(*CPU_SHARES)),
    ),
    'poll_seconds': (1, a_number(0.1, 60)),
    'kill_grace': (10, a_number(0, 30)),
    'history.days': (30, a_number(1, 36500, whole=True)),
    'history.runs': (1000, a_number(1, 10**15, whole=True)),
    'history.output_bytes': (16384, a_number(0, 65535, whole=True)),
    'web.readonly': (False, YES_OR_NO),
    'web.editors': ((), TEXTS),
    'web.hosts': ((), TEXTS),
    'tags': ((), WORDS),
    'alert.mail': ((), either(MAIL, MAILS)),
    'alert.from': (None, MAIL),
    'alert.smtp': (None, SERVER),
    'alert.smtp_username': (None, ANY_TEXT),
    'alert.smtp_password_file': (None, ANY_TEXT),
    'alert.smtp_tls': ('starttls', MAIL_TLS),
    'alert.webhook': (None, URL),
    'alert.command': (None, ANY_TEXT),
    'alert.ping': (None, URL),
    'alert.late_minutes': (10, a_number(1, 525600)),
    'alert.remind_hours': (24, a_number(1, 8760)),
    'alert.per_day': (50, a_number(1, 10000, whole=True)),
    'sign.required': (False, either(YES_OR_NO, one_of('warn'))),
    'sign.signers': (None, ANY_TEXT),
    'sign.revoked': (None, ANY_TEXT),
    'sign.cluster': (None, ANY_TEXT),
    'clear_old_on_start': (True, YES_OR_NO),  # of the Perl program; not used
}
# What no message quotes: a URL can be as secret as a password.
SECRET = 'db.password', 'db.password_file', 'alert.webhook', 'alert.ping'
TOLD_BY = 'alert.mail', 'alert.smtp', 'alert.webhook', 'alert.command', 'alert.ping'


# ======================================================================================
# = banner: what crontab runs ends here; below are the commands that people type
# ======================================================================================


########################################################################################
# options: what the commands take: their register, and arguments that many have
########################################################################################


# An argument of a command: its name or options, and the keywords for argparse.
Option = namedtuple('Option', 'flag keywords')
# A command of the command line. function: of its arguments, and of what `given` makes
# of them; it returns the exit status, None for 0. help: see command().
Subcommand = namedtuple('Subcommand', 'function help options given')
COMMANDS = {}  # by name, in the order of --help


def argument(flag, help, **keywords):
    """An Option, by its help and more keywords for argparse."""
    return Option(flag, {'help': help, **keywords})


def switch(flag, help):
    """An Option without a value."""
    return argument(flag, help, action='store_true')


def given_config(args):
    """The configuration that the command line names, or the usual one."""
    return load_config(args.config or find_config(), args.name)


def given_store(args):
    """The database of that configuration, connected."""
    return Store(given_config(args)).connect()


def command(name, *options, summary=None, given=given_store):
    """Register a function as a command. Without a summary, its help is its docstring:
    a line, and what else is to be said of it."""

    def register(function):
        text = summary or function.__doc__
        COMMANDS[name] = Subcommand(function, text, options, given)
        return function

    return register


def typed(convert, allowed):
    """A type for argparse, which reports what is wrong. convert: returns what a text
    stands for; None if it is not allowed."""

    def type_of(text):
        value = convert(text)
        if value is None:
            from argparse import ArgumentTypeError

            raise ArgumentTypeError('%.80r; allowed: %s' % (text, allowed))
        return value

    return type_of


# What people type, each as `convert` of typed().

NAME = '[a-z][a-z0-9_.-]{0,63}'  # of a job
UNITS = {'s': SECOND, 'm': MINUTE, 'h': 60 * MINUTE, 'd': DAY}


def whole_number(text):
    if re.fullmatch('[0-9]{1,9}', text):
        return int(text)
    return None


def id_or_name(text):
    """The id of a job as an int, or its name; '' stands for none."""
    if not text or re.fullmatch(NAME, text):
        return text
    return whole_number(text)


def clock_time(text):
    """A time of day, with two digits for the hour: 9:00 is 09:00."""
    return text.zfill(5) if re.fullmatch('[0-9]:[0-9]{2}', text) else text


def time_given(text):
    """A datetime."""
    if re.fullmatch(YEARS + '[-0-9 :]+', text):
        return moment(text)
    return None


def period_given(text):
    """A length of time, as a timedelta."""
    given = re.fullmatch('([1-9][0-9]{0,4})([smhd])', text)
    if given:
        return int(given[1]) * UNITS[given[2]]
    return None


def start_given(text):
    """A datetime, or how long ago it was, as a timedelta."""
    return period_given(text) or time_given(text)


def host_given(text):
    """The name of a host, in lower case."""
    host = text.lower()
    if re.fullmatch(WORD, host):
        return host
    return None


# Keywords of argparse.
WHOLE = {'type': typed(whole_number, 'a whole number, up to 9 digits')}
BY_NAME = {
    'type': typed(id_or_name, 'the id or the name of a job'),
    'metavar': 'JOB',
}
TIME = {'type': typed(time_given, "'YYYY-MM-DD HH:MM:SS'"), 'metavar': 'TIME'}
JOB = argument('id', 'the id or the name of a job', **BY_NAME)
JOB_OR_ALL = argument(
    'id', 'the id or the name of a job; default: all jobs', nargs='?', **BY_NAME
)
JOBS = argument('id', 'the ids or the names of jobs', nargs='+', **BY_NAME)
JOBS_OR_ALL = argument(
    'id', 'the ids or the names of jobs; default: all jobs', nargs='*', **BY_NAME
)
AT = argument(
    '--at',
    'once, at YYYY-MM-DD HH:MM',
    metavar='TIME',
    dest='job_schedule',
    type='@at {}'.format,
)
FORCE = switch('--force', 'also while hosts of version 1 run, which ignore what is new')
COUNT = argument(
    '-n', 'print at most so many; default: 20', default=20, metavar='COUNT', **WHOLE
)
KEY = argument(
    '--key',
    'a private key, or the public half of one that the ssh agent has; '
    'default: a key of the agent that sign.signers lists',
    metavar='FILE',
)
JSON = switch('--json', 'print JSON')


########################################################################################
# columns: what people may set of a job, and the limits of that
########################################################################################


# What a column holds. json: the types that import accepts in a `#:` line. keywords: of
# its option, for argparse.
Type = namedtuple('Type', 'json keywords')
TEXT = Type((str,), {'metavar': 'TEXT'})
MINUTES = Type((int,), {**WHOLE, 'metavar': 'MINUTES'})
ACTIVE = Type(
    (int,),
    {
        'action': 'store_const',
        'const': 0,
        'help': 'save it disabled; to undo it: enable',
    },
)
CLOCK = Type((str, type(None)), {'type': clock_time, 'metavar': 'HH:MM'})
EXPRESSION = Type((str, type(None)), {'metavar': 'EXPR'})
WORDING = Type((str, type(None)), {'metavar': 'WORD'})
NUMBER = Type((int, type(None)), {**WHOLE, 'metavar': 'N'})
ANOTHER_JOB = Type((int, str, type(None)), BY_NAME)
TEMPLATE = Type((int,), {'action': 'store_const', 'const': 1})

# A column of `job` that people may change. Options, checks, import and export, and the
# form of the page follow from it. A new one also goes to JOB_COLUMNS, to TABLES and
# distributed_cron.sql (each at the end), into the README's table, and to INHERITED. One
# from which the plan follows: to PLANNED_FROM and LIMITED_FROM, and the triggers get
# new names. One from which it follows what runs: to CLAIMED, and to SIGNED, for which
# the first line of what is signed needs a new number.
#   type      a Type
#   default   of a new job; None: empty; max_run_time: see default_run_time
#   option    of the commands `add` and `edit`
#   label     on the page, and as help of its option
Column = namedtuple(
    'Column',
    'name type default option label',
    defaults=(None, None, ''),
)
COLUMNS = (
    Column(
        'description',
        TEXT,
        default='Yet another cron',
        option='--description',
        label='Description',
    ),
    Column('command', TEXT, option='--command', label='Command'),
    Column(
        'active',
        ACTIVE,
        default=1,
        option='--inactive',
        label='Active: it runs when it is due',
    ),
    Column(
        'start_anchor',
        CLOCK,
        option='--start',
        label='No start before this time',
    ),
    Column(
        'stop_anchor',
        CLOCK,
        option='--stop',
        label='No start at or after this time',
    ),
    Column(
        'frequency',
        MINUTES,
        default=60,
        option='--every',
        label='Minutes from start to start',
    ),
    Column(
        'max_run_time',
        MINUTES,
        option='--max-run-time',
        label='Minutes after which a run is killed',
    ),
    Column(
        'schedule',
        EXPRESSION,
        option='--schedule',
        label='Minute, hour, day of month, month, day of week',
    ),
    Column('name', WORDING, option='--name', label='Name, to use instead of the id'),
    Column('run_on', WORDING, option='--on', label='Host or tag: only there'),
    Column(
        'each_host',
        TEMPLATE,
        default=0,
        option='--each-host',
        label='Runs on each of these hosts',
    ),
    Column(
        'time_zone',
        WORDING,
        option='--time-zone',
        label="Time zone of schedule and window, if not the database's",
    ),
    Column(
        'start_within',
        NUMBER,
        option='--start-within',
        label='Minutes after its time in which it may start',
    ),
    Column(
        'retries',
        NUMBER,
        default=0,
        option='--retries',
        label='How often a failed run is tried again',
    ),
    Column(
        'retry_delay',
        NUMBER,
        option='--retry-delay',
        label='Seconds until then, doubled each time; otherwise 60',
    ),
    Column(
        'after_job',
        ANOTHER_JOB,
        option='--after',
        label='Runs when this job has succeeded, by no schedule',
    ),
    Column(
        'alert_after',
        NUMBER,
        option='--alert-after',
        label='Failures in a row before an alert, 0: never; otherwise 1',
    ),
    Column(
        'alert_to',
        WORDING,
        option='--alert-to',
        label="Mail address for its alerts, if not the configuration's",
    ),
)
DEFAULTS = {column.name: column.default for column in COLUMNS}
SINCE_2 = [  # version 1 knows none of these
    column
    for column in COLUMNS
    if JOB_COLUMNS.index(column.name) >= JOB_COLUMNS.index('start_before_utc')
]


def has_length(fewest, most):
    """A check for the length of a text."""
    return Check(
        '%d to %d characters, without NUL' % (fewest, most),
        lambda text: fewest <= len(text) <= most and '\0' not in text,
    )


def in_range(low, high, unit=''):
    """A check for whole numbers."""
    return Check(
        '%d to %d%s' % (low, high, unit),
        lambda value: type(value) is int and low <= value <= high,
    )


# What a column may have, if anything; see check_job().
CHECKS = {
    'description': has_length(0, 255),
    'command': has_length(1, 12000),
    'schedule': has_length(0, 255),
    'frequency': in_range(1, LONGEST_FREQUENCY, ' minutes'),
    'name': Check('a to z, then also 0-9 _ . -, up to 64 in all', matches(NAME)),
    'run_on': Check(
        'a host or a tag, such as db or web-1: a-z, 0-9, _ . -', matches(WORD)
    ),
    'start_within': in_range(1, LONGEST_RUN),
    'retries': in_range(0, 99),
    'retry_delay': in_range(0, LONGEST_DELAY),
    'alert_after': in_range(0, 1000),
    'alert_to': Check('one mail address', matches(ADDRESS)),
}


########################################################################################
# jobs: what the commands and the web page share: actions, checks, changes
########################################################################################


# What people may do to a job; to a template: to the jobs that it has on each host. sql:
# one statement, which changes no row if there is nothing to do. help: for --help. done:
# what is said of a job to which it was done.
Action = namedtuple('Action', 'sql help done')
FAMILY = '(id = :id OR parent_id = :id)'
ACTIONS = {
    'remove': Action(
        # A child that runs is deleted by its host's worker, when it has ended.
        'DELETE FROM job WHERE id = :id OR (parent_id = :id AND run_token IS NULL)',
        'delete jobs',
        'removed',
    ),
    'enable': Action(
        'UPDATE job SET active = 1, next_run_utc = NULL WHERE ' + FAMILY,
        'enable jobs',
        'enabled',
    ),
    'disable': Action(
        'UPDATE job SET active = 0, next_run_utc = NULL WHERE ' + FAMILY,
        'disable jobs',
        'disabled',
    ),
    'run-now': Action(
        # During a run, its end will make the job due.
        '''UPDATE job SET run_requested = 1,
            start_before_utc = CASE WHEN run_token IS NULL THEN NULL
                ELSE start_before_utc END,
            next_run_utc = CASE WHEN run_token IS NULL THEN {utc}
                ELSE next_run_utc END
            WHERE each_host = 0 AND '''
        + FAMILY,
        'run jobs at once, on any host that may',
        'will run now, or within a minute if cron starts the workers',
    ),
    'stop': Action(
        # Of a failed job that is to be tried again, it is the next try.
        '''UPDATE job SET
            stop_requested = CASE WHEN run_token IS NULL THEN NULL ELSE run_no END,
            next_run_utc = CASE WHEN run_token IS NULL THEN NULL ELSE next_run_utc END
            WHERE (run_token IS NOT NULL OR attempt > 0) AND '''
        + FAMILY,
        'end the current runs of jobs, on whichever host, and their retries',
        'will be ended',
    ),
}

COLUMNS_BY_NAME = {column.name: column for column in COLUMNS}


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
    checks = dict(CHECKS)
    if CHECKS['frequency'].allows(job.frequency):
        checks['max_run_time'] = in_range(1, longest_run(job), ' minutes')
    for name, check in checks.items():
        value = getattr(job, name)
        if name == 'command':
            value = value or ''
        if value is not None and not check.allows(value):
            wrong[name] = '%s; allowed: %s' % (short(value), check.words)
    if 'frequency' in wrong:
        return wrong
    try:
        next_run(job._replace(active=1), now, now, zone)
    except BadSchedule as problem:
        wrong.setdefault(problem.column, str(problem))
    return wrong


def longest_run(job):
    """The most minutes that max_run_time may be: fewer than the frequency, so that a
    run whose host died has ended before the next one is due."""
    if not by_frequency(job):
        return LONGEST_RUN
    return max(1, job.frequency - 1)


def default_run_time(job):
    """max_run_time, in minutes, of a job for which none is given."""
    if not by_frequency(job):
        return 60
    return max(1, job.frequency // 2)


def by_frequency(job):
    """Whether a job runs by its frequency: by no schedule, and after no other job."""
    return job.schedule is None and job.after_job is None


def job_of(store, job):
    """The row of a job, by its id or its name. Raises Problem if there is none."""
    by = 'id' if isinstance(job, int) else 'name'
    rows = store.query('SELECT * FROM job WHERE %s = :job' % by, job=job)
    if not rows:
        raise Problem('job %s does not exist; see: list' % job)
    return rows[0]


def save_job(store, id, values, force=False):
    """Insert a job (id None), or change columns of one. Returns its id and its next
    run, a UTC datetime. force: also what hosts of version 1 would run otherwise. Raises
    BadJob."""
    values = settled(store, values)
    old = Job(**DEFAULTS) if id is None else job_of(store, id)
    job = with_run_time(old._replace(**values), values)
    check_values(store, job, values)
    if not force:
        check_hosts(store, values)
    values = dict(values, max_run_time=job.max_run_time)
    with store.transaction():
        if id is None:
            id = store.insert('job', values)
        else:
            update_job(store, id, values)
            if not any(name in values for name in PLANNED_FROM):
                return id, moment(job.next_run_utc)
        try:
            return id, announce(store, id, old)
        except BadSchedule as problem:  # with this id, H is a time outside the window
            raise BadJob({problem.column: str(problem)}) from None


def settled(store, values):
    """Values for a job as its row has them: of schedule, frequency and after_job, one
    takes the place of the others; a job is an id."""
    values = dict(values)
    if values.get('start_within') == 0:
        values['start_within'] = None
    if values.get('schedule'):
        values['schedule'] = words_of(values['schedule'])
    if values.get('after_job') is not None:
        values['schedule'] = None
        try:
            values['after_job'] = job_of(store, values['after_job']).id
        except Problem as problem:
            raise BadJob({'after_job': str(problem)}) from None
    elif 'schedule' in values or 'frequency' in values:
        values['after_job'] = None
    return values


def check_values(store, job, values):
    """Raise BadJob if something is wrong with a job to which values were given."""
    find = partial(parent_in, store)
    wrong = what_is_wrong(job, values, store.now(), store.zone, find)
    for other in store.query(
        'SELECT id FROM job WHERE name = :name AND id <> :id',
        name=values.get('name'),
        id=job.id or 0,
    ):
        wrong['name'] = '%r; allowed: a new one; it is that of job %d' % (
            job.name,
            other.id,
        )
    if values.get('each_host'):
        for other in store.query('SELECT id FROM job WHERE after_job = :id', id=job.id):
            wrong['each_host'] = '1; allowed: 0, as job %d runs after it' % other.id
    if wrong:
        raise BadJob(wrong)


def what_is_wrong(job, values, now, zone, find):
    """As check_job(), of a job to which values were given. find: see check_parent."""
    checked = job
    if 'frequency' not in values and not by_frequency(job):
        checked = job._replace(frequency=60)  # what the row has is not used
    wrong = check_job(checked, now, zone)
    if job.name == ALERT and job.command != ALERT_JOB['command']:
        wrong['name'] = '%r; allowed: another one: its command is built in' % ALERT
    try:
        check_parent(job, find)
        if not wrong and values.keys() & {'schedule', 'time_zone'}:
            refuse_past(job, now, zone)
    except BadSchedule as problem:
        wrong.setdefault(problem.column, str(problem))
    return wrong


def parent_problem(job, find):
    """What check_parent() says of a job; None if all is well."""
    try:
        check_parent(job, find)
    except BadSchedule as problem:
        return problem


def check_hosts(store, values):
    """Raise BadJob if hosts of version 1 were seen in the last hour, and values for a
    job say what they don't know: they would run it all the same."""
    known = [column.name for column in COLUMNS if column not in SINCE_2]
    new = [name for name, value in values.items() if value and name not in known]
    if not new:
        return
    since = store.zone.local(store.now()) - 60 * MINUTE
    for host in store.query(
        "SELECT name, version FROM host WHERE last_seen > :since AND version < '2'",
        since=text_of(since),
    ):
        text = (
            'host %s runs version %s, which does not know this; upgrade it, or: --force'
        )
        raise BadJob({new[0]: text % host})


def parts_of(values, size=500):
    """A list as lists of at most so many, for one statement each."""
    return [values[at : at + size] for at in range(0, len(values), size)]


def words_of(text):
    """A text as words in one line, with one blank between them."""
    return ' '.join(text.split())


def announce(store, id, old=None):
    """Write the plan of a job that has changed, and return its next run, a UTC
    datetime. It is kept, also if no worker comes before that time. A statement of its
    own, as the trigger clears the plan in the one that changes the schedule. old: its
    row before an edit. Raises BadSchedule."""
    job = job_of(store, id)
    plan = plan_of_edit(job, old, store.now(), store.zone)
    store.change(ANNOUNCE, **plan)
    return moment(plan['when'])


ANNOUNCE = '''UPDATE job SET next_run_utc = :when, start_before_utc = :limit,
    changed_utc = NULL, attempt = :try
    WHERE id = :id AND run_token IS NULL AND run_requested = 0'''


def plan_of_edit(job, old, now, zone):
    """What announce() writes for a job, as values for ANNOUNCE."""
    old = old or job
    due = still_due(old, job)
    when = next_run(job, before_due(old, due, now), now, zone)
    if job.after_job and due not in (None, PARKED):  # that job has succeeded
        if is_pause_end(old, due):
            due = now  # it waited for that alone
        when = max(due, moment(job.paused_until_utc) or due)
    if is_retry_kept(job, due, zone):
        when = due
    else:
        job = job._replace(attempt=0)
    limit = start_limit(job, when, zone)
    return {
        'when': text_of(when),
        'limit': limit_text(limit),
        'try': job.attempt,
        'id': job.id,
    }


def is_retry_kept(job, due, zone):
    """Whether a job that was edited is still tried again when it was due."""
    if due is None or not job.attempt or not job.active or job.each_host:
        return False
    first = moment(job.paused_until_utc) or EPOCH
    return first < due < start_limit(job, due, zone)


def still_due(old, job):
    """The UTC datetime at which a job that is edited was due, which is not lost, unless
    the edit is of that time itself; else None."""
    due = moment(old.next_run_utc)
    same = ('run_no', 'schedule', 'time_zone')
    if old.run_token is not None:
        return None
    if any(getattr(old, name) != getattr(job, name) for name in same):
        return None
    return due


def act(store, name, id):
    """Do one of ACTIONS to a job. Returns to how many rows it was done."""
    with store.transaction():
        if name == 'remove':
            return remove(store, id)
        changed = store.change(ACTIONS[name].sql, id=id)
        if name == 'enable':
            for member in family_of(store, id):
                with suppress(BadSchedule):  # a worker will say what is wrong
                    announce(store, member.id)
    return changed


def remove(store, id):
    """Delete a job, with those that a template has. Returns how many rows it was."""
    deleted = store.change(ACTIONS['remove'].sql, id=id)
    store.change(  # what runs after it never will; plan says so
        '''UPDATE job SET next_run_utc = NULL
        WHERE after_job = :id AND run_token IS NULL''',
        id=id,
    )
    return deleted


def family_of(store, id):
    """The rows of a job, and of those that it has on each host as a template."""
    return store.query('SELECT * FROM job WHERE %s ORDER BY id' % FAMILY, id=id)


def refuse_past(job, now, zone):
    """Raise BadSchedule for an @at whose time has come already."""
    if not is_once(job.schedule or ''):
        return
    zone = zone_of(job, zone)
    if expression_of(job).next_utc(now, zone) is None:
        text = '%r is not in the future: in its time zone it is %s now'
        local = text_of(zone.local(now))
        raise BadSchedule(text % (job.schedule, local))


def with_run_time(job, values):
    """A job to which values were given, with a max_run_time that fits: a new frequency
    shortens one that was not given with it."""
    if job.max_run_time is None:
        return job._replace(max_run_time=default_run_time(job))
    if 'frequency' in values and 'max_run_time' not in values and by_frequency(job):
        fitting = min(job.max_run_time, default_run_time(job))
        return job._replace(max_run_time=fitting)
    return job


########################################################################################
# status: which jobs have some words, and how they are doing, in words
########################################################################################


def state_of(job, now):
    """A job's state in a word, by its row alone: running, overdue, disabled, template,
    paused, failing, ok."""
    due = moment(job.next_run_utc)
    deadline = moment(job.run_deadline_utc)
    if job.run_token is not None:
        return 'overdue' if deadline and deadline < now else 'running'
    if not job.active and not job.run_requested:
        return 'disabled'
    if job.each_host:
        return 'template'
    if str(job.paused_until_utc or '') > text_of(now) and not job.run_requested:
        return 'paused'
    if due and due < now - MINUTE:
        return 'overdue'
    return 'failing' if is_failing(job) else 'ok'


def is_failing(job):
    """Whether the last run of a job failed, or it can't be planned. That somebody
    stopped it is no failure."""
    if job.last_status == STOPPED and job.failures == 0:
        return False
    return job.last_status.startswith('ERROR')


SEARCHED = ('name', 'description', 'command', 'run_on')


def having_words(words, columns=SEARCHED, more=None):
    """(SQL, values): whether a job has each of some words in one of these columns, or
    as its id. more: {word: other tests by which a job has it}."""
    tests = ['1 = 1']
    values = {}
    for number, word in enumerate(words):
        name = 'word_%d' % number
        values[name] = '%%%s%%' % like(word)
        either = [
            "LOWER(%s) LIKE LOWER(:%s) ESCAPE '!'" % (column, name)
            for column in columns
        ]
        if re.fullmatch('[1-9][0-9]{0,8}', word):
            either.append('id = ' + word)
        if more:
            either += more[word]
        tests.append('(%s)' % ' OR '.join(either))
    return ' AND '.join(tests), values


def like(text):
    """A text for LIKE … ESCAPE '!'. The database has it in lower case, in its way: some
    know A to Z alone."""
    return re.sub('[!%_]', r'!\g<0>', text)


def on_host(host, column='worker', name='host'):
    """(SQL, values): whether a worker is one of a host. It is called HOST-PID, and a
    host's name may hold a -. name: of the first value."""
    pattern = like(host) + '-%'
    longer = name + '_longer'
    test = """(LOWER({0}) LIKE LOWER(:{1}) ESCAPE '!'
        AND LOWER({0}) NOT LIKE LOWER(:{2}) ESCAPE '!')"""
    values = {name: pattern, longer: pattern + '-%'}
    return test.format(column, name, longer), values


def running_by_host(store):
    """How many runs are in progress on each host."""
    from collections import Counter

    # So SQLite takes the index too, which it does not for IS NOT NULL.
    rows = store.query("SELECT last_worker FROM job WHERE run_token > ''")
    return Counter(host_of(row.last_worker) for row in rows)


# In these states somebody should look at a job; their colours on a terminal.
TROUBLES = {'failing': 31, 'flapping': 31, 'overdue': 33}
# What the row of a job does not tell of its status.
Facts = namedtuple(
    'Facts',
    (
        'since',  # when its first failure since a success ended, local time, as text
        'runs',  # how many of its last 20 runs are on record,
        'failed',  # how many of these failed,
        'recovered',  # and how many succeeded after one that failed
        'hosts',  # on how many hosts a template has jobs,
        'failing',  # and how many of these fail
        'waits_for',  # what no host is there for
    ),
    defaults=[None, 0, 0, 0, 0, 0, None],
)
FLAPPING = 3  # recoveries among 20 runs


def job_status(job, now, zone, facts):
    """A job's (state, status in words); the state is state_of(), or `flapping`. now: a
    UTC datetime; zone: the database's; facts: see statuses_of()."""
    state = state_of(job, now)
    today = zone.local(now)
    if state in ('ok', 'failing'):
        return status_by_runs(job, state, now, today, facts)
    if state == 'template':
        return template_status(facts)
    if job.run_token is not None:
        host = host_of(job.last_worker)
        since = clock_text(job.last_start, today)
        text = 'running on %s since %s' % (host, since)
        if state == 'overdue':
            text += ', past its deadline'
        return state, text
    if state == 'paused':
        until = moment(job.paused_until_utc)
        local = until and zone.local(until)  # SQLite takes any text for a time
        end = clock_text(local, today)
        return state, 'paused until %s by %s' % (end, job.paused_by)
    if state == 'overdue':
        late = lasted(now - moment(job.next_run_utc))
        if facts.waits_for is None:
            return state, 'overdue ' + late
        return state, 'waiting %s for %s' % (late, facts.waits_for)
    return state, state


def status_by_runs(job, state, now, today, facts):
    """As job_status(), of a job that waits for its next time. today: local time."""
    due = moment(job.next_run_utc)
    if job.attempt and due and due > now:
        return state, 'retry ' + how_far(due - now)
    if job.last_status.startswith('ERROR: schedule: '):
        _, _, reason = job.last_status.partition('schedule: ')
        return state, 'parked: ' + reason
    if facts.recovered >= FLAPPING and job.failures in range(FLAPPING):
        counts = facts.failed, facts.runs
        return 'flapping', 'flapping: %d of %d failed' % counts
    if state == 'failing':
        since = facts.since or job.last_end
        text = 'failing'
        if since:
            text += ' since ' + clock_text(since, today)
        if job.failures != 0:
            text += ' (%s)' % counted(job.failures, 'run')
        return state, text
    if job.last_status == STOPPED:
        return state, 'stopped'
    return state, 'ok' if job.last_start else 'never ran'


def template_status(facts):
    """As job_status(), of a template."""
    if not facts.hosts:
        return 'template', 'on no host yet'
    text = 'on ' + counted(facts.hosts, 'host')
    if not facts.failing:
        return 'template', text
    return 'failing', '%s, %d failing' % (text, facts.failing)


def statuses_of(store, jobs, now):
    """{id: job_status()} of some jobs: rows of `job`, in any number."""
    found = {}
    hosts = hosts_there(store, now)
    for some in parts_of(jobs):
        ids = [job.id for job in some]
        rows = store.query(STATUS_FACTS, jobs=ids)
        since = first_failures(store, rows)
        facts = {}
        for row in rows:
            began = since.get(row.id)
            facts[row.id] = Facts(began, *row[2:])
        for job in some:
            known = facts.get(job.id, Facts())
            known = known._replace(waits_for=missing_for(job, hosts))
            found[job.id] = job_status(job, now, store.zone, known)
    return found


# Of the runs of each job, the last 20 are read, and of one that fails, those since its
# last success, by their primary key. (For a range of numbers, MariaDB reads all runs.)
STATUS_FACTS = '''SELECT job.id,
        CASE WHEN {is_failing} THEN COALESCE((SELECT run.run_no FROM run
            WHERE job_id = job.id AND status = 'Success'
            ORDER BY job_id DESC, run.run_no DESC LIMIT 1), 0) END AS last_success,
        COALESCE(runs, 0), COALESCE(failed, 0), COALESCE(recovered, 0),
        (SELECT COUNT(*) FROM job AS child WHERE child.parent_id = job.id),
        (SELECT COUNT(*) FROM job AS child
            WHERE child.parent_id = job.id AND active = 1 AND {is_failing})
    FROM job LEFT JOIN (SELECT job_id, COUNT(*) AS runs, COUNT(failed) AS failed,
            COUNT(CASE WHEN succeeded = 1 AND prior = 1 THEN 1 END) AS recovered
        FROM (SELECT job_id, CASE WHEN {failed} THEN 1 END AS failed,
                CASE WHEN status = 'Success' AND run.attempt = 0 THEN 1 END
                    AS succeeded,
                LAG(CASE WHEN {failed} THEN 1 END)
                    OVER (PARTITION BY job_id ORDER BY run.run_no) AS prior
            FROM job CROSS JOIN (%s) AS numbers
                JOIN run ON job_id = job.id AND run.run_no = job.run_no - ago
            WHERE job.id IN (:jobs) AND {ran}) AS each_run
        GROUP BY job_id) AS last ON last.job_id = job.id
    WHERE job.id IN (:jobs)''' % ' UNION ALL '.join(
    'SELECT %d AS ago' % ago for ago in range(20)
)


def first_failures(store, rows):
    """When each job that fails did so first, local times by id, as far as the history
    knows. rows: of STATUS_FACTS."""
    ones = [
        FIRST_FAILURE % (row.id, row.last_success, row.id)
        for row in rows
        if row.last_success is not None
    ]
    found = {}
    for some in parts_of(ones, 100):
        pairs = store.query(' UNION ALL '.join(some))
        found.update(pairs)
    return found


FIRST_FAILURE = '''SELECT * FROM (SELECT job_id, ended_at FROM run
    WHERE job_id = %d AND run_no > %d AND {failed}
    ORDER BY job_id, run_no LIMIT 1) AS run_%d'''


def hosts_there(store, now):
    """The hosts, with whether each starts jobs now: rows of name, tags, is_there,
    is_paused."""
    return store.query(
        '''SELECT name, tags,
        CASE WHEN last_seen >= :since THEN 1 ELSE 0 END AS is_there,
        EXISTS (SELECT 1 FROM pause WHERE target IN ('*', LOWER(host.name))
            AND until_utc > {utc}) AS is_paused FROM host''',
        since=text_of(store.zone.local(now) - SILENCE),
    )


def missing_for(job, hosts):
    """What a job that is due waits for, in words; None if a host could take it. hosts:
    those of hosts_there()."""
    able = []
    for host in hosts:
        if host.is_there and may_take(job, host.name, host.tags):
            able.append(host)
    for host in able:
        if job.run_requested or not host.is_paused:
            return None
    if able:
        return 'the end of a pause'
    if job.run_on is None:
        return 'a worker'
    names = [host.name.lower() for host in hosts]
    kind = 'host' if job.run_on in names else 'tag'
    return '%s %s' % (kind, job.run_on)


########################################################################################
# display: schedules and times in words, and tables for the terminal
########################################################################################


def when_text(store, when, now):
    """A UTC time in the database's zone, and how far away it is."""
    if when is None:
        return 'to be planned'
    if when == PARKED:
        return 'never'
    local = text_of(store.zone.local(when))
    return '%s, %s' % (local, how_far(when - now))


def pause_in_words(store, pause, now):
    """Until when hosts are paused, and by whom."""
    until = when_text(store, moment(pause.until_utc), now)
    return 'until %s, by %s' % (until, pause.paused_by)


def seen_in_words(store, host, now):
    """When a host was last seen, and how long ago that is."""
    seen = moment(host.last_seen)
    if seen is None:
        return 'never'
    silence = now - store.zone.utc_before(seen, now)
    return '%s, %s ago' % (host.last_seen, lasted(max(silence, 0 * SECOND)))


def described(store, jobs, now):
    """Rows of `job`, with what is said of them in words: state, status, schedule, and
    when it runs next."""
    statuses = statuses_of(store, jobs, now)
    rows = []
    for job in jobs:
        state, status = statuses[job.id]
        row = extended(
            job,
            state=state,
            status=status,
            in_words=describe(job),
            next_run=next_in_words(store, job, now),
        )
        rows.append(row)
    return rows


def next_in_words(store, job, now):
    if job.run_token is not None:
        return 'running'
    when = moment(job.next_run_utc)
    if when == PARKED and job.active and job.each_host:
        return 'on each host'
    if when == PARKED and job.active and job.after_job:
        return 'after job %s' % job.after_job
    return when_text(store, when, now)


def upcoming(job, after, zone):
    """The next times of a job after a UTC datetime, as pairs (local, UTC), until never;
    local is in the job's time zone. Each run is taken to start at its time. Raises
    BadSchedule."""
    while True:
        after = next_run(job, after, after, zone)
        if after == PARKED:
            return
        yield zone_of(job, zone).local(after), after
        start = text_of(zone.local(after))
        job = job._replace(last_start=start, claimed_start=start)


def lasted(period):
    """A timedelta in words: `3 h`."""
    return how_long(period.total_seconds())


def how_far(period):
    """How far away a time is, a timedelta, in words: `in 3 h`, or `now`."""
    if period <= 0 * SECOND:
        return 'now'
    return 'in ' + lasted(period)


def clock_text(local, today):
    """A local time, as text or not, to the minute: 23:34 on the day of another one, or
    yesterday 23:34."""
    text = str(local)
    for day, word in ((today, ''), (today - DAY, 'yesterday ')):
        date = '%s ' % day.date()
        if text.startswith(date):
            return word + text[11:16]
    return text[:16]


def describe(job):
    """A job's schedule, window and own time zone in words."""
    parts = (schedule_in_words(job), window_in_words(job), job.time_zone)
    return ', '.join(str(part) for part in parts if part)


def schedule_in_words(job):
    """When a job runs, without its window. What can't be parsed stays as it is."""
    if job.after_job:
        return 'after job %s' % job.after_job
    if job.schedule is None:
        return frequency_in_words(job.frequency)
    schedule = shown_schedule(job)
    fields = schedule.split()
    if is_once(schedule):
        return 'once, at ' + ' '.join(fields[1:])
    try:
        expression = parse(schedule)
    except BadSchedule:
        return schedule
    days = days_in_words(expression)
    clock = clock_in_words(expression.day_times)
    if clock is None:
        minute, hour, *_ = fields
        clock = 'at minute %s of hour %s' % (minute, hour)
    if days:
        return '%s, %s' % (days, clock)
    return 'at ' + clock if clock[0].isdigit() else clock


def shown_schedule(job):
    """A job's expression with the numbers for which H stands; a template has none."""
    schedule = str(job.schedule)
    return schedule if job.each_host else resolved(schedule, seed_of(job))


MONTHS = 'month Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec'.split()
WEEKDAYS = 'Sunday Monday Tuesday Wednesday Thursday Friday Saturday'.split()
NTH = {
    '#1': 'first',
    '#2': 'second',
    '#3': 'third',
    '#4': 'fourth',
    '#5': 'fifth',
    'l': 'last',
}


def days_in_words(expression):
    """The days of an expression in words; empty for every day."""
    either = expression.either_day
    month_days = spans(expression.month_days, range(1, 32), str)
    week_days = spans(
        expression.week_days,
        (1, 2, 3, 4, 5, 6, 0),
        lambda number: WEEKDAYS[number][:3],
    )
    months = spans(
        expression.months,
        range(1, 13),
        MONTHS.__getitem__,
    )
    if not either and month_days == ['1-31']:
        month_days = []
    if not either and week_days == ['Mon-Sun']:
        week_days = []
    if month_days:
        month_days[0] = 'day ' + month_days[0]
    month_days += map(special_day, words_among(expression.month_days))
    week_days += map(special_weekday, words_among(expression.week_days))
    parts = [', '.join(part) for part in (month_days, week_days) if part]
    days = (' or ' if either else ' and ').join(parts)
    if months != ['Jan-Dec']:
        days = '%s in %s' % (days or 'every day', ', '.join(months))
    return days


def spans(values, order, name):
    """The names of numbers, in order; three or more in a row as `first-last`."""
    found = []
    row = []
    for number in (*order, None):
        if number in values:
            row.append(name(number))
            continue
        if len(row) > 2:
            row = ['%s-%s' % (row[0], row[-1])]
        found += row
        row = []
    return found


def words_among(values):
    """Of the values of a field those that depend on the month."""
    return sorted(value for value in values if isinstance(value, str))


def special_day(word):
    """L, LW or 15W in words."""
    if word == 'l':
        return 'last day'
    if word == 'lw':
        return 'last working day'
    return 'working day nearest to day ' + word[:-1]


def special_weekday(word):
    """5L or 5#2 in words."""
    return '%s %s' % (NTH[word[1:]], WEEKDAYS[int(word[0])])


def frequency_in_words(minutes):
    if not isinstance(minutes, int):
        return str(minutes)  # SQLite takes any text as a number
    for size, unit in ((1440, 'day'), (60, 'hour'), (1, 'minute')):
        if minutes == size:
            return 'every ' + unit
        if minutes % size == 0:
            return 'every %d %ss' % (minutes // size, unit)


def clock_in_words(times):
    """Times since midnight in words; None for many that are not a step apart."""
    clocks = []
    for at in times:
        hour_and_minute = divmod(at // MINUTE, 60)
        clocks.append('%02d:%02d' % hour_and_minute)
    if len(clocks) < 5:
        return ', '.join(clocks)
    following = times[1:]
    steps = {later - at for at, later in zip(times, following)}
    step = steps.pop()
    if steps:
        return None
    words = frequency_in_words(step // MINUTE)
    if step * len(times) < DAY:
        return '%s %s-%s' % (words, clocks[0], clocks[-1])
    if clocks[0] != '00:00':
        words += ' from ' + clocks[0]
    return words


def window_in_words(job):
    """A job's daily window in words; empty without one."""
    if not job.start_anchor and not job.stop_anchor:
        return ''
    return '%.5s to %.5s' % (job.start_anchor or '00:00', job.stop_anchor or '24:00')


def print_rows(rows, as_json, *columns, whole=True, colours=None):
    """Print rows: as JSON, or as a table of columns (heading, function of a row), but
    those that are empty. whole: also where that is wider than the terminal. colours: of
    the STATUS on a terminal, by the state of a row."""
    if as_json:
        print(to_json([row._asdict() for row in rows], indent=1))
        return
    table = []
    for heading, text_in in columns:
        texts = [one_line(text_in(row)) for row in rows]
        if any(texts) or not rows:
            table.append([heading, *texts])
    widths = [max(map(len, texts)) for texts in table]
    if sys.stdout.isatty() and not whole:
        narrow(widths)
    table = [
        [cut(text, width).ljust(width) for text in texts]
        for texts, width in zip(table, widths)
    ]
    if sys.stdout.isatty() and colours and not os.environ.get('NO_COLOR'):
        paint(table, rows, colours)
    for texts in zip(*table):
        line = '  '.join(texts)
        print(line.rstrip())


def narrow(widths):
    """Have the columns of a table fit the terminal: the widest are cut."""
    from shutil import get_terminal_size

    most = get_terminal_size().columns - 2 * len(widths) + 2
    while sum(widths) > most and max(widths) > 8:
        widest = widths.index(max(widths))
        widths[widest] -= 1


def paint(table, rows, colours):
    """Give the STATUS in each row of a table its colour. See ECMA-48, SGR."""
    for texts in table:
        if texts[0].startswith('STATUS'):
            for number, row in enumerate(rows, 1):
                text = texts[number]
                if row.state in colours:
                    texts[number] = '\33[%dm%s\33[0m' % (colours[row.state], text)


def one_line(value):
    """A value as people may see it in one line; empty for None."""
    return '' if value is None else visible(words_of(str(value)))


def on_terminal(text):
    """A text as it is to be printed: as it is, but not onto a terminal."""
    return visible(text) if os.isatty(1) else text


def cut(text, most):
    """A text, cut to at most so many characters."""
    return text if len(text) <= most else text[: most - 1] + '…'


def cell(name):
    """A column of print_rows: a value of the row."""
    return name.upper().replace('_', ' '), lambda row: getattr(row, name)


########################################################################################
# setup: init: the first configuration, and the tables
########################################################################################

# As distributed_cron.yml.
FIRST_CONFIG = '''\
# Configuration of distributed cron. As it stands it needs no server: it uses one SQLite
# file, on one host. For several hosts, use MySQL, MariaDB or PostgreSQL.
#
# Every key is here, with what it allows. The value shown is its default, also where the
# key is commented out, unless it says `by default`. Paths are relative to this file.

db:
    engine: sqlite                 # sqlite, mysql (also for MariaDB) or postgresql;
                                   # by default mysql if there is a host or a database,
                                   # else sqlite
    path: distributed_cron.db      # for sqlite: the file, on a local disk

    # For several hosts, set engine to mysql or postgresql, and:
    # host: db.example.com         # host, host:port, [address]:port or /socket; or a
    #                              # list, in the order to try; by default localhost
    # database: distributed_cron   # its name
    # username: distributed_cron   # by default none
    # password: secret             # by default none
    # password_file: db.password   # instead of password: a file with it as its first
    #                              # line; by default none
    # tls: {ca: ca.pem}            # files: ca, which verifies the server, and cert and
    #                              # key for a client certificate; by default none
    # timeout: 2                   # seconds to wait for an answer, 1 to 60
    # connect_string: dbi:mysql:database=distributed_cron;host=db;mysql_read_timeout=2
    #                              # the Perl program's own key; the keys above win
    #                              # over it; by default none

log:
    # A folder for the worker's log, <host>.log, and each job's log, <job id>.log.
    location: log            # a folder beside this file, for this user alone
    max_bytes: 10000000      # a log of this size becomes FILE.1; at least 1000

# state:                     # where this host remembers its runs: a folder on a
#                            # local disk that survives a restart and that no other
#                            # machine uses
#     location: /var/lib/distributed_cron  # by default state-<host> in log.location

max_tasks: cpu_full          # runs at once on this host: 1 to 100000, or cpu_full (one
                             # for each CPU), cpu_half, cpu_quarter
poll_seconds: 1              # how often to ask the database: 0.1 to 60 seconds
# tags: [db, ssd]            # a list of words such as db, in lower case: a job can be
#                            # for the hosts that have one of them; by default none
kill_grace: 10               # seconds from SIGTERM to SIGKILL, 0 to 30

history:
    days: 30                 # how long to keep the record of a run, 1 to 36500 days,
    runs: 1000               # and how many runs to keep of each job, from 1;
    output_bytes: 16384      # how much to keep of what a run wrote, its end: 0 to 65535

# alert:                     # who is told what is wrong, and when it is well again. The
#                            # job named alert does so: `init` makes it, and only hosts
#                            # that have this run it, so give all of them the same
#     mail: [ops@example.com]  # a mail address, or a list of them; by default none
#     from: cron@example.com   # the sender; by default distributed_cron@<host>
#     smtp: mail.example.com:587  # host:port; by default sendmail takes the mail
#     smtp_username: cron      # by default none
#     smtp_password_file: smtp.password  # a file with the password as its first line;
#                              # by default none
#     smtp_tls: starttls       # starttls, tls or no
#     webhook: https://chat.example.com/hook  # a URL to POST JSON to, with the message
#                              # as `text`; by default none
#     command: /usr/local/bin/page  # a shell command that reads the same JSON on its
#                              # standard input; by default none
#     ping: https://watch.example.com/cron  # a URL to GET after each good pass, of a
#                              # service that misses it; by default none
#     late_minutes: 10         # a job is late once it is due for so long: 1 to 525600
#     remind_hours: 24         # what is still wrong is told again: 1 to 8760 hours
#     per_day: 50              # messages to each of them, 1 to 10000; the last says so

# sign:                      # only what somebody has signed runs here; see the README
#     required: no           # yes, no, or warn, which runs the rest too, and notes it
#     signers: signers       # a file with who may sign, in the form of ssh's
#                            # allowed_signers; yes and warn need it; by default none
#     revoked: revoked       # a file of keys that may sign no more, as `ssh-keygen -k`
#                            # makes it; by default none
#     cluster: production    # a word that is part of each signature, so that it holds
#                            # here alone; yes, warn and `sign` need it; by default none

# web:                       # the page, see web/README.md
#     readonly: no           # yes or no; yes: it changes nothing, whoever asks
#     editors: [alice, bob]  # a list of the logins that may change jobs; by default all
#     hosts: [cron.example.com]  # a list of the host names to which it answers;
#                            # by default all, under --serve those of its address

clear_old_on_start: yes      # yes or no; the Perl program's key, has no effect
'''


ALERT_JOB = {
    'name': ALERT,
    'description': 'Tells what is wrong; see alert in the configuration',
    'command': '# built in: distributed_cron.py alert',
    'schedule': '* * * * *',
    'max_run_time': 1,  # minutes: at most half a minute is spent on sending
}
ATTEMPTS = 30  # to change a table that others use, a second or two each


def write_first_config():
    """Write a commented configuration to the first place that allows it, but not among
    Python's packages. Returns the file. Raises BadConfig."""
    places = [
        file
        for file in config_places()
        if not re.search('/(site|dist)-packages/', file)
    ]
    for file in places:
        with suppress(OSError):
            if not os.path.isdir(os.path.dirname(file)):
                os.mkdir(os.path.dirname(file), 0o700)  # ~/.config
            text = FIRST_CONFIG
            if os.path.dirname(file) != HERE:  # other programs have files there
                text = text.replace('log           ', 'distributed_cron-log')
            with open(file, 'x', opener=no_link) as stream:
                stream.write(text)
            # Not into the SQL of --print.
            print('configuration written: %s' % file, file=sys.stderr)
            return file
    raise BadConfig('no configuration: %s: none can be written' % ', '.join(places))


def first_config(args):
    """The configuration for `init`: where there is none, one is written."""
    try:
        file = args.config or find_config()
    except BadConfig:
        file = write_first_config()
    return load_config(file, args.name)


@command(
    'init',
    switch(
        '--print',
        'print the SQL that makes the tables, and change nothing in the database',
    ),
    switch('--new-identity', 'give a copy of a database an identity of its own'),
    given=first_config,
)
def cmd_init(args, config):
    """create or upgrade the tables; keeps all data

    Workers may keep running meanwhile; it says who blocks it. If there is no
    configuration, it writes one, and says where.

    After you have copied a database, run it with --new-identity on one of the two, so
    that no host reports runs of the one to the other.
    """
    if args.print:
        print_schema(config)
        return
    store = Store(config)
    create_tables(store)
    add_alert_job(store)
    if args.new_identity:
        random = SCHEMAS[config.db_engine].words['random']
        store.change("UPDATE about SET value = %s WHERE name = 'identity'" % random)


def add_alert_job(store):
    """Make the job that tells of troubles, where that is configured."""
    if not store.config.alerts or store.query('SELECT 1 FROM job WHERE {is_alert}'):
        return
    try:
        save_job(store, None, ALERT_JOB)
    except BadJob as problem:
        print('note: no job tells of troubles: %s' % problem)


def print_schema(config):
    """Print the SQL that makes the tables, for the database's own client."""
    schema = SCHEMAS[config.db_engine]()
    statements = [*schema.database(config.db_database)]
    for table in TABLES:
        statements += ['\n' + table.about + '\n' + schema.create(table)]
        statements += schema.indexes(table)
    statements += [schema.identity()]
    about = '\n' + ABOUT_TRIGGERS + '\n'
    for name in schema.triggers:
        statements += [about + schema.drop_trigger % name, *schema.triggers[name]]
        about = ''
    statements += [schema.drop_trigger % name for name in OLD_TRIGGERS]
    for statement in statements:
        print(statement + ';')


def create_tables(store):
    """Make the tables, or add what they lack. Connects the store, and leaves it so."""
    schema = SCHEMAS[store.config.db_engine]()
    store.connection = store.dialect.connect(create=True)
    for statement in schema.database(store.config.db_database):
        execute_plain(store, schema, statement)
    for table in TABLES:
        execute_plain(store, schema, schema.create(table))
        for statement in schema.upgrade(store, table):
            execute_plain(store, schema, statement)
    execute_plain(store, schema, schema.identity())
    create_triggers(store, schema)
    store.close()
    store.connect()  # it looks at the tables
    print('tables ready')


def create_triggers(store, schema):
    """Make the triggers that are not there, and then drop those of older versions."""
    there = {row[0] for row in store.query(schema.trigger_names)}
    try:
        for name in set(schema.triggers) - there:
            for statement in schema.triggers[name]:
                execute_plain(store, schema, statement)
        for name in there.intersection(OLD_TRIGGERS):
            execute_plain(store, schema, schema.drop_trigger % name)
    except Problem as problem:
        print(
            'note: no triggers (%s); the workers apply the same rules, but after you '
            "change a job's schedule with SQL, set next_run_utc to NULL"
            % line_of(problem)
        )


def execute_plain(store, schema, statement):
    """Execute SQL without placeholders and pieces. It leaves out comments: SQLite
    keeps the text of CREATE TABLE, and its DROP COLUMN stumbles over commas in them.
    A change of a table waits until all transactions that use it are over, and whoever
    comes later waits behind it: so it waits briefly, and tries again."""
    statement = re.sub('(?m)^ *--.*\n', '', statement)
    statements = [statement]
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with store.translated_errors():
                for text in statements:
                    store.connection.cursor().execute(text)
            return
        except Again as problem:
            blockers = ['another program']
            with suppress(Problem):  # the account may not see them
                blockers = [row[0] for row in store.query(schema.blockers)] or blockers
            text = '%s; blocked by %s' % (problem, '; '.join(blockers))
            if attempt == ATTEMPTS:
                raise Problem(text) from None
            print('waiting: ' + text, file=sys.stderr, flush=True)
            time.sleep(1)
            statements = schema.again(statement)


########################################################################################
# schema: the SQL that makes the tables, for each database
########################################################################################


class Schema:
    """The SQL that makes the tables, and that adds what older tables lack."""

    words = {}  # for TABLES and RULES: those of the Dialect, and types
    options = ''  # of each table
    triggers = {}  # by name, the statements that make it, with RULES by name
    trigger_names = ''  # the query for the names of those that are there
    drop_trigger = 'DROP TRIGGER IF EXISTS %s'
    # the query for who keeps a table from being changed, in words
    blockers = "SELECT 'another process'"

    def __init__(self):
        unchanged = ['NEW.%s {same} OLD.%s' % (name, name) for name in PLANNED_FROM]
        words = {
            **self.words,
            'unchanged': '\n         AND '.join(unchanged).format(**self.words),
            'planned_from': ', '.join(PLANNED_FROM),
        }
        for column, rule in RULES.items():
            words[column] = rule.format(**words)
        self.triggers = {
            name: [text.format(**words) for text in statements]
            for name, statements in self.triggers.items()
        }

    def database(self, name):
        """The statements that make the database and enter it."""
        return []

    def again(self, statement):
        """The statements with which one that waited for too long is tried again."""
        return [statement]

    def create(self, table):
        """The statement that makes a table where there is none."""
        return 'CREATE TABLE IF NOT EXISTS %s (\n    %s\n)%s' % (
            table.name,
            self.body(table).replace('\n', '\n    '),
            self.options,
        )

    def body(self, table):
        """What stands between the parentheses of CREATE TABLE."""
        return table.columns.strip().format(**self.words)

    def indexes(self, table, how='IF NOT EXISTS'):
        """The statements that make a table's indexes where there are none."""
        name = r'INDEX %s \1 ON %s' % (how, table.name)
        return [
            'CREATE ' + re.sub(r'INDEX (\w+)', name, line) for line in table.indexes
        ]

    def identity(self):
        """The statement that gives the database an identity if it has none."""
        return (
            "INSERT INTO about (name, value) SELECT 'identity', %s\n"
            "FROM (SELECT COUNT(*) AS found FROM about WHERE name = 'identity') AS n\n"
            'WHERE found = 0' % self.words['random']
        )

    def columns(self, table):
        """{name: definition} of what ALTER TABLE adds; the primary key is PRIMARY."""
        lines = table.columns.strip().format(**self.words).split('\n')
        return {
            line.split()[0]: line.rstrip(',')
            for line in lines
            if not line.startswith('--')
        }

    def missing(self, store, table):
        """The definitions of the columns that a table lacks."""
        cursor = store.execute('SELECT * FROM %s WHERE 1 = 0' % table.name)
        there = ['PRIMARY', *[column[0] for column in cursor.description]]
        columns = self.columns(table)
        return [columns[name] for name in columns if name not in there]

    def upgrade(self, store, table):
        """The statements that add what a table lacks. None keeps workers waiting."""
        missing = [
            'ALTER TABLE %s ADD COLUMN %s' % (table.name, definition)
            for definition in self.missing(store, table)
        ]
        return missing + self.indexes(table)


def names_of_indexes(table):
    return [re.search(r'INDEX (\w+)', line)[1] for line in table.indexes]


class SQLiteSchema(Schema):
    """A trigger can't change the new row: it updates the row that was written, where
    that is needed. So none calls itself, also where recursive_triggers are on."""

    words = {
        **SQLite.words,
        'id': 'INTEGER PRIMARY KEY AUTOINCREMENT',
        'flag': 'TINYINT(1)',
        'count': 'INT UNSIGNED',
        'clock': 'TIME',
        'moment': 'DATETIME',
        'exact': 'DATETIME(6)',
        'long_text': 'MEDIUMTEXT',
        'binary': '',
        'random': 'lower(hex(randomblob(16)))',
    }
    trigger_names = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    triggers = {
        'job_changes_3': [
            '''CREATE TRIGGER job_changes_3 AFTER UPDATE
OF {planned_from} ON job
WHEN NOT ({unchanged})
BEGIN UPDATE job SET
    next_run_utc = NULL,
    start_before_utc = NULL,
    changed_utc = {utc_exact},
    after_run = {after_run}
    WHERE id = NEW.id; END'''
        ],
        'job_plans_2': [
            '''CREATE TRIGGER job_plans_2 AFTER UPDATE OF next_run_utc ON job
WHEN NEW.next_run_utc IS NULL AND OLD.next_run_utc IS NOT NULL
BEGIN UPDATE job SET
    start_before_utc = NULL,
    changed_utc = {utc_exact}
    WHERE id = NEW.id; END'''
        ],
        'job_limits_2': [
            '''CREATE TRIGGER job_limits_2 AFTER UPDATE
OF max_run_time, frequency, schedule, after_job ON job
WHEN NEW.frequency < 1 OR NEW.max_run_time IS NOT {max_run_time}
BEGIN UPDATE job SET
    max_run_time = {max_run_time},
    frequency = {frequency}
    WHERE id = NEW.id; END'''
        ],
        'job_checks_2': [
            '''CREATE TRIGGER job_checks_2 AFTER INSERT ON job
BEGIN UPDATE job SET
    changed_utc = {added_utc},
    max_run_time = {max_run_time},
    frequency = {frequency}
    WHERE id = NEW.id; END'''
        ],
    }


class MySQLSchema(Schema):
    """MySQL has no CREATE INDEX IF NOT EXISTS: indexes are a part of CREATE TABLE."""

    words = {
        **MySQL.words,
        'id': 'INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY',
        'flag': 'TINYINT(1)',
        'count': 'INT UNSIGNED',
        'clock': 'TIME',
        'moment': 'DATETIME',
        'exact': 'DATETIME(6)',
        'long_text': 'MEDIUMTEXT',
        'binary': ' COLLATE utf8mb4_bin',
        'random': "REPLACE(UUID(), '-', '')",
    }
    options = ' ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4'
    trigger_names = '''SELECT trigger_name FROM information_schema.triggers
        WHERE trigger_schema = DATABASE()'''
    blockers = '''SELECT CONCAT('connection ', id, ' of ', user, '@', host,
        ', in a transaction since ', trx_started)
        FROM information_schema.innodb_trx
        JOIN information_schema.processlist ON id = trx_mysql_thread_id
        WHERE id <> CONNECTION_ID() ORDER BY trx_started LIMIT 3'''
    triggers = {  # the order counts: each assignment is seen by the next
        'job_changes_3': [
            '''CREATE TRIGGER job_changes_3 BEFORE UPDATE ON job FOR EACH ROW SET
    NEW.changed_utc = {changed_utc},
    NEW.next_run_utc = {next_run_utc},
    NEW.start_before_utc = {start_before_utc},
    NEW.after_run = {after_run},
    NEW.max_run_time = {max_run_time},
    NEW.frequency = {frequency}'''
        ],
        'job_checks_2': [
            '''CREATE TRIGGER job_checks_2 BEFORE INSERT ON job FOR EACH ROW SET
    NEW.changed_utc = {added_utc},
    NEW.max_run_time = {max_run_time},
    NEW.frequency = {frequency}'''
        ],
    }

    def database(self, name):
        quoted = '`%s`' % name.replace('`', '``')
        return [
            'CREATE DATABASE IF NOT EXISTS %s DEFAULT CHARACTER SET utf8mb4' % quoted,
            'USE ' + quoted,
        ]

    def body(self, table):
        return ',\n'.join([super().body(table), *table.indexes])

    def indexes(self, table):
        return []

    def upgrade(self, store, table):
        """One ALTER TABLE, while workers write. A table of the Perl program is copied
        to InnoDB and utf8mb4, with texts as wide as they are now."""
        columns = self.columns(table)
        indexes = zip(names_of_indexes(table), table.indexes)
        wanted = {**columns, **dict(indexes)}
        there = {row[0] for row in store.query('SHOW COLUMNS FROM ' + table.name)}
        there |= {row[2] for row in store.query('SHOW INDEX FROM ' + table.name)}
        changes = ['ADD ' + wanted[name] for name in wanted if name not in there]
        unsafe = table.name in dict(store.dialect.unsafe_tables(store))
        if unsafe or (table.name == 'job' and 'run_no' not in there):
            changes += ['ENGINE=InnoDB', 'CONVERT TO CHARACTER SET utf8mb4']
            changes += [
                'MODIFY ' + definition
                for name, definition in columns.items()
                if name in there and 'VARCHAR' in definition and 'KEY' not in definition
            ]
        elif changes:
            changes += ['ALGORITHM=INPLACE', 'LOCK=NONE']
        if not changes:
            return []
        return ['ALTER TABLE %s %s' % (table.name, ', '.join(changes))]


class PostgreSQLSchema(Schema):
    """A trigger calls a function."""

    words = {
        **PostgreSQL.words,
        'id': 'BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY',
        'flag': 'SMALLINT',
        'count': 'BIGINT',
        'clock': 'TIME(0)',
        'moment': 'TIMESTAMP(0)',
        'exact': 'TIMESTAMP(6)',
        'long_text': 'TEXT',
        'binary': '',
        'utc_exact': "statement_timestamp() AT TIME ZONE 'UTC'",  # a time, not its text
        'random': "replace(CAST(gen_random_uuid() AS text), '-', '')",
    }
    drop_trigger = 'DROP TRIGGER IF EXISTS %s ON job'
    trigger_names = '''SELECT tgname FROM pg_trigger
        WHERE tgrelid = CAST('job' AS regclass) AND NOT tgisinternal'''
    blockers = '''SELECT 'connection ' || pid || ' of ' || usename
        || ', in a transaction since ' || xact_start FROM pg_stat_activity
        WHERE pid <> pg_backend_pid() AND datname = current_database()
        AND xact_start IS NOT NULL
        ORDER BY xact_start LIMIT 3'''
    triggers = {
        'job_changes_3': [
            '''CREATE OR REPLACE FUNCTION job_changes_3()
RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_utc = {changed_utc};
    NEW.next_run_utc = {next_run_utc};
    NEW.start_before_utc = {start_before_utc};
    NEW.after_run = {after_run};
    NEW.max_run_time = {max_run_time};
    NEW.frequency = {frequency};
    RETURN NEW;
END $$''',
            '''CREATE TRIGGER job_changes_3 BEFORE UPDATE ON job
FOR EACH ROW EXECUTE FUNCTION job_changes_3()''',
        ],
        'job_checks_2': [
            '''CREATE OR REPLACE FUNCTION job_checks_2()
RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_utc = {added_utc};
    NEW.max_run_time = {max_run_time};
    NEW.frequency = {frequency};
    RETURN NEW;
END $$''',
            '''CREATE TRIGGER job_checks_2 BEFORE INSERT ON job
FOR EACH ROW EXECUTE FUNCTION job_checks_2()''',
        ],
    }

    def upgrade(self, store, table):
        """An index is made while workers write. One whose making was broken off stays
        behind, is no use, and goes first."""
        broken = store.query(
            '''SELECT CAST(indexrelid AS regclass) FROM pg_index
            WHERE NOT indisvalid AND indrelid = CAST(:name AS regclass)''',
            name=table.name,
        )
        missing = ['ADD COLUMN ' + column for column in self.missing(store, table)]
        ours = names_of_indexes(table)
        statements = ['DROP INDEX %s' % row[0] for row in broken if row[0] in ours]
        if missing:
            statements.append('ALTER TABLE %s %s' % (table.name, ', '.join(missing)))
        return statements + self.indexes(table, 'CONCURRENTLY IF NOT EXISTS')

    def again(self, statement):
        """An index whose making was broken off stays behind, as above."""
        index = re.match(r'CREATE .*INDEX CONCURRENTLY IF NOT EXISTS (\w+)', statement)
        drop = ['DROP INDEX CONCURRENTLY IF EXISTS ' + index[1]] if index else []
        return [*drop, statement]


SCHEMAS = {
    'sqlite': SQLiteSchema,
    'mysql': MySQLSchema,
    'postgresql': PostgreSQLSchema,
}


########################################################################################
# tables: their columns and indexes, and what the triggers set
########################################################################################

Table = namedtuple('Table', 'name about columns indexes', defaults=[()])

# One column, or index, a line. {id}, {flag}, … are types that each database names in
# its own way; all else is the same SQL on all three. A new column goes to the end of
# its table, NULL or 0 by default: `init` adds each column and index that a table lacks.
TABLES = (
    Table(
        name='job',
        about='''-- A job: a command with a schedule. The first twelve columns are those
-- of the Perl program, in order. Times not named _utc are local to the database.''',
        columns='''
id               {id},
description      VARCHAR(255) NOT NULL DEFAULT 'Yet another cron',
command          VARCHAR(12000) NOT NULL DEFAULT 'echo "I forgot to put in a command."',
active           {flag} NOT NULL DEFAULT 1,
start_anchor     {clock} NULL DEFAULT NULL,
stop_anchor      {clock} NULL DEFAULT NULL,
frequency        {count} NOT NULL DEFAULT 60,
max_run_time     {count} NOT NULL DEFAULT 1,
last_start       {moment} NULL DEFAULT NULL,
last_end         {moment} NULL DEFAULT NULL,
last_status      VARCHAR(255) NOT NULL DEFAULT 'Never ran.',
last_worker      VARCHAR(255) NOT NULL DEFAULT 'Never ran.',
-- a cron expression; when set, frequency is not used
schedule         VARCHAR(255) NULL DEFAULT NULL,
-- when it is due; NULL: to be planned; 9999-12-31: parked
next_run_utc     {moment} NULL DEFAULT NULL,
-- counts the job's runs and skips; the fencing number of a run
run_no           BIGINT NOT NULL DEFAULT 0,
-- the claim that holds it; NULL: not running
run_token        VARCHAR(32) NULL DEFAULT NULL,
-- when the run is dead for certain
run_deadline_utc {moment} NULL DEFAULT NULL,
-- the last_start that this program wrote; a Perl worker does not set it
claimed_start    {moment} NULL DEFAULT NULL,
-- 1: run now, whatever active, window, schedule and pauses say
run_requested    {flag} NOT NULL DEFAULT 0,
-- the run_no that is to be stopped
stop_requested   BIGINT NULL DEFAULT NULL,
-- Since version 2.0:
-- until when the planned start is allowed; NULL: without a limit
start_before_utc {moment} NULL DEFAULT NULL,
-- 1: the run in progress was asked for by run-now
run_was_requested {flag} NOT NULL DEFAULT 0,
-- while next_run_utc is NULL: since when, set by the triggers
changed_utc      {exact} NULL DEFAULT NULL,
-- a name that commands take instead of the id
name             VARCHAR(64){binary} NULL DEFAULT NULL,
-- a host's name, or a tag of hosts: only they run it; NULL: all hosts
run_on           VARCHAR(191){binary} NULL DEFAULT NULL,
-- 1: a template; each host that run_on allows has a row of its own, with this parent_id
each_host        {flag} NOT NULL DEFAULT 0,
parent_id        {count} NULL DEFAULT NULL,
-- of schedule and window, an IANA name; NULL: the database's
time_zone        VARCHAR(64) NULL DEFAULT NULL,
-- minutes after its time in which a run may start; NULL: without a limit
start_within     {count} NULL DEFAULT NULL,
-- how often a failed run is tried again, after how many seconds, and which try this is
retries          {count} NOT NULL DEFAULT 0,
retry_delay      {count} NULL DEFAULT NULL,
attempt          {count} NOT NULL DEFAULT 0,
-- the job after whose success it runs, and the run_no of that job that it has run after
after_job        {count} NULL DEFAULT NULL,
after_run        BIGINT NULL DEFAULT NULL,
-- the run_no of a success that the jobs with this after_job are yet to be told of
followers_due    BIGINT NULL DEFAULT NULL,
-- failures in a row
failures         {count} NOT NULL DEFAULT 0,
-- no start between these times; who paused it, and why
paused_from_utc  {moment} NULL DEFAULT NULL,
paused_until_utc {moment} NULL DEFAULT NULL,
paused_by        VARCHAR(255) NULL DEFAULT NULL,
-- after how many failures in a row to tell somebody, 0: never; whom, by mail
alert_after      {count} NULL DEFAULT NULL,
alert_to         VARCHAR(255) NULL DEFAULT NULL,
-- of a signed job: when it was signed, by whom and how, and until when that holds
rev              BIGINT NOT NULL DEFAULT 0,
signature        TEXT NULL,
not_after        {moment} NULL DEFAULT NULL,
-- the owner of the file from which `apply` made it
applied_by       VARCHAR(255) NULL DEFAULT NULL
''',
        indexes=[
            'INDEX job_due (run_token, next_run_utc)',
            'INDEX job_deadline (run_deadline_utc)',
            'INDEX job_here (run_on, run_token, next_run_utc)',
            'INDEX job_late (run_token, start_before_utc)',
            'INDEX job_after (after_job)',
            'INDEX job_each (each_host)',
            'INDEX job_followers (followers_due)',
            'INDEX job_failures (failures)',
            'UNIQUE INDEX job_name (name)',
            'UNIQUE INDEX job_parent (parent_id, run_on)',
        ],
    ),
    Table(
        name='run',
        about='-- The history: a row for each run, and for each gap that was skipped.',
        columns='''
job_id           {count} NOT NULL,
run_no           BIGINT NOT NULL,
due_utc          {moment} NULL DEFAULT NULL,
started_at       {moment} NULL DEFAULT NULL,
ended_at         {moment} NULL DEFAULT NULL,
duration_ms      BIGINT NULL DEFAULT NULL,
worker           VARCHAR(255) NOT NULL DEFAULT '',
status           VARCHAR(255) NOT NULL DEFAULT '',
exit_code        INT NULL DEFAULT NULL,
-- the last of what the command wrote: history.output_bytes
output           TEXT NULL,
-- Since version 2.0:
-- what it took of the processor, and at most of the memory, if more than its runner
cpu_ms           BIGINT NULL DEFAULT NULL,
max_rss_kb       BIGINT NULL DEFAULT NULL,
-- which try it was
attempt          {count} NOT NULL DEFAULT 0,
-- why it was late, and what was passed over
note             VARCHAR(255) NULL DEFAULT NULL,
PRIMARY KEY      (job_id, run_no)
''',
        indexes=['INDEX run_ended (ended_at)'],
    ),
    Table(
        name='host',
        about='-- Which hosts there are. For people: nothing is decided by it.',
        columns='''
name             VARCHAR(191) NOT NULL PRIMARY KEY,
last_seen        {moment} NULL DEFAULT NULL,
worker           VARCHAR(255) NOT NULL DEFAULT '',
version          VARCHAR(32) NOT NULL DEFAULT '',
max_tasks        INT NOT NULL DEFAULT 0,
running          INT NOT NULL DEFAULT 0,
skew_ms          BIGINT NOT NULL DEFAULT 0,
-- Since version 2.0:
-- words that run_on of a job can name
tags             VARCHAR(255) NULL DEFAULT NULL,
-- the last time for which nothing was seen of it; from NULL: before it was new
gap_from         {moment} NULL DEFAULT NULL,
gap_until        {moment} NULL DEFAULT NULL,
-- since when it has these tags
tags_since       {moment} NULL DEFAULT NULL
''',
    ),
    Table(
        name='about',
        about='-- Facts on this database. identity: what tells it from others.',
        columns='''
name             VARCHAR(64) NOT NULL PRIMARY KEY,
value            VARCHAR(255) NOT NULL DEFAULT ''
''',
    ),
    Table(
        name='pause',
        about='-- Which hosts start no jobs for a while; *: all. Who says so, and why.',
        columns='''
target           VARCHAR(191) NOT NULL PRIMARY KEY,
from_utc         {moment} NULL DEFAULT NULL,
until_utc        {moment} NULL DEFAULT NULL,
paused_by        VARCHAR(255) NOT NULL DEFAULT ''
''',
    ),
    Table(
        name='live',
        about='-- Runs in progress whose output somebody watches, and the last of it.',
        columns='''
job_id           {count} NOT NULL,
run_no           BIGINT NOT NULL,
watched_until_utc {moment} NULL DEFAULT NULL,
output           {long_text} NULL,
PRIMARY KEY      (job_id, run_no)
''',
        indexes=['INDEX live_watched (watched_until_utc)'],
    ),
    Table(
        name='trouble',
        about='-- What is wrong, since when, and when that was told.',
        columns='''
kind             VARCHAR(32) NOT NULL,
subject          VARCHAR(191) NOT NULL,
since_utc        {moment} NOT NULL,
-- NULL: it goes on
ended_utc        {moment} NULL DEFAULT NULL,
-- of a job that fails: failures in a row
times            {count} NOT NULL DEFAULT 0,
text             VARCHAR(255) NOT NULL DEFAULT '',
-- where its job's alerts go
alert_to         VARCHAR(255) NULL DEFAULT NULL,
told_mail_utc    {moment} NULL DEFAULT NULL,
told_webhook_utc {moment} NULL DEFAULT NULL,
told_command_utc {moment} NULL DEFAULT NULL,
PRIMARY KEY      (kind, subject, since_utc)
''',
    ),
)
RULES = {  # what the triggers set in the new row
    'changed_utc': '''CASE
        WHEN NOT ({unchanged}) THEN {utc_exact}
        WHEN NEW.next_run_utc IS NOT NULL THEN NULL
        WHEN OLD.next_run_utc IS NULL THEN NEW.changed_utc
        ELSE {utc_exact} END''',
    'next_run_utc': '''CASE
        WHEN NEW.changed_utc IS NULL THEN NEW.next_run_utc ELSE NULL END''',
    'start_before_utc': '''CASE
        WHEN NEW.next_run_utc IS NULL THEN NULL ELSE NEW.start_before_utc END''',
    'after_run': '''CASE
        WHEN NEW.after_job {same} OLD.after_job THEN NEW.after_run ELSE NULL END''',
    'added_utc': '''CASE
        WHEN NEW.next_run_utc IS NULL THEN {utc_exact} ELSE NULL END''',
    'max_run_time': '''CASE
        WHEN NEW.schedule IS NOT NULL OR NEW.after_job IS NOT NULL
            THEN {greatest}(NEW.max_run_time, 1)
        WHEN NEW.max_run_time < 1 OR NEW.max_run_time >= {greatest}(NEW.frequency, 1)
            THEN {greatest}(NEW.frequency >> 1, 1)
        ELSE NEW.max_run_time END''',
    'frequency': '{greatest}(NEW.frequency, 1)',
}
ABOUT_TRIGGERS = '''-- Rules on rows. They come last, because an account may lack the
-- right to create triggers. The workers apply the same rules in any case; but without
-- triggers, set next_run_utc to NULL yourself after you change a schedule with SQL.
-- Each new version of a trigger gets a new number.'''
# Of older versions and of the Perl program; the new ones are there before these go.
OLD_TRIGGERS = ('job_changes', 'job_changes_2', 'job_checks')


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
        options = pass_options(arguments)
        if options:
            gc.disable()  # until the worker loops: imports leave little garbage
            return work(given_config(options))
        args = parser().parse_args(arguments)
        chosen = COMMANDS[args.action]
        return chosen.function(args, chosen.given(args))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # `… list | head` is no mistake
        return 0
    except (Problem, OSError, UnicodeError) as problem:
        print('distributed_cron: %s' % line_of(problem), file=sys.stderr)
        return getattr(problem, 'exit_status', 2)
    except KeyboardInterrupt:
        return 130


def pass_options(arguments):
    """The options of a crontab line, if they are --config FILE and --name HOST. None
    for anything else: to import argparse costs a tenth of the CPU time of a pass."""
    given = arguments[1::2]
    values = {'--config': None, '--name': None}
    values.update(zip(arguments[::2], given))
    is_plain = len(arguments) % 2 == 0 and len(values) == 2
    if not is_plain or any(value.startswith('-') for value in given):
        return None
    return SimpleNamespace(config=values['--config'], name=values['--name'])


def parser():
    """The command line's grammar: what has been registered as a command."""
    import argparse
    from textwrap import dedent

    class Parser(argparse.ArgumentParser):
        error = usage_error

    summary, _, behaviour, examples, _ = __doc__.split('\n\n')
    top = Parser(
        prog=command_line(),
        description=summary
        + '\n\nWithout a command: run what is due and exit (the crontab line).',
        epilog=behaviour + '\n\n' + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = 'distributed_cron ' + VERSION
    top.add_argument(
        '--version', action='version', version=version, help='print the version'
    )
    add_options(top, EVERYWHERE)
    commands = top.add_subparsers(title='commands', metavar='COMMAND', dest='action')
    for name, registered in COMMANDS.items():
        summary, _, more = registered.help.partition('\n\n')
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=dedent(more),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=name != 'add',  # what follows belongs to the job's command
        )
        add_options(sub, registered.options)
        own = {option.flag for option in registered.options}
        common = [option for option in EVERYWHERE if option.flag not in own]
        add_options(sub, common, default=argparse.SUPPRESS)
    top.set_defaults(action='run', forever=False)
    return top


def usage_error(parser, message):
    """What argparse calls for bad usage. Raises BadConfig."""
    message = message.removeprefix('argument ')
    wrong = re.match("COMMAND: invalid choice: ['\"](.*?)['\"]", message)
    if wrong:
        message = str(unknown('command', wrong[1], COMMANDS))
    raise BadConfig('%s; see: %s --help' % (message, parser.prog))


def add_options(parser, options, **more):
    """Give a parser these options; more: keywords for each."""
    group = None
    for option in options:
        to = parser
        if option.flag in ALTERNATIVES:
            group = group or parser.add_mutually_exclusive_group()
            to = group
        to.add_argument(*option.flag.split(), **option.keywords, **more)


# Of those of them that a command has, only one may be given.
ALTERNATIVES = '--every', '--schedule', '--at', '--after', '--for', '--until'
EVERYWHERE = (  # before the command or after it
    argument(
        '--config',
        'the configuration; default: $DISTRIBUTED_CRON_CONFIG, or '
        'distributed_cron.yml beside the script, in ~/.config or in /etc',
        metavar='FILE',
    ),
    argument('--name', 'the name of this host; default: its own', metavar='HOST'),
)


ADDED_WITH = {  # what `add` writes for what is not given, unless it is the default
    'description': 'the command',
    'active': 'enabled',
    'frequency': 'none; this, --schedule, --at or --after is needed',
    'schedule': 'none',
    'max_run_time': 'half of --every, or 60 with --schedule',
    'start_anchor': 'midnight',
    'stop_anchor': 'midnight',
}
JOB_OPTIONS = {
    column.name: Option(
        column.option,
        {
            'dest': 'job_' + column.name,  # --name is also that of the host
            'help': column.label[:1].lower() + column.label[1:],
            **column.type.keywords,
        },
    )
    for column in COLUMNS
}


def with_default(column):
    """The option of a column for `add`, whose help says the default."""
    flag, keywords = JOB_OPTIONS[column.name]
    default = ADDED_WITH.get(column.name, column.default)
    if default is None:
        default = 'none'
    text = '%s; default: %s' % (keywords['help'], default)
    return Option(flag, {**keywords, 'help': text})


@command(
    'run',
    switch('--forever', 'keep running, until SIGTERM'),
    given=given_config,
)
def cmd_run(args, config):
    """run what is due, until nothing is

    At SIGTERM or SIGINT, it starts nothing more, and exits when the running jobs have
    ended. At a second one, it exits at once; the jobs keep running, and the host's next
    worker reports them.

    At SIGHUP, it reads the configuration again (state.location only at a restart); if
    something in it is wrong, it says so and keeps the old one. Restart it after an
    update of tzdata.
    """
    return work(config, args.forever)


@command(
    'add',
    *[with_default(column) for column in COLUMNS if column.name != 'command'],
    AT,
    FORCE,
    argument(
        'job_command',
        'the rest of the line; /bin/sh runs it',
        nargs='A...',  # argparse.PARSER
        metavar='COMMAND',
    ),
)
def cmd_add(args, store):
    """add a job

    An expression has five fields, with *, lists, ranges, steps and names, or is one of
    @yearly, @monthly, @weekly, @daily and @hourly. If neither day field begins with *,
    a day that matches one of them is enough; otherwise it must match both. There are
    also:
      L, LW, 15W  in day of month: the last day, the last working day, the working day
                  nearest to the 15th
      5L, 5#2     in day of week: the last Friday, the second Friday
      H           a number that the job's id fixes; as day of month 1 to 28
      H/15        every 15 minutes from such a start
      H(9-16)     such a number from 9 to 16; 9~16 is the same, as in cronie
    `list --wide`, `show` and `next` show the numbers for which H stands.

    Examples
      %(prog)s --schedule '30 2 * * mon-fri' --max-run-time 120 backup --all
    """
    words = args.job_command
    if words[0] == '--':  # which some versions of argparse leave there
        words.pop(0)
    args.job_command = ' '.join(words)
    values = given_values(args)
    if not values.keys() & {'frequency', 'schedule', 'after_job'}:
        raise BadConfig(
            'add: no --every, --schedule, --at or --after before the command; for '
            'example: %s add --every 60 COMMAND' % command_line()
        )
    description = words_of(args.job_command)[:255]
    save(store, None, {'description': description, **values}, args.force)


@command('edit', *JOB_OPTIONS.values(), AT, FORCE, JOB)
def cmd_edit(args, store):
    """change a job

    --on '', --start '' and the like remove what was set; so does --start-within 0.
    `add --help` says what an expression can have.
    """
    values = given_values(args)
    if not values:
        raise BadConfig(
            'edit %s: nothing to change; see: %s edit --help'
            % (args.id, command_line())
        )
    save(store, args.id, values, args.force)


def given_values(args):
    """The columns that were given as options."""
    values = {
        name.removeprefix('job_'): value
        for name, value in vars(args).items()
        if name.startswith('job_') and value is not None
    }
    if 'frequency' in values:
        values['schedule'] = None
    for name, value in values.items():
        if value == '' and COLUMNS_BY_NAME[name].default is None:
            values[name] = None  # --start '' removes it
    return values


def save(store, id, values, force):
    """Save columns of a job, and report the next run."""
    before = None
    if id is not None:
        before = job_of(store, id)
        refuse_children([before])
        id = before.id
    try:
        id, when = save_job(store, id, values, force)
    except BadJob as problem:
        options = {column.name: column.option for column in COLUMNS}
        raise BadJob(problem.wrong, options) from None
    now = store.now()
    text = when_text(store, when, now)
    if when == PARKED:
        text = next_in_words(store, job_of(store, id), now)
    print('job %d, next run %s' % (id, text))
    if values.get('run_on') and not hosts_with(store, values['run_on']):
        print('note: no host has the name or the tag %s yet' % values['run_on'])
    if before and 'max_run_time' not in values:
        tell_run_time(before, job_of(store, id))
    tell_unsigned(store, before, id)


def hosts_with(store, word):
    """The names of the hosts that have a name or a tag."""
    return [
        host.name
        for host in store.query('SELECT name, tags FROM host ORDER BY name')
        if word in words_of_host(host.name, host.tags)
    ]


def tell_run_time(before, job):
    """Say that an edit made max_run_time shorter, or that it stays as short as it was
    for a frequency."""
    was = before.max_run_time
    shorter = job.max_run_time < was
    new_schedule = before.schedule is None and job.schedule is not None
    if shorter or (new_schedule and was < default_run_time(job)):
        print(
            'a run is killed after %d minutes%s; to change it: %s edit %d '
            '--max-run-time MINUTES'
            % (
                job.max_run_time,
                ', before: %d' % was if shorter else ', as before',
                command_line(),
                job.id,
            )
        )


def cmd_act(args, store):
    """Do one of ACTIONS to some jobs; to none, if one of them does not exist."""
    jobs = [job_of(store, job) for job in args.id]
    if args.action in ('enable', 'disable'):
        refuse_children(jobs)
    # As they are before it: a worker may be as fast.
    members = [member for job in jobs for member in family_of(store, job.id)]
    for job in jobs:
        text = 'is not running'
        if args.action == 'run-now':
            text = 'is on no host yet'
        if act(store, args.action, job.id):
            text = ACTIONS[args.action].done
        if args.action == 'remove' and job.run_token is not None:
            text += '; its run goes on, with worker %s' % job.last_worker
        if args.action == 'run-now' and job.run_token is not None:
            host = host_of(job.last_worker)
            text = 'will run once more when its run on %s has ended' % host
        print(visible('job %d: %s' % (job.id, text)), flush=True)
    if args.action == 'run-now' and args.wait:
        return wait_for_runs(store, [job for job in members if not job.each_host])


def wait_for_runs(store, jobs):
    """Wait for the end of the next run of each job, as its row was before it was asked
    for, and print what came of it. Returns the exit status."""
    status = int(not jobs)
    for job in jobs:
        run = run_after(store, job)
        print(on_terminal(run.output or ''), end='')
        print(visible('job %d: %s, with worker %s' % (job.id, run.status, run.worker)))
        if run.status != 'Success':
            status = 1
    return status


def run_after(store, job):
    """The next run of a job in the history, once it has ended. Raises Problem if the
    job is removed."""
    while True:
        for run in store.query(
            '''SELECT * FROM run WHERE job_id = :id AND run_no > :run_no
            AND {ran} ORDER BY run_no LIMIT 1''',
            id=job.id,
            run_no=job.run_no,
        ):
            return run
        job_of(store, job.id)
        time.sleep(0.5)


WAIT = switch('--wait', 'wait for the end, and print the result; exit 1 if it failed')
for name, action in ACTIONS.items():
    more = [WAIT] if name == 'run-now' else []
    command(name, *more, JOBS, summary=action.help)(cmd_act)


########################################################################################
# lists: jobs, runs and hosts at a glance, for people and programs
########################################################################################


WIDE = switch('--wide', 'print all columns, and whole texts')
REST = (
    cell('run_on'),
    ('SCHEDULE', describe),
    cell('last_status'),
    cell('last_worker'),
    cell('command'),
)


@command(
    'list',
    argument(
        'word',
        'only jobs that have all these words in id, name, description, command or host',
        metavar='WORD',
        nargs='*',
    ),
    switch('--failing', 'only jobs that fail'),
    WIDE,
    JSON,
)
def cmd_list(args, store):
    """list the jobs: those in trouble first, then those that run next

    --wide also lists the children of the jobs with --each-host: one for each host.
    """
    now = store.now()
    which, values = having_words(args.word)
    if not (args.word or args.wide or args.json):  # a template tells of its jobs
        which += ' AND parent_id IS NULL'
    jobs = store.query('SELECT * FROM job WHERE ' + which, **values)
    rows = described(store, jobs, now)
    if args.failing:
        rows = [
            row
            for row in rows
            if row.state in ('failing', 'flapping') or (row.active and is_failing(row))
        ]
    rows.sort(
        key=lambda row: (
            row.state not in TROUBLES,
            str(row.next_run_utc or ''),
            row.id,
        )
    )
    today = text_of(store.zone.local(now))[:11]
    print_rows(
        rows,
        args.json,
        cell('id'),
        cell('name'),
        cell('status'),
        cell('description'),
        ('LAST RUN', lambda row: (row.last_start or 'never').removeprefix(today)),
        ('NEXT RUN', lambda row: row.next_run.removeprefix(today)),
        *(REST if args.wide else ()),
        whole=args.wide,
        colours={'running': 32, **TROUBLES},
    )


HISTORY_OPTIONS = (
    JOB_OR_ALL,
    switch('--failed', 'only runs that failed'),
    argument('--host', 'only runs on this host', metavar='HOST'),
    argument(
        '--since',
        "only what ended in the last 2h, or since 'YYYY-MM-DD HH:MM'",
        type=typed(start_given, "90s, 15m, 2h, 3d, or 'YYYY-MM-DD HH:MM'"),
        metavar='TIME',
    ),
    COUNT,
    WIDE,
    JSON,
)


@command('history', *HISTORY_OPTIONS)
def cmd_history(args, store):
    """list the last runs of all jobs, or of one, by its id also of a removed one"""
    values = {'count': args.n}
    order = 'ended_at'
    tests = ['1 = 1']
    if args.failed:
        tests.append('{failed}')
    if args.id is not None:
        values['id'] = args.id
        if isinstance(args.id, str):
            values['id'] = job_of(store, args.id).id
        tests.append('job_id = :id')
        order = 'run_no'
    if args.host is not None:
        test, more = on_host(args.host)
        tests.append(test)
        values.update(more)
    if args.since is not None:
        values['since'] = text_of(since_given(store, args.since))
        tests.append('ended_at >= :since')
    text = HISTORY % (' AND '.join(tests), order)
    runs = store.query(text, **values)
    if not runs and args.id is not None:
        job_of(store, values['id'])  # of a removed one, the history may be there
    print_rows(
        runs,
        args.json,
        cell('job_id'),
        cell('name'),
        cell('description'),
        cell('run_no'),
        cell('started_at'),
        ('SECONDS', seconds_of),
        cell('worker'),
        cell('status'),
        ('OUTPUT', last_line),
        cell('note'),
        whole=args.wide,
    )


HISTORY = """SELECT run.*, name, description FROM run LEFT JOIN job ON job_id = job.id
    WHERE %s ORDER BY %s DESC LIMIT :count"""


def seconds_of(run):
    if run.duration_ms is None:
        return ''
    return '%.1f' % (run.duration_ms / 1000)


def last_line(run):
    """The last line of what a run wrote."""
    text = (run.output or '').strip()
    return text.rpartition('\n')[2]


def since_given(store, start):
    """The local time from which on runs are listed. start: see start_given."""
    if isinstance(start, datetime):
        return start
    return store.zone.local(store.now()) - start


@command(
    'hosts',
    JSON,
    argument('--forget', 'delete the row of this host', metavar='NAME'),
)
def cmd_hosts(args, store):
    """list the hosts, as each last reported (every minute), and how much they run"""
    if args.forget is not None:
        if not store.change('DELETE FROM host WHERE name = :name', name=args.forget):
            raise Problem('host %s is not known; see: hosts' % args.forget)
        print('host %s: forgotten, until a worker starts there' % args.forget)
        return
    running = running_by_host(store)
    now = store.now()
    paused = pauses(store)
    rows = []
    for host in store.query('SELECT * FROM host ORDER BY name'):
        host = host._replace(running=running[host.name])
        pause = paused.get('*') or paused.get(host.name.lower())
        text = pause and pause_in_words(store, pause, now)
        rows.append(extended(host, paused=text))
    print_rows(
        rows,
        args.json,
        cell('name'),
        ('LAST SEEN', lambda row: seen_in_words(store, row, now)),
        *map(cell, Host._fields[2:]),
        cell('paused'),
    )


########################################################################################
# reports: all about a job, its times, and what it writes
########################################################################################


@command('show', JSON, JOB)
def cmd_show(args, store):
    """show all about a job"""
    job = job_of(store, args.id)
    now = store.now()
    (job,) = described(store, [job], now)
    if args.json:
        print(to_json(job._asdict(), indent=1))
        return
    for name, value in for_people(job).items():
        text = visible(str(value))
        text = text.replace('\n', '\n' + 14 * ' ')
        print('%-12s  %s' % (name, text))


def for_people(job):
    """What people want to know of a job, a row of described(), by headings, in this
    order."""
    facts = {
        'job': job.id,
        'description': job.description,
        'status': job.status,
        'schedule': job.in_words,
        'expression': job.schedule,
        'next run': job.next_run,
        'last run': last_run_in_words(job),
        'command': job.command,
        'time limit': counted(job.max_run_time, 'minute'),
    }
    told = 'active start_anchor stop_anchor frequency schedule max_run_time'.split()
    for column in COLUMNS:
        if column.name not in told:
            facts.setdefault(column.name, getattr(job, column.name))
    return {name: value for name, value in facts.items() if value not in (None, '')}


def last_run_in_words(job):
    """When and where the last run of a job was, and how it ended, if it has."""
    if job.last_start is None:
        return 'never'
    where = '%s, with worker %s' % (job.last_start, job.last_worker)
    if job.run_token is not None:
        return where + ', goes on'
    return '%s, until %s: %s' % (where, job.last_end, job.last_status)


NEXT_OPTIONS = (
    argument(
        'what',
        'a cron expression, or a job; default: all jobs, until this time tomorrow',
        metavar='EXPR|JOB',
        nargs='?',
    ),
    argument(
        '--from',
        "list times after this one, in the job's time zone; default: now",
        dest='after',
        **TIME,
    ),
    argument(
        '--time-zone', "such as Europe/Berlin; default: the job's", metavar='ZONE'
    ),
    COUNT,
)


@command('next', *NEXT_OPTIONS)
def cmd_next(args, store):
    """list the next times of a cron expression, of a job, or of all jobs

    Point 9 of the program's --help says what daylight saving does to them.

    Examples
      %(prog)s backup
      %(prog)s '30 2 * * *' --time-zone Europe/Berlin --from '2027-03-27 12:00:00'
    """
    from itertools import islice

    now = after = store.now()
    job = Job()
    if args.what is not None:
        job = job_or_expression(store, args.what)
    if args.time_zone is not None:
        job = job._replace(time_zone=args.time_zone)
    zone = zone_of(job, store.zone)
    if args.after is not None:
        after = zone.utc(args.after)
    if args.what is None:
        print_agenda(store, after, now, args.n)
        return
    times = list(islice(upcoming(job, after, store.zone), args.n))
    for _, when in times:
        print(in_zone(zone, when, now))
    if job.id and args.n and not times:
        job = job._replace(run_token=None, next_run_utc=text_of(PARKED))
        print(visible(next_in_words(store, job, now)))


def in_zone(zone, when, now):
    """A UTC time in a zone, with the zone, the day and the distance."""
    local = zone.local(when)
    offset = timezone(zone.offset(when))
    day = local.strftime('%A').lower()
    text = '%s %s, %s' % (text_of(local), offset, day)
    if when < now:
        return text
    return '%s, %s' % (text, how_far(when - now))


def print_agenda(store, after, now, count):
    """Print when which job runs in the day after a UTC datetime: `count` times."""
    from heapq import merge
    from itertools import islice

    until = after + DAY
    # The next times from now on are those of the jobs that are due first.
    most = count if after == now else sys.maxsize
    jobs = store.query(
        '''SELECT * FROM job WHERE active = 1
        AND (next_run_utc IS NULL OR next_run_utc < :until)
        ORDER BY next_run_utc LIMIT :most''',
        until=text_of(until),
        most=most,
    )
    times = merge(*[times_until(store, job, after, until) for job in jobs])
    rows = list(islice(times, count))
    if not rows:
        print('no job runs until ' + in_zone(store.zone, until, now))
        return
    print_rows(
        rows,
        False,
        ('NEXT RUN', lambda row: in_zone(store.zone, row[0], now)),
        ('ID', lambda row: row[1].id),
        ('DESCRIPTION', lambda row: row[1].description),
    )


def times_until(store, job, after, until):
    """The times of a job between two UTC datetimes, as pairs (UTC, job)."""
    with suppress(BadSchedule):  # its LAST STATUS says what is wrong
        for _, when in upcoming(job, after, store.zone):
            if when >= until:
                return
            yield when, job


def job_or_expression(store, text):
    """The job whose id was typed, or one with the expression that was typed; active
    in any case."""
    id = id_or_name(text)
    if id:
        return job_of(store, id)._replace(active=1)
    return Job(active=1, schedule=text)


PATIENCE = 5  # seconds to wait for what a run has written so far


@command(
    'log',
    JOB,
    COUNT,
    switch('-f --follow', 'print what it writes until the run ends'),
)
def cmd_log(args, store):
    """show what a job's last run wrote, on whichever host

    Examples
      %(prog)s -f 1
    """
    job = with_last_run(store, args.id)
    if job.last_start is None:
        print('it never ran')
        return
    seen = None
    for output in outputs_of(store, job, args.follow):
        new = unseen_part(seen or '', output)
        if not seen:
            new = ''.join(deque(new.splitlines(True), maxlen=args.n))
        print(on_terminal(new), end='', flush=True)
        seen = output
    if not seen:
        print('what it wrote is not known' if seen is None else 'it wrote nothing')
    job = with_last_run(store, args.id)
    text = 'the last run: %s\nthe whole log: %s, with worker %s'
    where = store.config.job_log(job.id), job.last_worker
    print(visible(text % (last_run_in_words(job), *where)), file=sys.stderr)


def with_last_run(store, id):
    """The row of a job; of a removed one, what the history has of its last run. Raises
    Problem if there is neither."""
    if isinstance(id, str):
        id = job_of(store, id).id
    for run in store.query(
        '''SELECT * FROM run WHERE job_id = :id
        AND NOT EXISTS (SELECT 1 FROM job WHERE id = :id)
        AND {ran} ORDER BY run_no DESC LIMIT 1''',
        id=id,
    ):
        return Job(
            id=id,
            run_no=run.run_no,
            last_start=run.started_at or run.ended_at,
            last_end=run.ended_at,
            last_status=run.status,
            last_worker=run.worker,
        )
    return job_of(store, id)


def outputs_of(store, job, follow):
    """What a job's last run has written so far, once a second until it ends, and then
    what the history has of it. Without `follow`: one of these."""
    patience = boottime() + PATIENCE
    while job.run_token and job_of(store, job.id).run_token == job.run_token:
        output = output_so_far(store, job.id, job.run_no)
        yield output
        if not follow and (output or boottime() > patience):
            return
        time.sleep(1)
    for row in store.query(
        '''SELECT output FROM run WHERE job_id = :job AND run_no <= :run_no
        AND {ran} ORDER BY run_no DESC LIMIT 1''',
        job=job.id,
        run_no=job.run_no,
    ):
        if row.output is not None:
            yield row.output


def unseen_part(seen, output):
    """What is new in an output that was seen before. Of a long one, only the end is
    there."""
    if output.startswith(seen):
        return output[len(seen) :]
    known = seen[-1000:]
    return output[output.rfind(known) + len(known) :] if known in output else output


########################################################################################
# why: why a job did, does or does not run
########################################################################################


@command(
    'why',
    JOB,
    argument(
        'time',
        "a time in the job's time zone; default: now",
        nargs='?',
        **TIME,
    ),
)
def cmd_why(args, store):
    """say why a job did, does or does not run"""
    job = job_of(store, args.id)
    for line in why_lines(store, job, args.time):
        is_column = line.startswith(' ')
        print(visible(line) if is_column else one_line(line))


def why_lines(store, job, when=None):
    """Why a job, a row of `job`, did, does or does not run, as lines for people. when:
    a datetime in its time zone; None: now."""
    now = store.now()
    moments = [now]
    try:
        zone = zone_of(job, store.zone)
        local = when or zone.local(now)
        local = local.replace(second=0, microsecond=0)
        moments = zone.times(local) or [zone.utc(local)]
        lines = time_lines(job, local, moments, now, store.zone)
    except BadSchedule as problem:
        lines = ['%s %s' % (problem.column, problem)]
    first = job.run_no - 1000 if when is None else 0
    lines += history_lines(store, job, moments[-1], first)
    for text in waiting_for(store, job, now):
        lines.append('Now: ' + text)
    return lines


# What its schedule says of a time.


def time_lines(job, local, moments, now, zone):
    """Whether a job is due at a minute, by each part of its schedule. local: in its own
    zone; moments: the same in UTC; zone: the database's. Raises BadSchedule."""
    own_zone = zone_of(job, zone)
    words = text_of(local)[:16], job.time_zone
    lines = ['%s: %s' % (' '.join(filter(None, words)), describe(job))]
    clock = text_of(zone.local(moments[0]))[:16]
    if clock != text_of(own_zone.local(moments[0]))[:16]:
        text = 'History and Now are by the database, whose clock shows %s.'
        lines.append(text % clock)
    if own_zone.local(moments[0]) != local:
        local = own_zone.local(moments[0])
        text = 'The clock skips this time: it goes on at %s.'
        lines.append(text % text_of(local)[:16])
    if job.after_job or job.each_host:
        return lines
    parts, fits = parts_at(job, local)
    lines += parts
    if job.schedule is None and moments[0] < now:
        return lines  # what it did then is in the history alone
    for when in moments:
        lines.append(verdict(job, when, now, zone, fits))
    return lines + neighbours(job, moments, now, zone)


def parts_at(job, local):
    """A line for each part of a job's schedule, and whether all of them allow a time of
    the clock."""
    lines = []
    fits = True
    if job.schedule is not None and not is_once(str(job.schedule)):
        expression = expression_of(job)
        for field in fields_at(expression, local):
            lines.append('  %-13s %-4s %-22s %s' % field)
        fits = expression.next_local(local - SECOND) == local
    window = Window(job)
    if not window.is_all_day():
        inside = window.contains(local.time())
        fits = fits and inside
        part = ('window', window_in_words(job), yes_or_no(inside))
        lines.append('  %-18s %-22s %s' % part)
    return lines, fits


def yes_or_no(value):
    return 'yes' if value else 'no'


def fields_at(expression, local):
    """For each field of an Expression: (its name, its value at a time, what it allows,
    yes or no)."""
    values = (local.minute, local.hour, local.day, local.month, local.isoweekday() % 7)
    rows = []
    for field, text, value in zip(expression.FIELDS, expression.parts, values):
        allowed = value in field.parse(text.lower())
        if field.name == 'day-of-month':
            allowed = expression.matches_month_day(local)
        if field.name == 'day-of-week':
            allowed = expression.matches_week_day(local)
        word = yes_or_no(allowed)
        if field.name == 'day-of-week' and expression.either_day:
            word += '; of the two days, one is enough'
        rows.append((field.name, value, text, word))
    return rows


def verdict(job, when, now, zone, fits):
    """Whether a job is due in the minute from a UTC time, in words. fits: whether the
    clock shows a time of its schedule then."""
    if is_due_at(job, when, now, zone):
        if fits:
            return 'It is due then.'
        return 'It is due then, for a time that the clock skips.'
    own_zone = zone_of(job, zone)
    local = own_zone.local(when)
    if fits and len(own_zone.times(local)) > 1:
        return 'The clock shows this time twice: it is due the first time.'
    return 'It is not due then.'


def is_due_at(job, when, now, zone):
    """Whether a job is due in the minute from a UTC time, as plan has it."""
    for first in regular_times(job, when - SECOND, now, zone):
        return first < when + MINUTE
    return False


def regular_times(job, after, now, zone):
    """The times of a job after a UTC datetime; of a frequency job, those from now
    on, if each run starts at its time."""
    if job.schedule is not None:
        yield from times_after(job, after, zone)
        return
    from itertools import chain, islice

    first = next_regular(job, now, now, zone)
    times = chain([first], times_after(job, first, zone))
    for when in islice(times, 20000):
        if when > after:
            yield when


def neighbours(job, moments, now, zone):
    """The nearest times of a job before and after a minute, in its own zone."""
    lines = []
    last = last_before(job, moments[0], now, zone)
    following = next(regular_times(job, moments[-1] + 59 * SECOND, now, zone), None)
    for word, when in (('before', last), ('after', following)):
        if when:
            local = text_of(zone_of(job, zone).local(when))
            lines.append('The nearest time %s it: %s' % (word, local))
    return lines


def last_before(job, when, now, zone):
    """The last time of a job before a UTC datetime; None if it has none in 50 years."""
    for days in (0.003, 0.05, 1, 7, 31, 366, 50 * 366):
        last = None
        for found in regular_times(job, when - days * DAY, now, zone):
            if found >= when:
                break
            last = found
        if last:
            return last
    return None


# What the history has of it.


def history_lines(store, job, when, first):
    """What the history has of a job for the minute from a UTC time, or before. first:
    the number of the run with which it begins."""
    rows = store.query(
        '''SELECT * FROM run WHERE job_id = :id AND run_no >= :first
        AND due_utc < :until ORDER BY run_no DESC LIMIT 1''',
        id=job.id,
        first=first,
        until=text_of(when + MINUTE),
    )
    lines = ['History: nothing of this time or before it']
    last = 0
    local = text_of(store.zone.local(when))
    for run in rows:
        if (moment(run.due_utc) or when) >= when:
            return lines_of_run(store, run, 'History: ')
        text = 'History: nothing of this time; the last before it: '
        if (run.ended_at or '') > local:
            text = 'History: not over at this time: '
        lines = lines_of_run(store, run, text)
        last = run.run_no
    for run in store.query(LATE_AFTER, id=job.id, last=last):  # it may make up for it
        lines += lines_of_run(store, run, 'The next after it: ')
    return lines


LATE_AFTER = """SELECT * FROM (SELECT * FROM run WHERE job_id = :id AND run_no > :last
    AND {ran} ORDER BY job_id, run_no LIMIT 1) AS next_row WHERE note IS NOT NULL"""


def lines_of_run(store, run, heading):
    """A row of the history in words, and its note."""
    text = run.status
    if not text.startswith('SKIPPED'):
        due = moment(run.due_utc)
        due = due and text_of(store.zone.local(due))
        facts = (run.run_no, run.worker, due, run.started_at, run.ended_at, text)
        text = 'run %d by %s, due %s, started %s, ended %s: %s' % facts
    lines = [heading + text]
    return [*lines, run.note] if run.note else lines


# What it waits for.


def waiting_for(store, job, now):
    """What a job does now, or what it waits for, in words: a list of texts."""
    (row,) = described(store, [job], now)
    if job.run_token is not None:
        return ['run %d: %s' % (job.run_no, row.status)]
    if job.each_host:
        family = family_of(store, job.id)
        children = [child for child in family if child.parent_id]
        return [row.status] + [
            'job %d on %s: %s' % (child.id, child.run_on, child.status)
            for child in described(store, children, now)
        ]
    texts = [row.status, 'next run ' + row.next_run]
    is_startable = job.run_requested or row.state not in ('disabled', 'paused')
    due = moment(job.next_run_utc) or now
    if is_startable and due <= now:
        texts += hosts_for(store, job, now)
    return texts


def hosts_for(store, job, now):
    """What is known of each host that may start a job, in words: a list of texts."""
    paused = pauses(store)
    texts = []
    for host in store.query('SELECT * FROM host ORDER BY name'):
        if may_take(job, host.name, host.tags):
            text = '%s, last seen %s: takes %d of its %d slots'
            seen = seen_in_words(store, host, now)
            texts.append(text % (host.name, seen, host.running, host.max_tasks))
            pause = paused.get('*') or paused.get(host.name.lower())
            if pause:
                texts.append(
                    '%s is paused %s' % (host.name, pause_in_words(store, pause, now))
                )
    if job.schedule is None and job.last_start != job.claimed_start:
        texts.append('a Perl worker started it last, at %s' % job.last_start)
    return texts or ['no worker for it was ever seen']


########################################################################################
# pausing: jobs and hosts that start nothing for a while
########################################################################################


Pause = namedtuple('Pause', 'target from_utc until_utc paused_by')  # rows of `pause`


def pause_job(store, id, until, by):
    """Start no run of a job until a UTC datetime, unless it is asked for. What was due
    by then runs once afterwards, as far as its window and start_within allow. by: who
    pauses it, and why."""
    now = store.now()
    for job in family_of(store, id):
        begun = before_due(job, still_due(job, job), now)
        paused = {
            'paused_from_utc': text_of(begun),
            'paused_until_utc': text_of(until),
            'paused_by': by[:255],
        }
        update_job(store, job.id, paused)
        with suppress(BadSchedule):
            announce(store, job.id, job)


def resume_job(store, id):
    """End the pause of a job now. Returns whether there was one."""
    now = text_of(store.now())
    resumed = [
        job for job in family_of(store, id) if (job.paused_until_utc or '') > now
    ]
    for job in resumed:
        update_job(store, job.id, {'paused_until_utc': now})
        with suppress(BadSchedule):
            announce(store, job.id, job)
    return bool(resumed)


def pause_hosts(store, target, until, by):
    """Have a host, or all (*), start no runs until a UTC datetime, but those that are
    asked for. by: who does so, and why."""
    begun = text_of(store.now())
    going_on = pauses(store).get(target)
    if going_on:
        begun = going_on.from_utc
    store.upsert('pause', [Pause(target, begun, text_of(until), by[:255])])


def resume_hosts(store, target):
    """End the pause of a host, or that of all (*), now. Returns how many it was. The
    row stays for a while: it tells why a run was late."""
    return store.change(
        '''UPDATE pause SET until_utc = {utc}
        WHERE target = :target AND until_utc > {utc}''',
        target=target,
    )


def pauses(store):
    """The pauses of hosts that go on, by target."""
    rows = store.query('SELECT * FROM pause WHERE until_utc > {utc} ORDER BY target')
    return {row.target: row for row in rows}


LONGEST_PAUSE = 366 * DAY
PAUSED = (
    JOBS_OR_ALL,
    argument(
        '--host',
        'all jobs, but on this host only',
        type=typed(host_given, 'the name of a host'),
        metavar='HOST',
    ),
)


PAUSE_OPTIONS = (
    *PAUSED,
    argument(
        '--for',
        'how long: 90s, 15m, 2h, 3d; default: 1h',
        type=typed(period_given, '90s, 15m, 2h, 3d'),
        metavar='2h',
        dest='period',
    ),
    argument('--until', "or until when, in the database's time zone", **TIME),
    argument('--note', 'why', metavar='TEXT', default=''),
    FORCE,
)


@command('pause', *PAUSE_OPTIONS)
def cmd_pause(args, store):
    """start no runs for a while: of jobs, on a host, or at all

    Runs in progress go on, and run-now works. What was due in a pause runs once after
    it, if it may still start; the history has a line for what did not run.

    Examples
      %(prog)s --for 15m
      %(prog)s backup --for 2h --note 'new disk'
      %(prog)s --host web-1 --until '2026-12-24 18:00:00'
    """
    if not args.force:
        check_hosts(store, {'pause': 1})  # which version 1 does not know either
    jobs = jobs_to_pause(store, args)
    until = end_of_pause(store, args)
    by = who_pauses(args.note)
    for job in jobs:
        pause_job(store, job.id, until, by)
    if not jobs:
        pause_hosts(store, args.host or '*', until, by)
    report_pause(args, jobs, 'paused until %s' % when_text(store, until, store.now()))
    if args.host and not any(
        host.name.lower() == args.host for host in store.query('SELECT name FROM host')
    ):
        print('note: no host has the name %s yet' % args.host)


def who_pauses(note):
    """Who pauses something, and why."""
    user = os.environ.get('SUDO_USER') or user_name(os.getuid())
    return '%s: %s' % (user, note) if note else user


def report_pause(args, jobs, text):
    """Print what was done to jobs, or to hosts where there are none."""
    for job in jobs:
        print('job %d: %s' % (job.id, text))
    if not jobs:
        print('%s: %s' % (args.host or 'all hosts', text))


@command('resume', *PAUSED)
def cmd_resume(args, store):
    """end a pause"""
    jobs = jobs_to_pause(store, args)
    for job in jobs:
        resumed = resume_job(store, job.id)
        report_pause(args, [job], 'resumed' if resumed else 'is not paused')
    if not jobs:
        resumed = resume_hosts(store, args.host or '*')
        report_pause(args, [], 'resumed' if resumed else 'not paused')


def jobs_to_pause(store, args):
    if args.id and args.host:
        raise BadConfig('--host %s and jobs; allowed: one of them' % args.host)
    jobs = [job_of(store, job) for job in args.id]
    refuse_children(jobs)
    return jobs


def end_of_pause(store, args):
    """When a pause ends, a UTC datetime. Raises BadConfig."""
    now = store.now()
    length = args.period or 60 * MINUTE
    until = now + length
    if args.until:
        until = store.zone.utc(args.until)
    if not now < until <= now + LONGEST_PAUSE:
        raise BadConfig(
            'the end of the pause, %s; allowed: from now to %d days from now'
            % (text_of(store.zone.local(until)), LONGEST_PAUSE // DAY)
        )
    return until


########################################################################################
# alert: what is wrong is told, and again when it is over
########################################################################################

# A pass, which the job named alert makes once a minute, on one host at a time:
#
#     look      what is wrong now, in one snapshot of the tables
#     latch     the table `trouble` says so: what is new, what goes on, what is over
#     send      by all channels at once, without a connection to the database
#     record    what each channel has told
#     ping      if all went well
#
# What is wrong has a row from the first pass that sees it until its end has been told
# by each channel. So nothing that a pass has seen is lost, whenever one dies; but the
# next one tells again what that one had told and not recorded.

# What begins a transaction that sees one state of all tables.
SNAPSHOT = {
    'mysql': (
        'SET TRANSACTION ISOLATION LEVEL REPEATABLE READ',
        'START TRANSACTION WITH CONSISTENT SNAPSHOT',
    ),
    'postgresql': ('BEGIN ISOLATION LEVEL REPEATABLE READ',),
}


@command(
    'alert',
    switch('--test', 'only send a test message'),
    given=given_config,
)
def cmd_alert(args, config):
    """tell what is wrong, and what is well again; the job named alert does so

    `init` makes that job where the configuration has alert.*. It runs each minute, also
    in a pause and when all slots are taken, on one of the hosts that have alert.*. It
    tells that a job fails, is late or slow, hangs, was skipped, is not signed or can't
    be planned; that a host is away; that no slot is free. What goes on is told again
    after alert.remind_hours. Its command is built in: the row only says when it runs.
    """
    if not config.alerts or (args.test and not channels_of(config)):
        raise config.bad(
            'nothing is told; set alert.mail, alert.webhook or alert.command'
        )
    if args.test:
        sent, problems = send(config, test_messages(config))
        for message in sent:
            print('sent by %s %s' % (message.channel, ' '.join(message.recipients)))
    else:
        problems = alert_pass(Store(config))
    for problem in problems:
        print('distributed_cron: %s' % problem, file=sys.stderr)
    return 1 if problems else 0


def alert_pass(store):
    """Tell what is wrong, and what is over. Returns what went wrong with that."""
    config = store.config
    store.connect()
    with store.transaction(*SNAPSHOT.get(config.db_engine, ('BEGIN',))):
        now = store.now()
        known = known_troubles(store)
        rows = latched(store, known, troubles_now(store, known, now), now)
    write_troubles(store, known, rows, now)
    messages = messages_for(store, rows, now)
    store.close()
    sent, problems = send(config, messages)
    record_sent(store, sent, now)
    if config.alert_ping and not problems:
        problems = ping(config)
    return problems


def known_troubles(store):
    columns = ', '.join(Trouble._fields)
    return list(map(Trouble._make, store.query('SELECT %s FROM trouble' % columns)))


def latched(store, known, found, now):
    """The rows of `trouble` after a pass. known: those before; found: what is wrong
    now, likewise by (kind, subject)."""
    open_rows = {row[:2]: row for row in known if not row.ended_utc}
    rows = [row for row in known if row.ended_utc]
    for key, trouble in found.items():
        row = open_rows.pop(key, trouble)
        rows.append(
            row._replace(
                times=trouble.times, text=trouble.text, alert_to=trouble.alert_to
            )
        )
    for row in open_rows.values():
        if not is_held(row, now):
            rows.append(ended_trouble(store, row, now))
    return [row for row in rows if not is_done(store.config, row)]


def ended_trouble(store, row, now):
    """The row of a trouble that is over, which is to be told."""
    row = row._replace(ended_utc=text_of(now))
    if not KINDS[row.kind]:
        return row
    period = now - moment(row.since_utc)
    text = '%s after %s' % (how_over(store, row, now), lasted(period))
    if row.times:
        text += ', ' + counted(row.times, 'failure')
    return row._replace(text=(text + WAS + row.text)[:255], **UNTOLD)


def how_over(store, row, now):
    """In which way a trouble is over."""
    if row.kind == 'host':
        is_back = row.subject in [host.name for host in living_hosts(store, now)]
        how = KINDS['host'] if is_back else 'is no longer expected'
        return 'host %s %s' % (row.subject, how)
    if row.kind in OF_NO_JOB:
        return KINDS[row.kind]
    rows = store.query('SELECT * FROM job WHERE id = :id', id=int(row.subject))
    if not rows:
        return 'job %s was removed' % row.subject
    if not rows[0].active:
        return '%s was disabled' % label_of(rows[0])
    if rows[0].alert_after == 0:
        return '%s is muted' % label_of(rows[0])
    return '%s %s' % (label_of(rows[0]), KINDS[row.kind])


def write_troubles(store, known, rows, now):
    """Make the table as the rows say, and note the pass."""
    before = set(known)
    left = {row[:3] for row in rows}
    gone = [row._asdict() for row in known if row[:3] not in left]
    changed = [row for row in rows if row not in before]
    last_pass_at = About(LAST_PASS, text_of(now))
    with store.transaction():
        store.execute_many('DELETE FROM trouble WHERE %s' % SAME_TROUBLE, gone)
        store.upsert('trouble', changed)
        store.upsert('about', [last_pass_at])


SAME_TROUBLE = 'kind = :kind AND subject = :subject AND since_utc = :since_utc'


def record_sent(store, sent, now):
    """Write what was told, a message at a time; try again, as else it is told again."""
    for attempt in range(3):
        try:
            for message in list(sent):
                record_message(store.connect(), message, now)
                sent.remove(message)
            return
        except (Away, Again):
            if attempt == 2:
                raise
            time.sleep(1)


def record_message(store, message, now):
    column = 'told_%s_utc' % message.channel
    update = 'UPDATE trouble SET %s = :now WHERE %s' % (column, SAME_TROUBLE)
    told = [
        dict(zip(Trouble._fields[:3], row), now=text_of(now)) for row in message.rows
    ]
    with store.transaction():
        store.execute_many(update, told)
        store.upsert('about', [message.count])


def is_done(config, row):
    """Whether a trouble is over, and each channel has told so."""
    return row.ended_utc and all(
        getattr(row, 'told_%s_utc' % channel)
        or recipients_of(config, row, channel) is None
        for channel in channels_of(config)
    )


########################################################################################
# messages: what is told of troubles, and how it is sent
########################################################################################

# A row of `about`: when the last pass was, and how many messages went where on a day.
About = namedtuple('About', 'name value')
SENDING = 30  # seconds for all channels together, as they send at the same time
PING = 10  # seconds to wait for alert.ping
MOST_TOLD = 20  # troubles that one message describes; of more, the number
LAST_LINES = 10  # of a run's output
Message = namedtuple(
    'Message',
    (
        'channel',
        'recipients',  # a tuple of mail addresses, () for other channels
        'rows',  # Troubles
        'subject',
        'body',
        'count',  # the About to be written once it is sent
    ),
)


def channels_of(config):
    """The channels by which a host tells what is wrong."""
    found = [name for name in SENDERS if getattr(config, 'alert_' + name)]
    if config.alert_smtp and 'mail' not in found:  # for the jobs that have alert_to
        found.append('mail')
    return found


def recipients_of(config, row, channel):
    """To whom a channel tells a trouble: a tuple of mail addresses; None: to nobody."""
    if channel != 'mail':
        return ()
    if re.fullmatch(ADDRESS, row.alert_to or ''):
        return (row.alert_to,)
    return tuple(config.alert_mail) or None


def is_due(config, row, channel, now):
    """Whether a channel is to tell a trouble now, or to remind of it."""
    told = getattr(row, 'told_%s_utc' % channel)
    if is_held(row, now) or recipients_of(config, row, channel) is None:
        return False
    remind = now - config.alert_remind_hours * 60 * MINUTE
    return told is None or (not row.ended_utc and moment(told) <= remind)


def messages_for(store, rows, now):
    """What is to be told now: one message by each channel, and by mail one to each
    group of recipients. Who has had alert.per_day of them today gets no more."""
    config = store.config
    groups = defaultdict(list)
    for channel in channels_of(config):
        for row in rows:
            if is_due(config, row, channel, now):
                groups[channel, recipients_of(config, row, channel)].append(row)
    messages = []
    for (channel, recipients), troubles in groups.items():
        count, number = next_count(store, ' '.join((channel, *recipients)), now)
        if number <= config.alert_per_day:
            troubles.sort(key=importance)
            body = body_of(store, channel, troubles, now)
            if number == config.alert_per_day:
                body += HELD_BACK % (number, number)
            subject = subject_of(troubles)
            messages.append(
                Message(channel, recipients, troubles, subject, body, count)
            )
    return messages


HELD_BACK = """
This is message %d of %d today (alert.per_day): what else happens is told tomorrow.
"""


def next_count(store, destination, now):
    """The About that counts the messages that went somewhere today, with one more, and
    that number."""
    name = ('alert to ' + destination)[:64]
    today = text_of(store.zone.local(now))[:10]
    number = 1
    for row in store.query('SELECT value FROM about WHERE name = :name', name=name):
        day, _, before = row.value.partition(' ')
        if day == today and before.isdecimal():
            number += int(before)
    return About(name, '%s %d' % (today, number)), number


def importance(row):
    """What comes first: what is wrong, and the worst of it."""
    return bool(row.ended_utc), list(KINDS).index(row.kind), row.since_utc


def subject_of(rows):
    text = rows[0].text.partition(WAS)[0]
    if len(rows) > 1:
        text = '%s, and %d more' % (text[:150], len(rows) - 1)
    return '[cron] ' + text[:200]


def body_of(store, channel, rows, now):
    parts = [
        '\n'.join(lines_of(store, channel, row, now)) + '\n' for row in rows[:MOST_TOLD]
    ]
    if len(rows) > MOST_TOLD:
        text = 'And %d more; see: %s list\n'
        parts.append(text % (len(rows) - MOST_TOLD, command_line()))
    local = text_of(store.zone.local(now))
    parts.append('At %s by the database; from %s.\n' % (local, store.config.name))
    return '\n'.join(parts)


def lines_of(store, channel, row, now):
    """What is said of one trouble."""
    again = getattr(row, 'told_%s_utc' % channel) and not row.ended_utc
    yield 'Still: ' + row.text if again else row.text
    if row.ended_utc and KINDS[row.kind]:
        return
    since = moment(row.since_utc)
    words = text_of(store.zone.local(since)), lasted(now - since)
    text = '    since %s, for %s' % words
    if row.times:
        text += ', %d in a row' % row.times
    yield text
    if row.kind in OF_NO_JOB:
        yield '    %s hosts' % command_line()
        return
    if row.kind == 'failing':
        yield from last_lines(store, int(row.subject))
    for action in 'log', 'history', 'show':
        yield '    %s %s %s' % (command_line(), action, row.subject)


def last_lines(store, job):
    """The end of what a job's last run wrote."""
    for row in store.query(LAST_OUTPUT, id=job):
        for line in (row.output or '').splitlines()[-LAST_LINES:]:
            yield '    | ' + visible(line)[:300]


LAST_OUTPUT = """SELECT output FROM run
    WHERE job_id = :id AND {ran} ORDER BY run_no DESC LIMIT 1"""


def test_messages(config):
    """A message by each channel that tells nothing."""
    subject = '[cron] test from %s' % config.name
    body = 'This is a test: alerts from %s arrive here.\n' % config.name
    return [
        Message(channel, tuple(config.alert_mail), (), subject, body, None)
        for channel in channels_of(config)
        if channel != 'mail' or config.alert_mail
    ]


def send(config, messages):
    """Send messages by all channels at once. Returns those that were sent, and texts
    that say what went wrong."""
    from threading import Thread

    sent = []
    problems = []
    threads = {}
    until = boottime() + SENDING
    for channel in SENDERS:
        some = [message for message in messages if message.channel == channel]
        if some:
            values = (config, channel, some, sent, problems)
            threads[channel] = Thread(target=send_by, args=values, daemon=True)
            threads[channel].start()
    for channel, thread in threads.items():
        thread.join(max(0, until - boottime()))
        if thread.is_alive():
            text = 'alert.%s: not done within %d s'
            problems.append(text % (channel, SENDING))
    return list(sent), list(problems)


def send_by(config, channel, messages, sent, problems):
    """Send messages by one channel. Adds to the two lists that send() returns."""
    for message in messages:
        try:
            problem = SENDERS[channel](config, message)
            sent.append(message)
        except Exception as error:
            problem = failure_in_words(error)
        if problem:
            problems.append('alert.%s: %s' % (channel, problem))


def failure_in_words(error):
    """Why nothing could be sent. Of what is not known only the name, as it may quote a
    URL or a password."""
    if isinstance(error, Problem):
        return str(error)
    if hasattr(error, 'recipients'):
        return refused_in_words(error.recipients)
    if hasattr(error, 'smtp_code'):
        answer = error.smtp_error
        if type(error).__name__ == 'SMTPAuthenticationError':
            answer = 'the login is refused'
        return answer_in_words(error.smtp_code, answer)
    if hasattr(error, 'code'):  # an HTTPError
        return answer_in_words(error.code, 'HTTP status')
    if isinstance(error, OSError):  # those of TLS and of urllib have a reason
        reason = getattr(error, 'reason', error)
        if isinstance(reason, str):
            return reason
        return getattr(reason, 'strerror', None) or type(reason).__name__
    return type(error).__name__


def answer_in_words(code, answer):
    """A server's answer; answer: text, or bytes."""
    if isinstance(answer, bytes):
        answer = answer.decode('utf-8', 'replace')
    return 'the server answers: %d, %s' % (code, one_line(answer))


def refused_in_words(recipients):
    """recipients: {address: (code, answer)}"""
    return '; '.join(
        '%s: %s' % (address, answer_in_words(*answer))
        for address, answer in recipients.items()
    )


# Each sends one Message, and returns what went wrong all the same, as a text, or None.


def send_mail(config, message):
    mail = mail_of(config, message)
    if not config.alert_smtp:
        return run_program(['sendmail', '-t', '-oi'], bytes(mail))
    smtp = smtp_of(config)
    refused = smtp.send_message(mail)
    with suppress(OSError):
        smtp.quit()
    return refused_in_words(refused)


def post(config, message):
    fetch(config.alert_webhook, SENDING, json_of(message))


def call_command(config, message):
    run_program(['/bin/sh', '-c', config.alert_command], json_of(message))


SENDERS = {'mail': send_mail, 'webhook': post, 'command': call_command}


def smtp_of(config):
    """A connection to alert.smtp, logged in."""
    import smtplib
    import ssl

    host, _, port = config.alert_smtp.rpartition(':')
    host = host.strip('[]')
    tls = config.alert_smtp_tls
    is_safe = tls in ('tls', 'starttls') or is_local(host)
    if config.alert_smtp_username and not is_safe:
        raise Problem('a login without alert.smtp_tls shows the password to others')
    how = {'timeout': SENDING, 'local_hostname': config.name}
    if tls == 'tls':
        context = ssl.create_default_context()
        smtp = smtplib.SMTP_SSL(host, int(port), context=context, **how)
    else:
        smtp = smtplib.SMTP(host, int(port), **how)
    if tls == 'starttls':
        smtp.starttls(context=ssl.create_default_context())
    if config.alert_smtp_username:
        password = config.password_of('alert.smtp_password_file')
        smtp.login(config.alert_smtp_username, password)
    return smtp


def mail_of(config, message):
    from email.message import EmailMessage
    from email.policy import SMTP
    from email.utils import formatdate, make_msgid

    sender = config.alert_from or 'distributed_cron@%s' % config.name
    mail = EmailMessage(SMTP.clone(max_line_length=900))  # not to fold the subject
    mail['From'] = sender
    mail['To'] = ', '.join(message.recipients)
    mail['Subject'] = message.subject
    mail['Date'] = formatdate(localtime=True)
    mail['Message-ID'] = make_msgid(domain=sender.rpartition('@')[2])
    mail['Auto-Submitted'] = 'auto-generated'
    mail.set_content(message.body)
    return mail


def json_of(message):
    """A message for programs; chats show `text`."""
    troubles = [
        {name: getattr(row, name) for name in Trouble._fields[:6]}
        for row in message.rows
    ]
    text = '%s\n\n%s' % (message.subject, message.body)
    return to_json({'text': text, 'troubles': troubles}).encode()


def fetch(url, seconds, body=None):
    """Ask for a URL, or send JSON to it. To follow a redirection would lose that."""
    from urllib.request import HTTPRedirectHandler, Request, build_opener

    class Unmoved(HTTPRedirectHandler):
        def redirect_request(self, *_):
            return None

    headers = {'Content-Type': 'application/json', 'User-Agent': 'distributed_cron'}
    request = Request(url, body, headers)
    build_opener(Unmoved).open(request, timeout=seconds).close()


def ping(config):
    """Tell an outside watcher that all is looked after. Returns what went wrong."""
    try:
        fetch(config.alert_ping, PING)
    except Exception as error:
        return ['alert.ping: %s' % failure_in_words(error)]
    return []


def run_program(words, text):
    """Run a program that reads a text, as bytes. Raises Problem unless it succeeds."""
    import subprocess

    path = os.environ.get('PATH', '') + ':/usr/sbin:/usr/lib'
    process = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, 'PATH': path},
    )
    try:
        process.communicate(text, timeout=0.9 * SENDING)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    if process.returncode:
        raise Problem(status_of(process.returncode).removeprefix('ERROR: '))


########################################################################################
# troubles: what is wrong now, by what the tables say
########################################################################################

# Each function returns a list of Trouble, and reads only what is wrong, but for jobs
# that are parked, which have no index of their own.

Trouble = namedtuple(
    'Trouble',
    (
        'kind',  # one of KINDS
        'subject',  # the id of a job, or the name of a host, as text
        'since_utc',
        'ended_utc',  # None: it goes on
        'times',  # failures in a row
        'text',  # what is wrong, or what was
        'alert_to',  # where its job's alerts go; None: to alert.mail
        'told_mail_utc',
        'told_webhook_utc',
        'told_command_utc',
    ),
    defaults=[None, 0, '', None, None, None, None],
)
UNTOLD = dict.fromkeys(Trouble._fields[-3:])
# The worst first, and what is said of its subject when it is over. An event has no end.
KINDS = {
    'host': 'is back',
    'full': 'there are free slots again',
    'stuck': 'was ended',
    'failing': 'is well again',
    'parked': 'is planned again',
    'unsigned': 'is no longer refused',
    'late': 'is no longer late',
    'slow': 'is no longer running',
    'skipped': '',
}
OF_NO_JOB = 'host', 'full'
WAS = '; it was: '  # before what was wrong
HOLD = {'full': 10 * MINUTE}  # for so long it must have been wrong
LAST_PASS = 'alert pass'  # the name of a row of `about`: when it was
UNSEEN_FOR = 5 * MINUTE  # a host that says nothing for longer is away
EXPECTED_FOR = DAY  # and is expected back for so long
SLOW_FROM = 5 * MINUTE  # no run is slow that takes less
WAITING_FROM = MINUTE  # when all slots are taken, a job that waits for so long shows it
SKIPPED_FOR = 60 * MINUTE  # after which skips are over
OVERLAP = 2 * MINUTE  # by which the last pass may have missed what was just written
TOLD_COLUMNS = '''id, name, description, active, each_host, alert_after, alert_to,
    run_on, run_requested, failures, last_status, last_worker, last_start, last_end,
    next_run_utc'''


def troubles_now(store, known, now):
    """What is wrong, by (kind, subject)."""
    steps = (
        failing_jobs,
        late_jobs,
        slow_jobs,
        jobs_by_status,
        skipped_jobs,
        hosts_away,
        full_hosts,
    )
    found = [trouble for step in steps for trouble in step(store, known, now)]
    return {trouble[:2]: trouble for trouble in found}


def is_held(row, now):
    """Whether something must be wrong for longer before it is told."""
    return moment(row.since_utc) > now - HOLD.get(row.kind, 0 * MINUTE)


def jobs_where(store, which, **values):
    """The active jobs of which a condition is true, and that may be told of. The rest
    of the question is asked here: in SQL, SQLite would take another index for it."""
    rows = store.query('SELECT %s FROM job WHERE %s' % (TOLD_COLUMNS, which), **values)
    return [
        row
        for row in rows
        if row.active
        and not row.each_host
        and row.name != ALERT
        and row.alert_after != 0
        and is_sound(row)
    ]


def is_sound(job):
    """Whether all numbers and times are such: SQLite takes any text for them. A row of
    which that is not true must not keep what is wrong with others from being told."""
    numbers = job.failures, job.alert_after or 0
    times = job.last_start, job.last_end, job.next_run_utc
    return all(isinstance(value, int) for value in numbers) and all(
        moment(value) for value in times if value is not None
    )


def label_of(job):
    """What to call a job in a message."""
    words = one_line(job.description)
    if words in ('', COLUMNS_BY_NAME['description'].default):
        words = job.name or 'job %d' % job.id
    return visible(words)[:80]


def trouble_of(job, kind, since, text, times=0):
    """since: a datetime, UTC; text: what is wrong with the job."""
    return Trouble(
        kind,
        str(job.id),
        text_of(since),
        times=times,
        text=('%s %s' % (label_of(job), one_line(text)))[:255],
        alert_to=job.alert_to,
    )


def subjects_of(known, kind):
    """The subjects of the troubles of a kind that go on."""
    return {row.subject for row in known if row.kind == kind and not row.ended_utc}


def where_of(job):
    """Where a job ran last."""
    return host_of(job.last_worker) or job.last_worker


def failing_jobs(store, known, now):
    """Jobs that fail, until they succeed. A lost run is told at once."""
    told = subjects_of(known, 'failing')
    found = []
    for job in jobs_where(store, 'failures > 0'):
        is_lost = job.last_status.startswith('ERROR: lost')
        is_known = str(job.id) in told
        if not (job.failures >= (job.alert_after or 1) or is_lost or is_known):
            continue
        if job.last_status.startswith(REFUSED) and not is_known:
            continue  # that is `unsigned`
        since = now if is_known else first_failure(store, job, now)
        reason = job.last_status.removeprefix('ERROR: ')
        text = 'is failing (%s on %s)' % (reason, where_of(job))
        found.append(trouble_of(job, 'failing', since, text, job.failures))
    return found


def first_failure(store, job, now):
    """Since when a job fails, a datetime, UTC, as far as the history knows."""
    rows = store.query(STATUS_FACTS, jobs=[job.id])
    ended = first_failures(store, rows).get(job.id) or job.last_end
    return store.zone.utc_before(moment(ended), now) if ended else now


def late_jobs(store, known, now):
    """Jobs that are due for long and have not started, though nobody has paused them;
    until they start."""
    limit = now - store.config.alert_late_minutes * MINUTE
    which = '{waiting} AND {startable} AND next_run_utc <= :limit'
    jobs = jobs_where(store, which, limit=text_of(limit))
    if not jobs:
        return []
    told = subjects_of(known, 'late')
    ends = ends_of_pauses(store)
    hosts = hosts_there(store, now)
    found = []
    for job in jobs:
        due = moment(job.next_run_utc)
        free = [
            ends.get(host.name.lower(), due)
            for host in hosts
            if may_take(job, host.name, host.tags)
            and (host.is_there or host.name.lower() in ends)
        ]
        since = max(due, ends.get('*', due), min(free, default=due))
        if since > limit and str(job.id) not in told:
            continue
        text = 'is late (due since %s)' % text_of(store.zone.local(due))
        missing = missing_for(job, hosts)
        if missing:
            text += ': waits for ' + missing
        found.append(trouble_of(job, 'late', since, text))
    return found


def ends_of_pauses(store):
    """When the pauses end or ended, UTC datetimes by their targets."""
    rows = store.query('SELECT target, until_utc FROM pause')
    return {row.target: moment(row.until_utc) or EPOCH for row in rows}


def slow_jobs(store, known, now):
    """Jobs that run for more than twice as long as any of their last 20 successes."""
    limit = text_of(store.zone.local(now) - SLOW_FROM)
    found = []
    for job in jobs_where(store, IS_LONG, limit=limit):
        begun = store.zone.utc_before(moment(job.last_start), now)
        longest = store.query(LONGEST, id=job.id)[0].longest
        if longest is None or now - begun <= max(SLOW_FROM, longest * SECOND / 500):
            continue
        text = 'is slow (runs on %s since %s, has taken %s at most)' % (
            where_of(job),
            job.last_start,
            lasted(longest * SECOND / 1000),
        )
        found.append(trouble_of(job, 'slow', begun, text))
    return found


IS_LONG = "run_token > '' AND last_start <= :limit"
LONGEST = """SELECT MAX(duration_ms) AS longest FROM (SELECT duration_ms FROM run
    WHERE job_id = :id AND status = 'Success' ORDER BY run_no DESC LIMIT 20) AS last"""


def jobs_by_status(store, known, now):
    """Jobs whose status says by itself what is wrong, as long as it does."""
    values = {'parked': text_of(PARKED)}
    return [
        trouble_of(job, kind, now, text % (job.last_status.partition(': ')[2]))
        for kind, (which, text) in SAID_BY_STATUS.items()
        for job in jobs_where(store, which, **values)
    ]


SAID_BY_STATUS = {  # kind: (SQL, what is wrong)
    'stuck': (
        "run_deadline_utc <= {utc} AND last_status LIKE 'ERROR: process%'",
        "can't be ended (%s)",
    ),
    'parked': (
        'run_token IS NULL AND next_run_utc = :parked '
        "AND last_status LIKE 'ERROR: schedule%'",
        'is parked (%s)',
    ),
    'unsigned': (
        "failures > 0 AND last_status LIKE 'ERROR: refused%'",
        'does not run (%s)',
    ),
}


def skipped_jobs(store, known, now):
    """Jobs that did not run at a time of theirs, until an hour after that."""
    ids = {int(subject) for subject in subjects_of(known, 'skipped')}
    since = text_of(last_pass(store, now))
    ids |= {row.job_id for row in store.query(NEW_SKIPS, since=since)}
    found = []
    for some in parts_of(sorted(ids)):
        for job in jobs_where(store, 'id IN (:ids)', ids=some):
            found += skip_of(store, job, now)
    return found


def skip_of(store, job, now):
    """The last skip of a job, as a list; empty if it was over an hour ago."""
    for row in store.query(LAST_SKIP, id=job.id):
        since = store.zone.utc_before(moment(row.ended_at), now)
        text = 'was skipped (%s)' % row.status.removeprefix('SKIPPED: ')
        if since > now - SKIPPED_FOR:
            return [trouble_of(job, 'skipped', since, text)]
    return []


NEW_SKIPS = """SELECT DISTINCT job_id FROM run
    WHERE ended_at >= :since AND {was_skipped}"""
LAST_SKIP = """SELECT status, ended_at FROM run
    WHERE job_id = :id AND {was_skipped} ORDER BY run_no DESC LIMIT 1"""


def last_pass(store, now):
    """The database's local time from which on the last pass may not have seen all. Not
    after the time that a clock shows that was just set back."""
    rows = store.query('SELECT value FROM about WHERE name = :name', name=LAST_PASS)
    last = moment(rows[0].value) if rows else None
    before = now if last is None else last
    return min(store.zone.local(before), store.zone.local(now)) - OVERLAP


def seen_hosts(store, now):
    """[(Host, when it was last seen, a datetime, UTC)]"""
    names = ', '.join(Host._fields)
    rows = store.query('SELECT %s FROM host WHERE last_seen IS NOT NULL' % names)
    return [
        (row, store.zone.utc_before(moment(row.last_seen), now))
        for row in map(Host._make, rows)
    ]


def living_hosts(store, now):
    return [host for host, seen in seen_hosts(store, now) if seen >= now - UNSEEN_FOR]


def hosts_away(store, known, now):
    """Hosts that were there today, and are not."""
    return [
        Trouble(
            'host',
            host.name,
            text_of(seen),
            text='host %s is away (last seen at %s)' % (host.name, host.last_seen),
        )
        for host, seen in seen_hosts(store, now)
        if now - EXPECTED_FOR < seen < now - UNSEEN_FOR
    ]


def full_hosts(store, known, now):
    """Whether all hosts run as many jobs as they may, while others wait."""
    hosts = living_hosts(store, now)
    if not hosts or any(host.running < host.max_tasks for host in hosts):
        return []
    limit = text_of(now - WAITING_FROM)
    if not store.query(IS_WAITING, limit=limit):
        return []
    slots = sum(host.max_tasks for host in hosts)
    text = 'jobs wait: all slots are taken (%d on %d hosts)' % (slots, len(hosts))
    return [Trouble('full', '*', text_of(now), text=text)]


IS_WAITING = """SELECT id FROM job
    WHERE {waiting} AND {startable} AND next_run_utc <= :limit LIMIT 1"""


########################################################################################
# check: does everything work that a worker needs?
########################################################################################

# Settings of a server: 1 keeps what is committed. No session can set them.
DURABLE = 'innodb_flush_log_at_trx_commit', 'sync_binlog'

# The schema of the tables, and who may create in it but its owner and this account.
CREATORS = """SELECT quote_ident(nspname),
    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE CAST(CAST(grantee AS regrole) AS text) END
    FROM pg_namespace, aclexplode(nspacl)
    WHERE nspname = current_schema() AND privilege_type = 'CREATE'
    AND grantee <> nspowner
    AND grantee <> CAST(CAST(quote_ident(current_user) AS regrole) AS oid)
    ORDER BY grantee"""


@command('check', given=given_config)
def cmd_check(args, config):
    """check what a worker needs, one line each

    The exit status is 1 if a line is `bad`, 2 if the configuration is.
    """
    store = Store(config)
    status = 0
    for what, result_of in (
        ('config', lambda store: store.config.file),
        ('folders', folders_of),
        ('tls', tls_in_words),
        ('database', connect_in_words),
        ('schema', count_jobs),
        ('writing', try_to_write),
        ('triggers', try_triggers),
        ('durability', durability_in_words),
        ('time zone', zone_in_words),
        ('clock skew', lambda store: '%d ms' % skew_of(store.now())),
        ('servers', servers_in_words),
        ('signatures', signatures_in_words),
        ('alerts', alerts_in_words),
        ('worker', last_seen_in_words),
    ):
        try:
            if what not in ('config', 'folders', 'tls', 'database'):
                store.connect()  # again, if an error has closed the connection
            print(visible('ok   %s: %s' % (what, result_of(store))))
        except Problem as problem:
            print('bad  %s: %s' % (what, line_of(problem)))
            status = 1
            if what in ('database', 'schema'):
                break
    return status


def connect_in_words(store):
    """Connect, to whatever tables there are."""
    store.open()
    store.close()
    return store.config.db_engine


def folders_of(store):
    """The folders, in each of which a file can be written."""
    state = State(store.config).folder
    folders = [store.config.log_location, state]
    wrong = []
    for folder in folders:
        path = os.path.join(folder, 'check-%d' % os.getpid())
        try:
            with open(path, 'xb', buffering=0) as file:
                file.write(b'.')
        except OSError as error:
            wrong.append('%s: %s' % (folder, error.strerror))
        with suppress(OSError):
            os.unlink(path)
    if wrong:
        raise Problem('; '.join(wrong))
    return ', '.join(folders)


def tls_in_words(store):
    """Whether nobody else can answer in the database's place."""
    config = store.config
    if config.db_tls:
        return 'verified by %s' % config.db_tls['ca']
    for host, _, socket in config.hosts:
        if not socket and not is_local(host):
            raise Problem(
                '%s is not verified: anyone who answers in its place, or changes its '
                'answers, runs commands on every host; set db.tls: {ca: FILE}' % host
            )
    return 'not needed on this machine'


def count_jobs(store):
    creators = ()
    if store.config.db_engine == 'postgresql':
        creators = store.query(CREATORS)
    for schema, role in creators:
        raise Problem(
            'functions that %s creates can run with the rights of this account; as the '
            'administrator: REVOKE CREATE ON SCHEMA %s FROM %s' % (role, schema, role)
        )
    return 'jobs: %d' % store.query('SELECT COUNT(*) FROM job')[0]


@contextmanager
def taken_back(store):
    """A transaction whose changes do not last."""
    store.execute(store.dialect.begin)
    try:
        yield
    finally:
        if store.connection:
            store.execute('ROLLBACK')


def try_to_write(store):
    """Write as a worker does, and take it back."""
    with taken_back(store):
        store.change('UPDATE job SET run_no = run_no WHERE id = 0')
    return 'allowed'


def try_triggers(store):
    """See what the triggers do to a row, which is taken back. To look for them by name,
    an account would need rights that it does not need otherwise."""
    with taken_back(store):
        id = store.insert('job', {'frequency': 0, 'next_run_utc': text_of(EPOCH)})
        store.change('UPDATE job SET frequency = frequency + 7 WHERE id = :id', id=id)
        job = job_of(store, id)
    if job.frequency == 8 and job.next_run_utc is None:
        return 'they keep the rules on rows'
    raise Problem(
        'missing: after a change of a schedule with SQL, set next_run_utc to NULL%s'
        % RUN_INIT
    )


def durability_in_words(store):
    """What a crash of the database's machine can lose."""
    values = {}
    if store.config.db_engine == 'mysql':
        values = dict(
            store.query(
                'SHOW GLOBAL VARIABLES WHERE variable_name IN (:names)',
                names=[*DURABLE, 'log_bin'],
            )
        )
    if values.get('log_bin') != 'ON':
        values['sync_binlog'] = '1'  # there is nothing to sync
    risky = [
        '%s is %s' % (name, values[name])
        for name in DURABLE
        if values.get(name, '1') != '1'
    ]
    if not risky:
        return 'a claim that is answered is on the disk'
    text = "%s: after a crash of the server's machine, a job may run twice"
    return text % ' and '.join(risky)


def zone_in_words(store):
    """The database's, and what knows those of the jobs."""
    offset = store.zone.offset(store.now())
    used = 'SELECT DISTINCT time_zone FROM job WHERE time_zone IS NOT NULL ORDER BY 1'
    for row in store.query(used):
        named_zone(str(row.time_zone))
    return 'UTC%+g h; tzdata: %s' % (offset.total_seconds() / 3600, tzdata_version())


def tzdata_version():
    """The version of the rules by which this host knows time zones."""
    import zoneinfo

    for folder in zoneinfo.TZPATH:
        found = re.match('# version (.+)', read_text(folder + '/tzdata.zi'))
        if found:
            return found[1]
        if os.path.isdir(folder):
            return 'of no version, in %s' % folder
    with suppress(ImportError):
        import tzdata  # from PyPI: where the system has none

        return tzdata.IANA_VERSION
    return 'none'


SHARED_SESSIONS = (
    'a pooler shares sessions, which lose their settings; in pgbouncer: '
    'pool_mode = session'
)


def servers_in_words(store):
    """Each of db.host: whether it can be used, that their clocks are one, and that a
    session keeps its settings."""
    from copy import copy

    if store.config.db_engine == 'sqlite':
        return 'none: it is a file'
    said = []
    skews = []
    shared = False
    for server in store.config.hosts:
        one = Store(copy(store.config))
        one.config.hosts = [server]
        try:
            skews.append(skew_of(one.connect().now()))
            said.append('%s is %d ms behind here' % (server_name(*server), skews[-1]))
            shared |= one.query('SELECT {backend}') == store.query('SELECT {backend}')
        except Problem as problem:
            said.append(str(problem))
        one.close()
    if shared:
        raise Problem(SHARED_SESSIONS)
    if max(skews) - min(skews) > 1000 * CLOCK_STEP.total_seconds():
        raise Problem('their clocks differ: ' + '; '.join(said))
    return '; '.join(said)


def alerts_in_words(store):
    """By what people are told when something is wrong."""
    if not store.config.alerts:
        return 'none are configured: nothing is told'
    try:
        job = job_of(store, ALERT)
    except Problem:
        text = 'nothing is told: there is no job named %s%s'
        raise Problem(text % (ALERT, RUN_INIT)) from None
    if not job.active:
        raise Problem('nothing is told: job %d is disabled' % job.id)
    if job.last_status.startswith('ERROR'):
        text = 'job %d, %s: its last run: %s; see: log %d'
        raise Problem(text % (job.id, ALERT, job.last_status, job.id))
    keys = [key for key in TOLD_BY if getattr(store.config, key.replace('.', '_'))]
    return 'by ' + ', '.join(keys)


def last_seen_in_words(store):
    """When this host's worker last said that it is there."""
    name = store.config.name
    rows = store.query('SELECT * FROM host WHERE name = :name', name=name)
    seen = moment(rows[0].last_seen) if rows else None
    if seen is None:
        raise Problem('none has ever started on %s' % name)
    text = 'last seen on %s at %s' % (name, rows[0].last_seen)
    if store.zone.utc_before(seen, store.now()) < store.now() - 5 * MINUTE:
        raise Problem(text)
    return text


########################################################################################
# crontab: import and export
########################################################################################


IMPORT_OPTIONS = (
    argument('file', 'the crontab; -: standard input', metavar='FILE'),
    switch('--system', 'it has a user column, like /etc/crontab'),
    argument(
        '--max-run-time',
        'minutes after which a run is killed; default: 1440',
        **MINUTES.keywords,
    ),
    switch('--each-host', 'jobs that run on each host'),
)


@command('import', *IMPORT_OPTIONS)
def cmd_import(args, store):
    """add the entries of a crontab as jobs

    Each line that it cannot import is reported, and then the exit status is 1: @reboot,
    entries of an unknown user, and the line that starts this program, which stays in
    cron. It adds no entry that is present.

    It keeps environment lines, SHELL, and the percent signs of cron. CRON_TZ becomes
    the time_zone of the entries below it, a mail address in MAILTO their alert_to, and
    the comment above an entry its description. Of what export wrote, an entry that runs
    after a job finds it by its name.

    All jobs run as the user of the workers. /etc/crontab and the files of a folder
    cron.d have a column for the user, and with --system any file has: an entry of
    another user becomes `sudo -n -u USER -- /bin/sh -c …`. That needs a line in sudoers
    on each host, which is printed.

    Examples
      %(prog)s - < crontab
    """
    path = os.path.abspath(args.file)
    system = args.system or path == '/etc/crontab' or '/cron.d/' in path
    lines = lines_of_crontab(args.file)
    counts = add_entries(args, store, entries(lines, system))
    print('%d added, %d already present, %d skipped' % counts)
    return 1 if counts[2] else 0


def add_entries(args, store, found):
    """Add the entries of a crontab, and say what can't be. Returns how many were added,
    were there already, and could not be added."""
    present = {
        (job.command, job.schedule or job.frequency, job.time_zone)
        for job in store.query('SELECT * FROM job')
    }
    added = known = skipped = 0
    for number, entry in found:
        where = '%s: line %d: ' % (args.file, number)
        try:
            if isinstance(entry, Problem):
                raise entry
            times = entry['schedule'] or entry.get('frequency', 60)
            key = entry['command'], times, entry.get('time_zone')
            if key in present:
                known += 1
                continue
            if isinstance(entry.get('after_job'), int):
                raise BadConfig(NO_ID_HERE % entry['after_job'])
            entry.setdefault('max_run_time', args.max_run_time or 1440)
            entry.setdefault('each_host', int(args.each_host))
            id, _ = save_job(store, None, entry)
            tell_added(id, entry['command'])
            present.add(key)
            added += 1
        except Unused as note:
            print(where + line_of(note), file=sys.stderr)
        except (BadConfig, BadSchedule, BadData) as problem:
            skipped += 1
            print(where + line_of(problem), file=sys.stderr)
    return added, known, skipped


NO_ID_HERE = "'after_job' is %d; allowed: the name of a job, as ids differ"


def lines_of_crontab(file):
    """The lines of a file, or of standard input."""
    with open(source_of(file), encoding='utf-8', errors='replace') as stream:
        return stream.read().split('\n')  # not by splitlines: a form feed ends no line


class Unused(Problem):
    """A line of a crontab that has no effect here; its entries are taken without it."""


def tell_added(id, script):
    """Say that a job was added, and what it needs to run as another user."""
    text = 'job %d: %s' % (id, words_of(script))
    print(visible(cut(text, 80)))
    other = re.match(AS_USER % r'(\S+)', script)
    if other:
        here = user_name(os.getuid())
        rule = '%s ALL=(%s) NOPASSWD: /bin/sh' % (here, other[1])
        print(visible('job %d needs in sudoers, on each host: %s' % (id, rule)))


NO_MAIL = 'MAILTO is not used: what jobs write goes into the history and their logs'


def entries(lines, system):
    """The entries of a crontab, as pairs of a line number and the columns of a job, or
    the BadSchedule that says why it is none."""
    variables = {}
    about = {}  # columns, from the lines right above an entry
    for number, line in enumerate(lines, 1):
        line = line.strip(' \t')
        above, about = about, {}
        # Export has put a # before an entry that is disabled, or that no cron knows.
        hidden = above.get('active') == 0
        if 'active' in above and (above.get('after_job') or is_once(line.lstrip('#'))):
            hidden = True
        assignment = re.fullmatch(r'''(["']?)(\w+)\1\s*=\s*(["']?)(.*?)\3''', line)
        try:
            if line.startswith('#:'):
                about = {**above, **facts_of(line)}
            elif line.startswith('#') and not hidden:
                about = description_in(line)
            elif assignment:
                variables[assignment[2]] = assignment[4]
                is_address = re.fullmatch(ADDRESS, assignment[4])
                if assignment[2] == 'MAILTO' and not is_address:
                    yield number, Unused(NO_MAIL)
            elif line:
                shown = line.lstrip('#')
                entry = {**entry_of(shown, variables, system), **above}
                check_shown(entry, above, shown)
                entry.pop('seed', None)
                yield number, entry
        except BadSchedule as problem:
            yield number, problem


def facts_of(line):
    """What export says of the next entry, as columns. Raises BadSchedule."""
    types = {column.name: column.type.json for column in COLUMNS}
    types['seed'] = (str,)
    try:
        facts = from_json(line.removeprefix('#:'))
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict) or not all(
        type(value) in types.get(name, ()) for name, value in facts.items()
    ):
        raise BadSchedule('%r is not what export writes' % line)
    return facts


def check_shown(entry, facts, line):
    """Raise BadSchedule if facts, which stand in a comment, make an entry something
    else than its line shows to people."""
    if not facts.keys() & {'command', 'schedule', 'frequency'}:
        return
    schedule = entry['schedule']
    if schedule is not None:
        schedule = resolved(schedule, facts.get('seed', ''))
    expected = crontab_line(
        facts.get('command', ''), schedule, entry.get('frequency', 60)
    )
    is_part = 'command' not in facts and line.startswith(expected)
    if line != expected.rstrip(' \t') and not is_part:
        raise BadSchedule('%r is not what the comment above it says' % line)


def description_in(line):
    """The description that a comment gives the next entry; {} for a commented-out
    entry."""
    comment = re.match(r'#[# ]*([^# \d*@].*)', line)
    if comment is None:
        return {}
    return {'description': comment[1][:255]}


# This program's name as the command, followed by nothing, an option, `run`, or a
# redirection: what starts a worker.
OWN_LINE = (
    r'(distributed_cron\.py|(^|/bin/|-m )distributed_cron)'
    r'(?=\s*$|\s+(-|run\s*$|run\s+-|[0-9]*[>|&;]))'
)


def entry_of(line, variables, system):
    """One entry of a crontab as columns of a job. Raises BadSchedule."""
    time_words = 1 if line.startswith('@') else 5
    if is_once(line):
        time_words = 3
    before_command = time_words + 1 if system else time_words
    words = line.split(None, before_command)
    if len(words) <= before_command:
        raise BadSchedule(
            '%r; allowed: five fields or a macro%s, and a command'
            % (line, ', a user' if system else '')
        )
    schedule = ' '.join(words[:time_words])
    expression_of(Job(schedule=schedule))
    if re.search(OWN_LINE, words[-1]):
        raise BadSchedule(
            '%r starts this program, which starts the jobs; keep it in the crontab'
            % line
        )
    # crontab(5): the first bare % ends the command, its standard input follows.
    parts = re.split(r'(?<!\\)%', words[-1])
    script, *stdin = [part.replace('\\%', '%') for part in parts]
    values = {'schedule': schedule, 'description': script[:255]}
    if variables.get('CRON_TZ'):
        values['time_zone'] = variables['CRON_TZ']
    if re.fullmatch(ADDRESS, variables.get('MAILTO', '')):
        values['alert_to'] = variables['MAILTO']
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
        if name not in ('SHELL', 'MAILTO', 'CRON_TZ'):
            value = shell_word(variables[name])
            script = 'export %s=%s; %s' % (name, value, script)
    return script


def shell_word(text):
    """A text quoted for the shell."""
    import shlex

    return shlex.quote(text)


def as_user(script, user):
    """A command that sudo runs as another user, if it is not the user who imports.
    Raises BadSchedule."""
    import pwd

    try:
        if pwd.getpwnam(user).pw_uid == os.getuid():
            return script
    except KeyError:
        raise BadSchedule('user %r is not known on this host' % user) from None
    return (AS_USER + '%s') % (shell_word(user), shell_word(script))


AS_USER = 'sudo -n -u %s -- /bin/sh -c '


@command('export', switch('--yaml', 'print a file for apply instead'))
def cmd_export(args, store):
    """print all jobs as a crontab"""
    jobs = store.query('SELECT * FROM job WHERE parent_id IS NULL ORDER BY id')
    if args.yaml:
        text = yaml_of(jobs)
        print(on_terminal(text), end='')
        return
    names = names_of(jobs)
    for job in jobs:
        schedule = job.schedule and shown_schedule(job)
        job = job._replace(after_job=names.get(job.after_job, job.after_job))
        print('#: ' + to_json(exported_facts(job, schedule)))
        line = crontab_line(job.command, schedule, job.frequency)
        is_for_cron = job.active and not job.after_job and not is_once(schedule or '')
        if not is_for_cron:  # or cron would run it
            line = '#' + line
        print(on_terminal(line + '\n'))


IN_LINE = 'schedule', 'frequency', 'command'  # a crontab tells these in its lines


def exported_facts(job, schedule):
    """What the crontab line of a job does not tell; of the columns that version 1 does
    not know, those that are not the default. schedule: as it is shown in the line."""
    facts = {}
    for column in COLUMNS:
        value = getattr(job, column.name)
        is_default = column in SINCE_2 and value == column.default
        if column.name not in IN_LINE and not is_default:
            facts[column.name] = value
    if job.schedule is None:  # import goes by the facts
        facts.update(schedule=None, frequency=job.frequency)
    elif schedule != job.schedule:
        facts.update(schedule=job.schedule, seed=seed_of(job))
    if '\n' in job.command or job.command != job.command.strip():
        facts['command'] = job.command
    return facts


def crontab_line(command, schedule, frequency):
    """A job in one line."""
    if schedule is None:
        schedule = nearest_expression(frequency)
    flat = command.replace('%', '\\%').replace('\n', '; ')
    return '%s %s' % (words_of(schedule), flat)


def nearest_expression(minutes):
    """The cron expression that comes nearest to a frequency."""
    if not isinstance(minutes, int) or minutes >= 1440:  # SQLite takes any text
        return '0 0 * * *'
    if minutes < 60:
        return '*/%d * * * *' % minutes
    return '0 */%d * * *' % (minutes // 60)


########################################################################################
# apply: jobs as code: the table is made as a file says
########################################################################################

# A job of a file stands for the row of its name, or of its id, and says all of it. What
# differs is found before the transaction begins; in it, the rows that are to be changed
# are locked in order of their ids, and must still be what they were.

LOOKS = 5  # at rows that others change meanwhile
WRITTEN = (*COLUMNS_BY_NAME, 'applied_by')


class Todo:
    """What is to be done, so that the table is as a file says."""

    def __init__(self):
        self.added = []  # Entries
        self.changed = []  # Entries
        self.unchanged = []  # Entries
        self.mine = []  # rows of the file's owner
        self.left = []  # those of them that the file does not have
        self.removed = []  # rows
        self.new = {}  # {column: value} of what is to be written and is not empty

    def counts(self):
        """How many are added, changed, removed, unchanged."""
        parts = self.added, self.changed, self.removed, self.unchanged
        return tuple(map(len, parts))

    def take(self, entry):
        """Sort in an entry that has been compared."""
        if entry.old is None:
            self.added.append(entry)
        elif entry.old == entry.new:
            self.unchanged.append(entry)
        else:
            self.changed.append(entry)
        for name, value in entry.values.items():
            if value and name in COLUMNS_BY_NAME:
                self.new[name] = value


APPLY_OPTIONS = (
    argument('file', 'the file; -: standard input', metavar='FILE'),
    switch('--dry-run', 'only print what is to be done, and exit 3 if anything is'),
    switch('--sign', 'sign the jobs of the file that are not signed'),
    KEY,
    switch('--prune', 'remove jobs that the file no longer has'),
    switch('--yes', 'also remove most of its jobs, or take over those of others'),
    FORCE,
)


@command('apply', *APPLY_OPTIONS, given=given_config)
def cmd_apply(args, config):
    """make jobs as a YAML file says

    The file has `jobs:`, a list, and may have `defaults:`; the keys of both are columns
    of the table. A job's name says which row it is. What neither the job nor
    `defaults:` says gets its default, as with `add`. `export --yaml` writes such a
    file; in it, a job without a name has its id, which only this database knows. An id
    beside a new name renames a job.

    It prints what it adds (+), changes (~) and removes (-), and does all of that in one
    transaction. If anything is wrong, it reports each mistake with its line, and
    changes nothing.

    --prune removes the jobs that this file made and no longer has. `owner:` in the file
    says which those are; without it, the file's name does. More than half of them go
    only with --yes, which also takes over jobs of other files.
    """
    file = JobFile(args.file)
    if args.prune and file.owner is None:
        raise file.bad('owner: is missing, which --prune needs')
    store = store_for_signing(config) if args.sign else Store(config).connect()
    todo = carry_out(store, file, args)
    report_todo(todo, args)
    if args.dry_run:
        refuse_many(todo, args)
        return 3 if any(todo.counts()[:3]) else 0
    if args.sign:  # what the table has now, as far as it is what the file says
        now = difference(store, file, args)
        sign_rows(store, [entry.old for entry in now.unchanged], args.key)
        if now.added or now.changed:
            raise Problem('others have changed jobs of the file: they are not signed')


def report_todo(todo, args):
    """Print what was done, or is to be done."""
    for line in lines_of_todo(todo):
        print(visible(line.replace('\n', ' ')))
    form = '%d added, %d changed, %d removed, %d unchanged'
    if args.dry_run:
        form = '%d to add, %d to change, %d to remove, %d unchanged'
    print(form % todo.counts())
    if not args.prune and todo.left:
        text = 'note: %d of its jobs are no longer in it; to remove them: --prune'
        print(text % len(todo.left))


def lines_of_todo(todo):
    """What is to be done, or has been, in lines."""
    for entry in todo.added:
        yield '+ %s: %s' % (entry.label, entry.new.command)
    for entry in todo.changed:
        old = entry.old._asdict()
        for name, new in entry.new._asdict().items():
            if old[name] != new:
                change = (
                    entry.label,
                    name,
                    to_plain_json(old[name]),
                    to_plain_json(new),
                )
                yield '~ %s: %s: %s -> %s' % change
    for row in todo.removed:
        yield '- %s: %s' % (row.name or row.id, row.command)


def to_plain_json(value):
    return to_json(value, ensure_ascii=False)


def carry_out(store, file, args):
    """Make the table as a file says; with --dry-run, only look. Returns the Todo."""
    for left in reversed(range(LOOKS)):
        todo = difference(store, file, args)
        if args.dry_run:
            return todo
        refuse_many(todo, args)
        try:
            write_todo(store, file, todo)
            return todo
        except (Again, BadData):  # others have changed a row, or taken a name
            if not left:
                raise


def refuse_many(todo, args):
    """Raise Problem if more than half of the jobs of a file would be removed."""
    count = len(todo.removed)
    total = len(todo.mine)
    if 2 * count > total and not args.yes:
        text = '--prune would remove %d of %d jobs; if that is right: --yes'
        raise Problem(text % (count, total))


def difference(store, file, args):
    """What is to be done, a Todo. Raises BadConfig."""
    rows = {row.id: row for row in store.query('SELECT * FROM job')}
    wrong = list(file.wrong)
    keys = match_rows(file, rows, args.yes, wrong)
    todo = Todo()
    if file.owner:
        todo.mine = [row for row in rows.values() if row.applied_by == file.owner]
    there = {entry.key for entry in file.entries}
    todo.left = [row for row in todo.mine if row.id not in there]
    known = dict(rows)
    if args.prune:
        todo.removed = todo.left
    for row in todo.removed:
        del known[row.id]
    for entry in file.entries:
        compare(entry, keys, file.owner)
        known[entry.key] = entry.new
        todo.take(entry)
    now = store.now()
    for entry in todo.added + todo.changed:
        wrong += mistakes(entry, now, store.zone, known.get)
    for entry in todo.unchanged:  # what it runs after may be removed, or a template now
        problem = parent_problem(entry.new, known.get)
        if problem and not parent_problem(entry.new, rows.get):
            wrong.append(entry.mistake('after_job', problem))
    file.refuse(wrong)
    if not args.force:
        check_hosts(store, todo.new)
    return todo


def match_rows(file, rows, take_over, wrong):
    """Find the row of each entry. Returns {name: what stands for it in after_job}.
    wrong: gets what is wrong."""
    ids = {row.name: id for id, row in rows.items() if row.name is not None}
    keys = dict(ids)
    first = {}  # key or name: the first Entry with it
    for entry in file.entries:
        try:
            entry.old = row_of(entry, rows, ids)
            for key in {entry.key, entry.name} - {None}:
                other = first.setdefault(key, entry)
                if other is not entry:
                    text = 'is that of line %d, too' % other.line
                    raise BadSchedule(text, 'name')
            owner = entry.old and entry.old.applied_by
            if file.owner and owner not in (None, file.owner) and not take_over:
                text = 'is a job of %s; to take it over: --yes' % owner
                raise BadSchedule(text, 'name')
        except BadSchedule as problem:
            wrong.append(entry.mistake(problem.column, problem))
        if entry.name is not None:
            keys[entry.name] = entry.key
    return keys


def row_of(entry, rows, ids):
    """The row of an entry; None: it is to be added. ids: by name. Raises
    BadSchedule."""
    named = ids.get(entry.name)
    id = entry.said.get('id', named)
    row = rows.get(id)
    if id is None and entry.name is None:
        raise BadSchedule('is missing', 'name')
    if id is not None and row is None:
        raise BadSchedule('%s: there is no such job' % id, 'id')
    if named not in (None, id):
        raise BadSchedule('is that of job %d' % named, 'name')
    if row is not None and row.parent_id is not None:
        raise BadSchedule('is that of a child of job %s' % row.parent_id, 'name')
    return row


def compare(entry, keys, owner):
    """Set the new row of an entry, and the columns of it that are to be written. keys:
    what stands for a name in after_job."""
    old = Job(frequency=60)
    have = {}
    if entry.old is not None:
        old = entry.old
        have = compared(old)
    said = {'name': old.name, **entry.said}
    said.pop('id', None)
    job = completed(Job(**said))
    if job.after_job in keys:
        after = keys[job.after_job]
        job = job._replace(after_job=after)
    names = set()
    for name, value in compared(job).items():
        if name not in have or have[name] != value:
            names.add(name)
    if not names.isdisjoint(TIMED_BY):
        names.update(TIMED_BY)
    if job.frequency is None:  # out of use: as the table has it
        names.discard('frequency')
    entry.values = {name: getattr(job, name) for name in names}
    if owner not in (None, old.applied_by):
        entry.values['applied_by'] = owner
    entry.new = old._replace(**entry.values)


def mistakes(entry, now, zone, find):
    """(line, text) of each thing that is wrong with what an entry is to write."""
    job = entry.new
    wrong = what_is_wrong(job, entry.values, now, zone, find)
    for flag in ('active', 'each_host'):
        value = getattr(job, flag)
        if value not in (0, 1):
            wrong[flag] = '%r; allowed: 0 or 1' % value
    return [entry.mistake(column, text) for column, text in wrong.items()]


def write_todo(store, file, todo):
    """Do what is to be done, in one transaction. Raises Again if others have changed a
    row meanwhile."""
    rows = list(todo.removed)
    entries = {}
    for entry in todo.changed:
        rows.append(entry.old)
        entries[entry.old.id] = entry
    rows.sort()
    with store.transaction():
        lock_rows(store, rows)
        ids = insert_entries(store, todo.added)
        for entry in todo.added:
            entries[ids[entry.name]] = entry
        for id, entry in sorted(entries.items()):
            after = entry.new.after_job
            values = dict(entry.values)
            if after in ids:
                values['after_job'] = ids[after]
            if entry.old or after in ids:
                update_job(store, id, values)
        for row in todo.removed:
            remove(store, row.id)
        plan_entries(store, file, entries)


def lock_rows(store, rows):
    """Lock rows. Raises Again if one is no longer what it was."""
    for part in parts_of(rows):
        locked = store.query(
            'SELECT * FROM job {by_key} WHERE id IN (:ids) ORDER BY id {lock}',
            ids=[row.id for row in part],
        )
        if list(map(content, locked)) != list(map(content, part)):
            raise Again('others change these jobs all the time; try again')


def content(row):
    """What people set of a row."""
    return row.id, [getattr(row, name) for name in WRITTEN]


def insert_entries(store, entries):
    """Add the jobs of entries. Returns their ids, by name."""
    rows = []
    for entry in entries:
        row = entry.new._asdict()
        if isinstance(row['after_job'], str):  # that job may not be there yet
            row['after_job'] = None
        rows.append(row)
    text = 'INSERT INTO job (%s) VALUES (%s)'
    names = ', '.join(WRITTEN)
    store.execute_many(text % (names, placeholders(WRITTEN)), rows)
    ids = {}
    for part in parts_of([entry.name for entry in entries]):
        text = 'SELECT id, name FROM job WHERE name IN (:names)'
        for row in store.query(text, names=part):
            ids[row.name] = row.id
    return ids


def plan_entries(store, file, entries):
    """Plan the jobs, {id: Entry}, of which a column counts that has changed."""
    plans = []
    wrong = []
    now = store.now()
    planned = [
        id
        for id, entry in sorted(entries.items())
        if not entry.values.keys().isdisjoint(PLANNED_FROM)
    ]
    for part in parts_of(planned):
        for job in store.query('SELECT * FROM job WHERE id IN (:ids)', ids=part):
            entry = entries[job.id]
            try:
                plan = plan_of_edit(job, entry.old, now, store.zone)
                plans.append(plan)
            except BadSchedule as problem:  # with this id, H is outside the window
                wrong.append(entry.mistake(problem.column, problem))
    file.refuse(wrong)
    store.execute_many(ANNOUNCE, plans)


########################################################################################
# files: a file of jobs, as apply reads it and export writes it
########################################################################################

# What neither a job nor `defaults` says is the default. Jobs are compared as texts, and
# what is out of use, such as the frequency of a job with a schedule, does not count.

TIMED_BY = 'after_job', 'schedule', 'frequency'  # one of them says when a job runs
CLOCKS = 'start_anchor', 'stop_anchor'
NUMBERS = ['id', *[column.name for column in COLUMNS if int in column.type.json]]
NOT_SAID = {**DEFAULTS, 'frequency': None}  # one of TIMED_BY is to be said
FILE_KEYS = 'owner', 'defaults', 'jobs'
JOB_KEYS = ['id', *COLUMNS_BY_NAME]
TAG = 'tag:yaml.org,2002:'  # the beginning of YAML's own ones


class Entry:
    """A job of a file."""

    def __init__(self, said, lines, line):
        self.said = said  # {key: value}
        self.lines = lines  # {key: line}
        self.line = line  # where it begins
        self.name = said.get('name')
        self.label = self.name  # in messages
        if self.name is None:
            self.label = 'job %s' % said.get('id', '?')
        self.old = None  # its row; None: there is none yet
        self.new = None  # its row, as it is to be
        self.values = {}  # the columns that differ

    @property
    def key(self):
        """What stands for it in after_job: its id, or its name while it has none."""
        return self.old.id if self.old else self.name

    def mistake(self, column, text):
        """(line, text) for what is wrong with a column."""
        line = self.lines.get(column, self.line)
        return line, '%s: %s %s' % (self.label, column, text)


class JobFile:
    """A file of jobs. What is wrong with them is kept, so that all of it is told."""

    def __init__(self, path):
        """Raises BadConfig for what is no file of jobs."""
        self.path = path
        self.wrong = []  # (line, text)
        self.owner = None
        self.defaults = {}  # {column: (value, line)}
        self.entries = []
        top = self.top_node()
        nodes = {key: node for key, node, _ in self.parts(top, FILE_KEYS)}
        jobs = nodes.get('jobs', top)
        if jobs.id != 'sequence':
            raise self.bad('jobs: allowed: a list')
        if os.path.isfile(path):  # and no pipe
            self.owner = os.path.basename(path)
        if 'owner' in nodes:
            self.owner = self.owner_in(nodes['owner'])
        if 'defaults' in nodes:
            self.defaults = self.said(nodes['defaults'], COLUMNS_BY_NAME)
        for node in jobs.value:
            own = self.said(node, JOB_KEYS)
            if own:
                entry = self.entry_of(own, line_of_node(node))
                self.entries.append(entry)

    def bad(self, text):
        return BadConfig('%s: %s' % (self.path, text))

    def top_node(self):
        """The node of YAML that is the whole file. Raises BadConfig."""
        try:
            with open(source_of(self.path), 'rb') as stream:
                top = from_yaml(stream, 'get_single_node')
        except BadConfig as problem:
            raise self.bad(problem) from None
        if top is None or top.id != 'mapping':
            raise self.bad('allowed: owner, defaults, and jobs')
        return top

    def owner_in(self, node):
        """The owner that a file names. Raises BadConfig."""
        check = has_length(1, 255)
        if node.id != 'scalar' or not check.allows(node.value):
            raise self.bad('owner: allowed: ' + check.words)
        return node.value

    def refuse(self, wrong):
        """Tell all that is wrong, (line, text), if anything is. Raises BadConfig."""
        for line, text in sorted(wrong):
            where = '%s: line %d: ' % (self.path, line)
            text = visible(words_of(text))
            print(where + text, file=sys.stderr)
        if wrong:
            raise self.bad('nothing is changed; mistakes: %d' % len(wrong))

    def parts(self, mapping, keys):
        """(key, node, line) of each value in a mapping that may have these keys."""
        seen = set()
        if mapping.id != 'mapping':
            text = 'allowed: lines of `key: value`'
            self.wrong.append((line_of_node(mapping), text))
            return
        for key_node, node in mapping.value:
            line = line_of_node(key_node)
            key = '?'  # a list; with aliases it could be endless
            if key_node.id == 'scalar':
                key = key_node.value
            if key not in keys:
                self.wrong.append((line, str(unknown('key', key, keys))))
            elif key in seen:
                self.wrong.append((line, '%s: is there twice' % key))
            else:
                yield key, node, line
            seen.add(key)

    def said(self, mapping, keys):
        """{key: (value, line)} of a job. Text stays as it is typed, whatever YAML makes
        of `22:30` or `no`."""
        said = {}
        for key, node, line in self.parts(mapping, keys):
            value = node.value
            if node.id != 'scalar' or not node.tag.startswith(TAG):
                self.wrong.append((line, '%s: allowed: a text or a number' % key))
                value = None
            elif node.tag == TAG + 'null':
                value = None
            elif node.tag == TAG + 'bool' and key in ('active', 'each_host'):
                value = int(value.lower() in ('yes', 'true', 'on'))
            elif key in CLOCKS:
                value = clock_time(value)
            elif key == 'schedule':
                value = words_of(value)
            elif key in NUMBERS and re.fullmatch('-?[0-9]{1,18}', value):
                value = int(value)
            said[key] = value, line
        return said

    def entry_of(self, own, line):
        """The Entry of a job that begins in a line, with what the defaults say."""
        both = {**self.defaults, **own}
        if any(key in own for key in TIMED_BY):
            for key in TIMED_BY:
                both[key] = own.get(key, (None, line))
        said = {}
        lines = {}
        for key, (value, key_line) in both.items():
            lines[key] = key_line
            if value is not None:
                said[key] = value
        entry = Entry(said, lines, line)
        if sum(key in said for key in TIMED_BY) != 1:
            text = 'allowed: one of ' + ', '.join(TIMED_BY)
            self.wrong.append(entry.mistake('schedule:', text))
            said.setdefault('frequency', 60)  # to see what else is wrong
        return entry


def line_of_node(node):
    return node.start_mark.line + 1


def source_of(file):
    """What to open for a file that was named on the command line; -: standard input."""
    # As another user than whoever made the pipe, one may not open it again.
    return os.dup(0) if file in ('-', '/dev/stdin') else file


def completed(job):
    """A job with the default of each column that it does not say."""
    values = dict(NOT_SAID)
    values['description'] = words_of(str(job.command))[:255]
    if not by_frequency(job) or isinstance(job.frequency, int):
        values['max_run_time'] = default_run_time(job)
    for name in COLUMNS_BY_NAME:
        said = getattr(job, name)
        if said is not None:
            values[name] = said
    return job._replace(**values)


def compared(job):
    """{column: text} of a job; None: empty, or out of use."""
    texts = {}
    for name in COLUMNS_BY_NAME:
        value = getattr(job, name)
        if value is not None:
            value = str(value)
            if name == 'schedule':
                value = words_of(value)
            elif name in CLOCKS:
                value = re.sub('^(..:..):00$', r'\1', clock_time(value))
        texts[name] = value
    if texts['after_job'] is not None:
        texts['schedule'] = None
    if texts['after_job'] is not None or texts['schedule'] is not None:
        texts['frequency'] = None
    return texts


def yaml_of(jobs):
    """Jobs as a file for apply. A job without a name has its id."""
    import yaml

    class Dumper(getattr(yaml, 'CSafeDumper', yaml.SafeDumper)):
        """With texts of several lines as such."""

    def represent(dumper, text):
        style = '|' if '\n' in text else None
        return dumper.represent_scalar(TAG + 'str', text, style=style)

    Dumper.add_representer(str, represent)
    names = names_of(jobs)
    return yaml.dump(
        {'jobs': [said_of(job, names) for job in jobs]},
        Dumper=Dumper,
        allow_unicode=True,
        sort_keys=False,
        width=20000,
    )


def names_of(jobs):
    """The names of those jobs that have one, by their ids."""
    return {job.id: job.name for job in jobs if re.fullmatch(NAME, str(job.name))}


def said_of(job, names):
    """What a file says of a job: what is not the default. names: {id: name}."""
    said = {'name': job.name}
    if job.name is None:
        said = {'id': job.id}
    said['command'] = job.command
    texts = compared(job)
    bare = Job(
        command=job.command,
        schedule=texts['schedule'],
        after_job=texts['after_job'],
        frequency=job.frequency,
    )
    defaults = compared(completed(bare))
    for name, text in texts.items():
        if name in said or text is None:
            continue
        if name in TIMED_BY or text != defaults[name]:
            said[name] = text
            if isinstance(getattr(job, name), int):
                said[name] = getattr(job, name)
    if 'after_job' in said:
        said['after_job'] = names.get(job.after_job, job.after_job)
    return said


########################################################################################
# sign: jobs are signed, and their signatures looked at
########################################################################################


SIGN_OPTIONS = (
    argument('id', 'the ids or the names of jobs', nargs='*', **BY_NAME),
    switch('--all', 'sign all jobs'),
    KEY,
    argument(
        '--not-after',
        'until when it holds: YYYY-MM-DD or YYYY-MM-DD HH:MM, UTC; '
        'default: until it is replaced',
        **TIME,
    ),
    switch('--yes', 'do not ask'),
)


@command('sign', *SIGN_OPTIONS, given=given_config)
def cmd_sign(args, config):
    """show what has changed in jobs since they were signed, ask, and sign them"""
    if bool(args.id) == args.all:
        raise BadConfig('sign: name the jobs, or --all')
    until = text_of(args.not_after)
    if until and is_over(until):
        raise BadConfig('--not-after %s UTC is in the past' % until)
    store = store_for_signing(config)
    jobs = []
    for job in signable(store, args.id):
        last = last_good(config, job)
        texts = to_sign(store, job, last, until)
        print_changes(job, last, texts)
        jobs.append((job, texts))
    if not args.yes and not is_confirmed('sign %d jobs? [y/N] ' % len(jobs)):
        raise Problem('nothing was signed')
    sign_jobs(store, jobs, args.key)


def sign_jobs(store, jobs, key):
    """Sign jobs. jobs: (row, texts). key: what --key says."""
    config = store.config
    with key_file(config, key) as file:
        for job, texts in jobs:
            signature = signed_by(config, file, texts)
            write_signature(store, job, signature)
            print('job %d: signed by %s' % (job.id, signature.signer), flush=True)


def sign_rows(store, rows, key):
    """Sign the rows that are not as somebody signed them."""
    jobs = []
    for row in rows:
        signer, _ = judged(store, row)
        if signer is None:
            last = last_good(store.config, row)
            jobs.append((row, to_sign(store, row, last, None)))
    if jobs:
        sign_jobs(store, jobs, key)


def store_for_signing(config):
    """The database of a host that knows who may sign. Raises BadConfig."""
    if not config.sign_signers:
        raise config.bad(NO_SIGNERS)
    if not config.sign_cluster:
        raise config.bad(NO_CLUSTER)
    return Store(config).connect()


def signable(store, ids):
    """The jobs of these ids or names; all that can be signed, if there are none."""
    jobs = [job_of(store, id) for id in ids]
    refuse_children(jobs)
    return jobs or store.query(
        'SELECT * FROM job WHERE parent_id IS NULL AND NOT {is_alert} ORDER BY id'
    )


def refuse_children(jobs):
    """Raise BadConfig for a job that a template has on a host: it is as that says."""
    for job in jobs:
        if job.parent_id is not None:
            text = 'job %d is on one host what job %s says; name job %s'
            raise BadConfig(text % (job.id, job.parent_id, job.parent_id))


def last_good(config, job):
    """The Signature of a job, if it is good for what was signed; else None."""
    signature = signature_of(job)
    if signature is None or doubt_of(config, signature) is not None:
        return None
    return signature


def to_sign(store, job, last, until):
    """The texts of a job that are signed now. rev is above that of the last good
    signature; what its row has for one may be anybody's."""
    rev = time.time_ns() // 1000
    if last is not None:
        rev = max(rev, last.rev + 1)
    job = job._replace(rev=rev, not_after=until)
    return texts_of(job, store.config.sign_cluster)


def print_changes(job, last, texts):
    """Print in what the texts of a job differ from those of its last good signature; if
    there is none, all of them."""
    old = dict.fromkeys(SIGNED)
    said = 'has no good signature; all of it is new'
    if last is not None:
        old = last.texts
        said = 'changed since %s signed it at %s' % (last.signer, time_of(last.rev))
    changed = [name for name in SIGNED if name != 'rev' and old[name] != texts[name]]
    if not changed:
        said = 'not ' + said
    description = one_line(job.description)
    print(visible('job %d %s: %s' % (job.id, description, said)))
    for name in changed:
        for sign, text in (('-', old[name]), ('+', texts[name])):
            if text is not None:
                line = visible('  %s %s: %s' % (sign, name, text))
                print(line.replace('\n', '\n      '))


def time_of(rev):
    """When a version was signed, in words."""
    try:
        return text_of(EPOCH + timedelta(microseconds=rev)) + ' UTC'
    except OverflowError:  # whoever signed it chose another number
        return 'rev %d' % rev


def is_confirmed(question):
    """Whether the answer to a question is yes."""
    try:
        return input(question).strip().lower() in ('y', 'yes')
    except EOFError:
        return False


@contextmanager
def key_file(config, given):
    """The file of the key to sign with: the given one, or one with the first public key
    of the agent that may sign."""
    if given is not None:
        yield given
        return
    import subprocess
    from tempfile import NamedTemporaryFile

    signers = read_text(config.sign_signers).split()
    done = subprocess.run(['ssh-add', '-L'], capture_output=True)
    keys = done.stdout.decode().splitlines()
    keys = [key for key in keys if key.split()[1] in signers]
    if not keys:
        text = 'the ssh agent has no key that %s lists; allowed: --key FILE'
        raise Problem(text % config.sign_signers)
    with NamedTemporaryFile('w', suffix='.pub') as file:
        file.write(keys[0])
        file.flush()
        yield file.name


def signed_by(config, key, texts):
    """The Signature of texts by a key, which must be good. Raises Problem."""
    import subprocess

    text = signed_bytes(texts)
    done = subprocess.run(  # it may ask for a passphrase, or to touch a key
        ['ssh-keygen', '-q', '-Y', 'sign', '-n', NAMESPACE, '-f', key],
        input=text,
        stdout=subprocess.PIPE,
    )
    if done.returncode != 0:
        raise Problem('ssh-keygen could not sign with %s' % key)
    armor = done.stdout.decode()
    done = ask_ssh(config, 'find-principals', armor, b'')
    found = done.stdout.decode().split()
    if not found:
        raise Problem('%s does not list the key %s' % (config.sign_signers, key))
    rev = int(texts['rev'])
    signature = Signature(found[0], texts, armor, rev)
    doubt = doubt_of(config, signature)
    if doubt is not None:
        raise Problem(doubt)
    return signature


def write_signature(store, job, signature):
    """Write a signature into the row of a job, which must be as it was shown."""
    signer, texts, armor, rev = signature
    names = [name for name in SIGNED if name not in ('cluster', 'id')]
    same = ' AND '.join('%s {same} :%s' % (name, name) for name in names)
    changed = store.change(
        '''UPDATE job SET signature = :signature, rev = :new_rev, not_after = :until
        WHERE id = :id AND '''
        + same,
        signature='\n'.join((signer, list_of(texts), armor)),
        new_rev=rev,
        until=texts['not_after'],
        id=job.id,
        **{name: getattr(job, name) for name in names},
    )
    if not changed:
        raise Problem('job %d was changed meanwhile: it is not signed' % job.id)


@command('verify', JOBS_OR_ALL)
def cmd_verify(args, store):
    """say of jobs, or of all, whether they are as they were signed, and by whom"""
    status = 0
    for job in signable(store, args.id):
        signer, said = judged(store, job)
        word = 'ok  ' if signer else 'bad '
        print(visible('%s job %d: %s' % (word, job.id, said)))
        if signer is None:
            status = 1
    return status


def signatures_in_words(store):
    """Who signed the jobs, and how many of them would be refused. Raises Problem."""
    config = store.config
    if not config.sign_signers:
        return 'not required: any job is run'
    memory = Signatures(config, config.state_location)
    memory.prepare()
    signers = defaultdict(int)
    flaws = []
    for job in signable(store, ()):
        signer, said = judged(store, job, memory.doubt)
        if signer is None:
            flaws.append('job %d: %s' % (job.id, said))
        else:
            signers[signer] += 1
    signers = sorted(signers.items())
    text = 'signed by ' + ', '.join('%s: %d' % pair for pair in signers)
    if flaws:
        text += '; not as signed: %d, such as %s; see: verify' % (len(flaws), flaws[0])
    if flaws and config.sign_required is True:
        raise Problem(text)
    return text


def tell_unsigned(store, before, id):
    """Say that a job which was added, or has changed, is not as it was signed. before:
    its row before the change; None: it is new."""
    matters = store.config.sign_required if before is None else before.signature
    if not matters:
        return
    flaw = flaw_of(job_of(store, id), store.config.sign_cluster, lambda _: None)
    if flaw is not None:
        print('note: %s; to sign it: %s sign %d' % (flaw, command_line(), id))


########################################################################################
# demo: three workers on an embedded database
########################################################################################

DEMO = [  # rows of `job`
    {
        'command': 'sleep 3; echo here',
        'description': 'left behind by a killed worker',
        'max_run_time': 9,
    },
    {'command': 'echo hello'},
    {'command': 'date'},
    {'command': 'uname -a'},
    {'command': 'ls / | wc -l'},
    {'command': 'sleep 1'},
    {'command': 'id'},
    {'command': 'echo oh >&2'},
    {'command': 'seq 9 | tail -1'},
    {'command': 'printf "no newline"'},
    {'command': 'echo this one fails; exit 3'},
    {'command': 'sleep 60', 'description': 'runs out of time', 'frequency': 2},
]
NEXT = '''
Each of the 12 jobs ran once. Next, with PyYAML installed (python3-yaml):
  %(program)s init
  %(program)s add --every 5 date
  %(program)s run --forever'''
DEMO_SECONDS = 14  # after which it gives up


@command('demo', given=lambda args: None)
def cmd_demo(args, _):
    """run three workers on an embedded database; needs only Python"""
    import tempfile

    folder = tempfile.mkdtemp(prefix='distributed_cron_demo.')
    print('An embedded database and the logs of three workers: %s' % folder)
    configs = [demo_config(folder, name) for name in ('gamma', 'alpha', 'beta')]
    COMMANDS['init'].function(  # of a section that this one may not call
        SimpleNamespace(print=False, new_identity=False), configs[0]
    )
    store = Store(configs[0]).connect()
    limit = time.monotonic() + DEMO_SECONDS
    add_demo_jobs(store, DEMO[:1])
    kill_a_worker(store, configs[0], limit)
    add_demo_jobs(store, DEMO[1:])
    for config in configs:
        worker_of(config).start()
    ended = 0
    while ended < len(DEMO) and time.monotonic() < limit:
        time.sleep(0.05)
        ended = len(store.query('SELECT 1 FROM run'))
    show_demo_runs(store, folder)
    print(NEXT % {'program': to_be_typed()})


def to_be_typed():
    """What starts this program from the current folder, as it was started now."""
    typed = command_line()
    path = sys.argv[0]
    if ' ' in typed:  # python3 -m
        return typed
    if '/' in path and os.access(path, os.X_OK):
        return path
    return 'python3 ' + path


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

    context = get_context('fork')
    return context.Process(target=work, args=(config, True), daemon=True)


def add_demo_jobs(store, jobs):
    for job in jobs:
        save_job(store, None, {'description': job['command'], **job})


def kill_a_worker(store, config, limit):
    """Start a worker, and kill it when it has claimed a job. Raises Problem if it has
    not by the limit, a time.monotonic()."""
    worker = worker_of(config)
    worker.start()
    while not store.query('SELECT 1 FROM job WHERE run_token IS NOT NULL'):
        if time.monotonic() > limit:
            raise Problem(
                'demo: no worker has claimed a job; see %s' % config.worker_log
            )
        time.sleep(0.05)
    worker.kill()
    worker.join()
    state = State(config)
    while not state.lock():  # a runner that was just forked has it for a moment
        time.sleep(0.01)
    state.lock_file.close()
    print('gamma took job 1 and was killed; now gamma starts again')


def show_demo_runs(store, folder):
    """Print what ran. Raises Problem if not each job ran once."""
    rows = store.query('SELECT * FROM run JOIN job ON id = job_id ORDER BY job_id')
    print_rows(
        rows,
        False,
        cell('job_id'),
        cell('description'),
        cell('started_at'),
        cell('duration_ms'),
        cell('worker'),
        cell('status'),
    )
    if [row.job_id for row in rows] != list(range(1, len(DEMO) + 1)):
        raise Problem('demo: not each of the 12 jobs ran once; see %s' % folder)


if __name__ == '__main__':
    exit_status = main()
    if pass_options(sys.argv[1:]):
        os._exit(exit_status)  # to take apart what was imported costs a pass 3 ms
    sys.exit(exit_status)
