MODEL (name t."Odd Name-x", kind FULL);
SELECT 1 AS "A Column"
