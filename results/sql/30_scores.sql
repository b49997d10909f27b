-- scores: one row per trial and metric: the final numbers (no curves) of the newest
-- attempt of each trial, where that is 'ok', with everything that says what was run.
-- Trials that another one replaces (see stored.superseded) are left out.
-- Numbers in the view left_out are not among them.
CREATE VIEW scores AS
SELECT * EXCLUDE (m, repeated), m.metric, m.value, m.unit, m.goal,
       CASE WHEN m.stderr >= 0 AND m.stderr < 1e150 THEN m.stderr END AS sample_stderr,
       m.n
FROM (
    SELECT * EXCLUDE (measurements), unnest(measurements) AS m,
           repeated_metrics(measurements, checked) AS repeated
    FROM stored.newest ANTI JOIN stored.superseded USING (trial) WHERE status = 'ok'
)
WHERE m.step IS NULL AND abs(m.value) < 1e150 AND m.metric NOT IN repeated
  AND m.metric IS NOT NULL AND method IS NOT NULL AND model IS NOT NULL
  AND task IS NOT NULL AND isfinite(ratio);
