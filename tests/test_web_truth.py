"""What the web page says of jobs and hosts is so: its sentence, counts and results."""

import html
import itertools
import os
import re

import pytest
from conftest import dc
from test_web import (
    EVIL,
    Browser,
    Page,
    add_history,
    see_host,
    start_run,
)

PATHS = '/', '/job/1', '/job/add', '/job/1/edit', '/hosts', '/?search_string=nothing'


def add_jobs(place, count=3):
    """Jobs that are well, and due tomorrow."""
    due = dc.text_of(place.store.now() + dc.DAY + dc.MINUTE)
    for number in range(count):
        place.add('true', description='job %d' % number, next_run_utc=due)


def local_now(place):
    return dc.moment(place.sql('SELECT {local}')[0][0])


def see(place, name='here', ago=0 * dc.MINUTE):
    """A host as it was seen some time ago."""
    see_host(place, name, dc.text_of(local_now(place) - ago))


def truth(text):
    """(level, sentence) of a page."""
    found = re.search(r'(?s)<div id="truth" class="truth (\w+)".*?<p>(.*?)</p>', text)
    words = html.unescape(re.sub('<[^>]*>', '', found[2]))
    return found[1], ' '.join(words.split())


def title(text):
    return re.search('<title>(.*?)</title>', text)[1]


# The sentence.


def test_the_sentence_stands_on_every_page(place):
    browser = Browser(place)
    assert truth(browser.get()) == ('ok', 'No job yet')
    add_jobs(place)
    see(place)
    see(place, 'there')
    start_run(place, 2)
    add_history(place, 1, 2)
    for path in (*PATHS, '/run/1/1'):
        level, sentence = truth(browser.get(path))
        assert level == 'ok', path
        assert sentence == 'All well: 2 hosts, 1 running, next job 0 in 24 h', sentence
        assert title(browser.get(path))[0] != '('


@pytest.mark.parametrize('count', [1, 40])
def test_jobs_that_no_worker_has_ever_seen_are_not_well(place, count):
    browser = Browser(place)
    add_jobs(place, count)
    for path in PATHS:
        assert truth(browser.get(path))[0] == 'bad', path
        assert 'No worker has reported yet' in truth(browser.get(path))[1]
    assert browser.get('/healthz', 503) == 'No worker has reported yet\n'
    assert 'crontab of each host' in browser.get('/hosts')
    place.store.change('UPDATE job SET active = 0')
    assert truth(browser.get())[0] == 'ok'  # nobody is to start them


def test_workers_that_have_gone(place):
    browser = Browser(place)
    add_jobs(place)
    see(place, ago=7 * dc.MINUTE)
    assert truth(browser.get())[1].startswith('No worker has been seen for 7 min')
    see(place, 'other', ago=299 * dc.SECOND)
    level, sentence = truth(browser.get())
    assert level == 'doubt' and sentence.startswith('Host here silent for 7 min,'[:-1])
    see(place, ago=2 * dc.DAY)  # nobody expects it any more
    assert truth(browser.get())[0] == 'ok'


def test_what_is_wrong_is_counted_in_the_title(place):
    browser = Browser(place)
    see(place)
    add_jobs(place, 5)
    for job, status in ((1, 'ERROR: exit 1'), (2, dc.LOST)):
        place.store.change(
            'UPDATE job SET last_status = :status WHERE id = :job',
            status=status,
            job=job,
        )
    for path in PATHS:
        level, sentence = truth(browser.get(path))
        assert level == 'doubt' and sentence.startswith('2 jobs failing'), sentence
        assert title(browser.get(path)).startswith('(2) '), path
    assert browser.get('/healthz') == 'ok\n2 jobs failing\n'
    place.store.change(
        'UPDATE job SET next_run_utc = :due WHERE id = 3',
        due=dc.text_of(place.store.now() - 9 * dc.MINUTE),
    )
    level, sentence = truth(browser.get())
    assert level == 'bad' and sentence.startswith('1 job overdue; 2 jobs failing')
    assert title(browser.get()) == '(3) Jobs · distributed cron'
    assert browser.get('/healthz', 503) == '1 job overdue; 2 jobs failing\n'


def test_a_pause_of_all_is_no_alarm_and_says_who(place):
    browser = Browser(place)
    see(place)
    add_jobs(place)
    place.store.change(
        'UPDATE job SET next_run_utc = :due',
        due=dc.text_of(place.store.now() - 9 * dc.MINUTE),
    )
    assert truth(browser.get())[0] == 'bad'
    until = place.store.now() + dc.DAY
    dc.pause_hosts(place.store, '*', until, 'alice: <disk>')
    level, sentence = truth(browser.get('/hosts'))
    local = place.store.zone.local(until)
    assert level == 'doubt'
    assert sentence.startswith(
        'All hosts are paused until %s, by alice: <disk>' % dc.text_of(local)
    ), sentence
    assert browser.get('/healthz').startswith('ok\nAll hosts are paused')


def test_hostile_names_in_the_sentence(place):
    see(place)
    see(place, EVIL[:90] + '\u202e', 9 * dc.MINUTE)
    due = dc.text_of(place.store.now() + dc.MINUTE)
    place.add(description=EVIL + '\x1b[1m', next_run_utc=due)
    dc.pause_hosts(place.store, EVIL[:60], place.store.now() + dc.DAY, EVIL)
    text = Browser(place).get()
    Page(text)
    assert '<xss' not in text and '\u202e' not in text and '\x1b' not in text
    assert EVIL[:40] in truth(text)[1]
    answer = Browser(place).get('/healthz')
    assert answer.count('\n') == 2 and '\u202e' not in answer


# Hosts.


def history_of(place, facts):
    """Runs that ended so many minutes ago, from (minutes, worker, status)."""
    now = local_now(place)
    rows = []
    for number, (minutes, worker, status) in enumerate(facts, 1):
        ended = dc.text_of(now - minutes * dc.MINUTE)
        rows.append(
            dc.Run(
                1,
                number,
                started_at=ended,
                ended_at=ended,
                duration_ms=5,
                worker=worker,
                status=status,
            )
        )
    place.store.upsert('run', rows)


def row_of(text, host):
    row = re.search(
        r'(?s)<th scope="row"><a [^>]*>%s</a>.*?</tr>' % re.escape(host), text
    )[0]
    cells = re.findall('>([^<>]+)</(?:td|time)', row)
    return [' '.join(cell.split()) for cell in cells if cell.strip()]


def test_hosts_count_every_run_of_the_day(place):
    """Also more than 2,000; each one by its host, whatever that is called."""
    place.add()
    for name in ('web-1', 'web-1-7', 'web'):
        see(place, name)
    facts = [
        (number * 0.5, 'web-1-%d' % (number % 9), 'Success') for number in range(2500)
    ]
    facts += [(60 * hour + 5, 'web-1-7-12', 'ERROR: exit 1') for hour in range(23)]
    facts += [(1000, 'web-77', dc.LOST), (1, 'web-77', 'SKIPPED: at 02:05: late')]
    facts += [(1, '', 'ERROR: x'), (2000, 'web-1-1', 'ERROR: too old')]
    history_of(place, facts)
    text = Browser(place).get('/hosts')
    Page(text)
    assert row_of(text, 'web-1')[-2:] == ['2500', '0']
    assert row_of(text, 'web-1-7')[-2:] == ['23', '23']
    assert row_of(text, 'web')[-2:] == ['1', '1']


def shapes_of(text, host, kind):
    """(x, y) of the columns of a host's runs."""
    lane = re.search(r'(?s)class="name">%s</text>.*?</g>' % re.escape(host), text)[0]
    path = re.search('<path class="%s" d="(.*?)"' % kind, lane)
    found = re.findall(r'M([\d.-]+) ([\d.-]+)h', path[1] if path else '')
    return [(float(x), float(y)) for x, y in found]


def test_the_picture_of_the_hosts_covers_the_day_and_no_failure(place):
    place.add()
    see(place, 'busy')
    facts = [(number, 'busy-1', 'Success') for number in range(0, 1430)]
    facts += [(715, 'busy-1', 'ERROR: exit 1'), (10, 'busy-1', dc.LOST)]
    history_of(place, facts)
    text = Browser(place).get('/hosts')
    well = sorted(shapes_of(text, 'busy', 'success'))
    assert len(well) in (96, 97) and well[0][0] < 15 and well[-1][0] > 920
    assert all(
        later[0] - one[0] == pytest.approx(10, 0.2)
        for one, later in itertools.pairwise(well[1:])
    )
    ((x, y),) = shapes_of(text, 'busy', 'error')
    assert 460 < x < 490 and y == 0
    assert [y for at, y in well if at == x] == [-2.5], 'above the failure'
    ((x, y),) = shapes_of(text, 'busy', 'lost')
    assert x > 930 and y == 0


def test_more_runs_than_can_be_counted_at_once_are_those_of_a_shorter_time(
    place, monkeypatch
):
    place.add()
    see(place, 'a')
    history_of(place, [(number + 0.5, 'a-1', 'Success') for number in range(600)])
    monkeypatch.setattr('web.queries.MOST_COUNTED', 400)
    text = Browser(place).get('/hosts')
    assert 'Runs in 6 hours' in text and row_of(text, 'a')[-2] == '360'
    monkeypatch.setattr('web.queries.MOST_COUNTED', 20)
    text = Browser(place).get('/hosts')
    assert 'Runs in 15 minutes' in text and row_of(text, 'a')[-2] == '15'


def test_a_host_that_is_silent_looks_so(place):
    see(place, 'here')
    see(place, 'gone', 3 * dc.DAY)
    see_host(place, 'never', None)
    text = Browser(place).get('/hosts')
    assert row_of(text, 'gone')[0] == '3 days ago'
    assert row_of(text, 'never')[0] == 'never' and 's ago' in row_of(text, 'here')[0]
    assert re.findall('<tr class="(.*?)">', text) == ['quiet', '', 'quiet']


# A run in progress, and the one before it.


def list_row(text, job=1):
    return re.search(r'(?s)<tr data-job="%d".*?</tr>' % job, text)[0]


def test_while_a_job_runs_its_last_result_keeps_its_host(place):
    browser = Browser(place)
    place.add('true', description='import')
    add_history(place, 1, 3, duration_ms=57 * 60000)
    add_history(place, 1, 4, 'ERROR: exit 1', 'web-01-5')
    start_run(place, 1, 'web-02-77')
    now = local_now(place)
    place.store.change(
        'UPDATE job SET last_start = :start', start=dc.text_of(now - 3 * dc.MINUTE)
    )
    row = list_row(browser.get())
    assert 'running on web-02 since ' in row
    result = re.search('(?s)<td class="result.*?</td>', row)[0]
    assert 'ERROR: exit 1' in result and 'web-01' in result and 'web-02' not in result
    last = re.search('(?s)<td class="last".*?</td>', row)[0]
    assert dc.text_of(now - 3 * dc.MINUTE) not in last
    text = browser.get('/job/1')
    assert re.findall('/cron/run/1/([0-9]+)">', text.partition('<h2>Runs')[2])[:2] == [
        '5',
        '4',
    ]
    facts = re.search('(?s)<dl class="facts">.*?</dl>', text)[0]
    assert 'web-02' not in facts and 'web-01' in facts
    assert 'running on web-02 since ' in text
    place.store.change('DELETE FROM run')  # nobody knows of it
    text = browser.get('/job/1')
    assert 'web-01' not in text and 'running on web-02 since ' in text


def test_how_long_it_usually_takes(place):
    place.add()
    add_history(place, 1, 9, duration_ms=57 * 60000)
    start_run(place, 1, 'web-02-77')
    assert 'usually 57 min' in list_row(Browser(place).get())


def test_a_run_elsewhere_is_shown_by_what_its_host_says(place):
    """Never by a file of the same name on the host of the page."""
    place.add()
    start_run(place, 1, 'web-02-77')
    folder = os.path.join(place.folder, 'log')
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, '1.log'), 'w') as file:
        file.write('of another database')
    browser = Browser(place)
    assert browser.get('/run/1/1/log') == ''
    text = browser.get('/run/1/1')
    assert 'of another' not in text and 'in the log folder of web-02' in text
    assert place.folder not in text
    place.store.change("UPDATE live SET output = 'line 1'")
    assert browser.get('/run/1/1/log') == 'line 1'
    assert 'line 1' in browser.get('/run/1/1')


# Status.


def test_a_job_that_fails_every_other_time_is_not_ok(place):
    place.add()
    add_history(place, 1, 20)
    place.store.change(
        "UPDATE run SET status = 'ERROR: exit 1' WHERE run_no % 2 = 1 AND run_no < 18"
    )
    row = list_row(Browser(place).get())
    assert 'flapping: 9 of 20 failed' in row and '>ok<' not in row
    assert 'flapping: 9 of 20 failed' in Browser(place).get('/job/1')


def test_a_failing_job_says_since_when_and_when_it_last_succeeded(place):
    place.add()
    add_history(place, 1, 9)
    ends = [
        row.ended_at for row in place.sql('SELECT ended_at FROM run ORDER BY run_no')
    ]
    place.store.change("UPDATE run SET status = 'ERROR: exit 1' WHERE run_no > 6")
    place.store.change("UPDATE job SET last_status = 'ERROR: exit 1', failures = 3")
    words = ' '.join(html.unescape(list_row(Browser(place).get())).split())
    assert 'failing since %s (3 runs)' % ends[6][11:16] in words
    assert 'last success %s' % ends[5][11:16] in words
    place.store.change("UPDATE run SET status = 'ERROR: exit 1'")
    assert 'no success on record' in list_row(Browser(place).get())


def test_trouble_comes_first(place):
    now = place.store.now()
    for minutes, status in ((90, 'Success'), (30, 'Success'), (99, 'ERROR: x')):
        due = dc.text_of(now + minutes * dc.MINUTE)
        place.add(next_run_utc=due, last_status=status)
    place.add(next_run_utc=dc.text_of(now - 9 * dc.MINUTE))
    place.add(active=0)
    place.add(next_run_utc=None)
    start_run(place, place.add(next_run_utc=dc.text_of(now)))
    rows = re.findall('<tr data-job="([0-9]+)"', Browser(place).get())
    assert rows == ['4', '3', '7', '2', '1', '6', '5']


# Words.


def test_the_words_for_what_there_is_not(place):
    browser = Browser(place)
    assert 'No jobs yet' in browser.get() and '/job/add' in browser.get()
    assert 'No job matches &lt;x&gt;' in browser.get('/?search_string=%3Cx%3E')
    assert 'No job is failing' in browser.get('/?state=failing')
    place.add(active=0)
    assert 'not scheduled' in list_row(browser.get())
    place.store.change('UPDATE job SET active = 1')
    assert 'being planned' in list_row(browser.get())
    start_run(place, 1)
    assert 'running now' in list_row(browser.get())
    assert 'Stop after' in browser.get('/job/1') and 'you can edit' in browser.get()
    readers = Browser(place, user=None)
    assert 'Actions' not in readers.get() and 'type="checkbox"' not in readers.get()
