"""What keeps strangers from the page: they can't stop it, change anything, or be taken for
somebody else. In the application, and in processes of --serve."""

import contextlib
import html
import os
import pty
import re
import resource
import select
import socket
import subprocess
import sys
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import PAGE, Visitor, answers, dc, free_port
from servers import wait_until
from test_web import COLUMNS, HOST, Browser, add_history

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
    assert 'you can edit' in browser.get('/')
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
    said = b''
    while not said.endswith(b'\n'):
        assert select.select([ours], [], [], 20)[0]
        said += os.read(ours, 1000)
    visitor = Visitor('http://127.0.0.1:%d/' % port)
    answer = visitor.request('GET', said.decode().strip())
    assert answer.status == 303 and answer.headers['Location'] == '/'
    assert 'you can edit' in visitor.get()
    assert not os.path.exists(os.path.join(place.folder, 'log', 'web.key'))
    for descriptor in ours, theirs:
        os.close(descriptor)


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


# What stands in web.log.


def log_of(place):
    """The lines of web.log: (who, asked, done or failed; its number; the rest)."""
    lines = place.read('log/web.log').splitlines()
    pattern = r'(.*?): \[[^]]*\] (asked|done|failed) ([0-9a-f]{8}): (.*)'
    return [re.fullmatch(pattern, line).groups() for line in lines]


def test_a_change_is_asked_for_before_and_told_after(sqlite_place, monkeypatch):
    place, safe = sqlite_place, []

    def fsync(file):
        active = [row.active for row in place.sql('SELECT active FROM job')]
        safe.append((os.readlink('/proc/self/fd/%d' % file.fileno()), active))

    browser = Browser(place)
    browser.token()
    monkeypatch.setattr(os, 'fsync', fsync)
    browser.change('/job/add', **COLUMNS, action='save')
    browser.change('/job/1/disable')
    browser.change('/job/1/stop')  # it does not run
    lines = log_of(place)
    assert [line[1] for line in lines] == ['asked', 'done'] * 3
    assert len({line[2] for line in lines}) == 3
    assert {line[0] for line in lines} == {'alice@192.0.2.7'}
    told = [line[3] for line in lines]
    assert told[0].startswith('add: description "tidy up", command "echo x"')
    assert told[1:] == [
        'job 1',
        'job 1: disable',
        'job 1',
        'job 1: stop',
        'job 1: nothing to do',
    ]
    path = os.path.join(place.folder, 'log', 'web.log')
    states = [[], [1], [1], [0], [0], [0]]  # at each line
    assert safe == [(path, active) for active in states]


def test_what_failed_is_told_too(sqlite_place):
    place = sqlite_place
    browser, _ = Browser(place), place.add()
    answer = browser.post(
        '/job/1/edit', **{**COLUMNS, 'max_run_time': '999999'}, action='save'
    )
    assert answer.status == 422
    browser.token()
    place.write(db={**place.values['db'], 'timeout': 1})
    place.store.execute('BEGIN IMMEDIATE')
    try:
        assert browser.post('/job/1/disable').status == 503
    finally:
        place.store.execute('ROLLBACK')
    lines = log_of(place)
    assert [line[1] for line in lines] == ['asked', 'failed'] * 2
    assert 'max_run_time' in lines[1][3] and 'locked' in lines[3][3]
    assert place.job(1).active == 1


@pytest.mark.parametrize('place', ['sqlite'], indirect=True)
def test_with_a_full_disk_nothing_is_changed(place):
    """Here the file may not grow, which is the same for whoever writes."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000000, 1000000))

    place.add()
    visitor = place.page(preexec_fn=limit)
    visitor.get('job/add')
    for room in 0, 20:  # none; for a part of the line
        with open(os.path.join(place.folder, 'log', 'web.log'), 'wb') as file:
            file.write(b'.' * (999999 - room) + b'\n')
        answer = visitor.submit('', 'job/1/disable')
        assert answer.status == 503 and 'Nothing was changed' in answer.text
        assert place.job(1).active == 1
    os.unlink(os.path.join(place.folder, 'log', 'web.log'))
    assert visitor.submit('', 'job/1/disable').status == 303


@pytest.mark.parametrize('target', ['/dev/full', '/dev/null', 'elsewhere'])
def test_web_log_is_never_a_link(sqlite_place, target):
    place = sqlite_place
    browser, _ = Browser(place), place.add()
    browser.token()
    os.symlink(target, os.path.join(place.folder, 'log', 'web.log'))
    answer = browser.post('/job/1/disable')
    assert answer.status == 503 and 'web.log' in browser.errors
    assert place.job(1).active == 1
    assert not os.path.exists(os.path.join(place.folder, 'log', 'elsewhere'))


def test_many_large_edits_push_no_line_out(sqlite_place):
    place = sqlite_place
    place.write(log={'location': 'log', 'max_bytes': 1000})
    browser, _ = Browser(place), place.add()
    browser.change('/job/1/disable')
    token = browser.token()
    for number in range(211):
        command = '%d %s' % (number, 'x' * 11990)
        answer = browser.post(
            '/job/1/edit', csrf=token, **{**COLUMNS, 'command': command}, action='save'
        )
        assert answer.status == 303
    told = [line[3] for line in log_of(place) if line[1] == 'asked']
    assert told[0] == 'job 1: disable' and len(told) == 212
    for number, text in enumerate(told[1:]):
        assert '-> "%d xxx' % number in text
    assert os.listdir(os.path.join(place.folder, 'log')).count('web.log.1') == 0
    mode = os.stat(os.path.join(place.folder, 'log', 'web.log')).st_mode
    assert mode & 0o777 == 0o640


# A /dev of its own, in which /dev/log is a socket of the test's.
OWN_LOG = '''
mkdir old && mount --bind /dev old && mount -t tmpfs none /dev || exit 77
for name in null zero full random urandom tty; do
    touch /dev/$name && mount --bind old/$name /dev/$name
done
ln -s "$PWD/log.socket" /dev/log
exec "$@"
'''


@pytest.mark.skipif(os.getuid() != 0, reason='a /dev of its own needs root')
@pytest.mark.parametrize('place', ['sqlite'], indirect=True)
def test_a_change_stands_in_syslog(place):
    place.add()
    port = free_port()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(os.path.join(place.folder, 'log.socket'))
        syslog.settimeout(20)
        page = [sys.executable, PAGE, '--config', place.file, '--serve', str(port)]
        process = subprocess.Popen(
            ['unshare', '-m', 'sh', '-c', OWN_LOG, 'sh', *page],
            cwd=place.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        place.started.append(process)
        with process.stdout:
            started = process.stdout.readline()
        if not started and process.wait(20) in (1, 77):
            pytest.skip('no mount namespace: %s' % process.stderr.read().decode())
        visitor = Visitor('http://127.0.0.1:%d/' % port)
        visitor.request('GET', place.read('log/web.key').strip())
        assert visitor.submit('', 'job/1/disable').status == 303
        lines = [syslog.recv(10000).decode() for _ in range(2)]
        for line, word in zip(lines, ('asked', 'done')):
            # 86 is facility authpriv (10) times 8, and severity info (6).
            assert re.match(r'<86>.* distributed_cron_web\[[0-9]+\]: ', line)
            assert re.search(r'-@127\.0\.0\.1: %s [0-9a-f]{8}: job 1' % word, line)
        long = {**COLUMNS, 'command': 'x' * 12000}
        assert visitor.submit('job/1/edit', **long, action='save').status == 303
        assert 'job 1: description' in syslog.recv(100000).decode()
    assert place.read('log/web.log').count('asked') == 2


def unseen_characters():
    """Those that nobody sees, by what Python's Unicode says of them."""
    drawn = '\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd'
    found = []
    for code in range(0x110000):
        letter = chr(code)
        kind = unicodedata.category(letter)
        if kind in ('Cc', 'Cf', 'Zl', 'Zp') and not re.match('[%s]' % drawn, letter):
            found.append(letter)
    return [*found, '\u034f', '\u115f', '\u1160', '\u3164', '\uffa0', '\u2800']


def test_nothing_unseen_reaches_web_log_or_a_page(sqlite_place):
    place = sqlite_place
    unseen = ''.join(unseen_characters())
    place.add(command='a%sb' % unseen.replace('\0', ''), description='ab')
    browser = Browser(place, user='al\u202eice')
    browser.change('/job/1/disable')
    browser.change('/job/1/edit', **COLUMNS, action='save')
    browser.change(
        '/job/add', **{**COLUMNS, 'command': 'x%sy' % unseen[1:]}, action='save'
    )
    shown = browser.get('/job/1/edit') + browser.get('/') + browser.get('/job/2')
    logged = place.read('log/web.log')
    for letter in unseen:
        if letter not in '\t\n':
            assert letter not in shown, hex(ord(letter))
        assert letter == '\n' or letter not in logged, hex(ord(letter))
    for escaped in r'\u202e', r'\u200b', r'\u00ad', r'\udb40\udc41', r'\n', r'\u001b':
        assert escaped in logged, escaped
    assert logged.startswith(r'al\u202eice@')


def test_a_live_log_has_nothing_unseen(sqlite_place):
    place = sqlite_place
    place.add()
    add_history(place, 1, 1, output='a\x1b[31m\u202eb\u200bc\n')
    text = Browser(place).get('/run/1/1/log')
    assert text == 'a\u241b[31m\ufffdb\ufffdc\n'


def test_an_edit_changes_only_what_was_changed(sqlite_place):
    """Also where the form can't show the rest as it is."""
    place = sqlite_place
    family = 'a \U0001f468\u200d\U0001f469 b\u00ad\x07'
    place.add(command=family, description=family, schedule='0 4 * * *')
    browser = Browser(place)
    text = browser.get('/job/1/edit')
    shown = html.unescape(re.search('(?s)<textarea[^>]*>(.*?)</textarea>', text)[1])
    assert '\u200d' not in shown
    fields = {**COLUMNS, 'kind': 'schedule', 'schedule': '0 5 * * *'}
    fields.update(command=shown.lstrip('\n'), description=shown.lstrip('\n'))
    browser.change('/job/1/edit', **fields, action='save')
    job = place.job(1)
    assert (job.command, job.description, job.schedule) == (
        family,
        family,
        '0 5 * * *',
    )
