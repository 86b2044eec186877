"""Knowledge distillation: a small GPT learns from the predictions of a larger one."""
