"""The page of the hosts: how they are, and how many runs have ended on each."""

import distributed_cron as dc

from . import queries
from .answers import page
from .truth import is_there, silence

KINDS = ('error', 'lost', 'success')  # of runs that have ended, from below
WIDE = 960  # of the picture
TALL = 40  # of its highest column
LEAST = 2  # of any part of a column: a failure is never too small to be seen
MARGIN = 20  # in which no hour stands
HOUR = 60 * dc.MINUTE
SPANS = {  # of time in the picture, in words
    dc.DAY: '24 hours',
    dc.DAY / 4: '6 hours',
    dc.DAY / 24: 'hour',
    queries.QUARTER: '15 minutes',
}


def hosts_page(request):
    """The hosts, and their runs of the last 24 hours: of less, if those are many."""
    store = request.store
    now = request.local_now
    span = queries.span_counted(store, now, SPANS)
    silences = {}
    hosts = queries.hosts(store)
    for host in hosts:
        silences[host.name] = silence(request, host.last_seen)
    lanes = {host.name: {} for host in hosts}
    for name, quarter, kind, count in queries.runs_by_host(store, now - span):
        lane = lanes.setdefault(name or '?', {})
        column = lane.setdefault(quarter, dict.fromkeys(KINDS, 0))
        column[kind] += count
    most = most_in(lanes)
    picture = Picture(now, span, most)
    return page(
        request,
        'hosts',
        'Hosts',
        is_there=is_there,
        hosts=hosts,
        silence=silences,
        running=dc.running_by_host(store),
        pauses=dc.pauses(store),
        span=SPANS[span],
        most=most,
        wide=WIDE,
        hours=picture.hours(),
        totals={name: totals_of(lane) for name, lane in lanes.items()},
        paths={name: picture.paths(lane) for name, lane in lanes.items()},
    )


# A lane is the runs of a host: {a quarter of an hour: {kind: how many ended in it}}.


def most_in(lanes):
    """How many runs are in the highest column of all hosts; at least 1."""
    most = 1
    for lane in lanes.values():
        for column in lane.values():
            count = sum(column.values())
            most = max(most, count)
    return most


def totals_of(lane):
    """How many runs of each kind there are."""
    totals = dict.fromkeys(KINDS, 0)
    for column in lane.values():
        for kind, count in column.items():
            totals[kind] += count
    return totals


class Picture:
    """Lanes over a span of time that ends now."""

    def __init__(self, now, span, most):
        self.now = now  # local time of the database
        self.span = span
        self.most = most  # runs for which the highest column stands

    def place(self, when):
        """Where a time is, from 0 to WIDE."""
        ago = (self.now - when) / self.span
        return WIDE * (1 - ago)

    def hours(self):
        """The hours that are marked, each third one of a day, as (place, datetime)."""
        hour = self.now.replace(minute=0, second=0, microsecond=0)
        step = 3 if self.span == dc.DAY else 1
        hours = []
        while hour > self.now - self.span:
            place = round(self.place(hour), 1)
            if hour.hour % step == 0 and MARGIN < place < WIDE - MARGIN:
                hours.append((place, hour))
            hour -= HOUR
        return hours

    def paths(self, lane):
        """The columns of a lane, upwards from 0: a path of SVG for each kind."""
        paths = dict.fromkeys(KINDS, '')
        width = 0.8 * WIDE * (queries.QUARTER / self.span)
        for quarter, column in lane.items():
            place = self.place(quarter)
            left = max(0, place)
            bottom = 0
            for kind, count in column.items():
                if not count:
                    continue
                share = count / self.most
                height = max(LEAST, TALL * share)
                shape = 'M%.1f %.1fh%.1fv-%.1fh-%.1fz'
                paths[kind] += shape % (left, -bottom, width, height, width)
                bottom += height
        return paths
