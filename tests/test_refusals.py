"""What a database refuses, and what it promises less than it should."""

import contextlib
import resource
import subprocess
import sys
from functools import partial

import pytest
from conftest import SCRIPT, Place, dc, free_port, wait_until
from servers import MariaDB, MySQL
from hosts import proxy_of, start_worker

# How a site refuses the history of one job, by database and way.
REFUSALS = {
    ('mysql', 'trigger'): (
        'CREATE TRIGGER refuses BEFORE INSERT ON run FOR EACH ROW '
        "IF NEW.job_id = %d THEN SIGNAL SQLSTATE '45000' "
        "SET MESSAGE_TEXT = 'not this one'; END IF"
    ),
    ('mysql', 'check'): 'ALTER TABLE run ADD CONSTRAINT refuses CHECK (job_id <> %d)',
    ('mysql', 'type'): 'ALTER TABLE run MODIFY status VARCHAR(4) NOT NULL',
    ('postgresql', 'trigger'): (
        'CREATE FUNCTION refuses() RETURNS trigger LANGUAGE plpgsql AS '
        "'BEGIN IF NEW.job_id = %d THEN RAISE EXCEPTION ''not this one''; END IF; "
        "RETURN NEW; END'; "
        'CREATE TRIGGER refuses BEFORE INSERT ON run FOR EACH ROW '
        'EXECUTE FUNCTION refuses()'
    ),
    (
        'postgresql',
        'check',
    ): 'ALTER TABLE run ADD CONSTRAINT refuses CHECK (job_id <> %d)',
    ('postgresql', 'type'): 'ALTER TABLE run ALTER status TYPE VARCHAR(4)',
    ('sqlite', 'trigger'): (
        'CREATE TRIGGER refuses BEFORE INSERT ON run WHEN NEW.job_id = %d '
        "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
    ),
}


@pytest.mark.parametrize('way', ['trigger', 'check', 'type'])
def test_a_run_whose_end_is_refused_never_runs_again(place, way):
    """Its row is freed, the log names it, and all others are recorded."""
    if (place.engine, way) not in REFUSALS:
        pytest.skip('SQLite adds no constraint to a table')
    ran = place.folder + '/ran'
    bad = place.add('echo x >> %s; exit 3' % ran, max_run_time=30)
    text = REFUSALS[place.engine, way]
    place.store.execute(text % bad if '%' in text else text)
    good = [place.add('true', max_run_time=30) for _ in range(9)]
    worker = start_worker(place, 'one')
    wait_until(lambda: all(map(partial(has_ended, place), good)))
    wait_until(lambda: place.job(bad).last_end, what='its end')
    late = place.add('true', max_run_time=30)  # until it has run, so have many turns
    wait_until(lambda: has_ended(place, late))
    done = place.job(bad)
    assert (done.run_no, done.last_status) == (1, 'ERROR: exit 3')
    assert done.run_token is None and done.next_run_utc > str(place.store.now())
    assert place.read('ran') == 'x\n'
    assert 'job %d: ' % bad in place.worker_log()
    if way != 'type':  # which refuses all of the history
        assert {run.job_id for run in place.runs()} == {*good, late}
    assert worker.poll() is None


REFUSES_ALL = {  # changes of one job while it runs, by database
    'sqlite': (
        'CREATE TRIGGER refuses BEFORE UPDATE ON job WHEN OLD.id = 1 '
        "AND OLD.run_token IS NOT NULL BEGIN SELECT RAISE(ABORT, 'not this one'); END"
    ),
    'mysql': (
        'CREATE TRIGGER refuses BEFORE UPDATE ON job FOR EACH ROW '
        "IF OLD.id = 1 AND OLD.run_token IS NOT NULL THEN SIGNAL SQLSTATE '45000' "
        "SET MESSAGE_TEXT = 'not this one'; END IF"
    ),
    'postgresql': (
        'CREATE FUNCTION refuses() RETURNS trigger LANGUAGE plpgsql AS '
        "'BEGIN IF OLD.id = 1 AND OLD.run_token IS NOT NULL THEN "
        "RAISE EXCEPTION ''not this one''; END IF; RETURN NEW; END'; "
        'CREATE TRIGGER refuses BEFORE UPDATE ON job FOR EACH ROW '
        'EXECUTE FUNCTION refuses()'
    ),
}


def test_a_job_that_takes_no_change_keeps_no_other_waiting(place):
    place.store.execute(REFUSES_ALL[place.engine])
    place.add('true', max_run_time=30)
    start_worker(place, 'one')
    wait_until(lambda: "job 1 is left alone: its end can't be" in place.worker_log())
    for _ in range(2):  # also while it is tried again
        late = place.add('true', max_run_time=30)
        wait_until(partial(has_ended, place, late))
    drop = 'DROP TRIGGER refuses' + ' ON job' * (place.engine == 'postgresql')
    place.store.execute(drop)
    wait_until(lambda: has_ended(place, 1))
    assert [run.run_no for run in place.runs()] == [1, 1, 1]


def has_ended(place, job):
    return place.job(job).last_status == 'Success'


@contextlib.contextmanager
def global_value(place, name, value):
    """Set a variable of the server for a while."""
    (old,) = place.sql('SELECT @@global.' + name)
    place.store.execute('SET GLOBAL %s = %s' % (name, value))
    try:
        yield
    finally:
        place.store.execute('SET GLOBAL %s = %s' % (name, old[0]))


def test_a_report_that_is_too_long_is_sent_in_pieces(mysql_place):
    """max_allowed_packet may be 64 KiB, and a turn may have more to say."""
    place = mysql_place
    place.write(max_tasks=40)
    with global_value(place, 'max_allowed_packet', 65536):
        for _ in range(30):
            place.add("yes \"'\" | head -c 4096", max_run_time=30)
        start_worker(place, 'one')
        runs = place.wait_runs(30)
    assert {(run.status, len(run.output)) for run in runs} == {('Success', 4096)}
    assert {run.run_no for run in runs} == {1}


@pytest.mark.parametrize('packet', [65536, 1 << 20])
def test_the_end_of_an_output_that_takes_more_room_as_text(mysql_place, packet):
    """Of bytes that are no UTF-8, three times as much; a quote is sent as two."""
    place = mysql_place
    place.write(history={'output_bytes': 65535})
    with global_value(place, 'max_allowed_packet', packet):
        place.add("head -c 65000 /dev/zero | tr '\\0' '\\377'; echo end")
        place.add("head -c 65000 /dev/zero | tr '\\0' \"'\"; echo end")
        start_worker(place, 'one')
        runs = place.wait_runs(2)
    for run in runs:
        assert len(run.output.encode()) > 20000 and run.output.endswith('end\n')


def test_a_claim_is_on_the_disk_when_it_is_answered(server_place):
    """Whatever is set for the server, the database or the role."""
    place = server_place
    if place.engine == 'postgresql':
        place.store.execute(
            'ALTER DATABASE %s SET synchronous_commit = off'
            % place.values['db']['database']
        )
        assert place.new_store().query('SHOW synchronous_commit')[0][0] == 'on'
        return
    # No session can set this: so people are told.
    place.run('run')
    with global_value(place, 'innodb_flush_log_at_trx_commit', 2):
        assert 'innodb_flush_log_at_trx_commit' in place.run('check')
    assert 'innodb_flush_log_at_trx_commit' not in place.run('check')


def test_a_collect_that_shows_too_few_rows_is_asked_again(mysql_place):
    """As behind a proxy that sends reads to a replica with lag."""
    place = mysql_place
    jobs = [place.add('true', max_run_time=30) for _ in range(3)]
    proxy, file = proxy_of(place)
    asked = []

    def lag(data):
        if b'FROM job WHERE run_token = ' not in data or len(asked) > 2:
            return data
        asked.append(data)
        return data.replace(b"WHERE run_token = '", b"WHERE run_token < '")

    proxy.rewrite = lag
    try:
        start_worker(place, 'one', file=file)
        runs = place.wait_runs(len(jobs))
        assert [(run.job_id, run.run_no) for run in runs] == [(job, 1) for job in jobs]
        assert {run.status for run in runs} == {'Success'} and asked
    finally:
        proxy.close()


# What `check` says where nothing will run.


def check(place, name='here', **how):
    """What `check` says is well, and what is bad."""
    done = subprocess.run(
        [sys.executable, SCRIPT, '--config', place.file, '--name', name, 'check'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=60,
        **how,
    )
    assert not done.stderr, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    found = [
        [line for line in lines if line.startswith(word)] for word in ('ok', 'bad')
    ]
    assert done.returncode == bool(found[1]) and len(found[0] + found[1]) == len(lines)
    return ['\n'.join(lines) for lines in found]


def test_check_misses_the_triggers(place):
    place.run('run')
    assert check(place)[1] == ''
    place.drop_triggers()
    assert 'trigger' in check(place)[1]


def test_check_writes_into_each_folder(mysql_place):
    """Here no byte can be written, as on a full disk."""
    mysql_place.run('run')
    assert check(mysql_place)[1] == ''
    bad = check(mysql_place, preexec_fn=write_nothing)[1]
    assert mysql_place.folder + '/log' in bad and 'state' in bad


def write_nothing():
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def test_check_says_when_a_worker_was_last_here(place):
    assert 'worker' in check(place)[1]
    place.run('run')
    good, bad = check(place)
    assert 'worker' in good and not bad
    assert 'worker' in check(place, 'elsewhere')[1]
    place.store.change("UPDATE host SET last_seen = '2026-01-01 00:00:00'")
    assert 'worker' in check(place)[1]


def test_check_tries_to_write_to_the_database(mysql_place):
    """Here by an account that may only read."""
    place = mysql_place
    place.run('run')
    name, database = 'reader%d' % free_port(), place.values['db']['database']
    place.server.client(
        "CREATE USER %s IDENTIFIED BY 'secret'; GRANT SELECT ON %s.* TO %s"
        % (name, database, name)
    )
    place.write(db=dict(place.values['db'], username=name))
    assert 'UPDATE command denied' in check(place)[1]


@pytest.mark.slow
def test_check_knows_that_statements_in_a_binlog_do_not_do(tmp_path):
    """With binlog_format=STATEMENT the server refuses all writes of the workers."""
    if MySQL.program:
        pytest.skip('MySQL writes rows')
    folder = tmp_path / 'server'
    folder.mkdir()
    server = MariaDB(str(folder), '--log-bin', '--binlog-format=STATEMENT')
    server.start().make_account()
    place = Place(tmp_path, 'mysql', server)
    try:
        assert 'BINLOG_FORMAT' in place.run('init', code=1).upper()
        server.client('SET GLOBAL binlog_format = ROW')
        place.run('init')
        server.client('SET GLOBAL binlog_format = STATEMENT')
        assert 'BINLOG_FORMAT' in check(place)[1].upper()
    finally:
        server.stop()


def test_claims_are_large_again_when_nothing_is_due():
    """After a claim that was refused, jobs are claimed one by one; the one that was
    refused may be gone."""
    pace = dc.Pace()
    pace.one_by_one = True
    pace.count(is_due=True, slots=5)
    assert pace.one_by_one
    pace.count(is_due=False, slots=0)
    assert not pace.one_by_one


@pytest.mark.parametrize('number', [1644, 3819, 4025])
def test_errors_that_are_of_the_data(mysql_place, number):
    """SIGNAL of a trigger, and CHECK constraints of MySQL and MariaDB."""
    with pytest.raises(dc.BadData):
        mysql_place.store.execute(
            "SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = %d, MESSAGE_TEXT = 'no'" % number
        )
