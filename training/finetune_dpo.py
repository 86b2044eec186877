"""Teach a GPT what is preferred, from pairs of completions to a directory that anyone can load (DPO).

scratch-gpt pairs runs/gpt --reward "re:glad|happy|proud" --output pairs.jsonl
accelerate launch training/finetune_dpo.py --init_from runs/gpt --dataset pairs.jsonl
accelerate launch training/finetune_dpo.py --init_from USER/MODEL --dataset USER/DATASET --beta 0.05
"""

from scratch_gpt.train.engine.command import run_command
from scratch_gpt.train.jobs import dpo, train

if __name__ == "__main__":
    run_command(lambda: train(dpo, __doc__ or ""))
