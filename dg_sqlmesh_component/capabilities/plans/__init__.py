"""Plans, applies and previews: jobs that show what the files would do, and do what was approved."""
