-- steps: one row an attempt that ended 'ok': the seconds that each step took in it.
-- load, fit and compress are NULL where an earlier trial of the bundle had done them.
-- load_seconds is what nothing else explains: loading, measuring, storing.
CREATE VIEW steps AS
WITH placed AS (
    SELECT *,
           row_number() OVER (PARTITION BY coalesce(bundle, attempt)
                              ORDER BY started_at, attempt) = 1 AS is_first,
           row_number() OVER (PARTITION BY coalesce(bundle, attempt), ratio
                              ORDER BY started_at, attempt) = 1 AS is_new_ratio
    FROM trials
    WHERE status = 'ok'
)
SELECT attempt, bundle, method, method_options, model, model_options, task,
       task_options, calibration, protocol_fields, ratio, dtype, device, threads,
       placement, seconds,
       CASE WHEN is_first THEN greatest(0, seconds - coalesce(fit_seconds, 0)
            - coalesce(compress_seconds, 0) - coalesce(evaluate_seconds, 0)) END
                                              AS load_seconds,
       CASE WHEN is_first THEN fit_seconds END AS fit_seconds,
       CASE WHEN is_first THEN compress_seconds
            WHEN is_new_ratio THEN greatest(compress_seconds, seconds - evaluate_seconds)
            END                               AS compress_seconds,
       coalesce(evaluate_seconds, seconds)    AS evaluate_seconds,
       peak_memory_bytes, peak_device_bytes, bytes_dense, params_dense
FROM placed
ORDER BY attempt;
