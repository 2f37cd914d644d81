"""The database servers that the tests, the fault harness and the benchmark start.

Each server has a folder and a port of its own. It can be killed and started again, and
whoever made it ends it by the process that was started, so that other servers of the
machine are left alone. `free_port`, `wait_until` and `open_folder` serve all three.
"""

import contextlib
import glob
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time

import psycopg
import pymysql

IS_ROOT = os.getuid() == 0
# The folder of a Debian whose servers are started, instead of this machine's: see roots.py
ELSEWHERE = os.environ.get('DISTRIBUTED_CRON_SERVERS', '')
IN_ELSEWHERE = '''mkdir -p "$1$2"
mount --bind "$2" "$1$2"
mount -t proc proc "$1/proc"
root=$1 user=$3 && shift 3
exec chroot --userspec="$user" "$root" "$@"
'''
PORTS = range(10000, 32000)  # below those that Linux gives to clients


def free_port():
    """A port on which nobody listens. It is random: tests run side by side."""
    chance = random.SystemRandom()  # no seed of a test makes two of them choose alike
    for _ in range(1000):
        port = chance.choice(PORTS)
        with contextlib.closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.bind(('127.0.0.1', port))
            return port
    raise OSError('no free port')


def within(condition, seconds, pause=0.05):
    """The first true value of a condition, or its last value when the seconds are over."""
    limit = time.monotonic() + seconds
    value = condition()
    while not value and time.monotonic() < limit:
        time.sleep(pause)
        value = condition()
    return value


def wait_until(condition, seconds=20, what='it', pause=0.02):
    """The first true value of a condition. AssertionError if there is none in time."""
    value = within(condition, seconds, pause)
    if not value:
        raise AssertionError('waited %s s for %s' % (seconds, what))
    return value


def run_as(user, command, function=subprocess.run, **how):
    """Call a function of subprocess for a program that belongs to a server, as a user
    by name, which only root can."""
    if ELSEWHERE:
        places = ELSEWHERE, tempfile.gettempdir(), ':'.join(ids_of(user))
        enter = ['unshare', '--mount', 'sh', '-e', '-c', IN_ELSEWHERE, 'sh', *places]
        return function([*enter, *command], **how)
    if IS_ROOT:
        how.update(user=user, group=user)
    return function(command, **how)


def ids_of(user):
    """The ids of a user and of its group, as texts, where the servers are."""
    with open(ELSEWHERE + '/etc/passwd') as file:
        for line in file:
            name, _, number, group = line.split(':')[:4]
            if name == user:
                return number, group
    raise LookupError('%s: no user %s' % (ELSEWHERE, user))


def is_listening(port):
    """Whether somebody takes connections at a port of 127.0.0.1."""
    with contextlib.suppress(OSError):
        socket.create_connection(('127.0.0.1', port), 5).close()
        return True
    return False


@contextlib.contextmanager
def open_folder(prefix):
    """A temporary folder for servers, which run as other users than its owner."""
    folder = tempfile.mkdtemp(prefix=prefix)
    os.chmod(folder, 0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Server:
    """What the servers have in common."""

    engine = None  # as the program's configuration names it
    errors = ()  # what its driver raises
    end_signal = signal.SIGTERM  # ends it in good order
    owner = 'root'  # as whom it runs if root starts it

    def __init__(self, folder, port):
        self.folder = folder
        self.port = port or free_port()
        self.log = os.path.join(folder, 'log')
        self.process = None  # the one that was started last

    def start(self, *options, wait=60):
        """Start it, with more options than usual; returns it when it can be used."""
        self.launch(*options)
        wait_until(self.is_up, wait, self.process.args[0] + ' in ' + self.folder)
        return self

    def launch(self, *options):
        """Start the process."""
        raise NotImplementedError

    def access(self, database, *ports, address='127.0.0.1'):
        """The part db of a configuration for the workers' account. ports: by which the
        server is reached, if not by its own."""
        return {
            'engine': self.engine,
            'database': database,
            'username': 'dc',
            'password': 'secret',
            'host': ['%s:%d' % (address, port) for port in ports or [self.port]],
        }

    def execute(self, command):
        """Start a process that serves, whose words go to the log; returns it."""
        with open(self.log, 'ab') as log:
            return run_as(
                self.owner,
                command,
                subprocess.Popen,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C is for the tests alone
            )

    def own(self):
        """Have the folder and all in it belong to whom the server runs as."""
        if IS_ROOT:
            owner = ':'.join(ids_of(self.owner)) if ELSEWHERE else self.owner + ':'
            subprocess.run(['chown', '-R', owner, self.folder], check=True)

    def is_up(self):
        """Whether it takes connections; what has ended is an error."""
        if self.process.poll() is not None:
            self.has_ended()
            return False
        with contextlib.suppress(self.errors):
            self.connect().close()
            return True
        return False

    def has_ended(self):
        """It has ended by itself while somebody waits for its start."""
        with open(self.log, errors='replace') as log:
            raise AssertionError('ended at once: ' + log.read()[-2000:])

    def stop(self):
        """End it in good order; kill it if it takes too long."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(self.end_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
        self.kill()

    def discard(self):
        """End it at once: nobody needs its data any more."""
        self.kill()

    def kill(self):
        """End it with SIGKILL."""
        if self.process:
            self.process.kill()
            self.process.wait()


class MariaDB(Server):
    """A MariaDB server. root may do all, over its socket."""

    engine = 'mysql'
    errors = pymysql.err.Error
    program = 'mariadbd'
    time_zones = 'mariadb-tzinfo-to-sql'  # writes them as SQL
    most_connections = 400

    def __init__(self, folder, *options, port=None, data=None):
        """options: of its command line. data: a folder to copy in place of new data."""
        super().__init__(folder, port)
        self.socket = os.path.join(folder, 's')
        self.options = options
        scratch = os.path.join(folder, 'tmp')  # servers disturb each other in one /tmp
        os.makedirs(scratch)
        self.basic_options = [
            '--no-defaults',
            '--datadir=' + os.path.join(folder, 'data'),
            '--tmpdir=' + scratch,
        ]
        if IS_ROOT:
            self.basic_options.append('--user=' + self.owner)
            self.own()
        if data:
            subprocess.run(['cp', '-a', data, folder], check=True)
        else:
            self.make_data()

    def make_data(self):
        """Make the folder of its data."""
        with open(self.log, 'ab') as log:
            run_as('root', self.data_command(), check=True, stdout=log, stderr=log)

    def data_command(self):
        return [
            'mariadb-install-db',
            *self.basic_options,
            '--skip-test-db',
            '--auth-root-authentication-method=normal',
        ]

    def launch(self, *options):
        self.process = self.execute(
            [
                self.program,
                *self.basic_options,
                '--socket=' + self.socket,
                '--port=%d' % self.port,
                '--pid-file=' + os.path.join(self.folder, 'pid'),
                '--bind-address=127.0.0.1',
                '--innodb-buffer-pool-size=64M',
                '--max-connections=%d' % self.most_connections,
                '--max-allowed-packet=16M',
                '--log-bin-trust-function-creators=1',
                *self.options,
                *options,
            ]
        )

    def connect(self, database=None):
        return pymysql.connect(
            unix_socket=self.socket,
            user='root',
            autocommit=True,
            database=database,
            connect_timeout=3,
            read_timeout=5,
        )

    def settings(self, *statements):
        """Run statements, of which no rows are wanted."""
        with contextlib.closing(self.connect()) as connection:
            for statement in statements:
                connection.cursor().execute(statement)

    def value(self, name):
        """A status or a variable of the server, as text; None if it has no such."""
        with contextlib.closing(self.connect()) as connection:
            cursor = connection.cursor()
            for kind in ('STATUS', 'VARIABLES'):
                cursor.execute("SHOW GLOBAL %s LIKE '%s'" % (kind, name))
                for row in cursor.fetchall():
                    return row[1]

    def client(self, text, check=True, database=None):
        """Run any text by the plain client; returns what it prints."""
        command = ['mariadb', '--no-defaults', '--socket=' + self.socket, '-uroot']
        if database:
            command.append(database)
        done = subprocess.run(
            command,
            input=text.encode(),
            check=check,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return done.stdout.decode()

    def load_time_zones(self):
        """Have the server know the zones of the machine by name."""
        zones = run_as(
            'root',
            [self.time_zones, '/usr/share/zoneinfo'],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.client(zones.stdout.decode(), database='mysql')

    def make_account(self, database=None):
        """The workers' account: for one new database, or for all that it may make."""
        self.settings("CREATE USER dc IDENTIFIED BY 'secret'")
        if database:
            # No more than this: read_only stops no account that may do all.
            self.settings(
                'CREATE DATABASE ' + database, 'GRANT ALL ON %s.* TO dc' % database
            )
        else:
            self.settings('GRANT ALL ON *.* TO dc')
        return self

    def set_read_only(self, value):
        self.settings('SET GLOBAL read_only = %d' % value)

    def limit_connections(self, limited):
        most = 10 if limited else self.most_connections
        self.settings('SET GLOBAL max_connections = %d' % most)


class MySQL(MariaDB):
    """MySQL in MariaDB's place: the server that $DISTRIBUTED_CRON_MYSQLD names, or the
    one that there is elsewhere."""

    program = os.environ.get('DISTRIBUTED_CRON_MYSQLD', '')
    time_zones = os.path.join(os.path.dirname(program), 'mysql_tzinfo_to_sql')
    if ELSEWHERE and not os.path.exists(ELSEWHERE + '/usr/sbin/mariadbd'):
        program, time_zones = '/usr/sbin/mysqld', 'mysql_tzinfo_to_sql'

    def __init__(self, folder, *options, **more):
        # Debian's has a folder built in for that, which its package does not make.
        super().__init__(folder, '--secure-file-priv=NULL', *options, **more)

    def data_command(self):
        return [self.program, *self.basic_options, '--initialize-insecure']


class Galera(MariaDB):
    """One node of a cluster of three on loopback."""

    owner = 'mysql'  # rsync, by which a node gets data, is nobody where that is root

    def __init__(self, folder, ports, number, data=None):
        """ports: three for each node. number: which node this is, from 0."""
        port, group, transfer = ports[3 * number : 3 * number + 3]
        nodes = ','.join('127.0.0.1:%d' % port for port in ports[1::3])
        super().__init__(
            folder,
            '--wsrep-on=ON',
            '--wsrep-provider=/usr/lib/galera/libgalera_smm.so',
            '--wsrep-cluster-address=gcomm://' + nodes,
            '--wsrep-node-name=n%d' % number,
            '--wsrep-node-address=127.0.0.1:%d' % group,
            '--wsrep-sst-receive-address=127.0.0.1:%d' % transfer,
            '--wsrep-provider-options=base_port=%d;gcache.size=32M' % group,
            # The options in one string, as isolate() sets them: not by the newer plugin.
            '--loose-plugin-wsrep-provider=OFF',
            '--wsrep-sst-method=rsync',
            '--binlog-format=ROW',
            '--log-bin',
            '--innodb-autoinc-lock-mode=2',
            port=port,
            data=data,
        )

    def start(self, *options, wait=60):
        super().start(*options, wait=wait)
        wait_until(self.is_ready, wait, 'a node that is ready in ' + self.folder)
        return self

    def is_ready(self):
        """Whether it is one of a majority, and has what the others have."""
        with contextlib.suppress(self.errors):
            return self.value('wsrep_ready') == 'ON'
        return False

    def isolate(self, value):
        """Partition it away from the others, or let it come back."""
        self.settings("SET GLOBAL wsrep_provider_options = 'gmcast.isolate=%d'" % value)


class PostgreSQL(Server):
    """A PostgreSQL server. postgres may do all, over its socket."""

    engine = 'postgresql'
    errors = psycopg.Error
    end_signal = signal.SIGINT  # a fast shutdown
    owner = 'postgres'  # it refuses to run as root

    def __init__(self, folder, port=None, connections=300):
        super().__init__(folder, port)
        found = sorted(glob.glob(ELSEWHERE + '/usr/lib/postgresql/*/bin'))
        self.programs = found[-1][len(ELSEWHERE) :]
        self.data = os.path.join(folder, 'data')
        self.own_port = self.port
        self.connections = connections
        self.own()
        run_as(
            self.owner,
            [
                self.programs + '/initdb',
                '--pgdata=' + self.data,
                '--username=postgres',
                '--auth-local=trust',
                '--auth-host=scram-sha-256',
                '--encoding=UTF8',
            ],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )

    def launch(self, *options):
        settings = {
            'port': self.own_port,
            'unix_socket_directories': self.folder,
            'listen_addresses': '127.0.0.1',
            'max_connections': self.connections,
        }
        command = [self.programs + '/postgres', '-D', self.data]
        for name, value in settings.items():
            command += ['-c', '%s=%s' % (name, value)]
        self.process = self.execute([*command, *options])

    def has_ended(self):
        """After a kill its children may hold on to the data for a moment: try again."""
        time.sleep(0.5)
        self.launch()

    def connect(self, database='postgres'):
        return psycopg.connect(
            host=self.folder,
            port=self.own_port,
            user='postgres',
            dbname=database,
            autocommit=True,
            connect_timeout=3,
        )

    def settings(self, *statements):
        """Run statements, of which no rows are wanted."""
        with contextlib.closing(self.connect()) as connection:
            for statement in statements:
                connection.execute(statement)

    def discard(self):
        self.process.send_signal(signal.SIGQUIT)  # which ends its processes too
        self.process.wait()

    def make_account(self, database=None):
        """The workers' account: for one new database, or for all."""
        if database:
            self.settings(
                "CREATE ROLE dc LOGIN PASSWORD 'secret'",
                'CREATE DATABASE %s OWNER dc' % database,
            )
        else:
            self.settings("CREATE ROLE dc SUPERUSER LOGIN PASSWORD 'secret'")
        return self

    def set_read_only(self, value):
        state = 'on' if value else 'off'
        self.settings(
            'ALTER SYSTEM SET default_transaction_read_only = ' + state,
            'SELECT pg_reload_conf()',
        )

    def limit_connections(self, limited):
        """It can't: it is started with as few as somebody can take."""


POOLER = '''[databases]
* = host={folder} port={own_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir = {folder}
pool_mode = {mode}
default_pool_size = 100
max_client_conn = 500
auth_type = hba
auth_hba_file = {folder}/pooler.hba
auth_file = {folder}/pooler.users
'''


class Pooled(PostgreSQL):
    """A PostgreSQL server behind pgbouncer, which is at `port`. postgres reaches the
    server itself."""

    def __init__(self, folder, mode, *lines):
        """mode: session or transaction. lines: more of the pooler's configuration."""
        super().__init__(folder)
        self.port = free_port()
        self.pooler = None  # its process
        self.write(
            'pooler.hba',
            'local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n',
        )
        self.write('pooler.users', '"postgres" ""\n"dc" "secret"\n')
        text = POOLER.format(mode=mode, **vars(self))
        self.write('pooler.ini', text + ''.join(line + '\n' for line in lines))

    def write(self, name, text):
        with open(os.path.join(self.folder, name), 'w') as file:
            file.write(text)

    def start(self, *options, wait=60):
        super().start(*options, wait=wait)
        ini = os.path.join(self.folder, 'pooler.ini')
        self.pooler = self.execute(['pgbouncer', ini])
        wait_until(
            lambda: is_listening(self.port), wait, 'the pooler in ' + self.folder
        )
        return self

    def discard(self):
        self.end_pooler()
        super().discard()

    def kill(self):
        self.end_pooler()
        super().kill()

    def end_pooler(self):
        if self.pooler:
            self.pooler.kill()
            self.pooler.wait()


class SQLite:
    """A file. There is nothing to start, but it can be locked."""

    engine = 'sqlite'
    errors = sqlite3.Error
    port = None

    def __init__(self, folder):
        self.path = os.path.join(folder, 'd.db')

    def connect(self, database=None):
        return sqlite3.connect(self.path, timeout=20, isolation_level=None)

    def stop(self):
        """There is nothing to end."""
