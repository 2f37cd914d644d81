"""Both daylight-saving changes, in two zones, on the databases' own zone rules.

Europe/Berlin 2026: 03-29 01:00 UTC, 02:00 becomes 03:00; 10-25 01:00 UTC, 03:00 becomes
02:00. America/New_York 2026: 03-08 07:00 UTC, 02:00 becomes 03:00; 11-01 06:00 UTC, 02:00
becomes 01:00. The expected times, UTC, are written out by hand.
"""

import pytest

BERLIN, NEW_YORK = 'Europe/Berlin', 'America/New_York'
CASES = [
    # (zone, columns, from, UTC times of the runs)
    (
        BERLIN,
        {'schedule': '30 2 * * *'},
        '2026-03-28 00:00:00',
        [  # skipped: at the jump
            '2026-03-28 01:30',
            '2026-03-29 01:00',
            '2026-03-30 00:30',
        ],
    ),
    (
        BERLIN,
        {'schedule': '0,15,30 2 * * *'},
        '2026-03-28 23:00:00',
        [  # once, not thrice
            '2026-03-29 01:00',
            '2026-03-30 00:00',
            '2026-03-30 00:15',
        ],
    ),
    (
        BERLIN,
        {'schedule': '30 2,3 * * *'},
        '2026-03-28 23:00:00',
        ['2026-03-29 01:00', '2026-03-29 01:30', '2026-03-30 00:30'],
    ),
    (
        BERLIN,
        {'schedule': '0 2,3 * * *'},
        '2026-03-28 23:00:00',
        [  # both at the jump
            '2026-03-29 01:00',
            '2026-03-30 00:00',
            '2026-03-30 01:00',
        ],
    ),
    (
        BERLIN,
        {'schedule': '30 2 * * *'},
        '2026-10-24 12:00:00',
        [  # twice: the first
            '2026-10-25 00:30',
            '2026-10-26 01:30',
        ],
    ),
    (BERLIN, {'schedule': '30 2 * * *'}, '2026-10-25 00:45:00', ['2026-10-26 01:30']),
    (
        BERLIN,
        {'schedule': '30 2,3 * * *'},
        '2026-10-24 12:00:00',
        ['2026-10-25 00:30', '2026-10-25 02:30', '2026-10-26 01:30'],
    ),
    (
        BERLIN,
        {'schedule': '30 * * * *'},
        '2026-03-28 23:00:00',
        [  # by elapsed time
            '2026-03-28 23:30',
            '2026-03-29 00:30',
            '2026-03-29 01:30',
            '2026-03-29 02:30',
        ],
    ),
    (
        BERLIN,
        {'schedule': '30 * * * *'},
        '2026-10-24 23:00:00',
        [
            '2026-10-24 23:30',
            '2026-10-25 00:30',
            '2026-10-25 01:30',
            '2026-10-25 02:30',
        ],
    ),
    (
        BERLIN,
        {'schedule': '*/20 */2 * * *'},
        '2026-03-28 23:30:00',
        [  # hour 2 is not
            '2026-03-28 23:40',
            '2026-03-29 02:00',
            '2026-03-29 02:20',
        ],
    ),
    (
        BERLIN,
        {'schedule': '45 */2 * * *'},
        '2026-10-24 23:00:00',
        [  # hour 2 is twice
            '2026-10-25 00:45',
            '2026-10-25 01:45',
            '2026-10-25 03:45',
        ],
    ),
    (
        BERLIN,
        {'frequency': 60},
        '2026-03-29 00:10:00',
        [  # from start to start
            '2026-03-29 00:10',
            '2026-03-29 01:10',
            '2026-03-29 02:10',
        ],
    ),
    (
        BERLIN,
        {'frequency': 30},
        '2026-10-25 00:10:00',
        [
            '2026-10-25 00:10',
            '2026-10-25 00:40',
            '2026-10-25 01:10',
            '2026-10-25 01:40',
            '2026-10-25 02:10',
        ],
    ),
    (
        BERLIN,
        {'frequency': 60, 'start_anchor': '02:30', 'stop_anchor': '04:00'},
        '2026-03-28 12:00:00',
        ['2026-03-29 01:00', '2026-03-30 00:30', '2026-03-30 01:30'],
    ),
    (
        BERLIN,
        {'frequency': 60, 'start_anchor': '02:30', 'stop_anchor': '03:00'},
        '2026-10-24 12:00:00',
        ['2026-10-25 00:30', '2026-10-25 01:30', '2026-10-26 01:30'],
    ),
    (
        BERLIN,
        {'schedule': '0 12 * * *'},
        '2026-03-27 12:00:00',
        ['2026-03-28 11:00', '2026-03-29 10:00'],
    ),
    (
        NEW_YORK,
        {'schedule': '30 2 * * *'},
        '2026-03-07 12:00:00',
        ['2026-03-08 07:00', '2026-03-09 06:30'],
    ),
    (
        NEW_YORK,
        {'schedule': '15 1 * * *'},
        '2026-10-31 12:00:00',
        ['2026-11-01 05:15', '2026-11-02 06:15'],
    ),
    (
        NEW_YORK,
        {'schedule': '15 * * * *'},
        '2026-11-01 04:30:00',
        ['2026-11-01 05:15', '2026-11-01 06:15', '2026-11-01 07:15'],
    ),
    (
        NEW_YORK,
        {'schedule': '59 23 31 12 *'},
        '2026-10-31 12:00:00',
        ['2027-01-01 04:59', '2028-01-01 04:59'],
    ),
    (
        NEW_YORK,
        {'schedule': '30 1 1 11 *'},
        '2026-10-31 12:00:00',
        [  # Nov 1 2027: no change
            '2026-11-01 05:30',
            '2027-11-01 05:30',
        ],
    ),
]


@pytest.mark.parametrize('zone, columns, start, expected', CASES)
def test_runs_through_the_change(place, zone, columns, start, expected):
    place.set_zone(zone)
    place.set_clock(start)
    place.store.zone.__init__(place.store.local_time)  # forget the zone before
    job = place.add(**columns)
    place.store.plan(place.store.now())
    found = []
    for _ in expected:
        due = place.job(job).next_run_utc
        found.append(due[:16])
        place.set_clock(due)
        token = '%032d' % len(found)
        assert place.store.claim([job], token, 'w-1'), (found, expected)
        place.store.end([place.ending(token, job)])
    assert found == expected


def test_the_last_start_in_the_hour_that_comes_twice(place):
    """A wall-clock time alone would be ambiguous: the last one not after now counts."""
    place.set_zone(BERLIN)
    place.set_clock('2026-10-25 01:20:00')
    place.store.zone.__init__(place.store.local_time)
    job = place.add(
        frequency=30, last_start='2026-10-25 02:10:00', last_end='2026-10-25 02:10:01'
    )
    place.store.plan(place.store.now())
    assert place.job(job).next_run_utc == '2026-10-25 01:40:00'


def test_next_on_the_command_line(place):
    if place.engine == 'mysql':
        place.server.client("SET GLOBAL time_zone = '%s'" % BERLIN)
    elif place.engine == 'postgresql':
        place.store.execute(
            "ALTER DATABASE %s SET TimeZone = '%s'"
            % (place.values['db']['database'], BERLIN)
        )
    try:
        out = place.run(
            'next',
            '30 2 * * *',
            '--from',
            '2026-03-28 12:00:00',
            '-n',
            '3',
            env={'TZ': BERLIN, 'PATH': '/usr/bin'},
        )
    finally:
        if place.engine == 'mysql':
            place.server.client("SET GLOBAL time_zone = 'SYSTEM'")
    assert out.split('\n') == [
        '2026-03-29 03:00:00',
        '2026-03-30 02:30:00',
        '2026-03-31 02:30:00',
        '',
    ]
