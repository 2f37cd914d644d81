"""H and a~b: numbers that the id of a job fixes for ever."""

import os
from collections import Counter

import pytest
from conftest import dc

SCHEDULES = (
    'H H * * *',
    'H/15 H(9-16) * * *',
    'H H H H H',
    '0 H/6 H(25-31) 1~3,~ mon~fri',
    '5~ ~12 H/7 H(jan-jun)/2 H(fri-sun)',
)
# What they are for these seeds. A version that changes one moves people's jobs.
EXACT = [
    ('0', '6 1 * * *'),
    ('0', '6-59/15 10 * * *'),
    ('0', '6 1 12 4 3'),
    ('0', '0 1-23/6 29 1,4 4'),
    ('0', '41 0 5-28/7 2-6/2 5'),
    ('1', '57 20 * * *'),
    ('1', '12-59/15 13 * * *'),
    ('1', '57 20 27 11 3'),
    ('1', '0 2-23/6 30 2,11 5'),
    ('1', '52 10 6-28/7 1-6/2 5'),
    ('2', '22 18 * * *'),
    ('2', '7-59/15 11 * * *'),
    ('2', '22 18 9 1 6'),
    ('2', '0 0-23/6 26 1,1 2'),
    ('2', '32 6 2-28/7 1-6/2 5'),
    ('17', '10 5 * * *'),
    ('17', '10-59/15 14 * * *'),
    ('17', '10 5 13 3 6'),
    ('17', '0 5-23/6 30 3,3 3'),
    ('17', '40 11 6-28/7 1-6/2 7'),
    ('10000', '36 14 * * *'),
    ('10000', '6-59/15 15 * * *'),
    ('10000', '36 14 8 3 3'),
    ('10000', '0 2-23/6 25 3,3 1'),
    ('10000', '46 10 1-28/7 1-6/2 6'),
    ('4294967295', '46 12 * * *'),
    ('4294967295', '1-59/15 13 * * *'),
    ('4294967295', '46 12 28 9 3'),
    ('4294967295', '0 0-23/6 31 3,9 4'),
    ('4294967295', '41 9 7-28/7 1-6/2 7'),
    ('17 web1', '39 20 * * *'),
    ('17 web1', '9-59/15 13 * * *'),
    ('17 web1', '39 20 4 5 6'),
    ('17 web1', '0 2-23/6 28 2,5 3'),
    ('17 web1', '44 4 4-28/7 1-6/2 7'),
    ('17 db-2.example', '35 22 * * *'),
    ('17 db-2.example', '5-59/15 15 * * *'),
    ('17 db-2.example', '35 22 7 3 4'),
    ('17 db-2.example', '0 4-23/6 31 3,3 3'),
    ('17 db-2.example', '45 5 7-28/7 1-6/2 6'),
]
# (values of a field, chi-square that one in a thousand exceeds with that many)
LIMITS = [(60, 98.3), (24, 49.7), (28, 55.5), (12, 31.3), (7, 22.5)]


def test_the_exact_values():
    found = [
        (seed, dc.resolved(text, seed)) for seed in dict(EXACT) for text in SCHEDULES
    ]
    assert found == EXACT


def test_as_the_docstring_says():
    """The number is what `printf '17 minute' | sha256sum` prints."""
    digest = '32dc7c7c5240d8297d8e951eebb236a4e4b06bc7a4aa466b6145657bcf2b0f7e'
    number = int(digest, 16)
    texts = ('H', 'H(7-19)', '7~19', 'H/7', 'H(5-8)/7')
    assert [dc.resolved(text + ' * * * *', '17').split()[0] for text in texts] == [
        str(number % 60),
        str(7 + number % 13),
        str(7 + number % 13),
        '%d-59/7' % (number % 7),
        '%d-8/7' % (5 + number % 4),
    ]


@pytest.mark.parametrize('same', ['H(0-59) h * * *', '~ 0~23 * * *', '0~59 ~23 * * *'])
def test_other_ways_to_write_it(same):
    for id in range(1, 50):
        assert dc.resolved(same, str(id)) == dc.resolved('H H * * *', str(id))


def test_ten_thousand_jobs_spread_evenly():
    minutes_and_hours = Counter()
    fields = [Counter() for _ in LIMITS]
    for id in range(1, 10001):
        job = dc.Job(id=id, schedule='H H H H H')
        values = dc.shown_schedule(job).split()
        for field, value in zip(fields, values):
            field[value] += 1
        minutes_and_hours[tuple(values[:2])] += 1
    for field, (values, limit) in zip(fields, LIMITS):
        assert chi_square(field, values) < limit
    assert chi_square(minutes_and_hours, 1440) < 1610


def chi_square(found, values):
    assert len(found) <= values
    expected = sum(found.values()) / values
    seen = sum((count - expected) ** 2 / expected for count in found.values())
    return seen + (values - len(found)) * expected


def test_neighbours_are_far_apart():
    """Jobs that one import adds one after the other do not follow each other."""
    hours = [dc.resolved('0 H * * *', str(id)) for id in range(1, 1001)]
    same = sum(one == two for one, two in zip(hours, hours[1:]))
    assert same < 80  # a 24th is 42


def test_steps_keep_their_distance():
    for id in range(1, 200):
        minutes = dc.expression_of(dc.Job(id=id, schedule='H/15 0 * * *')).day_times
        steps = {two - one for one, two in zip(minutes, minutes[1:])}
        assert len(minutes) == 4 and steps == {15 * dc.MINUTE}
        few = dc.expression_of(dc.Job(id=id, schedule='H(10-13)/9 0 H/40 * *'))
        assert len(few.day_times) == 1 and few.month_days <= set(range(1, 29))


@pytest.mark.parametrize(
    'text',
    [
        '@hourly',
        '0 0 * MARCH thu',
        '30 2 * * *',
        '0 0 * * FRI-SUN',
        '@at 2030-01-01 00:00',
        '0  0 * * *',
        'H H',
    ],
)
def test_what_has_no_h_stays_as_it_is(text):
    assert dc.resolved(text, '5') == text


@pytest.mark.parametrize(
    'text, part',
    [
        ('H(5-3) * * * *', "minute 'h(5-3)'"),
        ('5~3 * * * *', "minute '5~3'"),
        ('H(0-99) * * * *', "minute 'h(0-99)'"),
        ('H/0 * * * *', "minute 'h/0'"),
        ('H/ * * * *', "minute 'h/'"),
        ('H() * * * *', "minute 'h()'"),
        ('H(5) * * * *', "minute 'h(5)'"),
        ('H-5 * * * *', "minute 'h-5'"),
        ('H(1-2-3) * * * *', "minute 'h(1-2-3)'"),
        ('~~ * * * *', "minute '~~'"),
        ('* H(0-24) * * *', "hour 'h(0-24)'"),
        ('* * 29~ * *', "day-of-month '29~'"),
        ('* * HW * *', "day-of-month 'hw'"),
        ('* * * * H#2', "day-of-week 'h#2'"),
    ],
)
def test_errors(text, part):
    with pytest.raises(dc.BadSchedule) as caught:
        dc.expression_of(dc.Job(schedule=text))
    assert part in str(caught.value) and 'H(a-b), a~b' in str(caught.value)


def test_a_job_is_saved_with_the_time_of_its_id(place):
    for _ in range(5):
        out = place.run('add', '--schedule', 'H H * * *', 'true')
        id = int(out.split()[1].strip(','))
        job = place.job(id)
        minute, hour = dc.resolved(job.schedule, str(id)).split()[:2]
        at = '%s:%s' % (hour.zfill(2), minute.zfill(2))
        assert job.schedule == 'H H * * *' and job.changed_utc is None
        assert ' %s:00, in ' % at in out and 'at ' + at in place.run('list', '--wide')
        assert 'at ' + at in place.run('show', str(id))
        assert ' %s:00 ' % at in place.run('next', str(id), '-n', '1')
        place.store.execute(
            'UPDATE job SET next_run_utc = NULL'
        )  # a worker plans alike
        place.store.plan(place.store.now())
        assert place.job(id).next_run_utc == job.next_run_utc
        place.run('edit', str(id), '--description', 'x', '--schedule', 'H H * * *')
        assert place.job(id).next_run_utc == job.next_run_utc


def test_a_window_that_its_time_misses_is_an_error_and_no_job(place):
    """Whether the number is in the window, only the id tells, so the insert is taken
    back."""
    wrong = right = 0
    for _ in range(12):
        values = {'command': 'x', 'schedule': '0 H * * *', 'stop_anchor': '12:00'}
        try:
            _, when = dc.save_job(place.store, None, values)
            assert place.store.zone.local(when).hour < 12
            right += 1
        except dc.BadJob as problem:
            assert 'has no time from 00:00:00 to 12:00' in problem.wrong['schedule']
            wrong += 1
    assert wrong and len(place.sql('SELECT * FROM job')) == right


def test_a_child_goes_by_its_template_and_its_host(place):
    template = place.add(schedule='H H * * *', each_host=1, active=0)
    child = place.add(schedule='H H * * *', parent_id=template, run_on='web1')
    place.store.plan(place.store.now())
    minute, hour = dc.resolved('H H * * *', '%d web1' % template).split()[:2]
    when = place.store.zone.local(dc.moment(place.job(child).next_run_utc))
    assert (when.hour, when.minute) == (int(hour), int(minute))
    assert dc.describe(place.job(template)) == 'at minute H of hour H'


def test_export_shows_the_time_and_import_keeps_the_h(place, tmp_path):
    place.run('add', '--schedule', 'H H(3-5) * * *', 'true')
    text = place.run('export')
    shown = dc.shown_schedule(place.job(1))
    assert '\n%s true\n' % shown in text
    path = str(tmp_path / 'crontab')
    with open(path, 'w') as file:
        file.write(text)
    assert '1 already present' in place.run('import', path)
    place.run('remove', '1')
    place.run('import', path)
    assert place.sql('SELECT * FROM job')[0].schedule == 'H H(3-5) * * *'
    with open(path, 'w') as file:  # the comment must not say another time than the line
        file.write(text.replace(shown, '1 1 * * *'))
    place.run('import', path, code=1)


def test_import_of_cronies_random_times(place):
    path = os.path.join(place.folder, 'crontab')
    with open(path, 'w') as file:
        file.write('0~30 ~ * * 1-5 true\n5~3 * * * * false\n')
    out = place.run('import', path, code=1)
    assert '1 added' in out and "line 2: minute '5~3'" in out
    assert place.job(1).schedule == '0~30 ~ * * 1-5'
