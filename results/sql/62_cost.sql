-- cost: one row per method, model and task: what its attempts took, failed ones too.
-- hours is wall time summed over attempts; peak_memory_bytes the largest of any.
CREATE VIEW cost AS
SELECT method, model, task, count(*) AS attempts,
       count(*) FILTER (status = 'ok')      AS ok,
       sum(seconds) / 3600                  AS hours,
       avg(seconds)                         AS seconds,
       avg(fit_seconds)                     AS fit_seconds,
       avg(compress_seconds)                AS compress_seconds,
       avg(evaluate_seconds)                AS evaluate_seconds,
       max(peak_memory_bytes)               AS peak_memory_bytes,
       max(peak_device_bytes)               AS peak_device_bytes
FROM trials
GROUP BY ALL
ORDER BY hours DESC NULLS LAST, method, model, task;
