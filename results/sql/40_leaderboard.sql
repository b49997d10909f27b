-- leaderboard: one row per task, protocol, metric, model, ratio and method (each with
-- its options), best first; metrics that nothing ranks (goal 'none') are left out.
-- mean      over the seeds that are stored.
-- stderr    standard error over seeds where there are two or more (stderr_over is
--           'seeds'), else that of the one trial over its samples ('samples').
-- recovery  share of the dense model's quality that is kept, on the same protocol:
--           mean/dense where more is better, dense/mean where less is; 1 keeps all.
--           NULL where no dense trial is stored.
-- ok, planned  trials that ended well, of those that the newest plan of a grid has or
--           that are stored, with the same options, calibration and dtype.
-- coverage  share of the block weights that the method treats, NULL where it reads no
--           roles; the rest of the blocks stays dense.
-- at_chance whether the metric measured first is not better than guessing by more than two
--           standard errors; NULL where the level of guessing is not known.
-- speed     how many times as fast as the dense model the network was measured to be: the
--           least of what the tasks latency, prefill and decode found, on any host; the
--           same on every row of the network. NULL where none of them ran.
-- Only the model's newest revision counts (see stored.superseded), and of two trials
-- that differ in nothing but the version of a plugin, the newer.
-- main      whether it is the metric that its task measures first.
-- place     ties share one.

-- The same JSON text for equal values, independent of the writer; text that is not JSON stays.
CREATE MACRO canonical(written) AS (
    CASE WHEN json_valid(written) THEN json_extract(written, '$')::VARCHAR
         ELSE written END
);

-- What a task of speed measures; a method's own estimate has the name of another task.
CREATE MACRO is_speed(task, metric) AS (
    (task, metric) IN (('latency', 'latency'), ('prefill', 'prefill_rate'),
                       ('decode', 'decode_rate'))
);

CREATE VIEW leaderboard AS
WITH stored_once AS MATERIALIZED (  -- see results.queries.views
    SELECT attempt, trial, status, started_at, method, method_options, model,
           model_options, task, task_options, protocol, ratio, ratio_of, calibration,
           dtype, achieved_ratio, achieved_params, params, params_nonzero, bytes, macs,
           seconds, coverage, trained_epochs, trained_samples, chance, seed,
           coalesce(model_revision, '') AS revision,
           -- Grouping by a hash of the keys takes a third of the time of the keys; of
           -- a million groups, two share one with a probability of 3 in 10^8.
           hash(task, task_options, protocol, model, model_options, ratio, ratio_of,
                method, method_options, calibration, dtype) AS configuration,
           CASE WHEN status <> 'ok' THEN identity END AS identity,
           checked, measurements
    FROM stored.trials
), revised AS (  -- models whose weights changed, with their newest revision
    SELECT model, model_options, arg_max(revision, started_at) AS newest_revision
    FROM stored_once WHERE status = 'ok'
    GROUP BY model, model_options HAVING count(DISTINCT revision) > 1
), losers AS (  -- attempts that another one replaces
    SELECT attempt
    FROM stored_once
    SEMI JOIN (SELECT configuration, seed FROM stored_once
               GROUP BY configuration, seed HAVING count(*) > 1)
        USING (configuration, seed)
    QUALIFY row_number() OVER (
        PARTITION BY configuration, seed
        ORDER BY status IN ('ok', 'unsupported') DESC, started_at DESC NULLS LAST,
                 attempt DESC
    ) > 1
    UNION
    SELECT attempt
    FROM stored_once JOIN revised USING (model, model_options)
    WHERE revision <> newest_revision
), ranked AS (
    SELECT * EXCLUDE (m, repeated, chance), m.metric, m.value, m.unit, m.goal,
           -- Of the first metric that ranks, which may be left out here for its size.
           CASE WHEN position = first_ranked THEN chance END AS chance,
           CASE WHEN m.stderr >= 0 AND m.stderr < 1e150 THEN m.stderr END AS sample_stderr
    FROM (
        SELECT * EXCLUDE (measurements), unnest(measurements) AS m,
               repeated_metrics(measurements, checked) AS repeated,
               generate_subscripts(measurements, 1) AS position,
               CASE WHEN chance IS NOT NULL THEN list_position(
                   list_transform(measurements,
                                  lambda x: x.goal IN ('min', 'max') AND x.step IS NULL),
                   true) END AS first_ranked
        FROM stored_once ANTI JOIN losers USING (attempt)
        WHERE status = 'ok'
    )
    WHERE m.goal IN ('min', 'max') AND m.step IS NULL AND abs(m.value) < 1e150
      AND m.metric NOT IN repeated
      AND m.metric IS NOT NULL AND method IS NOT NULL AND model IS NOT NULL
      AND task IS NOT NULL AND isfinite(ratio)
), current_plans AS (  -- an older plan may ask for versions that nobody will run
    SELECT arg_max(plan, planned_at) AS plan FROM plans GROUP BY grid
), unfinished AS (  -- trials without a number; lost ones and plans have few columns
    SELECT trial, method, method_options, model, task, task_options, ratio, protocol,
           identity, dtype, calibration, model_options
    FROM stored_once ANTI JOIN losers USING (attempt)
    WHERE status <> 'ok'
    UNION ALL
    SELECT trial, method, method_options, model, task, task_options, ratio, NULL,
           identity, NULL, NULL, NULL
    FROM plans SEMI JOIN current_plans USING (plan) ANTI JOIN stored_once USING (trial)
), described_by_identity AS (
    -- A trial that never ended has few columns; its identity has the others.
    SELECT DISTINCT ON (trial) * EXCLUDE (dtype, calibration, model_options),
           coalesce(json_valid(identity), false) AS known,
           CASE WHEN known THEN json_extract_string(identity, '$.dtype')
                ELSE dtype END AS dtype,
           CASE WHEN known THEN json_extract(identity, '$.calibration')::VARCHAR
                ELSE canonical(calibration) END AS calibration,
           CASE WHEN known THEN json_extract(identity, '$.model[0].options')::VARCHAR
                ELSE canonical(model_options) END AS model_options
    FROM unfinished ANTI JOIN (SELECT trial FROM stored_once WHERE status = 'ok')
        USING (trial)
), intended AS (
    SELECT * EXCLUDE (trial, identity), count(*) AS trials
    FROM described_by_identity GROUP BY ALL
), numbers AS (
    SELECT configuration, metric, unit, goal,
           min(position)             AS position,
           avg(value)                AS mean,
           stddev_samp(value)        AS deviation,
           count(*)                  AS seeds,
           avg(sample_stderr)        AS sample_stderr,
           avg(achieved_ratio)       AS achieved,
           avg(achieved_params)      AS achieved_params,
           avg(coverage)             AS coverage,
           avg(trained_epochs)       AS trained_epochs,
           avg(trained_samples)      AS trained_samples,
           avg(chance)               AS chance,
           avg(params)               AS params,
           avg(params_nonzero)       AS params_nonzero,
           avg(bytes)                AS bytes,
           avg(macs)                 AS macs,
           avg(seconds)              AS seconds
    FROM ranked
    GROUP BY configuration, metric, unit, goal
), described AS (
    SELECT DISTINCT task, task_options, protocol, model, model_options, ratio, ratio_of,
           method, method_options, calibration, dtype, configuration
    FROM stored_once WHERE status = 'ok'
), grouped AS (
    FROM numbers JOIN described USING (configuration)
), more AS (  -- an unknown column of an unfinished trial fits every group
    -- Trials that were intended for a configuration, and have no number.
    SELECT g.configuration, sum(i.trials)::BIGINT AS trials
    FROM described AS g JOIN intended AS i
        ON  (g.method, g.model, g.task, g.ratio) = (i.method, i.model, i.task, i.ratio)
        AND g.method_options IS NOT DISTINCT FROM i.method_options
        AND g.task_options IS NOT DISTINCT FROM i.task_options
        AND coalesce(i.protocol = g.protocol, true)
        AND coalesce(i.dtype = g.dtype, true)
        AND coalesce(i.model_options = canonical(g.model_options), true)
        AND (i.calibration IS NOT DISTINCT FROM canonical(g.calibration)
             OR i.calibration IS NULL AND NOT i.known)
    GROUP BY ALL
), dense AS (
    -- Without the ratio: the dense model is the partner of every ratio.
    SELECT task, task_options, protocol, metric, model, model_options, dtype,
           avg(mean) AS dense
    FROM grouped WHERE method = 'dense'
    GROUP BY ALL
)
SELECT g.task, g.task_options, g.protocol, g.metric, g.unit, g.goal,
       g.model, g.model_options, g.ratio, g.ratio_of, g.method, g.method_options,
       g.calibration, g.dtype,
       -- Position in the list that the task yielded, the primary metric first.
       g.position = min(g.position) OVER (PARTITION BY g.configuration) AS main, g.mean,
       CASE WHEN g.seeds > 1 THEN g.deviation / sqrt(g.seeds)
            ELSE g.sample_stderr END AS stderr,
       CASE WHEN g.seeds > 1 THEN 'seeds'
            WHEN g.sample_stderr IS NOT NULL THEN 'samples' END AS stderr_over,
       -- DuckDB lets a column use the alias of another: stderr is the one above.
       CASE WHEN g.goal = 'max' THEN g.mean - 2 * coalesce(stderr, 0) <= g.chance
            ELSE g.mean + 2 * coalesce(stderr, 0) >= g.chance END AS at_chance,
       g.seeds, d.dense,
       CASE g.goal WHEN 'max' THEN g.mean / nullif(d.dense, 0)
                   ELSE d.dense / nullif(g.mean, 0) END AS recovery,
       g.achieved, g.achieved_params, g.params, g.params_nonzero, g.bytes, g.macs,
       min(CASE WHEN NOT is_speed(g.task, g.metric) THEN NULL
                WHEN g.goal = 'max' THEN g.mean / nullif(d.dense, 0)
                ELSE d.dense / nullif(g.mean, 0) END) OVER (
           PARTITION BY g.model, g.model_options, g.method, g.method_options,
                        g.calibration, g.dtype, g.ratio
       ) AS speed,
       g.seconds, g.coverage, g.trained_epochs, g.trained_samples, g.seeds AS ok,
       g.seeds + coalesce(m.trials, 0) AS planned,
       rank() OVER (
           PARTITION BY g.task, g.task_options, g.protocol, g.metric, g.model,
                        g.model_options, g.ratio
           ORDER BY CASE g.goal WHEN 'max' THEN -g.mean ELSE g.mean END
       ) AS place
FROM grouped AS g
LEFT JOIN dense AS d
    ON  (g.task, g.metric, g.model) = (d.task, d.metric, d.model)
    AND g.task_options IS NOT DISTINCT FROM d.task_options
    AND g.protocol IS NOT DISTINCT FROM d.protocol
    AND g.model_options IS NOT DISTINCT FROM d.model_options
    AND g.dtype IS NOT DISTINCT FROM d.dtype
LEFT JOIN more AS m ON g.configuration = m.configuration
ORDER BY g.model, g.task, g.metric, g.method <> 'dense', g.ratio, place, g.method,
         -- Rows of two boards tie: the same store gives the same order every time.
         g.method_options, g.task_options, g.model_options, g.protocol, g.calibration,
         g.dtype;
