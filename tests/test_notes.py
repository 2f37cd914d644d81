"""Why a run started late: each reason by the fault that it tells of, on each database."""

import os
import time
from datetime import timedelta

import pytest
from conftest import NOW, dc, fork, wait_until
from hosts import proxy_of
from test_plans import NOON, clock, fail, finish, local, start
from test_steps import due, plan


def hello(place, name='here', minutes=0, running=0, **more):
    """A host's worker says that it is there, so long after noon."""
    place.write(**more)
    store = place.new_store(name)
    place.set_zone('+00:00' if place.engine == 'mysql' else 'UTC', store)
    place.set_clock(local(minutes), store)
    dc.update_host(store, name + '-1', running, store.now())
    store.close()


def seen(place, minutes, name='here', running=0, since=0, **more):
    """A host's worker is there from a minute to another one."""
    for minute in range(since, minutes + 1):
        hello(place, name, minute, running, **more)


def log_of(place):
    """A worker's log."""
    return dc.Log(os.path.join(place.folder, 'worker.log'), 'here-1', 1 << 20)


def note(place, job, pace=None):
    """Claim a job as a worker does; returns its note."""
    place.store.plan_late(place.store.now())
    jobs = place.store.find(10)
    assert job in jobs
    rows = place.store.claim({job: jobs[job]}, 'n' * 32, 'here-1')
    (row,) = dc.with_notes(place.store, rows, jobs, pace or dc.Pace(), log_of(place))
    return row.note


def ready(place, **values):
    """A job that is due at 12:10."""
    job = place.add(**{'schedule': '10 12 * * *', **values})
    plan(place)
    return job


# By a set clock.


def test_a_run_in_time_has_no_note_and_costs_no_statement(at):
    job = ready(at)
    clock(at, 11)
    jobs = at.store.find(10)
    rows = at.store.claim(jobs, 'n' * 32, 'here-1')
    at.store.close()  # what it does not ask, it does not need
    assert dc.with_notes(at.store, rows, jobs, dc.Pace(), log_of(at)) == rows
    at.store.connect()
    assert at.job(job).run_token


def test_no_worker_was_there(at):
    job = ready(at, schedule='10-20/2 12 * * *')
    hello(at, 'other')
    seen(at, 3)
    hello(at, minutes=90)
    clock(at, 90, 5)
    text = '80 min late: no worker was seen from 12:03 to 13:30; 5 more times passed'
    assert note(at, job) == text


def test_a_first_worker_was_not_there_before(at):
    job = ready(at)
    hello(at, minutes=90)
    clock(at, 90)
    assert note(at, job) == '80 min late: no worker was seen until 13:30'


def test_no_worker_of_a_host_was_there_although_others_were(at):
    job = ready(at, run_on='here')
    seen(at, 2)
    hello(at, minutes=20)
    seen(at, 20, 'other')
    clock(at, 20)
    assert (
        note(at, job) == '10 min late: no worker of here was seen from 12:02 to 12:20'
    )


def test_what_is_not_known_is_called_unknown(at):
    job = ready(at)
    seen(at, 20)
    clock(at, 20)
    assert note(at, job) == '10 min late: unknown'


def test_a_host_that_was_free_leaves_it_unknown(at):
    job = ready(at)
    hello(at)
    hello(at, minutes=20)
    seen(at, 20, 'free')
    clock(at, 20)
    assert note(at, job) == '10 min late: unknown'


def test_a_silence_that_ended_long_before_is_no_reason(at):
    job = ready(at)
    hello(at)
    hello(at, minutes=9)
    seen(at, 20, since=10)
    clock(at, 20)
    assert note(at, job) == '10 min late: unknown'


def test_all_slots_were_taken(at):
    job = ready(at)
    seen(at, 20)
    seen(at, 20, 'other', running=8)
    clock(at, 20)
    pace = dc.Pace()
    pace.full = dc.boottime() - 570, dc.boottime() - 1
    assert note(at, job, pace) == (
        '10 min late: here had all slots taken, 8 of 8, from 12:10 to 12:19, '
        'other had all slots taken, 8 of 8'
    )


def test_the_job_was_paused(at):
    job = ready(at, schedule='*/10 * * * *')
    seen(at, 40)
    dc.pause_job(at.store, job, NOON + timedelta(minutes=35), 'alice: disk 100% full')
    clock(at, 35)
    text = (
        '25 min late: paused until 12:35 by alice: disk 100% full; 2 more times passed'
    )
    assert note(at, job) == text


def test_what_runs_after_a_job_is_not_late_since_its_last_run(at):
    first = at.add(schedule='0 0 * * *', next_run_utc=NOW)
    job = at.add(after_job=first, last_start='2026-05-19 12:00:00')
    at.store.execute('UPDATE job SET claimed_start = last_start')
    plan(at)
    seen(at, 40)
    dc.pause_job(at.store, job, NOON + timedelta(minutes=35), 'alice')
    clock(at, 30)
    finish(at, first, start(at, first))
    at.store.tell_followers(at.store.now())
    clock(at, 35)
    assert note(at, job) is None


def test_what_all_hosts_have_in_common_is_said_once_and_of_no_host(at):
    job = ready(at)
    seen(at, 30)
    seen(at, 30, 'other', running=8)
    dc.pause_job(at.store, job, NOON + timedelta(minutes=20), 'ann')
    clock(at, 30)
    pace = dc.Pace()
    pace.full = dc.boottime() - 590, dc.boottime() - 1
    assert note(at, job, pace) == (
        '20 min late: paused until 12:20 by ann, '
        'here had all slots taken, 8 of 8, from 12:20 to 12:29, '
        'other had all slots taken, 8 of 8'
    )


@pytest.mark.parametrize('target', ['*', 'here'])
def test_hosts_were_paused_until_somebody_resumed_them(at, target):
    job = ready(at)
    seen(at, 30)
    dc.pause_hosts(at.store, target, NOON + timedelta(minutes=60), 'bob')
    clock(at, 30)
    assert dc.resume_hosts(at.store, target)
    subject = 'all hosts were' if target == '*' else 'here'
    assert note(at, job) == '20 min late: %s paused until 12:30 by bob' % subject


@pytest.mark.parametrize('target', ['*', 'here'])
def test_hosts_were_paused_for_longer_than_first_said(at, target):
    job = ready(at)
    seen(at, 90)
    for minutes in 60, 90:
        until = NOON + timedelta(minutes=minutes)
        dc.pause_hosts(at.store, target, until, 'bob')
        clock(at, minutes - 30)
    clock(at, 90)
    subject = 'all hosts were' if target == '*' else 'here'
    assert note(at, job) == '80 min late: %s paused until 13:30 by bob' % subject


def test_a_pause_and_then_a_silence(at):
    job = ready(at)
    seen(at, 20)
    dc.pause_hosts(at.store, '*', NOON + timedelta(minutes=20), 'bob')
    hello(at, minutes=40)
    clock(at, 40)
    assert note(at, job) == (
        '30 min late: all hosts were paused until 12:20 by bob and '
        'no worker was seen from 12:20 to 12:40'
    )


def test_no_host_had_the_tag(at):
    job = ready(at, run_on='gpu')
    seen(at, 20, tags=[])
    seen(at, 20, 'other')
    hello(at, minutes=21, tags=['gpu'])
    clock(at, 21)
    tagged = at.new_store()
    at.set_clock(local(21), tagged)
    jobs = tagged.find(5)
    rows = tagged.claim(jobs, 'n' * 32, 'here-1')
    (row,) = dc.with_notes(tagged, rows, jobs, dc.Pace(), log_of(at))
    assert row.id == job
    assert row.note == '11 min late: no host had the tag gpu until 12:21'
    tagged.close()


def test_a_perl_worker_ran_it(at):
    job = at.add(frequency=30, max_run_time=20, next_run_utc=NOW)
    at.store.execute(
        'UPDATE job SET last_start = {local}, last_worker = :perl', perl='perl-1'
    )
    dc.act(at.store, 'run-now', job)
    seen(at, 30)
    clock(at, 30)
    assert note(at, job) == (
        '30 min late: a run of a Perl worker, since 12:00, could go on until 12:30; '
        '1 more time passed'
    )


def test_the_run_before_had_not_ended(at):
    job = at.add(frequency=90, max_run_time=60, next_run_utc=local(10))
    clock(at, 10)
    run_no = start(at, job)
    clock(at, 11)
    at.store.execute('UPDATE job SET frequency = 5')
    seen(at, 30)
    clock(at, 30)
    finish(at, job, run_no)
    plan(at)
    assert due(at, job) == local(15)
    text = '15 min late: run 1 on alpha had not ended until 12:30; 3 more times passed'
    assert note(at, job) == text


def test_a_retry_says_so(at):
    job = ready(at, retries=3, retry_delay=60)
    clock(at, 10)
    fail(at, job)
    hello(at)
    hello(at, minutes=90)
    clock(at, 90)
    assert note(at, job) == (
        'retry 1 of 3, 79 min late: no worker was seen from 12:00 to 13:30'
    )


def test_a_note_fits_its_column(at):
    job = ready(at, schedule='*/10 * * * *')
    seen(at, 40)
    dc.pause_job(at.store, job, NOON + timedelta(minutes=35), 'x' * 255)
    clock(at, 35)
    text = note(at, job)
    finish(at, job, 1, token='n' * 32, note=text)
    assert at.runs(job)[0].note == text and text.endswith('; 2 more times passed')


def test_a_bad_row_starts_without_a_note(at):
    if at.engine != 'sqlite':
        pytest.skip('holds no such row')
    job = ready(at)
    clock(at, 40)
    jobs = at.store.find(10)
    rows = at.store.claim(jobs, 'n' * 32, 'here-1')
    rows = [row._replace(next_run_utc='soon', frequency='x') for row in rows]
    log = log_of(at)
    assert dc.with_notes(at.store, rows, jobs, dc.Pace(), log) == rows and job in jobs


def test_a_note_that_can_not_be_written_is_in_the_log(at):
    job = ready(at)
    clock(at, 40)
    jobs = at.store.find(10)
    rows = at.store.claim(jobs, 'n' * 32, 'here-1')
    at.store.execute('ALTER TABLE pause RENAME TO elsewhere')
    assert dc.with_notes(at.store, rows, jobs, dc.Pace(), log_of(at)) == rows
    (line,) = at.read('worker.log').splitlines()
    assert job in jobs and ' a late start gets no note: ' in line and 'pause' in line
    assert 'secret' not in line


# By real workers and faults, where a run is late after half a second.


@pytest.fixture
def impatient(place, monkeypatch):
    monkeypatch.setattr(dc, 'LATE', timedelta(seconds=0.5))
    monkeypatch.setattr(dc, 'SILENCE', timedelta(seconds=0.5))
    return place


def work_until(place, count, config=None, seconds=20):
    """Let a worker of ours run until the history has so many runs."""
    worker = fork(dc.work, config or place.config('one'), True)
    try:
        return place.wait_runs(count, seconds)
    finally:
        dc.os.kill(worker, dc.signal.SIGKILL)
        dc.os.waitpid(worker, 0)


def test_a_real_run_has_its_note_in_the_history(place):
    place.add('echo x', next_run_utc='2026-01-01 00:00:00')
    place.run('run', name='one')
    (run,) = place.runs()
    assert ' days late: no worker was seen until ' in run.note and run.output == 'x\n'


def test_real_slots_that_were_taken(impatient):
    place = impatient
    place.write(max_tasks=1)
    for _ in range(2):
        place.add('sleep 1.3', next_run_utc='2026-01-01 00:00:00')
    place.store.change('UPDATE job SET next_run_utc = {utc}')
    first, second = sorted(work_until(place, 2), key=lambda run: run.ended_at)
    assert first.note is None or 'no worker was seen' in first.note
    assert 'one had all slots taken, 1 of 1, from ' in second.note


def test_a_real_outage_of_the_database(server_place, monkeypatch):
    place = server_place
    monkeypatch.setattr(dc, 'LATE', timedelta(seconds=1))
    proxy, file = proxy_of(place)
    config = dc.load_config(file, 'one')
    worker = fork(dc.work, config, True)
    wait_until(lambda: place.sql('SELECT * FROM host'))
    proxy.refuses = True
    proxy.reset()
    time.sleep(1.2)  # more than a second, in whose whole the next one is due
    place.add('true', next_run_utc='2026-01-01 00:00:00')
    place.store.change('UPDATE job SET next_run_utc = {utc}')
    time.sleep(1.5)
    proxy.heal()
    (run,) = place.wait_runs(1)
    dc.os.kill(worker, dc.signal.SIGKILL)
    dc.os.waitpid(worker, 0)
    assert 'late: one could not reach the database from ' in run.note
