"""Walks the README on bare machines, as `tests/run --walk` does. Needs root.

Each host is a bare Debian in a folder, with processes, mounts, a name and a network of
its own; a bridge that no other host sees joins them. Every command, file and statement
of a step is taken out of README.md, by its heading. The walk itself types only what the
README leaves to a person: passwords, copies from host to host, a crontab to move, a
newer version; and what shows how it went. It says for each step how long it took, and
at the end how long a newcomer waits for the first job.

Three things differ from a real machine. There is no systemd, so the walk starts cron and
MariaDB after their installation. apt-get uses this machine's network, because the hosts
have no other. And of the service for systemd only its syntax is checked.

--walk SUITE: bookworm (the default), trixie, …. DEBIAN_MIRROR: where packages come from.
What is downloaded is kept in the folder distributed_cron of $XDG_CACHE_HOME, or of
/var/cache.
"""

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CACHE = os.path.join(os.environ.get('XDG_CACHE_HOME', '/var/cache'), 'distributed_cron')
with open(os.path.join(ROOT, 'README.md'), encoding='utf-8') as readme:
    README = readme.read()
MIRROR = os.environ.get('DEBIAN_MIRROR', 'http://deb.debian.org/debian')
CLONE = '/srv/clone'  # of this repository, on each host
PATIENCE = 80  # seconds: cron's minute, and some more
SEVERAL = '## Several hosts'
FIVE_MINUTES = '## Five minutes on one host'
KEEPING = '### Back up, restore, uninstall'
POSTGRESQL = '### With PostgreSQL'
ENVIRONMENT = {
    'PATH': '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    'HOME': '/root',
    'LANG': 'C.UTF-8',
    'DEBIAN_FRONTEND': 'noninteractive',
}
# A host's first process: mounts what belongs to it, and then reaps what others leave.
BIRTH = '''
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
cd "$2/root"
mount -t proc proc proc
mount --bind /dev dev
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs tmpfs run
mount --bind "$3" var/cache/apt/archives
hostname "$4"
exec chroot . sh -c 'echo born; while :; do sleep 1000 & wait; done'
'''
CRONTAB = '''# each night
30 2 * * * /usr/local/bin/nightly
*/10 8-17 * * mon-fri echo office
'''
AT_BOOT = '@reboot /usr/local/bin/start\n'


class Stumble(Exception):
    """What a newcomer would have stumbled over."""


# The README


class Block:
    """An indented block of README.md. before: the text from the step's begin to it."""

    def __init__(self, text, before):
        self.text = text
        self.before = before

    def path(self):
        """The file of which it is the content: the last path that was named."""
        return re.findall(r'`(/[^`\s]+)`', self.before)[-1]


def part(heading, step=None):
    """The text below a heading, or of it the step whose bold words begin so."""
    text = README.split('\n%s\n' % heading)[1]
    text = re.split(r'(?m)^#+ ', text)[0]
    if step is None:
        return text
    found = re.search(r'(?ms)^\*\*%s.*?(?=^\*\*|\Z)' % re.escape(step), text)
    return found[0]


def block(heading, step=None, having=''):
    """The one block of a part of README.md that has a word."""
    text = part(heading, step)
    found = [
        Block(re.sub('(?m)^    ', '', match[0]), text[: match.start()])
        for match in re.finditer(r'(?m)(?:^    .*\n)+', text)
        if having in match[0]
    ]
    if len(found) != 1:
        raise Stumble(
            'README.md, %s, %s: %d blocks with %r' % (heading, step, len(found), having)
        )
    return found[0]


def command(heading, having, step=None):
    """The one command in a part's sentences that has a word."""
    (found,) = {
        text for text in re.findall(r'`([^`]+)`', part(heading, step)) if having in text
    }
    return ' '.join(found.split())


# The hosts


def run(*arguments, **how):
    """Run a command of this machine; what it says is of use only when it fails."""
    done = subprocess.run(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **how
    )
    if done.returncode:
        raise Stumble('%s: %s' % (' '.join(arguments), done.stdout.decode()[-2000:]))


def root_of(name, suite, prepare):
    """The path of a bare Debian that starts no services, made once in a folder of CACHE.
    prepare: does to a path what else is to be done before it is complete."""
    root = os.path.join(CACHE, name)
    if not os.path.isdir(root):
        os.makedirs(CACHE, exist_ok=True)
        new = tempfile.mkdtemp(prefix=name + '-', dir=CACHE)
        run('debootstrap', '--variant=minbase', suite, new, MIRROR)
        write(new, 'usr/sbin/policy-rc.d', '#!/bin/sh\nexit 101\n', 0o755)
        prepare(new)
        os.chmod(new, 0o755)
        os.rename(new, root)
    return root


def configure_apt(root):
    write(root, 'etc/apt/apt.conf.d/yes', 'APT::Get::Assume-Yes "true";\n')
    # The hosts share what apt downloads, with each other and the next walk.
    write(root, 'etc/apt/apt.conf.d/docker-clean', '')


def bare_root(suite):
    """The path of the Debian of a walk's hosts. Its lists of packages are today's."""
    root = root_of(suite, suite, configure_apt)
    shutil.copy('/etc/resolv.conf', os.path.join(root, 'etc'))
    run('chroot', root, 'apt-get', '-q', 'update', env=ENVIRONMENT)
    return root


def write(root, name, text, mode=0o644):
    path = os.path.join(root, name)
    with open(path, 'w', encoding='utf-8') as file:
        file.write(text)
    os.chmod(path, mode)


def first_process(unshare):
    """The process, seen from here, that unshare forked into namespaces."""
    path = '/proc/%d/task/%d/children' % (unshare.pid, unshare.pid)
    with open(path) as file:
        return int(file.read().split()[0])


class Machines:
    """The hosts of a walk, and the bridge between them. All end with it."""

    def __init__(self, suite):
        os.makedirs(os.path.join(CACHE, 'packages-' + suite), exist_ok=True)
        self.packages = os.path.join(CACHE, 'packages-' + suite)
        self.base = bare_root(suite)
        self.folder = tempfile.mkdtemp(prefix='walk-', dir=CACHE)
        self.hosts = []
        self.bridge = subprocess.Popen(
            ['unshare', '--net', 'sh', '-c', 'echo made; exec sleep 100000'],
            stdout=subprocess.PIPE,
        )
        self.bridge.stdout.readline()
        self.on_bridge('link', 'add', 'bridge', 'type', 'bridge')
        self.on_bridge('link', 'set', 'bridge', 'up')

    def on_bridge(self, *arguments):
        run('nsenter', '--net=/proc/%d/ns/net' % self.bridge.pid, 'ip', *arguments)

    def host(self, name):
        host = Host(self, name, len(self.hosts) + 1)
        self.hosts.append(host)  # so that it ends, whatever happens
        host.start()
        return host

    def names(self):
        """/etc/hosts of all of them. The database is on the first."""
        lines = ['127.0.0.1 localhost', '10.0.0.1 db.example.com']
        lines += ['10.0.0.%d %s' % (host.number, host.name) for host in self.hosts]
        return '\n'.join(lines) + '\n'

    def end(self):
        for host in self.hosts:
            host.end()
        self.bridge.kill()
        self.bridge.wait()
        shutil.rmtree(self.folder)


class Host:
    """A bare Debian that has just been started."""

    def __init__(self, machines, name, number):
        self.machines = machines
        self.name = name
        self.number = number  # the last one of its address
        self.functions = ''  # of the shell, which the README has defined
        self.process = None  # unshare, which ends its processes when it ends
        self.init = None  # the id of its first process

    def start(self):
        machines, name = self.machines, self.name
        own = os.path.join(machines.folder, name)
        for folder in 'upper', 'work', 'root':
            os.makedirs(os.path.join(own, folder), 0o755)
        flags = '--mount --uts --ipc --net --pid --fork --kill-child'.split()
        birth = ['sh', '-e', '-c', BIRTH, 'sh', machines.base, own, machines.packages]
        self.process = subprocess.Popen(
            ['unshare', *flags, *birth, name], stdout=subprocess.PIPE
        )
        if self.process.stdout.readline() != b'born\n':
            raise Stumble('no mounts or namespaces on this machine')
        self.init = first_process(self.process)
        self.connect()
        self.clone()

    def connect(self):
        """To the bridge."""
        machines, end = self.machines, 'to-' + self.name
        # fmt: off
        machines.on_bridge(
            'link', 'add', end, 'type', 'veth',
            'peer', 'name', 'eth0', 'netns', str(self.init),
        )
        # fmt: on
        machines.on_bridge('link', 'set', end, 'master', 'bridge', 'up')
        inside = ['nsenter', '--net=/proc/%d/ns/net' % self.init, 'ip']
        run(*inside, 'link', 'set', 'lo', 'up')
        run(*inside, 'addr', 'add', '10.0.0.%d/24' % self.number, 'dev', 'eth0')
        run(*inside, 'link', 'set', 'eth0', 'up')

    def clone(self):
        """What git has of this repository, as it lies here."""
        files = subprocess.run(
            ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        archive = subprocess.run(
            ['tar', '-c', '--null', '--owner=0', '--group=0', '-T', '-'],
            cwd=ROOT,
            input=files,
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        self.run('tar -x', archive)

    def run(self, script, stdin=b'', code=0, user='root', online=False):
        """Type commands, and get what they print. stdin: text or bytes that they read;
        code: how the last one ends; online: in this machine's network."""
        spaces = ['--mount', '--uts', '--ipc', '--pid', '--root']
        if not online:
            spaces.append('--net')
        shell = ['bash', '-e', '-o', 'pipefail', '-c']
        place = CLONE
        if user != 'root':
            shell = ['su', '-', user, '-s', '/bin/bash', '-c']
            place = '~/clone'
        typed = 'mkdir -p %s; cd %s\n' % (place, place) + self.functions + script
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                ['nsenter', '--target', str(self.init), *spaces, '--wd', *shell, typed],
                input=stdin if isinstance(stdin, bytes) else stdin.encode(),
                stdout=output,  # no pipe: a daemon would hold it open
                stderr=subprocess.STDOUT,
                env=ENVIRONMENT,
            )
            output.seek(0)
            text = output.read().decode()
        if done.returncode != code:
            raise Stumble(
                '%s: exit status %d, not %d, of\n%s\nwhich printed\n%s'
                % (self.name, done.returncode, code, script, text[-3000:])
            )
        return text

    def install(self, line):
        """Type a line for apt-get."""
        self.run(line, online=True)

    def write(self, block):
        """Make the file of which a block is the content."""
        self.run('cat > ' + block.path(), block.text)

    def define(self, text):
        """Take over the functions that a block defines. Returns what else it has."""
        functions = re.findall(r'(?m)^\S+\(\) \{.*\}\n', text)
        self.functions += ''.join(functions)
        for function in functions:
            text = text.replace(function, '')
        return text

    def wait(self, script, looked_for, what):
        """Type a command until it prints what is looked for. Returns what it printed."""
        end = time.monotonic() + PATIENCE
        while True:
            printed = self.run(script)
            if re.search(looked_for, printed):
                return printed
            if time.monotonic() > end:
                raise Stumble('%s: %s:\n%s' % (self.name, what, printed))
            time.sleep(1)

    def end(self):
        """As when the power fails."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


# The walk


class Walk:
    """The steps, in order. Each is a method whose docstring is what is said of it."""

    def __init__(self, machines):
        self.database = machines.host('db')
        self.alpha = machines.host('alpha')
        self.beta = machines.host('beta')
        self.solo = machines.host('solo')
        self.workers = [self.alpha, self.beta]
        for host in machines.hosts:
            host.run('cat > /etc/hosts', machines.names())
        self.began = None  # when the newcomer read the first line
        self.first_job = None  # seconds from then until a job had run
        self.dump = None  # the database's

    def steps(self):
        return [
            self.five_minutes,
            self.database_server,
            self.packages,
            self.database_and_account,
            self.program,
            self.first_worker,
            self.jobs,
            self.second_host,
            self.alone_after_five_minutes,
            self.unit,
            self.crontab,
            self.again,
            self.upgrade,
            self.backup,
            self.dead_host,
            self.restore,
            self.uninstall,
            self.postgresql,
        ]

    def walk(self):
        for step in self.steps():
            begin = time.monotonic()
            step()
            print(
                'ok %5.1f s  %s' % (time.monotonic() - begin, step.__doc__), flush=True
            )
        print('first line to first job: %.0f s' % self.first_job)

    def five_minutes(self):
        """Demo, and five minutes on one host, as a user"""
        host = self.solo
        host.install(command(FIVE_MINUTES, 'apt-get'))
        host.run('cron')
        host.run('useradd -m newcomer && cp -r . ~newcomer/clone')
        host.run('chown -R newcomer: ~newcomer/clone')
        demo = host.run(block('## Demo', having='demo').text, user='newcomer')
        assert 'ran once' in demo, demo
        first = block(FIVE_MINUTES, having='crontab -').text
        assert 'job 1' in host.run(first, user='newcomer')

    def database_server(self):
        """A database server, as Debian has it"""
        self.database.install(command(SEVERAL, 'mariadb-server', '2.'))
        self.database.run('service mariadb start')

    def packages(self):
        """1. Packages"""
        self.began = time.monotonic()
        for host in self.workers:
            host.install(block(SEVERAL, '1.').text)
            host.run('cron')

    def database_and_account(self):
        """2. Database and account"""
        host = self.database
        host.run('mariadb', block(SEVERAL, '2.', 'CREATE USER').text)
        host.run(block(SEVERAL, '2.', 'openssl').text)
        host.write(block(SEVERAL, '2.', 'bind-address'))
        host.run(command(SEVERAL, 'restart', '2.'))

    def program(self):
        """3. User, folders, program; 4. Configuration, on one host"""
        self.install_program(self.alpha)

    def install_program(self, host):
        host.run(block(SEVERAL, '3.').text)
        host.write(block(SEVERAL, '4.'))
        account = block(SEVERAL, '2.', 'CREATE USER').text
        password = re.search(r"IDENTIFIED BY '(.*)'", account)[1]
        host.run('cat > /opt/distributed_cron/db.password', password + '\n')
        certificate = self.database.run('cat /etc/mysql/ca.pem')
        host.run('cat > /opt/distributed_cron/ca.pem', certificate)

    def first_worker(self):
        """5. Tables; 6a. Start it from cron"""
        host = self.alpha
        printed = host.run(host.define(block(SEVERAL, '5.').text), code=1)
        bad = [line for line in printed.splitlines() if line.startswith('bad')]
        assert 'tables ready' in printed and len(bad) == 1, printed
        assert printed.splitlines()[-1] == bad[0] and 'worker' in bad[0], printed
        host.write(block(SEVERAL, '6a.'))

    def jobs(self):
        """7. Jobs: the first one has run"""
        listed = self.alpha.run(block(SEVERAL, '7.', 'add').text)
        assert '/usr/local/bin/backup' in listed, listed
        client = command(SEVERAL, 'mariadb distributed_cron', '7.')
        self.database.run(client, block(SEVERAL, '7.', 'INSERT').text)
        printed = self.alpha.wait('distributed_cron.py history', 'Success', 'no run')
        self.first_job = time.monotonic() - self.began
        assert 'hello' in printed and 'alpha' in printed, printed

    def second_host(self):
        """A second host: 3. to 6a., without init; hosts shows both, check is content"""
        host = self.beta
        self.install_program(host)
        text = host.define(block(SEVERAL, '5.').text)
        host.run(
            ''.join(line for line in text.splitlines(True) if ' init' not in line),
            code=1,
        )
        host.write(block(SEVERAL, '6a.'))
        printed = self.alpha.wait('distributed_cron.py hosts', 'beta', 'not seen')
        assert 'alpha' in printed, printed
        host.wait('distributed_cron.py check || :', 'ok   worker', 'no worker')
        host.run('distributed_cron.py check')
        self.alpha.run('distributed_cron.py check')

    def alone_after_five_minutes(self):
        """On the one host, list and history print what the README shows"""
        shown = block(FIVE_MINUTES, having='JOB ID').text
        for typed, status in (
            (command(FIVE_MINUTES, '$dc list'), 'ok'),
            (command(FIVE_MINUTES, '$dc history'), 'Success'),
        ):
            printed = self.solo.run(
                'dc=$PWD/distributed_cron.py; ' + typed, user='newcomer'
            )
            title, *rows = [line.split() for line in printed.splitlines()]
            assert title in [line.split() for line in shown.splitlines()], printed
            assert status in rows[0], printed

    def unit(self):
        """6b. The service: systemd finds nothing wrong with it"""
        host = self.alpha  # which has a machine-id only from now on
        host.install('apt-get install --no-install-recommends systemd procps')
        service = block(SEVERAL, '6b.')
        host.write(service)  # to enable it needs a systemd that runs
        unit = service.path()
        assert unit == '/etc/systemd/system/distributed_cron.service'
        printed = host.run('systemd-analyze verify ' + unit)
        assert not printed, printed
        host.run('rm ' + unit)

    def crontab(self):
        """Moving in: the crontab goes when all of it has been imported"""
        host, typed = (
            self.alpha,
            block('## Moving in', 'From crontab', 'crontab -r').text,
        )
        host.run('crontab -', CRONTAB + AT_BOOT)
        printed = host.run(typed, code=1)
        assert '2 added' in printed and '1 skipped' in printed, printed
        assert AT_BOOT in host.run('crontab -l')
        host.run('crontab -', CRONTAB)
        assert '2 already present' in host.run(typed)
        host.run('crontab -l', code=1)
        printed = host.run('distributed_cron.py list')
        assert 'each night' in printed, printed  # its comment describes it

    def again(self):
        """3. may be pasted again"""
        host = self.alpha
        files = 'cd /opt/distributed_cron; stat -c "%n %a %U %G" * .; md5sum *.yml db* *.pem'
        before = host.run(files)
        assert 'db.password 640 root cronjob' in before, before
        host.run(block(SEVERAL, '3.').text)
        assert host.run(files) == before

    def upgrade(self):
        """Upgrade: the next minute's workers are of the new version"""
        for host in self.workers:
            host.run("sed -i \"s/^VERSION = .*/VERSION = '9.9'/\" distributed_cron.py")
            host.run(block(SEVERAL, '3.').text)
            if host is self.alpha:
                assert 'tables ready' in host.run('distributed_cron.py init')
        both = r'(?m)^alpha.* 9\.9 .*\nbeta.* 9\.9 '
        self.alpha.wait('distributed_cron.py hosts', both, 'not upgraded')

    def backup(self):
        """Back up"""
        self.database.run('cd /root; ' + command(KEEPING, '--single-transaction'))

    def dead_host(self):
        """A host dies: the other one runs its jobs"""
        before = self.beta.run('distributed_cron.py history')
        self.alpha.end()
        self.beta.run('distributed_cron.py add --every 1 "echo from the other"')
        printed = self.beta.wait(
            'distributed_cron.py history', 'from the other', 'no run'
        )
        assert printed != before

    def stop(self, host):
        """As the README says it: no line for cron, and no worker."""
        host.run('rm ' + block(SEVERAL, '6a.').path())
        host.wait('find /proc -maxdepth 1 -user cronjob | wc -l', r'^0\n', 'still runs')

    def restore(self):
        """Restore: the jobs are those of the dump, and run"""
        host = self.beta
        self.stop(host)
        self.database.run('cd /root; ' + command(KEEPING, '< distributed_cron.dump'))
        host.run(command(KEEPING, 'init'))
        printed = host.run('distributed_cron.py list')
        assert 'each night' in printed and 'from the other' not in printed, printed
        hello = re.search(r'(?m)^(\d+) .*say hello', printed)[1]
        host.run('distributed_cron.py run-now ' + hello)
        host.write(block(SEVERAL, '6a.'))
        host.wait('distributed_cron.py history', 'beta.*hello', 'no run')

    def uninstall(self):
        """Uninstall: nothing is left"""
        host = self.beta
        self.stop(host)
        host.run(block(KEEPING, having='userdel').text)
        left = "find / -xdev -name '*distributed_cron*' -not -path '%s*'" % CLONE
        assert not host.run(left), host.run(left)
        host.run('getent passwd cronjob', code=2)
        self.database.run('mariadb', command(KEEPING, 'DROP USER'))

    def postgresql(self):
        """With PostgreSQL, on the host that has just been emptied: a job runs"""
        server, host = self.database, self.beta
        admits = command(POSTGRESQL, 'hostssl') + '\n'
        server.install('apt-get install --no-install-recommends postgresql')
        server.run('cd /etc/postgresql/*/main; cat >> pg_hba.conf', admits)
        server.run(
            'cd /etc/postgresql/*/main; cat >> postgresql.conf', postgresql_settings()
        )
        server.run(
            'cd /etc/mysql; install -o postgres -m 600 server.key /etc/postgresql/; '
            'service postgresql restart'
        )
        server.run('su postgres -c psql', block(POSTGRESQL, having='CREATE ROLE').text)
        host.install('apt-get install python3-psycopg')
        self.install_program(host)
        host.run(
            "sed -i 's/^db:/&\\n    engine: postgresql/' "
            '/opt/distributed_cron/distributed_cron.yml'
        )
        host.run(host.define(block(SEVERAL, '5.').text), code=1)
        host.write(block(SEVERAL, '6a.'))
        host.run('distributed_cron.py add --every 1 echo hello')
        host.wait('distributed_cron.py history', 'beta.*hello', 'no run')
        host.run('distributed_cron.py check')


def postgresql_settings():
    """What the README says of postgresql.conf, with the files of this walk."""
    lines = [
        command(POSTGRESQL, 'listen_addresses'),
        command(POSTGRESQL, 'ssl = on'),
        command(POSTGRESQL, 'ssl_cert_file') + " = '/etc/mysql/ca.pem'",
        command(POSTGRESQL, 'ssl_key_file') + " = '/etc/postgresql/server.key'",
    ]
    return '\n'.join(lines) + '\n'


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('suite', nargs='?', default='bookworm', help='of Debian')
    suite = parser.parse_args().suite
    if os.getuid() != 0:
        sys.exit('walk: needs root')
    os.makedirs(CACHE, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            machines = Machines(suite)
            stack.callback(machines.end)
            Walk(machines).walk()
        except (Stumble, AssertionError) as problem:
            sys.exit('walk: %s' % problem)


if __name__ == '__main__':
    main()
