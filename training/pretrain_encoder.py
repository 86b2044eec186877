"""Train an encoder to guess masked words, from text to a directory that anyone can load and classifiers start from.

    accelerate launch training/pretrain_encoder.py                        # built-in stories, minutes on two cores
    accelerate launch training/pretrain_encoder.py --dataset my_text.txt --output_dir runs/mine
    accelerate launch training/train_classifier.py --init_from runs/encoder --dataset reviews.tsv

The folder that it leaves holds weights, config, tokenizer, the code of the model, card and loss curve:

    pipeline("fill-mask", "runs/encoder", trust_remote_code=True)
"""

from scratch_gpt.train.engine.command import run_command
from scratch_gpt.train.jobs import encoder, train

if __name__ == "__main__":
    run_command(lambda: train(encoder, __doc__ or ""))
