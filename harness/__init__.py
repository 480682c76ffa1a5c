"""Top floor: composes an experiment, plans it, runs it on every rank, measures it, and answers the command line."""

__version__ = "0.1.0"
