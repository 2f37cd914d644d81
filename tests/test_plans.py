"""Until when a job may start, what it skips, retries, jobs after jobs, pauses, and where.

All on each database, step by step, by a set clock."""

import contextlib
import re
from datetime import timedelta

import pytest
from conftest import NOW, dc
from test_steps import due, plan, plans_by

NOON = dc.moment(NOW)


def clock(place, minutes, seconds=0):
    """Set the clock to so long after noon."""
    when = NOON + timedelta(minutes=minutes, seconds=seconds)
    place.set_clock(dc.text_of(when))


def local(minutes, seconds=0):
    return dc.text_of(NOON + timedelta(minutes=minutes, seconds=seconds))


def start(place, job, token='t' * 32):
    """Claim one job as a worker does; returns its run_no."""
    place.store.plan_late(place.store.now())
    jobs = place.store.find(10)
    assert job in jobs, jobs
    (row,) = place.store.claim({job: jobs[job]}, token, 'alpha-1')
    return row.run_no


def fail(place, job, status='ERROR: exit 1', token='t' * 32, **more):
    run_no = start(place, job, token)
    finish(place, job, run_no, status, token, **more)


def finish(place, job, run_no, status='Success', token='t' * 32, **more):
    place.store.end(
        [dc.Ending(token, job, 'done', run_no, status, 1, 'out', 5, **more)]
    )


def skips(place, job):
    return [run.status for run in place.runs(job) if run.status.startswith('SKIPPED')]


def limit(place, job):
    return place.job(job).start_before_utc


# A plan is a pair.


@pytest.mark.parametrize(
    'columns, when, until',
    [
        ({'schedule': '30 12 * * *'}, local(30), None),
        ({'schedule': '30 12 * * *', 'start_within': 5}, local(30), local(35)),
        ({'schedule': '30 12 * * *', 'stop_anchor': '12:33'}, local(30), local(33)),
        (
            {'schedule': '30 12 * * *', 'start_within': 5, 'stop_anchor': '12:33'},
            local(30),
            local(33),
        ),
        (
            {
                'schedule': '30 23 * * *',
                'start_anchor': '23:00',
                'stop_anchor': '01:00',
            },
            local(11 * 60 + 30),
            local(13 * 60),
        ),
        ({'schedule': '30 12 * * *', 'start_anchor': '12:00'}, local(30), local(720)),
        ({'frequency': 30, 'start_within': 7}, NOW, local(7)),
        ({'active': 0, 'start_within': 7}, '9999-12-31 00:00:00', None),
    ],
)
def test_a_plan_says_from_when_and_until_when(at, columns, when, until):
    job = at.add(**columns)
    plan(at)
    assert (due(at, job), limit(at, job)) == (when, until)


def test_what_is_too_late_is_skipped_once_with_its_count(at):
    job = at.add(schedule='*/10 * * * *', start_within=3)
    plan(at)
    assert due(at, job) == local(10)
    clock(at, 12, 59)
    assert at.store.find(5)
    clock(at, 13)
    assert not at.store.find(5) and at.store.look().late
    assert not at.store.claim([job], 'x' * 32, 'w-1')  # nor by a worker that found it
    clock(at, 45)
    assert at.store.plan_late(at.store.now()) == 1
    assert due(at, job) == local(50) and at.job(job).run_no == 1
    reason = 'not started within 3 min'
    assert skips(at, job) == ['SKIPPED: 4 times from 12:10 to 12:40: ' + reason]
    assert at.job(job).last_status == 'Never ran.'  # a skip is no failure
    assert at.store.plan_late(at.store.now()) == 0 and len(skips(at, job)) == 1


def test_a_time_that_may_still_start_is_not_skipped(at):
    job = at.add(schedule='*/10 * * * *', start_within=3)
    plan(at)
    clock(at, 41)
    assert at.store.plan_late(at.store.now()) == 1
    assert due(at, job) == local(40) and limit(at, job) == local(43)
    assert skips(at, job)[0].startswith('SKIPPED: 3 times from 12:10 to 12:30: ')
    start(at, job)


def test_a_limit_that_another_version_left_is_mended_not_skipped(at):
    """Version 1 writes next_run_utc alone."""
    job = at.add(schedule='*/10 * * * *', start_within=3)
    plan(at)
    at.store.execute('UPDATE job SET next_run_utc = :due', due=local(30))
    clock(at, 31)
    assert at.store.plan_late(at.store.now()) == 1  # 12:13 has passed
    assert (due(at, job), limit(at, job)) == (local(30), local(33))
    assert not skips(at, job) and at.store.find(5)
    at.store.execute('UPDATE job SET start_before_utc = NULL')
    clock(at, 34)
    assert not at.store.find(5) and limit(at, job) == local(33)
    assert at.store.plan_late(at.store.now()) == 1 and due(at, job) == local(40)


def test_times_at_which_the_last_run_still_ran_are_on_record(at):
    job = at.add(schedule='*/5 * * * *', max_run_time=60)
    plan(at)
    clock(at, 5)
    run_no = start(at, job)
    clock(at, 32)
    finish(at, job, run_no)
    assert due(at, job) == local(35) and at.job(job).run_no == run_no + 1
    text = 'SKIPPED: 5 times from 12:10 to 12:30: run 1 on alpha still ran'
    assert [run.status for run in at.runs(job)] == ['Success', text]
    clock(at, 35)
    assert start(at, job) == 3


def test_times_at_which_the_last_run_still_ran_are_on_record_also_after_a_pause(at):
    job = at.add(schedule='*/5 * * * *', max_run_time=60)
    plan(at)
    dc.pause_job(at.store, job, NOON + timedelta(minutes=2), 'alice')
    clock(at, 5)
    run_no = start(at, job)
    clock(at, 12)
    finish(at, job, run_no)
    text = 'SKIPPED: at 12:10: run 1 on alpha still ran'
    assert skips(at, job) == [text]
    clock(at, 15)  # what is due in a pause that goes on runs once after it
    dc.pause_job(at.store, job, NOON + timedelta(minutes=60), 'alice')
    dc.act(at.store, 'run-now', job)
    run_no = start(at, job)
    clock(at, 38)
    finish(at, job, run_no)
    assert due(at, job) == local(60) and skips(at, job) == [text]


def test_a_late_result_counts_although_times_were_skipped_since(at):
    job = at.add(schedule='0 * * * *', start_within=5, max_run_time=1)
    plan(at)
    clock(at, 60)
    run_no = start(at, job)
    clock(at, 70)
    at.store.end(at.store.overdue())
    assert at.job(job).last_status.startswith('ERROR: lost')
    clock(at, 130)
    assert at.store.plan_late(at.store.now()) == 1 and at.job(job).run_no == run_no + 1
    finish(at, job, run_no)
    assert at.job(job).last_status == 'Success' and at.job(job).failures == 0


def test_what_has_to_wait_costs_no_transaction(at, monkeypatch):
    """In each turn: a job whose time zone this host does not know, one that still runs."""
    first = at.add(schedule='0 0 * * *', next_run_utc=NOW)
    second = at.add(after_job=first, max_run_time=50)
    plan(at)
    dc.act(at.store, 'run-now', second)
    start(at, second, 'b' * 32)
    finish(at, first, start(at, first))
    job = at.add(schedule='0 0 * * *')
    texts = []
    execute = at.store.execute

    def note(text, **values):
        texts.append(text.split()[0])
        return execute(text, **values)

    now = at.store.now()
    monkeypatch.setattr(at.store, 'execute', note)
    assert at.store.plan(now, skip={job}) == 0
    assert at.store.tell_followers(now) == 0
    assert texts == ['SELECT', 'SELECT', 'SELECT']


# Retries.


def test_a_failed_run_is_tried_again_after_a_delay_that_doubles(at):
    job = at.add(schedule='0 0 * * *', retries=3, retry_delay=60, next_run_utc=NOW)
    seconds = 0
    for attempt, delay in enumerate((60, 120, 240)):
        clock(at, 0, seconds)
        assert at.job(job).attempt == attempt
        fail(at, job)
        seconds += delay
        assert due(at, job) == local(0, seconds) and at.job(job).failures == 0
        assert job in at.store.failed  # other hosts first
    clock(at, 0, seconds)
    fail(at, job, 'ERROR: exit 75 (not now)')
    row = at.job(job)
    assert (row.attempt, row.failures) == (0, 1) and due(at, job) == local(720)
    assert [run.attempt for run in at.runs(job)] == [0, 1, 2, 3]


def test_a_failed_run_of_a_job_of_this_host_waits_for_no_other(at):
    own = at.add(run_on=at.store.me['host'], retries=1, retry_delay=0)
    plan(at)
    fail(at, own)
    assert at.job(own).attempt == 1 and due(at, own) == NOW
    assert not at.store.failed


@pytest.mark.parametrize(
    'columns, status',
    [
        ({}, 'ERROR: stopped'),
        ({'retries': 0}, 'ERROR: exit 1'),
        ({'schedule': '*/2 * * * *', 'retry_delay': 200}, 'ERROR: exit 1'),
        ({'stop_anchor': '12:01', 'retry_delay': 60}, 'ERROR: exit 1'),
        ({'retries': 1, 'attempt': 1}, 'ERROR: timed out after 1 min'),
    ],
)
def test_what_is_not_tried_again(at, columns, status):
    values = {'schedule': '0 0 * * *', 'retries': 2, **columns}
    job = at.add(next_run_utc=NOW, **values)
    fail(at, job, status)
    assert at.job(job).attempt == 0
    assert due(at, job) > local(1) and not skips(at, job)


def test_a_retry_that_nobody_takes_gives_way_to_the_next_time(at):
    job = at.add(schedule='*/10 * * * *', retries=1, next_run_utc=NOW)
    fail(at, job)
    assert due(at, job) == local(1) and limit(at, job) == local(10)
    clock(at, 11)
    at.store.plan_late(at.store.now())
    row = at.job(job)
    assert (row.attempt, row.failures) == (0, 1)
    assert due(at, job) == local(10) and skips(at, job)
    start(at, job)


def test_a_lost_run_is_tried_again_and_its_late_success_cancels_that(at):
    job = at.add(schedule='0 0 * * *', retries=1, max_run_time=1, next_run_utc=NOW)
    run_no = start(at, job)
    clock(at, 5)
    at.store.end(at.store.overdue())
    assert at.job(job).attempt == 1 and due(at, job) < local(6)
    finish(at, job, run_no)
    row = at.job(job)
    assert (row.attempt, row.last_status, due(at, job)) == (0, 'Success', local(720))


def test_what_runs_after_a_job_is_tried_again_whatever_its_frequency_says(at):
    """It has none: the column is not used."""
    first = at.add(schedule='0 0 * * *', next_run_utc=NOW)
    job = at.add(after_job=first, retries=2, retry_delay=3600, max_run_time=200)
    plan(at)
    finish(at, first, start(at, first))
    at.store.tell_followers(at.store.now())
    run_no = start(at, job)
    clock(at, 90)
    finish(at, job, run_no, 'ERROR: exit 1')
    assert (at.job(job).attempt, due(at, job), limit(at, job)) == (1, local(150), None)
    clock(at, 600)
    at.store.plan_late(at.store.now())
    start(at, job)
    assert not skips(at, job)


def test_edit_stop_and_run_now_while_a_retry_waits(at):
    job = at.add(schedule='0 0 * * *', retries=1, next_run_utc=NOW)
    fail(at, job)
    dc.save_job(at.store, job, {'command': 'false'})
    assert at.job(job).attempt == 1  # no planned column
    dc.save_job(at.store, job, {'schedule': '0 1 * * *'})
    assert at.job(job).attempt == 0 and due(at, job) == local(13 * 60)
    at.store.execute('UPDATE job SET next_run_utc = :now', now=NOW)
    fail(at, job)
    assert dc.act(at.store, 'stop', job)
    plan(at)
    assert at.job(job).attempt == 0 and due(at, job) == local(13 * 60)
    dc.act(at.store, 'run-now', job)
    fail(at, job)
    assert at.job(job).attempt == 1  # a run that was asked for is tried again too


def test_a_pause_that_is_over_before_a_retry_is_due_keeps_it(at):
    job = at.add(schedule='0 0 * * *', retries=1, retry_delay=600, next_run_utc=NOW)
    fail(at, job)
    dc.pause_job(at.store, job, NOON + timedelta(minutes=9), 'alice')
    clock(at, 5)
    dc.resume_job(at.store, job)
    dc.save_job(at.store, job, {'start_within': 3})
    at.store.plan_late(at.store.now())
    assert (at.job(job).attempt, due(at, job)) == (1, local(10))
    assert limit(at, job) == local(720)  # the next regular time
    dc.save_job(at.store, job, {'stop_anchor': '12:10'})
    assert at.job(job).attempt == 0
    assert (due(at, job), limit(at, job)) == (local(720), local(723))


def test_a_pause_in_which_a_retry_is_due_cancels_it(at):
    job = at.add(schedule='0 0 * * *', retries=1, retry_delay=600, next_run_utc=NOW)
    fail(at, job)
    dc.pause_job(at.store, job, NOON + timedelta(minutes=11), 'alice')
    assert (at.job(job).attempt, due(at, job)) == (0, local(720))
    assert limit(at, job) is None


# After.


def test_a_success_makes_its_followers_due_and_a_failure_does_not(at):
    first = at.add(schedule='0 0 * * *', next_run_utc=NOW)
    second = at.add(after_job=first)
    third = at.add(after_job=second)
    plan(at)
    assert due(at, second).startswith('9999')
    fail(at, first)
    assert not at.store.look().followed
    dc.act(at.store, 'run-now', first)
    finish(at, first, start(at, first))
    assert at.store.look().followed and at.store.tell_followers(at.store.now()) == 1
    assert not at.store.look().followed and due(at, second) == NOW
    assert due(at, third).startswith('9999')
    finish(at, second, start(at, second))
    assert due(at, second).startswith('9999')
    assert at.store.tell_followers(at.store.now()) == 1 and due(at, third) == NOW


def test_a_follower_that_still_runs_runs_once_more(at):
    first = at.add(schedule='*/5 * * * *', next_run_utc=NOW)
    second = at.add(after_job=first, max_run_time=50)
    plan(at)
    finish(at, first, start(at, first))
    at.store.tell_followers(at.store.now())
    run_no = start(at, second, 'b' * 32)
    for minutes in (5, 10):
        clock(at, minutes)
        finish(at, first, start(at, first))
        assert at.store.tell_followers(at.store.now()) == 0
        assert at.store.look().followed
    finish(at, second, run_no, token='b' * 32)
    assert at.store.tell_followers(at.store.now()) == 1
    assert due(at, second) == local(10) and not at.store.look().followed
    assert not skips(at, second)


def test_a_follower_that_is_to_run_now_waits_for_no_window(at):
    first = at.add(schedule='0 0 * * *', next_run_utc=NOW)
    second = at.add(after_job=first, start_anchor='22:00', stop_anchor='23:00')
    plan(at)
    dc.act(at.store, 'run-now', second)
    finish(at, first, start(at, first))
    assert at.store.tell_followers(at.store.now()) == 1
    assert due(at, second) == NOW
    finish(at, second, start(at, second))
    assert due(at, second).startswith('9999') and not at.store.look().followed


@pytest.mark.parametrize('by_sql', [False, True])
@pytest.mark.parametrize('same', [False, True])
def test_a_follower_of_another_job_does_not_wait_for_its_run_no(at, same, by_sql):
    """The run_no of the job before may be higher than that of the new one for years."""
    first = at.add(schedule='0 0 * * *', next_run_utc=NOW, run_no=500)
    other = first if same else at.add(schedule='0 0 * * *', next_run_utc=NOW)
    job = at.add(after_job=first)
    plan(at)
    finish(at, first, start(at, first))
    at.store.tell_followers(at.store.now())
    finish(at, job, start(at, job))
    if by_sql:
        text = 'UPDATE job SET after_job = :other WHERE id = :job'
        at.store.change(text, job=job, other=other)
        plan(at)
    else:
        at.drop_triggers()
        dc.save_job(at.store, job, {'after_job': other, 'description': 'edited'})
    assert at.store.tell_followers(at.store.now()) == 0
    dc.act(at.store, 'run-now', other)
    finish(at, other, start(at, other))
    assert at.store.tell_followers(at.store.now()) == 1 and due(at, job) == NOW


def test_an_edit_that_changes_no_parent_makes_no_run(at):
    """Here the success is told again, because another follower still runs."""
    first = at.add(schedule='0 0 * * *', next_run_utc=NOW)
    job = at.add(after_job=first)
    slow = at.add(after_job=first, max_run_time=50)
    plan(at)
    dc.act(at.store, 'run-now', slow)
    start(at, slow, 'b' * 32)
    finish(at, first, start(at, first))
    assert at.store.tell_followers(at.store.now()) == 1
    finish(at, job, start(at, job))
    dc.save_job(at.store, job, {'after_job': first, 'description': 'edited'})
    assert at.store.look().followed and at.store.tell_followers(at.store.now()) == 0
    assert due(at, job).startswith('9999')


def test_two_hundred_followers_are_told_at_once(at):
    first = at.add(schedule='0 0 * * *', next_run_utc=NOW)
    for _ in range(200):
        at.add(after_job=first)
    plan(at)
    finish(at, first, start(at, first))
    assert at.store.tell_followers(at.store.now()) == 200


def test_a_chain_of_fifty_jobs_runs_link_by_link(at):
    before = first = at.add(schedule='0 0 * * *', next_run_utc=NOW)
    chain = [before := at.add(after_job=before) for _ in range(50)]
    plan(at)
    for job in [first, *chain]:
        finish(at, job, start(at, job))
        at.store.tell_followers(at.store.now())
    assert [len(at.runs(job)) for job in chain] == [1] * 50


def test_a_follower_that_is_locked_delays_itself_alone(at):
    first = at.add(schedule='0 0 * * *', next_run_utc=NOW)
    locked, free = at.add(after_job=first), at.add(after_job=first)
    plan(at)
    with locked_row(at, locked):
        finish(at, first, start(at, first))  # the parent's end does not wait
        assert at.store.tell_followers(at.store.now(), skip={locked}) == 1
        assert due(at, free) == NOW and at.store.look().followed
    assert at.store.tell_followers(at.store.now()) == 1 and due(at, locked) == NOW


@contextlib.contextmanager
def locked_row(place, job):
    """A row of `job` that somebody else keeps locked."""
    if place.engine == 'sqlite':
        pytest.skip('it locks no rows')
    other = place.new_store()
    with contextlib.closing(other), other.transaction():
        other.query('SELECT id FROM job WHERE id = :id FOR UPDATE', id=job)
        yield


def test_a_parent_that_is_locked_is_left_alone_when_it_is_known_to_be(at):
    """Its followers are told, and no step waits for its row a second time."""
    first = at.add(schedule='0 0 * * *', next_run_utc=NOW)
    second = at.add(after_job=first)
    plan(at)
    finish(at, first, start(at, first))
    with locked_row(at, first):
        with pytest.raises(dc.Again) as caught:
            at.store.tell_followers(at.store.now())
        assert caught.value.jobs == [first] and due(at, second) == NOW
        at.store.tell_followers(at.store.now(), skip={first})
        assert at.store.look().followed
    at.store.tell_followers(at.store.now())
    assert not at.store.look().followed


def test_a_locked_row_whose_limit_is_out_of_date_is_left_alone_too(at):
    locked = at.add(schedule='*/10 * * * *', start_within=3)
    free = at.add(schedule='*/10 * * * *')
    plan(at)
    at.store.execute('UPDATE job SET start_before_utc = NULL')
    clock(at, 10)
    with locked_row(at, locked):
        with pytest.raises(dc.Again):
            at.store.find(5)
        assert list(at.store.find(5, skip={locked})) == [free]


@pytest.mark.parametrize('columns', [{'after_job': 1}, {'after_job': 99}])
def test_a_circle_or_a_missing_job_parks_a_follower_with_the_reason(at, columns):
    at.add(after_job=1 if columns['after_job'] == 1 else 99)
    job = at.add(**columns)
    plan(at)
    assert due(at, job).startswith('9999') and 'after_job' in at.job(job).last_status
    with pytest.raises(dc.BadJob, match=r'circle|no such|does not exist'):
        dc.save_job(
            at.store, None, {'command': 'true', 'after_job': columns['after_job']}
        )


def test_a_deleted_parent_parks_its_followers_with_the_reason(at):
    first = at.add(schedule='0 0 * * *', next_run_utc=NOW)
    second = at.add(after_job=first)
    plan(at)
    run_no = start(at, first)
    dc.act(at.store, 'remove', first)
    finish(at, first, run_no)
    plan(at)
    assert 'after_job 1: there is no such job' in at.job(second).last_status


# Pauses.


def test_a_paused_job_runs_once_after_its_pause_and_tells_what_it_skipped(at):
    job = at.add(schedule='*/10 * * * *')
    short = at.add(schedule='*/10 * * * *', start_within=3)
    plan(at)
    for id in job, short:
        dc.pause_job(at.store, id, NOON + timedelta(minutes=25), 'alice: disk')
        assert due(at, id) == local(25)
    assert dc.state_of(at.job(job), at.store.now()) == 'paused'
    clock(at, 20)
    assert not at.store.find(5) and not at.store.look().late
    assert at.store.look().due_in == 300
    clock(at, 25)
    start(at, job)
    assert due(at, short) == local(30)
    text = 'SKIPPED: 2 times from 12:10 to 12:20: paused by alice: disk'
    assert skips(at, short) == [text]


def test_a_pause_in_which_nothing_was_due_changes_nothing(at):
    job = at.add(schedule='30 12 * * *')
    plan(at)
    dc.pause_job(at.store, job, NOON + timedelta(minutes=5), 'alice')
    assert due(at, job) == local(30)
    clock(at, 30)
    start(at, job)
    assert not skips(at, job)


def test_run_now_goes_through_a_pause_and_resume_ends_it(at):
    job = at.add(schedule='*/10 * * * *')
    plan(at)
    dc.pause_job(at.store, job, NOON + timedelta(minutes=60), 'alice')
    dc.act(at.store, 'run-now', job)
    finish(at, job, start(at, job))
    assert due(at, job) == local(60)
    clock(at, 15)
    assert dc.resume_job(at.store, job)
    assert due(at, job) == local(15)  # 12:10 was missed
    start(at, job)
    assert not dc.resume_job(at.store, job)


def test_resume_repeats_no_run_of_the_second_in_which_the_pause_began(at):
    job = at.add(schedule='*/10 * * * *', next_run_utc=NOW)
    finish(at, job, start(at, job))
    dc.pause_job(at.store, job, NOON + timedelta(minutes=60), 'alice')
    clock(at, 5)
    dc.resume_job(at.store, job)
    assert due(at, job) == local(10)


def test_pause_and_resume_make_a_follower_due_only_if_it_was(at):
    first = at.add(schedule='0 0 * * *', next_run_utc=NOW)
    second = at.add(after_job=first)
    plan(at)
    for minutes in (1, 2):  # the second time in a pause
        dc.pause_job(at.store, second, NOON + timedelta(minutes=60), 'alice')
        clock(at, minutes)
    dc.resume_job(at.store, second)
    assert due(at, second).startswith('9999')
    finish(at, first, start(at, first))
    at.store.tell_followers(at.store.now())
    dc.pause_job(at.store, second, NOON + timedelta(minutes=60), 'alice')
    assert due(at, second) == local(60)
    clock(at, 5)
    dc.resume_job(at.store, second)
    assert due(at, second) == local(5)


def test_resume_repeats_no_run_that_went_on_when_the_pause_began(at):
    job = at.add(schedule='10 12 * * *', max_run_time=60)
    plan(at)
    clock(at, 10)
    run_no = start(at, job)
    clock(at, 20)
    dc.pause_job(at.store, job, NOON + timedelta(minutes=60), 'alice')
    clock(at, 30)
    finish(at, job, run_no)
    plan(at)
    tomorrow = local(24 * 60 + 10)
    assert due(at, job) == tomorrow
    dc.resume_job(at.store, job)
    assert due(at, job) == tomorrow


def test_resume_repeats_no_run_that_was_asked_for_in_the_pause(at):
    job = at.add(schedule='10 12 * * *')
    plan(at)
    dc.pause_job(at.store, job, NOON + timedelta(minutes=60), 'alice')
    clock(at, 20)
    dc.act(at.store, 'run-now', job)
    finish(at, job, start(at, job))
    tomorrow = local(24 * 60 + 10)
    assert due(at, job) == tomorrow  # also without
    dc.resume_job(at.store, job)
    assert due(at, job) == tomorrow


@pytest.mark.parametrize('schedule', ['10 12 * * *', '@at 2026-05-20 12:10'])
def test_what_a_pause_has_put_off_is_not_lost_by_another_pause_or_an_edit(at, schedule):
    job = at.add(schedule=schedule)
    plan(at)
    dc.pause_job(at.store, job, NOON + timedelta(minutes=60), 'alice')
    clock(at, 30)
    dc.pause_job(at.store, job, NOON + timedelta(minutes=90), 'bob')
    assert due(at, job) == local(90)
    dc.save_job(at.store, job, {'start_within': 600})
    assert due(at, job) == local(90)
    clock(at, 91)
    dc.pause_job(at.store, job, NOON + timedelta(minutes=120), 'carol')
    assert due(at, job) == local(120)
    clock(at, 100)
    dc.resume_job(at.store, job)
    assert due(at, job) == local(100)
    start(at, job)


def test_what_a_pause_has_put_off_of_a_template_is_not_lost_by_another_pause(at):
    template = at.add(schedule='10 12 * * *', each_host=1)
    dc.update_host(at.store, 'here-1', 0, at.store.now())
    dc.follow_templates(at.store, at.store.now())
    (child,) = at.sql('SELECT id FROM job WHERE parent_id = :id', id=template)[0]
    plan(at)
    for minutes in 60, 90:
        dc.pause_job(at.store, template, NOON + timedelta(minutes=minutes), 'alice')
        dc.follow_templates(at.store, at.store.now())
        clock(at, 30)
    assert due(at, child) == local(90)
    dc.resume_job(at.store, template)
    assert due(at, child) == local(30)


@pytest.mark.parametrize('target', ['*', 'here'])
def test_a_host_that_is_paused_claims_nothing_and_goes_on_by_itself(at, target):
    job = at.add(schedule='*/10 * * * *')
    asked = at.add(schedule='0 0 * * *')
    plan(at)
    clock(at, 10)
    jobs = at.store.find(5)
    assert list(jobs) == [job]
    dc.pause_hosts(at.store, target, NOON + timedelta(minutes=30), 'alice')
    assert not at.store.claim(jobs, 'x' * 32, 'w-1')  # found before, claimed after
    assert at.store.look().paused and not at.store.find(5)
    dc.act(at.store, 'run-now', asked)
    assert list(at.store.find(5)) == [asked]
    other = at.new_store('other')
    at.set_clock(local(10), other)
    assert bool(other.find(5)) and (job in other.find(5)) == (target == 'here')
    other.close()
    clock(at, 30)
    assert not at.store.look().paused and job in at.store.find(5)


@pytest.mark.parametrize(
    'begun, reason',
    [(12, 'all hosts paused by alice'), (14, 'not started within 3 min')],
)
def test_a_pause_is_why_a_time_was_skipped_only_if_it_began_in_time(at, begun, reason):
    job = at.add(schedule='*/10 * * * *', start_within=3)
    plan(at)
    clock(at, begun)
    dc.pause_hosts(at.store, '*', NOON + timedelta(minutes=60), 'alice')
    clock(at, 15)
    at.store.plan_late(at.store.now())
    assert skips(at, job) == ['SKIPPED: at 12:10: ' + reason]


# Where.


def test_a_job_is_taken_by_the_hosts_alone_that_have_its_word(at):
    jobs = [at.add(run_on=word) for word in (None, 'here', 'db', 'elsewhere')]
    plan(at)
    assert list(at.store.find(9)) == jobs[:2]
    assert not at.store.claim([jobs[3]], 'x' * 32, 'w-1')
    at.write(tags=['db', 'ssd'])
    tagged = at.new_store('Other')  # its name counts in lower case
    at.set_clock(NOW, tagged)
    assert list(tagged.find(9)) == [jobs[0], jobs[2]]
    dc.update_host(tagged, 'Other-1', 0, tagged.now())
    assert at.sql("SELECT tags FROM host WHERE name = 'Other'")[0].tags == 'db ssd'
    tagged.close()


def test_jobs_of_hosts_that_are_away_cost_the_others_nothing(mysql_place):
    at = mysql_place
    at.store.connection.cursor().executemany(
        'INSERT INTO job (command, run_on, next_run_utc) VALUES (%s, %s, %s)',
        [('true', 'away', '2020-01-01')] * 10000,
    )
    at.store.execute('ANALYZE TABLE job').fetchall()
    mine = at.add(next_run_utc='2030-01-01')

    def rows_read():
        rows = at.sql("SHOW SESSION STATUS LIKE 'Handler_read%'")
        return sum(int(row[1]) for row in rows)

    before = rows_read()
    seen = at.store.look()
    assert rows_read() - before < 50 and seen.due_in > 0 and not seen.late
    at.store.execute('UPDATE job SET next_run_utc = {utc} WHERE id = :id', id=mine)
    before = rows_read()
    jobs = at.store.find(5)
    assert at.store.claim(jobs, 'x' * 32, 'w-1') and list(jobs) == [mine]
    assert rows_read() - before < 50


def test_a_poll_and_a_search_for_due_jobs_use_the_index_of_the_hosts_words(at):
    at.store.execute('''INSERT INTO job (command, run_on, next_run_utc)
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900)
        SELECT 'true', 'away', '2020-01-01' FROM n''')
    plans = plans_by(at, at.store.look, lambda: at.store.find(5))
    for shown in plans[:2]:
        assert shown.count('job_here') >= 2, shown
        assert not re.search(r'Seq Scan on job|SCAN job(?! USING)| job ALL ', shown), (
            shown
        )


# On each host.


def test_a_template_has_a_job_on_each_host_which_follows_it(at):
    job = at.add(command='df', each_host=1, schedule='*/10 * * * *', run_on='db')
    at.write(tags=['db'])
    stores = [at.new_store(name) for name in ('One', 'two')]
    for store in stores:
        at.set_clock(NOW, store)
        dc.update_host(store, store.config.name + '-1', 0, store.now())
        dc.follow_templates(store, store.now())
        dc.follow_templates(store, store.now())
    plan(at)
    children = at.sql('SELECT * FROM job WHERE parent_id = :id ORDER BY id', id=job)
    assert [child.run_on for child in children] == ['one', 'two']
    assert {child.command for child in children} == {'df'}
    assert due(at, job).startswith('9999') and due(at, children[0].id) == local(10)
    clock(at, 10)
    at.set_clock(local(10), stores[0])
    assert not at.store.find(5) and list(stores[0].find(5)) == [children[0].id]
    dc.act(at.store, 'run-now', job)
    assert [row.run_requested for row in at.sql('SELECT * FROM job')] == [0, 1, 1]
    dc.save_job(at.store, job, {'command': 'df -h', 'schedule': '0 * * * *'})
    for store in stores:
        dc.follow_templates(store, store.now())
    assert {row.command for row in at.sql('SELECT * FROM job')} == {'df -h'}
    at.write(tags=[])
    bare = at.new_store('two')
    at.set_clock(local(10), bare)
    dc.follow_templates(bare, bare.now())  # its tag is gone
    assert [row.run_on for row in at.sql('SELECT * FROM job')] == ['db', 'one']
    dc.act(at.store, 'remove', job)
    dc.follow_templates(at.store, at.store.now())
    assert not at.sql('SELECT * FROM job')
    for store in (*stores, bare):
        store.close()


def test_children_of_hosts_that_are_gone_for_a_week_go_too(at):
    job = at.add(each_host=1, schedule='0 0 * * *')
    gone = at.new_store('gone')
    at.set_clock(NOW, gone)
    dc.update_host(gone, 'gone-1', 0, gone.now())
    dc.follow_templates(gone, gone.now())
    gone.close()
    at.set_clock('2026-05-27 11:59:00')
    dc.follow_templates(at.store, at.store.now())
    assert [row.run_on for row in at.sql('SELECT * FROM job')] == [
        None,
        'gone',
        'here',
    ] or len(at.sql('SELECT * FROM job WHERE parent_id = :id', id=job)) == 1
    at.set_clock('2026-05-27 12:01:00')
    dc.follow_templates(at.store, at.store.now())
    left = at.sql('SELECT run_on FROM job WHERE parent_id = :id', id=job)
    assert 'gone' not in [row.run_on for row in left]


# Hosts.


def test_a_silence_of_a_host_is_remembered(at):
    dc.update_host(at.store, 'here-1', 0, at.store.now())
    clock(at, 1)
    dc.update_host(at.store, 'here-1', 0, at.store.now())
    row = at.sql('SELECT * FROM host')[0]
    assert (row.gap_from, row.gap_until) == (None, NOW)  # it is new
    clock(at, 30)
    dc.update_host(at.store, 'here-1', 0, at.store.now())
    clock(at, 31)
    dc.update_host(at.store, 'here-1', 0, at.store.now())
    row = at.sql('SELECT * FROM host')[0]
    assert (row.gap_from, row.gap_until) == (local(1), local(30))


@pytest.mark.parametrize(
    'values',
    [{'run_on': 'db'}, {'retries': 1}, {'each_host': 1}, {'time_zone': 'Europe/Rome'}],
)
def test_what_version_1_does_not_know_is_refused_while_it_runs(at, values):
    values = {'command': 'true', **values}
    dc.update_host(at.store, 'old-1', 0, at.store.now())
    at.store.execute("UPDATE host SET version = '1.0'")
    with pytest.raises(dc.BadJob, match='runs version 1'):
        dc.save_job(at.store, None, values)
    dc.save_job(at.store, None, {'command': 'true'})
    dc.save_job(at.store, None, values, force=True)
    clock(at, 61)
    dc.save_job(at.store, None, values)
