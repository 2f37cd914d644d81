"""The tables: the same on each database, after `init` and after `init --print`."""

import itertools
import os
import re
import shutil
import sqlite3
import subprocess

import pytest
from conftest import ROOT, Place, dc

COLUMNS = {  # of each table; what runs beside version 2.0 needs them in this order
    'job': dc.Job._fields,
    'run': dc.Run._fields,
    'host': (*dc.Host._fields, 'gap_from', 'gap_until', 'tags_since'),
    'about': ('name', 'value'),
    'pause': ('target', 'from_utc', 'until_utc', 'paused_by'),
    'live': ('job_id', 'run_no', 'watched_until_utc', 'output'),
    'trouble': (
        'kind subject since_utc ended_utc times text alert_to '
        'told_mail_utc told_webhook_utc told_command_utc'
    ).split(),
}
TYPES = {  # a type of SQLite: what MySQL and PostgreSQL call theirs
    'INTEGER': ('int unsigned', 'bigint'),
    'TINYINT(1)': ('tinyint', 'smallint'),
    'INT UNSIGNED': ('int unsigned', 'bigint'),
    'INT': ('int', 'integer'),
    'BIGINT': ('bigint', 'bigint'),
    'TIME': ('time', 'time(0) without time zone'),
    'DATETIME': ('datetime', 'timestamp(0) without time zone'),
    'DATETIME(6)': ('datetime(6)', 'timestamp(6) without time zone'),
    'TEXT': ('text', 'text'),
    'MEDIUMTEXT': ('mediumtext', 'text'),
    **{
        'VARCHAR(%d)' % width: ('varchar(%d)' % width, 'character varying(%d)' % width)
        for width in (32, 64, 191, 255, 12000)
    },
}
PERL_DEFAULTS = {  # which people's plain INSERTs count on
    'description': 'Yet another cron',
    'command': 'echo "I forgot to put in a command."',
    'active': '1',
    'start_anchor': None,
    'stop_anchor': None,
    'frequency': '60',
    'max_run_time': '1',
    'last_start': None,
    'last_end': None,
    'last_status': 'Never ran.',
    'last_worker': 'Never ran.',
}


def rows(place, text):
    """Rows of the catalogue, by the driver alone: `{` and `%` stay as they are."""
    cursor = place.store.connection.cursor()
    cursor.execute(text)
    return [tuple(row) for row in cursor.fetchall()]


def columns_of(place, table):
    """[(name, type, may be NULL, default)], as the database says."""
    if place.engine == 'sqlite':
        found = [
            (name, kind, not required and not key, default)
            for _, name, kind, required, default, key in rows(
                place, 'PRAGMA table_info(%s)' % table
            )
        ]
    elif place.engine == 'mysql':
        found = rows(
            place,
            '''SELECT column_name, column_type, is_nullable = 'YES', column_default
            FROM information_schema.columns WHERE table_schema = DATABASE()
            AND table_name = '%s' ORDER BY ordinal_position'''
            % table,
        )
    else:
        found = rows(
            place,
            '''SELECT attname, format_type(atttypid, atttypmod), NOT attnotnull,
            pg_get_expr(adbin, adrelid) FROM pg_attribute
            LEFT JOIN pg_attrdef ON attrelid = adrelid AND attnum = adnum
            WHERE attrelid = CAST('%s' AS regclass) AND attnum > 0 ORDER BY attnum'''
            % table,
        )
    return [
        (name, kind, bool(nullable), plain(default))
        for name, kind, nullable, default in found
    ]


def plain(default):
    """A default without quotes and type; MariaDB says NULL where others say nothing."""
    text = 'NULL' if default is None else re.sub(r'::[a-z ]+$', '', default)
    return None if text == 'NULL' else re.sub("^'|'$", '', text)


def keys_of(place, table):
    """The columns of the indexes: {'PRIMARY': …, name: …}, as the database says."""
    if place.engine == 'sqlite':
        keys = {
            'PRIMARY' if origin == 'pk' else name: [
                row[2] for row in rows(place, 'PRAGMA index_info(%s)' % name)
            ]
            for _, name, _, origin, _ in rows(place, 'PRAGMA index_list(%s)' % table)
        }
        return {'PRIMARY': ['id'], **keys} if table == 'job' else keys
    if place.engine == 'mysql':
        found = rows(
            place,
            '''SELECT index_name, column_name FROM information_schema.statistics
            WHERE table_schema = DATABASE() AND table_name = '%s'
            ORDER BY seq_in_index'''
            % table,
        )
    else:
        found = [
            ('PRIMARY' if name.endswith('_pkey') else name, column)
            for name, definition in rows(
                place,
                "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = '%s'"
                % table,
            )
            for column in re.search(r'\((.*)\)', definition)[1].split(', ')
        ]
    keys = {}
    for name, column in found:
        keys.setdefault(name, []).append(column)
    return keys


def triggers_of(place):
    """The triggers and what they do, as the database says."""
    if place.engine == 'sqlite':
        found = rows(
            place, "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        )
    elif place.engine == 'mysql':
        found = rows(
            place,
            '''SELECT trigger_name, CONCAT(action_timing, event_manipulation,
            action_statement) FROM information_schema.triggers
            WHERE trigger_schema = DATABASE()''',
        )
    else:
        found = rows(
            place,
            '''SELECT tgname, pg_get_triggerdef(t.oid) || prosrc FROM pg_trigger t
            JOIN pg_proc p ON p.oid = tgfoid WHERE NOT tgisinternal''',
        )
    return sorted((name, ' '.join(text.split())) for name, text in found)


def catalogue(place):
    """All that a database says of the tables."""
    return {
        'triggers': triggers_of(place),
        **{name: (columns_of(place, name), keys_of(place, name)) for name in COLUMNS},
    }


def test_tables_are_the_same_on_each_database(place, tmp_path):
    """Names, types, NULL, defaults and keys: as on SQLite, and as the program says."""
    reference = Place(tmp_path, 'sqlite')
    reference.file = os.path.join(tmp_path, 'reference.yml')
    reference.write(db={'engine': 'sqlite', 'path': 'reference.db'})
    reference.init()
    of_engine = ('mysql', 'postgresql').index(place.engine) if place.server else None
    for table, names in COLUMNS.items():
        expected = columns_of(reference, table)
        found = columns_of(place, table)
        assert [name for name, *_ in found] == list(names)
        for column, like in zip(found, expected):
            kind = like[1] if of_engine is None else TYPES[like[1]][of_engine]
            # MariaDB and older MySQL give whole numbers a width, which means nothing.
            said = re.sub(r'(int)\(\d+\)', r'\1', column[1])
            assert (column[0], said, *column[2:]) == (
                like[0],
                re.sub(r'(int)\(\d+\)', r'\1', kind),
                *like[2:],
            )
        assert keys_of(place, table) == keys_of(reference, table)
    reference.store.close()


def test_keys_and_defaults(sqlite_place):
    """What the other databases are compared with."""
    place = sqlite_place
    defaults = {name: default for name, _, _, default in columns_of(place, 'job')}
    assert {name: defaults[name] for name in PERL_DEFAULTS} == PERL_DEFAULTS
    later = [column for column in columns_of(place, 'job') if column[0] not in defaults]
    for name, _, nullable, default in later:  # an old row means what it meant
        assert default in (None, '0') and nullable == (default is None), name
    assert {table: keys_of(place, table) for table in COLUMNS} == {
        'job': {
            'PRIMARY': ['id'],
            'job_due': ['run_token', 'next_run_utc'],
            'job_here': ['run_on', 'run_token', 'next_run_utc'],
            'job_deadline': ['run_deadline_utc'],
            'job_late': ['run_token', 'start_before_utc'],
            'job_each': ['each_host'],
            'job_after': ['after_job'],
            'job_followers': ['followers_due'],
            'job_failures': ['failures'],
            'job_name': ['name'],
            'job_parent': ['parent_id', 'run_on'],
        },
        'run': {'PRIMARY': ['job_id', 'run_no'], 'run_ended': ['ended_at']},
        'host': {'PRIMARY': ['name']},
        'about': {'PRIMARY': ['name']},
        'pause': {'PRIMARY': ['target']},
        'live': {
            'PRIMARY': ['job_id', 'run_no'],
            'live_watched': ['watched_until_utc'],
        },
        'trouble': {'PRIMARY': ['kind', 'subject', 'since_utc']},
    }


def limit(frequency, max_run_time, schedule):
    """What max_run_time becomes."""
    if schedule is not None:
        return max(max_run_time, 1)
    frequency = max(frequency, 1)
    if 1 <= max_run_time < frequency:
        return max_run_time
    return max(frequency // 2, 1)


def test_triggers_keep_frequency_and_max_run_time(place):
    new = place.add('true')
    for frequency, max_run_time, schedule in itertools.product(
        (0, 1, 2, 3, 60), (0, 1, 2, 59, 60, 100), (None, '@daily')
    ):
        values = {
            'frequency': frequency,
            'max_run_time': max_run_time,
            'schedule': schedule,
        }
        place.store.execute(
            "UPDATE job SET frequency = %d, max_run_time = %d, schedule = %s "
            'WHERE id = %d' % (frequency, max_run_time, quoted(schedule), new)
        )
        for id in (place.add('true', **values), new):
            job = place.job(id)
            assert job.frequency == max(frequency, 1), values
            assert job.max_run_time == limit(**values), values


def quoted(text):
    return 'NULL' if text is None else "'%s'" % text


def test_triggers_forget_a_plan_that_is_out_of_date(place):
    """A change of a column that the plan is computed from, and no other."""
    changed = {
        'schedule': '@hourly',
        'frequency': '7',
        'start_anchor': '01:00:00',
        'stop_anchor': '02:00:00',
        'active': '0',
        'time_zone': 'Europe/Berlin',
        'start_within': '5',
        'each_host': '1',
        'after_job': '7',
        'paused_until_utc': '2031-01-01 00:00:00',
    }
    assert set(changed) == set(dc.PLANNED_FROM)
    others = {'description': 'new', 'max_run_time': '5', 'run_no': '3'}
    for column, value in {**changed, **others}.items():
        when = '2031-01-01 00:00:00'
        id = place.add('true', next_run_utc=when, start_before_utc=when)
        for same in (True, False):  # as it is; then another value
            place.store.execute(
                'UPDATE job SET %s = %s WHERE id = %d'
                % (column, column if same else quoted(value), id)
            )
            job = place.job(id)
            forgotten = column in changed and not same
            assert (job.next_run_utc is None) == forgotten, column
            assert (job.start_before_utc is None) == forgotten, column
            assert (job.changed_utc is not None) == forgotten, column


def pipe(place, text):
    """Hand statements to the database's own client, which stops at an error."""
    database = place.values['db'].get('database')
    if place.engine == 'mysql':
        place.server.client(text)
    elif place.engine == 'postgresql':
        address = 'postgresql://dc:secret@127.0.0.1:%d/%s'
        subprocess.run(
            [
                'psql',
                '-qX',
                '-v',
                'ON_ERROR_STOP=1',
                address % (place.server.port, database),
            ],
            input=text.encode(),
            check=True,
        )
    else:
        file = place.config().db_path
        if shutil.which('sqlite3'):
            command = ['sqlite3', '-bail', file]
            subprocess.run(command, input=text.encode(), check=True)
        else:
            with sqlite3.connect(file) as connection:
                connection.executescript(text)


def test_printed_sql_makes_the_same_tables(place, tmp_path):
    """Through the plain client, also a second time; then init finds nothing to do."""
    made = catalogue(place)
    place.store.close()
    if place.engine == 'sqlite':
        place.write(db={**place.values['db'], 'path': 'printed.db'})
    else:
        name = place.values['db']['database'] + '_printed'
        place.write(db={**place.values['db'], 'database': name})
    if place.engine == 'postgresql':
        with place.server.connect() as connection:
            connection.execute('CREATE DATABASE ' + name)
    text = place.run('init', '--print')
    pipe(place, text)
    place.store = place.new_store()
    place.add('echo "kept: 100% {here} :now ?"')
    pipe(place, text)
    assert catalogue(place) == made
    place.run('init')
    assert catalogue(place) == made
    assert place.job(1).command == 'echo "kept: 100% {here} :now ?"'


def test_the_sql_file_is_what_init_prints(tmp_path):
    """But for its head; without the driver, and without a server."""
    (tmp_path / 'pymysql.py').write_text('raise ImportError("not here")')
    place = Place(tmp_path, 'sqlite')
    place.write(db={'engine': 'mysql'})
    printed = place.run('init', '--print', env={'PYTHONPATH': str(tmp_path)})
    with open(os.path.join(ROOT, 'distributed_cron.sql'), encoding='utf-8') as file:
        head, rest = file.read().split('\n\n', 1)
    assert all(line.startswith('--') for line in head.split('\n'))
    assert rest == printed


def test_init_adds_a_new_column_and_its_index(place, monkeypatch):
    """What later versions add is one line in TABLES, on each database."""
    place.add('true', description='kept')
    before = columns_of(place, 'job')
    job, *others = dc.TABLES
    job = job._replace(
        columns=job.columns.rstrip()
        + ''',
-- two columns
more_of_it       {count} NOT NULL DEFAULT 0,
until_utc        {moment} NULL DEFAULT NULL
''',
        indexes=[*job.indexes, 'INDEX job_until (until_utc, more_of_it)'],
    )
    monkeypatch.setattr(dc, 'TABLES', (job, *others))
    for _ in range(2):
        store = dc.Store(place.config())
        dc.create_tables(store)
        store.close()
    after = columns_of(place, 'job')
    assert after[:-2] == before
    assert [column[0::3] for column in after[-2:]] == [
        ('more_of_it', '0'),
        ('until_utc', None),
    ]
    assert keys_of(place, 'job')['job_until'] == ['until_utc', 'more_of_it']
    assert place.job(1).description == 'kept'


def test_tables_without_the_newest_column_ask_for_init(place, monkeypatch):
    monkeypatch.setattr(dc, 'JOB_COLUMNS', [*dc.JOB_COLUMNS, 'newer'])
    with pytest.raises(dc.Problem, match=r'newer.*run: .* init'):
        dc.Store(place.config()).connect()


def test_a_template_hands_on_all_that_people_may_set_of_it():
    own = {'name', 'run_on', 'each_host'}
    assert {column.name for column in dc.COLUMNS} - own <= set(dc.INHERITED)
