"""Real workers on real servers, each worker as a host of its own: with a name, a state
folder, a log folder, a way to the database and processes that nobody else has."""

import contextlib
import ctypes
import glob
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import psycopg
import pymysql
import yaml

from faults.proxy import Proxy
from faults.rules import Words
from servers import IS_ROOT, Galera, MariaDB, PostgreSQL, SQLite, free_port, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
QUIET = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}
PRIVILEGES = {'own mounts': False}  # and with them network namespaces
CHILDREN = 10**6  # ids from here on are those of jobs that workers make
FEW = 60  # connections to PostgreSQL, which a fault takes
VERSION_1 = '1fde9e2ec1b92163a489c48ec72e8e6bb5a2cbe5'  # the last commit of version 1.0
FAKETIME = next(glob.iglob('/usr/lib/*/faketime/libfaketimeMT.so.1'), 'no libfaketime')


def now():
    """The clock of all that is judged."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def own_mounts():
    """Have what this process mounts, and its network namespaces, end with it; if it may."""
    if IS_ROOT and not ctypes.CDLL(None).unshare(0x00020000):  # CLONE_NEWNS
        PRIVILEGES['own mounts'] = not subprocess.run(
            ['mount', '--make-rprivate', '/']
        ).returncode


def forget_clock(process):
    """Remove what libfaketime leaves of a process that was killed."""
    for name in ('sem.faketime_sem_', 'faketime_shm_'):
        with contextlib.suppress(FileNotFoundError):
            os.unlink('/dev/shm/%s%d' % (name, process))


def version_1(folder):
    """The script of version 1.0, written into a folder with all that it needs; None
    without git, or in a checkout without history."""
    for name in ('distributed_cron.py', 'distributed_cron.sql'):
        shown = subprocess.run(
            ['git', 'show', '%s:%s' % (VERSION_1, name)], cwd=ROOT, capture_output=True
        )
        if shown.returncode:
            return None
        with open(os.path.join(folder, name), 'wb') as file:
            file.write(shown.stdout)
    return os.path.join(folder, 'distributed_cron.py')


# --------------------------------------------------------------------------- hosts


class Host:
    """A worker, its runners and their commands, as a machine of its own."""

    def __init__(self, cluster, number, like=None, network=False, disks=True):
        """like: a host of which it has name and tags."""
        self.cluster, self.name = cluster, 'host%d' % number
        self.tags = ['odd' if number % 2 else 'even']
        if cluster.old_script:  # which knows no tags
            self.tags = []
        if like:
            self.name, self.tags = like.name, like.tags
        self.disks = disks and PRIVILEGES['own mounts']
        self.label = 'host%d' % number  # its own also where another has its name
        self.folder = os.path.join(cluster.folder, self.label)
        self.log, self.state = (
            os.path.join(self.folder, part) for part in ('log', 'state')
        )
        for folder, size in ((self.log, '16M'), (self.state, '2M')):
            os.makedirs(folder)
            if self.disks:  # of its own, so that they can be full
                subprocess.run(
                    [
                        'mount',
                        '-t',
                        'tmpfs',
                        '-o',
                        'mode=700,size=' + size,
                        'tmpfs',
                        folder,
                    ],
                    check=True,
                )
        self.network = Network(number) if network else None
        address = self.network.address if network else '127.0.0.1'
        self.proxies = [
            Proxy(server.port, address) for server in cluster.servers if server.port
        ]
        self.mark = 'FAULTS_HOST=' + self.folder
        self.worker, self.more = None, {}  # more: environment for the next start
        self.script = None  # of the version that it runs, if that is not today's
        self.file = os.path.join(self.folder, 'dc.yml')
        self.address = address
        self.configure()

    def configure(self):
        ports = [proxy.port for proxy in self.proxies]
        db = self.cluster.access(self.address, ports)
        with open(self.file, 'w') as file:
            yaml.safe_dump(
                {
                    'db': db,
                    'log': {'location': self.log},
                    'state': {'location': self.state},
                    **({'tags': self.tags} if self.tags else {}),
                    'max_tasks': 40,
                    'poll_seconds': 0.5,
                    'history': {'runs': 100000},
                    'kill_grace': self.cluster.grace,
                },
                file,
            )

    def command(self, *arguments):
        return self.cluster.command(self.file, '--name', self.name, *arguments)

    def environment(self):
        version = {'FAULTS_SCRIPT': self.script} if self.script else {}
        own = {'FAULTS_HOST': self.folder, 'TZ': 'UTC'}
        return {**os.environ, **own, **version, **self.more}

    def start(self, *arguments):
        inside = (
            ['nsenter', '--net=/run/netns/' + self.network.name]
            if (self.network)
            else []
        )
        epoch = Words(self.label, now(), [self.name, *self.tags])
        self.cluster.words.append(epoch)
        with open(os.path.join(self.folder, 'stderr'), 'ab') as errors:
            self.worker = subprocess.Popen(
                [*inside, *self.command(*(arguments or ['run', '--forever']))],
                stderr=errors,
                stdin=subprocess.DEVNULL,
                env=self.environment(),
                start_new_session=True,
            )
        return self

    def start_again(self):
        """Start, and wait until it is at work: Python may take a second for it."""
        self.start()
        path = os.path.join(self.log, self.name + '.log')
        limit, begin = now() + 10, '%s-%d: ' % (self.name, self.worker.pid)
        while now() < limit:
            with contextlib.suppress(OSError), open(path, errors='replace') as file:
                if begin in file.read():
                    return
            time.sleep(0.1)

    def run(self, *arguments):
        """A command of the program, to its end."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment(),
            timeout=60,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def processes(self):
        """All that carry the host's mark: worker, runners, commands and theirs."""
        found, mark = set(), self.mark.encode()
        for name in filter(str.isdigit, os.listdir('/proc')):
            with (
                contextlib.suppress(OSError),
                open('/proc/%s/environ' % name, 'rb') as file,
            ):
                if mark in file.read().split(b'\0'):
                    found.add(int(name))
        return found

    def runners(self):
        """Those that have the worker's command line, but the worker."""
        found = []
        for process in self.processes() - {self.worker.pid}:
            with (
                contextlib.suppress(OSError),
                open('/proc/%d/cmdline' % process) as file,
            ):
                if 'worker.py\0' in file.read():
                    found.append(process)
        return found

    def freeze(self):
        stopped = set()
        while new := self.processes() - stopped:
            for process in new:
                send(process, signal.SIGSTOP)
            stopped |= new
        return stopped

    def thaw(self):
        for process in self.processes():
            send(process, signal.SIGCONT)

    def kill(self):
        """All processes as one: nobody acts while the others die."""
        for process in self.freeze():
            send(process, signal.SIGKILL)
        if self.worker:
            self.worker.wait()
        wait_until(lambda: not self.processes(), 10, 'the end of ' + self.label)

    def fill(self, folder):
        """Have a folder's disk full."""
        for size in 65536, 512:
            with (
                contextlib.suppress(OSError),
                open(os.path.join(folder, 'filler'), 'ab', buffering=0) as file,
            ):
                while file.write(b'\0' * size):
                    pass

    def close(self):
        self.kill()
        for proxy in self.proxies:
            proxy.close()
        if self.network:
            self.network.close()
        if self.disks:
            for folder in (self.log, self.state):
                subprocess.run(['umount', folder])


class Network:
    """A network namespace with one way out, to the database, which can be cut."""

    def __init__(self, number):
        self.name = 'faults%d-%d' % (os.getpid(), number)
        self.inner, self.outer = 'fi%d' % os.getpid(), 'fo%d' % os.getpid()
        net = '10.%d.%d' % (64 + os.getpid() // 250 % 64, os.getpid() % 250)
        self.address = net + '.1'
        # A harness that was killed leaves the name, and the numbers of processes come again.
        with contextlib.suppress(FileNotFoundError):
            os.unlink('/run/netns/' + self.name)
        ip('netns', 'add', self.name)
        ip(
            'link',
            'add',
            self.outer,
            'type',
            'veth',
            'peer',
            'name',
            self.inner,
            'netns',
            self.name,
        )
        ip('addr', 'add', self.address + '/24', 'dev', self.outer)
        ip('link', 'set', self.outer, 'up')
        ip('-n', self.name, 'addr', 'add', net + '.2/24', 'dev', self.inner)
        ip('-n', self.name, 'link', 'set', self.inner, 'up')
        ip('-n', self.name, 'link', 'set', 'lo', 'up')

    def cut(self, value):
        ip('-n', self.name, 'link', 'set', self.inner, 'down' if value else 'up')

    def close(self):
        ip('netns', 'del', self.name)


def ip(*arguments):
    subprocess.run(['ip', *arguments], check=True)


def send(process, number):
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


# ------------------------------------------------------------------------- cluster


class Cluster:
    """The servers of a database and the hosts that share it."""

    def __init__(
        self,
        database,
        folder,
        hosts=3,
        times=(4, 4, 1),
        seed=0,
        network=False,
        upgrade=False,
    ):
        """upgrade: the tables were made by version 1.0, which all hosts but one run."""
        self.database, self.folder = database, folder
        self.old_script = None
        if upgrade:
            self.old_script = version_1(self.place('version-1'))
            assert self.old_script, 'no git, or a checkout without history'
        self.minute, self.margin, self.grace = times
        self.random = random.Random(seed)
        self.writing = threading.RLock()  # held: the harness writes nothing
        self.hosts = self.servers = ()
        self.words = []  # which words hosts had, and since when
        try:
            self.servers = getattr(self, database)()
            # The last host has a network of its own.
            count = 1 if database == 'sqlite' else hosts
            self.hosts = []
            for number in range(count):
                self.hosts.append(
                    Host(
                        self,
                        number,
                        network=(
                            network and PRIVILEGES['own mounts'] and number == count - 1
                        ),
                    )
                )
            # Of each host its label, and the words that it has but for faults.
            self.permanent = [
                (host.label, [host.name, *host.tags]) for host in self.hosts
            ]
            if self.old_script:
                for host in self.hosts:
                    host.script = self.old_script
                self.init()
                self.hosts[0].script = None
            self.init()
            self.leave_ids()
        except BaseException:
            self.close()
            raise

    def init(self):
        """Make or upgrade the tables, as the first host's version does."""
        done = self.hosts[0].run('init')
        if done.returncode:
            raise RuntimeError(done.stderr.decode())

    def access(self, address, ports):
        """The part db of a configuration."""
        if not ports:
            return {'engine': 'sqlite', 'path': self.servers[0].path}
        return self.servers[0].access('dc', *ports, address=address)

    def command(self, file, *arguments):
        """The program, as it is typed on a host whose configuration is in the file."""
        return [
            sys.executable,
            os.path.join(HERE, 'worker.py'),
            str(self.minute),
            str(self.margin),
            '--config',
            file,
            *arguments,
        ]

    def type(self, *arguments):
        """Type a command of the program, on a way that is never disturbed. Returns
        whether it was done."""
        file = os.path.join(self.folder, 'admin.yml')
        ports = [server.port for server in self.writable() if server.port]
        with open(file, 'w') as stream:
            db = self.access('127.0.0.1', ports)
            yaml.safe_dump({'db': db, 'log': {'location': 'admin'}}, stream)
        command = self.command(file, '--name', 'admin', *arguments)
        with self.writing:
            done = subprocess.run(command, env=dict(os.environ, TZ='UTC'), **QUIET)
        return done.returncode == 0

    def leave_ids(self):
        """Have jobs that workers make get ids that the harness gives to none."""
        self.query('INSERT INTO job (id, active) VALUES (?, 0)', CHILDREN)
        self.query('DELETE FROM job WHERE id = ?', CHILDREN)
        if self.servers[0].engine == 'postgresql':
            text = "SELECT setval(pg_get_serial_sequence('job', 'id'), %d)"
            self.query(text % CHILDREN)

    @property
    def deadline(self):
        """Seconds after its claim by which a run of a minute at most is dead."""
        return self.minute + self.margin + self.grace + 1

    def place(self, name):
        folder = os.path.join(self.folder, name)
        os.makedirs(folder)
        return folder

    def mariadb(self):
        return [MariaDB(self.place('mariadb')).start().make_account('dc')]

    def postgresql(self):
        server = PostgreSQL(self.place('postgresql'), connections=FEW)
        return [server.start().make_account('dc')]

    def sqlite(self):
        return [SQLite(self.place('sqlite'))]

    def galera(self):
        ports = [free_port() for _ in range(9)]
        first = Galera(self.place('n0'), ports, 0)
        data = os.path.join(first.folder, 'data')
        nodes = [first] + [
            Galera(self.place('n%d' % number), ports, number, data) for number in (1, 2)
        ]
        self.servers = nodes
        first.start('--wsrep-new-cluster').make_account('dc')
        for node in nodes[1:]:
            node.start()
        return nodes

    def replica(self):
        """A primary and its asynchronous replica, which is read-only."""
        options = ['--log-bin', '--binlog-format=ROW', '--read-only=0']
        self.servers = [
            MariaDB(
                self.place('n%d' % number),
                *options,
                '--server-id=%d' % (number + 1),
            )
            for number in (0, 1)
        ]
        primary, replica = self.servers
        primary.start()
        replica.start().settings(
            "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = %d, MASTER_USER = "
            "'copy', MASTER_PASSWORD = 'secret', MASTER_USE_GTID = slave_pos, "
            'MASTER_CONNECT_RETRY = 1' % primary.port,
            'SET GLOBAL read_only = 1',
        )
        primary.settings(
            "CREATE USER copy IDENTIFIED BY 'secret'",
            'GRANT REPLICATION SLAVE ON *.* TO copy',
        )
        replica.settings('START SLAVE')
        primary.make_account('dc')
        return self.servers

    def wait_for_replica(self):
        """Until the replica has what the primary has now."""

        def sequence(server, name):
            return int((server.value(name) or '0').rpartition('-')[2])

        primary, replica = self.servers
        wanted = sequence(primary, 'gtid_binlog_pos')
        wait_until(
            lambda: sequence(replica, 'gtid_slave_pos') >= wanted, 60, 'the replica'
        )

    def promote(self):
        """What an administrator does when the primary is gone."""
        replica = self.servers[1]
        replica.settings('STOP SLAVE', 'RESET SLAVE ALL', 'SET GLOBAL read_only = 0')
        self.servers.reverse()

    # What the harness itself asks the database, on a way that is never disturbed.

    def query(self, text, *values, seconds=120):
        """Rows of a statement on any server that is ready, or their number."""
        limit = now() + seconds
        while True:
            for server in self.writable():
                try:
                    with self.writing:
                        return execute(server, text, values)
                except server.errors as error:
                    if is_refusal(error) or now() > limit:
                        raise
                except RuntimeError:
                    pass  # a node that is not ready
            time.sleep(0.1)

    def writable(self):
        """The servers that the harness may write to: root is stopped by no read_only."""
        return self.servers[:1] if self.database == 'replica' else self.servers

    def close(self):
        for host in self.hosts:
            host.close()
        for server in self.servers:
            server.stop()


def execute(server, text, values):
    if isinstance(server, Galera) and not server.is_ready():
        raise RuntimeError('not ready')
    if server.engine != 'sqlite':
        text = text.replace('?', '%s')
    with contextlib.closing(server.connect('dc')) as connection:
        cursor = connection.cursor()
        if isinstance(server, Galera):
            cursor.execute('SET SESSION wsrep_sync_wait = 7')
        cursor.execute(text, values)
        return cursor.fetchall() if cursor.description else cursor.rowcount


def is_refusal(error):
    """Whether a database refuses a row for what is in it, such as for a key it has."""
    return isinstance(
        error,
        (pymysql.err.IntegrityError, psycopg.IntegrityError, sqlite3.IntegrityError),
    )
