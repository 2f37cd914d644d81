"""A runner that gets too little of its machine: each run stands for itself."""

import os
import resource
import signal
import time

import pytest
from conftest import dc, wait_until
from hosts import proxy_of, start_worker
from test_steps import claim, left, plan
from test_worker import children

MANY = 30


def test_what_finds_no_descriptor_fails_alone(place):
    """A runner may open fewer files than it has runs: some can't start, none is lost."""
    place.write(max_tasks=MANY)
    for number in range(MANY):
        place.add(
            'echo %d >> %s/ran; sleep 1' % (number, place.folder), max_run_time=30
        )
    few = 24
    start_worker(
        place,
        'one',
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (few, few)),
    )
    wait_until(
        lambda: len({run.job_id for run in place.runs()}) == MANY, 30, 'all records'
    )
    statuses = [run.status for run in place.runs() if run.status != 'Success']
    assert all(status.startswith('ERROR: could not start') for status in statuses)
    assert len(statuses) < MANY
    ran = place.read('ran').split()
    assert len(ran) == len(set(ran)) >= MANY - len(statuses)


def test_a_runner_without_descriptors_for_a_while_loses_no_run(place):
    place.write(max_tasks=MANY)
    go = place.folder + '/go'
    for _ in range(10):
        place.add(
            'echo begun; while [ ! -e %s ]; do sleep 0.1; done; echo done' % go,
            max_run_time=30,
        )
    worker = start_worker(place, 'one')
    logs = ['log/%d.log' % (1 + number) for number in range(10)]
    wait_until(lambda: all('begun' in place.read(path) for path in logs))
    runners, limits = children(worker.pid), {}
    for runner in runners:
        limits[runner] = resource.prlimit(runner, resource.RLIMIT_NOFILE)
        few = 3, limits[runner][1]
        resource.prlimit(runner, resource.RLIMIT_NOFILE, few)
    time.sleep(1.5)  # a runner looks for what is to be stopped once a second
    assert children(worker.pid) == runners
    for runner in runners:
        resource.prlimit(runner, resource.RLIMIT_NOFILE, limits[runner])
    open(go, 'w').close()
    runs = place.wait_runs(10)
    assert {run.status for run in runs} == {'Success'}
    assert {run.output for run in runs} == {'begun\ndone\n'}


def test_max_run_time_is_no_second_short(at):
    """Also of a claim late in its second."""
    at.add(max_run_time=1)
    plan(at)
    at.set_clock('2026-05-20 12:00:00.900000')
    (row,) = claim(at)
    assert left(row) >= 60 + 1 + dc.MARGIN


@pytest.mark.parametrize('before', [None, '2026-01-01 00:00:00'])
def test_what_is_given_back_keeps_its_last_start(server_place, before):
    """What was claimed, and then had too little time left to start, did not start."""
    place = server_place
    place.write(db=dict(place.values['db'], timeout=5))
    job = place.add(
        'true', schedule='0 0 1 1 *', last_start=before, claimed_start=before
    )
    plan(place)
    proxy, file = proxy_of(place)
    worker, stopped = start_worker(place, 'one', file=file, minute=2, margin=9), []

    def stop():
        os.kill(worker.pid, signal.SIGSTOP)
        stopped.append(True)

    proxy.watch(b' SET run_token = ', stop)
    try:
        place.run('run-now', str(job))
        wait_until(lambda: stopped and place.job(job).run_token)
        time.sleep(1.8)  # more than half of its time, which is up to 3 seconds
        place.store.change('UPDATE job SET active = 0 WHERE id = :job', job=job)
        place.store.change('UPDATE job SET next_run_utc = :never', never=dc.PARKED)
        os.kill(worker.pid, signal.SIGCONT)
        wait_until(lambda: not place.job(job).run_token)
        given = place.job(job)
        assert given.run_no == 1 and not place.runs()
        assert (given.last_start, given.claimed_start) == (before, before)
    finally:
        proxy.close()
