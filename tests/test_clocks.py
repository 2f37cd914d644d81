"""Servers of db.host whose clocks differ: one that fails over, or nodes of a cluster."""

import glob

import pytest
from conftest import Place
from servers import MariaDB

FAKETIME = next(glob.iglob('/usr/lib/*/faketime/libfaketimeMT.so.1'), None)


@pytest.fixture
def servers(tmp_path, monkeypatch):
    """Two servers; the second one's clock is two minutes ahead."""
    made = []
    for name in ('right', 'wrong'):
        (tmp_path / name).mkdir()
        made.append(MariaDB(str(tmp_path / name)))
    right, wrong = made
    try:
        right.start().make_account()
        with monkeypatch.context() as patch:
            patch.setenv('LD_PRELOAD', FAKETIME)
            patch.setenv('FAKETIME', '+120s')
            patch.setenv('FAKETIME_DONT_FAKE_MONOTONIC', '1')
            wrong.start().make_account()
        yield right, wrong
    finally:
        for server in made:
            server.stop()


@pytest.mark.slow
@pytest.mark.skipif(FAKETIME is None, reason='libfaketime is missing')
def test_a_server_with_another_clock_is_passed_over(servers, tmp_path):
    """While another one will do: it would take runs that go on for lost."""
    right, wrong = servers
    place = Place(tmp_path, 'mysql', right)
    db = dict(place.values['db'])
    addresses = {server: '127.0.0.1:%d' % server.port for server in servers}

    def use(*chosen):
        place.write(db=dict(db, host=[addresses[server] for server in chosen]))

    for server in servers:
        use(server)
        place.run('init')
    use(right)
    place.store = place.new_store()
    place.run('run', name='one')
    use(wrong, right)
    place.add('echo here')
    place.run('run', name='one')
    assert [run.output for run in place.runs()] == ['here\n']
    said = '%s is passed over: its clock is another' % addresses[wrong]
    assert place.read('log/one.log').count(said) == 1
    checked = place.run('check', name='one', code=1)
    assert 'bad  servers: their clocks differ: ' in checked
    right.stop()
    place.run('run', name='one')  # no other will do
    use(wrong)
    place.store = place.new_store()
    assert [host.name for host in place.sql('SELECT * FROM host')] == ['one']
