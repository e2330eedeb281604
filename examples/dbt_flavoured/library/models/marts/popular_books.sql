SELECT
  books.title,
  SUM(loans_by_day.times_lent) AS times_lent,
  MAX(books.copies) AS copies
FROM {{ ref('loans_by_day') }} AS loans_by_day
JOIN {{ ref('books') }} AS books
  ON loans_by_day.book_id = books.book_id
GROUP BY books.title
