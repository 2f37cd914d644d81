"""The next 24 hours: what runs when, and whether the hosts have room for it.

The times are those by which the workers plan. Each run is taken to last as long as the
job's runs usually do, to succeed, and to start on the host that is free first."""

from collections import namedtuple
from contextlib import suppress
from datetime import timedelta
from heapq import heappop, heappush, heapreplace
from operator import itemgetter

import distributed_cron as dc

from . import queries
from .answers import page
from .render import usual
from .truth import is_there, silence
from .views import list_link

MOST_JOBS = 1000  # at which it looks: those that run next
MOST_STARTS = 5000  # that are drawn; where there are more, hourly jobs are not
HOURLY = 24  # times a day; more frequent jobs are counted and not drawn
PARTS = 96  # of the day, in the picture of the slots
DUE = 'run_token IS NULL AND (next_run_utc IS NULL OR next_run_utc < :until)'

# Times are UTC; trouble: why it is late, or never comes.
Start = namedtuple('Start', 'due begins ends trouble comes')


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
    simulate(lanes, request.now + dc.DAY, store.zone)
    return page(
        request,
        'ahead',
        'Ahead',
        drawn=drawn(lanes),
        often=[lane for lane in lanes if lane.load],
        load=load,
        hosts=hosts,
        without=asked['without'],
        link=list_link(request, asked, 'ahead'),
        slots=slots,
        peaks=peaks(lanes, request.now, load),
        is_cut=len(lanes) >= MOST_JOBS,
        most=MOST_JOBS,
    )


def drawn(lanes):
    """The lanes that have starts, in order."""
    some = [lane for lane in lanes if lane.starts]
    return sorted(some, key=lambda lane: lane.starts[0])


class Lane:
    """A job, its times, and where they lead."""

    def __init__(self, job, took, rooms):
        self.job = job
        self.took = took  # by each run, a timedelta
        self.left = took  # by the first; what is left of one that goes on
        self.count = 0  # how often it is due on a day
        self.load = 0  # slots that it takes all the time, if it is not drawn
        self.times = []  # at which it is due, UTC, if it is drawn
        self.starts = []  # a Start for each of these times at which it was not running
        self.ends = dc.EPOCH  # its last run
        self.followers = []  # the Lanes of jobs that run after it
        self.may = []  # of each host that may run it, when each slot is free, a heap
        for words, slots in rooms:
            if job.run_on in (None, *words):
                self.may.append(slots)

    def fold(self):
        """Count its runs, and those of its followers, instead of drawing them."""
        self.load = min(1, self.took * self.count / dc.DAY)
        for lane in self.followers:
            if not lane.load:
                lane.count = self.count
                lane.fold()

    def fill(self, store, now):
        """Find the times of the next 24 hours. Raises BadSchedule."""
        if self.job.run_token is not None:
            start = started(store, self.job, now)
            lasted = now - start
            self.left = max(dc.SECOND, self.took - lasted)
        self.times += times_of(store, self.job, now)

    def start(self, due, zone):
        """Start a run that is due, on the host that is free first. Returns its Start;
        None while the last run still runs."""
        if due < self.ends:
            return None
        took = self.took if self.starts else self.left
        slots = min(filter(None, self.may), key=itemgetter(0), default=None)
        trouble = ''
        begins = due
        if not slots:
            trouble = 'no host that is up may run it'
        elif slots[0] > due:
            begins = slots[0]
            seconds = (begins - due).total_seconds()
            trouble = 'waits ' + dc.how_long(seconds)
            job = self.job._replace(attempt=0)
            if begins >= dc.start_limit(job, due, zone):
                slots = None
                begins = due
                trouble = 'can not start in time'
        self.ends = begins + took
        if slots:
            heapreplace(slots, self.ends)
        start = Start(due, begins, self.ends, trouble, bool(slots))
        self.starts.append(start)
        return start


def lanes_of(store, now, rooms):
    """The Lanes of the jobs of the next 24 hours, with their times."""
    jobs = jobs_until(store, now + dc.DAY)
    ids = [job.id for job in jobs]
    took_by = usual_times(store, ids)
    lanes = {}
    for job, took in zip(jobs, took_by):
        lanes[job.id] = Lane(job, took, rooms)
    for lane in lanes.values():
        parent = lanes.get(lane.job.after_job)
        if parent:
            parent.followers.append(lane)
    fold_frequent(lanes.values())
    for lane in lanes.values():
        if not lane.load:
            with suppress(dc.BadSchedule):  # its LAST STATUS says what is wrong
                lane.fill(store, now)
    return list(lanes.values())


def fold_frequent(lanes):
    """Fold the lanes of more than HOURLY starts; also of so many, if there are too many
    to be drawn."""
    for lane in lanes:
        with suppress(dc.BadSchedule):
            lane.count = times_a_day(lane.job)
    most = HOURLY
    if sum(lane.count for lane in lanes if lane.count <= most) > MOST_STARTS:
        most -= 1
    for lane in lanes:
        if lane.count > most and not lane.load:
            lane.fold()


def simulate(lanes, until, zone):
    """Let the times of all lanes come, in order, and with them what follows, until a
    time."""
    by_id = {lane.job.id: lane for lane in lanes}
    queue = []
    for lane in lanes:
        for due in lane.times:
            heappush(queue, (due, lane.job.id))
    while queue:
        due, id = heappop(queue)
        lane = by_id[id]
        start = lane.start(due, zone)
        if start is None or not start.comes:
            continue
        for follower in lane.followers:
            when = due_after(follower, start.ends, zone)
            # A circle of jobs would not end.
            if when < until and len(follower.starts) < 2 * HOURLY:
                heappush(queue, (when, follower.job.id))


def due_after(lane, ended, zone):
    """When a job is due that runs after one that has ended then."""
    job = lane.job
    paused = dc.moment(job.paused_until_utc) or ended
    when = max(ended, paused, lane.ends)  # it runs once more, if it still runs
    try:
        return dc.Window(job).opening(when, dc.zone_of(job, zone))
    except dc.BadSchedule:  # its LAST STATUS says what is wrong
        return dc.PARKED


def jobs_until(store, until):
    """The jobs that run, those that are due until a time, and those that run after
    others."""
    found = {}
    for test, order in (
        ("run_token > ''", 'run_token'),  # an index serves each of them
        (DUE, '{by_time}'),
        ('after_job > 0', 'after_job'),
    ):
        text = '''SELECT * FROM job WHERE %s AND active = 1 AND each_host = 0
            ORDER BY %s LIMIT :most''' % (test, order)
        rows = store.query(text, until=dc.text_of(until), most=MOST_JOBS)
        for job in rows:
            found.setdefault(job.id, job)
    return list(found.values())[:MOST_JOBS]


def usual_times(store, ids):
    """How long a run of each of some jobs usually takes."""
    for first in range(0, len(ids), 100):
        some = ids[first : first + 100]
        strips = queries.strips(store, some, 9)
        for runs in strips.values():
            took = usual(runs) or 1000
            yield timedelta(milliseconds=took)


def times_a_day(job):
    """How often a job runs on a day, by its schedule alone. Raises BadSchedule."""
    if job.after_job:
        return 0
    if job.schedule is None:
        return 1440 / dc.minutes_between_starts(job)
    return len(dc.expression_of(job).day_times)


def times_of(store, job, now):
    """The times of the next 24 hours at which a job is due, UTC; now, if it runs."""
    due = dc.moment(job.next_run_utc)
    if due is None:
        due = dc.next_run(job, now, now, store.zone)
    due = max(now, due)
    if due < now + dc.DAY:
        yield due
    if job.run_token is not None:
        due = started(store, job, now)
    for when in dc.times_after(job, due, store.zone):
        if when >= now + dc.DAY:
            return
        yield when


def started(store, job, now):
    """When the last run of a job has started, UTC; now, if that is not known."""
    start = dc.moment(job.last_start)
    if start is None:
        return now
    return store.zone.utc_before(start, now)


def rooms_of(request, hosts, without):
    """Of each host that is up, but for one: its words, and when each slot is free."""
    pauses = dc.pauses(request.store)
    rooms = []
    for host in hosts:
        seconds = silence(request, host.last_seen)
        if host.name == without:
            continue
        if not is_there(seconds):
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
        for start in lane.starts:
            took = start.ends - start.begins
            changes.append((start.due, 1))
            changes.append((start.due + took, -1))
    most = [load] * PARTS
    for when, step in sorted(changes):
        load += step
        number = (when - now) // part
        if number < PARTS:
            most[number] = max(most[number], load)
    return most
