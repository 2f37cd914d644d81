"""A run is over before its next one starts, whatever is stuck or has died on its host."""

import contextlib
import os
import shlex
import signal
import subprocess

import pytest
from conftest import wait_until
from hosts import is_alive, start_worker
from test_worker import children

GRACE = 0.5
SHORT = {'minute': 2, 'margin': 1}
DEADLINE = 2 + 1 + 1  # seconds after the claim, rounded up
DEAF = 'trap "" TERM; '
NOTE = '''for other in $(cat PIDS); do
    read -r _ _ state rest < /proc/$other/stat || continue
    [ "$state" = Z ] || echo $other beside $$ >> OVERLAPS
done 2>&-
echo $$ >> PIDS
'''  # a run notes its process, and which run of its job it is beside


class Runs:
    """A job whose runs note their process, and whether another run of it was there."""

    def __init__(self, place, command, **values):
        """command: what a run becomes; with {sleep}: to sleep for longer than a test."""
        self.place = place
        self.pids, self.overlaps = place.folder + '/pids', place.folder + '/overlaps'
        text = NOTE + command.replace('{sleep}', 'sleep ' + place.mark)
        text = text.replace('PIDS', shlex.quote(self.pids))
        text = text.replace('OVERLAPS', shlex.quote(self.overlaps))
        self.job = place.add(text, **values)

    def begun(self, count=1):
        """The processes of so many runs, once they have begun."""
        wait_until(lambda: len(self.processes()) >= count, what='run %d' % count)
        return self.processes()

    def processes(self):
        with open(self.pids, 'a+') as file:
            file.seek(0)
            return [int(line) for line in file.read().split('\n') if line]

    def ask_for_another(self):
        """Once this run is over, the next one starts at once."""
        self.place.run('run-now', str(self.job))

    def has_overlapped(self):
        return os.path.exists(self.overlaps)


def runner_of(worker):
    (runner,) = wait_until(lambda: children(worker.pid))
    return runner


@contextlib.contextmanager
def stopped(process):
    """A process stands still for a while."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def is_recorded(place, job, alive):
    """Whether a job's first run is recorded; then what it was must be gone."""
    recorded = [run for run in place.runs(job) if run.run_no == 1]
    assert not recorded or not is_alive(alive), 'recorded, and goes on'
    return recorded


# A runner that is stuck.


@pytest.mark.parametrize('command', ['exec {sleep}', DEAF + '{sleep}; {sleep}'])
def test_a_stopped_runners_command_ends_by_its_limit(place, command):
    """The host's worker ends it, and the next run starts beside nothing."""
    place.write(kill_grace=GRACE)
    runs = Runs(place, command)
    worker = start_worker(place, 'one', **SHORT)
    (process,) = runs.begun()
    with stopped(runner_of(worker)):
        runs.ask_for_another()
        wait_until(
            lambda: not is_alive(process), DEADLINE + 8, 'the end of the command'
        )
        wait_until(lambda: is_recorded(place, runs.job, process), DEADLINE + 8)
        runs.begun(2)
        assert not runs.has_overlapped()
    assert place.runs(runs.job)[0].status.startswith('ERROR: ')
    assert worker.poll() is None


def test_another_host_starts_nothing_beside_a_stopped_runners_command(server_place):
    """The runner's worker, which goes on, has ended it by the deadline."""
    place = server_place
    place.write(kill_grace=GRACE)
    runs = Runs(place, 'exec {sleep}')
    worker = start_worker(place, 'one', minute=2, margin=3)
    (process,) = runs.begun()
    with stopped(runner_of(worker)):
        start_worker(place, 'two', minute=2, margin=3)
        runs.ask_for_another()
        wait_until(lambda: is_recorded(place, runs.job, process), 15)
        runs.begun(2)
        assert not runs.has_overlapped()


def test_a_log_that_hangs_delays_no_limit(place):
    """A FIFO that nobody opens for reading stands for a mount that hangs. Neither the
    run that writes there nor the one beside it outlives its limit."""
    place.write(kill_grace=GRACE, log={'location': 'log', 'max_bytes': 1000000})
    loud = Runs(place, 'echo loud; exec {sleep}')
    quiet = Runs(place, 'exec {sleep}')
    os.makedirs(os.path.join(place.folder, 'log'), exist_ok=True)
    fifo = os.path.join(place.folder, 'log', '%d.log' % loud.job)
    os.mkfifo(fifo)
    start_worker(place, 'one', **SHORT)
    processes = loud.begun(2)  # both note in one file
    try:
        wait_until(
            lambda: not any(map(is_alive, processes)),
            DEADLINE + 8,
            'the end of the commands',
        )
        for job in loud.job, quiet.job:
            wait_until(lambda job=job: place.runs(job), what='the record')
    finally:
        os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))  # it hangs no more


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason='a disk that hangs needs root')
def test_a_disk_that_hangs_delays_no_limit(sqlite_place):
    """As above, by a frozen file system for the logs."""
    place = sqlite_place
    log, image = os.path.join(place.folder, 'disk'), os.path.join(place.folder, 'image')
    os.mkdir(log)
    subprocess.run(['truncate', '-s', '16M', image], check=True)
    subprocess.run(['mkfs.ext4', '-q', image], check=True)
    if subprocess.run(['mount', '-o', 'loop', image, log]).returncode:
        pytest.skip('no mounts here')
    try:
        place.write(
            kill_grace=GRACE, log={'location': log}, state={'location': 'state'}
        )
        loud = Runs(place, 'sleep 1; echo loud; exec {sleep}')
        start_worker(place, 'one', **SHORT)
        (process,) = loud.begun()
        subprocess.run(['fsfreeze', '--freeze', log], check=True)
        try:
            wait_until(lambda: not is_alive(process), DEADLINE + 8, 'its end')
        finally:
            subprocess.run(['fsfreeze', '--unfreeze', log], check=True)
        wait_until(lambda: place.runs(loud.job), what='the record')
    finally:
        for worker in place.started:
            worker.kill()
            worker.wait()
        wait_until(lambda: not subprocess.run(['umount', log]).returncode)


# Commands that carry no mark, when their runner has died.

UNMARKED = {
    'cleared environment': 'exec env -i {sleep}',
    'cleared by a member of the group': 'env -i {sleep} & exec env -i {sleep}',
    'overwritten environment': "exec perl -e '$0 = q(x) x 4000; sleep 300'",
    'deaf': DEAF + 'exec env -i sh -c \'trap "" TERM; {sleep}; {sleep}\'',
}


@pytest.mark.parametrize('who', ['runner', 'both'])
@pytest.mark.parametrize('command', UNMARKED.values(), ids=UNMARKED)
def test_a_command_without_its_mark_ends_before_its_run_is_lost(
    sqlite_place, command, who
):
    """kill -9 of the runner, or of the runner and the worker."""
    place = sqlite_place
    place.write(kill_grace=GRACE)
    runs = Runs(place, command, max_run_time=30)
    worker = start_worker(place, 'one')
    (process,) = runs.begun()
    wait_until(lambda: is_unmarked(process))
    runner = runner_of(worker)
    if who == 'both':
        worker.kill()
        worker.wait()
    os.kill(runner, signal.SIGKILL)
    runs.ask_for_another()
    if who == 'both':
        start_worker(place, 'one')
    wait_until(lambda: is_recorded(place, runs.job, process))
    runs.begun(2)
    assert not runs.has_overlapped()
    assert place.runs(runs.job)[0].status.startswith('ERROR: lost')


def is_unmarked(process):
    """Whether its environment does not show any more whose it is."""
    with open('/proc/%d/environ' % process, 'rb') as file:
        return b'DISTRIBUTED_CRON' not in file.read()


# Orphans: commands that outlived both their runner and its worker.


def orphan(place, **minutes):
    """A job whose command is deaf to SIGTERM and has lost its runner and its worker."""
    runs = Runs(place, DEAF + '{sleep}; {sleep}')
    worker = start_worker(place, 'one', **minutes)
    (process,) = runs.begun()
    runner = runner_of(worker)
    worker.kill()
    os.kill(runner, signal.SIGKILL)
    worker.wait()
    runs.ask_for_another()
    return runs, process


def is_past(place, job):
    """Whether a run is past its deadline."""
    return place.sql(
        'SELECT 1 FROM job WHERE id = :job AND run_deadline_utc <= {utc}', job=job
    )


def test_orphans_past_their_limit_get_sigkill_at_once(place):
    """And their next run starts when they are gone."""
    place.write(kill_grace=5)
    short = {'minute': 1, 'margin': 0}
    runs, process = orphan(place, **short)
    wait_until(lambda: is_past(place, runs.job), 15, 'its deadline')
    assert is_alive(process)
    start_worker(place, 'one', **short)
    wait_until(lambda: not is_alive(process), 3, 'its end')
    wait_until(lambda: is_recorded(place, runs.job, process))
    runs.begun(2)
    assert not runs.has_overlapped()


def test_an_orphan_that_is_being_ended_is_not_started_again(place):
    """Its deadline comes while its host's new worker gives it its grace: this worker
    neither records it as lost nor starts its next run beside it."""
    place.write(kill_grace=4)
    short = {'minute': 1, 'margin': 0}
    runs, process = orphan(place, **short)
    start_worker(place, 'one', **short)
    wait_until(lambda: is_past(place, runs.job), 15, 'its deadline')
    wait_until(lambda: is_recorded(place, runs.job, process))
    runs.begun(2)
    assert not runs.has_overlapped()


def test_an_orphan_gets_its_grace_once(sqlite_place):
    """Not anew from each worker that comes and goes: by its limit it has had it."""
    place = sqlite_place
    place.write(kill_grace=6)
    short = {'minute': 1, 'margin': 0}
    runs, process = orphan(place, **short)
    wait_until(lambda: is_past(place, runs.job), 15, 'its deadline')
    for _ in range(3):
        worker = start_worker(place, 'one', **short)
        wait_until(lambda w=worker: '-%d: ' % w.pid in place.worker_log(), what='it')
        try:
            wait_until(lambda: not is_alive(process), 1.5)
            break
        except AssertionError:
            worker.kill()
            worker.wait()
    assert not is_alive(process)
