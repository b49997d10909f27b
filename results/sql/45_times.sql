-- times: one row per configuration of the leaderboard and time that a task of speed measured
-- of it, in milliseconds: cost is 'latency' (a batch of images), 'prefill' (a token
-- read) or 'decode' (a token written).
-- timed    the protocol of the measurement; times compare within one only.
CREATE VIEW times AS
SELECT model, model_options, method, method_options, calibration, dtype, ratio,
       protocol AS timed, replace(metric, '_rate', '') AS cost,
       CASE goal WHEN 'max' THEN 1000 / mean ELSE mean END AS size
FROM leaderboard
WHERE is_speed(task, metric);
