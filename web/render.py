"""Templates, in which every value is escaped, and drawings, as inline SVG."""
import html
import os
import re
from functools import lru_cache
from string import Template

HERE = os.path.dirname(os.path.realpath(__file__))
# Control characters, and those that turn the direction of writing, by which a command
# could look like another one.
UNSEEN = re.compile('[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]')


class Markup(str):
    """Text that is HTML already. All other text is escaped where it is filled in."""


class Escaping(dict):
    """The values of a template, as HTML."""

    def __getitem__(self, name):
        return escape(super().__getitem__(name))


def escape(value):
    """A value as HTML; what can't be seen becomes a sign that can."""
    if isinstance(value, Markup):
        return value
    text = '' if value is None else html.escape(str(value))
    return Markup(UNSEEN.sub(lambda found: chr(0x2400 + ord(found[0]))
                             if found[0] < ' ' else '\ufffd', text))


@lru_cache(None)
def fragments(file):
    """The parts of an HTML file by name; a part is led by a line `<!-- name -->`."""
    with open(os.path.join(HERE, file + '.html'), encoding='utf-8') as stream:
        pieces = re.split(r'(?m)^<!-- (\w+) -->\n', stream.read())
    return {name: Template(text.rstrip('\n'))
            for name, text in zip(['', *pieces[1::2]], pieces[::2])}


def fill(file, name='', /, **values):
    """A fragment of an HTML file with its values."""
    return Markup(fragments(file)[name].substitute(Escaping(values)))


def join(parts, between='\n'):
    """Pieces in a row, as HTML."""
    return Markup(between.join(map(escape, parts)))


# Each state has a shape of its own, in a square of 12, besides its word and colour.
SHAPES = {
    'running': '<path d="M3 1.5v9l7.5-4.5z"/>',
    'overdue': '<path d="M6 .5 11.7 11H.3zM5.3 4.3v3.4h1.4V4.3zm0 4.2v1.3h1.4V8.5z" '
               'fill-rule="evenodd"/>',
    'not due': '<circle cx="6" cy="6" r="4" fill="none" stroke="currentColor" '
               'stroke-width="2"/>',
    'disabled': '<path d="M2.5 2h2.5v8H2.5zM7 2h2.5v8H7z"/>',
    'error': '<path d="M2.5 1 6 4.5 9.5 1 11 2.5 7.5 6 11 9.5 9.5 11 6 7.5 2.5 11 1 9.5 '
             '4.5 6 1 2.5z"/>',
    'lost': '<path d="M6 .8 11.2 6 6 11.2.8 6z" fill="none" stroke="currentColor" '
            'stroke-width="1.6" stroke-dasharray="2.2 1.4"/>',
    'success': '<path d="M1 6.3 2.5 4.8 4.8 7 9.6 2 11 3.5 4.8 10z"/>',
}


def badge(state, text=None):
    """A state as a shape and a word; its colour comes by its class."""
    return fill('parts', 'badge', text=text or state, css=state.replace(' ', '-'),
                shape=Markup(SHAPES[state]))


def kind_of(status):
    """Whether a run was a success, an error, or lost, by its status."""
    if status == 'Success':
        return 'success'
    return 'lost' if status.startswith('ERROR: lost') else 'error'


def bar(kind, x, bottom, width, height):
    """The shape of a run: success a bar, error a bar with a point, lost a frame."""
    top = bottom - (height if kind == 'success' else max(height, 7))
    if kind == 'success':
        form = '<rect x="%g" y="%g" width="%g" height="%g" rx="1"/>' % (
            x, top, width, height)
    elif kind == 'lost':
        form = ('<rect x="%g" y="%g" width="%g" height="%g" fill="none" '
                'stroke="currentColor"/>' % (
                    x + 0.5, top + 0.5, width - 1, bottom - top - 1))
    else:
        form = '<path d="M%g %gV%gL%g %gL%g %gV%gz"/>' % (
            x, bottom, top, x + width / 2, top - width / 2, x + width, top, bottom)
    return Markup(form)


def bars(base, runs, width, height, step, slots):
    """Runs, oldest first, as bars as high as they lasted, each a link to its run."""
    longest = max([run.duration_ms or 0 for run in runs] + [1])
    drawn = [fill('parts', 'bar', base=base, job=run.job_id, run=run.run_no,
                  kind=kind_of(run.status), x=(slots - len(runs) + index) * step,
                  step=step, height=height, what=said(run), shape=bar(
                      kind_of(run.status), (slots - len(runs) + index) * step,
                      height, width, max(3, round(
                          (height - width / 2) * (run.duration_ms or 0) / longest, 1))))
             for index, run in enumerate(runs)]
    kinds = [kind_of(run.status) for run in runs]
    label = ', '.join('%d %s' % (kinds.count(kind), kind) for kind in (
        'success', 'error', 'lost') if kind in kinds)
    return fill('parts', 'bars', bars=join(drawn, ''), width=slots * step,
                height=height, label='%d runs: %s' % (len(runs), label))


def said(run):
    """A run in a line."""
    return 'run %d, %s, %s: %s' % (
        run.run_no, run.started_at or 'never started', duration(run.duration_ms),
        run.status)


def duration(ms):
    """Milliseconds as people say them."""
    if ms is None:
        return 'unknown'
    if ms < 1000:
        return '%d ms' % ms
    seconds = ms / 1000
    if seconds < 60:
        return '%.1f s' % seconds
    for big, small, words in ((86400, 3600, '%d d %d h'), (3600, 60, '%d h %d min'),
                              (60, 1, '%d min %d s')):
        if seconds >= big:
            return words % (seconds // big, seconds % big // small)


def far(seconds):
    """How far ahead a time is, or how long ago it was."""
    for size, unit in ((86400, 'days'), (3600, 'h'), (60, 'min'), (1, 's')):
        if abs(seconds) >= 2 * size or size == 1:
            words = '%d %s' % (abs(seconds) // size, unit)
            return ('in ' + words if seconds > 0 else 'now' if seconds > -60
                    else words + ' late')


def clock(text, now):
    """A time of the database: short, in full on a closer look; None for none."""
    if not text:
        return None
    day, _, time = str(text).partition(' ')
    return fill('parts', 'clock', full=text, day='' if day == now.date().isoformat()
                else day, time=time)


LANE, SLOTS, SLOT, WIDE = 54, 6, 6, 960  # of a host's lane, in pixels


def lanes(base, hosts, since, now):
    """A lane for each host, with a bar for each run from `since` to `now`; what runs at
    once stands one above the other, and over six of them darker."""
    def x(when):
        return round(max(0, (when - since) / (now - since)) * WIDE, 1)

    drawn = []
    for index, (name, runs) in enumerate(hosts.items()):
        top, free, shapes = 24 + index * LANE, [0] * SLOTS, []
        for run in sorted(runs, key=lambda run: run.started_at or ''):
            status = getattr(run, 'status', 'running')
            start = time_of(run.started_at) or now
            end = time_of(getattr(run, 'ended_at', None)) or now
            left, right = x(start), x(end)
            slot = next((slot for slot in range(SLOTS) if free[slot] <= left), SLOTS - 1)
            free[slot] = max(right, left + 1.5)
            kind = status if status == 'running' else kind_of(status)
            shapes.append(fill(
                'parts', 'slot', base=base, job=run.job_id, run=run.run_no, kind=kind,
                x=left, y=top + LANE - 2 - (slot + 1) * SLOT,
                width=max(1.5, round(right - left, 1)),
                what='job %d run %d, %s, %s' % (run.job_id, run.run_no, start, status)))
        drawn.append(fill('parts', 'lane', name=name, y=top, text=top + 12, line=top + LANE - 1,
                          wide=WIDE, shapes=join(shapes, '')))
    hours = [fill('parts', 'hour', x=x(hour), height=30 + len(hosts) * LANE,
                  word=hour.strftime('%H:%M')) for hour in hours_between(since, now)]
    return fill('parts', 'lanes', lanes=join(drawn), hours=join(hours), wide=WIDE,
                height=30 + len(hosts) * LANE)


def time_of(text):
    from datetime import datetime
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


def hours_between(since, now):
    """Each third full hour."""
    from datetime import timedelta
    hour = since.replace(minute=0, second=0, microsecond=0)
    while hour <= now:
        if hour > since and hour.hour % 3 == 0:
            yield hour
        hour += timedelta(hours=1)
