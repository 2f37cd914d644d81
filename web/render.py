"""Templates, in which every value is escaped, and values as people read them."""

import html
import json
import os
import re
from functools import lru_cache
from urllib.parse import quote

import distributed_cron as dc

from .search import TAG

HERE = os.path.dirname(os.path.realpath(__file__))
LINK = r'https?://[^\s<>"\'`]+[\w/]'  # in a description
PERIODS = {  # for which jobs or hosts are paused
    '15m': '15 minutes',
    '1h': '1 hour',
    '8h': '8 hours',
    '1d': '1 day',
    '7d': '7 days',
}


class Markup(str):
    """Text that is HTML already. All other text is escaped where it is written."""


def escape(value):
    """A value as HTML; what can't be seen becomes a sign that can."""
    if isinstance(value, Markup):
        return value
    text = '' if value is None else html.escape(str(value))
    return dc.visible(text)


@lru_cache(None)
def compiled(file):
    """A template as code: {{ }} is an expression, a line that begins with % is Python,
    and its block goes to a line `% end`."""
    source = []
    indent = 0
    path = os.path.join(HERE, file + '.html')
    with open(path, encoding='utf-8') as lines:
        for line in lines:
            if not line.startswith('%'):
                source.append(' ' * indent + writing(line))
                continue
            statement = line[1:].strip()
            if statement == 'end' or statement.startswith(('else', 'elif')):
                indent -= 1
            if statement != 'end':
                source.append(' ' * indent + statement)
            if statement.endswith(':'):
                indent += 1
    return compile('\n'.join(source), file, 'exec')


def writing(line):
    """The statement that writes a line of HTML."""
    calls = []
    for index, piece in enumerate(re.split('{{(.*?)}}', line)):
        if index % 2:  # an expression stands between two texts
            calls.append('write(escape(%s))' % piece)
        else:
            calls.append('write(%r)' % piece)
    return '; '.join(calls)


def render(file, /, **values):
    """A template with its values; in it, part() is another one with the same values."""
    written = []

    def part(file, /, **more):
        return render(file, **{**values, **more})

    names = {**HELPERS, **values}
    names.update(write=written.append, escape=escape, part=part)
    exec(compiled(file), names)
    return Markup(''.join(written))


def badge(state, text=None):
    """A state as a shape and a word; its colour comes from its class."""
    return render('badge', state=state, text=text)


def kind_of(status):
    """The kind of a run, by its status: success, running, skipped, lost, or error."""
    if status in ('Success', 'running'):
        return status.lower()
    if status.startswith('ERROR: lost'):
        return 'lost'
    if status.startswith('SKIPPED'):
        return 'skipped'
    return 'error'


def last_ended(job, runs):
    """Of some runs of a job, the one of which its last result is; None if they do not
    have it. Without a run in progress, the job itself says it all."""
    if job.run_token is None:
        return dc.Run(
            job.id,
            job.run_no,
            started_at=job.last_start,
            ended_at=job.last_end,
            worker=job.last_worker,
            status=job.last_status,
        )
    ended = [run for run in runs if kind_of(run.status) not in ('running', 'skipped')]
    return max(ended, key=lambda run: run.run_no, default=None)


def duration(ms):
    """Milliseconds as people say them."""
    if ms is None:
        return 'unknown'
    if ms < 1000:
        return '%d ms' % ms
    seconds = ms // 1000
    if seconds < 60:
        return '%.1f s' % (ms / 1000)
    if seconds < 3600:
        return '%d min %d s' % divmod(seconds, 60)
    if seconds < 86400:
        return '%d h %d min' % divmod(seconds // 60, 60)
    return '%d d %d h' % divmod(seconds // 3600, 24)


def usual(runs):
    """How long successful runs usually took, or others if there are none: the median
    in milliseconds; None if nothing is known."""
    for status in ('Success', ''):
        times = []
        for run in runs:
            if run.duration_ms is not None and run.status.startswith(status):
                times.append(run.duration_ms)
        if times:
            return sorted(times)[len(times) // 2]
    return None


def far(seconds):
    """How far ahead a time is, or how long ago it was; script.js says it alike."""
    words = dc.how_long(abs(seconds))
    if seconds > 0:
        return 'in ' + words
    if seconds > -60:
        return 'now'
    return words + ' late'


def tags_of(job):
    """The words of a description that begin with #."""
    text = str(job.description)
    return [tag.lower() for tag in re.findall(r'(?<!\S)' + TAG, text)]


def links_of(job):
    """The addresses in a description."""
    return re.findall(LINK, str(job.description))


def one_line(text):
    """Text for one line of a log: what nobody sees, and ends of lines, as in JSON."""
    return re.sub('[\t\n]|' + dc.UNSEEN, lambda match: json.dumps(match[0])[1:-1], text)


def unix_time(utc):
    """A UTC time as seconds since 1970."""
    return (utc - dc.EPOCH) // dc.SECOND


def current(yes, word='true'):
    """The attribute of a link to what is shown already."""
    return Markup(' aria-current="%s"' % word) if yes else ''


HELPERS = {  # what every template can call
    'Markup': Markup,
    'VERSION': dc.VERSION,
    'PARKED': dc.PARKED,
    'MINUTE': dc.MINUTE,
    'DAY': dc.DAY,
    'PERIODS': PERIODS,
}
for function in (
    badge,
    kind_of,
    last_ended,
    usual,
    dc.host_of,
    duration,
    far,
    unix_time,
    current,
    quote,
    dc.label_of,
    dc.moment,
    dc.text_of,
    dc.state_of,
    dc.how_long,
    dc.clock_text,
    dc.last_line,
    tags_of,
    links_of,
    dc.describe,
    dc.schedule_in_words,
    dc.window_in_words,
):
    HELPERS[function.__name__] = function
