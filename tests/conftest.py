"""What all tests stand on: the program, a server of each kind, and a `Place` for each test.

A Place is a folder, a database and a configuration file; a Visitor looks at its web page.
"""

import contextlib
import http.client
import importlib.util
import io
import itertools
import os
import re
import signal
import sqlite3
import ssl
import subprocess
import sys
import time
import traceback
from base64 import b64encode
from collections import namedtuple
from datetime import datetime, timezone
from urllib.parse import urlencode, urljoin, urlsplit

import pytest
import yaml
from servers import free_port, is_listening, wait_until
from settings import CHOSEN, SETTINGS, serve

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPT = os.path.join(ROOT, 'distributed_cron.py')
PAGE = os.path.join(ROOT, 'web', 'index.cgi')
spec = importlib.util.spec_from_file_location('distributed_cron', SCRIPT)
dc = sys.modules['distributed_cron'] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(dc)
# The quick suite installs no browser.
collect_ignore = [] if importlib.util.find_spec('selenium') else ['test_web_browser.py']


@pytest.fixture(scope='session')
def postgresql():
    with serve('postgresql', *CHOSEN) as server:
        yield server


@pytest.fixture(scope='session')
def mariadb():
    with serve('mysql', *CHOSEN) as server:
        yield server


def pytest_collection_modifyitems(config, items):
    """With $DISTRIBUTED_CRON_SETTINGS, only what uses a server that carries some."""
    if CHOSEN:
        engines = {SETTINGS[name].engine for name in CHOSEN}
        kept = [item for item in items if engines & engines_of(item)]
        config.hook.pytest_deselected(
            items=[item for item in items if item not in kept]
        )
        items[:] = kept


def engines_of(item):
    """The databases that a test uses."""
    names = {*item.fixturenames}
    if hasattr(item, 'callspec'):
        names.update(
            filter(lambda value: isinstance(value, str), item.callspec.params.values())
        )
    return {
        engine
        for engine, server in SERVERS.items()
        if names & {engine, engine + '_place', server}
    }


def fork(function, *args):
    """Call a function in a child process; returns its id. The child ends with the exit
    status that the function returns, or with 1 and a traceback: it never goes on here."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        status = function(*args) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def exit_status(process):
    """Wait for a child; returns its exit status, or minus a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


PROCESSES = {'run', 'demo'}  # commands that fork


def execute(args, **how):
    """Run the script in a process; returns its exit status, output and errors."""
    done = subprocess.run(
        [sys.executable, SCRIPT, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=60,
        **how,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def call(args):
    """The same in this process: to start Python takes longer than most commands do."""
    out, err = (io.TextIOWrapper(io.BytesIO(), 'utf-8') for _ in range(2))
    argv, sys.argv = sys.argv, [SCRIPT, *args]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = dc.main()
    except SystemExit as leaving:  # argparse leaves so
        status = leaving.code
    finally:
        sys.argv = argv
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return (status or 0, *texts)


class Place:
    """A folder, a database and a configuration file; and whoever works there."""

    program = (SCRIPT,)  # the arguments by which Python starts it

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
        self.zone = None  # of new stores; None: the server's

    def write(self, **more):
        self.values.update(more)
        with open(self.file, 'w') as file:
            yaml.safe_dump(self.values, file)

    def config(self, name='here'):
        return dc.load_config(self.file, name)

    def run(self, *args, code=0, name='here', **how):
        """Run a command of the program; returns what it printed. how: of subprocess.run,
        for a process of its own, which workers always have."""
        args = ['--config', self.file, '--name', name, *args]
        in_process = not how and not PROCESSES & set(args)
        status, out, err = (call if in_process else execute)(args, **how)
        assert status == code, (status, out, err)
        assert 'Traceback' not in err, err
        assert (
            not code
            or len(err.splitlines()) == 1
            or {'import', 'check', 'verify', 'apply'} & {*args}
        )
        return out + err

    def init(self):
        self.run('init')
        self.store = self.new_store()
        return self

    def new_store(self, name='here'):
        store = dc.Store(self.config(name))
        store.connect()
        if self.engine == 'mysql':  # a test may wait for longer than a worker does
            store.execute('SET SESSION wait_timeout = 28800')
        if self.zone and self.engine != 'sqlite':
            self.set_zone(self.zone, store)
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
                *self.program,
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
        visitor = Visitor('http://127.0.0.1:%d/' % port)
        if not where:  # as whoever started it, by the address with the key

            def address():
                with contextlib.suppress(OSError):
                    text = self.read('log/web.key').strip()
                    return text.startswith(visitor.url) and text

            visitor.start = wait_until(address, what='the key')
            visitor.request('GET', visitor.start)
        return visitor

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

    def drop_triggers(self):
        schema = dc.SCHEMAS[self.engine]()
        for name in schema.triggers:
            self.store.execute(schema.drop_trigger % name)

    def ending(self, token, job, **more):
        return dc.Ending(token, job, 'done', 1, 'Success', **more)

    def close(self):
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stderr:
                process.stderr.close()
        if self.started or os.path.exists(os.path.join(self.folder, 'log')):
            self.end_commands()

    def end_commands(self):
        """Kill what is left of jobs' commands."""
        for process in dc.living_processes():
            if any(self.owns(mark.split('.')[0]) for mark in process.marks):
                dc.send_signal(process, signal.SIGKILL)
        while left := processes_of(self.mark):  # also what has shed its mark
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    def owns(self, token):
        log = os.path.join(self.folder, 'log')
        return any(
            os.path.exists(os.path.join(log, state, token))
            for state in (os.listdir(log) if os.path.isdir(log) else ())
        )


def processes_of(text):
    """Ids of living processes whose command line holds a text."""
    found = []
    for name in filter(str.isdigit, os.listdir('/proc')):
        with contextlib.suppress(OSError):
            with open('/proc/%s/cmdline' % name, 'rb') as file:
                if text.encode() in file.read() and int(name) != os.getpid():
                    found.append(int(name))
    return found


def answers(process, port):
    """Whether somebody listens at a port; fails when the process has ended."""
    assert process.poll() is None, process.stderr and process.stderr.read().decode()
    return is_listening(port)


UNVERIFIED = ssl._create_unverified_context()  # the tests sign their own certificates
Answer = namedtuple('Answer', 'status headers text')


class Visitor:
    """Somebody who looks at a site by plain HTTP: keeps cookies and sends forms."""

    def __init__(self, url, login=None):
        """url: of the site's first page; login: (name, password)."""
        self.url, self.login, self.cookies = url, login, {}
        self.start = url  # where a browser begins

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
    SELECT set_config('search_path', 'fake, pg_catalog, '
        || CAST(CAST(relnamespace AS regnamespace) AS text), false)
    FROM pg_class WHERE oid = to_regclass('job')'''


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


NOW = '2026-05-20 12:00:00'  # where the clock is set


@pytest.fixture
def at(place):
    """A place where it is noon, UTC, of 2026-05-20, until it is set otherwise."""
    place.zone = '+00:00' if place.engine == 'mysql' else 'UTC'
    place.set_zone(place.zone)
    place.set_clock(NOW)
    return place


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
        server.settings('CREATE DATABASE ' + place.values['db']['database'])
    place.init()
    yield place
    place.close()
    if zone is None:
        os.environ.pop('TZ', None)
    else:
        os.environ['TZ'] = zone
    time.tzset()
