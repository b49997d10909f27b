-- scores: one row a trial and metric: the final numbers (no curves) of the newest
-- attempt of each trial, where that is 'ok', with everything that says what was run.
CREATE VIEW scores AS
SELECT * EXCLUDE (m), m.metric, m.value, m.unit, m.goal, m.stderr AS sample_stderr, m.n
FROM (
    SELECT * EXCLUDE (measurements), unnest(measurements) AS m
    FROM stored.newest WHERE status = 'ok'
)
WHERE m.step IS NULL AND isfinite(m.value);
