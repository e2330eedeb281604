SELECT CAST(exhibition_id AS BIGINT) AS exhibition_id, title, CAST(price AS DECIMAL(6, 2)) AS price
FROM (VALUES (1, 'Minerals', 8), (2, 'Fossils', 9.5), (3, 'Meteorites', 12)) AS program(exhibition_id, title, price)
