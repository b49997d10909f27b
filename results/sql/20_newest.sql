-- newest: one row per trial, the attempt that counts.
-- The newest FINISHED attempt ('ok' or 'unsupported') where there is one, else the
-- newest of all: a retry that was killed never hides a number that stands, and a
-- refreshed number replaces the old one. Ties in time go to the larger attempt id.
-- stored.newest has the measurements of a trial beside it, in a list.
CREATE VIEW stored.newest AS
WITH stored_once AS MATERIALIZED (  -- see results.queries.views
    FROM stored.trials
), older AS (
    SELECT attempt FROM stored_once
    -- Few trials have several attempts: only these are sorted, without their numbers.
    SEMI JOIN (SELECT trial FROM stored_once GROUP BY trial HAVING count(*) > 1)
        USING (trial)
    QUALIFY row_number() OVER (
        PARTITION BY trial
        ORDER BY status IN ('ok', 'unsupported') DESC, started_at DESC NULLS LAST,
                 attempt DESC
    ) > 1
)
FROM stored_once ANTI JOIN older USING (attempt);

CREATE VIEW newest AS SELECT * EXCLUDE (measurements) FROM stored.newest;

-- stored.superseded: finished trials whose numbers no longer are what their labels say:
-- the model in that place has other weights by now, or a plugin has another version.
CREATE VIEW stored.superseded AS
WITH finished AS (
    SELECT trial, attempt, started_at, model, model_options,
           coalesce(model_revision, '') AS revision,
           hash(method, method_options, model, model_options, task, task_options,
                protocol, ratio, seed, dtype, calibration) AS point
    FROM stored.newest WHERE status = 'ok'
), revised AS (
    SELECT model, model_options, arg_max(revision, started_at) AS newest_revision
    FROM finished GROUP BY model, model_options HAVING count(DISTINCT revision) > 1
)
SELECT trial FROM finished
-- Few points have several trials: only these are sorted.
SEMI JOIN (SELECT point FROM finished GROUP BY point HAVING count(*) > 1) USING (point)
QUALIFY row_number() OVER (
    PARTITION BY point ORDER BY started_at DESC NULLS LAST, attempt DESC
) > 1
UNION
SELECT trial FROM finished JOIN revised USING (model, model_options)
WHERE revision <> newest_revision;
