"""How a run is saved and resumed: checkpoints, their manifests, and the writer in the background."""
