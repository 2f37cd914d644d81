"""The benchmark's table as a picture: SVG, of text and rectangles only."""

import re
from html import escape

WIDTH, LEFT, BAR, LINE = 880, 330, 330, 24
STYLE = '''text { font: 13px sans-serif; fill: #333 } .title { font-weight: bold }
.good { fill: #2f7d57 } .bad { fill: #c0392b } .other { fill: #9aa5b1 }
.goal { stroke: #333; stroke-width: 1.5 } .small { font-size: 11px; fill: #666 }
@media (prefers-color-scheme: dark) { text { fill: #ddd } .small { fill: #aaa }
.goal { stroke: #ddd } }'''


def picture(rows):
    """Above, the rate beside the limit and other crons; below, how far from
    its goal each row is."""
    shapes, top = [], 20
    rates = rates_of(rows)
    if rates:
        most = max(rate for _, rate, _ in rates)
        top = heading(
            shapes, top, '500 commands due at once: the rate, where ours is 1'
        )
        for name, rate, kind in rates:
            top = bar(shapes, top, name, rate / most, kind, '%.2f' % rate)
        top += LINE / 2
    judged = [(row, share_of(row)) for row in rows]
    judged = [(row, share) for row, share in judged if share is not None]
    top = heading(shapes, top, 'Share used of what the goal allows (line: the goal)')
    start = top
    for row, share in judged:
        kind = 'good' if row.reached else 'bad'
        text = '%s (%s)' % (row.measured, row.goal)
        top = bar(shapes, top, row.what, min(share, 1.5) / 1.5, kind, text)
    line = LEFT + BAR / 1.5
    shapes.append(
        '<line class="goal" x1="%g" y1="%g" x2="%g" y2="%g"/>'
        % (line, start - 12, line, top - 16)
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" '
        'role="img" aria-label="Benchmark">\n<style>%s</style>\n%s\n</svg>\n'
        % (WIDTH, top, WIDTH, STYLE, '\n'.join(shapes))
    )


def heading(shapes, top, text):
    shapes.append('<text class="title" x="10" y="%g">%s</text>' % (top, escape(text)))
    return top + LINE


def bar(shapes, top, name, share, kind, text):
    """A line of the picture: a name, a bar of a share of the width, a text after it."""
    width = max(1, BAR * share)
    shapes.append(
        '<text x="%d" y="%g" text-anchor="end">%s</text>'
        '<rect class="%s" x="%d" y="%g" width="%.1f" height="14"/>'
        '<text class="small" x="%.1f" y="%g">%s</text>'
        % (
            LEFT - 8,
            top,
            escape(name),
            kind,
            LEFT,
            top - 11,
            width,
            LEFT + width + 6,
            top,
            escape(text),
        )
    )
    return top + LINE


def rates_of(rows):
    """(name, rate, kind of bar), of us, the limit and the peers: each as a ratio to ours
    in turns with it, since a machine is not as fast at all times."""
    rates = []
    for row in rows:
        if row.what.startswith('500 due at once, one'):
            rates.append(('distributed cron, with history', 1, 'good'))
            rates.append(("Python's posix_spawn: the limit", 1 / row.ratio, 'other'))
        elif row.what.endswith(', 500 due at once'):
            rates.append((row.what.rpartition(', ')[0], row.ratio, 'other'))
    return sorted(rates, key=lambda rate: -rate[1])


def share_of(row):
    """How much a row uses of what its goal allows: 1 is all; None if it has no one
    number as a goal."""
    goal = re.match(r'([≤<≥]) ([\d.]+)', row.goal)
    if not goal or row.what.endswith(', 500 due at once'):
        return None
    value = (
        number(row.measured)
        if row.ratio is None or re.match(r'\S+ [\d.]+ [a-zA-Z%]', row.goal)
        else row.ratio
    )
    most = float(goal[2])
    return value / most if goal[1] in '≤<' else most / max(value, most / 9)


def number(text):
    """The first number in a text."""
    return float(re.search(r'[\d.]+', text)[0])
