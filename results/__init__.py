"""Ground floor: what runs leave behind, and everything that is read from it.

Nothing here imports torch, Hydra or another floor of the house. The run folder is the truth; records, tables, plots, the
report and W&B runs are views of it.
"""
