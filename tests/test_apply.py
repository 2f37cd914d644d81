"""Jobs as code: apply makes the table as a file says, and export --yaml writes such a file.

What is unchanged is not touched; what is wrong is told by line, and nothing is changed.
"""

import os
import re
import time
from types import SimpleNamespace

import pytest
import yaml
from conftest import ROOT, dc, execute, exit_status, fork
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import wait_until

BACKUP = {'name': 'backup', 'command': 'backup --all', 'schedule': '0 4 * * *'}
REPORT = {'name': 'report', 'command': 'report', 'after_job': 'backup'}
SYNC = {'name': 'sync', 'command': 'sync-all', 'frequency': 15}
COLUMNS = [column.name for column in dc.COLUMNS]


def write(place, *jobs, file='jobs.yml', **more):
    """A file of jobs; returns its path."""
    path = os.path.join(place.folder, file)
    with open(path, 'w') as stream:
        yaml.safe_dump({**more, 'jobs': list(jobs)}, stream, allow_unicode=True)
    return path


def apply(place, *jobs, args=(), code=0, **more):
    """Apply a file of jobs; returns what was printed."""
    return place.run('apply', write(place, *jobs, **more), *args, code=code)


def apply_at(place, *jobs):
    """The same, by the clock of a place's store."""
    args = SimpleNamespace(dry_run=False, prune=False, yes=False, force=False)
    dc.carry_out(place.store, dc.JobFile(write(place, *jobs)), args)


def table(place):
    return place.sql('SELECT * FROM job ORDER BY id')


def names(place):
    return [job.name for job in table(place)]


def by_name(place, name):
    return place.sql('SELECT * FROM job WHERE name = :name', name=name)[0]


# What a file does.


def test_jobs_are_added_and_planned_at_once(at):
    apply_at(at, REPORT, BACKUP, SYNC)
    backup, report, sync = (by_name(at, name) for name in ('backup', 'report', 'sync'))
    assert backup.next_run_utc == '2026-05-21 04:00:00'
    assert sync.next_run_utc == '2026-05-20 12:00:00'
    assert report.after_job == backup.id and report.schedule is None
    assert report.next_run_utc == dc.text_of(dc.PARKED)
    assert (backup.description, backup.max_run_time, sync.max_run_time) == (
        'backup --all',
        60,
        7,
    )
    assert {job.applied_by for job in table(at)} == {'jobs.yml'}


def test_what_is_added_is_told(place):
    assert apply(place, REPORT, BACKUP).splitlines() == [
        '+ report: report',
        '+ backup: backup --all',
        '2 added, 0 changed, 0 removed, 0 unchanged',
    ]


def test_the_same_file_twice_changes_nothing(place):
    apply(place, BACKUP, REPORT, SYNC)
    before = table(place)
    said = '0 added, 0 changed, 0 removed, 3 unchanged\n'
    assert apply(place, BACKUP, REPORT, SYNC) == said
    assert table(place) == before
    out = apply(place, BACKUP, REPORT, SYNC, args=['--dry-run', '--prune'])
    assert out == '0 to add, 0 to change, 0 to remove, 3 unchanged\n'


def test_a_job_is_what_the_file_says_and_otherwise_the_default(place):
    apply(place, {**BACKUP, 'retries': 3, 'start_within': 9, 'start_anchor': '3:30'})
    job = by_name(place, 'backup')
    assert (job.retries, job.start_within) == (3, 9)
    assert str(job.start_anchor) in ('03:30', '03:30:00')
    out = apply(place, {**BACKUP, 'max_run_time': 5}, defaults={'retries': 2})
    assert sorted(out.splitlines()[:-1]) == [
        '~ backup: max_run_time: 60 -> 5',
        '~ backup: retries: 3 -> 2',
        '~ backup: start_anchor: "%s" -> null' % job.start_anchor,
        '~ backup: start_within: 9 -> null',
    ]
    apply(place, BACKUP)
    job = by_name(place, 'backup')
    assert (job.retries, job.start_within, job.start_anchor) == (0, None, None)
    assert job.max_run_time == 60


@pytest.mark.parametrize('first', [BACKUP, REPORT, SYNC], ids=lambda job: job['name'])
@pytest.mark.parametrize('second', [BACKUP, REPORT, SYNC], ids=lambda job: job['name'])
def test_what_says_when_takes_the_place_of_what_did(at, first, second):
    """Also of that in the defaults."""
    other = {**BACKUP, 'name': 'other'}
    first = {**first, 'name': 'x', 'command': 'x'}
    second = {**second, 'name': 'x', 'command': 'x'}
    for job in first, second:
        if 'after_job' in job:
            job['after_job'] = 'other'
    apply(at, other, first)
    out = apply(at, other, second, defaults={'frequency': 7})
    job = by_name(at, 'x')
    used = (job.after_job, job.schedule, None if job.schedule else job.frequency)
    assert used[:2] == (
        by_name(at, 'other').id if 'after_job' in second else None,
        second.get('schedule'),
    )
    if 'frequency' in second:
        assert job.frequency == 15
    assert ('1 changed' in out) == (first != second)
    assert dc.moment(job.next_run_utc) is not None
    assert 'nothing' not in apply(at, other, second)


def test_what_says_when_is_the_one_thing_that_does(place):
    """Also where somebody has written two of them."""
    apply(place, BACKUP, {**SYNC, 'name': 'x'})
    id = by_name(place, 'backup').id
    place.store.change(
        "UPDATE job SET schedule = '@daily', after_job = :id WHERE name = 'x'", id=id
    )
    out = apply(place, BACKUP, {**SYNC, 'name': 'x'})
    assert '~ x: schedule: "@daily" -> null\n~ x: after_job: %d -> null\n' % id in out
    job = by_name(place, 'x')
    assert (job.schedule, job.after_job, job.frequency) == (None, None, 15)


def test_yes_and_no_are_1_and_0(place):
    """As YAML has them; a text stays what it is."""
    path = os.path.join(place.folder, 'jobs.yml')
    with open(path, 'w') as stream:
        stream.write('jobs: [{name: no, command: on, frequency: 5, active: NO}]')
    place.run('apply', path)
    job = by_name(place, 'no')
    assert (job.active, job.command) == (0, 'on')
    place.run('apply', write(place, {**SYNC, 'name': 'no', 'active': True}))
    assert by_name(place, 'no').active == 1


def test_the_diff_shows_what_was_edited_in_between(place):
    apply(place, BACKUP, SYNC)
    place.run('edit', 'backup', '--command', 'backup --none', '--retries', '2')
    out = apply(place, BACKUP, SYNC, args=['--dry-run'], code=3)
    assert out.splitlines() == [
        '~ backup: command: "backup --none" -> "backup --all"',
        '~ backup: retries: 2 -> 0',
        '0 to add, 1 to change, 0 to remove, 1 unchanged',
    ]
    assert by_name(place, 'backup').command == 'backup --none'
    apply(place, BACKUP, SYNC)
    assert by_name(place, 'backup').command == 'backup --all'


def test_a_change_of_no_plan_keeps_the_plan(at):
    apply_at(at, BACKUP)
    at.store.change("UPDATE job SET next_run_utc = '2026-05-20 11:59:00'")
    apply_at(at, {**BACKUP, 'command': 'other'})
    assert by_name(at, 'backup').next_run_utc == '2026-05-20 11:59:00'
    apply_at(at, {**BACKUP, 'schedule': '0 5 * * *'})
    assert by_name(at, 'backup').next_run_utc == '2026-05-21 05:00:00'


def test_a_job_of_that_name_is_taken_over(place):
    place.run('add', '--name', 'backup', '--every', '5', 'old')
    id = by_name(place, 'backup').id
    out = apply(place, BACKUP)
    assert '~ backup: command: "old" -> "backup --all"' in out
    assert '~ backup: applied_by: null -> "jobs.yml"' in out
    assert [(job.id, job.applied_by) for job in table(place)] == [(id, 'jobs.yml')]


def test_renamed_in_the_file(place):
    """It is another job then, unless its id says that it is not."""
    apply(place, BACKUP, SYNC)
    id = by_name(place, 'backup').id
    renamed = {**BACKUP, 'name': 'save'}
    out = apply(place, renamed, SYNC, args=['--dry-run'], code=3)
    assert '+ save: ' in out and 'note: 1 of its jobs are no longer in it' in out
    twice = {**renamed, 'id': id}, renamed
    for args in ['--dry-run'], []:
        said = apply(place, *twice, args=args, code=2)
        assert 'save: name is that of line 2, too' in said
    out = apply(place, {**renamed, 'id': id}, SYNC, args=['--prune'])
    assert out.splitlines()[0] == '~ save: name: "backup" -> "save"'
    assert by_name(place, 'save').id == id and len(table(place)) == 2
    assert '0 changed' in apply(place, renamed, SYNC, args=['--prune'])


def test_renamed_by_hand(place):
    apply(place, BACKUP, SYNC)
    place.run('edit', 'backup', '--name', 'mine')
    out = apply(place, BACKUP, SYNC, args=['--prune'])
    assert out.splitlines()[:2] == ['+ backup: backup --all', '- mine: backup --all']
    assert sorted(names(place)) == ['backup', 'sync']


def test_a_job_without_a_name_has_its_id(place):
    id = place.add('echo', frequency=5)
    job = {'id': id, 'command': 'echo 2', 'frequency': 5}
    assert '~ job %d: command: "echo" -> "echo 2"' % id in apply(place, job)
    assert names(place) == [None]
    apply(place, {**job, 'name': 'echo'})
    assert names(place) == ['echo']
    apply(place, job)  # the name is not taken away
    assert names(place) == ['echo']
    apply(place, BACKUP)
    out = apply(place, {**job, 'name': 'backup'}, code=2)
    assert 'backup: name is that of job %d' % by_name(place, 'backup').id in out


# Prune.


def test_prune_removes_what_the_file_made_and_nothing_else(place):
    place.run('add', '--name', 'mine', '--every', '5', 'true')
    apply(place, BACKUP, SYNC, {**SYNC, 'name': 'third'})
    out = apply(place, BACKUP, SYNC)
    assert 'note: 1 of its jobs are no longer in it' in out
    assert len(table(place)) == 4
    out = apply(place, BACKUP, SYNC, args=['--prune', '--dry-run'], code=3)
    assert '- third: sync-all' in out and len(table(place)) == 4
    out = apply(place, BACKUP, SYNC, args=['--prune'])
    assert '- third: sync-all' in out and 'note' not in out
    assert sorted(names(place)) == ['backup', 'mine', 'sync']
    assert 'note' not in apply(place, BACKUP, SYNC)


def test_prune_removes_half_of_the_jobs_but_not_more(place):
    apply(place, BACKUP, SYNC)
    for args, code in ((['--dry-run'], 1), ([], 1), (['--yes'], 0)):
        out = apply(place, args=['--prune', *args], code=code)
        assert ('would remove 2 of 2 jobs' in out) == bool(code)
        assert len(table(place)) == (2 if code else 0)
    apply(place, BACKUP, SYNC)
    apply(place, BACKUP, args=['--prune'])
    assert names(place) == ['backup']


def test_a_job_that_another_runs_after_stays_what_that_needs(place):
    """Though the other is unchanged: it would never run again."""
    apply(place, BACKUP, REPORT, SYNC)
    id = by_name(place, 'backup').id
    out = apply(place, REPORT, SYNC, args=['--prune'], code=2)
    assert 'report: after_job %d: there is no such job' % id in out
    out = apply(place, {**BACKUP, 'each_host': 1}, REPORT, SYNC, code=2)
    assert 'report: after_job %d runs on each host' % id in out
    assert names(place) == ['backup', 'report', 'sync']
    assert '- backup: ' in apply(place, SYNC, args=['--prune', '--yes'])


def test_two_files_side_by_side(place):
    apply(place, BACKUP, {**SYNC, 'name': 'b'}, file='a.yml')
    apply(place, SYNC, owner='team')
    assert apply(place, BACKUP, file='a.yml', args=['--prune']).startswith('- b: ')
    apply(place, owner='team', args=['--prune', '--yes'])
    assert names(place) == ['backup']
    out = apply(place, BACKUP, owner='team', code=2)
    assert 'backup: name is a job of a.yml; to take it over: --yes' in out
    out = apply(place, BACKUP, owner='team', args=['--yes'])
    assert '~ backup: applied_by: "a.yml" -> "team"' in out


def test_an_owner_is_told_from_one_in_other_letters(place):
    """To some databases they are equal."""
    apply(place, BACKUP, owner='team')
    apply(place, SYNC, owner='Team', args=['--prune'])
    assert sorted(names(place)) == ['backup', 'sync']


def test_what_runs_after_a_removed_job_is_told(place):
    apply(place, BACKUP, SYNC)
    id = place.run('add', '--name', 'last', '--after', 'backup', 'true')
    apply(place, SYNC, args=['--prune'])
    place.run('run')
    assert 'there is no such job' in by_name(place, 'last').last_status
    assert id


# What is wrong.


def wrong(place, text, *args):
    """What is told of a file that is this text."""
    path = os.path.join(place.folder, 'wrong.yml')
    with open(path, 'w', encoding='latin-1') as stream:
        stream.write(text)
    status, out, err = execute(
        ['--config', place.file, 'apply', path, *args], cwd=place.folder
    )
    assert (status, out) == (2, '') and 'Traceback' not in err
    return [line.partition('wrong.yml: ')[2] for line in err.splitlines()]


def test_each_mistake_has_its_line_and_nothing_is_changed(place):
    jobs = [{**SYNC, 'name': 'job-%d' % number} for number in range(50)]
    jobs[7].update(frequency=0)
    apply(place, *[job for job in jobs if job['name'] != 'job-7'][:3])
    before = table(place)
    out = apply(place, *jobs, code=2)
    path = os.path.join(place.folder, 'jobs.yml')
    with open(path) as stream:
        lines = stream.read().splitlines()
    assert out.splitlines() == [
        '%s: line %d: job-7: frequency 0; allowed: 1 to 5256000 minutes'
        % (path, lines.index('  frequency: 0') + 1),
        'distributed_cron: %s: nothing is changed; mistakes: 1' % path,
    ]
    assert table(place) == before


def test_all_mistakes_are_told(sqlite_place):
    text = """\
owner: team
default:
    retries: 1
jobs:
- name: a
  comand: x
  command: x
  frequency: 5
- name: b
  command: x
  schedule: 61 * * * *
  active: maybe
- name: B
  command: x
  frequency: many
  run_on: [db]
- name: c
  command: x
- name: d
  command: x
  frequency: 5
  after_job: e
- name: a
  command: ''
  frequency: 5
- command: x
  frequency: 5
- name: e
  command: x
  command: y
  after_job: nobody
- id: 77
  command: x
  frequency: 5
- text
- name: f
  command: !vault x
  frequency: 5
  start_anchor: 25:00
- name: g
  command: x
  after_job: h
- name: h
  command: x
  after_job: g
"""
    told = wrong(sqlite_place, text)
    assert told.pop() == 'nothing is changed; mistakes: 22'
    assert told == [
        "line 2: unknown key 'default'; the nearest known is defaults",
        "line 6: unknown key 'comand'; the nearest known is command",
        "line 11: b: schedule minute '61': bad value '61'; allowed: 0-59, *, a-b, "
        'steps /n, H, H(a-b), a~b',
        "line 12: b: active 'maybe'; allowed: 0 or 1",
        "line 13: B: name 'B'; allowed: a to z, then also 0-9 _ . -, up to 64 in all",
        "line 15: B: frequency 'many'; allowed: 1 to 5256000 minutes",
        'line 16: run_on: allowed: a text or a number',
        'line 17: c: schedule: allowed: one of after_job, schedule, frequency',
        'line 19: d: schedule: allowed: one of after_job, schedule, frequency',
        'line 22: d: after_job nobody: there is no such job',
        'line 23: a: name is that of line 5, too',
        "line 24: a: command ''; allowed: 1 to 12000 characters, without NUL",
        'line 26: job ?: name is missing',
        'line 30: command: is there twice',
        'line 31: e: after_job nobody: there is no such job',
        'line 32: job 77: id 77: there is no such job',
        'line 35: allowed: lines of `key: value`',
        'line 37: command: allowed: a text or a number',
        "line 37: f: command ''; allowed: 1 to 12000 characters, without NUL",
        "line 39: f: start_anchor '25:00'; allowed: 00:00 to 23:59",
        'line 42: g: after_job h: a circle of jobs',
        'line 45: h: after_job g: a circle of jobs',
    ]
    assert table(sqlite_place) == []


# A key of 9 ** 9 words, if somebody were to write it out.
BOMB = 'a0: &a0 [x]\n'
for number in range(1, 10):
    BOMB += 'a%d: &a%d [%s]\n' % (
        number,
        number,
        ', '.join(['*a%d' % (number - 1)] * 9),
    )
BOMB += '? *a9\n: x\njobs: []\n'


@pytest.mark.parametrize(
    'text, said',
    [
        ('', 'allowed: owner, defaults, and jobs'),
        ('- a', 'allowed: owner, defaults, and jobs'),
        ('owner: x', 'jobs: allowed: a list'),
        ('jobs: {a: b}', 'jobs: allowed: a list'),
        ('jobs: [', 'is not YAML: line 2, column 1'),
        ('a: b\n---\njobs: []', 'is not YAML: line '),
        ('jobs: &a [*a]', 'line 1: allowed: lines of `key: value`'),
        ('jobs: [\xff]', 'is not YAML'),
        ("owner: ''\njobs: []", 'owner: allowed: 1 to 255 characters'),
        ('owner: [a]\njobs: []', 'owner: allowed: 1 to 255 characters'),
        ('owner: %s\njobs: []' % ('x' * 256), 'owner: allowed: 1 to 255 characters'),
        ('owner: "a\\0"\njobs: []', 'owner: allowed: 1 to 255 characters, without NUL'),
        ('? [a]\n: b\njobs: []', "line 1: unknown key '?'"),
        (BOMB, 'line 1: unknown key'),
        (
            'jobs: [{name: a, frequency: 9, command: "x\\0"}]',
            "line 1: a: command 'x\\x00'; allowed: 1 to 12000",
        ),
    ],
)
def test_what_is_no_file_of_jobs(sqlite_place, text, said):
    told = wrong(sqlite_place, text, '--prune', '--yes')
    assert said in told[0], told


def test_a_mistake_that_only_the_id_shows(place):
    """H is a number of the job's id: for some, it is outside of the window."""
    hour = int(dc.resolved('0 H * * *', '0').split()[1])  # of a job without an id
    jobs = [
        {
            'name': 'job-%d' % number,
            'command': 'x',
            'schedule': '0 H * * *',
            'start_anchor': '%02d:00' % hour,
            'stop_anchor': '%02d:01' % hour,
        }
        for number in range(9)
    ]
    out = apply(place, *jobs, code=2)
    assert re.search(r'line \d+: job-\d: schedule .*has no time from %02d:' % hour, out)
    assert table(place) == []


def test_a_child_of_a_job_that_is_no_number(sqlite_place):
    """SQLite takes any text for a number."""
    id = sqlite_place.add('true', frequency=60)
    dc.update_job(sqlite_place.store, id, {'parent_id': 'a b'})
    out = apply(sqlite_place, {'id': id, **SYNC}, code=2)
    assert 'is that of a child of job a b' in out


def test_a_job_of_each_host_is_left_to_its_template(place):
    apply(place, {**SYNC, 'each_host': 1})
    place.run('run')
    template, child = table(place)
    assert child.parent_id == template.id
    assert yaml.safe_load(place.run('export', '--yaml'))['jobs'] == [
        {**SYNC, 'each_host': 1}
    ]
    out = apply(place, {'id': child.id, **SYNC, 'name': 'x'}, code=2)
    assert 'is that of a child of job %d' % template.id in out
    apply(place, {**SYNC, 'each_host': 1, 'command': 'other'}, args=['--prune'])
    assert len(table(place)) == 2
    apply(place, args=['--prune', '--yes'])
    assert table(place) == []


def test_what_an_entry_runs_after(place):
    """A job of the file, or one that is there, by name or id; and not what is pruned."""
    id = place.add('x', name='x')
    apply(place, BACKUP, REPORT, {**REPORT, 'name': 'r2', 'after_job': 'x'})
    assert by_name(place, 'r2').after_job == id
    apply(place, BACKUP, REPORT, {**REPORT, 'name': 'r2', 'after_job': id})
    assert '0 changed' in apply(
        place, BACKUP, REPORT, {**REPORT, 'name': 'r2', 'after_job': id}
    )
    out = apply(
        place,
        {**REPORT, 'command': 'other'},
        {**REPORT, 'name': 'r2', 'after_job': id},
        args=['--prune'],
        code=2,
    )
    assert 'report: after_job %d: there' % by_name(place, 'backup').id in out
    place.run('edit', 'x', '--after', 'report')
    out = apply(place, BACKUP, {**REPORT, 'after_job': 'x'}, code=2)
    assert 'report: after_job %d: a circle of jobs' % id in out


# Hosts, and others.


def test_what_version_1_does_not_know_is_refused_while_it_runs(place):
    apply(place, BACKUP)
    place.add('x', frequency=5, max_run_time=2)
    dc.update_host(place.store, 'old-1', 0, place.store.now())
    place.store.execute("UPDATE host SET version = '1.0'")
    apply(place, BACKUP)  # nothing is written
    apply(place, {**BACKUP, 'command': 'x'})  # it knows that
    old = {'id': table(place)[1].id, 'command': 'x', 'frequency': 5}
    apply(place, old, file='2.yml')
    for args, code in ((['--dry-run'], 2), ([], 2), (['--force'], 0)):
        out = apply(place, {**BACKUP, 'retries': 1}, args=args, code=code)
        said = 'retries host here runs version 1.0, which does not know this' in out
        assert said == bool(code)
    assert by_name(place, 'backup').retries == 1


def test_a_run_keeps_its_command(place):
    job = {**SYNC, 'command': 'echo old; sleep 1; echo old'}
    apply(place, job)
    place.worker()
    wait_until(lambda: by_name(place, 'sync').run_token is not None, what='a run')
    out = apply(place, {**job, 'command': 'echo new', 'frequency': 20})
    assert '1 changed' in out
    row = by_name(place, 'sync')
    assert row.run_token is not None
    [run] = place.wait_runs(1)
    assert (run.output, run.status) == ('old\nold\n', 'Success')
    row = wait_until(
        lambda: [job for job in table(place) if job.next_run_utc], what='a plan'
    )[0]
    assert (row.command, row.run_token) == ('echo new', None)
    assert dc.moment(row.next_run_utc) - dc.moment(row.last_start) > 15 * dc.MINUTE


def test_a_run_of_a_removed_job_goes_on(place):
    apply(place, {**SYNC, 'command': 'sleep 1; echo end'}, BACKUP)
    place.worker()
    wait_until(lambda: by_name(place, 'sync').run_token is not None, what='a run')
    apply(place, BACKUP, args=['--prune'])
    [run] = place.wait_runs(1)
    assert run.output == 'end\n'


def test_two_applies_at_the_same_time(place):
    """Each of them is done whole, one after the other; and nobody has an error."""
    apply(place, *[{**SYNC, 'name': 'job-%d' % number} for number in range(40)])
    processes = []
    for which in range(4):
        jobs = [
            {**SYNC, 'name': 'job-%d' % number, 'command': 'x %d' % which}
            for number in range(20, 60)
        ]
        path = write(place, *jobs, file='%d.yml' % which, owner='jobs.yml')
        args = ['--config', place.file, 'apply', '--prune', path]
        processes.append(fork(lambda args=args: execute(args)[0]))
    assert [exit_status(process) for process in processes] == [0] * 4
    assert len(names(place)) == 40 == len(set(names(place)))
    assert len({job.command for job in table(place)}) == 1


def test_what_changes_between_look_and_change_is_looked_at_again(place, monkeypatch):
    apply(place, BACKUP, SYNC)
    file = dc.JobFile(write(place, {**BACKUP, 'command': 'new'}, REPORT, SYNC))
    args = SimpleNamespace(dry_run=False, prune=False, yes=False, force=False)
    write_todo = dc.write_todo
    edits = [
        "UPDATE job SET retries = 7 WHERE name = 'backup'",
        "UPDATE job SET name = 'report' WHERE name = 'sync'",
        "UPDATE job SET name = 'sync' WHERE name = 'report'",
        "DELETE FROM job WHERE name = 'backup'",
    ]

    def edit_first(store, *todo):
        if edits:
            place.new_store('other').execute(edits.pop(0))
        write_todo(store, *todo)

    monkeypatch.setattr(dc, 'write_todo', edit_first)
    todo = dc.carry_out(place.new_store(), file, args)
    assert [entry.label for entry in todo.added] == ['backup', 'report']
    jobs = {job.name: job.command for job in table(place)}
    assert jobs == {'backup': 'new', 'report': 'report', 'sync': 'sync-all'}


def test_others_who_change_a_row_all_the_time_are_an_error(place, monkeypatch):
    apply(place, BACKUP)
    write_todo = dc.write_todo

    def edit_first(store, *todo):
        other = place.new_store('other')
        other.execute('UPDATE job SET retries = retries + 1')
        write_todo(store, *todo)

    monkeypatch.setattr(dc, 'write_todo', edit_first)
    out = apply(place, {**BACKUP, 'command': 'new'}, code=1)
    assert 'others change these jobs all the time; try again' in out
    assert by_name(place, 'backup').command == 'backup --all'


@pytest.mark.slow
def test_5000_jobs_in_10_seconds(place):
    def jobs(command):
        return [
            {**BACKUP, 'name': 'job-%d' % number, 'command': command, 'retries': 2}
            for number in range(5000)
        ]

    for command, said in (('a', '5000 added'), ('b', '5000 changed')):
        path = write(place, *jobs(command))
        begun, used = time.monotonic(), time.process_time()
        assert said in place.run('apply', path)
        assert time.process_time() - used < 5
        if os.getloadavg()[0] < os.cpu_count():  # nobody else takes the processors
            assert time.monotonic() - begun < 10
    statements = []
    store = place.new_store()
    execute = store.execute
    store.execute = lambda text, **values: (
        statements.append(text) or execute(text, **values)
    )
    args = SimpleNamespace(dry_run=False, prune=True, yes=False, force=False)
    todo = dc.carry_out(store, dc.JobFile(path), args)
    assert len(todo.unchanged) == 5000 and len(statements) < 20


# Export.


def exported(place, store=None):
    """What apply makes of what export writes: the Todo, for the same table."""
    path = os.path.join(place.folder, 'exported.yml')
    jobs = (store or place.store).query(
        'SELECT * FROM job WHERE parent_id IS NULL ORDER BY id'
    )
    with open(path, 'w', encoding='utf-8') as stream:
        stream.write(dc.yaml_of(jobs))
    file = dc.JobFile(path)
    file.owner = None  # as of standard input
    args = SimpleNamespace(dry_run=True, prune=False, yes=False, force=False)
    return dc.difference(store or place.store, file, args)


def test_export_writes_what_differs_from_the_default(place):
    apply(
        place,
        BACKUP,
        {**REPORT, 'command': 'set -e\nreport 22:30\n', 'max_run_time': 9},
        {**SYNC, 'start_anchor': '02:30', 'stop_anchor': '22:30', 'active': 0},
    )
    id = place.add('no name', frequency=5, max_run_time=2)
    assert (
        place.run('export', '--yaml')
        == """\
jobs:
- name: backup
  command: backup --all
  schedule: 0 4 * * *
- name: report
  command: |
    set -e
    report 22:30
  max_run_time: 9
  after_job: backup
- name: sync
  command: sync-all
  active: 0
  start_anchor: 02:30
  stop_anchor: '22:30'
  frequency: 15
- id: %d
  command: no name
  description: Yet another cron
  frequency: 5
"""
        % id
    )


def test_what_export_writes_makes_the_same_jobs_elsewhere(place):
    apply(place, REPORT, BACKUP, {**SYNC, 'run_on': 'db', 'alert_after': 0})
    text = place.run('export', '--yaml')
    before = [dc.compared(job) for job in table(place)]
    place.store.execute('DELETE FROM job')
    path = os.path.join(place.folder, 'new.yml')
    with open(path, 'w') as stream:
        stream.write(text)
    place.run('apply', path)
    after = [dc.compared(job) for job in table(place)]
    ids = [job.id for job in table(place)]
    before[0]['after_job'] = str(ids[names(place).index('backup')])
    assert sorted(after, key=str) == sorted(before, key=str)


def test_export_into_apply_by_a_pipe(place):
    apply(place, BACKUP, REPORT, SYNC)
    place.add('no name')
    text = place.run('export', '--yaml').encode()
    args = ['--config', place.file, 'apply', '-', '--dry-run']
    said = '0 to add, 0 to change, 0 to remove, 4 unchanged\n'
    assert execute(args, input=text) == (0, said, '')
    status, _, err = execute([*args, '--prune'], input=text)
    assert status == 2 and 'owner: is missing, which --prune needs' in err


ODD = [  # columns of rows that nobody could add by a command
    {'command': '', 'description': ''},
    {'command': ' a\n b \n\n', 'description': 'no'},
    {'command': '\n', 'description': '~'},
    {'command': 'a\r\nb\tc\x85\u2028\ufeff\U0001f600', 'name': 'x'},
    {'schedule': '', 'frequency': 7},
    {'schedule': '61 * * * *', 'max_run_time': 9999},
    {'schedule': ' @daily  ', 'time_zone': 'Nowhere/At_all'},
    {'schedule': '@at 2001-01-01 00:00', 'after_job': 1},
    {'after_job': 77, 'name': '12'},
    {'name': 'null', 'run_on': ''},
    {'start_anchor': '00:00:01', 'stop_anchor': '00:00:01', 'retries': 1000},
    {'start_within': 0, 'retry_delay': 0, 'alert_after': 0, 'alert_to': 'nobody'},
    {'each_host': 1, 'active': 0, 'name': 'on'},
    {'parent_id': 1, 'run_on': 'here'},
]


def test_export_and_apply_of_odd_rows_find_nothing_to_do(place):
    for values in ODD:
        place.store.insert('job', {'command': 'x', **values})
    todo = exported(place)
    assert (todo.added, todo.changed) == ([], [])
    assert len(todo.unchanged) == len(ODD) - 1


TEXTS = st.text(
    st.characters(blacklist_categories=['Cs']) | st.sampled_from('\n\t :#\'"-~|>%&*0a'),
    max_size=20,
)
VALUES = st.one_of(
    TEXTS,
    st.integers(-(2**40), 2**40),
    st.sampled_from(['9:00', '09:00:00', '0 4 * * *', 'null', 'no', '1e3', '0x1', '7']),
)
ROWS = st.fixed_dictionaries(
    {'command': TEXTS},
    optional={
        **{name: VALUES for name in COLUMNS if name not in ('command', 'name')},
        'after_job': st.integers(-1, 7),  # a text would be a name
        'applied_by': VALUES,
    },
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(ROWS, st.none() | VALUES), max_size=6))
def test_export_and_apply_of_any_rows_find_nothing_to_do(sqlite_place, rows):
    store = sqlite_place.store
    store.execute('DELETE FROM job')
    named = {}
    for values, name in rows:
        if str(name) not in named:  # a column of text makes text of numbers
            named[str(name)] = None
            values = dict(values, name=name)
        store.insert('job', values)
    todo = exported(sqlite_place)
    assert [entry.values for entry in todo.added + todo.changed] == []
    assert len(todo.unchanged) == len(rows)


def test_the_recipe_of_the_readme(place):
    """Its file makes the jobs that it shows, and CI applies it as it says."""
    text = dc.read_text(os.path.join(ROOT, 'README.md'))
    block = re.search(r'    # jobs\.yml\n((?:    .*\n)+)', text)[1]
    jobs, ci = re.sub('(?m)^    ', '', block).split('# .gitlab-ci.yml\n')
    path = os.path.join(place.folder, 'jobs.yml')
    with open(path, 'w') as stream:
        stream.write(jobs)
    job = yaml.safe_load(ci)['apply']
    *_, last = job['script'].split('distributed_cron.py ')
    codes = {'--dry-run': job['allow_failure']['exit_codes'], '--prune': 0}
    for rule in job['rules']:
        how = rule['variables']['HOW']
        args = last.replace('$HOW', how).replace('jobs.yml', path).split()
        out = place.run(*args, code=codes[how])
        assert '+ report: /usr/local/bin/report\n' in out
    assert by_name(place, 'report').after_job == by_name(place, 'backup').id
    assert by_name(place, 'backup').schedule == '30 2 * * *'
