"""The command line: what people type, and what they get for their mistakes."""

import json
import os
import re
import subprocess
import sys
import tempfile
from datetime import datetime
from itertools import islice

import pytest
from conftest import ROOT, SCRIPT, Place, call, dc, wait_until


def lines(text):
    return text.rstrip('\n').split('\n')


def test_add_list_show_edit_remove(place):
    out = place.run('add', '--every', '5', '--description', 'a job', 'echo x')
    assert re.fullmatch(r'job 1, next run \d{4}-\d\d-\d\d \d\d:\d\d:\d\d, now\n', out)
    out = place.run(
        'add',
        '--schedule',
        '0 3 * * mon-fri',
        '--start',
        '02:00',
        '--stop',
        '04:00',
        '--max-run-time',
        '90',
        'backup',
    )
    assert out.startswith('job 2, next run ') and '03:00:00, in ' in out
    table = lines(place.run('list'))
    assert re.split('  +', table[0]) == [
        'ID',
        'STATUS',
        'DESCRIPTION',
        'LAST RUN',
        'NEXT RUN',
    ]
    assert re.match('1   never ran  a job  +never +', table[1])
    table = lines(place.run('list', '--wide'))
    assert re.search(' every 5 minutes  .*  echo x$', table[1])
    assert 'Mon-Fri, 03:00, 02:00 to 04:00' in table[2]
    listed = json.loads(place.run('list', '--json'))
    assert [job['command'] for job in listed] == ['echo x', 'backup']
    assert json.loads(place.run('show', '2', '--json'))['max_run_time'] == 90
    assert 'schedule      Mon-Fri, 03:00' in place.run('show', '2')
    place.run('edit', '2', '--command', 'backup --all', '--every', '30')
    job = place.job(2)
    assert (job.command, job.schedule, job.frequency, job.max_run_time) == (
        'backup --all',
        None,
        30,
        15,
    )
    assert (job.start_anchor[:5], job.stop_anchor[:5]) == ('02:00', '04:00')
    place.run('edit', '2', '--start', '', '--stop', '')
    assert place.job(2).start_anchor is None
    place.run('disable', '1', '2')
    assert [row.active for row in place.sql('SELECT active FROM job')] == [0, 0]
    assert ' disabled ' in place.run('list')
    place.run('enable', '2')
    assert place.job(2).active == 1 and place.job(2).next_run_utc
    place.run('remove', '1', '2')
    assert not place.sql('SELECT * FROM job')


def test_an_edit_of_what_no_plan_is_made_of_keeps_the_plan(place):
    place.add('true', schedule='0 5 * * *', next_run_utc='2020-01-01 05:00:00')
    place.run('edit', '1', '--description', 'new', '--command', 'date')
    assert place.job(1).next_run_utc == '2020-01-01 05:00:00'  # due, and still due
    place.run('edit', '1', '--schedule', '0 6 * * *')
    assert place.job(1).next_run_utc > '2020-01-02'


EVERY_5 = '--every', '5'


@pytest.mark.parametrize(
    'args, parts',
    [
        (['add', '--every', '0', 'x'], ['--every 0; allowed: 1 to 5256000 minutes']),
        (
            ['add', '--every', 'x', 'x'],
            ["--every: 'x'; allowed: a whole number", 'see: distributed_cron.py add'],
        ),
        (['add', '--schedule', '61 * * * *', 'x'], ['minute', '61', '0-59']),
        (['add', '--schedule', '0 0 30 2 *', 'x'], ['never matches']),
        (['add', '--schedule', '@reboot', 'x'], ['@reboot']),
        (
            ['add', '--every', '5', '--schedule', '* * * * *', 'x'],
            ['--schedule: not allowed with argument --every'],
        ),
        (
            ['add', *EVERY_5, '--start', '24:00', 'x'],
            ["--start '24:00'; allowed: ", '23:59'],
        ),
        (
            ['add', '--inactive', '--schedule', '61 * * * *', 'x'],
            ['minute', '61', '0-59'],
        ),
        (['add', *EVERY_5, '--inactive', '--start', '24:00', 'x'], ["--start '24:00'"]),
        (['add', *EVERY_5, '--start', '9:0', 'x'], ["--start '9:0'"]),
        (['add', *EVERY_5, '--start', '09:00', '--stop', '09:00', 'x'], ['equal']),
        (['add', '--schedule', '0 1 * * *', '--start', '09:00', 'x'], ['no time']),
        (
            ['add', '--every', '5', '--max-run-time', '5', 'x'],
            ['--max-run-time 5', '1 to 4'],
        ),
        (['add', *EVERY_5, ''], ['command', '1 to 12000']),
        (['add'], ['COMMAND', '--help']),
        (['add', *EVERY_5, 'x' * 12001], ['command', '12000 characters']),
        (
            ['add', *EVERY_5, '--description', 'x' * 256, 'x'],
            ['description', '255 characters'],
        ),
        (['next', '9' * 20], ['1 fields']),
        (['next', '* * * * *', '--from', '0001-01-01 00:00:00'], ['--from', '0001']),
        (['next', '* * *'], ['3 fields']),
        (['next', '* * * * *', '--from', 'x'], ['--from']),
        (['frobnicate'], ['frobnicate', '--help']),
        (['show'], ['JOB']),
        (['show', 'One'], ["'One'", 'allowed: the id or the name of a job']),
        (['import', 'nowhere'], ['nowhere']),
        (['--name', 'a/b', 'list'], ['--name', 'a/b']),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(place, args, parts):
    err = place.run(*args, code=2)
    for part in parts:
        assert part in err, err
    assert not place.sql('SELECT * FROM job')


@pytest.mark.parametrize(
    'args',
    [
        ['show', '7'],
        ['edit', '7', '--every', '5'],
        ['remove', '7'],
        ['enable', '7'],
        ['disable', '7'],
        ['run-now', '7'],
        ['stop', '7'],
        ['history', '7'],
        ['log', '7'],
        ['next', '7'],
    ],
)
def test_a_job_that_does_not_exist(place, args):
    place.add()
    assert place.run(*args, code=1) == (
        'distributed_cron: job 7 does not exist; see: list\n'
    )
    if args[0] in ('remove', 'disable'):
        place.run(args[0], '1', '7', code=1)
        assert place.job(1).active == 1  # none, rather than half


def test_next_history_log_hosts(place):
    out = lines(
        place.run('next', '*/20 0 * * *', '--from', '2026-05-20 00:20:00', '-n', '3')
    )
    assert [line[:19] for line in out] == [
        '2026-05-20 00:40:00',
        '2026-05-21 00:00:00',
        '2026-05-21 00:20:00',
    ]
    place.add('echo one; echo two', frequency=30)
    assert 'it never ran' in place.run('log', '1')
    place.run('run', name='first')
    times = lines(place.run('next', '1', '-n', '2'))
    assert len(times) == 2 and times[0] < times[1]
    place.run('disable', '1')
    assert len(lines(place.run('next', '1', '-n', '2'))) == 2  # as if it were enabled
    table = lines(place.run('history'))
    assert table[0].split('  ')[0] == 'JOB ID' and table[0].endswith('OUTPUT')
    assert re.search(r'first-\d+ +Success +two$', table[1])
    assert place.run('history', '1') == place.run('history')
    assert json.loads(place.run('history', '--json'))[0]['run_no'] == 1
    *wrote, _, whole = lines(place.run('log', '1'))
    assert wrote == ['one', 'two']
    assert place.config().job_log(1) in whole and ', with worker first-' in whole
    assert lines(place.run('log', '1', '-n', '1'))[:-2] == ['two']
    assert lines(place.run('log', '1', '-n', '0'))[:-2] == []
    assert re.search('(?m)^first .* 8 ', place.run('hosts'))
    assert json.loads(place.run('hosts', '--json'))[0]['name'] == 'first'


def test_check(place):
    place.run('run')
    out = place.run('check')
    for what in ('config', 'database', 'schema', 'time zone', 'clock skew', 'folders'):
        assert re.search('(?m)^ok   %s: ' % what, out), out
    place.store.execute('DROP TABLE run')
    place_out = subprocess.run(
        [sys.executable, SCRIPT, '--config', place.file, 'check'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert place_out.returncode == 1 and b'bad  schema: ' in place_out.stdout
    assert b'init' in place_out.stdout


# The columns of a job that people may change.

NOW = datetime(2026, 5, 20, 12)
UTC = dc.Zone(lambda when: when)


def test_every_editable_column_is_saved_whatever_its_position(place):
    begin = ['--config', place.file]
    facts = ['--description', 'new', '--start', '01:00', '--stop', '02:00']
    facts += ['--every', '7', '--max-run-time', '3', '--inactive']
    assert not dc.main([*begin, 'add', *facts, 'echo x'])
    place.add('true')
    assert not dc.main([*begin, 'edit', *facts, '--command', 'echo x', '2'])
    for job in place.sql('SELECT * FROM job'):
        assert (job.description, job.command, job.active) == ('new', 'echo x', 0)
        assert (job.frequency, job.max_run_time) == (7, 3)
        assert (job.start_anchor[:5], job.stop_anchor[:5]) == ('01:00', '02:00')


def test_a_row_of_the_table_is_all_that_a_new_column_takes(tmp_path):
    """Here run_requested stands for it: a column at another position of `job`."""
    with open(SCRIPT) as file:
        before, head, after = file.read().partition('COLUMNS = (\n    Column(')
    row = """COLUMNS = (
    Column('run_requested', MINUTES, default=0, option='--asked'),
    Column("""
    script = tmp_path / 'distributed_cron.py'
    script.write_text(before + row + after)
    place = Place(tmp_path, 'sqlite').init()

    def run(*args):
        return subprocess.run(
            [sys.executable, str(script), '--config', place.file, *args],
            stdout=subprocess.PIPE,
            check=True,
        ).stdout.decode()

    run('add', '--asked', '1', '--every', '5', 'true')
    run('edit', '--asked', '5', '1')
    exported = run('export')
    assert head and '"run_requested": 5' in exported
    (tmp_path / 'crontab').write_text(exported.replace(' true', ' false'))
    run('import', str(tmp_path / 'crontab'))
    assert [job['run_requested'] for job in json.loads(run('list', '--json'))] == [5, 5]


def test_the_table_of_columns_fits_the_tables_in_the_database(place):
    names = [column.name for column in dc.COLUMNS]
    assert set(names) <= set(dc.Job._fields) and len(set(names)) == len(names)
    assert set(dc.PLANNED_FROM) < set(dc.Job._fields)
    place.add('true')
    job = place.job(1)
    for column in dc.COLUMNS:
        if column.default is not None:
            assert getattr(job, column.name) == column.default
        elif type(None) in column.type.json:
            assert getattr(job, column.name) is None


def test_the_readmes_table_of_columns_is_the_programs():
    with open(os.path.join(ROOT, 'README.md')) as file:
        part = file.read().partition('\n### Columns of a job\n')[2].partition('\n#')[0]
    rows = [line.strip('| ').split(' | ') for line in lines(part) if line[:3] == '| `']
    assert [row[0] for row in rows] == ['`%s`' % column.name for column in dc.COLUMNS]
    for column, (_, option, default, meaning) in zip(dc.COLUMNS, rows):
        assert '`%s`' % column.option in option and meaning
        if column.default is not None:
            assert default.strip('`') == str(column.default)
        elif type(None) in column.type.json:
            assert default == 'none'


@pytest.mark.parametrize(
    'columns, wrong',
    [
        ({}, {}),
        ({'schedule': '0 3 * * *', 'max_run_time': 525600}, {}),
        (
            {'command': None},
            {'command': "''; allowed: 1 to 12000 characters, without NUL"},
        ),
        (
            {'description': 256 * '\0', 'frequency': 0},
            {
                'description': dc.short(256 * '\0')
                + '; allowed: 0 to 255 characters, without NUL',
                'frequency': '0; allowed: 1 to 5256000 minutes',
            },
        ),
        ({'max_run_time': 60}, {'max_run_time': '60; allowed: 1 to 59 minutes'}),
        ({'frequency': 1, 'max_run_time': 1}, {}),
        (
            {'schedule': '0 3 * * *', 'max_run_time': 525601},
            {'max_run_time': '525601; allowed: 1 to 525600 minutes'},
        ),
        (
            {'start_anchor': '24:00'},
            {'start_anchor': "'24:00'; allowed: 00:00 to 23:59"},
        ),
        (
            {'stop_anchor': 'x', 'active': 0},
            {'stop_anchor': "'x'; allowed: 00:00 to 23:59"},
        ),
    ],
)
def test_what_is_wrong_with_a_job_is_said_by_column(columns, wrong):
    job = dc.Job(active=1, command='true', frequency=60, max_run_time=30)
    assert dc.check_job(job._replace(**columns), NOW, UTC) == wrong


def test_a_bad_job_has_what_is_wrong_by_column(place):
    with pytest.raises(dc.BadJob) as caught:
        dc.save_job(place.store, None, {'command': '', 'schedule': '61 * * * *'})
    assert set(caught.value.wrong) == {'command', 'schedule'}
    err = place.run(
        'add', '--schedule', '61 * * * *', '--max-run-time', '0', 'x', code=2
    )
    assert '--max-run-time 0; allowed: ' in err and "; --schedule minute '61'" in err


def test_a_frequency_that_a_schedule_puts_out_of_use_stops_no_edit(place):
    place.add('true', schedule='0 5 * * *', max_run_time=9)
    if place.engine == 'sqlite':
        place.drop_triggers()
        place.store.execute("UPDATE job SET frequency = 'often'")
    place.run('edit', '1', '--description', 'new')
    assert place.job(1).description == 'new'


def test_the_next_times_of_a_job():
    job = dc.Job(active=1, frequency=90, max_run_time=1, start_anchor='12:00')
    times = list(islice(dc.upcoming(job, NOW, UTC), 3))
    assert times[0] == (NOW, NOW)
    assert [local.hour for local, _ in times] == [12, 13, 15]
    assert list(dc.upcoming(job._replace(active=0), NOW, UTC)) == []


# Configuration.


@pytest.mark.parametrize(
    'text, parts',
    [
        ('db: [', ['not YAML', 'line']),
        ('just text', ['key: value']),
        ('max_task: 4', ['max_task', 'max_tasks']),
        ('db: {pasword: x}', ['db.password']),
        ('max_tasks: 0', ['max_tasks', '0', 'from 1']),
        ('max_tasks: cpu_third', ['max_tasks', 'cpu_third', 'cpu_quarter']),
        ('max_tasks: yes', ['max_tasks']),
        ('max_tasks: 1.5', ['max_tasks']),
        ('poll_seconds: fast', ['poll_seconds', '0.1']),
        ('poll_seconds: 0', ['poll_seconds']),
        ('kill_grace: 31', ['kill_grace', '30']),
        ('log: 5', ['log']),
        ('log: {location: [x]}', ['log.location', 'text']),
        ('clear_old_on_start: maybe', ['clear_old_on_start', 'yes or no']),
        ('db: {engine: oracle}', ['db.engine', 'oracle', 'sqlite', 'mysql']),
        ('db: {host: "a b"}', ['db.host', 'a b']),
        ('db: {host: "a:99999"}', ['db.host']),
        ('db: {timeout: 0}', ['db.timeout', '1']),
        ('db: {tls: {caa: x}}', ['db.tls', 'cert']),
        ('db: {connect_string: "mysql:x"}', ['db.connect_string', 'dbi:']),
        ('db: {connect_string: "dbi:Oracle:x"}', ['db.connect_string', 'mysql']),
        ('db: {connect_string: "dbi:mysql:databse=x"}', ['databse', 'database']),
        ('db: {connect_string: "dbi:mysql:database=x;port=0"}', ['port', '65535']),
        ('db: {password_file: nowhere}', ['db.password_file']),
        ('history: {days: 0}', ['history.days', '36500']),
        ('log: {location: /proc/nowhere}', ['log.location', '/proc/nowhere']),
        ('log: {location: %s}' % SCRIPT, ['log.location']),
        ('state: {location: /proc/nowhere}', ['state.location', '/proc/nowhere']),
        ('a: &a [*a]', ['unknown key', 'a']),
        ('x: !!python/object:os.system y', ['not YAML']),
        ('\x00', ['not YAML']),
    ],
)
def test_bad_configuration_is_one_line_and_exit_2(tmp_path, text, parts):
    place = Place(tmp_path, 'sqlite').init()
    with open(place.file, 'w') as file:
        file.write(text)
        if 'log:' not in text and ':' in text and '[' not in text:
            file.write('\nlog: {location: %s}\n' % tmp_path)
    err = place.run('run', code=2)
    for part in [place.file, *parts]:
        assert part in err, err


def test_a_configuration_that_is_not_there(tmp_path):
    place = Place(tmp_path, 'sqlite')
    place.file += '.nowhere'
    assert place.run('list', code=2) == (
        'distributed_cron: %s: No such file or directory\n' % place.file
    )


def test_a_configuration_of_the_perl_program_is_taken_as_it_is(tmp_path):
    path = str(tmp_path / 'perl.yml')
    with open(path, 'w') as file:
        file.write(
            '---\ndb:\n'
            '\tconnect_string: dbi:mysql:database=jobs;host=db1;mysql_read_timeout=3\n'
            '\tusername:\tcron\n\tpassword: 12345\n'
            'log:\n\tlocation: %s\nmax_tasks: cpu_half\nclear_old_on_start: yes\n'
            % tmp_path
        )
    config = dc.load_config(path)
    assert (config.db_engine, config.hosts, config.db_database, config.db_timeout) == (
        'mysql',
        [('db1', 3306, None)],
        'jobs',
        3,
    )
    assert config.db_password == '12345'
    assert config.max_tasks == max(1, os.cpu_count() // 2)


def test_a_tab_inside_a_value_stays(tmp_path):
    path = str(tmp_path / 'tab.yml')
    with open(path, 'w') as file:
        file.write('db:\n\tpassword:\t"a\tb: \tc"\n')
    assert dc.load_config(path).db_password == 'a\tb: \tc'


@pytest.mark.parametrize(
    'host, expected',
    [
        ('a', ('a', 3306, None)),
        ('a:1', ('a', 1, None)),
        ('[::1]:5', ('::1', 5, None)),
        ('10.0.0.1', ('10.0.0.1', 3306, None)),
        (['a', 'b:2'], ('a', 3306, None)),
    ],
)
def test_hosts(host, expected):
    config = dc.Config({'db': {'host': host}}, 'x.yml')
    assert config.hosts[0] == expected and config.db_engine == 'mysql'


def test_the_shipped_configuration_is_the_defaults(tmp_path):
    config = dc.load_config(os.path.join(ROOT, 'distributed_cron.yml'))
    default = dc.Config({}, os.path.join(ROOT, 'distributed_cron.yml'))
    assert vars(config) == vars(default)


# Databases that are not as they should be.


@pytest.mark.parametrize(
    'change, parts',
    [
        ({'host': '127.0.0.1:1'}, ['2003', 'db.host']),
        ({'password': 'wrong'}, ['1045', 'db.password']),
        ({'database': 'nowhere'}, ['1049', 'init']),
        ({'host': '/nowhere/socket'}, ['/nowhere/socket', '2003']),
    ],
)
def test_a_database_that_cant_be_used(mysql_place, change, parts):
    place = mysql_place
    place.write(db=dict(place.values['db'], **change))
    for command in ('list', 'run'):
        err = place.run(command, code=1)
        for part in parts:
            assert part in err, err
    forever = place.worker('loop')
    wait_until(lambda: parts[0] in place.worker_log('loop'))
    assert forever.poll() is None
    forever.terminate()
    assert forever.wait(10) == 1


def test_a_missing_sqlite_file(tmp_path):
    place = Place(tmp_path, 'sqlite')
    assert 'run: distributed_cron.py init' in place.run('list', code=1)


def test_missing_old_and_myisam_tables(mysql_place):
    place = mysql_place
    for statement in (
        'ALTER TABLE run ENGINE=MyISAM',
        'ALTER TABLE job DROP run_token',
        'DROP TABLE host',
        'DROP TABLE job',
    ):
        place.store.execute(statement)
        for command in ('list', 'run'):
            err = place.run(command, code=1)
            assert 'run: distributed_cron.py init' in err, err
    place.run('init')
    place.run('run')
    for line in lines(place.run('check')):
        assert line.startswith('ok   '), line


def test_an_account_that_may_not_create_triggers(mysql_place):
    place = mysql_place
    place.server.client('''CREATE USER IF NOT EXISTS weak IDENTIFIED BY 'weak';
        GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX ON *.* TO weak;''')
    place.store.execute('DROP TABLE job')
    good = place.values['db']
    place.write(db=dict(good, username='weak', password='weak'))
    out = place.run('init')
    assert 'note: no trigger' in out and 'next_run_utc to NULL' in out
    place.add('echo x')
    place.run('run')
    assert place.runs()[0].status == 'Success'


def test_init_adds_what_is_missing_and_keeps_the_rest(place):
    place.add('true', description='kept')
    before = place.store.execute('SELECT * FROM host WHERE 1 = 0').description
    place.store.execute('ALTER TABLE host DROP COLUMN tags_since')
    place.store.execute(
        'DROP INDEX job_deadline' + (' ON job' if place.engine == 'mysql' else '')
    )
    for _ in range(2):
        place.run('init')
    after = place.store.execute('SELECT * FROM host WHERE 1 = 0').description
    assert [column[0] for column in after] == [column[0] for column in before]
    assert place.job(1).description == 'kept'
    place.run('run')
    assert len(place.sql('SELECT * FROM host')) == 1


PERL_TABLE = '''
CREATE TABLE job (
    id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    description VARCHAR(100) NOT NULL DEFAULT 'Yet another cron',
    command VARCHAR(2000) NOT NULL DEFAULT 'echo "I forgot to put in a command."',
    active TINYINT(1) NOT NULL DEFAULT 1, start_anchor TIME, stop_anchor TIME,
    frequency INT UNSIGNED NOT NULL DEFAULT 60,
    max_run_time INT UNSIGNED NOT NULL DEFAULT 1,
    last_start DATETIME, last_end DATETIME,
    last_status VARCHAR(32) NOT NULL DEFAULT 'Never ran.',
    last_worker VARCHAR(64) NOT NULL DEFAULT 'Never ran.',
    INDEX (active), INDEX (frequency)) ENGINE=MyISAM DEFAULT CHARACTER SET utf8;
CREATE TRIGGER job_checks BEFORE INSERT ON job FOR EACH ROW
    SET NEW.frequency = IF(NEW.frequency < 1, 1, NEW.frequency);
INSERT INTO job (description, command, last_start, last_end, last_status) VALUES
    ('älter', 'echo old', '2020-01-01 00:00:00', '2020-01-01 00:00:01', 'Success');
'''


def test_init_upgrades_a_table_of_the_perl_program_in_place(mysql_place):
    place = mysql_place
    database = place.values['db']['database']
    place.store.execute('DROP TABLE job')
    place.server.client(PERL_TABLE, database=database)
    assert 'init' in place.run('run', code=1)
    before = place.sql('SELECT * FROM job')[0]
    for _ in range(2):
        place.run('init')
    job = place.job(1)
    assert job[:12] == before[:12] and job._fields == dc.Job._fields
    place.run('run')
    assert place.job(1).last_status == 'Success' and place.runs()[0].output == 'old\n'
    fresh = place.server.client('SHOW CREATE TABLE job', database=database)
    assert 'varchar(12000)' in fresh and 'ENGINE=InnoDB' in fresh


def test_the_sql_file_with_the_plain_client_makes_the_same_tables(mysql_place):
    place = mysql_place
    with open(os.path.join(ROOT, 'distributed_cron.sql')) as file:
        text = file.read()
    name = place.values['db']['database'] + '_client'
    text = text.replace('`distributed_cron`', name)
    for _ in range(2):
        place.server.client(text)
        insert = "INSERT INTO job (command) VALUES ('true'); COMMIT"
        place.server.client(insert, database=name)
    assert (
        place.server.client('SELECT COUNT(*) FROM job', database=name).split()[-1]
        == '2'
    )

    def tables(database):
        return [
            re.sub(
                r' AUTO_INCREMENT=\d+',
                '',
                place.server.client('SHOW CREATE %s' % what, database=database),
            ).replace(database, '')
            for what in ['TABLE ' + table.name for table in dc.TABLES]
        ] + [
            re.sub(
                r'\d{4}-.*|\s+|`\w+`@`\w+`|DEFINER=\S+',
                ' ',
                place.server.client(
                    'SELECT ACTION_STATEMENT FROM information_schema.TRIGGERS WHERE '
                    "TRIGGER_SCHEMA = '%s' ORDER BY TRIGGER_NAME" % database
                ),
            ).replace(' ', '')
        ]

    def plain(texts):
        return [re.sub(r'\s|\\n', '', text) for text in texts]

    assert plain(tables(name)) == plain(tables(place.values['db']['database']))
    place.server.client('DROP DATABASE ' + name)


def test_the_plain_client_leaves_an_old_table_and_its_trigger_as_they_are(mysql_place):
    place = mysql_place
    database = place.values['db']['database']
    place.store.execute('DROP TABLE job')
    place.server.client(PERL_TABLE, database=database)
    with open(os.path.join(ROOT, 'distributed_cron.sql')) as file:
        text = file.read().replace('`distributed_cron`', database)
    assert 'Unknown column' in place.server.client(text, check=False)
    assert 'job_checks' in place.server.client('SHOW TRIGGERS', database=database)


@pytest.mark.parametrize(
    'engine, module',
    [('mysql', 'pymysql'), ('postgresql', 'psycopg'), ('sqlite', None)],
)
def test_a_driver_is_needed_only_where_it_is_asked_for(tmp_path, engine, module):
    for name in ('pymysql', 'psycopg'):
        (tmp_path / (name + '.py')).write_text('raise ImportError("not here")')
    place = Place(tmp_path, 'sqlite')
    place.write(db={'engine': engine, 'path': 'd.db'})
    out = place.run('init', code=2 if module else 0, env={'PYTHONPATH': str(tmp_path)})
    assert not module or 'needs %s; install python3-%s' % (module, module) in out


# Crontabs.

CRONTAB = r'''
# m h  dom mon dow   command
SHELL=/bin/sh
GREETING = "good day"
MAILTO=root

# greets
*/5 * * * *  echo "$GREETING"
0 3 * * 1-5	cat%line one%line 2 \% %
# 0 4 * * *  commented out
@daily  echo 100\%
61 * * * *  never
* * * * *
@reboot  echo no
SHELL=/bin/bash
@hourly echo ${BASH_VERSION:+bash}
'''


def test_import_of_a_users_crontab(place):
    path = os.path.join(place.folder, 'crontab')
    with open(path, 'w') as file:
        file.write(CRONTAB)
    out = place.run('import', path, code=1)
    assert '4 added, 0 already present, 3 skipped' in out
    assert "%s: line 12: minute '61'" % path in out
    assert 'line 13: ' in out and "line 14: '@reboot'" in out
    jobs = place.sql('SELECT * FROM job ORDER BY id')
    assert [job.schedule for job in jobs] == [
        '*/5 * * * *',
        '0 3 * * 1-5',
        '@daily',
        '@hourly',
    ]
    assert [job.description for job in jobs][:2] == ['greets', r'cat']
    for job in jobs:
        place.run('run-now', str(job.id))
    place.run('run')
    outputs = {run.job_id: run.output for run in place.runs()}
    assert list(outputs.values()) == [
        'good day\n',
        'line one\nline 2 % \n\n',
        '100%\n',
        'bash\n',
    ]
    assert '0 added, 4 already present, 3 skipped' in place.run('import', path, code=1)
    assert len(place.sql('SELECT * FROM job')) == 4


def test_import_of_etc_crontab(place):
    path = os.path.join(place.folder, 'crontab')
    with open(path, 'w') as file:
        file.write(
            "PATH=/usr/bin:/bin\n17 * * * * root cd / && echo 'a b'\n"
            '0 1 * * * nobody id -un\n'
        )
    out = place.run('import', '--system', path)
    assert out.endswith('\n2 added, 0 already present, 0 skipped\n')
    mine, theirs = [
        job.command for job in place.sql('SELECT command FROM job ORDER BY id')
    ]
    if os.getuid() == 0:
        assert mine == "export PATH=/usr/bin:/bin; cd / && echo 'a b'"
    assert theirs.startswith('sudo -n -u nobody -- /bin/sh -c ')


def test_export_is_taken_back(place, tmp_path):
    place.run(
        'add',
        '--every',
        '7',
        '--start',
        '23:00',
        '--stop',
        '03:00',
        '--inactive',
        '--description',
        "it's 100% \"odd\" é",
        'echo 100%; echo \\% "x"',
    )
    place.run(
        'add', '--schedule', '0 3 * * 1-5', '--max-run-time', '5', 'printf "a\nb"'
    )
    place.run('add', '--schedule', '@weekly', 'echo a\x0cb\x85c\u2028d')
    path = str(tmp_path / 'exported')
    with open(path, 'w') as file:
        file.write(place.run('export'))
    assert place.run('import', path) == '0 added, 3 already present, 0 skipped\n'
    before = place.sql('SELECT * FROM job ORDER BY id')
    place.store.execute('DELETE FROM job')
    out = place.run('import', path)
    assert out.endswith('\n3 added, 0 already present, 0 skipped\n')
    after = place.sql('SELECT * FROM job ORDER BY id')
    columns = [
        dc.Job._fields.index(name)
        for name in (
            'description',
            'command',
            'active',
            'start_anchor',
            'stop_anchor',
            'max_run_time',
            'schedule',
            'frequency',
        )
    ]
    assert [[job[index] for index in columns] for job in after] == [
        [job[index] for index in columns] for job in before
    ]


def test_export_of_what_runs_after_a_job_is_taken_back_elsewhere(place, tmp_path):
    """There, ids are other ones."""
    place.add('gone')
    place.run('remove', '1')
    place.run('add', '--schedule', '0 3 * * *', '--name', 'backup', 'echo backup')
    place.run('add', '--after', 'backup', '--retries', '3', 'echo report')
    place.run('add', '--schedule', '0 4 * * *', 'echo nameless')
    place.run('add', '--after', '4', 'echo lost')
    path = str(tmp_path / 'exported')
    with open(path, 'w') as file:
        file.write(place.run('export'))
    assert place.run('import', path) == '0 added, 4 already present, 0 skipped\n'
    place.store.execute('DELETE FROM job')
    place.add('another')
    out = place.run('import', path, code=1)
    assert '3 added, 0 already present, 1 skipped\n' in out
    assert "line 11: 'after_job' is 4; allowed: the name of a job" in out
    (backup,) = place.sql("SELECT * FROM job WHERE name = 'backup'")
    (report,) = place.sql("SELECT * FROM job WHERE command = 'echo report'")
    assert (report.after_job, report.retries, report.active) == (backup.id, 3, 1)


def test_export_keeps_blanks_around_a_command(place, tmp_path):
    place.run('add', '--schedule', '@weekly', ' echo  a ')
    path = str(tmp_path / 'exported')
    with open(path, 'w') as file:
        file.write(place.run('export'))
    assert place.run('import', path) == '0 added, 1 already present, 0 skipped\n'
    place.run('remove', '1')
    place.run('import', path)
    assert place.sql('SELECT * FROM job')[0].command == ' echo  a '


def test_export_leaves_out_what_a_template_makes_itself(place):
    place.run('add', '--schedule', '0 3 * * *', '--each-host', 'echo each')
    place.run('run')
    assert len(place.sql('SELECT * FROM job')) == 2
    assert place.run('export').count('0 3 * * * echo each\n') == 1


@pytest.mark.parametrize(
    'facts',
    [
        '{"description": []}',
        '{"description": "\\ud800"}',
        '{"id": 5}',
        '[1]',
        '5',
        '{',
        '{"frequency": 1e400, "schedule": null}',
        '{"frequency": NaN, "schedule": null}',
        '{"frequency": 99999999999999999999}',
        '{"active": true}',
        '{"max_run_time": "5"}',
        '{"active": 99999999999999999999}',
        '{"schedule": 5}',
        '{"start_anchor": 5}',
        '{"schedule": null}',
    ],
)
def test_facts_that_export_did_not_write_are_an_error_of_one_line(place, facts):
    path = os.path.join(place.folder, 'crontab')
    with open(path, 'w') as file:
        file.write('#: %s\n* * * * * echo bad\n\n* * * * * echo good\n' % facts)
    out = place.run('import', path, code=1)
    lines_of_ids = [line for line in lines(out) if line.startswith('job ')]
    assert 'line ' in out and len(lines(out)) - len(lines_of_ids) == 2
    commands = [job.command for job in place.sql('SELECT * FROM job')]
    assert 'echo good' in commands


# The demonstration, and the program as a whole.


def test_demo_needs_nothing_but_python(tmp_path):
    done = subprocess.run(
        [sys.executable, '-S', '-I', SCRIPT, 'demo'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=15,
        env={'TMPDIR': str(tmp_path), 'PATH': os.environ['PATH']},
    )
    out = done.stdout.decode()
    assert done.returncode == 0 and not done.stderr, (out, done.stderr)
    assert 'Each of the 12 jobs ran once.' in out and 'ERROR: exit 3' in out
    assert 'ERROR: timed out' in out
    assert len({row.split()[-2] for row in out.splitlines() if 'Success' in row}) >= 3


@pytest.mark.timeout(20)
def test_demo_starts_the_killed_worker_when_its_lock_is_free(tmp_path):
    """A runner that has just been forked has it for a moment."""
    program = (
        'import sys, time; sys.path.insert(0, %r); import distributed_cron as dc\n'
        'leave = dc.leave_worker\n'
        'dc.leave_worker = lambda lock: (time.sleep(0.5), leave(lock))\n'
        "sys.exit(dc.main(['demo']))" % ROOT
    )
    done = subprocess.run(
        [sys.executable, '-c', program],
        env=dict(os.environ, TMPDIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout.decode()


def test_demo_gives_up_when_no_worker_starts(tmp_path, monkeypatch):
    class Dead:
        def start(self):
            pass

    monkeypatch.setattr(dc, 'worker_of', lambda config: Dead())
    monkeypatch.setattr(dc, 'DEMO_SECONDS', 0.2)
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    with pytest.raises(dc.Problem, match='demo: no worker has claimed a job'):
        dc.cmd_demo(None, None)


@pytest.mark.parametrize(
    'typed, command',
    [
        ('distributed_cron.py', [SCRIPT]),
        ('distributed_cron', ['distributed_cron']),
        ('python3 -m distributed_cron', ['-m', 'distributed_cron']),
    ],
)
def test_messages_name_the_program_as_it_was_typed(tmp_path, typed, command):
    script = 'import sys, distributed_cron\nsys.exit(distributed_cron.main())\n'
    (tmp_path / 'distributed_cron').write_text(script)  # as pip installs it
    place = Place(tmp_path, 'sqlite')

    def run(*args):
        done = subprocess.run(
            [sys.executable, *command, '--config', place.file, *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
            env={'PYTHONPATH': ROOT, 'PATH': os.environ['PATH']},
        )
        return done.stdout.decode()

    assert run('--help').startswith('usage: %s [' % typed)
    assert run('add', '--help').startswith('usage: %s add [' % typed)
    assert run('add').endswith('; see: %s add --help\n' % typed)
    assert run('list').endswith('; run: %s init\n' % typed)


def test_help_has_the_exact_behaviour_and_examples():
    out = subprocess.run([sys.executable, SCRIPT, '--help'], stdout=subprocess.PIPE)
    start = dc.__doc__.index('Exact behaviour\n')
    behaviour = dc.__doc__[start:].split('\n\n')[0].rstrip()
    assert '\n11. ' in behaviour
    before, _, examples = out.stdout.decode().rpartition('\n\n')
    assert before.endswith('\n\n' + behaviour) and examples.startswith('Examples\n')


@pytest.mark.parametrize('options', [(), ('--config',), ('--config', '--name')])
def test_a_pass_of_the_crontab_needs_no_argparse(tmp_path, options):
    place = Place(tmp_path, 'sqlite').init()
    code = (
        'import sys, distributed_cron as dc\n'
        'assert dc.main() == 0\n'
        "sys.exit('argparse' in sys.modules)"
    )
    known = {'--config': place.file, '--name': os.uname().nodename}
    typed = [text for option in options for text in (option, known[option])]
    env = {**os.environ, 'PYTHONPATH': ROOT}
    if not options:
        env['DISTRIBUTED_CRON_CONFIG'] = place.file
    subprocess.run([sys.executable, '-c', code, *typed], check=True, env=env)
    assert 'worker leaves' in place.worker_log(os.uname().nodename)


@pytest.mark.parametrize(
    'arguments',
    [
        '',
        '--config a',
        '--name h',
        '--config a --name h',
        '--name h --config a',
        '--config a --config b',
        '--config list',
    ],
)
def test_a_pass_takes_its_options_as_argparse_does(arguments):
    options = dc.pass_options(arguments.split())
    args = dc.parser().parse_args(arguments.split())
    assert args.action == 'run' and not args.forever
    assert (options.config, options.name) == (args.config, args.name)


@pytest.mark.parametrize(
    'arguments',
    [
        'list',
        'run --forever',
        '--help x',
        '--config',
        '--config --name',
        '--config a list',
        '--config=a',
        '--conf a',
        '--name -x',
        '--config a --name',
        '--config a --nam h',
    ],
)
def test_what_is_no_plain_pass_is_left_to_argparse(arguments):
    assert dc.pass_options(arguments.split()) is None


def test_help_and_readme_name_every_command():
    _, out, _ = call(['--help'])
    for command in (
        'run init add edit remove enable disable list show run-now stop next '
        'history log hosts import export apply check demo'
    ).split():
        assert re.search(r'(?m)^    %s +\S' % command, out), command
        status, text, _ = call([command, '--help'])
        assert status == 0 and 'usage: ' in text


def test_a_reader_that_leaves_is_no_error(place):
    for _ in range(300):
        place.add('echo %s' % ('x' * 30))
    done = subprocess.run(
        '"%s" "%s" --config "%s" list | head -1; exit ${PIPESTATUS[0]}'
        % (sys.executable, SCRIPT, place.file),
        shell=True,
        executable='/bin/bash',
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert not done.stderr and done.returncode == 0
