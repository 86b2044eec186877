"""Reward what a GPT writes: by PPO, REINFORCE or group-relative advantages, from prompts to a directory that anyone can
load.

    accelerate launch training/finetune_ppo.py --init_from runs/gpt --reward "re:glad|happy|proud"
    accelerate launch training/finetune_ppo.py --init_from runs/gpt --reward rewards.py:short --dataset PROMPTS.txt
    accelerate launch training/finetune_ppo.py --init_from runs/gpt --reward runs/sentiment#positive --algorithm grpo

The folder that it leaves holds weights, config, tokenizer, the code of the model, card and curves. The value head that
PPO learns beside them stays in the run's checkpoints.
"""

from scratch_gpt.train.engine.command import run_command
from scratch_gpt.train.jobs import ppo, train

if __name__ == "__main__":
    run_command(lambda: train(ppo, __doc__ or ""))
