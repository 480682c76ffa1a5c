"""Planning: what a run will need, predicted before it is submitted, with no weight allocated."""
