"""Code examples of a model card: loading with a pipeline, with the Auto classes, and with the package."""

from __future__ import annotations

from dataclasses import dataclass

CODE_REVISION = "scratch_gpt"  # revision of a repository with our code, beside the main one in transformers' own class
PLACEHOLDER = '"PATH_OR_ID"'  # name of the model in the examples of a card
REMOTE_CODE = ", trust_remote_code=True"


@dataclass(frozen=True)
class Usage:
    """Jinja templates of Python code for a kind of model, with OPTIONS for the arguments that depend on the revision.

    Attributes:
        pipeline: code that uses the model with a pipeline.
        auto_class: name of the Auto class that loads the model.
        call: code that uses the loaded `model` and `tokenizer`.
        with_package: code that loads the model if scratch_gpt is installed. Default: the Auto class.
        native_pipeline: whether transformers has this pipeline for its own classes.
    """

    pipeline: str
    auto_class: str
    call: str
    with_package: str = ""
    native_pipeline: bool = True

    def blocks(self, native: bool) -> dict[str, str]:
        """Return the code examples by name.

        Args:
            native: whether, on the Hub, the main revision is in transformers' own class, and another one has our code.

        Returns:
            "native" (for the directory and, once `name_model` has removed `REMOTE_CODE`, for the main revision),
            "pipeline" and "auto_class" with our code from the repository, and "package" with the package.
        """
        load = f'model = {self.auto_class}.from_pretrained("PATH_OR_ID"OPTIONS)'
        pipeline = f"from transformers import pipeline\n\n{self.pipeline}"
        tokenizer = 'tokenizer = AutoTokenizer.from_pretrained("PATH_OR_ID"OPTIONS)'
        auto_class = f"from transformers import {self.auto_class}, AutoTokenizer\n\n{tokenizer}\n{load}\n{self.call}"
        package = self.with_package or f"from transformers import {self.auto_class}\n\n{load}"
        revision = f', revision="{CODE_REVISION}"' if native else ""
        remote = f"{revision}{REMOTE_CODE}"
        blocks = {
            "pipeline": pipeline.replace("OPTIONS", remote),
            "auto_class": auto_class.replace("OPTIONS", remote),
            "package": f"import scratch_gpt\n{package}".replace("OPTIONS", revision),
        }
        if native:
            blocks["native"] = (pipeline if self.native_pipeline else auto_class).replace("OPTIONS", REMOTE_CODE)
        return blocks

    def with_adapter(self, base: str) -> str:
        """Return the code that loads an adapter on its base model and uses the result.

        Args:
            base: Hub id of the base model, or a placeholder.
        """
        return (
            f"from peft import PeftModel\nfrom transformers import {self.auto_class}, AutoTokenizer\n\n"
            'tokenizer = AutoTokenizer.from_pretrained("PATH_OR_ID")\n'
            f'base = {self.auto_class}.from_pretrained("{base}")\n'
            "if len(tokenizer) > base.config.vocab_size:  # tokens of the chat template were added\n"
            "    base.resize_token_embeddings(len(tokenizer))\n"
            f'model = PeftModel.from_pretrained(base, "PATH_OR_ID")\n{self.call}'
        )


def name_model(card: str, name: str, native: bool) -> str:
    """Replace the placeholder in the examples of a card.

    Args:
        card: text of the card.
        name: of the model's repository or folder.
        native: whether the model opens in a class of transformers there, so that no example but those of
            `CODE_REVISION` needs code from the repository.
    """
    named = f'"{name}"'
    if native:
        card = card.replace(PLACEHOLDER + REMOTE_CODE, named)
    return card.replace(PLACEHOLDER, named)


def _classifies(variable: str, task: str, auto_class: str) -> Usage:
    return Usage(
        f'{variable} = pipeline("{task}", "PATH_OR_ID"OPTIONS)\nprint({variable}({{{{ prompt }}}}))',
        auto_class,
        'logits = model(**tokenizer({{ prompt }}, return_tensors="pt")).logits',
    )


GENERATION = Usage(
    'generate = pipeline("text-generation", "PATH_OR_ID"OPTIONS)\n'
    "{% if chat -%}\n"
    'print(generate([{"role": "user", "content": {{ prompt }}}])[0]["generated_text"][-1]["content"])\n'
    "{%- else -%}\n"
    'print(generate({{ prompt }})[0]["generated_text"])\n'
    "{%- endif %}",
    "AutoModelForCausalLM",
    "{% if chat -%}\n"
    'messages = [{"role": "user", "content": {{ prompt }}}]\n'
    "inputs = tokenizer.apply_chat_template(\n"
    '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"\n'
    ")\n"
    "tokens = model.generate(**inputs)\n"
    "{%- else -%}\n"
    'tokens = model.generate(**tokenizer({{ prompt }}, return_tensors="pt"))\n'
    "{%- endif %}\n"
    "print(tokenizer.decode(tokens[0], skip_special_tokens=True))",
)
TRANSLATION = Usage(
    'translate = pipeline({{ translation_task }}, "PATH_OR_ID"OPTIONS)\n'
    'print(translate({{ prompt }})["translation_text"])',
    "AutoModelForSeq2SeqLM",
    'tokens = model.generate(**tokenizer({{ prompt }}, return_tensors="pt"))\n'
    "{%- if target_tokenizer %}\n"
    'tokenizer = AutoTokenizer.from_pretrained("PATH_OR_ID", subfolder="target_tokenizer"OPTIONS)\n'
    "{%- endif %}\n"
    "print(tokenizer.decode(tokens[0], skip_special_tokens=True))",
    'from transformers import pipeline\n\ntranslate = pipeline("seq2seq-translation", "PATH_OR_ID"OPTIONS)',
    native_pipeline=False,
)
CLASSIFICATION = _classifies("classify", "text-classification", "AutoModelForSequenceClassification")
FILL_MASK = _classifies("fill", "fill-mask", "AutoModelForMaskedLM")
