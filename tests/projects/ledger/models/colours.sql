MODEL (name t.colours, kind SEED (path '../seeds/colours.csv'), columns (id INT, colour TEXT));
