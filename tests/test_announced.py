"""A time that was announced is kept, whether or not a worker polls before it comes."""

import contextlib
import glob
import os
import time
from datetime import datetime, timedelta, timezone

import pytest
from conftest import dc
from test_steps import claim, due, end, plan

FAKETIME = next(glob.iglob('/usr/lib/*/faketime/libfaketimeMT.so.1'), None)
FAR = '0 0 1 1 *'


def in_two_minutes():
    """A cron expression for one minute of today, and that minute, UTC."""
    when = datetime.now(timezone.utc) + timedelta(minutes=2)
    when = when.replace(second=0, microsecond=0, tzinfo=None)
    return '%d %d * * *' % (when.minute, when.hour), str(when)


@pytest.fixture
def utc(place):
    """A place, with a server's zone in UTC for all sessions."""
    if place.engine == 'sqlite':
        os.environ['TZ'] = 'UTC'
        time.tzset()
        return place
    zone = place.sql('SELECT {local}, {utc}')[0]
    if zone[0] != zone[1]:
        pytest.skip("the server's zone is not UTC")
    return place


@pytest.mark.parametrize('change', ['edit', 'enable', 'add'])
def test_a_command_writes_the_time_that_it_says(utc, change):
    """Not the next worker to come, which may come too late for it."""
    schedule, when = in_two_minutes()
    if change == 'add':
        out, job = utc.run('add', '--schedule', schedule, 'true'), 1
    elif change == 'edit':
        job = utc.add(schedule=FAR)
        out = utc.run('edit', str(job), '--schedule', schedule)
        assert 'next run ' + when in out
    else:
        job = utc.add(schedule=schedule, active=0)
        plan(utc)
        out = utc.run('enable', str(job))
    assert due(utc, job) == when, out


def test_a_frequency_is_counted_from_when_it_was_edited(utc):
    """A job that never ran is due at once, also if the worker comes later."""
    job = utc.add(schedule=FAR)
    plan(utc)
    utc.run('edit', str(job), '--every', '5')
    assert due(utc, job) <= str(utc.store.now())


@pytest.mark.skipif(FAKETIME is None, reason='libfaketime is missing')
@pytest.mark.parametrize('change', ['edit', 'enable', 'insert', 'update'])
def test_a_worker_that_comes_after_the_time_runs_it_late(sqlite_place, change):
    place = sqlite_place
    os.environ['TZ'] = 'UTC'
    time.tzset()
    schedule, when = in_two_minutes()
    if change == 'insert':
        job = place.add(schedule=schedule)
    elif change == 'enable':
        job = place.add(schedule=schedule, active=0)
        plan(place)
        place.run('enable', str(job))
    else:
        job = place.add(schedule=FAR)
        plan(place)
        if change == 'edit':
            place.run('edit', str(job), '--schedule', schedule)
        else:
            place.store.change(
                'UPDATE job SET schedule = :schedule WHERE id = :job',
                schedule=schedule,
                job=job,
            )
    later = dict(os.environ, LD_PRELOAD=FAKETIME, FAKETIME='+5m')
    later['FAKETIME_DONT_FAKE_MONOTONIC'] = '1'
    place.run('run', name='one', env=later)
    (run,) = place.runs()
    assert (run.due_utc, run.status) == (when, 'Success')


@pytest.mark.parametrize('change', ['insert', 'update', 'null'])
def test_a_row_that_was_changed_by_hand_is_planned_from_then(at, change):
    """Not from when a worker saw it."""
    if change == 'insert':
        job = at.add(schedule='1 12 * * *')
    else:
        job = at.add(schedule='1 12 * * *' if change == 'null' else FAR)
        plan(at)
        values = (
            'next_run_utc = NULL' if change == 'null' else "schedule = '1 12 * * *'"
        )
        at.store.change('UPDATE job SET %s WHERE id = :job' % values, job=job)
    at.set_clock('2026-05-20 12:05:00')
    plan(at)
    assert due(at, job) == '2026-05-20 12:01:00'
    assert at.job(job).changed_utc is None


def test_the_last_of_two_changes_counts(at):
    """A time of the new schedule that was over when it was given is not made up."""
    job = at.add(schedule=FAR)
    at.set_clock('2026-05-20 12:05:00')
    at.store.change("UPDATE job SET schedule = '1 12 * * *' WHERE id = :job", job=job)
    at.set_clock('2026-05-20 12:10:00')
    plan(at)
    assert due(at, job) == '2026-05-21 12:01:00'


def test_a_change_during_a_run_is_planned_from_its_end(at):
    """What would have been due while the job still ran is not made up."""
    job = at.add(frequency=60, max_run_time=30)
    plan(at)
    assert claim(at, job)
    at.store.change("UPDATE job SET schedule = '1 12 * * *' WHERE id = :job", job=job)
    at.set_clock('2026-05-20 12:05:00')
    end(at, job)
    plan(at)
    assert due(at, job) == '2026-05-21 12:01:00'


def test_a_clock_that_was_set_back_stops_no_schedule(place):
    """What is later than its schedule can have from now is planned anew."""
    place.set_zone('+00:00' if place.engine == 'mysql' else 'UTC')
    worker = dc.Worker(place.config('one'), True)
    worker.state.lock()
    worker.listen()
    worker.store.connect()
    place.set_zone('+00:00' if place.engine == 'mysql' else 'UTC', worker.store)
    job = place.add(schedule='* * * * *')
    every = place.add(frequency=1)

    def turns():
        """Until nothing is due and nothing runs."""
        limit = time.monotonic() + 20
        while time.monotonic() < limit:
            pause = worker.turn()
            if pause > 0.05 and not worker.claims:
                return
            dc.wait_for(worker.state.fifo, 1, min(pause, 0.02))
            worker.obey_signals()

    with contextlib.closing(worker.store):
        place.set_clock('2026-05-20 12:00:30', worker.store)
        turns()
        place.set_clock('2026-05-20 11:00:30', worker.store)
        turns()
        place.set_clock('2026-05-20 11:02:30', worker.store)
        turns()
        assert due(place, job) <= '2026-05-20 11:03:00'
        assert due(place, every) <= '2026-05-20 11:03:30'
        # The hour that came twice costs no run of the job that counts from its start.
        assert [run.job_id for run in place.runs()].count(every) >= 2
