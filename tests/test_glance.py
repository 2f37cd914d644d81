"""What `list`, `history` and `hosts` say at a glance: a status in words, trouble first."""

import pytest
from conftest import dc
from test_plans import NOON, clock, fail, finish, local, start
from test_steps import plan


def status(place, job):
    """(state, words) of a job as list and page have it."""
    return dc.statuses_of(place.store, [place.job(job)], place.store.now())[job]


def words(place, job):
    return status(place, job)[1]


def record(place, job, text, last='Success'):
    """A history of a job, a letter a minute: . succeeded, E failed, S skipped, r a
    success by a retry."""
    for number, letter in enumerate(text, 1):
        outcome = {'E': 'ERROR: exit 3', 'S': 'SKIPPED: 1 time'}.get(letter, 'Success')
        place.store.insert(
            'run',
            {
                'job_id': job,
                'run_no': number,
                'started_at': local(number - len(text) - 1),
                'ended_at': local(number - len(text)),
                'worker': 'w-1',
                'status': outcome,
                'attempt': int(letter == 'r'),
            },
        )
    place.store.change(
        'UPDATE job SET run_no = :last, last_status = :status, last_start = :at, '
        'last_end = :at WHERE id = :job',
        last=len(text),
        status=last,
        at=local(0),
        job=job,
    )


def test_a_job_that_waits_for_its_time(at):
    job = at.add(schedule='30 12 * * *')
    plan(at)
    assert status(at, job) == ('ok', 'never ran')
    clock(at, 30)
    run_no = start(at, job)
    assert status(at, job) == ('running', 'running on alpha since 12:30')
    clock(at, 30 + 24 * 60)
    text = 'running on alpha since yesterday 12:30, past its deadline'
    assert status(at, job) == ('overdue', text)
    finish(at, job, run_no)
    assert status(at, job) == ('ok', 'ok')


def test_a_job_that_fails(at):
    job = at.add(schedule='*/10 * * * *')
    plan(at)
    for minute in (10, 20, 30):
        clock(at, minute)
        fail(at, job)
    assert status(at, job) == ('failing', 'failing since 12:10 (3 runs)')
    clock(at, 36 * 60)
    at.store.execute('UPDATE job SET next_run_utc = NULL')
    plan(at)
    assert words(at, job) == 'failing since 2026-05-20 12:10 (3 runs)'
    clock(at, 36 * 60 + 10)
    finish(at, job, start(at, job))
    assert status(at, job) == ('ok', 'ok')


def test_a_job_that_is_to_be_tried_again(at):
    job = at.add(
        schedule='0 15 * * *', retries=1, retry_delay=600, next_run_utc=local(0)
    )
    fail(at, job)
    assert words(at, job) == 'retry in 10 min'
    clock(at, 10)
    assert status(at, job)[0] == 'failing'
    fail(at, job)
    assert words(at, job) == 'failing since 12:00 (1 run)'


@pytest.mark.parametrize(
    'history, expected',
    [
        ('.' * 20, 'ok'),
        ('.E' * 9 + '..', 'flapping: 9 of 20 failed'),
        ('E' * 30 + '.E' * 9 + '..', 'flapping: 9 of 20 failed'),
        ('E.E.E.', 'flapping: 3 of 6 failed'),
        ('.E.E.', 'ok'),
        ('E' * 10 + '.' * 10, 'ok'),
        ('E.SE.SE.S', 'flapping: 3 of 6 failed'),
        ('ErErErEr', 'ok'),  # each was well at its second try
    ],
)
def test_flapping(at, history, expected):
    job = at.add(schedule='0 15 * * *')
    plan(at)
    at.add(frequency=60)
    record(at, job, history)
    assert words(at, job) == expected


def test_a_job_that_fails_now_flaps_until_it_fails_for_good(at):
    job = at.add(schedule='0 15 * * *')
    plan(at)
    record(at, job, '.E.E.E.E', 'ERROR: exit 3')
    for failures, expected in (
        (1, ('flapping', 'flapping: 4 of 8 failed')),
        (3, ('failing', 'failing since 12:00 (3 runs)')),
    ):
        at.store.execute('UPDATE job SET failures = %d' % failures)
        assert status(at, job) == expected


def test_a_job_that_was_stopped_does_not_fail(at):
    job = at.add(schedule='0 15 * * *', next_run_utc=local(0))
    finish(at, job, start(at, job), status='ERROR: stopped')
    assert status(at, job) == ('ok', 'stopped')


def test_a_job_of_a_perl_worker_fails_since_its_end(at):
    job = at.add(next_run_utc=local(30), last_status='ERROR: 3', last_end=local(-9))
    assert status(at, job) == ('failing', 'failing since 11:51')


def test_a_job_that_is_paused_parked_or_disabled(at):
    job = at.add(schedule='*/10 * * * *')
    plan(at)
    dc.pause_job(at.store, job, NOON + 35 * dc.MINUTE, 'ann: disk')
    assert status(at, job) == ('paused', 'paused until 12:35 by ann: disk')
    at.run('disable', str(job))
    assert status(at, job) == ('disabled', 'disabled')
    bad = at.add(schedule='61 * * * *')
    plan(at)
    state, text = status(at, bad)
    assert state == 'failing' and text.startswith("parked: ") and '61' in text


def test_what_a_job_waits_for(at):
    job = at.add(next_run_utc=local(0))
    tagged = at.add(next_run_utc=local(0), run_on='db')
    named = at.add(next_run_utc=local(0), run_on='here')
    at.store.hello('here-1', 0, at.store.now())
    clock(at, 1)
    assert [words(at, id) for id in (job, tagged, named)] == 3 * ['never ran']
    clock(at, 2)
    for id, text in ((job, 'overdue 2 min'), (named, 'overdue 2 min')):
        assert status(at, id) == ('overdue', text)
    assert words(at, tagged) == 'waiting 2 min for tag db'
    dc.pause_hosts(at.store, 'here', NOON + 5 * dc.MINUTE, 'bob')
    assert words(at, job) == words(at, named) == 'waiting 2 min for the end of a pause'
    at.store.hello('other-1', 0, at.store.now())
    clock(at, 4)
    assert words(at, job) == 'waiting 4 min for the end of a pause'
    clock(at, 5)
    assert words(at, named) == 'waiting 5 min for host here'
    assert words(at, job) == 'waiting 5 min for a worker'


def test_a_template_counts_its_hosts(at):
    template = at.add(each_host=1, schedule='0 0 * * *')
    plan(at)
    assert status(at, template) == ('template', 'on no host yet')
    children = [
        at.add(parent_id=template, run_on=name, next_run_utc=local(60))
        for name in ('one', 'two', 'three', 'four')
    ]
    assert status(at, template) == ('template', 'on 4 hosts')
    at.store.change(
        "UPDATE job SET last_status = 'ERROR: exit 1' WHERE id = :id", id=children[2]
    )
    assert status(at, template) == ('failing', 'on 4 hosts, 1 failing')


def test_statuses_of_many_jobs(sqlite_place):
    with sqlite_place.store.transaction():
        for _ in range(2100):
            sqlite_place.add()
    rows, now = sqlite_place.sql('SELECT * FROM job'), sqlite_place.store.now()
    statuses = dc.statuses_of(sqlite_place.store, rows, now)
    assert set(statuses) == {row.id for row in rows}
