"""Plans: what the files of the project would do to an environment, and doing it."""
