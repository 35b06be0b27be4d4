"""Names of columns and keys that say what they hold. docs/ingest.md has them as a table."""

from __future__ import annotations

import re

# Names that say which side is which. The first list cannot be mistaken; of the second only one pair may match.
CERTAIN_PAIRS = tuple(
    (query, positive) for positive in ("positive", "positives") for query in ("anchor", "query", "question")
)
KNOWN_PAIRS = (
    ("query", "passage"), ("query", "document"), ("query", "answer"), ("query", "context"), ("query", "response"),
    ("query", "text"), ("question", "answer"), ("question", "passage"), ("question", "context"),
    ("question", "explanation"), ("question", "document"), ("comment", "code"), ("docstring", "code"),
    ("title", "abstract"), ("title", "description"), ("title", "body"), ("title", "text"), ("document", "summary"),
    ("prompt", "completion"), ("instruction", "response"), ("prompt", "chosen"), ("instruction", "output"),
)  # fmt: skip
# Pairs of equals: a label beside them may mean anything (of NLI data 0 is entailment).
SYMMETRIC_PAIRS = (
    ("sentence1", "sentence2"), ("sentence_a", "sentence_b"), ("text1", "text2"), ("text_a", "text_b"),
    ("question1", "question2"), ("premise", "hypothesis"),
)  # fmt: skip
NOT_TEXT = frozenset({"id", "_id", "idx", "index", "docid", "doc_id", "qid", "pid", "query_id", "passage_id", "url"})
LANGUAGE_NAMES = ("language", "lang")

# Words of a header of two columns that tell its sides apart, in whichever order they stand.
QUERY_WORDS = frozenset({"q", "query", "queries", "question", "questions", "anchor", "search", "utterance"})
PASSAGE_WORDS = frozenset({
    "a", "answer", "answers", "passage", "passages", "document", "documents", "doc", "docs", "positive", "positives",
    "response", "reply", "context", "explanation", "paragraph",
})  # fmt: skip

# Words that make a column something about a side.
NO_SIDE_WORDS = frozenset({
    "id", "ids", "url", "date", "time", "type", "kind", "count", "number", "num", "length", "index", "idx", "start",
    "language", "lang", "source", "author", "category", "topic", "tags",
})  # fmt: skip

# Words that make a column a judgement of the row.
LABEL_WORDS = frozenset({
    "label", "labels", "score", "scores", "similarity", "relevance", "relevancy", "relevant", "grade", "rating",
    "judgement", "judgment", "duplicate", "correct", "target", "qrel", "qrels", "rel", "sim", "verdict",
})  # fmt: skip
LABEL_NAMES = frozenset({  # without what stands between words: isAnswer, is_answer
    "isanswer", "ismatch", "ispositive", "isparaphrase", "isselected", "istrue", "isgold", "isaccepted", "match",
    "accepted", "class", "y", "gold",
})  # fmt: skip
# Of names whose words are not told apart, as columns of tables are compared in lower case: UserRating.
LABEL_ENDINGS = ("label", "score", "relevance", "relevancy", "similarity", "rating", "grade", "judgement", "judgment")
SIDE_WORDS = frozenset({"pos", "neg", "positive", "negative", "positives", "negatives"})

NEGATIVE_NAME = re.compile(r"(hard_)?neg(ative)?s?(_?\d+)?|rejected")
NEGATIVE_WORDS = frozenset({"bad", "wrong", "incorrect", "irrelevant", "rejected", "distractor", "distractors", "neg",
                            "negs", "negative", "negatives"})  # fmt: skip
FLAWS = frozenset({"bad", "wrong", "incorrect", "irrelevant"})
SMALL_WORDS = frozenset({"hard", "text", "passage", "passages", "document", "documents", "doc", "docs", "answer",
                         "answers", "response", "context", "example"})  # fmt: skip


def words_of(name: str) -> list[str]:
    """The words of a column's name, in lower case.

    >>> words_of("isRelevant"), words_of("bad_answer_2"), words_of("Relevant Doc")
    (['is', 'relevant'], ['bad', 'answer', '2'], ['relevant', 'doc'])
    """
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.findall(r"[^\W\d_]+|\d+", apart.lower())


def is_label(name: str) -> bool:
    """Whether a column judges its row, by its name. A score of one side (`neg_scores`) does not."""
    words = words_of(name)
    whole = "".join(words)
    if whole in LABEL_NAMES or (whole.startswith("is") and whole[2:] in LABEL_WORDS):
        return True
    if not LABEL_WORDS & set(words) and not whole.endswith(LABEL_ENDINGS):
        return False
    side = {"score", "scores"} & set(words) and SIDE_WORDS & set(words)
    return not side or bool({"is", "label"} & set(words))


def is_flaw(name: str) -> bool:
    """Whether a column may say that its row is wrong: `is_wrong`, or `incorrect`, which may also be a wrong text."""
    whole = "".join(words_of(name))
    return whole.removeprefix("is") in FLAWS


def is_negative(name: str, positive: str) -> bool:
    """Whether a column holds negatives, by its name: `negative_2`, or `bad_answer` beside `answer`."""
    if NEGATIVE_NAME.fullmatch(name):
        return True
    words = set(words_of(name))
    rest = words - NEGATIVE_WORDS
    allowed = SMALL_WORDS | set(words_of(positive))
    return bool(words & NEGATIVE_WORDS) and all(word in allowed or word.isdecimal() for word in rest)


def sides_of_two(names: tuple[str, str]) -> tuple[str, str] | None:
    """Query and positive of two columns, where words in their names say which is which."""
    queries = [name for name in names if _is_side(name, QUERY_WORDS, PASSAGE_WORDS)]
    passages = [name for name in names if _is_side(name, PASSAGE_WORDS, QUERY_WORDS)]
    return (queries[0], passages[0]) if len(queries) == len(passages) == 1 else None


def _is_side(name: str, words: frozenset[str], others: frozenset[str]) -> bool:
    found = set(words_of(name))
    wrong = others | NEGATIVE_WORDS | LABEL_WORDS | NO_SIDE_WORDS
    return bool(found & words) and not found & wrong
