"""Judges what was seen of the jobs against what was promised. Knows nothing of the program.

Its input: the jobs and when each was due, what the commands wrote themselves (Run), the
rows of the history (Record), and what was broken when (Fault). All times are seconds of
CLOCK_BOOTTIME. Its output: finds, each a broken promise, and costs, which the faults
explain: runs that died with their host, ticks that came late or were made up for once.

After Jepsen's analysis of Chronos (https://aphyr.com/posts/326-jepsen-chronos).
"""

import math
from collections import defaultdict, namedtuple

from faults import rules

# kind: 'once' or 'minute', due at each of `due`; 'every': `period` seconds after its last
# start, and first at due[0]. until: when it was disabled or deleted. limit: the seconds
# after its start by which a run is dead for certain. code: its command's exit status.
# hangs: its command does not end by itself. 'maybe': nobody need run it; 'after': it has no
# time of its own. word: of the hosts that may run it; names: of those that have the word;
# none: all. fails: in how many attempts it ends with `code`, then with 0. delay: seconds until
# the first retry. after: id of its parent. within: seconds in which it may start.
# asked: by run-now.
Job = namedtuple(
    'Job',
    'id kind due until limit code hangs period word names retries delay fails after '
    'within asked',
    defaults=(math.inf, 10, 0, False, 60, None, (), 0, 0, 99, None, math.inf, False),
)
# What a command wrote: end and code are None where it never came so far; busy: it found
# that another run of its job was alive. What it was told: attempt, due (for which time it
# runs), host. place: which host it is in truth. template: the job that it belongs to.
Run = namedtuple(
    'Run',
    'job run_no host start end code busy attempt due place template',
    defaults=(None, None, False, 0, None, None, 0),
)
Record = namedtuple(
    'Record',
    'job run_no host status started due attempt note',
    defaults=(None, 0, None),
)
# hosts: those that it hits; none: it hits all, as one of the database. end: when it was
# healed. until: when the last start that it explains has come. kills: it may kill runs.
# forgets: hosts lose their state folders. withholds: results can't be written there.
# silences: the workers of its hosts are stopped, or can't do all with the database.
Fault = namedtuple(
    'Fault',
    'kind hosts begin end until kills forgets withholds silences',
    defaults=(False, False, False, False),
)
Find = namedtuple('Find', 'kind job run_no text')

LATE = 5  # seconds; more than that after its time a start is late
AT_ONCE = 1  # second: after a thaw, what had been started goes on
FIRST_LINE = 3  # seconds from a claim, in whole seconds, to its first line
SLOW = 'slow-machine'  # the kind of a fault that nobody made
EARLY = 0.05  # what /proc/uptime and the databases' clocks leave in doubt

# Kinds of faults after which two runs at once are not promised, in the README's words.
NOT_PROMISED = {
    'kill-both-and-stay-away': 'after `kill -9` of worker and runner both',
    'stop-host': "when a whole host is frozen and thawed after a run's deadline",
    'failover-that-loses-claims': 'when a failover loses claims',
}


def check(jobs, runs, records, faults, hosts, end, pauses=(), words=()):
    """(finds, costs) of a history. hosts: the names of all; end: when all had settled;
    pauses, words: those of rules."""
    judge = Judge(runs, records, faults, hosts, end)
    judge.limits = {job.id: job.limit for job in jobs}
    judge.pauses, judge.words = pauses, sorted(words)
    judge.delays += [delay_of(pause) for pause in pauses]
    judge.delays.sort(key=begin_of)
    for job in jobs:
        judge.judge(job)
    known = {job.id for job in jobs}
    for run in runs:
        if run.job not in known:
            judge.find('unknown', run, 'a run of a job that nobody made')
    return judge.finds, judge.costs


class Judge:
    """What is known of all jobs, and what was found so far."""

    def __init__(self, runs, records, faults, hosts, end):
        self.runs, self.records = defaultdict(list), defaultdict(list)
        for run in sorted(runs, key=lambda run: run.start):
            self.runs[run.job].append(run)
        for record in records:
            self.records[record.job].append(record)
        self.hosts, self.end = set(hosts), end
        self.delays = sorted(faults, key=begin_of)
        self.troubles = list(self.delays)
        # That the machine was too busy explains that starts were late, and nothing else.
        self.faults = [fault for fault in self.delays if fault.kind != SLOW]
        self.finds, self.costs = [], []
        self.pauses, self.words = (), ()
        self.limits = {}

    @staticmethod
    def is_lost(record):
        return is_lost(record)

    @staticmethod
    def nothing(job):
        """What a find is of that is of no run."""
        return Find('', job.id, None, '')

    def find(self, kind, what, text, excuses=()):
        """A broken promise; where an excuse is given, a cost."""
        find = Find(kind, what.job, what.run_no, text)
        (self.costs if excuses else self.finds).append(find)

    def judge(self, job):
        runs, records = self.runs[job.id], self.records[job.id]
        self.overlaps(runs)
        self.compare(job, runs, records)
        rules.judge(self, job, runs, records)
        if job.kind == 'every':
            self.chain(job, runs, records)
        elif job.kind in ('once', 'minute'):
            first = [run for run in runs if not run.attempt]
            self.ticks(job, first, records)
        for run in runs:
            if run.start > job.until + LATE:
                self.find(
                    'unwanted',
                    run,
                    '%.2f s after it was disabled or deleted' % (run.start - job.until),
                )

    # Two at once.

    def overlaps(self, runs):
        for before, run in zip(runs, runs[1:]):
            beside = before.end is not None and run.start < before.end - EARLY
            if run.busy or beside:
                self.find(
                    'overlap',
                    run,
                    'beside run %s on %s' % (before.run_no, before.host),
                    self.not_promised(before, run),
                )

    def not_promised(self, before, run):
        return [
            fault
            for fault in self.faults
            if fault.kind in NOT_PROMISED
            and fault.begin <= run.start
            and (not fault.hosts or before.host in fault.hosts)
        ]

    # Each run has a record that tells the truth, and each record a run.

    def compare(self, job, runs, records):
        by_number = defaultdict(list)
        for run in runs:
            by_number[run.run_no].append(run)
        for record in records:
            if record.run_no not in by_number and not rules.is_skip(record):
                self.find(
                    'phantom',
                    record,
                    'recorded as %r, and never ran' % record.status,
                    self.buried(job, record),
                )
        recorded = {record.run_no: record for record in records}
        for run_no, same in by_number.items():
            for run in same[1:]:
                self.find(
                    'duplicate',
                    run,
                    'a second run of this number, on %s' % run.host,
                    self.not_promised(same[0], run),
                )
            if run_no not in recorded:
                self.find(
                    'unrecorded',
                    same[0],
                    'ran on %s' % same[0].host,
                    job.until < math.inf and self.unknown_to_all(same[0]),
                )
            elif len(same) == 1:
                self.tell_truth(job, same[0], recorded[run_no])

    def buried(self, job, record):
        """The faults by which a claim may have died before its command began: one that
        kills, at just that moment, or one that lasted until its deadline. A host that is
        back before that gives it back. One that was frozen just after the start ends the
        command, which has not written anything, when it is thawed after its limit."""
        deadline = (record.started or 0) + job.limit - 1
        if record.status.startswith('ERROR: timed out') and record.started:
            return [
                fault
                for fault in self.hits(job, record)
                if fault.kind == 'stop-host'
                and fault.begin < record.started + FIRST_LINE
                and fault.end + 2 > deadline
            ]
        if not is_lost(record):
            return []
        return [
            fault
            for fault in self.hits(job, record)
            if fault.forgets
            or (
                fault.end + 2 > deadline
                if 'no word of' in record.status
                else fault.kills and fault.begin < deadline
            )
        ]

    def tell_truth(self, job, run, record):
        hits, status = self.hits(job, run), record.status
        # What is left of a command is ended when its host is back, or its runner missed.
        killers = [
            fault for fault in hits if fault.kills and (run.end or 0) < fault.end + 1.5
        ]
        killers += self.forgotten(run) if run.end else []
        if run.end is None:
            causes = {
                'ERROR: lost': killers,
                'ERROR: signal': killers,
                'ERROR: timed out': job.hangs or hits,
                'ERROR: stopped': hits,
            }
        else:
            causes = {
                'ERROR: exit %d' % run.code if run.code else 'Success': True,
                'ERROR: lost': killers,
                'ERROR: timed out': hits,
            }
        for begin, cause in causes.items():
            if status.startswith(begin):
                if cause is not True:
                    self.find(
                        'died',
                        run,
                        '%r, on %s, which saw %.2f to %s'
                        % (status, run.host, run.start, run.end),
                        cause,
                    )
                break
        else:
            self.find(
                'misrecorded',
                run,
                '%r, but its command %s'
                % (
                    status,
                    'never ended' if run.end is None else 'exited %d' % run.code,
                ),
            )
        code = job.code if run.attempt < job.fails else 0
        if run.code not in (None, code):
            self.find(
                'misled',
                run,
                'exited %d, not %d: another command' % (run.code, code),
            )
        if record.started and run.start > record.started + job.limit:
            self.find(
                'stale',
                run,
                'it began %.2f s after its claim, when others took it '
                'for lost' % (run.start - record.started),
                self.frozen(run),
            )
        if run.end and run.end - run.start > job.limit and not hits:
            self.find('overdue', run, 'took %.2f s' % (run.end - run.start))

    def frozen(self, run):
        """The faults in which all processes of a run's host stood still until its
        command, already started, wrote its first line."""
        return [
            fault
            for fault in self.faults
            if fault.kind == 'stop-host'
            and run.host in fault.hosts
            and fault.begin < run.start < fault.end + AT_ONCE
        ]

    def forgotten(self, run):
        """The fault by which a host lost a result that it could not report before, since
        the database or its worker was away; or could not even write, and was killed."""
        told = written = run.end + 2
        for fault in self.faults:
            if not self.is_of_all(fault) and run.host not in fault.hosts:
                continue
            if fault.begin >= run.start and (
                fault.forgets
                and fault.begin <= told
                or fault.kills
                and fault.begin <= written
            ):
                return [fault]
            if fault.begin <= told:
                told = max(told, fault.until)
            if fault.begin <= written and fault.withholds:
                written = max(written, fault.end + 2)
        return []

    def unknown_to_all(self, run):
        """Whether only its host's state folder knew of a run, its job having been deleted,
        and that was lost."""
        return [
            fault
            for fault in self.forgotten(run._replace(end=run.end or run.start))
            if fault.forgets
        ]

    def hits(self, job, run):
        """The faults that may have hit a run, or a record of one, from its claim until it
        was dead for certain."""
        return [fault for fault in self.faults if self.hit(fault, job, run)]

    def hit(self, fault, job, run):
        start = getattr(run, 'start', None) or getattr(run, 'started', None) or 0
        end = getattr(run, 'end', None) or start + job.limit
        return (
            fault.begin <= end + 2
            and start - 2 <= fault.until
            and (run.host in fault.hosts or self.is_of_all(fault))
        )

    def is_of_all(self, fault):
        return self.hosts <= set(fault.hosts or self.hosts)

    # No tick is lost, none comes twice, none too late.

    def ticks(self, job, runs, records):
        delayed = False  # a tick that may be made up for by the next one's run
        for due, following in zip(job.due, [*job.due[1:], math.inf]):
            inside = [
                run for run in runs if due - EARLY <= run.start < following - EARLY
            ]
            limit = self.latest(job, due, runs, records)
            for run in inside[1:]:
                self.find(
                    'duplicate',
                    run,
                    'a second run for the tick at %.2f' % due,
                    self.not_promised(inside[0], run),
                )
            if inside and inside[0].start > limit:
                self.late(inside[0], due, limit)
            elif inside and inside[0].start > due + LATE or inside and delayed:
                self.find(
                    'delayed', inside[0], '%.2f s' % (inside[0].start - due), True
                )
            if inside or min(limit, due + LATE) > min(self.end, job.until):
                delayed = False
            else:
                why = self.died_unseen(job, due, following, records) or self.still_ran(
                    due, runs, records
                )
                was_too_late = limit >= due + job.within
                too_late = was_too_late and is_told(due, records)
                delayed = not why and not was_too_late and limit >= following
                self.find(
                    'lost',
                    Find('', job.id, None, ''),
                    'the tick at %.2f' % due,
                    why or delayed or too_late,
                )

    def chain(self, job, runs, records):
        """The ticks of a job that counts from its last start."""
        seen = {run.run_no for run in runs}
        dead = [
            record.started
            for record in records
            if record.run_no not in seen and is_lost(record) and record.started
        ]
        due = job.due[0]
        for start in sorted([run.start for run in runs] + dead):
            what = Find('', job.id, None, '')
            limit = self.latest(job, due, runs, records)
            if start < due - 3:  # the last start is the claim's, in whole seconds
                self.find('duplicate', what, 'at %.2f, due at %.2f' % (start, due))
            elif start > limit:
                self.late(what, due, limit)
            due = start + job.period
        if self.latest(job, due, runs, records) < min(self.end, job.until):
            self.find('lost', Find('', job.id, None, ''), 'the tick at %.2f' % due)

    def late(self, run, due, limit):
        self.find('late', run, 'due at %.2f, explained until %.2f' % (due, limit))

    def latest(self, job, due, runs, records):
        """When the run for a tick starts at the latest, by the faults that explain it: those
        of all hosts, and those of a host that had this job's claim."""
        return self.explained(job, due, due, None)

    def explained(self, job, latest, due, run):
        """As `latest`, for what was due at `due` and could be there by `latest`. run: it
        has come, perhaps."""
        runs, records = self.runs[job.id], self.records[job.id]
        latest += LATE
        numbers = {one.run_no for one in (*runs, *filter(rules.is_skip, records))}
        hidden = numbers != set(
            range(1, 1 + max(numbers, default=1))
        )  # a claim was lost
        before = None
        while before != latest:
            before = latest
            near = [
                fault
                for fault in self.delays
                if fault.begin <= latest and fault.until > due
            ]
            for fault in near:
                if self.may_delay(job, fault, hidden):
                    latest = max(latest, fault.until + LATE)
            latest = max(latest, self.first_free(job, near) + LATE)
        return latest

    def may_delay(self, job, fault, hidden):
        """Whether a fault of that time, or a pause, has to do with a job. hidden: a claim
        of it was lost."""
        is_pause = fault.kind.startswith(PAUSE_OF % '')
        if is_pause and job.asked:
            return False
        if self.is_of_all(fault):
            return True
        if is_pause:
            return fault.kind == PAUSE_OF % job.id
        runs, records = self.runs[job.id], self.records[job.id]
        return hidden or self.held(job, fault, runs, records)

    def first_free(self, job, faults):
        """Until when faults keep all hosts that may run a job."""
        return min(
            (
                max(
                    (fault.until for fault in faults if name in fault.hosts),
                    default=-math.inf,
                )
                for name in job.names
            ),
            default=-math.inf,
        )

    def held(self, job, fault, runs, records):
        """Whether one of a fault's hosts had a run of the job when it came."""
        return any(
            one.host in fault.hosts and self.hit(fault, job, one)
            for one in (*runs, *records)
        )

    def died_unseen(self, job, due, following, records):
        """Whether a claim for this tick died with its host before its run began."""
        seen = {run.run_no for run in self.runs[job.id]}
        return [
            record
            for record in records
            if record.run_no not in seen
            and self.buried(job, record)
            and due - 2 <= (record.started or due) < following
        ]

    def still_ran(self, due, runs, records):
        """Whether the last run still ran, or nobody could know that it didn't."""
        return [
            run
            for run in runs
            if run.start < due
            and (
                (run.end or 0) > due - 1
                or any(
                    run.host in fault.hosts
                    and fault.begin <= due + 2
                    and due < fault.until
                    and run.start < fault.until
                    and (run.end or due) > fault.begin - 2
                    for fault in self.faults
                )
            )
        ]


def is_told(due, records):
    """Whether it is recorded that a time was skipped."""
    return any(
        rules.is_skip(record) and record.due is not None and record.due <= due + 1
        for record in records
    )


PAUSE_OF = 'pause of %s'


def delay_of(pause):
    """A pause as what explains that starts are late."""
    hosts = [] if pause.target == '*' else [str(pause.target)]
    end = rules.end_of(pause)
    return Fault(PAUSE_OF % pause.target, hosts, pause.begin, end, end)


def begin_of(fault):
    return fault.begin


def is_lost(record):
    return record.status.startswith('ERROR: lost')
