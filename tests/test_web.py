"""The web page as a WSGI application: every request under wsgiref's validator."""

import contextlib
import html
import io
import itertools
import json
import os
import random
import re
import stat
import subprocess
import sys
import threading
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from urllib.parse import urlencode
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from conftest import ROOT, dc

sys.path.insert(0, ROOT)
from web import pages, queries, request, search

Answer = namedtuple('Answer', 'status headers text')
HOST = 'cron.example.com'
EVIL = '\'"><xss onload=alert(1)>&lt;</textarea></title><script>alert(1)</script>'
COLUMNS = {
    'description': 'tidy up',
    'command': 'echo x',
    'kind': 'frequency',
    'frequency': '60',
    'schedule': '',
    'start_anchor': '',
    'stop_anchor': '',
    'max_run_time': '10',
    'active': '1',
}


class Browser:
    """Asks as a browser does, through a web server that has checked the login."""

    def __init__(self, place, user='alice', alone=None, prefix='/cron', host=HOST):
        if isinstance(alone, str):  # an address, of whose key it has the cookie
            alone = request.Alone(alone, alone, 'key' * request.is_loopback(alone))
        self.app = validator(pages.Application(place.file, 'here', alone))
        self.user, self.prefix, self.host, self.cookies = user, prefix, host, {}
        if alone and alone.key == 'key':
            self.cookies[request.KEY + '80'] = 'key'
        self.errors = ''

    def ask(self, path='/', method='GET', body=b'', **environ):
        path, _, query = path.partition('?')
        given = {
            'REQUEST_METHOD': method,
            'PATH_INFO': path,
            'QUERY_STRING': query,
            'SCRIPT_NAME': self.prefix,
            'HTTP_HOST': self.host,
            'REMOTE_ADDR': '192.0.2.7',
            'wsgi.input': io.BytesIO(body),
            'SERVER_PROTOCOL': 'HTTP/1.1',
        }
        if self.user:
            given['REMOTE_USER'] = self.user
        if self.cookies:
            given['HTTP_COOKIE'] = '; '.join(
                '%s=%s' % pair for pair in self.cookies.items()
            )
        if body or method == 'POST':
            given.update(
                CONTENT_LENGTH=str(len(body)),
                CONTENT_TYPE='application/x-www-form-urlencoded',
            )
        given.update(environ)
        given = {name: value for name, value in given.items() if value is not None}
        setup_testing_defaults(given)
        return self.answer(given)

    def answer(self, environ):
        seen = []

        def start(status, headers, exc_info=None):
            seen[:] = status, headers
            return lambda data: None

        stderr = io.StringIO()
        with contextlib.redirect_stderr(stderr):
            parts = self.app(environ, start)
            data = b''.join(parts)
            getattr(parts, 'close', list)()
        self.errors = stderr.getvalue()
        status, headers = seen
        for name, value in headers:
            if name == 'Set-Cookie':
                name, _, value = value.partition(';')[0].partition('=')
                self.cookies[name] = value
        return Answer(int(status[:3]), dict(headers), data.decode())

    def get(self, path='/', status=200, **environ):
        answer = self.ask(path, **environ)
        assert answer.status == status, (path, answer, self.errors)
        return answer.text

    def token(self):
        return re.search('name="csrf" value="([0-9a-f]{64})"', self.get('/job/add'))[1]

    def post(self, path, came='/', **fields):
        """Fill in a form of a page and send it."""
        environ = {
            name: fields.pop(name)
            for name in list(fields)
            if name.isupper() or '.' in name
        }
        if 'csrf' not in fields:
            fields['csrf'] = self.token()
        origin = 'http://%s' % self.host
        return self.ask(
            path,
            'POST',
            urlencode(fields).encode(),
            **{
                'HTTP_ORIGIN': origin,
                'HTTP_REFERER': origin + self.prefix + came,
                **environ,
            },
        )

    def change(self, path, came='/', **fields):
        """As post, and follow to the page that comes next: where it is, its text."""
        answer = self.post(path, came, **fields)
        assert answer.status == 303, (answer, self.errors)
        where = answer.headers['Location']
        assert where.startswith(self.prefix + '/')
        return where, self.get(where[len(self.prefix) :])


class Page(HTMLParser):
    """A page as a tree must be: balanced, ids once, nothing that a script could be."""

    EMPTY = {'meta', 'link', 'input', 'br'}

    def __init__(self, text):
        super().__init__()
        self.stack, self.links, self.ids, self.inputs = [], [], [], {}
        self.shown, self.rows = [], 0
        assert text.startswith('<!DOCTYPE html>')
        self.feed(text)
        self.close()
        assert self.stack == [], self.stack
        assert len(self.ids) == len(set(self.ids)), self.ids

    def handle_starttag(self, tag, attributes, closed=False):
        assert len(attributes) == len(dict(attributes)), (tag, attributes)
        for name, value in attributes:
            assert not name.startswith('on') and name != 'style', (tag, name)
            if name in ('href', 'src', 'action', 'formaction'):
                assert value.startswith(('/cron/', '#')), value
                self.links.append(value)
            if name == 'id':
                self.ids.append(value)
        assert tag not in ('style', 'iframe', 'object', 'base', 'xss'), tag
        if tag == 'script':
            assert dict(attributes)['src'].startswith('/cron/static/script.js')
        if tag == 'input':
            self.inputs[dict(attributes).get('name')] = dict(attributes)
        if tag not in self.EMPTY and not closed:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes, closed=True)

    def handle_endtag(self, tag):
        assert self.stack and self.stack.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        assert self.stack[-1:] != ['script'] or not data.strip()
        self.shown.append(data)


def add_history(place, job, count, status='Success', worker='here-7', **more):
    """Runs of a job, the last of which ended a minute ago."""
    local = dc.moment(place.sql('SELECT {local}')[0][0])
    rows = []
    for number in range(1, count + 1):
        end = local - (count - number + 1) * dc.MINUTE
        start = end - dc.SECOND
        rows.append(
            {
                **{
                    'job_id': job,
                    'run_no': number,
                    'due_utc': None,
                    'started_at': dc.text_of(start),
                    'ended_at': dc.text_of(end),
                    'duration_ms': 1000,
                    'worker': worker,
                    'status': status,
                    'exit_code': 0,
                    'output': 'line %d\n' % number,
                },
                **more,
            }
        )
    place.store.upsert('run', [dc.Run(**row) for row in rows])
    last = rows[-1]
    place.store.change(
        'UPDATE job SET run_no = :count, last_start = :start, claimed_start = :start, '
        'last_end = :end, last_status = :status, last_worker = :worker WHERE id = :job',
        count=count,
        start=last['started_at'],
        end=last['ended_at'],
        status=status,
        worker=worker,
        job=job,
    )


def start_run(place, job, worker='here-7'):
    """A job as it is while it runs."""
    place.store.change(
        '''UPDATE job SET run_no = run_no + 1, run_token = 't',
        last_start = {local}, claimed_start = {local}, last_worker = :worker,
        run_deadline_utc = :deadline WHERE id = :job''',
        worker=worker,
        deadline=dc.text_of(place.store.now() + 9 * dc.MINUTE),
        job=job,
    )


def see_host(place, name, when, worker='here-7', version='1.0'):
    """A host as it was last seen."""
    place.store.upsert('host', [dc.Host(name, when, worker, version, 4, 1, -12)])


def tables(place):
    """All that is in the database."""
    return [
        place.sql('SELECT * FROM %s ORDER BY 1, 2' % name)
        for name in ('job', 'run', 'host')
    ]


def varied(place):
    """A job in each state, with a history, and names that are hard to print."""
    now = place.store.now()
    for values in (
        {'description': EVIL, 'command': EVIL, 'schedule': '0 4 * * *'},
        {'description': 'runs', 'frequency': 10},
        {'active': 0, 'description': 'off'},
        {'description': 'late', 'next_run_utc': dc.text_of(now - 9 * dc.MINUTE)},
        {
            'description': 'windowed',
            'start_anchor': '22:00:00',
            'stop_anchor': '04:00:30',
        },
        {'description': '', 'command': 'two\nlines  and a long ' + 'tail ' * 100},
        {'description': 'fails'},
        {'description': 'is lost'},
        {'description': 'parked', 'next_run_utc': '9999-12-31 00:00:00'},
        {'description': '\u202eturned \x1b[1m', 'command': 'a\x07b'},
    ):
        place.add(
            **{
                'command': 'true',
                'next_run_utc': dc.text_of(now + dc.DAY + 9 * dc.MINUTE),
                **values,
            }
        )
    add_history(place, 1, 130, EVIL[:99], EVIL[:90] + '-7', output=EVIL)
    add_history(place, 2, 3)
    add_history(place, 7, 25, 'ERROR: exit 3', exit_code=3)
    add_history(place, 8, 1, dc.LOST, duration_ms=None, exit_code=None)
    start_run(place, 2)
    see_host(place, 'here', place.sql('SELECT {local}')[0][0])
    see_host(place, 'x' + EVIL, None, EVIL, EVIL[:30])


# What is shown.


def test_all_pages_are_reached_by_links_and_are_well_formed(place):
    varied(place)
    browser, done = Browser(place), set()
    waiting = [
        '/cron/',
        '/cron/preview?kind=frequency&frequency=7',
        '/cron/?sort=next_run_utc',
    ]
    while waiting:
        link = waiting.pop()
        path = link.partition('#')[0]
        if path in done or re.search(
            '/(run-now|stop|enable|disable|pause|resume)$', path
        ):
            continue
        done.add(path)
        answer = browser.ask(path.removeprefix('/cron'))
        assert answer.status == 200, (link, answer, browser.errors)
        kind = answer.headers['Content-Type']
        assert browser.errors == ''
        if kind.startswith('text/html') and 'preview' not in path:
            page = Page(answer.text)
            waiting += page.links
            assert '<xss' not in answer.text and '\x1b' not in answer.text
            assert '\u202e' not in answer.text
    assert (
        len(done) > 100
        and {
            '/cron/hosts',
            '/cron/job/add',
            '/cron/job/9/edit',
            '/cron/run/1/77',
            '/cron/job/4/delete',
        }
        <= done
    )
    for name, words in (('state', queries.STATES), ('sort', queries.SORTS)):
        assert {'/cron/?' + urlencode({name: word}) for word in words} <= done


def test_the_list_shows_a_job(place):
    varied(place)
    text = Browser(place).get()
    row = re.search(r'(?s)<tr data-job="7".*?</tr>', text)[0]
    for part in (
        'error',
        'fails',
        'every hour',
        'ERROR: exit 3',
        'here-7',
        'in 24 h',
        'aria-label="20 runs: 20 error"',
        '/cron/job/7/run-now',
        '/cron/job/7/disable',
        '/cron/job/7/edit',
        '/cron/job/7/delete',
    ):
        assert part in row, part
    assert 'value="stop"' not in row
    row = re.search(r'(?s)<tr data-job="2".*?</tr>', text)[0]
    assert 'value="stop"' in row and 'value="run-now"' not in row
    assert '>running now</a>' in row
    row = re.search(r'(?s)<tr data-job="3".*?</tr>', text)[0]
    assert 'value="enable"' in row and 'disabled' in row
    assert '0 4 * * *' in text and 'at 04:00' in text and '22:00 to 04:00' in text
    assert '9 min late' in text and 'never' in text
    assert 'failing.svg' in re.search('<link rel="icon".*?href="(.*?)"', text)[1]
    place.store.change('DELETE FROM job WHERE id IN (1, 4, 7, 8)')
    text = Browser(place).get()
    assert 'ok.svg' in re.search('<link rel="icon".*?href="(.*?)"', text)[1]


def test_fifty_jobs_are_a_small_page(sqlite_place):
    for job in range(1, 51):
        sqlite_place.add('/usr/local/bin/job --number %d' % job, description='job')
        add_history(sqlite_place, job, 30, ('Success', 'ERROR: exit 1')[job % 2])
    text = Browser(sqlite_place).get()
    assert text.count('<tr data-job=') == text.count('aria-label="20 runs: 20 ') == 50
    assert len(text) < 120000


def test_states_are_the_same_in_sql_and_python(place):
    now = place.store.now().replace(microsecond=0)
    past, edge, future = (
        dc.text_of(now + seconds * dc.SECOND) for seconds in (-99, -60, 99)
    )
    rows = itertools.product(
        (None, 't'),
        (None, past, dc.text_of(now), future),
        (0, 1),
        (0, 1),
        (None, past, edge, future),
        ('Success', 'ERROR: lost: x', 'ERROR: exit 1', 'ERRO', 'Never ran.'),
    )
    names = (
        'run_token',
        'run_deadline_utc',
        'active',
        'run_requested',
        'next_run_utc',
        'last_status',
    )
    with place.store.transaction():
        for row in rows:
            place.store.insert('job', dict(zip(names, row)))
        more = itertools.product((0, 1), (None, past, future), (0, 1), (None, past))
        for each_host, until, asked, due in more:
            place.add(
                each_host=each_host,
                paused_until_utc=until,
                run_requested=asked,
                next_run_utc=due,
            )
    expected = {state: [] for state in queries.STATES}
    for job in place.sql('SELECT * FROM job ORDER BY id'):
        expected[dc.state_of(job, now)].append(job.id)
    assert all(expected.values())
    assert queries.counts(place.store, now) == {
        state: len(ids) for state, ids in expected.items()
    }
    for state, ids in expected.items():
        jobs = queries.jobs(place.store, now, search.ALL, state, 'id', 'asc', 0, 1000)
        assert [job.id for job in jobs] == ids


def jobs_of(text):
    return [int(id) for id in re.findall('<tr data-job="([0-9]+)"', text)]


def test_search_sort_and_pages(place):
    browser = Browser(place)
    with place.store.transaction():
        for number in range(1, 121):
            place.add(
                'run 100%% of_%d!' % number,
                description='Job %03d' % (200 - number),
                frequency=number,
            )
    assert jobs_of(browser.get()) == [*range(1, 51)]
    assert jobs_of(browser.get('/?page=3')) == [*range(101, 121)]
    assert jobs_of(browser.get('/?page=99')) == [*range(101, 121)]
    assert jobs_of(browser.get('/?sort=description'))[:2] == [120, 119]
    assert jobs_of(browser.get('/?sort=description&order=desc'))[:2] == [1, 2]
    assert jobs_of(browser.get('/?search_string=OB+081')) == [119]
    assert jobs_of(browser.get('/?search_string=of_12!')) == [12]
    assert jobs_of(browser.get('/?search_string=081+run+JOB')) == [119]  # all words
    assert jobs_of(browser.get('/?search_string=119+job')) == [81, 119]  # and an id
    assert jobs_of(browser.get('/?search_string=100%25+of')) == [*range(1, 51)]
    assert jobs_of(browser.get('/?search_string=0%25%25')) == []
    assert jobs_of(browser.get('/?search_string=o__')) == []
    assert jobs_of(browser.get('/?search_string=job+177')) == [23]
    assert jobs_of(browser.get('/?state=disabled')) == []
    text = browser.get('/?search_string=job&state=ok&sort=description&page=2')
    page = Page(text)
    assert page.inputs['search_string']['value'] == 'job'
    assert any(
        'search_string=job' in link and 'page=1' in link and 'sort=description' in link
        for link in page.links
    )
    place.store.change(
        'UPDATE job SET last_start = :start WHERE id = 9', start='2020-01-01 00:00:00'
    )
    for order in '', '&order=desc':  # those without the value come last
        assert jobs_of(browser.get('/?sort=last_start' + order))[0] == 9
    for sort in queries.SORTS:
        assert len(jobs_of(browser.get('/?sort=%s&order=desc' % sort))) == 50


def test_runs_are_paged_by_number(place):
    browser, job = Browser(place), place.add()
    add_history(place, job, 120)
    place.store.change('DELETE FROM run WHERE run_no = 100')
    runs = re.findall('<td><a href="/cron/run/1/([0-9]+)"', browser.get('/job/1'))
    assert runs == [str(number) for number in range(120, 70, -1) if number != 100]
    assert '/cron/run/1/20"' in browser.get('/job/1?page=3')
    assert '/cron/run/1/1"' in browser.get('/job/1?page=3')
    assert '/cron/run/1/1"' in browser.get('/job/1?page=9')
    assert 'holds no run' in browser.get('/job/%d' % place.add())


def test_a_run_and_its_log(place):
    browser, job = Browser(place), place.add('echo <b>')
    add_history(
        place, job, 2, 'ERROR: exit 3', 'there-9', output='<i>ended</i>', exit_code=3
    )
    assert 'Note' not in browser.get('/run/1/2')
    place.store.change("UPDATE run SET note = '6 min late: <b>' WHERE run_no = 2")
    text = browser.get('/run/1/2')
    assert '<span class="note">6 min late: &lt;b&gt;</span>' in text
    assert '&lt;i&gt;ended' in text and 'ERROR: exit 3' in text
    assert '1.log in the log folder of there' in text
    assert browser.get('/run/1/2/log') == '<i>ended</i>'
    assert browser.ask('/run/1/2/log').headers['X-Run-State'] == 'ended'
    start_run(place, job)
    assert browser.get('/run/1/3/log') == ''  # until its host has seen that we ask
    place.store.change("UPDATE live SET output = 'first <1>\n'")
    assert 'first &lt;1&gt;\n' in browser.get('/run/1/3')
    answer = browser.ask('/run/1/3/log')
    assert answer.text == 'first <1>\n'
    assert answer.headers['X-Run-State'] == 'running'
    assert answer.headers['Content-Type'].startswith('text/plain')
    for path in ('/run/1/4', '/run/1/4/log', '/run/9/1', '/run/9/1/log'):
        assert browser.ask(path).status == 404


def test_a_run_in_progress_is_shown_also_if_nobody_may_ask_its_host(sqlite_place):
    """Then without what it has written."""
    place = sqlite_place
    job = place.add('echo seen')
    start_run(place, job)
    place.store.execute('''CREATE TRIGGER refuses BEFORE INSERT ON live
        BEGIN SELECT RAISE(ABORT, 'no'); END''')
    assert 'echo seen' in Browser(place).get('/run/1/1')


def test_hosts(place):
    varied(place)
    text = Browser(place).get('/hosts')
    Page(text)
    assert 'class="lanes"' in text and '-12 ms' in text
    row = re.search(
        r'(?s)<tr class="[a-z]*">\s*<th scope="row"><a [^>]*>here</a>.*?</tr>', text
    )[0]
    numbers = re.findall('>([0-9 of]+)<', row)
    assert numbers == ['1 of 4', '29', '26'], numbers  # runs now and of 24 h, failures


# Forms.


def test_add_edit_and_delete_a_job(place):
    browser = Browser(place)
    where, text = browser.change('/job/add', **COLUMNS, action='save')
    assert where == '/cron/job/1' and 'Job 1 added.' in text and 'tidy up' in text
    job = place.job(1)
    assert (
        job.description,
        job.command,
        job.frequency,
        job.max_run_time,
        job.active,
        job.schedule,
        job.start_anchor,
    ) == ('tidy up', 'echo x', 60, 10, 1, None, None)
    assert 'Job 1 added.' not in browser.get('/job/1')  # it is said once
    page = Page(browser.get('/job/1/edit'))
    assert page.inputs['frequency']['value'] == '60'
    assert page.inputs['max_run_time']['value'] == '10'
    new = dict(
        COLUMNS,
        command='echo "ü"\r\ndate',
        kind='schedule',
        schedule='5 4 * * sun',
        start_anchor='04:00',
        stop_anchor='05:00',
        max_run_time='90',
    )
    where, text = browser.change('/job/1/edit', **new, action='save')
    job = place.job(1)
    assert (
        job.command,
        job.schedule,
        job.frequency,
        job.start_anchor[:5],
        job.max_run_time,
    ) == ('echo "ü"\ndate', '5 4 * * sun', 60, '04:00', 90)
    place.store.change("UPDATE job SET next_run_utc = '2099-01-01 00:00:00'")
    _, text = browser.change('/job/1/edit', **new, action='save')
    assert 'Job 1 is unchanged.' in text and place.job(1).next_run_utc  # its plan stays
    _, text = browser.change('/job/1/edit', **{**new, 'description': ''}, action='save')
    assert place.job(1).description == '' and place.job(1).next_run_utc
    text = browser.get('/job/1/delete')
    assert 'Delete job 1?' in text and place.sql('SELECT * FROM job')
    where, text = browser.change('/job/1/delete', action='delete')
    assert (
        where == '/cron/'
        and 'Job 1 removed.' in text
        and not place.sql('SELECT * FROM job')
    )
    for path in ('/job/1', '/job/1/edit', '/job/1/delete'):
        assert browser.ask(path).status == 404
    for path in ('/job/1/edit', '/job/1/delete', '/job/1/run-now', '/job/1/stop'):
        assert browser.post(path, **COLUMNS).status == 404


def test_a_job_that_is_deleted_parks_those_that_run_after_it(place):
    first = place.add(schedule='0 0 1 1 *')
    second = place.add(after_job=first)
    place.store.plan(place.store.now())
    Browser(place).change('/job/%d/delete' % first, action='delete')
    place.store.plan(place.store.now())
    assert 'there is no such job' in place.job(second).last_status


def test_what_is_not_filled_in_takes_what_is_usual(place):
    browser = Browser(place)
    browser.change(
        '/job/add',
        **{**COLUMNS, 'description': '', 'max_run_time': '', 'active': ''},
        action='save',
    )
    browser.change(
        '/job/add',
        **{
            **COLUMNS,
            'kind': 'schedule',
            'schedule': '@daily',
            'max_run_time': '',
            'frequency': 'x',
        },
        action='save',
    )
    one, two = place.job(1), place.job(2)
    assert (one.description, one.max_run_time, one.active) == (
        'Yet another cron',
        30,
        0,
    )
    assert (two.schedule, two.max_run_time, two.frequency) == ('@daily', 60, 60)


def test_a_form_has_a_field_for_each_column(sqlite_place):
    text = Browser(sqlite_place).get('/job/add')
    page = Page(text)
    for column in dc.COLUMNS:
        label = '<label for="%s">%s</label>' % (column.name, html.escape(column.label))
        assert column.label and label in text
        assert column.name in page.ids


@pytest.mark.parametrize(
    'field, value, part',
    [
        ('command', '', 'empty'),
        ('command', 'x' * 12001, '12000'),
        ('description', 'x' * 256, '255'),
        ('description', 'two\nlines', 'one line'),
        ('frequency', '0', 'from 1'),
        ('frequency', '5256001', '1 to 5256000'),
        ('frequency', 'often', 'number of minutes'),
        ('frequency', '', 'number of minutes'),
        ('frequency', '9999999999', 'number'),
        ('schedule', '61 * * * *', '0-59'),
        ('schedule', '', 'expression'),
        ('schedule', '0 0 31 2 *', 'never matches'),
        ('start_anchor', '9:00', '00:00 to 23:59'),
        ('stop_anchor', '24:01', '00:00 to 23:59'),
        ('max_run_time', '60', '1 to 59'),
        ('max_run_time', '-1', 'number of minutes'),
        ('start_anchor', EVIL, '00:00 to 23:59'),
        ('max_run_time', '0', 'from 1'),
    ],
)
def test_an_error_stands_beside_its_field_and_what_was_typed_stays(
    sqlite_place, field, value, part
):
    browser = Browser(sqlite_place)
    fields = {**COLUMNS, 'description': 'typed & kept', field: value}
    if field == 'schedule':
        fields['kind'] = 'schedule'
    for path in '/job/add', '/job/%d/edit' % sqlite_place.add():
        before = tables(sqlite_place)
        answer = browser.post(path, **fields, action='save')
        assert answer.status == 422
        text = html.unescape(
            re.search(
                '<span class="error" id="%s-error">(.*?)</span>' % field, answer.text
            )[1]
        )
        assert part in text, text
        page = Page(answer.text)
        if field not in ('command', 'description'):
            assert page.inputs[field]['value'] == value
            assert page.inputs[field]['aria-invalid'] == 'true'
        if field != 'description':
            assert page.inputs['description']['value'] == 'typed & kept'
        assert tables(sqlite_place) == before


def test_preview_of_a_job_with_its_own_zone(place):
    browser = Browser(place)
    query = '/preview?kind=schedule&schedule=30+2+*+*+*&time_zone='
    text = browser.get(query + 'Pacific/Kiritimati')
    assert 'at 02:30, Pacific/Kiritimati' in text and '>Pacific/Kiritimati</th>' in text
    assert '02:30:00</td>' in text and '12:30:00</td>' in text  # there, and UTC
    text = browser.get(query + 'nowhere')
    assert ' is unknown; the nearest known is ' in text


def test_preview(place):
    browser = Browser(place)
    fields = {**COLUMNS, 'kind': 'schedule', 'schedule': '30 2 * * *'}
    before = tables(place)
    for text in (
        browser.post('/job/add', **fields, action='preview').text,
        browser.get('/preview?kind=schedule&schedule=30+2+*+*+*'),
    ):
        assert 'at 02:30' in text
        times = re.findall(r'<td>(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)</td>', text)
        assert len(times) == 10
        local, utc = times[::2], times[1::2]
        assert all(time.endswith('02:30:00') for time in local) and len(set(local)) == 5
        zone = place.store.zone
        assert [dc.text_of(zone.local(dc.moment(time))) for time in utc] == local
    assert 'class="error"' in browser.get('/preview?kind=schedule&schedule=x')
    text = browser.get('/preview?kind=frequency&frequency=0')
    assert 'class="error"' in text and 'Minutes from start to start: ' in text
    assert 'every 7 minutes, 22:00 to 24:00' in browser.get(
        '/preview?kind=frequency&frequency=7&start_anchor=22%3A00'
    )
    job = place.add(frequency=60)
    place.store.change('UPDATE job SET last_start = {local}, claimed_start = {local}')
    text = browser.get('/preview?kind=frequency&frequency=7&id=%d' % job)
    assert re.search('(?s)in [67] min.*in 1[34] min', text), text  # from its last start
    assert (
        tables(place)[1:] == before[1:]
        and Browser(place, None).ask('/preview?kind=schedule').status == 403
    )


def test_buttons_do_what_they_say_and_lead_back(place):
    browser, job = Browser(place), place.add(next_run_utc='2099-01-01 00:00:00')
    where, text = browser.change('/job/1/disable', '/?state=failing&page=2')
    assert where == '/cron/?state=failing&page=2' and place.job(1).active == 0
    assert 'Job 1 disabled.' in text
    where, text = browser.change('/job/1/enable', '/job/1?page=1')
    assert where == '/cron/job/1?page=1' and place.job(1).active == 1
    browser.change('/job/1/run-now')
    assert place.job(1).run_requested == 1
    _, text = browser.change('/job/1/stop')
    assert 'is not running' in text and place.job(1).stop_requested is None
    start_run(place, job)
    where, _ = browser.change('/job/1/stop', '/run/1/1')
    assert (
        where == '/cron/run/1/1' and place.job(1).stop_requested == place.job(1).run_no
    )
    for elsewhere in (
        'http://evil.example/cron/job/1',
        'http://%s/other' % HOST,
        'http://%s/cron//evil.example/' % HOST,
        'javascript:alert(1)',
        'http://%s/cron/?x=%%0d%%0a\r\nX: y' % HOST,
        'http://[',
        None,
    ):
        answer = browser.post('/job/1/enable', HTTP_REFERER=elsewhere)
        assert (
            answer.status == 303
            and answer.headers['Location'].split('?')[0] == '/cron/'
        )
        assert '\r' not in answer.headers['Location']


def test_every_change_stands_in_web_log(place):
    browser = Browser(place, user='al\nice\x1b')
    browser.change(
        '/job/add',
        **{**COLUMNS, 'command': 'a\nforged@host: [x] job 1: b\u2028c'},
        action='save',
    )
    browser.change('/job/1/edit', **{**COLUMNS, 'frequency': '90'}, action='save')
    for action in 'disable', 'enable', 'run-now', 'delete':
        browser.change('/job/1/' + action)
    lines = place.read('log/web.log').splitlines()
    assert len(lines) == 12
    asked = [line for line in lines if '] asked ' in line]
    assert lines[::2] == asked
    for line in lines:
        assert re.match(r'al\\nice\\u001b@192\.0\.2\.7: \[.*?\] \w+ \w{8}: ', line), (
            line
        )
        assert re.search('[\0-\x1f\x7f]', line) is None
    assert all(line.endswith(': job 1') for line in lines[1::2])
    assert r'command "a\nforged@host: [x] job 1: b\u2028c"' in asked[0]
    assert 'frequency 60 -> 90' in asked[1] and 'description' not in asked[1]
    assert [line.split()[-1] for line in asked[2:5]] == ['disable', 'enable', 'run-now']
    assert 'remove: ' in asked[5] and 'echo x' in asked[5] and 'tidy up' in asked[5]


def test_without_web_log_nothing_is_changed(sqlite_place):
    browser, job = Browser(sqlite_place), sqlite_place.add()
    browser.token()
    os.mkdir(os.path.join(sqlite_place.folder, 'log', 'web.log'))
    before = tables(sqlite_place)
    for path, fields in (
        ('/job/1/disable', {}),
        ('/job/1/delete', {}),
        ('/job/add', {**COLUMNS, 'action': 'save'}),
        ('/job/1/edit', {**COLUMNS, 'action': 'save'}),
    ):
        assert browser.post(path, **fields).status == 503
        assert 'web.log' in browser.errors and browser.errors.count('\n') == 1
    assert tables(sqlite_place) == before and job == 1


# Security.

WRITES = (
    '/job/add',
    '/job/1/edit',
    '/job/1/delete',
    '/job/1/run-now',
    '/job/1/stop',
    '/job/1/enable',
    '/job/1/disable',
)


@pytest.mark.parametrize(
    'user, alone, web, may',
    [
        (None, None, {}, False),
        ('alice', None, {}, True),
        ('alice', None, {'editors': ['alice', 'bob']}, True),
        ('mallory', None, {'editors': ['alice', 'bob']}, False),
        ('alice', None, {'readonly': True}, False),
        ('alice', None, {'readonly': True, 'editors': ['alice']}, False),
        (None, '127.0.0.1', {}, True),
        (None, '::1', {}, True),
        (None, '0.0.0.0', {}, False),
        (None, '::', {}, False),
        ('alice', '0.0.0.0', {}, False),
        (None, '192.0.2.1', {}, False),
        (None, '127.0.0.1', {'readonly': True}, False),
        ('alice', '127.0.0.1', {'editors': ['alice']}, False),
        (None, None, {'editors': ['None', '-']}, False),
        ('', None, {}, False),
    ],
)
def test_who_may_write(sqlite_place, user, alone, web, may):
    place = sqlite_place
    place.write(web=web)
    place.add()
    writer = Browser(place, 'alice')
    place.write(web={})
    token = writer.token()
    place.write(web=web)
    host = {None: HOST, '127.0.0.1': 'localhost', '::1': '[::1]'}.get(alone, alone)
    browser = Browser(place, user, alone, host='%s:80' % host)
    assert browser.ask('/').status == 200
    assert ('name="csrf"' in browser.get('/')) == may
    assert ('/cron/job/add' in browser.get('/')) == may
    for path in WRITES[:3]:
        assert browser.ask(path).status == (200 if may else 403)
    before = tables(place)
    for path in WRITES:
        browser.cookies.update(writer.cookies)
        if not may:
            answer = browser.post(path, csrf=token, **COLUMNS)
            assert answer.status == 403 and tables(place) == before
    if may:
        browser.change('/job/1/disable')
        assert place.job(1).active == 0


def test_a_relayed_request_is_not_from_this_machine(sqlite_place):
    browser = Browser(sqlite_place, None, '127.0.0.1', host='localhost')
    assert 'name="csrf"' in browser.get('/job/add')
    for name in 'X_FORWARDED_FOR', 'FORWARDED', 'VIA':
        assert browser.ask('/job/add', **{'HTTP_' + name: 'x'}).status == 403


@pytest.mark.parametrize(
    'host, allowed',
    [
        ('localhost:8000', True),
        ('LOCALHOST', True),
        ('127.0.0.1:9', True),
        ('127.9.9.9', True),
        ('[::1]:8000', True),
        ('evil.example:8000', False),
        ('', False),
        ('127.0.0.1.evil.example', False),
        ('localhost.evil.example', False),
        ('192.0.2.1', False),
        ('127.0.0.1@evil.example', False),
        (None, False),
    ],
)
def test_alone_on_loopback_no_other_name_is_answered(sqlite_place, host, allowed):
    for path in '/', '/metrics', '/run/1/1/log', '/static/style.css':
        browser = Browser(sqlite_place, None, '127.0.0.1')
        environ = {'HTTP_HOST': host}
        if host is None:  # wsgiref.util would give it one
            environ = {'HTTP_HOST': ''}
        status = browser.ask(path, **environ).status
        assert (status != 421) == allowed, (path, status)


@pytest.mark.parametrize(
    'environ, allowed',
    [
        ({}, True),
        ({'HTTP_ORIGIN': None}, True),
        ({'HTTP_REFERER': None}, True),
        ({'HTTP_ORIGIN': None, 'HTTP_REFERER': None}, False),
        ({'HTTP_ORIGIN': 'null'}, False),
        ({'HTTP_ORIGIN': 'http://evil.example'}, False),
        ({'HTTP_ORIGIN': 'http://%s.evil.example' % HOST}, False),
        ({'HTTP_ORIGIN': 'http://evil.example@' + HOST}, False),
        ({'HTTP_ORIGIN': 'http://%s:81' % HOST}, False),
        ({'HTTP_ORIGIN': 'http://%s:80' % HOST}, True),
        ({'HTTP_ORIGIN': 'ftp://' + HOST}, False),
        ({'HTTP_ORIGIN': HOST}, False),
        ({'HTTP_ORIGIN': 'https://' + HOST}, True),  # a proxy ends TLS
        ({'HTTP_ORIGIN': 'https://' + HOST, 'wsgi.url_scheme': 'https'}, True),
        ({'HTTP_ORIGIN': 'http://' + HOST, 'wsgi.url_scheme': 'https'}, False),
        ({'HTTP_ORIGIN': None, 'HTTP_REFERER': 'http://evil.example/' + HOST}, False),
        ({'HTTP_ORIGIN': 'http://['}, False),
        ({'HTTP_HOST': ''}, False),
        ({'HTTP_HOST': '', 'HTTP_ORIGIN': 'http://'}, False),
    ],
)
def test_a_form_comes_from_a_page_of_ours(sqlite_place, environ, allowed):
    browser, _ = Browser(sqlite_place), sqlite_place.add()
    answer = browser.post('/job/1/disable', **environ)
    assert answer.status == (303 if allowed else 403)
    assert sqlite_place.job(1).active == (0 if allowed else 1)


def test_a_form_carries_the_token_of_its_session_and_user(sqlite_place):
    place, _ = sqlite_place, sqlite_place.add()
    browser, other = Browser(place), Browser(place)
    token, foreign = browser.token(), other.token()
    assert token != foreign and browser.token() == token
    session = dict(browser.cookies)
    for csrf in (foreign, '', 'x', token[:-1], token.upper() + 'x', '0' * 64, 'ü' * 64):
        assert browser.post('/job/1/disable', csrf=csrf).status == 403
    for cookies in ({}, other.cookies, {request.COOKIE: 'x'}, {request.COOKIE: ''}):
        browser.cookies = dict(cookies)
        assert browser.post('/job/1/disable', csrf=token).status == 403
    thief = Browser(place, 'bob')
    thief.cookies = dict(session)
    assert thief.post('/job/1/disable', csrf=token).status == 403
    assert place.job(1).active == 1
    browser.cookies = session
    assert browser.post('/job/1/disable', csrf=token).status == 303
    cookie = other.ask('/job/add', HTTP_COOKIE=None, **{'wsgi.url_scheme': 'https'})
    for word in ('Path=/cron', 'HttpOnly', 'SameSite=Strict', 'Secure'):
        assert word in cookie.headers['Set-Cookie'].split('; ')


def test_the_secret_is_made_once_and_for_one_user(sqlite_place):
    config = sqlite_place.config()
    path = os.path.join(config.log_location, 'web.secret')
    for _ in range(20):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        barrier = threading.Barrier(8)

        def make(_, barrier=barrier):
            barrier.wait()
            return request.secret(config)

        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(make, range(8)))) == 1
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert [name for name in os.listdir(config.log_location) if 'secret' in name] == [
        'web.secret'
    ]
    for spoil in (
        lambda: os.chmod(path, 0o640),
        lambda: open(path, 'w').close(),
        lambda: (os.rename(path, path + '.x'), os.symlink(path + '.x', path)),
    ):
        spoil()
        browser = Browser(sqlite_place)
        assert browser.ask('/job/add').status == 503 and 'web.secret' in browser.errors
        os.unlink(path)
        request.secret(config)


def test_headers_of_every_answer(sqlite_place):
    browser, _ = Browser(sqlite_place), sqlite_place.add()
    for path, status in (
        ('/', 200),
        ('/job/1', 200),
        ('/nowhere', 404),
        ('/healthz', 503),
        ('/metrics', 200),
        ('/static/script.js', 200),
        ('/job/1/stop', 405),
    ):
        headers = browser.ask(path).headers
        assert browser.ask(path).status == status
        policy = headers['Content-Security-Policy']
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert 'unsafe' not in policy and "base-uri 'none'" in policy
        assert "form-action 'self'" in policy
        assert headers['X-Frame-Options'] == 'DENY'
        assert headers['X-Content-Type-Options'] == 'nosniff'
        assert headers['Referrer-Policy'] == 'same-origin'
        if 'static' not in path:
            assert headers['Cache-Control'] == 'no-store'


def test_methods(sqlite_place):
    browser, _ = Browser(sqlite_place), sqlite_place.add()
    add_history(sqlite_place, 1, 1)
    before = tables(sqlite_place)
    for path in (
        '/',
        '/job/1',
        '/job/1/edit',
        '/run/1/1',
        '/hosts',
        '/healthz',
        '/metrics',
        '/static/style.css',
    ):
        got, head = browser.ask(path), browser.ask(path, 'HEAD')
        assert head.status == got.status and head.text == ''
        assert head.headers['Content-Length'] == got.headers['Content-Length'] != '0'
        for method in 'PUT', 'DELETE', 'OPTIONS', 'PATCH', 'TRACE', 'get':
            answer = browser.ask(path, method)
            assert answer.status == 405 and 'GET' in answer.headers['Allow']
            assert ('POST' in answer.headers['Allow']) == ('edit' in path)
    assert browser.ask('/', 'POST').status == 405
    for path in WRITES[3:]:
        answer = browser.ask(path)
        assert answer.status == 405 and answer.headers['Allow'] == 'POST'
    assert tables(sqlite_place) == before


def test_static_files_are_kept_by_browsers(sqlite_place):
    browser = Browser(sqlite_place)
    link = re.search('href="/cron(/static/style.css.*?)"', browser.get())[1]
    answer = browser.ask(link)
    assert 'immutable' in answer.headers['Cache-Control']
    again = browser.ask(link, HTTP_IF_NONE_MATCH=answer.headers['ETag'])
    assert again.status == 304 and again.text == ''
    assert browser.ask(link, HTTP_IF_NONE_MATCH='"x"').status == 200
    for path in (
        '/static/pages.py',
        '/static/../pages.py',
        '/static/',
        '/static/x.css',
        '/static/style.css/',
        '/static/..%2fpages.py',
        '/static/layout.html',
    ):
        assert browser.ask(path).status == 404


def test_bodies_that_are_no_forms(sqlite_place):
    browser, _ = Browser(sqlite_place), sqlite_place.add()
    body = urlencode({'csrf': browser.token(), 'action': 'disable'}).encode()
    before, origin = tables(sqlite_place), {'HTTP_ORIGIN': 'http://' + HOST}

    def status(body=body, **environ):
        return browser.ask('/job/1/disable', 'POST', body, **origin, **environ).status

    assert status(CONTENT_LENGTH=str(len(body) + 5)) == 400
    assert status(CONTENT_LENGTH=str(len(body) - 70)) == 403  # half a token
    assert status(CONTENT_LENGTH='') == status(CONTENT_LENGTH=None) == 411
    checked, browser.app = browser.app, pages.Application(sqlite_place.file)
    for length in '-1', '1e3', '٣', '0x10', ' 5', '5,5':  # the validator refuses these
        assert status(CONTENT_LENGTH=length) in (400, 411)
    browser.app = checked
    assert status(HTTP_TRANSFER_ENCODING='chunked') == 411
    assert status(CONTENT_LENGTH='9' * 15) == 413
    assert status(body + b'&x=' + b'y' * 300000) == 413
    assert status(CONTENT_TYPE='multipart/form-data; boundary=x') == 415
    assert status(CONTENT_TYPE='text/plain') == status(CONTENT_TYPE='') == 415
    assert status(CONTENT_TYPE='application/json') == 415
    for more in (
        b'&x=%ff',
        b'&x=\xff',
        b'&x=%00',
        b'&csrf=x',
        b'&a=1' * 40,
        b'&x=%ed%a0%80',
        b'&a=1&a=2',
        b''.join(b'&a%d=1' % number for number in range(99)),
    ):
        assert status(body + more) == 400, more

    assert browser.ask('/?x=' + 'y' * 5000).status == 414

    class Stalled(io.BytesIO):
        def read(self, size):
            raise TimeoutError('timed out')

    assert status(**{'wsgi.input': Stalled()}) == 408
    assert tables(sqlite_place) == before
    assert status() == 303


@pytest.mark.parametrize(
    'path',
    [
        '/?sort=id;DROP',
        '/?sort=command',
        '/?state=x',
        '/?order=up',
        '/?page=0',
        '/?page=x',
        '/?page=-1',
        '/?search_string=' + 'x' * 201,
        '/?sort=id%00',
        '/?sort=id&sort=id',
        '/job/1?page=x',
        '/preview?kind=x',
        '/preview?id=x',
        '/?x=%ff',
        '/?x=\xff',
    ],
)
def test_a_query_that_can_not_be_is_refused(sqlite_place, path):
    sqlite_place.add()
    add_history(sqlite_place, 1, 1)
    assert Browser(sqlite_place).ask(path).status == 400


def test_only_our_own_words_are_told(sqlite_place):
    browser = Browser(sqlite_place)
    for told in 'xss.1', 'stop.x', 'stop', '<b>.1', 'stop.' + '9' * 11:
        browser.cookies = {request.TOLD: told}
        assert 'class="told"' not in browser.get()
    browser.cookies = {request.TOLD: 'stop.1'}
    assert 'class="told"' in browser.get() and 'class="told"' not in browser.get()


def hostile(token):
    """A thousand requests that must change nothing: path, method, body, environ."""
    dice = random.Random(3)
    words = [
        EVIL,
        '../../etc/passwd',
        '%2e%2e%2f',
        '\0',
        '\r\nSet-Cookie: a=b',
        "' OR 1=1 --",
        '1; DROP TABLE job',
        '{utc}',
        '%s%s%s',
        '$csrf ${base}',
        '\ud7ff',
        'A' * 5000,
        '-1',
        '0',
        '01',
        '1e9',
        '9' * 30,
        '٣',
        ' 1',
        '1 ',
        '1/..',
        '\u202e',
        '\x7f',
        '<svg/onload=alert(1)>',
        'javascript:alert(1)',
        '?',
        '{}',
        '{0}',
        '?' * 9,
    ]
    names = [
        'csrf',
        'action',
        *COLUMNS,
        'search_string',
        'state',
        'sort',
        'order',
        'page',
        'id',
        'for',
        'host',
        'job-1',
        'x',
    ]
    paths = [
        '/',
        '/job/add',
        '/job/1',
        '/job/1/edit',
        '/job/1/delete',
        '/job/1/run-now',
        '/job/1/pause',
        '/jobs/disable',
        '/hosts/pause',
        '/run/1/1',
        '/run/1/1/log',
        '/hosts',
        '/preview',
        '/metrics',
        '/healthz',
        '/static/style.css',
    ]
    for word in words:
        for form in (
            '/%s',
            '/job/%s',
            '/job/%s/edit',
            '/job/1/%s',
            '/run/1/%s',
            '/run/%s/1',
            '/run/%s/1/log',
            '/static/%s',
            '/job/1%s',
            '//%s',
        ):
            raw = (form % word).encode().decode('latin-1')
            yield raw, dice.choice(['GET', 'POST', 'HEAD', 'PUT']), b'', {}
    for _ in range(750):
        fields = {name: dice.choice(words) for name in dice.sample(names, 5)}
        if dice.random() < 0.3:
            fields = dict(COLUMNS, action='save', **{})
            fields[dice.choice(list(COLUMNS))] = dice.choice(words)
        else:
            fields.pop('csrf', None)
        method = dice.choice(['GET', 'GET', 'POST', 'HEAD', 'POST'])
        query = '?' + urlencode(fields) if method == 'GET' else ''
        environ = {
            'HTTP_ORIGIN': dice.choice(
                [
                    'http://' + HOST,
                    'http://evil.example',
                    'null',
                    EVIL.encode().decode('latin-1'),
                ]
            ),
            'HTTP_REFERER': dice.choice(['http://%s/cron/' % HOST, 'http://evil/']),
            'HTTP_USER_AGENT': 'x',
        }
        if environ['HTTP_ORIGIN'] == 'http://' + HOST and method == 'POST':
            fields['csrf'] = dice.choice(['', token[::-1], EVIL, '0' * 64])
        elif method == 'POST':
            fields['csrf'] = token
        body = urlencode(fields).encode() if method == 'POST' else b''
        if dice.random() < 0.1:
            body += bytes(dice.randrange(256) for _ in range(50))
        if dice.random() < 0.1:
            query += '?%ff&' + '&'.join('a=%d' % number for number in range(99))
        if dice.random() < 0.1:
            environ['HTTP_COOKIE'] = dice.choice(
                [
                    'distributed_cron=x',
                    '=;=',
                    'a' * 4000,
                    'distributed_cron_told=<xss>.1',
                ]
            )
        yield dice.choice(paths) + query, method, body, environ


def test_a_thousand_hostile_requests_change_nothing(place):
    place.add(EVIL, description=EVIL)
    add_history(place, 1, 2)
    see_host(place, 'h', place.sql('SELECT {local}')[0][0])  # it is healthy
    browser = Browser(place)
    before, token, counts, count = tables(place), browser.token(), {}, 0
    secret = place.read('log/web.secret')
    for path, method, body, environ in hostile(token):
        count += 1
        try:
            answer = browser.ask(path, method, body, **environ)
        except AssertionError as error:
            raise AssertionError((path, method, body, environ)) from error
        counts[answer.status] = counts.get(answer.status, 0) + 1
        assert answer.status < 500, (path, method, body, environ, browser.errors)
        if answer.headers.get('Content-Type', '').startswith('text/html'):
            assert '<xss' not in answer.text and '<script>' not in answer.text
            assert '<svg/onload' not in answer.text
        assert secret not in answer.text
        assert (
            'Traceback' not in answer.text + browser.errors
            and 'root:' not in answer.text
        )
        assert browser.cookies.get('a') is None
        for name, value in answer.headers.items():
            assert '\r' not in value and '\n' not in value, name
        if answer.status >= 400 and method != 'HEAD':
            shown = re.sub(
                '(?s)<header.*?</header>|<footer.*?</footer>|<[^>]*>',
                '',
                answer.text.partition('<body')[2] or answer.text,
            )
            assert len(shown.split()) < 40, shown
    assert count >= 1000 and set(counts) >= {200, 400, 403, 404, 405}, (count, counts)
    assert tables(place) == before
    assert not os.path.exists(os.path.join(place.folder, 'log', 'web.log'))


def test_a_hostile_job_is_stored_as_it_is_and_shown_as_text(place):
    browser = Browser(place)
    fields = {**COLUMNS, 'description': EVIL, 'command': EVIL + '\n$(id) {utc} %s ?'}
    browser.change('/job/add', **fields, action='save')
    assert place.job(1).description == EVIL
    assert place.job(1).command == EVIL + '\n$(id) {utc} %s ?'
    for path in '/', '/job/1', '/job/1/edit', '/job/1/delete':
        text = browser.get(path)
        assert '<xss' not in text and html.escape(EVIL[:40]) in text
        Page(text)


def test_rows_that_people_wrote_by_hand(sqlite_place):
    """SQLite takes any text anywhere."""
    sqlite_place.add(
        'x',
        frequency='often',
        max_run_time='long',
        last_start='yesterday',
        last_end='',
        next_run_utc='soon',
        start_anchor='noon',
        schedule=None,
    )
    sqlite_place.add(
        'y', schedule='every day', description=b'\xff\xfe', last_status='?'
    )
    sqlite_place.store.upsert(
        'run', [dc.Run(1, 1, 'x', 'y', 'z', None, 'w', 's', None, None)]
    )
    see_host(sqlite_place, 'h', 'when')
    browser = Browser(sqlite_place)
    for path in (
        '/',
        '/job/1',
        '/job/1/edit',
        '/job/2/edit',
        '/job/2',
        '/job/1/delete',
        '/run/1/1',
        '/run/1/1/log',
        '/hosts',
        '/metrics',
    ):
        browser.get(path)
    assert browser.ask('/healthz').status in (200, 503)


# When something is away.


def test_a_database_that_is_down(place):
    browser = Browser(place)
    place.add()
    token = browser.token()
    values = json.loads(json.dumps(place.values))
    values['db'].update(
        {
            'password': 'hunter2',
            **(
                {'path': 'nowhere.db'}
                if place.engine == 'sqlite'
                else {'host': '127.0.0.1:9'}
            ),
        }
    )
    place.values = values
    place.write()
    for path in (
        '/',
        '/job/1',
        '/run/1/1',
        '/run/1/1/log',
        '/hosts',
        '/job/add',
        '/metrics',
        '/job/1/delete',
        '/preview?kind=frequency',
    ):
        answer = browser.ask(path)
        assert answer.status == 503, (path, answer)
        shown = re.sub('<[^>]*>', '', answer.text)
        assert 'database' in shown and 'hunter2' not in answer.text + browser.errors
        assert 'Traceback' not in browser.errors and browser.errors.count('\n') == 1
        assert answer.headers['Retry-After']
    assert browser.post('/job/1/disable', csrf=token).status == 503
    answer = browser.ask('/healthz')
    assert answer.status == 503 and 'database' in answer.text
    assert (
        answer.text.count('\n') == 1 and 'hunter2' not in answer.text + browser.errors
    )


def test_a_wrong_password_is_not_told(server_place):
    values = json.loads(json.dumps(server_place.values))
    values['db']['password'] = 'hunter2'
    server_place.values = values
    server_place.write()
    browser = Browser(server_place)
    answer = browser.ask('/')
    assert answer.status == 503 and 'hunter2' not in answer.text + browser.errors
    assert 'password' not in answer.text.lower()


def test_a_bad_configuration_is_one_line(sqlite_place):
    browser = Browser(sqlite_place)
    with open(sqlite_place.file, 'w') as file:
        file.write('db: {engine: sqlite, password: hunter2, pasword: hunter2}\n')
    for path in '/', '/healthz':
        answer = browser.ask(path)
        assert answer.status == 500 and 'hunter2' not in answer.text + browser.errors
        assert 'pasword' in browser.errors and browser.errors.count('\n') == 1
        assert 'pasword' not in answer.text


def test_a_mistake_of_ours_is_one_line(sqlite_place, monkeypatch):
    def broken(*_):
        raise RuntimeError('se\ncret <xss>')

    monkeypatch.setattr(queries, 'counts', broken)
    browser = Browser(sqlite_place)
    answer = browser.ask('/')
    assert answer.status == 500 and 'cret' not in answer.text
    assert browser.errors.count('\n') == 1 and 'RuntimeError' in browser.errors


# For programs.


def test_health(place):
    browser = Browser(place)
    assert browser.get('/healthz') == 'ok\nNo job yet\n'  # no worker needed
    job = place.add(next_run_utc=dc.text_of(place.store.now() + dc.DAY))
    assert 'No worker' in browser.get('/healthz', 503)
    local = dc.moment(place.sql('SELECT {local}')[0][0])
    see_host(place, 'h', dc.text_of(local))
    assert browser.get('/healthz') == 'ok\nAll well: 1 host, 0 running\n'
    place.store.change(
        'UPDATE host SET last_seen = :seen', seen=dc.text_of(local - 9 * dc.MINUTE)
    )
    assert 'No worker' in browser.get('/healthz', 503)
    place.store.change('UPDATE job SET active = 0 WHERE id = :job', job=job)
    assert browser.get('/healthz').startswith('ok\nAll well')
    place.add(next_run_utc=dc.text_of(place.store.now() - 2 * dc.MINUTE))
    text = browser.get('/healthz', 503)
    assert '1 job overdue' in text and 'no worker' in text


def parsed(text):
    """Prometheus' text format: (name, labels) -> value. Fails on what is not it."""
    samples, kinds = {}, {}
    assert text.endswith('\n')
    for line in text.splitlines():
        if line.startswith('# TYPE '):
            _, _, name, kind = line.split()
            assert kind in ('gauge', 'counter') and name not in kinds
            kinds[name] = kind
        elif line.startswith('#'):
            assert re.match('# (HELP [a-z_]+ .|[A-Z])', line), line
        else:
            match = re.fullmatch(
                r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\]|\\[\\n"])*",?)*)\})? (-?[0-9.]+)',
                line,
            )
            assert match and match[1] in kinds, line
            labels = tuple(re.findall(r'([a-z]+)="((?:[^"\\]|\\.)*)"', match[2] or ''))
            assert (match[1], labels) not in samples
            assert match[1].endswith('_total') == (kinds[match[1]] == 'counter')
            samples[match[1], labels] = float(match[3])
    return samples


def test_a_skip_is_no_failure(place):
    job = place.add()
    place.store.plan(place.store.now())
    local = dc.moment(place.sql('SELECT {local}')[0][0])
    for run_no, reason in enumerate(('run 1 on a still ran', 'paused by bob', 'late')):
        run = dc.Run(job, run_no + 1, worker='', ended_at=dc.text_of(local))
        status = 'SKIPPED: at 02:05: ' + reason
        place.store.upsert('run', [run._replace(status=status)])
    browser, name = Browser(place), 'distributed_cron_'
    seen = parsed(browser.get('/metrics'))
    assert seen[name + 'failures_last_day', (('job', '1'),)] == 0
    for reason in ('still ran', 'paused', 'too late'):
        assert seen[name + 'skips_last_day', (('reason', reason),)] == 1
    for path in '/', '/job/1', '/run/1/1', '/hosts':
        assert 'class="error"' not in browser.get(path)
    assert 'SKIPPED: at 02:05: paused by bob' in browser.get('/job/1')
    assert '3 skipped' in browser.get('/')


def test_a_pause_of_hosts_stands_on_each_page(place):
    browser = Browser(place)
    assert 'paused' not in browser.get('/hosts')
    until = place.store.now() + dc.DAY
    dc.pause_hosts(place.store, '*', until, 'alice: <disk>')
    dc.pause_hosts(place.store, 'web-1', until, 'bob')
    for path in '/', '/hosts', '/job/add':
        text = browser.get(path)
        assert 'All hosts are paused until ' in text and 'alice: &lt;disk&gt;' in text
        assert 'host web-1 is paused until ' in text
    dc.resume_hosts(place.store, '*')
    assert 'All hosts' not in browser.get('/hosts')
    assert 'Host web-1 is paused until ' in browser.get('/hosts')


def test_metrics(place):
    varied(place)
    browser, name = Browser(place), 'distributed_cron_'
    seen = parsed(browser.get('/metrics'))
    for state, count in (
        ('running', 1),
        ('overdue', 1),
        ('failing', 2),
        ('disabled', 1),
        ('ok', 5),
    ):
        assert seen[name + 'jobs', (('state', state),)] == count
    assert 530 <= seen[name + 'overdue_seconds', ()] <= 600
    assert seen[name + 'runs_total', (('job', '7'),)] == 25
    assert 0 < seen[name + 'failures_last_day', (('job', '7'),)] <= 25
    success = seen[name + 'last_success_timestamp_seconds', (('job', '2'),)]
    assert 0 < time.time() - success < 200
    assert (name + 'last_success_timestamp_seconds', (('job', '7'),)) not in seen
    before = seen[name + 'failures_last_day', (('job', '7'),)]
    local = dc.moment(place.sql('SELECT {local}')[0][0])
    times = [dc.text_of(local)] * 2, [dc.text_of(local - dc.DAY - dc.MINUTE)] * 2
    place.store.upsert(
        'run',
        [
            dc.Run(
                7, 24, None, *times[1], 9, 'w-1', 'ERROR: exit 1', 1, ''
            ),  # yesterday's
            dc.Run(7, 26, None, *times[0], 9, 'w-1', 'Success', 0, ''),
            dc.Run(7, 27, None, *times[0], 9, 'w-1', 'ERROR: exit 1', 1, ''),
        ],
    )
    place.store.change('UPDATE job SET run_no = 27 WHERE id = 7')
    new = place.add()
    place.store.change('DELETE FROM job WHERE id = 3')
    seen = parsed(browser.get('/metrics'))
    assert (
        seen[name + 'failures_last_day', (('job', '7'),)] == before
    )  # one less, one more
    success = seen[name + 'last_success_timestamp_seconds', (('job', '7'),)]
    assert abs(time.time() - success) < 60
    assert seen[name + 'failures_last_day', (('job', str(new)),)] == 0
    assert (name + 'runs_total', (('job', '3'),)) not in seen


# Started as a program.


def index(*args, **environ):
    """index.cgi as a process: exit status, stdout, stderr."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in ('GATEWAY_INTERFACE', 'REMOTE_USER')
    }
    done = subprocess.run(
        [sys.executable, os.path.join(ROOT, 'web', 'index.cgi'), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={**clean, **environ},
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize(
    'where',
    [
        '',
        'x',
        '1:2:3',
        '::1:80',
        '[::1]',
        '99999',
        '-1',
        'a:b',
        '127.0.0.1:',
        '256.0.0.1:80',
    ],
)
def test_a_bad_address_is_one_line(where):
    code, out, err = index('--serve=' + where)
    assert code in (1, 2) and out == '' and err.count('\n') == 1 and '--serve' in err


def test_as_cgi(sqlite_place):
    sqlite_place.add(description='by CGI')
    environ = {
        'GATEWAY_INTERFACE': 'CGI/1.1',
        'REQUEST_METHOD': 'GET',
        'PATH_INFO': '/',
        'SCRIPT_NAME': '/cgi-bin/index.cgi',
        'SERVER_NAME': 'x',
        'SERVER_PORT': '80',
        'SERVER_PROTOCOL': 'HTTP/1.1',
        'HTTP_HOST': 'x',
        'DISTRIBUTED_CRON_CONFIG': sqlite_place.file,
    }
    code, out, err = index('--serve', '1', **environ)  # of a query: not an argument
    assert code == 0 and err == '' and out.startswith('Status: 200 OK\r\n')
    assert 'by CGI' in out and 'href="/cgi-bin/index.cgi/job/1"' in out
    assert 'read only' in out and 'name="csrf"' not in out
    code, out, err = index(**{**environ, 'PATH_INFO': '/\xff'})
    assert out.startswith('Status: 404') and err == ''
    code, out, err = index(**{**environ, 'DISTRIBUTED_CRON_CONFIG': '/nowhere/x.yml'})
    assert out.startswith('Status: 500') and err.count('\n') == 1 and '/nowhere' in err
