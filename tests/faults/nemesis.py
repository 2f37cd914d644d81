"""What breaks things: each fault as a class that starts and heals it.

`of`: what it hits: a 'host', the 'database', a 'node' of a cluster, or the 'table'.
`seconds`: how long it lasts, at least and at most. `cost`: the seconds after its healing in
which what it delayed has been made up for. `kills`: runs may die of it. `silences`: the
workers of its hosts are stopped, or can't do all with the database. `bites`: workers complain
of it.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time

from faults import checker, features, rules
from faults.cluster import FAKETIME, Host, now, send
from servers import wait_until, within

CLAIM, REPORT = b' SET run_token = ', b'COMMIT'
COLLECT = b'FROM job WHERE run_token = '
DATABASES = ('mariadb', 'postgresql')
BACK = 10  # seconds in which workers are back at a database that has come back


class Fault:
    """One fault of a cluster, perhaps of one of its hosts."""

    of, seconds = 'host', (0.3, 3)
    kills = forgets = withholds = silences = False
    mixed, bites = True, False
    loaded = True  # other jobs run meanwhile
    mounts = False  # whether it needs mounts of its own
    databases = ('mariadb', 'postgresql', 'sqlite', 'galera')

    def __init__(self, attack, host, random):
        self.attack, self.host, self.random = attack, host, random
        self.cluster = attack.cluster
        self.cost = (
            BACK if self.of in ('database', 'node') else self.cluster.deadline + 3
        )

    @property
    def kind(self):
        """As the checker and the README name it."""
        return self.name

    @property
    def hosts(self):
        """Names of the hosts that it hits; none: of all."""
        return [self.host.name] if self.of == 'host' else []

    def inflict(self, length):
        self.begin = now()
        self.start()

    def end(self):
        """Heal it; returns it as the checker knows it."""
        self.heal()
        return checker.Fault(
            self.kind,
            self.hosts,
            self.begin,
            now(),
            now() + self.cost,
            self.kills,
            self.forgets,
            self.withholds,
            self.silences or self.of in ('database', 'node'),
        )

    def length(self):
        return self.random.uniform(*self.seconds)

    def start(self):
        raise NotImplementedError

    def heal(self):
        pass

    def miss(self, text):
        """It did not hit what it was for; beside others that may be."""
        if not self.attack.is_mixed:
            self.attack.fail('%s: %s' % (self.name, text))

    @property
    def server(self):
        return self.cluster.servers[0]

    def proxies(self):
        return [proxy for host in self.cluster.hosts for proxy in host.proxies]


# Hosts, and what is of them.


class KillWorker(Fault):
    silences = True

    def start(self):
        self.host.worker.kill()
        self.host.worker.wait()

    def heal(self):
        self.host.start_again()


class KillRunner(Fault):
    kills = True

    def start(self):
        for process in within(self.host.runners, 2):
            send(process, signal.SIGKILL)


class KillBoth(KillWorker):
    kills = True

    def start(self):
        for process in [self.host.worker.pid, *self.host.runners()]:
            send(process, signal.SIGKILL)
        self.host.worker.wait()


class KillBothAndStayAway(KillBoth):
    """For longer than the deadline: a command may run beside its successor."""

    mixed = False

    def length(self):
        return self.cluster.deadline + 3


class KillHost(KillWorker):
    kills = True

    def start(self):
        self.host.kill()


class LoseHost(KillHost):
    """It comes back without its state folder."""

    forgets = True

    def start(self):
        self.host.kill()
        for name in os.listdir(self.host.state):
            path = os.path.join(self.host.state, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)


class OtherVersion(KillWorker):
    """The host's worker leaves, and one of the other version takes its place: of 1.0
    where today's was, and of today's where 1.0's was."""

    mixed = False

    def start(self):
        self.attack.leave_clean(self.host)

    def heal(self):
        is_old = self.host.script == self.cluster.old_script
        self.host.script = None if is_old else self.cluster.old_script
        super().heal()


class StopWorker(Fault):
    silences = True

    def length(self):
        return self.cluster.deadline + self.random.uniform(1, 3)

    def start(self):
        send(self.host.worker.pid, signal.SIGSTOP)

    def heal(self):
        send(self.host.worker.pid, signal.SIGCONT)


class StopHost(StopWorker):
    def start(self):
        self.host.freeze()

    def heal(self):
        self.host.thaw()


class StopInClaim(StopWorker):
    """The worker is frozen when it has claimed, and just asks for what."""

    databases, statement = (*DATABASES, 'galera'), COLLECT

    def start(self):
        self.hit = None
        for proxy in self.host.proxies:
            proxy.watch(
                CLAIM
                if self.cluster.database == 'postgresql' and self.statement == COLLECT
                else self.statement,
                self.strike,
            )
        if not within(lambda: self.hit, 20):
            self.miss('no such statement')
            self.strike()

    def strike(self):
        if not self.hit:  # there is a proxy for each node
            self.hit = now()
            self.hurt()

    def hurt(self):
        send(self.host.worker.pid, signal.SIGSTOP)

    def heal(self):
        for proxy in self.host.proxies:
            proxy.watched = None
        super().heal()


class StopInReport(StopInClaim):
    statement = REPORT


class KillInClaim(StopInClaim):
    def length(self):
        return self.random.uniform(0.3, 3)

    def hurt(self):
        self.host.worker.kill()

    def heal(self):
        super().heal()
        self.host.worker.wait()
        self.host.start_again()


class KillInReport(KillInClaim):
    statement = REPORT


class RowsHeld:
    """What it had begun to plan is late by as long as the server takes to end its session.
    That no other job is late, tests/test_blocking.py looks at."""

    def end(self):
        held = checker.Fault('rows-held', [], self.begin, now(), now() + 3)
        self.attack.faults.append(held)
        return super().end()


class StopInsidePlan(RowsHeld, StopInClaim):
    """The worker is frozen within a transaction: its COMMIT is not sent."""

    databases, statement = DATABASES, b'UPDATE job SET next_run_utc'

    def length(self):
        return self.cluster.deadline + self.random.uniform(10, 15)


class StopInsideReport(StopInsidePlan):
    statement = b' SET last_end'


class VanishInsidePlan(RowsHeld, KillWorker):
    """The host dies within a transaction, and no FIN says so to the server."""

    databases, statement = DATABASES, b'UPDATE job SET next_run_utc'
    kills = True

    def length(self):
        return self.cluster.deadline + self.random.uniform(10, 15)

    def start(self):
        self.hit = threading.Event()
        for proxy in self.host.proxies:
            proxy.vanish(self.statement, self.strike)
        if not self.hit.wait(20):
            self.miss('no such statement')
            self.strike()

    def strike(self):
        if not self.hit.is_set():
            self.host.kill()
            self.hit.set()

    def heal(self):
        for proxy in self.host.proxies:
            proxy.vanishing = None
        super().heal()


class VanishInsideReport(VanishInsidePlan):
    statement = b' SET last_end'


class StopRunner(Fault):
    """Runners stand still for longer than their runs may last: the host's worker ends
    the commands all the same."""

    kills = True

    def length(self):
        return self.cluster.deadline + self.random.uniform(6, 8)

    def inflict(self, length):
        jobs = [self.attack.add_job(300) for _ in range(12)]
        within(lambda: all(map(self.attack.has_started, jobs)), 5)
        super().inflict(length)

    def start(self):
        self.stopped = self.host.runners()
        self.commands = self.host.processes() - {self.host.worker.pid, *self.stopped}
        for process in self.stopped:
            send(process, signal.SIGSTOP)
        if not self.commands:
            self.miss('no command')

    def heal(self):
        left = self.commands & self.host.processes()
        if left:
            self.attack.fail(
                '%s: %d processes outlive their limit' % (self.name, len(left))
            )
        for process in self.stopped:
            send(process, signal.SIGCONT)


class CutOff(StopWorker):
    """The host's way to the database swallows all, for longer than the deadline."""

    databases, bites = (*DATABASES, 'galera'), True

    def start(self):
        self.set(True)

    def heal(self):
        self.set(False)

    def set(self, value):
        if self.host.network:
            self.host.network.cut(value)
        for proxy in self.host.proxies:
            proxy.swallows = value


class LogFull(Fault):
    seconds, folder, mounts = (3, 5), 'log', True

    def start(self):
        self.healed, self.path = threading.Event(), getattr(self.host, self.folder)
        self.thread = threading.Thread(target=self.keep_full, daemon=True)
        self.thread.start()

    def keep_full(self):
        """Again and again, as each file that is removed makes room."""
        while not self.healed.wait(0.01):
            self.host.fill(self.path)

    def heal(self):
        self.healed.set()
        self.thread.join()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.path, 'filler'))


class StateFull(LogFull):
    folder, bites, withholds = 'state', True, True


class StateReadOnly(Fault):
    """By a read-only view of it mounted over it; files that are open stay writable."""

    seconds, bites, mounts, withholds = (3, 5), True, True, True

    def start(self):
        subprocess.run(
            ['mount', '--bind', '-o', 'ro', *[self.host.state] * 2], check=True
        )

    def heal(self):
        subprocess.run(['umount', '--lazy', self.host.state], check=True)


class WrongClock(KillWorker):
    """The worker starts anew with a wall clock that is wrong by hours."""

    # not SQLite's, whose clock it is
    seconds, databases = (5, 8), (*DATABASES, 'galera')

    def start(self):
        self.restart(
            {
                'LD_PRELOAD': FAKETIME,
                'FAKETIME_DONT_FAKE_MONOTONIC': '1',
                'FAKETIME': '%+dh' % self.random.choice([-30, -5, 3, 26]),
            }
        )

    def heal(self):
        self.restart({})

    def restart(self, environment):
        if not os.path.exists(FAKETIME):
            raise RuntimeError('libfaketime is missing')
        super().start()
        self.host.more = environment
        self.host.start_again()


class SameName(Fault):
    """Another host takes this one's name."""

    seconds, databases = (4, 7), (*DATABASES, 'galera')

    def start(self):
        self.other = Host(self.cluster, self.attack.next_host(), self.host)
        self.other.start()

    def heal(self):
        self.attack.drain(self.other)


class OtherWords(KillWorker):
    """The worker starts anew with another name, or other tags, or both."""

    seconds = (4, 10)

    @property
    def hosts(self):
        return [self.host.label, 'guest%s' % self.host.label[4:]]

    def start(self):
        name, tags = self.random.choice((('guest', 0), ('host', 0), ('guest', 1)))
        tags = self.host.tags if tags else ['guest']
        self.before = self.host.name, self.host.tags
        self.restart(self.host.label.replace('host', name), tags)

    def heal(self):
        self.restart(*self.before)

    def restart(self, name, tags):
        super().start()
        self.host.name, self.host.tags = name, tags
        self.host.configure()
        self.host.start_again()


class FiftyWorkers(Fault):
    """Fifty hosts more start in the same second, as from their crontabs."""

    of, databases, mixed = 'table', (*DATABASES, 'galera'), False

    def start(self):
        self.more = [
            Host(self.cluster, self.attack.next_host(), disks=False) for _ in range(50)
        ]
        self.attack.add_jobs(100)
        for host in self.more:
            host.start('run')

    def heal(self):
        for host in self.more:
            if host.worker.wait(60):
                self.attack.fail(
                    '%s left with %d' % (host.name, host.worker.returncode)
                )
            self.attack.drain(host)


# The database, for all hosts.


class DatabaseRestarted(Fault):
    of, databases, seconds = 'database', DATABASES, (0, 0)
    bites = True

    def start(self):
        self.server.stop()

    def heal(self):
        self.server.start()


class DatabaseKilled(DatabaseRestarted):
    def start(self):
        self.server.kill()


class DatabaseDown(DatabaseKilled):
    seconds = (10, 20)


class DownWithFiftyRunning(DatabaseKilled):
    """All go on undisturbed, and all results are there within 5 s of its return."""

    seconds, mixed, count = (60, 60), False, 50

    def inflict(self, length):
        self.jobs = [
            self.attack.add_job(length * 0.8, minutes=20 + int(length))
            for _ in range(self.count)
        ]
        wait_until(
            lambda: all(map(self.attack.has_started, self.jobs)), 20, 'their start'
        )
        super().inflict(length)

    def heal(self):
        ended = sum(map(self.attack.has_ended, self.jobs))
        if ended < self.count:
            self.attack.fail('only %d of %d ended by themselves' % (ended, self.count))
        super().heal()
        back = now()
        wait_until(lambda: self.recorded() == self.count, 20, 'the results')
        self.attack.say(
            'all %d results are there after %.2f s' % (self.count, now() - back)
        )
        if now() - back > 5:
            self.attack.fail('after %.2f s' % (now() - back))

    def recorded(self):
        return self.cluster.query(
            "SELECT COUNT(*) FROM run WHERE status = 'Success' AND job_id IN (%s)"
            % ', '.join(map(str, self.jobs))
        )[0][0]


class DatabaseSlow(Fault):
    """Half of the requests wait for longer than the worker does, and land all the same."""

    of, databases, seconds = 'database', (*DATABASES, 'galera'), (8, 12)

    @property
    def bites(self):  # PostgreSQL's driver waits as long as the other end takes it
        return self.cluster.database != 'postgresql'

    def start(self):
        for proxy in self.proxies():
            proxy.delay, proxy.share = 3, 0.5

    def heal(self):
        for proxy in self.proxies():
            proxy.heal()
        time.sleep(3)  # what waits lands until then


class HalfOpen(DatabaseSlow):
    seconds = (4, 12)

    def start(self):
        for proxy in self.proxies():
            proxy.swallows = True

    def heal(self):
        for proxy in self.proxies():
            proxy.heal()


class CutClaim(HalfOpen):
    """Claims are cut before the server has them; others after it did them."""

    pattern, answered, seconds = CLAIM, False, (3, 6)

    def start(self):
        self.before = sum(proxy.cuts for proxy in self.proxies())
        for proxy in self.proxies():
            proxy.cut(self.pattern, self.answered, 2)

    def heal(self):
        if not within(self.cuts, 10):
            self.miss('nothing was cut')
        super().heal()

    def cuts(self):
        return sum(proxy.cuts for proxy in self.proxies()) - self.before


class CutClaimAnswered(CutClaim):
    answered = True


class CutReport(CutClaim):
    pattern = REPORT


class CutReportAnswered(CutReport):
    answered = True


class OutOfConnections(Fault):
    of, databases, seconds = 'database', DATABASES, (3, 6)
    bites = True

    def start(self):
        self.hog = []
        self.server.limit_connections(True)
        with contextlib.suppress(self.server.errors):
            while len(self.hog) < 400:
                self.hog.append(self.server.connect())
        for proxy in self.proxies():
            proxy.reset()

    def heal(self):
        if len(self.hog) in (0, 400):
            self.attack.fail('%d connections were had' % len(self.hog))
        for connection in self.hog:
            connection.close()
        time.sleep(0.2)
        self.server.limit_connections(False)


class ReadOnly(Fault):
    of, databases, seconds = 'database', DATABASES, (3, 8)
    bites = True

    def start(self):
        self.server.set_read_only(True)

    def heal(self):
        self.server.set_read_only(False)


class Locked(Fault):
    """Somebody holds the SQLite file's lock."""

    of, databases, seconds = 'database', ('sqlite',), (3, 12)

    def start(self):
        self.connection = self.server.connect()
        # A worker that was stopped inside a transaction has it until it goes on.
        wait_until(self.is_locked, 120, 'the lock')

    def is_locked(self):
        with contextlib.suppress(self.server.errors):
            self.connection.execute('BEGIN EXCLUSIVE')
            return True

    def heal(self):
        self.connection.execute('ROLLBACK')
        self.connection.close()


class RowLocked(Fault):
    """Somebody has begun a transaction, changed a job that is due, and gone to lunch.
    It explains nothing of other jobs."""

    of, databases, seconds = 'table', DATABASES, (5, 10)
    hosts = ['nobody']

    def start(self):
        self.job = self.attack.add_job(0.2, due=now() + 2)
        # Another fault may keep the server from it for a while.
        wait_until(self.is_locked, 60, 'the lock')

    def is_locked(self):
        with contextlib.suppress(self.server.errors):
            self.connection = self.server.connect('dc')
            cursor = self.connection.cursor()
            cursor.execute('BEGIN')
            text = "UPDATE job SET description = 'edited' WHERE id = %d"
            cursor.execute(text % self.job)
            return True

    def heal(self):
        with contextlib.suppress(self.server.errors):  # the server may have gone
            self.connection.cursor().execute('ROLLBACK')
        with contextlib.suppress(self.server.errors):
            self.connection.close()
        # Left alone for a while, it is late, and then runs once.
        if not within(lambda: self.attack.has_started(self.job), 45):
            self.attack.fail('%s: the job whose row was locked never ran' % self.name)
        jobs = self.attack.jobs
        starts = [run.start for run in self.attack.read_runs() if run.job == self.job]
        jobs[self.job] = jobs[self.job]._replace(due=[min(starts, default=now())])


class Pausing:
    """Somebody has jobs, a host, or all start nothing for a while. It ends by itself.
    When it was committed, the harness notes; what it explains, it says itself."""

    of, seconds = 'table', (2, 12)
    hosts = ['nobody']
    longer = 8  # seconds for which it is paused, beside the fault's length

    def inflict(self, length):
        self.begin = now()
        # In whole seconds, as the database's times are.
        self.until = self.attack.whole(now() + self.longer + length)
        self.prepare()
        if not self.typed(
            'pause', *self.what(), '--until', self.attack.utc(self.until)
        ):
            return self.miss('it could not be typed')
        self.committed = now()
        self.attack.pauses += [
            rules.Pause(target, self.committed, self.until) for target in self.targets()
        ]
        self.go_on()

    def typed(self, *arguments):
        """Type a command again until it is done; whether it is."""
        while now() < self.until - 2:
            if self.cluster.type(*arguments):
                return True
            time.sleep(0.2)
        return False

    def ask_for(self, job):
        """Ask for a run by run-now, which goes through all pauses."""
        asked = now()
        if self.typed('run-now', str(job)):
            facts = {'asked': True, 'due': [now()], 'kind': 'once'}
        else:  # it may have been done, and may not
            facts = {'asked': True, 'due': [asked], 'kind': 'maybe'}
        jobs = self.attack.jobs
        jobs[job] = jobs[job]._replace(**facts)

    def prepare(self):
        pass

    def go_on(self):
        for columns in self.asked_for():
            facts = {'word': columns.get('run_on'), 'kind': 'maybe'}
            facts['names'] = tuple(filter(None, [facts['word']]))
            self.ask_for(
                self.attack.add_job(0.2, active=0, columns=columns, facts=facts)
            )

    def heal(self):
        time.sleep(max(0, self.until - now()))


class PauseAll(Pausing, Fault):
    def what(self):
        return ()

    def targets(self):
        return ['*']

    def asked_for(self):
        return [{}, {'run_on': 'even'}]


class ResumeEarly(PauseAll):
    """Somebody ends the pause long before its time: from then on all goes on."""

    longer = 90

    def heal(self):
        self.cost = BACK
        pause = self.attack.pauses[-1]._replace(until=now())
        self.attack.pauses[-1] = pause
        if not self.typed('resume'):  # it may have been done, and may not
            super().heal()
        self.attack.pauses[-1] = pause._replace(over=now())


class PauseHost(Pausing, Fault):
    def what(self):
        return '--host', self.host.label

    def targets(self):
        return [self.host.label]

    def asked_for(self):
        return [{'run_on': self.host.label}]


class PauseJobs(Pausing, Fault):
    """Some of them are asked for meanwhile."""

    def prepare(self):
        self.due = self.attack.whole(now() + 7)
        self.jobs = [self.attack.add_job(0.2, due=self.due) for _ in range(6)]

    def what(self):
        return map(str, self.jobs)

    def targets(self):
        return self.jobs

    def go_on(self):
        jobs = self.attack.jobs
        for job in self.jobs:
            late = self.committed > self.due - 1
            jobs[job] = jobs[job]._replace(
                due=[self.until], kind='maybe' if late else 'once'
            )
        for job in self.jobs[:2]:
            self.ask_for(job)


# Nodes of a cluster.


class KillNode(Fault):
    """The node in use."""

    of, databases, seconds = 'node', ('galera',), (5, 12)
    bites = True

    def start(self):
        self.node = self.attack.node_in_use()
        self.node.kill()

    def heal(self):
        self.node.start(wait=120)


class RestartNodes(Fault):
    """All nodes, one by one."""

    of, databases, seconds = 'node', ('galera',), (0, 0)
    bites = True

    def start(self):
        for node in self.cluster.servers:
            node.stop()
            time.sleep(2)
            node.start(wait=120)
            time.sleep(2)


class IsolateNode(KillNode):
    """The node in use is parted from the others, which go on; later it is back."""

    seconds = (10, 15)

    def start(self):
        self.node = self.attack.node_in_use()
        self.node.isolate(True)

    def heal(self):
        self.node.isolate(False)
        wait_until(self.node.is_ready, 60, 'a node that comes back')


class NodeRejects(KillNode):
    """The node in use is not ready: it refuses all queries."""

    value = 'SET GLOBAL wsrep_reject_queries = %s', 'ALL', 'NONE'

    def start(self):
        self.node = self.attack.node_in_use()
        self.node.settings(self.value[0] % self.value[1])

    def heal(self):
        self.node.settings(self.value[0] % self.value[2])


class NodeReadOnly(NodeRejects):
    value = 'SET GLOBAL read_only = %s', '1', '0'


# A primary and its asynchronous replica.


class Promote(Fault):
    """The primary is given up in good order: the replica has all when it is promoted."""

    of, databases, mixed, seconds = 'database', ('replica',), False, (0, 0)

    def start(self):
        with self.cluster.writing:
            primary = self.cluster.servers[0]
            primary.settings('SET GLOBAL read_only = 1')
            self.cluster.wait_for_replica()
            primary.kill()
            self.cluster.promote()


class FailoverThatLosesClaims(Promote):
    """The primary dies with claims that it never sent: their jobs run once more."""

    loaded = False

    def inflict(self, length):
        replica = self.cluster.servers[1]
        jobs = [self.attack.add_job(2.5, due=now() + 4) for _ in range(5)]
        self.cluster.wait_for_replica()
        replica.settings('STOP SLAVE IO_THREAD')
        wait_until(lambda: all(map(self.attack.has_started, jobs)), 20, 'their start')
        super().inflict(length)

    def start(self):
        self.cluster.servers[0].kill()
        self.cluster.promote()


# The table, by people.


class TableChanges(Fault):
    """Jobs are deleted, disabled, edited, and get another command, while they run."""

    of, seconds = 'table', (2, 3)

    def start(self):
        self.jobs = [self.attack.add_job(1.5) for _ in range(10)]
        within(lambda: all(map(self.attack.has_started, self.jobs)), 5)
        query, other = self.cluster.query, self.attack.command(0.1, 9)
        for number, job in enumerate(filter(self.attack.has_started, self.jobs)):
            change = (
                'DELETE FROM job WHERE id = ?',
                'UPDATE job SET active = 0 WHERE id = ?',
                "UPDATE job SET description = 'edited', frequency = 525599 WHERE id = ?",
                "UPDATE job SET command = '%s' WHERE id = ?" % other,
                'UPDATE job SET max_run_time = 2, start_anchor = NULL WHERE id = ?',
            )
            query(change[number % 5], job)
            if number % 5 == 0:
                self.attack.jobs[job] = self.attack.jobs[job]._replace(until=now())


class AskAgain(Fault):
    """A job succeeds again and again while its follower runs."""

    of, seconds = 'table', (4, 8)
    hosts = ['nobody']

    def inflict(self, length):
        asked = {'asked': True}
        parent = self.attack.add_job(0.2, kind='maybe', active=0, facts=asked)
        follower = features.add_follower(self.attack, parent, 1.4)
        until = now() + length
        super().inflict(length)
        while now() < until:
            self.cluster.query(
                'UPDATE job SET run_requested = 1, next_run_utc = CASE WHEN run_token '
                'IS NULL THEN %s ELSE next_run_utc END WHERE id = ?'
                % features.UTC[self.server.engine],
                parent,
            )
            time.sleep(self.random.uniform(0.3, 1))
        self.attack.say('%8.2f job %d led %d' % (now(), parent, follower))

    def start(self):
        pass


class StopRetry(Pausing, Fault):
    """Somebody stops a job that waits for its retry: none comes."""

    seconds = 1, 2

    def inflict(self, length):
        self.begin = now()
        facts = {'retries': 2, 'delay': 15}
        columns = {'retries': 2, 'retry_delay': 15}
        job = self.attack.add_job(0.2, 1, columns=columns, facts=facts)
        if not within(lambda: self.waits(job), 10):
            return self.miss('its failure is not on record')
        self.until = now() + 10
        if not self.typed('stop', str(job)):  # it may have been done, and may not
            self.cluster.query('DELETE FROM job WHERE id = ?', job)
        jobs = self.attack.jobs
        jobs[job] = jobs[job]._replace(retries=0, until=now())

    def waits(self, job):
        text = 'SELECT id FROM job WHERE id = ? AND attempt = 1 AND run_token IS NULL'
        return self.cluster.query(text, job)

    def heal(self):
        pass


class EditTemplate(Fault):
    """A template gets another command: on each host its job gets it too, which is seen
    by what that command writes."""

    of, seconds = 'table', (1, 2)
    hosts = ['nobody']

    def start(self):
        templates = self.attack.templates
        if not self.attack.is_mixed:
            self.attack.add_template(None)
        word, since, template = templates[max(templates)]
        if self.attack.is_mixed and (
            now() - since < 2 * features.TELL
            or any(self.attack.children.missing(self.attack.read_runs(), now()))
        ):
            return  # the command that it has now has still to be seen on each host
        if not within(lambda: self.commands(template), 10):
            return self.miss('no host has a job of it')
        number = self.attack.next_job()
        command = self.attack.command(0.3, 0, template=number)
        self.cluster.query('UPDATE job SET command = ? WHERE id = ?', command, template)
        templates[number] = word, now(), template
        if not within(lambda: self.commands(template) == {command}, features.TELL):
            self.miss('not all its jobs followed')

    def commands(self, template):
        text = 'SELECT command FROM job WHERE parent_id = ?'
        return {command for (command,) in self.cluster.query(text, template)}


class OldRows(Fault):
    """Rows as the Perl program leaves them: it ran an hour ago, and ended, or did not."""

    of = 'table'

    def start(self):
        for end in ('NULL', "'2026-01-01 00:10:00'", "'2025-12-31 00:00:00'"):
            job = self.attack.add_job(0.2, active=0)
            self.cluster.query(
                "UPDATE job SET last_start = '2026-01-01 00:00:00', last_end = %s, "
                "last_status = 'Success', last_worker = 'perl-1', claimed_start = NULL, "
                'frequency = 60, active = 1 WHERE id = ?' % end,
                job,
            )


def all_faults():
    """The faults by name."""
    found, classes = {}, [Fault]
    for one in classes:
        classes += one.__subclasses__()
        one.name = ''.join(
            '-' * letter.isupper() + letter.lower() for letter in one.__name__
        ).strip('-')
        found[one.name] = one
    del found['fault']
    return found


FAULTS = all_faults()
