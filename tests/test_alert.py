"""What is wrong is told, and what is over: to a real mail server and a real web server, on
each database, by a set clock, under kills, cuts, and servers that are away."""

import asyncio
import contextlib
import email
import email.policy
import json
import os
import signal
import socket
import ssl
import threading
import time
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from conftest import dc, exit_status, fork, processes_of, wait_until
from fakes import make_certificate
from servers import free_port, open_folder
from test_plans import NOON, clock, fail, finish, start

PASSWORD = 'Xyzzy-7-secret'


@pytest.fixture(scope='module')
def certificate():
    with open_folder('dc-test-') as folder:
        yield make_certificate(folder)


class MailServer:
    """A mail server, until it is stopped. how: what it does with a message: 'take',
    'refuse', 'hang', or 'vanish', which takes it and closes without an answer."""

    def __init__(self, **options):
        self.how = 'take'
        self.mails = []
        self.logins = []
        self.options = options
        self.port = free_port()
        self.address = '127.0.0.1:%d' % self.port
        self.start()

    def start(self):
        self.controller = Controller(
            self,
            hostname='127.0.0.1',
            port=self.port,
            authenticator=self.authenticate,
            **self.options,
        )
        self.controller.start()

    def authenticate(self, server, session, envelope, mechanism, data):
        self.logins.append((data.login.decode(), data.password.decode()))
        good = data.password == PASSWORD.encode()
        return AuthResult(success=good, handled=False)

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith('nobody'):
            return '550 no such user'
        envelope.rcpt_tos.append(address)
        return '250 OK'

    async def handle_DATA(self, server, session, envelope):
        if self.how == 'refuse':
            return '451 try again later'
        if self.how == 'hang':
            await asyncio.sleep(30)
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        text = mail.get_content().replace('\r\n', '\n')
        self.mails.append((envelope.rcpt_tos, mail['Subject'], text))
        if self.how == 'vanish':
            server.transport.abort()
        return '250 OK'

    def stop(self):
        self.controller.stop()


class WebServer(ThreadingHTTPServer):
    """A web server that keeps what was posted, and how often it was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.status = 200
        self.posted = []
        self.pings = 0
        self.url = 'http://127.0.0.1:%d/' % self.server_port
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.pings += 1
        self.answer()

    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        if self.server.status == 200:
            self.server.posted.append(json.loads(body))
        self.answer()

    def answer(self):
        self.send_response(self.server.status)
        if self.server.status == 302:
            self.send_header('Location', self.server.url)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def mail():
    server = MailServer()
    yield server
    server.stop()


@pytest.fixture
def web():
    server = WebServer()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def at(place, mail, web):
    """A place where it is noon, UTC, until it is set otherwise, and that tells by mail and
    webhook."""
    place.set_zone('+00:00' if place.engine == 'mysql' else 'UTC')
    clock(place, 0)
    place.write(alert=settings(mail, web))
    place.run('init')
    return place


def settings(mail, web, **more):
    return {
        'mail': ['ops@example.com'],
        'smtp': mail.address,
        'smtp_tls': False,
        'webhook': web.url + 'hook?key=' + PASSWORD,
        **more,
    }


def look(place, minutes, **how):
    """A pass at so many minutes after noon; returns what went wrong with it."""
    clock(place, minutes)
    return dc.alert_pass(store_at(place, minutes), **how)


def store_at(place, minutes):
    store = place.new_store()
    place.set_zone('+00:00' if place.engine == 'mysql' else 'UTC', store)
    place.set_clock(NOON + timedelta(minutes=minutes), store)
    return store


def texts(web):
    return [posted['text'] for posted in web.posted]


def told_now(mail, web):
    """The subjects that were told since the last time, which both channels agree on."""
    subjects = [subject for _, subject, _ in mail.mails]
    assert [text.split('\n')[0] for text in texts(web)] == subjects
    mail.mails.clear()
    web.posted.clear()
    return subjects


def succeed(place, job, token='t' * 32):
    finish(place, job, start(place, job, token), token=token)


def test_a_failure_and_its_end_are_told_once(at, mail, web):
    job = at.add('x', description='nightly backup', frequency=5)
    at.store.plan(at.store.now())
    fail(at, job, 'ERROR: exit 3')
    assert look(at, 1) == []
    (recipients, subject, text), *more = mail.mails
    assert not more and recipients == ['ops@example.com']
    assert subject == '[cron] nightly backup is failing (exit 3 on alpha)'
    assert 'since 2026-05-20 12:00:00, for 60 s, 1 in a row' in text
    assert '    | out\n' in text
    assert 'distributed_cron.py log %d\n' % job in text
    assert 'distributed_cron.py history %d\n' % job in text
    ((posted),) = web.posted
    assert next(iter(posted)) == 'text' and text.strip() in posted['text']
    assert posted['troubles'][0]['kind'] == 'failing'
    told_now(mail, web)
    clock(at, 6)
    fail(at, job, 'ERROR: exit 4')
    assert look(at, 7) == [] and told_now(mail, web) == []
    clock(at, 200)
    succeed(at, job)
    assert look(at, 200) == []
    assert told_now(mail, web) == [
        '[cron] nightly backup is well again after 3 h, 2 failures'
    ]
    assert look(at, 201) == [] and told_now(mail, web) == []
    assert not at.sql('SELECT * FROM trouble')


def test_retries_alert_after_and_never(at, mail, web):
    retried = at.add('x', description='retried', frequency=60, retries=1, retry_delay=0)
    third = at.add('x', description='third', frequency=1, alert_after=3)
    never = at.add('x', description='never', frequency=1, alert_after=0)
    at.store.plan(at.store.now())
    for minute in range(3):
        clock(at, 2 * minute)
        for job in (retried, third, never)[minute == 2 :]:
            fail(at, job)
        look(at, 2 * minute + 1)
        expected = {1: ['retried'], 2: ['third']}.get(minute, [])
        assert [s.split()[1] for s in told_now(mail, web)] == expected, minute
    # A run that nobody saw end does not wait for the third time.
    clock(at, 9)
    succeed(at, third)
    look(at, 9)
    told_now(mail, web)
    clock(at, 12)
    fail(at, third, 'ERROR: lost: no word of alpha-1 by the deadline')
    look(at, 12)
    assert 'lost: no word of alpha-1' in told_now(mail, web)[0]


def make_late(place):
    place.add('x', name='j', frequency=60)
    place.store.plan(place.store.now())
    return 15, 'j is late (due since 2026-05-20 12:00:00)'


def make_homeless(place):
    place.add('x', name='j', frequency=60, run_on='db')
    place.store.plan(place.store.now())
    text = 'j is late (due since 2026-05-20 12:00:00): waits for tag db'
    return 15, text


def run_it(place):
    clock(place, 20)
    place.store.change("UPDATE job SET run_on = NULL WHERE name = 'j'")
    succeed(place, the_job(place))
    return 'j is no longer late after 20 min'


def the_job(place):
    return place.sql("SELECT id FROM job WHERE name = 'j'")[0].id


def make_slow(place):
    job = place.add('x', name='j', frequency=600, max_run_time=500)
    place.store.plan(place.store.now())
    succeed(place, job)
    place.store.change('UPDATE run SET duration_ms = 180000')
    dc.act(place.store, 'run-now', job)
    start(place, job)
    look(place, 5)
    return 7, 'j is slow (runs on alpha since 2026-05-20 12:00:00, has taken 3 min at'


def end_slow(place):
    clock(place, 9)
    finish(place, the_job(place), 2)
    return 'j is no longer running after 20 min'


def make_parked(place):
    place.add('x', name='j', schedule='0 0 31 2 *')
    place.store.plan(place.store.now())
    return 1, 'j is parked (schedule: '


def mend_schedule(place):
    place.run('edit', '--schedule', '0 0 * * *', 'j')
    return 'j is planned again after 19 min'


def make_away(place):
    dc.update_host(place.store, 'here-1', 0, place.store.now())
    place.store.change("UPDATE host SET name = 'beta'")
    return 6, 'host beta is away (last seen at 2026-05-20 12:00:00)'


def come_back(place):
    clock(place, 20)
    place.store.change("UPDATE host SET last_seen = '2026-05-20 12:20:00'")
    return 'host beta is back after 20 min'


def make_full(place):
    place.add('x', name='k', frequency=60)
    place.store.plan(place.store.now())
    for minute in range(10):
        be_busy(place, minute)
        look(place, minute)
    be_busy(place, 15)
    return 15, 'jobs wait: all slots are taken (8 on 1 hosts)'


def be_busy(place, minute):
    clock(place, minute)
    dc.update_host(place.store, 'here-1', 8, place.store.now())
    place.store.change(
        "UPDATE job SET next_run_utc = '2026-05-20 %s' WHERE name = 'k'"
        % ('11:59:00' if minute < 9 else '12:07:00')
    )


def be_free(place):
    clock(place, 20)
    succeed(place, place.sql("SELECT id FROM job WHERE name = 'k'")[0].id)
    dc.update_host(place.store, 'here-1', 2, place.store.now())
    return 'there are free slots again after 20 min'


def make_stuck(place):
    job = place.add('x', name='j', frequency=60)
    place.store.plan(place.store.now())
    start(place, job)
    place.store.change(
        'UPDATE job SET last_status = :status WHERE id = :job',
        status="ERROR: process 9 can't be ended",
        job=job,
    )
    return 5, "j can't be ended (process 9 can't be ended)"


def end_stuck(place):
    clock(place, 20)
    place.store.end([dc.Ending('t' * 32, the_job(place), 'done', 1, 'Success')])
    return 'j was ended after 15 min'


TROUBLES = [
    (make_late, run_it),
    (make_homeless, run_it),
    (make_slow, end_slow),
    (make_parked, mend_schedule),
    (make_away, come_back),
    (make_full, be_free),
    (make_stuck, end_stuck),
]


@pytest.mark.parametrize('begin, end', TROUBLES, ids=lambda f: f.__name__)
def test_each_trouble_and_its_end_are_told_once(at, mail, web, begin, end):
    minute, text = begin(at)
    assert look(at, minute) == []
    (subject,) = told_now(mail, web)
    assert subject.startswith('[cron] ' + text)
    assert look(at, minute + 1) == [] and told_now(mail, web) == []
    text = end(at)
    assert look(at, 20) == []
    (subject,) = told_now(mail, web)
    assert subject.startswith('[cron] ' + text)
    assert look(at, 21) == [] and told_now(mail, web) == []
    assert not at.sql('SELECT * FROM trouble')


def test_skips_are_told_once_an_hour_and_have_no_end(at, mail, web):
    look(at, 0)
    at.add('x', name='j', schedule='*/10 * * * *', start_within=2)
    at.store.plan(at.store.now())
    for minutes in range(13, 60, 10):
        clock(at, minutes)
        at.store.plan_late(at.store.now())
        look(at, minutes)
    assert told_now(mail, web) == [
        '[cron] j was skipped (at 12:10: not started within 2 min)'
    ]
    look(at, 110)
    assert at.sql('SELECT * FROM trouble')
    look(at, 114)
    look(at, 115)
    assert told_now(mail, web) == [] and not at.sql('SELECT * FROM trouble')


def test_what_is_paused_is_not_late(at, mail, web):
    at.add('x', name='j', frequency=60)
    at.add('x', name='k', frequency=60)
    at.store.plan(at.store.now())
    dc.pause_hosts(at.store, '*', NOON + timedelta(minutes=60), 'alice')
    dc.pause_job(at.store, the_job(at), NOON + timedelta(minutes=200), 'alice')
    look(at, 30)
    look(at, 69)
    assert told_now(mail, web) == []
    look(at, 71)
    assert [s.split()[1] for s in told_now(mail, web)] == ['k']


def test_a_pause_without_an_end_excuses_nothing(at, mail, web):
    """Somebody has written it with SQL; no host pauses by it."""
    make_late(at)
    at.store.change("INSERT INTO pause (target) VALUES ('*')")
    look(at, 15)
    assert [s.split()[1] for s in told_now(mail, web)] == ['j']


def test_what_waits_for_paused_hosts_alone_is_not_late(at, mail, web):
    at.add('x', name='j', frequency=60)
    at.add('x', name='k', frequency=60, run_on='db')
    at.add('x', name='l', frequency=60, run_on='one')
    at.store.plan(at.store.now())
    at.write(tags=['db'])
    for name in 'one', 'two':
        place = at.new_store(name)
        at.set_clock(dc.text_of(NOON), place)
        dc.update_host(place, name + '-1', 0, place.now())
        dc.pause_hosts(place, name, NOON + timedelta(minutes=60), 'alice')
    seen = '2026-05-20 13:09:00'
    at.store.execute('UPDATE host SET last_seen = :seen', seen=seen)
    look(at, 59)
    look(at, 69)
    assert told_now(mail, web) == []
    look(at, 71)
    assert told_now(mail, web) == [
        '[cron] j is late (due since 2026-05-20 12:00:00), and 2 more'
    ]


def test_a_row_that_makes_no_sense_keeps_no_other_from_being_told(sqlite_place, web):
    place = sqlite_place
    place.write(alert={'webhook': web.url})
    bad = {'frequency': 60, 'failures': 1, 'run_token': 'x', 'next_run_utc': 'soon'}
    for more in {'alert_after': 'x'}, {'last_end': 'x'}, {'last_start': '1'}:
        place.add('x', **{**bad, **more})
    place.add('x', frequency=1, run_on='100%s %', next_run_utc='2020-01-01 00:00:00')
    place.add('x', name='j', failures=1, next_run_utc='2050-01-01 00:00:00')
    place.run('alert')
    (text,) = texts(web)
    assert 'j is failing' in text and 'waits for tag 100%s %' in text


def test_removed_disabled_and_muted_jobs_are_not_called_well(at, mail, web):
    jobs = [at.add('x', name=name, frequency=60) for name in 'jkm']
    at.store.plan(at.store.now())
    for job in jobs:
        fail(at, job)
    look(at, 1)
    assert told_now(mail, web) == ['[cron] j is failing (exit 1 on alpha), and 2 more']
    at.run('remove', 'j')
    at.run('disable', 'k')
    at.run('edit', 'm', '--alert-after', '0')
    look(at, 2)
    (text,) = texts(web)
    assert 'job %d was removed after' % jobs[0] in text
    assert 'k was disabled after' in text and 'm is muted after' in text
    assert 'well' not in text


def test_the_worst_comes_first_in_one_message(at, mail, web):
    make_away(at)
    make_parked(at)
    job = at.add('x', name='l', frequency=60)
    clock(at, 5)
    at.store.plan(at.store.now())
    fail(at, job)
    look(at, 20)
    (text,) = texts(web)
    assert told_now(mail, web)[0].endswith(', and 2 more')
    assert text.index('beta') < text.index('l is failing') < text.index('j is parked')


def test_many_troubles_make_one_short_message(at, mail, web):
    for _ in range(300):
        at.add('x', frequency=60)
    at.store.plan(at.store.now())
    look(at, 15)
    (text,) = texts(web)
    assert 'And 280 more; see: distributed_cron.py list' in text and len(text) < 9000
    told_now(mail, web)
    look(at, 16)
    assert told_now(mail, web) == []


def test_alert_to_takes_the_place_of_mail(at, mail, web):
    jobs = [
        at.add('x', name='j', frequency=60),
        at.add('x', name='k', frequency=60, alert_to='kim@example.com'),
        at.add('x', name='l', frequency=60, alert_to='a@b\nBcc: c@d'),
    ]
    at.store.plan(at.store.now())
    for job in jobs:
        fail(at, job)
    look(at, 1)
    assert [recipients for recipients, _, _ in mail.mails] == [
        ['ops@example.com'],
        ['kim@example.com'],
    ]
    first, second = (text for _, _, text in mail.mails)
    assert 'j is failing' in first and 'l is failing' in first
    assert 'k is failing' in second and 'j is' not in second
    assert len(web.posted) == 1


def test_one_bad_address_keeps_nobody_from_his_mail(at, mail, web):
    for name, to in ('j', 'nobody@example.com'), ('k', 'kim@example.com'), ('l', None):
        job = at.add('x', name=name, frequency=60, alert_to=to)
        at.store.plan(at.store.now())
        fail(at, job)
    for minute in 1, 2:
        assert look(at, minute) == [
            'alert.mail: nobody@example.com: the server answers: 550, no such user'
        ]
    assert len(mail.mails) == 2


# Reminders, and the cap.


def test_reminders(at, mail, web):
    job = at.add('x', name='j', frequency=600)
    at.store.plan(at.store.now())
    fail(at, job)
    at.write(alert=settings(mail, web, remind_hours=2))
    for minute in range(0, 300, 30):
        look(at, minute)
    texts_ = [text for _, _, text in mail.mails]
    assert len(texts_) == 3
    assert not texts_[0].startswith('Still: ')
    assert texts_[1].startswith('Still: j is failing')


def test_the_cap_says_so_and_loses_nothing(at, mail, web):
    at.write(alert=settings(mail, web, per_day=2))
    jobs = [at.add('x', name=name, frequency=60) for name in 'jkl']
    at.store.plan(at.store.now())
    for minute, job in enumerate(jobs):
        clock(at, minute)
        fail(at, job)
        assert look(at, minute) == []
    first, second = (text for _, _, text in mail.mails)
    assert 'per_day' not in first
    assert 'message 2 of 2 today (alert.per_day)' in second
    assert told_now(mail, web) == [
        '[cron] j is failing (exit 1 on alpha)',
        '[cron] k is failing (exit 1 on alpha)',
    ]
    clock(at, 65)
    succeed(at, jobs[2])
    look(at, 70)
    assert told_now(mail, web) == []
    look(at, 12 * 60 + 1)
    assert len(mail.mails) == 1
    assert (
        'l is well again' in mail.mails[0][2]
        and 'was: l is failing' in mail.mails[0][2]
    )


# What fails.


def broken(mail, web, how, monkeypatch):
    monkeypatch.setattr(dc, 'SENDING', 1)
    if how == 'down':
        mail.stop()
    elif how == 'refuse_all':
        mail.how = 'refuse'
    else:
        mail.how = how


@pytest.mark.parametrize(
    'how, problem',
    [
        ('down', 'alert.mail: Connection refused'),
        ('hang', 'alert.mail: '),
        ('refuse', 'alert.mail: the server answers: 451, try again later'),
    ],
)
def test_a_mail_server_that_is_away_keeps_the_webhook_from_nothing(
    at, mail, web, monkeypatch, how, problem
):
    at.write(alert=settings(mail, web, ping=web.url + 'ping'))
    job = at.add('x', name='j', frequency=60)
    at.store.plan(at.store.now())
    fail(at, job)
    broken(mail, web, how, monkeypatch)
    for minute in 1, 2:
        (text,) = look(at, minute)
        assert text.startswith(problem)
    assert len(web.posted) == 1 and web.pings == 0 and not mail.mails
    clock(at, 60)
    succeed(at, job)
    assert look(at, 60)
    assert len(web.posted) == 2
    mail.how = 'take'
    if how == 'down':
        mail.start()
    monkeypatch.setattr(dc, 'SENDING', 30)
    assert look(at, 61) == [] and web.pings == 1
    assert len(web.posted) == 2
    (_, subject, text), *more = mail.mails
    assert not more and 'j is well again' in subject and 'j is failing' in text
    assert look(at, 62) == [] and len(mail.mails) == 1


@pytest.mark.parametrize('status', [302, 404, 500])
def test_a_webhook_that_fails_is_asked_again(at, mail, web, status):
    job = at.add('x', name='j', frequency=60)
    at.store.plan(at.store.now())
    fail(at, job)
    web.status = status
    text = 'alert.webhook: the server answers: %d, HTTP status' % status
    assert look(at, 1) == [text] and len(mail.mails) == 1
    web.status = 200
    assert look(at, 2) == []
    assert len(mail.mails) == len(web.posted) == 1


def test_a_mail_whose_answer_is_lost_comes_twice(at, mail, web):
    job = at.add('x', name='j', frequency=60)
    at.store.plan(at.store.now())
    fail(at, job)
    mail.how = 'vanish'
    assert look(at, 1)
    mail.how = 'take'
    assert look(at, 2) == [] and look(at, 3) == []
    assert len(mail.mails) == 2 and len(web.posted) == 1


class Steps:
    """Counts the steps of a pass: before and after each statement, and each message."""

    def __init__(self, monkeypatch, act):
        self.count, self.at_step, self.act = 0, None, act
        execute, senders = dc.Store.execute, dict(dc.SENDERS)

        def counted(store, *args, **values):
            self.step(store)
            cursor = execute(store, *args, **values)
            self.step(store)
            return cursor

        def sender(name):
            def send(config, message):
                self.step(None)
                problem = senders[name](config, message)
                self.step(None)
                return problem

            return send

        monkeypatch.setattr(dc.time, 'sleep', lambda _: None)
        monkeypatch.setattr(dc.Store, 'execute', counted)
        monkeypatch.setattr(dc, 'SENDERS', {name: sender(name) for name in senders})

    def step(self, store):
        self.count += 1
        if self.count == self.at_step:
            self.act(store)


def each_step(at, monkeypatch, mail, web, act):
    """Passes at each step of which something happens, as a trouble begins and as it ends;
    after each, one to which nothing happens."""
    at.write(alert=settings(mail, web, per_day=10000))
    job = at.add('x', name='j', frequency=1)
    at.store.plan(at.store.now())
    for number in range(1, 400):
        reached = 0
        for what in fail, succeed:
            minute = 10 * number + (5 if what is succeed else 0)
            clock(at, minute)
            what(at, job)
            reached += is_reached(at, monkeypatch, act, number, minute + 1)
            assert look(at, minute + 2) == []
            assert all(1 <= count <= 2 for count in told(mail, web, what)), number
        if not reached:
            assert number > 20
            return
    pytest.fail('no end')


def is_reached(at, monkeypatch, act, number, minute):
    """Make a pass, at a step of which something happens; returns whether it came so far."""

    def child():
        steps = Steps(monkeypatch, act)
        store = store_at(at, minute)
        steps.count, steps.at_step = 0, number
        with contextlib.suppress(dc.Problem):
            dc.alert_pass(store)
        return int(steps.count >= number)

    return exit_status(fork(child)) != 0


def told(mail, web, what):
    """How often each channel has told what has begun, or ended."""
    word = 'is failing' if what is fail else 'is well again'
    subjects = [subject for _, subject, _ in mail.mails], texts(web)
    counts = [len([s for s in some if word in s.split('\n')[0]]) for some in subjects]
    mail.mails.clear()
    web.posted.clear()
    return counts


def kill(_):
    os.kill(os.getpid(), signal.SIGKILL)


def cut(store):
    """Cut the connection to the database."""
    if store is None or store.connection is None:
        return
    connection = store.connection
    file = (
        connection._sock.fileno()
        if hasattr(connection, '_sock')
        else connection.fileno()
    )
    with socket.socket(fileno=os.dup(file)) as its:
        its.shutdown(socket.SHUT_RDWR)


def test_killed_at_each_step(at, mail, web, monkeypatch):
    each_step(at, monkeypatch, mail, web, kill)


def test_cut_from_the_database_at_each_step(at, mail, web, monkeypatch):
    if at.engine == 'sqlite':
        pytest.skip('there is no connection to cut')
    each_step(at, monkeypatch, mail, web, cut)


def test_what_has_ended_when_the_next_pass_comes_is_told_all_the_same(
    at, mail, web, monkeypatch
):
    """The first pass that sees it dies right after it has noted it."""
    job = at.add('x', name='j', frequency=1)
    at.store.plan(at.store.now())
    fail(at, job)

    def die(config, message):
        kill(None)

    def child():
        dc.SENDERS = dict.fromkeys(dc.SENDERS, die)
        dc.alert_pass(store_at(at, 1))

    assert exit_status(fork(child)) == -signal.SIGKILL
    clock(at, 2)
    succeed(at, job)
    assert look(at, 3) == []
    (text,) = texts(web)
    assert 'j is well again' in text and 'it was: j is failing (exit 1' in text


# Passwords.


@pytest.mark.parametrize('tls', ['starttls', 'tls'])
def test_mail_with_tls_and_login(sqlite_place, certificate, web, monkeypatch, tls):
    place = sqlite_place
    monkeypatch.setenv('SSL_CERT_FILE', certificate[0])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    options = {'auth_required': True}
    if tls == 'tls':
        options.update(ssl_context=context, auth_require_tls=False)
    else:
        options.update(tls_context=context, require_starttls=True)
    mail = MailServer(**options)
    how = {'smtp_username': 'cron', 'smtp_password_file': 'smtp.password'}
    place.write(alert=settings(mail, web, smtp_tls=tls, **how))
    password = os.path.join(place.folder, 'smtp.password')
    with open(password, 'w') as file:
        file.write(PASSWORD + '\n')
    out = place.run('alert', '--test')
    assert 'sent by mail ops@example.com' in out and 'sent by webhook' in out
    assert mail.mails[0][1] == '[cron] test from here'
    assert mail.logins == [('cron', PASSWORD)]
    with open(password, 'w') as file:
        file.write('Wrong-' + PASSWORD)
    out = place.run('alert', '--test', code=1, cwd=place.folder)
    assert 'alert.mail: the server answers: 535, the login is refused' in out
    assert PASSWORD not in out
    monkeypatch.delenv('SSL_CERT_FILE')
    out = place.run('alert', '--test', code=1, cwd=place.folder)
    assert 'alert.mail: ' in out and 'CERTIFICATE' in out.upper()
    mail.stop()


def test_no_password_goes_over_the_network_in_clear(sqlite_place, web):
    mail = SimpleAddress('mail.example.com:25')
    how = {'smtp_username': 'cron', 'smtp_password_file': 'smtp.password'}
    sqlite_place.write(alert=settings(mail, web, **how))
    out = sqlite_place.run('alert', '--test', code=1, cwd=sqlite_place.folder)
    assert 'a login without alert.smtp_tls shows the password to others' in out


class SimpleAddress:
    def __init__(self, address):
        self.address = address


def test_no_secret_is_in_a_log_or_the_process_list(place, mail, web):
    mail.how = 'hang'
    web.status = 500
    place.write(
        alert=settings(
            mail,
            web,
            ping=web.url + PASSWORD,
            smtp_username='cron',
            smtp_password_file='p',
            command='cat >/dev/null; sleep 1',
        )
    )
    with open(os.path.join(place.folder, 'p'), 'w') as file:
        file.write(PASSWORD)
    place.run('init')
    place.store.change("UPDATE job SET schedule = NULL, frequency = 1")
    job = place.add('exit 3', name='j', frequency=60)
    place.worker('one')
    wait_until(lambda: place.job(job).failures == 1)
    place.run('run-now', 'alert')
    wait_until(lambda: mail.logins or processes_of('sleep 1'))
    assert not processes_of(PASSWORD)
    wait_until(lambda: place.job(1).last_status.startswith('ERROR'), 60)
    names = os.listdir(place.folder + '/log')
    logs = [place.read('log/' + name) for name in names if name.endswith('.log')]
    logs += [str(run.output) for run in place.runs()]
    assert 'alert.webhook' in ''.join(logs) and PASSWORD not in ''.join(logs)


# The job.


def test_nothing_configured_nothing_sent(place):
    place.run('init')
    assert not place.sql("SELECT 1 FROM job WHERE name = 'alert'")
    assert 'nothing is told' in place.run('alert', code=2)
    assert 'ok   alerts: none are configured: nothing is told' in check(place)


def check(place):
    return place.run('check', code=1)


def test_check_says_whether_somebody_is_told(sqlite_place, mail, web):
    place = sqlite_place
    place.write(alert=settings(mail, web))
    assert 'bad  alerts: nothing is told: there is no job named alert' in check(place)
    place.run('init')
    place.run('init')
    assert len(place.sql("SELECT 1 FROM job WHERE name = 'alert'")) == 1
    assert 'ok   alerts: by alert.mail, alert.smtp, alert.webhook' in check(place)
    place.run('disable', 'alert')
    assert 'bad  alerts: nothing is told: job 1 is disabled' in check(place)
    place.run('enable', 'alert')
    place.store.change("UPDATE job SET last_status = 'ERROR: exit 1'")
    assert 'bad  alerts: job 1, alert: its last run: ERROR: exit 1' in check(place)


def test_it_runs_its_own_command_when_all_is_full_and_paused(place, mail, web):
    place.write(max_tasks=1, alert=settings(mail, web, ping=web.url))
    place.run('init')
    stolen = os.path.join(place.folder, 'stolen')
    place.store.change('UPDATE job SET command = :steal', steal='touch ' + stolen)
    blocker = place.add('sleep %s' % place.mark, frequency=60, max_run_time=50)
    failed = place.add('exit 3', name='j', frequency=60, run_requested=1)
    place.worker('one')
    wait_until(lambda: place.job(failed).failures or place.job(blocker).run_token)
    place.store.change('UPDATE job SET failures = 1 WHERE id = :id', id=failed)
    place.run('pause')
    waiting = place.add('true', frequency=60, run_requested=1)
    wait_until(lambda: place.job(blocker).run_token)
    place.store.change('UPDATE job SET next_run_utc = {utc} WHERE id = 1')
    wait_until(lambda: web.posted and web.pings)
    assert 'j is failing' in web.posted[0]['text'] and len(mail.mails) == 1
    wait_until(lambda: place.job(1).last_status == 'Success')
    assert not os.path.exists(stolen)
    assert place.job(waiting).run_no == 0


def test_hosts_without_alerts_leave_it_alone(place, mail, web):
    place.write(alert=settings(mail, web))
    place.run('init')
    place.write(alert={})
    place.store.change('UPDATE job SET schedule = NULL, frequency = 1')
    job = place.add('true', frequency=60)
    place.worker('one')
    wait_until(lambda: place.job(job).last_status == 'Success')
    for _ in range(20):
        time.sleep(0.05)
    assert place.job(1).run_no == 0
    look_ = place.new_store('one').look()
    assert look_.alert == 1 and not look_.alert_due and look_.due_in > 60


def test_alert_runs_do_not_take_a_slot(place, mail, web):
    """A mail server that hangs delays no job."""
    mail.how = 'hang'
    place.write(max_tasks=1, alert=settings(mail, web))
    place.run('init')
    job = place.add('exit 3', frequency=60)
    place.worker('one')
    wait_until(lambda: place.job(job).failures == 1)
    place.run('run-now', 'alert')
    wait_until(lambda: web.posted)
    other = place.add('true', frequency=60)
    wait_until(lambda: place.job(other).last_status == 'Success', 5)
    assert place.job(1).run_token


def test_sendmail_and_command(sqlite_place, monkeypatch):
    place = sqlite_place
    folder = place.folder
    with open(os.path.join(folder, 'sendmail'), 'w') as file:
        file.write('#!/bin/sh\necho "$@" >%s/args; cat >%s/mail\n' % (folder, folder))
    os.chmod(file.name, 0o755)
    monkeypatch.setenv('PATH', '%s:%s' % (folder, os.environ['PATH']))
    place.write(alert={'mail': 'ops@example.com', 'command': 'cat >%s/json' % folder})
    place.run('alert', '--test')
    assert place.read('args') == '-t -oi\n'
    text = place.read('mail')
    assert 'To: ops@example.com' in text and 'From: distributed_cron@here' in text
    assert json.loads(place.read('json'))['text'].startswith('[cron] test from here')
    place.write(alert={'command': 'exit 3'})
    assert 'alert.command: exit 3' in place.run('alert', '--test', code=1)


def test_a_command_that_hangs_is_ended_whole(sqlite_place, monkeypatch):
    place = sqlite_place
    monkeypatch.setattr(dc, 'SENDING', 1)
    place.write(alert={'command': 'sleep %s | cat' % place.mark})
    out = place.run('alert', '--test', code=1)
    assert 'alert.command: signal 9 (SIGKILL)' in out
    assert not processes_of(place.mark)


@pytest.mark.parametrize('engine', ['sqlite', 'mysql'])
def test_it_reads_only_what_is_wrong(request, mail, web, engine):
    """Of many jobs of which nothing is wrong, no row."""
    place = request.getfixturevalue(engine + '_place')
    place.write(alert=settings(mail, web))
    place.run('init')
    rows = [('x', 60, 'Success', '2050-01-01 00:00:00')] * 5000
    text = 'INSERT INTO job (command, frequency, last_status, next_run_utc) VALUES (%s)'
    marks = ', '.join([{'sqlite': '?', 'mysql': '%s'}[engine]] * 4)
    place.store.connection.cursor().executemany(text % marks, rows)
    place.add('x', name='j', frequency=60, failures=1, next_run_utc='2050-01-01')
    store = place.new_store()
    steps = []
    if engine == 'sqlite':
        store.connection.set_progress_handler(lambda: steps.append(1), 100)

    def rows_read():
        rows = place.sql("SHOW GLOBAL STATUS LIKE 'Handler_read%'")
        return sum(int(value) for _, value in rows)

    before = rows_read() if engine == 'mysql' else 0
    assert dc.alert_pass(store) == []
    if engine == 'mysql':
        assert rows_read() - before < 1000
    assert len(steps) < 100
    assert 'j is failing' in web.posted[0]['text']


@pytest.mark.parametrize(
    'values, text',
    [
        ({'mail': 'ops'}, 'alert.mail: '),
        ({'mail': ['a@b', 'c@d\nBcc: e@f']}, 'alert.mail: '),
        ({'smtp': 'mail.example.com'}, 'allowed: host:port'),
        ({'smtp_tls': True}, 'allowed: one of: starttls, tls, no'),
        ({'webhook': 'ftp://h/' + PASSWORD}, 'alert.webhook: this is not allowed'),
        ({'ping': 'https://h/ ' + PASSWORD}, 'alert.ping: this is not allowed'),
        ({'per_day': 0}, 'alert.per_day: 0'),
    ],
)
def test_bad_settings(sqlite_place, values, text):
    sqlite_place.write(alert=values)
    out = sqlite_place.run('list', code=2)
    assert text in out and PASSWORD not in out


def test_mailto_of_a_crontab(sqlite_place):
    """It is for the entries below it, if it is an address."""
    file = os.path.join(sqlite_place.folder, 'crontab')
    with open(file, 'w') as stream:
        stream.write('0 1 * * * a\nMAILTO=kim@example.com\n0 2 * * * b\n')
        stream.write('MAILTO="root"\n0 3 * * * c\n')
    sqlite_place.run('import', file)
    rows = sqlite_place.sql('SELECT command, alert_to FROM job ORDER BY id')
    assert list(map(tuple, rows)) == [
        ('a', None),
        ('b', 'kim@example.com'),
        ('c', None),
    ]
