"""Everything that users configure: the attributes of `defs.yaml`, and the run config."""
