"""The pages that show something: jobs, runs and hosts; and what programs ask for."""

import math
from contextlib import suppress
from urllib.parse import urlencode

import distributed_cron as dc

from . import queries
from .answers import TEXT, Answer, page
from .request import Refused

PAGE_SIZE = 50  # rows of a list
MOST_PAGES = 200  # of the list: to sort a million jobs for a later one takes long
MOST_BARS = 2000  # runs in the picture of the hosts
QUIET = 5 * dc.MINUTE  # how long no worker may be seen
NUMBER = '[1-9][0-9]{0,8}'


# Jobs.


def list_page(request):
    """The jobs that a search finds, in a state, in an order."""
    asked = request.query(
        search_string='(?s).{1,200}',
        state='|'.join(queries.STATES),
        sort='|'.join(queries.SORTS),
        order='asc|desc',
        page=NUMBER,
    )
    number = int(asked.pop('page') or 1)
    state = asked['state']
    search = asked['search_string']
    most = PAGE_SIZE * MOST_PAGES
    below = queries.not_searched(request.store) if search else 0
    counts = queries.counts(request.store, request.now, search, below)
    total = counts[state] if state else sum(counts.values())
    number, pages = paged(number, min(total, most))
    order = (asked['sort'], asked['order'], PAGE_SIZE * (number - 1), PAGE_SIZE)
    jobs = queries.jobs(request.store, request.now, search, below, state, *order)
    return page(
        request,
        'jobs',
        'Jobs',
        counts=counts,
        values=asked,
        total=total,
        most=most,
        below=below,
        jobs=jobs,
        link=list_link(request, asked),
        number=number,
        pages=pages,
        strips=queries.strips(request.store, [job.id for job in jobs]),
    )


def list_link(request, asked, path=''):
    """A function that makes the address of a list, with some values changed."""

    def link(**changed):
        values = {**asked, **changed}
        given = {name: value for name, value in values.items() if value}
        return '%s/%s?%s' % (request.base, path, urlencode(given))

    return link


def paged(number, total):
    """The number of a page that is there, and how many there are, for so many rows."""
    pages = max(1, math.ceil(total / PAGE_SIZE))
    return min(number, pages), pages


def found_job(request, id):
    """The row of a job. Raises Refused."""
    jobs = queries.jobs_by_id(request.store, [id])
    if not jobs:
        raise Refused(404, 'There is no job %d.' % id)
    return jobs[0]


def job_page(request, id):
    """A job and its runs. Their numbers make the pages, also where some are gone."""
    number = int(request.query(page=NUMBER)['page'] or 1)
    job = found_job(request, id)
    lowest, highest = queries.ends_of_history(request.store, id)
    last = max(job.run_no, highest or 0)
    first = lowest or last
    number, pages = paged(number, last - first + 1)
    top = last - PAGE_SIZE * (number - 1)

    def link(page):
        return '%s/job/%d?page=%d' % (request.base, id, page)

    return page(
        request,
        'job',
        job.description or 'job %d' % id,
        job=job,
        pages=pages,
        number=number,
        link=link,
        runs=queries.runs(request.store, id, top - PAGE_SIZE + 1, top),
        why=dc.why_lines(request.store, job),
        signature=signature_in_words(request, job),
    )


def signature_in_words(request, job):
    """Who signed a job, or why that does not hold and what to run; '' where no
    signature is asked for."""
    if not (job.signature or request.config.sign_required):
        return ''
    signer, text = dc.judged(request.store, job)
    if signer is not None:
        return text
    id = job.parent_id or job.id  # a template is signed for what it has on each host
    return '%s; to sign it: distributed_cron.py sign %d' % (text, id)


# Runs.


def found_run(request, id, run_no):
    """A job, None where it was deleted, and one of its runs. Raises Refused."""
    runs = queries.runs(request.store, id, run_no, run_no)
    jobs = queries.jobs_by_id(request.store, [id])
    job = jobs[0] if jobs else None
    if job and job.run_token is not None and job.run_no == run_no:
        runs = [run_of(job, request.local_now)]
    if not runs:
        raise Refused(404, 'The history holds no run %d of job %d.' % (run_no, id))
    return job, runs[0]


def run_of(job, local_now):
    """The run of a job that is running, as a row of the history, where it is not yet.
    Its status is 'running'."""
    start = dc.moment(job.last_start) or local_now
    return dc.Run(
        job_id=job.id,
        run_no=job.run_no,
        due_utc=job.next_run_utc,
        started_at=job.last_start,
        ended_at=None,
        duration_ms=(local_now - start) // dc.SECOND * 1000,
        worker=job.last_worker,
        status='running',
        exit_code=None,
        output='',
    )


def run_page(request, id, run_no):
    """A run and what it wrote."""
    job, run = found_run(request, id, run_no)
    return page(
        request,
        'run',
        'Run %d of job %d' % (run_no, id),
        job=job,
        run=run,
        output=output_of(request, run),
    )


def output_of(request, run):
    """What a run has written so far, by its host, or what the history has of it."""
    if run.status == 'running':
        with suppress(dc.Problem):  # perhaps the page's account may not ask for it
            return dc.output_so_far(request.store, run.job_id, run.run_no)
        request.store.connect()  # again, if the error has closed the connection
    return run.output or ''


def log_page(request, id, run_no):
    """What a run wrote, for script.js."""
    _, run = found_run(request, id, run_no)
    state = 'running' if run.status == 'running' else 'ended'
    headers = [TEXT, ('X-Run-State', state)]
    return Answer(200, headers, dc.visible(output_of(request, run)))


# Hosts.


def hosts_page(request):
    """The hosts, and what ran on each in the last 24 hours."""
    store = request.store
    now = request.local_now
    since = now - dc.DAY
    ended, running = queries.lately(store, since, MOST_BARS)
    hosts = queries.hosts(store)
    runs = {host.name: [] for host in hosts}
    for run in ended + running:
        name = dc.host_of(run.worker) or '?'
        runs.setdefault(name, []).append(run)

    def share(when):
        """Where a time is between `since`, 0, and now, 1."""
        return min(1, max(0, (when - since) / dc.DAY))

    def quiet(seen):
        return is_quiet(request, seen)

    return page(
        request,
        'hosts',
        'Hosts',
        hosts=hosts,
        runs=runs,
        share=share,
        hours=hours_before(now),
        cut=MOST_BARS if len(ended) == MOST_BARS else 0,
        quiet=quiet,
    )


def hours_before(now):
    """The hours 0, 3, 6, … that were in the day before a time, the last one first."""
    hour = now.replace(minute=0, second=0, microsecond=0)
    hours = [hour - ago * 60 * dc.MINUTE for ago in range(23)]
    return [hour for hour in hours if hour.hour % 3 == 0]


def is_quiet(request, seen):
    """Whether a worker was last seen, by the database's local time, too long ago."""
    seen = dc.moment(seen)
    if seen is None:
        return True
    utc = request.store.zone.utc_before(seen, request.now)
    return utc < request.now - QUIET


# For programs.


def health_page(request):
    """Whether all is well, in a line; status 503 if not."""
    counts = queries.counts(request.store, request.now)
    enabled = sum(counts.values()) - counts['disabled']
    wrong = []
    if counts['overdue']:
        wrong.append('overdue jobs: %d' % counts['overdue'])
    if enabled and is_quiet(request, queries.last_seen(request.store)):
        wrong.append('no worker has been seen for %d minutes' % (QUIET // dc.MINUTE))
    if wrong:
        return Answer(503, [TEXT], '; '.join(wrong) + '\n')
    return Answer(200, [TEXT], 'ok\n')


def metrics_page(request):
    """Metrics for Prometheus."""
    from .metrics import CONTENT_TYPE, metrics  # no other page needs it

    return Answer(200, [('Content-Type', CONTENT_TYPE)], metrics(request))
