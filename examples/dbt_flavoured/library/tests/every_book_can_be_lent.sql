-- A singular test: a query for bad rows.
{{ config(severity='warn', tags=['nightly']) }}

SELECT *
FROM {{ ref('popular_books') }}
WHERE copies = 0
