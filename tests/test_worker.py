"""Real workers, runners and commands, on each database."""

import collections
import errno
import os
import random
import re
import signal
import stat
import subprocess
import sys
import time
from datetime import datetime, timedelta

import pytest
from conftest import ROOT, dc, exit_status, fork, processes_of
from faults.proxy import Proxy
from servers import wait_until


def status_of(place, job):
    return place.job(job).last_status


def run_to_end(place, name='one'):
    """What the line in a crontab does: one worker, until there is nothing to do."""
    return place.run('run', name=name)


def children(process):
    with open('/proc/%d/task/%d/children' % (process, process)) as file:
        return list(map(int, file.read().split()))


def state_is_clean(place, name='one'):
    folder = os.path.join(place.folder, 'log', 'state-' + name)
    return sorted(os.listdir(folder)) == ['clock', 'machine', 'wake', 'worker.lock']


# What commands do, and how it is reported.


def test_the_crontab_line_runs_what_is_due_and_leaves(place):
    job = place.add('echo hello; echo world >&2', description='greets')
    assert run_to_end(place) == ''
    (run,) = place.runs()
    assert (run.status, run.exit_code, run.output) == ('Success', 0, 'hello\nworld\n')
    assert run.worker.startswith('one-') and place.job(job).last_status == 'Success'
    lines = place.read('log/%d.log' % job).splitlines()
    assert [line.split('] ')[1] for line in lines] == ['hello', 'world']
    assert all(line.startswith(run.worker + ': [') for line in lines)
    assert state_is_clean(place)
    run_to_end(place)
    assert len(place.runs()) == 1
    (host,) = place.sql('SELECT * FROM host')
    assert host.name == 'one' and host.max_tasks == 8 and abs(host.skew_ms) < 5000


@pytest.mark.parametrize('fails', [1, 2])
def test_a_pass_tries_again_what_lost_against_another_transaction(sqlite_place, fails):
    """Whichever look it is: the first one, or that after a start."""
    place = sqlite_place
    place.add('true')
    place.add('true', after_job=1)

    def work():
        look, looks = dc.Store.look, []

        def lose_once(self):
            looks.append(self)
            if len(looks) == fails:
                raise dc.Again('canceling statement due to statement timeout')
            return look(self)

        dc.Store.look = lose_once
        return dc.work(place.config())

    assert exit_status(fork(work)) == 0
    assert [run.status for run in place.runs()] == ['Success', 'Success']


@pytest.mark.parametrize(
    'command, status, code',
    [
        ('exit 3', 'ERROR: exit 3', 3),
        ('kill -9 $$', 'ERROR: signal 9 (SIGKILL)', -9),
        ('no-such-command', 'ERROR: exit 127 (command not found)', 127),
        ('/etc/passwd', 'ERROR: exit 126 (not executable)', 126),
        ('exec >&- 2>&-; exit 0', 'Success', 0),
        ('true', 'Success', 0),
        ('', 'Success', 0),
        ('sh -c "exit 7" | cat', 'Success', 0),
    ],
)
def test_status(place, command, status, code):
    place.add(command)
    run_to_end(place)
    (run,) = place.runs()
    assert (run.status, run.exit_code) == (status, code)


def test_what_a_command_sees(place):
    job = place.add(
        'env; cat; echo pgid $(ps -o pgid= $$) pid $$; ls -l /proc/self/fd; '
        'sh -c "kill -PIPE \\$\\$"; echo $?; pwd'
    )
    run_to_end(place)
    (run,) = place.runs()
    with open(os.path.join(place.folder, 'log', '%d.log' % job)) as file:
        out = [line.split('] ', 1)[1].rstrip('\n') for line in file]
    env = dict(line.split('=', 1) for line in out if '=' in line)
    assert env['DISTRIBUTED_CRON_JOB_ID'] == str(job)
    assert env['DISTRIBUTED_CRON_RUN_NO'] == '1'
    assert env['DISTRIBUTED_CRON_WORKER'] == run.worker
    assert env['DISTRIBUTED_CRON_DUE'] == run.due_utc.replace(' ', 'T') + 'Z'
    assert 'secret' not in str(env)
    words = next(line for line in out if line.startswith('pgid')).split()
    assert words[1] == words[3]  # a group of its own
    assert len([line for line in out if '->' in line]) == 4  # 0, 1, 2 and ls's own
    assert str(128 + signal.SIGPIPE) in out


def test_output_of_every_kind(place):
    jobs = [
        place.add(command, max_run_time=5)
        for command in (
            'printf "no newline"',
            "printf '\\377\\376\\000ok\\n'",
            'yes 0123456789abcdef | head -c 3000000',
            'printf "a\\n\\nb\\n"',
        )
    ]
    run_to_end(place)
    outputs = {run.job_id: run.output for run in place.runs()}
    assert {run.status for run in place.runs()} == {'Success'}
    assert outputs[jobs[0]] == 'no newline'
    assert outputs[jobs[1]] == '\ufffd\ufffd\ufffdok\n'
    assert len(outputs[jobs[2]]) == 16384 and outputs[jobs[2]].endswith('0123456789')
    assert place.read('log/%d.log' % jobs[0]).endswith('] no newline\n')
    lines = place.read('log/%d.log' % jobs[2]).splitlines()
    assert len(lines) == -(-3000000 // 17)
    assert {line.split('] ')[1] for line in lines[:-1]} == {'0123456789abcdef'}
    assert [
        line.split('] ')[1] for line in place.read('log/%d.log' % jobs[3]).splitlines()
    ] == ['a', '', 'b']


def test_a_hundred_megabytes_are_rotated_and_reported(place):
    place.write(log={'location': 'log', 'max_bytes': 2000000})
    job = place.add('yes 0123456789abcdef | head -c 100000000', max_run_time=5)
    run_to_end(place)
    (run,) = place.runs()
    assert run.status == 'Success'
    for name in ('%d.log', '%d.log.1'):
        path = os.path.join(place.folder, 'log', name % job)
        assert os.path.getsize(path) < 2500000


def test_logs_of_short_runs_are_rotated(place):
    place.write(log={'location': 'log', 'max_bytes': 1000})
    job = place.add('echo new')
    os.makedirs(os.path.join(place.folder, 'log'), exist_ok=True)
    with open(os.path.join(place.folder, 'log', '%d.log' % job), 'w') as file:
        file.write('old\n' * 250)
    run_to_end(place)
    assert place.read('log/%d.log' % job).endswith('] new\n')
    assert place.read('log/%d.log.1' % job) == 'old\n' * 250


def test_long_command_lines(place):
    place.add('echo %s' % ('x' * 10000))
    run_to_end(place)
    (run,) = place.runs()
    assert run.status == 'Success' and len(run.output) == 10001
    place.run('add', 'echo ' + 'x' * 12000, code=2)
    assert len(place.sql('SELECT id FROM job')) == 1


def test_a_background_process_does_not_keep_the_run(place):
    place.add('(sleep 1; echo late; sleep %(m)s) & echo early' % {'m': place.mark})
    begin = time.monotonic()
    run_to_end(place)
    assert time.monotonic() - begin < 6
    (run,) = place.runs()
    assert run.status == 'Success' and run.output == 'early\n'


def test_a_command_that_cant_be_started_is_reported(place):
    if place.engine == 'postgresql':  # holds no such row
        with pytest.raises(dc.BadData):
            place.add('true \0')
        return
    job = place.add('true \0')
    run_to_end(place)
    assert status_of(place, job) == 'ERROR: could not start: embedded null byte'


def test_timeouts_end_the_tree(place):
    mark = place.mark
    place.write(kill_grace=0.5)
    job = place.add(
        'sleep %s & (setsid sleep %s) & trap "" TERM; sleep %s; sleep %s'
        % ((mark,) * 4)
    )
    config = place.config('one')
    config.minute = 1.5
    worker = fork(dc.work, config)
    wait_until(lambda: len(processes_of('sleep\x00' + mark)) == 3)
    assert exit_status(worker) == 0
    assert not processes_of('sleep\x00' + mark)
    (run,) = place.runs()
    assert run.status == 'ERROR: timed out after 1 min'
    assert run.duration_ms < 6000 and place.job(job).run_token is None


def test_stop_ends_a_run_on_whichever_host(place):
    job = place.add('sleep 300')
    place.worker('one')
    wait_until(lambda: place.job(job).run_token)
    assert 'will be ended' in place.run('stop', str(job), name='elsewhere')
    place.wait_runs(1)
    assert status_of(place, job) == 'ERROR: stopped'
    assert 'is not running' in place.run('stop', str(job))


def test_run_now_and_edits_while_a_worker_runs(place):
    job = place.add('echo x', schedule='0 0 1 1 *')
    place.worker('one')
    wait_until(lambda: place.job(job).next_run_utc)
    place.run('run-now', str(job))
    place.wait_runs(1)
    place.run('edit', str(job), '--command', 'echo y', '--every', '1000')
    place.run('run-now', str(job))
    assert place.wait_runs(2)[-1].output == 'y\n'


# The worker.


def test_a_second_worker_on_a_host_leaves_at_once(place):
    first = place.worker('one')
    wait_until(lambda: 'worker starts' in place.worker_log())
    assert place.run('run', name='one') == ''
    assert place.worker_log().rstrip().endswith('Already running.')
    assert place.run('run', '--forever', name='one') == ''
    assert first.poll() is None
    first.terminate()
    assert first.wait(10) == 0


def test_slots_are_never_exceeded(place):
    place.write(max_tasks=2)
    for _ in range(6):
        place.add(
            'echo $(date +%s.%N) >> times; sleep 0.3; '
            'echo $(date +%s.%N) >> times'.replace('times', place.folder + '/t$$')
        )
    run_to_end(place)
    events = []
    for name in os.listdir(place.folder):
        if name.startswith('t'):
            begin, finish = map(float, place.read(name).split())
            events += [(begin, 1), (finish, -1)]
    running = most = 0
    for _, step in sorted(events):
        running += step
        most = max(most, running)
    assert len(events) == 12 and most == 2


def test_drain_waits_for_what_runs_and_starts_nothing(place):
    job = place.add('sleep 1; echo done')
    worker = place.worker('one')
    wait_until(lambda: place.job(job).run_token)
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: 'SIGTERM' in place.worker_log())
    late = place.add('echo late')
    assert worker.wait(10) == 0
    assert status_of(place, job) == 'Success'
    assert status_of(place, late) == 'Never ran.'


def test_a_second_signal_leaves_at_once_and_the_next_worker_reports(place):
    job = place.add('sleep 2; echo done')
    worker = place.worker('one')
    wait_until(lambda: place.job(job).run_token)
    for _ in range(2):
        worker.send_signal(signal.SIGINT)
        time.sleep(0.3)
    assert worker.wait(1) == 0 and b'1 runs are still running' in worker.stderr.read()
    assert place.job(job).run_token
    run_to_end(place)
    assert status_of(place, job) == 'Success' and state_is_clean(place)


def test_sighup_reads_the_configuration_again(place):
    worker = place.worker('one')
    wait_until(lambda: place.sql('SELECT * FROM host'))
    place.write(max_tasks=3)
    worker.send_signal(signal.SIGHUP)
    wait_until(lambda: place.sql('SELECT * FROM host WHERE max_tasks = 3'))
    place.write(max_tasks='cpu_third')
    worker.send_signal(signal.SIGHUP)
    wait_until(lambda: 'the old configuration stays' in place.worker_log())
    assert 'max_tasks' in place.worker_log()
    job = place.add('echo x')
    wait_until(lambda: status_of(place, job) == 'Success')


def test_a_state_folder_of_another_machine_is_left_alone(place):
    place.add('true')
    folder = os.path.join(place.folder, 'log', 'state-one')
    os.makedirs(folder)
    with open(os.path.join(folder, 'machine'), 'w') as file:
        file.write('another')
    err = place.run('run', name='one', code=2)
    assert 'another machine' in err and os.listdir(folder) == ['machine']


@pytest.mark.skipif(not os.path.exists('/etc/machine-id'), reason='a machine without')
def test_a_machine_that_gets_an_id_keeps_its_state_folder(sqlite_place):
    """Without one, its name was written there; systemd or D-Bus bring one."""
    place = sqlite_place
    folder = os.path.join(place.folder, 'log', 'state-one')
    os.makedirs(folder, 0o700)
    with open(os.path.join(folder, 'machine'), 'w') as file:
        file.write(os.uname().nodename)
    job = place.add('true')
    place.run('run', name='one')
    assert status_of(place, job) == 'Success'


def test_the_state_folder_is_for_its_user_alone(place):
    run_to_end(place)
    mode = os.stat(os.path.join(place.folder, 'log', 'state-one')).st_mode
    assert stat.S_IMODE(mode) == 0o700


# Whoever dies.


def test_kill_of_the_worker_the_run_goes_on_and_the_next_reports_it(place):
    job = place.add('echo begun; sleep 1.5; echo done')
    worker = place.worker('one')
    wait_until(lambda: os.path.exists(place.folder + '/log/%d.log' % job))
    worker.kill()
    worker.wait()
    run_to_end(place)
    (run,) = place.runs()
    assert (run.status, run.output, run.run_no) == ('Success', 'begun\ndone\n', 1)
    assert run.worker == 'one-%d' % worker.pid and state_is_clean(place)


def test_kill_of_the_runner_ends_the_command_and_reports_it_lost(place):
    job = place.add(
        'trap "" TERM; echo begun; sleep %(m)s; sleep %(m)s' % {'m': place.mark}
    )
    worker = place.worker('one')
    wait_until(lambda: os.path.exists(place.folder + '/log/%d.log' % job))
    (runner,) = children(worker.pid)
    os.kill(runner, signal.SIGKILL)
    (run,) = place.wait_runs(1)
    assert run.status.startswith('ERROR: lost') and run.run_no == 1
    assert not processes_of('sleep\x00' + place.mark)
    assert worker.poll() is None


LITTERED = '''if True:
    import gc, os, sys
    # The numbers that a runner takes first; before its fork, garbage gets to own them.
    numbers = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
    class Ring:
        pass
    def litter():
        gc.disable()
        for number in numbers:
            ring = Ring()
            ring.self, ring.file = ring, open(number)
    at = {'os.fork': litter, 'os.posix_spawn': gc.collect}
    sys.addaudithook(lambda event, _: event in at and at[event]())
    import distributed_cron
    sys.exit(distributed_cron.main(sys.argv[1:]))'''


def test_a_runner_lets_its_workers_garbage_be(sqlite_place):
    """Collected, it would close what the runner has opened."""
    sqlite_place.add('echo hello')
    subprocess.run(
        [sys.executable, '-c', LITTERED, '--config', sqlite_place.file, 'run'],
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    (run,) = sqlite_place.runs()
    assert (run.status, run.output) == ('Success', 'hello\n')


def test_a_worker_says_goodbye_to_its_server(mysql_place):
    """MariaDB logs each connection that breaks off, as a warning."""
    place = mysql_place
    place.server.settings(
        "CREATE USER polite IDENTIFIED BY 'secret'", 'GRANT ALL ON *.* TO polite'
    )
    place.write(db={**place.values['db'], 'username': 'polite'})
    place.add('true')
    for _ in range(2):
        place.run('run')
    assert len(place.runs()) == 1
    sessions = "SELECT 1 FROM information_schema.processlist WHERE user = 'polite'"
    wait_until(lambda: not place.sql(sessions))
    with open(place.server.log) as log:
        assert "user: 'polite'" not in log.read()


def test_kill_of_both_the_hosts_next_worker_ends_the_command_first(place):
    job = place.add('echo begun; sleep %(m)s' % {'m': place.mark})
    worker = place.worker('one')
    wait_until(lambda: os.path.exists(place.folder + '/log/%d.log' % job))
    (runner,) = children(worker.pid)
    worker.kill()
    os.kill(runner, signal.SIGKILL)
    worker.wait()
    assert processes_of('sleep\x00' + place.mark)
    run_to_end(place)
    assert not processes_of('sleep\x00' + place.mark)
    assert [run.status for run in place.runs()] == [dc.LOST]


def test_the_hosts_next_worker_needs_no_database_to_end_the_command(place):
    place.add('sleep %(m)s' % {'m': place.mark})
    worker = place.worker('one')
    wait_until(lambda: processes_of('sleep\x00' + place.mark))
    (runner,) = children(worker.pid)
    worker.kill()
    os.kill(runner, signal.SIGKILL)
    worker.wait()
    good = dict(place.values['db'])
    place.write(
        db=dict(good, path='nowhere/d.db')
        if place.engine == 'sqlite'
        else dict(good, host='127.0.0.1:1')
    )
    second = place.worker('one')
    wait_until(lambda: not processes_of('sleep\x00' + place.mark))
    place.write(db=good)
    second.send_signal(signal.SIGHUP)
    assert place.wait_runs(1)[0].status == dc.LOST


def test_another_hosts_worker_ends_the_run_at_its_deadline(mysql_place):
    place = mysql_place
    job = place.add('sleep %(m)s' % {'m': place.mark})
    worker = place.worker('one')
    wait_until(lambda: processes_of('sleep\x00' + place.mark))
    (runner,) = children(worker.pid)
    worker.kill()
    os.kill(runner, signal.SIGKILL)
    run_to_end(place, 'two')
    assert place.job(job).run_token  # not before its deadline
    place.store.execute('UPDATE job SET run_deadline_utc = {utc}')
    run_to_end(place, 'two')
    assert status_of(place, job).startswith('ERROR: lost: no word of one-')
    run_to_end(place, 'one')  # and the host's own finds it later, and changes nothing
    assert [run.status for run in place.runs()] == [status_of(place, job)]
    assert not processes_of('sleep\x00' + place.mark)


def work_with_a_late_start(place):
    """A worker whose clock jumps by an hour, once, when it has claimed."""
    clock, late = dc.boottime, []
    worker = dc.Worker(place.config('one'), False)
    claim = worker.store.claim

    def claim_and_freeze(*args):
        rows = claim(*args)
        late.append(3600)
        # So that it isn't due again.
        place.new_store().execute('UPDATE job SET active = 0')
        return rows

    worker.store.claim = claim_and_freeze
    dc.boottime = lambda: clock() + sum(late[:1])
    worker.state.lock()
    worker.listen()
    limit = time.monotonic() + 1
    while time.monotonic() < limit:
        worker.turn()


def test_frozen_between_claim_and_start_starts_nothing(place):
    """As after a SIGSTOP for longer than the deadline: the clock that counts goes on."""
    job = place.add('echo ran >> %s/ran' % place.folder)
    assert exit_status(fork(work_with_a_late_start, place)) == 0
    assert not os.path.exists(place.folder + '/ran')
    assert not place.runs() and place.job(job).run_no == 1
    assert place.job(job).run_token is None


def test_a_worker_stopped_for_longer_than_the_deadline_starts_nothing(mysql_place):
    place = mysql_place
    config = place.config('one')
    config.minute, config.kill_grace = 0.5, 0
    job = place.add('echo ran >> %s/ran' % place.folder)
    reader, writer = os.pipe()

    def work():
        dc.MARGIN = 1
        worker = dc.Worker(config, True)
        start = dc.start_runner

        def stop_before_start(*args):
            os.write(writer, b'claimed')
            os.kill(os.getpid(), signal.SIGSTOP)
            start(*args)

        dc.start_runner = stop_before_start
        worker.state.lock()
        return worker.loop()

    process = fork(work)
    os.close(writer)
    assert os.read(reader, 10) == b'claimed'
    held = place.job(job)
    left = dc.moment(held.run_deadline_utc) - place.store.now()
    assert held.run_token and left < timedelta(seconds=5)  # by its margin, not by ours
    wait_until(lambda: place.store.look().overdue, 10)
    place.store.execute('UPDATE job SET active = 0')  # so that it isn't due again
    os.kill(process, signal.SIGCONT)
    wait_until(lambda: place.job(job).run_token is None)
    os.kill(process, signal.SIGTERM)
    assert exit_status(process) == 0
    assert not os.path.exists(place.folder + '/ran')


def test_with_more_due_than_slots_a_run_starts_before_the_last_is_reported(place):
    config = place.config('one')
    config.max_tasks = 1
    for _ in range(3):
        place.add()

    def work():
        dc.LOOK_KEPT = 60
        return dc.Worker(config, False).loop()

    assert exit_status(fork(work)) == 0
    steps = re.findall(r'(start|end): job', place.worker_log())
    assert steps == ['start', 'start', 'end', 'start', 'end', 'end']
    assert {run.status for run in place.runs()} == {'Success'}


def work_where_runners_die(place):
    """A worker whose first runner dies after one line, and whose second can't be made."""

    def die(config, name, claim, commands):
        line = {'event': 'started', 'job': commands[0].job, 'run_no': 1, 'attempt': 0}
        dc.append(claim.file, line)

    def fail(*_):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def start(*args):
        return ways.pop(0)(*args)

    ways = [die, fail, dc.start_runner]
    dc.start_runner = start
    return dc.work(place.config('one'))


def test_runs_whose_runner_never_started_them_are_given_back_by_their_worker(place):
    """They don't wait for their deadline, hours later, to be recorded as lost."""
    place.write(max_tasks=2)
    jobs = [place.add('true', max_run_time=600, frequency=1440) for _ in range(2)]
    assert exit_status(fork(work_where_runners_die, place)) == 0
    runs = sorted(place.runs(), key=lambda run: run.status)
    assert [run.status for run in runs] == [dc.LOST, 'Success']
    assert {run.job_id for run in runs} == set(jobs)
    assert state_is_clean(place)


def test_late_landing_claims_are_given_back(place):
    """A claim whose answer never came, and that lands later: by a token with a folder."""
    job = place.add('echo x')
    worker = dc.Worker(place.config('one'), False)
    worker.state.lock()
    worker.store.connect()
    worker.store.plan(worker.store.now())
    token = 'f' * 32
    claim = dc.Claim(worker.state.folder, token)
    claim.create('', {})
    os.close(claim.file)
    worker.listen()
    worker.turn()
    wait_until(
        lambda: (worker.turn(), place.runs())[1]
    )  # it runs once, by another claim
    assert os.path.exists(claim.path)  # the open one is kept
    place.store.execute(
        'UPDATE job SET next_run_utc = {utc}, schedule = :schedule, '
        'run_token = :token, run_no = run_no + 1 WHERE id = :job',
        schedule='0 0 1 1 *',
        token=token,
        job=job,
    )
    place.store.execute('UPDATE job SET next_run_utc = {utc} WHERE id = :job', job=job)
    wait_until(lambda: (worker.turn(), len(place.runs()) == 2)[1])
    assert [run.status for run in place.runs()] == ['Success'] * 2


@pytest.mark.parametrize(
    'lines',
    [
        # Those of version 1.0, which had no events.
        [
            {'job': 1, 'run_no': 1, 'due': None, 'started': None, 'worker': 'one-1'},
            {'job': 1, 'kind': 'done', 'status': 'Success', 'exit_code': 0},
        ],
        # Those of a version to come.
        [
            {'event': 'frozen', 'job': 1, 'why': 'nobody knows'},
            {'event': 'started', 'job': 1, 'run_no': 1, 'worker': 'one-1', 'x': 1},
            {'event': 'thawed'},
            {'event': 'ended', 'job': 1, 'kind': 'done', 'status': 'Success', 'y': [2]},
        ],
        # Those of nobody.
        [
            [1, 2],
            'text',
            None,
            7,
            {},
            {'event': ['started'], 'job': 1},
            {'event': 'started', 'job': 'one'},
            {'event': 'started', 'job': 1, 'run_no': 1, 'worker': 'one-1'},
            {'event': 'ended', 'job': 1, 'kind': 'done', 'status': 'Success'},
        ],
    ],
)
def test_lines_of_a_claims_file_that_are_not_known_stop_no_worker(sqlite_place, lines):
    place = sqlite_place
    job = place.add('echo x', schedule='0 0 1 1 *')
    worker = dc.Worker(place.config('one'), False)
    worker.state.lock()
    worker.listen()
    worker.turn()
    claim = dc.Claim(worker.state.folder, 'f' * 32)
    claim.create('', {})
    dc.append(claim.file, *lines)
    os.close(claim.file)
    place.store.execute(
        'UPDATE job SET run_token = :token, run_no = 1 WHERE id = :job',
        token=claim.token,
        job=job,
    )
    worker.turn()
    (run,) = place.runs()
    assert (run.status, run.run_no, run.worker) == ('Success', 1, 'one-1')
    assert place.job(job).run_token is None
    wait_until(lambda: (worker.turn(), not worker.claims)[1])


@pytest.mark.parametrize('text', ['a[b]', b'\x01'])
@pytest.mark.parametrize('column', ['attempt', 'retries', 'retry_delay'])
def test_text_for_a_number_of_tries_ends_no_worker(sqlite_place, column, text):
    """SQLite takes it. The failed run is recorded, and so are those of other jobs."""
    place = sqlite_place
    odd = place.add('false', frequency=60, retries=1)
    good = place.add('true', frequency=60)
    dc.update_job(place.store, odd, {column: text})
    for id in (odd, good):
        dc.act(place.store, 'run-now', id)
    place.run('run')
    assert place.job(good).last_status == 'Success'
    assert place.runs(odd)[0].exit_code == 1
    assert place.job(odd).run_token is None


def test_times_that_are_none_end_no_list_and_no_plan(sqlite_place):
    """SQLite takes any value for a time."""
    place = sqlite_place
    for value in (1.5, b'\x01', '2099-01-01 00:00:00+00:00'):
        id = place.add('true', frequency=60)
        dc.update_job(place.store, id, {'paused_until_utc': value})
    assert len(place.run('list').splitlines()) == 4
    place.run('run')
    assert 'Traceback' not in place.worker_log('here')


def test_text_for_a_number_of_tries_ends_no_plan(sqlite_place):
    place = sqlite_place
    id = place.add('true', schedule='0 4 * * *', start_within=5)
    due = '2026-01-01 04:00:00'
    values = {'next_run_utc': due, 'start_before_utc': '2026-01-01 04:05:00'}
    dc.update_job(place.store, id, {**values, 'attempt': 'a[b]'})
    place.run('run')
    assert place.job(id).next_run_utc > due


def test_a_bug_in_planning_is_logged_and_parks_no_job(sqlite_place, monkeypatch):
    place = sqlite_place
    bad, ended = place.add(schedule='0 5 * * *'), place.add('true')
    worker = dc.Worker(place.config('one'), False)
    worker.state.lock()
    worker.listen()
    next_run = dc.next_run

    def broken(job, *args):
        if job.id == bad or job.last_start:
            raise TypeError('planted')
        return next_run(job, *args)

    monkeypatch.setattr(dc, 'next_run', broken)
    wait_until(lambda: (worker.turn(), place.runs())[1])  # the other one runs
    for job in bad, ended:
        wait_until(
            lambda job=job: 'job %d is left alone' % job in log_after(worker, place)
        )
        assert place.job(job).next_run_utc is None
        assert not place.job(job).last_status.startswith('ERROR')
    assert 'Traceback' in place.worker_log() and 'planted' in place.worker_log()
    monkeypatch.setattr(dc, 'next_run', next_run)
    worker.locked.until.clear()
    worker.turn()
    assert place.job(bad).next_run_utc and place.job(ended).next_run_utc


def log_after(worker, place):
    worker.turn()
    return place.worker_log()


# Many at once.


def appending(place, number):
    return 'echo %d >> %s/runs' % (number, place.folder)


def counted(place):
    path = os.path.join(place.folder, 'runs')
    return collections.Counter(
        place.read('runs').split() if os.path.exists(path) else ()
    )


@pytest.mark.parametrize(
    'count, rounds', [(100, 2), pytest.param(500, 10, marks=pytest.mark.slow)]
)
def test_three_workers_run_each_job_once_a_round(place, count, rounds):
    jobs = [
        place.add(appending(place, number), frequency=1000) for number in range(count)
    ]
    place.write(max_tasks=20)
    for name in ('one', 'two', 'three'):
        place.worker(name)
    for round_ in range(1, rounds + 1):
        if round_ > 1:
            place.store.execute('UPDATE job SET next_run_utc = {utc}')
        wait_until(
            lambda r=round_: place.sql('SELECT COUNT(*) FROM run')[0][0] == count * r,
            60,
            'round %d' % round_,
        )
        counts = counted(place)
        assert len(counts) == count and set(counts.values()) == {round_}
    assert {run.status for run in place.runs()} == {'Success'}
    assert all(place.job(job).run_no == rounds for job in jobs[:20])


@pytest.mark.parametrize(
    'statement',
    [b' SET run_token = ', b'FROM job WHERE run_token =', b'COMMIT'],
)
def test_a_lost_answer_loses_and_doubles_nothing(server_place, statement):
    place = server_place
    if place.engine == 'postgresql' and b'FROM' in statement:
        statement = b'RETURNING'  # claim and collect are one
    proxy = Proxy(place.server.port)
    proxy.cut(statement, answered=True, times=3)
    for number in range(40):
        place.add(appending(place, number), frequency=1000)
    place.write(db=dict(place.values['db'], host='127.0.0.1:%d' % proxy.port))
    for name in ('one', 'two'):
        place.worker(name)
    wait_until(lambda: len(place.runs()) == 40, 40)
    time.sleep(0.5)
    counts = counted(place)
    assert len(counts) == 40 and set(counts.values()) == {1} and proxy.cuts == 3
    assert not place.sql('SELECT * FROM job WHERE run_token IS NOT NULL')


def test_a_database_that_is_away_is_not_noticed_by_runs(mysql_place):
    place = mysql_place
    proxy = Proxy(place.server.port)
    proxy.cut(b' SET last_end', answered=True, times=1000000)
    place.add('sleep 0.5; echo done')
    good = place.values['db']
    place.write(db=dict(good, host='127.0.0.1:%d' % proxy.port))
    worker = place.worker('one')
    wait_until(lambda: proxy.cuts > 3)
    assert not place.runs()
    proxy.heal()
    assert place.wait_runs(1)[0].status == 'Success'
    worker.terminate()
    assert worker.wait(10) == 0


def test_the_crontab_mode_loses_no_tick_to_a_late_start(place):
    """40 simulated minutes: the worker starts up to three seconds late, and leaves when
    nothing is due. A job of each minute, counted from its last start, runs in each."""
    place.add(frequency=1)
    place.add(schedule='* * * * *')
    worker = dc.Worker(place.config('one'), False)
    worker.state.lock()
    worker.listen()
    worker.store.connect()
    late = random.Random(7)
    for minute in range(40):
        clock = datetime(2026, 5, 20, 12) + timedelta(
            minutes=minute, seconds=3 * late.random()
        )
        while True:
            place.set_clock(clock, worker.store)
            pause = worker.turn()
            if worker.claims:
                time.sleep(0.002)  # it really runs; the simulated clock stands
            elif pause and worker.finished():
                break
            else:
                clock += timedelta(seconds=pause)
    runs = collections.Counter(run.job_id for run in place.runs())
    assert runs == {1: 40, 2: 39}  # the second is planned in the first minute


def test_the_crontab_mode_keeps_to_history_runs(place):
    """Each worker throws away what is too much before it leaves: none lives a minute."""
    place.write(history={'runs': 2})
    job = place.add('echo good')
    for _ in range(4):
        place.run('run-now', str(job))
        run_to_end(place)
    assert [run.run_no for run in place.runs()] == [3, 4]


def test_bad_jobs_do_not_keep_good_ones(place):
    place.add('true', schedule='nonsense')
    job = place.add('echo good')
    run_to_end(place)
    assert status_of(place, job) == 'Success'
    assert status_of(place, 1).startswith('ERROR: schedule:')


def test_a_full_log_folder_does_not_stop_a_job(place):
    job = place.add('echo x')
    os.makedirs(os.path.join(place.folder, 'log', '%d.log' % job))  # can't be opened
    run_to_end(place)
    assert status_of(place, job) == 'Success'
    assert place.runs()[0].output == 'x\n'


def test_the_password_is_in_no_process_list_and_no_log(mysql_place):
    place = mysql_place
    password = 'secret-of-%d' % os.getpid()  # other tests' processes have others
    place.server.settings(
        "CREATE USER own IDENTIFIED BY '%s'" % password, 'GRANT ALL ON *.* TO own'
    )
    place.write(db=dict(place.values['db'], username='own', password=password))
    place.add('sleep 1')
    place.worker('one')
    place.wait_runs(1)
    assert not processes_of(password)
    place.server.settings('DROP USER own')
    place.write(db=dict(place.values['db'], password='other-secret'))
    assert 'other-secret' not in place.run('list', code=1)
    assert 'secret' not in place.worker_log()


def test_an_idle_worker_sends_one_statement_a_poll(mysql_place):
    place = mysql_place
    place.worker('one')
    wait_until(lambda: place.sql('SELECT * FROM host'))
    time.sleep(0.5)

    def questions():
        return int(place.sql("SHOW GLOBAL STATUS LIKE 'Questions'")[0][1])

    before, begin = questions(), time.monotonic()
    time.sleep(1.5)
    polls = (time.monotonic() - begin) / place.values['poll_seconds']
    asked = questions() - before
    assert polls / 2 <= asked <= polls + 3, (asked, polls)
