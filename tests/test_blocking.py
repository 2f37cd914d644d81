"""Whoever holds a lock or a connection, and does not go on, stops nobody else."""

import contextlib
import os
import re
import signal

import pytest
from conftest import dc, wait_until
from hosts import LATE, Ticks, proxy_of, row_lock, start_worker

SHORT = {'minute': 2, 'margin': 1}
STEPS = {  # the statement within its transaction after which a host is gone
    'plan': b'UPDATE job SET next_run_utc',
    'end': b' SET last_end',
    'history': b'INTO run ',
}
FREED = 30  # seconds in which the server ends the session of a peer that is gone


def strike(place, signum, gone):
    """What stops or kills the first worker that a place starts, and notes it in `gone`."""

    def at_it():
        os.kill(place.started[0].pid, signum)
        gone.append(True)

    return at_it


@pytest.mark.slow
@pytest.mark.parametrize('step', STEPS)
@pytest.mark.parametrize('how', ['stopped', 'vanished'])
def test_a_host_that_is_gone_inside_a_transaction_stops_nobody(server_place, how, step):
    """It loses what it ran, and nothing else: the others' starts come in time, and what
    it had locked is free within half a minute."""
    place = server_place
    place.write(kill_grace=0.5)
    proxy, file = proxy_of(place)
    job, gone = place.add('true'), []
    others = Ticks(place, 20)
    kill = signal.SIGSTOP if how == 'stopped' else signal.SIGKILL
    # Before the worker is there: the job may run as soon as it is.
    proxy.vanish(STEPS[step], strike(place, kill, gone))
    start_worker(place, 'first', file=file, **SHORT)
    try:
        wait_until(lambda: gone, what='the transaction')
        start_worker(place, 'second', **SHORT)
        late = others.lateness(3)
        # It was planned, or recorded as lost, by the second host.
        wait_until(lambda: place.runs(job), FREED, 'the locked row')
        assert late <= LATE + max(others.tick(), others.tick())
    finally:
        proxy.close()


def test_a_worker_that_was_stopped_inside_a_transaction_goes_on(server_place):
    """The server has ended its session meanwhile; its result is reported late."""
    place = server_place
    place.write(kill_grace=0.5)
    proxy, file = proxy_of(place)
    job, gone = place.add('true'), []
    proxy.watch(STEPS['end'], strike(place, signal.SIGSTOP, gone))
    first = start_worker(place, 'first', file=file, **SHORT)
    try:
        wait_until(lambda: gone, what='the transaction')
        start_worker(place, 'second', **SHORT)
        wait_until(lambda: place.runs(job), FREED, 'the locked row')
        assert place.runs(job)[0].status.startswith('ERROR: lost')
        os.kill(first.pid, signal.SIGCONT)
        wait_until(lambda: place.runs(job)[0].status == 'Success')
        assert first.poll() is None
    finally:
        proxy.close()


# One row that somebody has locked.

OTHERS = 200


def locked_job(place, state):
    """A job in a state in which each worker wants to write its row."""
    utc = '{utc}'
    if state == 'overdue':
        job = place.add('true', next_run_utc='2026-01-01 00:00:00')
        place.store.change(
            "UPDATE job SET run_token = 'gone', run_no = 1, run_deadline_utc = %s "
            'WHERE id = :job' % utc,
            job=job,
        )
    elif state == 'due':
        job = place.add('true', next_run_utc='2026-01-01 00:00:00')
    elif state == 'unplanned':
        job = place.add('true', schedule='* * * * *')
    else:
        job = place.add('while [ ! -e %s/over ]; do sleep 0.1; done' % place.folder)
    return job


@pytest.mark.slow
@pytest.mark.parametrize('timeout', [1, 2])
@pytest.mark.parametrize('state', ['due', 'running', 'unplanned', 'overdue'])
def test_one_locked_row_keeps_no_other_job(server_place, state, timeout):
    """Each of 200 other jobs starts at each of its times, on two hosts; the log names
    the job whose row is locked; and once it is free it gets what is its due."""
    place = server_place
    place.write(db=dict(place.values['db'], timeout=timeout), max_tasks=120)
    others = Ticks(place, OTHERS)
    with contextlib.ExitStack() as stack:
        if state == 'running':
            job = locked_job(place, state)
            start_worker(place, 'one')
            wait_until(lambda: place.job(job).run_token)
            stack.enter_context(row_lock(place, job))
            open(place.folder + '/over', 'w').close()
        else:
            job = locked_job(place, state)
            stack.enter_context(row_lock(place, job))
            start_worker(place, 'one')
        start_worker(place, 'two')
        late = others.lateness(4)
        assert others.hosts() == {'one', 'two'}
        logs = place.worker_log('one') + place.worker_log('two')
        assert re.search(r'job %d\b.*locked|locked.*job %d\b' % (job, job), logs)
        assert not place.runs(job)
    wait_until(
        (lambda: place.job(job).next_run_utc)
        if state == 'unplanned'
        else (lambda: place.runs(job)),
        45,
        'the row that was locked',
    )
    assert late <= LATE + max(others.tick(), others.tick())


# Whether a server is read-only.


@pytest.mark.parametrize(
    'answer, read_only',
    [
        ("'OFF'", False),
        ("'ON'", True),
        ("'NO_LOCK'", True),
        ("'NO_LOCK_NO_ADMIN'", True),
        ('0', False),
        ('1', True),
    ],
)
def test_how_servers_say_that_they_are_read_only(mysql_place, answer, read_only):
    """MariaDB answers with a word since version 12, with a number before."""
    place = mysql_place
    if not place.server.program.endswith('mariadbd'):
        pytest.skip('MySQL answers with a number')
    proxy, file = proxy_of(place)
    asked = b'@@global.read_only'
    said = answer.encode().ljust(len(asked))
    proxy.rewrite = lambda data: data.replace(asked, said)
    try:
        place.file = file
        out = place.run('list', code=1 if read_only else 0)
        assert ('read-only' in out) == read_only
    finally:
        proxy.close()


def test_a_row_that_is_locked_after_a_failure_here_is_left_alone_as_any(tmp_path):
    path = tmp_path / 'log'
    locked = dc.LockedJobs(dc.Log(str(path), 'w', 10**6), has_others=True)
    locked.leave_to_others({1})
    assert locked.jobs() == {1}
    locked.leave_alone([1], 'its row is locked')
    assert 'job 1 is left alone: its row is locked' in path.read_text()
    assert locked.until[1] < dc.boottime() + 3
    locked.leave_to_others({1})
    locked.leave_alone([1], 'its row is locked')
    assert locked.until[1] < dc.boottime() + 3
