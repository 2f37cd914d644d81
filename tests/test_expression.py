"""Cron expressions and windows: by the rules, and against two other libraries."""

import warnings
from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import cronsim
import croniter
import pytest
from conftest import dc
from hypothesis import assume, given, settings
from hypothesis import strategies as st

UTC = dc.Zone(lambda when: when)


def times(text, after, count=3):
    found, when = [], datetime.fromisoformat(after)
    for _ in range(count):
        when = dc.Expression(text).next_local(when)
        found.append(str(when)[:16])
    return found


@pytest.mark.parametrize(
    'text, after, expected',
    [
        ('* * * * *', '2026-01-01 00:00', ['2026-01-01 00:01', '2026-01-01 00:02']),
        ('59 23 31 12 *', '2026-12-31 23:59', ['2027-12-31 23:59']),
        ('*/7 * * * *', '2026-01-01 00:50', ['2026-01-01 00:56', '2026-01-01 01:00']),
        ('5/20 * * * *', '2026-01-01 00:00', ['2026-01-01 00:05', '2026-01-01 00:25']),
        (
            '0 0 1 JAN,jul *',
            '2026-01-01 00:00',
            ['2026-07-01 00:00', '2027-01-01 00:00'],
        ),
        (
            '0 0 * * FRI-SUN',
            '2026-05-20 00:00',
            [
                '2026-05-22 00:00',
                '2026-05-23 00:00',
                '2026-05-24 00:00',
                '2026-05-29 00:00',
            ],
        ),
        (
            '0 0 * * 5-7',
            '2026-05-20 00:00',
            ['2026-05-22 00:00', '2026-05-23 00:00', '2026-05-24 00:00'],
        ),
        ('0 0 * * 7', '2026-05-20 00:00', ['2026-05-24 00:00', '2026-05-31 00:00']),
        ('0 0 * * 0-7/3', '2026-05-20 00:00', ['2026-05-23 00:00', '2026-05-24 00:00']),
        ('0 0 L * *', '2026-01-31 00:00', ['2026-02-28 00:00', '2026-03-31 00:00']),
        ('0 0 L * *', '2028-02-01 00:00', ['2028-02-29 00:00']),
        ('0 0 LW * *', '2026-05-01 00:00', ['2026-05-29 00:00', '2026-06-30 00:00']),
        ('0 0 15W * *', '2026-08-01 00:00', ['2026-08-14 00:00', '2026-09-15 00:00']),
        ('0 0 1W * *', '2026-07-31 00:00', ['2026-08-03 00:00', '2026-09-01 00:00']),
        ('0 0 31W 5 *', '2026-01-01 00:00', ['2026-05-29 00:00']),
        ('0 0 * * 5L', '2026-05-01 00:00', ['2026-05-29 00:00', '2026-06-26 00:00']),
        ('0 0 * * fri#2', '2026-05-01 00:00', ['2026-05-08 00:00', '2026-06-12 00:00']),
        ('0 0 * * 1#5', '2026-05-01 00:00', ['2026-06-29 00:00']),
        (
            '0 0 13 * 5',
            '2026-02-01 00:00',
            ['2026-02-06 00:00', '2026-02-13 00:00', '2026-02-20 00:00'],
        ),  # either
        (
            '0 0 */2 * 1',
            '2026-06-01 00:00',
            ['2026-06-15 00:00', '2026-06-29 00:00'],
        ),  # both
        ('0 0 29 2 *', '2026-01-01 00:00', ['2028-02-29 00:00', '2032-02-29 00:00']),
        ('@daily', '2026-01-01 00:00', ['2026-01-02 00:00']),
        ('@Weekly', '2026-05-20 00:00', ['2026-05-24 00:00']),
        ('@hourly', '2026-05-20 00:00', ['2026-05-20 01:00']),
        ('@monthly', '2026-05-20 00:00', ['2026-06-01 00:00']),
        ('@annually', '2026-05-20 00:00', ['2027-01-01 00:00']),
        ('  0\t0  1 1 *  ', '2026-05-20 00:00', ['2027-01-01 00:00']),
    ],
)
def test_next_times(text, after, expected):
    assert times(text, after, len(expected)) == expected


@pytest.mark.parametrize(
    'text, parts',
    [
        ('60 * * * *', ['minute', "'60'", '0-59']),
        ('* 24 * * *', ['hour', "'24'", '0-23']),
        ('* * 0 * *', ['day-of-month', "'0'", '1-31']),
        ('* * 32 * *', ['day-of-month']),
        ('* * * 13 *', ['month', "'13'", '1-12', 'jan-dec']),
        ('* * * * 8', ['day-of-week', "'8'", '0-7', 'sun-sat']),
        ('* * * foo *', ['month', "'foo'"]),
        ('*/0 * * * *', ['minute', "'*/0'"]),
        ('*/ * * * *', ['minute']),
        ('5-1 * * * *', ['minute', "'5-1'"]),
        ('1- * * * *', ['minute']),
        ('1,,2 * * * *', ['minute', "''"]),
        ('-1 * * * *', ['minute']),
        ('1.5 * * * *', ['minute']),
        ('* * 0W * *', ['0w']),
        ('* * 32W * *', ['32w']),
        ('* * * * 5#6', ['5#6']),
        ('* * * * 8L', ['8l']),
        ('١ * * * *', ['minute']),
        ('*/１ * * * *', ['minute']),
        ('* * * *', ['4 fields']),
        ('* * * * * *', ['6 fields']),
        ('@often', ['@daily']),
        ('@reboot', ['@reboot', 'start']),
        ('0 0 30 2 *', ['never matches']),
        ('0 0 31 4,6,9,11 *', ['never matches']),
    ],
)
def test_errors_name_the_field_the_value_and_what_is_allowed(text, parts):
    with pytest.raises(dc.BadSchedule) as caught:
        dc.Expression(text)
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    assert 'allowed' in str(caught.value) or 'never' in str(caught.value)
    assert '\n' not in str(caught.value)


def field(low, high):
    value = st.integers(low, high).map(str)
    # Not a-a: both take a-a/n for a/n, and one 0-0 for a whole week; cron takes a.
    span = st.sets(st.integers(low, high), min_size=2, max_size=2).map(
        lambda pair: '%d-%d' % (min(pair), max(pair))
    )
    step = st.one_of(st.just('*'), span).flatmap(
        lambda text: st.integers(1, high).map(lambda n: '%s/%d' % (text, n))
    )
    one = st.one_of(value, span, step)
    return st.one_of(st.just('*'), st.lists(one, min_size=1, max_size=3).map(','.join))


expressions = st.tuples(
    field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6)
).map(' '.join)


def test_as_two_other_libraries_where_they_agree():
    compared = 0

    def ask(how):
        try:
            return [next(how) for _ in range(4)]
        except (StopIteration, croniter.CroniterBadDateError):
            return None

    @settings(max_examples=1500, deadline=None)
    @given(expressions, st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)))
    def compare(text, after):
        nonlocal compared
        after = after.replace(microsecond=0)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try:
                one = ask(cronsim.CronSim(text, after))
            except cronsim.CronSimError:
                one = None
            two = ask(
                croniter.croniter(
                    text, after, ret_type=datetime, implement_cron_bug=True
                )
            )
        assume(one == two)
        compared += 1
        try:
            expression, mine, when = dc.Expression(text), [], after
            for _ in range(4):
                when = expression.next_local(when)
                mine.append(when)
        except dc.BadSchedule:
            mine = None
        assert mine == one, text

    compare()
    assert compared >= 1500


@settings(max_examples=2000, deadline=None)
@given(
    st.one_of(
        st.text(max_size=30),
        st.lists(
            st.text(alphabet='0123456789*/,-#LWlwfrisun@Hh~()', max_size=6),
            min_size=5,
            max_size=5,
        ).map(' '.join),
    )
)
def test_any_text_is_an_expression_or_one_line(text):
    try:
        dc.expression_of(Job(schedule=text)).next_utc(datetime(2026, 1, 1), UTC)
    except dc.BadSchedule as problem:
        assert '\n' not in str(problem).replace(text, '')


@lru_cache(None)
def zone_of(name):
    info = ZoneInfo(name)
    return dc.Zone(
        lambda when: (
            when.replace(tzinfo=ZoneInfo('UTC')).astimezone(info).replace(tzinfo=None)
        )
    )


@pytest.mark.parametrize(
    'name',
    [
        'Europe/Berlin',
        'America/New_York',
        'Australia/Lord_Howe',
        'Asia/Kolkata',
        'Pacific/Apia',
        'Pacific/Kiritimati',
        'America/St_Johns',
        'Africa/Casablanca',
    ],
)
@settings(max_examples=300, deadline=None)
@given(when=st.datetimes(datetime(2012, 2, 1), datetime(2035, 1, 1)))
def test_wall_clock_to_utc_and_back(name, when):
    zone, info = zone_of(name), ZoneInfo(name)
    when = when.replace(microsecond=0)
    local = zone.local(when)
    assert zone.utc(local) in (
        when,
        when - timedelta(hours=1),
        when - timedelta(minutes=30),
    )
    assert zone.utc_before(local, when) == when
    expected = (
        local.replace(tzinfo=info, fold=0)
        .astimezone(ZoneInfo('UTC'))
        .replace(tzinfo=None)
    )
    assert zone.utc(local) == expected  # fold 0: the first


@pytest.mark.parametrize(
    'local, now, expected',
    [
        ('2026-10-24 22:00', '2026-10-25 06:00', '2026-10-24 20:00'),
        ('2026-03-29 10:00', '2026-03-29 20:00', '2026-03-29 08:00'),
        ('2026-10-25 02:10', '2026-10-25 00:30', '2026-10-25 00:10'),
        ('2026-10-25 02:10', '2026-10-25 01:30', '2026-10-25 01:10'),
    ],
)
def test_a_last_start_within_a_day_of_a_change(local, now, expected):
    times = map(datetime.fromisoformat, (local, now))
    assert str(zone_of('Europe/Berlin').utc_before(*times))[:16] == expected


@pytest.mark.parametrize(
    'text, days', [('0-0', {0}), ('sun-sun', {0}), ('6-0', {6, 0})]
)
def test_sunday_as_a_range(text, days):
    assert dc.Expression('0 0 * * ' + text).week_days == days


@pytest.mark.parametrize(
    'text, same',
    [
        ('007 * * * *', '7 * * * *'),
        ('000 0023 * * *', '0 23 * * *'),
        ('5-0010/002 * * * *', '5-10/2 * * * *'),
        ('0 0 001,015W 012 *', '0 0 1,15w 12 *'),
        ('0 0 * * 005L,007,003#2', '0 0 * * 5l,0,3#2'),
        ('%s7 * * * *' % ('0' * 5000), '7 * * * *'),
        ('*/%s7 * * * *' % ('0' * 5000), '*/7 * * * *'),
    ],
)
def test_leading_zeros_change_no_number(text, same):
    one, two = dc.Expression(text), dc.Expression(same)
    assert one.day_times == two.day_times and one.months == two.months
    assert one.month_days == two.month_days and one.week_days == two.week_days


def test_years_after_the_databases_end_repeat():
    zone = zone_of('Europe/Berlin')
    assert zone.offset(datetime(2040, 7, 1)) == timedelta(hours=2)
    assert zone.offset(datetime(2104, 2, 29)) == timedelta(hours=1)


class Job:
    active, start_anchor, stop_anchor, frequency, max_run_time = 1, None, None, 60, 1
    last_start = claimed_start = schedule = time_zone = parent_id = id = None
    each_host = after_job = paused_until_utc = start_within = attempt = None

    def __init__(self, **values):
        self.__dict__.update(values)


def test_a_schedule_with_no_time_in_its_window_is_an_error():
    after = datetime(2026, 5, 20)
    with pytest.raises(dc.BadSchedule, match='no time from 12:00:00 to 13:00:00'):
        dc.next_run(
            Job(schedule='0 5 * * *', start_anchor='12:00:00', stop_anchor='13:00:00'),
            after,
            after,
            UTC,
        )


def test_the_recipe_of_two_jobs_for_a_window_across_midnight():
    now = datetime(2026, 5, 20, 12)
    late = Job(start_anchor='23:00:00', frequency=60)
    early = Job(stop_anchor='03:00:00', frequency=60)
    both = Job(start_anchor='23:00:00', stop_anchor='03:00:00', frequency=60)

    def day_of(job):
        found, when = [], now
        while True:
            when = dc.next_run(job, when, when, UTC)
            if when > now + timedelta(days=1):
                return found
            found.append(when)
            job.last_start = job.claimed_start = str(when)

    assert sorted(day_of(late) + day_of(early)) == [datetime(2026, 5, 20, 23)] + [
        datetime(2026, 5, 21, hour) for hour in range(3)
    ]
    assert day_of(both) == [datetime(2026, 5, 20, 23)] + [
        datetime(2026, 5, 21, hour) for hour in range(3)
    ]


def test_a_schedule_in_a_window_skips_to_its_opening():
    job = Job(schedule='* * * * *', start_anchor='09:00:00', stop_anchor='09:02:00')
    when, found = datetime(2026, 5, 20, 12), []
    for _ in range(3):
        when = dc.next_run(job, when, when, UTC)
        found.append(str(when))
    assert found == [
        '2026-05-21 09:00:00',
        '2026-05-21 09:01:00',
        '2026-05-22 09:00:00',
    ]


def test_a_window_in_the_skipped_hour_opens_the_day_after():
    job, now = (
        Job(start_anchor='02:00:00', stop_anchor='03:00:00'),
        datetime(2026, 3, 28, 12),
    )
    assert dc.next_run(job, now, now, zone_of('Europe/Berlin')) == datetime(2026, 3, 30)


def test_a_window_opens_again_when_the_clock_is_put_back():
    """At 03:00 it shows 02:00 again: */20 is due at both 02:30 to 02:50."""
    job = Job(schedule='*/20 * * * *', start_anchor='02:30', stop_anchor='02:50')
    when, found = datetime(2026, 10, 25), []
    for _ in range(3):
        when = dc.next_run(job, when, when, zone_of('Europe/Berlin'))
        found.append(str(when))
    assert found == [
        '2026-10-25 00:40:00',
        '2026-10-25 01:40:00',
        '2026-10-26 01:40:00',
    ]


def test_a_window_until_midnight():
    """24:00 may be written, and databases that know times give it back as 24:00:00."""
    late = datetime(2026, 5, 20, 23, 59)
    for stop in '24:00', '24:00:00', None:
        job = Job(start_anchor='23:00', stop_anchor=stop)
        assert dc.next_run(job, late, late, UTC) == late
        after = late + timedelta(minutes=1)
        assert dc.next_run(job, after, after, UTC) == datetime(2026, 5, 21, 23)


NOW = datetime(2026, 3, 28, 12)


@pytest.mark.parametrize(
    'column, values, text',
    [
        ('schedule', {'schedule': '61 * * * *'}, "minute '61': bad value '61'; "),
        ('schedule', {'schedule': b'* * * * *'}, 'bad value "b\'*"'),
        ('start_anchor', {'start_anchor': 'noon'}, "'noon'; allowed: 00:00 to 23:59"),
        ('start_anchor', {'start_anchor': '24:00'}, "'24:00'; allowed: "),
        ('stop_anchor', {'stop_anchor': 1200}, "'1200'; allowed: 00:00 to 23:59"),
        ('stop_anchor', {'stop_anchor': ''}, "''; allowed: 00:00 to 23:59"),
        ('start_anchor', {'start_anchor': 0}, "'0'; allowed: 00:00 to 23:59"),
        ('stop_anchor', {'stop_anchor': '12:00:00.5'}, "'12:00:00.5'; allowed: "),
        (
            'stop_anchor',
            {'start_anchor': '09:00:00', 'stop_anchor': '09:00'},
            "'09:00' is equal to start_anchor: an empty window",
        ),
        ('frequency', {'frequency': 'often'}, "'often'; allowed: 1 to 5256000 minutes"),
        ('frequency', {'frequency': None}, 'None; allowed: 1 to 5256000 minutes'),
        (
            'max_run_time',
            {'max_run_time': 'long', 'last_start': '2026-03-28 10:00:00'},
            "'long'; allowed: 1 to 525600 minutes",
        ),
        ('last_start', {'last_start': 'yesterday'}, "'yesterday'; allowed: a time "),
        ('last_start', {'last_start': '0001-01-01 00:00:00'}, "'0001-01-01 00:00:00'"),
        ('last_start', {'last_start': '9999-12-31 00:00:00'}, "'9999-12-31 00:00:00'"),
        ('last_start', {'last_start': '2026-03-28 10:00:00+01:00'}, 'allowed: a time '),
    ],
)
def test_what_can_not_be_planned_is_said_by_column(column, values, text):
    with pytest.raises(dc.BadSchedule) as caught:
        dc.next_run(Job(**values), NOW, NOW, zone_of('Europe/Berlin'))
    problem = caught.value
    assert problem.column == column and text in str(problem)
    assert '\n' not in str(problem)


def test_a_bug_of_ours_is_no_bad_schedule():
    broken = dc.Zone(lambda when: None)
    for values in {'frequency': 5}, {'schedule': '* * * * *'}:
        with pytest.raises(TypeError):
            dc.next_run(Job(**values), NOW, NOW, broken)


anything = st.one_of(
    st.none(),
    st.integers(),
    st.integers(-5, 600),
    st.floats(allow_nan=False),  # SQLite makes a NaN NULL
    st.text(max_size=12),
    st.binary(max_size=8),
    st.datetimes().map(str),
    st.sampled_from(
        ['00:00', '12:00', '23:59:59', '24:00', '2026-03-28T10:00:00Z', '0000-00-00']
    ),
)
zones = st.sampled_from(['Pacific/Apia', 'Europe', 'Europe/Nowhere', '../etc/passwd'])
spread = st.sampled_from(
    ['H H * * *', 'H/7 * ~ * *', 'H(9-3) H * * *', 'H(0-5)/0 ~ * * H']
)
at = st.datetimes().map(lambda when: '@at %s' % str(when)[:19])
schedules = st.one_of(st.none(), anything, expressions, spread, at)
clocks = st.one_of(st.none(), anything, st.times().map(lambda at: str(at)[:5]))


@settings(max_examples=500, deadline=None)
@given(
    st.builds(
        dc.Job,
        active=st.one_of(st.just(1), anything),
        schedule=schedules,
        start_anchor=clocks,
        stop_anchor=clocks,
        frequency=anything,
        max_run_time=anything,
        last_start=anything,
        claimed_start=anything,
        id=anything,
        parent_id=anything,
        time_zone=st.one_of(st.none(), anything, zones),
    )
)
def test_any_row_is_planned_or_a_bad_schedule(job):
    try:
        when = dc.next_run(job, NOW, NOW, zone_of('Europe/Berlin'))
    except dc.BadSchedule:
        return
    assert datetime(1000, 1, 1) <= when <= dc.PARKED
    assert job.schedule is None or when > NOW
