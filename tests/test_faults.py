"""Real workers under attack: each fault once, and a mixed run. See tests/faults/README.md.

Each test is a command that people can type; the harness judges what came of it.
"""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, dc, exit_status, fork
from faults.attack import cluster_of
from faults.cluster import execute, version_1
from servers import wait_until

RUN = os.path.join(ROOT, 'tests', 'faults', 'run.py')
POINTS = os.path.join(ROOT, 'tests', 'faults', 'points.py')
CLEAN = 'nothing lost, no duplicate, no overlap, no run without its record'
ALONE = {  # database: its faults; MariaDB's in groups, which run side by side
    'mariadb killed': 'kill-worker kill-runner kill-both kill-both-and-stay-away kill-host '
    'lose-host kill-in-claim kill-in-report',
    'mariadb frozen': 'stop-worker stop-host stop-in-claim stop-in-report cut-off',
    'mariadb around': 'log-full state-full state-read-only wrong-clock same-name '
    'table-changes old-rows fifty-workers',
    'mariadb away': 'database-restarted database-killed database-down read-only '
    'out-of-connections',
    'mariadb wires': 'database-slow half-open cut-claim cut-claim-answered cut-report '
    'cut-report-answered',
    'mariadb holds': 'stop-inside-plan stop-inside-report vanish-inside-report stop-runner '
    'row-locked',
    'mariadb people': 'pause-all pause-host pause-jobs other-words ask-again',
    'sqlite': 'kill-both kill-host lose-host stop-host state-full locked pause-jobs',
    'postgresql': 'database-killed read-only cut-claim-answered cut-report-answered '
    'kill-in-claim stop-in-report vanish-inside-plan row-locked',
    'replica': 'promote',
}


def attack(database, *arguments, faults=''):
    """Run the harness; returns what it printed. A find fails the test."""
    command = [sys.executable, RUN, '--database', database, *arguments]
    for name in faults.split():
        command += ['--fault', name]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out = done.stdout.decode('utf-8', 'replace')
    print(out)  # its seed and what it did, if it fails
    assert done.returncode == 0, [line for line in out.splitlines() if ': ' in line][
        -20:
    ]
    skipped = out.count('not done: ')
    assert out.count(CLEAN) == max(1, len(faults.split()))
    if skipped:
        pytest.skip(
            '%d faults need rights that root may have: %s'
            % (skipped, ', '.join(re.findall('not done: (\\S+)', out)))
        )
    return out


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize('group', ALONE)
def test_each_fault_alone(group):
    attack(group.split()[0], faults=ALONE[group])


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_mixed_run_from_a_random_seed():
    attack('mariadb', '--seconds', '170')


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize('database', ['mariadb', 'postgresql', 'sqlite'])
def test_hosts_go_to_todays_version_and_back_while_they_are_killed(database, tmp_path):
    if not version_1(str(tmp_path)):
        pytest.skip('no git, or a checkout without history')
    attack(database, '--upgrade', '--seconds', '50', '--rate', '2')


def test_hosts_run_todays_version_as_it_is():
    """Their commands are told which attempt they are, or the harness finds that."""
    with cluster_of('sqlite', at_work=False) as cluster:
        assert 'FAULTS_SCRIPT' not in cluster.hosts[0].environment()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_galera_cluster():
    """Workers go on with the next node within 10 s, whichever way one is gone."""
    attack(
        'galera',
        faults='kill-node restart-nodes isolate-node node-rejects node-read-only',
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_failover_that_loses_claims_runs_their_jobs_once_more():
    """As the README says: it is not promised that they don't."""
    out = attack('replica', faults='failover-that-loses-claims')
    assert re.search(r'explained by them: \d+ duplicate', out)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_results_are_there_within_5_s_of_the_databases_return():
    attack('mariadb', '--length', '15', faults='down-with-fifty-running')


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_galera_node_that_is_behind_is_not_believed():
    """After a change of nodes a claim must be seen: else its run is taken for ended."""
    with cluster_of('galera', hosts=1, at_work=False) as cluster:
        config = dc.load_config(cluster.hosts[0].file, 'one')
        config.hosts = [('127.0.0.1', cluster.servers[1].port, None)]
        store = dc.Store(config)
        store.connect()
        execute(cluster.servers[0], "INSERT INTO job (command) VALUES ('true')", ())
        assert [row.command for row in store.query('SELECT * FROM job')] == ['true']
        blocker = cluster.servers[1].connect()
        blocker.cursor().execute(
            'FLUSH TABLES WITH READ LOCK'
        )  # it applies nothing now
        execute(cluster.servers[0], "UPDATE job SET run_token = 'mine'", ())
        with pytest.raises((dc.Away, dc.Again)):  # not: no such claim
            store.query("SELECT * FROM job WHERE run_token = 'mine'")
        blocker.close()
        wait_until(
            lambda: (
                store.connect()
                or store.query("SELECT * FROM job WHERE run_token = 'mine'")
            )
        )
        store.close()


# Deaths right before and after what a worker and its runners do.


def points(*arguments):
    """Kill at crash points; returns the exit status, and what was printed."""
    command = [sys.executable, POINTS, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out = done.stdout.decode('utf-8', 'replace')
    print(out)  # its seed, if it fails
    if out.startswith('not done: '):
        pytest.skip(out.strip())
    return done.returncode, out


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize('database', ['sqlite', 'mariadb', 'postgresql'])
def test_deaths_at_some_crash_points(database):
    """All of them take longer: points.py without --sample."""
    status, out = points('--database', database, '--sample', '30')
    assert status == 0
    assert int(re.search(r'(\d+) deaths', out)[1]) > 20  # some do not come again


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_crash_points_find_a_program_that_notes_no_start(tmp_path):
    with open(os.path.join(ROOT, 'distributed_cron.py')) as file:
        text = file.read()
    note = 'append(self.claim.file, self.start_line(command))'
    assert text.count(note) == 1
    script = tmp_path / 'planted.py'
    script.write_text(text.replace(note, 'pass'))
    status, out = points('--script', str(script), '--only', 'kill runner 1 .*: fork')
    assert status == 1
    assert 'ran beside another run' in out


def test_a_worker_asks_for_its_database_every_4_seconds_at_least(sqlite_place):
    worker = dc.Worker(sqlite_place.config('one'), True)
    assert max(worker.back_off(dc.Away('away')) for _ in range(200)) <= 4


# Nothing grows.


def footprint():
    with open('/proc/self/statm') as file:
        pages = int(file.read().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE'), len(os.listdir('/proc/self/fd'))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_day_of_10080_runs_leaves_nothing_behind(sqlite_place):
    """24 simulated hours: 70 jobs, every 10 minutes. Memory is flat; no descriptor, no
    process, no file of the state folder is left."""
    place = sqlite_place
    place.write(max_tasks=100)
    for _ in range(70):
        place.add('true', frequency=10)
    reader, writer = os.pipe()
    child = fork(lambda: os.write(writer, json.dumps(day_of(place)).encode()) and 0)
    os.close(writer)
    with open(reader) as stream:
        (memory, descriptors), (memory_now, descriptors_now) = json.load(stream)
    assert exit_status(child) == 0
    assert place.sql('SELECT COUNT(*) FROM run')[0][0] == 144 * 70
    assert descriptors_now <= descriptors
    assert memory_now - memory < 1 << 20, (memory, memory_now)
    state = os.path.join(place.folder, 'log', 'state-one')
    assert sorted(os.listdir(state)) == ['clock', 'machine', 'wake', 'worker.lock']


def day_of(place):
    """The footprint after two hours, and after all 24."""
    import datetime

    worker, seen = dc.Worker(place.config('one'), True), []
    worker.state.lock()
    worker.listen()
    worker.store.connect()
    # SQLite keeps up to 2 MB of the growing history in memory, of its own accord.
    worker.store.execute('PRAGMA cache_size = -100')
    for step in range(144):
        place.set_clock(
            datetime.datetime(2026, 5, 20) + datetime.timedelta(minutes=10 * step),
            worker.store,
        )
        while True:
            pause = worker.turn()
            if pause and not worker.claims:
                break
            dc.wait_for(worker.state.fifo, 1, min(pause, 0.05))
            worker.obey_signals()
        if step in (11, 143):
            seen.append(footprint())
    # The last runner may still be leaving; the worker buries it.
    wait_until(lambda: worker.obey_signals() or not children_of(os.getpid()), 5)
    return seen


def children_of(process):
    with open('/proc/%d/task/%d/children' % (process, process)) as file:
        return file.read().split()
