"""The main job on real input: a real cron daemon, and the crontabs of real packages."""

import collections
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from servers import wait_until

CRONTABS = os.path.join(ROOT, 'tests', 'crontabs')


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason='a private cron daemon needs root')
def test_a_real_cron_daemon_runs_the_readmes_line(mysql_place, tmp_path):
    """In a mount namespace of its own, so that it sees no crontab of the machine."""
    place = mysql_place
    job = place.add('echo by cron')
    with open(os.path.join(ROOT, 'README.md')) as file:
        line = re.search(r'(?m)^    (\* \* \* \* \* cronjob cd .+)$', file.read())[1]
    assert '/opt/distributed_cron ' in line and ' python3 ' in line
    line = line.replace('/opt/distributed_cron', ROOT)
    line = line.replace('python3', sys.executable) + ' --config ' + place.file
    for name in ('etc', 'cron.d', 'spool', 'run'):
        os.mkdir(str(tmp_path / name))
    for name, entry in (
        ('passwd', 'cronjob:x:0:0::/root:/bin/sh'),  # may read all here
        ('shadow', 'cronjob:*:19000:0:99999:7:::'),
    ):
        shutil.copy('/etc/' + name, str(tmp_path / name))
        with open(str(tmp_path / name), 'a') as file:
            file.write(entry + '\n')
    with open(str(tmp_path / 'cron.d' / 'distributed_cron'), 'w') as file:
        file.write(line + '\n')
    (tmp_path / 'crontab').write_text('# nothing\n')
    script = ' && '.join(
        'mount --bind %s/%s %s' % (tmp_path, ours, theirs)
        for ours, theirs in (
            ('passwd', '/etc/passwd'),
            ('shadow', '/etc/shadow'),
            ('crontab', '/etc/crontab'),
            ('cron.d', '/etc/cron.d'),
            ('spool', '/var/spool/cron/crontabs'),
            ('run', '/run'),
        )
    )
    daemon = subprocess.Popen(
        ['unshare', '-m', 'sh', '-c', script + ' && exec cron -f -L 15']
    )
    try:
        wait_until(place.runs, 75, "cron's minute")
        wait_until(lambda: place.job(job).run_token is None)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(10)
    (run,) = place.runs()
    assert (run.status, run.output) == ('Success', 'by cron\n')


def test_what_debians_packages_ship_runs_once_each(mysql_place):
    place = mysql_place
    folder = os.path.join(place.folder, 'cron.d')
    os.mkdir(folder)
    entries = refused = 0
    known = {user.pw_name for user in pwd.getpwall()}
    for name in sorted(os.listdir(CRONTABS)):
        if name == 'README':
            continue
        with open(os.path.join(CRONTABS, name)) as file:
            text = file.read()
        for user in ('amavis', 'cacti', 'logcheck', 'news'):
            if user not in known:  # import refuses users that are not known here
                text = re.sub(r'(?m)^((?:\S+\s+){5})%s\b' % user, r'\1nobody', text)
        with open(os.path.join(folder, name), 'w') as file:
            file.write(text)
        count = len(re.findall(r'(?m)^(?:[\d*]|@)', text))
        reboot = text.count('\n@reboot')
        out = place.run('import', os.path.join(folder, name), code=1 if reboot else 0)
        assert (
            '%d added, 0 already present, %d skipped' % (count - reboot, reboot) in out
        )
        entries, refused = entries + count, refused + reboot
    jobs = place.sql('SELECT * FROM job')
    assert len(jobs) == entries - refused > 30
    commands = [job.command for job in jobs]
    assert any('run-parts --report /etc/cron.daily' in text for text in commands)
    assert any('date +%d' in text for text in commands)  # mdadm's, with its \%
    assert any(text.startswith('sudo -n -u www-data -- ') for text in commands)
    for job in jobs:  # now harmless, and due
        place.store.execute(
            'UPDATE job SET command = :command, next_run_utc = {utc} WHERE id = :id',
            command='echo $DISTRIBUTED_CRON_JOB_ID $DISTRIBUTED_CRON_DUE >> %s/ran'
            % place.folder,
            id=job.id,
        )
    for name in ('one', 'two', 'three'):
        place.worker(name)
    wait_until(lambda: len({run.job_id for run in place.runs()}) == len(jobs))
    time.sleep(0.5)
    for worker in place.started:
        worker.terminate()
        assert worker.wait(20) == 0
    ran = collections.Counter(place.read('ran').splitlines())
    # A job of each minute may have come due again: each due time counts once.
    assert set(ran.values()) == {1} and len(ran) == len(place.runs()) >= len(jobs)
    assert {run.status for run in place.runs()} == {'Success'}
    workers = {run.worker.split('-')[0] for run in place.runs()}
    assert workers <= {'one', 'two', 'three'}
