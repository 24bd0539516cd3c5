# Runs the demo's Postgres for as long as the other end of stdin is open, which
# even a rowcast that is killed closes. $1 is the folder to make it in, $2 the
# folder of the server's binaries. It says on stderr how the start went; stdout
# tells by its end that the server is gone.
folder=$1 binaries=$2
data=$folder/data

# Ctrl-C is for rowcast, which closes stdin when it has finished; and it may be
# gone before it is told of the start.
trap '' HUP INT TERM PIPE

start() {
  "$binaries/initdb" --pgdata="$data" --username=rowcast --pwfile="$folder/password" \
    --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale=C --no-sync &&
    cat "$folder/settings" >>"$data/postgresql.conf" &&
    "$binaries/pg_ctl" start --pgdata="$data" --log="$folder/log" --wait --timeout=60
}

if start >"$folder/output" 2>&1 </dev/null; then echo started >&2; else echo failed >&2; fi

while read -r _; do :; done
if [ -e "$data/postmaster.pid" ]; then
  "$binaries/pg_ctl" stop --pgdata="$data" --mode=immediate --timeout=10 >/dev/null 2>&1
fi
