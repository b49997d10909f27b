-- pareto: the rows of `leaderboard` that no other row of the same board beats: none is
-- at least as good in both quality and cost and better in one.
-- cost says which: 'params', 'bytes', 'macs', or a time in milliseconds that another
-- task measured on the same network: 'latency' (a batch of images), 'prefill' (a token
-- read), 'decode' (a token written). One front for each.
-- timed    of a time, the protocol that it was measured with (host and device are part
--          of it; one front for each), else NULL.
CREATE VIEW pareto AS
WITH boards AS (
    SELECT model, model_options, task, task_options, protocol, metric, goal, method,
           method_options, calibration, dtype, ratio, mean, stderr, recovery,
           CASE goal WHEN 'max' THEN mean ELSE -mean END AS quality,
           params::DOUBLE AS params, bytes::DOUBLE AS bytes, macs::DOUBLE AS macs
    FROM leaderboard
), sized AS (
    SELECT *, NULL::VARCHAR AS timed
    FROM (UNPIVOT boards ON params, bytes, macs INTO NAME cost VALUE size)
    UNION ALL BY NAME
    SELECT b.* EXCLUDE (params, bytes, macs), t.cost, t.size, t.timed
    FROM boards AS b JOIN times AS t
        ON  (b.model, b.method, b.ratio) = (t.model, t.method, t.ratio)
        AND b.model_options IS NOT DISTINCT FROM t.model_options
        AND b.method_options IS NOT DISTINCT FROM t.method_options
        AND b.calibration IS NOT DISTINCT FROM t.calibration
        AND b.dtype IS NOT DISTINCT FROM t.dtype
    -- A board of times is not plotted against its own times.
    WHERE b.protocol IS DISTINCT FROM t.timed
)
-- One pass in the order of the cost. best_up_to is the best quality of all rows that cost
-- as much or less; best_smaller that of the rows that cost less, since EXCLUDE GROUP
-- leaves out the rows of equal cost. A row is on the front if it has the former and beats the
-- latter. Comparing all pairs would take the square of the rows.
SELECT * EXCLUDE (quality) FROM (
    SELECT *,
           max(quality) OVER (
               PARTITION BY model, model_options, task, task_options, protocol, metric,
                            cost, timed
               ORDER BY size RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
           ) AS best_up_to,
           max(quality) OVER (
               PARTITION BY model, model_options, task, task_options, protocol, metric,
                            cost, timed
               ORDER BY size RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
               EXCLUDE GROUP
           ) AS best_smaller
    FROM sized
)
WHERE quality = best_up_to AND (best_smaller IS NULL OR quality > best_smaller)
ORDER BY model, task, metric, cost, size;
