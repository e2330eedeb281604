MODEL (
  name reference.products,
  kind SEED (
    path '../../seeds/products.csv'
  ),
  description 'The product catalogue, kept by hand in seeds/products.csv.',
  owner 'analytics@example.com',
  grain product_id,
  columns (
    product_id INT,
    product_name TEXT,
    category TEXT,
    list_price DECIMAL(10, 2)
  ),
  column_descriptions (
    product_id = 'Identifies the product in every order.',
    product_name = 'Name shown in the shop.',
    category = 'Shelf on which the product is sold.',
    list_price = 'Price of one piece, in euros.'
  )
);
