"""The pages of a run and of a job: the reason first, what is usual, and what is beside."""

import html
import os
import re

import pytest
from conftest import dc
from test_web import COLUMNS, EVIL, Browser, Page, add_history, start_run
from test_web_runs import add_run


def banner(text):
    return re.search('(?s)<p class="banner .*?</p>', text)[0]


def test_a_failed_run(place):
    job = place.add(description='orders')
    due = place.store.now().replace(microsecond=0) - 99 * dc.MINUTE
    for run_no, took in ((3, 57), (5, 59), (6, 55)):
        add_run(place, job, run_no, 200 - run_no, duration_ms=took * 60000)
    add_run(
        place,
        job,
        8,
        9,
        'ERROR: exit 3',
        duration_ms=2000,
        due_utc=dc.text_of(due),
        note='late: here was full',
        cpu_ms=61500,
        max_rss_kb=3 * 1024,
        attempt=1,
    )
    add_run(place, job, 9, 5)
    text = Browser(place).get('/run/1/8')
    page = Page(text)
    words = re.sub('<.*?>', '', banner(text))
    for part in ('ERROR: exit 3', 'after 2.0 s', 'late: here was full'):
        assert part in words, words
    assert 'usually 57 min 0 s' in words  # of 1 s, 55, 57 and 59 min
    assert {'/cron/run/1/6', '/cron/run/1/9'} <= set(page.links)
    assert '>previous</a>' in text and '>next</a>' in text
    for part in ('<dd>1 min 1 s</dd>', '<dd>3 MiB</dd>', '<dt>Try</dt><dd>2</dd>'):
        assert part in text
    assert '<dt>Due</dt><dd>%s</dd>' % place.store.zone.local(due) in text
    assert 'href="/cron/run/1/8/log" download="job-1-run-8.txt"' in text
    first, last = Browser(place).get('/run/1/3'), Browser(place).get('/run/1/9')
    assert '>previous</a>' not in first and '/cron/run/1/5"' in first
    assert '>next</a>' not in last and '/cron/run/1/8"' in last


def test_run_again_and_stop(place):
    browser, job = Browser(place), place.add()
    add_history(place, job, 1, note=None, attempt=0)
    text = browser.get('/run/1/1')
    assert 'action="/cron/job/1/run-now"' in text and '>Run again</button>' in text
    where, _ = browser.change('/job/1/run-now', '/run/1/1')
    assert where == '/cron/run/1/1' and place.job(1).run_requested == 1
    assert '<form' not in Browser(place, None).get('/run/1/1')
    start_run(place, job)
    assert '<button>' not in browser.get('/run/1/1')  # it runs already
    text = browser.get('/run/1/2')
    assert 'action="/cron/job/1/stop"' in text and '>Stop</button>' in text
    assert 'running now' in banner(text) and 'usually 1.0 s' in banner(text)
    since = int(re.search('data-since="([0-9]+)"', text)[1])
    now = (place.store.now() - dc.EPOCH) / dc.SECOND
    assert 0 <= now - since < 60
    place.store.change('DELETE FROM job')
    text = browser.get('/run/1/1')
    assert 'action="/cron/job/1' not in text and 'a job that was deleted' in text


def test_a_skipped_run(place):
    job = place.add()
    add_run(place, job, 1, 5, 'SKIPPED: at 03:00: paused by me', '', duration_ms=None)
    text = Browser(place).get('/run/1/1')
    assert 'SKIPPED: at 03:00: paused by me' in banner(text)
    assert 'after' not in banner(text)


def test_the_sentence_of_a_job(place):
    job = place.add()
    assert 'class="sum"' not in Browser(place).get('/job/1')
    for run_no in range(1, 11):
        add_run(place, job, run_no, 60 - run_no, duration_ms=28000)
    add_run(place, job, 11, 5, 'ERROR: exit 1', duration_ms=999)
    add_run(place, job, 12, 4, 'SKIPPED: at 03:00: x', duration_ms=None)
    text = re.search('<p class="sum">(.*?)</p>', Browser(place).get('/job/1'))[1]
    assert text == 'Success 90 % of 11 runs, usually 28.0 s, last success 50 min ago.'
    place.store.change("UPDATE run SET status = 'ERROR: exit 1' WHERE run_no < 12")
    text = re.search('<p class="sum">(.*?)</p>', Browser(place).get('/job/1'))[1]
    assert text.startswith('Success 0 % of 11 runs, ')
    assert text.endswith('none of them lately.')


def test_the_chart_of_a_job(place):
    job = place.add()
    for run_no in range(1, 50):
        add_run(place, job, run_no, 60 - run_no, duration_ms=25000)
    add_run(place, job, 50, 1, 'ERROR: overdue', duration_ms=540000)
    text = re.search(
        '(?s)<figure class="chart">.*?</figure>', Browser(place).get('/job/1')
    )
    text = text[0]
    assert 'up to 30.0 s; usually 25.0 s' in text
    assert 'longer ones, up to 9 min 0 s' in text
    heights = re.findall('<rect x=.*? height="([0-9.]+)%"', text)
    assert heights == ['83.3'] * 49 + ['100']  # one that took long hides no other
    assert text.count('▲') == 2 and text.count('<a href=') == 50
    place.store.change('UPDATE run SET duration_ms = NULL')
    assert 'usually 0 ms' in Browser(place).get('/job/1')


def test_the_run_in_progress_is_the_first_of_its_job(place):
    browser, job = Browser(place), place.add()
    add_history(place, job, 60, note=None, attempt=0)
    start_run(place, job)
    numbers = re.findall('<td><a href="/cron/run/1/([0-9]+)"', browser.get('/job/1'))
    assert numbers[:2] == ['61', '60']
    text = browser.get('/job/1?page=2')
    assert '<td><a href="/cron/run/1/61"' not in text


def test_hostile_texts(place):
    job = place.add(description=EVIL[:99])
    add_run(place, job, 1, 5, EVIL, EVIL[:60] + '-7', output=EVIL, note=EVIL)
    browser = Browser(place)
    for path in ('/run/1/1', '/job/1'):
        text = browser.get(path)
        Page(text)
        assert '<xss' not in text


@pytest.mark.parametrize(
    'local, expected',
    [
        ('2026-05-21 00:00:59', '00:00'),
        ('2026-05-20 23:59:59', 'yesterday 23:59'),
        ('2026-05-19 23:59:59', '2026-05-19 23:59'),
        ('2025-05-21 12:00:00', '2025-05-21 12:00'),
        ('garbage', 'garbage'),
        ('', ''),
    ],
)
def test_when_it_was(local, expected):
    assert dc.clock_text(local, dc.moment('2026-05-21 12:00:00')) == expected


# Who changed what on a job's page.


def changes(text):
    """What a job's page says of its changes: (who, what, what came of it) of each."""
    found = []
    for row in re.findall('(?s)<details id="changes">.*</details>', text):
        for who, what in re.findall('(?s)<td>([^<]*)</td><td><code>(.*?)</td>', row):
            found.append((who, *re.sub('<.*?>', '', what).split('\n')[:2]))
    return found


def test_a_job_tells_who_changed_it(place):
    alice, bob = Browser(place), Browser(place, user='bob@example.com')
    alice.change('/job/add', **COLUMNS, action='save')
    place.add()
    assert changes(alice.get('/job/2')) == []
    bob.change('/job/1/edit', **{**COLUMNS, 'frequency': '90'}, action='save')
    alice.change('/job/2/disable')
    bob.change('/job/1/stop')
    bad = {**COLUMNS, 'max_run_time': '999999'}
    assert alice.post('/job/1/edit', **bad, action='save').status == 422
    for browser in (alice, bob):
        found = changes(browser.get('/job/1'))
        assert [(who, came.strip()[:20]) for who, _, came in found] == [
            ('alice', 'failed: max_run_time'),
            ('bob@example.com', 'nothing to do'),
            ('bob@example.com', ''),
            ('alice', ''),
        ]
        texts = [what for _, what, _ in found]
        assert texts[1] == 'stop' and 'frequency 60 -&gt; 90' in texts[2]
        assert texts[3].startswith('add: description &quot;tidy up&quot;, command ')
    (change,) = changes(alice.get('/job/2'))
    assert change[:2] == ('alice', 'disable')
    # What an edit has removed is kept from who may only view.
    assert 'id="changes"' not in Browser(place, None).get('/job/1')


def test_a_change_of_which_no_end_is_known(sqlite_place):
    place = sqlite_place
    browser, _ = Browser(place), place.add()
    browser.change('/job/1/disable')
    path = os.path.join(place.folder, 'log', 'web.log')
    with open(path) as file:
        asked = file.readline()
    with open(path, 'w') as file:
        file.write(asked)
    (change,) = changes(browser.get('/job/1'))
    assert change == ('alice', 'disable', 'it is not known whether it was made')


def test_web_log_may_hold_anything(sqlite_place):
    """Whoever writes it: with SQLite a job can."""
    place = sqlite_place
    browser = Browser(place, user=EVIL)
    browser.change('/job/add', **{**COLUMNS, 'command': EVIL}, action='save')
    forged = "x@1: [Mon] asked 00000000: job 1: 'forged'"
    browser.change(
        '/job/1/edit', **{**COLUMNS, 'command': forged + 9999 * 'y'}, action='save'
    )
    text = browser.get('/job/1')
    Page(text)
    assert [who for who, _, _ in changes(text)] == [html.escape(EVIL)] * 2
    assert len(text) < 40000
    path = os.path.join(place.folder, 'log', 'web.log')
    for number in range(3000):  # many more than are read, or shown
        line = 'eve@1: [Mon] asked %08x: job 1: %s\n' % (number, 'z' * 90)
        with open(path, 'a') as file:
            file.write(line)
    found = changes(browser.get('/job/1'))
    assert len(found) == 20 and {who for who, _, _ in found} == {'eve'}
    with open(path, 'wb') as file:
        file.write(b'\xff\0 [ ] @: asked\n' * 99)
    assert changes(browser.get('/job/1')) == []
    os.unlink(path)
    for make in (os.mkdir, os.mkfifo, lambda path: os.symlink('/dev/zero', path)):
        make(path)
        before = len(os.listdir('/proc/self/fd'))
        assert changes(browser.get('/job/1')) == []
        assert len(os.listdir('/proc/self/fd')) == before
        os.rmdir(path) if os.path.isdir(path) else os.unlink(path)
