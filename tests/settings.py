"""The settings of servers as people have them, by name; and servers that carry some.

    DISTRIBUTED_CRON_SETTINGS=ansi,latin1 tests/run

runs on one server with both, all tests that use one of its kind. test_settings.py tries
each setting shortly, so that this list does not rot.
"""

import contextlib
import os
from collections import namedtuple

from servers import MariaDB, MySQL, Pooled, PostgreSQL, open_folder

Setting = namedtuple(
    'Setting',
    (
        'engine',
        'options',  # of the server's command line
        'statements',  # that the administrator runs; role's settings are dc's
        'template',  # statements in the database from which others are made
        'pool',  # how pgbouncer hands out sessions; None: clients reach the server
        'zones',  # whether the server knows time zones by name
    ),
    defaults=((), (), (), None, True),
)


def mysql(*options, **more):
    return Setting('mysql', options, **more)


def postgresql(*options, **more):
    arguments = [word for option in options for word in ('-c', option)]
    return Setting('postgresql', tuple(arguments), **more)


def role(*settings):
    """Settings of the workers' role."""
    return postgresql(statements=['ALTER ROLE dc SET ' + text for text in settings])


SETTINGS = {
    # MySQL and MariaDB
    'no-zones': mysql(zones=False),
    'quarter-zone': mysql('--default-time-zone=+05:45', zones=False),
    'ansi': mysql('--sql-mode=ANSI_QUOTES,PIPES_AS_CONCAT,IGNORE_SPACE'),
    'backslash': mysql('--sql-mode=NO_BACKSLASH_ESCAPES,HIGH_NOT_PRECEDENCE'),
    'padded': mysql('--sql-mode=PAD_CHAR_TO_FULL_LENGTH'),
    'no-mode': mysql('--sql-mode='),
    'latin1': mysql(
        '--character-set-server=latin1',
        '--collation-server=latin1_german2_ci',
        '--loose-character-set-client-handshake=0',
    ),
    'packet': mysql('--max-allowed-packet=1M'),
    'wait': mysql('--wait-timeout=5', '--interactive-timeout=5'),
    'mixed': mysql('--log-bin', '--server-id=1', '--binlog-format=MIXED'),
    'statement': mysql('--log-bin', '--server-id=1', '--binlog-format=STATEMENT'),
    'serializable': mysql('--transaction-isolation=SERIALIZABLE'),
    'autocommit': mysql('--autocommit=0', '--completion-type=CHAIN'),
    'myisam': mysql('--default-storage-engine=MyISAM'),
    # PostgreSQL
    'pg-serializable': postgresql('default_transaction_isolation=serializable'),
    'pg-repeatable': role("default_transaction_isolation = 'repeatable read'"),
    'pg-zone': role("TimeZone = 'America/St_Johns'"),
    'pg-datestyle': role("DateStyle = 'German, DMY'", "IntervalStyle = 'sql_standard'"),
    'pg-path': role('search_path = app, public')._replace(
        template=['CREATE SCHEMA app', 'GRANT ALL ON SCHEMA app TO dc']
    ),
    'pg-strings': role('standard_conforming_strings = off', 'backslash_quote = off'),
    'pg-impatient': role(
        'lock_timeout = 100',
        'statement_timeout = 500',
        'idle_in_transaction_session_timeout = 500',
    ),
    'pg-hasty': postgresql('synchronous_commit=off'),
    'pgbouncer-session': postgresql()._replace(pool='session'),
    'pgbouncer-transaction': postgresql()._replace(pool='transaction'),
}
CHOSEN = [
    name for name in os.environ.get('DISTRIBUTED_CRON_SETTINGS', '').split(',') if name
]


def of_engine(engine, names=CHOSEN):
    """The settings of some names that are of a kind of server."""
    found = [SETTINGS[name] for name in names]
    return [setting for setting in found if setting.engine == engine]


@contextlib.contextmanager
def serve(engine, *names):
    """A server with settings, and the workers' account; whose data nobody needs."""
    settings = of_engine(engine, names)
    options = [option for setting in settings for option in setting.options]
    statements = [text for setting in settings for text in setting.statements]
    with open_folder('dc-test-') as folder:
        make = {'mysql': mysql_server, 'postgresql': postgresql_server}[engine]
        server = make(folder, settings, options)
        try:
            if statements:
                server.settings(*statements)
            yield server
        finally:
            server.discard()


def mysql_server(folder, settings, options):
    kind = MySQL if MySQL.program else MariaDB
    if '--log-bin' not in options:
        options = ['--skip-log-bin', *options]
    server = kind(folder, '--innodb-buffer-pool-size=256M', *options)
    server.start().make_account()
    if all(setting.zones for setting in settings):
        server.load_time_zones()
    return server


def postgresql_server(folder, settings, options):
    pools = [setting.pool for setting in settings if setting.pool]
    server = Pooled(folder, *pools) if pools else PostgreSQL(folder)
    # What a killed server has written is still there: only a machine's end takes it.
    server.start('-c', 'fsync=off', *options).make_account()
    with contextlib.closing(server.connect('template1')) as connection:
        # Of which check complains; and so it is from PostgreSQL 15 on.
        connection.execute('REVOKE CREATE ON SCHEMA public FROM PUBLIC')
        for setting in settings:
            for statement in setting.template:
                connection.execute(statement)
    return server
