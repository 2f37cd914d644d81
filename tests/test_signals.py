"""Who gets a signal: the processes of a run, and no other that has got the number of one."""

import contextlib
import os
import shutil
import signal
import subprocess
import time

import pytest
from conftest import dc, processes_of, wait_until
from hosts import start_worker

needs_root = pytest.mark.skipif(os.getuid() != 0, reason='only root can do this')
SLEEP = ['sleep', '300']
LAST_PID = '/proc/sys/kernel/ns_last_pid'


@contextlib.contextmanager
def sleeping():
    """A process of its own group and session, and the Process that it is."""
    with subprocess.Popen(SLEEP, start_new_session=True) as process:
        try:
            # Until it has become sleep, and so has its environment.
            wait_until(lambda: dc.stat_of(process.pid)[2] == str(process.pid))
            yield process, dc.process_of(process.pid)
        finally:
            process.kill()


def handles(how, monkeypatch):
    """A system with process descriptors, without, and one on which they are forbidden."""
    if how == 'none':
        monkeypatch.delattr(os, 'pidfd_open')
    elif how == 'forbidden':
        monkeypatch.setattr(os, 'pidfd_open', lambda id: os.open('/proc/1/none', 0))


WAYS = pytest.mark.parametrize('how', ['descriptor', 'none', 'forbidden'])
TO = pytest.mark.parametrize('to', ['group', 'process'])


@WAYS
@TO
def test_a_process_gets_its_signal(how, to, monkeypatch):
    handles(how, monkeypatch)
    with sleeping() as (process, found):
        leader = process.pid if to == 'group' else None
        assert dc.signal_tree([found], leader, 0) and process.poll() is None
        assert dc.signal_tree([found], leader, signal.SIGTERM)
        assert process.wait(5) == -signal.SIGTERM
    assert not dc.signal_tree([], None, signal.SIGTERM)


@WAYS
@TO
def test_a_process_that_began_at_another_time_gets_none(how, to, monkeypatch):
    handles(how, monkeypatch)
    with sleeping() as (process, found):
        leader = process.pid if to == 'group' else None
        dc.signal_tree([found._replace(born=found.born - 0.01)], leader, signal.SIGKILL)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)


def successor(process):
    """End a process, and start another one that gets its number."""
    process.kill()
    process.wait()
    time.sleep(0.02)  # or its start is the same, to the kernel's tick
    for _ in range(200):
        with open(LAST_PID, 'w') as file:
            file.write(str(process.pid - 1))
        other = subprocess.Popen(SLEEP, start_new_session=True)
        if other.pid == process.pid:
            return other
        other.kill()  # another one was faster
        other.wait()
    pytest.skip('the number can not be had')


@needs_root
@TO
def test_a_number_that_was_given_to_another_process_gets_none(to):
    """Between the look at all processes and the signal."""
    with sleeping() as (process, found), successor(process) as other:
        leader = process.pid if to == 'group' else None
        dc.signal_tree([found], leader, signal.SIGKILL)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.1)
        other.kill()


@needs_root
def test_a_descriptor_stays_with_its_process(monkeypatch):
    """Also when the number is given away after the look whose it is."""
    with sleeping() as (process, found):
        others = []

        def is_there(_):
            others.extend([] if others else [successor(process)])
            return True

        monkeypatch.setattr(dc, 'is_there', is_there)
        dc.send_signal(found, signal.SIGKILL)
        with others[0] as other:
            with pytest.raises(subprocess.TimeoutExpired):
                other.wait(0.1)
            other.kill()


@needs_root
@pytest.mark.skipif(not shutil.which('setpriv'), reason='there is no setpriv')
def test_a_run_that_cant_be_ended_says_so_and_stays(place):
    """Of another user, whom the worker may not signal: it is root without CAP_KILL. The
    job does not run again here while it goes on; once it is gone, the run has ended."""
    place.write(kill_grace=0.5)
    job = place.add('exec setpriv --reuid nobody --clear-groups sleep %s' % place.mark)
    begun = time.monotonic()
    start_worker(
        place, 'one', minute=1, margin=1, before=['setpriv', '--bounding-set', '-kill']
    )
    status = wait_until(lambda: says_why(place, job), 15, 'the status')
    (process,) = processes_of(place.mark)
    assert status == "ERROR: process %d can't be ended" % process
    row = place.job(job)
    assert row.run_token is not None and row.run_no == 1 and not place.runs()
    wait_until(lambda: status in place.worker_log())  # written after the row
    log = place.worker_log()
    assert log.count(status) == 1 and 'job %d run 1: %s' % (job, status) in log
    assert time.monotonic() - begun > 2  # not before its deadline
    os.kill(process, signal.SIGKILL)
    (run,) = place.wait_runs(1)
    assert run.status.startswith('ERROR: timed out')
    assert place.job(job).last_status == run.status


def says_why(place, job):
    status = place.job(job).last_status
    return status if "can't be ended" in status else None
