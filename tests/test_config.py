"""The configuration: where it is looked for, what it may say, and what a mistake in it
looks like."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT, SCRIPT, dc


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path)


class Installed:
    """The script alone in a folder of its own, for a person with a home."""

    def __init__(self, folder, place='bin'):
        self.home = os.path.join(folder, 'home')
        self.script = os.path.join(folder, place, 'distributed_cron.py')
        os.makedirs(os.path.dirname(self.script))
        os.mkdir(self.home)
        shutil.copy(SCRIPT, self.script)
        self.env = {**os.environ, 'HOME': self.home}
        self.env.pop('DISTRIBUTED_CRON_CONFIG', None)
        self.beside = os.path.join(folder, place, 'distributed_cron.yml')
        self.in_home = os.path.join(self.home, '.config', 'distributed_cron.yml')

    def run(self, *args, **env):
        done = subprocess.run(
            [sys.executable, self.script, *args],
            env={**self.env, **env},
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert 'Traceback' not in err, err
        return done.returncode, out, err


def write(file, text):
    os.makedirs(os.path.dirname(file), exist_ok=True)
    with open(file, 'w', encoding='utf-8') as stream:
        stream.write(text)


def error_of(folder, text):
    """What load_config says of a text."""
    file = os.path.join(folder, 'x.yml')
    write(file, text)
    with pytest.raises(dc.BadConfig) as caught:
        dc.load_config(file, 'here')
    said = str(caught.value)
    assert said.startswith(file + ': ') and len(said.splitlines()) == 1
    return said[len(file) + 2 :]


# Where it is.


@pytest.fixture
def places(folder, monkeypatch):
    """Three places where a configuration may be, none of which is there."""
    files = [os.path.join(folder, name, 'distributed_cron.yml') for name in 'abc']
    monkeypatch.setattr(dc, 'config_places', lambda: files)
    monkeypatch.delenv('DISTRIBUTED_CRON_CONFIG', raising=False)
    return files


def test_the_places_in_their_order(monkeypatch):
    monkeypatch.setenv('HOME', '/home/alice')
    assert dc.config_places() == [
        os.path.join(ROOT, 'distributed_cron.yml'),
        '/home/alice/.config/distributed_cron.yml',
        '/etc/distributed_cron.yml',
    ]


def test_the_first_place_that_has_one_wins(places, monkeypatch):
    with pytest.raises(dc.BadConfig) as caught:
        dc.find_config()
    assert len(str(caught.value).splitlines()) == 1
    for file in places:
        assert file in str(caught.value)
    for file in reversed(places):
        write(file, '')
        assert dc.find_config() == file
    monkeypatch.setenv('DISTRIBUTED_CRON_CONFIG', '/nowhere/x.yml')
    assert dc.find_config() == '/nowhere/x.yml'
    monkeypatch.setenv('DISTRIBUTED_CRON_CONFIG', '')  # as if it were not set
    assert dc.find_config() == places[0]


@pytest.mark.skipif(os.path.exists('/etc/distributed_cron.yml'), reason='there is one')
@pytest.mark.parametrize('command', [[], ['run'], ['list'], ['check']])
def test_without_any_commands_say_where_they_looked(folder, command):
    place = Installed(folder)
    code, out, err = place.run(*command)
    assert (code, out) == (2, '')
    assert len(err.splitlines()) == 1
    for part in (place.beside, place.in_home, '/etc/distributed_cron.yml', ' init '):
        assert part in err
    assert os.listdir(place.home) == []


def test_a_configuration_in_the_home_is_used_and_config_wins(folder):
    place = Installed(folder)
    write(place.in_home, 'max_tasks: -1')
    code, _, err = place.run()
    assert code == 2 and place.in_home + ': max_tasks' in err
    write(place.beside, 'kill_grace: -1')
    for command in ([], ['list']):
        code, _, err = place.run(*command)
        assert code == 2 and place.beside + ': kill_grace' in err
    code, _, err = place.run(DISTRIBUTED_CRON_CONFIG='named.yml')
    assert (code, err) == (
        2,
        'distributed_cron: named.yml: No such file or directory\n',
    )
    code, _, err = place.run(
        '--config', 'other.yml', DISTRIBUTED_CRON_CONFIG='named.yml'
    )
    assert (code, err) == (
        2,
        'distributed_cron: other.yml: No such file or directory\n',
    )


def test_help_says_where_it_is(folder):
    code, out, _ = Installed(folder).run('--help', HOME='/tmp/100%')
    assert code == 0 and '$DISTRIBUTED_CRON_CONFIG' in out


# The first one, which `init` writes.


@pytest.mark.parametrize('package_folder', ['site-packages', 'dist-packages'])
def test_init_of_an_installed_script_writes_the_first_into_the_home(
    folder, package_folder
):
    """Run as a module would be: from among the packages, with nothing beside it."""
    place = Installed(folder, 'lib/%s' % package_folder)
    _, _, err = place.run('init')
    assert not os.path.exists(place.beside)
    assert 'configuration written: %s\n' % place.in_home in err
    config = dc.load_config(place.in_home, 'here')
    in_home = os.path.dirname(place.in_home)
    assert config.db_path == os.path.join(in_home, 'distributed_cron.db')
    assert config.log_location == os.path.join(in_home, 'distributed_cron-log')
    _, out, err = place.run('init')
    assert 'configuration written' not in out + err


def test_the_first_is_written_beside_a_script_that_stands_alone(folder):
    place = Installed(folder)
    _, _, err = place.run('init')
    assert 'configuration written: %s\n' % place.beside in err
    assert os.listdir(place.home) == []


def test_the_first_goes_where_it_can(places, capsys):
    write(os.path.dirname(places[0]), 'a file, where a folder would have to be')
    assert dc.write_first_config() == places[1]
    assert capsys.readouterr().err == 'configuration written: %s\n' % places[1]
    assert os.stat(os.path.dirname(places[1])).st_mode & 0o777 == 0o700
    assert dc.find_config() == places[1]


def test_the_first_replaces_nothing_and_makes_no_folders_of_others(places):
    del places[1:]
    write(places[0], 'max_tasks: 7')
    with pytest.raises(dc.BadConfig) as caught:
        dc.write_first_config()
    assert places[0] in str(caught.value)
    assert dc.load_config(places[0]).max_tasks == 7
    places[0] = os.path.join(os.path.dirname(places[0]), 'nobody', '.config', 'x.yml')
    with pytest.raises(dc.BadConfig):  # a home that does not exist is not made
        dc.write_first_config()
    assert not os.path.exists(os.path.dirname(os.path.dirname(places[0])))


def test_a_named_configuration_that_is_not_there_is_not_written(folder):
    place = Installed(folder)
    for args, env in (
        (['--config', 'x.yml', 'init'], {}),
        (['init'], {'DISTRIBUTED_CRON_CONFIG': 'x.yml'}),
    ):
        code, out, err = place.run(*args, **env)
        assert (code, out) == (2, '') and 'x.yml: No such file' in err
    assert not os.path.exists(place.beside) and os.listdir(place.home) == []


def test_the_first_says_the_defaults(folder):
    file = os.path.join(folder, 'x.yml')
    write(file, dc.FIRST_CONFIG)
    assert vars(dc.load_config(file, 'here')) == vars(dc.Config({}, file, 'here'))


# What explains each key: the shipped file, and the first one.


def uncommented(text):
    """A configuration with its commented keys as keys."""
    return re.sub(r'(?m)^( *)# ( *[a-z_]+:)(?= |$)', r'\1\2', text)


def lines_by_key(text):
    """The line of each key, with the comment lines that follow it, as one text."""
    found = {}
    section = key = None
    for line in uncommented(text).splitlines():
        name = re.match('( *)([a-z_]+):', line)
        if name and name[1]:
            key = '%s.%s' % (section, name[2])
        elif name:
            key = section = name[2]
        elif not line:
            key = None
        found[key] = '%s\n%s' % (found.get(key, ''), line)
    return found


def words_of(check):
    """The words and the limits that an explanation must name."""
    limits = re.findall('[0-9][0-9.]*', check.words)
    words = check.words.partition(': ')[2].split(', ')
    return [word for word in (*limits, *words) if word not in ('', str(10**15))]


SHIPPED = dc.read_text(os.path.join(ROOT, 'distributed_cron.yml'))
explained = pytest.mark.parametrize(
    'text', [SHIPPED, dc.FIRST_CONFIG], ids=['shipped', 'first']
)


@explained
def test_every_key_is_named_with_its_default_and_what_it_allows(text):
    values = dc.dotted(yaml.safe_load(uncommented(text)))
    assert set(values) == set(dc.KEYS)
    lines = lines_by_key(text)
    for key, (default, check) in dc.KEYS.items():
        if default in (None, ()):
            assert 'by default' in lines[key], key
        elif values[key] != default:
            assert 'by default %s' % default in lines[key], key
        said = re.findall(r'\w+(?:\.\w+)?', lines[key])
        assert [word for word in words_of(check) if word not in said] == [], key
        if check is dc.YES_OR_NO:
            assert 'yes or no' in lines[key], key
        if 'list' in check.words:
            assert 'list' in said, key


@explained
def test_its_commented_keys_load_too(folder, text):
    text = uncommented(text).replace('engine: sqlite', '', 1)
    text = re.sub('(?m)^( +)password_file: .*\n', '', text)
    file = os.path.join(folder, 'x.yml')
    write(file, text)
    config = dc.load_config(file)
    assert config.db_engine == 'mysql'
    assert config.hosts == [('db.example.com', 3306, None)]
    assert config.db_tls == {'ca': os.path.join(folder, 'ca.pem')}
    assert config.web_editors == ['alice', 'bob']


def test_the_two_are_one():
    assert SHIPPED == dc.FIRST_CONFIG


def test_nothing_lies_in_a_folder_of_all(folder):
    """But beside the configuration, where nobody else can make it first."""
    file = os.path.join(folder, 'x.yml')
    config = dc.Config({}, file, 'here')
    assert config.log_location == os.path.join(folder, 'log')
    assert config.state_location == os.path.join(folder, 'log', 'state-here')


# What it may say.


@pytest.mark.parametrize(
    'check, words, good, bad',
    [
        (
            dc.a_number(0.1, 60),
            'a number from 0.1 to 60',
            [0.1, 1, 60, 2.5],
            [0.09, 60.1, True, '1', [1], None, float('nan'), float('inf')],
        ),
        (
            dc.a_number(1, 10, whole=True),
            'a whole number from 1 to 10',
            [1, 10],
            [0, 11, 1.0, True, '1'],
        ),
        (dc.one_of('a', 'b'), 'one of: a, b', ['a', 'b'], ['c', 'a, b', ['a'], {}]),
        (
            dc.TLS_FILES,
            'files by these keys, ca always: ca, cert, key',
            [{'ca': 'x'}, {'ca': 'x', 'cert': 'y', 'key': 'z'}],
            [{}, {'cert': 'x', 'key': 'y'}, {'ca': None}, {'ca': ['x']}, ['ca'], 'ca'],
        ),
        (
            dc.either(dc.a_number(1, 2), dc.one_of('all')),
            'a number from 1 to 2, or one of: all',
            [1, 2, 'all'],
            [3, 'one', True],
        ),
        (dc.ANY_TEXT, 'text', ['x', 1, 1.5], [True, ['x'], {'x': 1}]),
        (
            dc.TEXTS,
            'a list of texts',
            [['x'], ['x', 'y']],
            [[], [1], ['x', 1], 'x'],
        ),
        (dc.YES_OR_NO, 'yes or no', [True, False], ['yes', 1, 0, None]),
    ],
)
def test_a_check_allows_what_it_says(check, words, good, bad):
    assert check.words == words
    assert [value for value in good if not check.allows(value)] == []
    assert [value for value in bad if check.allows(value)] == []


def test_each_default_is_allowed():
    for key, (default, check) in dc.KEYS.items():
        if default not in (None, ()):
            assert check.allows(default), key


def test_a_file_wins_over_its_connect_string_and_that_over_the_defaults():
    string = 'dbi:mysql:database=d;host=h;port=7;mysql_read_timeout=9;mysql_ssl=1'
    config = dc.Config({'db.connect_string': string}, 'x.yml')
    assert config.hosts == [('h', 7, None)]
    assert (config.db_engine, config.db_database, config.db_timeout) == (
        'mysql',
        'd',
        9,
    )
    values = {'connect_string': string, 'host': ['a', 'b:1', '/s'], 'timeout': 3}
    config = dc.Config({'db': values}, 'x.yml')
    assert config.hosts == [('a', 7, None), ('b', 1, None), ('localhost', 0, '/s')]
    assert (config.db_database, config.db_timeout) == ('d', 3)


@pytest.mark.parametrize(
    'string, engine, path, port',
    [
        ('dbi:SQLite:dbname=x.db', 'sqlite', '/f/x.db', 3306),
        ('DBI:Pg:dbname=x', 'postgresql', '/f/distributed_cron.db', 5432),
        ('dbi:MariaDB:database=x;host=h', 'mysql', '/f/distributed_cron.db', 3306),
        ('dbi:mysql:;\n', 'mysql', '/f/distributed_cron.db', 3306),
    ],
)
def test_drivers_of_connect_strings(string, engine, path, port, monkeypatch):
    monkeypatch.setattr(dc, 'MYSQL_SOCKETS', ())
    config = dc.Config({'db.connect_string': string}, '/f/x.yml')
    assert (config.db_engine, config.db_path) == (engine, path)
    assert config.hosts[0][1] == port


def test_localhost_is_the_socket_where_there_is_one(folder, monkeypatch):
    socket = os.path.join(folder, 'socket')
    monkeypatch.setattr(dc, 'MYSQL_SOCKETS', [socket + '.not', socket])
    assert dc.parse_host('localhost', 3306) == ('localhost', 3306, None)
    write(socket, '')
    assert dc.parse_host('localhost', 3306) == ('localhost', 0, socket)
    assert dc.parse_host('localhost:3306', 1) == ('localhost', 0, socket)
    assert dc.parse_host('localhost', 5432) == ('localhost', 5432, None)
    assert dc.parse_host('localhost:3307', 3306) == ('localhost', 3307, None)


def test_dotted_keys_are_nested_ones_and_empty_ones_are_none():
    nested = {'log': {'location': '/l', 'max_bytes': None}, 'max_tasks': ''}
    assert dc.dotted(nested) == {'log.location': '/l'}
    for tls in {'db': {'tls': {'ca': 'x'}}}, {'db.tls': {'ca': 'x'}}:
        assert dc.dotted(tls) == {'db.tls': {'ca': 'x'}}
    config = dc.Config({'log.location': '/l', 'web.editors': ['a']}, '/f/x.yml', 'me')
    assert config.state_location == '/l/state-me' and config.worker_log == '/l/me.log'
    assert config.job_log(3) == '/l/3.log'
    for nothing in (None, {}, ''):
        assert dc.Config(nothing, 'x.yml').max_tasks == os.cpu_count()


@pytest.mark.parametrize('name', ['', 'a b', '.a', 'a/b', 'x' * 192])
def test_names_of_hosts(name):
    if name:
        with pytest.raises(dc.BadConfig, match=r'^--name .*; allowed: 1 to 191 char'):
            dc.Config({}, 'x.yml', name)
    else:
        assert dc.Config({}, 'x.yml', name).name == os.uname().nodename


# Mistakes.


@pytest.mark.parametrize(
    'text, said',
    [
        (
            'log: {max_bytes: 999}',
            'log.max_bytes: 999 is not allowed; allowed: a whole number from 1000 to '
            '1000000000000000',
        ),
        (
            'db: {host: []}',
            'db.host: [] is not allowed; allowed: text, or a list of texts',
        ),
        (
            'db: {tls: {caa: x}}',
            "db.tls: {'caa': 'x'} is not allowed; allowed: files by these keys, ca "
            'always: ca, cert, key',
        ),
        (
            'db: {engine: postgresql, tls: {cert: x, key: y}}',
            "db.tls: {'cert': 'x', 'key': 'y'} is not allowed; allowed: files by these "
            'keys, ca always: ca, cert, key',
        ),
        (
            'pol_seconds: 1',
            "unknown key 'pol_seconds'; the nearest known is poll_seconds",
        ),
        ('port: 1', "unknown key 'port'; the nearest known is db.password"),
        (
            'db: {connect_string: "dbi:mysql:databse=x"}',
            "unknown key in db.connect_string: 'databse'; the nearest known is database",
        ),
        (
            'db: {connect_string: "dbi:mysql:mysql_read_timeout=1.5"}',
            "db.timeout: '1.5' is not allowed; allowed: a number from 1 to 60",
        ),
        (
            'db: {host: "a:0"}',
            "db.host: 'a:0'; allowed: host, host:port, [address]:port or /socket, with a "
            'port of 1 to 65535',
        ),
        (
            'max_tasks: {a: 1}',
            "max_tasks: {'a': 1} is not allowed; allowed: a whole number from 1 to "
            '100000, or one of: cpu_full, cpu_half, cpu_quarter',
        ),
        ('[1]', 'must be lines of `key: value`'),
    ],
)
def test_a_mistake_says_key_value_and_what_is_allowed(folder, text, said):
    assert error_of(folder, text) == said


@pytest.mark.parametrize(
    'text', ['!!bool maybe', '!!int ""', '!!timestamp x', '!!float ""', '2026-13-45']
)
def test_a_value_that_is_not_what_its_tag_says(folder, text):
    assert error_of(folder, 'max_tasks: %s' % text).startswith('is not YAML: ')


@pytest.mark.parametrize(
    'text',
    [
        'password: [hunter2]',
        'password: {hunter2: }',
        'password: *hunter2',
        'password: !hunter2',
        'password: !hunter2!x y',
        'password: !hunter2\'"3',
        'password: "hunter2',
        'password: %hunter2',
        'password: hunter2: x',
        'password: !!bool hunter2',
        'password: !!int hunter2',
        'password: &hunter2 x\n  username: &hunter2 y\n  path: [',
        'password: !a%20hunter2 x',
        'password: !<a hunter2> x',
        'password: "x\\hunter2"',
        'password: *a\'hunter2',
        'host: root:hunter2@db',
        'host: [a, "root:hunter2@db:99999"]',
        'connect_string: dbi:mysql:password=hunter2',
        'connect_string: dbi:mysqlpassword=hunter2',
    ],
)
def test_no_mistake_shows_a_password(folder, text):
    assert 'hunter2' not in error_of(folder, 'db:\n  %s\n' % text)


@pytest.mark.parametrize(
    'text, said',
    [
        ('db:\n  password: *x', 'line 2, column 13: found undefined alias'),
        (
            'db:\n  password: !x y',
            'line 2, column 13: could not determine a constructor for the tag',
        ),
        ('a: b: c', 'line 1, column 5: mapping values are not allowed in this context'),
        ('\0', 'it has a character that YAML forbids, or is nested too deep'),
    ],
)
def test_what_is_not_yaml_says_where(folder, text, said):
    assert error_of(folder, text) == 'is not YAML: ' + said


BOMB = 'x'
for level in range(6):  # each a list of ten of the one before: a million in all
    BOMB = '&a%d [%s%s]' % (level, BOMB, ', *a%d' % (level - 1) * 9 if level else '')


@pytest.mark.parametrize(
    'text',
    ['db: {host: %s}', 'db: {tls: {ca: %s}}', 'web: {editors: %s}', 'max_tasks: %s'],
)
def test_a_bomb_of_aliases_is_one_short_line(folder, text):
    said = error_of(folder, text % BOMB)
    assert ' is not allowed; allowed: ' in said and len(said) < 1000


def test_a_password_is_the_first_line_of_its_file(folder):
    file = os.path.join(folder, 'x.yml')
    write(file, 'db: {password: no, password_file: secret}'.replace('no', '"no"'))
    write(os.path.join(folder, 'secret'), ' pässword \r\nmore')
    assert dc.load_config(file).db_password == ' pässword '
    with open(os.path.join(folder, 'secret'), 'wb') as stream:
        stream.write(b'\xe4\n')
    text = 'db: {password_file: %s}'
    assert error_of(folder, text % 'secret') == 'db.password_file: is not UTF-8 text'
    assert (
        error_of(folder, text % 'gone') == 'db.password_file: No such file or directory'
    )


def test_a_file_that_is_not_utf_8(folder):
    file = os.path.join(folder, 'x.yml')
    with open(file, 'wb') as stream:
        stream.write(b'max_tasks: \xff')
    with pytest.raises(dc.BadConfig, match=r'x\.yml: .*utf-8'):
        dc.load_config(file)
