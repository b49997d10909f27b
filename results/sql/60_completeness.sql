-- completeness: one row per plan: how many of its trials are done, and how many are not.
-- done     'ok', or 'unsupported' (also those that the plan itself ruled out)
-- failed   the attempt that counts ended in any other way
-- missing  never attempted, or cancelled or lost: any run repeats these
CREATE VIEW completeness AS
SELECT p.plan, p.grid, min(p.planned_at) AS planned_at, count(*) AS trials,
       count(*) FILTER (p.unsupported IS NOT NULL
                        OR n.status IN ('ok', 'unsupported')) AS done,
       count(*) FILTER (p.unsupported IS NULL
                        AND n.status NOT IN ('ok', 'unsupported', 'cancelled', 'lost'))
           AS failed,
       count(*) FILTER (p.unsupported IS NULL
                        AND (n.status IS NULL OR n.status IN ('cancelled', 'lost')))
           AS missing
FROM plans AS p LEFT JOIN newest AS n USING (trial)
GROUP BY p.plan, p.grid
ORDER BY planned_at DESC, p.plan;
