"""The program as pip installs it: one module and a command, without this checkout."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, Place


@pytest.fixture
def installed(tmp_path):
    """The path of the command, in a new virtual environment.

    pip builds from a copy of what git has, because it leaves files where it builds.
    """
    folder = tmp_path / 'installed'
    files = subprocess.run(
        ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout.decode()
    for name in files.rstrip('\0').split('\0'):
        if '/' not in name and os.path.exists(os.path.join(ROOT, name)):
            os.makedirs(folder / 'source', exist_ok=True)
            shutil.copy(os.path.join(ROOT, name), folder / 'source' / name)
    subprocess.run([sys.executable, '-m', 'venv', folder / 'venv'], check=True)
    subprocess.run(
        [folder / 'venv/bin/pip', 'install', '-q', '.[mysql]'],
        cwd=folder / 'source',
        check=True,
    )
    shutil.rmtree(folder / 'source')
    return str(folder / 'venv/bin/distributed_cron')


def run(installed, folder, *args, home=None):
    """What the installed command prints, started in a folder, without our variables."""
    home = str(home or folder)
    done = subprocess.run(
        [installed, *args],
        cwd=folder,
        env={'PATH': os.environ['PATH'], 'HOME': home, 'TMPDIR': home},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    text = done.stdout.decode()
    assert done.returncode == 0, text
    return text


@pytest.mark.slow
@pytest.mark.timeout(400)  # pip downloads, builds and installs
def test_an_installed_program(installed, tmp_path, mariadb):
    """In another folder, it works without any other file of this checkout."""
    assert 'Each of the 12 jobs ran once.' in run(installed, tmp_path, 'demo')
    for engine, server in (('sqlite', None), ('mysql', mariadb)):
        folder = tmp_path / engine
        folder.mkdir()
        place = Place(folder, engine, server, 'installed')
        work_with(installed, place, '--config', os.path.basename(place.file))
    work_without_a_configuration(installed, tmp_path)


def work_without_a_configuration(installed, home):
    """init writes one, not among Python's packages; then all commands find it."""
    assert run(installed, home, '--help').startswith('usage: distributed_cron [')
    file = home / '.config' / 'distributed_cron.yml'
    said = run(installed, home, 'init')
    assert 'configuration written: %s\n' % file in said and 'tables ready' in said
    elsewhere = home / 'elsewhere'
    elsewhere.mkdir()
    run(installed, elsewhere, home=home)  # or no worker has ever been there
    said = run(installed, elsewhere, 'check', home=home)
    assert 'ok   config: %s\n' % file in said and 'ok   schema: jobs: 0' in said


def work_with(installed, place, *config):
    """init, twice, a pass of the crontab's, check, add, and another pass."""
    assert 'CREATE TABLE' in run(installed, place.folder, *config, 'init', '--print')
    for _ in range(2):
        assert 'tables ready' in run(installed, place.folder, *config, 'init')
    run(installed, place.folder, *config)
    said = run(installed, place.folder, *config, 'check')
    assert 'ok   schema: jobs: 0' in said and 'bad' not in said
    run(installed, place.folder, *config, 'add', '--every', '5', 'true')
    run(installed, place.folder, *config)
    place.store = place.new_store()
    assert place.runs()[0].status == 'Success'
    place.store.close()
