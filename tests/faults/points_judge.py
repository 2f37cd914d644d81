"""Judges what came of a death at a crash point: by the tables, by what the commands wrote,
and by what is left over."""

import contextlib
import glob
import json
import os
import time
from collections import defaultdict
from datetime import datetime, timezone

# What is in the state folder when all is done.
LEFT = {'clock', 'machine', 'wake', 'worker.lock'}


class Judge:
    """Judges one experiment.

    The worker died: all must be as if nothing had happened. A runner died: of its runs,
    those that had a line of their start and none of their end are recorded as lost, and none
    other is. The host died: a run of its worker whose end is neither in a file nor in the
    history may be recorded as lost. Where a run is lost, its job has run all the same: it
    runs once more only if it has retries left.
    """

    def __init__(self, place, case, traced, before, said):
        self.place = place
        self.case = case
        self.traced = traced
        self.before = before  # the history when it happened
        self.said = said  # by the workers after it
        self.found = []
        self.runs = place.runs()
        self.evidence = place.evidence()
        self.names = {number: name for name, number in place.ids.items()}
        self.started, self.ended = self.claimed_runs()

    def finds(self):
        self.judge_runs()
        self.judge_chains()
        self.judge_jobs()
        self.judge_leftovers()
        return self.found

    def find(self, text, *values):
        self.found.append(text % values)

    def claimed_runs(self):
        """What the claims' files held when it happened: the runs that their runner, if it
        was killed, had started, and the status of those that had ended."""
        killed = self.traced['tokens'].get(self.traced['runner'], ())
        started, ended = set(), {}
        for token, text in self.traced['claims'].items():
            numbers = {}  # job -> run_no
            for line in lines_of(text):
                name = self.names.get(line.get('job'))
                if line['event'] == 'started':
                    numbers[name] = line['run_no']
                    if token in killed:
                        started.add((name, line['run_no']))
                elif line['event'] == 'ended' and line['kind'] == 'done':
                    ended[name, numbers.get(name)] = line['status']
        return started, ended

    def judge_runs(self):
        """The history is of what was run, and of nothing else."""
        recorded = {(run.job, run.run_no): run for run in self.runs}
        for key, run in recorded.items():
            lost = run.status.startswith('ERROR: lost')
            if lost and not self.may_be_lost(key, run):
                self.find('%s run %d is recorded as lost', *key)
            elif not lost:
                self.judge_result(key, run)
            told = self.told(key)
            if told and run.status != told:
                self.find('%s run %d: %s has become %s', *key, told, run.status)
            if not lost and key in self.started - set(self.ended):
                self.find('%s run %d: nobody can know its end', *key)
        for key in {*self.ended, *self.before, *self.evidence} - set(recorded):
            self.find('%s run %d is not in the history', *key)
        self.judge_begun()

    def told(self, key):
        """The status of a run that was known when it happened; None if it was not."""
        if key in self.before:
            return self.before[key].status
        return self.ended.get(key)

    def judge_begun(self):
        for key, files in self.evidence.items():
            if len(files) > 1:
                self.find('%s run %d was begun %d times', *key, len(files))
            for lines in files:
                if lines and lines[0].split()[2] != '1':
                    self.find('%s run %d ran beside another run', *key)

    def may_be_lost(self, key, run):
        if key in self.ended or key in self.before:
            return key in self.before  # then it is the same status
        if self.traced['runner'] and self.case.victim == 'process':
            return key in self.started
        of_first = run.worker == 'host-%d' % self.traced['worker']
        return self.case.victim != 'process' and of_first

    def judge_result(self, key, run):
        """A run with a result: its command wrote the same."""
        files = self.evidence.get(key, [[]])
        codes = [lines[1].split()[2] for lines in files if len(lines) > 1]
        status = ['ERROR: exit ' + code if code != '0' else 'Success' for code in codes]
        if run.status not in status:
            self.find('%s run %d is recorded as %s: %s', *key, run.status, files)

    def judge_chains(self):
        """Each tick has one run, a failed one is retried, the follower follows."""
        runs = defaultdict(list)
        for run in self.runs:
            runs[run.job].append(run)
        successes = [run for run in runs['plain'] if run.status == 'Success']
        wanted = {'plain': 1, 'long': 1, 'retried': 2, 'follower': len(successes)}
        for name, count in wanted.items():
            if len(runs[name]) != count:
                self.find('%s has %d runs, not %d', name, len(runs[name]), count)
            attempts = [run.attempt for run in runs[name]]
            if attempts != list(range(count)):
                self.find('%s has attempts %s', name, attempts)

    def judge_jobs(self):
        last = {run.job: run for run in self.runs}
        columns = (
            'run_token run_deadline_utc stop_requested followers_due changed_utc '
            'run_requested run_was_requested attempt'
        ).split()
        more = 'id failures last_status run_no next_run_utc last_start claimed_start'
        names = columns + more.split()
        for row in self.place.sql('SELECT %s FROM job' % ', '.join(names)):
            job = dict(zip(names, row))
            name = self.names[job['id']]
            for column in columns:
                if job[column]:
                    self.find('%s has %s %s', name, column, job[column])
            run = last.get(name)
            status = run.status if run else 'Never ran.'
            if job['last_status'] != status:
                self.find('%s has status %s, not %s', name, job['last_status'], status)
            failures = int(status.startswith('ERROR'))
            if job['failures'] != failures:
                self.find('%s has failures %d', name, job['failures'])
            if run and str(job['last_start']) != str(run.started):
                self.find(
                    '%s began %s, its run %s', name, job['last_start'], run.started
                )
            if job['last_start'] != job['claimed_start']:
                self.find('%s: claimed_start %s', name, job['claimed_start'])
            self.judge_plan(name, job)

    def judge_plan(self, name, job):
        """An hour after its start, or never."""
        when = str(job['next_run_utc'])
        if name == 'follower':
            if not when.startswith('9999'):
                self.find('follower is planned for %s', when)
            return
        now = datetime.now(timezone.utc).replace(tzinfo=None)
        minutes = (datetime.fromisoformat(when) - now).total_seconds() / 60
        if not 57 < minutes <= 60.1:
            self.find('%s is planned for %s', name, when)

    def judge_leftovers(self):
        place = self.place
        left = set(os.listdir(place.state)) - LEFT
        if left:
            self.find('left in the state folder: %s', sorted(left))
        limit = time.monotonic() + 2  # a runner may still be leaving
        while place.processes() and time.monotonic() < limit:
            time.sleep(0.05)
        if place.processes():
            self.find('processes are left: %s', place.processes())
        for table in 'live', 'trouble':
            if place.sql('SELECT 1 FROM ' + table):
                self.find('rows are left in %s', table)
        said = self.said
        for path in glob.glob(os.path.join(place.folder, 'log', '*.log')):
            with open(path, errors='replace') as file:
                said += ''.join(line for line in file if 'Traceback' in line)
        if said:
            self.find('said: %s', said)


def lines_of(text):
    """The lines of a claim's file."""
    for line in text.split('\n'):
        with contextlib.suppress(ValueError):
            yield json.loads(line)
