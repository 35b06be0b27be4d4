"""How queries and passages look to a model: the settings `query_template` and `passage_template`. Loads no torch."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixture.errors import UsageError
from trainers.model.identity import is_static, locate, model_file

if TYPE_CHECKING:
    from mixture.materialised import MaterialisedMixture
    from trainers.settings import TrainingSettings

DEFAULT_PROMPT = "Given a query, retrieve relevant passages that answer the query"
INSTRUCT = "Instruct: {prompt}\nQuery: {query}"
AUTO = "auto"
# Words for templates: what `query_template` and `passage_template` may be, beside auto and a text.
QUERY_WORDS = {"none": "{query}", "instruct": INSTRUCT}
PASSAGE_WORDS = {"none": "{passage}"}
# Names under which models keep the prompt of their documents (SentenceTransformer.encode_document, in this order).
DOCUMENT_PROMPTS = ("document", "passage", "corpus")
RECORD = "training.json"
CONFIG = "config_sentence_transformers.json"


@dataclass(frozen=True)
class Template:
    """What stands before a query, and before a passage.

    query:   ends in {query}; {prompt} in it is the collection's prompt
    passage: ends in {passage}
    prompt:  what stands for {prompt} where a collection has none
    source:  where it comes from, in words
    """

    query: str = INSTRUCT
    passage: str = "{passage}"
    prompt: str = DEFAULT_PROMPT
    source: str = "the default layout"

    def before_query(self, prompt: str | None = None) -> str:
        """What stands before a query of a collection with this prompt; None for a collection that has none. An empty
        prompt says that the collection wants no prompt: nothing stands there but what the template has anyway.

        >>> Template().before_query("Find it"), Template("query: {query}").before_query("Find it")
        ('Instruct: Find it\\nQuery: ', 'query: ')
        """
        if self.uses_prompt and prompt == "":
            return ""
        return self.query.removesuffix("{query}").replace("{prompt}", self.prompt if prompt is None else prompt)

    def prefixes(self, prompts: Sequence[str]) -> list[str]:
        """`before_query` of each prompt of a collection; one for a collection without."""
        return [self.before_query(prompt) for prompt in prompts] or [self.before_query()]

    def prompt_in(self, before: str) -> str | None:
        """The prompt that `before_query` makes this text of; None where it makes it of none.

        >>> Template().prompt_in("Instruct: Find it\\nQuery: "), Template().prompt_in("query: ")
        ('Find it', None)
        """
        start, found, end = self.query.removesuffix("{query}").partition("{prompt}")
        if not before and self.uses_prompt:
            return ""
        fits = found and before.startswith(start) and before.endswith(end) and len(before) > len(start + end)
        return before[len(start) : len(before) - len(end)] if fits else None

    @property
    def before_passage(self) -> str:
        return self.passage.removesuffix("{passage}")

    @property
    def uses_prompt(self) -> bool:
        return "{prompt}" in self.query

    @property
    def deciding(self) -> dict[str, str]:
        """What a run's identity takes of it: nothing of the layout that all runs had before it could be chosen."""
        parts = {name: text for name, text in asdict(self).items() if name != "source"}
        if not self.uses_prompt:
            del parts["prompt"]
        return {} if parts == Template().parts else {"template": json.dumps(parts, sort_keys=True)}

    @property
    def parts(self) -> dict[str, str]:
        """The texts by name, as a run's record keeps them."""
        return {"query": self.query, "passage": self.passage, "prompt": self.prompt}


PLAIN = Template("{query}", source="a static model gets no prompt of its own accord")


def fault_of(text: str, kind: str) -> str | None:
    """What is wrong with a template (kind: query or passage) as the rule that it breaks; None for a good one."""
    words = QUERY_WORDS if kind == "query" else PASSAGE_WORDS
    known = ("query", "prompt") if kind == "query" else ("passage",)
    rule = f"{', '.join((AUTO, *words))}, or a text that ends in {{{kind}}}"
    rule += "; {prompt} in it is the collection's prompt" if kind == "query" else ""
    if text == AUTO or text in words:
        return None
    for name in re.findall(r"\{([^{}]*)\}", text):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            return f"{rule} ({{{name}}} is neither{f'; did you mean {{{near[0]}}}?' if near else ''})"
    if not text.endswith(f"{{{kind}}}") or text.count(f"{{{kind}}}") > 1:
        return f"{rule} (sentence-transformers puts a prompt before a text, never behind)"
    if re.search(r"[{}]", re.sub(r"\{\w+\}", "", text)):
        return f"{rule} (a lone brace)"
    return None


def template_of(model: str, settings: TrainingSettings) -> Template:
    """The template that a training of `model` has: as the settings say, or with `auto` the model's own, or else the
    default: none for a static model, in whose mean the words of an instruction would be the same share of every query.
    """
    if settings.query_template == AUTO:
        found = own_template(model) or (PLAIN if is_static(model) else Template())
    else:
        query = QUERY_WORDS.get(settings.query_template, settings.query_template)
        found = Template(_unescaped(query), source="as query_template says")
    if settings.passage_template != AUTO:
        passage = PASSAGE_WORDS.get(settings.passage_template, settings.passage_template)
        found = replace(found, passage=_unescaped(passage))
    return found


def identified(mixture: MaterialisedMixture, model: str, settings: TrainingSettings) -> dict[str, str]:
    """What a run's identity takes of how texts look, beside its settings: the cards' `symmetric`, which the mixture's
    id leaves out, where it matters; and what comes from the model (`Template.deciding`)."""
    names = [name for name, part in mixture.components.items() if part.symmetric]
    symmetric = {"symmetric": ",".join(sorted(names))} if settings.symmetric_prompts and names else {}
    if settings.query_template != AUTO:
        return symmetric  # the settings say it all
    return symmetric | template_of(model, settings).deciding


def own_template(model: str) -> Template | None:
    """The template that a model comes with: that of its own training here, else its prompts `query` and `document`
    (or `passage`, `corpus`) of sentence-transformers. None where it has none.

    A prompt of the form "Instruct: …\\nQuery:" is read as a template with its instruction as the default prompt.
    """
    folder = locate(model)
    record = Path(folder) / RECORD
    if record.is_file() and (parts := json.loads(record.read_text("utf-8")).get("template")):
        return Template(**parts, source="the template that the model was trained with")
    prompts = _prompts(folder)
    query = prompts.get("query") or ""
    passage = next((prompts[name] for name in DOCUMENT_PROMPTS if prompts.get(name)), "")
    if not query and not passage:
        return None
    try:
        return template_behind(query, passage, source="the model's own prompts")
    except UsageError as error:
        raise UsageError(f"{model!r}: {error}; say `query_template=none`, or write one") from None


def template_behind(query: str, passage: str, *, source: str) -> Template:
    """The template of a model whose texts stand behind these prompts. A `UsageError` for prompts with braces."""
    if braced := [text for text in (query, passage) if re.search(r"[{}]", text)]:
        raise UsageError(f"the prompt {braced[0]!r} has braces, which cannot be told from a template's")
    asked = re.fullmatch(r"(?P<before>Instruct: )(?P<prompt>.+?)(?P<after>\n *Query: ?)", query, re.DOTALL)
    if asked:
        layout = f"{asked['before']}{{prompt}}{asked['after']}{{query}}"
        return Template(layout, f"{passage}{{passage}}", asked["prompt"], source)
    return Template(f"{query}{{query}}", f"{passage}{{passage}}", source=source)


def _prompts(source: str) -> dict[str, Any]:
    """The prompts in a model's sentence-transformers configuration, in a folder or on the hub."""
    file = model_file(source, CONFIG)
    if file is None:
        return {}
    return dict(json.loads(file.read_text("utf-8")).get("prompts") or {})


def _unescaped(text: str) -> str:
    """A line break is often written as \\n on a command line, where nothing reads it as one."""
    return text.replace("\\n", "\n")
