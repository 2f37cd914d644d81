"""What a run wrote: from the history, or from its job's log where that is here."""
import os
import re
import time
from functools import lru_cache

import distributed_cron as dc

MOST = 65536  # bytes that are shown at once


def written(request, run, offset=0):
    """What a run wrote, from an offset in its log on: the text, the offset behind it,
    and whether the log is on this host."""
    path = request.config.job_log(run.job_id)
    here = run.worker.rpartition('-')[0] == request.config.name and os.path.exists(path)
    text, live = run.output or '', run.status == 'running'
    # The history has the last 4096 bytes: of what is longer the log has more.
    if here and (live or len(text.encode()) >= 4096):
        begin = by_this_clock(request, run.started_at)
        end = float('inf') if live else by_this_clock(request, run.ended_at)
        found, offset = tail(path, offset, '%s: [' % run.worker, begin - 1, end + 1)
        text = found if live else found or text
    return text, offset, here


def by_this_clock(request, local):
    """A local time of the database by this host's clock, in seconds since 1970."""
    if dc.moment(local) is None:
        return 0
    utc = request.store.zone.utc_before(dc.moment(local), request.now)
    return time.time() - (request.asked - utc).total_seconds()


def tail(path, offset, lead, begin, end):
    """The lines of a log that are led by a worker and of a time, from an offset on, or
    of its end; and the offset behind them."""
    with open(path, 'rb') as file:
        size = file.seek(0, os.SEEK_END)
        known = 0 < offset <= size  # else the log is a new one
        start = offset if known else max(0, size - 32 * MOST)
        file.seek(max(0, start - 1))
        middle, data = start > 0 and file.read(1) != b'\n', file.read(32 * MOST)
    lines, mine = re.findall(b'[^\n]*\n|[^\n]+', data), []
    if middle and lines:  # the rest of a line that was shown in part
        first = lines.pop(0)
        mine += [first] * known
    led = re.compile(re.escape(lead.encode()) + rb'([^]]*)\] ')
    for line in lines:
        match = led.match(line)
        if match and begin < stamp(match[1]) <= end:
            mine.append(line[match.end():])
        elif not line.endswith(b'\n') and not match:
            data = data[:-len(line)]  # not whole yet: next time
    text = b''.join(mine)[-MOST:].decode('utf-8', 'replace')
    return text, start + len(data)


@lru_cache(10000)
def stamp(text):
    """The time of a line of a log, in seconds since 1970."""
    try:
        return time.mktime(time.strptime(text.decode()))
    except (ValueError, OverflowError):
        return 0
