-- What this release calls in place of functions of before; those stay for releases that call them.

-- Store decisions of live bandits as `keep_v1` does, each only where the log has the row, with the
-- hash, that the decision was drawn at. A model that has followed another branch of the log (a backup
-- was restored, or a standby that was behind took over) stores nothing. The first row of a log that
-- was trimmed is known by its hash, too; `drawn` names each row once.
CREATE OR REPLACE FUNCTION keep_v2(
  given decisions[], opened windows[], waiting maturing[], drawn heads[]) RETURNS bigint[]
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  at heads;
BEGIN
  FOREACH at IN ARRAY drawn LOOP
    IF at.position > 0
      AND NOT EXISTS (SELECT FROM log AS l WHERE l.bandit = at.bandit AND l.position = at.position
        AND l.hash = at.hash)
      AND NOT EXISTS (SELECT FROM trims AS t WHERE t.bandit = at.bandit
        AND t.position = at.position AND t.hash = at.hash)
      AND EXISTS (SELECT FROM bandits AS b WHERE b.bandit = at.bandit AND b.deleted IS NULL) THEN
      RAISE EXCEPTION 'the log of bandit % has lost row %, which a decision was drawn at',
        at.bandit, at.position USING ERRCODE = 'BX003';
    END IF;
  END LOOP;
  RETURN keep_v1(given, opened, waiting);
END $$;
