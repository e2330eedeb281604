"""What SQLMesh computes: batches, failures and audits as events."""
