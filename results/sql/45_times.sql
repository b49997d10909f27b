-- times: one row per configuration of the leaderboard and time that a task of speed measured
-- of it, in milliseconds: cost is 'latency' (a batch of images), 'prefill' (a token
-- read) or 'decode' (a token written).
-- A method's own estimate under such a name, on another task, is none of these.
-- timed    the protocol of the measurement; times compare within one only.
CREATE VIEW times AS
SELECT model, model_options, method, method_options, calibration, dtype, ratio,
       protocol AS timed, replace(metric, '_rate', '') AS cost,
       CASE goal WHEN 'max' THEN 1000 / mean ELSE mean END AS size
FROM leaderboard
WHERE (task, metric) IN (
    ('latency', 'latency'), ('prefill', 'prefill_rate'), ('decode', 'decode_rate')
);
