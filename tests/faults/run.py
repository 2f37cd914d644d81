#!/usr/bin/env python3
"""Attack real workers on a real database, and judge what came of it.

    python tests/faults/run.py --database mariadb --seconds 180 --seed 7
    python tests/faults/run.py --database galera --fault kill-node --fault isolate-node

Prints its seed, what it did, and the checker's verdict; exits 1 on a find. Without --fault
it is a mixed run: faults at random until the seconds are over. --real: minutes of 60
seconds and the margin of 20, as in the field, not shortened ones. --upgrade: version 1.0
made the tables; hosts run it and today's, change from one to the other and back, and are
killed; jobs are such as both know.
"""

import argparse
import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from faults.attack import Attack, cluster_of, end_by_signals
from faults.cluster import own_mounts
from faults.nemesis import FAULTS


def main():
    args = parser().parse_args()
    own_mounts()
    end_by_signals()
    print(
        '--database %s --seconds %d --seed %d%s%s%s'
        % (
            args.database,
            args.seconds,
            args.seed,
            ' --real' * args.real,
            ' --upgrade' * args.upgrade,
            ''.join(' --fault ' + name for name in args.fault),
        ),
        flush=True,
    )
    found = []
    with cluster_of(
        args.database,
        hosts=args.hosts,
        seed=args.seed,
        network=True,
        times=(60, 20, 10) if args.real else (4, 4, 1),
        upgrade=args.upgrade,
    ) as cluster:
        for name in args.fault or [None]:
            attack = Attack(
                cluster, args.seed, lambda text: print(text, flush=True), args.rate
            )
            if name:
                attack.alone(name, args.length)
            else:
                attack.mixed(args.seconds)
            found += attack.verdict()
    return 1 if found else 0


def parser():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument(
        '--database',
        default='mariadb',
        choices=['mariadb', 'galera', 'replica', 'sqlite', 'postgresql'],
    )
    parser.add_argument('--seconds', type=int, default=180)
    parser.add_argument(
        '--seed', type=int, default=random.SystemRandom().randrange(10**6)
    )
    parser.add_argument(
        '--fault',
        action='append',
        default=[],
        choices=sorted(FAULTS),
        metavar='NAME',
        help='this one alone: ' + ', '.join(sorted(FAULTS)),
    )
    parser.add_argument(
        '--length', type=float, help='seconds that a single fault lasts'
    )
    parser.add_argument('--hosts', type=int, default=3)
    parser.add_argument('--rate', type=float, default=4, help='new jobs a second')
    parser.add_argument('--real', action='store_true')
    parser.add_argument('--upgrade', action='store_true')
    return parser


if __name__ == '__main__':
    sys.exit(main())
