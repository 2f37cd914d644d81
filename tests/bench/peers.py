"""Other crons for the benchmark: what each makes of 500 commands due at once."""

import contextlib
import os
import shutil
import subprocess
import sys
import time

import yaml
from servers import PostgreSQL, wait_until

COUNT = 500
# What the Perl program of the same name loads, and does in a pass that finds nothing due.
PERL_PASS = r'''
use strict; use warnings;
use DBI; use DBD::mysql; use YAML::Tiny; use Logger::Simple; use Parallel::ForkManager;
use Try::Tiny; use Sys::CpuAffinity; use Sys::Hostname;
my $config = YAML::Tiny->read($ARGV[0])->[0]{db};
my ($host, $port) = split /:/, $config->{host};
my $dsn = "dbi:mysql:database=$config->{database};host=$host;port=$port";
my $db = DBI->connect($dsn, $config->{username}, $config->{password},
    {RaiseError => 1, AutoCommit => 0});
my $worker = hostname() . "-$$";
$db->do("UPDATE job SET last_start = NOW(), last_worker = ? WHERE active = 1
    AND (last_start IS NULL OR (last_start <= NOW() - INTERVAL frequency MINUTE
    AND (last_end IS NULL OR last_start <= last_end))) LIMIT 2", undef, $worker);
$db->selectall_arrayref("SELECT id, command FROM job WHERE last_worker = ?", {}, $worker);
$db->rollback; $db->disconnect;
'''


def perl_pass(file):
    """The command of such a pass by a configuration; None where its modules, which are
    packages of Debian, are not installed."""
    perl = shutil.which('perl')
    if not perl:
        return None
    compiled = subprocess.run([perl, '-c', '-e', PERL_PASS], capture_output=True)
    if compiled.returncode:
        return None
    return [perl, '-e', PERL_PASS, file]


def starts(path, due, process):
    """Starts per second from the first to the last, and seconds from the due time to
    the last, by a file to which each command adds a byte."""

    def size():
        assert process.poll() is None, 'it has ended'
        return os.path.getsize(path)

    wait_until(size, 80, 'the first start', 0.002)
    first = time.time()
    wait_until(lambda: size() >= COUNT, 60, 'the last start', 0.002)
    last = time.time()
    time.sleep(0.2)
    assert size() == COUNT, 'twice'
    return COUNT / (last - min(first, last - 0.001)), last - due


def next_minute():
    """The start of the next minute; if it is too near, of the one after."""
    now = time.time()
    return (now + 5) // 60 * 60 + 60


@contextlib.contextmanager
def ended(process):
    """Ends a process with the block."""
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def crontab(folder, user=''):
    """A crontab of the commands, and the file by which they tell that they started."""
    path = os.path.join(folder, 'started')
    open(path, 'w').close()
    return path, ('* * * * * %secho -n x >> %s\n' % (user, path)) * COUNT


def debian_cron(folder, _):
    """Debian's cron, in a mount namespace, so that it sees no crontab of the machine."""
    path, text = crontab(folder, 'root ')
    for name in ('cron.d', 'spool', 'run'):
        os.mkdir(os.path.join(folder, name))
    for name, content in (('crontab', '# nothing\n'), ('cron.d/benchmark', text)):
        with open(os.path.join(folder, name), 'w') as file:
            file.write(content)
    mounts = ' && '.join(
        'mount --bind %s/%s %s' % (folder, ours, theirs)
        for ours, theirs in (
            ('crontab', '/etc/crontab'),
            ('cron.d', '/etc/cron.d'),
            ('spool', '/var/spool/cron/crontabs'),
            ('run', '/run'),
        )
    )
    return by_the_minute(
        path, ['unshare', '-m', 'sh', '-c', mounts + ' && exec cron -f -L 0']
    )


def busybox_crond(folder, _):
    """On Debian the package busybox-static has it, busybox does not."""
    path, text = crontab(folder)
    os.mkdir(os.path.join(folder, 'crontabs'))
    with open(os.path.join(folder, 'crontabs', 'root'), 'w') as file:
        file.write(text)
    return by_the_minute(
        path,
        [
            'busybox',
            'crond',
            '-f',
            '-l',
            '8',
            '-L',
            '/dev/null',
            '-c',
            os.path.join(folder, 'crontabs'),
        ],
    )


def by_the_minute(path, command, early=4):
    """Start a daemon some seconds before a minute begins, and watch that minute."""
    due = next_minute()
    if due - early < time.time():
        due += 60
    time.sleep(due - early - time.time())
    with ended(
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ) as process:
        return starts(path, due, process)


SCHEDULER = '''if True:
    import datetime, sys, subprocess, threading
    from apscheduler.executors.pool import ThreadPoolExecutor
    from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
    from apscheduler.schedulers.background import BackgroundScheduler
    url, path, due, count = *sys.argv[1:3], float(sys.argv[3]), int(sys.argv[4])
    when = datetime.datetime.fromtimestamp(due).astimezone()
    scheduler = BackgroundScheduler(
        jobstores={'default': SQLAlchemyJobStore(url=url)},
        executors={'default': ThreadPoolExecutor(60)})
    scheduler.start(paused=True)
    for _ in range(count):
        scheduler.add_job(subprocess.call, 'date', run_date=when, args=[
            ['/bin/sh', '-c', 'echo -n x >> ' + path]], misfire_grace_time=600)
    scheduler.resume()
    threading.Event().wait()'''


def apscheduler(folder, server):
    """Its jobs are in the same MariaDB; 60 threads start them."""
    path, _ = crontab(folder)
    name = os.path.basename(folder)
    server.client('CREATE DATABASE `%s`' % name)
    due = int(time.time()) + 15
    try:
        with ended(
            subprocess.Popen(
                [
                    sys.executable,
                    '-c',
                    SCHEDULER,
                    'mysql+pymysql://dc:secret@127.0.0.1:%d/%s' % (server.port, name),
                    path,
                    str(due),
                    str(COUNT),
                ],
                stderr=subprocess.DEVNULL,
            )
        ) as process:
            return starts(path, due, process)
    finally:
        server.client('DROP DATABASE `%s`' % name)


def cronstable(folder, _):
    """With a state folder, so that its history survives a restart, as ours does."""
    path, _ = crontab(folder)
    job = {'command': 'echo -n x >> ' + path, 'schedule': '* * * * *'}
    jobs = [{'name': 'job-%d' % number, **job} for number in range(COUNT)]
    file = os.path.join(folder, 'jobs.yaml')
    state = {'path': os.path.join(folder, 'state')}
    with open(file, 'w') as stream:
        yaml.safe_dump({'state': state, 'jobs': jobs}, stream)
    program = os.environ.get('CRONSTABLE') or shutil.which('cronstable')
    assert program, 'cronstable is not installed'
    return by_the_minute(path, [program, '-l', 'ERROR', '-c', file], 15)


def pg_cron(folder, _):
    """Its jobs are SQL, which here has the server start a command; 60 run at once."""
    os.chmod(folder, 0o755)
    path, _ = crontab(folder)
    os.chmod(path, 0o666)
    home = os.path.join(folder, 'server')
    os.mkdir(home)
    server = PostgreSQL(home)
    options = {
        'shared_preload_libraries': 'pg_cron',
        'cron.host': home,
        'cron.max_running_jobs': 60,
    }
    server.start(*('--%s=%s' % option for option in options.items()))
    try:
        command = "COPY (SELECT 1) TO PROGRAM 'read x; echo -n x >> %s'" % path
        due = next_minute()
        server.settings(
            'CREATE EXTENSION pg_cron',
            "SELECT cron.schedule('job-' || n, '* * * * *', $$%s$$)"
            ' FROM generate_series(1, %d) AS n' % (command, COUNT),
        )
        assert time.time() < due, 'the server is too slow'
        return starts(path, due, server.process)
    finally:
        server.discard()


# Name, function, and what it keeps of a run and promises for it.
PEERS = (
    ("Debian's cron", debian_cron, 'records nothing'),
    ('busybox crond', busybox_crond, 'records nothing'),
    ('APScheduler, 60 threads', apscheduler, 'forgets a run that it has begun'),
    ('cronstable, one host', cronstable, 'keeps a history in files'),
    ('pg_cron, 60 at a time', pg_cron, 'keeps a history in the database; SQL only'),
)
