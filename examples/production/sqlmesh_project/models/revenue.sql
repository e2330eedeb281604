MODEL (name shop.revenue, kind FULL, cron '*/5 * * * *');

SELECT ordered_on, SUM(amount) AS revenue
FROM shop.orders
GROUP BY ordered_on
