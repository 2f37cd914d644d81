"""What another user of the machine, or the writer of a text, can't make of a host."""

import contextlib
import glob
import os
import pty
import shutil
import signal
import stat
import sys
import unicodedata

import pytest
from conftest import SCRIPT, Place, call, dc, exit_status, fork, wait_until

AS_ROOT = os.getuid() == 0
needs_root = pytest.mark.skipif(
    not AS_ROOT, reason='only root can make files of others'
)
FORGED = (
    '{"job": 1, "run_no": 0, "kind": "done", "status": "Success; touch OWNED; #"}\n'
)


def log_folder(place):
    return os.path.join(place.folder, 'log')


def state_folder(place):
    return os.path.join(log_folder(place), 'state-here')


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def bad_folders(place):
    """What the worker and `check` say of the folders: one line each."""
    err = place.run('run', code=2)
    said = err.partition(place.file + ': ')[2].rstrip('\n')
    _, out, _ = call(['--config', place.file, '--name', 'here', 'check'])
    assert 'bad  folders: %s: %s\n' % (place.file, said) in out
    return said


# Folders.


def test_what_is_made_is_for_its_user_alone(sqlite_place):
    """Whatever the umask is. The group may read the logs."""
    place = sqlite_place
    place.add('echo x')
    shutil.rmtree(log_folder(place), ignore_errors=True)
    place.run('run', umask=0)
    assert mode_of(log_folder(place)) == 0o750
    assert mode_of(state_folder(place)) == 0o700
    for name in 'here.log', '1.log':
        assert mode_of(os.path.join(log_folder(place), name)) == 0o640
    assert place.runs()[0].status == 'Success'


def test_the_file_of_an_embedded_database_is_for_its_user_alone(tmp_path):
    old = os.umask(0)
    try:
        place = Place(tmp_path, 'sqlite').init()
        place.add()
        names = [name for name in os.listdir(place.folder) if name.startswith('d.db')]
        assert sorted(names) == ['d.db', 'd.db-shm', 'd.db-wal']
        assert {mode_of(os.path.join(place.folder, name)) for name in names} == {0o600}
    finally:
        os.umask(old)


@pytest.mark.parametrize('mode', [0o700, 0o750, 0o755, 0o775])
def test_folders_of_the_user_alone_are_taken(sqlite_place, mode):
    """Also those that version 1.0 or its README made, and with the umask 002 where each
    user has a group."""
    place = sqlite_place
    for folder in log_folder(place), state_folder(place):
        os.mkdir(folder)
        os.chmod(folder, mode)
    if dc.is_private(os.getgid(), os.getuid()) or mode != 0o775:
        place.add('true')
        place.run('run')
        assert place.runs()[0].status == 'Success'


@pytest.mark.parametrize('which', ['log', 'state'])
@pytest.mark.parametrize('mode', [0o757, 0o1777, 0o777])
def test_folders_that_all_can_write_are_refused(sqlite_place, which, mode):
    place = sqlite_place
    for folder in log_folder(place), state_folder(place):
        os.mkdir(folder)
    folder = {'log': log_folder, 'state': state_folder}[which](place)
    os.chmod(folder, mode)
    assert bad_folders(place) == (
        '%s.location: %s: others can write there; allowed: its owner alone; run: '
        'chmod go-w %s' % (which, folder, folder)
    )


@needs_root
@pytest.mark.parametrize('which', ['log', 'state'])
def test_folders_that_a_group_of_others_can_write_are_refused(sqlite_place, which):
    place = sqlite_place
    for folder in log_folder(place), state_folder(place):
        os.mkdir(folder)
    folder = {'log': log_folder, 'state': state_folder}[which](place)
    shutil.chown(folder, group='nogroup')
    os.chmod(folder, 0o770)
    assert 'others can write there' in bad_folders(place)
    os.chmod(folder, 0o750)
    place.run('run')


@needs_root
@pytest.mark.parametrize('which', ['log', 'state', 'link'])
def test_folders_of_others_are_refused(sqlite_place, which):
    """Also one to which somebody else has put a link."""
    place = sqlite_place
    folder = log_folder(place)
    if which == 'link':
        os.mkdir(place.folder + '/elsewhere')
        os.symlink(place.folder + '/elsewhere', folder)
        os.lchown(folder, 65534, 65534)
    else:
        for made in folder, state_folder(place):
            os.mkdir(made)
        folder = {'log': log_folder, 'state': state_folder}[which](place)
        shutil.chown(folder, 'nobody')
    key = 'state' if which == 'state' else 'log'
    assert bad_folders(place) == (
        '%s.location: %s belongs to nobody; run as that user' % (key, folder)
    )


@pytest.mark.parametrize(
    'members, name, private',
    [
        ([], 'ann', True),
        (['ann'], 'ann', True),
        (['bob'], 'ann', False),
        (['ann', 'bob'], 'ann', False),
        ([], 'users', False),
    ],
)
def test_whose_a_group_is(monkeypatch, members, name, private):
    import grp

    found = grp.struct_group((name, 'x', 7, members))
    monkeypatch.setattr(grp, 'getgrgid', {7: found}.__getitem__)
    monkeypatch.setattr(dc, 'user_name', {1000: 'ann'}.get)
    assert dc.is_private(7, 1000) is private
    assert not dc.is_private(8, 1000)


# The attacks for which they are refused.


@needs_root
def test_a_folder_that_somebody_made_first_leads_nowhere(sqlite_place):
    """With the worker's log as a link to the victim's profile, and a forged claim whose
    status is a line for it."""
    place = sqlite_place
    place.add('true')
    profile = place.folder + '/.profile'
    open(profile, 'w').close()
    os.makedirs(state_folder(place))
    os.symlink(profile, log_folder(place) + '/here.log')
    with open(os.path.join(state_folder(place), 32 * 'a'), 'w') as file:
        file.write(FORGED)
    for path, folders, files in os.walk(log_folder(place)):
        for name in ['', *folders, *files]:
            os.lchown(os.path.join(path, name), 65534, 65534)
    assert 'log.location' in bad_folders(place)
    assert not os.path.getsize(profile) and not place.runs()


@needs_root
def test_a_machine_that_becomes_a_link_overwrites_nothing(sqlite_place):
    """It is not even read, as the folder is another user's."""
    place = sqlite_place
    precious = place.folder + '/precious'
    with open(precious, 'w') as file:
        file.write('kept')
    os.makedirs(state_folder(place))
    os.mkfifo(state_folder(place) + '/machine')  # a reader would wait here
    shutil.chown(state_folder(place), 'nobody')
    assert 'belongs to nobody' in bad_folders(place)
    os.chown(state_folder(place), 0, 0)
    os.unlink(state_folder(place) + '/machine')
    os.symlink(place.folder + '/nowhere', state_folder(place) + '/machine')
    assert 'machine: File exists' in place.run('run', code=2)
    assert not os.path.exists(place.folder + '/nowhere')
    assert place.read('precious') == 'kept'


# Files.


@pytest.mark.parametrize('name', ['here.log', 'state-here/worker.lock'])
def test_a_link_in_place_of_a_file_is_refused(sqlite_place, name):
    place = sqlite_place
    os.mkdir(log_folder(place), 0o750)
    os.mkdir(state_folder(place), 0o700)
    path = os.path.join(log_folder(place), name)
    os.symlink(place.folder + '/target', path)
    assert '%s: Too many levels of symbolic links' % path in bad_folders(place)
    assert not os.path.exists(place.folder + '/target')


def test_a_link_in_place_of_the_fifo_is_refused(sqlite_place):
    place = sqlite_place
    os.mkdir(log_folder(place), 0o750)
    os.mkdir(state_folder(place), 0o700)
    os.mkfifo(place.folder + '/target')
    os.symlink(place.folder + '/target', state_folder(place) + '/wake')
    assert 'wake: Too many levels' in place.run('run', code=2)


def test_a_link_in_place_of_a_jobs_log_is_told_and_not_followed(sqlite_place):
    place = sqlite_place
    job = place.add('echo x')
    os.mkdir(log_folder(place), 0o750)
    path = os.path.join(log_folder(place), '%d.log' % job)
    os.symlink(place.folder + '/target', path)
    place.run('run')
    assert place.runs()[0].output == 'x\n'
    assert not os.path.exists(place.folder + '/target')
    assert '%s: Too many levels' % path in place.worker_log('here')


def test_a_link_in_place_of_a_request_to_stop_is_not_followed(tmp_path):
    claim = dc.Claim(str(tmp_path), 32 * 'a')
    os.symlink(str(tmp_path / 'target'), claim.path + '.stop')
    with pytest.raises(OSError):
        claim.ask_to_stop(1)
    assert not os.path.exists(str(tmp_path / 'target'))


@pytest.mark.parametrize(
    'kind',
    ['link', 'hard link', 'folder', pytest.param('of another', marks=needs_root)],
)
def test_a_claim_that_is_not_the_workers_own_file_is_not_read(sqlite_place, kind):
    place = sqlite_place
    job = place.add('true')
    os.makedirs(state_folder(place), 0o700)
    path, other = os.path.join(state_folder(place), 32 * 'a'), place.folder + '/other'
    with open(other, 'w') as file:
        file.write(FORGED)
    if kind == 'link':
        os.symlink(other, path)
    elif kind == 'hard link':
        os.link(other, path)
    elif kind == 'folder':
        os.mkdir(path)
    else:
        shutil.copy(other, path)
        shutil.chown(path, 'nobody')
    place.run('run')
    assert [(run.job_id, run.run_no) for run in place.runs()] == [(job, 1)]
    assert 'touch' not in place.worker_log('here')


# Crontabs that somebody has read before the import.


def imported(place, text, code=0):
    path = os.path.join(place.folder, 'crontab')
    with open(path, 'w') as file:
        file.write(text)
    return place.run('import', path, code=code)


@pytest.mark.parametrize(
    'facts, line',
    [
        ({'command': 'touch EVIL\n'}, '*/5 * * * * /usr/local/bin/backup'),
        ({'command': 'backup'}, '*/5 * * * * /usr/local/bin/backup'),
        ({'command': 'a\n'}, '*/5 * * * * a'),
        ({'command': 'true\nrm x'}, '*/5 * * * * true; rm y'),
        ({'schedule': '* * * * *'}, '0 3 * * * backup'),
        ({'schedule': None, 'frequency': 1, 'max_run_time': 1}, '0 0 * * * backup'),
    ],
)
def test_a_comment_makes_a_line_nothing_else_than_it_shows(sqlite_place, facts, line):
    text = '#: %s\n%s\n0 4 * * * good\n' % (dc.to_json(facts), line)
    out = imported(sqlite_place, text, code=1)
    assert 'crontab: line 2: ' in out and 'not what the comment above it says' in out
    assert '1 added, 0 already present, 1 skipped' in out
    assert [job.command for job in sqlite_place.sql('SELECT * FROM job')] == ['good']


def test_what_export_writes_is_what_its_lines_show(sqlite_place, capfd):
    """Whatever a command has in it."""
    place = sqlite_place
    for command in ('a\nb %x\n', ' \n a', 'a  b\t', 'x\n\n%', '# \n#'):
        place.run('add', '--every', '2000', command)
        place.run('add', '--inactive', '--schedule', '0 4 * * mon', command)
    before = [job.command for job in place.sql('SELECT * FROM job ORDER BY id')]
    exported = place.run('export')
    place.store.execute('DELETE FROM job')
    assert '10 added, 0 already present, 0 skipped' in imported(place, exported)
    after = [job.command for job in place.sql('SELECT * FROM job ORDER BY id')]
    assert list(map(str.strip, after)) == list(map(str.strip, before))


SCHEDULE = '0 0 1 1\n* * * * touch EVIL'  # as two lines the second is an entry
BROKEN = '0 0\n1\r1\t*'


def test_a_schedule_is_one_line_however_it_comes(sqlite_place):
    """By add, edit and import, and from SQL into an export; the page has the same."""
    place = sqlite_place
    place.run('add', '--schedule', BROKEN, 'added')
    place.run('add', '--every', '5', 'edited')
    place.run('edit', '2', '--schedule', BROKEN)
    imported(place, '#: {"schedule": "%s"}\n0 0 1 1 * imported\n' % '0 0\\n1 1 *')
    schedules = {job.schedule for job in place.sql('SELECT * FROM job')}
    assert schedules == {'0 0 1 1 *'}
    for number in range(32):
        if chr(number) not in ' \t\n\v\f\r\x1c\x1d\x1e\x1f\0':
            place.run('add', '--schedule', '0 0 1 %c1 *' % number, 'x', code=2)
    place.store.change('UPDATE job SET schedule = :evil', evil=SCHEDULE)
    entries = [line for line in place.run('export').split('\n') if line[:1] == '0']
    assert entries == [
        '0 0 1 1 * * * * touch EVIL ' + word for word in ('added', 'edited', 'imported')
    ]


def test_the_pages_schedule_is_one_line(sqlite_place):
    place = sqlite_place
    page = place.page()
    form = {'kind': 'schedule', 'schedule': BROKEN, 'command': 'x', 'action': 'save'}
    assert page.submit('job/add', **form).status == 303
    assert place.job(1).schedule == '0 0 1 1 *'


def test_a_crontab_comes_through_a_pipe(sqlite_place):
    out = sqlite_place.run('import', '/dev/stdin', input=b'0 4 * * * x\n')
    assert out == 'job 1: x\n1 added, 0 already present, 0 skipped\n'


@needs_root
def test_a_crontab_comes_through_a_pipe_of_another_user(sqlite_place):
    """As from `crontab -l |` by root to an import by cronjob, who may not open it."""
    place = sqlite_place
    args = ['--config', place.file, 'import', '/dev/stdin']
    imported(place, '')  # imports the modules
    with contextlib.ExitStack() as stack:
        for name in place.file, place.folder, place.folder + '/d.db':
            shutil.chown(name, 'nobody')
        parent = os.path.dirname(place.folder)
        while parent != '/':  # pytest keeps its folders to itself
            stack.callback(os.chmod, parent, mode_of(parent))
            os.chmod(parent, mode_of(parent) | 0o011)
            parent = os.path.dirname(parent)
        place.store.close()
        for name in glob.glob(place.folder + '/d.db-*'):
            shutil.chown(name, 'nobody')
        assert exit_status(fork(import_as_nobody, args)) == 0
    assert place.store.connect().query('SELECT command FROM job') == [('x',)]


def import_as_nobody(args):
    """In a child: with a crontab on standard input, in a pipe that root has made."""
    reader, writer = os.pipe()
    os.write(writer, b'0 4 * * * x\n')
    os.close(writer)
    os.dup2(reader, 0)
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    return call(args)[0]


# Terminals.

# ESC and CSI, BEL, OSC 52 (which sets the clipboard), bidi, invisible, fillers, tags.
HOSTILE = (
    '\x1b[31m \x9b5m \a \x1b]52;c;aGk=\a \b \x7f \u202e \u2066 \u200b \u200e \u061c \ufeff '
    '\xad \u3164 \u115f \u1160 \uffa0 \U000e0041'
)


def seen_on_a_terminal(place, *args, code=0, **more):
    """What a command of the program writes onto a terminal. more: of its environment."""
    process, terminal = pty.fork()
    if not process:
        argv = [sys.executable, SCRIPT, '--config', place.file, '--name', 'here', *args]
        environ = {**os.environ, 'LC_ALL': 'C.UTF-8', 'NO_COLOR': '1', **more}
        os.execve(sys.executable, argv, environ)
    data = b''
    with contextlib.suppress(OSError):  # EIO: it has ended
        while more := os.read(terminal, 65536):
            data += more
    os.close(terminal)
    assert exit_status(process) == code, data
    return data.decode().replace('\r\n', '\n')


def unseen(text):
    """What of a text can't be seen."""
    return [
        sign
        for sign in text
        if sign not in '\t\n'
        and (unicodedata.category(sign) in ('Cc', 'Cf') or sign in FILLERS)
    ]


FILLERS = '\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\u2028\u2029'


def test_the_table_has_all_that_cant_be_seen():
    signs = [chr(number) for number in range(sys.maxunicode + 1)]
    assert unseen(dc.visible(''.join(signs).replace('\t', '').replace('\n', ''))) == []
    assert dc.visible('\t\n') == '\t\n'
    changed = [sign for sign in signs if dc.visible(sign) != sign]
    assert len(changed) < 4500  # of which the tags and their like are 4096
    for text in 'é ß 漢字 한국어 ไทย हिन्दी ⚠ 😀 — “x”', 'עברית', 'العربية':
        assert dc.visible(text) == text


@pytest.mark.parametrize(
    'args',
    [
        ['list'],
        ['show', '1'],
        ['history'],
        ['hosts'],
        ['log', '1'],
        ['log', '2'],
        ['export'],
        ['next', '1'],
        ['list', '--json'],
        ['show', '1', '--json'],
        ['history', '--json'],
    ],
    ids=' '.join,
)
def test_nothing_unseen_reaches_a_terminal(sqlite_place, args):
    place = sqlite_place
    for _ in range(2):
        place.add('echo x', description=HOSTILE, max_run_time=30)
    place.run('run')
    place.store.change(
        'UPDATE job SET command = :evil, last_status = :evil', evil=HOSTILE
    )
    place.store.change('UPDATE run SET output = :evil, status = :evil', evil=HOSTILE)
    place.store.change('UPDATE host SET worker = :evil', evil=HOSTILE)
    with open(log_folder(place) + '/1.log', 'a') as file:
        file.write(HOSTILE + '\n')
    os.unlink(log_folder(place) + '/2.log')
    seen = seen_on_a_terminal(place, *args)
    assert seen.strip() and unseen(seen) == []
    if '--json' in args:
        found = dc.from_json(seen)
        assert HOSTILE in (found if args[0] == 'show' else found[0]).values()
    elif args[0] != 'next':
        assert '\u241b' in seen or '\\u001b' in seen


def test_the_name_of_a_worker_shows_nothing_unseen(sqlite_place):
    place = sqlite_place
    for _ in range(2):
        place.add('echo x')
    place.run('run')
    place.store.change('UPDATE job SET last_worker = :evil', evil=HOSTILE)
    place.store.change("UPDATE job SET run_token = 't' WHERE id = 2")
    place.store.change("UPDATE host SET last_seen = REPLACE(last_seen, ' ', char(27))")
    for args in (['log', '1'], ['remove', '2'], ['check']):
        seen = seen_on_a_terminal(place, *args)
        assert '\u241b' in seen and unseen(seen) == []


def test_an_error_shows_nothing_unseen(sqlite_place):
    seen = seen_on_a_terminal(sqlite_place, 'import', '/no\x1bwhere\u202e', code=2)
    assert 'no\u241bwhere' in seen and unseen(seen) == []


def test_a_command_of_many_lines_forges_no_line_of_show(sqlite_place):
    sqlite_place.add('true', description='x\nlast run      Success')
    out = sqlite_place.run('show', '1')
    assert len([line for line in out.split('\n') if line[:8] == 'last run']) == 1


def test_files_and_pipes_get_the_bytes_as_they_are(sqlite_place):
    """An export is imported again, and a log is what the command wrote."""
    place = sqlite_place
    place.add("echo '%s'" % HOSTILE, max_run_time=30)
    place.run('run')
    assert HOSTILE in place.run('export') and HOSTILE in place.run('log', '1')
    assert 'already present' in imported(place, place.run('export'))
    assert len(place.sql('SELECT * FROM job')) == 1


def test_the_page_shows_nothing_unseen(sqlite_place):
    """Neither in its pages nor in a log that grows."""
    place = sqlite_place
    job = place.add("echo '%s'; sleep 2" % HOSTILE, description=HOSTILE)
    place.worker('here')
    page = place.page()
    wait_until(lambda: HOSTILE in place.read('log/%d.log' % job))
    for path in '', 'job/%d' % job, 'run/%d/1' % job, 'run/%d/1/log?offset=1' % job:
        assert unseen(page.get(path)) == [], path


# The worker's log.


def test_a_configuration_that_is_read_again_shows_no_password(sqlite_place):
    place = sqlite_place
    worker = place.worker('here')
    wait_until(lambda: place.sql('SELECT * FROM host'))
    with open(place.file, 'a') as file:
        file.write('\nweb: {editors: *Hunter2}\n')
    worker.send_signal(signal.SIGHUP)
    wait_until(lambda: 'the old configuration stays' in place.worker_log('here'))
    assert 'found undefined alias' in place.worker_log('here')
    assert 'Hunter2' not in place.worker_log('here')
