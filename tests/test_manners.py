"""What commands may count on when they are ended, and after; and whose a folder is."""

import os
import shutil
import signal

import pytest
from conftest import dc, processes_of, wait_until
from hosts import start_worker
from test_worker import children

# A command that notes each SIGTERM, and takes its time.
NOTES = (
    'exec > /dev/null 2>&1; trap "echo T >> {terms}" TERM; echo begun >> {begun}; '
    'while :; do sleep 0.1; done'
)


def noting(place, **values):
    """A job with such a command; it has begun when its worker is at work."""
    files = {name: '%s/%s' % (place.folder, name) for name in ('terms', 'begun')}
    return place.add(NOTES.format(**files), **values)


def test_sigterm_comes_once_when_a_run_is_stopped(sqlite_place):
    place = sqlite_place
    place.write(kill_grace=2)
    job = noting(place, max_run_time=30)
    start_worker(place, 'one')
    wait_until(lambda: place.read('begun'))
    place.run('stop', str(job))
    assert place.wait_runs(1)[0].status == 'ERROR: stopped'
    assert place.read('terms') == 'T\n'


@pytest.mark.parametrize('who', ['runner', 'both'])
def test_sigterm_comes_once_to_what_a_dead_runner_left(sqlite_place, who):
    place = sqlite_place
    place.write(kill_grace=2)
    noting(place, max_run_time=30)
    worker = start_worker(place, 'one')
    wait_until(lambda: place.read('begun'))
    (runner,) = children(worker.pid)
    if who == 'both':
        worker.kill()
        worker.wait()
    os.kill(runner, signal.SIGKILL)
    if who == 'both':
        start_worker(place, 'one')
    assert place.wait_runs(1)[0].status == dc.LOST
    assert place.read('terms') == 'T\n'


@pytest.mark.parametrize(
    'command',
    [
        "sh -c 'sleep 1; echo late; echo still here > {file}; echo {mark}'",
        "perl -e '$| = 1; sleep 1; print qq(late\\n); open F, q(>), q({file}); print F 1'",
    ],
)
def test_what_is_left_in_the_background_may_write(sqlite_place, command):
    """Its pipe has a reader as long as it is open, also when the run has ended."""
    place = sqlite_place
    file = place.folder + '/still'
    command = command.format(file=file, mark=place.mark)
    place.add(command + ' & echo early', max_run_time=30)
    start_worker(place, 'one')
    (run,) = place.wait_runs(1)
    assert (run.status, run.output) == ('Success', 'early\n')
    wait_until(lambda: os.path.exists(file), 5, 'the process in the background')


# The state folder.


def state_folder(place, name='one'):
    return os.path.join(place.folder, 'log', 'state-' + name)


def test_wake_is_made_anew(place):
    """Without it a runner could not begin: nothing is claimed in vain."""
    worker = start_worker(place, 'one')
    wait_until(lambda: place.sql('SELECT * FROM host'))
    os.unlink(os.path.join(state_folder(place), 'wake'))
    job = place.add('true', max_run_time=30)
    (run,) = place.wait_runs(1)
    assert run.status == 'Success' and run.run_no <= 3
    assert place.job(job).run_no == run.run_no and worker.poll() is None
    assert os.path.exists(os.path.join(state_folder(place), 'wake'))


def test_a_claim_belongs_to_its_database(sqlite_place):
    """A worker of another database, in the same state folder, writes no end of it there,
    and leaves it for a worker of its own database."""
    place = sqlite_place
    job = place.add('echo first; sleep 1; : ' + place.mark, max_run_time=30)
    worker = start_worker(place, 'one')
    wait_until(lambda: place.job(job).run_token)
    wait_until(lambda: 'first' in place.read('log/%d.log' % job))
    worker.kill()
    worker.wait()
    first = dict(place.values['db'])
    place.write(db=dict(first, path='other.db'))
    place.init()
    other = place.add('echo other', max_run_time=30)
    assert other == job
    place.run('run', name='one')
    assert '1 claims of another database are left alone' in place.read('log/one.log')
    wait_until(lambda: not processes_of(place.mark))
    place.run('run', name='one')
    (run,) = place.runs()
    assert (run.status, run.output) == ('Success', 'other\n')
    place.write(db=first)
    place.store = place.new_store()
    place.run('run', name='one')
    (run,) = place.runs()
    assert (run.status, run.output) == ('Success', 'first\n')


def test_a_reload_to_another_database_keeps_claims_apart(sqlite_place):
    """And what runs is reported once the first database is there again."""
    place = sqlite_place
    place.add('echo first; sleep 1; : ' + place.mark, max_run_time=30)
    worker = start_worker(place, 'one')
    wait_until(lambda: 'first' in place.read('log/1.log'))
    first, first_store = dict(place.values['db']), place.store
    place.write(db=dict(first, path='other.db'))
    place.init()
    place.add('echo other', max_run_time=30)
    worker.send_signal(signal.SIGHUP)
    wait_until(place.runs)
    assert place.runs()[0].output == 'other\n'
    wait_until(lambda: not processes_of(place.mark))
    place.write(db=first)
    place.store = first_store
    worker.send_signal(signal.SIGHUP)
    wait_until(place.runs)
    assert [run.output for run in place.runs()] == ['first\n']
    worker.terminate()
    assert worker.wait(20) == 0


def test_a_copy_of_a_database_gets_an_identity_of_its_own(place):
    first = place.store.identity
    assert len(first) == 32
    place.run('init')
    assert place.new_store().identity == first
    place.run('init', '--new-identity')
    second = place.new_store().identity
    assert len(second) == 32 and second != first


@pytest.mark.skipif(os.getuid() != 0, reason='only root could')
def test_root_runs_nothing_in_a_folder_of_somebody_else(sqlite_place):
    """By hand, once: it would run all jobs as root, and leave root's logs."""
    place = sqlite_place
    place.run('run', name='one')
    job = place.add('true', max_run_time=30)
    shutil.chown(state_folder(place), 'nobody')
    err = place.run('run', name='one', code=2)
    assert 'nobody' in err and 'state' in err
    assert not place.runs() and place.job(job).run_no == 0


def test_a_log_that_cant_be_written_is_told(sqlite_place):
    """In the worker's log, once; and the run goes on."""
    place = sqlite_place
    job = place.add('echo x; sleep 0.2; echo y', max_run_time=30)
    os.makedirs(os.path.join(place.folder, 'log', '%d.log' % job))
    place.run('run', name='one')
    assert place.runs()[0].output == 'x\ny\n'
    lines = [line for line in place.worker_log().splitlines() if '%d.log' % job in line]
    assert len(lines) == 1
