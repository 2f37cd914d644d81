"""The application: it finds the page of an address, and answers whatever happens.

answers.py makes the answers, views.py shows, changes.py changes, queries.py
asks the database. Everything works without script.js, which only adds."""

import re
import sys
from http import HTTPStatus

import distributed_cron as dc

from .ahead import ahead_page
from .answers import STATIC, TEXT, Answer, framed, static_page
from .acts import act, act_on_many, pause_hosts
from .changes import delete, delete_page, form_page, preview_page, save
from .hosts import hosts_page
from .jobs import list_page
from .render import one_line, render
from .request import Refused, Request, throw_away_body
from .runs import runs_page
from .views import (
    NUMBER,
    health_page,
    job_page,
    log_page,
    metrics_page,
    run_page,
)

HEADERS = [  # of every answer
    (
        'Content-Security-Policy',
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'",
    ),
    ('X-Frame-Options', 'DENY'),
    ('X-Content-Type-Options', 'nosniff'),
    ('Referrer-Policy', 'same-origin'),
    ('Cross-Origin-Resource-Policy', 'same-origin'),
    ('Cross-Origin-Opener-Policy', 'same-origin'),
]
JOB = '/job/(%s)' % NUMBER
ACTION = '/(run-now|stop|enable|disable|pause|resume)'
RUN = '/run/(%s)/(%s)' % (NUMBER, NUMBER)
FILE = '/static/(%s)' % '|'.join(map(re.escape, STATIC))
ROUTES = (  # pattern of a path, page of each method; groups become arguments
    ('/', {'GET': list_page}),
    ('/job/add', {'GET': form_page, 'POST': save}),
    (JOB, {'GET': job_page}),
    (JOB + '/edit', {'GET': form_page, 'POST': save}),
    (JOB + '/delete', {'GET': delete_page, 'POST': delete}),
    (JOB + ACTION, {'POST': act}),
    ('/jobs' + ACTION, {'POST': act_on_many}),
    ('/hosts/(pause|resume)', {'POST': pause_hosts}),
    ('/preview', {'GET': preview_page}),
    ('/runs', {'GET': runs_page}),
    ('/ahead', {'GET': ahead_page}),
    (RUN, {'GET': run_page}),
    (RUN + '/log', {'GET': log_page}),
    ('/hosts', {'GET': hosts_page}),
    ('/healthz', {'GET': health_page}),
    ('/metrics', {'GET': metrics_page}),
    (FILE, {'GET': static_page}),
)
FOR_PROGRAMS = '/(healthz|metrics|run/.*/log)'  # paths where errors are plain text


class Application:
    """The page as a WSGI application.

    file: a configuration, read for each request; None: the one that dc.find_config
    finds then. name: of this host, if not its own. alone: see Request."""

    def __init__(self, file=None, name=None, alone=None):
        self.file = file
        self.name = name
        self.alone = alone

    def __call__(self, environ, start_response):
        status, headers, body = self.answer(environ)
        throw_away_body(environ)
        if isinstance(body, str):
            body = body.encode('utf-8', 'replace')
        if 'Cache-Control' not in dict(headers):
            headers = [*headers, ('Cache-Control', 'no-store')]
        length = ('Content-Length', str(len(body)))
        phrase = HTTPStatus(status).phrase
        start_response('%d %s' % (status, phrase), [*headers, *HEADERS, length])
        if environ['REQUEST_METHOD'] == 'HEAD':
            return []
        return [body]

    def answer(self, environ):
        """The Answer to a request; never an exception."""
        request = None
        try:
            file = self.file or dc.find_config()
            config = dc.load_config(file, self.name)
            request = Request(environ, config, self.alone)
            answer = respond(request)
            headers = answer.headers + request.new_cookies
            return answer._replace(headers=headers)
        except Exception as error:
            refused = refusal_of(error)
            if refused.cause:
                report(environ, refused.cause)
            return refusal_page(request, refused)
        finally:
            if request:
                request.close()


def respond(request):
    """The Answer of the page that the address means. Raises Refused, and more."""
    request.check_host()
    if request.brings_key():
        return Answer(303, [('Location', request.base + '/'), TEXT], '')
    for pattern, methods in ROUTES:
        match = re.fullmatch(pattern, request.path)
        if match:
            page = page_for(request.method, methods)
            return page(request, *map(argument, match.groups()))
    raise Refused(404, 'There is no such page.')


def page_for(method, methods):
    """The page that answers a method; HEAD is answered as GET. Raises Refused."""
    if method == 'HEAD':
        method = 'GET'
    if method in methods:
        return methods[method]
    allowed = sorted(methods)
    if 'GET' in methods:
        allowed.insert(0, 'HEAD')
    allowed = ', '.join(allowed)
    sentence = 'This address answers to %s.' % allowed
    raise Refused(405, sentence, ('Allow', allowed))


def argument(text):
    """A part of a path as an argument of a page: a number, where it is one."""
    return int(text) if text.isdigit() else text


# Errors.


def refusal_of(error):
    """What people are told of an error; its cause is for the error log only."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, dc.Away):
        sentence = 'The database does not answer; the error log says why.'
        return Refused(503, sentence, ('Retry-After', '10'), cause=error)
    if isinstance(error, dc.Problem) and not isinstance(error, dc.BadConfig):
        return Refused(
            503,
            'The database, or a file of this page, is unavailable; '
            'the error log says why.',
            ('Retry-After', '10'),
            cause=error,
        )
    cause = error if isinstance(error, dc.Problem) else repr(error)
    return Refused(
        500,
        'The configuration, or this page, is wrong; the error log says why.',
        cause=cause,
    )


def refusal_page(request, refused):
    """The Answer that says why a request was refused: a page, or a line for programs.

    request: None if not even the configuration could be read."""
    if request is None or re.fullmatch(FOR_PROGRAMS, request.path):
        headers = [TEXT, *refused.headers]
        return Answer(refused.status, headers, refused.sentence + '\n')
    title = HTTPStatus(refused.status).phrase
    content = render('message', text=refused.sentence, base=request.base)
    return framed(
        request,
        title,
        content,
        refused.status,
        headers=refused.headers,
    )


def report(environ, cause):
    """Write a line to the error log of the web server."""
    method = environ['REQUEST_METHOD']
    path = ''.join(environ.get(name) or '' for name in ('SCRIPT_NAME', 'PATH_INFO'))
    text = '%s %s: %s' % (method, path or '/', cause)
    print('index.cgi: %s' % one_line(text), file=sys.stderr, flush=True)
