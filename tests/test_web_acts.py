"""What the buttons of the page do to jobs, to many at once, and to hosts."""

import re

import pytest
from conftest import dc
from test_web import EVIL, Browser, see_host, start_run


def seconds_left(place, until):
    return (dc.moment(until) - place.store.now()).total_seconds()


def test_a_job_is_paused_and_resumed(place):
    browser = Browser(place)
    place.add(next_run_utc=dc.text_of(place.store.now() + dc.DAY))
    assert 'job/1/pause' in browser.get() and 'job/1/resume' not in browser.get()
    where, text = browser.change('/job/1/pause', '/job/1')
    assert where == '/cron/job/1' and 'Job 1 paused.' in text
    job = place.job(1)
    assert 3590 < seconds_left(place, job.paused_until_utc) <= 3600
    assert job.paused_by == 'alice'
    assert 'paused until' in browser.get() and 'by alice' in browser.get()
    assert 'job/1/resume' in browser.get()
    _, text = browser.change('/job/1/resume')
    assert 'Job 1 resumed.' in text
    assert seconds_left(place, place.job(1).paused_until_utc) <= 0
    _, text = browser.change('/job/1/resume')
    assert 'resumed' not in text


def test_all_hosts_or_one_are_paused(place):
    browser = Browser(place)
    see_host(place, 'Web-1', place.sql('SELECT {local}')[0][0])
    where, text = browser.change('/hosts/pause', '/hosts', host='*', **{'for': '8h'})
    assert where == '/cron/hosts' and 'All hosts are paused until ' in text
    assert ', by alice' in text and 'Resume all' in text and 'Pause all' not in text
    (pause,) = place.sql('SELECT * FROM pause')
    assert pause.target == '*'
    assert 8 * 3600 - 10 < seconds_left(place, pause.until_utc) <= 8 * 3600
    _, text = browser.change('/hosts/resume', host='*')
    assert 'All hosts' not in text and 'Pause all' in text
    _, text = browser.change('/hosts/pause', '/hosts', host='web-1', **{'for': '15m'})
    assert 'Host web-1 is paused until ' in text
    row = re.search('(?s)<tbody>.*?</tr>', text)[0]
    assert 'paused by alice' in row and 'hosts/resume' in row
    assert set(dc.pauses(place.store)) == {'web-1'}
    log = place.read('log/web.log')
    assert ': hosts *: pause' in log and ': hosts web-1: pause' in log
    assert log.count('] done ') == 3


@pytest.mark.parametrize(
    'fields, status',
    [
        ({'host': 'unknown'}, 404),
        ({'host': ''}, 404),
        ({'host': EVIL}, 404),
        ({}, 404),
        ({'host': '*', 'for': '99d'}, 400),
        ({'host': '*', 'for': EVIL}, 400),
        ({'host': '*', 'for': ''}, 400),
    ],
)
def test_nothing_else_is_paused(place, fields, status):
    answer = Browser(place).post('/hosts/pause', **fields)
    assert answer.status == status and place.sql('SELECT * FROM pause') == []


@pytest.mark.parametrize('path', ['/hosts/pause', '/jobs/disable', '/job/1/pause'])
def test_who_only_views_can_do_none_of_it(place, path):
    place.add()
    before = place.sql('SELECT * FROM job')
    token = Browser(place).token()
    reader = Browser(place, user=None)
    answer = reader.post(path, csrf=token, host='*', **{'job-1': 'on'})
    assert answer.status == 403
    other = Browser(place).post(path, csrf='0' * 64, host='*', **{'job-1': 'on'})
    assert other.status == 403
    assert place.sql('SELECT * FROM job') == before
    assert place.sql('SELECT * FROM pause') == []
    for word in ('Pause all', 'id="bulk"', 'hosts/pause'):
        assert word not in reader.get() + reader.get('/hosts')


def test_many_jobs_at_once(place):
    browser = Browser(place)
    for _ in range(4):
        place.add(next_run_utc=dc.text_of(place.store.now() + dc.DAY))
    text = browser.get()
    assert text.count('form="bulk"') == 4
    chosen = {'job-1': 'on', 'job-3': 'on', 'job-99': 'on', 'job-x': 'on'}
    where, text = browser.change('/jobs/disable', '/?sort=id', **chosen)
    assert where == '/cron/?sort=id' and '2 jobs: disabled.' in text
    assert [job.active for job in place.sql('SELECT * FROM job ORDER BY id')] == [
        0,
        1,
        0,
        1,
    ]
    log = place.read('log/web.log')
    assert log.count(' job 1: disable') == log.count(' job 3: disable') == 1
    assert len(log.splitlines()) == 4
    _, text = browser.change('/jobs/enable', **chosen)
    assert '2 jobs: enabled.' in text
    _, text = browser.change('/jobs/pause', **chosen)
    assert place.job(3).paused_by == 'alice' and not place.job(2).paused_by
    _, text = browser.change('/jobs/resume', **chosen)
    assert seconds_left(place, place.job(3).paused_until_utc) <= 0
    start_run(place, 3)
    _, text = browser.change('/jobs/stop', **chosen)
    assert '1 job: will be ended.' in text and place.job(3).stop_requested
    _, text = browser.change('/jobs/run-now', **chosen)
    assert place.job(1).run_requested and not place.job(2).run_requested
    _, text = browser.change('/jobs/enable')
    assert '0 jobs: enabled.' in text


def test_a_whole_page_can_be_chosen(place):
    browser = Browser(place)
    with place.store.transaction():
        for _ in range(50):
            place.add()
    fields = {'job-%d' % job: 'on' for job in range(1, 51)}
    _, text = browser.change('/jobs/disable', **fields)
    assert '50 jobs: disabled.' in text
    assert place.sql('SELECT COUNT(*) FROM job WHERE active = 1')[0][0] == 0


def test_a_job_of_a_template_changes_with_that_alone(place):
    """Its host's worker would undo it."""
    browser = Browser(place)
    template = place.add(each_host=1)
    child = place.add(parent_id=template, run_on='here')
    before = place.job(child)
    for action in ('pause', 'resume', 'disable', 'enable', 'edit'):
        answer = browser.post('/job/%d/%s' % (child, action), action='save')
        assert answer.status == 409
        assert 'Job 2 is on one host what job 1 says: change job 1.' in answer.text
    assert 'change job 1.' in browser.get('/job/%d/edit' % child, 409)
    _, text = browser.change('/jobs/disable', **{'job-2': 'on'})
    assert '0 jobs: disabled.' in text
    assert place.job(child) == before
    assert browser.get('/job/add?copy=%d' % child)
    browser.change('/job/%d/run-now' % child)
    assert place.job(child).run_requested
