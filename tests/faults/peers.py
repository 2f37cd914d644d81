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
import contextlib
import math
import os
import random
import sys
import time
from collections import Counter, defaultdict, namedtuple

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from faults.attack import end_by_signals
from faults.cluster import FAKETIME, now, own_mounts
from faults.schedulers import PEERS, SECONDS, Node, make_venv
from servers import MariaDB, open_folder

MINUTES = 8
SETTLE = 57  # seconds after them, in which runs end and are recorded; no new one begins
WARM_UP = 75  # seconds, at least, in which leaders are elected
AGAIN = 5  # seconds after which a scheduler that ended by itself is started again
NOTHING = ['–'] * 6
LATE = 10  # seconds after its minute: a run that starts later is counted as late
EARLY = 1  # second: as the clocks' and the kernel's reckoning may differ

Score = namedtuple('Score', 'ticks lost late twice overlaps unrecorded gap')


# ----------------------------------------------------------------------- judgement


def judge(ticks, runs, end, results=None):
    """The Score of a history. ticks: when each job was due. runs: what the commands wrote.
    end: of the last minute. results: of how many runs of each job the scheduler has on
    record how they ended; None: it keeps no such record."""
    total = Counter()
    gaps = []
    by_job = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.start):
        by_job[run.job].append(run)
    for job in SECONDS:
        ended = [run for run in by_job[job] if run.end is not None]
        if results is not None:
            recorded = results.get(job, 0)
            total['unrecorded'] += max(0, len(ended) - recorded)
        first = ticks[0] - EARLY
        inside = [run for run in by_job[job] if first <= run.start < end]
        starts = [run.start for run in inside]
        total.update(match(ticks, starts))
        total['overlaps'] += overlaps(inside)
        gaps.append(longest_gap([ticks[0], *starts, end]))
    return Score(
        len(ticks) * len(SECONDS),
        total['lost'],
        total['late'],
        total['twice'],
        total['overlaps'],
        None if results is None else total['unrecorded'],
        max(gaps),
    )


def match(ticks, starts):
    """Give each run of a job to a tick: to that of its minute, or, where that has its run,
    to the last one before that has none, which it makes up for. What is left ran twice."""
    missing = set(ticks)
    counts = Counter()
    for start in starts:
        passed = [tick for tick in missing if tick <= start + EARLY]
        if not passed:
            counts['twice'] += 1
            continue
        due = max(passed)
        missing.remove(due)
        counts['late'] += start > due + LATE
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
    gaps = [after - before for before, after in zip(moments, moments[1:])]
    return max(0, max(gaps) - 60)


# -------------------------------------------------------------------------- faults


# turn: strikes a peer on one of its hosts, or heals it. seconds: between the two. needs:
# what a peer must have that can be taken from it. turn_server: the same for the server of
# the databases, which peers share. environment: of the hosts' schedulers.
Fault = namedtuple(
    'Fault',
    'turn seconds needs turn_server environment',
    defaults=(20, None, None, {}),
)
OWN_CLOCK = {
    'LD_PRELOAD': FAKETIME,
    'FAKETIME_DONT_FAKE_MONOTONIC': '1',
    'FAKETIME_CACHE_DURATION': '1',
}


def ended_by(kill):
    """A turn() in which a host's scheduler is killed so, and started again."""

    def turn(peer, node, is_on):
        node.is_down = is_on
        if is_on:
            kill(node)
        else:
            node.start()

    return turn


def store_down(peer, node, is_on):
    """The shared folder is away."""
    peer.store_down(is_on)


def server_down(server, is_on):
    """The databases are away."""
    if is_on:
        server.kill()
    else:
        server.launch()


def stop_host(peer, node, is_on):
    """All of a host's processes stand still, and go on."""
    if is_on:
        node.freeze()
    else:
        node.thaw()


def cut_off(peer, node, is_on):
    """A host reaches neither the store nor other hosts; its connections hang."""
    node.cut(is_on)


def wrong_clock(peer, node, is_on):
    """A host's clock steps ahead, and back."""
    node.set_clock('+90' if is_on else '+0')


FAULTS = {
    'kill-scheduler': Fault(ended_by(Node.kill_scheduler)),
    'kill-host': Fault(ended_by(Node.kill)),  # with its jobs
    'store-down': Fault(store_down, 60, 'store', server_down),
    'stop-host': Fault(stop_host, 70),
    'cut-off': Fault(cut_off, 70, 'network'),
    'wrong-clock': Fault(wrong_clock, 70, environment=OWN_CLOCK),
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
            node.more = dict(self.fault.environment)
            node.more['FAKETIME_TIMESTAMP_FILE'] = node.clock
            node.start()
        ready = time.time() + WARM_UP
        minute = 60 * math.ceil(ready / 60)
        first = minute - time.time() + now()
        ticks = [first + 60 * number for number in range(MINUTES)]
        end = ticks[-1] + 60
        inside = self.random.uniform(5, 35)
        before_a_minute = self.random.uniform(45, 58)
        for moment in (ticks[1] + inside, ticks[4] + before_a_minute):
            self.watch(moment)
            self.hit()
        self.watch(end + SETTLE)
        scores = {}
        for peer in self.peers:
            runs = peer.started()
            scores[peer] = judge(ticks, runs, end, peer.results())
        return scores

    def hit(self):
        """Strike all peers, wait, and heal them."""
        victims = [(peer, peer.active()) for peer in self.peers]
        until = now() + self.fault.seconds
        self.turn(victims, True)
        self.watch(until)
        self.turn(victims, False)

    def turn(self, victims, is_on):
        if self.server and self.fault.turn_server:
            self.fault.turn_server(self.server, is_on)
        for peer, node in victims:
            self.fault.turn(peer, node, is_on)

    def watch(self, until):
        """Wait, and start again what ended by itself."""
        ended = {}  # node: since when
        while now() < until:
            for node in self.nodes:
                if node.is_down or node.worker.poll() is None:
                    ended.pop(node, None)
                    continue
                since = ended.setdefault(node, now())
                if now() > since + AGAIN:
                    name = '%s on %s' % (node.peer.name, node.name)
                    print(name, 'ended by itself', file=sys.stderr)
                    node.start()
                    ended.pop(node)
            time.sleep(0.2)


@contextlib.contextmanager
def database_server(folder, peers):
    """A server for those of the peers that need one, or None."""
    server = None
    try:
        if any(peer.on_database for peer in peers):
            place = os.path.join(folder, 'mariadb')
            os.makedirs(place)
            server = MariaDB(place)
            server.start().make_account()
        yield server
    finally:
        if server:
            server.discard()


def attack(name, chosen, seed):
    """Set peers up, attack them, and print a row for each."""
    fault = FAULTS[name]
    peers = []
    with open_folder('peers-') as folder, database_server(folder, chosen) as server:
        try:
            for peer in chosen:
                if fault.needs and fault.needs not in peer.needs:
                    reason = 'has no ' + fault.needs
                    print_row(name, peer.name, reason, *NOTHING)
                else:
                    peers.append(peer(folder, server))
            scores = Attack(fault, peers, server, seed).run()
            for peer, score in scores.items():
                print_score(name, peer, score)
        finally:
            for peer in peers:
                for node in peer.nodes:
                    node.close()


def print_score(fault, peer, score):
    unrecorded = score.unrecorded
    if unrecorded is None:
        unrecorded = 'keeps none'
    name = '%s %s' % (peer.name, peer.version())
    gap = round(score.gap)
    print_row(fault, name, *score[:5], unrecorded, gap)


def print_row(*cells):
    line = ' | '.join(map(str, cells))
    print('| %s |' % line, flush=True)


def main():
    args = parser().parse_args()
    if os.getuid():
        raise SystemExit('only root can give cron a crontab for each host')
    own_mounts()
    end_by_signals()
    make_venv()
    peers = list(PEERS.values())
    if args.peer:
        peers = [PEERS[name] for name in args.peer]
    attack(args.fault, peers, args.seed)


def parser():
    summary = __doc__.partition('\n\n')[0]
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument('--fault', required=True, choices=FAULTS)
    parser.add_argument('--peer', action='append', choices=PEERS, help='default: all')
    parser.add_argument('--seed', type=int, default=1)
    return parser


if __name__ == '__main__':
    sys.exit(main())
