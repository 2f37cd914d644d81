"""@at: jobs that run once."""

import os
from datetime import datetime, timedelta

import pytest
from conftest import dc

BERLIN = dc.named_zone('Europe/Berlin')


def next_of(at, after, **columns):
    job = dc.Job(active=1, schedule=at, **columns)
    after = datetime.fromisoformat(after)
    return str(dc.next_run(job, after, after, BERLIN))


@pytest.mark.parametrize(
    'at, after, expected',
    [
        ('@at 2026-12-24 18:00', '2026-12-24 16:59:59', '2026-12-24 17:00:00'),
        ('@at 2026-12-24 18:00', '2026-12-24 17:00:00', str(dc.PARKED)),
        ('@AT  2026-12-24\t18:00:07 ', '2026-01-01', '2026-12-24 17:00:07'),
        ('@at 2026-03-29 02:30', '2026-01-01', '2026-03-29 01:00:00'),  # skipped
        ('@at 2026-03-29 02:30', '2026-03-29 01:00', str(dc.PARKED)),
        ('@at 2026-10-25 02:30', '2026-01-01', '2026-10-25 00:30:00'),  # the first
        ('@at 2026-10-25 02:30', '2026-10-25 00:30', str(dc.PARKED)),
        ('@at 8999-12-31 23:59', '2026-01-01', '8999-12-31 22:59:00'),
    ],
)
def test_its_time(at, after, expected):
    assert next_of(at, after) == expected


def test_its_zone():
    at = '@at 2026-12-24 00:00'
    assert next_of(at, '2026-01-01', time_zone='Pacific/Auckland') == (
        '2026-12-23 11:00:00'
    )


@pytest.mark.parametrize(
    'at',
    [
        '@at',
        '@at 18:00',
        '@at 2026-12-24',
        '@at 2026-12-24T18:00',
        '@at 2026-02-29 18:00',
        '@at 2026-12-24 24:00',
        '@at 2026-12-24 18:00:60',
        '@at 2026-12-24 18:00 +01:00',
        '@at 2026-12-24 18',
        '@at 1969-12-31 18:00',
        '@at 9000-01-01 18:00',
        '@at tomorrow',
        '@at ٢٠٢٦-12-24 18:00',
    ],
)
def test_errors(at):
    with pytest.raises(dc.BadSchedule) as caught:
        next_of(at, '2026-01-01')
    assert str(caught.value) == (
        '%r is no time; allowed: @at YYYY-MM-DD HH:MM[:SS]' % at
    )


def test_a_window_that_excludes_it_is_an_error():
    at = '@at 2026-12-24 18:00'
    with pytest.raises(dc.BadSchedule, match='no time from 19:00:00 to midnight'):
        next_of(at, '2026-01-01', start_anchor='19:00')
    assert next_of(at, '2026-01-01', start_anchor='18:00')[:10] == '2026-12-24'


def at_in(place, **distance):
    """(the text of an @at this far from now, that time as UTC text)"""
    when = place.store.now().replace(microsecond=0) + timedelta(**distance)
    return '@at %s' % place.store.zone.local(when), dc.text_of(when)


def test_it_runs_once_and_keeps_its_result(place):
    at, _ = at_in(place, hours=1)
    out = place.run('add', '--schedule', at, 'exit 3')
    assert 'in 60 min' in out or 'in 59 min' in out
    assert 'once, at ' + at[4:] in place.run('list', '--wide')
    due = dc.text_of(place.store.now() - timedelta(seconds=1))
    past = '@at %s' % place.store.zone.local(dc.moment(due))
    place.store.change('UPDATE job SET schedule = :at', at=past)
    place.store.change('UPDATE job SET next_run_utc = :due', due=due)
    place.run('run')
    job = place.job(1)
    assert job.next_run_utc == '9999-12-31 00:00:00'
    assert job.last_status == 'ERROR: exit 3'
    place.run('run')
    assert len(place.runs()) == 1
    place.run('edit', '1', '--description', 'its time has passed')  # and is no matter
    place.run('edit', '1', '--max-run-time', '5', '--start', '00:00')
    assert place.job(1).next_run_utc == '9999-12-31 00:00:00'


def test_a_run_before_its_time_takes_nothing_from_it(place):
    at, due = at_in(place, hours=5)
    place.run('add', '--schedule', at, 'true')
    place.run('run-now', '1')
    place.run('run')
    assert len(place.runs()) == 1 and place.job(1).next_run_utc == due


def test_nobody_was_up(place):
    """Inserted by SQL before its time, and seen by a worker after it."""
    at, due = at_in(place, minutes=-5)
    id = place.add(schedule=at)
    before = dc.text_of(place.store.now() - timedelta(minutes=10))
    place.store.change(
        'UPDATE job SET changed_utc = :before WHERE id = :id', before=before, id=id
    )
    place.store.plan(place.store.now())
    assert place.job(id).next_run_utc == due
    place.run('run')
    assert len(place.runs()) == 1
    assert place.job(id).next_run_utc == '9999-12-31 00:00:00'


def late_job(place):
    """A job whose time has passed while nobody was up; returns that, UTC."""
    at, due = at_in(place, minutes=-5)
    place.add(schedule=at, next_run_utc=due)
    assert place.job(1).next_run_utc == due
    return due


def test_an_edit_does_not_lose_a_time_that_nobody_saw(place):
    due = late_job(place)
    place.run('edit', '1', '--start', '00:00', '--description', 'x')
    assert place.job(1).next_run_utc == due
    place.run('edit', '1', '--inactive')
    assert place.job(1).next_run_utc == '9999-12-31 00:00:00'


@pytest.mark.parametrize('meanwhile', ['ran', 'runs'])
def test_an_edit_does_not_repeat_a_run(place, meanwhile):
    """The run started, or started and ended, after the edit had read the row."""
    due = late_job(place)
    old = place.job(1)
    assert place.store.claim([1], '0' * 32, 'w-1')
    if meanwhile == 'ran':
        place.store.end([place.ending('0' * 32, 1)])
    else:
        old = place.job(1)
    place.store.change('UPDATE job SET start_anchor = :start', start='00:00:00')
    assert dc.announce(place.store, 1, old) == dc.PARKED
    assert place.job(1).next_run_utc != due


def test_an_edit_of_a_cron_job_does_not_lose_it_either(place):
    due = dc.text_of(place.store.now() - timedelta(minutes=2))[:16] + ':00'
    place.add(schedule='* * * * *', next_run_utc=due)
    place.run('edit', '1', '--start', '00:00')
    assert place.job(1).next_run_utc == due
    place.run('edit', '1', '--schedule', '*/2 * * * *')
    assert place.job(1).next_run_utc > due


def test_the_past_is_refused(place):
    past, _ = at_in(place, minutes=-5)
    future, _ = at_in(place, minutes=5)
    out = place.run('add', '--schedule', past, 'true', code=2)
    assert "--schedule %r is not in the future: in its time zone it is " % past in out
    place.run('add', '--schedule', future, 'true')
    place.run('edit', '1', '--schedule', past, code=2)
    with pytest.raises(dc.BadJob):  # by the clock of another zone it has passed
        dc.save_job(place.store, 1, {'time_zone': 'Pacific/Kiritimati'})


def test_export_is_taken_back(place, tmp_path):
    """Of a crontab that a plain cron may read, too."""
    one, _ = at_in(place, hours=5)
    two, _ = at_in(place, hours=6)
    place.run('add', '--schedule', one, 'echo 1')
    place.run('add', '--schedule', two, '--inactive', 'echo 2\necho 3')
    place.store.change('UPDATE job SET schedule = UPPER(schedule) WHERE id = 1')
    place.store.plan(place.store.now())
    text = place.run('export')
    assert [line for line in text.splitlines() if line and line[0] != '#'] == []
    path = str(tmp_path / 'crontab')
    with open(path, 'w') as file:
        file.write(text)
    assert place.run('import', path) == '0 added, 2 already present, 0 skipped\n'
    before = place.sql('SELECT * FROM job ORDER BY id')
    place.store.execute('DELETE FROM job')
    place.run('import', path)
    columns = 'command, schedule, active, next_run_utc'
    after = place.sql('SELECT %s FROM job ORDER BY id' % columns)
    names = columns.split(', ')
    assert [tuple(row) for row in after] == [
        tuple(getattr(row, name) for name in names) for row in before
    ]


def test_import_takes_at_and_leaves_comments(place):
    at, due = at_in(place, hours=5)
    path = os.path.join(place.folder, 'crontab')
    with open(path, 'w') as file:
        file.write('%s echo 1\n#%s echo 2\n# said\n#%s echo 3\n' % (at, at, at))
    said = 'job 1: echo 1\n1 added, 0 already present, 0 skipped\n'
    assert place.run('import', path) == said
    assert (place.job(1).command, place.job(1).next_run_utc) == ('echo 1', due)
    with open(path, 'w') as file:
        file.write('%s root echo 4\n@at 18:00 root false\n' % at)
    assert '1 added' in place.run('import', '--system', path, code=1)
