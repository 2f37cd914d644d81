#!/bin/sh
# The command of the harness's jobs: command.sh FOLDER SECONDS EXIT. It writes its own start
# and end, by the clock that no one can set, to a file of its own. The lock is held as long
# as anything of it lives: who can't have it runs beside another run of the same job.
read -r now _ </proc/uptime
file=$1/$DISTRIBUTED_CRON_JOB_ID.$DISTRIBUTED_CRON_RUN_NO.$$
exec 9>>"$1/$DISTRIBUTED_CRON_JOB_ID.lock"
flock -n 9 && alone=1 || alone=0
echo "start $now $alone ${DISTRIBUTED_CRON_WORKER%-*}" >"$file"
sleep "$2"
read -r now _ </proc/uptime
echo "end $now $3" >>"$file"
exit "$3"
