"""The steps in the life of a run, one by one, on each database, by a set clock."""

import os
import re
from datetime import timedelta

import pytest
from conftest import NOW, dc


def plan(place):
    seen = place.store.look()
    place.store.plan(seen.now)
    return place.store.look()


def claim(place, *jobs, token='t' * 32, store=None):
    """Claim jobs, or whatever is due; returns what was collected."""
    store = store or place.store
    jobs = jobs or store.find(10)
    return store.claim(jobs, token, 'w-1') if jobs else []


def end(place, job, status='Success', token='t' * 32, kind='done', **more):
    place.store.end([dc.Ending(token, job, kind, 1, status, 0, 'out', 5, **more)])


def ran(place, job, token='t' * 32):
    """Let a job run, for no time, now."""
    assert [row.id for row in claim(place, job, token=token)] == [job]
    end(place, job, token=token)


def left(row):
    """Seconds from what collect says to the deadline."""
    return (dc.moment(row.run_deadline_utc) - dc.moment(row.now)).total_seconds()


def due(place, job):
    return str(place.job(job).next_run_utc)


def test_a_plain_insert_is_enough_and_runs_at_once(at):
    job = at.add()
    assert at.store.look().unplanned
    seen = plan(at)
    assert not seen.unplanned and seen.due_in == 0
    (row,) = claim(at)
    assert row.id == job and row.run_no == 1
    assert left(row) == 60 + 1 + dc.MARGIN + 1  # max_run_time's default is 1
    held = at.job(job)
    assert held.last_start == held.claimed_start == NOW and held.last_worker == 'w-1'
    assert not claim(at, token='u' * 32)
    at.set_clock('2026-05-20 12:00:40')
    end(at, job)
    done = at.job(job)
    assert (done.run_token, done.run_deadline_utc) == (None, None)
    assert (done.last_end, done.last_status) == ('2026-05-20 12:00:40', 'Success')
    assert done.next_run_utc == '2026-05-20 13:00:00'  # from the start
    (run,) = at.runs()
    assert run.started_at == NOW and run.ended_at == '2026-05-20 12:00:40'
    assert (run.status, run.exit_code, run.output, run.duration_ms) == (
        'Success',
        0,
        'out',
        5,
    )
    assert run.due_utc == NOW and run.worker == 'w-1'


@pytest.mark.parametrize(
    'given, kept',
    [
        ((0, 5), (1, 1)),
        ((1, 1), (1, 1)),
        ((10, 0), (10, 5)),
        ((10, 10), (10, 5)),
        ((10, 9), (10, 9)),
        ((7, 100), (7, 3)),
    ],
)
def test_rules_on_rows_by_trigger(at, given, kept):
    job = at.add(frequency=given[0], max_run_time=given[1])
    assert (at.job(job).frequency, at.job(job).max_run_time) == kept
    other = at.add(frequency=1000, max_run_time=5)
    at.store.execute(
        'UPDATE job SET frequency = :frequency, max_run_time = :limit WHERE id = :id',
        frequency=given[0],
        limit=given[1],
        id=other,
    )
    assert (at.job(other).frequency, at.job(other).max_run_time) == kept


@pytest.mark.parametrize(
    'given, seconds',
    [((0, 5), 60), ((10, 0), 300), ((10, 10), 300), ((10, 9), 540), ((7, 100), 180)],
)
def test_rules_on_rows_without_trigger(at, given, seconds):
    at.drop_triggers()
    job = at.add(frequency=given[0], max_run_time=given[1])
    plan(at)
    (row,) = claim(at)
    assert left(row) == seconds + 1 + dc.MARGIN + 1
    end(at, job)
    assert due(at, job) == str(dc.moment(NOW) + timedelta(minutes=max(1, given[0])))


def test_max_run_time_of_a_schedule_is_its_own(at):
    at.add(schedule='* * * * *', max_run_time=500)
    plan(at)
    at.set_clock('2026-05-20 12:01:00')
    (row,) = claim(at)
    assert left(row) == 500 * 60 + 1 + dc.MARGIN + 1


def test_huge_numbers_overflow_nothing(at):
    at.add(frequency=4294967295, max_run_time=4294967294)
    at.add(schedule='* * * * *', max_run_time=4294967294)
    plan(at)
    at.set_clock('2026-05-20 12:01:00')
    assert len(claim(at)) == 2
    end(at, 1)
    end(at, 2)
    assert due(at, 1) > '2030'


def test_window(at):
    job = at.add(start_anchor='23:00', stop_anchor='03:00', frequency=30)
    plan(at)
    assert due(at, job) == '2026-05-20 23:00:00'
    at.store.execute("UPDATE job SET next_run_utc = '2026-05-20 12:00:00'")
    assert not claim(at)  # whatever the row says
    assert at.store.plan_due(at.store.now()) == 1
    assert due(at, job) == '2026-05-20 23:00:00'
    for clock, follows in (
        ('2026-05-20 23:00:00', '2026-05-20 23:30:00'),
        ('2026-05-21 02:45:00', '2026-05-21 23:00:00'),
    ):
        at.store.execute('UPDATE job SET next_run_utc = :now', now=clock)
        at.set_clock(clock)
        ran(at, job)
        assert due(at, job) == follows
    at.set_clock('2026-05-21 03:00:00')  # [start, stop)
    at.store.execute("UPDATE job SET next_run_utc = '2026-05-21 02:00:00'")
    assert not claim(at)


@pytest.mark.parametrize(
    'start, stop, inside',
    [
        ('12:00', None, True),
        ('12:01', None, False),
        (None, '12:00', False),
        (None, '12:01', True),
        ('12:00', '12:01', True),
        ('13:00', '12:30', True),
        ('13:00', '11:00', False),
        ('11:00', '10:00', True),
    ],
)
def test_no_run_starts_outside_its_window_whatever_wrote_its_time(
    at, start, stop, inside
):
    job = at.add(start_anchor=start, stop_anchor=stop)
    plan(at)
    assert (due(at, job) == NOW) == inside
    at.store.execute('UPDATE job SET next_run_utc = :now', now=NOW)
    assert bool(claim(at)) == inside


def test_missed_while_nobody_was_up_runs_once_late(at):
    job = at.add(schedule='*/5 * * * *')
    plan(at)
    assert due(at, job) == '2026-05-20 12:05:00'
    at.set_clock('2026-05-20 14:02:00')
    ran(at, job)
    assert due(at, job) == '2026-05-20 14:05:00'


def test_missed_because_it_still_ran_is_not_made_up_for(at):
    job = at.add(schedule='*/5 * * * *', max_run_time=60)
    plan(at)
    at.set_clock('2026-05-20 12:05:00')
    claim(at, job)
    at.set_clock('2026-05-20 12:11:00')
    end(at, job)
    assert due(at, job) == '2026-05-20 12:15:00'


def test_an_outage_of_the_database_eats_no_tick(at):
    job = at.add(schedule='*/5 * * * *')
    plan(at)
    at.set_clock('2026-05-20 12:05:00')
    claim(at, job)
    at.set_clock('2026-05-20 12:20:00')  # it ended at 12:05:05, the report comes late
    end(at, job, ended=dc.boottime() - 894.5, boot=dc.boot_id())
    assert due(at, job) == '2026-05-20 12:10:00'
    assert at.job(job).last_end == '2026-05-20 12:05:05'


def test_a_clock_that_is_set_back_repeats_no_tick(at):
    job = at.add(schedule='*/5 * * * *')
    plan(at)
    at.set_clock('2026-05-20 12:05:00')
    claim(at, job)
    at.set_clock('2026-05-20 12:05:01')
    end(at, job, ended=dc.boottime() - 40, boot=dc.boot_id())
    assert due(at, job) == '2026-05-20 12:10:00'


def test_a_lost_run_of_an_outage_eats_no_tick(at):
    job = at.add(schedule='*/5 * * * *', max_run_time=3)
    plan(at)
    at.set_clock('2026-05-20 12:05:00')
    claim(at, job)
    at.set_clock('2026-05-20 13:00:00')
    end(at, job, kind='lost', status=dc.LOST)
    assert due(at, job) == '2026-05-20 12:10:00'  # the deadline was 12:08:22


def test_overdue_runs_are_ended_by_anybody_once(at):
    job = at.add(frequency=30, max_run_time=10)
    plan(at)
    claim(at, job)
    at.set_clock('2026-05-20 12:10:21')
    assert not at.store.look().overdue
    at.set_clock('2026-05-20 12:10:22')
    assert at.store.look().overdue
    assert len(at.store.overdue()) == 1
    for _ in range(2):  # two workers saw it
        end(at, job, kind='overdue', status='ERROR: lost: no word')
    assert at.job(job).last_status == 'ERROR: lost: no word'
    assert [run.status for run in at.runs()] == ['ERROR: lost: no word']
    assert due(at, job) == '2026-05-20 12:30:00'
    # The real result replaces it: in the history, and in the job unless it runs again.
    end(at, job, status='Success')
    assert at.job(job).last_status == 'Success'
    assert [run.status for run in at.runs()] == ['Success']
    end(at, job, kind='lost', status=dc.LOST)  # and not the other way round
    assert [run.status for run in at.runs()] == ['Success']


def test_a_real_result_after_lost_leaves_the_next_run_alone(at):
    job = at.add(frequency=30, max_run_time=10)
    plan(at)
    claim(at, job)
    at.set_clock('2026-05-20 12:31:00')
    end(at, job, kind='overdue', status='ERROR: lost: no word')
    claim(at, job, token='u' * 32)
    end(at, job, status='Success')  # run 1
    held = at.job(job)
    assert held.run_token == 'u' * 32 and held.last_status == 'ERROR: lost: no word'
    assert [run.status for run in at.runs()] == ['Success']


def test_what_find_has_read_serves_until_the_next_look(at):
    jobs = {at.add() for _ in range(3)}
    plan(at)
    first = at.store.find(1)
    at.store.change('UPDATE job SET active = 0')
    second = at.store.find(1)
    assert len(second) == 1 and second.keys() < jobs - first.keys()
    assert not claim(at, *second)  # which looks at everything again
    at.store.look()
    assert not at.store.find(1)


def test_given_back_is_due_again_at_once(at):
    job = at.add(schedule='0 12 * * *')
    at.store.execute('UPDATE job SET next_run_utc = :now', now=NOW)
    claim(at, job)
    at.set_clock('2026-05-20 12:00:20')
    end(at, job, kind='back')
    assert due(at, job) == NOW and not at.runs()
    assert [row.run_no for row in claim(at)] == [2]


def test_given_back_run_now_of_a_disabled_job_is_still_wanted(at):
    job = at.add(active=0)
    at.store.execute(dc.ACTIONS['run-now'][0], id=job)
    assert claim(at, job)
    assert not at.job(job).run_requested
    end(at, job, kind='back')
    assert at.job(job).run_requested and claim(at, job)


def test_given_back_run_now_of_a_job_with_a_bad_window_is_still_wanted(at):
    job = at.add(start_anchor='12:00', stop_anchor='12:00')
    at.store.execute(dc.ACTIONS['run-now'][0], id=job)
    assert claim(at, job)
    end(at, job, kind='back')
    assert at.job(job).run_requested and claim(at, job)


def test_lost_by_an_empty_run_file_after_another_host_recorded_it(at):
    job = at.add()
    plan(at)
    claim(at, job)
    end(at, job, kind='overdue', status='ERROR: lost: no word')
    at.store.end([dc.Ending('t' * 32, job, 'lost', status=dc.LOST)])
    assert [run.status for run in at.runs()] == ['ERROR: lost: no word']


def test_many_long_outputs_at_once_fit_the_packets_of_the_database(at):
    jobs = [at.add(frequency=number + 60) for number in range(300)]
    plan(at)
    assert len(at.store.claim(jobs, 't' * 32, 'w-1')) == 300
    if at.engine == 'mysql':
        assert at.sql('SELECT @@max_allowed_packet')[0][0] < 300 * 60000
    at.store.end(
        [
            dc.Ending('t' * 32, job, 'done', 1, 'Success', 0, 'x' * 60000, 5)
            for job in jobs
        ]
    )
    assert len(at.runs()) == 300


def test_times_are_text_of_whatever_type(at):
    """NOW() is a DATETIME for MySQL, and a TIMESTAMP for MariaDB 11.8."""
    at.store.execute('CREATE TEMPORARY TABLE t (a TIMESTAMP(0) NULL, b TIME(0) NULL)')
    at.store.execute("INSERT INTO t VALUES ('2026-03-01 12:00:00', '12:00:00')")
    assert at.store.query('SELECT * FROM t')[0] == ('2026-03-01 12:00:00', '12:00:00')
    assert all(
        type(value) is str
        for value in at.store.query('SELECT {local}, {utc}, {utc_exact}')[0]
    )


def test_disabled_between_claim_and_give_back_does_not_run(at):
    job = at.add()
    plan(at)
    claim(at, job)
    at.store.execute('UPDATE job SET active = 0')
    end(at, job, kind='back')
    plan(at)
    assert not claim(at)


def test_run_now_whatever_active_window_and_schedule_say(at):
    job = at.add(
        active=0, schedule='0 3 1 1 *', start_anchor='02:00', stop_anchor='04:00'
    )
    plan(at)
    assert due(at, job) == '9999-12-31 00:00:00' and not claim(at)
    at.store.execute(dc.ACTIONS['run-now'][0], id=job)
    ran(at, job)
    assert due(at, job) == '9999-12-31 00:00:00'
    at.store.execute('UPDATE job SET active = 1')
    plan(at)
    assert due(at, job) == '2027-01-01 03:00:00'


def test_run_now_during_a_run_is_one_more_run(at):
    job = at.add(schedule='0 3 1 1 *')
    at.store.execute(dc.ACTIONS['run-now'][0], id=job)
    claim(at, job)
    at.store.execute(dc.ACTIONS['run-now'][0], id=job)
    end(at, job)
    assert at.job(job).run_requested and due(at, job) == NOW
    ran(at, job, token='u' * 32)
    assert due(at, job) == '2027-01-01 03:00:00'


@pytest.mark.parametrize(
    'change',
    [
        "schedule = '0 5 * * *'",
        'frequency = 5',
        "start_anchor = '15:00'",
        "stop_anchor = '15:00'",
        'active = 0',
    ],
)
@pytest.mark.parametrize('trigger', [True, False])
def test_an_edit_between_reading_and_writing_wins(at, change, trigger, monkeypatch):
    if not trigger:
        at.drop_triggers()
        change += ', next_run_utc = NULL'
    planned, ended = at.add(), at.add(frequency=30)
    at.store.execute(
        'UPDATE job SET next_run_utc = :now WHERE id = :id', now=NOW, id=ended
    )
    assert claim(at, ended)
    plan_of = dc.plan_of

    def edit_meanwhile(store, job, now):
        answer = plan_of(store, job, now)
        at.store.execute('UPDATE job SET ' + change)
        return answer

    monkeypatch.setattr(dc, 'plan_of', edit_meanwhile)
    assert at.store.plan(at.store.now()) == 0
    assert at.job(planned).next_run_utc is None
    end(at, ended)
    assert at.job(ended).next_run_utc is None
    assert at.job(ended).last_status == 'Success'
    monkeypatch.undo()
    plan(at)
    assert at.job(planned).next_run_utc and at.job(ended).next_run_utc


def test_deleted_during_its_run_still_gets_its_history(at):
    job = at.add()
    plan(at)
    claim(at, job)
    at.store.execute('DELETE FROM job')
    end(at, job, due=NOW, started=NOW, worker='w-1')
    (run,) = at.runs()
    assert (run.status, run.worker, run.started_at) == ('Success', 'w-1', NOW)
    assert at.add() > job  # ids never come back


@pytest.mark.parametrize(
    'schedule, part',
    [
        ('61 * * * *', "minute '61'"),
        ('* * * *', '4 fields'),
        ('0 0 31 2 *', 'never matches'),
        ('@reboot', '@reboot'),
        ('', '0 fields'),
    ],
)
def test_a_bad_expression_by_raw_sql_parks_its_job_alone(at, schedule, part):
    bad, good = at.add(schedule=schedule), at.add()
    plan(at)
    job = at.job(bad)
    assert job.last_status.startswith('ERROR: schedule: ') and part in job.last_status
    assert due(at, bad) == '9999-12-31 00:00:00'
    assert [row.id for row in claim(at)] == [good]
    at.store.execute("UPDATE job SET schedule = '0 1 * * *' WHERE id = :id", id=bad)
    plan(at)
    assert due(at, bad) == '2026-05-21 01:00:00'
    assert at.job(bad).last_status == 'Planned.'


def test_a_row_that_no_plan_can_be_made_of_is_parked_alone(at):
    odd = at.add(last_start='9999-12-31 00:00:00', claimed_start='9999-12-31 00:00:00')
    good = at.add()
    plan(at)
    assert at.job(odd).last_status.startswith('ERROR: schedule: ')
    assert [row.id for row in claim(at)] == [good]


def test_bad_windows_are_parked(at):
    at.add(start_anchor='12:00', stop_anchor='12:00')
    at.add(schedule='0 5 * * *', start_anchor='12:00')
    plan(at)
    assert 'equal' in at.job(1).last_status
    assert 'no time from 12:00:00 to midnight' in at.job(2).last_status


def test_a_row_that_the_database_refuses_holds_up_no_other(at):
    one, two = at.add(), at.add()
    plan(at)
    claim(at)
    bad = dc.Ending('t' * 32, one, 'done', 1, 'Success', 0, 'bad', 5)
    if at.engine == 'sqlite':
        at.store.execute('''CREATE TRIGGER refuse BEFORE INSERT ON run
            WHEN NEW.output = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END''')
    elif at.engine == 'mysql':
        at.store.execute("ALTER TABLE run ADD CHECK (output <> 'bad')")
    else:
        bad = bad._replace(output='bad\0')
    at.store.end([bad, dc.Ending('t' * 32, two, 'done', 1, 'Success', 0, 'y', 5)])
    assert [(run.job_id, run.output) for run in at.runs()] == [(one, None), (two, 'y')]
    assert at.job(one).run_token is None


def test_history_is_purged_by_days_and_by_runs(at):
    at.store.config.history_days, at.store.config.history_runs = 2, 3
    job = at.add()
    plan(at)
    for number in range(1, 6):
        at.store.execute('UPDATE job SET next_run_utc = :now', now=NOW)
        claim(at, job)
        at.store.end([dc.Ending('t' * 32, job, 'done', number, 'Success')])
    dc.purge_history(at.store, at.store.look().now)
    assert [run.run_no for run in at.runs()] == [3, 4, 5]
    at.set_clock('2026-05-22 11:59:59')
    dc.purge_history(at.store, at.store.look().now)
    assert len(at.runs()) == 3
    at.set_clock('2026-05-22 12:00:01')
    dc.purge_history(at.store, at.store.look().now)
    assert not at.runs()


def test_two_workers_never_have_one_job(at):
    other = at.new_store()
    at.set_zone('+00:00' if at.engine == 'mysql' else 'UTC', other)
    at.set_clock(NOW, other)
    jobs = [at.add() for _ in range(30)]
    plan(at)
    assert len(at.store.claim(jobs[:20], 'a' * 32, 'a-1')) == 20
    assert len(other.claim(jobs[10:], 'b' * 32, 'b-1')) == 10
    assert {row.id for row in at.store.collect('a' * 32)} == set(jobs[:20])
    assert {row.id for row in other.collect('b' * 32)} == set(jobs[20:])
    other.close()


# A Perl worker takes last_end NULL for 'never ran', also while the first run goes on.
YESTERDAY = {'last_start': '2026-05-19 12:00:00', 'last_end': '2026-05-19 12:00:01'}


class Perl:
    """The statements of a worker of the Perl program."""

    window = '''active = 1 AND (start_anchor IS NULL OR start_anchor < CURTIME())
        AND (stop_anchor IS NULL OR stop_anchor > CURTIME())'''
    clocks = {
        'sqlite': "time('now', 'localtime')",
        'mysql': 'CURTIME()',
        'postgresql': 'CAST(statement_timestamp() AS time)',
    }
    due = (
        window
        + ''' AND (last_start IS NULL OR (last_start <= %s
        AND (last_end IS NULL OR last_start <= last_end)))'''
        % ("DATE_SUB(NOW(), INTERVAL frequency MINUTE)")
    )

    def __init__(self, place):
        self.place, self.store = place, place.store

    def sql(self, text):
        text = text.replace('CURTIME()', self.clocks[self.place.engine])
        return text.replace(
            'DATE_SUB(NOW(), INTERVAL frequency MINUTE)',
            {
                'mysql': 'DATE_SUB(NOW(), INTERVAL frequency MINUTE)',
                'sqlite': "datetime('now', 'localtime', '-' || frequency || ' minutes')",
                'postgresql': "{local} - frequency * INTERVAL '1 minute'",
            }[self.place.engine],
        )

    def claim(self, worker='perl-1'):
        return self.store.change(
            self.sql(
                '''UPDATE job SET last_start = {local},
            last_worker = :worker WHERE '''
                + self.due
            ),
            worker=worker,
        )

    def report(self, job, worker='perl-1', status='Success'):
        return self.store.change(
            '''UPDATE job SET last_end = {local}, last_status = :status
            WHERE active = 1 AND id = :job AND last_worker = :worker''',
            status=status,
            job=job,
            worker=worker,
        )


def test_beside_a_perl_worker_no_job_runs_twice_within_its_frequency(at):
    perl = Perl(at)
    job = at.add(frequency=10, max_run_time=5, **YESTERDAY)
    plan(at)
    assert perl.claim() == 1 and not claim(
        at
    )  # it has it, and does not say so by token
    assert at.store.plan_due(at.store.now()) == 1 and due(at, job) > NOW
    at.set_clock('2026-05-20 12:09:59')
    at.store.plan_due(at.store.now())
    assert not claim(at)
    at.set_clock('2026-05-20 12:10:00')
    assert not perl.claim()  # its own run has not ended
    assert claim(at, job) and not perl.claim()
    end(at, job)
    at.set_clock('2026-05-20 12:19:59')
    assert not perl.claim() and not claim(at)
    at.set_clock('2026-05-20 12:20:00')
    assert perl.claim() and not claim(at, job)
    assert perl.report(job)
    at.store.plan_due(at.store.now())
    assert due(at, job) == '2026-05-20 12:30:00'


def test_ours_is_running_for_a_perl_worker_until_it_ends(at):
    perl = Perl(at)
    job = at.add(frequency=1, max_run_time=1, **YESTERDAY)
    plan(at)
    claim(at, job)
    at.set_clock('2026-05-20 12:05:00')
    assert not perl.claim()
    end(at, job)
    assert perl.claim()


def test_look_is_one_statement_that_reads_few_rows(mysql_place):
    at = mysql_place
    at.store.connection.cursor().executemany(
        'INSERT INTO job (command, next_run_utc) VALUES (%s, %s)',
        [('true', '2030-01-01')] * 3000,
    )
    at.store.execute('ANALYZE TABLE job').fetchall()

    def rows_read():
        return sum(
            int(row[1]) for row in at.sql("SHOW SESSION STATUS LIKE 'Handler_read%'")
        )

    def statements():
        return int(at.sql("SHOW SESSION STATUS LIKE 'Questions'")[0][1])

    before, asked = rows_read(), statements()
    at.store.look()
    assert statements() - asked == 2  # with the second SHOW
    assert rows_read() - before < 50


def plans_by(place, *steps):
    """How the database answers each query of some steps, as it explains that."""
    if place.engine != 'mysql':
        place.store.execute('ANALYZE')
    asked, query = [], place.store.query
    place.store.query = lambda text, **values: (
        asked.append((text, values)) or query(text, **values)
    )
    for step in steps:
        step()
    explain = 'EXPLAIN QUERY PLAN ' if place.engine == 'sqlite' else 'EXPLAIN '
    return [
        '\n'.join(' '.join(map(str, row)) for row in query(explain + text, **values))
        for text, values in asked
    ]


def test_a_poll_scans_no_table(at):
    at.store.execute('''INSERT INTO job (command, next_run_utc)
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900)
        SELECT 'true', '2030-01-01' FROM n''')
    store = at.store
    plans = plans_by(at, store.look, lambda: store.find(5), store.overdue)
    assert len(plans) == 3
    for plan in plans:
        assert 'job_here' in plan or 'job_deadline' in plan
        assert not re.search(r'Seq Scan on job|SCAN job(?! USING)| job ALL ', plan), (
            plan
        )


def test_importing_does_nothing(tmp_path):
    assert (
        os.system(
            'cd %s && python3 -c "import sys; sys.path.insert(0, \'%s\'); '
            'import distributed_cron" && test -z "$(ls)"'
            % (tmp_path, os.path.dirname(dc.__file__))
        )
        == 0
    )


@pytest.mark.parametrize('odd', ['', '0', 'soon'])
def test_a_time_that_is_none_hides_no_other_job(sqlite_place, odd):
    """SQLite takes any text: what sorts first is looked at, and is in nobody's way."""
    place = sqlite_place
    place.add('true', schedule='0 0 1 1 *', next_run_utc=odd)
    good = place.add('true', next_run_utc='2020-01-01 00:00:00')
    assert place.store.look().due_in <= 0
    place.run('run')
    assert place.runs(good)[0].status == 'Success'


def test_no_type_of_rows_is_made_anew_as_time_goes_on(at):
    """MySQL names a column after its expression, with the values in it."""
    job = at.add(schedule='*/15 * * * *', start_anchor='01:00', stop_anchor='23:30')
    sizes = []
    for hour in range(10, 16):
        at.set_clock('2026-05-20 %d:00:00' % hour)
        plan(at)
        at.set_clock('2026-05-20 %d:30:00' % hour)
        at.store.look()
        assert claim(at, job)
        end(at, job)
        sizes.append(dc.row_type.cache_info().currsize)
    assert sizes[1:] == sizes[-1:] * 5
