"""The form: copies of jobs, and schedules by one click."""

import html
import re
from urllib.parse import quote

import pytest
from test_web import EVIL, Browser, Page


def test_a_copy_of_a_job(place):
    browser = Browser(place)
    job = place.add(
        'echo "<b>"',
        description='orders & more',
        name='orders',
        schedule='5 4 * * sun',
        max_run_time=77,
        retries=3,
        run_on='db',
        active=0,
    )
    assert '/cron/job/add?copy=%d' % job in Page(browser.get('/job/1')).links
    text = browser.get('/job/add?copy=%d' % job)
    inputs = Page(text).inputs
    for name, value in {
        'description': 'orders & more',
        'schedule': '5 4 * * sun',
        'max_run_time': '77',
        'retries': '3',
        'run_on': 'db',
        'name': '',  # no two jobs have the same
    }.items():
        assert inputs[name]['value'] == value, name
    assert 'echo &quot;&lt;b&gt;&quot;</textarea>' in text
    assert '<h1>Add a job</h1>' in text and 'data-id=""' in text
    assert 'checked' not in inputs['active']
    assert len(place.sql('SELECT id FROM job')) == 1  # nothing is saved yet


@pytest.mark.parametrize('path', ['/job/add', '/job/1/edit', '/job/add?copy=1'])
def test_a_schedule_by_one_click(sqlite_place, path):
    browser = Browser(sqlite_place)
    sqlite_place.add(description='kept', frequency=7)
    text = browser.get(path)
    chips = re.findall('<a href="(.*?)" data-cron="(.*?)">', text)
    assert len(chips) > 5
    for address, cron in chips:
        text = browser.get(html.unescape(address).removeprefix('/cron'))
        inputs = Page(text).inputs
        assert inputs['schedule']['value'] == cron
        kind = re.search('value="schedule"( checked)?>', text)
        assert kind[1] and 'class="words"' in text  # and the preview knows it
    assert sqlite_place.job(1).schedule is None


@pytest.mark.parametrize('text', [EVIL, '%', '61 * * * *', '{local}', '\u202e'])
def test_a_hostile_schedule_in_the_address(sqlite_place, text):
    answer = Browser(sqlite_place).ask('/job/add?schedule=' + quote(text))
    assert answer.status == 200
    Page(answer.text)
    assert '<xss' not in answer.text and '\u202e' not in answer.text
    assert 'class="error"' in answer.text


@pytest.mark.parametrize(
    'query, status',
    [
        ('copy=9', 404),
        ('copy=0', 400),
        ('copy=' + quote(EVIL), 400),
        ('copy=1&copy=1', 400),
        ('schedule=' + 'x' * 256, 400),
        ('schedule=a%0ab', 400),
    ],
)
def test_what_it_refuses(sqlite_place, query, status):
    sqlite_place.add()
    answer = Browser(sqlite_place).ask('/job/add?' + query)
    assert answer.status == status and '<xss' not in answer.text


def test_readers_see_no_form(sqlite_place):
    sqlite_place.add()
    reader = Browser(sqlite_place, None)
    for path in ('/job/add?copy=1', '/job/1/edit?schedule=@daily'):
        assert reader.ask(path).status == 403
    assert 'copy=' not in reader.get('/job/1')
