"""What a run has written so far, on whichever host it is, for those who watch it."""

import glob
import os
import signal
import subprocess
import sys

import pytest
from conftest import SCRIPT, Place, dc, numbers, wait_until
from hosts import start_worker
from test_refusals import global_value, has_ended

LATE = "'2000-01-01 00:00:00'"


def watch_files(place, name='one'):
    return glob.glob(os.path.join(place.folder, 'log', 'state-' + name, '*.watch'))


def command(place, *words):
    """A command that writes a word, waits until it is told to, and goes on."""
    steps = [
        'echo %s; until [ -e %s/after-%s ]; do sleep 0.1; done'
        % (word, place.folder, word)
        for word in words
    ]
    return '; '.join(steps)


def go_on(place, word):
    open(os.path.join(place.folder, 'after-' + word), 'w').close()


def test_log_shows_what_a_run_on_another_host_has_written_so_far(place):
    place.add(command(place, 'first', 'second'), max_run_time=30)
    worker = start_worker(place, 'one')
    wait_until(lambda: place.job(1).run_token)
    assert not watch_files(place) and not place.sql('SELECT * FROM live')
    assert place.run('log', '1').startswith('first\n')
    go_on(place, 'first')
    wait_until(lambda: place.run('log', '1').startswith('first\nsecond\n'))
    assert len(watch_files(place)) == 1
    place.store.execute('UPDATE live SET watched_until_utc = ' + LATE)
    wait_until(lambda: not watch_files(place))  # nobody watches any more
    go_on(place, 'second')
    wait_until(place.runs)
    assert place.run('log', '1', '-n', '1').startswith('second\n')
    worker.terminate()
    assert worker.wait(20) == 0


def test_log_follow_prints_until_the_run_ends(place):
    place.add(command(place, 'first', 'second'), max_run_time=30)
    worker = start_worker(place, 'one')
    wait_until(lambda: place.job(1).run_token)
    follow = subprocess.Popen(
        [sys.executable, SCRIPT, '--config', place.file, 'log', '1', '--follow'],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert follow.stdout.readline() == b'first\n'
        go_on(place, 'first')
        assert follow.stdout.readline() == b'second\n'
        go_on(place, 'second')
        assert follow.stdout.read() == b'' and follow.wait(20) == 0
    finally:
        follow.kill()
        follow.wait()
        follow.stdout.close()
    worker.terminate()
    assert worker.wait(20) == 0


def test_a_run_is_watched_through_a_change_of_workers(sqlite_place):
    """The runner alone writes; whichever worker the host has shows it."""
    place = sqlite_place
    place.add(command(place, 'first', 'second'), max_run_time=30)
    first = start_worker(place, 'one')
    wait_until(lambda: place.job(1).run_token)
    assert place.run('log', '1').startswith('first\n')
    first.send_signal(signal.SIGKILL)
    first.wait()
    go_on(place, 'first')
    second = start_worker(place, 'one')
    wait_until(lambda: place.run('log', '1').startswith('first\nsecond\n'))
    go_on(place, 'second')
    second.terminate()
    assert second.wait(20) == 0
    assert not watch_files(place)


def test_much_output_and_odd_bytes(place):
    """At most 64 KiB, of which each database takes every byte."""
    text = "yes 0123456789 | head -c 200000; printf '\\377\\000'; "
    place.add(text + command(place, 'end'), max_run_time=30)
    worker = start_worker(place, 'one')
    wait_until(lambda: place.job(1).run_token)
    so_far = []

    def is_there():
        so_far.append(dc.output_so_far(place.store, 1, 1))
        return so_far[-1].endswith('\ufffd\ufffdend\n')

    wait_until(is_there)
    assert len(so_far[-1]) == dc.MOST_SHOWN
    go_on(place, 'end')
    worker.terminate()
    assert worker.wait(20) == 0
    assert len(place.runs()[0].output) == 16384 and watch_files(place) == []


@pytest.mark.parametrize('place', ['postgresql'], indirect=True)
def test_a_page_that_may_write_nothing_shows_a_run_in_progress(place):
    """Without its output. Its session ends with the error."""
    place.add(command(place, 'word'), max_run_time=30)
    start_worker(place, 'one')
    wait_until(lambda: place.job(1).run_token)
    database = place.values['db']['database']
    place.store.execute(
        'ALTER DATABASE %s SET default_transaction_read_only = on' % database
    )
    assert 'Run 1 of job 1' in place.page().get('run/1/1')
    go_on(place, 'word')


def test_eight_runs_of_a_host_are_watched_at_most(sqlite_place):
    place = sqlite_place
    place.write(max_tasks=16)
    for _ in range(10):
        place.add(command(place, 'word'), max_run_time=30)
    worker = start_worker(place, 'one')
    wait_until(lambda: all(place.job(job).run_token for job in range(1, 11)))

    def are_shown():
        for job in range(1, 11):
            dc.output_so_far(place.store, job, 1)
        return len(watch_files(place)) == dc.MOST_WATCHED

    wait_until(are_shown)
    go_on(place, 'word')
    worker.terminate()
    assert worker.wait(20) == 0


def test_a_run_is_watched_for_seconds_from_the_last_question(place):
    place.set_clock('2026-05-20 12:00:00')

    def until():
        return str(place.sql('SELECT watched_until_utc FROM live')[0][0])

    assert dc.output_so_far(place.store, 1, 1) == ''
    assert until() == '2026-05-20 12:00:15'
    place.set_clock('2026-05-20 12:00:07')
    dc.output_so_far(place.store, 1, 1)
    assert until() == '2026-05-20 12:00:15'  # many watchers are not many writes
    place.set_clock('2026-05-20 12:00:09')
    dc.output_so_far(place.store, 1, 1)
    assert until() == '2026-05-20 12:00:24'
    place.set_clock('2026-05-20 12:02:00')
    dc.output_so_far(place.store, 2, 1)
    assert [row.job_id for row in place.sql('SELECT * FROM live')] == [2]


def keeps_no_job_waiting(place):
    """Whether others start while somebody watches a run whose output can't be shown."""
    place.write(max_tasks=4)
    start_worker(place, 'one')
    wait_until(lambda: place.job(1).run_token)
    wait_until(lambda: dc.output_so_far(place.store, 1, 1) or watch_files(place))
    wait_until(lambda: os.path.getsize(watch_files(place)[0]))
    late = place.add('true', max_run_time=30)
    wait_until(lambda: has_ended(place, late), 10)
    return True


def test_output_that_the_database_has_no_characters_for(postgresql, tmp_path):
    """PostgreSQL can have an encoding that is not UTF-8."""
    name = 'd%d' % next(numbers)
    encoding = "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    postgresql.settings('CREATE DATABASE %s %s' % (name, encoding))
    place = Place(tmp_path, 'postgresql', postgresql, name).init()
    try:
        euro = "printf '\\342\\202\\254'; "
        place.add(euro + command(place, 'end'), max_run_time=30)
        assert keeps_no_job_waiting(place)
        go_on(place, 'end')
    finally:
        place.close()


def test_output_that_is_too_long_for_a_statement(mysql_place):
    """max_allowed_packet may be 64 KiB."""
    place = mysql_place
    with global_value(place, 'max_allowed_packet', 65536):
        text = "head -c 99999 /dev/zero | tr '\\0' '\\377'; "
        place.add(text + command(place, 'end'), max_run_time=30)
        assert keeps_no_job_waiting(place)
        wait_until(lambda: dc.output_so_far(place.store, 1, 1).endswith('end\n'))
        go_on(place, 'end')
        place.wait_runs(2)


def test_nothing_stays_of_what_a_killed_worker_watched(sqlite_place):
    place = sqlite_place
    place.add(command(place, 'word'), max_run_time=30)
    first = start_worker(place, 'one')
    wait_until(lambda: place.job(1).run_token)
    assert place.run('log', '1').startswith('word\n') and watch_files(place)
    first.kill()
    first.wait()
    place.store.execute('UPDATE live SET watched_until_utc = ' + LATE)
    second = start_worker(place, 'one')
    wait_until(lambda: not watch_files(place))
    go_on(place, 'word')
    second.terminate()
    assert second.wait(20) == 0


def test_a_character_of_which_half_is_written(sqlite_place):
    """It appears when it is whole; what is before it is not printed twice."""
    place = sqlite_place
    half = "printf 'one\\n\\303'; until [ -e %s/after-half ]; do sleep 0.1; done; "
    text = half % place.folder + "printf '\\244\\n'; " + command(place, 'end')
    place.add(text, max_run_time=30)
    start_worker(place, 'one')
    wait_until(lambda: place.job(1).run_token)
    wait_until(lambda: dc.output_so_far(place.store, 1, 1) == 'one\n')
    go_on(place, 'half')
    wait_until(lambda: dc.output_so_far(place.store, 1, 1) == 'one\nä\nend\n')
    go_on(place, 'end')


@pytest.mark.parametrize(
    'seen, output, new',
    [
        ('', 'a\n', 'a\n'),
        ('a\n', 'a\n', ''),
        ('a\n', 'a\nb\n', 'b\n'),
        ('a\nb\n', 'b\nc\n', 'b\nc\n'),  # nothing in common for certain
        ('x' * 500 + 'y' * 900, 'y' * 900 + 'z', 'y' * 900 + 'z'),
        ('x' * 500 + '0' * 400 + 'y' * 900, 'x' + '0' * 400 + 'y' * 900 + 'z', 'z'),
    ],
)
def test_what_is_new_in_an_output(seen, output, new):
    assert dc.unseen_part(seen, output) == new
