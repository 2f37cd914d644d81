"""What the buttons do to a job, to some jobs, and to hosts."""

import re

import distributed_cron as dc

from . import queries
from .answers import TEXT, Answer, back
from .render import PERIODS
from .request import Refused
from .views import found_job, refuse_child
from .weblog import audit

OF_TEMPLATE = ('enable', 'disable', 'pause', 'resume')  # what its jobs have from it
CHOSEN = 'job-([1-9][0-9]{0,8})'  # the field of a job that was chosen


def act(request, id, action):
    """Do something to a job."""
    form = request.form()
    job = found_job(request, id)
    if action in OF_TEMPLATE:
        refuse_child(job)
    done = do(request, id, action, form)
    event = action if done else 'idle'
    return back(request, event, id, request.came_from())


def act_on_many(request, action):
    """Do something to each job that was chosen."""
    form = request.form()
    chosen = []
    for name in form:
        match = re.fullmatch(CHOSEN, name)
        if match:
            id = int(match[1])
            chosen.append(id)
    count = 0
    for job in queries.jobs_by_id(request.store, chosen):
        if action in OF_TEMPLATE and job.parent_id is not None:
            continue
        if do(request, job.id, action, form):
            count += 1
    event = 'many-' + action
    return back(request, event, count, request.came_from())


def do(request, id, action, form):
    """Do something to a job; web.log says so. Returns whether there was to do."""
    name = 'job %d' % id
    with audit(request, '%s: %s' % (name, action)) as outcome:
        done = done_to(request, id, action, form)
        if not done:
            name += ': nothing to do'
        outcome.append(name)
    return done


def done_to(request, id, action, form):
    """Do one of dc.ACTIONS, or pause or resume. Returns whether there was to do."""
    store = request.store
    if action == 'pause':
        until = end_of(request, form)
        dc.pause_job(store, id, until, who(request))
        return True
    if action == 'resume':
        return dc.resume_job(store, id)
    return dc.act(store, action, id)


def pause_hosts(request, action):
    """Pause a host, or all, or end that."""
    form = request.form()
    store = request.store
    target = form.get('host', '').lower()
    check_target(store, target)
    name = 'hosts ' + target
    with audit(request, '%s: %s' % (name, action)) as outcome:
        if action == 'pause':
            until = end_of(request, form)
            dc.pause_hosts(store, target, until, who(request))
        else:
            dc.resume_hosts(store, target)
        outcome.append(name)
    location = request.base + request.came_from()
    return Answer(303, [('Location', location), TEXT], '')


def check_target(store, target):
    """Raise Refused for what is no host, nor all of them."""
    known = ['*']
    for host in queries.hosts(store):
        known.append(host.name.lower())
    if target not in known:
        raise Refused(404, 'There is no such host.')


def end_of(request, form):
    """When a pause ends, UTC: in an hour, unless the form says another of PERIODS."""
    text = form.get('for', '1h')
    if text not in PERIODS:
        raise Refused(400, 'Invalid length of a pause.')
    period = dc.period_given(text)
    return request.now + period


def who(request):
    """By whom something is paused, for the table."""
    return request.user or 'the web page'
