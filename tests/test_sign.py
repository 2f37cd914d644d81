"""Signed jobs: what a host runs that requires it, and how jobs are signed. Each attack
is on a real table, with OpenSSH's own ssh-keygen."""

import json
import os
import re
import signal
import subprocess
import time

import pytest
from conftest import ROOT, dc, exit_status, fork
from servers import wait_until

NAMES = ('alice', 'bob', 'mallory')


@pytest.fixture(scope='session')
def keys(tmp_path_factory):
    """{name: the file of a private key}"""
    folder = tmp_path_factory.mktemp('keys')
    for name in NAMES:
        subprocess.run(
            ['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', str(folder / name)],
            check=True,
        )
    return {name: str(folder / name) for name in NAMES}


def public(key):
    """Type and key of a public key, without its comment."""
    return ' '.join(dc.read_text(key + '.pub').split()[:2])


class Signing:
    """A place whose host requires signatures by alice or bob."""

    def __init__(self, place, keys):
        self.place = place
        self.keys = keys
        self.trust(
            'alice@ops %s' % public(keys['alice']), 'bob %s' % public(keys['bob'])
        )
        place.write(
            poll_seconds=0.2,
            sign={'required': True, 'signers': 'signers', 'cluster': 'production'},
        )

    def path(self, name):
        return os.path.join(self.place.folder, name)

    def trust(self, *lines):
        with open(self.path('signers'), 'w') as file:
            file.write(''.join(line + '\n' for line in lines))

    def configure(self, **sign):
        self.place.write(sign={**self.place.values['sign'], **sign})

    def sign(self, *ids, by='alice', **how):
        key = self.keys[by]
        ids = map(str, ids)
        return self.place.run('sign', *ids, '--key', key, '--yes', **how)

    def add(self, file, **values):
        """A signed job, which leaves a file when it runs; returns its id."""
        id = self.place.add('touch %s' % self.path(file), **values)
        self.sign(id)
        return id

    def ran(self, name):
        return os.path.exists(self.path(name))

    def change(self, id, **values):
        """As somebody does who may write the table."""
        dc.update_job(self.place.store, id, values)

    def run(self, *ids, code=0):
        """Let a worker run jobs at once, and nothing that was not due."""
        for id in ids:
            dc.act(self.place.store, 'run-now', id)
        self.place.run('run', code=code)

    def status(self, id):
        return self.place.job(id).last_status

    def armor(self, data, by='alice', namespace='distributed_cron'):
        """A signature by plain ssh-keygen."""
        done = subprocess.run(
            ['ssh-keygen', '-Y', 'sign', '-f', self.keys[by], '-n', namespace],
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=True,
        )
        return done.stdout.decode()

    def forge(self, id, by='alice', signer='alice@ops', namespace='distributed_cron'):
        """Sign a job as it is in the table, whatever is wrong with that."""
        job = self.place.job(id)
        texts = dc.texts_of(job._replace(rev=time.time_ns() // 1000), 'production')
        armor = self.armor(dc.signed_bytes(texts), by, namespace)
        text = '\n'.join((signer, dc.list_of(texts), armor))
        self.change(id, rev=int(texts['rev']), signature=text)


@pytest.fixture
def signing(place, keys):
    return Signing(place, keys)


@pytest.fixture
def sqlite_signing(sqlite_place, keys):
    return Signing(sqlite_place, keys)


CHANGES = {  # what somebody writes into a row, and what is said of it
    'command': 'echo evil',
    'schedule': '* * * * *',
    'frequency': 90,
    'start_anchor': '00:00:00',
    'stop_anchor': '23:59:59',
    'run_on': 'here',
    'time_zone': 'Asia/Tokyo',
    'start_within': 5,
    'max_run_time': 29,
    'retries': 3,
    'retry_delay': 1,
    'after_job': 1,
    'name': 'another',
    'not_after': '2099-01-01 00:00:00',
    'rev': 7,
}


def test_a_changed_row_does_not_run(signing):
    """One pass: whatever was changed is refused, and says so; the others run."""
    values = {'frequency': 60, 'max_run_time': 30}
    good = signing.place.add('touch %s' % signing.path('good'), **values)
    ids = {
        name: signing.place.add('touch %s' % signing.path('bad-' + name), **values)
        for name in CHANGES
    }
    never = signing.place.add('touch %s' % signing.path('bad-unsigned'))
    signing.sign(good, *ids.values())
    for name, value in CHANGES.items():
        signing.change(ids[name], **{name: value})
    signing.run(good, never, *ids.values())
    assert signing.status(good) == 'Success'
    assert signing.ran('good')
    assert signing.status(never) == 'ERROR: refused: it is not signed'
    for name, id in ids.items():
        text = 'ERROR: refused: it is not what alice@ops signed: %s' % name
        assert signing.status(id) == text
    assert not [name for name in os.listdir(signing.place.folder) if 'bad' in name]
    run = signing.place.runs(never)[0]
    assert run.run_no == 1 and run.exit_code is None and run.output is None
    job = signing.place.job(never)
    assert (job.failures, job.run_token, job.attempt) == (1, None, 0)
    assert job.next_run_utc > str(signing.place.store.now())  # planned anew


def test_a_refused_job_is_not_tried_again(signing):
    id = signing.place.add('true', frequency=60, retries=5, retry_delay=1)
    signing.run(id)
    job = signing.place.job(id)
    assert (job.run_no, job.attempt, job.failures) == (1, 0, 1)
    minutes = dc.moment(job.next_run_utc) - signing.place.store.now()
    assert minutes > 50 * dc.MINUTE


def test_signatures_of_others(signing):
    """Of another job, another installation, a key that is not listed, under another
    name, in another namespace, or none at all."""
    place = signing.place
    names = 'id cluster key bob namespace newline rubbish'.split()
    command = 'touch %s' % signing.path('bad')
    ids = {name: place.add(command, frequency=60) for name in names}
    other = signing.add('bad', active=0)
    row = place.job(other)
    signing.change(ids['id'], rev=row.rev, signature=row.signature)
    signing.configure(cluster='staging')
    signing.sign(ids['cluster'])
    signing.configure(cluster='production')
    signing.forge(ids['key'], by='mallory')
    signing.forge(ids['bob'], by='bob', signer='alice@ops')
    signing.forge(ids['namespace'], namespace='file')
    signing.forge(ids['newline'], by='mallory', signer='alice@ops\nmallory')
    signing.change(ids['rubbish'], signature='alice@ops\n%s\n-' % ('[' * 60000))
    signing.run(*ids.values())
    said = {name: signing.status(id) for name, id in ids.items()}
    differs = 'ERROR: refused: it is not what alice@ops signed: %s'
    assert said.pop('id') == differs % 'id'
    assert said.pop('cluster') == differs % 'cluster'
    assert 'namespace' in said.pop('namespace')
    assert said.pop('newline') == said.pop('rubbish')
    for text in said.values():
        assert text.startswith('ERROR: refused: the signature of alice@ops does not')
    assert not signing.ran('bad')


def krl(signing):
    """A key revocation list as OpenSSH makes it."""
    subprocess.run(
        ['ssh-keygen', '-q', '-k', '-f', 'krl', signing.keys['alice'] + '.pub'],
        cwd=signing.place.folder,
        check=True,
    )
    signing.configure(revoked='krl')


def list_of_keys(signing):
    with open(signing.path('revoked'), 'w') as file:
        file.write(public(signing.keys['alice']) + '\n')
    signing.configure(revoked='revoked')


def expired(signing):
    signing.trust('alice@ops valid-before="20200101" ' + public(signing.keys['alice']))


def for_files(signing):
    signing.trust('alice@ops namespaces="file" ' + public(signing.keys['alice']))


def removed(signing):
    signing.trust('bob ' + public(signing.keys['bob']))


@pytest.mark.parametrize('lose', [krl, list_of_keys, expired, for_files, removed])
def test_a_key_that_is_no_longer_good(sqlite_signing, lose):
    """Also on a host that remembers that the signature was good."""
    signing = sqlite_signing
    id = signing.add('ran', frequency=60)
    signing.run()
    assert signing.ran('ran')
    os.unlink(signing.path('ran'))
    lose(signing)
    signing.run(id)
    assert 'refused: the signature of alice@ops does not hold' in signing.status(id)
    assert not signing.ran('ran')


def test_an_older_version_is_refused_where_a_newer_one_is_known(signing):
    id = signing.add('old', frequency=60)
    old = signing.place.job(id)
    signing.run(id)
    os.unlink(signing.path('old'))
    signing.place.run('edit', str(id), '--command', 'touch ' + signing.path('new'))
    signing.sign(id)
    signing.run(id)
    assert signing.ran('new')
    replay = {name: getattr(old, name) for name in ('command', 'rev', 'signature')}
    signing.change(id, **replay)
    signing.run(id)
    assert signing.status(id) == (
        'ERROR: refused: this host knows a newer version of it'
    )
    assert not signing.ran('old')
    signing.sign(id)  # as after a restore
    signing.run(id)
    assert signing.status(id) == 'Success'


def test_until_when_a_signature_holds(sqlite_signing):
    signing = sqlite_signing
    id = signing.add('ran', frequency=60)
    job = signing.place.job(id)._replace(not_after='2020-01-01 00:00:00')
    signing.change(id, not_after=job.not_after)
    signing.forge(id)
    signing.run(id)
    assert signing.status(id) == (
        'ERROR: refused: its signature was good until 2020-01-01 00:00:00'
    )
    key = signing.keys['alice']
    args = ('sign', str(id), '--key', key, '--yes', '--not-after')
    signing.place.run(*args, '2099-01-01')
    assert signing.place.job(id).not_after == '2099-01-01 00:00:00'
    signing.run(id)
    assert signing.status(id) == 'Success'
    assert 'in the past' in signing.place.run(*args, '2020-01-01', code=2)
    assert 'allowed' in signing.place.run(*args, 'soon', code=2)


def test_jobs_of_a_template(signing):
    """They hold by its signature, if they are as it is, on the host for which each is."""
    place = signing.place
    template = signing.add('ran', frequency=60, each_host=1, name='each')
    signing.run()
    child = place.sql('SELECT * FROM job WHERE parent_id = :id', id=template)[0]
    signing.run(child.id)
    assert signing.status(child.id) == 'Success'
    with open(signing.path('ran'), 'w'):
        pass
    os.unlink(signing.path('ran'))
    signing.run()  # so that the next worker has nothing to follow within its minute
    evil = place.add('touch %s' % signing.path('evil'), frequency=60)
    # A worker follows templates before it starts jobs: so it claims at once, by hand.
    values = {name: getattr(place.job(child.id), name) for name in dc.INHERITED}
    flaws = {
        'command': {'command': 'echo evil'},
        'id': {'parent_id': evil},
        'for other hosts': {'run_on': 'elsewhere'},
    }
    row = place.job(child.id)
    config = place.config('here')
    memory = dc.Signatures(config, config.state_location)
    memory.prepare()
    assert dc.flaw_of(row, 'production', memory.doubt, config.words) is None
    for text, change in flaws.items():
        flaw = dc.flaw_of(
            row._replace(**change), 'production', memory.doubt, config.words
        )
        assert text in flaw
    # An ordinary job is no template, though a row says that it is a child of it.
    plain = signing.add('plain', frequency=60)
    values = {name: getattr(place.job(plain), name) for name in dc.INHERITED}
    place.store.insert('job', {**values, 'parent_id': plain, 'run_on': 'here'})
    fake = place.sql('SELECT * FROM job WHERE parent_id = :id', id=plain)[0]
    flaw = dc.flaw_of(fake, 'production', memory.doubt, config.words)
    assert 'signed: each_host' in flaw
    said = place.run('sign', str(child.id), '--key', signing.keys['alice'], code=2)
    assert 'name job %d' % template in said


def test_the_bytes_that_were_verified_are_those_that_start(signing):
    """The row is changed between claim and start, after it was read."""
    id = signing.add('good', frequency=60)
    config = signing.place.config('here')

    def work():
        allowed = dc.Signatures.allowed

        def change_first(self, rows, claim, store):
            dc.update_job(
                dc.Store(config).connect(),
                id,
                {'command': 'touch %s' % signing.path('evil')},
            )
            return allowed(self, rows, claim, store)

        dc.Signatures.allowed = change_first
        return dc.work(config)

    assert exit_status(fork(work)) == 0
    assert signing.status(id) == 'Success'
    assert signing.ran('good') and not signing.ran('evil')
    signing.run(id)  # and the next run sees the change
    assert 'signed: command' in signing.status(id)
    assert not signing.ran('evil')


def test_the_alert_job_is_the_built_in_one(sqlite_signing):
    signing = sqlite_signing
    signing.place.write(alert={'command': 'true'})
    signing.place.run('init')
    id = dc.job_of(signing.place.store, 'alert').id
    signing.change(id, command='touch %s' % signing.path('evil'))
    signing.run(id)
    assert signing.status(id) == 'Success'
    assert not signing.ran('evil')
    assert 'job %d' % id not in signing.place.run('verify')


def test_the_numbers_of_the_alert_job_are_numbers(sqlite_signing):
    """Its command passes its environment on to alert.command."""
    signing = sqlite_signing
    signing.place.write(alert={'command': 'true'})
    signing.place.run('init')
    id = dc.job_of(signing.place.store, 'alert').id
    signing.change(id, attempt='a[$(echo evil)]')
    signing.run(id)
    assert signing.status(id) == 'ERROR: refused: a number of it is none'
    assert signing.place.job(id).attempt == 0


def test_a_time_that_is_none_ends_no_worker(sqlite_signing):
    """Nor one with an offset, though nobody has to sign it to have it looked at."""
    signing = sqlite_signing
    good = signing.add('good', frequency=60)
    for until in ('2099-01-01 00:00:00+00:00', '20990101', 'soon'):
        id = signing.place.add('touch %s' % signing.path('bad'), frequency=60)
        signing.change(id, not_after=until)
        signing.forge(id)
        signing.run(id)
        text = 'ERROR: refused: its signature was good until %s' % until
        assert signing.status(id) == text
        assert text[16:] in signing.place.run('verify', str(id), code=1)
    signing.run(good)
    assert signing.ran('good') and not signing.ran('bad')


def test_a_name_that_somebody_gives_a_child(sqlite_signing):
    """Its command would find it in its environment."""
    signing = sqlite_signing
    template = signing.add('ran', frequency=60, each_host=1, name='each')
    signing.run()
    which = 'SELECT * FROM job WHERE parent_id = :id'
    child = signing.place.sql(which, id=template)[0]
    signing.change(child.id, name='evil')
    signing.run(child.id)
    text = 'ERROR: refused: it is not what alice@ops signed: name'
    assert signing.status(child.id) == text


def test_a_warning_alone(signing):
    signing.configure(required='warn')
    id = signing.place.add('touch %s' % signing.path('ran'), frequency=60)
    signing.run(id)
    assert signing.status(id) == 'Success'
    assert signing.ran('ran')
    assert signing.place.runs(id)[0].note.startswith('not as signed: it is not signed')


def test_a_host_that_does_not_require_it_asks_nothing(signing, monkeypatch):
    """No import, no column more, and no file."""
    signing.configure(required=False)
    config = signing.place.config('here')
    assert dc.claimed_columns(config) == dc.CLAIMED
    rows = ['anything']
    assert dc.Signatures(config, '/nowhere').allowed(rows, None, '') is rows
    id = signing.place.add('true', frequency=60)
    signing.run(id)
    assert signing.status(id) == 'Success'
    assert not os.path.exists(signing.path('log/state-here/signed'))


def test_text_for_a_number_or_a_time(sqlite_signing):
    """SQLite takes it, and so does who answers in a database's place: the environment
    of a job would have it."""
    signing = sqlite_signing
    id = signing.add('ran', frequency=60)
    config = signing.place.config()
    memory = dc.Signatures(config, config.state_location)
    memory.prepare()
    row = signing.place.job(id)._replace(next_run_utc='2026-01-01 00:00:00')
    assert memory.flaw_of_run(row, 'production') is None
    text = 'a[$(echo evil)]'
    for name in ('run_no', 'attempt', 'next_run_utc'):
        flaw = memory.flaw_of_run(row._replace(**{name: text}), 'production')
        assert flaw.endswith(' is none')
    assert memory.flaw_of_run(row._replace(run_on='elsewhere'), 'production')


def test_a_worker_in_its_loop(signing):
    """A child that is changed while its worker runs; a configuration that it takes at
    SIGHUP, or not."""
    place = signing.place
    template = signing.add('each', frequency=60, each_host=1)
    worker = place.worker('here')
    which = 'SELECT * FROM job WHERE parent_id = :id'
    child = wait_until(lambda: place.sql(which, id=template), what='the child')[0].id
    wait_until(lambda: signing.status(child) == 'Success', what='its run')
    signing.change(child, command='touch %s' % signing.path('evil'))
    dc.act(place.store, 'run-now', child)
    text = 'ERROR: refused: it is not what alice@ops signed: command'
    wait_until(lambda: signing.status(child) == text, what='the refusal')
    assert not signing.ran('evil')
    os.chmod(signing.path('signers'), 0o666)
    worker.send_signal(signal.SIGHUP)
    text = 'others can write there'
    wait_until(lambda: text in place.worker_log('here'), what='a complaint')
    os.chmod(signing.path('signers'), 0o600)
    removed(signing)
    worker.send_signal(signal.SIGHUP)
    text = 'configuration read again'
    wait_until(lambda: text in place.worker_log('here'), what='the configuration')
    id = place.add('true', active=0)
    signing.sign(id, by='bob')
    dc.act(place.store, 'run-now', id)
    wait_until(lambda: signing.status(id) == 'Success', what='a run by bob')
    worker.terminate()
    assert worker.wait(20) == 0


# Who may sign, and with what.


@pytest.fixture
def counted(sqlite_signing, monkeypatch):
    """An ssh-keygen on the PATH that notes each time that it is asked."""
    signing = sqlite_signing
    os.mkdir(signing.path('bin'))
    real = subprocess.run(
        ['/bin/sh', '-c', 'command -v ssh-keygen'], stdout=subprocess.PIPE, check=True
    ).stdout.decode()
    with open(signing.path('bin/ssh-keygen'), 'w') as file:
        file.write(
            '#!/bin/sh\necho x >> %s\nexec %s "$@"\n'
            % (signing.path('asked'), real.strip())
        )
    os.chmod(signing.path('bin/ssh-keygen'), 0o755)
    monkeypatch.setenv('PATH', signing.path('bin') + ':' + os.environ['PATH'])

    def count():
        asked = signing.place.read('asked').count('x')
        open(signing.path('asked'), 'w').close()
        return asked

    signing.count = count
    return signing


def test_a_good_signature_is_verified_once(counted):
    """Over workers; of one that is good for nothing, nobody asks twice in a run."""
    ids = [counted.add('ran', frequency=60) for _ in range(5)]
    unsigned = counted.place.add('true', frequency=60)
    counted.count()
    counted.run(unsigned)
    assert counted.count() == 5
    counted.run(*ids, unsigned)
    assert counted.count() == 0
    assert {counted.status(id) for id in ids} == {'Success'}
    counted.place.run('edit', str(ids[0]), '--retries', '2')
    counted.sign(ids[0])
    counted.count()
    counted.run(*ids)
    assert counted.count() == 1
    counted.trust('alice@ops ' + public(counted.keys['alice']))
    counted.run(*ids)
    assert counted.count() == 5
    state = json.loads(counted.place.read('log/state-here/signed'))
    assert len(state) == 5  # of each job, one


def test_a_full_state_folder_refuses_nothing(sqlite_signing):
    signing = sqlite_signing
    id = signing.add('ran', frequency=60)
    signing.place.run('run')
    os.unlink(signing.path('log/state-here/signed'))
    os.mkdir(signing.path('log/state-here/signed'))
    os.mkdir(signing.path('log/state-here/signed/x'))
    signing.run(id)
    assert signing.status(id) == 'Success'


@pytest.mark.parametrize('name', ['signers', 'revoked'])
def test_files_that_others_can_write_are_refused(sqlite_signing, name):
    signing = sqlite_signing
    with open(signing.path('revoked'), 'w'):
        pass
    signing.configure(revoked='revoked')
    signing.run()
    os.chmod(signing.path(name), 0o666)
    said = signing.place.run('run', code=2)
    assert '%s: others can write there' % name in said
    assert 'others can write there' in signing.place.run('check', code=1)
    os.unlink(signing.path(name))
    assert '%s: No such file' % name in signing.place.run('run', code=2)


def test_a_folder_that_others_can_write_is_refused(sqlite_signing):
    signing = sqlite_signing
    os.mkdir(signing.path('open'))
    os.rename(signing.path('signers'), signing.path('open/signers'))
    signing.configure(signers='open/signers')
    signing.run()
    os.chmod(signing.path('open'), 0o777)
    assert 'open: others can write there' in signing.place.run('run', code=2)


def test_a_link_into_a_folder_that_others_can_write_is_refused(sqlite_signing):
    signing = sqlite_signing
    os.mkdir(signing.path('open'))
    os.rename(signing.path('signers'), signing.path('open/signers'))
    os.symlink('open/signers', signing.path('signers'))
    signing.run()
    os.chmod(signing.path('open'), 0o777)
    assert 'open: others can write there' in signing.place.run('run', code=2)


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can give files away')
def test_a_file_of_somebody_else_is_refused(sqlite_signing):
    signing = sqlite_signing
    os.chown(signing.path('signers'), 65534, 65534)
    assert 'signers belongs to nobody' in signing.place.run('run', code=2)


def test_without_ssh_keygen_nothing_runs(sqlite_signing, monkeypatch, tmp_path):
    signing = sqlite_signing
    id = signing.add('ran', frequency=60)
    monkeypatch.setenv('PATH', str(tmp_path))
    said = signing.place.run('run', code=2)
    assert 'there is no ssh-keygen; install openssh-client' in said
    assert len(said.splitlines()) == 1
    config = signing.place.config()
    memory = dc.Signatures(config, config.state_location)
    memory.prepare()
    row = signing.place.job(id)
    assert dc.flaw_of(row, 'production', memory.doubt).startswith('ssh-keygen: ')


@pytest.mark.parametrize('required', [True, 'warn'])
def test_it_is_said_what_is_missing(sqlite_signing, required):
    signing = sqlite_signing
    signing.place.write(sign={'required': required})
    assert 'sign.signers is missing' in signing.place.run('run', code=2)
    said = signing.place.run('sign', '1', '--yes', code=2)
    assert 'sign.signers is missing' in said
    signing.place.write(sign={'required': required, 'signers': 'signers'})
    assert 'sign.cluster is missing' in signing.place.run('run', code=2)
    said = signing.place.run('sign', '1', '--yes', code=2)
    assert 'sign.cluster is missing' in said
    signing.place.write(sign={'required': 'maybe'})
    assert 'allowed: yes or no, or one of: warn' in signing.place.run('run', code=2)


# Commands.


def test_sign_shows_what_changed_before_it_asks(signing, monkeypatch):
    place = signing.place
    id = signing.add('good', frequency=60, description='the job')
    evil = 'touch good\n  not changed since alice@ops signed it\x1b[2J'
    signing.change(id, command=evil)
    monkeypatch.setattr('builtins.input', lambda question: 'n')
    said = place.run('sign', str(id), '--key', signing.keys['bob'], code=1)
    lines = said.splitlines()
    at = dc.text_of(dc.EPOCH + place.job(id).rev * dc.timedelta(microseconds=1))
    said = 'job %d the job: changed since alice@ops signed it at %s UTC'
    assert lines[0] == said % (id, at)
    assert lines[1] == '  - command: touch %s' % signing.path('good')
    assert lines[2] == '  + command: touch good'
    assert lines[3] == '        not changed since alice@ops signed it\u241b[2J'
    assert lines[4] == 'distributed_cron: nothing was signed'
    assert 'signed: command' in place.run('verify', str(id), code=1)
    # One that has no good signature is shown whole, whatever its column says.
    signing.forge(id, by='mallory')
    said = place.run('sign', str(id), '--key', signing.keys['bob'], code=1)
    assert 'has no good signature; all of it is new' in said
    assert '  + command: touch good' in said
    monkeypatch.setattr('builtins.input', lambda question: 'y')
    assert 'signed by bob' in place.run('sign', str(id), '--key', signing.keys['bob'])
    assert 'signed by bob' in place.run('verify', str(id))


def test_sign_says_of_when_a_version_is(sqlite_signing):
    """An old one that somebody has put back is not changed since it was signed."""
    signing = sqlite_signing
    id = signing.add('old', frequency=60)
    for rev, at in ((946684800 * 10**6, '2000-01-01 00:00:00 UTC'), (2**62, 'rev')):
        job = signing.place.job(id)._replace(rev=rev)
        texts = dc.texts_of(job, 'production')
        armor = signing.armor(dc.signed_bytes(texts))
        text = '\n'.join(('alice@ops', dc.list_of(texts), armor))
        signing.change(id, rev=rev, signature=text)
        said = 'not changed since alice@ops signed it at ' + at
        assert said in signing.sign(id)


def test_a_row_that_is_changed_while_somebody_signs(signing, monkeypatch):
    id = signing.place.add('true', frequency=60)

    def answer(question):
        signing.change(id, command='echo evil')
        return 'y'

    monkeypatch.setattr('builtins.input', answer)
    said = signing.place.run('sign', str(id), '--key', signing.keys['alice'], code=1)
    assert 'job %d was changed meanwhile: it is not signed' % id in said
    assert signing.place.job(id).signature is None


def test_a_rev_is_above_that_of_the_last_good_signature(sqlite_signing):
    signing = sqlite_signing
    id = signing.add('good', frequency=60)
    ahead = time.time_ns() // 1000 + 10**12  # the clock of whoever signed it
    job = signing.place.job(id)._replace(rev=ahead)
    texts = dc.texts_of(job, 'production')
    armor = signing.armor(dc.signed_bytes(texts))
    text = '\n'.join(('alice@ops', dc.list_of(texts), armor))
    signing.change(id, rev=ahead, signature=text)
    signing.sign(id)
    assert signing.place.job(id).rev == ahead + 1
    signing.change(id, rev=2**62, signature='none')  # what nobody has signed is not
    signing.sign(id)
    assert signing.place.job(id).rev < ahead


def test_signing_with_a_key_that_is_not_listed(sqlite_signing):
    signing = sqlite_signing
    id = signing.place.add('true')
    said = signing.sign(id, by='mallory', code=1)
    assert 'signers does not list the key' in said
    for_files(signing)
    said = signing.sign(id, code=1)
    assert 'the signature of alice@ops does not hold: ' in said
    assert signing.place.job(id).signature is None
    said = signing.place.run('sign', '1', '--key', '/nowhere', '--yes', code=1)
    assert 'could not sign with /nowhere' in said
    assert 'name the jobs, or --all' in signing.place.run('sign', code=2)
    assert 'name the jobs, or --all' in signing.place.run('sign', '1', '--all', code=2)


def test_signing_with_an_agent(sqlite_signing, monkeypatch):
    signing = sqlite_signing
    signing.place.add('true')
    signing.place.add('true')
    monkeypatch.delenv('SSH_AUTH_SOCK', raising=False)
    said = signing.place.run('sign', '--all', '--yes', code=1)
    assert 'the ssh agent has no key that' in said
    agent = subprocess.Popen(
        ['ssh-agent', '-D', '-a', signing.path('agent')], stdout=subprocess.DEVNULL
    )
    try:
        monkeypatch.setenv('SSH_AUTH_SOCK', signing.path('agent'))
        while not os.path.exists(signing.path('agent')):
            time.sleep(0.01)
        for name in ('mallory', 'bob'):
            subprocess.run(['ssh-add', '-q', signing.keys[name]], check=True)
        said = signing.place.run('sign', '--all', '--yes')
        assert said.count('signed by bob') == 2
        public_half = signing.keys['bob'] + '.pub'
        said = signing.place.run('sign', '1', '--yes', '--key', public_half)
        assert 'signed by bob' in said
    finally:
        agent.terminate()
        agent.wait()
    assert 'signed by bob' in signing.place.run('verify')


def test_apply_signs_what_the_file_says(signing, monkeypatch):
    """And nothing that is in the row instead; what is signed already, stays so."""
    place = signing.place
    with open(signing.path('jobs.yml'), 'w') as file:
        file.write(
            """jobs:
- {name: a, command: echo a, frequency: 60}
- {name: b, command: echo b, schedule: H 4 * * *, retries: 2}
"""
        )
    args = ('apply', signing.path('jobs.yml'), '--sign', '--key', signing.keys['bob'])
    assert 'signed' not in place.run(*args, '--dry-run', code=3)
    assert place.run(*args).count(': signed by bob') == 2
    a, b = place.sql('SELECT * FROM job ORDER BY id')
    assert place.run('verify').count('signed by bob') == 2
    signing.change(a.id, command='echo evil')
    assert 'signed' not in place.run(*args)  # it is again as it was signed
    assert place.run('verify').count('signed by bob') == 2
    with open(signing.path('jobs.yml'), 'a') as file:
        file.write('- {name: c, command: echo c, frequency: 60}\n')
    assert place.run(*args).splitlines()[-1] == 'job 3: signed by bob'
    assert place.job(a.id).command == 'echo a'
    assert place.job(b.id).rev == b.rev
    assert 'signed' not in place.run(*args)
    write = dc.write_todo

    def write_and_lose(*args):
        write(*args)
        signing.change(b.id, command='echo evil')

    monkeypatch.setattr(dc, 'write_todo', write_and_lose)
    said = place.run(*args, code=1)
    assert 'others have changed jobs of the file: they are not signed' in said
    assert 'bad  job %d: ' % b.id in place.run('verify', code=1)
    place.write(sign={})
    assert 'sign.signers is missing' in place.run(*args, code=2)


def test_verify_and_check_say_who_signed(sqlite_signing):
    signing = sqlite_signing
    signing.place.run('check', code=1)  # no worker has started
    assert 'ok   signatures: signed by' in signing.place.run('check', code=1)
    signing.add('a', frequency=60)
    signing.sign(signing.place.add('b'), by='bob')
    signing.run()
    said = signing.place.run('verify')
    assert 'ok   job 1: signed by alice@ops' in said
    assert 'ok   job 2: signed by bob' in said
    text = 'ok   signatures: signed by alice@ops: 1, bob: 1\n'
    assert text in signing.place.run('check')
    signing.place.add('c')
    assert 'bad  job 3: it is not signed' in signing.place.run('verify', code=1)
    text = '; not as signed: 1, such as job 3: it is not signed; see: verify'
    said = signing.place.run('check', code=1)
    assert 'bad  signatures: ' in said and text in said
    signing.configure(required='warn')
    said = signing.place.run('check')
    assert 'ok   signatures: ' in said and text in said
    signing.place.write(sign={})
    assert 'not required: any job is run' in signing.place.run('check')


def test_a_change_says_that_it_leaves_the_job_unsigned(sqlite_signing):
    place = sqlite_signing.place
    said = place.run('add', '--every', '60', 'true')
    assert 'note: it is not signed; to sign it: ' in said
    assert said.rstrip().endswith(' sign 1')
    assert 'note' not in sqlite_signing.sign(1)
    assert 'note' not in place.run('edit', '1', '--description', 'new')
    said = place.run('edit', '1', '--retries', '3')
    assert 'note: it is not what alice@ops signed: retries; to sign it: ' in said
    place.write(sign={})
    assert 'note' not in place.run('add', '--every', '60', 'true')


def test_the_page_says_who_signed_and_what_to_run(sqlite_signing):
    signing = sqlite_signing
    id = signing.add('ran', frequency=60)
    other = signing.place.add('true')
    visitor = signing.place.page()
    assert '<dd>signed by alice@ops</dd>' in visitor.get('job/%d' % id)
    assert 'A change leaves it unsigned' in visitor.get('job/%d/edit' % id)
    assert 'A change leaves it unsigned' not in visitor.get('job/%d/edit' % other)
    form = {'description': '', 'kind': 'frequency', 'frequency': '60', 'active': '1'}
    form = {**form, 'command': 'echo evil', 'max_run_time': '1', 'action': 'save'}
    assert visitor.submit('job/%d/edit' % id, **form).status == 303
    text = 'it is not what alice@ops signed: command; to sign it: '
    said = re.search('<dt>Signature</dt><dd>(.*)</dd>', visitor.get('job/%d' % id))[1]
    assert said == text + 'distributed_cron.py sign %d' % id
    assert '<dd>it is not signed; to sign it: ' in visitor.get('job/%d' % other)


def test_a_refused_job_is_a_trouble_of_its_own(signing):
    place = signing.place
    id = place.add('true', frequency=60, description='the job')
    signing.run(id)
    found = dc.troubles_now(place.store, [], place.store.now())
    assert list(found) == [('unsigned', str(id))]
    trouble = found['unsigned', str(id)]
    assert trouble.text == 'the job does not run (refused: it is not signed)'
    signing.sign(id)
    signing.run(id)
    assert not dc.troubles_now(place.store, [], place.store.now())


def test_others_can_sign_by_the_words_of_the_readme(signing):
    """By plain ssh-keygen, with what the README says of the bytes."""
    place = signing.place
    id = place.add(
        'echo "ä\u2028\\" >/dev/null\n\ttrue\x7f',
        name='words',
        start_anchor='00:00',
        stop_anchor='23:59',
        frequency=60,
    )
    readme = ' '.join(dc.read_text(os.path.join(ROOT, 'README.md')).split())
    listed = re.search('the JSON list of (.*?): each the text', readme)[1]
    names = re.findall(r'[a-z_.]+', listed.replace(' and ', ' '))
    assert names[:5] == ['sign.cluster', 'the', 'columns', 'id', 'rev']
    assert ['cluster', *names[3:]] == dc.SIGNED
    names = names[5:-1]  # not_after stays NULL
    row = place.sql('SELECT %s FROM job WHERE id = :id' % ', '.join(names), id=id)
    rev = str(time.time_ns() // 1000)
    values = [None if value is None else str(value) for value in row[0]]
    for name, clock in (('start_anchor', '00:00:00'), ('stop_anchor', '23:59:00')):
        values[names.index(name)] = clock
    values = ['production', str(id), rev, *values, None]
    line = json.dumps(values, ensure_ascii=False, separators=(',', ':'))
    armor = signing.armor(('distributed_cron job 1\n' + line).encode())
    place.store.change(
        'UPDATE job SET rev = :rev, signature = :signature WHERE id = :id',
        rev=int(rev),
        signature='alice@ops\n%s\n%s' % (line, armor),
        id=id,
    )
    assert 'ok   job %d: signed by alice@ops' % id in place.run('verify')
