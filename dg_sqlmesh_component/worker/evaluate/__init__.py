"""Compute requested nodes, and send events. Entries: `serve.serve_evaluation`, `pending.find_pending`."""
