"""First floor: the ten systems, plain PyTorch. Knows nothing of Slurm, Hydra, W&B or DeepSpeed."""
