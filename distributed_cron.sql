-- The tables of distributed cron, for MySQL 8.0+ and MariaDB 10.3+.
--
-- Safe to run again: it creates what is missing and drops no data.
--     mysql < distributed_cron.sql
-- `distributed_cron.py init` does the same on every database, and it also upgrades tables
-- of earlier versions and of the Perl program in place. Where the administrator runs this
-- file instead of `init`, the workers' account needs only SELECT, INSERT, UPDATE and
-- DELETE, until an upgrade. The rest of this file is what `distributed_cron.py init
-- --print` prints.

CREATE DATABASE IF NOT EXISTS `distributed_cron` DEFAULT CHARACTER SET utf8mb4;
USE `distributed_cron`;

-- A job: a command with a schedule. The first twelve columns are those
-- of the Perl program, in order. Times not named _utc are local to the database.
CREATE TABLE IF NOT EXISTS job (
    id               INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    description      VARCHAR(255) NOT NULL DEFAULT 'Yet another cron',
    command          VARCHAR(12000) NOT NULL DEFAULT 'echo "I forgot to put in a command."',
    active           TINYINT(1) NOT NULL DEFAULT 1,
    start_anchor     TIME NULL DEFAULT NULL,
    stop_anchor      TIME NULL DEFAULT NULL,
    frequency        INT UNSIGNED NOT NULL DEFAULT 60,
    max_run_time     INT UNSIGNED NOT NULL DEFAULT 1,
    last_start       DATETIME NULL DEFAULT NULL,
    last_end         DATETIME NULL DEFAULT NULL,
    last_status      VARCHAR(255) NOT NULL DEFAULT 'Never ran.',
    last_worker      VARCHAR(255) NOT NULL DEFAULT 'Never ran.',
    -- a cron expression; when set, frequency is not used
    schedule         VARCHAR(255) NULL DEFAULT NULL,
    -- when it is due; NULL: to be planned; 9999-12-31: parked
    next_run_utc     DATETIME NULL DEFAULT NULL,
    -- counts the job's runs; the fencing number of a run
    run_no           BIGINT NOT NULL DEFAULT 0,
    -- the claim that holds it; NULL: not running
    run_token        VARCHAR(32) NULL DEFAULT NULL,
    -- when the run is dead for certain
    run_deadline_utc DATETIME NULL DEFAULT NULL,
    -- the last_start that this program wrote; a Perl worker does not set it
    claimed_start    DATETIME NULL DEFAULT NULL,
    -- 1: run now, whatever active, window and schedule say
    run_requested    TINYINT(1) NOT NULL DEFAULT 0,
    -- the run_no that is to be stopped
    stop_requested   BIGINT NULL DEFAULT NULL,
    -- Since version 2.0:
    -- until when the planned start is allowed; NULL: without a limit
    start_before_utc DATETIME NULL DEFAULT NULL,
    -- 1: the run in progress was asked for by run-now
    run_was_requested TINYINT(1) NOT NULL DEFAULT 0,
    -- while next_run_utc is NULL: since when, set by the triggers
    changed_utc      DATETIME(6) NULL DEFAULT NULL,
    -- a name that commands take instead of the id
    name             VARCHAR(64) COLLATE utf8mb4_bin NULL DEFAULT NULL,
    -- a host's name, or a tag of hosts: only they run it; NULL: all hosts
    run_on           VARCHAR(191) COLLATE utf8mb4_bin NULL DEFAULT NULL,
    -- 1: a template; each host that run_on allows has a row of its own, with this parent_id
    each_host        TINYINT(1) NOT NULL DEFAULT 0,
    parent_id        INT UNSIGNED NULL DEFAULT NULL,
    -- of schedule and window, an IANA name; NULL: the database's
    time_zone        VARCHAR(64) NULL DEFAULT NULL,
    -- minutes after its time in which a run may start; NULL: without a limit
    start_within     INT UNSIGNED NULL DEFAULT NULL,
    -- how often a failed run is tried again, after how many seconds, and which try this is
    retries          INT UNSIGNED NOT NULL DEFAULT 0,
    retry_delay      INT UNSIGNED NULL DEFAULT NULL,
    attempt          INT UNSIGNED NOT NULL DEFAULT 0,
    -- the job after whose success it runs, and the run_no of that job that it has run after
    after_job        INT UNSIGNED NULL DEFAULT NULL,
    after_run        BIGINT NULL DEFAULT NULL,
    -- the run_no of a success that the jobs with this after_job are yet to be told of
    followers_due    BIGINT NULL DEFAULT NULL,
    -- failures in a row
    failures         INT UNSIGNED NOT NULL DEFAULT 0,
    -- no start between these times; who paused it, and why
    paused_from_utc  DATETIME NULL DEFAULT NULL,
    paused_until_utc DATETIME NULL DEFAULT NULL,
    paused_by        VARCHAR(255) NULL DEFAULT NULL,
    -- after how many failures in a row to tell somebody, 0: never; whom, by mail
    alert_after      INT UNSIGNED NULL DEFAULT NULL,
    alert_to         VARCHAR(255) NULL DEFAULT NULL,
    -- of a signed job: when it was signed, by whom and how, and until when that holds
    rev              BIGINT NOT NULL DEFAULT 0,
    signature        TEXT NULL,
    not_after        DATETIME NULL DEFAULT NULL,
    -- the owner of the file from which `apply` made it
    applied_by       VARCHAR(255) NULL DEFAULT NULL,
    INDEX job_due (run_token, next_run_utc),
    INDEX job_deadline (run_deadline_utc),
    INDEX job_here (run_on, run_token, next_run_utc),
    INDEX job_late (run_token, start_before_utc),
    INDEX job_after (after_job),
    INDEX job_each (each_host),
    INDEX job_followers (followers_due),
    INDEX job_failures (failures),
    UNIQUE INDEX job_name (name),
    UNIQUE INDEX job_parent (parent_id, run_on)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4;

-- The history: one row for each run.
CREATE TABLE IF NOT EXISTS run (
    job_id           INT UNSIGNED NOT NULL,
    run_no           BIGINT NOT NULL,
    due_utc          DATETIME NULL DEFAULT NULL,
    started_at       DATETIME NULL DEFAULT NULL,
    ended_at         DATETIME NULL DEFAULT NULL,
    duration_ms      BIGINT NULL DEFAULT NULL,
    worker           VARCHAR(255) NOT NULL DEFAULT '',
    status           VARCHAR(255) NOT NULL DEFAULT '',
    exit_code        INT NULL DEFAULT NULL,
    -- the last of what the command wrote: history.output_bytes
    output           TEXT NULL,
    -- Since version 2.0:
    -- what it took of the processor and, at most, of the memory
    cpu_ms           BIGINT NULL DEFAULT NULL,
    max_rss_kb       BIGINT NULL DEFAULT NULL,
    -- which try it was
    attempt          INT UNSIGNED NOT NULL DEFAULT 0,
    -- why it was late, and what was passed over
    note             VARCHAR(255) NULL DEFAULT NULL,
    PRIMARY KEY      (job_id, run_no),
    INDEX run_ended (ended_at)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4;

-- Which hosts there are. For people: nothing is decided by it.
CREATE TABLE IF NOT EXISTS host (
    name             VARCHAR(191) NOT NULL PRIMARY KEY,
    last_seen        DATETIME NULL DEFAULT NULL,
    worker           VARCHAR(255) NOT NULL DEFAULT '',
    version          VARCHAR(32) NOT NULL DEFAULT '',
    max_tasks        INT NOT NULL DEFAULT 0,
    running          INT NOT NULL DEFAULT 0,
    skew_ms          BIGINT NOT NULL DEFAULT 0,
    -- Since version 2.0:
    -- words that run_on of a job can name
    tags             VARCHAR(255) NULL DEFAULT NULL,
    -- the last time for which nothing was seen of it; from NULL: before it was new
    gap_from         DATETIME NULL DEFAULT NULL,
    gap_until        DATETIME NULL DEFAULT NULL,
    -- since when it has these tags
    tags_since       DATETIME NULL DEFAULT NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4;

-- Facts on this database. identity: what tells it from others.
CREATE TABLE IF NOT EXISTS about (
    name             VARCHAR(64) NOT NULL PRIMARY KEY,
    value            VARCHAR(255) NOT NULL DEFAULT ''
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4;

-- Which hosts start no jobs for a while; *: all. Who says so, and why.
CREATE TABLE IF NOT EXISTS pause (
    target           VARCHAR(191) NOT NULL PRIMARY KEY,
    from_utc         DATETIME NULL DEFAULT NULL,
    until_utc        DATETIME NULL DEFAULT NULL,
    paused_by        VARCHAR(255) NOT NULL DEFAULT ''
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4;

-- Runs in progress whose output somebody watches, and the last of it.
CREATE TABLE IF NOT EXISTS live (
    job_id           INT UNSIGNED NOT NULL,
    run_no           BIGINT NOT NULL,
    watched_until_utc DATETIME NULL DEFAULT NULL,
    output           MEDIUMTEXT NULL,
    PRIMARY KEY      (job_id, run_no),
    INDEX live_watched (watched_until_utc)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4;

-- What is wrong, since when, and when that was told.
CREATE TABLE IF NOT EXISTS trouble (
    kind             VARCHAR(32) NOT NULL,
    subject          VARCHAR(191) NOT NULL,
    since_utc        DATETIME NOT NULL,
    -- NULL: it goes on
    ended_utc        DATETIME NULL DEFAULT NULL,
    -- of a job that fails: failures in a row
    times            INT UNSIGNED NOT NULL DEFAULT 0,
    text             VARCHAR(255) NOT NULL DEFAULT '',
    -- where its job's alerts go
    alert_to         VARCHAR(255) NULL DEFAULT NULL,
    told_mail_utc    DATETIME NULL DEFAULT NULL,
    told_webhook_utc DATETIME NULL DEFAULT NULL,
    told_command_utc DATETIME NULL DEFAULT NULL,
    PRIMARY KEY      (kind, subject, since_utc)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4;
INSERT INTO about (name, value) SELECT 'identity', REPLACE(UUID(), '-', '')
FROM (SELECT COUNT(*) AS found FROM about WHERE name = 'identity') AS n
WHERE found = 0;

-- Rules on rows. They come last, because an account may lack the
-- right to create triggers. The workers apply the same rules in any case; but without
-- triggers, set next_run_utc to NULL yourself after you change a schedule with SQL.
-- Each new version of a trigger gets a new number.
DROP TRIGGER IF EXISTS job_changes_2;
CREATE TRIGGER job_changes_2 BEFORE UPDATE ON job FOR EACH ROW SET
    NEW.changed_utc = CASE
        WHEN NOT (NEW.schedule <=> OLD.schedule
         AND NEW.frequency <=> OLD.frequency
         AND NEW.start_anchor <=> OLD.start_anchor
         AND NEW.stop_anchor <=> OLD.stop_anchor
         AND NEW.active <=> OLD.active
         AND NEW.time_zone <=> OLD.time_zone
         AND NEW.start_within <=> OLD.start_within
         AND NEW.each_host <=> OLD.each_host
         AND NEW.after_job <=> OLD.after_job
         AND NEW.paused_until_utc <=> OLD.paused_until_utc) THEN UTC_TIMESTAMP(6)
        WHEN NEW.next_run_utc IS NOT NULL THEN NULL
        WHEN OLD.next_run_utc IS NULL THEN NEW.changed_utc
        ELSE UTC_TIMESTAMP(6) END,
    NEW.next_run_utc = CASE
        WHEN NEW.changed_utc IS NULL THEN NEW.next_run_utc ELSE NULL END,
    NEW.start_before_utc = CASE
        WHEN NEW.next_run_utc IS NULL THEN NULL ELSE NEW.start_before_utc END,
    NEW.max_run_time = CASE
        WHEN NEW.schedule IS NOT NULL OR NEW.after_job IS NOT NULL
            THEN GREATEST(NEW.max_run_time, 1)
        WHEN NEW.max_run_time < 1 OR NEW.max_run_time >= GREATEST(NEW.frequency, 1)
            THEN GREATEST(NEW.frequency >> 1, 1)
        ELSE NEW.max_run_time END,
    NEW.frequency = GREATEST(NEW.frequency, 1);
DROP TRIGGER IF EXISTS job_checks_2;
CREATE TRIGGER job_checks_2 BEFORE INSERT ON job FOR EACH ROW SET
    NEW.changed_utc = CASE
        WHEN NEW.next_run_utc IS NULL THEN UTC_TIMESTAMP(6) ELSE NULL END,
    NEW.max_run_time = CASE
        WHEN NEW.schedule IS NOT NULL OR NEW.after_job IS NOT NULL
            THEN GREATEST(NEW.max_run_time, 1)
        WHEN NEW.max_run_time < 1 OR NEW.max_run_time >= GREATEST(NEW.frequency, 1)
            THEN GREATEST(NEW.frequency >> 1, 1)
        ELSE NEW.max_run_time END,
    NEW.frequency = GREATEST(NEW.frequency, 1);
DROP TRIGGER IF EXISTS job_changes;
DROP TRIGGER IF EXISTS job_checks;
