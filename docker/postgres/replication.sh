# Read once by the image's entrypoint, as the primary of compose.scale.yaml is made. The standby may
# connect with the password, and from the start that follows each commit waits for it: it is written
# here, because the commits that make the database have no standby yet.
echo "host replication bandexa all scram-sha-256" >> "$PGDATA/pg_hba.conf"
echo "synchronous_standby_names = 'standby'" >> "$PGDATA/postgresql.conf"
