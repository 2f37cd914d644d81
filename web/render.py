"""Templates, in which every value is escaped, and how values are said."""

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
    return UNSEEN.sub(
        lambda found: chr(0x2400 + ord(found[0])) if found[0] < ' ' else '\ufffd', text
    )


@lru_cache(None)
def compiled(file):
    """An HTML file as code: {{ }} is an expression, a line that begins with % is
    Python, and its block goes to a line `% end`."""
    source, depth = [], 0
    with open(os.path.join(HERE, file + '.html'), encoding='utf-8') as stream:
        for line in stream:
            if line.startswith('%'):
                statement = line[1:].strip()
                depth -= statement == 'end' or statement.startswith('el')
                source.append(' ' * depth + statement * (statement != 'end'))
                depth += statement.endswith(':')
            else:
                source += [
                    ' ' * depth
                    + ('write(escape(%s))' if index % 2 else 'write(%r)') % piece
                    for index, piece in enumerate(re.split('{{(.*?)}}', line))
                ]
    return compile('\n'.join(source), file, 'exec')


def render(file, /, **values):
    """A template with its values; in it, part() is another one with the same."""
    written = []
    exec(
        compiled(file),
        dict(
            HELPERS,
            **values,
            write=written.append,
            escape=escape,
            part=lambda file, /, **more: render(file, **{**values, **more}),
        ),
    )
    return Markup(''.join(written))


def badge(state, text=None):
    """A state as a shape and a word; its colour comes by its class."""
    return render('badge', state=state, text=text)


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
        return (
            'unknown'
            if ms is None
            else '%.1f s' % (ms / 1000)
            if ms >= 1000
            else ('%d ms' % ms)
        )
    size, part, words = next(
        unit
        for unit in (
            (86400, 3600, '%d d %d h'),
            (3600, 60, '%d h %d min'),
            (60, 1, '%d min %d s'),
        )
        if ms >= 1000 * unit[0]
    )
    return words % (ms // 1000 // size, ms // 1000 % size // part)


def far(seconds):
    """How far ahead a time is, or how long ago it was."""
    for size, unit in ((86400, 'days'), (3600, 'h'), (60, 'min'), (1, 's')):
        if abs(seconds) >= 2 * size or size == 1:
            words = '%d %s' % (abs(seconds) // size, unit)
            return (
                'in ' + words
                if seconds > 0
                else ('now' if seconds > -60 else words + ' late')
            )


def current(yes, word='true'):
    return Markup(' aria-current="%s"' % word) if yes else ''


HELPERS = {
    function.__name__: function
    for function in (badge, stacked, kind_of, duration, far, current, Markup)
}
HELPERS['dc'] = dc
