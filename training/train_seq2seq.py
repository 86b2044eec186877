"""Train an encoder-decoder to translate, from pairs of sentences to a directory that anyone can load.

    accelerate launch training/train_seq2seq.py                           # built-in German to English, minutes
    accelerate launch training/train_seq2seq.py --dataset FOLDER --source_lang fr --target_lang en
    accelerate launch training/train_seq2seq.py --config training/configs/german_grammar.yaml

The folder that it leaves holds weights, config, tokenizer, the code of model and pipeline, card and loss curve:

    pipeline("translation_de_to_en", "runs/seq2seq", trust_remote_code=True)
"""

from scratch_gpt.train.engine.command import run_command
from scratch_gpt.train.jobs import seq2seq, train

if __name__ == "__main__":
    run_command(lambda: train(seq2seq, __doc__ or ""))
