"""Learning from rewards: what is sampled, how it is judged, and the losses of the policy gradient."""
