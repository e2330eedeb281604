"""Request -> one `Context.run` -> events."""
