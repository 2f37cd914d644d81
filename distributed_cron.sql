-- The tables of distributed cron, for MySQL 8.0+ and MariaDB 10.3+.
--
-- Safe to run again: it creates what is missing and drops no data.
--     mysql < distributed_cron.sql
-- `distributed_cron.py init` does the same on every database, and it also upgrades tables
-- of earlier versions and of the Perl program in place. The rest of this file is what
-- `distributed_cron.py init --print` prints.

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
    -- the run_no that is to be stopped; 0: run-now asked for the run in progress
    stop_requested   BIGINT NULL DEFAULT NULL,
    INDEX job_due (run_token, next_run_utc),
    INDEX job_deadline (run_deadline_utc)
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
    -- the last 4 KiB of what the command wrote
    output           TEXT NULL,
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
    skew_ms          BIGINT NOT NULL DEFAULT 0
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4;

-- Rules on rows. They come last, because an account may lack the
-- right to create triggers. The workers apply the same rules in any case; but without
-- triggers, set next_run_utc to NULL yourself after you change a schedule with SQL.
DROP TRIGGER IF EXISTS job_changes;
CREATE TRIGGER job_changes BEFORE UPDATE ON job FOR EACH ROW SET
    NEW.next_run_utc = CASE
        WHEN NEW.schedule <=> OLD.schedule
         AND NEW.frequency <=> OLD.frequency
         AND NEW.start_anchor <=> OLD.start_anchor
         AND NEW.active <=> OLD.active
         AND NEW.stop_anchor <=> OLD.stop_anchor THEN NEW.next_run_utc
        ELSE NULL END,
    NEW.max_run_time = CASE
        WHEN NEW.schedule IS NOT NULL THEN GREATEST(NEW.max_run_time, 1)
        WHEN NEW.max_run_time < 1 OR NEW.max_run_time >= GREATEST(NEW.frequency, 1)
            THEN GREATEST(NEW.frequency >> 1, 1)
        ELSE NEW.max_run_time END,
    NEW.frequency = GREATEST(NEW.frequency, 1);
DROP TRIGGER IF EXISTS job_checks;
CREATE TRIGGER job_checks BEFORE INSERT ON job FOR EACH ROW SET
    NEW.max_run_time = CASE
        WHEN NEW.schedule IS NOT NULL THEN GREATEST(NEW.max_run_time, 1)
        WHEN NEW.max_run_time < 1 OR NEW.max_run_time >= GREATEST(NEW.frequency, 1)
            THEN GREATEST(NEW.frequency >> 1, 1)
        ELSE NEW.max_run_time END,
    NEW.frequency = GREATEST(NEW.frequency, 1);
