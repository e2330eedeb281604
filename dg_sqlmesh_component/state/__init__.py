"""Where the manifest is kept, and whether it still describes the project."""
