"""Jobs that show and apply a plan: what the files of this deployment would do to the environment."""
