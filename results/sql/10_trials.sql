-- trials: one row an attempt, every one that was ever stored; no row is ever changed.
-- Columns: results/schema.py. NULL is "not known" or "does not apply", never zero.
CREATE VIEW trials AS
SELECT * EXCLUDE (measurements) FROM stored.trials;

-- The metrics of which a trial has several final numbers; empty for most trials. The
-- writer looked at the numbers of a checked trial, which is much faster.
CREATE MACRO repeated_metrics(measured, checked) AS (
    CASE WHEN checked THEN []::VARCHAR[]
         WHEN list_unique([m.metric FOR m IN measured IF m.step IS NULL])
              = len([m.metric FOR m IN measured IF m.step IS NULL])
         THEN []::VARCHAR[]
         ELSE [m.metric FOR m IN measured
               IF m.step IS NULL
               AND len([x.metric FOR x IN measured
                        IF x.step IS NULL AND x.metric = m.metric]) > 1] END
);

-- measurements: one row per number that a trial measured.
-- step is the epoch or step of a training curve, NULL for a final number.
CREATE VIEW measurements AS
SELECT attempt, m.metric, m.value, m.unit, m.goal, m.stderr, m.n, m.step
FROM (SELECT attempt, unnest(measurements) AS m FROM stored.trials)
WHERE isfinite(m.value);

-- samples: one row an attempt and metric, with the per-sample values in a list.
CREATE VIEW samples AS SELECT * FROM stored.samples;

-- layers: one row per attempt and layer of its compressed network, of the layers with a
-- role; none for an attempt whose network has every layer as the dense one has it.
-- A tensor that n layers share counts 1/n in each of them.
CREATE VIEW layers AS
SELECT *, params / params_dense AS kept,
       1 - nonzero / nullif(params, 0) AS sparsity,
       8 * bytes / params_dense AS bits
FROM stored.layers;

-- plans: one row per trial of a grid that was run; a trial may be in many plans.
CREATE VIEW plans AS SELECT * FROM stored.plans;
