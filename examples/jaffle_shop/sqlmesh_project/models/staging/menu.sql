MODEL (
  name staging.menu,
  kind SEED (path '../../seeds/menu.csv'),
  description 'What can be ordered.',
  columns (item_id INT, item TEXT, price DECIMAL(10, 2)),
  grain item_id
);
