"""The time zone of a job, on a database whose own zone has another date."""

import re
import os
import subprocess
import sys
import zoneinfo
from datetime import datetime, timedelta

import pytest
import test_daylight
from conftest import SCRIPT, dc

AUCKLAND, KIRITIMATI, BERLIN = 'Pacific/Auckland', 'Pacific/Kiritimati', 'Europe/Berlin'
# Auckland is UTC+13 until 2026-04-04 14:00 UTC, 03:00 becomes 02:00, then UTC+12 until
# 2026-09-26 14:00 UTC, 02:00 becomes 03:00. Kiritimati is UTC+14.
CASES = [
    # (zone, columns, from, UTC times of the runs), written out by hand
    (
        AUCKLAND,
        {'schedule': '30 2 * * *'},
        '2026-04-03 00:00:00',
        ['2026-04-03 13:30', '2026-04-04 13:30', '2026-04-05 14:30'],  # the first
    ),
    (
        AUCKLAND,
        {'schedule': '30 2 * * *'},
        '2026-09-25 00:00:00',
        ['2026-09-25 14:30', '2026-09-26 14:00', '2026-09-27 13:30'],  # at the jump
    ),
    (
        AUCKLAND,
        {'schedule': '30 * 5 4 *'},
        '2026-04-04 13:00:00',
        ['2026-04-04 13:30', '2026-04-04 14:30', '2026-04-04 15:30'],  # both
    ),
    (
        AUCKLAND,
        {'schedule': '0 0 1 * *'},
        '2026-05-01 00:00:00',
        ['2026-05-31 12:00', '2026-06-30 12:00'],  # still the last of the month in UTC
    ),
    (
        KIRITIMATI,
        {'schedule': '0 0 1 1 *'},
        '2026-06-01 00:00:00',
        ['2026-12-31 10:00', '2027-12-31 10:00'],
    ),
    (
        KIRITIMATI,
        {'schedule': '0 5 * * mon'},
        '2026-06-01 00:00:00',
        ['2026-06-07 15:00', '2026-06-14 15:00'],  # Sunday in UTC
    ),
    (
        AUCKLAND,
        {'frequency': 60, 'start_anchor': '08:00', 'stop_anchor': '10:00'},
        '2026-06-01 12:00:00',
        ['2026-06-01 20:00', '2026-06-01 21:00', '2026-06-02 20:00'],
    ),
    (
        AUCKLAND,
        {'frequency': 60, 'start_anchor': '02:30', 'stop_anchor': '04:00'},
        '2026-09-25 00:00:00',
        ['2026-09-25 14:30', '2026-09-25 15:30', '2026-09-26 14:00'],
    ),
    (
        KIRITIMATI,
        {'schedule': '*/30 * * * *', 'start_anchor': '23:30', 'stop_anchor': '00:30'},
        '2026-06-01 00:00:00',
        ['2026-06-01 09:30', '2026-06-01 10:00', '2026-06-02 09:30'],
    ),
]
NOT_WELL_FORMED = [
    '../../etc/passwd',
    '/usr/share/zoneinfo/Europe/Berlin',
    'right/Europe/Berlin',
    'europe/berlin',
    'localtime',
    'Europe/',
    '',
    ':Europe/Berlin',
    'A' * 64 + '/B',
    'Europe/Berlin\n',
]


def in_zone(place, zone, clock):
    place.set_zone(zone)
    place.set_clock(clock)
    place.store.zone.__init__(place.store.local_time)  # forget the zone before


@pytest.mark.parametrize('databases', [KIRITIMATI, 'Pacific/Pago_Pago', BERLIN])
@pytest.mark.parametrize('zone, columns, start, expected', CASES + test_daylight.CASES)
def test_runs_through_the_change(place, databases, zone, columns, start, expected):
    """As in the database's zone, whatever that is. last_start is in the database's."""
    in_zone(place, databases, start)
    id = place.add(time_zone=zone, **columns)
    store = place.store
    store.plan(store.now())
    found = []
    for _ in expected:
        job = place.job(id)
        found.append(job.next_run_utc[:16])
        when = dc.moment(job.next_run_utc)
        started = dc.text_of(store.zone.local(when))
        job = job._replace(last_start=started, claimed_start=started)
        plan = dc.next_plan(job, when, when, store.zone)
        store.change(
            'UPDATE job SET next_run_utc = :when WHERE id = :id',
            when=plan['next_run_utc'],
            id=id,
        )
    assert found == expected


def test_a_last_start_is_in_the_databases_zone(place):
    """02:10 came twice there; it never does in the job's zone."""
    in_zone(place, BERLIN, '2026-10-25 01:20:00')
    id = place.add(
        frequency=30, last_start='2026-10-25 02:10:00', time_zone='Asia/Kolkata'
    )
    place.store.plan(place.store.now())
    assert place.job(id).next_run_utc == '2026-10-25 01:40:00'


@pytest.mark.parametrize('databases', [KIRITIMATI, BERLIN])
def test_upcoming_of_a_frequency_job(databases):
    zone = dc.named_zone(databases)
    job = dc.Job(
        active=1,
        frequency=60,
        max_run_time=30,
        start_anchor='08:00',
        time_zone=AUCKLAND,
    )
    now = datetime(2026, 6, 1, 9)  # 21:00 in Auckland
    times = dc.upcoming(job, now, zone)
    assert [str(next(times)[0])[:16] for _ in range(4)] == [
        '2026-06-01 21:00',
        '2026-06-01 22:00',
        '2026-06-01 23:00',
        '2026-06-02 08:00',
    ]


def test_every_zone_has_the_one_rule():
    """On the days of 2026 and 2027 in which its clock changes, from what it shows back
    to when it shows that."""
    moments = [datetime(2026, 1, 1) + n * timedelta(minutes=30) for n in range(35040)]
    for name in sorted(zoneinfo.available_timezones() - {'localtime'}):
        zone = dc.named_zone(name)
        days = [
            (one, two)
            for one, two in zip(moments[::48], moments[48::48])
            if zone.offset(one) != zone.offset(two)
        ]
        for one, two in days:
            for when in moments[moments.index(one) : moments.index(two)]:
                local = zone.local(when)
                assert when in zone.times(local) and zone.utc(local) <= when
                assert zone.utc_before(local, when) == when
                skipped = local + timedelta(minutes=30)
                if zone.local(when + timedelta(minutes=30)) > skipped:
                    jump = zone.utc(skipped)
                    assert zone.offset(jump) > zone.offset(jump - dc.SECOND)


@pytest.mark.parametrize(
    'name, when, hours',
    [
        (BERLIN, datetime(2040, 7, 1), 2),
        (BERLIN, datetime(8999, 7, 1), 2),
        ('Europe/Moscow', datetime(2038, 7, 1), 3),  # in 2010 it was 4
        ('America/Sao_Paulo', datetime(2039, 1, 1), -3),  # in 2011 it was -2
        (AUCKLAND, datetime(2104, 2, 29), 13),
    ],
)
def test_years_after_2037_are_those_of_the_zone(name, when, hours):
    assert dc.named_zone(name).offset(when) == timedelta(hours=hours)


@pytest.mark.parametrize('name', NOT_WELL_FORMED)
def test_what_can_be_no_zone_is_a_bad_schedule(name):
    with pytest.raises(dc.BadSchedule) as caught:
        dc.zone_of(dc.Job(time_zone=name), None)
    assert not isinstance(caught.value, dc.NoSuchZone)
    assert caught.value.column == 'time_zone' and '\n' not in str(caught.value)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize('name', ['Europe/Belrin', 'Europe', 'Mars/Olympus'])
def test_a_zone_that_another_host_may_know_is_another_error(name):
    """Also a name that is a folder there."""
    with pytest.raises(dc.NoSuchZone, match=r'unknown; the nearest known is [A-Z]'):
        dc.named_zone(name)


def test_an_unknown_zone_is_refused_with_the_nearest(place):
    with pytest.raises(dc.BadJob) as caught:
        dc.save_job(place.store, None, {'command': 'x', 'time_zone': 'Europe/Belrin'})
    text = "'Europe/Belrin' is unknown; the nearest known is Europe/Berlin"
    assert caught.value.wrong == {'time_zone': text}
    id, _ = dc.save_job(place.store, None, {'command': 'x', 'time_zone': BERLIN})
    with pytest.raises(dc.BadJob):
        dc.save_job(place.store, id, {'time_zone': 'europe/berlin'})
    assert place.job(id).time_zone == BERLIN
    out = place.run('next', '@daily', '--time-zone', 'Europe/Belrin', code=2)
    assert text in out


@pytest.mark.parametrize('name', NOT_WELL_FORMED)
def test_by_sql_it_parks_that_job_only(place, name):
    if len(name) > 64 and place.engine != 'sqlite':
        pytest.skip('the database refuses it')
    bad = place.add(schedule='* * * * *', time_zone=name)
    good = place.add(schedule='* * * * *', time_zone=AUCKLAND)
    place.store.plan(place.store.now())
    assert place.job(bad).next_run_utc == '9999-12-31 00:00:00'
    assert place.job(bad).last_status.startswith('ERROR: schedule: time_zone ')
    assert place.job(good).next_run_utc < '9999'


@pytest.mark.parametrize('name', ["x'4265726c696e'", '5', "'%s'" % ('Ab' * 500)])
def test_what_only_sqlite_stores_stops_that_job_only(sqlite_place, name):
    bad, good = (sqlite_place.add(schedule='* * * * *') for _ in range(2))
    sqlite_place.store.execute(
        'UPDATE job SET time_zone = %s WHERE id = %d' % (name, bad)
    )
    sqlite_place.store.plan(sqlite_place.store.now())
    assert sqlite_place.job(bad).next_run_utc in (None, '9999-12-31 00:00:00')
    assert sqlite_place.job(good).next_run_utc < '9999'
    assert sqlite_place.run('list', '--wide').count('every minute') == 2


def test_next_is_in_the_jobs_zone(place):
    id = place.add(schedule='30 2 * * *', time_zone=AUCKLAND)
    args = ['--from', '2026-09-26 12:00:00', '-n', '2']
    expected = (
        '2026-09-27 03:00:00 UTC+13:00, sunday\n2026-09-28 02:30:00 UTC+13:00, monday\n'
    )
    assert place.run('next', str(id), *args) == expected
    assert place.run('next', '30 2 * * *', '--time-zone', AUCKLAND, *args) == expected
    other = place.run('next', str(id), '--time-zone', KIRITIMATI, *args)
    assert re.findall('(.*?) UTC.14:00, ', other) == [
        '2026-09-27 02:30:00',
        '2026-09-28 02:30:00',
    ]
    assert 'at 02:30, ' + AUCKLAND in place.run('list', '--wide')


def test_import_takes_cron_tz(place):
    path = os.path.join(place.folder, 'crontab')
    with open(path, 'w') as file:
        file.write(
            '0 1 * * * a\nCRON_TZ=Pacific/Auckland\n0 1 * * * a\nCRON_TZ="UTC"\n'
            '0 2 * * * b\nCRON_TZ=\n0 3 * * * c\nCRON_TZ=Europe/Belrin\n0 4 * * * d\n'
        )
    out = place.run('import', path, code=1)
    assert '4 added, 0 already present, 1 skipped' in out
    assert "line 9: time_zone 'Europe/Belrin' is unknown" in out
    assert '4 already present' in place.run('import', path, code=1)
    rows = place.sql('SELECT command, time_zone FROM job ORDER BY id')
    assert [tuple(row) for row in rows] == [
        ('a', None),
        ('a', AUCKLAND),
        ('b', 'UTC'),
        ('c', None),
    ]


def test_check_names_the_tzdata(sqlite_place, monkeypatch, tmp_path):
    place = sqlite_place
    place.run('run')  # so that check finds a worker
    line = '; tzdata: 20[0-9]{2}[a-z]\n'
    assert dc.re.search('ok   time zone: UTC.*' + line, place.run('check'))
    id = place.add(time_zone='Europe/Belrin')
    assert "bad  time zone: 'Europe/Belrin' is unknown" in place.run('check', code=1)
    place.run('remove', str(id))
    monkeypatch.setitem(sys.modules, 'tzdata', None)
    monkeypatch.setattr(zoneinfo, 'TZPATH', (str(tmp_path / 'none'),))
    assert '; tzdata: none\n' in place.run('check')
    (tmp_path / 'none').mkdir()
    assert '; tzdata: of no version, in ' in place.run('check')


def test_a_host_without_tzdata_says_so(sqlite_place):
    """PYTHONTZPATH is Python's own way to have none."""
    program = (
        'import sys; sys.modules["tzdata"] = None; sys.argv[0] = %r; import runpy; '
        'runpy.run_path(%r, run_name="__main__")' % (SCRIPT, SCRIPT)
    )
    done = subprocess.run(
        [
            *[sys.executable, '-c', program, '--config', sqlite_place.file],
            *['next', '@daily', '--time-zone', BERLIN],
        ],
        env={'PYTHONTZPATH': '', 'PATH': '/usr/bin'},
        stderr=subprocess.PIPE,
    )
    assert done.returncode == 2
    assert b'is unknown: this host has no tzdata; install it\n' in done.stderr


def test_a_pass_without_such_jobs_imports_no_zoneinfo(sqlite_place):
    sqlite_place.add('true', schedule='0 0 1 1 *')
    done = subprocess.run(
        [sys.executable, '-X', 'importtime', SCRIPT, '--config', sqlite_place.file],
        stderr=subprocess.PIPE,
        check=True,
    )
    names = done.stderr.decode()
    assert 'datetime' in names and 'zoneinfo' not in names and 'hashlib' not in names
