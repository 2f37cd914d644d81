"""The page with the runs of all jobs: what it lists, and what strangers may ask of it."""

import html
import re
from urllib.parse import quote

import pytest
from conftest import dc
from test_web import EVIL, Browser, Page, add_history

from web import runs


def add_run(place, job, run_no, minutes, status='Success', worker='web-01-7', **more):
    """A run that ended so many minutes ago."""
    local = dc.moment(place.sql('SELECT {local}')[0][0])
    end = local - minutes * dc.MINUTE
    row = {
        'job_id': job,
        'run_no': run_no,
        'started_at': dc.text_of(end - dc.SECOND),
        'ended_at': dc.text_of(end),
        'duration_ms': 1000,
        'worker': worker,
        'status': status,
        'attempt': 0,
        **more,
    }
    place.store.upsert('run', [dc.Run(**row)])


def listed(text):
    """The runs that a page lists, as (job, run), in its order."""
    cells = re.findall(r'<td class="when"><a href="/cron/run/(\d+)/(\d+)"', text)
    return [(int(job), int(run)) for job, run in cells]


@pytest.fixture
def some_runs(place):
    """Runs of three jobs, and of one that was deleted, on hosts with similar names."""
    place.add(description='back up orders')
    place.add(description='send mail', name='mail')
    place.add(description='100%_sure')
    add_run(place, 1, 1, 50, 'ERROR: exit 3', output='first\nthe disk is full\n\n')
    add_run(place, 1, 2, 40)
    add_run(place, 2, 1, 30, dc.LOST, 'web-01-x-7', duration_ms=None)
    add_run(place, 2, 2, 20, 'SKIPPED: at 03:00: not started in its window', '')
    add_run(place, 3, 1, 10, worker='WEB-01-9', note='late: all hosts were down')
    add_run(place, 9, 5, 2 * 1440, worker='old_nas-1')
    return place


ALL = [(3, 1), (2, 2), (2, 1), (1, 2), (1, 1), (9, 5)]


@pytest.mark.parametrize(
    'query, expected',
    [
        ('', ALL),
        ('?result=failed', [(2, 1), (1, 1)]),
        ('?result=success', [(3, 1), (1, 2), (9, 5)]),
        ('?result=skipped', [(2, 2)]),
        ('?host=web-01', [(3, 1), (1, 2), (1, 1)]),  # not web-01-x
        ('?host=web-01-x', [(2, 1)]),
        ('?host=web', []),
        ('?host=old_nas', [(9, 5)]),
        ('?host=old%25', []),
        ('?host=oldxnas', []),
        ('?job=1', [(1, 2), (1, 1)]),
        ('?job=9', [(9, 5)]),
        ('?job=MAIL', [(2, 2), (2, 1)]),
        ('?job=up+ord', [(1, 2), (1, 1)]),
        ('?job=0%25_S', [(3, 1)]),
        ('?job=%25%25', []),
        ('?job=nothing', []),
        ('?span=hour', ALL[:-1]),
        ('?span=week', ALL),
        ('?job=1&host=web-01&result=failed&span=hour', [(1, 1)]),
        ('?page=9', ALL),
    ],
)
def test_what_is_chosen(some_runs, query, expected):
    assert listed(Browser(some_runs).get('/runs' + query)) == expected


def test_what_a_row_says(some_runs):
    text = Browser(some_runs).get('/runs')
    page = Page(text)
    rows = re.findall('(?s)<tr>.*?</tr>', text)[1:]
    assert len(rows) == 6
    for part in ('ERROR: exit 3', 'back up orders', 'the disk is full', ' · 1.0 s'):
        assert part in rows[4], part
    assert 'first' not in rows[4]
    assert 'late: all hosts were down' in rows[0]
    assert 'SKIPPED: at 03:00: not started in its window' in rows[1]
    assert 'unknown' not in rows[2]  # how long it took
    assert 'job 9, deleted' in rows[5]
    counts = re.findall('<b>([0-9]+)</b>', text)
    assert counts == ['6', '2', '3', '1']  # all, failed, success, skipped
    assert '/cron/runs?host=web-01' in page.links


def test_from_when_until_when(some_runs):
    browser = Browser(some_runs)
    local = dc.moment(some_runs.sql('SELECT {local}')[0][0])
    since, until = (
        (local - minutes * dc.MINUTE).isoformat('T', 'minutes') for minutes in (35, 15)
    )
    text = browser.get('/runs?since=%s&until=%s' % (since, until))
    assert listed(text) == [(2, 2), (2, 1)]
    inputs = Page(text).inputs
    assert (inputs['since']['value'], inputs['until']['value']) == (since, until)
    text = browser.get('/runs?span=hour&until=%s' % until)
    assert listed(text) == [(2, 2), (2, 1), (1, 2), (1, 1)]


def test_last_night():
    asked = {'span': 'night', 'since': '', 'until': ''}
    for now in ('2025-03-05 07:00:00', '2025-03-05 23:59:59'):
        times = runs.times_of(asked, dc.moment(now))
        assert list(map(dc.text_of, times)) == [
            '2025-03-04 18:00:00',
            '2025-03-05 08:00:00',
        ]
    asked['since'] = '2025-02-30 00:00'  # no such day: as if it were not given
    assert dc.text_of(runs.times_of(asked, dc.moment(now))[0]) == '2025-03-04 18:00:00'


def test_pages_and_their_limit(place, monkeypatch):
    browser, job = Browser(place), place.add()
    add_history(place, job, 120, note=None, attempt=0)
    assert listed(browser.get('/runs'))[::49] == [(job, 120), (job, 71)]
    text = browser.get('/runs?page=3&result=success')
    assert listed(text)[::19] == [(job, 20), (job, 1)]
    assert '/cron/runs?result=success&amp;page=1' in text
    assert 'newest runs' not in text
    monkeypatch.setattr(runs, 'MOST_RUNS', 60)
    text = browser.get('/runs?page=99')
    assert listed(text)[-1] == (job, 61)
    assert 'Only the 60 newest runs of this time are counted' in text


@pytest.mark.parametrize(
    'query',
    [
        'result=' + quote(EVIL),
        'span=ever',
        'since=' + quote(EVIL),
        'since=2025-1-1',
        'until=now',
        'page=0',
        'page=-1',
        'host=' + 'x' * 192,
        'job=' + 'x' * 201,
        'job=a%0ab',
        'job=%FF',
        'job=1&job=2',
        'job=%00',
    ],
)
def test_what_it_refuses(sqlite_place, query):
    answer = Browser(sqlite_place).ask('/runs?' + query)
    assert answer.status == 400, answer
    assert '<xss' not in answer.text


HOSTILE = (
    EVIL,
    "' OR 1=1 --",
    '%',
    '!',
    '!%',
    '\\',
    '{local}',
    ':host',
    '%(host)s',
    '٣',
)


@pytest.mark.parametrize('text', HOSTILE)
def test_hostile_words_are_words(place, text):
    """They find nothing but what has them, and come back as text."""
    job = place.add(description=text[:99])
    other = place.add(description='other')
    add_run(place, job, 1, 5, EVIL, EVIL[:60] + '-7', output=EVIL, note=EVIL)
    add_run(place, other, 1, 6)
    browser = Browser(place)
    for name in ('job', 'host'):
        answer = browser.ask('/runs?%s=%s' % (name, quote(text)))
        assert answer.status == 200, (answer, browser.errors)
        page = Page(answer.text)
        assert page.inputs[name]['value'] == html.unescape(html.escape(text))
        assert '<xss' not in answer.text
        assert (other, 1) not in listed(answer.text)
    assert (job, 1) in listed(browser.get('/runs'))
