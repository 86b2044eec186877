"""Reinforcement learning: rollouts, rewards, and the losses of policy-gradient methods and DPO."""
