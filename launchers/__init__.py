"""Ground floor: how ranks reach machines. Knows nothing of models, Hydra or torch; the worker is started by module name."""
