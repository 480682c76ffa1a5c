"""A system whose training is a pure function of seed and step: for runs that go on with another number of ranks."""
