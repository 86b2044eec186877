"""Translation end to end: training, its output, loading without the package, the Hub, the commands."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from helpers.hub import hub_environment, push
from helpers.loopback_hub import running_hub
from helpers.models import tiny_seq2seq_config
from helpers.processes import PROJECT, TWO_PROCESSES, run_here, run_python
from helpers.translation import TINY, TRAIN, scratch_gpt, train
from safetensors.torch import load_file
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    pipeline,
)

from scratch_gpt import ScratchSeq2SeqForConditionalGeneration, train_tokenizer
from scratch_gpt.data.readers.parallel import open_pairs
from scratch_gpt.data.readers.tables import ReadOptions
from scratch_gpt.evaluation.translation import moses_bleu, signatures, translate, translation_scores

SENTENCES = ["Der Mann kauft das Buch.", "Gestern hat eine Frau die Tür nicht aufgemacht, weil das Kind schläft.", "Ja"]

LOAD_WITHOUT_PACKAGE = """
import json, sys
sys.modules["scratch_gpt"] = None  # as if it were not installed
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer, pipeline
torch.set_num_threads(1)
name, revision, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
remote = {} if revision == "native" else {"revision": revision, "trust_remote_code": True}
config = AutoConfig.from_pretrained(name, **remote)
tokenizer = AutoTokenizer.from_pretrained(name, **remote)
target = tokenizer
if getattr(config, "target_tokenizer", False):
    target = AutoTokenizer.from_pretrained(name, subfolder="target_tokenizer", **remote)
model = AutoModelForSeq2SeqLM.from_pretrained(name, **remote)
trunk = AutoModel.from_pretrained(name, **remote)
inputs = tokenizer(texts, return_tensors="pt", padding=True)
inputs.pop("token_type_ids", None)
decoder = {"decoder_input_ids": torch.zeros(len(texts), 1, dtype=torch.long)}
assert torch.equal(trunk(**inputs, **decoder).last_hidden_state, model.model(**inputs, **decoder).last_hidden_state)
outputs = [target.decode(row, skip_special_tokens=True).strip() for row in model.generate(**inputs, max_new_tokens=20)]
piped = None
if revision != "native":
    translate_pipe = pipeline("translation_de_to_en", name, **remote)
    piped = [result["translation_text"] for result in translate_pipe(texts, max_new_tokens=20)]
    assert translate_pipe(texts[0], max_new_tokens=20) == {"translation_text": piped[0]}
print(json.dumps([type(model).__module__.split(".")[0], outputs, piped]))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A short run with preset 'vaswani2017' and averaged weights."""
    folder = tmp_path_factory.mktemp("translation") / "run"
    options = ("--preset", "vaswani2017", "--max_steps", "8", "--eval_every", "4", "--keep_last", "9")
    train(folder, *options, "--average_decay", "0.9", "--dropout", "0.2", "--schedule", "inverse_sqrt")
    return folder


@pytest.fixture(scope="module")
def two_vocabularies(tmp_path_factory) -> Path:
    """A short run with preset 'modern' and a vocabulary for each language."""
    folder = tmp_path_factory.mktemp("translation") / "two"
    train(folder, "--max_steps", "8", "--separate_vocabularies", "--metric_for_best_model", "val_bleu")
    return folder


def test_run_writes_a_model_directory_and_its_record(run):
    names = {path.name for path in run.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "README.md", "loss.png", "metrics.jsonl", "run.yaml"} <= names
    assert {"modeling_scratch_seq2seq.py", "pipeline_scratch_translation.py", "block.py"} <= names
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = rows[-1]
    assert {"val_loss", "val_bleu", "val_bleu_lowercase", "val_chrf", "val_exact", "sample"} <= last.keys()

    # The recorded metrics are those of the published weights; they are recomputed here.
    model = AutoModelForSeq2SeqLM.from_pretrained(run).eval()
    tokenizer = AutoTokenizer.from_pretrained(run)
    pairs = list(open_pairs("grammar", "de", "en", ReadOptions(split="validation"), num_pairs=100).read())
    outputs = translate(model, tokenizer, [pair[0] for pair in pairs], num_beams=1)
    scores = translation_scores(outputs, [pair[1] for pair in pairs])
    best = min((row for row in rows if "val_loss" in row), key=lambda row: row["val_loss"])
    assert scores["chrf"] == pytest.approx(best["val_chrf"], abs=1e-6)
    total = count = 0
    for source, target in pairs:
        labels = tokenizer(target, return_tensors="pt").input_ids
        total += model(**_encoded(tokenizer, source), labels=labels).loss.item() * labels.numel()
        count += labels.numel()
    assert total / count == pytest.approx(best["val_loss"], rel=1e-4)
    checkpoint = load_file(run / "checkpoints" / f"step-{best['step']:08d}" / "model.safetensors")
    own = checkpoint["model.encoder.embed_tokens.weight"]
    assert not torch.equal(own, model.get_input_embeddings().weight)  # the averaged weights are published

    card = (run / "README.md").read_text()
    assert f"{best['val_bleu']:,.4f}" in card
    assert signatures()["bleu"].replace("|", "\\|") in card  # escaped, as it is in a table
    assert "pipeline('translation_de_to_en'" in card
    assert "text-generation" not in card


def _encoded(tokenizer, text: str) -> dict[str, torch.Tensor]:
    encoded = tokenizer(text, return_tensors="pt")
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def test_resumed_run_equals_an_uninterrupted_one(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints" / "step-00000008")
    run_here(TRAIN, "--output_dir", str(copy), "--resume")
    for name in ("model.safetensors", "training_state.safetensors"):
        whole, resumed = (load_file(folder / "checkpoints" / "step-00000008" / name) for folder in (run, copy))
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(resumed[key], tensor) for key, tensor in whole.items())
    assert any(name.startswith("average.") for name in whole)
    published = load_file(run / "model.safetensors"), load_file(copy / "model.safetensors")
    assert all(torch.equal(published[1][key], tensor) for key, tensor in published[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run", "two_vocabularies"])
def test_translations_are_the_same_without_the_package(name, request, tmp_path):
    folder = request.getfixturevalue(name)
    cache = {"HF_HOME": str(tmp_path / "hf"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = ("-I", "-c", LOAD_WITHOUT_PACKAGE, str(folder), "main", json.dumps(SENTENCES))
    result = run_python(*command, cwd=tmp_path, **cache)
    module, outputs, piped = json.loads(result.stdout.strip().splitlines()[-1])
    assert module == "transformers_modules"
    assert outputs == piped
    ours = pipeline("seq2seq-translation", str(folder))  # importing the package registers this task
    assert [found["translation_text"] for found in ours(SENTENCES, max_new_tokens=20)] == outputs
    assert any(outputs)
    if name == "two_vocabularies":
        assert (folder / "target_tokenizer" / "tokenizer.json").exists()
        assert ours.target_tokenizer.get_vocab() != ours.tokenizer.get_vocab()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run", "two_vocabularies"])
def test_pushed_model_loads_by_name(name, request, tmp_path):
    folder = request.getfixturevalue(name)
    revisions = ["scratch_gpt", "native"] if name == "run" else ["main"]
    with running_hub() as hub:
        result = push(hub, tmp_path / "home", str(folder), "tester/german", "--yes")
        assert result.returncode == 0, result.stderr
        sent = hub.repositories["tester/german"].revisions[revisions[0]]
        assert ("target_tokenizer/tokenizer.json" in sent) == (name == "two_vocabularies")
        assert "pipeline_scratch_translation.py" in sent
        outputs = []
        for revision in revisions:
            elsewhere = tmp_path / revision
            elsewhere.mkdir()
            environment = hub_environment(hub, elsewhere / "home")
            environment.pop("HF_TOKEN")
            arguments = ("-I", "-c", LOAD_WITHOUT_PACKAGE, "tester/german", revision, json.dumps(SENTENCES))
            loaded = run_python(*arguments, env=environment, cwd=elsewhere)
            outputs.append(json.loads(loaded.stdout.strip().splitlines()[-1]))
    assert [output[0] for output in outputs] == ["transformers_modules", "transformers"][: len(outputs)]
    assert all(output[1] == outputs[0][1] for output in outputs)


def test_translate_and_evaluate_agree_with_the_metrics_of_the_run(run, tmp_path):
    (tmp_path / "in.txt").write_text(f"{SENTENCES[0]}\n\n{SENTENCES[1]}\n")
    greedy = ("--num_beams", "1")
    done = scratch_gpt("translate", str(run), "--file", "in.txt", "--output", "out.txt", *greedy, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "out.txt").read_text().split("\n")
    assert lines[1] == ""
    plotted = scratch_gpt("translate", str(run), SENTENCES[0], *greedy, "--attention", "a.png", cwd=tmp_path)
    assert plotted.stdout.splitlines()[0] == lines[0]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    options = ("--dataset", "grammar", "--split", "validation", "--num_pairs", "100", "--seed", "0", *greedy)
    scored = scratch_gpt("evaluate", str(run), *options, cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = min((row for row in rows if "val_loss" in row), key=lambda row: row["val_loss"])
    assert re.search(rf"chrf\s*│\s*{best['val_chrf']:.2f}", scored.stdout)
    assert signatures()["chrf"] in scored.stdout
    assert re.search(r"bleu, Moses tokens\s*│\s*\d+\.\d\d", scored.stdout)


def test_cross_attention_between_words_sums_to_one(run):
    from scratch_gpt.evaluation.cross_attention import word_attention

    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(run).eval(), AutoTokenizer.from_pretrained(run)
    text, translation = "Der Mann, der schläft, kauft Gartenlampen.", "The man buys garden lamps."
    source, target, matrix = word_attention(model, tokenizer, tokenizer, text, translation)
    assert source == ["Der", "Mann", ",", "der", "schläft", ",", "kauft", "Gartenlampen", ".", "<eos>"]
    assert target == ["The", "man", "buys", "garden", "lamps", ".", "<eos>"]
    assert matrix.shape == (7, 10)
    torch.testing.assert_close(matrix.sum(1), torch.ones(7))
    assert model.config._attn_implementation == "sdpa"  # the implementation is restored


def test_scores_have_the_signature_of_sacrebleu():
    texts = ["The dog runs in the garden .", "Two men"], ["the dog runs in the garden .", "Two men laugh"]
    scores = translation_scores(*texts)
    assert scores["bleu_lowercase"] > scores["bleu"]
    assert scores["exact"] == 0.0
    assert signatures()["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a")
    assert moses_bleu(["A dog's ball."], ["a dog's ball."], "en") == pytest.approx(100)


@pytest.mark.slow
def test_both_directions_are_trained(tmp_path):
    """There are twice as many training pairs and as many validation pairs; runs of one direction continue from it."""
    train(tmp_path / "one", "--max_steps", "1")
    train(tmp_path / "both", "--max_steps", "1", "--both_directions")
    one, both = (yaml.safe_load((tmp_path / name / "run.yaml").read_text())["facts"] for name in ("one", "both"))
    assert both["train"]["pairs"] == 2 * one["train"]["pairs"]
    assert both["train"]["source_tokens"] == one["train"]["source_tokens"] + one["train"]["target_tokens"]
    assert both["validation"] == one["validation"]
    further = ("--dataset", "grammar", "--num_pairs", "400", "--max_steps", "1", "--num_threads", "1")
    for languages in (("de", "en"), ("en", "de")):
        folder, named = tmp_path / "_".join(languages), ("--source_lang", languages[0], "--target_lang", languages[1])
        run_here("scratch-gpt", "evaluate", str(tmp_path / "both"), *further[:4], *named, "--num_beams", "1")
        run_here(TRAIN, "--output_dir", str(folder), "--init_from", str(tmp_path / "both"), *further, *named)
        assert yaml.safe_load((folder / "run.yaml").read_text())["facts"]["train"]["pairs"] == 400
        config = json.loads((folder / "config.json").read_text())
        assert list(config["custom_pipelines"]) == ["translation_{}_to_{}".format(*languages)]
    both = json.loads((tmp_path / "both" / "config.json").read_text())
    assert set(both["custom_pipelines"]) == {"translation_de_to_en", "translation_en_to_de"}


@pytest.mark.slow
def test_hugging_face_trainer_trains_the_model(tmp_path):
    """Four accumulated batches of two give the same weights as one batch of eight."""
    pairs = list(open_pairs("grammar", "de", "en", num_pairs=32).read())
    tokenizer = train_tokenizer([text for pair in pairs for text in pair], "word", template="seq2seq")
    rows = []
    for source, target in pairs:
        rows.append({**{n: t[0].tolist() for n, t in _encoded(tokenizer, source).items()}})
        rows[-1]["labels"] = tokenizer(target).input_ids
    weights = []
    for batch, accumulation in ((8, 1), (2, 4)):
        torch.manual_seed(0)
        overrides = {"residual_dropout": 0.0, "embedding_dropout": 0.0, "label_smoothing": 0.0}
        overrides["output_projection_init"] = "normal"  # a few steps are too few for zero-initialised branches
        config = tiny_seq2seq_config("modern", vocab_size=len(tokenizer), **overrides)
        model = ScratchSeq2SeqForConditionalGeneration(config)
        args = Seq2SeqTrainingArguments(
            str(tmp_path / str(batch)),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            max_steps=24,
            learning_rate=5e-3,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            seed=0,
            predict_with_generate=True,
            generation_max_length=8,
        )
        collator = DataCollatorForSeq2Seq(tokenizer, model=model, return_tensors="pt")
        trainer = Seq2SeqTrainer(
            model=model, args=args, train_dataset=rows, eval_dataset=rows[:4], data_collator=collator
        )
        before = trainer.evaluate()["eval_loss"]
        trainer.train()
        assert trainer.evaluate()["eval_loss"] < before - 0.5
        weights.append({name: parameter.detach().clone() for name, parameter in model.named_parameters()})
        assert trainer.predict(rows[:2]).predictions.shape[0] == 2
    for name, parameter in weights[0].items():
        torch.testing.assert_close(weights[1][name], parameter, atol=2e-3, rtol=1e-2, msg=name)


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(tmp_path):
    options = ("--output_dir", "RUN", *TINY, "--max_steps", "4", "--eval_every", "2", "--dropout", "0")
    one, two = tmp_path / "one", tmp_path / "two"
    alone = [option.replace("RUN", str(one)) for option in options]
    run_here(TRAIN, *alone, "--gradient_accumulation_steps", "2")
    run_python(*TWO_PROCESSES, TRAIN, *[option.replace("RUN", str(two)) for option in options], cwd=PROJECT)
    rows = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, two)]
    for single, double in zip(*rows, strict=True):
        assert double["train_loss"] == pytest.approx(single["train_loss"], abs=1e-4)
        assert double["tokens"] == single["tokens"]
        if "val_loss" in single:
            assert double["val_loss"] == pytest.approx(single["val_loss"], abs=1e-4)
            assert double["val_chrf"] == pytest.approx(single["val_chrf"], abs=0.5)


@pytest.mark.slow
def test_init_from_continues_and_a_native_round_trip_keeps_translations(run, two_vocabularies, tmp_path):
    """Training continues from a checkpoint; its native export and the re-imported model give the same translations."""
    train_options = ("--init_from", str(run), "--num_pairs", "400", "--max_steps", "2", "--precision", "fp32")
    run_here(TRAIN, "--output_dir", str(tmp_path / "further"), *train_options)
    vaswani = tmp_path / "two"
    train(vaswani, "--max_steps", "1", "--preset", "vaswani2017", "--separate_vocabularies")
    expected = scratch_gpt("translate", str(vaswani), SENTENCES[0], "--num_beams", "1", cwd=tmp_path).stdout
    assert scratch_gpt("export", str(vaswani), "native", cwd=tmp_path).returncode == 0
    assert scratch_gpt("import", "native", "imported", cwd=tmp_path).returncode == 0
    for folder in ("native", "imported"):
        found = scratch_gpt("translate", folder, SENTENCES[0], "--num_beams", "1", cwd=tmp_path)
        assert found.stdout == expected, found.stderr
    continued = run_here(TRAIN, "--init_from", "native", "--output_dir", "more", *train_options[2:], cwd=tmp_path)
    assert "imported native (MarianMTModel)" in continued.stdout


def test_added_tokens_survive_a_reload(run, tmp_path):
    model = AutoModelForSeq2SeqLM.from_pretrained(run)
    size = model.config.vocab_size
    model.resize_token_embeddings(size + 5, mean_resizing=False)
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert reloaded.lm_head.weight.shape[0] == reloaded.config.decoder_vocab_size == size + 5
    assert reloaded.lm_head.weight is reloaded.model.encoder.embed_tokens.weight
