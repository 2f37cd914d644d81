"""The page of the next 24 hours: what it takes to run when, and what does not fit."""

import re
import time
from datetime import timedelta
from urllib.parse import quote

import pytest
from conftest import dc
from test_web import EVIL, Browser, Page, add_history, start_run

from web import ahead


@pytest.fixture
def now(place):
    return place.store.now().replace(microsecond=0)


def minutes(count):
    return count * dc.MINUTE


def add_due(place, now, ahead_by, took, **more):
    """A job that is due in so many minutes, and takes so many."""
    due = dc.text_of(now + minutes(ahead_by))
    values = {'schedule': '0 0 1 1 *', 'max_run_time': 600, **more}
    job = place.add(next_run_utc=due, **values)
    add_history(place, job, 3, note=None, attempt=0, duration_ms=took * 60000)
    place.store.change(
        'UPDATE job SET next_run_utc = :due WHERE id = :job', due=due, job=job
    )
    return job


def add_host(place, name='here', slots=1, tags=None, ago=0):
    seen = place.store.zone.local(place.store.now()) - minutes(ago)
    row = dc.Host(name, dc.text_of(seen), name + '-7', '2.0', slots, 0, 0, tags)
    place.store.upsert('host', [row])


def troubles(place):
    """What the page says of each job's runs that do not fit, without their times."""
    text = Browser(place).get('/ahead')
    found = {}
    for row in re.findall('(?s)<tr><th scope="row"><a href=.*?</tr>', text):
        job = int(re.search('/cron/job/([0-9]+)"', row)[1])
        words = re.findall('<span class="error">[0-9:]{5} (.*?)</span>', row)
        assert row.count('class="late"') == len(words)
        found[job] = words
    return found


def test_jobs_at_the_same_time_wait_for_one_slot(place, now):
    add_host(place)
    for _ in range(3):
        add_due(place, now, 60, 30)
    add_due(place, now, 300, 30)
    assert troubles(place) == {1: [], 2: ['waits 30 min'], 3: ['waits 60 min'], 4: []}
    text = Browser(place).get('/ahead')
    assert '2 of 4 runs do not fit.' in text
    assert 'at most 3 of 1 at once' in text
    add_host(place, 'there', 2)
    assert troubles(place) == {1: [], 2: [], 3: [], 4: []}
    text = Browser(place).get('/ahead')
    assert 'All 4 runs fit.' in text and 'at most 3 of 3 at once' in text


def test_without_a_host(place, now):
    add_host(place, 'one')
    add_host(place, 'two')
    for _ in range(2):
        add_due(place, now, 60, 30)
    browser = Browser(place)
    assert 'All 2 runs fit.' in browser.get('/ahead')
    page = Page(browser.get('/ahead'))
    assert '/cron/ahead?without=one' in page.links
    assert '1 of 2 runs do not fit without one.' in browser.get('/ahead?without=one')
    place.store.change("DELETE FROM host WHERE name = 'two'")
    text = browser.get('/ahead?without=one')
    assert 'No host is up without one, so nothing would run.' in text


def test_a_run_that_would_start_after_its_window(place, now):
    add_host(place)
    local = place.store.zone.local(now + minutes(60))
    window = {
        'start_anchor': '%s' % (local - minutes(9)).time(),
        'stop_anchor': '%s' % (local + minutes(9)).time(),
    }
    add_due(place, now, 60, 30)
    add_due(place, now, 61, 5, **window)
    add_due(place, now, 62, 5, start_within=20)
    add_due(place, now, 63, 5, start_within=40)
    assert troubles(place) == {
        1: [],
        2: ['can not start in time'],
        3: ['can not start in time'],
        4: ['waits 27 min'],
    }


def test_which_hosts_may_run_it(place, now):
    add_host(place, 'Web-1', 1)
    add_host(place, 'web-2', 9, 'ssd db')
    add_host(place, 'gone', 9, ago=9)
    for run_on in ('web-1', 'web-1', 'db', None, 'gone', 'nowhere'):
        add_due(place, now, 60, 30, run_on=run_on)
    nobody = ['no host that is up may run it']
    assert troubles(place) == {
        1: [],
        2: ['waits 30 min'],
        3: [],
        4: [],
        5: nobody,
        6: nobody,
    }


@pytest.mark.parametrize('target', ['*', 'here'])
def test_a_pause_of_hosts(place, now, target):
    add_host(place, 'here')
    add_due(place, now, 60, 30)
    row = {'target': target, 'until_utc': dc.text_of(now + minutes(90))}
    place.store.insert('pause', row)
    assert troubles(place) == {1: ['waits 30 min']}
    place.store.change("UPDATE pause SET target = 'elsewhere'")
    assert troubles(place) == {1: []}


def test_a_run_in_progress_keeps_its_slot(place, now):
    add_host(place)
    add_due(place, now, 0, 30)
    start_run(place, 1, 'here-9')
    add_due(place, now, 10, 5)
    assert troubles(place)[2] == ['waits 20 min']


def test_jobs_that_do_not_run(place, now):
    add_host(place)
    add_due(place, now, 60, 5, active=0)
    add_due(place, now, 60, 5, each_host=1)
    add_due(place, now, 25 * 60, 5)
    waits = add_due(place, now, 60, 5, after_job=1)
    place.store.change(
        'UPDATE job SET next_run_utc = :never WHERE id = :job',
        never=dc.text_of(dc.PARKED),
        job=waits,
    )
    text = Browser(place).get('/ahead')
    assert 'No job is due in the next 24 hours.' in text
    place.add(schedule='bad', next_run_utc=None)
    place.add(schedule='0 0 1 1 *', time_zone='no/where', next_run_utc=None)
    assert troubles(place) == {}


def test_a_job_is_not_due_while_its_last_run_runs(place, now):
    add_host(place)
    add_due(place, now, 60, 200, schedule=None, frequency=180)
    (lane,) = ahead.lanes_of(place.store, now, [([], [now])])
    assert len(lane.times) == 8
    for due in lane.times:
        lane.start(due, place.store.zone)
    assert [(start.due - now) // minutes(1) for start in lane.starts] == [
        60,
        420,
        780,
        1140,
    ]


def test_times_are_those_of_the_planner(place, now):
    zone = place.store.zone
    for schedule in ('30 */5 * * *', '0 3 * * *', '15 1,2 * * *'):
        job = place.job(place.add(schedule=schedule, time_zone='Europe/Berlin'))
        expected = []
        for _, when in dc.upcoming(job, now, zone):
            if when >= now + dc.DAY:
                break
            expected.append(when)
        assert list(ahead.times_of(place.store, job, now)) == expected
        # A retry, or the end of a pause: as the plan says, and then by the schedule.
        retry = now + timedelta(seconds=77)
        job = job._replace(next_run_utc=dc.text_of(retry))
        later = [when for when in expected if when > retry]
        assert list(ahead.times_of(place.store, job, now)) == [retry, *later]
    job = place.job(place.add(schedule=None, frequency=600))
    times = list(ahead.times_of(place.store, job, now))
    assert times == [now + minutes(600 * number) for number in range(3)]


def test_frequent_jobs_are_one_line(place, now):
    add_host(place, slots=4)
    for _ in range(3):
        add_due(place, now, 1, 30, schedule=None, frequency=59)
    add_due(place, now, 1, 0, schedule='* * * * *')
    add_due(place, now, 1, 0, schedule='0 */2 * * *')
    text = Browser(place).get('/ahead')
    assert '4 that run more often than hourly' in text
    assert 'every 59 minutes × 3, every minute × 1' in text
    assert '1.5 slots all the time' in text
    assert troubles(place) == {5: []}
    assert 'at most 3 of 4 at once' in text


def test_hourly_jobs_have_a_lane_each_if_these_are_not_too_many(
    place, now, monkeypatch
):
    add_host(place, slots=4)
    for _ in range(3):
        add_due(place, now, 1, 9, schedule=None, frequency=60)
    text = Browser(place).get('/ahead')
    assert troubles(place) == {1: [], 2: [], 3: []}
    assert '… 24 in all' in text and ' hourly' not in text
    monkeypatch.setattr(ahead, 'MOST_STARTS', 71)
    assert troubles(place) == {}
    assert '3 that run hourly or more often' in Browser(place).get('/ahead')


def park(place, job, **more):
    """A job that waits for another one."""
    values = {'next_run_utc': dc.text_of(dc.PARKED), **more}
    names = ', '.join('%s = :%s' % (name, name) for name in values)
    place.store.change('UPDATE job SET %s WHERE id = :job' % names, job=job, **values)


def starts(place):
    """The bars of each job, as the tips of the mouse tell them, by its id."""
    text = Browser(place).get('/ahead')
    Page(text)
    found = {}
    for row in re.findall('(?s)<tr><th scope="row"><a href=.*?</tr>', text):
        job = int(re.search('/cron/job/([0-9]+)"', row)[1])
        found[job] = re.findall('class="(.*?)" x=.*?<title>(.*?) *</title>', row)
        assert len(re.findall('<title>', row)) == len(found[job]) or not found[job]
    return found


def clock(place, now, ahead_by):
    return place.store.zone.local(now + minutes(ahead_by)).strftime('%H:%M')


def test_jobs_that_run_after_others(place, now):
    """Each when the run before it usually ends; by its own window, pause and words."""
    add_host(place, 'here', 9)
    parent = add_due(place, now, 60, 30)
    local = place.store.zone.local(now + minutes(200))
    closes = local + minutes(60)
    opens = {'start_anchor': '%s' % local.time(), 'stop_anchor': '%s' % closes.time()}
    for more in (
        {},
        {'after_job': 2},
        {'paused_until_utc': dc.text_of(now + minutes(150))},
        opens,
        {'active': 0},
        {'run_on': 'nowhere'},
    ):
        job = add_due(place, now, 60, 10, **{'after_job': parent, **more})
        park(place, job)
    add_due(place, now, 60, 10, after_job=99)
    park(place, 8)
    at = 'about ' + clock(place, now, 90)
    assert starts(place) == {
        1: [],
        2: [('after', at)],
        3: [('after', 'about ' + clock(place, now, 100))],
        4: [('after', 'about ' + clock(place, now, 150))],
        5: [('after', 'about ' + clock(place, now, 200))],
        7: [('late', at + ' no host that is up may run it')],
    }
    text = Browser(place).get('/ahead')
    assert re.sub('<.*?>', '', text).count('after job 1') == 4
    assert '1 of 6 runs do not fit.' in text


def test_what_can_not_start_has_no_followers(place, now):
    add_host(place, 'here', 1)
    add_due(place, now, 60, 5, run_on='nowhere')
    park(place, add_due(place, now, 0, 5, after_job=1))
    assert set(starts(place)) == {1}


def test_a_follower_that_still_runs_runs_once_more(place, now):
    add_host(place, 'here', 9)
    add_due(place, now, 60, 5, schedule=None, frequency=300)
    park(place, add_due(place, now, 0, 400, after_job=1))
    assert [len(found) for found in starts(place).values()] == [0, 4]


def test_followers_of_frequent_jobs_are_as_frequent(place, now):
    add_host(place, 'here', 9)
    add_due(place, now, 1, 10, schedule='*/20 * * * *')
    park(place, add_due(place, now, 0, 5, after_job=1))
    text = Browser(place).get('/ahead')
    assert '2 that run more often than hourly' in text
    assert 'every 20 minutes × 1, after job 1 × 1' in text
    assert '0.8 slots all the time' in text and starts(place) == {}


def test_a_circle_of_jobs_ends(place, now):
    """It can only be written by hand; one of them is due."""
    add_host(place, 'here', 9)
    job = add_due(place, now, 60, 0)
    park(place, add_due(place, now, 60, 0, after_job=job))
    place.store.change('UPDATE job SET after_job = 2 WHERE id = 1')
    park(place, 1, next_run_utc=dc.text_of(now + minutes(60)))
    began = time.monotonic()
    assert [len(found) for found in starts(place).values()] == [48, 48]
    assert time.monotonic() - began < 5
    place.store.change("UPDATE job SET after_job = id")
    assert Browser(place).ask('/ahead').status == 200


def test_what_runs_now_goes_on_for_what_is_left(place, now):
    add_host(place)
    job = add_due(place, now, 0, 57, schedule=None, frequency=120)
    start_run(place, job, 'here-9')
    local = place.store.zone.local
    park(
        place,
        job,
        last_start=dc.text_of(local(now - minutes(50))),
        next_run_utc=dc.text_of(now - minutes(50)),
    )
    (lane,) = ahead.lanes_of(place.store, now, [([], [now])])
    ahead.simulate([lane], now + dc.DAY, place.store.zone)
    first, second = lane.starts[:2]
    assert (first.begins, first.ends) == (now, now + minutes(7))
    assert second.due == now + minutes(70)


def test_peaks(now):
    def lane(took, *dues):
        lane = ahead.Lane(dc.Job(), minutes(took), [])
        for due in dues:
            lane.start(now + minutes(due), None)
        return lane

    most = ahead.peaks([lane(40, 5), lane(5, 10, 50), lane(9999, 1430)], now, 0.5)
    assert most[:5] == [2.5, 1.5, 1.5, 1.5, 0.5]
    assert set(most[5:-1]) == {0.5} and most[-1] == 1.5 and len(most) == 96


@pytest.mark.parametrize('text', [EVIL, '%', 'x' * 191, "' OR 1=1 --", '{local}', 'ü'])
def test_hostile_words_are_words(place, now, text):
    place.add(description=text, schedule='0 1 * * *')
    add_host(place, text[:99])
    answer = Browser(place).ask('/ahead?without=' + quote(text[:99]))
    assert answer.status == 200
    Page(answer.text)
    assert '<xss' not in answer.text and 'No host is up without ' in answer.text


@pytest.mark.parametrize(
    'query', ['without=' + 'x' * 192, 'without=a%0ab', 'without=%FF']
)
def test_what_it_refuses(sqlite_place, query):
    assert Browser(sqlite_place).ask('/ahead?' + query).status == 400


def test_a_thousand_jobs_take_less_than_500_ms(place, now):
    """Of the page's CPU time, as other tests run beside it; test_web_scale.py looks at
    the clock. 100 jobs run every minute, 200 hourly, 300 every three hours, 400 daily.
    """
    add_host(place, slots=8)
    with place.store.transaction():
        for number in range(1000):
            schedule = '%d %d * * *' % (number % 60, number % 24)
            if number % 10 < 3:
                schedule = '%d */3 * * *' % (number % 60)
            elif number % 10 < 5:
                schedule = '%d * * * *' % (number % 60)
            elif number % 10 < 6:
                schedule = '* * * * *'
            place.add(schedule=schedule, run_no=9)
    rows = []
    for job in range(1, 1001):
        for run_no in range(1, 10):
            row = {
                'job_id': job,
                'run_no': run_no,
                'status': 'Success',
                'worker': 'x-1',
            }
            rows.append(dc.Run(duration_ms=job * run_no, attempt=0, **row))
    place.store.upsert('run', rows)
    browser = Browser(place)
    times = []
    for _ in range(5):
        began = time.process_time()
        text = browser.get('/ahead')
        times.append(time.process_time() - began)
    print('%d ms, %d bytes' % (1000 * min(times), len(text)))
    assert text.count('/cron/job/') == 700 + 1  # and the link to add one
    assert min(times) < 0.5, times


def test_frequent_jobs_take_their_slots(place, now):
    add_host(place, slots=2)
    add_due(place, now, 60, 30)
    add_due(place, now, 60, 30)
    assert troubles(place) == {1: [], 2: []}
    add_due(place, now, 1, 60, schedule=None, frequency=59)
    assert troubles(place) == {1: [], 2: ['waits 30 min']}
    add_due(place, now, 1, 60, schedule=None, frequency=59)
    assert troubles(place) == {1: [], 2: ['waits 30 min']}  # one is left to it
