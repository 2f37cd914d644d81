"""The way to the database: who answers there, what is told to whom, and what goes on on
the server when nobody waits for it any more."""

import contextlib
import os
import re
import ssl
import subprocess
import sys

import psycopg
import pymysql
import pytest
import yaml
from conftest import Place, call, dc, wait_until
from fakes import FakeMySQL, FakePostgreSQL, make_certificate
from servers import MySQL, open_folder

OLD = 'PyMySQL==1.0.2'  # as in Debian 12; it goes on without TLS


@pytest.fixture(scope='module')
def certificate():
    with open_folder('dc-test-') as folder:
        yield make_certificate(folder)


def config_of(folder, host, engine='mysql', **more):
    """A configuration with this server."""
    file = os.path.join(str(folder), 'fake.yml')
    db = {
        'engine': engine,
        'host': host,
        'username': 'dc',
        'password': 'Secret5',
        **more,
    }
    with open(file, 'w') as stream:
        yaml.safe_dump({'db': db, 'log': {'location': 'log'}}, stream)
    return file


def refused(file, *command, **how):
    """The one line with which a command fails."""
    done = subprocess.run(
        [sys.executable, dc.__file__, '--config', file, *(command or ['list'])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=60,
        **how,
    )
    text = done.stderr.decode()
    assert done.returncode == 1 and text.count('\n') == 1, text
    return text


# TLS.


def forget_that_tls_is_required(monkeypatch):
    """Make the driver go on without TLS, as older versions do."""
    never = property(lambda connection: False, lambda connection, value: None)
    monkeypatch.setattr(
        pymysql.connections.Connection, '_ssl_required', never, raising=False
    )


@pytest.mark.parametrize('driver', ['installed', 'older'])
def test_nothing_is_sent_to_a_server_without_tls(
    tmp_path, certificate, driver, monkeypatch
):
    if driver == 'older':
        forget_that_tls_is_required(monkeypatch)
    with FakeMySQL() as fake:
        file = config_of(
            tmp_path, '127.0.0.1:%d' % fake.port, tls={'ca': certificate[0]}
        )
        with pytest.raises(dc.Away, match='error 2026: '):
            dc.Store(dc.load_config(file)).connect()
        assert fake.said == b''


@pytest.mark.slow
def test_nothing_is_sent_by_an_old_driver_either(tmp_path, certificate, mariadb):
    """And to a server with TLS, it connects."""
    folder = str(tmp_path / 'old')
    pip = [sys.executable, '-m', 'pip', 'install', '-q', '--target', folder, OLD]
    subprocess.run(pip, check=True)
    how = {'env': {**os.environ, 'PYTHONPATH': folder}}
    with FakeMySQL() as fake:
        file = config_of(
            tmp_path, '127.0.0.1:%d' % fake.port, tls={'ca': certificate[0]}
        )
        assert 'error 2026: ' in refused(file, **how)
        assert fake.said == b''
    with FakeMySQL() as fake:
        file = config_of(tmp_path, '127.0.0.1:%d' % fake.port)
        assert 'in clear' in refused(file, **how)
        assert b'Secret5' not in fake.said
    place = Place(tmp_path, 'mysql', mariadb, 'old').init()
    with tls_in_mysql(mariadb, certificate):
        place.write(db=dict(place.values['db'], tls={'ca': certificate[0]}))
        place.run('list', **how)


@contextlib.contextmanager
def tls_in_mysql(server, files):
    """Have a server offer TLS, and want it of the workers."""
    if MySQL.program:
        pytest.skip('MySQL has other statements for that')
    ca, key = files
    if server.value('ssl_cert') != ca:
        server.stop()
        server.start('--ssl-cert=' + ca, '--ssl-key=' + key)
    server.settings('ALTER USER dc REQUIRE SSL')
    try:
        yield
    finally:
        server.settings('ALTER USER dc REQUIRE NONE')


@contextlib.contextmanager
def tls_in_postgresql(server, files):
    ca, key = files
    own = os.path.join(server.folder, 'key')
    subprocess.run(['cp', key, own], check=True)
    os.chmod(own, 0o600)
    subprocess.run(['chown', '--reference', server.data, own], check=True)
    for name, value in ('cert_file', ca), ('key_file', own):
        server.settings("ALTER SYSTEM SET ssl_%s = '%s'" % (name, value))
    server.settings('ALTER SYSTEM SET ssl = on', 'SELECT pg_reload_conf()')
    try:
        yield
    finally:
        server.settings('ALTER SYSTEM SET ssl = off', 'SELECT pg_reload_conf()')


def test_a_server_with_the_certificate_of_the_readme(server_place, certificate):
    """It is verified by its CA, and by its name: nobody else's certificate will do."""
    place = server_place
    kinds = {'mysql': tls_in_mysql, 'postgresql': tls_in_postgresql}
    with kinds[place.engine](place.server, certificate):
        place.write(db=dict(place.values['db'], tls={'ca': certificate[0]}))
        assert wait_until(lambda: can_list(place))
        assert 'ok   tls: ' in check(place)
        with open_folder('dc-test-') as folder:
            other = make_certificate(folder)[0]
            place.write(db=dict(place.values['db'], tls={'ca': other}))
            assert 'certificate' in refused(place.file)
        host = 'localhost:%d' % place.server.port
        tls = {'ca': certificate[0]}
        place.write(db=dict(place.values['db'], host=host, tls=tls))
        assert 'certificate' in refused(place.file)


def can_list(place):
    try:
        place.new_store().close()
        return True
    except dc.Away:
        return False


def check(place):
    done = subprocess.run(
        [
            sys.executable,
            dc.__file__,
            '--config',
            place.file,
            '--name',
            'here',
            'check',
        ],
        stdout=subprocess.PIPE,
    )
    return done.stdout.decode()


@pytest.mark.parametrize('ca', ['no such file', 'no certificate'])
@pytest.mark.parametrize('engine', ['mysql', 'postgresql'])
def test_a_bad_file_of_tls_is_named(tmp_path, ca, engine):
    path = str(tmp_path / 'ca.pem')
    if ca == 'no certificate':
        (tmp_path / 'ca.pem').write_text('not this\n')
    with FakeMySQL() as fake:
        file = config_of(tmp_path, '127.0.0.1:%d' % fake.port, engine, tls={'ca': path})
        done = subprocess.run(
            [sys.executable, dc.__file__, '--config', file, 'list'],
            stderr=subprocess.PIPE,
        )
        text = done.stderr.decode()
        assert text.count('\n') == 1, text
        # libpq asks for TLS before it reads the file.
        assert engine == 'postgresql' or 'ca.pem' in text


@pytest.mark.parametrize(
    'host, local',
    [
        ('localhost', True),
        ('127.0.0.1', True),
        ('127.0.0.2:3306', True),
        ('[::1]:5432', True),
        ('/run/mysqld/mysqld.sock', True),
        ('db.example.com', False),
        ('10.0.0.1', False),
        ('127.example.com', False),
        ('[fe80::1]', False),
        (['localhost', 'db2.example.com'], False),
    ],
)
@pytest.mark.parametrize('engine', ['mysql', 'postgresql'])
def test_check_complains_of_a_server_elsewhere_without_ca(
    tmp_path, engine, host, local, capsys
):
    """Without a look at the server."""
    file = config_of(tmp_path, host, engine, timeout=1)
    store = dc.Store(dc.load_config(file))
    if local:
        assert 'this machine' in dc.tls_in_words(store)
    else:
        with pytest.raises(dc.Problem, match=r'(db|10|example|::1).*db.tls'):
            dc.tls_in_words(store)
    store.config.db_tls = {'ca': '/ca.pem'}
    assert '/ca.pem' in dc.tls_in_words(store)


# Passwords.


@pytest.mark.parametrize('plugin', [b'mysql_clear_password', b'dialog'])
def test_no_password_is_sent_in_clear(tmp_path, plugin, certificate):
    """But to a server whose certificate is known, or at the end of a socket."""
    with FakeMySQL(plugin) as fake:
        text = refused(config_of(tmp_path, '127.0.0.1:%d' % fake.port))
        assert 'in clear' in text and 'db.tls' in text
        assert b'dc\0' in fake.said and b'Secret5' not in fake.said
    with FakeMySQL(plugin, path=str(tmp_path / 'socket')) as fake:
        refused(config_of(tmp_path, str(tmp_path / 'socket')))
        assert b'Secret5' in fake.said
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with FakeMySQL(plugin, context) as fake:
        host, tls = '127.0.0.1:%d' % fake.port, {'ca': certificate[0]}
        refused(config_of(tmp_path, host, tls=tls))
        assert b'Secret5' in fake.said


def test_postgresql_gets_no_password_in_clear(tmp_path):
    if psycopg.pq.version() < 160000:
        pytest.skip('libpq learned it in version 16')
    with FakePostgreSQL() as fake:
        file = config_of(tmp_path, '127.0.0.1:%d' % fake.port, 'postgresql')
        text = refused(file)
        assert 'password' in text and b'user\0dc' in fake.said
        assert b'Secret5' not in fake.said


def test_an_older_libpq_is_not_asked_for_what_it_does_not_know(tmp_path, monkeypatch):
    monkeypatch.setattr(psycopg.pq, 'version', lambda: 150018)
    file = config_of(tmp_path, '127.0.0.1:1', 'postgresql')
    config = dc.load_config(file)
    assert 'require_auth' not in dc.libpq_tls(config, psycopg, None)


@pytest.mark.parametrize(
    'method, by_socket',
    [
        ('peer', True),
        ('password', True),
        ('password', False),
        ('md5', False),
        ('scram-sha-256', False),
    ],
)
def test_ways_to_log_in_to_postgresql_on_this_machine(
    postgresql, tmp_path, method, by_socket
):
    """As before; but a password in clear goes through the socket alone."""
    server = postgresql
    user = dc.user_name(os.geteuid()) if method == 'peer' else 'd_%s' % method[:3]
    host = server.folder if by_socket else '127.0.0.1:%d' % server.port
    file = config_of(tmp_path, host, 'postgresql', username=user, database='postgres')
    encryption = 'md5' if method == 'md5' else 'scram-sha-256'
    with contextlib.closing(server.connect()) as connection:
        connection.execute("SET password_encryption = '%s'" % encryption)
        connection.execute("CREATE ROLE %s LOGIN PASSWORD 'Secret5'" % user)
    lines = 'local all {0} {1}\nhost all {0} 127.0.0.1/32 {2}\n'
    network = 'reject' if method == 'peer' else method
    try:
        with first_lines(server, 'pg_hba.conf', lines.format(user, method, network)):
            text = refused(file, env={**os.environ, 'PGPORT': str(server.port)})
    finally:
        server.settings('DROP ROLE %s' % user)
    if method == 'password' and not by_socket and psycopg.pq.version() >= 160000:
        assert 'password' in text and 'init' not in text
    else:
        assert 'init' in text  # there are no tables


@contextlib.contextmanager
def first_lines(server, name, text):
    """Put lines at the head of one of a server's files, for a while."""
    path = os.path.join(server.data, name)
    with open(path) as file:
        old = file.read()
    for content in text + old, old:
        with open(path, 'w') as file:
            file.write(content)
        server.settings('SELECT pg_reload_conf()')
        server.settings('SELECT pg_sleep(0.2)')  # the signal has to arrive
        if content != old:
            try:
                yield
            except BaseException:
                with open(path, 'w') as file:
                    file.write(old)
                raise


# PostgreSQL: whose functions run.

ATTACK = """CREATE TABLE public.caught (who varchar);
    GRANT INSERT ON public.caught TO PUBLIC;
    CREATE FUNCTION public.lowly_equals(varchar, varchar) RETURNS boolean
    LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.caught VALUES (current_user);
    RETURN CAST($1 AS text) OPERATOR(pg_catalog.=) CAST($2 AS text); END $$;
    CREATE OPERATOR public.= (LEFTARG = varchar, RIGHTARG = varchar,
        FUNCTION = public.lowly_equals);
    CREATE FUNCTION public.lower(varchar) RETURNS text
    LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.caught VALUES (current_user);
    RETURN pg_catalog.lower(CAST($1 AS text)); END $$"""
CAUGHT = 'SELECT DISTINCT who FROM public.caught'
ATTACKED = (
    "SELECT * FROM host WHERE name = CAST('x' AS varchar)",
    'SELECT lower(command) FROM job',
)
OLD_SETUP = """CREATE ROLE {name} LOGIN PASSWORD 'secret';
    CREATE DATABASE {name} OWNER {name}"""


def setup_of_readme():
    """The statements of README.md that make database, account and schema."""
    text = dc.read_text(os.path.join(os.path.dirname(dc.__file__), 'README.md'))
    text = text.split('### With PostgreSQL')[1].split('###')[0]
    lines = [line.strip() for line in text.split('\n') if line.startswith('    ')]
    assert lines[0].startswith('CREATE ROLE')
    return '\n'.join(lines)


def psql(server, database, text):
    """Give statements to psql, as the administrator."""
    client = ['psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-h', server.folder]
    client += ['-p', str(server.port), '-U', 'postgres', database]
    subprocess.run(client, input=text.encode(), check=True)


@contextlib.contextmanager
def set_up(server, folder, text, name):
    """A place whose database and account were made by a text for psql."""
    text = text.replace('distributed_cron', name).replace('choose a password', 'secret')
    psql(server, 'postgres', text)
    place = Place(folder, 'postgresql', server, name)
    place.write(db=dict(place.values['db'], username=name))
    try:
        yield place
    finally:
        place.close()
        server.settings('DROP DATABASE %s WITH (FORCE)' % name, 'DROP ROLE %s' % name)


@contextlib.contextmanager
def lowly(server, database):
    """A role without any right on the tables, which attacks those who have."""
    with contextlib.closing(server.connect(database)) as connection:
        connection.execute('GRANT CREATE ON SCHEMA public TO PUBLIC')
        connection.execute('CREATE ROLE lowly; SET ROLE lowly')
        connection.execute(ATTACK)
        connection.execute('RESET ROLE')
        try:
            yield connection
        finally:
            connection.execute('DROP OWNED BY lowly; DROP ROLE lowly')


def work_once(place):
    """Claim, run and record a job, look at it, and change it."""
    place.run('run')
    place.run('edit', '1', '--description', 'x')
    place.run('check')


def test_the_pages_account_fits_the_database_of_the_readme(postgresql, tmp_path):
    """By the statements of web/README.md; CONNECT has been taken from everybody."""
    with open(os.path.join(os.path.dirname(dc.__file__), 'web', 'README.md')) as file:
        text = re.search(r'(?m)^    CREATE ROLE.*\n(?:    .*\n)+', file.read())[0]
    with set_up(postgresql, tmp_path, setup_of_readme(), 'd_page') as place:
        place.init()
        place.add('true')
        text = text.replace('distributed_cron', 'd_page')
        psql(postgresql, 'd_page', text.replace('choose another password', 'secret'))
        place.write(db=dict(place.values['db'], username='d_page_web'))
        assert 'true' in place.run('list', '--wide')
        place.run('edit', '1', '--command', 'false')
        assert 'permission denied' in place.run('init', code=1)
    postgresql.settings('DROP ROLE d_page_web')


@pytest.mark.parametrize('path', ['of the readme', 'by default'])
def test_nobody_elses_function_runs_in_a_schema_of_its_own(postgresql, tmp_path, path):
    """Also where the search path of other programs has public in it."""
    text = setup_of_readme()
    if path == 'by default':
        text = re.sub('ALTER DATABASE.*', '', text)
    with set_up(postgresql, tmp_path, text, 'd_own') as place:
        place.init()
        with lowly(postgresql, 'd_own') as admin:
            place.store = place.new_store()
            job = place.add('true', max_run_time=30)
            work_once(place)
            assert place.job(job).last_status == 'Success'
            for statement in ATTACKED:
                place.sql(statement)
            place.page().get('?search_string=x')
            place.run('init')
            assert admin.execute(CAUGHT).fetchall() == []
            assert place.sql('SHOW search_path')[0][0] == 'd_own, pg_temp'
            place.store.close()


def test_a_table_job_of_another_program_in_public_is_left_alone(postgresql, tmp_path):
    """`init` makes its own in the schema that comes first."""
    text = re.sub('ALTER DATABASE.*', '', setup_of_readme())
    with set_up(postgresql, tmp_path, text, 'd_own') as place:
        with contextlib.closing(postgresql.connect('d_own')) as admin:
            admin.execute('CREATE TABLE public.job (id int); GRANT ALL ON job TO d_own')
            admin.execute('ALTER TABLE job OWNER TO d_own')
            place.init()
            assert admin.execute('SELECT * FROM public.job').description[1:] == []
        place.add('true', max_run_time=30)
        work_once(place)
        assert place.sql('SHOW search_path')[0][0] == 'd_own, pg_temp'
        place.store.close()


def test_check_says_that_others_may_create_in_the_schema(postgresql, tmp_path):
    """As in a database that was made with version 14 or earlier; its tables stay."""
    text = OLD_SETUP.format(name='d_old')
    with set_up(postgresql, tmp_path, text, 'd_old') as place:
        place.init()
        assert place.sql('SHOW search_path')[0][0] == 'public, pg_temp'
        place.add('true', max_run_time=30)
        work_once(place)
        with lowly(postgresql, 'd_old') as admin:
            text = check(place)
            assert 'bad  schema: ' in text and 'public' in text and 'PUBLIC' in text
            for statement in ATTACKED:
                admin.execute('DELETE FROM public.caught')
                place.sql(statement)
                assert admin.execute(CAUGHT).fetchall() == [('d_old',)]
            admin.execute('REVOKE CREATE ON SCHEMA public FROM PUBLIC')
            admin.execute('GRANT CREATE ON SCHEMA public TO lowly')
            text = check(place)
            assert 'lowly' in text and 'PUBLIC' not in text
            # A schema of its own, made later, does not hide the tables.
            admin.execute('CREATE SCHEMA d_old AUTHORIZATION d_old')
            place.store.close()
        assert 'jobs: 1' in place.run('check')


# What goes on when nobody waits for it any more.


SLOW = {
    'mysql': 'SELECT COUNT(*) FROM {0} AS a, {0} AS b, {0} AS c, {0} AS d'.format(
        'information_schema.columns'
    ),
    'postgresql': 'SELECT pg_sleep(100)',
}
RUNNING = {
    'mysql': 'SELECT id FROM information_schema.processlist '
    "WHERE info LIKE '%columns AS d' AND id <> CONNECTION_ID()",
    'postgresql': 'SELECT pid FROM pg_stat_activity '
    "WHERE query LIKE '%pg_sleep(100%' AND state = 'active' AND pid <> pg_backend_pid()",
}


def test_a_select_ends_on_the_server_when_the_client_gives_up(server_place):
    """Here the client dies: nothing tells the server."""
    place = server_place
    place.write(db=dict(place.values['db'], timeout=1))
    client = os.fork()
    if not client:
        with contextlib.suppress(BaseException):
            store = place.new_store()
            store.query(SLOW[place.engine])
        os._exit(0)
    with contextlib.closing(place.server.connect()) as admin:

        def running():
            cursor = admin.cursor()
            cursor.execute(RUNNING[place.engine])
            return cursor.fetchall()

        wait_until(running, what='the statement')
        os.kill(client, 9)
        os.waitpid(client, 0)
        try:
            wait_until(lambda: not running(), 5, 'the end of the statement')
        finally:
            for row in running():
                admin.cursor().execute('KILL %d' % row[0])


def test_a_select_that_takes_too_long_is_one_line(server_place):
    place = server_place
    place.write(db=dict(place.values['db'], timeout=1))
    with contextlib.closing(place.new_store()) as store:
        with pytest.raises((dc.Away, dc.Again)):
            store.query(SLOW[place.engine])


# What a database must not send.


def test_a_server_that_asks_for_a_file(tmp_path):
    """It gets none, and the program ends with one line."""
    with FakeMySQL(b'mysql_native_password') as fake:
        file = config_of(tmp_path, '127.0.0.1:%d' % fake.port)
        assert 'LOAD_LOCAL' in refused(file)
        assert b'root:' not in fake.said
        assert 'LOAD_LOCAL' in refused(file, 'run')


@pytest.mark.parametrize('value', ["x'2a202a202a202a202a'", "x'ff00'"])
def test_a_blob_in_place_of_a_text_stops_no_other_job(sqlite_place, value):
    """In any column of SQLite; here each job has one in another column."""
    place = sqlite_place
    bad = []
    for column in dc.JOB_COLUMNS[1:]:
        if column == 'parent_id':
            continue  # a child without its template is deleted
        bad.append(place.add('true', max_run_time=30))
        text = 'UPDATE job SET %s = %s WHERE id = %d'
        place.store.execute(text % (column, value, bad[-1]))
    good = place.add('true', max_run_time=30)
    place.run('run')
    assert place.job(good).last_status == 'Success'
    commands = [['list'], ['list', '--json'], ['export'], ['history'], ['hosts']]
    commands += [[name, str(job)] for job in bad for name in ('show', 'next')]
    for command in commands:
        status, _, errors = call(['--config', place.file, *command])
        assert status == 0 or command[0] == 'next' and errors.count('\n') == 1, errors
    page = place.page()
    page.get()
    for job in bad:
        page.get('job/%d' % job)
