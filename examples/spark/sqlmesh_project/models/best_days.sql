MODEL (name shop.best_days, kind VIEW);

SELECT ordered_on, revenue
FROM shop.daily_revenue
WHERE revenue > 1700
