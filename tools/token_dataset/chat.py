"""Renders chats with a model's own template and finds what its assistant is to say.

Templates are programs: they strip texts, drop or add reasoning blocks depending on a message's
place, so rendering prefixes of a chat does not give prefixes of its text. Each answer is found
in the whole chat instead: one message's content is replaced by a probe, and what differs between
both texts is that content. A template that marks its answers itself ({% generation %}) is taken
at its word.
"""

import json
from datetime import datetime
from os.path import commonprefix

import jinja2
import jinja2.ext
import jinja2.sandbox

from token_dataset.errors import InputError
from token_dataset.tokenizer import token_text

# Private-use characters, which no sensible text holds.
PROBE = "\ue0f0"
SPAN_BEGIN, SPAN_END = "\ue0f1", "\ue0f2"


class GenerationTag(jinja2.ext.Extension):
    """{% generation %}...{% endgeneration %}: marks what the model is to generate."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_mark")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    @staticmethod
    def _mark(caller):
        return SPAN_BEGIN + caller() + SPAN_END


class ChatRenderer:
    def __init__(self, tokenizer):
        if not tokenizer.chat_template:
            raise InputError(
                "the tokenizer has no chat template, which chats need; "
                "put chat_template.jinja beside it or give --chat-template FILE"
            )
        self.special_tokens = tokenizer.special_tokens
        self.end_token = tokenizer.end_token
        self.variables = {
            name: token_text(value)
            for name, value in tokenizer.settings.items()
            if name.endswith("_token")
        }
        environment = _environment()
        try:
            self.template = environment.from_string(tokenizer.chat_template)
        except jinja2.TemplateError as error:
            raise InputError(f"the chat template is malformed: {error}") from None

    def render(self, messages, generation_prompt=False):
        try:
            return self.template.render(
                messages=messages,
                add_generation_prompt=generation_prompt,
                tools=None,
                documents=None,
                **self.variables,
            )
        except (jinja2.TemplateError, TypeError, KeyError, ValueError) as error:
            raise InputError(f"the chat template refuses this chat: {error}") from None

    def render_with_spans(self, messages):
        """The chat's text, and the spans of characters [begin, end) the assistant says."""
        text = self.render(messages)
        if SPAN_BEGIN in text:
            return _take_marks(text)
        spans = []
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if not answers:
            return text, spans
        header = self._answer_header(messages[: answers[0]])
        ends = self._end_tokens(text, messages)
        previous_end = 0
        for index in answers:
            begin, end = self._content_span(text, messages, index)
            # What the template writes between the header and the content (an empty reasoning
            # block, say) is the model's to generate too: the prompt stops at the header.
            at = text.rfind(header, previous_end, begin) if header else -1
            begin = at + len(header) if at >= 0 else begin
            end = _past_end_token(text, end, ends)
            spans.append((begin, end))
            previous_end = end
        return text, spans

    def _answer_header(self, messages):
        """What the template writes to make the model answer, such as `<|im_start|>assistant`."""
        if not messages:
            return ""
        without, with_header = self.render(messages), self.render(messages, generation_prompt=True)
        return with_header[len(without) :] if with_header.startswith(without) else ""

    def _content_span(self, text, messages, index):
        probed = [dict(message) for message in messages]
        probed[index]["content"] = PROBE
        other = self.render(probed)
        begin = len(commonprefix([text, other]))
        tail = len(commonprefix([text[begin:][::-1], other[begin:][::-1]]))
        if PROBE not in other:
            raise InputError(f"the chat template does not write the content of message {index + 1}")
        return begin, len(text) - tail

    def _end_tokens(self, text, messages):
        """Tokens that end a turn: the tokenizer's own, and what follows the last message."""
        _, end = self._content_span(text, messages, len(messages) - 1)
        last = [token for token in self.special_tokens if text[end:].lstrip().startswith(token)]
        return [token for token in [self.end_token, *last] if token]


def _past_end_token(text, end, end_tokens):
    rest = text[end:]
    blanks = len(rest) - len(rest.lstrip())
    for token in sorted(end_tokens, key=len, reverse=True):
        if rest.startswith(token, blanks):
            return end + blanks + len(token)
    return end


def _take_marks(marked):
    """Removes the marks of {% generation %}: the plain text, and the spans they enclosed."""
    text, *pieces = marked.split(SPAN_BEGIN)
    spans = []
    for piece in pieces:
        answer, mark, rest = piece.partition(SPAN_END)
        if not mark:
            raise InputError("a message holds the private-use character U+E0F1; remove it")
        spans.append((len(text), len(text) + len(answer)))
        text += answer + rest
    return text, spans


def _environment():
    """The environment that HuggingFace templates are written for, sandboxed."""

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    def to_json(value, indent=None, **_):
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, GenerationTag]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment
