"""Sources of training text, read as streams: none needs to fit in memory.

A source yields examples (token ids, target mask), lists of equal length. The first token of an
example is never a target: nothing predicts it.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from token_dataset.chat import ChatRenderer
from token_dataset.errors import InputError

CHUNK_CHARACTERS = 1 << 20


@dataclass
class Options:
    """How sources are read; the command line's words for it."""

    sequence_length: int = 1024
    document_separator: str | None = None
    prompt_field: str = "prompt"
    answer_field: str = "answer"
    messages_field: str = "messages"


class TextSource:
    """A plain text file, cut into sequences; every token but each sequence's first is a target."""

    def __init__(self, path, options):
        self.path = Path(path)
        self.options = options

    def texts(self):
        for document in self._documents():
            yield from document

    def examples(self, tokenizer):
        length = self.options.sequence_length
        if self.options.document_separator and tokenizer.end_id is None:
            raise InputError(
                "the tokenizer names no end-of-text token, which --document-separator writes "
                "between documents; give --end-token"
            )
        pending = []
        for document in self._documents():
            pending.extend(tokenizer.begin_ids)
            for chunk in document:
                pending.extend(tokenizer.encode(chunk))
                whole = len(pending) // length * length
                for start in range(0, whole, length):
                    yield _all_targets(pending[start : start + length])
                del pending[:whole]
            if tokenizer.end_id is not None:
                pending.append(tokenizer.end_id)
        for start in range(0, len(pending), length):
            yield _all_targets(pending[start : start + length])

    def _documents(self):
        """Each document as a stream of chunks. Without a separator the file is one document."""
        chunks = _read_chunks(self.path)
        separator = self.options.document_separator
        if not separator:
            yield chunks
            return
        buffer = ""
        for chunk in chunks:
            *complete, buffer = (buffer + chunk).split(separator)
            yield from ([document.strip("\n")] for document in complete if document.strip())
        if buffer.strip():
            yield [buffer.strip("\n")]


class PromptSource:
    """JSON lines with a prompt and its answer; targets are the answer and its end token."""

    def __init__(self, path, options):
        self.path = Path(path)
        self.fields = options.prompt_field, options.answer_field

    def texts(self):
        for _, record in _read_records(self.path, self.fields, _check_string):
            yield from (record[field] for field in self.fields)

    def examples(self, tokenizer):
        for _, record in _read_records(self.path, self.fields, _check_string):
            prompt, answer = (record[field] for field in self.fields)
            # Encoded apart, as at inference: no token straddles prompt and answer.
            context = tokenizer.begin_ids + tokenizer.encode(prompt)
            ids = tokenizer.encode(answer)
            if tokenizer.end_id is not None:
                ids.append(tokenizer.end_id)
            yield _first_is_no_target(context + ids, [0] * len(context) + [1] * len(ids))


class ChatSource:
    """JSON lines with chats; targets are what the assistant says, with its end token."""

    def __init__(self, path, options):
        self.path = Path(path)
        self.field = options.messages_field

    def texts(self):
        for _, record in _read_records(self.path, [self.field], _check_messages):
            yield from (message["content"] for message in record[self.field])

    def examples(self, tokenizer):
        renderer = ChatRenderer(tokenizer)
        for number, record in _read_records(self.path, [self.field], _check_messages):
            try:
                text, spans = renderer.render_with_spans(record[self.field])
            except InputError as error:
                raise InputError(f"{self.path}, line {number}: {error}") from None
            ids, offsets = tokenizer.encode_with_offsets(text)
            yield _first_is_no_target(ids, _mask_of_spans(offsets, spans))


KINDS = {"text": TextSource, "prompt": PromptSource, "chat": ChatSource}


def _all_targets(ids):
    return ids, [0] + [1] * (len(ids) - 1)


def _first_is_no_target(ids, mask):
    return ids, [0, *mask[1:]][: len(ids)]


def _mask_of_spans(offsets, spans):
    """A token is a target when the characters it stands for begin within a span."""
    mask, spans = [], list(spans)
    for begin, _ in offsets:
        while spans and spans[0][1] <= begin:
            spans.pop(0)
        mask.append(int(bool(spans) and begin >= spans[0][0]))
    return mask


def _check_string(value):
    return None if isinstance(value, str) else "must be a string"


def _check_messages(messages):
    if not isinstance(messages, list) or not messages:
        return "must be a list of messages that is not empty"
    for message in messages:
        if not isinstance(message, dict):
            return "must hold objects with role and content"
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                return f"holds a message whose {key!r} is no string"
    return None


def _open(path):
    try:
        return open(path, encoding="utf-8", newline="")
    except OSError as error:
        raise InputError(f"the source '{path}' cannot be read: {error.strerror}") from None


def _read_chunks(path):
    """Pieces of a text, cut where tokenizers cut it too, so that pieces encode as the whole."""
    pending = ""
    with _open(path) as file:
        try:
            while block := file.read(CHUNK_CHARACTERS):
                pending += block
                cut = _last_boundary(pending)
                if cut > 0:
                    yield pending[:cut]
                    pending = pending[cut:]
        except UnicodeDecodeError as error:
            raise InputError(
                f"the source '{path}' is not UTF-8 text ({error.reason}); convert it first"
            ) from None
    if pending:
        yield pending


def _last_boundary(text):
    """Where a piece may end: before a line that starts with no blank, else before a word."""
    for pattern in (r"\n(?=\S)", r"(?<=\S)(?= \S)"):
        tail_start = max(0, len(text) - CHUNK_CHARACTERS)
        ends = [match.end() for match in re.finditer(pattern, text[tail_start:])]
        if ends:
            return tail_start + ends[-1]
    return 0


def _read_records(path, fields, check):
    """The objects of a JSON lines file with their line numbers; blank lines are skipped."""
    with _open(path) as file:
        number = 0
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _parse_record(line, fields, check)
        except UnicodeDecodeError as error:
            message = f"not UTF-8 text ({error.reason})"
            raise InputError(f"{path}, after line {number}: {message}") from None
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None


def _parse_record(line, fields, check):
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InputError(f"malformed JSON: {error}") from None
    if not isinstance(record, dict):
        raise InputError("must be a JSON object")
    for field in fields:
        if field not in record:
            raise InputError(
                f"no field {field!r}; it has {', '.join(map(repr, record)) or 'none'}; "
                "name the fields with --prompt-field, --answer-field, --messages-field"
            )
        problem = check(record[field])
        if problem:
            raise InputError(f"the field {field!r} {problem}")
    return record
