-- pareto: the rows of `leaderboard` that no other row of the same board beats: none is
-- at least as good in both quality and size and better in one.
-- cost says which size: 'params', 'bytes' or 'macs'; one front for each.
CREATE VIEW pareto AS
WITH sized AS (
    UNPIVOT (
        SELECT model, model_options, task, task_options, protocol, metric, goal, method,
               method_options, ratio, mean, stderr, recovery,
               CASE goal WHEN 'max' THEN mean ELSE -mean END AS quality,
               params::DOUBLE AS params, bytes::DOUBLE AS bytes, macs::DOUBLE AS macs
        FROM leaderboard
    ) ON params, bytes, macs INTO NAME cost VALUE size
)
SELECT * EXCLUDE (quality) FROM (
    SELECT *,
           max(quality) OVER (
               PARTITION BY model, model_options, task, task_options, protocol, metric,
                            cost
               ORDER BY size RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
           ) AS best_up_to,
           max(quality) OVER (
               PARTITION BY model, model_options, task, task_options, protocol, metric,
                            cost
               ORDER BY size RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
               EXCLUDE GROUP
           ) AS best_smaller
    FROM sized
)
WHERE quality = best_up_to AND (best_smaller IS NULL OR quality > best_smaller)
ORDER BY model, task, metric, cost, size;
