"""What the checker demands of jobs that have a place, tries, a parent, a limit or a pause,
and of what is noted of runs that were late.

As the checker itself, it knows nothing of the program. Each rule is a function of a Judge,
a Job, its runs and its records; runs are what the commands wrote themselves. Times are
seconds of CLOCK_BOOTTIME.
"""

import math
import re
from collections import namedtuple

# From `begin` on, a host had these words: its name and its tags. place: the host itself,
# whatever it is called.
Words = namedtuple('Words', 'place begin words')
# No start from `begin`, when it was committed for certain, to `until`. target: the id of a
# job, the name of a host, or '*'. over: when it had ended for certain, if that is later:
# somebody ended it, and that took a while.
Pause = namedtuple('Pause', 'target begin until over', defaults=(0,))

WHOLE = 1  # second: the databases' times in the history have no fractions
GRACE = 3  # seconds that a claim in flight may take to start its command
OTHERS_FIRST = 10  # seconds for which a host leaves a retry to others


def judge(judged, job, runs, records):
    """All rules."""
    where(judged, job, runs, records)
    limits(judged, job, runs, records)
    pauses(judged, job, runs, records)
    skips(judged, runs, records)
    notes(judged, job, runs, records)
    if job.retries:
        tries(judged, job, runs, records)
    elif any(run.attempt for run in runs):
        judged.find('untold', runs[-1], 'a retry of a job that has none')
    if job.after:
        follows(judged, job, runs, records)


def is_skip(record):
    return record.status.startswith('SKIPPED')


def claimed_at(run, records):
    """When the database says that a run was claimed; else when its command began."""
    return next(
        (
            record.started
            for record in records
            if record.run_no == run.run_no and record.started is not None
        ),
        run.start,
    )


def is_delayed(judged, run, claimed):
    """Whether a fault explains that a command began so late after its claim."""
    return run.start < claimed + WHOLE + GRACE or any(
        fault.begin <= run.start
        and claimed <= fault.until
        and run.start <= fault.end + WHOLE + GRACE
        and (run.host in fault.hosts or judged.is_of_all(fault))
        for fault in judged.troubles
    )


# Where.


def where(judged, job, runs, records):
    """A run is on a host that had the job's word at some moment from claim to start."""
    if job.word is None:
        return
    for run in runs:
        since = min(claimed_at(run, records), run.start) - 0.05
        epochs = [epoch for epoch in judged.words if epoch.place == run.place]
        ends = [epoch.begin for epoch in epochs[1:]] + [math.inf]
        may = any(
            job.word in epoch.words and epoch.begin <= run.start and since <= end
            for epoch, end in zip(epochs, ends)
        )
        if not may:
            text = 'on %s, which is not %s' % (run.place, job.word)
            judged.find('misplaced', run, text)


# Until when.


def limits(judged, job, runs, records):
    """No run is claimed when it is too late for the tick for which it comes."""
    if job.within == math.inf:
        return
    for run in runs:
        due = max((due for due in job.due if due <= run.start), default=None)
        if due is None or run.attempt:
            continue
        limit, claimed = due + job.within, claimed_at(run, records)
        if claimed >= limit or not (
            run.start < limit or is_delayed(judged, run, claimed)
        ):
            text = 'claimed %.2f, begun %.2f s after its time, allowed: %.2f'
            facts = claimed - due, run.start - due, job.within
            judged.find('beyond', run, text % facts)


def pauses(judged, job, runs, records):
    """Nothing is claimed in a pause, but what was asked for."""
    for pause in judged.pauses:
        for run in runs:
            if job.asked or pause.target not in ('*', job.id, run.host):
                continue
            claimed = claimed_at(run, records)
            early = pause.begin + WHOLE < claimed < pause.until - WHOLE
            in_flight = claimed <= pause.begin + WHOLE and is_delayed(
                judged, run, claimed
            )
            inside = pause.begin + WHOLE + GRACE < run.start < pause.until - WHOLE
            if early or inside and not in_flight:
                text = '%.2f s after %s was paused, claimed %.2f s after'
                facts = run.start - pause.begin, pause.target, claimed - pause.begin
                judged.find('paused', run, text % facts)


def skips(judged, runs, records):
    """A time that is recorded as skipped was not run for, and its reason is true."""
    for record in filter(is_skip, records):
        for run in runs:
            if record.due is not None and run.due == record.due and not run.attempt:
                text = 'skipped, but run %s was for that time' % run.run_no
                judged.find('unskipped', record, text)
        still = re.search('run ([0-9]+) on .* still ran', record.status)
        if still and not any(
            run.run_no == int(still[1])
            and run.start - WHOLE <= record.due <= (run.end or math.inf) + WHOLE
            or run.run_no == int(still[1])
            and is_unseen(run, record, judged)
            for run in runs
        ):
            judged.find('unskipped', record, '%r is not so' % record.status)
        paused = 'paused by' in record.status
        if paused and not any(
            pause.begin - GRACE <= record.due + 60 and record.due <= end_of(pause)
            for pause in judged.pauses
        ):
            judged.find('unskipped', record, '%r: there was no pause' % record.status)


def is_unseen(run, record, judged):
    """Whether a fault kept others from seeing that a run had ended."""
    return any(
        fault.begin <= record.due and record.due <= fault.until
        for fault in judged.faults
    )


# Why late.

LATE = re.compile(r'(?:retry \d+ of \d+, )?(\d+) (s|min|h|days) late: (.*)')
SECONDS = {'s': 1, 'min': 60, 'h': 3600, 'days': 86400}
WORD = r'[a-z0-9_.-]+'
# What a note may say, in the order in which they are tried; the host is that before it, or
# the last one named.
SAYS = re.compile(
    rf'''(?x)
    (?P<nobody> no\ worker (?:\ of\ (?P<word> {WORD}))? \ was\ seen)
    | (?P<all> all\ hosts\ were\ paused)
    | (?P<tag> no\ host\ had\ the\ tag\ (?P<tagged> {WORD}))
    | (?P<run> run\ (?P<number> \d+) \ on\ {WORD} \ had\ not\ ended)
    | (?P<perl> a\ run\ of\ a\ Perl\ worker)
    | (?:^|,\ | and\ ) (?P<host> (?!and\ ) {WORD}) \ (?= had\ all | could\ not
        | failed: | paused | not\ seen)
    | (?P<slots> had\ all\ slots\ taken,\ (?P<taken> \d+) )
    | (?P<cut> could\ not\ reach\ the\ database)
    | (?P<failed> failed:)
    | (?P<paused> paused\ until)
    | (?P<unseen> not\ seen)'''
)


def notes(judged, job, runs, records):
    """What is noted of a run that came late is so. Times in it are to the minute, and are
    not judged; that it is unknown may always be said."""
    for record in records:
        if is_skip(record) or not record.note or record.started is None:
            continue
        late = LATE.match(record.note)
        says = list(SAYS.finditer(late[3])) if late else []
        if not says and not (late and late[3].startswith('unknown')):
            judged.find('untrue', record, '%r is not understood' % record.note)
            continue
        since = record.started - (int(late[1]) + 1) * SECONDS[late[2]]
        if record.due is not None:
            since = min(since, record.due)
        between, host = (since, record.started + WHOLE), None
        for one in says:
            host = one['host'] or host
            if not one['host'] and not is_true(judged, job, one, host, between):
                text = '%r: %r is not so, from %.2f to %.2f'
                facts = (record.note, one[0], *between)
                judged.find('untrue', record, text % facts)


def is_true(judged, job, one, host, between):
    """Whether what a note says, a match of SAYS, is so. host: of which it says it."""
    if one['nobody']:
        names = job.names or judged.hosts
        return all(is_silent(judged, name, between) for name in names)
    if one['tag']:
        return not had_tag(judged, one['tagged'], between)
    if one['run']:
        return still_ran(judged, job, int(one['number']), between[0])
    if one['perl']:
        return True  # the checker knows of none, and the harness runs none
    if one['slots']:
        return most_at_once(judged, host, between) >= int(one['taken'])
    if one['failed']:
        return is_hit(judged, host, between, judged.faults)
    if one['all'] or one['paused']:
        target = '*' if one['all'] else host or job.id
        return is_paused(judged, target, between)
    return is_silent(judged, host, between)


BACK = 10  # seconds in which a host is back after a fault
LONG = 1  # second: when a shell takes so long to start, a worker may time out


def is_silent(judged, host, between):
    """Whether a host's worker was stopped, or cut off, or not yet there at some time."""
    if host not in judged.hosts:
        return True  # a guest of the harness, which comes and goes
    silent = [fault for fault in judged.faults if fault.silences]
    silent += [
        fault
        for fault in judged.troubles
        if fault not in judged.faults and fault.end - fault.begin > LONG
    ]
    starts = [epoch.begin for epoch in judged.words if host in epoch.words]
    return is_hit(judged, host, between, silent) or between[0] < min(
        starts, default=-math.inf
    )


def is_hit(judged, host, between, faults):
    """Whether one of some faults hit a host at some time."""
    return any(
        fault.begin <= between[1]
        and between[0] <= fault.end + BACK
        and (host in fault.hosts or judged.is_of_all(fault))
        for fault in faults
    )


def is_paused(judged, target, between):
    """Whether a job, a host, or all were paused at some time."""
    return any(
        str(pause.target) == str(target)
        and pause.begin - GRACE <= between[1]
        and between[0] <= end_of(pause) + WHOLE
        for pause in judged.pauses
    )


def end_of(pause):
    """Until when something may have been paused."""
    return max(pause.until, pause.over)


def had_tag(judged, tag, between):
    """Whether a host had a tag all the time, and was not silent."""
    for place in {epoch.place for epoch in judged.words}:
        epochs = [epoch for epoch in judged.words if epoch.place == place]
        before = [epoch for epoch in epochs if epoch.begin < between[0]]
        now = [*before[-1:], *epochs[len(before) :]]
        now = [epoch for epoch in now if epoch.begin <= between[1]]
        if before and all(tag in epoch.words for epoch in now):
            return not is_silent(judged, before[-1].words[0], between)
    return False


def still_ran(judged, job, number, due):
    """Whether a run had not ended when its job was due again, for all that others knew."""
    return any(
        run.run_no == number
        and run.start - WHOLE <= due + GRACE
        and ((run.end or math.inf) + WHOLE >= due or judged.hits(job, run))
        for run in judged.runs[job.id]
    ) or any(
        record.run_no == number and judged.is_lost(record)
        for record in judged.records[job.id]
    )


def most_at_once(judged, host, between):
    """How many runs a host had at most at the same moment of some time."""
    changes = []
    for record in sum(judged.records.values(), []):
        if record.host != host or record.started is None or is_skip(record):
            continue
        run = next(
            (
                run
                for run in judged.runs[record.job]
                if run.run_no == record.run_no and run.end
            ),
            None,
        )
        # A worker learns of an end in its next turn, which may wait for the database.
        end = run.end + GRACE if run else record.started + judged.limits[record.job]
        # A runner that was stopped tells nothing until it goes on.
        told = [fault.end for fault in judged.faults if holds_ends(fault, host, end)]
        end = max([end, *told])
        if record.started <= between[1] and between[0] <= end:
            changes += [(record.started, 1), (end, -1)]
    most = count = 0
    for _, change in sorted(changes):
        count += change
        most = max(most, count)
    return most


def holds_ends(fault, host, end):
    """Whether a fault kept a host from learning that a run had ended at a time."""
    is_stop = fault.kind in ('stop-runner', 'stop-worker', 'stop-host')
    return is_stop and host in fault.hosts and fault.begin < end < fault.end


# Again.


def tries(judged, job, runs, records):
    """Each failure is followed by its retry, with the next number; nothing else is."""
    wrote = {run.run_no: run for run in runs}
    known = sorted(record for record in records if not is_skip(record))
    for record in known:
        run = wrote.get(record.run_no)
        if run and run.attempt != record.attempt:
            text = 'its command was told attempt %s, recorded is %s'
            judged.find('untold', run, text % (run.attempt, record.attempt))
    if known and known[0].attempt:
        judged.find('untried', known[0], 'its first attempt is not on record')
    for record, after in zip(known, [*known[1:], None]):
        expected = record.attempt + 1 if fails(job, record) else None
        run = wrote.get(record.run_no)
        if (after and after.attempt) != expected:
            text = '%r in attempt %d, then %s' % (
                record.status,
                record.attempt,
                after and 'attempt %d' % after.attempt,
            )
            late = run and run.end and judged.hits(job, run)  # told when it was lost
            judged.find('untried', record, text, late)
        elif after and run and run.end and after.run_no in wrote:
            end = run.end
            if record.started is not None:  # it was given up then, if it was frozen
                end = min(end, record.started + job.limit)
            in_time(judged, job, run._replace(end=end), wrote[after.run_no])


def fails(job, record):
    """Whether a run is to be tried again."""
    return (
        record.status != 'Success'
        and record.status != 'ERROR: stopped'
        and record.attempt < job.retries
    )


def in_time(judged, job, run, retry):
    """A retry comes after its delay, and not much later."""
    due = run.end + job.delay * 2**run.attempt
    if retry.start < due - WHOLE:
        text = 'a retry %.2f s after the failure, at least %.2f'
        judged.find('hasty', retry, text % (retry.start - run.end, due - run.end))
    latest = judged.explained(job, due + OTHERS_FIRST, due, retry)
    if retry.start > latest:
        text = 'a retry %.2f s after its time, explained: %.2f'
        judged.find('late', retry, text % (retry.start - due, latest - due))


# After.


def follows(judged, job, runs, records):
    """A follower runs after each success, and has one success of its own for each run."""
    parents = {run.run_no: run for run in judged.runs[job.after]}
    successes = sorted(
        run.end
        for record in judged.records[job.after]
        for run in [parents.get(record.run_no)]
        if record.status == 'Success' and run and run.end
    )
    starts = sorted(run.start for run in runs if not run.attempt)
    for number, start in enumerate(starts):
        told = [end for end in successes if end <= start + 0.05]
        if len(told) <= number:
            text = 'run %d at %.2f, after %d successes' % (number + 1, start, len(told))
            judged.find('unled', runs[0], text)
    dead = [
        record.started + WHOLE
        for record in records
        if judged.is_lost(record) and record.started is not None
    ]
    last = max([run.start + 0.05 for run in runs] + dead, default=-math.inf)
    for end in successes:
        latest = judged.explained(job, end, end, None)
        if last < end and latest < min(judged.end, job.until):
            text = 'job %d succeeded at %.2f, and it never ran after that'
            what = runs[0] if runs else judged.nothing(job)
            judged.find('forgotten', what, text % (job.after, end))
