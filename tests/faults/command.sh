#!/bin/sh
# The command of the harness's jobs: command.sh FOLDER SECONDS EXIT FAILS TEMPLATE. It writes
# its own start and end, by the clock that no one can set, to a file of its own, with where it
# is and what it was told. The lock is held as long as anything of it lives: who can't have it
# runs beside another run of the same job. EXIT is its status in the first FAILS attempts.
# Version 1.0, $FAULTS_SCRIPT, tells of none: each is the first.
read -r now _ </proc/uptime
file=$1/$DISTRIBUTED_CRON_JOB_ID.$DISTRIBUTED_CRON_RUN_NO.$$
exec 9>>"$1/$DISTRIBUTED_CRON_JOB_ID.lock"
flock -n 9 && alone=1 || alone=0
attempt=${DISTRIBUTED_CRON_ATTEMPT:-${FAULTS_SCRIPT:+0}} due=${DISTRIBUTED_CRON_DUE:--}
echo "start $now $alone ${DISTRIBUTED_CRON_WORKER%-*} $attempt ${due%Z}" \
    "${FAULTS_HOST##*/} ${5:-0}" >"$file"
[ "$attempt" -lt "${4:-99}" ] && code=$3 || code=0
sleep "$2"
read -r now _ </proc/uptime
echo "end $now $code" >>"$file"
exit "$code"
