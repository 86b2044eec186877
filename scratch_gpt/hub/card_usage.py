"""Code examples of a model card: loading with a pipeline, with the Auto classes, and with the package."""

from __future__ import annotations

from dataclasses import dataclass

_TOKENIZER = 'tokenizer = AutoTokenizer.from_pretrained("PATH_OR_ID", trust_remote_code=True)'


@dataclass(frozen=True)
class Usage:
    """Jinja templates of Python code for a kind of model.

    Attributes:
        pipeline: code that uses the model with a pipeline.
        auto_class: name of the Auto class that loads the model.
        call: code that uses the loaded `model` and `tokenizer`.
        with_package: code that loads the model if scratch_gpt is installed. Default: the Auto class.
    """

    pipeline: str
    auto_class: str
    call: str
    with_package: str = ""

    def blocks(self) -> list[str]:
        """Return the code blocks, in the order of the card."""
        load = f'model = {self.auto_class}.from_pretrained("PATH_OR_ID"{{}})'
        auto = f"from transformers import {self.auto_class}, AutoTokenizer\n\n{_TOKENIZER}\n"
        package = f"from transformers import {self.auto_class}\n\n{load.format('')}"
        return [
            f"from transformers import pipeline\n\n{self.pipeline}",
            auto + load.format(", trust_remote_code=True") + f"\n{self.call}",
            f"import scratch_gpt\n{self.with_package or package}",
        ]


def _classifies(variable: str, task: str, auto_class: str) -> Usage:
    return Usage(
        f'{variable} = pipeline("{task}", "PATH_OR_ID", trust_remote_code=True)\nprint({variable}({{{{ prompt }}}}))',
        auto_class,
        'logits = model(**tokenizer({{ prompt }}, return_tensors="pt")).logits',
    )


GENERATION = Usage(
    'generate = pipeline("text-generation", "PATH_OR_ID", trust_remote_code=True)\n'
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
    'translate = pipeline({{ translation_task }}, "PATH_OR_ID", trust_remote_code=True)\n'
    'print(translate({{ prompt }})["translation_text"])',
    "AutoModelForSeq2SeqLM",
    'tokens = model.generate(**tokenizer({{ prompt }}, return_tensors="pt"))\n'
    "{%- if target_tokenizer %}\n"
    'tokenizer = AutoTokenizer.from_pretrained("PATH_OR_ID", subfolder="target_tokenizer", trust_remote_code=True)\n'
    "{%- endif %}\n"
    "print(tokenizer.decode(tokens[0], skip_special_tokens=True))",
    'from transformers import pipeline\n\ntranslate = pipeline("seq2seq-translation", "PATH_OR_ID")',
)
CLASSIFICATION = _classifies("classify", "text-classification", "AutoModelForSequenceClassification")
FILL_MASK = _classifies("fill", "fill-mask", "AutoModelForMaskedLM")
