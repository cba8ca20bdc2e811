"""A model's own tokenizer, or a byte-level BPE vocabulary trained on the sources."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from token_dataset.errors import InputError, writing

END_OF_TEXT = "<|endoftext|>"
BPE_SPECIAL_TOKENS = [END_OF_TEXT, "<|im_start|>", "<|im_end|>"]
BPE_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class TextTokenizer:
    """Encodes text; knows the tokens that begin and end it, and the model's chat template."""

    def __init__(self, tokenizer, settings, chat_template=None, end_token=None):
        self.tokenizer = tokenizer
        self.settings = settings
        self.chat_template = chat_template
        self.end_token = end_token or token_text(settings.get("eos_token"))
        self.end_id = self._id("end-of-text token", self.end_token)
        self.special_tokens = [
            token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special
        ]
        begin_id = self._id("bos_token", token_text(settings.get("bos_token")))
        # Begin tokens only where the model's own tokenizer would put one.
        starts_with = tokenizer.encode("").ids[:1]
        self.begin_ids = starts_with if starts_with == [begin_id] else []

    @property
    def vocabulary_size(self):
        """Smallest vocab_size a model needs for these tokens (ids may have gaps)."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode_with_offsets(self, text):
        """Token ids, and the span of characters [begin, end) each stands for."""
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def _id(self, role, token):
        if token is None:
            return None
        token_id = self.tokenizer.token_to_id(token)
        if token_id is None:
            raise InputError(
                f"the {role} {token!r} is not in the tokenizer's vocabulary; "
                "correct tokenizer_config.json or --end-token"
            )
        return token_id


def token_text(entry):
    """A token of tokenizer_config.json: a string, or an object with the string in `content`."""
    return entry.get("content") if isinstance(entry, dict) else entry


def load_tokenizer(path, end_token=None, chat_template_file=None):
    """Reads tokenizer.json (a file, or a model folder that holds it) and what lies beside it."""
    path = Path(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            f"no tokenizer at '{file}': there is no such file; name a model folder with "
            "tokenizer.json, or train one with --train-bpe"
        )
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise InputError(f"'{file}' is not a tokenizer of the tokenizers library: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    settings = _read_settings(file.parent / "tokenizer_config.json")
    template = _read_chat_template(file.parent, settings, chat_template_file)
    return TextTokenizer(tokenizer, settings, template, end_token)


def _read_settings(file):
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"'{file}' cannot be read as JSON: {error}") from None
    if not isinstance(settings, dict):
        raise InputError(f"'{file}' holds no JSON object")
    return settings


def _read_chat_template(folder, settings, chat_template_file):
    file = Path(chat_template_file) if chat_template_file else folder / "chat_template.jinja"
    if chat_template_file or file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (ValueError, OSError) as error:
            raise InputError(f"the chat template '{file}' cannot be read: {error}") from None
    template = settings.get("chat_template")
    if isinstance(template, list):  # several named templates
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template


def train_bpe(texts, size, folder):
    """Trains a byte-level BPE of `size` tokens and writes it as a HuggingFace tokenizer."""
    smallest = 256 + len(BPE_SPECIAL_TOKENS)
    if size < smallest:
        raise InputError(
            f"--train-bpe {size} is too small: the 256 bytes and {len(BPE_SPECIAL_TOKENS)} special "
            f"tokens alone take {smallest}; ask for more"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=BPE_SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < size:
        raise InputError(
            f"the sources are too small for a vocabulary of {size} tokens: they yield "
            f"{tokenizer.get_vocab_size()}; give more text or --train-bpe {tokenizer.get_vocab_size()}"
        )
    return _write_tokenizer(tokenizer, Path(folder))


def _write_tokenizer(tokenizer, folder):
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
    }
    # Not by the library's own save(), which raises nothing narrower than Exception.
    files = {
        "tokenizer.json": tokenizer.to_str(pretty=True),
        "tokenizer_config.json": json.dumps(settings, indent=2) + "\n",
        "chat_template.jinja": BPE_CHAT_TEMPLATE,
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_text(content, encoding="utf-8")
    return TextTokenizer(tokenizer, settings, BPE_CHAT_TEMPLATE)
