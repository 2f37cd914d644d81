"""Templates in which every value is escaped, and how values are said and drawn."""
import html
import os
import re
from functools import lru_cache

import distributed_cron as dc

HERE = os.path.dirname(os.path.realpath(__file__))
# Control characters, and those that turn the direction of writing, by which a command
# could look like another one.
UNSEEN = re.compile('[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]')


class Markup(str):
    """Text that is HTML already. All other text is escaped where it is written."""


def escape(value):
    """A value as HTML; what can't be seen becomes a sign that can."""
    if isinstance(value, Markup):
        return value
    text = '' if value is None else html.escape(str(value))
    return UNSEEN.sub(lambda found: chr(0x2400 + ord(found[0])) if found[0] < ' '
                      else '\ufffd', text)


@lru_cache(None)
def compiled(file):
    """An HTML file as code: {{ }} is an expression, a line that begins with % is Python,
    and its block goes to a line `% end`."""
    source, depth = [], 0
    with open(os.path.join(HERE, file + '.html'), encoding='utf-8') as stream:
        for line in stream:
            if line.startswith('%'):
                statement = line[1:].strip()
                depth -= statement == 'end' or statement.startswith('el')
                source.append(' ' * depth + statement * (statement != 'end'))
                depth += statement.endswith(':')
            else:
                source += [' ' * depth + ('write(escape(%s))' if index % 2 else
                           'write(%r)') % piece
                           for index, piece in enumerate(re.split('{{(.*?)}}', line))]
    return compile('\n'.join(source), file, 'exec')


def render(file, /, **values):
    """A template with its values; in it, part() is another one with the same."""
    written = []
    exec(compiled(file), dict(
        HELPERS, **values, write=written.append, escape=escape,
        part=lambda file, /, **more: render(file, **{**values, **more})))
    return Markup(''.join(written))


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
    'success': '<path d="M1 6.3 2.5 4.8 4.8 7 9.6 2 11 3.5 4.8 10z"/>'}


def badge(state, text=None):
    """A state as a shape and a word; its colour comes by its class."""
    return Markup(
        '<span class="state %s"><svg class="shape" viewBox="0 0 12 12" aria-hidden="true">'
        '%s</svg>%s</span>' % (state.replace(' ', '-'), SHAPES[state],
                               escape(text or state)))


def bar(run, longest, x, bottom, width):
    """A run as high as it lasted: success a bar, error a bar with a point, lost a frame."""
    kind = kind_of(run.status)
    top = bottom - max(3 if kind == 'success' else 7, round(
        (bottom - width / 2) * (run.duration_ms or 0) / longest, 1))
    if kind == 'success':
        return Markup('<path d="M%g %gV%gh%gV%gz"/>' % (x, bottom, top, width, bottom))
    if kind == 'lost':
        return Markup('<path d="M%g %gV%gh%gV%gz" fill="none" stroke="currentColor"/>' % (
            x + 0.5, bottom - 0.5, top + 0.5, width - 1, bottom - 0.5))
    return Markup('<path d="M%g %gV%gl%g %gl%g %gV%gz"/>' % (
        x, bottom, top, width / 2, -width / 2, width / 2, width / 2, bottom))


def stacked(runs, place, slots):
    """Runs as (run, left, right, slot): what goes on at once in slots of its own."""
    free = [0] * slots
    for run in sorted(runs, key=lambda run: run.started_at or ''):
        left, right = place(run.started_at), place(run.ended_at)
        slot = next((slot for slot in range(slots) if free[slot] <= left), slots - 1)
        free[slot] = max(right, left + 1.5)
        yield run, left, right, slot


def kind_of(status):
    """Whether a run was a success, an error, or lost, by its status; or goes on."""
    if status in ('Success', 'running'):
        return status.lower()
    return 'lost' if status.startswith('ERROR: lost') else 'error'


def duration(ms):
    """Milliseconds as people say them."""
    if ms is None or ms < 60000:
        return 'unknown' if ms is None else '%d ms' % ms if ms < 1000 else (
            '%.1f s' % (ms / 1000))
    for size, part, words in ((86400, 3600, '%d d %d h'), (3600, 60, '%d h %d min'),
                              (60, 1, '%d min %d s')):
        if ms >= 1000 * size:
            return words % (ms // 1000 // size, ms // 1000 % size // part)


def far(seconds):
    """How far ahead a time is, or how long ago it was."""
    for size, unit in ((86400, 'days'), (3600, 'h'), (60, 'min'), (1, 's')):
        if abs(seconds) >= 2 * size or size == 1:
            words = '%d %s' % (abs(seconds) // size, unit)
            return 'in ' + words if seconds > 0 else (
                'now' if seconds > -60 else words + ' late')


def clock(text, now):
    """A time of the database; without the day if it is today's."""
    return str(text or '').removeprefix(now.date().isoformat() + ' ')


def short(command):
    """The first line of a command, or as much of it as fits into a row."""
    line = command.strip().partition('\n')[0]
    return line if line == command.strip() and len(line) < 80 else line[:79] + '…'


def current(yes, word='true'):
    return Markup(' aria-current="%s"' % word) if yes else ''


def near(number, pages):
    """The pages that a list links to: the first, the last, and those around this one."""
    return sorted({1, pages, *range(max(1, number - 2), min(pages, number + 2) + 1)})


HELPERS = {function.__name__: function for function in (
    badge, bar, stacked, kind_of, duration, far, clock, short, current, near)}
HELPERS.update(dc=dc, Markup=Markup)
