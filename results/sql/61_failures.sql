-- failures: one row per trial whose counting attempt did not end well, newest first,
-- with how often it was tried. Unsupported trials are no failures.
CREATE VIEW failures AS
SELECT n.trial, n.attempt, n.status, n.error_class, n.reason, n.method,
       n.method_options, n.model, n.task, n.ratio, n.seed, n.started_at, n.seconds,
       n.host, t.tries, n.traceback
FROM newest AS n
JOIN (SELECT trial, count(*) AS tries FROM trials GROUP BY trial) AS t USING (trial)
WHERE n.status NOT IN ('ok', 'unsupported')
ORDER BY n.started_at DESC, n.trial;
