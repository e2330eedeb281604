"""Compute requested nodes, and send events. Entries: `run.run`, `restatement.restate`, `pending.find_pending`."""
