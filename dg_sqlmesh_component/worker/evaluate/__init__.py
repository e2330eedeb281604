"""Run requested nodes with one `Context.run`, and send events. The entry is `evaluation.evaluate`."""
