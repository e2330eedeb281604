MODEL (
  name museum.daily_sales,
  kind INCREMENTAL_BY_TIME_RANGE (time_column sold_on),
  description 'Sold tickets of each day and exhibition.',
  grain (sold_on, title),
  audits (not_null(columns := (title, revenue)))
);

SELECT
  sold.sold_on, -- Day of the sale.
  exhibitions.title, -- Exhibition that the tickets are for.
  COUNT(*) AS tickets, -- How many.
  SUM(exhibitions.price) AS revenue -- What they cost, all together.
FROM tickets.sold AS sold
JOIN program.exhibitions AS exhibitions
  ON sold.exhibition_id = exhibitions.exhibition_id
WHERE
  sold.sold_on BETWEEN @start_ds AND @end_ds
GROUP BY
  sold.sold_on,
  exhibitions.title
