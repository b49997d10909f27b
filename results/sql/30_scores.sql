-- scores: one row a trial and metric: the final numbers (no curves) of the newest
-- attempt of each trial, where that is 'ok', with everything that says what was run.
-- Trials that another one replaces (see stored.superseded) are left out.
CREATE VIEW scores AS
SELECT * EXCLUDE (m), m.metric, m.value, m.unit, m.goal, m.stderr AS sample_stderr, m.n
FROM (
    SELECT * EXCLUDE (measurements), unnest(measurements) AS m
    FROM stored.newest ANTI JOIN stored.superseded USING (trial) WHERE status = 'ok'
)
WHERE m.step IS NULL AND isfinite(m.value);
