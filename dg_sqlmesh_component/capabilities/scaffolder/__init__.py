"""`dg scaffold`: a `defs.yaml`, and a starter project."""
