"""Compute requested nodes, and send events. Entries: `run.run`, `restatement.restate`, `dry_run.dry_run`,
`pending.find_pending`."""
