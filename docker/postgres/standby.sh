# The synchronous standby of compose.scale.yaml: the first start copies the primary.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    connection="host=postgres user=bandexa password=$PGPASSWORD application_name=standby"
    until pg_basebackup --pgdata "$PGDATA" --dbname "$connection" --wal-method stream \
        --write-recovery-conf --checkpoint fast; do
        find "$PGDATA" -mindepth 1 -delete
        sleep 2
    done
    chmod 0700 "$PGDATA"
fi
exec postgres
