"""What hands type, and whether the answers say what is wrong and what to type next."""

import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, SCRIPT, Place, call, dc, exit_status, fork
from servers import open_folder, wait_until

COMMANDS = ['list'], ['check'], ['run']  # of which each uses the database


def said_by(place, *args, **how):
    """The exit status, and all that a command prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, SCRIPT, '--config', place.file, '--name', 'here', *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        **how,
    )
    text = done.stdout.decode()
    assert 'Traceback' not in text, text
    return done.returncode, text


# Databases that can't be used.


@pytest.mark.parametrize(
    'engine, module, version, needed',
    [('mysql', 'pymysql', '0.9.3', '1.0'), ('postgresql', 'psycopg', '3.0.18', '3.1')],
)
@pytest.mark.parametrize('args', COMMANDS)
def test_an_old_driver_is_one_line(tmp_path, engine, module, version, needed, args):
    (tmp_path / (module + '.py')).write_text('__version__ = %r\n' % version)
    place = Place(tmp_path, 'sqlite')
    place.write(db={'engine': engine})
    status, text = said_by(
        place, *args, env={'PYTHONPATH': str(tmp_path), 'PATH': os.environ['PATH']}
    )
    assert status == 2 and len(text.splitlines()) == 1
    expected = "needs %s %s or later, but this is %s; pip install '%s>=%s'"
    assert expected % (module, needed, version, module, needed) in text


@pytest.mark.parametrize('engine', ['mysql', 'postgresql'])
@pytest.mark.parametrize(
    'host, reasons',
    [
        ('db.invalid', ['not known', 'Temporary failure', 'No address']),
        ('127.0.0.1:1', ['refused']),
        ('/nowhere/socket', ['No such file']),
    ],
)
def test_why_a_server_is_not_reached(tmp_path, engine, host, reasons):
    place = Place(tmp_path, 'sqlite')
    place.write(db={'engine': engine, 'host': host, 'password': 'pass-word'})
    text = place.run('list', code=1)
    assert any(reason in text for reason in reasons), text
    assert 'database %s' % host in text and '; is it up? look at db.host' in text
    assert 'pass-word' not in text


def test_a_wrong_password_of_postgresql(postgresql, tmp_path):
    place = Place(tmp_path, 'postgresql', postgresql)
    place.write(db=dict(place.values['db'], password='pass-word'))
    text = place.run('list', code=1)
    assert 'database 127.0.0.1:%d: ' % postgresql.port in text
    assert 'look at db.username and db.password or db.password_file' in text
    assert 'pass-word' not in text


def test_a_host_that_postgresql_does_not_admit(postgresql, tmp_path):
    path = os.path.join(postgresql.data, 'pg_hba.conf')
    rules = dc.read_text(path)
    with open(path, 'w') as file:
        file.write('local all all trust\n')
    postgresql.settings('SELECT pg_reload_conf()')
    place = Place(tmp_path, 'postgresql', postgresql, database='no_such')
    try:

        def said():
            text = place.run('list', code=1)
            return text if 'no pg_hba.conf entry' in text else None

        text = wait_until(said)
    finally:
        with open(path, 'w') as file:
            file.write(rules)
        postgresql.settings('SELECT pg_reload_conf()')
    assert "the server's pg_hba.conf needs a line" in text and 'createdb' not in text
    wait_until(lambda: 'make it: createdb' in place.run('list', code=1))


def test_a_sqlite_file_that_is_not_ours():
    with open_folder('dc-test-') as folder:
        place = Place(folder, 'sqlite').init()
        place.store.close()
        path = place.config().db_path
        os.chmod(path, 0o444)
        os.chmod(place.file, 0o644)
        said = os.path.join(folder, 'said')

        def write():
            with open(said, 'w') as file:
                if os.getuid() == 0:  # who may write all
                    os.setuid(65534)
                with pytest.raises(dc.Away) as caught:
                    dc.Store(place.config()).connect().change('DELETE FROM job')
                file.write(str(caught.value))

        assert exit_status(fork(write)) == 0
        text = dc.read_text(said)
    assert path in text and len(text.splitlines()) == 1
    if os.getuid() == 0:
        assert '; it belongs to root, and this is nobody; as root: chown nob' in text
    else:
        assert '; it may not be written: chmod u+w ' + path in text


def test_a_full_state_folder_is_named(server_place):
    """Here a limit of the process: no file may grow."""
    server_place.run('run')
    server_place.add('true')
    limit = resource.RLIMIT_FSIZE, (0, 0)
    status, text = said_by(
        server_place, 'run', preexec_fn=lambda: resource.setrlimit(*limit)
    )
    assert status and 'state-here/' in text and 'File too large' in text, text
    assert 'output' not in text


def test_check_tells_the_database_from_its_tables(place):
    place.run('run')
    place.store.execute('DROP TABLE run')
    status, text = said_by(place, 'check')
    assert status == 1
    assert '\nok   database: %s\n' % place.engine in text
    assert '\nbad  schema: ' in text and 'run: distributed_cron.py init' in text


@pytest.mark.parametrize('text', ['', '\nsecret\n', '\r\n'])
def test_an_empty_password_file_is_refused(tmp_path, text):
    place = Place(tmp_path, 'sqlite')
    path = tmp_path / 'db.password'
    path.write_text(text)
    place.write(db={'engine': 'mysql', 'password_file': 'db.password'})
    said = place.run('list', code=2)
    assert 'db.password_file: %s: the first line is empty' % path in said
    path.write_text('secret\n')
    assert place.config().db_password == 'secret'


def test_the_pages_log_names_the_path_that_was_asked_for(tmp_path, capsys):
    from web.pages import report

    environ = {'REQUEST_METHOD': 'GET', 'SCRIPT_NAME': '/cron', 'PATH_INFO': '/job/1'}
    report(environ, 'x')
    report({'REQUEST_METHOD': 'GET', 'PATH_INFO': None}, 'y')
    assert capsys.readouterr().err == (
        'index.cgi: GET /cron/job/1: x\nindex.cgi: GET /: y\n'
    )


# What is typed.


@pytest.mark.parametrize(
    'typed, command',
    [
        (['echo hello'], 'echo hello'),
        (['echo', 'hello', 'world'], 'echo hello world'),
        (['echo', '-n', '--every', '7', '--s'], 'echo -n --every 7 --s'),
        (['--', 'df', '-h'], 'df -h'),
    ],
)
def test_the_rest_of_the_line_is_the_command(sqlite_place, typed, command):
    sqlite_place.run('add', '--every', '5', *typed)
    job = sqlite_place.job(1)
    assert (job.command, job.description, job.frequency) == (command, command, 5)


def test_add_describes_a_job_by_its_command(place):
    place.run('add', '--every', '5', 'echo a\n' + 'é' * 300)
    assert place.job(1).description == 'echo a ' + 'é' * 248
    place.run('add', '--every', '5', '--description', 'b', 'true')
    assert place.job(2).description == 'b'


def test_add_wants_a_schedule(sqlite_place):
    text = sqlite_place.run('add', 'date', code=2)
    assert (
        'no --every, --schedule, --at or --after' in text and 'add --every 60 ' in text
    )
    assert not sqlite_place.sql('SELECT * FROM job')


def test_a_clock_time_of_one_digit(place):
    place.run('add', '--every', '5', '--start', '9:00', '--stop', '9:05', 'true')
    job = place.job(1)
    assert (job.start_anchor[:5], job.stop_anchor[:5]) == ('09:00', '09:05')


def test_an_edit_of_nothing(sqlite_place):
    sqlite_place.add()
    text = sqlite_place.run('edit', '1', code=2)
    assert text == (
        'distributed_cron: edit 1: nothing to change; see: '
        'distributed_cron.py edit --help\n'
    )


def test_an_edit_that_shortens_the_time_limit_says_so(place):
    place.run('add', '--schedule', '30 2 * * *', '--max-run-time', '120', 'backup')
    advice = '; to change it: distributed_cron.py edit 1 --max-run-time MINUTES\n'
    text = place.run('edit', '1', '--every', '5')
    assert text.endswith('\na run is killed after 2 minutes, before: 120' + advice)
    text = place.run('edit', '1', '--schedule', '30 2 * * *')
    assert text.endswith('\na run is killed after 2 minutes, as before' + advice)
    for args in (['--description', 'x'], ['--schedule', '@daily']):
        assert 'killed' not in place.run('edit', '1', *args)
    assert 'killed' not in place.run('edit', '1', '--every', '9', '--max-run-time', '1')


def test_version():
    assert call(['--version']) == (0, 'distributed_cron %s\n' % dc.VERSION, '')


def test_a_mistyped_command():
    status, _, err = call(['lst'])
    assert status == 2 and err == (
        "distributed_cron: unknown command 'lst'; the nearest known is list; "
        'see: distributed_cron.py --help\n'
    )


def test_common_options_after_the_command(sqlite_place):
    status, out, err = call(['list', '--config', sqlite_place.file, '--name', 'x'])
    assert status == 0 and out.startswith('ID '), err
    args = dc.parser().parse_args(['--config', 'a', 'list', '--name', 'x'])
    assert (args.config, args.name) == ('a', 'x')


def test_every_option_has_a_help_text():
    for name, registered in dc.COMMANDS.items():
        for option in registered.options:
            assert option.keywords.get('help'), (name, option.flag)
    text = ' '.join(call(['add', '--help'])[1].split())
    assert text.count('; default: ') == len(
        dc.COLUMNS
    )  # without command, with --config
    assert 'Examples distributed_cron.py add --schedule ' in text
    examples = call(['--help'])[1].split('\n\nExamples\n')[1].splitlines()
    assert len(examples) == 3


def test_the_examples_of_the_help_can_be_parsed():
    shown = 0
    for name in None, *dc.COMMANDS:
        _, text, _ = call([name, '--help'] if name else ['--help'])
        assert '%' not in text
        for line in text.partition('\n\nExamples\n')[2].splitlines():
            program, *words = shlex.split(line.partition(' < ')[0])
            assert program == dc.command_line()
            assert dc.parser().parse_args(words).action == words[0]
            assert name in (None, words[0])
            shown += 1
    assert shown > 8


def test_what_a_commands_docstring_says_besides_its_summary_ends_its_help():
    more = dc.cmd_alert.__doc__.partition('\n\n')[2]
    shown = call(['alert', '--help'])[1].rpartition('\n\n')[2]
    assert shown.splitlines() == [line.strip() for line in more.splitlines()[:-1]]
    assert shown.splitlines()[0] not in call(['--help'])[1]


# Times and hosts.


@pytest.mark.parametrize(
    'schedule, words',
    [
        ('30 2 * * *', 'at 02:30'),
        ('15 4,16 * * *', 'at 04:15, 16:15'),
        ('* * * * *', 'every minute'),
        ('*/15 * * * *', 'every 15 minutes'),
        ('7-59/15 * * * *', 'every 15 minutes from 00:07'),
        ('*/15 8-18 * * *', 'every 15 minutes 08:00-18:45'),
        ('0 */2 * * *', 'every 2 hours'),
        ('0 1-23/2 * * *', 'every 2 hours from 01:00'),
        ('0 7-19 * * mon-fri', 'Mon-Fri, every hour 07:00-19:00'),
        ('*/7 8 * * *', 'every 7 minutes 08:00-08:56'),
        ('*/7 * * * *', 'at minute */7 of hour *'),
        ('@daily', 'at 00:00'),
        ('@HOURLY', 'every hour'),
        ('@weekly', 'Sun, 00:00'),
        ('@yearly', 'day 1 in Jan, 00:00'),
        ('47 6 * * 7', 'Sun, 06:47'),
        ('0 3 * * 1-5', 'Mon-Fri, 03:00'),
        ('0 3 * * fri-sun', 'Fri-Sun, 03:00'),
        ('0 3 * * tue,THU', 'Tue, Thu, 03:00'),
        ('0 3 1 1,7 *', 'day 1 in Jan, Jul, 03:00'),
        ('0 3 1 */3 *', 'day 1 in Jan, Apr, Jul, Oct, 03:00'),
        ('0 3 * jan-jun *', 'every day in Jan-Jun, 03:00'),
        ('0 3 1,15-20 * *', 'day 1, 15-20, 03:00'),
        ('0 3 * 2-12/2 5#2', 'second Friday in Feb, Apr, Jun, Aug, Oct, Dec, 03:00'),
        ('0 22 * * 5#3', 'third Friday, 22:00'),
        ('0 22 * * 1#1,mon#3', 'first Monday, third Monday, 22:00'),
        ('0 3 * * 5L', 'last Friday, 03:00'),
        ('0 3 * * 7L', 'last Sunday, 03:00'),
        ('0 20 LW * *', 'last working day, 20:00'),
        ('0 20 L * *', 'last day, 20:00'),
        ('0 20 15W * *', 'working day nearest to day 15, 20:00'),
        ('0 20 1,L * *', 'day 1, last day, 20:00'),
        ('0 3 13 * fri', 'day 13 or Fri, 03:00'),
        ('0 3 1-31 * fri', 'day 1-31 or Fri, 03:00'),
        ('0 3 */10 * fri', 'day 1, 11, 21, 31 and Fri, 03:00'),
        ('61 * * * *', '61 * * * *'),
        ('@reboot', '@reboot'),
        ('', ''),
    ],
)
def test_days_and_months_have_names(schedule, words):
    assert dc.describe(dc.Job(schedule=schedule)) == words


def test_next_names_zone_and_day(place):
    place.set_zone('UTC')
    out = place.run('next', '0 5 * * *', '--from', '2037-05-20 06:00:00', '-n', '1')
    assert re.fullmatch(
        r'2037-05-21 05:00:00 UTC([+-]\d\d:\d\d)?, thursday, in \d+ days\n', out
    )


def test_next_of_a_job_that_has_no_time_of_its_own(place):
    place.run('add', '--schedule', '@hourly', 'first')
    place.run('add', '--after', '1', 'second')
    place.run('add', '--schedule', '@hourly', '--each-host', 'third')
    assert place.run('next', '2') == 'after job 1\n'
    assert place.run('next', '3') == 'on each host\n'
    place.run('add', '--at', '2099-01-01 10:00', '--name', 'once', 'fourth')
    assert place.run('next', 'once', '--from', '2099-01-01 11:00') == 'never\n'
    assert place.run('next', 'once', '-n', '0') == ''
    place.add('over', schedule='@at 2020-01-01 00:00')
    place.run('run')
    assert place.run('next', '5') == 'never\n'


def test_next_alone_lists_all_jobs_until_tomorrow(place):
    assert place.run('next').startswith('no job runs until ')
    place.run('add', '--every', '600', 'often')
    place.run('add', '--schedule', '@hourly', 'hourly')
    place.run('add', '--schedule', '0 0 1 1 *', 'rarely')
    place.run('add', '--schedule', '@hourly', 'off')
    place.run('disable', '4')
    place.add('odd', schedule='x')
    head, *rows = place.run('next', '-n', '100').splitlines()
    assert head.split() == ['NEXT', 'RUN', 'ID', 'DESCRIPTION']
    assert [row.split()[-1] for row in rows].count('often') == 3
    assert [row.split()[-1] for row in rows].count('hourly') == 24
    assert len(rows) == 27 and rows == sorted(rows)
    assert len(place.run('next', '-n', '2').splitlines()) == 3
    later = '%s 00:00:00' % (place.store.now() + 9 * dc.DAY).date()
    _, row = place.run('next', '-n', '1', '--from', later).splitlines()
    assert row.split()[-1] == 'often'  # though one that has no time then is due first


def test_hosts_that_are_gone(place):
    place.run('run')
    place.add('true', run_token='a', last_worker='here-1')
    place.add('true', run_token='b', last_worker='not-here-1')
    place.store.execute(
        "INSERT INTO host (name, last_seen) VALUES ('old', '2020-01-01 00:00:00')"
    )
    rows = place.run('hosts').splitlines()
    assert re.match(r'here .* \d s ago +here-\d+ +2\.0 +8 +1 ', rows[1])
    assert re.match(r'old .* 2020-01-01 00:00:00, \d+ days ago ', rows[2])
    listed = json.loads(place.run('hosts', '--json'))
    assert [host['running'] for host in listed] == [1, 0]
    assert 'old: forgotten' in place.run('hosts', '--forget', 'old')
    assert 'host old is not known' in place.run('hosts', '--forget', 'old', code=1)
    assert len(place.sql('SELECT * FROM host')) == 1


def test_show_is_for_people(place):
    place.run('add', '--schedule', '0 3 * * 1', 'backup')
    place.run('run-now', '1')
    place.run('run', name='first')
    out = place.run('show', '1')
    for line in (
        'job           1',
        'schedule      Mon, 03:00',
        'expression    0 3 * * 1',
        'command       backup',
        'time limit    60 minutes',
    ):
        assert line in out.splitlines()
    assert re.search(r'(?m)^last run .*, with worker first-\d+, until .*: ERROR', out)
    assert 'run_token' not in out and 'run_token' in place.run('show', '1', '--json')


# Runs.


def test_run_now_waits_for_the_end(place):
    place.run('add', '--schedule', '@yearly', 'echo good')
    place.run('add', '--schedule', '@yearly', 'echo bad; exit 3')
    assert 'will run now, or within a minute if cron' in place.run('run-now', '1')
    place.run('run')
    place.worker('one')
    status, text = said_by(place, 'run-now', '--wait', '1')
    assert status == 0 and re.search(r'\ngood\njob 1: Success, with worker one-', text)
    status, text = said_by(place, 'run-now', '--wait', '1', '2')
    assert status == 1 and 'job 2: ERROR: exit 3' in text
    assert len(place.runs(1)) == 3


def test_run_now_waits_for_a_run_that_was_over_when_it_looked(place, monkeypatch):
    place.run('add', '--schedule', '@yearly', 'echo good')
    act = dc.act

    def act_and_run(*args):
        done = act(*args)
        place.run('run')
        monkeypatch.setattr(dc.time, 'sleep', impatient)
        return done

    def impatient(seconds):
        raise AssertionError('it waits for the run after that')

    monkeypatch.setattr(dc, 'act', act_and_run)
    assert 'job 1: Success, with ' in place.run('run-now', '--wait', '1')


def test_run_now_of_a_job_that_runs_is_one_more_run_after_it(place):
    job = place.add('sleep 60')
    place.store.plan(place.store.now())
    place.store.claim(place.store.find(1), 't' * 32, 'here-1')
    said = 'job 1: will run once more when its run on here has ended\n'
    assert place.run('run-now', str(job)) == said


def test_run_now_of_a_template_that_is_on_no_host(place):
    place.run('add', '--schedule', '@yearly', '--each-host', 'true')
    assert place.run('run-now', '1') == 'job 1: is on no host yet\n'
    status, text = said_by(place, 'run-now', '--wait', '1')
    assert (status, text) == (1, 'job 1: is on no host yet\n')
    assert place.run('stop', '1') == 'job 1: is not running\n'


def test_a_job_of_a_template_changes_with_that_alone(place):
    """Its host's worker would undo it."""
    place.run('add', '--schedule', '@yearly', '--each-host', 'true')
    place.run('run')
    for args in (
        ['disable'],
        ['enable'],
        ['edit', '--retries', '1'],
        ['pause'],
        ['resume'],
    ):
        said = place.run(*args, '2', code=2)
        assert 'job 2 is on one host what job 1 says; name job 1' in said
    before = place.job(2)
    assert before.active == 1 and before.paused_until_utc is None
    assert 'will run now' in place.run('run-now', '2')


def test_log_says_where_and_when_the_last_run_was(place):
    place.run('add', '--every', '5', 'true')
    assert place.run('log', '1') == 'it never ran\n'
    place.run('run', name='elsewhere')
    out = place.run('log', '1')
    assert out.startswith('it wrote nothing\nthe last run: ')
    assert re.search(r', with worker elsewhere-\d+, until .*: Success\n', out)
    place.run('add', '--every', '5', 'echo one; echo two')
    place.run('run')
    assert place.run('log', '2', '-n', '0').startswith('the last run: ')
    place.store.execute('DELETE FROM run')
    assert place.run('log', '1').startswith('what it wrote is not known\n')
    # As a worker of the Perl program leaves it, which writes no history.
    place.store.execute("UPDATE job SET run_no = 0, last_worker = 'perl-1'")
    assert 'never' not in place.run('log', '1', '--follow')
    assert 'with worker perl-1' in place.run('log', '1', '-f')


def test_a_removed_job_whose_run_goes_on(place):
    command = 'echo begun; sleep 1; echo over'
    place.run('add', '--every', '5', command)
    worker = place.worker('one')
    wait_until(lambda: place.job(1).run_token)
    assert 'its run goes on, with worker one-' in place.run('remove', '1')
    place.wait_runs(1)
    worker.terminate()
    worker.wait()
    assert 'Success' in place.run('history', '1')
    out = place.run('log', '1')
    assert out.startswith('begun\nover\nthe last run: ') and 'worker one-' in out
    for name in 'history', 'log':
        assert 'job 2 does not exist' in place.run(name, '2', code=1)


# Crontabs.

SYSTEM = r'''MAILTO=me
1 2 * * * nobody id -un
2 2 * * * nosuchuser true
* * * * * nobody /opt/distributed_cron/distributed_cron.py
* * * * * nobody cd /x && python3 -m distributed_cron run --forever
* * * * * nobody ~/v/bin/distributed_cron --config x >/dev/null 2>&1
3 2 * * * nobody cp -r /opt/distributed_cron /backup
4 2 * * * nobody /opt/distributed_cron/distributed_cron.py run-now 3
'''


def test_import_from_standard_input(place):
    status, text = said_by(place, 'import', '--system', '-', input=SYSTEM.encode())
    assert status == 1 and '3 added, 0 already present, 4 skipped\n' in text
    assert '-: line 1: MAILTO is not used: ' in text
    assert "-: line 3: user 'nosuchuser' is not known on this host\n" in text
    for number in 4, 5, 6:
        assert re.search(r'-: line %d: .* starts this program' % number, text)
    for id in 1, 2, 3:
        assert '\njob %d: sudo -n -u nobody ' % id in '\n' + text
        needs = (
            'job %d needs in sudoers, on each host: %s ALL=(nobody) NOPASSWD: /bin/sh'
        )
        assert needs % (id, dc.user_name(os.getuid())) in text


def test_an_import_that_took_all_exits_with_0(place):
    crontab = b'MAILTO=me\n@daily echo a\n'
    status, text = said_by(place, 'import', '-', input=crontab)
    assert status == 0 and 'job 1: echo a\n' in text and 'sudoers' not in text


def test_the_demos_last_words_work_as_they_stand(tmp_path):
    for name in ('distributed_cron.py', 'distributed_cron.yml'):
        shutil.copy(os.path.join(ROOT, name), tmp_path)
    path = '%s:%s' % (os.path.dirname(sys.executable), os.environ['PATH'])
    how = {'cwd': tmp_path, 'check': True, 'env': {**os.environ, 'PATH': path}}
    how['env']['TMPDIR'] = str(tmp_path)
    done = subprocess.run(
        ['python3', 'distributed_cron.py', 'demo'], stdout=subprocess.PIPE, **how
    )
    init, add, _ = done.stdout.decode().splitlines()[-3:]
    for line in init, add:
        subprocess.run(line, shell=True, **how)


@pytest.mark.parametrize(
    'path, typed',
    [
        ('distributed_cron.py', 'python3 distributed_cron.py'),
        (SCRIPT, SCRIPT),
        (SCRIPT + 'x', 'python3 %sx' % SCRIPT),  # which nobody may execute
    ],
)
def test_what_starts_the_program(monkeypatch, path, typed):
    monkeypatch.setattr(sys, 'argv', [path, 'demo'])
    assert dc.to_be_typed() == typed
