"""Makes the pictures of the web page for the README: python tests/screenshots.py.

Each picture carries a hash of what it was made from, so that a test can tell when it is
time to make it again."""

import glob
import hashlib
import os
import random
import struct
import sys
import tempfile
import zlib
from datetime import datetime, timedelta, timezone

from conftest import ROOT, Place, dc

PICTURES = {
    look: os.path.join(ROOT, 'web', 'screenshot-%s.png' % look)
    for look in ('light', 'dark')
}
MADE_FROM = b'made from'
HOSTS = ('alpha', 'beta', 'gamma', 'delta')
# description, command, minutes or cron expression, max_run_time, seconds that a run
# takes, one run of how many fails, and what the job is doing now
JOBS = (
    (
        'rotate the web logs',
        '/usr/local/bin/rotate --keep 14 /srv/www/logs',
        60,
        10,
        14,
        0,
        '',
    ),
    (
        'nightly database backup',
        'backup-db --all | zstd > /backup/db-$(date +%F).zst',
        '30 2 * * *',
        180,
        2460,
        0,
        '',
    ),
    ('mail queue', '/usr/local/bin/flush_mail --batch 500', 5, 2, 21, 17, ''),
    (
        'import orders',
        'python3 /opt/shop/import_orders.py --since last',
        10,
        8,
        190,
        9,
        'running',
    ),
    ('certificates', 'certbot renew --quiet', '15 4,16 * * *', 20, 33, 0, ''),
    ('search index', '/opt/search/reindex --incremental', 15, 12, 420, 0, 'running'),
    (
        'monthly invoices',
        '/opt/shop/invoices --month last',
        '0 6 1 * *',
        240,
        5100,
        0,
        '',
    ),
    (
        'exchange rates',
        'curl -fsS https://rates.example.com/daily | load_rates',
        '0 7-19 * * mon-fri',
        5,
        3,
        4,
        'error',
    ),
    ('thumbnails', '/opt/shop/thumbnails --new', 2, 1, 9, 0, 'running'),
    ('clean the cache', 'find /var/cache/shop -mtime +3 -delete', 30, 10, 48, 0, ''),
    ('disk space', '/usr/local/bin/check_disks --warn 85', 20, 5, 1, 0, ''),
    (
        'weekly report',
        '/usr/local/bin/report --weekly --to team@example.com',
        '0 6 * * sun',
        60,
        940,
        0,
        '',
    ),
    ('replica check', '/usr/local/bin/compare_replicas', 60, 25, 610, 8, 'lost'),
    (
        'old price list',
        '/opt/shop/export_prices --format csv',
        1440,
        60,
        75,
        0,
        'disabled',
    ),
    ('newsletter', '/opt/mail/newsletter --queue', '0 9 * * tue,thu', 120, 1800, 0, ''),
)


def sources():
    """A hash of all that the look of the page comes from."""
    files = [
        path
        for kind in ('html', 'css', 'js', 'py', 'cgi')
        for path in glob.glob(os.path.join(ROOT, 'web', '*.' + kind))
    ]
    total = hashlib.sha256()
    for path in sorted([*files, os.path.abspath(__file__)]):
        with open(path, 'rb') as file:
            total.update(hashlib.sha256(file.read()).digest())
    return total.hexdigest()


def marked(png, text):
    """A PNG with a text chunk in front of its last chunk, which is 12 bytes long."""
    chunk = b'tEXt' + MADE_FROM + b'\0' + text.encode()
    return b''.join(
        (
            png[:-12],
            struct.pack('>I', len(chunk) - 4),
            chunk,
            struct.pack('>I', zlib.crc32(chunk)),
            png[-12:],
        )
    )


def mark_of(png):
    """The text that `marked` put in; '' for a PNG without."""
    _, _, rest = png.partition(b'tEXt' + MADE_FROM + b'\0')
    return rest[:64].decode('latin-1')


def fill(place):
    """Tables as four hosts have them after some days of work."""
    chance, now = (
        random.Random(15),
        datetime.now(timezone.utc).replace(tzinfo=None, microsecond=0),
    )
    for id, job in enumerate(JOBS, 1):
        add_job(place, chance, now, id, *job)
    for number, host in enumerate(HOSTS):
        place.store.insert(
            'host',
            {
                'name': host,
                'last_seen': dc.text_of(now - timedelta(seconds=9 * number)),
                'worker': '%s-%d' % (host, 1200 + 77 * number),
                'version': dc.VERSION,
                'max_tasks': 8,
                'running': (1, 1, 0, 1)[number],
                'skew_ms': (2, -11, 5, 38)[number],
            },
        )


def add_job(
    place, chance, now, id, description, command, when, limit, seconds, fails, doing
):
    """One job of the list, with its history."""
    schedule = when if isinstance(when, str) else None
    place.store.insert(
        'job',
        {
            'description': description,
            'command': command,
            'max_run_time': limit,
            'schedule': schedule,
            'frequency': 60 if schedule else when,
            'active': int(doing != 'disabled'),
        },
    )
    starts, status = starts_before(place, place.job(id), now, 20), 'Success'
    for number, start in enumerate(starts, 1):
        last = number == len(starts)
        status, worker = 'Success', '%s-%d' % (chance.choice(HOSTS), 1200)
        if doing in ('error', 'lost') and last or fails and not chance.randrange(fails):
            status = 'ERROR: exit 1'
        if doing == 'lost' and last:
            status = 'ERROR: lost: no word of %s by the deadline' % worker
        took = int(1000 * seconds * chance.uniform(0.75, 1.2))
        end = start + timedelta(milliseconds=took)
        if last and doing == 'running':
            break
        place.store.insert(
            'run',
            {
                'job_id': id,
                'run_no': number,
                'due_utc': dc.text_of(start),
                'started_at': dc.text_of(start),
                'ended_at': dc.text_of(end),
                'duration_ms': None if 'lost' in status else took,
                'worker': worker,
                'status': status,
                'exit_code': None if 'lost' in status else int(status != 'Success'),
                'output': '',
            },
        )
    values = {
        'run_no': len(starts),
        'last_start': dc.text_of(start),
        'claimed_start': dc.text_of(start),
        'last_end': dc.text_of(end),
        'last_status': status,
        'last_worker': worker,
        'next_run_utc': dc.text_of(
            dc.next_run(
                place.job(id)._replace(last_start=dc.text_of(start)),
                now,
                now,
                place.store.zone,
            )
            if doing != 'disabled'
            else dc.PARKED
        ),
    }
    if doing == 'running':
        values.update(
            run_token='%032x' % id,
            last_end=None,
            run_deadline_utc=dc.text_of(
                start + timedelta(minutes=limit, seconds=dc.MARGIN + 10)
            ),
        )
    place.store.change(
        'UPDATE job SET %s WHERE id = :id'
        % ', '.join('%s = :%s' % (name, name) for name in values),
        id=id,
        **values,
    )


def starts_before(place, job, now, count):
    """The last times at which a job was due, oldest first."""
    if job.schedule is None:
        step = timedelta(minutes=job.frequency)
        last = now - step * (0.2 + 0.05 * (job.id % 9))
        return [last - step * back for back in range(count)][::-1]
    found, days = [], 10
    while len(found) < count and days < 3000:
        days, found, at = 3 * days, [], now - timedelta(days=days)
        while at < now:
            found.append(at)
            at = dc.next_run(job, at, at, place.store.zone)
    return found[1:][-count:]


def main():
    """Make both pictures."""
    from test_web_browser import LOOKS, Browser

    os.environ['TZ'] = 'UTC'
    with tempfile.TemporaryDirectory() as folder:
        place = Place(folder, 'sqlite').init()
        browser = Browser(os.path.join(folder, 'chromium'))
        try:
            fill(place)
            browser.emulate(
                'setDeviceMetricsOverride',
                width=1280,
                height=900,
                deviceScaleFactor=1,
                mobile=False,
            )
            browser.emulate('setScrollbarsHidden', hidden=True)
            for look, picture in PICTURES.items():
                browser.emulate(
                    'setEmulatedMedia', features=[{'name': LOOKS, 'value': look}]
                )
                browser.get(place.page().start)
                with open(picture, 'wb') as file:
                    file.write(marked(browser.get_screenshot_as_png(), sources()))
                print('%s: %d bytes' % (picture, os.path.getsize(picture)))
        finally:
            browser.quit()
            place.close()


if __name__ == '__main__':
    sys.exit(main())
