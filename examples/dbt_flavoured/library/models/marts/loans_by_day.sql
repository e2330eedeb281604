{{
  config(
    materialized='incremental',
    incremental_strategy='merge',
    unique_key=['lent_on', 'book_id']
  )
}}

SELECT
  lent_on,
  book_id,
  COUNT(*) AS times_lent
FROM {{ ref('loans') }}
{% if is_incremental() %}
WHERE lent_on >= (SELECT MAX(known.lent_on) FROM {{ this }} AS known)
{% endif %}
GROUP BY lent_on, book_id
