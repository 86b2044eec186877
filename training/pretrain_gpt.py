"""Train a GPT from text to a directory that anyone can load.

    accelerate launch training/pretrain_gpt.py                            # built-in stories, minutes on two cores
    accelerate launch training/pretrain_gpt.py --dataset my_text.txt --output_dir runs/mine
    accelerate launch training/pretrain_gpt.py --config training/configs/tinyshakespeare_char.yaml --dataset FILE

The folder that it leaves holds weights, config, tokenizer, model code, card and loss curve:

    pipeline("text-generation", "runs/mine", trust_remote_code=True)
"""

from scratch_gpt.train.engine.command import run_command
from scratch_gpt.train.jobs import gpt, train

if __name__ == "__main__":
    run_command(lambda: train(gpt, __doc__ or ""))
