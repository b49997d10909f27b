-- superseded: one row a finished trial that no ranking uses, since a newer one stands in
-- its place: the model has other weights by now, or a plugin has another version.
CREATE VIEW superseded AS
SELECT trial, attempt, method, model, model_revision, task, ratio, seed, started_at
FROM stored.newest SEMI JOIN stored.superseded USING (trial);

-- left_out: one row a final number of an attempt that counts, but that no ranking uses,
-- with the reason. A store can hold such numbers only from older versions.
-- not a number        NULL, NaN or infinite.
-- too large           1e150 or more; squares of such numbers overflow.
-- no label            the metric, method, model, task or ratio is missing.
-- measured twice      the attempt has several numbers of this metric, and nothing says
--                     which of them is the right one.
-- stderr unusable     the number itself is used, but its standard error is negative,
--                     not finite or too large.
CREATE VIEW left_out AS
WITH final AS (
    SELECT attempt, trial, method, model, task, ratio, m.metric, m.value, m.stderr,
           list_filter(measurements, lambda x: x.step IS NULL AND x.metric = m.metric)
               AS same
    FROM (SELECT *, unnest(measurements) AS m
          FROM stored.newest ANTI JOIN stored.superseded USING (trial)
          WHERE status = 'ok' AND NOT coalesce(checked, false))
    WHERE m IS NOT NULL AND m.step IS NULL
)
SELECT * EXCLUDE (same),
       CASE WHEN value IS NULL OR NOT isfinite(value) THEN 'not a number'
            WHEN abs(value) >= 1e150 THEN 'too large'
            WHEN metric IS NULL OR method IS NULL OR model IS NULL OR task IS NULL
                 OR ratio IS NULL OR NOT isfinite(ratio) THEN 'no label'
            WHEN len(same) > 1 THEN 'measured twice'
            ELSE 'stderr unusable' END AS reason
FROM final
WHERE value IS NULL OR NOT isfinite(value) OR abs(value) >= 1e150 OR len(same) > 1
   OR metric IS NULL OR method IS NULL OR model IS NULL OR task IS NULL
   OR ratio IS NULL OR NOT isfinite(ratio) OR NOT (stderr >= 0 AND stderr < 1e150);
