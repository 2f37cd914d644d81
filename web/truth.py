"""Whether all is well: the sentence at the head of every page, and of /healthz."""

from collections import namedtuple

import distributed_cron as dc

from . import queries

OK = 'ok'
DOUBT = 'doubt'
BAD = 'bad'

Truth = namedtuple(
    'Truth',
    (
        'level',  # one of the above
        'sentence',  # for people
        'wrong',  # how many jobs are not well
        'next',  # the job that runs next; None where nothing is planned
        'pauses',  # of hosts, as of dc.pauses
    ),
)


def truth_of(request, counts):
    """What there is to say now. counts: of all jobs, by state."""
    store = request.store
    next_job = queries.next_job(store, request.now)
    pauses = dc.pauses(store)
    alive, silent = hosts_seen(request)
    overdue = counts['overdue']
    failing = counts['failing']
    wrong = failing + overdue
    bad = []
    doubts = paused(store, pauses)
    if overdue and '*' not in pauses:
        jobs = dc.counted(overdue, 'job')
        bad.append(jobs + ' overdue')
    if not alive and there(counts) not in ([], ['disabled']):
        bad.append(nobody(silent))
    if failing:
        jobs = dc.counted(failing, 'job')
        doubts.append(jobs + ' failing')
    if alive:
        doubts += silent_hosts(silent)
    text = '; '.join(bad + doubts)
    text = text[:1].upper() + text[1:]
    if bad:
        return Truth(BAD, text, wrong, next_job, pauses)
    if doubts:
        return Truth(DOUBT, text, wrong, next_job, pauses)
    if not there(counts):
        return Truth(OK, 'No job yet', 0, None, pauses)
    count = len(alive)
    hosts = dc.counted(count, 'host')
    text = 'All well: %s, %d running' % (hosts, counts['running'])
    return Truth(OK, text, 0, next_job, pauses)


def there(counts):
    return [state for state, count in counts.items() if count]


def hosts_seen(request):
    """The names of the hosts that are there; and how many seconds ago each other one
    was last seen, by name."""
    alive = []
    silent = {}
    for host in queries.hosts(request.store):
        seconds = silence(request, host.last_seen)
        if seconds is None:
            continue
        if is_there(seconds):
            alive.append(host.name)
        else:
            silent[host.name] = seconds
    return alive, silent


def silence(request, last_seen):
    """Seconds since a local time of the database; None for what is none."""
    seen = dc.moment(last_seen)
    if seen is None:
        return None
    utc = request.store.zone.utc_before(seen, request.now)
    passed = request.now - utc
    return max(0, passed.total_seconds())


def is_there(seconds):
    """Whether a host that was last seen so long ago is there, by all that is known."""
    return seconds is not None and seconds <= dc.UNSEEN_FOR.total_seconds()


def nobody(silent):
    """That no host is there; silent: as of hosts_seen."""
    if not silent:
        return 'no worker has reported yet'
    seconds = min(silent.values())
    return 'no worker has been seen for ' + dc.how_long(seconds)


def silent_hosts(silent):
    """The hosts that were there today and are not."""
    expected = dc.EXPECTED_FOR.total_seconds()
    texts = []
    for name, seconds in silent.items():
        if seconds < expected:
            since = dc.how_long(seconds)
            text = 'host %s silent for %s'
            texts.append(text % (dc.visible(name), since))
    return texts


def paused(store, pauses):
    """What there is to say of each pause of hosts that goes on."""
    texts = []
    for target, pause in pauses.items():
        name = 'all hosts are' if target == '*' else 'host %s is' % target
        utc = dc.moment(pause.until_utc)
        local = store.zone.local(utc)
        text = '%s paused until %s, by %s'
        texts.append(text % (name, local, pause.paused_by))
    return texts
