"""Other schedulers, each set up on hosts of the harness as its own documentation recommends.

See peers.py, which attacks them, and README.md for what each claims.
"""

import contextlib
import glob
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict, namedtuple

import yaml

from faults.cluster import HERE, ROOT, Host, forget_clock
from faults.proxy import Proxy
from servers import free_port

VENV = os.path.join(ROOT, 'tests', '.venv-peers')
BIN = os.path.join(VENV, 'bin', '')
PACKAGES = (
    'cronstable==1.2.72',
    'APScheduler==3.11.3',
    'SQLAlchemy==2.1.9',
    'PyMySQL==1.2.4',
)
RECORD = os.path.join(HERE, 'record.sh')
SECONDS = {str(job): 2 if job <= 5 else 40 for job in range(1, 11)}  # what jobs take

# What a command of a job wrote. end: None if it was killed. busy: another one was alive.
Run = namedtuple('Run', 'job start end busy host', defaults=(None, False, ''))


# --------------------------------------------------------------------------- hosts


class Node(Host):
    """A host of the harness on which a peer's scheduler runs."""

    def __init__(self, peer, number):
        self.peer = peer
        self.name = self.label = 'host%d' % number
        self.folder = os.path.join(peer.folder, self.label)
        self.mark = 'FAULTS_HOST=' + self.folder
        self.worker = None
        self.pids = []  # of all its schedulers so far
        self.is_down = False  # as long as a fault keeps it from running
        self.clock = self.path('clock')  # of libfaketime
        self.more = {}  # environment that a fault needs
        self.proxies = []  # its ways out
        self.inward = []  # the ways of others to it
        self.share = self.path('shared')  # as this host sees the folder
        os.makedirs(self.folder)
        self.mount(True)

    def mount(self, value):
        """Have the folder that all hosts share on this host, or a path that nobody can
        make: a scheduler would find a new folder there."""
        link = self.share + '.new'
        os.symlink(self.peer.shared if value else '/dev/null/away', link)
        os.rename(link, self.share)

    def to(self, port):
        """The port on this host by which it reaches that of a server."""
        self.proxies.append(Proxy(port))
        return self.proxies[-1].port

    def start(self):
        with open(self.path('output'), 'ab') as output:
            self.worker = subprocess.Popen(
                self.peer.command(self),
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env=self.environment(),
                cwd=self.folder,
                start_new_session=True,
            )
        self.pids.append(self.worker.pid)

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def set_clock(self, offset):
        """Set the host's clock, if it has one of its own."""
        with open(self.clock + '.new', 'w') as file:
            file.write(offset + '\n')
        os.rename(self.clock + '.new', self.clock)

    def kill_scheduler(self):
        self.worker.kill()
        self.worker.wait()

    def cut(self, value):
        """Cut it from databases, other hosts and the shared folder."""
        for proxy in self.proxies + self.inward:
            proxy.swallows = value
        self.mount(not value)

    def close(self):
        self.kill()
        for process in self.pids:
            forget_clock(process)
        for proxy in self.proxies:
            proxy.close()


class Peer:
    """A scheduler, set up on its hosts. `needs`: what a fault must be able to take."""

    hosts = 3
    on_database = False
    needs = ()  # 'store': something all hosts share; 'network': hosts that can be cut off

    def __init__(self, folder, server):
        self.folder = os.path.join(folder, self.name)
        self.server = server
        self.shared = self.path('shared')
        self.runs = self.path('runs')
        os.makedirs(self.shared)
        os.makedirs(self.runs)
        self.nodes = [Node(self, number) for number in range(self.hosts)]
        self.prepare()

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def prepare(self):
        """Set it up, and make its jobs."""

    def command(self, node):
        """The command line of its scheduler on a host."""
        raise NotImplementedError

    def version(self):
        """What is attacked."""
        raise NotImplementedError

    def results(self):
        """How many runs of each job are on record with how they ended; None: it keeps no
        such record."""

    def job(self, job):
        """The command of a job."""
        return 'sh %s %s %s %d' % (RECORD, self.runs, job, SECONDS[job])

    def store_down(self, value):
        """Take the store away, or bring it back; that of databases is taken from all."""
        if 'folder' in self.needs:
            source, target = self.shared, self.shared + '.away'
            os.rename(*((source, target) if value else (target, source)))

    def started(self):
        """The Run of each file that a command wrote."""
        found = []
        for path in glob.glob(self.path('runs', '*.run')):
            with open(path) as file:
                words = file.read().split()
            if len(words) < 3:
                continue  # it was killed while it wrote
            start, alone, host, *end = words
            name = os.path.basename(path)
            run = Run(name.partition('.')[0], float(start), host=host)
            if end:
                run = run._replace(end=float(end[0]))
            found.append(run._replace(busy=alone == '0'))
        return found

    def active(self):
        """The host that started the last run."""
        runs = sorted(self.started(), key=lambda run: run.start)
        for node in self.nodes:
            if runs and node.folder == runs[-1].host:
                return node
        return self.nodes[0]


class Database(Peer):
    """A peer with a database of its own on the server that all such peers share."""

    on_database = True
    needs = ('store', 'network')

    def prepare(self):
        self.database = 'd_' + self.name
        self.server.settings('CREATE DATABASE ' + self.database)

    def query(self, text, *values):
        with contextlib.closing(self.server.connect(self.database)) as connection:
            cursor = connection.cursor()
            cursor.execute(text, values)
            return cursor.fetchall()


class Ours(Database):
    """This program: a worker on each host, with its defaults."""

    name = 'ours'

    def prepare(self):
        super().prepare()
        for node in self.nodes:
            port = node.to(self.server.port)
            for part in ('log', 'state'):
                os.makedirs(node.path(part))
            write_yaml(
                node.path('dc.yml'),
                {
                    'db': self.server.access(self.database, port),
                    'log': {'location': node.path('log')},
                    'state': {'location': node.path('state')},
                },
            )
        run_here(self.program(self.nodes[0], 'init'))
        for job in SECONDS:
            self.query(
                'INSERT INTO job (id, command, schedule, max_run_time) '
                "VALUES (%s, %s, '* * * * *', 1)",
                int(job),
                self.job(job),
            )

    @staticmethod
    def program(node, *arguments):
        script = os.path.join(ROOT, 'distributed_cron.py')
        file = node.path('dc.yml')
        start = [sys.executable, script, '--config', file, '--name', node.name]
        return [*start, *arguments]

    def command(self, node):
        return self.program(node, 'run', '--forever')

    def version(self):
        return output_of(self.program(self.nodes[0], '--version'))

    def results(self):
        rows = self.query(
            "SELECT job_id, COUNT(*) FROM run WHERE status NOT LIKE 'ERROR: lost%%' "
            "AND status NOT LIKE 'SKIPPED%%' GROUP BY job_id"
        )
        return {str(job): count for job, count in rows}


class Perl(Database):
    """The Perl program of the same name: its statements, one look a second on each host."""

    name = 'perl'

    def prepare(self):
        super().prepare()
        self.query(
            'CREATE TABLE job (id INT PRIMARY KEY, command TEXT, frequency INT, '
            'last_start DATETIME, last_end DATETIME, last_worker TEXT, last_status TEXT)'
        )
        self.ports = {}
        for node in self.nodes:
            self.ports[node] = node.to(self.server.port)
        for job in SECONDS:
            self.query(
                'INSERT INTO job VALUES (%s, %s, 1, NOW() - INTERVAL SECOND(NOW()) SECOND,'
                " NOW(), 'none', 'Success')",
                int(job),
                self.job(job),
            )

    def command(self, node):
        script = os.path.join(HERE, 'perl.py')
        port = str(self.ports[node])
        return [sys.executable, script, port, self.database, node.name]

    def version(self):
        return 'stand-in'


class APScheduler(Database):
    """One scheduler with a job store, as its FAQ asks for: stores can't be shared."""

    name = 'apscheduler'
    hosts = 1
    program = '''
import subprocess, sys
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler
import threading

def run(command):
    subprocess.run(command, shell=True, check=True)

def main(url, commands):
    scheduler = BackgroundScheduler(
        jobstores={'default': SQLAlchemyJobStore(url, engine_options={'pool_pre_ping': True})},
        executors={'default': ThreadPoolExecutor(30)},
        job_defaults={'coalesce': True, 'misfire_grace_time': 3600},
        timezone='UTC',
    )
    scheduler.start(paused=bool(commands))
    for number, command in enumerate(commands):
        scheduler.add_job('jobs:run', 'cron', minute='*', id=str(number),
                          replace_existing=True, args=[command])
    if not commands:
        threading.Event().wait()
'''

    def prepare(self):
        super().prepare()
        with open(self.nodes[0].path('jobs.py'), 'w') as file:
            file.write(self.program)
        self.port = self.nodes[0].to(self.server.port)
        jobs = [self.job(job) for job in SECONDS]
        run_here(self.call(jobs), cwd=self.nodes[0].folder)

    def call(self, jobs):
        url = 'mysql+pymysql://dc:secret@127.0.0.1:%d/%s' % (self.port, self.database)
        code = 'import jobs; jobs.main(%r, %r)' % (url, jobs)
        return [BIN + 'python', '-c', code]

    def command(self, node):
        return self.call([])

    def version(self):
        return version_of('APScheduler')


class Cron(Peer):
    """Debian's cron with the crontab on one host; another takes over by hand."""

    name = 'cron'
    hosts = 1
    mounts = (
        'mount --bind %s /var/spool/cron/crontabs && '
        'mount --bind %s /etc/cron.d && mount --bind /dev/null /etc/crontab && '
        'mount -t tmpfs tmpfs /run && exec cron -f'
    )

    def prepare(self):
        for node in self.nodes:
            for part in ('spool', 'empty'):
                os.makedirs(node.path(part))
            path = node.path('spool', 'root')
            with open(path, 'w') as file:
                file.write(node.mark + '\n')
                for job in SECONDS:
                    file.write('* * * * * %s\n' % self.line(node, job))
            os.chmod(path, 0o600)

    def line(self, node, job):
        return self.job(job)

    def command(self, node):
        mounts = self.mounts % (node.path('spool'), node.path('empty'))
        return ['unshare', '-m', 'sh', '-c', mounts]

    def version(self):
        return output_of(['dpkg-query', '-W', '-f', '${Version}', 'cron'])


class CronFlock(Cron):
    """The same crontab on three hosts, with a lock for each job on a shared folder."""

    name = 'cron-flock'
    hosts = 3
    needs = ('store', 'network', 'folder')

    def line(self, node, job):
        return 'flock -n %s/%s.lock %s' % (node.share, job, self.job(job))


class Cronstable(Peer):
    """Three replicas; the leader has a lease in a folder that all share."""

    name = 'cronstable'
    needs = ('store', 'network', 'folder')
    extra = {
        'concurrencyPolicy': 'Forbid',
        'concurrencyScope': 'cluster',
        'onMissed': 'run-once',
    }

    def prepare(self):
        for node in self.nodes:
            write_yaml(
                node.path('cronstable.yaml'),
                {**self.cluster(node), 'jobs': [self.entry(job) for job in SECONDS]},
            )

    def entry(self, job):
        return {
            'name': 'job' + job,
            'command': self.job(job),
            'schedule': '* * * * *',
            **self.extra,
        }

    def cluster(self, node):
        place = {'path': node.share, 'topology': 'shared'}
        return {
            'state': place,
            'cluster': {
                'backend': 'filesystem',
                'nodeName': node.name,
                'filesystem': dict(place),
            },
        }

    def command(self, node):
        return [BIN + 'cronstable', '-c', 'cronstable.yaml']

    def version(self):
        return version_of('cronstable')

    def ledgers(self):
        return [self.shared]

    def results(self):
        counts = Counter()
        for ledger in self.ledgers():
            pattern = os.path.join(ledger, '*', 'records', 'runs%2Fjob*', '*.json')
            for path in glob.glob(pattern):
                with open(path) as file:
                    outcome = json.load(file)['data']['outcome']
                stream = path.split(os.sep)[-2]
                job = stream.partition('%2Fjob')[2]
                counts[job] += outcome in ('success', 'failure')
        return counts


class CronstableGossip(Cronstable):
    """Three replicas that elect a leader among themselves, its default; a ledger each."""

    name = 'cronstable-gossip'
    needs = ('network',)
    extra = {'concurrencyPolicy': 'Forbid'}

    def prepare(self):
        self.make_certificates()
        self.ports = {node: free_port() for node in self.nodes}
        self.ways = defaultdict(list)
        for node in self.nodes:
            for other in self.nodes:
                if other is not node:
                    port = node.to(self.ports[other])
                    other.inward.append(node.proxies[-1])
                    self.ways[node].append({'host': '127.0.0.1:%d' % port})
        super().prepare()

    def make_certificates(self):
        """A CA of the cluster's own, and one certificate for the one address of all."""
        keys = ['openssl', 'req', '-x509', '-newkey', 'ec', '-nodes']
        keys += ['-pkeyopt', 'ec_paramgen_curve:prime256v1', '-days', '9']
        ca = ['-CA', self.path('ca.pem'), '-CAkey', self.path('ca.key')]
        usage = ['-addext', 'keyUsage=critical,keyCertSign']
        leaf = ['-addext', 'subjectAltName=IP:127.0.0.1']
        leaf += ['-addext', 'basicConstraints=critical,CA:FALSE']
        for name, more in (('ca', usage), ('node', ca + leaf)):
            command = [*keys, '-subj', '/CN=' + name, *more]
            command += ['-keyout', self.path(name + '.key')]
            command += ['-out', self.path(name + '.pem')]
            run_here(command)

    def cluster(self, node):
        return {
            'state': {'path': node.path('state')},
            'cluster': {
                'listen': '127.0.0.1:%d' % self.ports[node],
                'tls': {
                    'ca': self.path('ca.pem'),
                    'cert': self.path('node.pem'),
                    'key': self.path('node.key'),
                },
                'peers': self.ways[node],
                'nodeName': node.name,
                'electLeader': True,
            },
        }

    def ledgers(self):
        return [node.path('state') for node in self.nodes]


PEERS = {
    peer.name: peer
    for peer in (Ours, Cronstable, CronstableGossip, APScheduler, Cron, CronFlock, Perl)
}


def run_here(command, **how):
    """Run a command of the set-up to its end."""
    done = subprocess.run(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, **how
    )
    if done.returncode:
        raise RuntimeError(done.stderr.decode())


def output_of(command):
    done = subprocess.run(command, stdout=subprocess.PIPE)
    return done.stdout.decode().strip()


def version_of(package):
    code = 'import importlib.metadata as m; print(m.version(%r))' % package
    return output_of([BIN + 'python', '-c', code])


def write_yaml(path, value):
    with open(path, 'w') as file:
        yaml.safe_dump(value, file)


def make_venv():
    if not os.path.exists(BIN + 'cronstable'):
        run_here([sys.executable, '-m', 'venv', VENV])
        run_here([BIN + 'pip', 'install', '-q', *PACKAGES])
