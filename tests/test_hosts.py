"""Real workers: who runs what where, what a command sees, retries, chains, pauses."""

import json
import os

import pytest
from conftest import dc, wait_until


def hosts_of(place, job):
    return [run.worker.rpartition('-')[0] for run in place.runs(job)]


def test_a_failed_run_is_tried_again_by_another_host_first(place):
    """The command sees which try it is, and the job's name."""
    seen = os.path.join(place.folder, 'seen')
    command = (
        'echo $DISTRIBUTED_CRON_JOB_NAME $DISTRIBUTED_CRON_ATTEMPT >> %s; '
        '[ $DISTRIBUTED_CRON_ATTEMPT = 1 ]' % seen
    )
    options = ['--schedule', '0 0 1 1 *', '--retries', '3', '--retry-delay', '0']
    place.run('add', '--name', 'flaky', *options, command)
    place.run('run-now', 'flaky')
    if place.engine == 'sqlite':  # which has no other host: it runs at once
        place.run('run', name='one')
    else:
        for name in ('one', 'two'):
            place.worker(name)
        wait_until(lambda: len(place.runs(1)) == 2, 9)
        assert sorted(hosts_of(place, 1)) == ['one', 'two']
    runs = place.runs(1)
    assert [run.status for run in runs] == ['ERROR: exit 1', 'Success']
    assert [run.attempt for run in runs] == [0, 1]
    assert dc.read_text(seen) == 'flaky 0\nflaky 1\n'
    job = place.job(1)
    assert (job.attempt, job.failures) == (0, 0)
    assert all(run.cpu_ms >= 0 for run in runs)


def test_what_a_run_took_of_processor_and_memory_is_recorded(sqlite_place):
    place = sqlite_place
    place.run(
        'add', '--every', '60', 'i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done'
    )
    place.run('run')
    (run,) = place.runs(1)
    assert 10 <= run.cpu_ms <= 20000


def test_a_chain_runs_within_one_pass_of_cron(place):
    place.run('add', '--name', 'first', '--every', '60', 'echo 1')
    place.run('add', '--name', 'second', '--after', 'first', 'echo 2')
    place.run('add', '--name', 'third', '--after', 'second', 'exit 3')
    place.run('add', '--after', 'third', 'echo never')
    place.run('run')
    assert [(run.job_id, run.status) for run in place.runs()] == [
        (1, 'Success'),
        (2, 'Success'),
        (3, 'ERROR: exit 3'),
    ]


def test_a_word_and_each_host(place):
    place.write(tags=['db'])
    tagged = place.config('one')
    place.write(tags=['web'])
    assert tagged.words == ['one', 'db']
    place.run('add', '--every', '60', '--on', 'db', 'true')
    place.run('add', '--every', '60', '--on', 'two', 'true')
    place.run('add', '--every', '60', '--each-host', 'true')
    place.run('run', name='two')
    assert [run.job_id for run in place.runs()] == [2, 4]
    place.write(tags=['db'])
    place.run('run', name='one')
    assert hosts_of(place, 1) == ['one'] and hosts_of(place, 2) == ['two']
    children = place.sql('SELECT * FROM job WHERE parent_id = 3 ORDER BY id')
    assert [child.run_on for child in children] == ['two', 'one']
    assert [hosts_of(place, child.id) for child in children] == [['two'], ['one']]
    assert not place.runs(3)
    hosts = json.loads(place.run('hosts', '--json'))
    assert [(host['name'], host['tags']) for host in hosts] == [
        ('one', 'db'),
        ('two', 'web'),
    ]


def test_pause_and_resume_by_commands(place):
    place.run('add', '--every', '60', 'true')
    assert 'paused until ' in place.run('pause', '--for', '2h', '--note', 'disk')
    place.run('run')
    assert not place.runs()
    place.run('run-now', '1')
    place.run('run')
    assert len(place.runs()) == 1
    pause = dc.pauses(place.store)['*']
    assert pause.paused_by.endswith(': disk')
    assert 'all hosts: resumed' in place.run('resume')
    assert 'not paused' in place.run('resume')
    assert 'no host' not in place.run('pause', '--host', 'Here', '--for', '1s')
    note = 'note: no host has the name nosuch yet\n'
    assert place.run('pause', '--host', 'NoSuch').endswith(note)
    place.run('add', '--every', '60', '--name', 'nightly', 'true')
    place.run('pause', 'nightly', '--for', '15m')
    place.run('pause', '--host', 'HERE', '--for', '1d')
    place.run('run')
    assert not place.runs(2)
    place.run('resume', '--host', 'here')
    place.run('run')
    assert not place.runs(2)
    assert 'job 2: resumed' in place.run('resume', 'nightly')
    place.run('run')
    assert len(place.runs(2)) == 1


@pytest.mark.parametrize(
    'args, part',
    [
        (['pause', '--for', '2x'], "--for: '2x'; allowed: 90s, 15m, 2h, 3d"),
        (['pause', '--for', '900d'], 'from now to 366 days'),
        (['pause', '--until', '2020-01-01'], 'from now to'),
        (['pause', '--until', 'soon'], "--until: 'soon'; allowed: "),
        (['pause', '--host', 'x', '1'], '--host x and jobs; allowed: one of them'),
        (['pause', '--host', '*'], 'allowed: the name of a host'),
        (
            ['add', '--every', '5', '--after', '1', 'x'],
            '--after: not allowed with argument --every',
        ),
        (
            ['add', '--every', '5', '--name', '7up', 'x'],
            "--name '7up'; allowed: a to z",
        ),
        (['add', '--every', '5', '--name', 'one', 'x'], "it is that of job 1"),
        (['add', '--every', '5', '--on', 'a b', 'x'], "--on 'a b'; allowed: a host"),
        (['add', '--every', '5', '--retries', '100', 'x'], '--retries 100; allowed: 0'),
        (['add', '--every', '5', '--retry-delay', '9999', 'x'], 'allowed: 0 to 3600'),
        (['add', '--every', '5', '--start-within', '999999', 'x'], 'allowed: 1 to'),
        (['add', '--after', 'nobody', 'x'], 'job nobody does not exist'),
        (['add', '--every', '5', '--alert-to', 'bob', 'x'], 'one mail address'),
        (['edit', '--after', '1', '1'], 'a circle of jobs'),
        (
            ['edit', '--each-host', '1'],
            '--each-host 1; allowed: 0, as job 2 runs after',
        ),
        (
            ['add', '--every', '5', '--name', 'alert', 'x'],
            "--name 'alert'; allowed: another one: its command is built in",
        ),
    ],
)
def test_mistakes_with_what_is_new_are_one_line(sqlite_place, args, part):
    place = sqlite_place
    place.run('add', '--every', '60', '--name', 'one', 'true')
    place.run('add', '--after', 'one', 'true')
    before = place.sql('SELECT * FROM job')
    assert part in place.run(*args, code=2)
    assert place.sql('SELECT * FROM job') == before
    assert not dc.pauses(place.store)


def test_what_plain_sql_gets_wrong_parks_that_job_alone(place):
    bad = [
        place.add(time_zone='Nowhere/City'),
        place.add(after_job=99),
        place.add(schedule='H(9-1) * * * *'),
        place.add(schedule='@at yesterday'),
        place.add(schedule='0 * * * *', start_anchor='03:00', stop_anchor='03:30'),
    ]
    odd = place.add(run_on='Not A Word')  # which no host has
    good = place.add()
    place.run('run')
    for job in bad[1:-1]:
        row = place.job(job)
        assert str(row.next_run_utc).startswith('9999')
        assert row.last_status.startswith('ERROR: schedule: '), row.last_status
    assert not place.runs(odd) and len(place.runs(good)) == 1


def test_a_crontab_may_become_jobs_that_run_on_each_host(sqlite_place):
    place = sqlite_place
    crontab = os.path.join(place.folder, 'crontab')
    with open(crontab, 'w') as file:
        file.write('17 * * * * logrotate\n')
    place.run('import', '--each-host', crontab)
    assert place.job(1).each_host == 1
    assert place.run('export').startswith('#: ')
    assert '"each_host": 1' in place.run('export')


def test_a_word_that_no_host_has_is_taken_with_a_note(place):
    place.run('run')
    assert 'no host has' in place.run('add', '--every', '60', '--on', 'nosuch', 'true')
    assert 'no host has' not in place.run(
        'add', '--every', '60', '--on', 'here', 'true'
    )


def test_memory_is_recorded_where_a_command_took_more_than_its_runner(sqlite_place):
    """A small one would be told to have taken what the runner has, which started it."""
    place = sqlite_place
    place.run('add', '--every', '60', 'true')
    place.run(
        'add', '--every', '60', 'head -c 100000000 /dev/zero | tail -c 90000000 | wc -c'
    )
    place.run('run')
    small, large = place.runs()
    assert small.max_rss_kb is None
    assert 85000 < large.max_rss_kb < 130000
