"""A dry run: what a run would do now with each model, and why."""
