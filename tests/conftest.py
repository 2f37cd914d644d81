"""What all tests stand on: a private MariaDB server, and one `Place` for each test."""

import contextlib
import glob
import http.client
import importlib.util
import itertools
import os
import re
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections import namedtuple
from datetime import datetime, timezone
from urllib.parse import urlencode, urljoin, urlsplit

import psycopg
import pymysql
import pytest
import yaml

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPT = os.path.join(ROOT, 'distributed_cron.py')
PAGE = os.path.join(ROOT, 'web', 'index.cgi')
spec = importlib.util.spec_from_file_location('distributed_cron', SCRIPT)
dc = sys.modules['distributed_cron'] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(dc)


ports = itertools.count(12000 + os.getpid() * 97 % 18000)


def free_port():
    """Below those that the system gives to clients: none can take it meanwhile."""
    for port in ports:
        with contextlib.closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.bind(('127.0.0.1', port))
            return port


def wait_until(condition, seconds=20, what='it', pause=0.02):
    """The first true value of a condition; fails when there is none in time."""
    limit = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < limit, 'waited %s s for %s' % (seconds, what)
        time.sleep(pause)


class MariaDB:
    """A server on a temporary folder, ended by the process that was started."""

    server, zones = 'mariadbd', 'mariadb-tzinfo-to-sql'
    settings = 'SET GLOBAL aria_checkpoint_interval = 30;'

    def __init__(self, folder, *more):
        self.socket, self.port = os.path.join(folder, 's'), free_port()
        data = os.path.join(folder, 'data')
        # As root it must be told that it may be: the folder is nobody else's.
        scratch = os.path.join(folder, 'tmp')  # several in one /tmp disturb each other
        os.mkdir(scratch)
        options = [
            '--no-defaults',
            '--datadir=' + data,
            '--tmpdir=' + scratch,
            *(['--user=root'] if os.getuid() == 0 else []),
        ]
        self.log = open(os.path.join(folder, 'log'), 'wb')
        subprocess.run(
            self.install(options), check=True, stdout=self.log, stderr=self.log
        )
        self.process = subprocess.Popen(
            [
                self.server,
                *options,
                '--socket=' + self.socket,
                '--port=%d' % self.port,
                '--bind-address=127.0.0.1',
                '--innodb-buffer-pool-size=256M',
                '--max-connections=400',
                '--pid-file=' + os.path.join(folder, 'pid'),
                '--max-allowed-packet=16M',
                '--skip-log-bin',
                *more,
            ],
            stdout=self.log,
            stderr=self.log,
        )
        wait_until(self.is_up, 60, self.server)
        zones = subprocess.run(
            [self.zones, '/usr/share/zoneinfo'],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.client(self.settings + 'USE mysql;' + zones.stdout.decode())
        self.client("CREATE USER dc IDENTIFIED BY 'secret'; GRANT ALL ON *.* TO dc;")

    def install(self, options):
        return [
            'mariadb-install-db',
            *options,
            '--skip-test-db',
            '--auth-root-authentication-method=normal',
        ]

    def is_up(self):
        assert self.process.poll() is None, open(self.log.name).read()[-2000:]
        try:
            pymysql.connect(unix_socket=self.socket, user='root').close()
            return True
        except pymysql.err.OperationalError:
            return False

    def client(self, text, check=True, database=''):
        """Run statements with the plain client."""
        return subprocess.run(
            [
                'mariadb',
                '--no-defaults',
                '--socket=' + self.socket,
                '-uroot',
                *filter(None, [database]),
            ],
            input=text.encode(),
            check=check,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ).stdout.decode()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.log.close()


class MySQL(MariaDB):
    """MySQL in its place: the server that DISTRIBUTED_CRON_MYSQLD names."""

    server = os.environ.get('DISTRIBUTED_CRON_MYSQLD', '')
    zones = os.path.join(os.path.dirname(server), 'mysql_tzinfo_to_sql')
    settings = ''

    def install(self, options):
        return [self.server, *options, '--initialize-insecure']


class PostgreSQL:
    """A cluster on a temporary folder, as a user that is not root."""

    def __init__(self):
        self.folder, self.port = tempfile.mkdtemp(prefix='dc-test-'), free_port()
        binaries = sorted(glob.glob('/usr/lib/postgresql/*/bin'))[-1]
        user = {'user': 'postgres'} if os.getuid() == 0 else {}
        if user:
            shutil.chown(self.folder, 'postgres')
        data = os.path.join(self.folder, 'data')
        password = os.path.join(self.folder, 'password')
        with open(password, 'w') as file:
            file.write('secret')
        os.chmod(password, 0o644)
        subprocess.run(
            [
                binaries + '/initdb',
                '-D',
                data,
                '-U',
                'dc',
                '-A',
                'scram-sha-256',
                '--pwfile',
                password,
                '-E',
                'UTF8',
                '--no-instructions',
            ],
            check=True,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            **user,
        )
        self.log = open(os.path.join(self.folder, 'log'), 'wb')
        self.process = subprocess.Popen(
            [
                binaries + '/postgres',
                '-D',
                data,
                '-p',
                str(self.port),
                '-k',
                self.folder,
                '-c',
                'listen_addresses=127.0.0.1',
                '-c',
                'max_connections=300',
            ],
            stdout=self.log,
            stderr=self.log,
            cwd=self.folder,
            **user,
        )
        wait_until(self.is_up, 60, 'PostgreSQL')

    def connect(self, database='postgres'):
        return psycopg.connect(
            host='127.0.0.1',
            port=self.port,
            user='dc',
            password='secret',
            dbname=database,
            autocommit=True,
        )

    def is_up(self):
        assert self.process.poll() is None, open(self.log.name).read()[-2000:]
        try:
            self.connect().close()
            return True
        except psycopg.OperationalError:
            return False

    def stop(self):
        self.process.send_signal(signal.SIGINT)  # a fast shutdown
        self.process.wait(60)
        self.log.close()
        shutil.rmtree(self.folder)


@pytest.fixture(scope='session')
def postgresql():
    server = PostgreSQL()
    yield server
    server.stop()


@pytest.fixture(scope='session')
def mariadb(tmp_path_factory):
    folder = tmp_path_factory.mktemp('mariadb')
    server = (MySQL if MySQL.server else MariaDB)(str(folder))
    yield server
    server.stop()


class Place:
    """A folder, a database and a configuration file; and whoever works there."""

    def __init__(self, folder, engine, server=None, database='d', **more):
        self.folder, self.engine, self.server = str(folder), engine, server
        self.file = os.path.join(self.folder, 'dc.yml')
        self.values = {
            'log': {'location': 'log'},
            'max_tasks': 8,
            'kill_grace': 1,
            'poll_seconds': 0.2,
            **more,
        }
        if engine == 'sqlite':
            self.values['db'] = {'engine': 'sqlite', 'path': 'd.db', 'timeout': 5}
        else:
            self.values['db'] = {
                'engine': engine,
                'host': '127.0.0.1:%d' % server.port,
                'username': 'dc',
                'password': 'secret',
                'database': database,
            }
        self.mark = '300.%d' % next(marks)  # an argument of sleep that is nobody else's
        self.write()
        self.started = []

    def write(self, **more):
        self.values.update(more)
        with open(self.file, 'w') as file:
            yaml.safe_dump(self.values, file)

    def config(self, name='here'):
        return dc.load_config(self.file, name)

    def run(self, *args, code=0, name='here', **how):
        """Run a command of the program; returns what it printed."""
        done = subprocess.run(
            [sys.executable, SCRIPT, '--config', self.file, '--name', name, *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=60,
            **how,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert done.returncode == code, (done.returncode, out, err)
        assert 'Traceback' not in err, err
        assert not code or len(err.splitlines()) == 1 or args[0] == 'import', err
        return out + err

    def init(self):
        self.run('init')
        self.store = self.new_store()
        return self

    def new_store(self, name='here'):
        store = dc.Store(self.config(name))
        store.connect()
        return store

    def sql(self, text, **values):
        """Rows of a statement, by a connection that is nobody's."""
        return self.store.query(text, **values)

    def add(self, command='true', **values):
        """A job by a plain INSERT, as people do it; returns its id."""
        return self.store.insert('job', dict(values, command=command))

    def job(self, id):
        return self.sql('SELECT * FROM job WHERE id = :id', id=id)[0]

    def runs(self, id=None):
        return [
            row
            for row in self.sql('SELECT * FROM run ORDER BY job_id, run_no')
            if id in (None, row.job_id)
        ]

    def worker(self, name='one', *args, **how):
        """Start a worker, as a loop unless told otherwise."""
        process = subprocess.Popen(
            [
                sys.executable,
                SCRIPT,
                '--config',
                self.file,
                '--name',
                name,
                'run',
                *(args or ['--forever']),
            ],
            stderr=subprocess.PIPE,
            **how,
        )
        self.started.append(process)
        return process

    def page(self, where='', **how):
        """Serve the web page alone; returns a Visitor to it."""
        port = free_port()
        process = subprocess.Popen(
            [
                sys.executable,
                PAGE,
                '--config',
                self.file,
                '--serve',
                '%s%d' % (where and where + ':', port),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            **how,
        )
        self.started.append(process)
        wait_until(lambda: answers(process, port), what='the page')
        return Visitor('http://127.0.0.1:%d/' % port)

    def wait_runs(self, count, seconds=20):
        wait_until(lambda: len(self.runs()) >= count, seconds, '%d runs' % count)
        return self.runs()

    def worker_log(self, name='one'):
        return self.read('log/%s.log' % name)

    def read(self, path):
        return dc.read_text(os.path.join(self.folder, path))

    def set_clock(self, utc, store=None):
        """Set a store's clock, to a UTC time; the zone is $TZ or the session's."""
        store = store or self.store
        if isinstance(utc, str):
            utc = datetime.fromisoformat(utc)
        if self.engine == 'sqlite':
            fake_sqlite_clock(store.connection, utc)
        elif self.engine == 'postgresql':
            store.execute(FAKE_CLOCK)
            store.execute("SET test.now = '%s+00'" % utc)
        else:
            store.execute(
                'SET timestamp = %f' % utc.replace(tzinfo=timezone.utc).timestamp()
            )

    def set_zone(self, zone, store=None):
        if self.engine == 'sqlite':
            os.environ['TZ'] = zone
            time.tzset()
        else:
            (store or self.store).execute(
                "SET %s = '%s'"
                % ('time_zone' if self.engine == 'mysql' else 'TimeZone', zone)
            )

    def drop_trigger(self, name):
        self.store.execute(
            'DROP TRIGGER %s%s'
            % (name, ' ON job' if self.engine == 'postgresql' else '')
        )

    def ending(self, token, job, **more):
        return dc.Ending(token, job, 'done', 1, 'Success', **more)

    def close(self):
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stderr:
                process.stderr.close()
        for marked in dc.marked_processes().items():
            for process in marked[1]:
                if self.owns(marked[0].split('.')[0]):
                    dc.send_signal(os.kill, process, signal.SIGKILL)

    def owns(self, token):
        log = os.path.join(self.folder, 'log')
        return any(
            os.path.exists(os.path.join(log, state, token))
            for state in (os.listdir(log) if os.path.isdir(log) else ())
        )


def answers(process, port):
    """Whether somebody listens at a port; fails when the process has ended."""
    assert process.poll() is None, process.stderr and process.stderr.read().decode()
    with contextlib.suppress(OSError):
        socket.create_connection(('127.0.0.1', port), 5).close()
        return True


UNVERIFIED = ssl._create_unverified_context()  # the tests sign their own certificates
Answer = namedtuple('Answer', 'status headers text')


class Visitor:
    """Somebody who looks at a site by plain HTTP: keeps cookies and sends forms."""

    def __init__(self, url, login=None):
        """url: of the site's first page; login: (name, password)."""
        self.url, self.login, self.cookies = url, login, {}

    def request(self, method, path, fields=None, **headers):
        """Ask for a path below the site's; fields are those of a form."""
        url = urlsplit(urljoin(self.url, path))
        if url.scheme == 'https':
            connection = http.client.HTTPSConnection(
                url.hostname, url.port, timeout=60, context=UNVERIFIED
            )
        else:
            connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
        headers = {name.replace('_', '-'): value for name, value in headers.items()}
        headers['Cookie'] = '; '.join('%s=%s' % pair for pair in self.cookies.items())
        body = None
        if fields is not None:
            body = urlencode(fields)
            headers = {
                'Origin': '%s://%s' % (url.scheme, url.netloc),
                'Content-Type': 'application/x-www-form-urlencoded',
                **headers,
            }
        if self.login:
            pair = b64encode(('%s:%s' % self.login).encode()).decode()
            headers['Authorization'] = 'Basic ' + pair
        with contextlib.closing(connection):
            connection.request(
                method, url._replace(scheme='', netloc='').geturl(), body, headers
            )
            answer = connection.getresponse()
            for cookie in answer.headers.get_all('Set-Cookie', ()):
                name, _, value = cookie.partition(';')[0].partition('=')
                self.cookies[name] = value
            return Answer(answer.status, answer.headers, answer.read().decode('utf-8'))

    def get(self, path=''):
        """The text of a page, which must be there."""
        answer = self.request('GET', path)
        assert answer.status == 200, (path, answer)
        return answer.text

    def submit(self, page, path=None, **fields):
        """Send a form of a page, to that page's path unless told otherwise."""
        token = re.search(r'name="?csrf"? value="([^"]*)"', self.get(page))
        assert token, 'no form on ' + page
        return self.request(
            'POST', page if path is None else path, {'csrf': token[1], **fields}
        )


FAKE_CLOCK = '''CREATE SCHEMA IF NOT EXISTS fake;
    CREATE OR REPLACE FUNCTION fake.statement_timestamp() RETURNS timestamptz STABLE
    LANGUAGE sql AS 'SELECT CAST(current_setting(''test.now'') AS timestamptz)';
    SET search_path = fake, pg_catalog, public'''


def fake_sqlite_clock(connection, utc):
    """Have the date functions of a SQLite connection take another time for 'now'."""
    inner = sqlite3.connect(':memory:', check_same_thread=False)
    now = utc.isoformat(' ', 'milliseconds')
    for name in ('datetime', 'strftime', 'time'):

        def function(*args, name=name):
            args = [now if arg == 'now' else arg for arg in args]
            marks = ', '.join('?' * len(args))
            return inner.execute('SELECT %s(%s)' % (name, marks), args).fetchone()[0]

        connection.create_function(name, -1, function)


numbers, marks = itertools.count(), itertools.count(1000 * os.getpid())
ENGINES = ('sqlite', 'mysql', 'postgresql')
SERVERS = {'mysql': 'mariadb', 'postgresql': 'postgresql'}


@pytest.fixture(params=ENGINES)
def place(request, tmp_path):
    """A Place with tables, on each database."""
    yield from make_place(request, tmp_path, request.param)


@pytest.fixture(params=ENGINES[1:])
def server_place(request, tmp_path):
    """A Place on each server, for what several hosts do."""
    yield from make_place(request, tmp_path, request.param)


@pytest.fixture
def sqlite_place(request, tmp_path):
    """A Place for what does not depend on the database."""
    yield from make_place(request, tmp_path, 'sqlite')


@pytest.fixture
def mysql_place(request, tmp_path):
    """A Place on MariaDB, for what several hosts do."""
    yield from make_place(request, tmp_path, 'mysql')


def make_place(request, tmp_path, engine):
    zone = os.environ.get('TZ')
    server = request.getfixturevalue(SERVERS[engine]) if engine in SERVERS else None
    place = Place(tmp_path, engine, server, 'd%d' % next(numbers))
    if engine == 'postgresql':
        with server.connect() as connection:
            connection.execute('CREATE DATABASE ' + place.values['db']['database'])
    place.init()
    yield place
    place.close()
    if zone is None:
        os.environ.pop('TZ', None)
    else:
        os.environ['TZ'] = zone
    time.tzset()
