-- What schema 2 adds: leases with epochs, the register of snapshots, their files where no directory
-- and no bucket has them, and rounds that were asked for. A bandit is known by its uid here, because
-- its first snapshot is written before its row.

CREATE TABLE IF NOT EXISTS leases (
  name text COLLATE "C" PRIMARY KEY, holder text NOT NULL, epoch bigint NOT NULL,
  until timestamptz NOT NULL);
CREATE TABLE IF NOT EXISTS snapshots (
  uid text NOT NULL, version bigint NOT NULL, position bigint NOT NULL, log_hash bytea NOT NULL,
  manifest text NOT NULL, prefix text NOT NULL, epoch bigint NOT NULL, created float8 NOT NULL,
  PRIMARY KEY (uid, version));
CREATE TABLE IF NOT EXISTS blobs (
  name text COLLATE "C" PRIMARY KEY, created float8 NOT NULL, data bytea NOT NULL);
ALTER TABLE blobs ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE TABLE IF NOT EXISTS orders (
  uid text PRIMARY KEY, number text NOT NULL, message text NOT NULL, asked timestamptz NOT NULL,
  asked_by text NOT NULL, tries bigint NOT NULL, taken_by text, beat text, outcome text);
