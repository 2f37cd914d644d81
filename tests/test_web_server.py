"""The web page under real web servers, with the configurations that the README shows,
and served alone."""

import contextlib
import grp
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from conftest import (
    PAGE,
    ROOT,
    SCRIPT,
    Visitor,
    answers,
    dc,
    free_port,
    make_place,
    wait_until,
)

# Started by root, the servers run the page as another user, and workers are a third's.
AS_ROOT = os.getuid() == 0
USER = 'www-data' if AS_ROOT else pwd.getpwuid(os.getuid()).pw_name
CRONJOB = 'games' if AS_ROOT else USER  # users whom Debian has, and who own nothing
CRONWEB = 'news' if AS_ROOT else USER
PATHS = (
    '',
    'job/add',
    'job/1',
    'job/1/edit',
    'job/1/delete',
    'run/1/1',
    'hosts',
    'healthz',
    'metrics',
)
OWN_USER = '## A user of its own'
README = os.path.join(ROOT, 'web', 'README.md')
WORDS = 'shall be secret'  # the password of both logins
# Debian's python3 with Debian's packages, as where the system starts the server.
ENVIRONMENT = {'PATH': '/usr/sbin:/usr/bin:/sbin:/bin'}


def readme_blocks(heading, word):
    """The code blocks below a heading of web/README.md that hold a word, as one text."""
    part = dc.read_text(README).split('\n%s\n' % heading)[1]
    blocks = re.findall(r'(?m)(?:^    .*\n)+', part.split('\n#')[0])
    return re.sub('(?m)^    ', '', ''.join(block for block in blocks if word in block))


def replaced(text, changes):
    """A text after changes, each of which must find something to change."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


class Site:
    """The program in a folder, as the README installs it, and a web server for it."""

    def __init__(self, place, login=True):
        """login: whether one is asked for, as the README has it."""
        self.place, self.folder, self.port = place, place.folder, free_port()
        self.installed = self.path('opt')
        self.own = place.engine != 'sqlite'  # whether the page has a user of its own
        self.file = self.path('opt/web.yml') if self.own else place.file
        self.changes = {
            '/opt/distributed_cron/web.yml': self.file,
            '/opt/distributed_cron': self.installed,
            **({} if login else self.without_login),
        }
        self.install()
        if self.own:
            self.configure(login)
        else:
            self.values = place.values
        with open(self.path('server.conf'), 'w') as file:
            file.write(self.config())
        open(self.path('server.log'), 'w').close()
        shutil.chown(self.path('server.log'), self.user)
        with open(self.path('server.out'), 'wb') as output:
            self.process = subprocess.Popen(
                [*self.command, self.path('server.conf')],
                stdout=output,
                stderr=output,
                env={**ENVIRONMENT, **self.environment()},
            )
        place.started.append(self.process)  # so that it ends if it does not come up
        wait_until(lambda: answers(self.process, self.port), what='the web server')

    def path(self, name):
        return os.path.join(self.folder, name)

    @property
    def user(self):
        """Of the page."""
        return CRONWEB if self.own else CRONJOB

    def install(self):
        os.mkdir(self.installed)
        shutil.copy(SCRIPT, self.installed)
        shutil.copytree(
            os.path.dirname(PAGE),
            os.path.join(self.installed, 'web'),
            ignore=shutil.ignore_patterns('__pycache__'),
        )
        make_certificate(self.path('site.pem'))
        for path in self.place.file, self.path('db.password'):
            os.chmod(path, 0o600)
        os.chmod(self.folder, 0o755)
        for path, _, files in os.walk(self.folder):
            for name in ['', *files]:
                shutil.chown(os.path.join(path, name), CRONJOB, CRONJOB)
        self.make_files()
        with open(self.installed + '/web.users', 'a') as file:
            for name in 'alice', 'bob':
                file.write('%s:%s\n' % (name, password_hash()))

    def make_files(self):
        """The page's files, by the README's commands; its user is there."""
        commands = replaced(
            readme_blocks(OWN_USER, 'install -'),
            {
                'useradd ': ': ',
                '/var/log/distributed_cron_web': self.path('weblog'),
                'cd /opt/distributed_cron': 'cd ' + self.installed,
                'cronweb': self.user,
            },
        )
        if not AS_ROOT:
            commands = re.sub(' -[og] [^ ]+', '', commands)
        subprocess.run(['sh', '-e', '-c', commands], check=True)

    def configure(self, login):
        """The page's configuration and its account, as the README has them."""
        place, database = self.place, self.place.values['db']['database']
        text = replaced(
            readme_blocks(OWN_USER, 'password_file: '),
            {
                'db.example.com': '127.0.0.1:%d' % place.server.port,
                'database: distributed_cron\n': 'database: %s\n' % database,
                'distributed_cron_web\n': 'web_%s\n' % database,
                '/var/log/distributed_cron_web': self.path('weblog'),
            },
        )
        self.values = yaml.safe_load(text)
        self.values['db']['engine'] = place.engine  # as the README says for PostgreSQL
        assert self.values['web'] == {'editors': ['alice']}
        if not login:
            del self.values['web']
        self.write()
        with open(self.installed + '/web.password', 'w') as file:
            file.write('choose another password\n')
        mysql = place.engine == 'mysql'
        account = readme_blocks(OWN_USER, 'CREATE USER' if mysql else 'CREATE ROLE')
        account = account.replace('distributed_cron_web', 'web_' + database)
        account = account.replace('distributed_cron.', database + '.')
        account = account.replace('DATABASE distributed_cron', 'DATABASE ' + database)
        account = account.replace('SCHEMA distributed_cron', 'SCHEMA public')
        if mysql:
            place.server.client(account)
        else:
            for statement in filter(str.strip, account.split(';')):
                place.store.execute(statement)

    def write(self, **more):
        """The page's configuration, changed."""
        self.values.update(more)
        with open(self.file, 'w') as file:
            yaml.safe_dump(self.values, file)

    def log_folder(self):
        return self.path('weblog' if self.own else 'log')

    def environment(self):
        return {}

    def log(self):
        return dc.read_text(self.path('server.out')) + dc.read_text(
            self.path('server.log')
        )

    def visitor(self, *login):
        return Visitor('https://127.0.0.1:%d/' % self.port, login)

    def worker(self):
        """Start a worker as the README does: its own user, Debian's python3."""
        self.place.started.append(
            subprocess.Popen(
                [
                    '/usr/bin/python3',
                    self.installed + '/distributed_cron.py',
                    '--config',
                    self.place.file,
                    'run',
                    '--forever',
                ],
                env=ENVIRONMENT,
                user=CRONJOB if AS_ROOT else None,
                stderr=subprocess.PIPE,
            )
        )

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


class Lighttpd(Site):
    command = ['lighttpd', '-D', '-f']
    without_login = {'auth.require = (""': 'auth.require = ("/nowhere"'}

    def config(self):
        return replaced(
            readme_blocks('## Under lighttpd', 'server.'),
            {
                'server.port = 443\n': 'server.port = %d\nserver.bind = "127.0.0.1"\n'
                % self.port,
                '"cronweb"': '"%s"' % self.user,
                'server.errorlog-use-syslog = "enable"': 'server.errorlog = "%s"'
                % self.path('server.log'),
                '/etc/ssl/private/distributed_cron.pem': self.path('site.pem'),
                **self.changes,
            },
        )


class Apache(Site):
    command = ['apache2', '-D', 'FOREGROUND', '-f']
    without_login = {'Require valid-user': 'Require all granted'}
    # Debian's modules as they are after the installation; the README says what more.
    modules = '''mpm_event authn_core authz_core authz_host authz_user authn_file
        auth_basic access_compat alias dir autoindex env mime negotiation setenvif
        filter deflate status reqtimeout'''
    base = '''
        ServerRoot {folder}
        ServerName localhost
        User {user}
        Group {group}
        Listen 127.0.0.1:{port}
        Listen 127.0.0.1:{plain}
        PidFile {folder}/apache.pid
        ErrorLog {folder}/server.log
        {modules}
        <Directory />
            AllowOverride None
            Require all denied
        </Directory>
        <Directory /var/www>
            Require all granted
        </Directory>
        '''

    def config(self):
        part = dc.read_text(README).split('## Under apache2')[1]
        more = re.search('`a2enmod (.*?)`', part)[1]
        modules = '\n'.join(
            'Include /etc/apache2/mods-available/%s.%s' % (name, kind)
            for name in [*self.modules.split(), 'socache_shmcb', *more.split()]
            for kind in ('load', 'conf')
            if os.path.exists('/etc/apache2/mods-available/%s.%s' % (name, kind))
        )
        self.plain = free_port()  # where it serves what else there is, without TLS
        return self.base.format(
            folder=self.folder,
            user=USER,
            group=group_of(USER),
            plain=self.plain,
            port=self.port,
            modules=modules,
        ) + replaced(
            readme_blocks('## Under apache2', 'ScriptAlias'),
            {
                '*:443': '*:%d' % self.port,
                '/etc/ssl/private/distributed_cron.pem': self.path('site.pem'),
                **self.changes,
            },
        )

    @property
    def user(self):
        """The server runs the page as its own user."""
        return USER

    def environment(self):
        os.makedirs(self.path('run/socks'), exist_ok=True)
        return {
            'APACHE_RUN_DIR': self.path('run'),
            'APACHE_LOG_DIR': self.folder,
            'APACHE_RUN_USER': USER,
        }


def password_hash():
    """A password as the README's command has it."""
    return (
        subprocess.run(
            ['openssl', 'passwd', '-6', '-stdin'],
            input=WORDS.encode(),
            stdout=subprocess.PIPE,
            check=True,
        )
        .stdout.decode()
        .strip()
    )


def make_certificate(path):
    """A key and its certificate, one after the other in a file."""
    subprocess.run(
        [
            'openssl',
            'req',
            '-x509',
            '-newkey',
            'ec',
            '-pkeyopt',
            'ec_paramgen_curve:prime256v1',
            '-nodes',
            '-days',
            '2',
            '-subj',
            '/CN=localhost',
            '-keyout',
            path,
            '-out',
            path + '.cert',
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    with open(path, 'a') as file:
        file.write(dc.read_text(path + '.cert'))


def group_of(user):
    return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name


@contextlib.contextmanager
def site_of(request, server, engine, **how):
    """A web server with the page of a place; its job 1 has run once."""
    with contextlib.ExitStack() as stack:
        folder = tempfile.mkdtemp(prefix='dc-test-')  # pytest's are for its user alone
        stack.callback(shutil.rmtree, folder)
        place = stack.enter_context(
            contextlib.contextmanager(make_place)(request, folder, engine)
        )
        with open(folder + '/db.password', 'w') as file:
            file.write('secret\n')
        if engine != 'sqlite':  # as the README has it
            place.values['db'].pop('password')
            place.values['db']['password_file'] = 'db.password'
        place.write(web={'editors': ['alice']} if how.get('login', True) else {})
        os.makedirs(folder + '/log', exist_ok=True)
        place.add('echo hello', description='greets')
        place.run('run')
        site = server(place, **how)
        stack.callback(site.stop)
        yield site


def name_of(pair):
    return '%s-%s' % (pair[0].__name__.lower(), pair[1])


PAIRS = [
    pytest.param(pair, marks=pytest.mark.slow)
    for pair in [(Lighttpd, 'mysql'), (Apache, 'postgresql'), (Lighttpd, 'sqlite')]
]


@pytest.fixture(scope='module', params=PAIRS, ids=name_of)
def site(request):
    with site_of(request, *request.param) as site:
        yield site


def alice(site):
    return site.visitor('alice', WORDS)


def check_page(answer, site):
    """What holds for each page, whatever it shows."""
    assert answer.status == 200, (answer, site.log())
    kind = answer.headers['Content-Type']
    assert kind in (
        'text/html; charset=utf-8',
        'text/plain; charset=utf-8',
        'text/plain; version=0.0.4; charset=utf-8',
    )
    assert 'Traceback' not in answer.text and 'secret' not in answer.text
    policy = answer.headers['Content-Security-Policy']
    assert 'unsafe-inline' not in policy and "frame-ancestors 'none'" in policy
    assert answer.headers['X-Content-Type-Options'] == 'nosniff'


def test_pages_come(site):
    for path in PATHS:
        answer = alice(site).request('GET', path)
        check_page(answer, site)
        assert ('<html lang="en"' in answer.text) == (
            '/html' in answer.headers['Content-Type']
        ), path
    assert 'greets' in alice(site).get()
    assert 'hello' in alice(site).get('run/1/1')


def test_links_lead_to_pages(site):
    """Each address in a page is there, below whichever path the site is."""
    seen, visitor = set(), alice(site)
    for path in PATHS[:7]:
        for link in re.findall(r'(?:href|src|action)="([^"#]*)"', visitor.get(path)):
            kind = re.sub('[0-9]+', '1', link.partition('?')[0])
            if kind not in seen:
                seen.add(kind)
                status = visitor.request('GET', link).status
                assert status == (
                    405 if re.search('run-now|stop|able|pause|resume', link) else 200
                ), (path, link)
    assert len(seen) > 8


def test_all_of_it_needs_a_login(site):
    for path in (*PATHS, 'static/style.css', 'nowhere'):
        answer = site.visitor().request('GET', path)
        assert answer.status == 401 and 'greets' not in answer.text, path
    for visitor in site.visitor(), site.visitor('alice', 'guessed'):
        assert visitor.request('POST', 'job/add', {'command': 'id'}).status == 401


def test_a_plain_connection_gets_nothing(site):
    """No password may go over the network in the clear."""
    for port in {site.port, getattr(site, 'plain', site.port)}:
        visitor = alice(site)
        visitor.url = 'http://127.0.0.1:%d/' % port
        try:
            answer = visitor.request('GET', '')
        except ConnectionResetError:  # lighttpd hangs up; nobody there is another error
            continue
        assert answer.status in (400, 403) or port != site.port  # of another site there
        assert 'greets' not in answer.text and 'Authenticate' not in str(answer.headers)
    assert 'greets' in alice(site).get()  # and it is there


def test_a_job_is_added_and_run(site):
    answer = alice(site).submit(
        'job/add',
        description='from afar',
        command='echo from $USER afar; sleep 0.1',
        kind='schedule',
        schedule='0 3 * * *',
        max_run_time='5',
        active='1',
        action='save',
    )
    assert answer.status == 303, answer
    job = site.place.sql("SELECT * FROM job WHERE description = 'from afar'")[0]
    assert (job.schedule, job.max_run_time, job.active) == ('0 3 * * *', 5, 1)
    assert alice(site).submit('', 'job/%d/run-now' % job.id).status == 303
    site.worker()
    run = wait_until(lambda: site.place.runs(job.id), 20, 'the run')[0]
    assert run.status == 'Success', run
    page = alice(site).get('run/%d/%d' % (job.id, run.run_no))
    assert 'from afar' in page and 'Success' in page
    changes = dc.read_text(site.log_folder() + '/web.log')
    assert re.search(r'alice@127\.0\.0\.1.*: job %d' % job.id, changes), changes


def owner_of(path):
    return pwd.getpwuid(os.stat(path).st_uid).pw_name


# Polls the environments of all processes, as any job can; prints what holds a word.
SPY = '''
import glob, re, sys, time
PATTERN = 'GATEWAY_INTERFACE|HTTP_AUTHORIZATION'
end, seen = time.monotonic() + float(sys.argv[1]), set()
while time.monotonic() < end:
    for path in glob.glob('/proc/[0-9]*/environ'):
        try:
            with open(path, 'rb') as file:
                text = file.read().decode('latin-1')
        except OSError:
            continue
        words = re.split(chr(0), text)
        if 'SERVER_PORT=' + sys.argv[2] not in words:
            continue  # of another web server
        seen.update(word for word in words if re.match(PATTERN, word))
print(sorted(seen))
'''


@pytest.mark.skipif(not AS_ROOT, reason='a job of another user needs root')
def test_no_job_reads_what_editors_type(site):
    """Nor, with a user of its own, anything else of the page."""
    spy = subprocess.Popen(
        ['/usr/bin/python3', '-c', SPY, '2', str(site.port)],
        stdout=subprocess.PIPE,
        user=CRONJOB,
        group=group_of(CRONJOB),  # or the kernel hides a process of the same user
    )
    with spy.stdout:
        while spy.poll() is None:
            alice(site).get('job/1')
        seen = spy.stdout.read().decode()
    assert seen == ('[]\n' if site.own else "['GATEWAY_INTERFACE=CGI/1.1']\n")


@pytest.mark.skipif(not AS_ROOT, reason='users of their own need root')
def test_the_page_has_a_user_of_its_own(site):
    alice(site).submit('', 'job/1/disable')
    folder = site.log_folder()
    assert owner_of(folder + '/web.log') == owner_of(folder) == site.user
    assert os.stat(folder + '/web.log').st_mode & 0o777 == 0o640
    if site.own:
        assert site.user != CRONJOB
        for name in 'web.log', 'web.secret':
            command = ['cat', os.path.join(folder, name)]
            assert subprocess.run(command, user=CRONJOB, stderr=-3).returncode
        for name in 'web.yml', 'web.password', 'web.users':
            command = ['cat', os.path.join(site.installed, name)]
            assert subprocess.run(command, user=CRONJOB, stderr=-3).returncode
    alice(site).submit('', 'job/1/enable')


def test_the_page_has_an_account_of_its_own(site):
    """It may change jobs, and nothing else."""
    if not site.own:
        pytest.skip('SQLite has no accounts')
    store = dc.Store(dc.load_config(site.file)).connect()
    assert store.query('SELECT COUNT(*) FROM run')[0][0] >= 1
    for table in 'run', 'host':
        with pytest.raises(dc.Problem, match=r'(?i)denied'):
            store.change('DELETE FROM %s' % table)
    with pytest.raises(dc.Problem, match=r'(?i)denied|must be owner'):
        store.change('DROP TABLE job')
    store.close()


def test_browsers_come_by_tls_only(site):
    visitor = alice(site)
    answer = visitor.request('GET', '')
    assert answer.headers['Strict-Transport-Security'] == 'max-age=31536000'
    visitor.get('job/add')
    assert list(visitor.cookies) == ['__Host-distributed_cron']


def test_whoever_is_no_editor_reads(site):
    bob, before = site.visitor('bob', WORDS), site.place.sql('SELECT * FROM job')
    assert 'greets' in bob.get() and 'value="run-now"' not in bob.get()
    token = re.search('name="csrf" value="(.*?)"', alice(site).get())[1]
    for path in 'job/add', 'job/1/edit', 'job/1/run-now', 'job/1/delete':
        assert (
            bob.request(
                'POST', path, {'csrf': token, 'command': 'id', 'action': 'save'}
            ).status
            == 403
        )
    assert site.place.sql('SELECT * FROM job') == before


def test_static_files_and_their_types(site):
    for name, kind in (('style.css', 'text/css'), ('script.js', 'text/javascript')):
        answer = alice(site).request('GET', 'static/' + name)
        assert answer.status == 200
        assert answer.headers['Content-Type'].partition(';')[0] == kind
        assert answer.text == dc.read_text(site.installed + '/web/' + name)
    for path in 'static/index.cgi', 'static/../../distributed_cron.yml', 'static/':
        assert alice(site).request('GET', path).status == 404


def test_head_is_get_without_the_page(site):
    for path in ('', 'static/style.css', 'nowhere'):
        get, head = (alice(site).request(method, path) for method in ('GET', 'HEAD'))
        assert (head.status, head.text) == (get.status, ''), path
        assert head.headers['Content-Type'] == get.headers['Content-Type']


def test_a_database_that_is_down(site):
    """Here it is another one, at whose address nobody is."""
    place, values = site.place, dict(site.values['db'])
    away = (
        {'path': 'nowhere.db'}
        if place.engine == 'sqlite'
        else {'host': '127.0.0.1:%d' % free_port()}
    )
    try:
        site.write(db={**values, **away})
        for path in '', 'job/1', 'healthz', 'metrics':
            answer = alice(site).request('GET', path)
            assert answer.status == 503, (path, answer)
            assert 'Traceback' not in answer.text and 'secret' not in answer.text
            assert 'database' in answer.text
        assert alice(site).request('GET', 'static/style.css').status == 200
    finally:
        site.write(db=values)
    assert 'greets' in alice(site).get()


def test_twenty_at_once(site):
    def ask(number):
        return alice(site).request('GET', ('', 'job/1', 'hosts', 'metrics')[number % 4])

    with ThreadPoolExecutor(20) as threads:
        for answer in threads.map(ask, range(20)):
            check_page(answer, site)


def test_jobs_added_at_once_are_all_there(site):
    def add(number):
        return alice(site).submit(
            'job/add',
            command='true',
            description='one of many',
            kind='frequency',
            frequency='1440',
            action='save',
        )

    with ThreadPoolExecutor(5) as threads:
        assert {answer.status for answer in threads.map(add, range(5))} == {303}
    assert (
        len(site.place.sql("SELECT id FROM job WHERE description = 'one of many'")) == 5
    )


def test_the_server_has_nothing_to_complain_of(site):
    assert 'Traceback' not in site.log()
    # Wrong passwords and connections without TLS were refused above.
    complaints = re.findall(
        r'\[(?!auth_basic|ssl)\w+:(?:error|crit|alert|emerg)\].*|'
        r'.*\((?:mod_)?cgi.*',
        site.log(),
    )
    assert complaints == []


@pytest.mark.slow
@pytest.mark.parametrize('pair', [(Lighttpd, 'sqlite'), (Apache, 'mysql')], ids=name_of)
def test_a_server_that_asks_for_no_login_only_shows(request, pair):
    """Whoever forgets the login gives nobody the right to write."""
    with site_of(request, *pair, login=False) as site:
        page = site.visitor().get()
        assert 'greets' in page and 'name="csrf"' not in page
        before = site.place.sql('SELECT * FROM job')
        for path in 'job/add', 'job/1/edit', 'job/1/run-now', 'job/1/delete':
            answer = site.visitor().request('POST', path, {'command': 'id', 'csrf': ''})
            assert answer.status == 403, (path, answer)
        assert site.place.sql('SELECT * FROM job') == before


# Alone


def test_alone_it_may_write_on_this_machine_only(place):
    visitor = place.page()
    port = int(visitor.url.rpartition(':')[2].strip('/'))
    with pytest.raises(ConnectionRefusedError):  # 127.0.0.1 is not any address
        socket.create_connection(('127.0.0.2', port), 5)
    answer = visitor.submit(
        'job/add',
        command='echo alone',
        kind='frequency',
        frequency='5',
        action='save',
        active='1',
    )
    assert answer.status == 303, answer
    place.worker()
    (run,) = place.wait_runs(1)
    with socket.create_connection(('127.0.0.1', port), 60) as raw:
        raw.sendall(b'HEAD / HTTP/1.0\r\nHost: localhost\r\n\r\n')
        head = raw.makefile('rb').read()
    assert head.startswith(b'HTTP/1.0 200 ') and head.endswith(b'\r\n\r\n'), head
    assert 'alone' in visitor.get('run/%d/%d' % (run.job_id, run.run_no))
    with ThreadPoolExecutor(20) as threads:
        statuses = threads.map(lambda _: visitor.request('GET', '').status, range(20))
        assert set(statuses) == {200}


def test_open_to_others_it_only_shows(place):
    place.add(description='greets')
    visitor = place.page('0.0.0.0')
    assert 'greets' in visitor.get() and 'name="csrf"' not in visitor.get()
    before = place.job(1)
    for path in 'job/add', 'job/1/edit', 'job/1/run-now', 'job/1/delete':
        answer = visitor.request('POST', path, {'command': 'id', 'action': 'save'})
        assert answer.status == 403, (path, answer)
    assert place.sql('SELECT * FROM job') == [before]


@pytest.mark.parametrize('place', ['sqlite'], indirect=True)
def test_an_idle_connection_holds_nobody_up(place):
    visitor = place.page()
    port = int(visitor.url.rpartition(':')[2].strip('/'))
    with socket.create_connection(('127.0.0.1', port)):  # as browsers open in advance
        began = time.monotonic()
        visitor.get()
        assert time.monotonic() - began < 5


@pytest.mark.parametrize('place', ['sqlite'], indirect=True)
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_it_ends_without_a_traceback(place, number):
    place.page()
    (process,) = place.started
    process.send_signal(number)
    process.wait(10)
    assert process.stderr.read().decode().count('Traceback') == 0


@pytest.mark.parametrize('where', ['', 'x', '70000', '127.0.0.1:', ':'])
def test_a_bad_address_is_one_line(where):
    done = serve(where)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done


def test_an_address_that_is_not_to_be_had_is_one_line():
    with socket.create_server(('127.0.0.1', 0)) as taken:
        for where in (
            str(taken.getsockname()[1]),
            'nowhere.invalid:8080',
            '192.0.2.1:8080',
        ):
            done = serve(where)
            assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done


def serve(where):
    return subprocess.run(
        [sys.executable, PAGE, '--serve', where],
        timeout=30,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
