-- What a group of decisions and reports writes, each function in one autocommit statement.
-- A function keeps its name and arguments for as long as a release calls it: another one gets the
-- next number. Plans that were made while tables were empty must not scan them later.

-- Store decisions of live bandits; returns the keys of the others, and of those whose id or key is
-- stored already.
CREATE OR REPLACE FUNCTION keep_v1(
  given decisions[], opened windows[], waiting maturing[]) RETURNS bigint[]
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  kept bigint[];
BEGIN
  WITH new AS (
    INSERT INTO decisions SELECT d.* FROM unnest(given) AS d
      WHERE EXISTS (SELECT FROM bandits AS b WHERE b.bandit = d.key >> 45 AND b.deleted IS NULL)
      ORDER BY d.key ON CONFLICT DO NOTHING RETURNING key)
  SELECT coalesce(array_agg(key), '{}') INTO kept FROM new;
  IF cardinality(opened) > 0 THEN
    INSERT INTO windows SELECT w.closes, w.key FROM unnest(opened) AS w WHERE w.key = ANY (kept);
    INSERT INTO maturing SELECT m.matures, m.key FROM unnest(waiting) AS m
      WHERE m.key = ANY (kept);
  END IF;
  IF cardinality(kept) = cardinality(given) THEN
    RETURN '{}';
  END IF;
  RETURN (SELECT array_agg(d.key) FROM unnest(given) AS d WHERE d.key <> ALL (kept));
END $$;

-- Store what reports led to. `heads_before` are the ends of the logs that the rows continue, and
-- `versions` those of the ledger rows that are replaced: 0 where there were none, NULL where they are
-- not compared. Where one has moved on nothing is stored. Heads are locked in the order of their bandits.
CREATE OR REPLACE FUNCTION append_v1(
  heads_before heads[], heads_after heads[], rows log[], steps ledger[], versions bigint[],
  reported rewards[], closed windows[], matured maturing[], totals metrics[],
  sampled evicted[], late delays[]) RETURNS boolean
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  known heads;
  expected heads;
  added metrics;
  written bigint;
  added_rows bigint;
BEGIN
  FOREACH expected IN ARRAY heads_before LOOP
    SELECT * INTO known FROM heads AS h WHERE h.bandit = expected.bandit FOR UPDATE;
    IF NOT FOUND THEN
      INSERT INTO heads VALUES (expected.bandit, 0, '') ON CONFLICT DO NOTHING;
      SELECT * INTO known FROM heads AS h WHERE h.bandit = expected.bandit FOR UPDATE;
    END IF;
    IF known.position <> expected.position OR known.hash <> expected.hash THEN
      RAISE EXCEPTION 'the log of bandit % moved on from % to %', expected.bandit,
        expected.position, known.position USING ERRCODE = 'BX001';
    END IF;
  END LOOP;
  IF cardinality(versions) > 0 THEN
    -- Rows that are there are locked in the order of their keys, and compared behind that; of rows
    -- that are not there yet, another server may store one first.
    PERFORM FROM ledger AS l WHERE l.key IN (SELECT s.key FROM unnest(steps) AS s)
      ORDER BY l.key FOR UPDATE;
    IF EXISTS (
      SELECT 1 FROM unnest(steps, versions) AS s(key, version, rewards, activated, closed, items,
        matures, expected)
      LEFT JOIN ledger AS l ON l.key = s.key WHERE s.expected IS NOT NULL AND coalesce(l.version, 0) <> s.expected) THEN
      RAISE EXCEPTION 'a decision moved on' USING ERRCODE = 'BX002';
    END IF;
    IF EXISTS (
      SELECT 1 FROM unnest(steps) AS s LEFT JOIN decisions AS d ON d.key = s.key
      WHERE d.key IS NULL OR length(d.context) = 0) THEN
      RAISE EXCEPTION 'a decision was erased or removed' USING ERRCODE = 'BX002';
    END IF;
    UPDATE ledger AS l SET version = s.version, rewards = s.rewards, activated = s.activated,
      closed = s.closed, items = s.items, matures = s.matures
      FROM unnest(steps) AS s WHERE l.key = s.key;
    GET DIAGNOSTICS written = ROW_COUNT;
    INSERT INTO ledger SELECT s.* FROM unnest(steps) AS s
      WHERE NOT EXISTS (SELECT FROM ledger AS l WHERE l.key = s.key)
      ORDER BY s.key ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS added_rows = ROW_COUNT;
    IF written + added_rows < cardinality(steps) THEN
      RAISE EXCEPTION 'a decision moved on' USING ERRCODE = 'BX002';
    END IF;
  END IF;
  IF cardinality(reported) > 0 THEN
    INSERT INTO rewards SELECT r.* FROM unnest(reported) AS r;
  END IF;
  IF cardinality(rows) > 0 THEN
    INSERT INTO log SELECT r.* FROM unnest(rows) AS r;
    UPDATE heads AS h SET position = a.position, hash = a.hash
      FROM unnest(heads_after) AS a WHERE h.bandit = a.bandit;
  END IF;
  IF cardinality(closed) > 0 THEN
    DELETE FROM windows AS w USING unnest(closed) AS c WHERE w.closes = c.closes AND w.key = c.key;
  END IF;
  IF cardinality(matured) > 0 THEN
    DELETE FROM maturing AS m USING unnest(matured) AS c
      WHERE m.matures = c.matures AND m.key = c.key;
  END IF;
  IF cardinality(totals) > 0 THEN
    FOREACH added IN ARRAY totals LOOP  -- one after the other: sums depend on their order
      INSERT INTO metrics VALUES (added.*) ON CONFLICT (bandit, name) DO UPDATE
        SET count = metrics.count + excluded.count, total = metrics.total + excluded.total;
    END LOOP;
  END IF;
  IF cardinality(sampled) > 0 THEN
    UPDATE evicted AS e SET value = s.value, metrics = s.metrics FROM unnest(sampled) AS s
      WHERE e.bandit = s.bandit AND e.origin = s.origin;
  END IF;
  IF cardinality(late) > 0 THEN
    INSERT INTO delays SELECT d.* FROM unnest(late) AS d ON CONFLICT (bandit) DO UPDATE
      SET delays = excluded.delays;
  END IF;
  RETURN true;
END $$;
