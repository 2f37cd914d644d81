"""What another user of the machine, or the writer of a text, can't make of a host."""

import os
import shutil
import stat

import pytest
from conftest import Place, call, dc

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
