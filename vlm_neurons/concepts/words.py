"""Classes of English words that the lexical bank knows."""

from __future__ import annotations


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
