"""The pages that show something: jobs, runs and hosts; and what programs ask for."""

import math
from contextlib import suppress
from urllib.parse import urlencode

import distributed_cron as dc

from . import queries
from .answers import TEXT, Answer, page
from .request import Refused
from .truth import BAD, truth_of
from .weblog import changes_of

PAGE_SIZE = 50  # rows of a list
NUMBER = '[1-9][0-9]{0,8}'


# Jobs.


def list_link(request, asked, path=''):
    """A function that makes the address of a list, with some values changed."""

    def link(**changed):
        values = {**asked, **changed}
        given = {name: value for name, value in values.items() if value}
        return '%s/%s?%s' % (request.base, path, urlencode(given))

    return link


def paged(number, total):
    """The number of a page that is there, and how many there are, for so many rows."""
    pages = math.ceil(total / PAGE_SIZE)
    pages = max(1, pages)
    return min(number, pages), pages


def found_job(request, id):
    """The row of a job. Raises Refused."""
    jobs = queries.jobs_by_id(request.store, [id])
    if not jobs:
        raise Refused(404, 'There is no job %d.' % id)
    return jobs[0]


def refuse_child(job):
    """Raise Refused for a job of a template: its host's worker would undo a change."""
    if job.parent_id is not None:
        text = 'Job %d is on one host what job %s says: change job %s.'
        raise Refused(409, text % (job.id, job.parent_id, job.parent_id))


def job_page(request, id):
    """A job and its runs. Their numbers make the pages, also where some are gone."""
    store = request.store
    asked = request.query(page=NUMBER)
    number = int(asked['page'] or 1)
    job = found_job(request, id)
    lowest, highest = queries.ends_of_history(store, id)
    last = max(job.run_no, highest or 0)
    first = lowest or last
    number, pages = paged(number, last - first + 1)
    top = last - PAGE_SIZE * (number - 1)
    bottom = top - PAGE_SIZE + 1
    runs = queries.runs(store, id, bottom, top)
    if job.run_token is not None and number == 1:
        current = run_of(job, request.local_now)
        runs.insert(0, current)
    statuses = dc.statuses_of(store, [job], request.now)
    return page(
        request,
        'job',
        job.description or 'job %d' % id,
        job=job,
        pages=pages,
        number=number,
        link=list_link(request, {}, 'job/%d' % id),
        runs=runs,
        health=statuses[id],
        outcomes=queries.outcomes(store, id),
        why=dc.why_lines(store, job),
        signature=signature_in_words(request, job),
        changes=changes_of(request, id),
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
    store = request.store
    strips = queries.strips(store, [id], 9)
    return page(
        request,
        'run',
        'Run %d of job %d' % (run_no, id),
        job=job,
        run=run,
        near=queries.beside(store, id, run_no),
        last=strips[id],
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


# For programs.


def health_page(request):
    """Whether all is well, by the sentence of every page; status 503 if not."""
    counts = queries.counts(request.store, request.now)
    truth = truth_of(request, counts)
    if truth.level == BAD:
        return Answer(503, [TEXT], truth.sentence + '\n')
    return Answer(200, [TEXT], 'ok\n%s\n' % truth.sentence)


def metrics_page(request):
    """Metrics for Prometheus."""
    from .metrics import CONTENT_TYPE, metrics  # no other page needs it

    return Answer(200, [('Content-Type', CONTENT_TYPE)], metrics(request))
