#!/usr/bin/env bash
# time: 120 400
# sqlite3 with full syncs, in rollback and WAL mode; MariaDB after its own kill -9 (long form, if it is installed).
. "$(dirname "$0")/lib.sh"
need sqlite3
cluster_up
n=$([ -n "$LONG" ] && echo 1000 || echo 300)
transactions() { # MODE
    echo "pragma journal_mode=$1; pragma synchronous=full; create table t(i integer primary key, x text, y blob);"
    for i in $(seq "$n"); do
        echo "begin; insert into t values($i, 'row $i', randomblob(500)); update t set x = x || '+' where i = $((i / 2 + 1)); commit;"
    done
    echo "pragma integrity_check; select count(*) from t;"
}
for mode in delete wal; do
    out=$(transactions $mode | timeout 300 sqlite3 "$MNT/$mode.db" 2>&1 | tail -n 2 | tr '\n' ' ')
    same "$n transactions in journal mode $mode" "$out" "ok $n "
    drop_caches
    same "and read again ($mode)" "$(sqlite3 "$MNT/$mode.db" 'pragma integrity_check; select count(*) from t' | tr '\n' ' ')" "ok $n "
done
# Two writers wait for each other by fcntl locks.
for w in 1 2; do
    for i in $(seq 50); do echo "pragma busy_timeout=60000; insert into t(x) values('w$w $i');"; done | sqlite3 "$MNT/delete.db" >"$WORK/w$w" 2>&1 &
    eval "w$w=$!"
done
wait "$w1" && wait "$w2"
same 'two writers at once' "$(sqlite3 "$MNT/delete.db" "select count(*) from t where x like 'w%'; pragma integrity_check" | tr '\n' ' ')" '100 ok '

if [ -n "$LONG" ] && command -v mariadbd >/dev/null; then
    data=$MNT/mariadb socket=$WORK/mariadb.sock
    mkdir "$data"
    check 'MariaDB: install' mariadb-install-db --no-defaults --user=root --datadir="$data" --skip-test-db --auth-root-authentication-method=normal
    db_start() {
        mariadbd --no-defaults --user=root --datadir="$data" --socket="$socket" --skip-networking --pid-file="$WORK/mariadb.pid" >>"$WORK/mariadb.log" 2>&1 &
        echo $! >"$WORK/mariadb.started" # check runs this in a subshell
        until_true 60 mariadb --no-defaults -u root -S "$socket" -e 'select 1'
    }
    sql() { mariadb --no-defaults -u root -S "$socket" -N -e "$1"; }
    check 'MariaDB: start' db_start
    db=$(<"$WORK/mariadb.started")
    remember "$db"
    sql 'create database d; create table d.t(i int primary key, x varchar(100)) engine=innodb'
    for i in $(seq 200); do echo "insert into d.t values($i, md5($i));"; done | mariadb --no-defaults -u root -S "$socket"
    before=$(sql 'select count(*), sum(crc32(x)) from d.t')
    kill -KILL "$db"
    until_true 10 bash -c "! kill -0 $db"
    check 'MariaDB: start after kill -9' db_start
    db=$(<"$WORK/mariadb.started")
    remember "$db"
    same 'MariaDB: every row is there' "$(sql 'select count(*), sum(crc32(x)) from d.t')" "$before"
    check 'MariaDB: check table' bash -c "mariadb --no-defaults -u root -S '$socket' -N -e 'check table d.t' | grep -q OK"
    sql shutdown
    until_true 60 bash -c "! kill -0 $db"
elif [ -n "$LONG" ]; then
    skip 'MariaDB' 'mariadbd is not installed'
fi
