"""What a run wrote, from its job's log on this host or from the history."""

import io
import os
import re
import time
from collections import namedtuple
from functools import lru_cache

import distributed_cron as dc

from .render import host_of

MOST_SHOWN = 65536  # bytes of a log that are shown at once
MOST_READ = 32 * MOST_SHOWN  # and that are read for it: other runs write there too
KEPT = 4096  # bytes of an output, its last ones, that the history keeps
SLACK = 1  # seconds by which the times of a log and of the history may differ

# text: what a run wrote; offset: where in its log that ends; here: whether this host
# has the log
Output = namedtuple('Output', 'text offset here')


def output_of(request, run, offset=0):
    """The Output of a run. offset: where in its log to begin; 0: show the end of it."""
    path = request.config.job_log(run.job_id)
    text = run.output or ''
    here = is_here(request, run, path)
    if here and not is_whole(run, text):
        begin, end = times_of(request, run)
        found, offset = tail(path, offset, run.worker, begin, end)
        if found:
            text = found
    return Output(text, offset, here)


def is_here(request, run, path):
    """Whether a run was of this host, and its log can be read."""
    if host_of(run.worker) != request.config.name:
        return False
    return os.access(path, os.R_OK)


def is_whole(run, text):
    """Whether the log has no more of a run than this text of the history; or it is not
    known when the run began, by which it is found there."""
    if dc.moment(run.started_at) is None:
        return True
    if run.status == 'running':
        return False
    return len(text.encode()) < KEPT


def times_of(request, run):
    """Between which times a log has a run: seconds since 1970 by this host's clock."""
    begin = request.clock_at(dc.moment(run.started_at))
    begin -= SLACK
    if run.status == 'running':
        return begin, float('inf')
    length = 0
    if run.duration_ms is not None:
        length = run.duration_ms / 1000
    return begin, begin + SLACK + length + SLACK


def tail(path, offset, worker, begin, end):
    """What a worker wrote into a log from one time to another, in seconds since 1970;
    and the offset behind what was read."""
    start, inside, data = read_log(path, offset)
    lines = io.BytesIO(data).readlines()
    shown = bytearray()
    position = start
    if inside and lines:
        rest = lines.pop(0)
        position += len(rest)
        if start == offset:  # the line's beginning was shown the last time
            shown += rest
    lead = lead_of(worker)
    for line in lines:
        match = lead.match(line)
        if match is None and not line.endswith(b'\n'):
            break  # it is not known yet whose it is: next time
        position += len(line)
        if match and begin < stamp(match[1]) <= end:
            shown += line[match.end() :]
    shown = shown[-MOST_SHOWN:]
    text = shown.decode('utf-8', 'replace')
    return text, position


def lead_of(worker):
    """The pattern of what stands before each line of a worker: its name, and a time."""
    name = re.escape(worker)
    text = r'%s: \[([^]]*)\] ' % name
    return re.compile(text.encode())


def read_log(path, offset):
    """Where reading began, whether that is inside a line, and what was read: from the
    offset on; or the end, for offset 0 and for one that a new log does not have."""
    with open(path, 'rb') as file:
        size = file.seek(0, os.SEEK_END)
        start = offset
        if not 0 < offset <= size:
            start = max(0, size - MOST_READ)
        previous = b'\n'
        if start > 0:
            file.seek(start - 1)
            previous = file.read(1)
        file.seek(start)
        data = file.read(MOST_READ)
    return start, previous != b'\n', data


@lru_cache(10000)
def stamp(text):
    """The time of a line of a log, in seconds since 1970; 0 for what is no time."""
    try:
        return time.mktime(time.strptime(text.decode()))
    except (ValueError, OverflowError):
        return 0
