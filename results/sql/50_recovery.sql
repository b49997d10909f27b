-- recovery: one row per model, task, metric, method and ratio: the common axis of all
-- families. 1 keeps all of the dense model's quality, 0.9 a tenth less; see
-- `leaderboard` for the two directions. Rows without a dense partner are left out.
CREATE VIEW recovery AS
SELECT model, task, task_options, protocol, metric, goal, method, method_options,
       ratio, achieved, mean, dense, recovery, seeds
FROM leaderboard
WHERE recovery IS NOT NULL;
