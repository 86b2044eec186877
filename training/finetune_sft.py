"""Teach a pre-trained GPT to answer, from conversations to a directory that anyone can load and talk to.

    accelerate launch training/finetune_sft.py --init_from runs/gpt                     # built-in questions, minutes
    accelerate launch training/finetune_sft.py --init_from runs/gpt --dataset PATH.json
    accelerate launch training/finetune_sft.py --init_from USER/MODEL --dataset USER/DATASET --epochs 2

Only what the assistant says is learned. The folder that it leaves holds weights, config, tokenizer with its chat
template, the code of the model, card and loss curve:

    pipeline("text-generation", "runs/sft", trust_remote_code=True)([{"role": "user", "content": "…"}])
"""

from scratch_gpt.train.engine.command import run_command
from scratch_gpt.train.jobs import sft, train

if __name__ == "__main__":
    run_command(lambda: train(sft, __doc__ or ""))
