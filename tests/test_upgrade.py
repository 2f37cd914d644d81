"""Tables of version 1.0 become those of today while workers of both versions run."""

import contextlib
import subprocess
import sys
import threading
import time

import pytest
from conftest import dc, wait_until
from faults.cluster import version_1
from test_schema import catalogue


@pytest.fixture
def old(place, tmp_path):
    """A place with the tables of version 1.0, and its script as `old.script`."""
    folder = tmp_path / 'version-1'
    folder.mkdir()
    place.script = version_1(str(folder))
    if not place.script:
        pytest.skip('no git, or a checkout without history')
    place.made = catalogue(place)
    for table in dc.TABLES:
        place.store.execute('DROP TABLE ' + table.name)
    run_old(place, 'init')
    return place


def run_old(place, *args, name='old'):
    """Run a command of version 1.0; returns what it printed."""
    command = [sys.executable, place.script, '--config', place.file, '--name', name]
    done = subprocess.run([*command, *args], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_init_makes_the_same_tables_of_those_of_version_1(old):
    """Also a second time, when it has nothing to do; and it keeps what is in them."""
    with pytest.raises(dc.Problem, match='; run: '):
        dc.Store(old.config()).connect()
    run_old(old, 'add', '--schedule', '0 5 * * *', 'echo kept')
    run_old(old, 'add', '--every', '5', 'echo "100% {kept} :now"')
    run_old(old, 'run')
    tables = ('job', 'run', 'host')
    before = [old.sql('SELECT * FROM ' + table) for table in tables]
    for _ in range(2):
        old.run('init')
        assert catalogue(old) == old.made
    for table, rows in zip(tables, before):
        columns = ', '.join(rows[0]._fields)
        assert old.sql('SELECT %s FROM %s' % (columns, table)) == rows


def test_workers_of_version_1_run_beside_todays(old):
    """Each job that uses nothing new is run by both, and each run is recorded once."""
    for number in range(12):
        run_old(old, 'add', '--every', '1', 'echo %d' % number)
    old.run('init')
    for turn in range(4):
        old.store.execute(
            'UPDATE job SET next_run_utc = {utc} WHERE id %% 2 = %d' % (turn % 2)
        )
        if turn < 2:
            run_old(old, 'run')
        else:
            old.run('run', name='new')
    runs = old.runs()
    assert [run.status for run in runs] == ['Success'] * len(runs)
    for job in range(1, 13):
        of_job = [run for run in runs if run.job_id == job]
        assert [run.run_no for run in of_job] == list(range(1, len(of_job) + 1))
        assert {run.worker.partition('-')[0] for run in of_job} == {'old', 'new'}


def test_a_plan_of_version_1_counts(old):
    """It knows nothing of changed_utc; the triggers clear it beside its plan."""
    old.run('init')
    job = old.add(schedule='0 5 * * *')
    assert old.job(job).changed_utc is not None
    run_old(old, 'run')
    row = old.job(job)
    assert row.next_run_utc is not None
    if old.engine != 'sqlite':  # whose trigger writes when a plan is out of date only
        assert row.changed_utc is None
    old.store.execute("UPDATE job SET schedule = '0 6 * * *'")
    assert old.job(job).next_run_utc is None and old.job(job).changed_utc is not None


@contextlib.contextmanager
def init_beside(place, blocker):
    """`init` in a process of its own, beside a Store in a transaction; both are ended."""
    init = subprocess.Popen(
        [sys.executable, dc.__file__, '--config', place.file, 'init'],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield init
    finally:
        blocker.close()
        init.kill()
        init.wait()
        init.stderr.close()


def test_init_waits_for_a_table_without_keeping_workers_waiting(old):
    """It says who blocks it, and is done when that is over."""
    job = old.add('echo runs')
    blocker = dc.Store(old.config())
    blocker.connection = blocker.dialect.connect()
    if old.engine == 'sqlite':
        blocker.execute('BEGIN IMMEDIATE')
    else:
        blocker.execute('BEGIN')
        blocker.execute('SELECT * FROM job')
    with init_beside(old, blocker) as init:
        said = init.stderr.readline()
        assert said.startswith('waiting: ') and '; blocked by ' in said
        if old.engine != 'sqlite':
            assert ', in a transaction since ' in said
            worst = 0
            for _ in range(10):  # others read and write between its tries
                began = time.monotonic()
                with contextlib.suppress(dc.Again):
                    old.store.change('UPDATE job SET active = 1')
                worst = max(worst, time.monotonic() - began)
            assert worst < 3
        assert init.poll() is None
        blocker.execute('COMMIT')
        assert init.wait(30) == 0
    assert catalogue(old) == old.made and old.job(job).command == 'echo runs'


def invalid_indexes(place):
    return place.sql(
        'SELECT CAST(indexrelid AS regclass) FROM pg_index WHERE NOT indisvalid'
    )


@pytest.mark.parametrize('place', ['postgresql'], indirect=True)
def test_an_index_that_had_to_wait_is_made_whole(old):
    """PostgreSQL leaves behind what it could not finish, and then takes it for there."""
    blocker = dc.Store(old.config())
    blocker.connection = blocker.dialect.connect()
    blocker.execute('BEGIN ISOLATION LEVEL REPEATABLE READ')
    blocker.execute('SELECT txid_current()')  # not of a table, but older than an index
    with init_beside(old, blocker) as init:
        assert init.stderr.readline().startswith('waiting: ')
        assert invalid_indexes(old)
        blocker.execute('COMMIT')
        assert init.wait(30) == 0
    assert not invalid_indexes(old) and catalogue(old) == old.made


@pytest.mark.parametrize('place', ['postgresql'], indirect=True)
def test_an_index_of_somebody_else_is_left_alone(old):
    """It may just be made."""
    old.store.execute('CREATE INDEX theirs ON job (command)')
    old.store.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'theirs'::regclass"
    )
    old.run('init')
    assert [row[0] for row in invalid_indexes(old)] == ['theirs']


@pytest.mark.slow
def test_workers_go_on_while_a_large_table_is_upgraded(old):
    """200,000 jobs: no other session waits for more than a moment."""
    if old.engine == 'sqlite':
        pytest.skip('one file has one writer')
    old.store.execute('INSERT INTO job (command) VALUES (:command)', command='true')
    while old.sql('SELECT COUNT(*) FROM job')[0][0] < 200000:
        old.store.execute(
            "INSERT INTO job (command, schedule, next_run_utc) SELECT 'true', '@yearly', "
            "'2099-01-01 00:00:00' FROM job LIMIT 50000"
        )
    waits = []
    over = threading.Event()

    def write():
        store = dc.Store(old.config())
        store.connection = store.dialect.connect()
        while not over.is_set():
            began = time.monotonic()
            with contextlib.suppress(dc.Again):
                store.change("UPDATE job SET last_status = 'seen' WHERE id = 1")
            waits.append(time.monotonic() - began)
            time.sleep(0.005)
        store.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_until(lambda: len(waits) > 10)
        began = time.monotonic()
        old.run('init')
        took = time.monotonic() - began
    finally:
        over.set()
        writer.join()
    print('took %.1f s, longest wait %.2f s' % (took, max(waits)))
    assert catalogue(old) == old.made and max(waits) < 2


def clock_in(store, hours):
    """The time of day, as HH:MM, so many hours from now."""
    when = store.zone.local(store.now()) + hours * 60 * dc.MINUTE
    return when.strftime('%H:%M')


@pytest.mark.slow
def test_loops_of_both_versions_on_one_table(old):
    """No run twice at once, none outside its window, none lost, and no time is said to
    be skipped that was not: version 1 leaves start_before_utc as it was."""
    old.run('init')
    alone = 'mkdir %s/busy-$DISTRIBUTED_CRON_JOB_ID || echo twice >> %s/twice; ' % (
        old.folder,
        old.folder,
    )
    command = alone + 'sleep 0.1; rmdir %s/busy-$DISTRIBUTED_CRON_JOB_ID' % old.folder
    hours = (None, None), (-1, 1), (-2, 3), (2, 3), (3, 2)
    jobs = []
    for start, stop in hours * 4:
        anchors = {}
        if start is not None:
            anchors['start_anchor'] = clock_in(old.store, start)
            anchors['stop_anchor'] = clock_in(old.store, stop)
        jobs.append(old.add(command, frequency=1, **anchors))
    closed = jobs[3::5]
    loops = [
        subprocess.Popen(
            [sys.executable, script, '--config', old.file, '--name', name, *mode],
            stderr=subprocess.DEVNULL,
        )
        for script, name in ((old.script, 'old'), (dc.__file__, 'new'))
        for mode in [('run', '--forever')]
    ]
    try:
        until = time.monotonic() + 12
        while time.monotonic() < until:
            for job in jobs:
                with contextlib.suppress(dc.Again):
                    old.store.change(
                        '''UPDATE job SET next_run_utc = {utc}
                        WHERE id = :id AND run_token IS NULL AND next_run_utc > {utc}''',
                        id=job,
                    )
            time.sleep(0.2)
        old.store.change('UPDATE job SET active = 0')
        wait_until(
            lambda: not old.sql('SELECT 1 FROM job WHERE run_token IS NOT NULL'), 10
        )
    finally:
        for loop in loops:
            loop.terminate()
            loop.wait()
    runs = old.runs()
    assert {run.status for run in runs} == {'Success'}
    assert {run.worker.partition('-')[0] for run in runs} == {'old', 'new'}
    assert not {run.job_id for run in runs} & set(closed)
    for job in set(jobs) - set(closed):
        numbers = [run.run_no for run in runs if run.job_id == job]
        assert numbers == list(range(1, old.job(job).run_no + 1)) and len(numbers) > 2
    assert not dc.read_text(old.folder + '/twice')
