"""What `list`, `history` and `hosts` say at a glance: a status in words, trouble first."""

import json
import re

import pytest
from conftest import dc
from test_plans import NOON, clock, fail, finish, local, start
from test_steps import plan
from test_trust import seen_on_a_terminal


def status(place, job):
    """(state, words) of a job as list and page have it."""
    return dc.statuses_of(place.store, [place.job(job)], place.store.now())[job]


def words(place, job):
    return status(place, job)[1]


def record(place, job, text, last='Success'):
    """A history of a job, a letter a minute: . succeeded, E failed, S skipped, r a
    success by a retry."""
    for number, letter in enumerate(text, 1):
        outcome = {'E': 'ERROR: exit 3', 'S': 'SKIPPED: 1 time'}.get(letter, 'Success')
        place.store.insert(
            'run',
            {
                'job_id': job,
                'run_no': number,
                'started_at': local(number - len(text) - 1),
                'ended_at': local(number - len(text)),
                'worker': 'w-1',
                'status': outcome,
                'attempt': int(letter == 'r'),
            },
        )
    place.store.change(
        'UPDATE job SET run_no = :last, last_status = :status, last_start = :at, '
        'last_end = :at WHERE id = :job',
        last=len(text),
        status=last,
        at=local(0),
        job=job,
    )


def test_a_job_that_waits_for_its_time(at):
    job = at.add(schedule='30 12 * * *')
    plan(at)
    assert status(at, job) == ('ok', 'never ran')
    clock(at, 30)
    run_no = start(at, job)
    assert status(at, job) == ('running', 'running on alpha since 12:30')
    clock(at, 30 + 24 * 60)
    text = 'running on alpha since yesterday 12:30, past its deadline'
    assert status(at, job) == ('overdue', text)
    finish(at, job, run_no)
    assert status(at, job) == ('ok', 'ok')


def test_a_job_that_fails(at):
    job = at.add(schedule='*/10 * * * *')
    plan(at)
    for minute in (10, 20, 30):
        clock(at, minute)
        fail(at, job)
    assert status(at, job) == ('failing', 'failing since 12:10 (3 runs)')
    clock(at, 36 * 60)
    at.store.execute('UPDATE job SET next_run_utc = NULL')
    plan(at)
    assert words(at, job) == 'failing since 2026-05-20 12:10 (3 runs)'
    clock(at, 36 * 60 + 10)
    finish(at, job, start(at, job))
    assert status(at, job) == ('ok', 'ok')


def test_a_job_that_is_to_be_tried_again(at):
    job = at.add(
        schedule='0 15 * * *', retries=1, retry_delay=600, next_run_utc=local(0)
    )
    fail(at, job)
    assert words(at, job) == 'retry in 10 min'
    clock(at, 10)
    assert status(at, job)[0] == 'failing'
    fail(at, job)
    assert words(at, job) == 'failing since 12:00 (1 run)'


@pytest.mark.parametrize(
    'history, expected',
    [
        ('.' * 20, 'ok'),
        ('.E' * 9 + '..', 'flapping: 9 of 20 failed'),
        ('E' * 30 + '.E' * 9 + '..', 'flapping: 9 of 20 failed'),
        ('E.E.E.', 'flapping: 3 of 6 failed'),
        ('.E.E.', 'ok'),
        ('E' * 10 + '.' * 10, 'ok'),
        ('E.SE.SE.S', 'flapping: 3 of 6 failed'),
        ('ErErErEr', 'ok'),  # each was well at its second try
    ],
)
def test_flapping(at, history, expected):
    job = at.add(schedule='0 15 * * *')
    plan(at)
    at.add(frequency=60)
    record(at, job, history)
    assert words(at, job) == expected


def test_a_job_that_fails_now_flaps_until_it_fails_for_good(at):
    job = at.add(schedule='0 15 * * *')
    plan(at)
    record(at, job, '.E.E.E.E', 'ERROR: exit 3')
    for failures, expected in (
        (1, ('flapping', 'flapping: 4 of 8 failed')),
        (3, ('failing', 'failing since 12:00 (3 runs)')),
    ):
        at.store.execute('UPDATE job SET failures = %d' % failures)
        assert status(at, job) == expected


def test_a_job_that_was_stopped_does_not_fail(at):
    job = at.add(schedule='0 15 * * *', next_run_utc=local(0))
    finish(at, job, start(at, job), status='ERROR: stopped')
    assert status(at, job) == ('ok', 'stopped')


def test_a_job_of_a_perl_worker_fails_since_its_end(at):
    job = at.add(next_run_utc=local(30), last_status='ERROR: 3', last_end=local(-9))
    assert status(at, job) == ('failing', 'failing since 11:51')


def test_a_job_that_is_paused_parked_or_disabled(at):
    job = at.add(schedule='*/10 * * * *')
    plan(at)
    dc.pause_job(at.store, job, NOON + 35 * dc.MINUTE, 'ann: disk')
    assert status(at, job) == ('paused', 'paused until 12:35 by ann: disk')
    at.run('disable', str(job))
    assert status(at, job) == ('disabled', 'disabled')
    bad = at.add(schedule='61 * * * *')
    plan(at)
    state, text = status(at, bad)
    assert state == 'failing' and text.startswith("parked: ") and '61' in text


def test_what_a_job_waits_for(at):
    job = at.add(next_run_utc=local(0))
    tagged = at.add(next_run_utc=local(0), run_on='db')
    named = at.add(next_run_utc=local(0), run_on='here')
    dc.update_host(at.store, 'here-1', 0, at.store.now())
    clock(at, 1)
    assert [words(at, id) for id in (job, tagged, named)] == 3 * ['never ran']
    clock(at, 2)
    for id, text in ((job, 'overdue 2 min'), (named, 'overdue 2 min')):
        assert status(at, id) == ('overdue', text)
    assert words(at, tagged) == 'waiting 2 min for tag db'
    dc.pause_hosts(at.store, 'here', NOON + 5 * dc.MINUTE, 'bob')
    assert words(at, job) == words(at, named) == 'waiting 2 min for the end of a pause'
    dc.update_host(at.store, 'other-1', 0, at.store.now())
    clock(at, 4)
    assert words(at, job) == 'waiting 4 min for the end of a pause'
    clock(at, 5)
    assert words(at, named) == 'waiting 5 min for host here'
    assert words(at, job) == 'waiting 5 min for a worker'


def test_a_template_counts_its_hosts(at):
    template = at.add(each_host=1, schedule='0 0 * * *')
    plan(at)
    assert status(at, template) == ('template', 'on no host yet')
    children = [
        at.add(parent_id=template, run_on=name, next_run_utc=local(60))
        for name in ('one', 'two', 'three', 'four')
    ]
    assert status(at, template) == ('template', 'on 4 hosts')
    at.store.change(
        "UPDATE job SET last_status = 'ERROR: exit 1' WHERE id = :id", id=children[2]
    )
    assert status(at, template) == ('failing', 'on 4 hosts, 1 failing')


def test_statuses_of_many_jobs(sqlite_place):
    with sqlite_place.store.transaction():
        for _ in range(2100):
            sqlite_place.add()
    rows, now = sqlite_place.sql('SELECT * FROM job'), sqlite_place.store.now()
    statuses = dc.statuses_of(sqlite_place.store, rows, now)
    assert set(statuses) == {row.id for row in rows}


# The list.


def listed(place, *args):
    """The ids of the jobs in the list, in its order."""
    _, *rows = place.run('list', *args).splitlines()
    return [int(row.split()[0]) for row in rows]


@pytest.fixture
def varied(at):
    """Jobs in several states. At noon and 2 minutes."""
    at.add('true', description='late', next_run_utc=local(0))
    later = at.add('true', description='later', schedule='0 15 * * *')
    sooner = at.add('true', description='sooner', schedule='0 14 * * *', name='soon')
    failed = at.add(
        'exit 3', description='fails', schedule='0 16 * * *', next_run_utc=local(0)
    )
    fail(at, failed)
    at.add('true', active=0, schedule='0 13 * * *')
    for job in (later, sooner):
        at.store.change('UPDATE job SET next_run_utc = NULL WHERE id = :id', id=job)
    dc.update_host(at.store, 'here-1', 0, at.store.now())
    plan(at)
    clock(at, 2)
    return at


@pytest.fixture
def real(varied, monkeypatch):
    """The same, by commands: their stores have that clock, too."""
    connect = dc.Store.connect

    def connect_at_noon(store):
        connect(store)
        varied.set_zone('+00:00' if varied.engine == 'mysql' else 'UTC', store)
        varied.set_clock(local(2), store)
        return store

    monkeypatch.setattr(dc.Store, 'connect', connect_at_noon)
    return varied


def test_the_list_has_trouble_first_and_then_what_runs_next(real):
    assert listed(real) == [1, 4, 3, 2, 5]
    lines = [line.split('  ') for line in real.run('list').splitlines()]
    table = [[text.strip() for text in line if text] for line in lines]
    assert table[1:4] == [
        ['1', 'overdue 2 min', 'late', 'never', '12:00:00, now'],
        ['4', 'failing since 12:00 (1 run)', 'fails', '12:00:00', '16:00:00, in 3 h'],
        ['3', 'soon', 'never ran', 'sooner', 'never', '14:00:00, in 118 min'],
    ]
    assert table[5][1] == 'disabled'


def test_only_jobs_that_fail(real):
    assert listed(real, '--failing') == [4]
    start_now = "UPDATE job SET run_token = 't', last_worker = 'w-1' WHERE id = 4"
    real.store.execute(start_now)
    assert listed(real, '--failing') == [4]  # it fails, whatever it does now
    real.store.execute('UPDATE job SET run_token = NULL, active = 0 WHERE id = 4')
    assert listed(real, '--failing') == []
    record(real, 2, '.E.E.E.')
    assert listed(real, '--failing') == [2]


@pytest.mark.parametrize(
    'words, expected',
    [
        (['LATE'], [1, 2]),
        (['late', 'r'], [1, 2]),
        (['later', 'true'], [2]),
        (['soon'], [3]),
        (['5'], [5]),
        (['3'], [3, 4]),  # an id, and `exit 3`
        (['99999999999'], []),
        (['exit 3'], [4]),
        (['e_i'], []),
        (['db'], []),
        (['%'], []),
        (['!'], []),
    ],
)
def test_words(real, words, expected):
    assert sorted(listed(real, *words)) == expected


def test_a_word_is_one_of_a_host_too(real):
    job = real.add(run_on='db-1')
    assert listed(real, 'db-1') == [job]


def test_jobs_of_a_template_are_folded(place):
    template = place.add(each_host=1, schedule='0 0 * * *', next_run_utc='9999-12-31')
    child = {'parent_id': template, 'next_run_utc': '2099-01-01 00:00:00'}
    one = place.add(run_on='one', **child)
    two = place.add(run_on='two', last_status='ERROR: exit 1', **child)
    assert listed(place) == [template]
    assert '  on 2 hosts, 1 failing  ' in place.run('list')
    assert listed(place, '--failing') == [template]
    assert listed(place, '--wide') == [two, template, one]
    assert listed(place, 'two') == [two]
    jobs = dc.from_json(place.run('list', '--json'))
    assert [job['id'] for job in jobs] == [two, template, one]


def test_json_has_what_the_tables_have(real):
    for args in (['list', '4', '--json'], ['show', '4', '--json']):
        job = dc.from_json(real.run(*args))
        job = job[0] if args[0] == 'list' else job
        assert job['state'] == 'failing'
        assert job['status'] == 'failing since 12:00 (1 run)'
        assert job['in_words'] == 'at 16:00'
        assert job['next_run'] == '2026-05-20 16:00:00, in 3 h'
        assert job['last_status'] == 'ERROR: exit 1' and job['command'] == 'exit 3'
    assert 'status        failing since 12:00 (1 run)\n' in real.run('show', '4')


def on_a_terminal(place, *args, columns, **more):
    return seen_on_a_terminal(place, *args, COLUMNS=str(columns), **more).splitlines()


def test_the_list_fits_the_terminal(sqlite_place):
    place = sqlite_place
    place.add('true ' * 50, description='words ' * 40, run_on='db')
    place.run('disable', '1')
    for columns in (50, 80, 200):
        lines = on_a_terminal(place, 'list', columns=columns)
        assert max(map(len, lines)) <= columns and '…' in lines[1]
        assert '  disabled  words ' in lines[1]
    assert len(on_a_terminal(place, 'list', '--wide', columns=50)[1]) > 300
    assert len(on_a_terminal(place, 'list', columns=10)) == 2
    assert 'words ' * 39 in place.run('list')  # not a terminal: nothing is cut


def test_only_a_status_has_a_colour_and_only_on_a_terminal(sqlite_place):
    place = sqlite_place
    place.add(last_status='ERROR: exit 1', next_run_utc='2099-01-01 00:00:00')
    place.add('true', next_run_utc='2099-01-01 00:00:00')
    red, plain = on_a_terminal(place, 'list', columns=99, NO_COLOR='')[1:]
    assert re.match('1   \33\\[31mfailing *\33\\[0m  Yet another', red)
    assert red.count('\33') == 2 and '\33' not in plain
    assert '\33' not in ''.join(on_a_terminal(place, 'list', columns=99))
    assert '\33' not in place.run('list')


# The history, and the hosts.


@pytest.fixture
def history(place):
    """Runs of two jobs on hosts with names that begin alike."""
    place.add('true', name='backup', description='all of it')
    place.add('true')
    now = place.store.zone.local(place.store.now())
    rows = [
        (1, 1, 'web-1', 'Success', 300, 'a\nb\n\n', None),
        (1, 2, 'web-1-5', 'ERROR: exit 3', 100, 'boom', '6 min late: unknown'),
        (2, 1, 'web_2-1', 'ERROR: stopped', 50, None, None),
        (2, 2, 'web-1', 'SKIPPED: 2 times from 1 to 2: paused by x', 40, None, None),
        (2, 3, 'webx2-1', 'ERROR: lost: x', 30, None, None),
    ]
    for job, run_no, worker, text, ago, output, note in rows:
        ended = dc.text_of(now - ago * dc.MINUTE)
        row = dc.Run(job, run_no, None, ended, ended, 1500, worker, text, 0, output)
        place.store.upsert('run', [row._replace(note=note)])
    return place


def runs_in(place, *args):
    found = dc.from_json(place.run('history', '--json', *args))
    return [(run['job_id'], run['run_no']) for run in found]


@pytest.mark.parametrize(
    'args, expected',
    [
        ([], [(2, 3), (2, 2), (2, 1), (1, 2), (1, 1)]),
        (['-n', '2'], [(2, 3), (2, 2)]),
        (['backup'], [(1, 2), (1, 1)]),
        (['--failed'], [(2, 3), (1, 2)]),
        (['--failed', '1'], [(1, 2)]),
        (['--since', '2h'], [(2, 3), (2, 2), (2, 1), (1, 2)]),
        (['--since', '35m', '2'], [(2, 3)]),
        (['--since', '2020-01-01 00:00'], [(2, 3), (2, 2), (2, 1), (1, 2), (1, 1)]),
        (['--since', '2999-01-01'], []),
        (['--host', 'WEB'], [(2, 2), (1, 1)]),
        (['--host', 'web-1'], [(1, 2)]),
        (['--host', 'web_2'], [(2, 1)]),
        (['--host', 'we'], []),
    ],
)
def test_history(history, args, expected):
    assert runs_in(history, *args) == expected


def test_the_table_of_the_history(history):
    head, *rows = history.run('history').splitlines()
    heads = ['JOB ID', 'NAME', 'DESCRIPTION', 'RUN NO', 'STARTED AT', 'SECONDS']
    assert re.split('  +', head) == [*heads, 'WORKER', 'STATUS', 'OUTPUT', 'NOTE']
    assert rows[3].endswith('  boom    6 min late: unknown')
    assert re.match('1       backup  all of it  ', rows[4]) and rows[4].endswith('  b')
    assert 'NOTE' not in history.run('history', '2')
    history.run('remove', '1')
    assert runs_in(history, '1') == [(1, 2), (1, 1)]


@pytest.mark.parametrize(
    'since', ['yesterday', '2', '0h', '1w', '26:00', '-1h', '999999d']
)
def test_a_bad_time_is_one_line(sqlite_place, since):
    said = sqlite_place.run('history', '--since=' + since, code=2)
    text = (
        "--since: %r; allowed: 90s, 15m, 2h, 3d, or 'YYYY-MM-DD HH:MM'; see: " % since
    )
    assert said == 'distributed_cron: %sdistributed_cron.py history --help\n' % text


def test_hosts_that_are_paused(place):
    for name in ('one', 'two'):
        store = place.new_store(name)
        dc.update_host(store, name + '-1', 0, store.now())
        store.close()
    assert 'PAUSED' not in place.run('hosts')
    place.run('pause', '--host', 'two', '--until', '2099-01-01 00:00', code=2)
    place.run('pause', '--host', 'two', '--note', 'disk')
    head, one, two = place.run('hosts').splitlines()
    assert head.endswith('  PAUSED') and re.search('  until .*: disk$', two)
    assert 'until' not in one
    hosts = dc.from_json(place.run('hosts', '--json'))
    assert hosts[0]['paused'] is None and ': disk' in hosts[1]['paused']
    place.run('pause')
    assert place.run('hosts').count(' until ') == 2


def test_jobs_that_never_run_by_themselves_say_when_they_do(place):
    """For cron, they would run on their own: export keeps them from it."""
    place.run('add', '--name', 'first', '--every', '60', 'echo 1')
    out = place.run('add', '--after', 'first', 'echo 2')
    assert out == 'job 2, next run after job 1\n'
    out = place.run('add', '--every', '60', '--each-host', 'echo 3')
    assert out.startswith('job 3, next run on each host\n')
    listed = json.loads(place.run('list', '--json'))
    said = {job['id']: job['next_run'] for job in listed}
    assert said[2] == 'after job 1' and said[3] == 'on each host'
    lines = place.run('export').splitlines()
    assert '0 */1 * * * echo 1' in lines
    assert any(line.startswith('#') and line.endswith(' echo 2') for line in lines)
