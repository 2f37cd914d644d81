#!/bin/sh
# The command of a peer's job: record.sh FOLDER JOB SECONDS. It writes its start and end, by
# the clock that no one can set, to a file of its own: start, alone (1) or not (0), host, end.
# The lock is held as long as anything of it lives: who can't have it runs beside another.
read -r now _ </proc/uptime
exec 9>>"$1/$2.lock"
flock -n 9 && alone=1 || alone=0
echo "$now $alone $FAULTS_HOST" >"$1/$2.$$.$now.run"
sleep "$3"
read -r end _ </proc/uptime
echo "$end" >>"$1/$2.$$.$now.run"
