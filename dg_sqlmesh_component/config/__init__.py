"""What a user may write: attributes of `defs.yaml`, and the run config."""
