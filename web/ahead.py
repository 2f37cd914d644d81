"""The next 24 hours: what runs when, and whether the hosts have room for it.

The times are those by which the workers plan. Each run is taken to last as long as the
job's runs usually do, and to start on the host that is free first."""

from collections import namedtuple
from contextlib import suppress

import distributed_cron as dc

from . import queries
from .answers import page
from .render import usual
from .truth import is_there, silence
from .views import list_link

MOST_JOBS = 1000  # at which it looks: those that run next
OFTEN = 24  # times a day, from which on the runs of a job are counted and not drawn
PARTS = 96  # of the day, in the picture of the slots

Start = namedtuple('Start', 'due begins trouble')  # UTC; why it is late, or never comes


def ahead_page(request):
    """The next 24 hours, as they would be without one of the hosts."""
    asked = request.query(without='.{1,191}')
    store = request.store
    hosts = queries.hosts(store)
    rooms = rooms_of(request, hosts, asked['without'])
    slots = sum(len(free) for _, free in rooms)
    lanes = lanes_of(store, request.now, rooms)
    load = sum(lane.load for lane in lanes)
    take_away(rooms, round(load))
    simulate(lanes, store.zone)
    return page(
        request,
        'ahead',
        'Ahead',
        lanes=lanes,
        load=load,
        hosts=hosts,
        without=asked['without'],
        link=list_link(request, asked, 'ahead'),
        slots=slots,
        peaks=peaks(lanes, request.now, load),
        most=MOST_JOBS,
    )


class Lane:
    """A job, its times, and where they lead."""

    def __init__(self, job, took, rooms):
        self.job = job
        self.took = took  # by each run, a timedelta
        self.load = 0  # slots that it takes all the time, if it is frequent
        self.times = []  # at which it is due, UTC, if it is not
        self.starts = []  # a Start for each of these times at which it was not running
        self.ends = dc.EPOCH  # its last run
        self.may = []  # of each host that may run it, when each slot is free
        for words, slots in rooms:
            if job.run_on in (None, *words):
                self.may.append(slots)

    def fill(self, store, now):
        """Find the times of the next 24 hours. Raises BadSchedule."""
        count = times_a_day(self.job)
        if count >= OFTEN:
            self.load = min(1, self.took * count / dc.DAY)
        else:
            self.times += times_of(store, self.job, now)

    def start(self, due, zone):
        """Start a run that is due, on the host that is free first."""
        if due < self.ends:
            return
        slots = min(filter(None, self.may), key=min, default=None)
        trouble = ''
        begins = due
        if not slots:
            trouble = 'no host that is up may run it'
        elif min(slots) > due:
            begins = min(slots)
            seconds = (begins - due).total_seconds()
            trouble = 'waits ' + dc.how_long(seconds)
            job = self.job._replace(attempt=0)
            if begins >= dc.start_limit(job, due, zone):
                slots = None
                begins = due
                trouble = 'can not start in time'
        self.ends = begins + self.took
        self.starts.append(Start(due, begins, trouble))
        if slots:
            slots.remove(min(slots))
            slots.append(self.ends)


def lanes_of(store, now, rooms):
    """The Lanes of the jobs of the next 24 hours, those first that run next."""
    jobs = jobs_until(store, now + dc.DAY)
    usual = usual_times(store, [job.id for job in jobs])
    lanes = [Lane(job, took, rooms) for job, took in zip(jobs, usual)]
    for lane in lanes:
        with suppress(dc.BadSchedule):  # its LAST STATUS says what is wrong
            lane.fill(store, now)
    return lanes


def simulate(lanes, zone):
    """Let the times of all lanes come, in order."""
    queue = []
    for lane in lanes:
        for due in lane.times:
            queue.append((due, lane.job.id, lane))
    for due, _, lane in sorted(queue):
        lane.start(due, zone)


def jobs_until(store, until):
    """The jobs that run, and those that are due until a time."""
    found = []
    text = '''SELECT * FROM job WHERE %s AND active = 1 AND each_host = 0
        AND after_job IS NULL ORDER BY next_run_utc LIMIT :most'''
    for test in (
        'run_token IS NOT NULL',
        'run_token IS NULL AND (next_run_utc IS NULL OR next_run_utc < :until)',
    ):
        found += store.query(
            text % test,
            until=dc.text_of(until),
            most=MOST_JOBS,
        )
    return found[:MOST_JOBS]


def usual_times(store, ids):
    """How long a run of each of some jobs usually takes."""
    for first in range(0, len(ids), 100):
        some = ids[first : first + 100]
        strips = queries.strips(store, some, 9)
        for runs in strips.values():
            took = usual(runs) or 1000
            yield took * dc.SECOND / 1000


def times_a_day(job):
    """How often a job runs on a day, by its schedule alone. Raises BadSchedule."""
    if job.schedule is None:
        return 1440 / dc.minutes_between_starts(job)
    return len(dc.expression_of(job).day_times)


def times_of(store, job, now):
    """The times of the next 24 hours at which a job is due, UTC; now, if it runs."""
    after = now
    if job.next_run_utc is not None:
        due = dc.moment(job.next_run_utc)
        after = max(now, due)
        yield after
        start = dc.text_of(store.zone.local(after))
        job = job._replace(last_start=start, claimed_start=start)
    for when, _ in dc.times_until(store, job, after, now + dc.DAY):
        yield when


def rooms_of(request, hosts, without):
    """Of each host that is up, but for one: its words, and when each slot is free."""
    pauses = dc.pauses(request.store)
    rooms = []
    for host in hosts:
        seconds = silence(request, host.last_seen)
        if host.name == without or not is_there(seconds):
            continue
        words = dc.words_of_host(host.name, host.tags)
        free = request.now
        for target in ('*', words[0]):
            if target in pauses:
                until = dc.moment(pauses[target].until_utc)
                free = max(free, until)
        slots = min(host.max_tasks, MOST_JOBS)
        rooms.append((words, [free] * slots))
    return rooms


def take_away(rooms, count):
    """Take slots for the jobs that are not drawn, from the hosts that have most; each
    keeps one."""
    for _ in range(count):
        lists = [slots for _, slots in rooms if slots[1:]]
        if lists:
            max(lists, key=len).pop()


def peaks(lanes, now, load):
    """How many runs there are at most at once in each part of the day, if each starts
    when it is due."""
    part = dc.DAY / PARTS
    changes = []
    for number in range(PARTS):
        begins = now + number * part
        changes.append((begins, 0))
    for lane in lanes:
        for due, _, _ in lane.starts:
            ends = due + lane.took
            changes.append((due, 1))
            changes.append((ends, -1))
    most = [load] * PARTS
    for when, step in sorted(changes):
        load += step
        number = (when - now) // part
        if number < PARTS:
            most[number] = max(most[number], load)
    return most
