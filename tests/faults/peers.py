#!/usr/bin/env python3
"""Attack other schedulers as this one is attacked, side by side, and count what came of it.

    python tests/faults/peers.py --fault kill-scheduler --seed 1
    python tests/faults/peers.py --fault kill-host --peer ours --peer cronstable

Each peer has ten jobs due each minute for eight minutes, in real time. The fault strikes
twice, each peer at the same moments, there on the host that started the last run: once while
jobs run, and once shortly before a full minute. A scheduler that ends is started again after
five seconds, as a service manager does. Prints the rows of a table. Runs as root, since cron's
hosts need mounts of their own. Packages go to tests/.venv-peers, which the first run makes.
"""

import argparse
import math
import os
import random
import sys
import time
from collections import Counter, defaultdict, namedtuple

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from faults.attack import end_by_signals
from faults.cluster import FAKETIME, now, own_mounts
from faults.schedulers import PEERS, SECONDS, make_venv
from servers import MariaDB, open_folder

MINUTES = 8
SETTLE = 57  # seconds after them, in which runs end and are recorded; no new one begins
WARM_UP = 75  # seconds, at least, in which leaders are elected
AGAIN = 5  # seconds after which a scheduler that ended by itself is started again
LATE = 10  # seconds after its minute: a run that starts later is counted as late
EARLY = 1  # second: as the clocks' and the kernel's reckoning may differ

Score = namedtuple('Score', 'ticks lost late twice overlaps unrecorded gap')


# ----------------------------------------------------------------------- judgement


def judge(ticks, runs, end, successes=None):
    """The Score of a history. ticks: when each job was due. runs: what the commands wrote.
    end: of the last minute. successes: how many runs of each job the scheduler has on
    record as ended well; None: it keeps no record."""
    total = Counter()
    gap = 0
    by_job = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.start):
        by_job[run.job].append(run)
    for job in SECONDS:
        ended = sum(run.end is not None for run in by_job[job])
        ran = [run for run in by_job[job] if ticks[0] - EARLY <= run.start < end]
        total.update(match(ticks, [run.start for run in ran]))
        total['overlaps'] += overlaps(ran)
        total['unrecorded'] += max(0, ended - (successes or {}).get(job, 0))
        gap = max(gap, longest_gap([ticks[0], *[run.start for run in ran], end]))
    return Score(
        len(ticks) * len(SECONDS),
        total['lost'],
        total['late'],
        total['twice'],
        total['overlaps'],
        None if successes is None else total['unrecorded'],
        gap,
    )


def match(ticks, starts):
    """Give each run of a job to a tick: to that of its minute, or, where that has its run,
    to the last one before that has none, which it makes up for. What is left ran twice."""
    missing = set(ticks)
    counts = Counter()
    for start in starts:
        passed = [tick for tick in ticks if tick <= start + EARLY]
        own = passed[-1:]
        open_ticks = [tick for tick in own if tick in missing]
        open_ticks += [tick for tick in reversed(passed) if tick in missing]
        if not open_ticks:
            counts['twice'] += 1
            continue
        missing.remove(open_ticks[0])
        counts['late'] += start > open_ticks[0] + LATE
    counts['lost'] = len(missing)
    return counts


def overlaps(runs):
    """How many runs of one job began while another one of it was alive."""
    count = 0
    latest = -math.inf
    for run in runs:
        count += run.busy or run.start < latest
        latest = max(latest, run.end or run.start)
    return count


def longest_gap(moments):
    """By how much the longest time without a start is longer than a minute."""
    return max(0, max(b - a for a, b in zip(moments, moments[1:])) - 60)


# -------------------------------------------------------------------------- faults


class Fault:
    """What strikes a peer, on one of its hosts: for `seconds`, and what heals it."""

    seconds = 20
    needs = None  # what a peer must have that can be taken from it
    environment = {}

    @staticmethod
    def strike(peer, node):
        raise NotImplementedError

    @staticmethod
    def heal(peer, node):
        raise NotImplementedError


class KillScheduler(Fault):
    """Its process alone; it is started again after 20 s."""

    @staticmethod
    def strike(peer, node):
        node.is_down = True
        node.kill_scheduler()

    @staticmethod
    def heal(peer, node):
        node.is_down = False
        node.start()


class KillHost(KillScheduler):
    """All of a host's processes, jobs too; it is back after 20 s."""

    @staticmethod
    def strike(peer, node):
        node.is_down = True
        node.kill()


class StoreDown(Fault):
    """The database, or the shared folder, for 60 s."""

    seconds = 60
    needs = 'store'

    @staticmethod
    def strike(peer, node):
        peer.store_down(True)

    @staticmethod
    def heal(peer, node):
        peer.store_down(False)


class StopHost(Fault):
    """All of a host's processes stand still for 70 s, and go on."""

    seconds = 70

    @staticmethod
    def strike(peer, node):
        node.freeze()

    @staticmethod
    def heal(peer, node):
        node.thaw()


class CutOff(Fault):
    """A host reaches neither the store nor other hosts for 70 s; its connections hang."""

    seconds = 70
    needs = 'network'

    @staticmethod
    def strike(peer, node):
        node.cut(True)

    @staticmethod
    def heal(peer, node):
        node.cut(False)


class WrongClock(Fault):
    """A host's clock steps 90 s ahead, and after 70 s back."""

    seconds = 70
    environment = {
        'LD_PRELOAD': FAKETIME,
        'FAKETIME_DONT_FAKE_MONOTONIC': '1',
        'FAKETIME_CACHE_DURATION': '1',
    }

    @staticmethod
    def strike(peer, node):
        node.set_clock('+90')

    @staticmethod
    def heal(peer, node):
        node.set_clock('+0')


FAULTS = {
    'kill-scheduler': KillScheduler,
    'kill-host': KillHost,
    'store-down': StoreDown,
    'stop-host': StopHost,
    'cut-off': CutOff,
    'wrong-clock': WrongClock,
}


# -------------------------------------------------------------------------- attack


class Attack:
    """One fault on peers side by side, for some full minutes."""

    def __init__(self, fault, peers, server, seed):
        self.fault = fault
        self.peers = peers
        self.server = server  # the databases', or None
        self.random = random.Random(seed)
        self.nodes = [node for peer in peers for node in peer.nodes]

    def run(self):
        """{peer: Score}."""
        for node in self.nodes:
            node.set_clock('+0')
            node.more = dict(self.fault.environment, FAKETIME_TIMESTAMP_FILE=node.clock)
            node.start()
        first = 60 * math.ceil(
            (time.time() + 20) / 60
        )  # a full minute, and time to start
        ticks = [first + 60 * n - time.time() + now() for n in range(MINUTES)]
        end = ticks[-1] + 60
        for tick, span in ((ticks[1], (5, 35)), (ticks[4], (45, 58))):
            self.watch(tick + self.random.uniform(*span))
            self.hit()
        self.watch(end)
        self.watch(end + SETTLE)
        return {peer: self.score(peer, ticks, end) for peer in self.peers}

    def hit(self):
        """Strike all peers, wait, and heal them."""
        victims = [(peer, peer.active()) for peer in self.peers]
        until = now() + self.fault.seconds
        if self.server and self.fault is StoreDown:
            self.server.kill()
        for peer, node in victims:
            self.fault.strike(peer, node)
        self.watch(until)
        if self.server and self.fault is StoreDown:
            self.server.launch()
        for peer, node in victims:
            self.fault.heal(peer, node)

    def watch(self, until):
        """Wait, and start again what ended by itself."""
        ended = {}
        while now() < until:
            for node in self.nodes:
                if node.is_down or node.worker.poll() is None:
                    ended.pop(node, None)
                elif now() > ended.setdefault(node, now()) + AGAIN:
                    print('%s: %s ended' % (node.peer.name, node.name), file=sys.stderr)
                    node.start()
                    ended.pop(node)
            time.sleep(0.2)

    @staticmethod
    def score(peer, ticks, end):
        return judge(ticks, peer.started(), end, peer.successes())


def attack(fault, names, seed):
    """Set peers up, attack them, and print a row for each."""
    with open_folder('peers-') as folder:
        chosen = [PEERS[name] for name in names]
        with_database = any(peer.on_database for peer in chosen)
        server = peers = None
        try:
            if with_database:
                path = os.path.join(folder, 'mariadb')
                os.makedirs(path)
                server = MariaDB(path).start().make_account()
            peers = []
            for peer in chosen:
                if fault.needs and fault.needs not in peer.needs:
                    print_row(fault, peer.name, None)
                else:
                    peers.append(peer(folder, server))
            for peer, score in Attack(fault, peers, server, seed).run().items():
                print_row(fault, peer.name, score, peer.version())
        finally:
            for peer in peers or []:
                for node in peer.nodes:
                    node.close()
            if server:
                server.discard()


def print_row(fault, peer, score, version=''):
    name = next(name for name in FAULTS if FAULTS[name] is fault)
    cells = [name, ('%s %s' % (peer, version)).strip()]
    if score is None:
        cells += ['has no ' + fault.needs, *['–'] * 6]
    else:
        cells += [
            *score[:5],
            'keeps none' if score.unrecorded is None else score.unrecorded,
            '%.0f' % score.gap,
        ]
    print('| %s |' % ' | '.join(map(str, cells)), flush=True)


def main():
    args = parser().parse_args()
    if os.getuid():
        raise SystemExit('only root can give cron a crontab for each host')
    own_mounts()
    end_by_signals()
    make_venv()
    attack(FAULTS[args.fault], args.peer or list(PEERS), args.seed)


def parser():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--fault', required=True, choices=FAULTS)
    parser.add_argument('--peer', action='append', choices=PEERS, help='default: all')
    parser.add_argument('--seed', type=int, default=1)
    return parser


if __name__ == '__main__':
    sys.exit(main())
