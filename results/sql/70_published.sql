-- published: one row a number that a paper's table prints, as results/papers has it;
-- printed is its text, value the number in it (NULL for "OOM" and the like).
CREATE VIEW published AS
SELECT paper_table, paper, source, label, heading, method, model, ratio, task, metric,
       printed, value
FROM stored.comparison;

-- comparison: the same rows with what this store measured for that cell, in the
-- paper's unit, and the verdict; see `shrinkgrid table`.
-- verdict is 'reproduced', 'within interval', 'protocol differs' (reason says in which
-- field), 'not reproduced' or 'not run' (reason says why).
CREATE VIEW comparison AS SELECT * FROM stored.comparison;
