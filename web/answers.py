"""What the page answers with: a template in its frame, a redirection, or a file."""

import os
import re
from collections import namedtuple

import distributed_cron as dc

from . import queries
from .render import HERE, render
from .request import TOLD
from .truth import truth_of

Answer = namedtuple('Answer', 'status headers body')
HTML = ('Content-Type', 'text/html; charset=utf-8')
TEXT = ('Content-Type', 'text/plain; charset=utf-8')
STATIC = {
    'style.css': 'text/css; charset=utf-8',
    'script.js': 'text/javascript; charset=utf-8',
    'ok.svg': 'image/svg+xml',
    'failing.svg': 'image/svg+xml',
}
DONE = {  # what is said of a job after a form was sent
    'add': 'added',
    'edit': 'saved',
    'same': 'is unchanged',
    'idle': 'is not running',
    'pause': 'paused',
    'resume': 'resumed',
}
for name, action in dc.ACTIONS.items():
    DONE[name] = action.done


def page(
    request, template, title, status=200, counts=None, refresh='#content', **values
):
    """A whole page, made from a template. Its head says whether all is well.

    counts: of all jobs in each state, if they are known already; refresh: the part that
    script.js puts anew, as a selector."""
    if counts is None:
        counts = queries.counts(request.store, request.now)
    truth = truth_of(request, counts)
    content = render(
        template,
        request=request,
        base=request.base,
        title=title,
        counts=counts,
        **values,
    )
    return framed(request, title, content, status, truth, refresh)


def framed(request, title, content, status, truth=None, refresh='', headers=()):
    """The frame of every page, with some content."""
    body = render(
        'layout',
        request=request,
        base=request.base,
        title=title,
        told=told(request),
        truth=truth,
        refresh=refresh,
        content=content,
        static=lambda name: request.base + static_address(name),
    )
    return Answer(status, [HTML, *headers], body)


def told(request):
    """A sentence on what the last form did, once; '' when there is nothing to say."""
    event, _, number = request.cookie(TOLD).partition('.')
    many = event.startswith('many-')
    done = DONE.get(event.removeprefix('many-'))
    if done is None or not re.fullmatch('[0-9]{1,10}', number):
        return ''
    request.set_cookie(TOLD, '', 0)
    if many:
        return '%s: %s.' % (dc.counted(int(number), 'job'), done)
    return 'Job %s %s.' % (number, done)


def back(request, event, id, path):
    """On to another page, which says what was done to a job."""
    request.set_cookie(TOLD, '%s.%d' % (event, id), 60)
    location = ('Location', request.base + path)
    return Answer(303, [location, TEXT], '')


def static_version(name):
    """A text that changes with a file."""
    about = os.stat(os.path.join(HERE, name))
    return '%x' % (about.st_mtime_ns // 1000 + about.st_size)


def static_address(name):
    """An address that changes with the file, so that browsers may keep it for ever."""
    return '/static/%s?v=%s' % (name, static_version(name))


def static_page(request, name):
    """One of the files that the pages need; 304 for a browser that has it."""
    tag = '"%s"' % static_version(name)
    headers = [
        ('ETag', tag),
        ('Cache-Control', 'public, max-age=31536000, immutable'),
    ]
    if tag in request.environ.get('HTTP_IF_NONE_MATCH', ''):
        return Answer(304, headers, b'')
    headers.append(('Content-Type', STATIC[name]))
    with open(os.path.join(HERE, name), 'rb') as file:
        return Answer(200, headers, file.read())
