"""Weather-prediction backbones under one protocol: Navier-Stokes experiment (Karlbauer et al. 2024, arXiv 2407.14129)."""
