"""Lexical concepts: which tokens are a word, of a class, at a position, or beside a word."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import accumulate

import numpy as np
from jaxtyping import Bool, Int

from vlm_neurons.concepts.concept import Concept

_PIECE = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
Key = tuple[str, str]  # kind and value of a concept: thousands are compared, and tuples are quick
_CONTEXTS = 120  # words that "after" and "before" are tried with, the most frequent ones
MIN_TEXTS = 2  # a word has to be in so many texts


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


CLASSES: dict[str, frozenset[str]] = {
    "colors": words("red orange yellow green cyan blue purple pink brown white gray grey black golden silver"),
    "shapes": words("circle square triangle cross ring diamond rectangle oval star circles squares triangles rings"),
    "sizes": words("small large big tiny huge little tall short long wide narrow giant"),
    "positions": words("top bottom left right center middle corner edge background foreground side upper lower"),
    "animals": words(
        "dog dogs cat cats horse horses cow cows sheep bird birds bear bears elephant elephants giraffe giraffes zebra "
        "zebras lion lions tiger fish duck ducks goat goats rabbit mouse monkey pig pigs"
    ),
    "vehicles": words(
        "train trains car cars bus buses truck trucks bicycle bicycles bike bikes motorcycle motorcycles airplane "
        "airplanes plane planes boat boats ship ships tram van taxi"
    ),
    "food": words(
        "food cake cakes pizza bread apple apples banana bananas orange oranges sandwich sandwiches soup rice cheese "
        "salad meat carrot carrots donut donuts cookie cookies egg eggs pasta dessert desserts"
    ),
    "people": words(
        "man men woman women person people boy boys girl girls child children baby player players crowd family"
    ),
    "body parts": words("head face hand hands arm arms leg legs foot feet eye eyes ear ears nose mouth hair tail"),
    "clothes": words("shirt hat jacket coat shoes pants dress tie suit glasses helmet gloves jeans uniform scarf"),
    "furniture": words("table chair chairs bed sofa couch desk bench shelf cabinet lamp"),
    "numbers": words("one two three four five six seven eight nine ten several many few couple pair dozen"),
    "articles": words("a an the"),
    "prepositions": words("in on at of by with under over above below behind near beside between from to into through"),
    "conjunctions": words("and or but while as because although"),
    "pronouns": words("it he she they them his her their its there this that these those which who"),
    "forms of to be": words("is are was were be been being"),
}


def pieces_of(tokens: Sequence[str]) -> tuple[list[str], list[int]]:
    """Words and punctuation marks of a text, and the one that each token belongs to (-1: only blanks).

    >>> pieces_of([" air", "plane", "."])
    (['airplane', '.'], [0, 0, 1])
    """
    text = "".join(tokens)
    matches = list(_PIECE.finditer(text))
    ends = list(accumulate(len(t) for t in tokens))
    home, at = [], 0
    for token, end in zip(tokens, ends, strict=True):
        start = end - len(token)
        while at < len(matches) and matches[at].end() <= start:
            at += 1
        inside = at < len(matches) and matches[at].start() < end
        home.append(at if inside else -1)
    return [m[0] for m in matches], home


def lexical_bank(texts: Sequence[Sequence[str]]) -> dict[Concept, list[Bool[np.ndarray, "token"]]]:
    """Masks of every concept that occurs in at least two texts.

    Args:
        texts: tokens of each text, blanks included.

    Returns:
        concept -> for each text, whether each token has it. A word of several tokens has it at all of them.
    """
    read = [index_of(tuple(tokens)) for tokens in texts]
    words, contexts = vocabulary(pieces for pieces, *_ in read)
    among = {"word": words, "after": contexts, "before": contexts}
    counts = Counter(key for *_, found in read for key in found if key[0] not in among or key[1] in among[key[0]])
    nowhere = [np.zeros(len(home), bool) for _, home, _ in read]  # shared: most texts lack most concepts
    return {
        Concept(*key): [
            _at(home, found[key]) if key in found else none
            for (_, home, found), none in zip(read, nowhere, strict=True)
        ]
        for key, n in counts.items()
        if n >= MIN_TEXTS
    }


def vocabulary(
    texts: Iterable[Sequence[str]], n_words: int | None = None, n_contexts: int = _CONTEXTS
) -> tuple[dict[str, int], dict[str, int]]:
    """Words and marks that are in at least two texts, and those that neighbours are told by.

    Args:
        texts: pieces of each text.
        n_words: so many of the most frequent; None: all.
        n_contexts: so many of the most frequent are `after` and `before` tried with.

    Returns:
        Each as word -> number of texts, the most frequent first; of equally frequent ones in order of the alphabet.
    """
    counts = Counter(word for pieces in texts for word in {p.lower() for p in pieces})
    common = sorted((w for w, n in counts.items() if n >= MIN_TEXTS), key=lambda w: (-counts[w], w))
    words = [w for w in common if w[0].isalnum()][:n_words]
    return {w: counts[w] for w in words}, {w: counts[w] for w in common[:n_contexts]}


def keys_of(pieces: Sequence[str], words: Collection[str], contexts: Collection[str]) -> Iterator[tuple[int, Key]]:
    """(place, kind and value of a concept) of every word and mark of a text.

    Args:
        pieces: of the text.
        words: words that are a concept of their own.
        contexts: words and marks that neighbours are told by.
    """
    low = [p.lower() for p in pieces]
    starts = True
    for i, (piece, word) in enumerate(zip(pieces, low, strict=True)):
        is_word = piece[0].isalnum()
        if is_word and word in words:
            yield i, ("word", word)
        if not is_word:
            yield i, ("punctuation", piece)
            yield i, ("punctuation", "any")
        for name in _classes().get(word, ()):
            yield i, ("class", name)
        if word[0].isdigit():
            yield i, ("class", "numbers")
        if piece[0].isupper():
            yield i, ("capital", "")
        if starts and is_word:
            yield i, ("position", "first word of a sentence")
        if i == 0:
            yield i, ("position", "first word of the text")
        starts = piece in ".!?" or (starts and not is_word)
        if i and low[i - 1] in contexts:
            yield i, ("after", low[i - 1])
        if i + 1 < len(low) and low[i + 1] in contexts:
            yield i, ("before", low[i + 1])


@cache
def _classes() -> dict[str, tuple[str, ...]]:
    """Word -> its classes."""
    return {
        word: tuple(name for name, words in CLASSES.items() if word in words) for word in set().union(*CLASSES.values())
    }


def words_for(concept: Concept) -> str:
    """A lexical concept in words.

    >>> words_for(Concept("word", "red")), words_for(Concept("after", "the"))
    ("the word 'red'", "words after 'the'")
    """
    value = concept.value
    match concept.kind:
        case "word":
            return f"the word '{value}'"
        case "class":
            return f"words for {value}" if value not in _PLAIN else value
        case "punctuation":
            return "punctuation" if value == "any" else f"the mark '{value}'"
        case "capital":
            return "capitalised words"
        case "position":
            return f"the {value}"
        case _:
            return f"words {concept.kind} '{value}'"


_PLAIN = {"numbers", "articles", "prepositions", "conjunctions", "pronouns", "forms of to be"}


@lru_cache(maxsize=65536)
def mask_of(concept: Concept, tokens: tuple[str, ...]) -> Bool[np.ndarray, "token"]:
    """Which tokens of one text have a concept, by the rules of the bank.

    >>> mask_of(Concept("after", "the"), ("the", " red", " dog")).tolist()
    [False, True, False]
    """
    _, home, places = index_of(tokens)
    return _at(home, places.get((concept.kind, concept.value), ()))


@lru_cache(maxsize=2048)  # many neurons share their samples
def index_of(
    tokens: tuple[str, ...],
) -> tuple[list[str], Int[np.ndarray, "token"], dict[Key, tuple[int, ...]]]:
    """Words and marks of one text, the one of every token (-1: none) and, of every concept that the text has, the
    places of those that have it."""
    pieces, home = pieces_of(tokens)
    every = {p.lower() for p in pieces}
    found: dict[Key, list[int]] = {}
    for place, key in keys_of(pieces, every, every):
        found.setdefault(key, []).append(place)
    return pieces, np.array(home, int), {key: tuple(places) for key, places in found.items()}


def _at(home: Int[np.ndarray, "token"], where: Collection[int]) -> Bool[np.ndarray, "token"]:
    """Tokens whose piece is one of some places; blanks (-1) are none."""
    if not where:
        return np.zeros(len(home), bool)
    mask = np.zeros(max(int(home.max(initial=0)), max(where)) + 2, bool)  # the last one is for -1
    mask[list(where)] = True
    return np.asarray(mask[home])
