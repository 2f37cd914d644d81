"""Each setting that servers carry, shortly; $DISTRIBUTED_CRON_SETTINGS has all tests run
with some. Those that can be set together are."""

import re
import shutil

import pytest
from conftest import CHOSEN, Place
from servers import ELSEWHERE, MySQL
from settings import SETTINGS, serve

TOGETHER = (
    'ansi,latin1,packet,wait,mixed,serializable,autocommit,myisam,no-zones',
    'backslash,quarter-zone',
    'padded',
    'no-mode',
    'pg-serializable,pg-zone,pg-datestyle,pg-path,pg-strings,pg-hasty',
    'pg-repeatable,pg-impatient',
    'pgbouncer-session,pg-datestyle',
)
UNSUPPORTED = 'statement', 'pgbouncer-transaction'
ADDED = (
    ('--every', '1', 'printf "\\\\377 \'it\'\' \\"is\\" ü 100%% ☃\\n"'),
    ('--schedule', 'H * * * *', '--name', 'parent', '--start', '01:00', 'true'),
    ('--at', '2100-01-01 00:00', '--time-zone', 'Europe/Berlin', 'true'),
    ('--after', 'parent', '--retries', '2', '--description', 'ü ☃ \\ \' "', 'true'),
    ('--every', '1', '--each-host', '--on', 'one', 'echo each'),
)
pytestmark = pytest.mark.skipif(
    bool(CHOSEN), reason='the servers of all tests carry settings already'
)


@pytest.fixture
def settled(request, tmp_path):
    """A place on a server with settings, by their names in a text; without tables."""
    names = request.param.split(',')
    engine = SETTINGS[names[0]].engine
    if any(name.startswith('pgbouncer') for name in names) and not (
        shutil.which('pgbouncer') or ELSEWHERE
    ):
        pytest.skip('no pgbouncer here')
    with serve(engine, *names) as server:
        if engine == 'postgresql':
            server.settings('CREATE DATABASE d')
        place = Place(tmp_path, engine, server)
        yield place
        place.close()


@pytest.mark.parametrize('settled', TOGETHER, indirect=True)
def test_all_works_with_the_settings_of_a_server(settled):
    """What people type, and a pass of cron's."""
    place = settled.init()
    for words in ADDED:
        assert place.run('add', *words).startswith('job ')
    place.store.execute("INSERT INTO job (command) VALUES ('echo plain')")
    place.run('run', name='one')
    assert [run.status for run in place.runs()] == ['Success'] * 3, place.runs()
    output = place.runs(1)[0].output
    assert output.split(' ', 1)[1] == '\'it\'\' "is" ü 100% ☃\n'
    assert place.run('history').count('Success') == 3
    printed = place.run('list')
    assert 'ü ☃ \\ \' "' in printed and 'after job 2' in printed, printed
    checked = place.run('check', name='one')
    assert 'bad' not in re.findall('(?m)^[a-z]+', checked), checked
    for statement in (place.store.dialect.begin, 'COMMIT'):
        place.store.execute(statement)
    committed = place.add()  # as a statement of its own is, also after a transaction
    place.run('remove', str(committed))
    place.run('edit', '1', '--command', 'false', '--schedule', '* * * * *')
    place.run('run-now', '1')
    place.run('run', name='one')
    assert place.job(1).last_status == 'ERROR: exit 1'
    assert 'exit 1' in place.run('history', '1')
    place.run('remove', '4')
    place.run('init')  # finds nothing to do
    exported = place.run('export', '--yaml')
    assert '☃' in exported


def test_each_setting_is_tried():
    named = {name for names in TOGETHER for name in names.split(',')}
    assert named | {*UNSUPPORTED} == {*SETTINGS}


@pytest.mark.skipif(bool(MySQL.program), reason='MySQL writes rows')
@pytest.mark.parametrize('settled', ['statement'], indirect=True)
def test_statements_in_a_binlog_are_refused_in_one_line(settled):
    printed = settled.run('init', code=1)
    assert 'BINLOG_FORMAT' in printed.upper(), printed


@pytest.mark.parametrize('settled', ['pgbouncer-transaction'], indirect=True)
def test_check_knows_a_pooler_that_keeps_no_session(settled):
    settled.init()
    settled.run('run', name='one')
    printed = settled.run('check', name='one', code=1)
    bad = re.findall('(?m)^bad .*', printed)
    assert len(bad) == 1 and 'pool_mode' in bad[0], printed
