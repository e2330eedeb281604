"""Store and read the manifest, and find out whether it is stale."""
