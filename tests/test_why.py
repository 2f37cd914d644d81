"""`why`: what it says of a time is what plan does; and what a job waits for."""

import re
from datetime import date, timedelta

import pytest
from conftest import NOW, dc
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plans import NOON, clock, fail, finish, local, start
from test_steps import plan

ZONES = ['UTC', 'Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe']
UTC = dc.named_zone('UTC')


def why(place, job, *when):
    return place.run('why', str(job), *when)


def lines(place, job, when=None):
    row = place.job(job)
    return '\n'.join(dc.why_lines(place.store, row, when))


# The verdict is that of plan.

number = st.integers(0, 59)
minutes = st.one_of(
    st.sampled_from(['*', '*/7', '*/15', '5-40/5', 'H', 'H/20']), number.map(str)
)
hours = st.sampled_from(['*', '2', '1-3', '*/6', '3,14', 'H(0-4)'])
month_days = st.sampled_from(['*', '*', '29', '1-15', 'L', '15W'])
months = st.sampled_from(['*', '*', '3,10', 'MAR', '11'])
week_days = st.sampled_from(['*', '*', '0', 'MON-FRI', '7', '5L', '5#2'])
expressions = st.builds(
    lambda *fields: ' '.join(fields), minutes, hours, month_days, months, week_days
)
windows = st.sampled_from(
    [
        (None, None),
        (None, None),
        ('02:00', '03:30'),
        ('22:00', '02:30'),
        (None, '12:00'),
    ]
)
days = st.one_of(
    st.sampled_from(['2026-03-29', '2026-10-25', '2026-03-08', '2026-11-01']),
    st.dates(date(2025, 1, 1), date(2028, 12, 31)).map(str),
)


@settings(max_examples=400, deadline=None)
@given(
    expressions,
    windows,
    st.sampled_from(ZONES),
    days,
    st.integers(0, 300),
    st.booleans(),
)
def test_the_verdict_is_that_of_plan(schedule, window, zone, day, minute, near):
    job = dc.Job(
        id=7,
        active=1,
        each_host=0,
        schedule=schedule,
        start_anchor=window[0],
        stop_anchor=window[1],
        time_zone=zone,
        attempt=0,
    )
    shown = dc.moment(day + ' 00:00:00') + timedelta(minutes=minute)
    own = dc.named_zone(zone)
    try:
        if near:  # a time at which it is due, and not any time
            when = dc.next_run(job, own.utc(shown), own.utc(shown), UTC)
            if when == dc.PARKED:
                return
            shown = own.local(when)
        moments = own.times(shown) or [own.utc(shown)]
        said = dc.time_lines(job, shown, moments, NOON, UTC)
    except dc.BadSchedule:
        return
    verdicts = [line for line in said if 'due' in line and line[:2] in ('It', 'Th')]
    assert len(verdicts) == len(moments)
    for when, text in zip(moments, verdicts):
        before = when - dc.SECOND
        planned = dc.next_run(job, before, before, UTC) < when + dc.MINUTE
        assert planned == text.startswith('It is due then'), said
        fields = [line.split(';')[0].split()[-1] for line in said if line[:2] == '  ']
        either = any('one is enough' in line for line in said)
        answers = [answer == 'yes' for answer in fields]
        if either:
            answers[2] = answers[4] = answers[2] or answers[4]
        changes = own.offset(when - 3 * dc.DAY // 24) != own.offset(when)
        changes |= own.offset(when) != own.offset(when + 3 * dc.DAY // 24)
        if not changes:
            assert all(answers) == planned, said


@settings(max_examples=100, deadline=None)
@given(expressions, st.sampled_from(ZONES), days, st.integers(0, 1439))
def test_the_nearest_times_are_next_to_it(schedule, zone, day, minute):
    job = dc.Job(id=7, active=1, each_host=0, schedule=schedule, time_zone=zone)
    own = dc.named_zone(zone)
    when = own.utc(dc.moment(day + ' 00:00:00') + timedelta(minutes=minute))
    try:
        last = dc.last_before(job, when, NOON, UTC)
    except dc.BadSchedule:
        return
    after = next(dc.regular_times(job, when - dc.SECOND, NOON, UTC), None)
    assert last < when
    assert dc.next_run(job, last, last, UTC) == after


def test_a_time_field_by_field(at):
    job = at.add(
        schedule='*/10 2-4 13 * FRI', start_anchor='02:30', stop_anchor='05:00'
    )
    plan(at)
    text = why(at, job, '2026-05-21 03:15')
    assert re.search(r'minute +15 +\*/10 +no\n', text)
    assert re.search(r'hour +3 +2-4 +yes\n', text)
    assert re.search(r'day-of-week +4 +FRI +no; of the two days, one is enough\n', text)
    assert re.search(r'window +02:30 to 05:00 +yes\n', text)
    assert 'It is not due then.\n' in text
    assert 'The nearest time before it: 2026-05-15 04:50:00\n' in text
    assert 'The nearest time after it: 2026-05-22 02:30:00\n' in text
    assert 'It is due then.' in why(at, job, '2026-05-22 02:40')


def test_daylight_saving_is_told(at):
    job = at.add(schedule='30 2 * * *', time_zone='Europe/Berlin')
    text = why(at, job, '2026-03-29 02:30')
    assert 'The clock skips this time: it goes on at 2026-03-29 03:00.' in text
    assert 'It is due then, for a time that the clock skips.' in text
    text = why(at, job, '2026-10-25 02:30')
    assert (
        'It is due then.\nThe clock shows this time twice: it is due the first' in text
    )


@pytest.mark.parametrize(
    'columns, when, text',
    [
        ({'frequency': 30}, '2026-05-20 13:30', 'It is due then.'),
        ({'frequency': 30}, '2026-05-20 13:31', 'It is not due then.'),
        ({'schedule': '@at 2026-06-01 10:00'}, '2026-06-01 10:00', 'It is due then.'),
        (
            {'schedule': '@at 2026-06-01 10:00'},
            '2026-06-01 10:01',
            'before it: 2026-06',
        ),
        ({'schedule': 'H 3 * * *'}, '2026-05-21 03:07', 'minute '),
        ({'schedule': '@daily'}, '2026-05-21 00:00', 'It is due then.'),
        ({'schedule': '61 * * * *'}, '2026-05-21 00:00', 'schedule '),
        ({'schedule': '* * * * *', 'time_zone': 'No/Where'}, NOW[:16], 'time_zone '),
        ({'schedule': '0 0 30 2 *'}, NOW[:16], 'never matches'),
    ],
)
def test_a_time_of_every_kind_of_job(at, columns, when, text):
    job = at.add(**columns)
    plan(at)
    said = lines(at, job, dc.moment(when))
    assert text in said and ' : ' not in said


# What the history has of it.


def test_what_ran_and_what_was_skipped(at):
    job = at.add(schedule='*/10 * * * *', start_within=3, name='ticks')
    plan(at)
    assert 'History: nothing of this time or before it' in lines(at, job)
    clock(at, 10, 5)
    finish(at, job, start(at, job), note='5 h late: unknown')
    text = lines(at, job, dc.moment(local(10)))
    assert 'History: run 1 by alpha-1, due 2026-05-20 12:10:00, started' in text
    assert ': Success\n5 h late: unknown\n' in text
    clock(at, 48)
    at.store.plan_late(at.store.now())
    skipped = 'SKIPPED: 3 times from 12:20 to 12:40: not started within 3 min'
    assert 'History: ' + skipped in lines(at, job, dc.moment(local(20)))
    text = lines(at, job, dc.moment(local(30)))
    assert 'History: not over at this time: ' + skipped in text
    clock(at, 60)
    assert 'the last before it: ' + skipped in lines(at, job)
    assert "TIME: 'soon'; allowed" in at.run('why', 'ticks', 'soon', code=2)


def test_it_is_said_in_which_time_zone_the_history_is(at):
    said = 'History and Now are by the database, whose clock shows 2026-05-20 '
    job = at.add(schedule='0 5 * * *', time_zone='Asia/Tokyo')
    plan(at)
    assert lines(at, job).splitlines()[1] == said + '12:00.'
    clock(at, 8 * 60)
    finish(at, job, start(at, job))
    text = lines(at, job, dc.moment('2026-05-21 05:00:00'))
    assert said + '20:00.\n' in text and ', due 2026-05-20 20:00:00, ' in text
    same = at.add(schedule='0 5 * * *', time_zone='Africa/Abidjan')
    plan(at)
    assert 'whose clock' not in lines(at, same)


def test_a_time_for_which_a_later_run_made_up(at):
    job = at.add(schedule='10 * * * *')
    plan(at)
    dc.pause_job(at.store, job, NOON + timedelta(minutes=90), 'ann')
    clock(at, 92)
    note = '82 min late: paused until 13:30 by ann; 1 more time passed'
    finish(at, job, start(at, job), note=note)
    ran = 'run 1 by alpha-1, due 2026-05-20 13:30:00, started 2026-05-20 13:32:00'
    for minutes in 10, 70:
        text = lines(at, job, dc.moment(local(minutes)))
        assert 'History: nothing of this time or before it\n' in text
        assert 'The next after it: ' + ran in text and note in text
    clock(at, 130)
    finish(at, job, start(at, job))
    text = lines(at, job, dc.moment(local(110)))
    assert 'History: nothing of this time; the last before it: ' + ran in text
    assert 'The next after it' not in text


# What it waits for now.


def test_what_a_job_waits_for(at):
    def now(job):
        return lines(at, job).partition('Now: ')[2]

    job = at.add(schedule='*/10 * * * *', retries=2, retry_delay=600)
    assert now(job).startswith('never ran\nNow: next run to be planned\nNow: no worker')
    plan(at)
    assert now(job) == 'never ran\nNow: next run 2026-05-20 12:10:00, in 10 min'
    dc.act(at.store, 'disable', job)
    plan(at)
    assert now(job) == 'disabled\nNow: next run never'
    dc.act(at.store, 'enable', job)
    clock(at, 1)
    dc.pause_job(at.store, job, NOON + timedelta(minutes=15), 'alice: disk')
    assert now(job) == (
        'paused until 12:15 by alice: disk\nNow: next run 2026-05-20 12:15:00, in 14 min'
    )
    dc.resume_job(at.store, job)
    clock(at, 10)
    assert now(job) == (
        'never ran\nNow: next run 2026-05-20 12:10:00, now\nNow: no worker for it was ever seen'
    )
    dc.update_host(at.store, 'here-1', 0, at.store.now())
    assert now(job).endswith(
        'here, last seen 2026-05-20 12:10:00, 0 s ago: takes 0 of its 8 slots'
    )
    dc.update_host(at.store, 'here-1', 8, at.store.now())
    assert now(job).endswith(': takes 8 of its 8 slots')
    dc.pause_hosts(at.store, 'here', NOON + timedelta(minutes=30), 'bob')
    assert now(job).endswith(
        'here is paused until 2026-05-20 12:30:00, in 20 min, by bob'
    )
    dc.pause_hosts(at.store, '*', NOON + timedelta(minutes=30), 'bob')
    assert 'here is paused until 2026-05-20 12:30:00' in now(job)
    clock(at, 31)
    assert 'here, last seen 2026-05-20 12:10:00, 21 min ago' in now(job)
    run_no = start(at, job)
    assert now(job) == 'run 1: running on alpha since 12:31'
    finish(at, job, run_no)


def test_what_else_a_job_waits_for(at):
    def now(job):
        return lines(at, job).partition('Now: ')[2]

    first = at.add(schedule='0 0 * * *', retries=2, retry_delay=600, next_run_utc=NOW)
    fail(at, first)
    assert now(first) == 'retry in 10 min\nNow: next run 2026-05-20 12:10:00, in 10 min'
    second = at.add(after_job=first)
    template = at.add(each_host=1, schedule='0 0 * * *')
    broken = at.add(schedule='61 * * * *')
    done = at.add(schedule='@at 2020-01-01 00:00')
    tagged = at.add(run_on='gpu')
    plan(at)
    assert now(second) == 'never ran\nNow: next run after job %d' % first
    assert now(template) == 'on no host yet'
    dc.update_host(at.store, 'here-1', 0, at.store.now())
    dc.follow_templates(at.store, at.store.now())
    assert re.fullmatch(r'on 1 host\nNow: job \d+ on here: never ran', now(template))
    assert now(broken).startswith("parked: minute '61'")
    assert now(broken).endswith('next run never')
    assert now(done) == 'never ran\nNow: next run never'
    assert now(tagged).endswith('no worker for it was ever seen')
    perl = at.add(frequency=30, max_run_time=20, next_run_utc=NOW)
    at.store.execute('UPDATE job SET last_start = {local} WHERE id = :id', id=perl)
    assert now(perl).endswith('a Perl worker started it last, at ' + NOW)
    late = at.add(schedule='*/10 * * * *', start_within=3)
    plan(at)
    clock(at, 14)
    assert now(late).startswith('waiting 4 min for a worker\n')
