"""What SQLMesh computes: batches, failures and audits as events, and intervals that it computes again."""
