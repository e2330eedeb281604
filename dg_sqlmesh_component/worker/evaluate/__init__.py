"""Compute requested nodes, and send events. The entries are `run.run`, `restatement.restate` and `pending.find_pending`."""
