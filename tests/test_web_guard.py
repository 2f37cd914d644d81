"""What keeps strangers from the page: they can't stop it, change anything, or be taken for
somebody else. In the application, and in processes of --serve."""

import contextlib
import os
import pty
import re
import resource
import select
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import PAGE, Visitor, answers, dc, free_port
from servers import wait_until
from test_web import HOST, Browser

from web import request

# index.cgi with other constants, so that a test need not wait for them.
OTHER = '''
import importlib.machinery, importlib.util, sys
loader = importlib.machinery.SourceFileLoader('index', %r)
index = importlib.util.module_from_spec(importlib.util.spec_from_loader('index', loader))
loader.exec_module(index)
vars(index).update(%r)
sys.exit(index.main())
'''


def serve(place, constants, where='', **how):
    """The page, served alone by a process with other constants: the process, its port."""
    port = free_port()
    code = OTHER % (PAGE, constants)
    args = ['--config', place.file, '--serve', '%s%d' % (where, port)]
    process = subprocess.Popen(
        [sys.executable, '-c', code, *args],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        **how,
    )
    place.started.append(process)
    wait_until(lambda: answers(process, port), what='the page')
    return process, port


def connected(port):
    return socket.create_connection(('127.0.0.1', port), 20)


def cpu_of(process):
    """Seconds of CPU time of a process so far."""
    fields = dc.read_text('/proc/%d/stat' % process.pid).rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def port_of(visitor):
    return int(re.search(':([0-9]+)/', visitor.url)[1])


# Cookies.


@pytest.mark.parametrize('piece', ['a', 'a=', 'a=b;', ';', 'a;', '=', ' ', ', a=b'])
def test_cookies_are_read_in_linear_time(piece):
    began = time.monotonic()
    request.cookies_of(piece * (6500000 // len(piece)))
    assert time.monotonic() - began < 0.3


@pytest.mark.parametrize('place', ['sqlite'], indirect=True)
def test_a_request_with_6_mb_of_cookies_stops_nobody(place):
    visitor = place.page()
    with connected(port_of(visitor)) as raw:
        raw.sendall(b'GET / HTTP/1.0\r\nHost: localhost\r\n')
        for _ in range(95):
            raw.sendall(b'Cookie: %s\r\n' % (b'a' * 65000))
        began = time.monotonic()
        raw.sendall(b'\r\n')
        visitor.get('static/style.css')
        assert raw.recv(100).startswith(b'HTTP/1.0 200 ')
        assert time.monotonic() - began < 2


def test_which_cookie_is_ours():
    read = request.cookies_of
    ours = request.COOKIE
    assert read('X9-%s=x; a' % ours).get(ours) is None
    assert read('a=1; %s=x; b=2' % ours)[ours] == 'x'
    assert read('%s=x;%s=y' % (ours, ours))[ours] == 'x'
    assert read(' %s = x=y ; c' % ours)[ours] == 'x=y'
    assert read('') == {'': ''}


@pytest.mark.parametrize(
    'prefix, scheme, name',
    [
        ('', 'https', '__Host-distributed_cron'),
        ('/cron', 'https', 'distributed_cron'),
        ('', 'http', 'distributed_cron'),
    ],
)
def test_a_cookie_of_this_host_alone(sqlite_place, prefix, scheme, name):
    """Browsers take a __Host- cookie with Secure and Path=/ only, and not from a sibling."""
    browser, _ = Browser(sqlite_place, prefix=prefix), sqlite_place.add()
    how = {'wsgi.url_scheme': scheme, 'HTTP_ORIGIN': '%s://%s' % (scheme, HOST)}
    answer = browser.ask('/job/add', **how)
    words = answer.headers['Set-Cookie'].split('; ')
    assert words[0].partition('=')[0] == name
    assert ('Secure' in words) == (scheme == 'https')
    token = re.search('name="csrf" value="(.*?)"', answer.text)[1]
    assert browser.post('/job/1/disable', csrf=token, **how).status == 303
    assert 'Job 1 disabled' in browser.get('/', **how)


# Names.


@pytest.mark.parametrize(
    'host, address, hosts, asked, allowed',
    [
        ('192.0.2.1', '192.0.2.1', (), '192.0.2.1:8000', True),
        ('cron.lan', '192.0.2.1', (), 'CRON.lan:8000', True),
        ('cron.lan', '192.0.2.1', (), '192.0.2.1', True),
        ('cron.lan', '192.0.2.1', (), 'evil.example', False),
        ('cron.lan', '192.0.2.1', (), 'localhost', False),
        ('cron.lan', '192.0.2.1', (), '', False),
        ('cron.lan', '192.0.2.1', ('c.lan',), 'C.lan', True),
        ('0.0.0.0', '0.0.0.0', (), '192.0.2.1:8000', True),
        ('0.0.0.0', '0.0.0.0', (), 'evil.example:8000', False),
        ('0.0.0.0', '0.0.0.0', (), 'dead.beef', False),
        ('::', '::', (), '[2001:db8::1]:8000', True),
        ('localhost', '127.0.0.1', ('c.lan',), 'c.lan', True),
        ('localhost', '127.0.0.1', ('c.lan',), 'localhost', True),
        ('localhost', '127.0.0.1', ('c.lan',), 'd.lan', False),
        (None, None, (), 'any.example', True),
        (None, None, ('c.lan',), 'any.example', False),
        (None, None, ('c.lan',), 'c.lan:443', True),
    ],
)
def test_only_its_own_names_are_answered(
    sqlite_place, host, address, hosts, asked, allowed
):
    sqlite_place.write(web={'hosts': list(hosts)} if hosts else {})
    alone = host and request.Alone(host, address, '')
    browser = Browser(sqlite_place, None, alone, host=asked)
    for path in '/', '/metrics', '/static/style.css':
        assert (browser.ask(path).status != 421) == allowed, path


@pytest.mark.parametrize('place', ['sqlite'], indirect=True)
def test_on_the_network_another_name_is_not_answered(place):
    visitor = place.page('0.0.0.0')
    assert visitor.request('GET', '').status == 200
    assert visitor.request('GET', '', Host='evil.example').status == 421


# Who may write.


@pytest.mark.parametrize(
    'web, key',
    [
        ('{editors: }', 'web.editors'),
        ('{editors: null}', 'web.editors'),
        ('{editors: ""}', 'web.editors'),
        ('{readonly: }', 'web.readonly'),
        ('{hosts: }', 'web.hosts'),
    ],
)
def test_an_empty_key_lets_nobody_write(sqlite_place, web, key):
    place = sqlite_place
    browser, _ = Browser(place), place.add()
    token = browser.token()
    with open(place.file, 'a') as file:
        file.write('web: %s\n' % web)
    assert browser.post('/job/1/disable', csrf=token).status == 500
    assert re.search(key + ': .* is not allowed; allowed: ', browser.errors)
    assert place.job(1).active == 1


@pytest.mark.parametrize('text', ['', '~', '{}'])
def test_a_page_without_settings_is_as_usual(sqlite_place, text):
    with open(sqlite_place.file, 'a') as file:
        file.write('web: %s\n' % text)
    assert Browser(sqlite_place).token()


KEY = 'f' * 32


def local(place, key=KEY, **how):
    """Somebody on this machine, where the page is served alone with a key."""
    return Browser(
        place,
        None,
        request.Alone('127.0.0.1', '127.0.0.1', key),
        host='localhost:80',
        **how,
    )


def test_the_key_becomes_a_cookie(sqlite_place):
    place = sqlite_place
    place.add()
    browser = local(place)
    assert 'read only' in browser.get('/') and 'name="csrf"' not in browser.get('/')
    answer = browser.ask('/?key=' + KEY)
    assert answer.status == 303 and answer.headers['Location'] == '/cron/'
    words = answer.headers['Set-Cookie'].split('; ')
    assert words[0] == 'distributed_cron_key_80=' + KEY
    assert {'HttpOnly', 'SameSite=Strict', 'Path=/cron'} <= set(words)
    assert 'may change' in browser.get('/')
    browser.change('/job/1/disable')
    assert place.job(1).active == 0
    place.write(web={'readonly': True})
    assert 'read only' in browser.get('/')


@pytest.mark.parametrize('given', ['', 'x', KEY[:-1], KEY + 'f', KEY.upper(), 'ü'])
def test_another_key_opens_nothing(sqlite_place, given):
    browser = local(sqlite_place)
    assert browser.ask('/?key=' + given.encode().decode('latin-1')).status == 403
    assert browser.cookies == {}
    browser.cookies = {'distributed_cron_key_80': given}
    assert 'read only' in browser.get('/')
    assert browser.ask('/job/add').status == 403
    assert 'without the key' in browser.ask('/job/add').text


def test_an_empty_key_is_no_key(sqlite_place):
    browser = local(sqlite_place, key='')
    assert browser.ask('/?key=').status == 403
    browser.cookies = {'distributed_cron_key_80': ''}
    assert 'read only' in browser.get('/')


def test_under_a_web_server_there_is_no_key(sqlite_place):
    browser = Browser(sqlite_place, None)
    assert browser.ask('/?key=' + KEY).status == 200 and browser.cookies == {}
    assert 'read only' in browser.get('/')


@pytest.mark.parametrize('place', ['sqlite'], indirect=True)
def test_each_start_leaves_its_key_to_its_user_alone(place):
    place.add()
    visitor = place.page()
    path = os.path.join(place.folder, 'log', 'web.key')
    assert os.stat(path).st_mode & 0o777 == 0o600
    first = dc.read_text(path)
    assert re.fullmatch(visitor.url + r'\?key=[0-9a-f]{32}\n', first)
    stranger = Visitor(visitor.url)
    assert 'read only' in stranger.get() and 'name="csrf"' not in stranger.get()
    assert stranger.request('POST', 'job/1/disable', {'csrf': 'x'}).status == 403
    assert visitor.submit('', 'job/1/disable').status == 303
    assert place.job(1).active == 0
    place.page()
    assert dc.read_text(path) != first


@pytest.mark.parametrize('place', ['sqlite'], indirect=True)
def test_a_terminal_shows_the_key(place):
    ours, theirs = pty.openpty()
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, PAGE, '--config', place.file, '--serve', str(port)],
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    place.started.append(process)
    assert select.select([ours], [], [], 20)[0]
    (address,) = os.read(ours, 1000).decode().split()
    for descriptor in ours, theirs:
        os.close(descriptor)
    visitor = Visitor('http://127.0.0.1:%d/' % port)
    answer = visitor.request('GET', address)
    assert answer.status == 303 and answer.headers['Location'] == '/'
    assert 'may change' in visitor.get()
    assert not os.path.exists(os.path.join(place.folder, 'log', 'web.key'))


@pytest.mark.parametrize('place', ['sqlite'], indirect=True)
def test_a_key_that_can_not_be_left_is_one_line(place):
    os.makedirs(os.path.join(place.folder, 'log', 'web.key'))
    done = subprocess.run(
        [sys.executable, PAGE, '--config', place.file, '--serve', str(free_port())],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    assert done.returncode == 1 and done.stdout == b''
    assert done.stderr.count(b'\n') == 1 and b'web.key' in done.stderr


# Those who want to stop it.


@pytest.mark.parametrize('place', ['sqlite'], indirect=True)
def test_a_connection_lasts_for_so_long_whatever_it_sends(place):
    process, port = serve(place, {'SECONDS': 1.5})
    with connected(port) as slow, connected(port) as silent:
        slow.sendall(b'GET / HTTP/1.0\r\nX: ')
        began = time.monotonic()
        ended = False
        while not ended and time.monotonic() - began < 10:
            with contextlib.suppress(OSError):
                slow.sendall(b'x')  # a byte now and then, so that it is never silent
            ended = bool(select.select([slow], [], [], 0.3)[0])
        assert ended and time.monotonic() - began < 5
        assert select.select([silent], [], [], 2)[0]
    assert Visitor('http://127.0.0.1:%d/' % port).get()
    assert process.poll() is None


@pytest.mark.parametrize('place', ['sqlite'], indirect=True)
def test_many_connections_take_few_threads_and_end(place):
    process, port = serve(place, {'SECONDS': 2})
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(connected(port))
        threads = len(os.listdir('/proc/%d/task' % process.pid))
        assert threads <= 65
        visitor = Visitor('http://127.0.0.1:%d/' % port)

        def answered():
            with contextlib.suppress(OSError):
                return visitor.get()

        wait_until(answered, 20, 'an answer')


@pytest.mark.parametrize('place', ['sqlite'], indirect=True)
def test_without_free_descriptors_it_waits(place):
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))

    process, port = serve(place, {'SECONDS': 1000}, preexec_fn=limit)
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(connected(port))
        wait_until(
            lambda: len(os.listdir('/proc/%d/fd' % process.pid)) >= 30,
            what='the last descriptor',
        )
        before = cpu_of(process)
        select.select([], [], [], 1)
        assert cpu_of(process) - before < 0.3
    visitor = Visitor('http://127.0.0.1:%d/' % port)

    def answered():
        with contextlib.suppress(OSError, AssertionError):
            return visitor.get()

    wait_until(answered, 20, 'an answer')


@pytest.mark.parametrize('place', ['mysql'], indirect=True)
def test_few_requests_use_the_database_at_once(place):
    """Forty visitors; what the server sees of them."""
    place.add()
    visitor = place.page()
    seen = []

    def ask(_):
        return Visitor(visitor.url).request('GET', '').status

    with ThreadPoolExecutor(40) as threads:
        answers = [threads.submit(ask, number) for number in range(200)]
        while not all(answer.done() for answer in answers):
            rows = place.sql(
                '''SELECT COUNT(*) FROM information_schema.processlist
                WHERE db = DATABASE()'''
            )
            seen.append(rows[0][0] - 1)
    assert {answer.result() for answer in answers} <= {200, 503}
    assert 1 <= max(seen) <= 16  # 8, and those that the server is just ending


def test_who_has_no_turn_is_told_so(sqlite_place, monkeypatch):
    monkeypatch.setattr(request, 'PATIENCE', 0.01)
    browser = Browser(sqlite_place)
    taken = 0
    while request.TURNS.acquire(blocking=False):
        taken += 1
    try:
        answer = browser.ask('/')
        assert answer.status == 503 and answer.headers['Retry-After'] == '10'
        assert browser.ask('/static/style.css').status == 200
    finally:
        request.TURNS.release(taken)
    assert taken == 8 and browser.ask('/').status == 200
    sqlite_place.write(db={'engine': 'sqlite', 'path': 'nowhere/d.db'})
    for _ in range(10):  # a turn is given back in any case
        assert browser.ask('/').status == 503 and browser.errors.count('\n') == 1


@pytest.mark.parametrize('place', ['sqlite'], indirect=True)
def test_the_server_does_not_tell_what_it_is_made_of(place):
    visitor = place.page()
    for path in '', 'nowhere':
        headers = visitor.request('GET', path).headers
        assert headers['Server'] == 'distributed_cron'
    with connected(port_of(visitor)) as raw:
        raw.sendall(b'nonsense\r\n\r\n')
        assert b'Python' not in raw.recv(10000)
