"""A system for tests alone: its variants fail in known ways, on purpose."""
