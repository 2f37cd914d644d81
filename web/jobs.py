"""The list of jobs: those that a search finds, trouble first."""

from collections import Counter

import distributed_cron as dc

from . import queries
from .answers import page
from .render import tags_of
from .search import ALL, search_of
from .views import NUMBER, PAGE_SIZE, list_link, paged

MOST_PAGES = 200  # to sort a million jobs for a later one takes long
MOST_TAGS = 12  # that stand above the list


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
    store = request.store
    below, search, counts, found = looked_at(request, asked['search_string'])
    most = PAGE_SIZE * MOST_PAGES
    total = found[state] if state else sum(found.values())
    number, pages = paged(number, min(total, most))
    order = (asked['sort'], asked['order'], PAGE_SIZE * (number - 1), PAGE_SIZE)
    jobs = queries.jobs(store, request.now, search, state, *order)
    return page(
        request,
        'jobs',
        'Jobs',
        counts=counts,
        refresh='#list',
        found=found,
        values=asked,
        total=total,
        most=most,
        below=below,
        jobs=jobs,
        link=list_link(request, asked),
        number=number,
        pages=pages,
        tags=tags_in(jobs),
        **facts_of(request, jobs),
    )


def looked_at(request, text):
    """(the highest id at which a search does not look, the Search, how many jobs there
    are by state, and how many of those that it finds)"""
    store = request.store
    below = queries.not_searched(store) if text else 0
    search = search_of(store, text, below)
    counts = queries.counts(store, request.now)
    found = counts
    if search != ALL:
        found = queries.counts(store, request.now, search)
    return below, search, counts, found


def facts_of(request, jobs):
    """What the list says of its jobs besides their rows."""
    store = request.store
    statuses = dc.statuses_of(store, jobs, request.now)
    failing = []
    for id, (state, _) in statuses.items():
        if state == 'failing':
            failing.append(id)
    return {
        'statuses': statuses,
        'successes': queries.successes(store, failing),
        'strips': queries.strips(store, [job.id for job in jobs]),
    }


def tags_in(jobs):
    """The tags that most of some jobs have."""
    tags = Counter()
    for job in jobs:
        tags.update(set(tags_of(job)))
    most = tags.most_common(MOST_TAGS)
    return sorted(tag for tag, _ in most)
