"""Policy-gradient methods: PPO, REINFORCE and GRPO."""
