"""Running checks: batches made a second time, plainly, and compared."""
