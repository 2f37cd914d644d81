"""The checker finds what is wrong with made-up histories, and nothing in right ones."""

import os

import pytest
from conftest import ROOT
from faults.checker import NOT_PROMISED, SLOW, Fault, Job, Record, Run, check
from faults.rules import Pause, Words

HOSTS = ('one', 'two', 'three')
END = 1000
DIED = 'ERROR: lost: its runner was killed or its host restarted'
DEAD = 'ERROR: lost: no word of one-7 by the deadline'


def fault(kind, hosts, begin, until, kills=False, end=None):
    return Fault(kind, hosts, begin, end or until, until, kills)


def once(**changes):
    """A job that was due at 100, as it should be: its job, runs and records."""
    return (
        Job(1, 'once', [100])._replace(**changes),
        [Run(1, 1, 'one', 100.5, 101.5, 0)],
        [Record(1, 1, 'one', 'Success', 100)],
    )


def minutes(count=4):
    """A job that was due at each minute."""
    due = [100 + 60 * number for number in range(count)]
    return (
        Job(1, 'minute', due),
        [Run(1, n + 1, 'one', at + 0.2, at + 2, 0) for n, at in enumerate(due)],
        [Record(1, n + 1, 'one', 'Success', at) for n, at in enumerate(due)],
    )


def every():
    """A job that counts from its last start."""
    starts = [100.5, 160.9, 221.3]
    return (
        Job(1, 'every', [100]),
        [Run(1, n + 1, 'one', at, at + 1, 0) for n, at in enumerate(starts)],
        [Record(1, n + 1, 'one', 'Success', int(at)) for n, at in enumerate(starts)],
    )


def judged(history, *faults, end=END):
    job, runs, records = history
    finds, costs = check([job], runs, records, faults, HOSTS, end)
    return sorted({find.kind for find in finds}), sorted({cost.kind for cost in costs})


@pytest.mark.parametrize(
    'history, end',
    [
        (once(), END),
        (minutes(), 285),
        (every(), 280),
        ((Job(1, 'once', [998]), [], []), END),  # there was no time for it
        ((Job(1, 'minute', [100, 160], until=99), [], []), END),
        (
            (
                Job(1, 'once', [100], code=3),
                [Run(1, 1, 'one', 100, 101, 3)],
                [Record(1, 1, 'one', 'ERROR: exit 3', 100)],
            ),
            END,
        ),
        (
            (
                Job(1, 'once', [100], hangs=True),
                [Run(1, 1, 'one', 100)],
                [Record(1, 1, 'one', 'ERROR: timed out after 1 min', 100)],
            ),
            END,
        ),
    ],
)
def test_a_clean_history(history, end):
    finds, costs = judged(history, end=end)
    assert not finds and set(costs) <= {'died'}


def test_a_lost_tick():
    assert judged((once()[0], [], [])) == (['lost'], [])
    job, runs, records = minutes()
    assert judged((job, runs[:2] + runs[3:], records[:2] + records[3:]), end=285) == (
        ['lost'],
        [],
    )
    job, runs, records = every()
    assert judged((job, runs[:2], records[:2]), end=240) == (['lost'], [])
    assert judged((job, runs[:2], records[:2]), end=220) == ([], [])


def test_a_tick_that_ran_twice():
    job, runs, records = once()
    twice = (
        [*runs, Run(1, 2, 'two', 110, 111, 0)],
        [*records, Record(1, 2, 'two', 'Success', 110)],
    )
    assert judged((job, *twice)) == (['duplicate'], [])
    assert judged((job, [*runs, Run(1, 1, 'two', 110, 111, 0)], records)) == (
        ['duplicate'],
        [],
    )
    job, runs, records = every()
    early = [runs[0], runs[1]._replace(start=140, end=141), runs[2]]
    assert 'duplicate' in judged((job, early, records), end=280)[0]


def test_two_runs_at_once():
    job, runs, records = minutes(2)
    long = [runs[0]._replace(end=170), runs[1]]
    assert judged((job._replace(limit=100), long, records), end=240)[0] == ['overlap']
    dead = [runs[0]._replace(end=None, code=None), runs[1]._replace(busy=True)]
    records = [records[0]._replace(status=DEAD), records[1]]
    blow = fault('kill-host', ['one'], 101, 120, True)
    assert judged((job, dead, records), blow, end=240)[0] == ['overlap']
    for kind in NOT_PROMISED:
        blow = fault(kind, ['one'], 101, 120, True)
        assert judged((job, dead, records), blow, end=240) == ([], ['died', 'overlap'])
        other = fault(kind, ['two'], 101, 120, True)
        assert 'overlap' in judged((job, dead, records), other, end=240)[0]


def test_what_is_not_promised_stands_in_the_readme():
    with open(os.path.join(ROOT, 'README.md')) as file:
        readme = ' '.join(file.read().split())
    part = readme[readme.index('Not promised:') :]
    for words in NOT_PROMISED.values():
        first, *rest = words.split(
            ' a failover '
        )  # the README has "when …, or when a …"
        assert all(text in part for text in (first, *rest)), words


def test_a_run_without_a_record():
    job, runs, _ = once()
    assert judged((job, runs, [])) == (['unrecorded'], [])
    assert judged((job, runs, []), fault('kill-host', ['one'], 100, 120, True))[0] == [
        'unrecorded'
    ]  # no fault excuses it


def test_a_run_of_a_deleted_job_whose_host_forgot_it():
    job, runs, _ = once(until=101)
    gone = fault('lose-host', ['one'], 101, 120, True)._replace(forgets=True)
    assert judged((job, runs, []), gone) == ([], ['unrecorded'])
    assert judged((job, runs, []), gone._replace(forgets=False))[0] == ['unrecorded']
    assert judged((once()[0], runs, []), gone)[0] == ['unrecorded']  # not deleted


def test_a_record_without_a_run():
    job, _, records = once()
    assert judged((job, [], records))[0] == ['lost', 'phantom']
    dead = [records[0]._replace(status=DEAD)]
    assert judged((job, [], dead))[0] == ['lost', 'phantom']
    blow = fault('kill-host', ['one'], 100, 120, True)
    assert judged((job, [], dead), blow) == ([], ['lost', 'phantom'])
    assert judged((job, [], records), blow)[0] == [
        'lost',
        'phantom',
    ]  # a success that wasn't
    assert judged((job, [], dead), blow._replace(end=103))[0] == ['lost', 'phantom']
    assert judged((job, [], dead), blow._replace(end=103, forgets=True))[0] == []
    died = [records[0]._replace(status=DIED)]
    assert judged((job, [], died), blow._replace(end=103)) == ([], ['lost', 'phantom'])
    assert judged((job, [], died), blow._replace(kills=False))[0] == ['lost', 'phantom']
    elsewhere = fault('kill-host', ['two'], 100, 120, True)
    assert judged((job, [], dead), elsewhere)[0] == ['lost', 'phantom']
    ended = [records[0]._replace(status='ERROR: timed out after 1 min', started=100)]
    frozen = fault('stop-host', ['one'], 100.5, 120)
    assert judged((job, [], ended), frozen) == ([], ['lost', 'phantom'])
    for other in (
        frozen._replace(begin=104),  # it had the time to write
        frozen._replace(end=102),
        frozen._replace(kind='stop-worker'),
    ):
        assert judged((job, [], ended), other)[0] == ['lost', 'phantom']


def test_a_record_that_is_not_the_truth():
    job, runs, records = once()
    assert judged((job, [runs[0]._replace(end=None)], records))[0] == ['misrecorded']
    assert judged((job, [runs[0]._replace(code=3)], records))[0] == [
        'misled',
        'misrecorded',
    ]
    lost = [records[0]._replace(status=DEAD)]
    assert judged((job, runs, lost))[0] == ['died']
    assert judged((job, runs, lost), fault('slow', [], 100, 110))[0] == ['died']
    killed = fault('kill-runner', ['one'], 101, 110, True)
    assert judged((job, runs, lost), killed) == ([], ['died'])
    assert judged((job, runs, lost), killed._replace(begin=300, end=310))[0] == ['died']
    # what was left of it was not ended
    assert judged((job, runs, lost), killed._replace(begin=99, end=99.5))[0] == ['died']


def test_a_result_that_its_host_lost_before_it_could_tell_it():
    job, runs, records = once()
    lost = [records[0]._replace(status=DEAD)]
    down = fault('down', [], 99, 120, end=115)
    gone = fault('lose-host', ['one'], 110, 125, True)._replace(forgets=True)
    assert judged((job, runs, lost), down, gone) == ([], ['died'])
    assert judged((job, runs, lost), gone)[0] == ['died']  # there was time to tell it
    assert judged((job, runs, lost), down, gone._replace(hosts=['two']))[0] == ['died']
    assert judged((job, runs, lost), down, gone._replace(forgets=False))[0] == ['died']
    full = fault('state-full', ['one'], 99, 130, end=110)
    killed = fault('kill-host', ['one'], 108, 125, True)
    assert judged((job, runs, lost), killed, full)[0] == ['died']
    assert judged((job, runs, lost), killed, full._replace(withholds=True)) == (
        [],
        ['died'],
    )


def test_a_run_that_died_without_a_cause():
    job, runs, records = once()
    dead = [runs[0]._replace(end=None, code=None)]
    for status in (
        DEAD,
        'ERROR: signal 9',
        'ERROR: timed out after 1 min',
        'ERROR: stopped',
    ):
        record = [records[0]._replace(status=status)]
        assert judged((job, dead, record))[0] == ['died'], status


def test_a_late_start():
    job, runs, records = once()
    late = [runs[0]._replace(start=112, end=113)]
    records = [records[0]._replace(started=111)]
    assert judged((job, late, records)) == (['late'], [])
    assert judged((job, late, records), fault('down', [], 99, 108)) == ([], ['delayed'])
    assert judged((job, late, records), fault('down', [], 99, 106))[0] == ['late']
    assert judged((job, late, records), fault(SLOW, [], 99, 108)) == ([], ['delayed'])
    assert judged((job, [], []), fault(SLOW, [], 99, 108))[0] == ['lost']
    # of a host that had nothing to do with it
    assert judged((job, late, records), fault('kill-host', ['two'], 99, 108, True))[
        0
    ] == ['late']
    # of one that had claimed it and gave it back: a number is missing
    late[0], records[0] = late[0]._replace(run_no=2), records[0]._replace(run_no=2)
    assert judged((job, late, records), fault('kill-host', ['two'], 99, 108, True)) == (
        [],
        ['delayed'],
    )
    job, runs, records = every()
    runs[2], records[2] = (
        runs[2]._replace(start=240, end=241),
        records[2]._replace(started=240),
    )
    assert judged((job, runs, records), end=290) == (['late'], [])
    assert judged((job, runs, records), fault('down', [], 200, 236), end=290)[0] == []


def test_ticks_in_an_outage_run_once_and_late():
    job, runs, records = minutes(5)
    some = [runs[0], runs[3], runs[4]], [records[0], records[3], records[4]]
    for number in (0, 1):  # without gaps in the numbers
        some[number][1:] = [
            one._replace(run_no=one.run_no - 2) for one in some[number][1:]
        ]
    down = fault('down', [], 150, 275)
    assert judged((job, *some), down, end=360) == ([], ['delayed', 'lost'])
    assert judged((job, *some), down._replace(until=200), end=360)[0] == ['lost']
    assert judged((job, some[0][:1], some[1][:1]), down, end=360)[0] == ['lost']


def test_ticks_while_the_last_run_still_ran():
    job, runs, records = minutes(3)
    runs = [runs[0]._replace(end=225), runs[2]._replace(run_no=2, start=226, end=227)]
    assert judged((job, runs, records[:2]), end=285)[0] == ['late', 'overdue', 'stale']
    job, runs, records = minutes(3)
    runs = [runs[0]._replace(end=165), runs[2]._replace(run_no=2)]
    assert judged((job._replace(limit=100), runs, records[:2]), end=285) == (
        [],
        ['lost'],
    )


def test_runs_that_nobody_wanted():
    job, runs, records = once()
    assert judged((job._replace(until=90), runs, records))[0] == ['unwanted']
    stranger = Run(9, 1, 'one', 100, 101, 0)
    assert (
        check([job], [*runs, stranger], records, [], HOSTS, END)[0][0].kind == 'unknown'
    )


def test_a_run_beyond_its_deadline():
    job, runs, records = once()
    stale = [runs[0]._replace(start=113, end=114)]
    assert judged((job, stale, records), fault('stop', ['one'], 100, 120))[0] == [
        'stale'
    ]
    frozen = fault('stop-host', ['one'], 100.4, 112.9)
    assert judged((job, stale, records), frozen)[0] == []
    assert judged((job, stale, records), frozen._replace(end=111))[0] == ['stale']
    elsewhere = frozen._replace(hosts=['two'])
    assert judged((job, stale, records), elsewhere)[0] == ['late', 'stale']
    assert judged((job, [runs[0]._replace(end=120)], records))[0] == ['overdue']


# What has a place, tries, a parent, a limit, a pause.


def found(job, runs, records, *faults, others=(), **more):
    """The kinds of finds of a job, beside other jobs with their runs and records."""
    jobs = [job, *(other[0] for other in others)]
    for other in others:
        runs, records = [*runs, *other[1]], [*records, *other[2]]
    finds, _ = check(jobs, runs, records, faults, HOSTS, END, **more)
    return sorted({find.kind for find in finds})


def test_a_run_where_it_may_not_be():
    words = [Words('a', 0, ['one', 'red']), Words('b', 0, ['two', 'blue'])]
    job, runs, records = once(word='red', names=('one',))
    here = [runs[0]._replace(place='a')]
    assert found(job, here, records, words=words) == []
    elsewhere = [runs[0]._replace(place='b')]
    assert found(job, elsewhere, records, words=words) == ['misplaced']
    blue = job._replace(word='blue')
    assert found(blue, here, records, words=words) == ['misplaced']
    for began, finds in ((99, ['misplaced']), (100.2, []), (102, [])):  # of other words
        changed = [*words, Words('a', began, ['uno', 'green'])]
        assert found(job, here, records, words=changed) == finds, began
    green = [*words, Words('a', 100.2, ['green'])]
    assert found(job._replace(word='green'), here, records, words=green) == []


def test_a_job_of_hosts_that_are_away_need_not_run_and_one_of_others_must():
    job, runs, records = once(word='red', names=('one', 'two'))
    words = [Words('a', 0, ['red'])]
    assert found(job, [], []) == ['lost']
    one = fault('stop-host', ['one'], 99, 500)
    two = fault('stop-host', ['two'], 99, 500)
    late = [runs[0]._replace(start=504, end=505, place='a')]
    told = [records[0]._replace(started=503)]
    assert found(job, late, told, one, two, words=words) == []
    other = two._replace(hosts=['three'])
    for faults in ((two._replace(until=120), one), (other, one), (one,)):
        assert found(job, late, told, *faults, words=words) == ['late'], faults
    assert found(job._replace(kind='maybe', names=()), [], []) == []


def tried():
    """A job that fails twice, and then does not: attempts at 100, 103 and 108."""
    starts = (100.5, 103.5, 108.5)
    job = once(retries=2, delay=2, fails=2, code=1)[0]
    runs = [
        Run(1, n + 1, 'one', at, at + 1, int(n < 2), attempt=n)
        for n, at in enumerate(starts)
    ]
    records = [
        Record(1, n + 1, 'one', 'Success' if n == 2 else 'ERROR: exit 1', 100, None, n)
        for n in range(3)
    ]
    return job, runs, records


def test_retries():
    job, runs, records = tried()
    assert found(job, runs, records) == []
    assert found(job, runs[:2], records[:2]) == ['untried']  # one is missing
    assert found(job._replace(retries=1), runs, records) == ['untried']  # one too many
    assert found(job._replace(retries=0), runs, records) == ['untold']
    lied = [*runs[:2], runs[2]._replace(attempt=1)]
    assert found(job, lied, records) == ['misled', 'untold']
    early = [runs[0], runs[1]._replace(start=101.6, end=102.6), runs[2]]
    assert found(job._replace(delay=4), early, records) == ['hasty']
    lost = [records[0]._replace(status='ERROR: lost: no word', started=100)]
    thawed = [runs[0]._replace(end=114.6)]
    for number, at in (1, 115.2), (2, 124.5):
        thawed.append(runs[number]._replace(start=at, end=at + 1))
        lost.append(records[number]._replace(started=at // 1))
    frozen = fault('stop-host', ['one'], 101, 114, kills=True)
    slow = job._replace(delay=4, limit=11)
    told = [lost[0]._replace(status='ERROR: exit 1'), *lost[1:]]  # when it was thawed
    for records in lost, told:
        assert found(slow, thawed, records, frozen) == []
        assert found(slow._replace(delay=6), thawed, records, frozen) == ['hasty']
    late = [*runs[:2], runs[2]._replace(start=130, end=131)]
    told = [*records[:2], records[2]._replace(started=129)]
    assert found(job, late, told) == ['late']
    assert found(job, late, told, fault('down', [], 107, 126)) == []
    again = runs[2]._replace(run_no=4, start=112, end=113, attempt=3, code=0)
    more = records[2]._replace(run_no=4, attempt=3)
    assert 'untried' in found(job, [*runs, again], [*records, more])  # after a success
    stopped = [records[0]._replace(status='ERROR: stopped')]
    killed = [runs[0]._replace(end=None, code=None)]
    blow = fault('kill-host', ['one'], 101, 110, True)
    assert found(job, killed, stopped, blow) == []
    dead = [records[0]._replace(status=DEAD)]  # a lost run is tried again
    assert found(job, killed, dead, blow) == ['untried']


def followed(*starts):
    """A parent that succeeded at 101.5 and 161.5 and failed at 221, and its follower."""
    parent = (
        Job(1, 'maybe', [100]),
        [
            Run(1, n + 1, 'one', at, at + 1.5, code)
            for n, (at, code) in enumerate([(100, 0), (160, 0), (220, 1)])
        ],
        [
            Record(1, n + 1, 'one', status, 100 + 60 * n)
            for n, status in enumerate(['Success', 'Success', 'ERROR: exit 1'])
        ],
    )
    parent[1][2] = parent[1][2]._replace(code=0, end=None)
    parent[2][2] = parent[2][2]._replace(status='ERROR: timed out after 1 min')
    parent = (parent[0]._replace(hangs=True), *parent[1:])
    runs = [Run(2, n + 1, 'one', at, at + 1, 0) for n, at in enumerate(starts)]
    records = [Record(2, run.run_no, 'one', 'Success', int(run.start)) for run in runs]
    return Job(2, 'after', [100], after=1), runs, records, [parent]


def test_followers():
    def judge(*starts, **changes):
        job, runs, records, others = followed(*starts)
        return found(job._replace(**changes), runs, records, others=others)

    assert judge(102, 162) == []
    assert judge(162) == []  # at least once after each success: one run for both
    assert judge(102) == ['forgotten'] and judge(102, 161.2) == ['forgotten', 'unled']
    assert judge() == ['forgotten'] and judge(until=90) == []
    assert judge(100.9, 162) == ['unled']  # before any success
    assert judge(102, 110, 162) == ['unled']  # twice for one
    assert judge(102, 162, 222) == ['unled']  # for a failure


def test_a_start_after_its_limit():
    job, runs, records = once(within=8)
    assert found(job, runs, records) == []
    late = [runs[0]._replace(start=109, end=110)]
    for claimed, faults, finds in (
        (108, [fault('down', [], 99, 108)], ['beyond']),
        (107, [], ['late']),  # it took its time, and nothing says why
        (107, [fault('stop-host', ['one'], 107, 109)], ['late']),
        (103, [fault('down', [], 99, 104)], ['beyond']),
        (103, [fault('stop-host', ['one'], 103, 108.9)], []),
    ):
        told = [records[0]._replace(started=claimed)]
        assert found(job, late, told, *faults) == finds, claimed


def test_a_time_that_was_skipped():
    job, runs, records = once(within=8)
    skip = Record(1, 1, '', 'SKIPPED: at 12:00: not started in its window', None, 100)
    down = fault('down', [], 99, 104)
    assert found(job, [], [skip], down) == []
    assert found(job, [], [skip]) == ['lost']  # nothing kept it from running
    assert found(job, [], [], down) == ['lost']  # nobody says so
    ran = [runs[0]._replace(run_no=2, due=100.0)]
    told = [records[0]._replace(run_no=2), skip]
    assert found(job, ran, told) == ['unskipped']
    other = [ran[0]._replace(due=160.0)]
    assert found(job, other, told) == []
    busy = skip._replace(status='SKIPPED: at 12:01: run 2 on one still ran', due=101)
    assert found(job, other, [records[0]._replace(run_no=2), busy]) == []
    late = busy._replace(due=140)
    assert 'unskipped' in found(job, other, [records[0]._replace(run_no=2), late])
    paused = skip._replace(status='SKIPPED: at 12:00: paused by alice')
    assert found(job, other, [told[0], paused]) == ['unskipped']
    pause = Pause(1, 60, 99)
    early = [told[0], paused._replace(due=80)]
    assert found(job, other, early, pauses=[pause]) == []
    assert found(job, other, early, pauses=[pause._replace(until=70)]) == ['unskipped']
    ended = pause._replace(until=70, over=90)  # somebody ended it, which took a while
    assert found(job, other, early, pauses=[ended]) == []


def test_a_start_in_a_pause():
    job, runs, records = once()
    for target in (1, '*', 'one'):
        pause = Pause(target, 90, 120)
        assert found(job, runs, records, pauses=[pause]) == ['paused'], target
        assert found(job._replace(asked=True), runs, records, pauses=[pause]) == []
        after = Pause(target, 90, 100.2)
        assert found(job, runs, records, pauses=[after]) == []
        flight = Pause(target, 99.8, 120)
        assert found(job, runs, records, pauses=[flight]) == []
        slow = [runs[0]._replace(start=104, end=105)]
        assert found(job, slow, records, pauses=[flight]) == ['paused']
        stop = fault('stop-host', ['one'], 100, 103)
        assert found(job, slow, records, stop, pauses=[flight]) == []
        late = (
            [runs[0]._replace(start=121, end=122)],
            [records[0]._replace(started=121)],
        )
        assert found(job, *late, pauses=[Pause(target, 90, 120)]) == (
            ['late'] if target == 'one' else []
        )
    for target in (2, 'two'):
        assert found(job, runs, records, pauses=[Pause(target, 90, 120)]) == []
    asked = job._replace(asked=True, due=[100])
    assert found(asked, *late, pauses=[Pause('*', 90, 120)]) == ['late']


# Why a run was late.


def noted(text, *faults, more=(), **how):
    """The kinds of finds of a job that was due at 100, and started at 130 with a note."""
    job, runs, records = once(**how.pop('job', {}))
    runs = [runs[0]._replace(start=130.5, end=131.5)]
    records = [records[0]._replace(started=130, due=100.0, note='30 s late: ' + text)]
    others = [(Job(2 + n, 'maybe', [0]), *one) for n, one in enumerate(more)]
    return found(job, runs, records, *faults, others=others, **how)


AWAY = [fault('kill-host', [host], 99, 128)._replace(silences=True) for host in HOSTS]
SEEN = 'no worker was seen from 12:00 to 12:01'
TAKEN = 'one had all slots taken, 2 of 2'
STARTED = [Words(host, 0, [host, host[0]]) for host in HOSTS]


@pytest.mark.parametrize(
    'text, faults, how',
    [
        ('unknown', [], {}),
        ('unknown; 5 more times passed', [], {}),
        (SEEN, AWAY, {}),
        (SEEN, AWAY[:1], {'job': {'names': ('one',)}}),
        (
            'no worker of one was seen until 12:01',
            AWAY[:1],
            {'job': {'names': ('one',)}},
        ),
        (SEEN, [], {'words': [Words(host, 120, [host]) for host in HOSTS]}),
        (SEEN, [Fault(SLOW, [], 110, 115, 120)], {}),
        ('one not seen until 12:01, guest1 not seen from 12:00 to 12:01', AWAY[:1], {}),
        ('one could not reach the database from 12:00 to 12:01', AWAY[:1], {}),
        (
            'one failed: disk full from 12:00 to 12:01',
            [fault('x', ['one'], 99, 110)],
            {},
        ),
        ('paused until 12:00 by ann: all hosts', [], {'pauses': [Pause(1, 90, 129)]}),
        (
            'all hosts were paused until 12:00 by x',
            [],
            {'pauses': [Pause('*', 90, 129)]},
        ),
        ('one paused until 12:00 by ann', [], {'pauses': [Pause('one', 90, 129)]}),
        ('no host had the tag red until 12:01', [], {'words': STARTED}),
        ('no host had the tag o until 12:01', AWAY[:1], {'words': STARTED}),
        (
            'no host had the tag o until 12:01',
            [],
            {'words': [*STARTED, Words('one', 120, ['one'])]},
        ),
    ],
)
def test_a_true_note(text, faults, how):
    assert 'untrue' not in noted(text, *faults, **how)


@pytest.mark.parametrize(
    'text, faults, how',
    [
        ('it was too late', [], {}),
        (SEEN, [], {}),
        (SEEN, AWAY[:2], {}),
        (SEEN, AWAY[:2], {'words': STARTED}),
        (SEEN, [fault._replace(silences=False) for fault in AWAY], {}),
        (SEEN, [*AWAY[:2], AWAY[2]._replace(begin=140, end=150)], {}),
        (SEEN, [*AWAY[:2], AWAY[2]._replace(begin=50, end=60)], {}),
        (SEEN, [Fault(SLOW, [], 110, 110.5, 120)], {}),
        ('two not seen until 12:01', AWAY[:1], {}),
        ('one not seen until 12:01, two not seen until 12:01', AWAY[:1], {}),
        ('two could not reach the database from 12:00 to 12:01', AWAY[:1], {}),
        (
            'two had all slots taken, 0 of 0, from 12:00 to 12:01 and not seen until 12:01',
            AWAY[:1],
            {},
        ),
        ('two failed: disk full from 12:00', [fault('x', ['one'], 99, 110)], {}),
        ('paused until 12:00 by ann', [], {'pauses': [Pause(2, 90, 129)]}),
        ('paused until 12:00 by ann', [], {'pauses': [Pause(1, 40, 60)]}),
        (
            'all hosts were paused until 12:00 by x',
            [],
            {'pauses': [Pause('one', 90, 129)]},
        ),
        ('two paused until 12:00 by ann', [], {'pauses': [Pause('one', 90, 129)]}),
        (SEEN + ' and paused until 12:00 by ann', AWAY, {}),
        ('no host had the tag o until 12:01', [], {'words': STARTED}),
        (TAKEN, [], {}),
    ],
)
def test_a_note_that_is_not_so(text, faults, how):
    assert 'untrue' in noted(text, *faults, **how)


def test_slots_that_were_taken():
    def others(*spans):
        for number, (start, end) in enumerate(spans, 2):
            run = Run(number, 1, 'one', start, end, 0)
            yield [run], [Record(number, 1, 'one', 'Success', start)]

    both = [*others((99, 120), (101, 110))]
    assert 'untrue' not in noted(TAKEN, more=both)
    apart = [*others((99, 104), (110, 114))]
    assert 'untrue' in noted(TAKEN, more=apart)
    stopped = fault('stop-runner', ['one'], 103, 125)  # nobody could know of the ends
    assert 'untrue' not in noted(TAKEN, stopped, more=apart)
    assert 'untrue' in noted(TAKEN, stopped._replace(hosts=['two']), more=apart)
    assert 'untrue' in noted(TAKEN, more=[*others((10, 20), (11, 21))])
    assert 'untrue' in noted(TAKEN.replace('2', '3'), more=both)
    assert 'untrue' in noted(TAKEN.replace('one', 'two'), more=both)


def test_the_run_before_that_had_not_ended():
    text = 'run 1 on one had not ended until 12:01'

    def judge(end, number=1):
        job, _, _ = once()
        runs = [Run(1, 1, 'one', 90, end, 0), Run(1, 2, 'one', 130.5, 131, 0)]
        told = Record(1, 2, 'one', 'Success', 130, 100.0)
        told = told._replace(note='30 s late: ' + text.replace('1', str(number), 1))
        records = [Record(1, 1, 'one', 'Success', 90), told]
        return 'untrue' in found(job, runs, records)

    assert not judge(129) and judge(92) and judge(129, number=3)
