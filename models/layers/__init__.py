"""Blocks that more than one system may use: plain ``torch.nn``; a parameter is used in the forward of the module that owns it."""
