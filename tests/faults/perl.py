#!/usr/bin/env python3
"""A stand-in for a worker of the Perl program: perl.py PORT DATABASE NAME.

Its statements: a claim without a token, a report by worker and job. It looks once a second,
runs what it claimed, and reports what ended, again and again while the database is away.
"""

import select
import subprocess
import sys

import pymysql

DUE = '''last_start IS NULL OR (last_start <= DATE_SUB(NOW(), INTERVAL frequency MINUTE)
    AND (last_end IS NULL OR last_start <= last_end))'''


class Worker:
    """A host's worker, and the commands that it runs."""

    def __init__(self, port, database, name):
        self.port = int(port)
        self.database = database
        self.name = name
        self.connection = None
        self.running = {}  # job: its process

    def connect(self):
        self.connection = pymysql.connect(
            host='127.0.0.1',
            port=self.port,
            user='dc',
            password='secret',
            database=self.database,
            autocommit=True,
            connect_timeout=5,
            read_timeout=5,
        )

    def execute(self, text, *values):
        cursor = self.connection.cursor()
        count = cursor.execute(text, values)
        return cursor.fetchall() if cursor.description else count

    def look(self):
        """Report what ended, and start what is due."""
        for job, process in list(self.running.items()):
            if process.poll() is not None:
                self.report(job, process.returncode)
        for job, command in self.execute('SELECT id, command FROM job WHERE ' + DUE):
            if job not in self.running and self.claim(job):
                self.running[job] = subprocess.Popen(command, shell=True)

    def claim(self, job):
        return self.execute(
            'UPDATE job SET last_start = NOW(), last_worker = %s WHERE id = %s AND ('
            + DUE
            + ')',
            self.name,
            job,
        )

    def report(self, job, status):
        self.execute(
            'UPDATE job SET last_end = NOW(), last_status = %s '
            'WHERE id = %s AND last_worker = %s',
            'exit %d' % status if status else 'Success',
            job,
            self.name,
        )
        del self.running[job]


def main(*arguments):
    worker = Worker(*arguments)
    while True:
        try:
            if not worker.connection:
                worker.connect()
            worker.look()
        except pymysql.err.Error as error:
            print(error, flush=True)
            worker.connection = None
        select.select([], [], [], 1)  # a sleep that libfaketime leaves alone


if __name__ == '__main__':
    main(*sys.argv[1:])
