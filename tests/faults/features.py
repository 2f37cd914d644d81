"""Jobs with a place, tries, a parent, a zone, a limit: rows, and what is to come of them.

Each function adds jobs to an Attack by plain INSERTs. When a job is due, the harness works
out by itself.
"""

import hashlib
import math
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from faults import checker
from faults.cluster import CHILDREN, now

WORDS = ('even', 'odd', 'host0', 'host1', 'guest', 'nowhere', 'host77')
ZONES = ('Asia/Kolkata', 'Pacific/Apia', 'America/St_Johns', 'Etc/GMT+12', 'UTC')
UTC = {
    'mysql': 'UTC_TIMESTAMP()',
    'sqlite': "datetime('now')",
    'postgresql': "(statement_timestamp() AT TIME ZONE 'UTC')",
}
TELL = 65  # seconds in which each host has said hello, and follows templates


def some(attack, chance):
    """One feature, as the load brings it."""
    chance.choice((placed, placed, tried, tried, chained, limited))(attack, chance)


def seconds_of(chance):
    return round(chance.uniform(0.05, 1), 2)


def placed(attack, chance):
    """A job of a host or a tag, some of which nobody has."""
    add_placed(attack, chance.choice(WORDS), seconds=seconds_of(chance))


def add_placed(attack, word, kind='once', **more):
    names = names_with(attack, word)
    kind = kind if names else 'maybe'
    columns = {'run_on': word, **more.pop('columns', {})}
    facts = {'word': word, 'names': names, **more.pop('facts', {})}
    return attack.add_job(kind=kind, columns=columns, facts=facts, **more)


def names_with(attack, word):
    """The names of the hosts that have a word for good."""
    return tuple(
        sorted(label for label, words in attack.cluster.permanent if word in words)
    )


def tried(attack, chance):
    """A job that fails until it has been tried often enough, or more often."""
    retries, delay, fails = (
        chance.choice((1, 2)),
        chance.randint(0, 5),
        chance.randint(1, 3),
    )
    attack.add_job(
        seconds_of(chance),
        chance.choice((1, 75)),
        columns={'retries': retries, 'retry_delay': delay},
        facts={'retries': retries, 'delay': delay, 'fails': fails},
    )


def chained(attack, chance):
    """A job that may fail, perhaps only at first, and two that come after it."""
    retries, code = chance.choice((0, 0, 1)), chance.choice((0, 0, 1))
    parent = attack.add_job(
        seconds_of(chance),
        code,
        due=attack.whole(now() + 1.5),
        columns={'retries': retries, 'retry_delay': 1},
        facts={'retries': retries, 'delay': 1, 'fails': 1 if retries else 99},
    )
    for _ in range(2):
        parent = add_follower(attack, parent, seconds_of(chance))


def add_follower(attack, parent, seconds):
    return attack.add_job(
        seconds,
        kind='after',
        columns={'after_job': parent},
        facts={'after': parent},
    )


def limited(attack, chance):
    """A job that was due nearly a minute ago, and may start within a minute."""
    left = chance.randint(8, 12)
    begin = now()
    limit = math.floor(begin + attack.wall()) + left - attack.wall()
    attack.add_job(
        seconds_of(chance),
        columns={'start_within': 1, 'next_run_utc': attack.utc(limit - 60)},
        facts={'within': limit - begin},
    )


# What a mixed run begins with.


def planned(attack, chance, seconds):
    """Jobs of all kinds that are due each minute, or once within these seconds."""
    for word in ('even', 'odd', 'host0'):
        add_placed(attack, word, 'minute')
    for code in 0, 1:
        parent = attack.add_job(0.5, code, kind='minute')
        for _ in range(3):
            add_follower(attack, parent, seconds_of(chance))
    for _ in range(4):
        attack.add_job(kind='minute', columns={'start_within': 1}, facts={'within': 60})
    for minutes in range(1, int(seconds - 40) // 60 + 1):
        for _ in range(4):
            in_a_zone(attack, chance, minutes)
            at_a_time(attack, chance, minutes)
            in_a_window(attack, chance, minutes)
        by_its_id(attack, chance, minutes)
    for word in None, 'even':
        attack.add_template(word)


def minute_from_now(attack, minutes):
    """The start of a minute, as UTC and by the clock of now()."""
    at = datetime.fromtimestamp(now() + attack.wall(), timezone.utc)
    at = at.replace(second=0, microsecond=0) + timedelta(minutes=minutes)
    if (at - timedelta(seconds=3)).timestamp() < now() + attack.wall():
        at += timedelta(minutes=1)
    return at, at.timestamp() - attack.wall()


def add_at(attack, chance, minutes, schedule, columns=None, facts=None):
    """A job that is due once in this run. schedule: of a time, UTC."""
    at, due = minute_from_now(attack, minutes)
    attack.add_job(
        seconds_of(chance),
        columns={'schedule': schedule(at), 'next_run_utc': None, **(columns or {})},
        facts={'due': [due], **(facts or {})},
    )


def in_a_zone(attack, chance, minutes):
    zone = chance.choice(ZONES)

    def schedule(at):
        local = at.astimezone(ZoneInfo(zone))
        return '%d %d %d %d *' % (local.minute, local.hour, local.day, local.month)

    add_at(attack, chance, minutes, schedule, {'time_zone': zone})


def at_a_time(attack, chance, minutes):
    zone = chance.choice(ZONES)

    def schedule(at):
        return at.astimezone(ZoneInfo(zone)).strftime('@at %Y-%m-%d %H:%M')

    add_at(attack, chance, minutes, schedule, {'time_zone': zone})


def in_a_window(attack, chance, minutes):
    """It closes a few seconds after the only time."""
    length = chance.randint(8, 12)
    at = minute_from_now(attack, minutes)[0]
    stop = at + timedelta(seconds=length)
    window = {'start_anchor': at.strftime('%H:%M:%S')}
    window['stop_anchor'] = stop.strftime('%H:%M:%S')
    add_at(
        attack,
        chance,
        minutes,
        lambda at: '%d %d * * *' % (at.minute, at.hour),
        window,
        {'within': length},
    )


def by_its_id(attack, chance, minutes):
    """Of two minutes the one that its id fixes."""
    at, due = minute_from_now(attack, minutes)
    if at.minute == 59:
        return
    number = hashlib.sha256(b'%d minute' % attack.next).digest()[-1] % 2
    attack.add_job(
        seconds_of(chance),
        columns={
            'schedule': 'H(%d-%d) %d * * *' % (at.minute, at.minute + 1, at.hour),
            'next_run_utc': None,
        },
        facts={'due': [due + 60 * number]},
    )


# On each host.


class Children:
    """The jobs that workers make of templates, as they are seen to come and to go."""

    def __init__(self, attack):
        self.attack, self.seen = attack, {}  # id: [template, host, first, last]

    def watch(self, stop):
        while not stop.wait(1):
            self.look()

    def look(self):
        begin = now()
        rows = self.attack.cluster.query(
            'SELECT id, parent_id, run_on FROM job WHERE id >= ?', CHILDREN
        )
        templates = {template for *_, template in self.attack.templates.values()}
        for id, template, host in rows:
            if template in templates:
                self.seen.setdefault(id, [template, host, now(), 0])[3] = begin

    def jobs(self):
        """What is to come of them, as the checker's jobs."""
        names = {label for label, _ in self.attack.cluster.permanent}
        last = max((seen[3] for seen in self.seen.values()), default=0)
        for id, (_, host, first, until) in sorted(self.seen.items()):
            yield checker.Job(
                id,
                'minute' if host in names else 'maybe',
                [first],
                until=until if until < last else math.inf,
                limit=self.attack.cluster.deadline,
                word=host,
                names=(host,),
            )

    def missing(self, runs, end):
        """The hosts on which a template, or what it was made later, never ran."""
        for template, (word, begin, _) in self.attack.templates.items():
            for label, words in self.attack.cluster.permanent:
                if word not in (None, *words) or end - begin < 2 * TELL:
                    continue
                if not any(
                    run.template == template and run.place == label for run in runs
                ):
                    yield 'template %d never ran on %s' % (template, label)
