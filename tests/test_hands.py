"""What hands type, and whether the answers say what is wrong and what to type next."""

import os
import resource
import subprocess
import sys

import pytest
from conftest import SCRIPT, Place, dc, exit_status, fork
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
